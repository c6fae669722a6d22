# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables as text."""

from __future__ import annotations

from typing import Any, Callable

from .disk import LOG_MIB, PLACES, TESTS
from .measure import NET_TESTS, Cell
from .variants import VARIANTS, Variant

MIB = 1 << 20
TITLES = {
    'echo': 'request/response, 64 bytes, one at a time',
    'bulk-out': 'bulk out of the guest',
    'bulk-in': 'bulk into the guest',
    'http-small': 'HTTP, 6 bytes, 4 connections',
    'http-64k': 'HTTP, 64 KiB, 4 connections',
    'http-connect': 'HTTP, 6 bytes, 4 at a time, a connection each',
    'https-64k': 'HTTPS, 64 KiB, 4 connections',
    'https-connect': 'HTTPS, 6 bytes, 4 at a time, a handshake each',
    'ask': 'the guest asks (UDP), each 100 ms, a port each',
}


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return '-'
    for limit, digits in ((100, 0), (10, 1)):
        if abs(value) >= limit:
            return f'{value:.{digits}f}'
    return f'{value:.2f}'


def label(variant: Variant) -> str:
    return f'{variant.title} ({variant.mode})' if variant.mode \
        else variant.title


def name(cell: Cell) -> str:
    """What was measured."""
    if cell['kind'] == 'pause':
        return f'{cell["dirty_mib"]} MiB'
    if cell['kind'] == 'disk':
        return f'{cell["test"]} ({cell["place"]})'
    return str(cell['test'])


def find_all(cells: list[Cell], **wanted: Any) -> list[Cell]:
    """Those that have all of @wanted, one for each round, the slowest first;
    without those that failed, if not all did."""
    found = [cell for cell in cells if all(
        cell.get(key) == value for key, value in wanted.items())]
    good = [cell for cell in found if cell['state'] == 'ok']
    return sorted(good or found, key=lambda cell: cell.get('mb_per_s', 0.0))


