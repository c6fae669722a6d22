# SPDX-License-Identifier: GPL-2.0-or-later
"""The same as SVG, written by hand: pauses, latencies, throughput."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Callable

from .disk import PLACES, TESTS
from .measure import Cell
from .report import find, label, number
from .variants import Variant

WIDTH = 960
PANEL = 250
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 40
HEAD = 70
FONT = 'font-family="sans-serif"'


@dataclass(frozen=True)
class Bar:
    """A bar up to @value, and a whisker from there to @high."""
    value: float | None
    high: float | None
    state: str      # 'ok', or what is written where the bar is missing


@dataclass(frozen=True)
class Scale:
    """Values to pixels above the foot of a panel."""
    low: float
    high: float
    log: bool

    def at(self, value: float) -> float:
        height = PANEL - TOP - BOTTOM
        if not self.log:
            return height * value / self.high
        value = max(value, self.low)
        return (height * math.log(value / self.low)
                / math.log(self.high / self.low))

    def ticks(self) -> list[float]:
        if self.log:
            first = round(math.log10(self.low))
            last = round(math.log10(self.high))
            return [10.0 ** power for power in range(first, last + 1)]
        return [self.high * part / 4 for part in range(5)]


def _text(x: float, y: float, text: str, size: int = 12,
          anchor: str = 'middle', extra: str = '') -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
            f'text-anchor="{anchor}" {FONT} {extra}>{escape(text)}</text>')


def _scale(bars: list[Bar], log: bool) -> Scale:
    values = [value for bar in bars for value in (bar.value, bar.high)
              if value]
    if not values:
        return Scale(1, 10, log)
    if not log:
        return Scale(0, max(100.0, math.ceil(max(values) / 20) * 20), False)
    low = 10.0 ** math.floor(math.log10(min(values)) - 0.01)
    high = 10.0 ** math.ceil(math.log10(max(values)))
    return Scale(low, max(high, low * 10), True)


def _axis(scale: Scale, top: float, title: str, unit: str) -> list[str]:
    foot = top + PANEL - BOTTOM
    parts = [_text(LEFT, top + 20, title, 14, 'start',
                   'font-weight="bold"')]
    for tick in scale.ticks():
        y = foot - scale.at(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
                     f'y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 6, y + 4, f'{tick:g} {unit}', 11, 'end'))
    return parts


def _bar(bar: Bar, scale: Scale, x: float, width: float, foot: float,
         color: str) -> list[str]:
    middle = x + width / 2
    if bar.value is None:
        return [_text(middle, foot - 6, bar.state, 10, 'start',
                      f'fill="{color}" transform="rotate(-90 {middle:.1f} '
                      f'{foot - 6:.1f})"')]
    height = max(scale.at(bar.value), 1)
    parts = [f'<rect x="{x:.1f}" y="{foot - height:.1f}" '
             f'width="{width:.1f}" height="{height:.1f}" fill="{color}"/>']
    peak = foot - height
    if bar.high is not None:
        peak = foot - scale.at(bar.high)
        parts.append(f'<path d="M{middle:.1f} {foot - height:.1f}V{peak:.1f}'
                     f'M{middle - 6:.1f} {peak:.1f}h12" stroke="#333" '
                     'fill="none"/>')
    parts.append(_text(middle, peak - 4, number(bar.value), 10))
    return parts


def _panel(top: float, title: str, unit: str, log: bool,
           groups: list[tuple[str, list[tuple[Variant, Bar]]]]) -> list[str]:
    scale = _scale([bar for _, bars in groups for _, bar in bars], log)
    parts = _axis(scale, top, title, unit)
    foot = top + PANEL - BOTTOM
    room = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    for index, (name, bars) in enumerate(groups):
        begin = LEFT + room * index
        width = min(room * 0.8 / max(len(bars), 1), 48)
        x = begin + (room - width * len(bars)) / 2
        for variant, bar in bars:
            parts += _bar(bar, scale, x + width * 0.08, width * 0.84, foot,
                          variant.color)
            x += width
        parts.append(_text(begin + room / 2, foot + 18, name))
    return parts


def _group(cells: list[Cell], shown: list[Variant],
           make: Callable[[Cell], Bar], **wanted: object
           ) -> list[tuple[Variant, Bar]]:
    bars = []
    for variant in shown:
        cell = find(cells, variant=variant.key, **wanted)
        if cell:
            ok = cell['state'] == 'ok'
            bars.append((variant,
                         make(cell) if ok else Bar(None, None, cell['state'])))
    return bars


def _spread(key: str) -> Callable[[Cell], Bar]:
    def make(cell: Cell) -> Bar:
        values = cell.get(key, {})
        return Bar(values.get('p50'), values.get('p99'), '')
    return make


def _relative(cells: list[Cell], test: str, key: str
              ) -> Callable[[Cell], Bar]:
    def make(cell: Cell) -> Bar:
        alone = find(cells, kind='net', variant='alone', test=test)
        if not alone or not alone.get(key) or key not in cell:
            return Bar(None, None, '')
        return Bar(100 * cell[key] / alone[key], None, '')
    return make


def _disk_share(cells: list[Cell], test: str, place: str
                ) -> Callable[[Cell], Bar]:
    def make(cell: Cell) -> Bar:
        alone = find(cells, kind='disk', variant='alone', test=test,
                     place=place)
        if not alone or not alone.get('mb_per_s'):
            return Bar(None, None, '')
        return Bar(100 * cell['mb_per_s'] / alone['mb_per_s'], None, '')
    return make


def _panels(cells: list[Cell], shown: list[Variant], delay_ms: int,
            sizes: tuple[int, ...]) -> list[list[str]]:
    protected = [variant for variant in shown if variant.protected]
    panels: list[list[str]] = []
    net_tests = {cell['test'] for cell in cells if cell['kind'] == 'net'}

    def top() -> float:
        return HEAD + PANEL * len(panels)

    if any(cell['kind'] == 'pause' for cell in cells):
        panels.append(_panel(
            top(), f'Pause of the guest, a checkpoint every {delay_ms} ms: '
            'p50, whisker to p99', 'ms', True,
            [(f'{size} MiB rewritten every 100 ms' if size else 'idle guest',
              _group(cells, protected, _spread('pause_ms'), kind='pause',
                     dirty_mib=size)) for size in sizes]))
    for place, where in PLACES.items():
        if any(cell.get('place') == place for cell in cells):
            panels.append(_panel(
                top(), f'Writes to a disk, {where}, of that alone', '%', False,
                [(test.name, _group(cells, protected, _disk_share(
                    cells, test.name, place), kind='disk', test=test.name,
                    place=place)) for test in TESTS]))
    if net_tests:
        panels.append(_panel(
            top(), 'Latency at the modes\' own delays: p50, whisker to p99',
            'ms', True,
            [(name, _group(cells, shown, _spread('latency_ms'), kind='net',
                           test=test))
             for test, name in (('echo', '64 bytes, one at a time'),
                                ('http-small', 'HTTP 6 bytes'),
                                ('http-64k', 'HTTP 64 KiB'),
                                ('http-connect', 'HTTP, connects'),
                                ('https-64k', 'HTTPS 64 KiB'),
                                ('https-connect', 'HTTPS, connects'),
                                ('ask', 'UDP, guest asks'))
             if test in net_tests]))
        panels.append(_panel(
            top(), 'Requests/s and MB/s at the modes\' own delays, of those '
            'alone',
            '%', False,
            [(name, _group(cells, protected, _relative(cells, test, key),
                           kind='net', test=test))
             for test, key, name in (
                 ('echo', 'per_second', '64 bytes'),
                 ('bulk-out', 'mb_per_s', 'bulk out'),
                 ('bulk-in', 'mb_per_s', 'bulk in'),
                 ('http-small', 'per_second', 'HTTP 6 bytes'),
                 ('http-64k', 'per_second', 'HTTP 64 KiB'),
                 ('http-connect', 'per_second', 'HTTP, connects'),
                 ('https-64k', 'per_second', 'HTTPS 64 KiB'),
                 ('https-connect', 'per_second', 'HTTPS, connects'),
                 ('ask', 'per_second', 'UDP, guest asks'))
             if test in net_tests]))
    return panels


def svg(cells: list[Cell], shown: list[Variant], delay_ms: int,
        sizes: tuple[int, ...], subtitle: str) -> str:
    panels = _panels(cells, shown, delay_ms, sizes)
    height = HEAD + PANEL * len(panels)
    parts = ['<?xml version="1.0" encoding="UTF-8"?>',
             '<!-- SPDX-License-Identifier: GPL-2.0-or-later -->',
             f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
             f'height="{height}" viewBox="0 0 {WIDTH} {height}">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>']
    x = float(LEFT)
    for variant in shown:
        text = label(variant)
        parts.append(f'<rect x="{x:.1f}" y="14" width="14" height="14" '
                     f'fill="{variant.color}"/>')
        parts.append(_text(x + 20, 26, text, 13, 'start'))
        x += 50 + 7.5 * len(text)
    parts.append(_text(LEFT, 50, subtitle, 12, 'start', 'fill="#555"'))
    for panel in panels:
        parts += panel
    return '\n'.join([*parts, '</svg>']) + '\n'
