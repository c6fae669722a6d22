# SPDX-License-Identifier: GPL-2.0-or-later
"""After each load the RAM of both sides is equal, byte for byte."""

from __future__ import annotations

from typing import Any

from colo import client, vm

from .kill import CHECKPOINTS_SECONDS
from .registry import (Context, check_intact, check_verified, test, wait_for,
                       wait_lines)

CHECKPOINTS_QUICK = 40
CHECKPOINTS_LONG = 500


def busy_checkpoints(ctx: Context, **changes: object) -> None:
    """Checkpoints of a guest that writes to its RAM, then a failover."""
    count = CHECKPOINTS_LONG if ctx.long else CHECKPOINTS_QUICK
    with ctx.pair(verify=True, **changes) as pair:
        ctx.protected(pair)
        ticker = pair.client('ticker')
        pair.control('dirty 16')
        pair.wait_checkpoints(count, CHECKPOINTS_SECONDS + 2 * count)
        wait_for('comparisons', lambda: pair.vm('secondary').status().verified
                 >= count)
        verified = check_verified(pair.vm('secondary').status(), count)
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        check_intact(ticker)
    ctx.note(f'RAM equal at {verified} checkpoints')


@test('/colo/e2e/ram/plain')
def plain(ctx: Context) -> None:
    busy_checkpoints(ctx)


@test('/colo/e2e/ram/numa', long_only=True)
def numa(ctx: Context) -> None:
    busy_checkpoints(ctx, memory='512', extra=(
        '-object', 'memory-backend-ram,id=n0,size=256M',
        '-object', 'memory-backend-ram,id=n1,size=256M',
        '-numa', 'node,memdev=n0', '-numa', 'node,memdev=n1'))


@test('/colo/e2e/ram/dimm')
def dimm(ctx: Context) -> None:
    busy_checkpoints(ctx, memory='256,slots=2,maxmem=2G', extra=(
        '-object', 'memory-backend-ram,id=d0,size=256M',
        '-device', 'pc-dimm,memdev=d0'))


@test('/colo/e2e/ram/option-roms')
def option_roms(ctx: Context) -> None:
    busy_checkpoints(ctx, nic='romfile=efi-virtio.rom',
                     extra=('-vga', 'std', '-device',
                            'e1000,romfile=efi-e1000.rom'))


@test('/colo/e2e/ram/smp')
def smp(ctx: Context) -> None:
    busy_checkpoints(ctx, cpus=2)


@test('/colo/e2e/ram/q35')
def q35(ctx: Context) -> None:
    busy_checkpoints(ctx, machine='q35')


def reset_guest(ctx: Context, count: int, mode: str = 'periodic',
                **parameters: Any) -> None:
    """The guest is reset and boots under protection."""
    with ctx.pair(verify=True, memory='256', mode=mode) as pair:
        ctx.protected(pair, **parameters)
        pair.vm('primary').monitor.execute('system_reset')
        pair.vm('primary').monitor.wait_event('RESET', vm.EXIT_SECONDS)
        pair.wait_checkpoints(count, CHECKPOINTS_SECONDS)

        def answers() -> bool:
            try:
                pair.control('ping')
                return True
            except client.ClientError:
                return False
        wait_for('the guest to boot again', answers, 2 * vm.BOOT_SECONDS)
        verified = check_verified(pair.vm('secondary').status(), count)
        pair.fence('primary')
        pair.failover('secondary')
        pair.control('ping')
    ctx.note(f'RAM equal at {verified} checkpoints')


@test('/colo/e2e/ram/reset')
def reset(ctx: Context) -> None:
    """Firmware and option ROMs are copied into RAM again."""
    reset_guest(ctx, 20)
