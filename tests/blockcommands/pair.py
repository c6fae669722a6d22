# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair with a replicated disk, as in the manual, and what its guest wrote."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests' / 'e2e'))
# pylint: disable=wrong-import-position
from colo.qmp import Monitor, QmpError                          # noqa: E402

from commands import SIZE                                       # noqa: E402

SECONDS = 30            # for a command, or a state to come
PEER_MS = 600000        # of patience: nothing here is a loss but what we kill
DELAY_MS = 3600000      # checkpoints come when they are asked for
BLOCK = 4096
SLOW = 65536            # bytes a second, of a fold
# Bytes that a fold has to put back.  It has up to 16 MiB in flight before it
# can be told to be slow.
DIRTY = 36 << 20
FILL = 90               # the byte that is everywhere at first
STATES = ('before', 'hybrid', 'periodic', 'folding', 'folded')


class Fault(Exception):
    """What a pair must not do."""


class Over(Exception):
    """A session has ended and said so."""


class Side:
    """One QEMU."""

    def __init__(self, run: Path, name: str, binary: Path,
                 extra: list[str]) -> None:
        self.run = run / name
        self.run.mkdir()
        for image, size in (('disk.img', SIZE), ('n1.img', SIZE),
                            ('cd.iso', BLOCK), ('other.iso', BLOCK)):
            with open(self.run / image, 'wb') as out:
                if image == 'disk.img':
                    out.write(bytes([FILL]) * size)
                out.truncate(size)
        self.name = name
        self.binary = binary
        self.path = self.run / 'log'
        self.log = open(self.path, 'wb')
        self.extra = extra
        self.monitor: Monitor
        self.process: subprocess.Popen[bytes]

    def start(self, extra: list[str]) -> None:
        path = self.run / 'qmp'
        # stdbuf: what qemu-io says is to be read at once
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            ['stdbuf', '-oL', str(self.binary), '-accel', 'qtest',
             '-machine', 'pc', '-m', '16', '-nodefaults', '-no-user-config',
             '-display', 'none', '-object', 'iothread,id=io1',
             '-object', 'throttle-group,id=tg0',
             '-global', 'migration.x-colo-verify-ram=on',
             '-drive', 'if=none,id=cdd0,media=cdrom,format=raw,'
             f'file={self.run}/cd.iso', '-device', 'ide-cd,id=cd0,drive=cdd0',
             '-qmp', f'unix:{path},server=on,wait=off', *self.extra, *extra,
             '-device', 'virtio-blk-pci,drive=disk0,id=vblk0'],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            cwd=self.run)
        self.monitor = Monitor(path, self.alive)

    def alive(self) -> None:
        if self.process.poll() is not None:
            raise Fault(f'the {self.name} died, exit code '
                        f'{self.process.poll()}: {self.said(0)[-600:]}')

    def said(self, since: int) -> str:
        """What is in the log after its first @since bytes."""
        return self.path.read_bytes()[since:].decode(errors='replace')

    def execute(self, name: str, arguments: dict[str, Any] | None = None
                ) -> Any:
        try:
            return self.monitor.execute(name, arguments, SECONDS)
        except QmpError:
            raise
        except Exception as error:
            self.process_end()
            self.alive()
            raise Fault(f'{name} hangs on the {self.name}: {error}') from error

    def process_end(self) -> None:
        """Give one that is dying the time to be dead."""
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            pass

    def human(self, line: str) -> tuple[str, str]:
        """The answer, and what was printed elsewhere."""
        since = self.path.stat().st_size
        answer: str = self.execute('human-monitor-command',
                                   {'command-line': line})
        return answer.strip(), self.said(since)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.execute('query-colo-status')
        return answer

    def io(self, line: str, node: str = 'disk0') -> None:
        """As the guest does it."""
        answer, said = self.human(f'qemu-io {node} "{line}"')
        if answer or 'fail' in said.lower() or \
                not re.search(r'^(read|wrote) ', said, re.M):
            raise Fault(f'{node} of the {self.name}: {line}: {answer} {said}')

    def runs(self) -> bool:
        """Does the guest?"""
        return bool(self.execute('query-status')['running'])

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if hasattr(self, 'process'):
            self.kill()
        if hasattr(self, 'monitor'):
            self.monitor.close()
        self.log.close()


