# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated disks when the other host, its disk or the way to it fails.

The guest never notices, and nothing on this side waits for the other one.
"""

from __future__ import annotations

import errno
import signal
import time
from typing import Any, Callable

from colo import client, disks, product, vm

from .disks import check_images, start_writers, verify_all
from .registry import (Context, check, check_intact, check_verified, test,
                       wait_for, wait_lines, wait_more)

TIMEOUT_MS = 2000
LONG_MS = 60000
SHORT_MS = 2000             # but not too short for a peer that is alive
QUIT_MS = 10000
EXIT_SECONDS = 90.0         # QEMU gives its peer two or three timeouts
NOTICE_SECONDS = 45.0       # nobody waits for LONG_MS
SOON_SECONDS = 10.0         # a command that waits for no peer
LOG_BYTES = 4 << 20         # the least there is
FULL_BYTES = 32 << 10        # as near to the bound as a group of blocks
FULL_SECONDS = 60.0
SLOW_BYTES = 4 << 20         # in a second
SLOW_MIB = 8
SLOW_WRITTEN = 14 << 20
SLOW_CHECKPOINTS = 3
MIB = 17                    # the writer leaves the last one alone
BAD_SECTOR = ((MIB << 20) - 8192) // 512


def soon(what: str, run: Callable[[], Any]) -> None:
    start = time.monotonic()
    run()
    took = time.monotonic() - start
    check(took < SOON_SECONDS, f'{what} took {took:.1f} s')


def begin(pair: vm.Pair, timeout_ms: int, resync: bool = False
          ) -> tuple[client.Client, list[client.Client]]:
    """A protected pair, its ticker and its writers, which have written.  After
    a resync nothing is read of the secondary's disk to compare it."""
    if not pair.primary:
        pair.start_primary()
    pair.start_secondary()
    if resync:
        assert pair.primary and pair.secondary
        disks.resync(pair.primary, pair.secondary, 'full')
    pair.protect(x_colo_timeout=timeout_ms)
    ticker = pair.client('ticker')
    writers = start_writers(pair)
    wait_lines(ticker)
    wait_for('blocks', lambda: writers[0].poll().get('count', 0) > 0)
    return ticker, writers


def goes_on(pair: vm.Pair, ticker: client.Client,
            writers: list[client.Client]) -> None:
    """The guest of the primary has its disk, and its clients have it."""
    wait_lines(ticker)
    disks.wait_fresh(pair.vm('primary'))
    verify_all(writers)


def finish(pair: vm.Pair, ticker: client.Client,
           writers: list[client.Client]) -> None:
    """Take the pair apart while the other side is still there, and end."""
    primary = pair.vm('primary')
    soon('stop', lambda: primary.monitor.execute('stop'))
    soon('cont', lambda: primary.monitor.execute('cont'))
    soon('the end of replication', lambda: disks.detach(primary))
    goes_on(pair, ticker, writers)
    check_intact(ticker)
    check_images(pair, 'primary', writers)


def stall(ctx: Context, mode: str, early: bool) -> None:
    """The secondary stands still.  @early: its child is removed first."""
    with ctx.pair(memory='256', mode=mode, disks=disks.Disks()) as pair:
        ticker, writers = begin(pair, LONG_MS)
        primary = pair.vm('primary')
        pair.vm('secondary').signal(signal.SIGSTOP)
        disks.wait_fresh(primary)
        if early:
            soon('the end of replication', lambda: disks.detach(primary))
        soon('x-colo-lost-heartbeat',
             lambda: primary.monitor.execute(product.FAILOVER))
        wait_for('the primary to be alone',
                 lambda: primary.status().state == 'alone', SOON_SECONDS)
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/fault/stall')
def stall_periodic(ctx: Context) -> None:
    stall(ctx, 'periodic', False)


@test('/colo/e2e/disk/fault/stall-early')
def stall_early(ctx: Context) -> None:
    stall(ctx, 'periodic', True)


@test('/colo/e2e/disk/hybrid/fault/stall')
def stall_hybrid(ctx: Context) -> None:
    stall(ctx, 'hybrid', False)


def wait_full(primary: vm.Vm) -> None:
    """Until the guest's writes wait for room in the log."""
    def is_full() -> bool:
        status = primary.monitor.execute('query-colo-status')
        log = status['disks'][0]['log']
        return bool(log['bytes'] + FULL_BYTES > log['limit'])

    wait_for('the log to be full', is_full, FULL_SECONDS)


