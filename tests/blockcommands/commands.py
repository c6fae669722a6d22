# SPDX-License-Identifier: GPL-2.0-or-later
"""The block commands of both monitors, and arguments for each.

Which commands there are is read from the QAPI schema and from the tables of the
human monitor.  One that has no arguments here is an error of the test.

In arguments ``$T`` is a disk or node by the name that most commands take,
``$N`` a node by its node name, ``$D`` the directory of the side, ``$F`` a new
file name, ``$Q`` a new empty qcow2 file, ``$J`` a job.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIZE = 40 << 20
WRITTEN = 15 << 20, 4096        # by qemu-io
VIRTIO = '/machine/peripheral/vblk0/virtio-backend'
MODULES = ('block-core', 'block-export', 'block', 'transaction', 'job')

Step = tuple[str, dict[str, Any]]

# To what a command is applied
NODES = 'nodes'         # each node of the disk
TOP = 'top'             # the guest's disk alone
ONCE = 'once'           # to none of them
MEDIUM = 'medium'       # a CD-ROM drive
EXPORT = 'export'       # an NBD export
JOB = 'job'             # a job, and the fold while there is one
PEER = 'peer'           # children of the guest's disk


@dataclass
class Entry:
    """How a command is tried."""
    at: str
    args: Any = None            # of QMP: dict; of HMP: the rest of the line
    # Before it; what is refused there is not held against the command
    setup: tuple[Step, ...] = ()
    # Afterwards.  None: there is no way back, the pair is not used again.
    undo: tuple[Step, ...] | None = ()
    label: str = ''             # if a command is tried in several ways
    takes: bool = False         # the guest lacks its disk after that
    # What HMP answers if it works; what qemu-io says does not come there
    answer: str = ''
    writes: int | None = None   # this byte to WRITTEN


@dataclass
class Command:
    """An entry of a command that is there."""
    name: str
    human: bool
    entry: Entry
    step: Step = field(init=False)

    def __post_init__(self) -> None:
        args = self.entry.args
        if self.human:
            line = f'{self.name} {args or ""}'.strip()
            self.step = ('human-monitor-command', {'command-line': line})
        elif self.name.startswith('transaction '):
            self.step = ('transaction', {'actions': [
                {'type': self.name.split()[1], 'data': args or {}}]})
        else:
            self.step = (self.name, args or {})

    @property
    def title(self) -> str:
        label = f' ({self.entry.label})' if self.entry.label else ''
        return f'{self.name}{label}'


def hmp(line: str) -> Step:
    return ('human-monitor-command', {'command-line': line})


FILE: Step = ('blockdev-add', {
    'driver': 'raw', 'node-name': 'n1',
    'file': {'driver': 'file', 'filename': '$D/n1.img'}})
OVERLAY: Step = ('blockdev-add', {
    'driver': 'qcow2', 'node-name': 'n2', 'backing': None,
    'file': {'driver': 'file', 'filename': '$Q'}})
DEL1: Step = ('blockdev-del', {'node-name': 'n1'})
DEL2: Step = ('blockdev-del', {'node-name': 'n2'})
CANCEL: Step = ('block-job-cancel', {'device': 'j1', 'force': True})
# A job that goes on until it is told to end
BACKUP: Step = ('blockdev-backup', {
    'job-id': 'j1', 'device': '$N', 'sync': 'none', 'target': 'n1',
    'auto-finalize': True})
KEPT: Step = ('blockdev-backup', {
    'job-id': 'j1', 'device': '$N', 'sync': 'none', 'target': 'n1',
    'auto-dismiss': False})
PENDING: Step = ('blockdev-backup', {
    'job-id': 'j1', 'device': '$N', 'sync': 'full', 'target': 'n1',
    'auto-finalize': False})
MIRROR: Step = ('blockdev-mirror', {
    'job-id': 'j1', 'device': '$N', 'sync': 'full', 'target': 'n1'})
# What the job of a step is before anything is done with it
REACHED = ((PENDING, 'pending'), (MIRROR, 'ready'))
SERVER: Step = ('nbd-server-start', {
    'addr': {'type': 'unix', 'data': {'path': '$D/own.nbd'}}})
DISMISS: Step = ('job-dismiss', {'id': 'j1'})
BITMAP: Step = ('block-dirty-bitmap-add', {'node': '$N', 'name': 'b1'})
BITMAP2: Step = ('block-dirty-bitmap-add', {'node': '$N', 'name': 'b2'})
NO_BITMAP: Step = ('block-dirty-bitmap-remove', {'node': '$N', 'name': 'b1'})
NO_BITMAP2: Step = ('block-dirty-bitmap-remove', {'node': '$N', 'name': 'b2'})
INTERNAL: Step = ('blockdev-snapshot-internal-sync',
                  {'device': '$T', 'name': 's1'})
NO_INTERNAL: Step = ('blockdev-snapshot-delete-internal-sync',
                     {'device': '$T', 'name': 's1'})
EXPORTED: Step = ('block-export-add', {
    'type': 'nbd', 'id': 'e1', 'node-name': '$N', 'name': 'e1'})
NO_EXPORT: Step = ('block-export-del', {'id': 'e1', 'mode': 'hard'})
UNLIMITED: Step = ('block_set_io_throttle', {
    'device': 'disk0', 'bps': 0, 'bps_rd': 0, 'bps_wr': 0, 'iops': 0,
    'iops_rd': 0, 'iops_wr': 0})
CLOSE: Step = ('blockdev-close-tray', {'id': 'cd0'})

BITMAP_ARGS = {'node': '$N', 'name': 'b1'}
BITMAP_ENTRY = Entry(NODES, BITMAP_ARGS, (BITMAP,), (NO_BITMAP,))


def job(args: dict[str, Any], *setup: Step, at: str = JOB) -> Entry:
    """A command for jobs; @setup has a job j1."""
    return Entry(at, args, setup or (FILE, BACKUP), (CANCEL, DISMISS, DEL1))


def resized(size: int) -> Entry:
    back: Step = ('block_resize', {'node-name': '$N', 'size': SIZE})
    return Entry(NODES, {'node-name': '$N', 'size': size}, (), (back,),
                 'larger' if size > SIZE else 'smaller')


QMP: dict[str, list[Entry]] = {
    'block-commit': [Entry(NODES, {'job-id': 'j1', 'device': '$T'},
                           (), (CANCEL, DISMISS))],
    'block-dirty-bitmap-add': [Entry(NODES, BITMAP_ARGS, (), (NO_BITMAP,))],
    'block-dirty-bitmap-clear': [BITMAP_ENTRY],
    'block-dirty-bitmap-disable': [BITMAP_ENTRY],
    'block-dirty-bitmap-enable': [BITMAP_ENTRY],
    'block-dirty-bitmap-merge': [Entry(
        NODES, {'node': '$N', 'target': 'b1', 'bitmaps': ['b2']},
        (BITMAP, BITMAP2), (NO_BITMAP, NO_BITMAP2))],
    'block-dirty-bitmap-remove': [BITMAP_ENTRY],
    'x-debug-block-dirty-bitmap-sha256': [BITMAP_ENTRY],
    'block-export-add': [
        Entry(NODES, {**EXPORTED[1], 'writable': writable}, (SERVER,),
              (NO_EXPORT,), 'writable' if writable else '')
        for writable in (False, True)],
    'block-export-del': [Entry(EXPORT, {'id': '$T', 'mode': 'hard'},
                               (SERVER, EXPORTED), None)],
    'block-job-cancel': [job({'device': '$J', 'force': True})],
    'block-job-change': [job({'id': '$J', 'type': 'mirror',
                              'copy-mode': 'write-blocking'}, FILE, MIRROR)],
    'block-job-complete': [
        job({'device': '$J'}),
        Entry(NODES, {'device': 'j1'}, (FILE, MIRROR), None,
              'of a mirror')],
    'block-job-dismiss': [job({'id': '$J'}, FILE, KEPT, CANCEL)],
    'block-job-finalize': [job({'id': '$J'}, FILE, PENDING)],
    'block-job-pause': [job({'device': '$J'})],
    'block-job-resume': [job({'device': '$J'})],
    'block-job-set-speed': [job({'device': '$J', 'speed': 65536})],
    'block-latency-histogram-set': [Entry(
        TOP, {'id': VIRTIO, 'boundaries': [10, 100]}, (),
        (('block-latency-histogram-set', {'id': VIRTIO}),))],
    'block-set-write-threshold': [Entry(
        NODES, {'node-name': '$N', 'write-threshold': 4096}, (),
        (('block-set-write-threshold',
          {'node-name': '$N', 'write-threshold': 0}),))],
    'block-stream': [Entry(NODES, {'job-id': 'j1', 'device': '$T'},
                           (), (CANCEL, DISMISS))],
    'block_resize': [resized(2 * SIZE), resized(SIZE // 2)],
    'block_set_io_throttle': [Entry(
        TOP, {**UNLIMITED[1], 'iops': 100000}, (), (UNLIMITED,))],
    'blockdev-add': [
        Entry(ONCE, FILE[1], (), (DEL1,)),
        Entry(NODES, {'driver': 'raw', 'node-name': 'n1', 'file': '$N'},
              (), (DEL1,), 'above a node'),
        Entry(NODES, {'driver': 'replication', 'mode': 'primary',
                      'node-name': 'n1', 'file': '$N'}, (), (DEL1,),
              'replication')],
    'blockdev-backup': [Entry(
        NODES, {'job-id': 'j1', 'device': '$N', 'sync': 'full',
                'target': 'n1'}, (FILE,), (CANCEL, DISMISS, DEL1)),
        Entry(NODES, {'job-id': 'j1', 'device': 'n1', 'sync': 'full',
                      'target': '$N'}, (FILE,), None, 'onto a node')],
    'blockdev-close-tray': [Entry(MEDIUM, {'id': 'cd0'})],
    'blockdev-create': [Entry(ONCE, {'job-id': 'j1', 'options': {
        'driver': 'file', 'filename': '$F', 'size': SIZE}}, (), (DISMISS,)),
        Entry(NODES, {'job-id': 'j1', 'options': {
            'driver': 'qcow2', 'file': '$N', 'size': SIZE}}, (), (DISMISS,),
              'onto a node')],
    'blockdev-del': [Entry(NODES, {'node-name': '$N'}, (), None)],
    'blockdev-mirror': [Entry(NODES, MIRROR[1], (FILE,),
                              (CANCEL, DISMISS, DEL1)),
                        Entry(NODES, {**MIRROR[1], 'device': 'n1',
                                      'target': '$N'}, (FILE,), None,
                              'onto a node')],
    'blockdev-change-medium': [Entry(MEDIUM, {
        'id': 'cd0', 'filename': '$D/other.iso', 'format': 'raw'}, (), None)],
    'blockdev-insert-medium': [Entry(
        MEDIUM, {'id': 'cd0', 'node-name': 'n1'}, (FILE,), None)],
    'blockdev-open-tray': [Entry(MEDIUM, {'id': 'cd0', 'force': True}, (),
                                 (CLOSE,))],
    'blockdev-remove-medium': [Entry(MEDIUM, {'id': 'cd0'}, (), None)],
    'blockdev-reopen': [
        Entry(NODES, {'options': ['$SAME']}),
        Entry(NODES, {'options': ['$READ-ONLY']}, (),
              (('blockdev-reopen', {'options': ['$SAME']}),), 'read-only')],
    'blockdev-set-active': [
        Entry(NODES, {'node-name': '$N', 'active': True}, (), None, 'on'),
        Entry(NODES, {'node-name': '$N', 'active': False}, (),
              (('blockdev-set-active', {'node-name': '$N', 'active': True}),),
              'off', True)],
    'blockdev-snapshot': [Entry(NODES, {'node': '$N', 'overlay': 'n2'},
                                (OVERLAY,), None)],
    'blockdev-snapshot-delete-internal-sync': [Entry(
        NODES, NO_INTERNAL[1], (INTERNAL,))],
    'blockdev-snapshot-internal-sync': [Entry(NODES, INTERNAL[1], (),
                                              (NO_INTERNAL,))],
    'blockdev-snapshot-sync': [Entry(
        NODES, {'node-name': '$N', 'snapshot-file': '$F',
                'snapshot-node-name': 'n3', 'format': 'qcow2'}, (), None)],
    'change-backing-file': [Entry(
        NODES, {'device': 'disk0', 'image-node-name': '$N',
                'backing-file': 'x'})],
    'drive-backup': [Entry(
        NODES, {'job-id': 'j1', 'device': '$T', 'sync': 'full',
                'target': '$F', 'format': 'raw'}, (), (CANCEL, DISMISS))],
    'drive-mirror': [Entry(
        NODES, {'job-id': 'j1', 'device': '$T', 'sync': 'full',
                'target': '$F', 'format': 'raw'}, (), (CANCEL, DISMISS))],
    'eject': [Entry(MEDIUM, {'id': 'cd0', 'force': True}, (), None)],
    'job-cancel': [job({'id': '$J'})],
    'job-complete': [job({'id': '$J'})],
    'job-dismiss': [job({'id': '$J'}, FILE, KEPT, CANCEL)],
    'job-finalize': [job({'id': '$J'}, FILE, PENDING)],
    'job-pause': [job({'id': '$J'})],
    'job-resume': [job({'id': '$J'})],
    'nbd-server-add': [
        Entry(NODES, {'device': '$N', 'name': 'e1', 'writable': writable},
              (SERVER,), (NO_EXPORT,), 'writable' if writable else '')
        for writable in (False, True)],
    'nbd-server-remove': [Entry(EXPORT, {'name': '$T', 'mode': 'hard'},
                                (SERVER, EXPORTED), None)],
    'nbd-server-start': [Entry(ONCE, SERVER[1], (),
                               (('nbd-server-stop', {}),))],
    'nbd-server-stop': [Entry(EXPORT, {}, (SERVER,), None)],
    'query-block': [Entry(ONCE)],
    'query-block-exports': [Entry(ONCE)],
    'query-block-jobs': [Entry(ONCE)],
    'query-blockstats': [Entry(ONCE)],
    'query-jobs': [Entry(ONCE)],
    'query-named-block-nodes': [Entry(ONCE)],
    'query-pr-managers': [Entry(ONCE)],
    'x-debug-query-block-graph': [Entry(ONCE)],
    'x-blockdev-amend': [Entry(NODES, {
        'job-id': 'j1', 'node-name': '$N', 'options': {'driver': 'qcow2'}},
        (), (DISMISS,))],
    'x-blockdev-change': [
        Entry(PEER, {'parent': 'quorum0', 'child': '$T'}, (), None,
              'take out'),
        Entry(TOP, {'parent': 'quorum0', 'node': 'n1'}, (FILE,), None,
              'put in')],
    'x-blockdev-set-iothread': [Entry(
        NODES, {'node-name': '$N', 'iothread': 'io1'}, (),
        (('x-blockdev-set-iothread',
          {'node-name': '$N', 'iothread': None}),))],
    'transaction': [Entry(ONCE, {'actions': []})],
}

# Actions of a transaction which are not commands of that name
ACTIONS = {'abort': [Entry(ONCE, {})]}

JOB_UNDO = (CANCEL, DISMISS, DEL1)
HMP: dict[str, list[Entry]] = {
    'block_job_cancel': [Entry(JOB, '-f $J', (FILE, BACKUP), JOB_UNDO)],
    'block_job_complete': [Entry(JOB, '$J', (FILE, BACKUP), JOB_UNDO)],
    'block_job_pause': [Entry(JOB, '$J', (FILE, BACKUP), JOB_UNDO)],
    'block_job_resume': [Entry(JOB, '$J', (FILE, BACKUP), JOB_UNDO)],
    'block_job_set_speed': [Entry(JOB, '$J 64K', (FILE, BACKUP), JOB_UNDO)],
    'block_resize': [Entry(NODES, '$T 32M', (), (
        ('block_resize', {'node-name': '$N', 'size': SIZE}),))],
    'block_set_io_throttle': [Entry(TOP, 'disk0 0 0 0 100000 0 0', (),
                                    (UNLIMITED,))],
    'block_stream': [Entry(NODES, '$T')],
    'change': [Entry(MEDIUM, 'cdd0 $D/other.iso raw', (), None)],
    'commit': [Entry(NODES, '$T'), Entry(ONCE, 'all', (), (), 'all')],
    'delvm': [Entry(ONCE, 's1')],
    'drive_add': [
        Entry(ONCE, '0 if=none,id=d9,format=raw,file=$D/n1.img', (),
              (hmp('drive_del d9'),), answer='OK'),
        Entry(NODES, '0 if=none,id=d9,format=raw,file=$N', (),
              (hmp('drive_del d9'),), 'above a node', answer='OK'),
        Entry(NODES, '-n 0 driver=raw,node-name=n1,file=$N', (), (DEL1,),
              'node above a node')],
    'drive_backup': [Entry(NODES, '-f $T $F raw')],
    'drive_del': [Entry(NODES, '$T', (), None, '', True),
                  Entry(MEDIUM, 'cdd0', (), None, 'of a medium')],
    'drive_mirror': [Entry(NODES, '-f $T $F raw', (),
                           (hmp('block_job_cancel -f $T'),))],
    'eject': [Entry(MEDIUM, '-f cdd0', (), None)],
    'info block': [Entry(ONCE, answer='.+'),
                   Entry(ONCE, '-n -v', (), (), 'all nodes', answer='.+')],
    'info block-jobs': [Entry(ONCE, answer='.+')],
    'info blockstats': [Entry(ONCE, answer='.+')],
    'info snapshots': [Entry(ONCE, answer='.+')],
    'nbd_server_add': [
        Entry(NODES, f'{w}$T e1', (SERVER,), (NO_EXPORT,), label)
        for w, label in (('', ''), ('-w ', 'writable'))],
    'nbd_server_remove': [Entry(EXPORT, '-f $T', (SERVER, EXPORTED), None)],
    'nbd_server_start': [
        Entry(ONCE, f'{flags}unix:$D/own.nbd', (), (hmp('nbd_server_stop'),),
              label)
        for flags, label in (('', ''), ('-a ', 'all'), ('-a -w ', 'all, '
                                                        'writable'))],
    'nbd_server_stop': [Entry(EXPORT, '', (SERVER,), None)],
    'qemu-io': [
        Entry(NODES, '$T "read 15M 4k"', (), (), 'read', answer='read 4096/'),
        Entry(NODES, '$T "write -P 7 15M 4k"', (), None, 'write',
              answer='wrote 4096/', writes=7),
        Entry(NODES, '$T "write -z -u 15M 4k"', (), None, 'write zeroes',
              answer='wrote 4096/', writes=0),
        Entry(NODES, '$T "discard 15M 4k"', (), None, 'discard',
              answer='discard 4096/'),
        Entry(NODES, '$T "reopen -r"', (), (hmp('qemu-io $T "reopen -w"'),),
              'reopen read-only'),
        Entry(TOP, f'-d {VIRTIO} "write -P 7 15M 4k"', (), None,
              'write, by device', answer='wrote 4096/', writes=7)],
    'savevm': [Entry(ONCE, 's1')],
    'snapshot_blkdev': [Entry(NODES, '$T $F qcow2', (), None)],
    'snapshot_blkdev_internal': [Entry(
        NODES, '$T s1', (), (hmp('snapshot_delete_blkdev_internal $T s1'),))],
    'snapshot_delete_blkdev_internal': [Entry(
        NODES, '$T s1', (hmp('snapshot_blkdev_internal $T s1'),))],
}
# Of the block layer, with handlers elsewhere
ELSEWHERE = {'change', 'delvm', 'savevm'}


def qmp_names(base: Path, schema: list[dict[str, Any]]) -> list[str]:
    """What the block modules of the schema have, as far as it is built."""
    built = {item['name'] for item in schema if item['meta-type'] == 'command'}
    found = []
    for module in MODULES:
        text = (base / 'qapi' / f'{module}.json').read_text(encoding='utf-8')
        found += re.findall(r"^\{ *'command': *'([^']+)'", text, re.M)
    return sorted(set(found) & built)


def action_names(schema: list[dict[str, Any]]) -> list[str]:
    """The actions of a transaction."""
    types = {item['name']: item for item in schema}
    args = types[types['transaction']['arg-type']]
    actions = next(m for m in args['members'] if m['name'] == 'actions')
    action = types[types[actions['type']]['element-type']]
    return sorted(v['case'] for v in action['variants'])


def hmp_names(base: Path) -> list[str]:
    """The commands whose handlers are those of the block layer."""
    source = (base / 'block/monitor/block-hmp-cmds.c').read_text(
        encoding='utf-8')
    handlers = set(re.findall(r'^void (?:coroutine_fn )?(hmp_\w+)\(', source,
                              re.M))
    found = set(ELSEWHERE)
    for table, prefix in (('hmp-commands.hx', ''),
                          ('hmp-commands-info.hx', 'info ')):
        text = (base / table).read_text(encoding='utf-8')
        for item in re.findall(r'\{\n(.*?)\n    \},', text, re.S):
            name = re.search(r'\.name\s*=\s*"([^"|]+)', item)
            call = re.search(r'\.cmd\s*=\s*(\w+)', item)
            if name and call and call.group(1) in handlers:
                found.add(prefix + name.group(1))
    return sorted(found)


class Unknown(Exception):
    """A command that the tables lack."""


def _known(table: dict[str, list[Entry]], name: str) -> list[Entry]:
    if name not in table:
        raise Unknown(f'{name} is in no table of {Path(__file__).name}')
    return table[name]


def all_commands(base: Path, schema: list[dict[str, Any]]) -> list[Command]:
    """Each command in each way in which it is tried."""
    found = [Command(name, False, entry) for name in qmp_names(base, schema)
             for entry in _known(QMP, name)]
    found += [Command(f'transaction {name}', False, entry)
              for name in action_names(schema)
              for entry in _known({**QMP, **ACTIONS}, name)
              if entry.label != 'onto a node']
    found += [Command(name, True, entry) for name in hmp_names(base)
              for entry in _known(HMP, name)]
    return found
