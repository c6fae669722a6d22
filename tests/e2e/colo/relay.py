#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A bad network: a wire between two interfaces that loses and delays frames.

Each frame is lost with a probability, or comes later by a random time.  As
these times differ, frames overtake each other.  It runs until it is killed and
says "ready" first; SIGTERM ends it, and it says how many frames came and how
many of them it lost and let be overtaken.

With --plain it only makes an interface send what a wire could carry, frames of
the MTU with checksums, and ends.
"""

from __future__ import annotations

import argparse
import array
import fcntl
import heapq
import random
import select
import signal
import socket
import struct
import time

SIOCETHTOOL = 0x8946
# Of linux/ethtool.h: TX checksums, TCP segmentation, segmentation, receive
OFFLOADS = {'tx': 0x17, 'tso': 0x1f, 'gso': 0x24, 'gro': 0x2c}
ETH_P_ALL = 3
FRAME_BYTES = 65536
QUEUE_BYTES = 4 << 20
PACKET_OUTGOING = 4
LOOK_SECONDS = 0.1      # whether it has to end


def make_plain(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in OFFLOADS.values():
            value = array.array('B', struct.pack('II', command, 0))
            address, _ = value.buffer_info()
            fcntl.ioctl(sock, SIOCETHTOOL,
                        struct.pack('16sP', name.encode(), address))


class End:
    """One interface, and the frames that are to leave by it."""

    def __init__(self, name: str):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                    socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF,
                               QUEUE_BYTES)
        self.socket.bind((name, ETH_P_ALL))
        self.socket.setblocking(False)

    def read(self) -> list[bytes]:
        frames = []
        while True:
            try:
                frame, address = self.socket.recvfrom(FRAME_BYTES)
            except BlockingIOError:
                return frames
            if address[2] != PACKET_OUTGOING:
                frames.append(frame)

    def write(self, frame: bytes) -> None:
        try:
            self.socket.send(frame)
        except OSError:
            pass        # no room, or the other end is down: lost as well


def relay(names: list[str], loss: float, jitter: float, seed: int) -> None:
    ends = [End(name) for name in names]
    rng = random.Random(seed)
    poll = select.poll()
    others = {}
    for this, other in zip(ends, reversed(ends)):
        poll.register(this.socket, select.POLLIN)
        others[this.socket.fileno()] = (this, other)
    # When, the number of the frame, where to, what
    due: list[tuple[float, int, End, bytes]] = []
    count = lost = overtaken = last = 0
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    print('ready', flush=True)
    while not ended:
        left = due[0][0] - time.monotonic() if due else LOOK_SECONDS
        for number, _ in poll.poll(max(0, left * 1000)):
            this, other = others[number]
            for frame in this.read():
                count += 1
                if rng.random() < loss:
                    lost += 1
                    continue
                when = time.monotonic() + rng.uniform(0, jitter)
                heapq.heappush(due, (when, count, other, frame))
        while due and due[0][0] <= time.monotonic():
            _, number, other, frame = heapq.heappop(due)
            overtaken += number < last
            last = max(last, number)
            other.write(frame)
    print(count, lost, overtaken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--loss', type=float, default=0, metavar='SHARE',
                        help='of the frames, 0 to 1 (default: 0)')
    parser.add_argument('--jitter', type=float, default=0, metavar='MS',
                        help='longest delay (default: 0)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--plain', action='store_true')
    parser.add_argument('interfaces', nargs='+', metavar='INTERFACE')
    args = parser.parse_args()
    if args.plain:
        for name in args.interfaces:
            make_plain(name)
    elif len(args.interfaces) != 2:
        parser.error('a wire has two ends')
    else:
        relay(args.interfaces, args.loss, args.jitter / 1000, args.seed)


if __name__ == '__main__':
    main()
