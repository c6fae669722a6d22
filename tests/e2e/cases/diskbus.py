# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated disks on each bus, with each kind of image.

The Debian cloud kernel of the guest has no AHCI; the kernel for all machines
has, and is fetched for the long run only.
"""

from __future__ import annotations

from typing import Any

from colo import disks, guest

from .disks import kill_rounds
from .registry import Context, Skip, test

BUSES: dict[str, dict[str, Any]] = {
    'virtio-blk': {},
    'virtio-blk-iothread': {'bus': 'virtio-blk', 'iothread': True},
    'virtio-scsi': {'bus': 'virtio-scsi'},
    'ide': {'bus': 'ide'},
    'ahci': {'bus': 'ahci'},
}
QUICK = {('virtio-scsi', 'qcow2'), ('ide', 'luks')}
ROUNDS_LONG = 2


def kills(ctx: Context, layout: disks.Disks) -> None:
    """The survivor of either side has the disk as it was; RAM and disks are
    equal at checkpoints."""
    changes: dict[str, Any] = {}
    if layout.bus == 'ahci':
        try:
            changes['image'] = guest.build(kernel='generic')
        except guest.GuestError as err:
            raise Skip(f'no kernel with AHCI: {err}') from None
    if not ctx.long:
        kill_rounds(ctx, 'primary', layout, 1, **changes)
        return
    for mode in ('periodic', 'hybrid'):
        for victim in ('primary', 'secondary'):
            kill_rounds(ctx, victim, layout, ROUNDS_LONG, mode=mode, **changes)


def add_test(bus: str, kind: str) -> None:
    layout = disks.Disks(kind=kind, **BUSES[bus])

    @test(f'/colo/e2e/disk/bus/{bus}/{kind}',
          long_only=(bus, kind) not in QUICK,
          kernel='generic' if bus == 'ahci' else None)
    def run(ctx: Context) -> None:
        kills(ctx, layout)


for _bus in BUSES:
    for _kind in disks.KINDS:
        add_test(_bus, _kind)
