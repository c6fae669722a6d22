#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""GET by HTTPS, over some connections with one request under way on each.

The bench runs it on the client host, beside the program of the end-to-end
tests (tests/e2e/guest/colo-client.c), and it says the same: one JSON object a
line, "connected", "progress" each half second, "end".  The certificate is
verified, each head looked at and each body compared, byte by byte.  A
handshake that fails, a wrong response and a connection that ends without one
are the end, and the run is not intact.  Exit status: 0 intact, 1 not.

A connection that has had --requests of them, or whose server says that it
closes it, is followed by another one; to connect and the handshake then count
as a part of the request.  Nothing is resumed, so each has a whole handshake.

One thread does everything.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Callable, Generator, TypeVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'e2e'))

# pylint: disable=wrong-import-position
from colo import net, web       # noqa: E402

PROGRESS_NS = 500_000_000
TURN_MS = 100               # the longest wait before a look at the clock
RECEIVE_BYTES = 65536

T = TypeVar('T')
# What runs until it has to wait; it gives what for, in the words of poll()
Steps = Generator[int, None, T]


class Failed(Exception):
    """The end of the run; the text says why."""


class Connection:
    """Requests, one after the other."""

    def __init__(self, args: argparse.Namespace, context: ssl.SSLContext):
        self.args = args
        self.context = context
        self.request = (f'GET {args.path} HTTP/1.1\r\n'
                        f'Host: {web.NAME}\r\n\r\n').encode('ascii')
        self.body = web.body(args.path)
        self.socket: socket.socket
        self.sent = 0           # requests on this connection
        self.closing = False    # so the server says
        self.doing = ''
        self.steps: Steps[None] | None = None
        self.events = 0         # for which they wait

    def begin(self, steps: Steps[None]) -> None:
        self.steps = steps
        self.go_on()

    def go_on(self) -> None:
        """Until they have to wait, or have ended."""
        assert self.steps
        try:
            self.events = next(self.steps)
        except StopIteration:
            self.steps, self.events = None, 0
        except OSError as err:      # those of TLS, too
            raise Failed(f'{self.doing}: {err}') from None

    @staticmethod
    def _when_ready(call: Callable[[], T]) -> Steps[T]:
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                yield select.POLLIN
            except ssl.SSLWantWriteError:
                yield select.POLLOUT

    def open(self) -> Steps[None]:
        """Connect, and shake hands."""
        self.doing = 'connect'
        self.sent = 0
        self.closing = False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self.socket.connect_ex((self.args.host, self.args.port))
        if error == errno.EINPROGRESS:
            yield select.POLLOUT
            error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        self.doing = 'handshake'
        tls = self.context.wrap_socket(
            self.socket, server_hostname=web.NAME,
            do_handshake_on_connect=False)
        self.socket = tls
        yield from self._when_ready(tls.do_handshake)

    def _close(self) -> None:
        """Say so and do not wait for an answer, as programs do."""
        assert isinstance(self.socket, ssl.SSLSocket)
        try:
            self.socket.unwrap()
        except OSError:
            pass
        self.socket.close()

    def _receive(self) -> Steps[bytes]:
        data = yield from self._when_ready(
            lambda: self.socket.recv(RECEIVE_BYTES))
        if not data:
            raise Failed('closed by the guest')
        return data

    def _response(self) -> Steps[None]:
        data = bytearray()
        while (end := data.find(b'\r\n\r\n')) < 0:
            data += yield from self._receive()
        status, *lines = bytes(data[:end]).decode('latin-1').split('\r\n')
        fields = {}
        for line in lines:
            key, _, value = line.partition(':')
            fields[key.lower()] = value.strip()
        if (not status.startswith('HTTP/1.1 200 ') or
                fields.get('content-length') != str(len(self.body))):
            raise Failed(f'wrong head: {status}')
        self.closing = fields.get('connection') == 'close'
        data = data[end + 4:]
        while len(data) < len(self.body):
            data += yield from self._receive()
        if len(data) > len(self.body):
            raise Failed('bytes after the body')
        if data != self.body:
            raise Failed('wrong body')

    def requests(self, done: Callable[[int], None]) -> Steps[None]:
        """Without an end; @done gets how long each took, in nanoseconds."""
        while True:
            start = time.monotonic_ns()
            if self.closing or self.sent == self.args.requests != 0:
                self._close()
                yield from self.open()
            self.doing = 'request'
            self.sent += 1
            sent = yield from self._when_ready(
                lambda: self.socket.send(self.request))
            if sent != len(self.request):
                raise Failed('a part of a request')
            yield from self._response()
            done(time.monotonic_ns() - start)


