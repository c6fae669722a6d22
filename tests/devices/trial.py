# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done with a model, or several at once: a pair that lives and dies.

No guest OS: the firmware is what runs, and runs again whenever the VM is
reset.  One pair in each mode; see run() for what has to hold.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

sys.path.append(str(Path(__file__).resolve().parents[1] / 'e2e'))
# pylint: disable=wrong-import-position
from colo import product                                    # noqa: E402
from colo.qmp import (Monitor, QmpClosed, QmpError,         # noqa: E402
                      QmpTimeout)
from recipe import CHILDREN, Setup, arguments, programs     # noqa: E402

MODES = ('periodic', 'hybrid')
START_SECONDS = 60.0
WAIT_SECONDS = 60.0
EXIT_SECONDS = 30.0
POLL_SECONDS = 0.005
SOON = 10               # loads; so many more are waited for with longer sleeps
BACKTRACE_SECONDS = 120.0
TIMEOUT_MS = 20000      # of a session: nobody is to be silent here
NEVER_MS = 600000       # a checkpoint is taken when it is asked for
ALWAYS_MS = 1
FIRMWARE_SECONDS = 45.0     # of silence
FIRMWARE_STEP = 256     # bytes of its log, between two checkpoints
CHECKPOINTS = 3
WARM_LOADS = 60         # after which memory has to be flat
LOADS = 300
QUIET_SECONDS = 0.05
QUIET_SAMPLES = 6
ATTEMPTS = 5            # at that
# What may stay: something is made when it is first needed
SLACK = 2560
GROWTH = 16             # bytes a load: the least that malloc() hands out


def booted(said: bytes) -> bool:
    """The firmware has come up."""
    return bool(re.search(b'Booting from|No bootable device', said))


def has_begun(said: bytes) -> bool:
    """It is in the middle of it."""
    return len(said) >= FIRMWARE_STEP


class Failure(Exception):
    """A model does not hold what a pair promises."""


class NotMade(Exception):
    """QEMU did not start; the reason is its last message."""


class Refused(Exception):
    """The primary refuses to migrate; the reason is its message."""


