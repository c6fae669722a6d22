# SPDX-License-Identifier: GPL-2.0-or-later
"""Input reaches the secondary's guest in the epoch in which the primary's has
consumed it, never twice and never skipped.

The guest numbers the datagrams that it gets and says in each answer which
number that datagram had and which one came before it.  filter-dump keeps what
both guests say.  Both begin an epoch with the same numbers, so if in any epoch
the secondary's guest has got another datagram than the primary's, or one less
or more, its next answer has another datagram for that number.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from colo import product, vm

from .kill import CHECKPOINTS_SECONDS
from .registry import Context, check, check_intact, test

CHECKPOINTS_QUICK = 25
CHECKPOINTS_LONG = 500
DELAY_MS = 200
# A secondary that is slow because its host is busy is no difference
COMPARE_TIMEOUT_MS = 10000
# While a checkpoint is under way the secondary says nothing of its own, so it
# needs epochs of several times that
DELAY_FACTOR = 4
FIRST_CHECKPOINTS = 5
NEIGHBOURS = '/proc/sys/net/ipv[46]/neigh/*'
HOUR = 3600
INTERVAL_MS = 2
# The kernel that answers has 128 KiB for all of that at a time, and drops what
# is more: a guest that runs late must not come to so much at once
PING_INTERVAL_MS = 50
SPOIL_US = 150000
# Part of its own answers that the secondary's guest has to give; the others
# are those that it had not come to at a load.  Almost all, if the machine has
# nothing else to do
OWN_PART = 0.25

# See guest/colo-datagram.h
PORT = 7006
MAGIC = b'colo-udp'
DATAGRAM = struct.Struct('<8sQQQQ')
PCAP_HEAD, PCAP_RECORD = 24, 16


@dataclass(frozen=True)
class Answer:
    """What a guest has said of one datagram."""
    number: int     # that it gave it
    request: int
    before: int


def frames(dump: Path) -> Iterator[bytes]:
    """The packets of a file of filter-dump's."""
    data = dump.read_bytes()
    at = PCAP_HEAD
    while at + PCAP_RECORD <= len(data):
        size, = struct.unpack_from('=8xI4x', data, at)
        at += PCAP_RECORD
        if at + size > len(data):
            return
        yield data[at:at + size]
        at += size


def answers(dump: Path) -> list[Answer]:
    """In their order; of those in fragments the first one says it all."""
    found = []
    for frame in frames(dump):
        if len(frame) < 34 or frame[12:14] != b'\x08\0' or frame[23] != 17:
            continue
        fragment, = struct.unpack_from('>H', frame, 20)
        udp = 14 + (frame[14] & 15) * 4
        if fragment & 0x1fff or len(frame) < udp + 8 + DATAGRAM.size:
            continue
        source, = struct.unpack_from('>H', frame, udp)
        magic, _, request, number, before = DATAGRAM.unpack_from(frame,
                                                                 udp + 8)
        if source == PORT and magic == MAGIC:
            found.append(Answer(number, request, before))
    return found


@dataclass
class Result:
    """Of one run."""
    primary: int            # answers of the primary's guest
    own: int                # of them that the secondary's has given, too
    different: list[str]
    lost: int               # answers that no client got
    compared: dict[str, int]
    reasons: dict[str, int]


def set_side_by_side(primary: list[Answer],
                     secondary: list[Answer]) -> tuple[int, list[str]]:
    """How many answers of the primary's the secondary's guest gave as well,
    and what it said that the primary's did not."""
    said = {answer.number: answer for answer in primary}
    first, last = min(said), max(said)
    check(len(primary) == len(said) == last - first + 1,
          f"{len(primary)} answers of the primary's guest have the numbers "
          f'{first} to {last}')
    different = [f'{answer} and not {said.get(answer.number)}'
                 for answer in secondary if answer.number <= last and
                 answer != said.get(answer.number)]
    return len({answer.number for answer in secondary} & set(said)), different


def dump(side: vm.Vm, file: Path, **place: str) -> None:
    """Keep what the guest says from now on."""
    file.unlink(missing_ok=True)
    side.monitor.execute('object-add', {
        'qom-type': 'filter-dump', 'id': 'said', 'netdev': 'hn0',
        'queue': 'rx', 'file': str(file), **place})


