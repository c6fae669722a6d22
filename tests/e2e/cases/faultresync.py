# SPDX-License-Identifier: GPL-2.0-or-later
"""Either side fails while the other disk is brought up to date.

The guest is not protected then.  If the secondary is gone, or does not answer,
the guest goes on with its disk, whether or not somebody gives the job up; if
the primary is, its image has all, and generations say that it is the one.  The
next attempt begins with whatever the last one has left on the other disk.
"""

from __future__ import annotations

import signal
from typing import Any, Callable

from colo import disks, vm

from .diskfault import LOG_BYTES, NOTICE_SECONDS, soon, wait_full
from .faultdisks import Walk
from .registry import Context, Failed, check, test, wait_for

MIB = 16
SLOW = MIB << 18            # bytes a second: four seconds in all
JOB = 'job-resync0'
CANCELLED = 'BLOCK_JOB_CANCELLED'
LAYOUT = disks.Disks(mib=MIB, generations=True)


class Resync(Walk):
    """Attempts to build the pair again."""

    @property
    def primary(self) -> vm.Vm:
        return self.pair.vm('primary')

    def crash(self) -> None:
        """A secondary that was protected dies: the disks are different."""
        self.new_secondary()
        self.pair.protect()
        self.life.served()
        self.pair.fence('secondary')
        self.go_on('primary')

    # A job, and how far it is

    def begin(self) -> dict[str, Any]:
        secondary = self.pair.start_secondary(self.other_host())
        disks.export(secondary)
        return disks.prepare_resync(self.primary, secondary, 0, 'hash')

    def at_first(self, fault: Callable[[], None]) -> None:
        """Before there is an answer to the first question."""
        arguments = self.begin()
        fault()
        self.primary.monitor.execute('x-colo-resync', arguments)

    def job(self) -> dict[str, Any]:
        for item in self.primary.monitor.execute('query-block-jobs'):
            if item['device'] == JOB:
                return dict(item)
        return {}

    def wait_offset(self, share: float) -> None:
        def there() -> bool:
            job = self.job()
            check(bool(job), 'the job has ended')
            return bool(job['offset'] >= share * job['len'] > 0)
        wait_for(f'{share} of the disk', there)

    def in_between(self, fault: Callable[[], None]) -> None:
        self.primary.monitor.execute('x-colo-resync',
                                     {**self.begin(), 'speed': SLOW})
        self.wait_offset(self.rng.uniform(0.1, 0.7))
        fault()

    def at_last(self, fault: Callable[[], None]) -> None:
        """All is in the log; the end has not arrived."""
        self.in_between(self.stall)
        self.primary.monitor.execute('block-job-set-speed', {
            'device': JOB, 'speed': 0})
        self.wait_offset(1.0)
        if fault == self.stall:
            return
        fault()
        if not self.pair.vm('secondary').fenced:
            self.pair.vm('secondary').signal(signal.SIGCONT)

    # What happens

    def kill(self) -> None:
        self.pair.fence('secondary')

    def stall(self) -> None:
        self.pair.vm('secondary').signal(signal.SIGSTOP)

    def wait_bad_end(self) -> None:
        """The job fails, or is cancelled."""
        wait_for('the end of the job', lambda: not self.job(), NOTICE_SECONDS)
        monitor = self.primary.monitor
        monitor.poll()
        found = [event for event in monitor.events
                 if event.get('data', {}).get('device') == JOB]
        monitor.events.clear()
        check(len(found) == 1 and ('error' in found[0]['data'] or
                                   found[0]['event'] == CANCELLED),
              f'the job ended so: {found}')

    def forget(self) -> None:
        """Take away what was for that secondary."""
        execute = self.primary.monitor.execute
        soon('the end of replication', lambda: execute('x-blockdev-change', {
            'parent': 'disk0', 'child': disks.PEER_CHILD}))
        self.wait_bad_end()
        for node in ('replication0', 'hash0'):
            soon(f'removing {node}',
                 lambda: execute('blockdev-del', {'node-name': node}))
        self.primary.disks.clear()

    def give_up(self) -> None:
        """The secondary does not answer."""
        soon('block-job-cancel',
             lambda: self.primary.monitor.execute('block-job-cancel',
                                                  {'device': JOB}))
        self.forget()

    def goes_on(self) -> None:
        self.life.served()
        self.check_newer(self.primary.host)

    # The cases

    def secondary_dies(self, when: Callable[..., None]) -> None:
        when(self.kill)
        wait_for('the job to fail', lambda: not self.job(), NOTICE_SECONDS)
        self.forget()
        self.goes_on()

    def secondary_stands(self, when: Callable[..., None]) -> None:
        when(self.stall)
        self.life.served()
        check(bool(self.job()), 'the job has ended')
        self.give_up()
        self.pair.fence('secondary')
        self.goes_on()

    def link_is_cut(self, when: Callable[..., None]) -> None:
        when(self.ctx.hosts.cut_link)
        self.life.served()
        check(bool(self.job()), 'the job has ended')
        self.give_up()
        self.pair.fence('secondary')
        self.ctx.hosts.mend_link()
        self.goes_on()

    def full(self, when: Callable[..., None]) -> None:
        """Nobody notices before the guest has to wait for its disk."""
        when(self.stall)
        wait_full(self.primary)
        self.give_up()
        self.pair.fence('secondary')
        self.goes_on()

    def pause(self, when: Callable[..., None], fault: Callable[[], None],
              end: Callable[[], None]) -> None:
        """It does not last: the job does its work."""
        when(fault)
        disks.wait_fresh(self.primary)
        end()
        disks.wait_resync(self.primary, 0)
        for side in (self.primary, self.pair.vm('secondary')):
            disks.forget_hashes(side, 0)
        self.pair.protect()
        self.pair.fence('primary')
        self.go_on('secondary')

    def secondary_pauses(self, when: Callable[..., None]) -> None:
        self.pause(when, self.stall, lambda: self.pair.vm(
            'secondary').signal(signal.SIGCONT))

    def link_pauses(self, when: Callable[..., None]) -> None:
        self.pause(when, self.ctx.hosts.cut_link, self.ctx.hosts.mend_link)

    def primary_dies(self, when: Callable[..., None]) -> None:
        host = self.primary.host
        when(lambda: None)
        self.primary.kill()
        soon('quit', lambda: self.pair.vm('secondary').monitor.execute('quit'))
        self.pair.vm('secondary').wait_exit()
        self.boot_again(host)
        self.goes_on()

    def too_early(self, when: Callable[..., None]) -> None:
        """A session is refused, and does not disturb the job."""
        when(lambda: None)
        self.pair.begin_protection()
        said = self.primary.monitor.wait_until(
            'the session to be refused', 'query-migrate', 'status', 'failed',
            NOTICE_SECONDS, never=('completed',))['error-desc']
        check('resync' in said, f'refused with {said!r}')
        wait_for('the secondary to end', lambda: self.pair.vm(
            'secondary').status().state == 'ended', NOTICE_SECONDS)
        disks.wait_resync(self.primary, 0)
        self.pair.fence('secondary')
        disks.forget_hashes(self.primary, 0)
        disks.detach(self.primary)
        self.goes_on()