@test('/colo/e2e/disk/fault/full')
def full(ctx: Context) -> None:
    """The secondary stands still until the guest waits for its disk; the
    failover lets it go on."""
    layout = disks.Disks(log_bytes=LOG_BYTES)
    with ctx.pair(memory='256', mode='hybrid', disks=layout) as pair:
        ticker, writers = begin(pair, LONG_MS)
        primary = pair.vm('primary')
        pair.vm('secondary').signal(signal.SIGSTOP)
        wait_full(primary)
        soon('x-colo-lost-heartbeat',
             lambda: primary.monitor.execute(product.FAILOVER))
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/fault/full-stop')
def full_stop(ctx: Context) -> None:
    """The same, and the user pauses the guest, or ends QEMU, before anything
    is known of the secondary."""
    layout = disks.Disks(log_bytes=LOG_BYTES)
    for command, timeout_ms in (('stop', LONG_MS), ('quit', QUIT_MS)):
        with ctx.pair(memory='256', mode='hybrid', disks=layout) as pair:
            begin(pair, timeout_ms)
            primary = pair.vm('primary')
            # Fast, the primary must not have taken the secondary for lost
            pair.control('diskload /dev/vda random 8 4 0 0')
            pair.vm('secondary').signal(signal.SIGSTOP)
            wait_full(primary)
            if command == 'stop':
                soon(command, lambda: primary.monitor.execute(command))
            else:
                primary.monitor.execute(command)
                primary.wait_exit(EXIT_SECONDS)


@test('/colo/e2e/disk/fault/quit')
def quit_stalled(ctx: Context) -> None:
    """QEMU ends although the secondary stands still."""
    with ctx.pair(memory='256', disks=disks.Disks()) as pair:
        begin(pair, TIMEOUT_MS)
        primary = pair.vm('primary')
        pair.vm('secondary').signal(signal.SIGSTOP)
        disks.wait_fresh(primary)
        primary.monitor.execute('quit')
        primary.wait_exit()


@test('/colo/e2e/disk/fault/link-cut')
def link_cut(ctx: Context) -> None:
    """Nobody closes a connection.  Either side may be the one to go on."""
    for winner in ('primary', 'secondary'):
        with ctx.pair(memory='256', disks=disks.Disks(count=2)) as pair:
            ticker, writers = begin(pair, TIMEOUT_MS)
            ctx.hosts.cut_link()
            try:
                for side in ('primary', 'secondary'):
                    pair.vm(side).monitor.wait_event(product.EVENT_LOST,
                                                     NOTICE_SECONDS)
                if winner == 'secondary':
                    pair.fence('primary')
                pair.failover(winner)
                if winner == 'secondary':
                    wait_lines(ticker)
                    verify_all(writers)
                    vm.retire(pair)
                goes_on(pair, ticker, writers)
                finish(pair, ticker, writers)
            finally:
                ctx.hosts.mend_link()


def waited_ns(primary: vm.Vm) -> int:
    """For how long the guest's writes have waited for room in a log."""
    return sum(int(item['log']['throttled-ns'])
               for item in primary.status().raw['disks'])


def checkpoints_while_loaded(pair: vm.Pair) -> float:
    """Some, until the load has written much; how long it has taken."""
    primary = pair.vm('primary')
    begin, before = time.monotonic(), disks.written(primary, 1, 'bytes')
    count = written = 0
    while count < SLOW_CHECKPOINTS or written < SLOW_WRITTEN:
        primary.monitor.execute('x-colo-checkpoint')
        pair.wait_checkpoints(1, NOTICE_SECONDS)
        written = disks.written(primary, 1, 'bytes') - before
        count += 1
    took = time.monotonic() - begin
    # What the log took at once the other disk need not have got
    least = (written - 2 * LOG_BYTES) / SLOW_BYTES
    check(took > least, f'the guest has written {written} bytes in {took:.1f} '
          f's and not in {least:.1f} s, as if the other disk were not slow')
    return took


def slow(ctx: Context, mode: str) -> None:
    """The secondary's disk takes less than the guest writes: the guest is made
    to wait, and all else is as ever."""
    layout = disks.Disks(count=2, mib=SLOW_MIB, log_bytes=LOG_BYTES, slow=True)
    with ctx.pair(memory='256', mode=mode, disks=layout,
                  verify=True) as pair:
        ticker, writers = begin(pair, LONG_MS)
        check_intact(writers.pop())     # its disk is for the load
        primary, secondary = pair.vm('primary'), pair.vm('secondary')
        disks.limit_writes(secondary, SLOW_BYTES)
        pair.control(f'diskload {layout.device(1)} sequential {SLOW_MIB} 1 0 0')
        wait_for('the guest to wait', lambda: waited_ns(primary) > 0)
        verified = secondary.status().verified
        took = checkpoints_while_loaded(pair)
        wait_lines(ticker)
        wait_more(writers[0])
        done = check_verified(secondary.status(), verified + SLOW_CHECKPOINTS)
        pair.fence('primary')
        pair.failover('secondary')
        pair.control('diskload off')
        wait_lines(ticker)
        verify_all(writers)
        check_intact(ticker)
        check_images(pair, 'secondary', writers)
    ctx.note(f'{SLOW_WRITTEN >> 20} MiB took {took:.1f} s, RAM and disks equal '
             f'at {done} checkpoints')


