# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks whose requests are made, or completed, in other ways than the usual.

Two writers make each group durable before the next one, so a request that is
never completed for the guest stops one of them, and no other covers it up.
"""

from __future__ import annotations

from typing import Any

from colo import disks

from .disks import check_images, start_writers, verify_all
from .registry import (Context, Failed, Skip, check, check_intact, test,
                       wait_for, wait_lines, wait_more)

MODES = ('periodic', 'hybrid')
DELAY_MS = 200
CHECKPOINTS_QUICK = 30
CHECKPOINTS_LONG = 300
SECONDS = 240.0
GROUPS = 20

WAYS: dict[str, dict[str, Any]] = {
    'blk-mapping': {'mapping': True},
    'scsi-iothread': {'bus': 'virtio-scsi', 'iothread': True},
    'scsi-mapping': {'bus': 'virtio-scsi', 'mapping': True},
    'native': {'direct': True, 'aio': 'native'},
    'native-iothread': {'direct': True, 'aio': 'native', 'iothread': True},
    'io-uring': {'aio': 'io_uring'},
    'io-uring-iothread': {'aio': 'io_uring', 'iothread': True},
    'tls': {'tls': True},
    'tls-native-mapping': {'tls': True, 'direct': True, 'aio': 'native',
                           'mapping': True, 'bus': 'virtio-scsi'},
}
# colo-iothread-test has the interrupt of virtio-scsi without a guest
QUICK = {('tls-native-mapping', 'hybrid')}


def need(ctx: Context, layout: disks.Disks) -> None:
    """The build has what the images are to be used by."""
    path = ctx.run / 'probe.img'
    path.write_bytes(bytes(1 << 20))
    if not layout.aio:
        return
    try:
        disks.tool(ctx.machine, 'info', '--image-opts',
                   layout.node('local', path))
    except disks.DiskError as err:
        if f'invalid parameter value: {layout.aio}' in str(err):
            raise Skip(f'no aio={layout.aio} in this build') from None
        raise Failed(str(err)) from None


def session(ctx: Context, layout: disks.Disks, mode: str) -> None:
    """The writers get on over many checkpoints and on the survivor; nothing
    that was durable is lost."""
    need(ctx, layout)
    checkpoints = CHECKPOINTS_LONG if ctx.long else CHECKPOINTS_QUICK
    with ctx.pair(memory='256', cpus=2, mode=mode, disks=layout) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        pair.start_secondary()
        pair.protect(x_checkpoint_delay=DELAY_MS)
        done = pair.vm('primary').status().checkpoints
        wait_for('checkpoints', lambda: pair.vm('primary').status().checkpoints
                 >= done + checkpoints, SECONDS)
        for writer in writers:
            wait_more(writer, GROUPS)
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        for writer in writers:
            wait_more(writer, GROUPS)
        verify_all(writers)
        check_intact(ticker)
        blocks = check_images(pair, 'secondary', writers)
        check(blocks > 0, 'nothing was written')
    ctx.note(f'{blocks} blocks, {checkpoints} checkpoints')


def add_test(way: str, mode: str) -> None:
    layout = disks.Disks(count=2, **WAYS[way])

    @test(f'/colo/e2e/disk/thread/{way}/{mode}',
          long_only=(way, mode) not in QUICK)
    def run(ctx: Context) -> None:
        session(ctx, layout, mode)


for _way in WAYS:
    for _mode in MODES:
        add_test(_way, _mode)
