# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of each file of replicated disks, by blkdebug and by a full file
system.

                      of the primary's guest       of protection
  primary's image     told as if it were alone     goes on
  secondary's image   nothing                      ends, COLO_DISK_ERROR
  hidden overlay      nothing                      ends, COLO_DISK_ERROR
  active overlay      nothing: what the other      goes on, by checkpoints;
                      guest says is different      ends, COLO_DISK_ERROR, if it
                                                   cannot be emptied either

Nobody waits for ever, and nothing that a client was told is durable is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Iterator

from colo import client, disks, product, vm

from .diskfault import (BAD_SECTOR, LONG_MS, MIB, NOTICE_SECONDS, begin,
                        ends_with_error, finish, goes_on, soon)
from .disks import start_writers
from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

SMALL_MIB = 64
PARENT = 'disk0-b.img'       # files of the secondary
HIDDEN = 'hidden0-b.qcow2'
TOOL_SECONDS = 30
ANSWER_SECONDS = 30.0
EVENT_IO = 'BLOCK_IO_ERROR'
EVENT_QUORUM = 'QUORUM_REPORT_BAD'
EVENT_JOB = 'BLOCK_JOB_COMPLETED'

# For the guest: write where its writer does not.  An error is told to all who
# have the disk open.
WRITE = 'sh dd if=/bin/busybox of=/dev/vda count=1 conv=notrunc,fsync 2>&1'
WRITE_SECTOR = f'{WRITE} bs=512 seek={BAD_SECTOR}'
WRITE_MIB = f'{WRITE} bs=1M seek={MIB - 1}'


def layout(place: str, text: str) -> disks.Disks:
    return disks.Disks(mib=MIB, inject=((place, text),))


def order(pair: vm.Pair, command: str) -> client.Client:
    """Have the guest do something that may take long."""
    return client.Client(pair.hosts, pair.machine.image.client, 'control',
                         command=command, seconds=ANSWER_SECONDS)


def answer(running: client.Client) -> str:
    end = running.wait_end(2 * ANSWER_SECONDS)
    check(bool(end['intact']), f'the guest did not answer: {end}')
    return str(end['answer'])[2:].strip()


def check_quick(pair: vm.Pair) -> None:
    """The monitor, a drain and a look at the disks wait for nobody."""
    for side in ('primary', 'secondary'):
        execute = pair.vm(side).monitor.execute
        for command in ('query-status', 'query-blockstats', product.STATUS):
            soon(command, lambda: execute(command))


# The primary's image


@test('/colo/e2e/disk/error/local')
def local(ctx: Context) -> None:
    """The guest is told, although the other disk could be written.  It reads
    what it has read before, and protection goes on."""
    errors = disks.errors(errno.EIO, iotype='write', sector=BAD_SECTOR)
    with ctx.pair(memory='256', disks=layout('local', errors)) as pair:
        ctx.protected(pair, x_colo_timeout=LONG_MS)
        primary = pair.vm('primary')
        said = pair.control(WRITE_SECTOR)
        check(not said.startswith('0 '), f'the guest was not told: {said}')
        primary.monitor.wait_event(EVENT_QUORUM, NOTICE_SECONDS)
        primary.monitor.wait_event(EVENT_IO, NOTICE_SECONDS)
        check_quick(pair)
        ticker, writers = pair.client('ticker'), start_writers(pair)
        goes_on(pair, ticker, writers)
        pair.wait_checkpoints(3, NOTICE_SECONDS)
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        for writer in writers:
            writer.verify()
        check_intact(ticker)


def quorum_of(failing: int, kind: str) -> str:
    """Options of the primary's quorum; child @failing fails at @kind."""
    options = [disks.QUORUM]
    for child in range(2):
        node = ['driver=raw', 'discard=unmap', 'file.driver=blkdebug',
                'file.discard=unmap', 'file.image.driver=null-co']
        if child == failing:
            errors = disks.errors(errno.EIO, iotype=kind)
            node += [f'file.{option}' for option in errors.split(',')]
        options += [f'children.{child}.{option}' for option in node]
    return ','.join(options)


