#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Have the guest ask, as a resolver does: one datagram from each port.

Answers the guest's questions and prints the lines of tests/e2e/guest/
colo-client.c, as far as they make sense here; times are the guest's own.
"""

import argparse
import json
import socket
import sys
import threading
import time

CONTROL_PORT = 7005
MORE_SECONDS = 10.0         # the last question may be lost


def say(event: str, **fields: object) -> None:
    print(json.dumps({'event': event, **fields}), flush=True)


def answer_all(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(2048)
        sock.sendto(data, peer)


def connect(host: str, seconds: float) -> socket.socket:
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((host, CONTROL_PORT), 1.0)
        except OSError:
            if time.monotonic() > end:
                raise


def run(options: argparse.Namespace) -> None:
    """The lines of a run; OSError or ValueError if it was none."""
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind(('0.0.0.0', 0))
    threading.Thread(target=answer_all, args=(echo,), daemon=True).start()
    with connect(options.host, options.connect_seconds) as control:
        begin = time.monotonic()
        say('connected', at_ns=time.monotonic_ns())
        control.settimeout(options.seconds + MORE_SECONDS)
        control.sendall(f'ask {echo.getsockname()[1]} '
                        f'{options.seconds * 1000:.0f}\n'.encode('ascii'))
        words = control.makefile().readline().split()
    if words[:1] != ['ok']:
        raise ValueError(' '.join(words) or 'no answer from the guest')
    count, lost, p50, p99, longest = map(int, words[1:])
    say('end', count=count, per_second=count / (time.monotonic() - begin),
        p50_us=p50, p99_us=p99, max_us=longest, longest_gap_us=longest,
        intact=count > 0 and not lost,
        why='end of run' if not lost else f'{lost} questions lost')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('mode', choices=['ask'])
    parser.add_argument('--host', required=True)
    parser.add_argument('--seconds', type=float, default=5.0)
    parser.add_argument('--connect-seconds', type=float, default=20.0)
    parser.add_argument('--idle-seconds', type=float)
    options = parser.parse_args()
    try:
        run(options)
    except (OSError, ValueError) as err:
        say("end", count=0, intact=False, why=str(err))
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
