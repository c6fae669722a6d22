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
next to the guest; on any other the filters are the same without it.  Each NIC
has all of them, named as by name(); colo-compares share an iothread.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import net

if TYPE_CHECKING:
    from .vm import Vm

MIRROR_PORT = 9003
COMPARE_PORT = 9004
PORTS = 2           # those of the next NIC are so much higher
PRIMARY_OBJECTS = ('comp0', 'redire1', 'redire0', 'm0')
PRIMARY_CHARDEVS = ('mirror0', 'compare1', 'compare0', 'compare0-0',
                    'compare_out', 'compare_out0')
SECONDARY_OBJECTS = ('f2', 'f1')
SECONDARY_CHARDEVS = ('red0', 'red1')


def _socket(vm: Vm, name: str, address: dict[str, Any], server: bool) -> None:
    data: dict[str, Any] = {'addr': address, 'server': server}
    if address['type'] == 'inet':
        data.update(vm.machine.tls_creds('server' if server else 'client'))
    if server:
        data['wait'] = False
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


def name(base: str, nic: int) -> str:
    """The id of what @base is for the first NIC."""
    return f'{base}.{nic}' if nic else base


class _Primary:
    """The objects of one NIC of a primary."""

    def __init__(self, vm: Vm, run: Path, nic: int) -> None:
        self.vm, self.run, self.nic = vm, run, nic

    def call(self, base: str) -> str:
        this = name(base, self.nic)
        self.vm.proxy.add(this)
        return this

    def filter(self, kind: str, base: str, **options: Any) -> None:
        # Before the rewriter of an earlier life, as seen from the network
        _object(self.vm, kind, self.call(base), netdev=f'hn{self.nic}',
                position='head', insert='behind', **options)

    def listen(self, base: str, port: int) -> None:
        _socket(self.vm, self.call(base),
                _inet(net.LINK_ADDRESS[self.vm.host], port + PORTS * self.nic),
                True)

    def compare(self, options: dict[str, Any]) -> None:
        """filter-compare."""
        self.filter('filter-compare', 'comp0', queue='rx', **{
            'secondary-in': self.call('compare1'), 'vnet-hdr-support': True,
            **{key.replace('_', '-'): value
               for key, value in options.items()}})

    def compare_published(self, options: dict[str, Any]) -> None:
        """colo-compare, and what it needs around it."""
        for base, other in (('compare0', 'compare0-0'),
                            ('compare_out', 'compare_out0')):
            path = self.run / f'{name(base, self.nic)}-{self.vm.host}.sock'
            path.unlink(missing_ok=True)
            _socket(self.vm, self.call(base), _unix(path), True)
            _socket(self.vm, self.call(other), _unix(path), False)
        if 'iothread1' not in self.vm.proxy:
            _object(self.vm, 'iothread', 'iothread1')
            self.vm.proxy.add('iothread1')
        call = self.call
        _object(self.vm, 'colo-compare', call('comp0'),
                primary_in=call('compare0-0'), secondary_in=call('compare1'),
                outdev=call('compare_out0'), iothread='iothread1',
                vnet_hdr_support=True, **options)
        self.filter('filter-redirector', 'redire1', queue='rx',
                    outdev=call('compare0'), vnet_hdr_support=True)
        self.filter('filter-redirector', 'redire0', queue='rx',
                    indev=call('compare_out'), vnet_hdr_support=True)

    def attach(self, published: bool, options: dict[str, Any]) -> None:
        self.listen('mirror0', MIRROR_PORT)
        self.listen('compare1', COMPARE_PORT)
        if published:
            self.compare_published(options)
        else:
            self.compare(options)
        self.filter('filter-mirror', 'm0', queue='tx',
                    outdev=self.call('mirror0'), vnet_hdr_support=True)


def attach_primary(vm: Vm, run: Path, **options: Any) -> None:
    """Make @vm ready to be a primary; @options are those of comp0."""
    if 'comp0' in vm.proxy:
        return
    detach(vm)
    for nic in range(vm.machine.nics):
        _Primary(vm, run, nic).attach(vm.machine.published, options)


def attach_secondary(vm: Vm, primary: Vm) -> None:
    """Make @vm ready to be the secondary of @primary, which is ready."""
    link = net.LINK_ADDRESS[primary.host]
    for nic in range(vm.machine.nics):
        on = {'netdev': f'hn{nic}', 'vnet_hdr_support': True}
        ids = [name(base, nic) for base in
               (*SECONDARY_OBJECTS, *SECONDARY_CHARDEVS, 'rew0')]
        f2, f1, red0, red1, rew0 = ids
        _socket(vm, red0, _inet(link, MIRROR_PORT + PORTS * nic), False)
        _socket(vm, red1, _inet(link, COMPARE_PORT + PORTS * nic), False)
        _object(vm, 'filter-redirector', f1, queue='tx', indev=red0, **on)
        _object(vm, 'filter-redirector', f2, queue='rx', outdev=red1, **on)
        _object(vm, 'filter-rewriter', rew0, queue='all', **on)
        vm.proxy |= set(ids)


def detach(vm: Vm) -> None:
    """After a failover: take away what belonged to the pair, as documented.

    The rewriter stays: connections that it rewrites go on.
    """
    for command, bases in (
            ('object-del', (*PRIMARY_OBJECTS, *SECONDARY_OBJECTS)),
            ('chardev-remove', (*PRIMARY_CHARDEVS, *SECONDARY_CHARDEVS))):
        for nic in range(vm.machine.nics):
            for this in (name(base, nic) for base in bases):
                if this in vm.proxy:
                    vm.monitor.execute(command, {'id': this})
                    vm.proxy.discard(this)
