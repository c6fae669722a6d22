# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's disk becomes longer in a session, and a host dies.

The guest's kernel hears of it from its device and writes to the new part.  What
it was told is durable is there after the failover, in all of the new length, and
the survivor goes on writing.
"""

from __future__ import annotations

import time
from typing import Any

from colo import disks, vm

from .disks import check_images
from .registry import (Context, check, check_intact, check_verified, test,
                       wait_for, wait_lines)

MIB = 2                     # at first
LONG_MIB = 8
SLOTS = 1024                # more blocks than there are at first
MOMENT_SECONDS = 0.5
BUSES: dict[str, dict[str, Any]] = {
    'virtio-blk': {},
    'virtio-blk-iothread': {'iothread': True},
    'virtio-scsi': {'bus': 'virtio-scsi'},
}


def sees(pair: vm.Pair, device: str, mib: int) -> bool:
    """Has the guest's disk that length?"""
    name = device.rsplit('/', 1)[1]
    answer = pair.control(f'sh test $(cat /sys/class/block/{name}/size) -eq '
                          f'{mib * 2048}')
    return answer.startswith('0 ')


def grow(ctx: Context, mode: str, bus: str, victim: str) -> None:
    survivor = 'primary' if victim == 'secondary' else 'secondary'
    layout = disks.Disks(mib=MIB, **BUSES[bus])
    with ctx.pair(verify=True, memory='256', disks=layout,
                  mode=mode) as pair:
        ctx.protected(pair)
        disks.load_drivers(pair)
        device = disks.guest_device(pair, 0)
        check(sees(pair, device, MIB), 'the disk has another length')
        primary = pair.vm('primary')
        # Another way to the image would keep its length
        pair.vm('secondary').monitor.execute('nbd-server-remove',
                                             {'name': 'parent0'})
        primary.monitor.execute('block_resize', {
            'device': 'disk0', 'size': LONG_MIB << 20})
        wait_for('the guest to see it', lambda: sees(pair, device, LONG_MIB))
        ticker = pair.client('ticker')
        writer = pair.client('disk', device=device, seed=1, slots=SLOTS,
                             interval=0)
        wait_for('writes to the new part',
                 lambda: writer.poll().get('acked', 0) >= SLOTS)
        primary.monitor.execute('x-colo-checkpoint')
        time.sleep(MOMENT_SECONDS)
        verified = check_verified(pair.vm('secondary').status(), 1)
        pair.fence(victim)
        pair.failover(survivor)
        wait_lines(ticker)
        writer.verify()
        check(sees(pair, device, LONG_MIB), 'the survivor has another length')
        before = int(writer.poll()['acked'])
        wait_for('more writes',
                 lambda: writer.poll().get('acked', 0) > before)
        check_intact(ticker)
        blocks = check_images(pair, survivor, [writer], slots=SLOTS)
    ctx.note(f'{blocks} blocks, RAM and disks equal at {verified} checkpoints')


def add_test(mode: str, bus: str, victim: str) -> None:
    @test(f'/colo/e2e/disk/grow/{mode}/{bus}/{victim}',
          long_only=victim == 'secondary' or
          (mode, bus) not in (('hybrid', 'virtio-scsi'),
                              ('periodic', 'virtio-blk')))
    def run(ctx: Context) -> None:
        grow(ctx, mode, bus, victim)


for _mode in ('periodic', 'hybrid'):
    for _bus in BUSES:
        for _victim in ('primary', 'secondary'):
            add_test(_mode, _bus, _victim)