@test('/colo/e2e/disk/fault/slow')
def slow_periodic(ctx: Context) -> None:
    slow(ctx, 'periodic')


@test('/colo/e2e/disk/hybrid/fault/slow', long_only=True)
def slow_hybrid(ctx: Context) -> None:
    slow(ctx, 'hybrid')


def ends_with_error(pair: vm.Pair, side: str) -> None:
    """That side tells of the disk; the primary goes on by itself."""
    pair.vm(side).monitor.wait_event(product.EVENT_DISK, NOTICE_SECONDS)
    primary, secondary = pair.vm('primary'), pair.vm('secondary')
    wait_for('the primary to be alone',
             lambda: primary.status().state == 'alone', NOTICE_SECONDS)
    primary.wait_run_state('running', NOTICE_SECONDS)
    secondary.wait_run_state('shutdown', NOTICE_SECONDS)


@test('/colo/e2e/disk/fault/too-slow', long_only=True)
def too_slow(ctx: Context) -> None:
    """The secondary's disk takes next to nothing: after twelve timeouts that
    is what the session ends for, and what is said."""
    with ctx.pair(memory='256', disks=disks.Disks(slow=True)) as pair:
        ticker, writers = begin(pair, SHORT_MS)
        disks.limit_writes(pair.vm('secondary'), 1)
        primary = pair.vm('primary')
        event = primary.monitor.wait_event(product.EVENT_DISK,
                                           14 * SHORT_MS / 1000)
        check(f'after {12 * SHORT_MS} ms' in event['data']['message'],
              str(event))
        wait_for('the primary to be alone',
                 lambda: primary.status().state == 'alone', NOTICE_SECONDS)
        said = pair.vm('secondary').log.read_text()
        check('a disk could not be replicated' in said, said)
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


def export_ends(ctx: Context, command: str,
                arguments: dict[str, Any]) -> None:
    with ctx.pair(memory='256', disks=disks.Disks()) as pair:
        ticker, writers = begin(pair, LONG_MS)
        pair.vm('secondary').monitor.execute(command, arguments)
        ends_with_error(pair, 'primary')
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/fault/export-removed')
def export_removed(ctx: Context) -> None:
    export_ends(ctx, 'nbd-server-remove', {'name': 'sink0', 'mode': 'hard'})


@test('/colo/e2e/disk/fault/server-stopped')
def server_stopped(ctx: Context) -> None:
    export_ends(ctx, 'nbd-server-stop', {})


def bad_disk(ctx: Context, mode: str, kind: str) -> None:
    """A sector of the secondary's disk fails at requests of @kind; a guest
    that writes there knows nothing of it."""
    layout = disks.Disks(mib=MIB, inject=(('parent', disks.errors(
        errno.EIO, iotype=kind, sector=BAD_SECTOR)),))
    write = (f'sh echo $$ | dd of=/dev/vda bs=512 seek={BAD_SECTOR} '
             'conv=notrunc,fsync 2>&1')
    with ctx.pair(memory='256', mode=mode, disks=layout) as pair:
        pair.start_primary()
        if kind == 'read':
            pair.control(write)     # or there would be nothing to copy
        ticker, writers = begin(pair, LONG_MS, kind == 'read')
        answer = pair.control(write)
        check(answer.startswith('0 '), f'the guest noticed: {answer}')
        ends_with_error(pair, 'primary')
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/fault/bad-write')
def bad_write(ctx: Context) -> None:
    bad_disk(ctx, 'periodic', 'write')


@test('/colo/e2e/disk/hybrid/fault/bad-write')
def bad_write_hybrid(ctx: Context) -> None:
    bad_disk(ctx, 'hybrid', 'write')


@test('/colo/e2e/disk/fault/bad-read')
def bad_read(ctx: Context) -> None:
    """What is there cannot be copied before it is overwritten."""
    bad_disk(ctx, 'periodic', 'read')