def until(what: str, check: Any, side: Side, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise Fault(f'{what} does not come on the {side.name}: '
                        f'{json.dumps(side.status())[:300]}')
        time.sleep(0.005)


QUORUM = ('driver=quorum,read-pattern=fifo,vote-threshold=1,'
          'node-name=quorum0')


class Pair:
    """A pair in one of STATES."""

    def __init__(self, run: Path, binary: Path, state: str) -> None:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        self.run, self.binary, self.state = run, binary, state
        # In periodic mode there is nothing to be folded by a job
        self.mode = ('periodic' if state not in ('hybrid', 'folding')
                     else 'hybrid')
        self.in_session = state in ('hybrid', 'periodic')
        self.content = bytearray([FILL]) * SIZE     # of the guest's disk
        self.written: set[int] = set()  # blocks of that
        self.turn = 0
        self.may_stay = False       # the overlays, as somebody wants that
        self.primary = Side(run, 'primary', binary, [
            '-drive', f'if=none,id=disk0,{QUORUM},children.0.driver=raw,'
            'children.0.node-name=image0,children.0.file.node-name=file0,'
            f'children.0.file.filename={run}/primary/disk.img'])
        self.secondary = Side(run, 'secondary', binary, [
            '-incoming', 'defer'])
        self.sides = {'primary': self.primary, 'secondary': self.secondary}
        try:
            self.build()
            if state != 'before':
                self.protect()
            if state in ('folding', 'folded'):
                self.fail_over(state == 'folding')
        except BaseException:
            self.end()
            raise

    def build(self) -> None:
        there = self.secondary.run
        for name in ('active', 'hidden'):
            self.new_qcow2(there / f'{name}.qcow2')
        self.secondary.start([
            '-blockdev', 'driver=raw,node-name=parent0,file.driver=throttle,'
            'file.node-name=parent-file,file.throttle-group=tg0,'
            'file.file.driver=file,'
            f'file.file.filename={there}/disk.img',
            '-blockdev', 'driver=replication,node-name=childs0,mode=secondary,'
            'top-id=disk0,file.driver=qcow2,file.node-name=active0,'
            f'file.file.driver=file,file.file.filename={there}/active.qcow2,'
            'file.file.node-name=active-file,'
            'file.backing.driver=qcow2,file.backing.node-name=hidden0,'
            'file.backing.file.driver=file,'
            f'file.backing.file.filename={there}/hidden.qcow2,'
            'file.backing.file.node-name=hidden-file,'
            'file.backing.backing=parent0',
            '-drive', f'if=none,id=disk0,{QUORUM},children.0=childs0'])
        self.primary.start([])
        for side in self.sides.values():
            side.execute('migrate-set-capabilities', {'capabilities': [
                {'capability': 'x-colo', 'state': True}]})
            side.execute('migrate-set-parameters', {
                'x-colo-mode': self.mode, 'x-colo-timeout': PEER_MS,
                'x-colo-max-pause': PEER_MS, 'x-checkpoint-delay': DELAY_MS})
        address = {'type': 'unix', 'path': f'{self.run}/nbd'}
        self.secondary.execute('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': address['path']}}})
        self.secondary.execute('blockdev-add', {
            'driver': 'replication-sink', 'node-name': 'sink0',
            'file': 'parent0'})
        self.secondary.execute('nbd-server-add', {'device': 'sink0',
                                                  'writable': True})
        self.primary.execute('blockdev-add', {
            'driver': 'replication', 'mode': 'primary',
            'node-name': 'replication0', 'batch': True, 'file': {
                'driver': 'nbd', 'node-name': 'nbd0', 'export': 'sink0',
                'server': address}})
        self.primary.execute('x-blockdev-change', {
            'parent': 'quorum0', 'node': 'replication0'})

    def new_qcow2(self, path: Path) -> None:
        subprocess.run([self.binary.parent / 'qemu-img', 'create', '-q', '-f',
                        'qcow2', path, str(SIZE)], check=True,
                       stdin=subprocess.DEVNULL)

    # The guest

    def put(self, byte: int, offset: int, length: int) -> None:
        """This is what the disk is to have."""
        self.content[offset:offset + length] = bytes([byte]) * length

    def write(self, side: Side) -> None:
        """The guest writes something new."""
        block = self.turn * 37 % 2048
        self.turn += 1
        byte = self.turn % 255 + 1
        self.put(byte, block * BLOCK, BLOCK)
        self.written.add(block)
        side.io(f'write -P {byte} {block * BLOCK} {BLOCK}')

    def check_written(self, side: Side, node: str = 'disk0') -> None:
        """All that the guest wrote is there."""
        for block in self.written:
            side.io(f'read -P {self.content[block * BLOCK]} {block * BLOCK} '
                    f'{BLOCK}', node)

    def check_all(self, side: Side) -> None:
        """The guest of @side reads what its disk is to have, and no more."""
        begin = 0
        for end in range(BLOCK, SIZE + 1, BLOCK):
            if end == SIZE or self.content[end] != self.content[begin]:
                side.io(f'read -P {self.content[begin]} {begin} {end - begin}')
                begin = end

    # The session

    def protect(self) -> None:
        """Over if it is refused."""
        self.secondary.execute('migrate-incoming', {
            'uri': f'unix:{self.run}/mig'})
        try:
            self.primary.execute('migrate', {'uri': f'unix:{self.run}/mig'})
        except QmpError as error:
            raise Over(f'migrate: {error.desc}') from error

        def come() -> bool:
            status = self.primary.status()
            if status.get('state') == 'alone' or \
                    (status.get('mode') == 'none' and status.get('message')):
                raise Over(f'migrate: {status.get("message")}')
            return status.get('state') == 'running'

        until('a session', come, self.primary)
        self.checkpoint()

    def checkpoint(self) -> None:
        """The next one, and nothing differs.  Over if the session ended."""
        def verified(status: dict[str, Any]) -> int:
            return int(status.get('statistics', {})
                       .get('checkpoints-verified', 0))

        goal = verified(self.secondary.status()) + 1
        try:
            self.primary.execute('x-colo-checkpoint')
        except QmpError:
            pass                # it has ended: come() says why

        def come() -> bool:
            mine = self.primary.status()
            if mine.get('mode') == 'none':
                raise Over(mine.get('message', 'without a word'))
            status = self.secondary.status()
            wrong = [status['statistics'][f'{kind}-mismatches']
                     for kind in ('ram', 'disk')
                     if f'{kind}-mismatches' in status.get('statistics', {})]
            if any(wrong):
                raise Fault('RAM or disks of the two sides differ')
            return verified(status) >= goal

        until('a checkpoint', come, self.primary)

    def stage(self) -> str:
        disks = self.secondary.status().get('disks', [])
        return disks[0]['stage'] if disks else 'none'

    def fold_job(self) -> str:
        for job in self.secondary.execute('query-block-jobs'):
            if job['type'] == 'commit' and job['device'] != 'j1':
                return str(job['device'])
        return ''

    def throttle(self, rate: int) -> None:
        self.secondary.execute('qom-set', {
            'path': '/objects/tg0', 'property': 'limits',
            'value': {'bps-write': rate}})

    def fail_over(self, slow: bool = False) -> None:
        """The primary is dead.  @slow: the fold takes long."""
        if slow:
            self.primary.io(f'write -P 78 {SIZE - DIRTY} {DIRTY}')
            self.put(78, SIZE - DIRTY, DIRTY)
            self.checkpoint()
            self.primary.io(f'write -P 77 {SIZE - DIRTY} {DIRTY}')
            until('what was written', lambda:
                  self.secondary.status()['disks'][0].get(
                      'overlay-bytes', 0) >= DIRTY, self.secondary)
        self.primary.kill()
        until('a lost peer', lambda: self.secondary.status().get('state') ==
              'lost', self.secondary)
        if slow:
            self.throttle(1 << 20)
            self.secondary.execute('x-colo-lost-heartbeat')
            until('a fold', lambda: self.stage() != 'stopped' and
                  self.fold_job(), self.secondary)
            self.secondary.execute('block-job-set-speed', {
                'device': self.fold_job(), 'speed': SLOW})
            self.throttle(0)
        else:
            self.secondary.execute('x-colo-lost-heartbeat')
            until('a guest', self.secondary.runs, self.secondary)
            self.folded()

    def folded(self) -> None:
        """Wait until the overlays are in the image."""
        job = self.fold_job()
        if job:
            try:
                self.secondary.execute('block-job-set-speed', {
                    'device': job, 'speed': 0})
            except QmpError:
                pass                # it has ended just now
        until('the end of the fold', lambda: not self.fold_job() and
              self.stage() not in ('running', 'folding'), self.secondary)
        if self.stage() == 'unfolded' and not self.may_stay:
            raise Fault('the overlays are not folded into the disk')

    # Ends

    def local_node(self) -> str:
        """The first child of the primary's disk."""
        graph = self.primary.execute('x-debug-query-block-graph')
        ids = {node['id']: node['name'] for node in graph['nodes']}
        top = [i for i, name in ids.items() if name == 'quorum0']
        for edge in graph['edges']:
            if edge['parent'] in top and edge['name'] == 'children.0':
                return str(ids[edge['child']])
        return ''

    def check_local(self) -> None:
        """The primary could go on alone."""
        node = self.local_node()
        if not node:
            raise Fault('the primary has no copy of its own')
        self.check_written(self.primary, node)

    def look(self) -> None:
        """Does the guest go on, and the session?"""
        survivor = self.state in ('folding', 'folded')
        side = self.secondary if survivor else self.primary
        if not side.runs():
            raise Fault(f'the guest of the {side.name} stands')
        self.write(side)
        self.check_written(side)
        if self.in_session:
            self.checkpoint()

    def finish(self) -> None:
        """Fault unless all is there after a failover; Over as in protect()."""
        if self.state == 'before':
            self.write(self.primary)
            self.protect()
        if self.state in ('before', 'hybrid', 'periodic'):
            self.write(self.primary)
            self.checkpoint()
            self.check_local()
            self.check_all(self.primary)
            self.fail_over()
        self.folded()
        if not self.secondary.runs():
            raise Fault('the guest of the secondary stands')
        self.write(self.secondary)
        self.check_all(self.secondary)

    def end(self) -> None:
        for side in self.sides.values():
            side.end()
