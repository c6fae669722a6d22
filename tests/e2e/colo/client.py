# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the client program (../guest/colo-client*.c) on the client host."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from . import net

CONTROL_SECONDS = 40.0
END_SECONDS = 90.0      # the client itself gives up earlier
VERIFY_SECONDS = 90.0
PIPE_BYTES = 1 << 20    # reports of an hour: who is not asked must not stand


class ClientError(Exception):
    """The client program said nothing of use."""


class Client:
    """A client program under way."""

    def __init__(self, hosts: net.Hosts, program: Path, mode: str,
                 **options: Any):
        """@options are those of the program, with _ for -."""
        self.mode = mode
        self.connected: dict[str, Any] | None = None
        self.last: dict[str, Any] = {}      # the newest progress
        self.end: dict[str, Any] | None = None
        self._buffer = b''
        args = [mode]
        for key, value in options.items():
            args += [f'--{key.replace("_", "-")}', str(value)]
        self._process = subprocess.Popen(
            hosts.argv('client', program, *args), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE)
        assert self._process.stdout
        os.set_blocking(self._process.stdout.fileno(), False)
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def _line(self, line: bytes) -> None:
        message = json.loads(line)
        kind = message.pop('event')
        if kind == 'connected':
            self.connected = message
        elif kind == 'progress':
            self.last = message
        elif kind == 'end':
            self.end = message

    def _read(self, timeout: float) -> bool:
        """Take in what comes within @timeout; False at the end."""
        assert self._process.stdout
        if not self._selector.select(timeout):
            return True
        data = self._process.stdout.read()
        if data == b'':
            return False
        self._buffer += data or b''
        *lines, self._buffer = self._buffer.split(b'\n')
        for line in lines:
            self._line(line)
        return True

    def poll(self) -> dict[str, Any]:
        """The newest progress, without waiting."""
        self._read(0)
        return self.end or self.last

    def wait_connected(self, timeout: float) -> Client:
        deadline = time.monotonic() + timeout
        while not self.connected:
            left = deadline - time.monotonic()
            if self.end or left <= 0 or not self._read(left):
                raise ClientError(f'{self.mode}: no connection to the guest')
        return self

    def wait_end(self, timeout: float = END_SECONDS) -> dict[str, Any]:
        """The summary; the program ends by itself or was told to."""
        deadline = time.monotonic() + timeout
        while self.end is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                self.kill()
                raise ClientError(f'{self.mode}: no summary')
        self._process.wait(END_SECONDS)
        self._close()
        return self.end

    def stop(self, timeout: float = END_SECONDS) -> dict[str, Any]:
        """End the run now; its summary."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait_end(timeout)

    def verify(self, timeout: float = VERIFY_SECONDS) -> int:
        """Mode "disk": the guest reads its disk; what was durable, in blocks.

        What is wrong is in the summary, and the program has ended.
        """
        before = self.poll().get('verified', 0)
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + timeout
        while self.end is None and self.last.get('verified', 0) <= before:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ClientError(f'{self.mode}: not verified after '
                                  f'{timeout} s')
            self._read(left)
        if self.end and not self.end['intact']:
            raise ClientError(f'{self.mode}: {self.end["why"]}')
        return int(self.poll()['acked'])

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._process.stdout and not self._process.stdout.closed:
            self._selector.close()
            self._process.stdout.close()


def control(hosts: net.Hosts, program: Path, command: str,
            timeout: float = CONTROL_SECONDS) -> str:
    """Give the guest a command; its answer after the "ok"."""
    client = Client(hosts, program, 'control', command=command,
                    seconds=timeout, connect_seconds=timeout)
    end = client.wait_end(2 * timeout + 1)
    if not end['intact']:
        raise ClientError(f'guest: {command}: '
                          f'{end.get("answer") or end["why"]}')
    return str(end['answer'])[2:].strip()