def find(cells: list[Cell], **wanted: Any) -> Cell | None:
    """The cell that has all of @wanted, in the median round, or the slower one
    of the two in the middle."""
    found = find_all(cells, **wanted)
    return found[(len(found) - 1) // 2] if found else None


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Columns as wide as need be, the first to the left."""
    widths = [max(len(row[i]) for row in [head, *rows])
              for i in range(len(head))]
    lines = []
    for row in [head, ['-' * width for width in widths], *rows]:
        lines.append('  '.join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths))).rstrip())
    return lines


def _triple(cell: Cell, key: str) -> list[str]:
    values = cell.get(key, {})
    return [number(values.get(name)) for name in ('p50', 'p99', 'max')]


def _pad(first: str, state: str, columns: int) -> list[str]:
    """The row of a cell that has no numbers."""
    return [first, state, *[''] * (columns - 2)]


def _mib(value: float | None) -> str:
    return number(None if value is None else value / MIB)


PAUSE_HEAD = ['', 'pause p50', 'p99', 'max', 'count', 'MiB/checkpoint',
              'RAM used', 'secondary', 'its peak', 'work']


def _pause_row(variant: Variant, cell: Cell, alone: Cell | None) -> list[str]:
    if cell['state'] != 'ok':
        return _pad(label(variant), cell['state'], len(PAUSE_HEAD))
    secondary = cell.get('secondary_kib', {})
    rounds = cell.get('rounds_per_s')
    base = (alone or {}).get('rounds_per_s')
    guest = cell['guest_kib'] / 1024
    return [label(variant), *_triple(cell, 'pause_ms'),
            str(cell.get('checkpoints', '-')),
            _mib(cell.get('link_bytes_per_checkpoint')), f'{guest:.0f}',
            *(f'{secondary[name] / 1024:.0f}' if secondary else '-'
              for name in ('now', 'peak')),
            '-' if not rounds or not base else f'{100 * rounds / base:.0f} %']


def pause(cells: list[Cell], shown: list[Variant], sizes: tuple[int, ...],
          delay_ms: int) -> list[str]:
    """One block for each size of the rewritten memory."""
    lines = [f'PAUSES of the guest in ms, a checkpoint every {delay_ms} ms',
             '',
             'From the STOP to the RESUME event of the primary\'s monitor.  '
             'MiB/checkpoint: on the',
             'wire between the hosts, both ways.  RAM used: MiB resident of '
             'the primary\'s QEMU',
             'before it is protected; secondary: of the secondary\'s QEMU, at '
             'the end and at its',
             'peak.  Work: rewrites that the guest got done, against alone.']
    for size in sizes:
        rows = []
        alone = find(cells, kind='pause', variant='alone', dirty_mib=size)
        for variant in shown:
            cell = find(cells, kind='pause', variant=variant.key,
                        dirty_mib=size)
            if cell and (variant.protected or cell['state'] != 'ok'):
                rows.append(_pause_row(variant, cell, alone))
        what = f'a guest that rewrites {size} MiB every 100 ms' if size \
            else 'an idle guest'
        lines += ['', f'{what}:', *_table(PAUSE_HEAD, rows)]
        if alone and alone.get('rounds_per_s'):
            lines.append(f'(alone it gets {alone["rounds_per_s"]:.1f} of 10 '
                         'rewrites done a second)')
        lines += _ratios(cells, size)
    return lines


def _ratios(cells: list[Cell], size: int) -> list[str]:
    lines = []
    for mine in VARIANTS:
        ours = find(cells, kind='pause', variant=mine.key, dirty_mib=size)
        if mine.kind != 'ours' or not ours or ours['state'] != 'ok':
            continue
        for variant in VARIANTS:
            cell = find(cells, kind='pause', variant=variant.key,
                        dirty_mib=size)
            if variant.kind != 'stock' or not cell or cell['state'] != 'ok':
                continue
            ratios = {name: cell['pause_ms'][name] / ours['pause_ms'][name]
                      for name in ('p50', 'p99')}
            lines.append(f'{label(variant)} / {label(mine)}: '
                         f'p50 {ratios["p50"]:.1f}, p99 {ratios["p99"]:.1f}')
    return lines


def own(cells: list[Cell], sizes: tuple[int, ...]) -> list[str]:
    """What our query-colo-status says of the same sessions."""
    head = ['', 'MiB rewritten', 'pause p50', 'p99', 'max', 'commit p50',
            'p99', 'max', 'MiB/checkpoint', 'equal pages', 'staging peak MiB',
            'overflows']
    rows = []
    for variant in VARIANTS:
        for size in sizes:
            cell = find(cells, kind='pause', variant=variant.key,
                        dirty_mib=size)
            if cell and 'own_pause_ms' in cell:
                rows.append([label(variant), str(size),
                             *_triple(cell, 'own_pause_ms'),
                             *_triple(cell, 'own_commit_ms'),
                             _mib(cell.get('own_bytes_per_checkpoint')),
                             f'{100 * cell["equal_share"]:.0f} %',
                             _mib(cell.get('staging_peak_bytes')),
                             str(cell['staging_overflows'])])
    if not rows:
        return []
    return ['', 'Ours by its own count (query-colo-status, whole sessions, '
            'ms):', *_table(head, rows)]


def _share(cell: Cell, alone: Cell | None, key: str) -> str:
    if not alone or not alone.get(key) or key not in cell:
        return ''
    return f'{100 * cell[key] / alone[key]:.0f} %'


def _latency_row(variant: Variant, cell: Cell,
                 alone: Cell | None) -> list[str]:
    return [label(variant), number(cell.get('per_second')),
            _share(cell, alone, 'per_second'), *_triple(cell, 'latency_ms'),
            number(cell.get('cpu_us_each')), *_checkpoints(cell)]


def _bulk_row(variant: Variant, cell: Cell, alone: Cell | None) -> list[str]:
    return [label(variant), number(cell.get('mb_per_s')),
            _share(cell, alone, 'mb_per_s'),
            number(cell.get('longest_gap_ms')),
            number(cell.get('cpu_us_each')), *_checkpoints(cell)]


def _checkpoints(cell: Cell) -> list[str]:
    if 'checkpoints' not in cell:
        return ['-'] * len(CHECKPOINTS_HEAD)
    share = cell.get('in_checkpoints')
    commit = cell.get('own_commit_ms', {})
    return [str(cell['checkpoints']),
            '-' if share is None else f'{100 * share:.1f} %',
            number(cell.get('pause_ms', {}).get('p50')),
            number(commit.get('p50')), number(commit.get('p99'))]


CHECKPOINTS_HEAD = ['checkpoints', 'in checkpoints', 'pause p50', 'commit p50',
                    'p99']
LATENCY_HEAD = ['', 'per s', 'of alone', 'p50 ms', 'p99', 'max',
                'CPU us per request', *CHECKPOINTS_HEAD]
BULK_HEAD = ['', 'MB/s', 'of alone', 'longest gap ms', 'CPU us per MB',
             *CHECKPOINTS_HEAD]


def network(cells: list[Cell], shown: list[Variant]) -> list[str]:
    """One block for each kind of client."""
    delays = ', '.join(f'{variant.title} {variant.default_delay}'
                       for variant in shown if variant.protected)
    lines = ['CLIENTS, checkpoints at the modes\' own delays: '
             f'{delays or "none"}',
             '',
             'CPU: of the QEMUs of both hosts, their guests included.  In '
             'checkpoints: of the time,',
             'from the request for one until the secondary has loaded it; '
             'the guest stands still for',
             'the pause only.  HTTPS is that of nginx; HTTP that of a server '
             'of ours.']
    for test, mode, _ in NET_TESTS:
        head, make = (BULK_HEAD, _bulk_row) if mode.startswith('bulk') else \
            (LATENCY_HEAD, _latency_row)
        rows = _network_rows(cells, shown, test, head, make)
        if rows:
            lines += ['', f'{TITLES[test]}:', *_table(head, rows)]
    return lines


def _network_rows(cells: list[Cell], shown: list[Variant], test: str,
                  head: list[str],
                  make: Callable[[Variant, Cell, Cell | None], list[str]]
                  ) -> list[list[str]]:
    alone = find(cells, kind='net', variant='alone', test=test)
    rows = []
    for variant in shown:
        cell = find(cells, kind='net', variant=variant.key, test=test)
        if not cell:
            continue
        if cell['state'] == 'ok':
            rows.append(make(variant, cell, alone))
        else:
            rows.append(_pad(label(variant), cell['state'], len(head)))
    return rows


DISK_HEAD = ['', 'per s', 'MB/s', 'lowest', 'highest', 'of alone',
             'longest ms', 'CPUs idle', 'device MB/s', 'checkpoints',
             'MiB each', 'pause p50', 'stood', 'commit p50', 'log peak MiB',
             'waited s']


def _disk_row(variant: Variant, cells: list[Cell], cell: Cell,
              alone: Cell | None) -> list[str]:
    """@cell is that of the median round of @cells."""
    if cell['state'] != 'ok':
        return _pad(label(variant), cell['state'], len(DISK_HEAD))
    stood = cell.get('stood')
    return [label(variant), number(cell['per_second']),
            number(cell['mb_per_s']),
            *(number(each.get('mb_per_s')) for each in (cells[0], cells[-1])),
            _share(cell, alone, 'mb_per_s'), number(cell['longest_ms']),
            f'{100 * cell["idle"]:.0f} %', number(cell.get('device_mb_per_s')),
            str(cell.get('checkpoints', '-')),
            number(cell.get('mib_per_checkpoint')),
            number(cell.get('pause_ms', {}).get('p50')),
            '-' if stood is None else f'{100 * stood:.0f} %',
            number(cell.get('own_commit_ms', {}).get('p50')),
            number(cell.get('log_peak_mib')),
            number(cell.get('throttled_s'))]


def disk(cells: list[Cell], shown: list[Variant],
         places: tuple[str, ...]) -> list[str]:
    """One block for each load and place."""
    lines = ['DISKS, checkpoints at the modes\' own delays', '',
             'The guest writes past its cache.  MiB each: written from one '
             'checkpoint to the next.',
             'Log: what waits to be sent, at its highest so far, of '
             f'{LOG_MIB}; waited: added up for all',
             'writes.  Bursts fit into the log, and the guest rests after '
             'each; their speed counts',
             'the pauses and not the rests.  Longest: of single writes, by '
             'the guest\'s clock.',
             'Images in memory are on a tmpfs; those on a disk are opened '
             'with O_DIRECT.  Where both',
             'hosts share that disk, what the secondary writes slows it down '
             'for the primary.',
             'CPUs idle: of all of this machine, both hosts\'; device: what '
             'the disk of the images',
             'wrote, for both hosts and whoever else uses it.  Those two tell '
             'what bounds a guest',
             'that does not rest.',
             'Of several rounds the rows are those of the median one; lowest, '
             'highest: MB/s of all.']
    for place in places:
        for test in TESTS:
            rows = []
            alone = find(cells, kind='disk', variant='alone', test=test.name,
                         place=place)
            for variant in shown:
                wanted = {'kind': 'disk', 'variant': variant.key,
                          'test': test.name, 'place': place}
                cell = find(cells, **wanted)
                if cell:
                    rows.append(_disk_row(variant, find_all(cells, **wanted),
                                          cell, alone))
            if rows:
                lines += ['', f'{test.title}; {PLACES[place]}:',
                          *_table(DISK_HEAD, rows)]
    return lines


def troubles(cells: list[Cell]) -> list[str]:
    """What the words 'hung' and 'failed' in the tables stand for."""
    lines = []
    for cell in cells:
        if cell['state'] != 'ok':
            lines.append(f'{cell["variant"]}, {name(cell)}: {cell["state"]}: '
                         f'{cell["why"]}')
    return ['', 'What did not work:', *lines] if lines else []
