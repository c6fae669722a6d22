# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests themselves: what they look for is seen when it is there."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from colo import client

from .registry import Context, check, test, wait_for, wait_lines

FAULTS = ('lose', 'repeat', 'change')   # see colo-guest.c
MODES: dict[str, dict[str, str]] = {
    'ticker': {}, 'bulk-out': {}, 'bulk-in': {}, 'echo': {},
    'http': {'path': '/64k'}, 'last': {}, 'call': {},
}
DATAGRAMS: dict[str, dict[str, str]] = {
    'udp': {}, 'ping6': {'host': '::1', 'connect_seconds': '2'},
}
# What a client calls it, and who can see it: echo requests are not counted
DATAGRAM_FAULTS = {
    'lose': ('lost', ('udp', 'ping6')),
    'repeat': ('doubled', ('udp', 'ping6')),
    'change': ('wrong', ('udp', 'ping6')),
    'replay': ('replayed', ('udp',)),
    'fork': ('forked', ('udp',)),
}
PING_SWITCH = '/proc/sys/net/ipv6/icmp/echo_ignore_all'
# What a client has got when the server has long done its fault
ENOUGH = {
    'ticker': 60, 'bulk-out': 1 << 20, 'bulk-in': 1 << 20, 'echo': 4000,
    'http': 60, 'call': 200, 'udp': 60, 'ping6': 60, 'disk': 200,
}
DISK_BYTES = 4 << 20
BREAK_SECONDS = 10.0
KILLS = 6       # lines leave too early at each of them, so one is plenty


def listen(running: client.Client) -> dict[str, Any]:
    """What it says in the end: when it has seen enough, or something wrong."""
    def is_enough() -> bool:
        last = running.poll()
        got = last.get('received') or last.get('bytes') or last.get('count')
        return bool(running.end) or (got or 0) >= ENOUGH[running.mode]

    if running.mode not in ENOUGH:
        return running.wait_end()
    wait_for(f'enough for {running.mode}', is_enough)
    return running.stop()


def serve_badly(ctx: Context, fault: str,
                modes: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """What the clients say of a server that does @fault."""
    image = ctx.machine.image
    said = {}
    server = subprocess.Popen(
        ctx.hosts.argv('client', image.server, f'--serve={fault}'),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for mode, options in modes.items():
            said[mode] = listen(client.Client(
                ctx.hosts, image.client, mode,
                **{'host': '127.0.0.1', **options}))
    finally:
        server.kill()
        server.wait()
    return said


def content(said: dict[str, dict[str, Any]]) -> list[str]:
    return [mode for mode, end in said.items() if end['intact']]


@test('/colo/e2e/self/clients')
def clients(ctx: Context) -> None:
    """Every client sees bytes that are lost, repeated or changed, and none
    sees them where there are none."""
    for fault in FAULTS:
        fooled = content(serve_badly(ctx, fault, MODES))
        check(not fooled, f'{fault}: not seen by {", ".join(fooled)}')
    check(content(serve_badly(ctx, 'none', MODES)) == list(MODES),
          'a client complains of a server without faults')


def leave_pings(ctx: Context, leave: bool) -> None:
    """Whether the kernel of the client's host leaves them to a program."""
    subprocess.run(ctx.hosts.argv('client', 'tee', PING_SWITCH), check=True,
                   input=b'%d' % leave, stdout=subprocess.DEVNULL)


@test('/colo/e2e/self/datagrams')
def datagrams(ctx: Context) -> None:
    """The clients of datagrams see a wrong answer, a second one, and one that
    an earlier or another state gave; one that is lost they count."""
    said = serve_badly(ctx, 'none', DATAGRAMS)
    check(content(said) == list(DATAGRAMS) and
          not any(end['lost'] for end in said.values()),
          f'complaints of a server without faults: {said}')
    leave_pings(ctx, True)
    for fault, (name, modes) in DATAGRAM_FAULTS.items():
        said = serve_badly(ctx, fault, {mode: DATAGRAMS[mode]
                                        for mode in modes})
        for mode, end in said.items():
            check(end[name] == 1, f'{fault}: {mode} says {end}')
        check(content(said) == (list(modes) if fault == 'lose' else []),
              f'{fault}: {said}')
    check(not content(serve_badly(ctx, 'none', {'ping6': DATAGRAMS['ping6']})),
          'ping6 is content without any answer')
    leave_pings(ctx, False)


@test('/colo/e2e/self/disk')
def disk(ctx: Context) -> None:
    """The client sees blocks that are not there, that it is told of twice,
    that are wrong, and that are still to come."""
    image = ctx.run / 'self.img'
    options = {'disk': {'device': str(image), 'interval': '1'}}
    for fault in ('none', *FAULTS, 'replay'):
        with open(image, 'wb') as file:
            file.truncate(DISK_BYTES)
        said = serve_badly(ctx, fault, options)['disk']
        check(said['groups'] > 0, f'nothing was written: {said}')
        check(said['intact'] == (fault == 'none'), f'{fault}: {said}')


@test('/colo/e2e/self/no-gate')
def no_gate(ctx: Context) -> None:
    """Without the object that holds output, the ticker breaks at a kill: lines
    had left that the survivor never sent."""
    for kill in range(1, KILLS + 1):
        with ctx.pair(gate=False, memory='256') as pair:
            # Some lines have left since the last checkpoint, and few enough
            # for the survivor to overtake them without an acknowledgement
            ctx.protected(pair, x_checkpoint_delay=40)
            running = pair.client('ticker')
            wait_lines(running)
            time.sleep(ctx.rng(f'no-gate/{kill}').uniform(0.1, 0.5))
            pair.fence('primary')
            pair.failover('secondary')
            deadline = time.monotonic() + BREAK_SECONDS
            while time.monotonic() < deadline:
                seen = running.poll()
                if seen.get('forked') or seen.get('lost') or running.end:
                    break
                time.sleep(0.02)
            if not running.stop()['intact']:
                ctx.note(f'seen at kill {kill}')
                return
    check(False, f'{KILLS} kills without a gate and the client is content')
