# SPDX-License-Identifier: GPL-2.0-or-later
"""Credentials for TLS between the hosts, made as the document says.

Each host has those of both ends, since sides change.  Who uses them passes what
Machine.tls_creds() says.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import document, net

KINDS = ('psk', 'x509')
BLOCKS = tuple(f'tls-{kind}{part}' for kind in KINDS
               for part in ('-files', ''))
FOLDER = '/etc/pki/qemu'        # in the document
ADDRESSES = {'192.0.2.1': net.LINK_ADDRESS['a'],
             '192.0.2.2': net.LINK_ADDRESS['b'],
             '198.51.100.1': net.BEAT_ADDRESS['a'],
             '198.51.100.2': net.BEAT_ADDRESS['b']}
MAKE_SECONDS = 60.0


@dataclass(frozen=True)
class Tls:
    """On all connections between the hosts."""
    kind: str               # of KINDS

    def make(self, run: Path) -> None:
        """The files of both hosts; what is there is thrown away."""
        folder = run / 'tls'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        script = document.Document().block(f'tls-{self.kind}-files', {})
        for theirs, ours in ADDRESSES.items():
            script = script.replace(theirs, ours)
        subprocess.run(['sh', '-euc', script], cwd=folder, check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=MAKE_SECONDS)

    def arguments(self, run: Path, host: str) -> list[str]:
        """The options of a QEMU on @host."""
        _, options = document.Document().options(
            [f'tls-{self.kind}'], {FOLDER: str(run / 'tls' / f'host{host}')})
        return [word for option in options for word in shlex.split(option)]
