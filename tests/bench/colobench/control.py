# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to the guest's control port that stays open.

Each command of colo.client.control() makes a connection of its own and gives
up a try after 250 ms.  With half a second between the checkpoints, and output
held until the next one is committed, that is too short.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import time
from typing import Iterator

from colo import client, net

PORT = 7005
COMMAND_SECONDS = 30.0
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def _inside(host: str) -> Iterator[None]:
    """Sockets made meanwhile belong to that host.  There is one thread."""
    libc = ctypes.CDLL(None, use_errno=True)

    def change(namespace: int) -> None:
        if libc.setns(namespace, _CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), f'setns to {host}')

    here = os.open('/proc/self/ns/net', os.O_RDONLY)
    try:
        there = os.open(f'/run/netns/{host}', os.O_RDONLY)
        try:
            change(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            change(here)
    finally:
        os.close(here)


class Control:
    """Commands to the guest, as its client gives them."""

    def __init__(self) -> None:
        with _inside('client'):
            self._socket = socket.socket()
        self._buffer = b''
        self._socket.settimeout(COMMAND_SECONDS)
        try:
            self._socket.connect((net.guest_address(), PORT))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as err:
            self._socket.close()
            raise client.ClientError(f'guest: control port: {err}') from None

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __call__(self, command: str) -> str:
        """Its answer after the "ok"."""
        end = time.monotonic() + COMMAND_SECONDS
        try:
            self._socket.sendall(command.encode('ascii') + b'\n')
            while b'\n' not in self._buffer:
                self._socket.settimeout(max(end - time.monotonic(), 0.001))
                data = self._socket.recv(4096)
                if not data:
                    raise client.ClientError(f'guest: {command}: closed')
                self._buffer += data
        except OSError as err:
            raise client.ClientError(f'guest: {command}: {err}') from None
        line, _, self._buffer = self._buffer.partition(b'\n')
        answer = line.decode('ascii', 'replace')
        if not answer.startswith('ok'):
            raise client.ClientError(f'guest: {command}: {answer}')
        return answer[2:].strip()
