# SPDX-License-Identifier: GPL-2.0-or-later
"""What is compared, and how each is started.

Stock COLO is set up as QEMU's documentation for its users says, by the same
commands and with the same objects as when a guest that runs alone gets a new
secondary.  Its block replication is set up likewise: quorum, replication and an
NBD export, which have the same options as ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from colo import disks, net, product, vm

NODELAY = 'COLO_BENCH_NODELAY'      # see stock-patches/
PROTECT_SECONDS = 60.0
FIRST_SECONDS = 30.0                # for the first checkpoint of a session
BANDWIDTH = 10 << 30                # bytes/s: no limit that could be felt
MIRROR_PORT = 9003
COMPARE_PORT = 9004


@dataclass(frozen=True)
class Machine(vm.Machine):
    """A machine whose tap has a fixed kind of header."""
    offload: bool = False
    environment: tuple[str, ...] = ()
    tool_directory: Path | None = None  # if it is not that of the binary

    @property
    def tools(self) -> Path:
        return self.tool_directory or super().tools

    def argv(self) -> list[str]:
        args = super().argv()
        at = args.index('-netdev') + 1
        args[at] += f',vnet_hdr={"on" if self.offload else "off"}'
        if self.environment:
            args = ['env', *self.environment, *args]
        return args


@dataclass(frozen=True)
class Variant:
    """One row of the tables."""
    key: str
    title: str
    kind: str               # 'alone', 'stock' or 'ours'
    mode: str               # '', 'hybrid' or 'periodic'
    default_delay: str
    color: str
    nodelay: bool = False

    @property
    def protected(self) -> bool:
        return self.kind != 'alone'


VARIANTS = (
    Variant('alone', 'alone', 'alone', '', '', '#8a8f98'),
    Variant('stock', 'stock', 'stock', 'hybrid', '20 s', '#c8552b'),
    Variant('stock-nodelay', 'stock, no Nagle', 'stock', 'hybrid', '20 s',
            '#e8a33d', nodelay=True),
    Variant('hybrid', 'ours', 'ours', 'hybrid', '20 s', '#2f6fb0'),
    Variant('periodic', 'ours', 'ours', 'periodic', '25 ms', '#58a182'),
)


def can_mend(binary: Path) -> bool:
    """Whether this stock QEMU was built with the patch for NODELAY."""
    needle = NODELAY.encode('ascii')
    before = b''
    with open(binary, 'rb') as file:
        while data := file.read(1 << 22):
            if needle in before + data:
                return True
            before = data[-len(needle):]
    return False


def make_pair(hosts: net.Hosts, variant: Variant, machine: Machine,
              run: Path) -> BenchPair:
    """@machine has the binary; the rest is that of the variant."""
    kind = {'alone': AlonePair, 'stock': StockPair, 'ours': OurPair}
    environment = (f'{NODELAY}=1',) if variant.nodelay else ()
    machine = replace(machine, gate=variant.kind == 'ours',
                      mode=variant.mode or 'periodic',
                      environment=environment)
    return kind[variant.kind](hosts, machine, run)


class BenchPair(vm.Pair):
    """A pair that can be protected at a given delay."""

    def protect_at(self, delay_ms: int | None) -> None:
        """Start a secondary and protect; None is the mode's own delay."""
        raise NotImplementedError

    def own_statistics(self) -> dict[str, Any]:
        """Those of query-colo-status, if there are any."""
        return {}

    def own_compare(self) -> list[dict[str, Any]]:
        """What compares, of query-colo-status."""
        return []


class AlonePair(BenchPair):
    """No secondary: what the others are measured against."""

    def protect_at(self, delay_ms: int | None) -> None:
        pass


class OurPair(BenchPair):
    """Output held by filter-output-commit, or compared by colo-compare."""

    def protect_at(self, delay_ms: int | None) -> None:
        self.start_secondary()
        known = self.vm('primary').monitor.execute('query-migrate-parameters')
        # What a pause is measured by; QEMUs without it have the events anyway
        events = ({'x_colo_cut_events': True}
                  if 'x-colo-cut-events' in known else {})
        self.protect(PROTECT_SECONDS, x_checkpoint_delay=delay_ms or 0,
                     max_bandwidth=BANDWIDTH, **events)

    def own_statistics(self) -> dict[str, Any]:
        status = self.vm('primary').status()
        return {**status.statistics, 'disks': status.raw.get('disks')}

    def own_compare(self) -> list[dict[str, Any]]:
        return list(self.vm('primary').status().raw.get('compare', []))


