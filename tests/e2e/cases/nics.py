# SPDX-License-Identifier: GPL-2.0-or-later
"""Hybrid mode with several NICs, and with NICs that are not virtio.

The Debian cloud kernel of the guest has virtio_net and vmxnet3 of what QEMU
can be; the others need the kernel for all machines, which is fetched for the
long run only.
"""

from __future__ import annotations

import functools
import time
from typing import Sequence

from colo import guest, net, vm

from .hybrid import (CLIENTS, EQUAL, EQUAL_DELAY_MS, SERVED_PACKETS,
                     SERVED_SECONDS)
from .kill import CHECKPOINTS_SECONDS, DATAGRAMS, Mode, kill_rounds
from .registry import Context, Skip, check, check_intact, test, wait_for

QUICK = 1                   # kills, if not many
# The guest sends on each of them, and most of what it says is the same
SECOND = {'host': net.guest_address(1)}
BOTH: Sequence[Mode] = (
    ('ticker', {}), ('http', {'path': '/64k', 'connections': 2}),
    ('http', {'path': '/64k', 'connections': 2, **SECOND}),
    ('echo', {'interval': 5, **SECOND}), ('udp', {}), ('udp', SECOND),
    ('ping6', {'host': net.guest_address6(1)}))


@test('/colo/e2e/hybrid/nics/kill-primary')
def kill_primary(ctx: Context) -> None:
    """Two NICs, each with its own colo-compare: clients on both notice
    nothing."""
    kill_rounds(ctx, 'primary', BOTH, QUICK, mode='hybrid', nics=2)


@test('/colo/e2e/hybrid/nics/kill-secondary')
def kill_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', BOTH, QUICK, mode='hybrid', nics=2)


def released(pair: vm.Pair, nic: int, goal: int) -> bool:
    return pair.compared(nic)['released-equal'] > goal


@test('/colo/e2e/hybrid/nics/equal')
def equal(ctx: Context) -> None:
    """What both guests say leaves on either NIC without checkpoints, and goes
    by the colo-compare of that NIC."""
    with ctx.pair(mode='hybrid', memory='256', nics=2, **EQUAL) as pair:
        ctx.protected(pair, x_checkpoint_delay=EQUAL_DELAY_MS)
        seen = []
        for nic in range(2):
            before = [pair.compared(i) for i in range(2)]
            clients = [pair.client('http', path='/64k', connections=2,
                                   host=net.guest_address(nic)),
                       pair.client('udp', host=net.guest_address(nic))]
            goal = before[nic]['released-equal'] + SERVED_PACKETS
            time.sleep(SERVED_SECONDS)
            wait_for(f'equal packets on NIC {nic}', functools.partial(
                released, pair, nic, goal), CHECKPOINTS_SECONDS)
            for running in clients:
                check_intact(running)
            equal_packets = [pair.compared(i)['released-equal'] -
                             before[i]['released-equal'] for i in range(2)]
            committed = (pair.compared(nic)['released-commit'] -
                         before[nic]['released-commit'])
            check(equal_packets[nic] > 100 * equal_packets[1 - nic],
                  f'NIC {nic} was used: {equal_packets}')
            check(equal_packets[nic] > 10 * committed,
                  f'NIC {nic}: {equal_packets[nic]} were equal, {committed} '
                  'waited for a commit')
            seen.append(equal_packets[nic])
        checkpoints = pair.vm('primary').status().checkpoints
    ctx.note(f'{seen} packets were equal, {checkpoints} checkpoints')


@test('/colo/e2e/hybrid/vmxnet3/kill-primary')
def vmxnet3_primary(ctx: Context) -> None:
    """A NIC that makes its guest wait by other means than virtio's."""
    kill_rounds(ctx, 'primary', CLIENTS, QUICK, mode='hybrid',
                nic_model='vmxnet3')


@test('/colo/e2e/hybrid/vmxnet3/kill-secondary')
def vmxnet3_secondary(ctx: Context) -> None:
    kill_rounds(ctx, 'secondary', CLIENTS, QUICK, mode='hybrid',
                nic_model='vmxnet3')


@test('/colo/e2e/vmxnet3/kill-primary')
def vmxnet3_periodic(ctx: Context) -> None:
    kill_rounds(ctx, 'primary', (('ticker', {}), *DATAGRAMS), QUICK,
                nic_model='vmxnet3')


def emulated(ctx: Context, model: str, victim: str) -> None:
    """A NIC that has no other way to make its guest wait than to be slow."""
    try:
        image = guest.build(kernel='generic')
    except guest.GuestError as err:
        raise Skip(f'no kernel with {model}: {err}') from None
    kill_rounds(ctx, victim, CLIENTS, mode='hybrid', nic_model=model,
                image=image)


@test('/colo/e2e/hybrid/e1000/kill-primary', long_only=True,
      kernel='generic')
def e1000_primary(ctx: Context) -> None:
    emulated(ctx, 'e1000', 'primary')


@test('/colo/e2e/hybrid/e1000/kill-secondary', long_only=True,
      kernel='generic')
def e1000_secondary(ctx: Context) -> None:
    emulated(ctx, 'e1000', 'secondary')


@test('/colo/e2e/hybrid/e1000e/kill-primary', long_only=True,
      kernel='generic')
def e1000e_primary(ctx: Context) -> None:
    emulated(ctx, 'e1000e', 'primary')


@test('/colo/e2e/hybrid/rtl8139/kill-primary', long_only=True,
      kernel='generic')
def rtl8139_primary(ctx: Context) -> None:
    emulated(ctx, 'rtl8139', 'primary')


@test('/colo/e2e/hybrid/rtl8139/kill-secondary', long_only=True,
      kernel='generic')
def rtl8139_secondary(ctx: Context) -> None:
    emulated(ctx, 'rtl8139', 'secondary')
