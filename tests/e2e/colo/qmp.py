# SPDX-License-Identifier: GPL-2.0-or-later
"""A small synchronous client of QEMU's monitor protocol over a unix socket.

Events that arrive while a command is under way are kept in order, so nothing
is missed between two calls.  One thread at a time uses a monitor.
"""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any

CONNECT_SECONDS = 60.0
COMMAND_SECONDS = 50.0


class QmpError(Exception):
    """QEMU refused a command; .desc is its reason."""

    def __init__(self, command: str, desc: str):
        super().__init__(f'{command}: {desc}')
        self.command = command
        self.desc = desc


class QmpTimeout(Exception):
    """Nothing came within the deadline."""


class QmpClosed(Exception):
    """The monitor's connection has ended: QEMU is gone."""


class Monitor:
    """A connection to one monitor."""

    def __init__(self, path: Path, alive: Any = None,
                 timeout: float = CONNECT_SECONDS):
        """Connect to @path as soon as it is there.

        @alive, if given, is called while waiting; it raises if there is no
        process left that could answer.
        """
        self.path = path
        self.events: deque[dict[str, Any]] = deque()
        self._buffer = b''
        self._answers: deque[dict[str, Any]] = deque()
        self._id = 0
        deadline = time.monotonic() + timeout
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.settimeout(timeout)
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                self._socket.close()
                if alive:
                    alive()
                if time.monotonic() > deadline:
                    raise QmpTimeout(f'no monitor at {path.name} within '
                                     f'{timeout} s') from None
                time.sleep(0.01)
        while not self._answers:        # the greeting
            self._read(deadline, 'greeting')
        self._answers.clear()
        self.execute('qmp_capabilities')

    def close(self) -> None:
        self._socket.close()

    def _read(self, deadline: float, what: str) -> None:
        """Take in at least one message, or raise."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise QmpTimeout(f'{self.path.name}: no {what} in time')
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise QmpTimeout(f'{self.path.name}: no {what} in time') from None
        except ConnectionError:
            data = b''
        if not data:
            raise QmpClosed(f'{self.path.name}: closed while waiting for '
                            f'{what}')
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b'\n')
        for line in lines:
            if line.strip():
                message = json.loads(line)
                if 'event' in message:
                    self.events.append(message)
                else:
                    self._answers.append(message)

    def execute(self, command: str, arguments: dict[str, Any] | None = None,
                timeout: float = COMMAND_SECONDS) -> Any:
        """Run a command; its result, or QmpError, QmpTimeout, QmpClosed."""
        self._id += 1
        message: dict[str, Any] = {'execute': command, 'id': self._id}
        if arguments:
            message['arguments'] = arguments
        deadline = time.monotonic() + timeout
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(json.dumps(message).encode() + b'\n')
        except TimeoutError:
            raise QmpTimeout(f'{command}: cannot be sent') from None
        except ConnectionError:
            raise QmpClosed(f'{command}: the monitor is closed') from None
        while True:
            while self._answers:
                answer = self._answers.popleft()
                if answer.get('id') != self._id:
                    continue    # of a command that was given up
                if 'error' in answer:
                    raise QmpError(command, answer['error']['desc'])
                return answer['return']
            self._read(deadline, f'answer to {command}')

    def poll(self) -> None:
        """Take in what has arrived already, without waiting."""
        while True:
            try:
                self._read(time.monotonic() + 0.001, 'event')
            except QmpTimeout:
                return

    def find_event(self, name: str) -> dict[str, Any] | None:
        """The oldest kept event of that name, which is taken out."""
        for event in self.events:
            if event['event'] == name:
                self.events.remove(event)
                return event
        return None

    def wait_event(self, name: str, timeout: float) -> dict[str, Any]:
        """The oldest event of that name, one already kept or a new one.

        It is taken out; other events stay.
        """
        deadline = time.monotonic() + timeout
        while True:
            event = self.find_event(name)
            if event:
                return event
            self._read(deadline, f'event {name}')

    def wait_until(self, what: str, command: str, key: str,
                   wanted: str | tuple[str, ...], timeout: float,
                   never: tuple[str, ...] = ()) -> dict[str, Any]:
        """Ask until the answer's @key is (one of) @wanted.

        A value in @never ends the wait at once with QmpError.
        """
        values = (wanted,) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + timeout
        pause = 0.002
        while True:
            answer = self.execute(command)
            value = answer.get(key)
            if value in values:
                return answer
            if value in never:
                raise QmpError(command, f'{what}: {key} is {value} '
                               f'({answer.get("error-desc", "no reason")})')
            if time.monotonic() > deadline:
                raise QmpTimeout(f'{self.path.name}: {what}: {key} is still '
                                 f'{value} after {timeout} s')
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
