#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How connections begin that pass by an interface.

Says "ready", reads what comes by until SIGTERM, and prints a JSON list of
connections that were opened meanwhile: the port of who was called, and in hex what
the caller has said first, as far as one packet has it.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import struct
import sys

ETH_P_ALL = 3
ETH_P_IP = 0x0800
FRAME_BYTES = 256       # as much of a packet as is looked at
QUEUE_BYTES = 64 << 20
SYN, ACK = 2, 16
LOOK_SECONDS = 0.1

Key = tuple[bytes, bytes, int, int]


def parse(frame: bytes) -> tuple[Key, int, bytes] | None:
    """Addresses and ports, flags, and data of a TCP segment."""
    if len(frame) < 54 or frame[12:14] != struct.pack('!H', ETH_P_IP):
        return None
    header = (frame[14] & 15) * 4
    if frame[23] != socket.IPPROTO_TCP:
        return None
    total, = struct.unpack('!H', frame[16:18])
    tcp = frame[14 + header:14 + total]
    if len(tcp) < 20:
        return None
    source, target = struct.unpack('!HH', tcp[:4])
    return ((frame[26:30], frame[30:34], source, target), tcp[13],
            tcp[(tcp[12] >> 4) * 4:])


def watch(names: list[str]) -> None:
    poll = select.poll()
    sockets = {}
    for name in names:
        this = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                             socket.htons(ETH_P_ALL))
        this.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE_BYTES)
        this.bind((name, ETH_P_ALL))
        poll.register(this, select.POLLIN)
        sockets[this.fileno()] = this
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    print('ready', flush=True)
    opened: dict[Key, bytes] = {}
    while not ended:
        for number, _ in poll.poll(LOOK_SECONDS * 1000):
            found = parse(sockets[number].recv(FRAME_BYTES))
            if not found:
                continue
            key, flags, data = found
            if flags & SYN and not flags & ACK:
                opened[key] = b''
            elif data and opened.get(key) == b'':
                opened[key] = data
    print(json.dumps([{'port': key[3], 'first': first.hex()}
                      for key, first in opened.items()]))


if __name__ == '__main__':
    watch(sys.argv[1:])
