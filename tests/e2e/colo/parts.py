# SPDX-License-Identifier: GPL-2.0-or-later
"""What a real machine has besides CPU, memory, NICs and disks.

UEFI, with a file of variables for each host, and a TPM, whose emulator is a
process of its own on each host, as the document says (see document.py); a
display, sound, USB, a balloon, and the guest agent, which is spoken to through
a socket of each host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import document

START_SECONDS = 30.0
AGENT_SECONDS = 60.0
TPM = 'swtpm'
FILES, OPTIONS = BLOCKS = ('uefi-files', 'uefi')    # of the document
TPM_MODEL = 'tpm-crb'       # there
BALLOON = 'balloon0'
PCR_BYTES = 32


class PartsError(Exception):
    """A part of a machine is not as it has to be."""


def variables(run: Path, host: str) -> Path:
    return run / f'images-{host}' / 'variables.fd'


def _agent_socket(run: Path, host: str) -> Path:
    return run / f'vm-{host}' / 'agent.sock'


@dataclass(frozen=True)
class Parts:
    """Where the firmware is, and the model of the TPM."""
    firmware: Path
    tpm: str = TPM_MODEL

    def _table(self, run: Path, host: str) -> document.Table:
        """What the document's names are here."""
        return {'/usr/share/OVMF': str(self.firmware),
                '/images': str(run / f'images-{host}'),
                '/run/vm': str(run / f'vm-{host}')}

    def begin(self, run: Path, host: str) -> list[str]:
        """Start what a QEMU on @host needs; its command line."""
        for name in ('images', 'vm'):
            path = run / f'{name}-{host}'
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        table = self._table(run, host)
        text = document.Document()
        subprocess.run(['sh', '-euc', text.block(FILES, table)], check=True,
                       stdin=subprocess.DEVNULL, timeout=START_SECONDS)
        _, options = text.options([OPTIONS], table, '-machine')
        words = [word.replace(TPM_MODEL, self.tpm) for option in options
                 for word in shlex.split(option)]
        return [*words,
                '-device', 'VGA',
                '-audiodev', 'none,id=snd0', '-device', 'intel-hda',
                '-device', 'hda-duplex,audiodev=snd0',
                '-device', 'usb-ehci,id=ehci0',
                '-device', 'usb-tablet,bus=ehci0.0',
                '-device', 'virtio-serial-pci',
                '-chardev', f'socket,id=agent0,path={_agent_socket(run, host)},'
                'server=on,wait=off',
                '-device', 'virtserialport,chardev=agent0,'
                'name=org.qemu.guest_agent.0',
                '-device', f'virtio-balloon-pci,id={BALLOON}',
                '-device', 'virtio-rng-pci', '-device', 'vmgenid']


def parse(answer: str) -> tuple[dict[str, int], bytes]:
    """What the guest says of its parts: counts, and the PCR."""
    counts: dict[str, int] = {}
    pcr = b''
    for word in answer.split():
        name, _, value = word.partition('=')
        number, _, more = value.partition(':')
        counts[name] = int(number)
        if more:
            pcr = bytes.fromhex(more)
    return counts, pcr


def pcr_after(count: int) -> bytes:
    """The PCR that was extended by 1, 2, ... @count since the reset."""
    pcr = bytes(PCR_BYTES)
    for number in range(1, count + 1):
        digest = number.to_bytes(8, 'big').ljust(PCR_BYTES, b'\0')
        pcr = hashlib.sha256(pcr + digest).digest()
    return pcr


class Agent:
    """A conversation with the guest agent by way of @host."""

    def __init__(self, run: Path, host: str):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(AGENT_SECONDS)
        self._socket.connect(str(_agent_socket(run, host)))
        self._file = self._socket.makefile('rb')
        number = time.monotonic_ns() % (1 << 31)
        # What there is before the answer is of an earlier conversation
        self._send('guest-sync', {'id': number})
        while self._receive() != {'return': number}:
            pass

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps({
            'execute': command, 'arguments': arguments}).encode() + b'\n')

    def _receive(self) -> Any:
        line = self._file.readline()
        if not line:
            raise PartsError('the port of the guest agent is closed')
        try:
            return json.loads(line)
        except ValueError:
            return None

    def execute(self, command: str, **arguments: Any) -> Any:
        self._send(command, {key.replace('_', '-'): value
                             for key, value in arguments.items()})
        answer = self._receive()
        if not answer or 'return' not in answer:
            raise PartsError(f'{command}: {answer}')
        return answer['return']

    def open(self, path: str) -> int:
        return int(self.execute('guest-file-open', path=path, mode='w+'))

    def append(self, handle: int, text: str) -> None:
        data = base64.b64encode(text.encode()).decode()
        self.execute('guest-file-write', handle=handle, buf_b64=data)
        self.execute('guest-file-flush', handle=handle)