@test('/colo/e2e/disk/error/quorum')
def quorum(ctx: Context) -> None:
    """Without a guest: what the first child has not done is not done, although
    the others are as many as it takes."""
    for kind, commands in (('write', ['write 0 4k']),
                           ('flush', ['write 0 4k', 'flush']),
                           ('write-zeroes', ['write -z 0 4k']),
                           ('discard', ['discard 0 64k'])):
        for failing in range(2):
            done = subprocess.run(
                [ctx.machine.tools / 'qemu-io', '--image-opts', '-d', 'unmap',
                 '-t', 'writeback', *(f'-c{command}' for command in commands),
                 quorum_of(failing, kind)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=TOOL_SECONDS, check=False)
            check((done.returncode != 0) == (failing == 0),
                  f'{kind} fails on child {failing}: exit status '
                  f'{done.returncode}, {done.stdout}')


def stops_and_goes_on(pair: vm.Pair, command: str,
                      repair: contextlib.ExitStack) -> None:
    """The guest stands still until there is space again, on both sides, and
    then its write is done."""
    primary = pair.vm('primary')
    running = order(pair, command)
    primary.wait_run_state('io-error', NOTICE_SECONDS)
    primary.monitor.wait_event(EVENT_IO, NOTICE_SECONDS)
    check_quick(pair)
    primary.monitor.execute('x-colo-checkpoint')
    pair.wait_checkpoints(1, NOTICE_SECONDS)
    check(primary.run_state() == 'io-error', 'a checkpoint let the guest go on')
    repair.close()
    primary.monitor.execute('cont')
    said = answer(running)
    check(said.startswith('0 '), f'the guest was told: {said}')


def local_full(ctx: Context, mode: str) -> None:
    errors = disks.errors(errno.ENOSPC, iotype='write', sector=BAD_SECTOR,
                          once='on')
    with ctx.pair(memory='256', mode=mode,
                  disks=layout('local', errors)) as pair:
        ticker, writers = begin(pair, LONG_MS)
        stops_and_goes_on(pair, WRITE_SECTOR, contextlib.ExitStack())
        goes_on(pair, ticker, writers)
        pair.fence('secondary')
        pair.failover('primary')
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/error/local-full', long_only=True)
def local_full_periodic(ctx: Context) -> None:
    local_full(ctx, 'periodic')


@test('/colo/e2e/disk/hybrid/error/local-full', long_only=True)
def local_full_hybrid(ctx: Context) -> None:
    local_full(ctx, 'hybrid')


# A file system that is full: requests are cut short, and then fail


class Small:
    """A file system of its own for one file, which a link leads to."""

    def __init__(self, link: Path):
        self.directory = link.with_suffix('.small')
        self.filler = self.directory / 'filler'
        self.link = link

    def __enter__(self) -> Small:
        self.directory.mkdir()
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={SMALL_MIB}m',
                        'tmpfs', self.directory], check=True,
                       timeout=TOOL_SECONDS)
        self.link.symlink_to(self.directory / self.link.name)
        return self

    def __exit__(self, *_: object) -> None:
        self.link.unlink(missing_ok=True)
        subprocess.run(['umount', '--lazy', self.directory], check=True,
                       timeout=TOOL_SECONDS)
        self.directory.rmdir()

    def fill(self) -> None:
        """Leave no space.  What the file has it keeps."""
        with open(self.filler, 'ab', buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
        left = os.statvfs(self.directory)
        check(left.f_bavail == 0, f'{left.f_bavail} blocks are left')

    def free(self) -> None:
        self.filler.unlink()


@contextlib.contextmanager
def small_pair(ctx: Context, name: str, mode: str
               ) -> Iterator[tuple[vm.Pair, Small]]:
    """A pair with the file @name on a small file system."""
    with ctx.pair(memory='256', mode=mode,
                  disks=disks.Disks(mib=MIB, kind='qcow2')) as pair:
        with Small(ctx.run / name) as small:
            try:
                yield pair, small
            finally:
                pair.close()


@test('/colo/e2e/disk/error/local-short', long_only=True)
def local_short(ctx: Context) -> None:
    with small_pair(ctx, 'disk0-a.img', 'periodic') as (pair, small):
        ticker, writers = begin(pair, LONG_MS)
        for writer in writers:
            check_intact(writer)    # it would stop the guest as well
        small.fill()
        repair = contextlib.ExitStack()
        repair.callback(small.free)
        stops_and_goes_on(pair, WRITE_MIB, repair)
        pair.wait_checkpoints(3, NOTICE_SECONDS)
        wait_lines(ticker)
        check_intact(ticker)


def secondary_short(ctx: Context, name: str, mode: str) -> None:
    """The secondary has no space for what its file @name has to take: its
    image something new, the hidden overlay what is overwritten."""
    with small_pair(ctx, name, mode) as (pair, small):
        pair.start_primary()
        if name == HIDDEN:
            pair.control(WRITE_MIB)
        ticker, writers = begin(pair, LONG_MS)
        small.fill()
        said = pair.control(WRITE_MIB)
        check(said.startswith('0 '), f'the guest noticed: {said}')
        ends_with_error(pair, 'primary')
        check_quick(pair)
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/error/parent-short', long_only=True)
def parent_short_periodic(ctx: Context) -> None:
    secondary_short(ctx, PARENT, 'periodic')


@test('/colo/e2e/disk/hybrid/error/parent-short', long_only=True)
def parent_short_hybrid(ctx: Context) -> None:
    secondary_short(ctx, PARENT, 'hybrid')


# The hidden overlay


@test('/colo/e2e/disk/error/hidden-short')
def hidden_short_periodic(ctx: Context) -> None:
    secondary_short(ctx, HIDDEN, 'periodic')


@test('/colo/e2e/disk/hybrid/error/hidden-short', long_only=True)
def hidden_short_hybrid(ctx: Context) -> None:
    secondary_short(ctx, HIDDEN, 'hybrid')


def hidden(ctx: Context, number: int) -> None:
    errors = disks.errors(number, event='write_aio', iotype='write')
    with ctx.pair(memory='256', disks=layout('hidden', errors)) as pair:
        pair.start_primary()
        pair.control(WRITE_SECTOR)
        pair.start_secondary()
        pair.protect(x_colo_timeout=LONG_MS)
        ticker = pair.client('ticker')
        said = pair.control(WRITE_SECTOR)
        check(said.startswith('0 '), f'the guest noticed: {said}')
        ends_with_error(pair, 'primary')
        check_quick(pair)
        wait_lines(ticker)
        check_intact(ticker)


@test('/colo/e2e/disk/error/hidden', long_only=True)
def hidden_io(ctx: Context) -> None:
    hidden(ctx, errno.EIO)


@test('/colo/e2e/disk/error/hidden-full', long_only=True)
def hidden_full(ctx: Context) -> None:
    hidden(ctx, errno.ENOSPC)


# The active overlay, which only a guest that runs writes to


def active(ctx: Context, number: int) -> None:
    """The secondary's guest gets the error, or stands; checkpoints bring it
    back, and the clients never notice."""
    errors = disks.errors(number, event='write_aio', iotype='write',
                          once='on')
    with ctx.pair(memory='256', mode='hybrid',
                  disks=layout('active', errors)) as pair:
        ticker, writers = begin(pair, LONG_MS)
        said = pair.control(WRITE_SECTOR)
        check(said.startswith('0 '), f'the guest noticed: {said}')
        pair.vm('secondary').monitor.wait_event(EVENT_IO, NOTICE_SECONDS)
        check_quick(pair)
        goes_on(pair, ticker, writers)
        pair.fence('secondary')
        pair.failover('primary')
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/hybrid/error/active-empty', long_only=True)
def active_empty(ctx: Context) -> None:
    errors = disks.errors(errno.EIO, event='write_aio', iotype='write')
    with ctx.pair(memory='256', mode='hybrid',
                  disks=layout('active', errors)) as pair:
        ticker, writers = begin(pair, LONG_MS)
        ends_with_error(pair, 'secondary')
        check_quick(pair)
        goes_on(pair, ticker, writers)
        finish(pair, ticker, writers)


@test('/colo/e2e/disk/hybrid/error/active', long_only=True)
def active_io(ctx: Context) -> None:
    active(ctx, errno.EIO)


@test('/colo/e2e/disk/hybrid/error/active-full', long_only=True)
def active_full(ctx: Context) -> None:
    active(ctx, errno.ENOSPC)


@test('/colo/e2e/disk/hybrid/error/active-short', long_only=True)
def active_short(ctx: Context) -> None:
    """No space for what the secondary's guest writes."""
    with small_pair(ctx, 'active0-b.qcow2', 'hybrid') as (pair, small):
        ticker, writers = begin(pair, LONG_MS)
        small.fill()
        said = pair.control(WRITE_MIB)
        check(said.startswith('0 '), f'the guest noticed: {said}')
        pair.vm('secondary').monitor.wait_event(EVENT_IO, NOTICE_SECONDS)
        check_quick(pair)
        small.free()
        goes_on(pair, ticker, writers)
        pair.vm('primary').monitor.execute('x-colo-checkpoint')
        wait_for('the secondary to run',
                 lambda: pair.vm('secondary').run_state() == 'running')
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        for writer in writers:
            writer.verify()
        check_intact(ticker)


@test('/colo/e2e/disk/hybrid/error/active-stands', long_only=True)
def active_stands(ctx: Context) -> None:
    """The primary is lost while the secondary's guest stands because there is
    no space: it goes on when it is told to, and has lost nothing."""
    with small_pair(ctx, 'active0-b.qcow2', 'hybrid') as (pair, small):
        ticker, writers = begin(pair, LONG_MS)
        secondary = pair.vm('secondary')
        small.fill()
        secondary.monitor.wait_event(EVENT_IO, NOTICE_SECONDS)
        pair.fence('primary')
        secondary.wait_run_state('io-error', NOTICE_SECONDS)
        soon('x-colo-lost-heartbeat',
             lambda: secondary.monitor.execute(product.FAILOVER))
        secondary.monitor.wait_event(product.EVENT_EXIT, NOTICE_SECONDS)
        small.free()
        secondary.monitor.execute('cont')
        secondary.wait_run_state('running', NOTICE_SECONDS)
        wait_lines(ticker)
        for writer in writers:
            writer.verify()
        check_intact(ticker)


# What is left of the overlays after a failover


def read_at(path: Path, offset: int, size: int) -> bytes:
    with open(path, 'rb') as file:
        file.seek(offset)
        return file.read(size)


@test('/colo/e2e/disk/hybrid/error/fold')
def fold(ctx: Context) -> None:
    """The image does not take what the overlays have: the survivor goes on with
    these, and says so."""
    errors = disks.errors(errno.EIO, iotype='write', sector=BAD_SECTOR)
    beside = (BAD_SECTOR + 8) * 512
    with ctx.pair(memory='256', mode='hybrid',
                  disks=replace(layout('parent', errors),
                                generations=True)) as pair:
        ctx.protected(pair)
        secondary = pair.vm('secondary')
        # Beside it: the hidden overlay gets the cluster as a whole
        disks.io(pair.vm('primary'), f'write -P 5 {beside} 512')
        image = disks.image_of(secondary, pair.run, 0)
        wait_for('the write to arrive',
                 lambda: read_at(image, beside, 512) == b'\x05' * 512)
        pair.fence('primary')
        pair.failover('secondary')
        event = secondary.monitor.wait_event(EVENT_JOB, NOTICE_SECONDS)
        check('error' in event['data'], f'folded: {event}')
        stages = [item['stage'] for item in secondary.status().raw['disks']]
        check(stages == ['unfolded'], f'the disk is {stages}')
        said = disks.io(secondary, f'read -P 0 {beside} 512')
        check('erification failed' not in said, said)
        ticker, writers = pair.client('ticker'), start_writers(pair)
        wait_lines(ticker)
        disks.wait_fresh(secondary)
        for writer in writers:
            check_intact(writer)
        # Its image is of no use alone, and be it the primary's
        assert pair.machine.disks
        plain = disks.Disks(mib=pair.machine.disks.mib, generations=True)
        pair.machine = replace(pair.machine, disks=plain)
        disks.resync(secondary, pair.start_secondary(vm.retire(pair)), 'full')
        pair.protect()
        generation = disks.generation_file(pair.run, secondary.host, 0)
        check(generation.read_text().endswith(' 3 folding\n'),
              generation.read_text())
        check_intact(ticker)