def start(pair: vm.Pair) -> None:
    """A guest whose own clock has it say nothing: it does not ask whether its
    neighbours are still there, in between its answers."""
    pair.start_primary()
    said = pair.control(f'sh set -e; for dir in {NEIGHBOURS}; do '
                        f'echo {HOUR} > $dir/base_reachable_time; '
                        f'echo {HOUR} > $dir/delay_first_probe_time; done')
    check(said.startswith('0 '), f'the guest says {said}')
    pair.start_secondary()
    pair.protect(x_checkpoint_delay=DELAY_MS)


def fit_delay(pair: vm.Pair) -> None:
    """Make epochs longer where checkpoints take long."""
    pair.wait_checkpoints(FIRST_CHECKPOINTS, CHECKPOINTS_SECONDS)
    taken_us = sum(
        pair.vm(side).status().statistics[what]['p50']
        for side, what in (('primary', 'commit'), ('secondary', 'load')))
    pair.vm('primary').monitor.execute('migrate-set-parameters', {
        product.PARAMETER_DELAY: max(DELAY_MS, DELAY_FACTOR * taken_us // 1000)
    })


def run(ctx: Context, checkpoints: int, spoil: bool) -> Result:
    """@spoil: what the secondary's guest gets is late, also past a load."""
    files = {side: ctx.run / f'{side}.pcap'
             for side in ('primary', 'secondary')}
    with ctx.pair(mode='hybrid', memory='256', compare=(
            ('compare_timeout', COMPARE_TIMEOUT_MS),)) as pair:
        start(pair)
        before_rewriter = {'position': 'id=rew0', 'insert': 'before'}
        if spoil:
            pair.vm('secondary').monitor.execute('object-add', {
                'qom-type': 'filter-buffer', 'id': 'late', 'netdev': 'hn0',
                'queue': 'tx', 'interval': SPOIL_US, **before_rewriter})
        dump(pair.vm('primary'), files['primary'])
        dump(pair.vm('secondary'), files['secondary'], **before_rewriter)
        clients = [pair.client('udp', interval=INTERVAL_MS),
                   pair.client('ping6', interval=PING_INTERVAL_MS)]
        fit_delay(pair)
        status = pair.wait_checkpoints(checkpoints, CHECKPOINTS_SECONDS +
                                       2 * checkpoints)
        compared = pair.compared()
        lost = sum(check_intact(running)['lost'] for running in clients)
        status = pair.vm('primary').status()
    said = {side: answers(file) for side, file in files.items()}
    check(len(said['primary']) > checkpoints, 'the guest has said little')
    own, different = set_side_by_side(said['primary'], said['secondary'])
    return Result(len(said['primary']), own, different, lost, compared,
                  {item['reason']: item['count']
                   for item in status.statistics['reasons']})


@test('/colo/e2e/hybrid/input')
def exact(ctx: Context) -> None:
    """Datagram by datagram, over many timed checkpoints under load."""
    count = CHECKPOINTS_LONG if ctx.long else CHECKPOINTS_QUICK
    result = run(ctx, count, spoil=False)
    check(not result.different,
          f'{len(result.different)} of {result.own} answers of the secondary '
          f'are others, first {result.different[:3]}')
    check(result.compared['mismatches'] == 0,
          f'colo-compare has found differences: {result.compared}')
    check(result.reasons['timer'] >= count and
          not result.reasons['mismatch'] and not result.reasons['timeout'],
          f'why there were checkpoints: {result.reasons}')
    check(result.own > OWN_PART * result.primary,
          f'the secondary has said {result.own} of {result.primary} itself')
    ctx.note(f'{result.own} of {result.primary} answers given by both, '
             f'{result.reasons["timer"]} checkpoints, {result.lost} lost')


@test('/colo/e2e/self/input')
def spoiled(ctx: Context) -> None:
    """It is seen when the secondary's guest gets input in another epoch."""
    result = run(ctx, CHECKPOINTS_QUICK, spoil=True)
    check(bool(result.different), 'late input was not seen in the answers')
    check(result.compared['mismatches'] > 0,
          f'colo-compare has not seen late input: {result.compared}')
    ctx.note(f'{len(result.different)} answers are others, '
             f'{result.compared["mismatches"]} mismatches')