class Run:
    """What is measured, and what is said of it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.stopped = False
        self.us: list[int] = []
        self.last = self.longest = self.longest_at = 0

    def stop(self, *_: object) -> None:
        self.stopped = True

    @staticmethod
    def _say(event: str, **values: object) -> None:
        print(json.dumps({'event': event, **values}), flush=True)

    def _progress(self, now: int) -> None:
        """A gap ends now, or would."""
        if now - self.last > self.longest:
            self.longest, self.longest_at = now - self.last, self.last
        self.last = now

    def _done(self, ns: int) -> None:
        self._progress(time.monotonic_ns())
        self.us.append(ns // 1000)

    def _gap(self) -> dict[str, int]:
        return {'longest_gap_us': self.longest // 1000,
                'longest_gap_at_ns': self.longest_at}

    @staticmethod
    def _turn(connections: list[Connection]) -> None:
        """Wait, and have those go on that can."""
        poller = select.poll()
        waiting = {each.socket.fileno(): each for each in connections
                   if each.steps}
        for number, each in waiting.items():
            poller.register(number, each.events)
        for number, _ in poller.poll(TURN_MS):
            waiting[number].go_on()

    def _connect(self, connections: list[Connection]) -> None:
        end = time.monotonic() + self.args.connect_seconds
        for each in connections:
            each.begin(each.open())
        while any(each.steps for each in connections):
            if self.stopped or time.monotonic() > end:
                raise Failed('no connection')
            self._turn(connections)

    def _measure(self, connections: list[Connection], start: int) -> None:
        end = start + self.args.seconds * 1e9 if self.args.seconds else None
        report = start + PROGRESS_NS
        for each in connections:
            each.begin(each.requests(self._done))
        while not self.stopped and (not end or time.monotonic_ns() < end):
            self._turn(connections)
            now = time.monotonic_ns()
            if now - self.last > (self.args.idle_seconds or 1e9) * 1e9:
                raise Failed('nothing for too long')
            if now >= report:
                report = now + PROGRESS_NS
                self._say('progress', at_ns=now, count=len(self.us),
                          **self._gap())

    def _end(self, start: int, why: str) -> bool:
        """The last line; whether all was right."""
        now = time.monotonic_ns()
        self._progress(now)
        us = sorted(self.us)
        count = len(us)
        values = (us[count // 2], us[count - 1 - count // 100],
                  us[-1]) if us else (None, None, None)
        intact = not why and count > 0
        self._say('end', count=count,
                  per_second=round(count / ((now - start) / 1e9), 1),
                  **dict(zip(('p50_us', 'p99_us', 'max_us'), values)),
                  **self._gap(), intact=intact, why=why or 'end of run')
        return intact

    def run(self) -> bool:
        """All of it; whether all was right."""
        context = ssl.create_default_context(cafile=str(self.args.certificate))
        connections = [Connection(self.args, context)
                       for _ in range(self.args.connections)]
        why = ''
        start = self.last = self.longest_at = time.monotonic_ns()
        try:
            self._connect(connections)
            start = self.last = self.longest_at = time.monotonic_ns()
            self._say('connected', at_ns=start)
            self._measure(connections, start)
        except Failed as err:
            why = str(err)
        return self._end(start, why)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='GET by HTTPS, and check all that comes')
    parser.add_argument('mode', choices=('https',))
    parser.add_argument('--certificate', type=Path, required=True,
                        help='of the server, or of who has signed it')
    parser.add_argument('--host', default=net.guest_address())
    parser.add_argument('--port', type=int, default=web.PORT)
    parser.add_argument('--path', choices=('/small', '/64k'),
                        default='/small')
    parser.add_argument('--connections', type=int, default=4)
    parser.add_argument('--requests', type=int, default=0,
                        help='of a connection; 0: no limit')
    parser.add_argument('--seconds', type=float, default=0,
                        help='0: until a signal')
    parser.add_argument('--connect-seconds', type=float, default=30)
    parser.add_argument('--idle-seconds', type=float, default=0,
                        help='the longest silence; 0: no limit')
    return parser.parse_args()


def main() -> int:
    run = Run(arguments())
    signal.signal(signal.SIGTERM, run.stop)
    signal.signal(signal.SIGINT, run.stop)
    return 0 if run.run() else 1


if __name__ == '__main__':
    sys.exit(main())