def walk(ctx: Context, mode: str, names: list[tuple[str, str]],
         **changes: Any) -> None:
    """@names: what happens, and when."""
    machine = vm.replace(ctx.machine, memory='256', mode=mode,
                         disks=vm.replace(LAYOUT, **changes))
    state = vm.boot_once(ctx.hosts, machine, ctx.run)
    with vm.Pair(ctx.hosts, machine, ctx.run) as pair:
        going = Resync(ctx, pair, state)
        going.crash()
        for what, when in names:
            try:
                getattr(going, what)(getattr(going, when))
            except Exception as err:
                raise Failed(f'{what} {when}: '
                             f'{type(err).__name__}: {err}') from err
        going.end()
    ctx.note(f'{len(names)} faults, {going.lives} lives')


QUICK = [('secondary_stands', 'at_first'), ('secondary_dies', 'at_last'),
         ('primary_dies', 'in_between')]
FAULTS = ('secondary_dies', 'secondary_stands', 'link_is_cut',
          'secondary_pauses', 'link_pauses')
LONG = [*((what, when) for what in FAULTS
          for when in ('at_first', 'in_between', 'at_last')),
        ('primary_dies', 'in_between'), ('too_early', 'in_between'),
        ('primary_dies', 'in_between')]


@test('/colo/e2e/disk/hybrid/resync/fault')
def faults(ctx: Context) -> None:
    walk(ctx, 'hybrid', LONG if ctx.long else QUICK)


@test('/colo/e2e/disk/resync/fault', long_only=True)
def faults_periodic(ctx: Context) -> None:
    walk(ctx, 'periodic', LONG)


@test('/colo/e2e/disk/resync/fault-full', long_only=True)
def faults_full(ctx: Context) -> None:
    walk(ctx, 'periodic', [('full', 'at_first'), ('full', 'in_between')],
         log_bytes=LOG_BYTES)
