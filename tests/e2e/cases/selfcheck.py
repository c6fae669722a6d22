# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests themselves: what they look for is seen when it is there."""

from __future__ import annotations

import subprocess
import time

from colo import client

from .registry import Context, check, test, wait_lines

FAULTS = ('lose', 'repeat', 'change')   # see colo-guest.c
MODES: dict[str, dict[str, str]] = {
    'ticker': {}, 'bulk-out': {}, 'bulk-in': {}, 'echo': {},
    'http': {'path': '/64k'},
}
KILLS = 6       # lines leave too early at each of them, so one is plenty


def serve_badly(ctx: Context, fault: str) -> list[str]:
    """The clients that were content although the server did @fault."""
    image = ctx.machine.image
    content = []
    server = subprocess.Popen(
        ctx.hosts.argv('client', image.server, f'--serve={fault}'),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        for mode, options in MODES.items():
            running = client.Client(ctx.hosts, image.client, mode,
                                    host='127.0.0.1', seconds=1, **options)
            if running.wait_end()['intact']:
                content.append(mode)
    finally:
        server.kill()
        server.wait()
    return content


@test('/colo/e2e/self/clients')
def clients(ctx: Context) -> None:
    """Every client sees bytes that are lost, repeated or changed, and none
    sees them where there are none."""
    for fault in FAULTS:
        content = serve_badly(ctx, fault)
        check(not content, f'{fault}: not seen by {", ".join(content)}')
    check(serve_badly(ctx, 'none') == list(MODES),
          'a client complains of a server without faults')


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
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                seen = running.poll()
                if seen.get('forked') or seen.get('lost') or running.end:
                    break
                time.sleep(0.02)
            if not running.stop()['intact']:
                ctx.note(f'seen at kill {kill}')
                return
    check(False, f'{KILLS} kills without a gate and the client is content')
