# SPDX-License-Identifier: GPL-2.0-or-later
"""Heartbeats over a link of their own, set up through the monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import net

if TYPE_CHECKING:
    from .vm import Vm

PORT = 9010
NAME = 'hb0'
CHARDEV = 'hb-0'
LISTENER = 'a'      # always that host: sides change
RECONNECT_MS = 100


def _chardev(vm: Vm) -> dict[str, Any]:
    data: dict[str, Any] = {'addr': {'type': 'inet', 'data': {
        'host': net.BEAT_ADDRESS[LISTENER], 'port': str(PORT)}}}
    if vm.host == LISTENER:
        data.update(server=True, wait=False, **vm.machine.tls_creds('server'))
    else:
        data.update(server=False, **{'reconnect-ms': RECONNECT_MS},
                    **vm.machine.tls_creds('client'))
    return {'id': CHARDEV, 'backend': {'type': 'socket', 'data': data}}


def attach(vm: Vm, **options: Any) -> None:
    """@options: of the object, with _ for - (e.g. timeout=500)."""
    detach(vm)
    vm.monitor.execute('chardev-add', _chardev(vm))
    vm.monitor.execute('object-add', {
        'qom-type': 'colo-heartbeat', 'id': NAME, 'chardevs': [CHARDEV],
        **{key.replace('_', '-'): value for key, value in options.items()}})
    vm.beats = True


def detach(vm: Vm) -> None:
    if vm.beats:
        vm.monitor.execute('object-del', {'id': NAME})
        vm.monitor.execute('chardev-remove', {'id': CHARDEV})
        vm.beats = False