class Qemu:
    """One QEMU process with a monitor."""

    def __init__(self, binary: Path, heap: Path, run: Path, name: str,
                 args: list[str], explain: bool = True,
                 needs: dict[str, list[str]] | None = None):
        self.name = name
        self.explain = explain
        self.dir = run / name
        self.dir.mkdir()
        self.others: list[subprocess.Popen[bytes]] = []
        for listens, command in (needs or {}).items():
            self._start(command, self.dir / listens)
        self.log = self.dir / 'log'
        path = self.dir / 'qmp'
        argv = [str(binary), '-nodefaults', '-no-user-config',
                '-display', 'none', '-name', f'{name},debug-threads=on',
                '-qmp', f'unix:{path},server=on,wait=off', *args]
        # What a thread keeps for itself when it is freed counts as in use
        env = {**os.environ, 'LD_PRELOAD': str(heap),
               'GLIBC_TUNABLES': 'glibc.malloc.tcache_count=0',
               'COLO_HEAP_SOCKET': str(self.dir / 'heap')}
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, cwd=self.dir, env=env,
                preexec_fn=lambda: resource.setrlimit(
                    resource.RLIMIT_CORE,
                    (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
        self.argv = argv
        try:
            self.monitor = Monitor(path, self._must_live, START_SECONDS)
        except (QmpClosed, QmpTimeout):
            self.kill()
            raise NotMade(self.last_words()) from None
        except BaseException:
            self.kill()
            raise

    def _start(self, command: list[str], listens: Path) -> None:
        """A program that QEMU is a client of."""
        if not shutil.which(command[0]):
            raise NotMade(f'needs {command[0]}')
        self.others.append(subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd=self.dir))
        deadline = time.monotonic() + START_SECONDS
        while not listens.exists():
            if self.others[-1].poll() is not None or (
                    time.monotonic() > deadline):
                self._stop_others()
                raise NotMade(f'{command[0]} does not start')
            time.sleep(POLL_SECONDS)

    def _stop_others(self) -> None:
        for process in self.others:
            process.kill()
            process.wait()

    def _must_live(self) -> None:
        if self.process.poll() is not None:
            raise NotMade(self.last_words())

    def last_words(self) -> str:
        text = self.log.read_text(errors='replace')
        lines = [line for line in text.splitlines()
                 if line.strip() and 'warning:' not in line]
        last = lines[-1] if lines else ''
        code = self.process.poll()
        if code is not None and code < 0:
            last += f' (signal {-code})'
        return re.sub(r'^\S*qemu-\S+: ', '', last)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._stop_others()
        if hasattr(self, 'monitor'):
            self.monitor.close()

    def alive(self, what: str) -> None:
        if self.process.poll() is not None:
            raise Failure(f'{self.name} died {what}: {self.end()}')

    def end(self) -> str:
        code = self.process.wait(EXIT_SECONDS)
        words = self.last_words()
        if code >= 0:
            return f'exit status {code}; {words}'
        return f'signal {-code}; {words}\n{self.backtrace()}'.rstrip()

    def backtrace(self) -> str:
        """Where it crashed, or where its main thread hangs.  That takes a
        while, so not in a VM of several devices, which are tried apart."""
        if not self.explain:
            return ''
        command = ['gdb', '-batch', '-nx', '-ex', 'thread apply 1 bt 16']
        if self.process.poll() is None:
            command += ['-p', str(self.process.pid)]
        else:
            cores = sorted(self.dir.glob('core*'))
            if not cores:
                return ''
            command[-1] = 'bt 16'
            command += [self.argv[0], str(cores[0])]
        if not shutil.which('gdb'):
            return ''
        done = subprocess.run(command, check=False, capture_output=True,
                              text=True, stdin=subprocess.DEVNULL,
                              timeout=BACKTRACE_SECONDS)
        return '\n'.join(line for line in done.stdout.splitlines()
                         if re.match(r'#\d', line))

    def execute(self, command: str, **arguments: Any) -> Any:
        return self.monitor.execute(
            command, {key.replace('_', '-'): value
                      for key, value in arguments.items()})

    def status(self) -> product.Status:
        return product.status(self.monitor)

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        """Until @done; a Failure that says what was waited for otherwise."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not done():
            if time.monotonic() > deadline:
                status = self.status()
                raise Failure(f'{self.name}: not {what} after '
                              f'{WAIT_SECONDS:.0f} s, state {status.state}')
            time.sleep(POLL_SECONDS)

    def wait_state(self, *wanted: str) -> None:
        self.wait('/'.join(wanted), lambda: self.status().state in wanted)

    def heap(self) -> int:
        """How many bytes of its heap are in use, see heap.c."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asks:
            path = self.dir / 'asks-heap'
            asks.bind(str(path))
            asks.settimeout(WAIT_SECONDS)
            asks.sendto(b'?', str(self.dir / 'heap'))
            answer = asks.recv(32)
            path.unlink()
        return int(answer)

    def firmware(self) -> bytes:
        """What the firmware has said."""
        path = self.dir / 'firmware'
        return path.read_bytes() if path.exists() else b''

    def wait_firmware(self, done: Callable[[bytes], bool],
                      old: int | None = None) -> None:
        """Until @done with what it says from now on, or from byte @old on.

        A Failure if it falls silent before that.
        """
        if not (self.dir / 'firmware').exists():
            return
        begin = len(self.firmware()) if old is None else old
        size = 0
        deadline = time.monotonic() + FIRMWARE_SECONDS
        while not done(said := self.firmware()[begin:]):
            self.alive('while its firmware ran')
            if len(said) > size:
                size = len(said)
                deadline = time.monotonic() + FIRMWARE_SECONDS
            elif time.monotonic() > deadline:
                raise Failure(f'{self.name}: the firmware hangs after '
                              f'{said[-80:]!r}')
            time.sleep(POLL_SECONDS)

    def reset(self, done: Callable[[bytes], bool]) -> None:
        """A reset, and the firmware from there on until @done."""
        self.execute('system_reset')
        self.wait_firmware(done)

    def sees(self) -> set[str]:
        """Where the guest finds its devices.

        Where they find its memory is no part of that: a reset takes the right
        to look away, but not before the guest has set the device up again.
        """
        maps: str = self.execute('human-monitor-command',
                                 command_line='info mtree')
        return {line.strip() for line in maps.splitlines()
                if 'alias bus master @' not in line}

    def quiet_heap(self) -> int:
        """The same when nothing is under way: what RCU still has to free goes
        within a moment.  So the least of some."""
        return min(self._heap_later() for _ in range(QUIET_SAMPLES))

    def _heap_later(self) -> int:
        time.sleep(QUIET_SECONDS)
        return self.heap()


def buses_of(qtree: str, device: str) -> list[tuple[str, str]]:
    """(type, name) of each bus on which @device or a part of it lets others
    sit, and nobody sits, by `info qtree`."""
    found: list[tuple[str, str]] = []
    depth = -1
    name = ''
    for line in qtree.splitlines():
        indent = len(line) - len(line.lstrip())
        word = line.strip()
        if word.startswith('dev: '):
            if depth >= 0 and indent <= depth:
                break
            if word.endswith(f'id "{device}"'):
                depth = indent
            elif depth >= 0 and found and found[-1][1] == name:
                found.pop()         # somebody sits there
        elif depth >= 0 and word.startswith('bus: '):
            name = word[5:]
        elif depth >= 0 and word.startswith('type ') and name:
            found.append((word[5:], name))
    return found


def protect(primary: Qemu, secondary: Qemu, mode: str, run: Path) -> None:
    uri = f'unix:{run / "migrate"}'
    for vm in (primary, secondary):
        set_up(vm, mode)
    secondary.execute('migrate-incoming', uri=uri)
    primary.execute('migrate', uri=uri)
    ready = 'running' if mode == 'hybrid' else 'standing'

    def protected() -> bool:
        for vm in (primary, secondary):
            answer = vm.execute('query-migrate')
            if answer.get('status') in ('failed', 'completed', 'cancelled'):
                raise Failure(f'{vm.name}: the first migration: '
                              f'{answer["status"]}, '
                              f'{answer.get("error-desc", "no reason")}')
        return (primary.status().state == 'running' and
                secondary.status().state == ready)
    primary.wait('protected', protected)


def set_up(vm: Qemu, mode: str) -> None:
    vm.execute('migrate-set-capabilities', capabilities=[
        {'capability': product.CAPABILITY, 'state': True}])
    vm.execute('migrate-set-parameters', **{
        product.PARAMETER_MODE: mode, product.PARAMETER_DELAY: NEVER_MS,
        product.PARAMETER_TIMEOUT: TIMEOUT_MS, 'max-bandwidth': 0})


def checkpoint(primary: Qemu, secondary: Qemu) -> None:
    """One that is asked for."""
    goal = secondary.status().verified + 1
    primary.execute('x-colo-checkpoint')
    loads(primary, secondary, goal)


def loads(primary: Qemu, secondary: Qemu, goal: int) -> None:
    """Until @goal checkpoints are loaded."""
    seen = 0
    deadline = time.monotonic() + WAIT_SECONDS
    while seen < goal:
        mine, other = primary.status(), secondary.status()
        if mine.mode != 'primary' or mine.state == 'lost':
            raise Failure(f'protection ended: primary {mine.state}, '
                          f'{primary.last_words()}; secondary {other.state}, '
                          f'{secondary.last_words()}')
        if other.verified > seen:
            seen = other.verified
            deadline = time.monotonic() + WAIT_SECONDS
        elif time.monotonic() > deadline:
            raise Failure(f'no load {seen + 1} after {WAIT_SECONDS:.0f} s: '
                          f'primary {mine.state}, secondary {other.state}')
        time.sleep(POLL_SECONDS if goal - seen < SOON else POLL_SECONDS * SOON)


def many(primary: Qemu, secondary: Qemu, count: int) -> None:
    """@count loads, one after the other, and then silence."""
    goal = secondary.status().verified + count
    primary.execute('migrate-set-parameters',
                    **{product.PARAMETER_DELAY: ALWAYS_MS})
    loads(primary, secondary, goal)
    primary.execute('migrate-set-parameters',
                    **{product.PARAMETER_DELAY: NEVER_MS})
    # One may be under way; a further one is the last
    primary.wait_state('running')
    checkpoint(primary, secondary)
    primary.wait_state('running')
    secondary.wait_state('standing', 'running')
    assert secondary.status().verified > goal


def flat(primary: Qemu, secondary: Qemu, count: int) -> str:
    """@count loads after which the heap of neither is larger: a table that
    has to grow does so once, a leak each time."""
    limit = SLACK + GROWTH * count
    for attempt in range(ATTEMPTS):
        before = [vm.quiet_heap() for vm in (primary, secondary)]
        first = secondary.status().statistics['load']['p50']
        many(primary, secondary, count)
        last = secondary.status().statistics['load']['p50']
        grown = [vm.quiet_heap() - old
                 for vm, old in zip((primary, secondary), before)]
        if max(grown) <= limit:
            break
    else:
        raise Failure(f'{grown} more bytes of heap on primary and secondary '
                      f'after {count} loads, {attempt + 1} times')
    return f'load {first}..{last} us, heap grew by {grown}'


def compare_places(mine: set[str], other: set[str]) -> None:
    if mine != other:
        raise Failure('the guests see devices in other places: primary '
                      f'{sorted(mine - other)[:3]}, secondary '
                      f'{sorted(other - mine)[:3]}')


def session(primary: Qemu, secondary: Qemu, mode: str, count: int,
            up: Callable[[bytes], bool]) -> str:
    """Checkpoints while the firmware runs, then many while it is paused; @up
    says when it has come as far as it does with these devices."""
    for step in range(CHECKPOINTS):
        checkpoint(primary, secondary)
        last = step == CHECKPOINTS - 1
        primary.reset(up if last else has_begun)
    primary.execute('stop')
    many(primary, secondary, min(count, WARM_LOADS))
    note = flat(primary, secondary, count)
    status = secondary.status()
    if status.mismatches:
        raise Failure(f'RAM differs after {status.mismatches} of '
                      f'{status.verified} loads')
    compare_places(primary.sees(), secondary.sees())
    if mode == 'hybrid':
        primary.execute('cont')
        secondary.wait('running again', lambda: secondary.execute(
            'query-status')['status'] == 'running')
    return note


def failover(primary: Qemu, secondary: Qemu,
             up: Callable[[bytes], bool]) -> None:
    # A hybrid guest goes on by itself, which matters if its firmware does
    places = primary.sees() if up is booted else None
    primary.kill()
    secondary.wait_state('lost')
    secondary.execute(product.FAILOVER)
    secondary.wait_state('live')
    if places is not None:
        compare_places(places, secondary.sees())
    survive(secondary, up)


def survive(vm: Qemu, up: Callable[[bytes], bool]) -> None:
    """The survivor's monitor answers, and the firmware comes up with all its
    devices after a reset."""
    status = vm.execute('query-status')['status']
    if status == 'paused':
        vm.execute('cont')
        status = vm.execute('query-status')['status']
    if status != 'running':
        raise Failure(f'the survivor is {status}')
    vm.execute('human-monitor-command', command_line='info qtree')
    vm.reset(up)
    status = vm.execute('query-status')['status']
    if status != 'running':
        raise Failure(f'the survivor is {status} after a reset')
    vm.execute('quit')
    if vm.process.wait(EXIT_SECONDS):
        raise Failure(f'the survivor ended badly: {vm.end()}')


def populated(setup: Setup, tree: str, number: int) -> Setup:
    """The same with something on the first free bus of the device, which is
    @number in the VM with that `info qtree`."""
    if setup.children:
        return setup
    device = f'd{number}'
    buses = [(kind, bus.replace(device, 'd{n}', 1))
             for kind, bus in buses_of(tree, device)
             if kind in CHILDREN and re.match(rf'{device}\b', bus)]
    return replace(setup, children=tuple(buses[:1]))


class Trials:
    """Runs trials with one binary."""

    def __init__(self, binary: Path, scratch: Path, keep: bool = False):
        self.binary = binary
        self.heap = scratch / 'heap.so'
        subprocess.run(['cc', '-O2', '-shared', '-fPIC', '-o', self.heap,
                        Path(__file__).with_name('heap.c')], check=True)
        self.scratch = scratch
        self.keep = keep

    def probe(self, setups: list[Setup]) -> list[Setup]:
        """Are they made, and would migrate begin?  What sits on their buses.

        NotMade, Refused or Failure if not.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            run = Path(name)
            vm = Qemu(self.binary, self.heap, run, 'probe',
                      arguments(setups) + ['-S'],
                      needs=programs(setups))
            try:
                tree = vm.execute('human-monitor-command',
                                  command_line='info qtree')
                set_up(vm, 'periodic')
                try:
                    vm.execute('migrate', uri=f'unix:{run / "nobody"}')
                except QmpError as err:
                    raise Refused(err.desc) from None
                return [populated(setup, tree, number)
                        for number, setup in enumerate(setups, 1)]
            except (QmpClosed, QmpTimeout) as err:
                raise Failure(f'{err}: {vm.end()}') from err
            finally:
                vm.kill()

    def run(self, setups: list[Setup], mode: str,
            count: int = LOADS) -> str:
        """One pair with all of @setups in one mode; a Failure if it does not
        hold: RAM equal after each load, memory flat over @count of them, the
        survivor alive."""
        run = Path(tempfile.mkdtemp(dir=self.scratch))
        vms: list[Qemu] = []
        try:
            args = arguments(setups) + ['-global', product.VERIFY_RAM]
            explain = len(setups) == 1
            needs = programs(setups)
            primary = Qemu(self.binary, self.heap, run, 'primary', args,
                           explain, needs)
            vms.append(primary)
            up = booted
            try:
                primary.wait_firmware(booted, 0)
            except Failure as err:
                # Some devices stop it, in a pair or not
                if len(setups) > 1:
                    raise NotMade(str(err)) from err
                up = has_begun
            secondary = Qemu(self.binary, self.heap, run, 'secondary',
                             args + ['-incoming', 'defer'], explain, needs)
            vms.append(secondary)
            try:
                protect(primary, secondary, mode, run)
                note = session(primary, secondary, mode, count, up)
                failover(primary, secondary, up)
            except (QmpError, QmpClosed, QmpTimeout, Failure) as err:
                # Who died says more than what was waited for
                for vm in reversed(vms):
                    if isinstance(err, QmpClosed):
                        try:
                            vm.process.wait(EXIT_SECONDS / 10)
                        except subprocess.TimeoutExpired:
                            continue
                    if vm.process.poll() not in (None, 0, -9):
                        raise Failure(f'{vm.name}: {err}: {vm.end()}') from err
                text = str(err)
                if isinstance(err, QmpTimeout):
                    text += ''.join(f'\n{vm.name}:\n{vm.backtrace()}'
                                    for vm in vms if vm.process.poll() is None)
                raise Failure(text) from err
            return note
        finally:
            for vm in vms:
                vm.kill()
            if not self.keep:
                shutil.rmtree(run, ignore_errors=True)