def _socket(host: str, port: int, server: bool) -> dict[str, Any]:
    """A backend for chardev-add."""
    data: dict[str, Any] = {
        'addr': {'type': 'inet', 'data': {'host': host, 'port': str(port)}},
        'server': server}
    if server:
        data['wait'] = False
    return {'type': 'socket', 'data': data}


class StockPair(BenchPair):
    """QEMU's own COLO, which is always hybrid."""

    def _machine(self) -> Machine:
        assert isinstance(self.machine, Machine)
        return self.machine

    def _header(self) -> dict[str, Any]:
        return {'vnet_hdr_support': True} if self._machine().offload else {}

    def _open_streams(self) -> None:
        """The primary's sockets, to which the secondary connects."""
        monitor = self.vm('primary').monitor
        address = net.LINK_ADDRESS['a']
        local = '127.0.0.1'
        for name, host, port, server in (
                ('mirror0', address, MIRROR_PORT, True),
                ('compare1', address, COMPARE_PORT, True),
                ('compare0', local, 9001, True),
                ('compare0-0', local, 9001, False),
                ('compare_out', local, 9005, True),
                ('compare_out0', local, 9005, False)):
            monitor.execute('chardev-add', {
                'id': name, 'backend': _socket(host, port, server)})

    def _secondary_options(self) -> tuple[str, ...]:
        address = net.LINK_ADDRESS['a']
        header = ',vnet_hdr_support=on' if self._machine().offload else ''
        return (
            '-chardev', f'socket,id=red0,host={address},port={MIRROR_PORT}',
            '-chardev', f'socket,id=red1,host={address},port={COMPARE_PORT}',
            '-object', 'filter-redirector,id=f1,netdev=hn0,queue=tx,'
            f'indev=red0{header}',
            '-object', 'filter-redirector,id=f2,netdev=hn0,queue=rx,'
            f'outdev=red1{header}',
            '-object', f'filter-rewriter,id=rew0,netdev=hn0,queue=all{header}')

    def _add_filters(self) -> None:
        """On the primary, which ran without them until now."""
        monitor = self.vm('primary').monitor
        header = self._header()
        for kind, name, options in (
                ('filter-mirror', 'm0',
                 {'netdev': 'hn0', 'queue': 'tx', 'outdev': 'mirror0'}),
                ('filter-redirector', 'redire0',
                 {'netdev': 'hn0', 'queue': 'rx', 'indev': 'compare_out'}),
                ('filter-redirector', 'redire1',
                 {'netdev': 'hn0', 'queue': 'rx', 'outdev': 'compare0'})):
            monitor.execute('object-add', {'qom-type': kind, 'id': name,
                                           **options, **header})
        monitor.execute('object-add', {'qom-type': 'iothread',
                                       'id': 'iothread1'})
        monitor.execute('object-add', {
            'qom-type': 'colo-compare', 'id': 'comp0',
            'primary_in': 'compare0-0', 'secondary_in': 'compare1',
            'outdev': 'compare_out0', 'iothread': 'iothread1', **header})

    def protect_at(self, delay_ms: int | None) -> None:
        self._open_streams()
        primary = self.vm('primary')
        secondary = self.secondary = vm.Vm(
            self.hosts, 'b',
            replace(self._machine(), extra=self._secondary_options()),
            self.run, incoming=True, secondary=True)
        disks.attach(primary, secondary)
        self._add_filters()
        settings: dict[str, Any] = {'max-bandwidth': BANDWIDTH}
        if delay_ms is not None:
            settings[product.PARAMETER_DELAY] = delay_ms
        uri = f'tcp:{net.LINK_ADDRESS["b"]}:{vm.COLO_PORT}'
        for side in (primary, secondary):
            side.monitor.execute('migrate-set-capabilities', {
                'capabilities': [{'capability': product.CAPABILITY,
                                  'state': True}]})
            side.monitor.execute('migrate-set-parameters', settings)
        secondary.monitor.execute('migrate-incoming', {'uri': uri})
        primary.monitor.execute('migrate', {'uri': uri})
        for side in (primary, secondary):
            side.monitor.wait_until(
                'protection', 'query-migrate', 'status', 'colo',
                PROTECT_SECONDS, never=('failed', 'completed', 'cancelled'))
        # It says "colo" before its guest runs again
        primary.wait_run_state('running', FIRST_SECONDS)
