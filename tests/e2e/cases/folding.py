# SPDX-License-Identifier: GPL-2.0-or-later
"""Both hosts die, the survivor while its overlays are needed still: what the
document says to do.

No guest is left to ask, so the images are read.
"""

from __future__ import annotations

from pathlib import Path

from colo import client, disks, product, vm

from .disks import NEVER_MS, SPARE, start_writers
from .generation import MARK, expect, on_disk
from .powercut import commit, durable, kill
from .registry import Context, check, test, wait_for

CONNECT_SECONDS = 5.0
CHECKPOINT_SECONDS = 30.0
PATTERN = 7
FOLD_BYTES = 64 << 10           # in a second: the whole takes minutes


def spare_arrived(secondary: vm.Vm) -> bool:
    try:
        disks.io(secondary, f'read -P {PATTERN} {SPARE} 512', 'parent0')
    except disks.DiskError:
        return False
    return True


def much_to_fold(pair: vm.Pair) -> None:
    """The primary dies, and the fold will not end before the survivor's guest
    has written.  What the survivor never saw is in its image, and what was
    there before is in the hidden overlay."""
    primary, secondary = pair.vm('primary'), pair.vm('secondary')
    primary.monitor.execute('migrate-set-parameters', {
        product.PARAMETER_DELAY: NEVER_MS})
    primary.monitor.execute('x-colo-checkpoint')
    pair.wait_checkpoints(1, CHECKPOINT_SECONDS)
    disks.io(primary, f'write -P {PATTERN} {SPARE} 512')
    wait_for('the spare sector', lambda: spare_arrived(secondary))
    if pair.machine.mode == 'periodic':
        disks.wait_fresh(primary, disks.SLOTS)
    pair.fence('primary')
    if pair.machine.mode == 'hybrid':
        disks.wait_fresh(secondary, disks.SLOTS)
    disks.limit_writes(secondary, FOLD_BYTES)


def progress(survivor: vm.Vm) -> None:
    """What the user sees of a fold that gets on."""
    def folded() -> int:
        jobs = survivor.monitor.execute('query-block-jobs')
        check(bool(jobs), 'the overlays are in the image already')
        shown, = survivor.status().raw['disks']
        check(shown['stage'] == 'folding', f'the disk is {shown}')
        check(shown['fold-bytes'] < shown['fold-total'], f'folded: {shown}')
        check(jobs[0]['len'] >= jobs[0]['offset'], f'the job is {jobs}')
        return int(shown['fold-bytes'])

    before = folded()
    wait_for('the fold to get on', lambda: folded() > before)


def dies_folding(pair: vm.Pair, writer: client.Client) -> int:
    """The survivor's guest has written each slot anew, and most of that is only
    in the overlays, when its power fails, too."""
    wait_for('blocks', lambda: int(writer.poll().get('acked', 0)) > 0)
    much_to_fold(pair)
    secondary = pair.vm('secondary')
    pair.failover('secondary')
    goal = int(writer.poll()['acked']) + 2 * disks.SLOTS
    wait_for('each slot', lambda: int(writer.poll()['acked']) >= goal)
    progress(secondary)
    kill(secondary)
    text = on_disk(pair, secondary.host)
    check(text == f'{MARK} 2 folding\n', f'on disk is {text!r}')
    return durable(writer)


def is_whole(machine: vm.Machine, path: Path, acked: int) -> bool:
    try:
        disks.check_image(machine, path, acked=acked)
    except disks.DiskError:
        return False
    return True


def goes_on_from(pair: vm.Pair, host: str, state: Path) -> None:
    """A pair with that image, and the old one of the other host."""
    other = 'b' if host == 'a' else 'a'
    primary = pair.start_primary(host, state=state)
    disks.resync(primary, pair.start_secondary(other), 'hash')
    pair.protect()
    expect(pair, host, 3, 'primary')
    expect(pair, other, 3, 'secondary')


@test('/colo/e2e/document/folding')
def folding(ctx: Context) -> None:
    """Both hosts die, the survivor while its overlays are needed still: the
    document's commands make its image whole, which it is not without."""
    blocks = 0
    state = None
    for kind, mode in (('raw', 'periodic'), ('qcow2', 'hybrid')):
        # In periodic mode a sink would hold what the overlays have here
        layout = disks.Disks(kind=kind, generations=True, slow=True,
                             batch=mode == 'hybrid')
        machine = vm.replace(ctx.machine, memory='256', mode=mode,
                             disks=layout)
        state = state or vm.boot_once(ctx.hosts, machine, ctx.run)
        with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
            pair.start_primary(state=state)
            host = pair.start_secondary().host
            writer = start_writers(pair, connect_seconds=CONNECT_SECONDS)[0]
            pair.protect()
            acked = dies_folding(pair, writer)
            path = disks.image(pair.run, host, 0)
            whole = disks.contents(machine, path,
                                   *(disks.overlay(pair.run, host, 0, name)
                                     for name in ('hidden', 'active')))
            check(not is_whole(machine, path, acked),
                  'the image has all without its overlays')
            for attempt in ('first', 'second'):
                commit(pair, host)
                check(disks.contents(machine, path) == whole,
                      f'{kind}: not the same after the {attempt} commit')
            check(is_whole(machine, path, acked), f'{kind}: blocks are missing')
            disks.check_metadata(machine, path, kind)
            expect(pair, host, 2, 'alone')
            goes_on_from(pair, host, state)
        blocks += acked
    ctx.note(f'{blocks} blocks')
