#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that means harm: frames and connections as no honest one has them.

Frames: SYNs without end, segments of no connection with odd flags, numbers and
options, datagrams for ports that nobody listens on, fragments that overlap or
lack some, large pings, errors that quote what was never said, IPv6 with headers
of all kinds, tags, and what is cut short or has no meaning.  Connections: reset
in the middle, with urgent data, never read, closed in one direction.

It says "ready" first, runs until SIGTERM, and then says how many frames it sent
and how many connections it made.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import socket
import struct
import time

ETH_P_ALL = 3
MTU = 1500
HELD = 40           # connections that are open at a time
PORTS = (1024, 65535)


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b'\0'
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Frames:
    """What one interface can send to one guest."""

    def __init__(self, interface: str, guest: str, port: int,
                 rng: random.Random):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                    socket.htons(ETH_P_ALL))
        self.socket.bind((interface, 0))
        self.rng = rng
        self.port = port
        # The connection tells the kernel, and that tells us, where the guest is
        with socket.create_connection((guest, port), 10) as known:
            self.source = socket.inet_aton(known.getsockname()[0])
        self.guest = socket.inet_aton(guest)
        self.mac = self._mac_of(guest)
        self.own_mac = self.socket.getsockname()[4]
        self.sent = 0

    @staticmethod
    def _mac_of(guest: str) -> bytes:
        with open('/proc/net/arp', encoding='ascii') as table:
            for line in table:
                words = line.split()
                if words[0] == guest:
                    return bytes.fromhex(words[3].replace(':', ''))
        raise SystemExit(f'nobody knows {guest}')

    def send(self, ethertype: int, data: bytes) -> None:
        frame = self.mac + self.own_mac + struct.pack('!H', ethertype) + data
        with contextlib.suppress(OSError):
            self.socket.send(frame[:MTU + 14])
            self.sent += 1

    def ipv4(self, proto: int, data: bytes, fragment: int = 0,
             ident: int = 0, options: bytes = b'') -> bytes:
        header = struct.pack('!BBHHHBBH4s4s', 0x45 + len(options) // 4, 0,
                             20 + len(options) + len(data), ident, fragment,
                             64, proto, 0, self.source, self.guest) + options
        return (header[:10] + struct.pack('!H', checksum(header)) +
                header[12:] + data)

    def with_pseudo(self, proto: int, data: bytes, at: int) -> bytes:
        pseudo = self.source + self.guest + struct.pack('!BBH', 0, proto,
                                                        len(data))
        return (data[:at] + struct.pack('!H', checksum(pseudo + data)) +
                data[at + 2:])

    def some_port(self) -> int:
        return self.rng.randint(*PORTS)

    def tcp(self, flags: int, options: bytes = b'', data: bytes = b'') -> bytes:
        options += bytes(-len(options) % 4)
        segment = struct.pack('!HHIIBBHHH', self.some_port(), self.port,
                              self.rng.getrandbits(32),
                              self.rng.getrandbits(32),
                              (20 + len(options)) // 4 << 4, flags,
                              self.rng.getrandbits(16), 0,
                              self.rng.getrandbits(16)) + options + data
        return self.with_pseudo(6, segment, 16)

    def syn(self) -> None:
        options = b'\x02\x04\x05\xb4\x04\x02\x08\x0a' + self.rng.randbytes(8)
        self.send(0x0800, self.ipv4(6, self.tcp(2, options)))

    def segment(self) -> None:
        options = self.rng.randbytes(self.rng.randrange(40) // 4 * 4)
        self.send(0x0800, self.ipv4(6, self.tcp(
            self.rng.getrandbits(8), options,
            self.rng.randbytes(self.rng.randrange(100)))))

    def udp(self, data: bytes) -> bytes:
        return self.with_pseudo(17, struct.pack(
            '!HHHH', self.some_port(), self.some_port(), 8 + len(data),
            0) + data, 6)

    def datagram(self) -> None:
        self.send(0x0800, self.ipv4(17, self.udp(self.rng.randbytes(20))))

    def fragments(self) -> None:
        data = self.udp(self.rng.randbytes(4000))
        ident = self.rng.getrandbits(16)
        at = 0
        while at < len(data):
            size = self.rng.randrange(8, 1400) // 8 * 8
            more = at + size < len(data) or self.rng.randrange(4) == 0
            if self.rng.randrange(5):
                self.send(0x0800, self.ipv4(17, data[at:at + size],
                                            at // 8 | more << 13, ident))
            at += size - self.rng.choice((0, 0, 0, 8))

    def ping(self) -> None:
        data = struct.pack('!BBHHH', 8, 0, 0, 1, 1) + bytes(20000)
        data = data[:2] + struct.pack('!H', checksum(data)) + data[4:]
        ident = self.rng.getrandbits(16)
        for at in range(0, len(data), 1480):
            more = at + 1480 < len(data)
            self.send(0x0800, self.ipv4(1, data[at:at + 1480],
                                        at // 8 | more << 13, ident))

    def error(self) -> None:
        quote = self.rng.randbytes(self.rng.randrange(60))
        if self.rng.randrange(2):
            quote = (self.ipv4(6, b'')[:12] + self.guest + self.source +
                     struct.pack('!HH', self.port, self.some_port()) + quote)
        kind = self.rng.choice((3, 4, 5, 11, 12))
        data = struct.pack('!BBHI', kind, self.rng.randrange(16), 0,
                           576) + quote
        data = data[:2] + struct.pack('!H', checksum(data)) + data[4:]
        self.send(0x0800, self.ipv4(1, data))

    def ipv6(self) -> None:
        kinds = (0, 43, 44, 60, 6, 17, 58, 59, self.rng.getrandbits(8))
        headers = b''.join(
            bytes((self.rng.choice(kinds), self.rng.randrange(3))) +
            self.rng.randbytes(self.rng.choice((6, 14)))
            for _ in range(self.rng.randrange(5)))
        data = headers + self.rng.randbytes(self.rng.randrange(60))
        self.send(0x86dd, struct.pack(
            '!IHBB', 6 << 28, max(0, len(data) + self.rng.choice((0, 0, 9))),
            self.rng.choice(kinds), 64) + self.rng.randbytes(32) + data)

    def nonsense(self) -> None:
        data = self.rng.randbytes(self.rng.randrange(1, 200))
        if self.rng.randrange(2):
            data = self.ipv4(6, self.tcp(2))
            data = data[:self.rng.randrange(1, len(data))]
        if self.rng.randrange(2):
            data = struct.pack('!HH', self.rng.getrandbits(16), 0x0800) + data
        self.send(self.rng.choice((0x8100, 0x88a8, 0x0800, 0x0806, 0x86dd,
                                   self.rng.getrandbits(16))), data)


class Connections:
    """Those to one port of the guest, none of which ends well."""

    def __init__(self, guest: str, port: int, rng: random.Random):
        self.to = (guest, port)
        self.rng = rng
        self.open: list[socket.socket] = []
        self.made = 0

    def step(self) -> None:
        with contextlib.suppress(OSError):
            one = socket.socket()
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect_ex(self.to)
            self.open.append(one)
            self.made += 1
        for one in self.open:
            with contextlib.suppress(OSError):
                if self.rng.randrange(4) == 0:
                    one.send(self.rng.randbytes(self.rng.randrange(1, 900)))
                elif self.rng.randrange(8) == 0:
                    one.send(b'!', socket.MSG_OOB)
                elif self.rng.randrange(20) == 0:
                    one.shutdown(socket.SHUT_WR)
        while len(self.open) > HELD:
            one = self.open.pop(self.rng.randrange(HELD))
            if self.rng.randrange(2):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                               struct.pack('ii', 1, 0))
            one.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--rate', type=int, default=1000, metavar='N',
                        help='frames a second (default: 1000)')
    parser.add_argument('interface')
    parser.add_argument('guest')
    parser.add_argument('port', type=int)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    frames = Frames(args.interface, args.guest, args.port, rng)
    connections = Connections(args.guest, args.port, rng)
    kinds = [frames.syn] * 6 + [frames.segment] * 6 + [
        frames.datagram, frames.fragments, frames.ping, frames.error,
        frames.ipv6, frames.nonsense]
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    print('ready', flush=True)
    begin = time.monotonic()
    steps = 0
    while not ended:
        # In bursts: a burst is what queues have to bear
        if frames.sent > (time.monotonic() - begin) * args.rate:
            time.sleep(0.01)
            continue
        steps += 1
        rng.choice(kinds)()
        if steps % 20 == 0:
            connections.step()
    print(frames.sent, connections.made)


if __name__ == '__main__':
    main()
