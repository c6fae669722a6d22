# SPDX-License-Identifier: GPL-2.0-or-later
"""The COLO proxy of hybrid mode, set up through the monitor.

    primary                                    secondary
    netdev -> m0 -> rew0 -> guest              netdev    f1 -> rew0 -> guest
               \\____________________________________________/
    guest -> rew0 -> comp0 -> netdev           guest -> rew0 -> f2
                       ^ compare1                               | red1
                       '----------------------------------------'

comp0 is a filter-compare.  The published set-up has a colo-compare instead, with
two more filters and two sockets within the primary:

    guest -> rew0 -> redire1
                       | compare0
                       comp0 <- compare1
                       | compare_out0
    netdev <- redire0 -'

A primary that was a secondary before has a filter-rewriter (rew0), which stays
next to the guest; on any other the filters are the same without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import net

if TYPE_CHECKING:
    from .vm import Vm

MIRROR_PORT = 9003
COMPARE_PORT = 9004
PRIMARY_OBJECTS = ('comp0', 'redire1', 'redire0', 'm0')
PRIMARY_CHARDEVS = ('mirror0', 'compare1', 'compare0', 'compare0-0',
                    'compare_out', 'compare_out0')
# Before the rewriter of an earlier life, as seen from the network
HEAD = {'position': 'head', 'insert': 'behind'}
SECONDARY_OBJECTS = ('f2', 'f1')
SECONDARY_CHARDEVS = ('red0', 'red1')


def _socket(vm: Vm, name: str, address: dict[str, Any], server: bool) -> None:
    data: dict[str, Any] = {'addr': address, 'server': server}
    if server:
        data['wait'] = False
    if address['type'] == 'inet':
        data['nodelay'] = True
    vm.monitor.execute('chardev-add', {
        'id': name, 'backend': {'type': 'socket', 'data': data}})


def _inet(host: str, port: int) -> dict[str, Any]:
    return {'type': 'inet', 'data': {'host': host, 'port': str(port)}}


def _unix(path: Path) -> dict[str, Any]:
    return {'type': 'unix', 'data': {'path': str(path)}}


def _object(vm: Vm, kind: str, name: str, **options: Any) -> None:
    arguments = {'qom-type': kind, 'id': name}
    arguments.update(options)
    vm.monitor.execute('object-add', arguments)


def _filter(vm: Vm, kind: str, name: str, **options: Any) -> None:
    _object(vm, kind, name, netdev='hn0', vnet_hdr_support=True, **options)


def _attach_published(vm: Vm, run: Path, **compare: Any) -> None:
    """colo-compare and what it needs around it."""
    for name in ('compare0', 'compare_out'):
        path = run / f'{name}-{vm.host}.sock'
        path.unlink(missing_ok=True)
        _socket(vm, name, _unix(path), True)
        _socket(vm, f'{name}-0' if name == 'compare0' else f'{name}0',
                _unix(path), False)
        vm.proxy |= {name, f'{name}-0' if name == 'compare0' else f'{name}0'}
    if 'iothread1' not in vm.proxy:
        _object(vm, 'iothread', 'iothread1')
        vm.proxy.add('iothread1')
    _object(vm, 'colo-compare', 'comp0', primary_in='compare0-0',
            secondary_in='compare1', outdev='compare_out0',
            iothread='iothread1', vnet_hdr_support=True, **compare)
    _filter(vm, 'filter-redirector', 'redire1', queue='rx', outdev='compare0',
            **HEAD)
    _filter(vm, 'filter-redirector', 'redire0', queue='rx',
            indev='compare_out', **HEAD)
    vm.proxy |= {'redire0', 'redire1'}


def attach_primary(vm: Vm, run: Path, published: bool = False,
                   **compare: Any) -> None:
    """Make @vm ready to be a primary; @compare are options of comp0."""
    if 'comp0' in vm.proxy:
        return
    detach(vm)
    link = net.LINK_ADDRESS[vm.host]
    _socket(vm, 'mirror0', _inet(link, MIRROR_PORT), True)
    _socket(vm, 'compare1', _inet(link, COMPARE_PORT), True)
    if published:
        _attach_published(vm, run, **compare)
    else:
        options = {name.replace('_', '-'): value
                   for name, value in compare.items()}
        _object(vm, 'filter-compare', 'comp0', netdev='hn0', queue='rx',
                **HEAD, **{'secondary-in': 'compare1',
                           'vnet-hdr-support': True}, **options)
    _filter(vm, 'filter-mirror', 'm0', queue='tx', outdev='mirror0', **HEAD)
    vm.proxy |= {'comp0', 'm0', 'mirror0', 'compare1'}


def attach_secondary(vm: Vm, primary: Vm) -> None:
    """Make @vm ready to be the secondary of @primary, which is ready."""
    link = net.LINK_ADDRESS[primary.host]
    _socket(vm, 'red0', _inet(link, MIRROR_PORT), False)
    _socket(vm, 'red1', _inet(link, COMPARE_PORT), False)
    _filter(vm, 'filter-redirector', 'f1', queue='tx', indev='red0')
    _filter(vm, 'filter-redirector', 'f2', queue='rx', outdev='red1')
    _filter(vm, 'filter-rewriter', 'rew0', queue='all')
    vm.proxy |= {*SECONDARY_OBJECTS, *SECONDARY_CHARDEVS, 'rew0'}


def detach(vm: Vm) -> None:
    """After a failover: take away what belonged to the pair, as documented.

    The rewriter stays: connections that it rewrites go on.
    """
    for name in (*PRIMARY_OBJECTS, *SECONDARY_OBJECTS):
        if name in vm.proxy:
            vm.monitor.execute('object-del', {'id': name})
            vm.proxy.discard(name)
    for name in (*PRIMARY_CHARDEVS, *SECONDARY_CHARDEVS):
        if name in vm.proxy:
            vm.monitor.execute('chardev-remove', {'id': name})
            vm.proxy.discard(name)
