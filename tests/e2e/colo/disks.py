# SPDX-License-Identifier: GPL-2.0-or-later
"""Replicated disks of a pair: images, command lines, set-up by the monitor.

    primary                             secondary
    guest                               guest
      |                                   |
    disk0: quorum                       disk0: quorum
      |       \\                           |
    image    replication0               childs0: replication
               |                          |
              nbd ----.                 active (qcow2)
                      |                   |
                      |                 hidden (qcow2)
                      |                   |
                      |                parent0: image
                      |                   |
                      '--- export ----> sink0: replication-sink

The command line makes what each side has for itself; NBD and replication0 come
later, by attach().  So a side that was the secondary becomes a primary like any
other: the overlays have been folded into parent0 by then.  Disks are numbered,
and all of them are exported by the one NBD server of their QEMU.

Shared disks: one image, which both have open.

    primary                             secondary
    guest                               guest
      |                                   |
    disk0: replication                  disk0: replication, for later
      |      \                            |
      |     peer0: nbd --- export -.    childs0: replication
      |                            |      |
      |                          store0 active (qcow2)
      |                             \     |
      |                              '-> hidden0 (qcow2)
      |                                   |
    the image  <--------------------------'
"""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import net, power

if TYPE_CHECKING:
    from .vm import Machine, Pair, Vm

NBD_PORT = 9999
TOOL_SECONDS = 60
MIRROR_SECONDS = 120.0
FOLD_SECONDS = 120.0
DRIVER_SECONDS = 60.0
QUORUM = 'driver=quorum,read-pattern=fifo,vote-threshold=1'
REGION_BYTES = 64 << 10     # of an intent log
CLEAR_MS = 200
PEER_CHILD = 'children.1'   # what is added to a quorum of one
OVERLAYS = ('active', 'hidden')
ACTIVE_OPTIONS = ('-o', 'extended_l2=on,cluster_size=128k')     # as documented
SHARED_HOST = 's'           # in the name of an image that both have
PEER_SHARED = 'hidden'      # what is added to a shared disk
SECRET = 'key0'
SECRET_OBJECT = f'secret,id={SECRET},data=replicated'
THROTTLE = 'throttle0'
TLS = 'tls'
TLS_KEY = '5a' * 32
LUKS_OPTIONS = f'key-secret={SECRET},iter-time=10'   # it is no secret

# How an image is: options of the nodes, from the upper one to that above the
# file
KINDS: dict[str, tuple[str, ...]] = {
    'raw': ('driver=raw',),
    'qcow2': ('driver=qcow2',),
    'luks': (f'driver=luks,key-secret={SECRET}', 'driver=qcow2'),
}

# What the guest sees: controllers, and the device of disk @n
BUSES: dict[str, tuple[tuple[str, ...], str]] = {
    'virtio-blk': ((), 'virtio-blk-pci,drive=disk{n}'),
    'virtio-scsi': (('virtio-scsi-pci,id=scsi0',),
                    'scsi-hd,bus=scsi0.0,drive=disk{n}'),
    'ide': ((), 'ide-hd,drive=disk{n}'),
    'ahci': (('ich9-ahci,id=ahci0',), 'ide-hd,bus=ahci0.{n},drive=disk{n}'),
    'usb': (('qemu-xhci,id=xhci0',), 'usb-storage,bus=xhci0.0,drive=disk{n}'),
}

# Those that an iothread may serve: how they call the number of their queues
QUEUES = {'virtio-blk-pci': 'num-queues', 'virtio-scsi-pci': 'num_queues'}
N_QUEUES = 2

# A block of ../guest/colo-guest-disk.c
BLOCK_BYTES = 4096
BLOCK_HEAD = struct.Struct('<8sQQLL')
BLOCK_MAGIC = b'COLODISK'
SLOTS = 512         # what the client asks for, if not told otherwise
VIEW_SOCKET = 'view.sock'


class DiskError(Exception):
    """A disk is not as it has to be."""


@dataclass(frozen=True)
class Disks:
    """What the disks of a pair are like."""
    count: int = 1
    mib: int = 16
    bus: str = 'virtio-blk'     # or virtio-blk+usb, one each
    # One for each virtio-blk, or one for the controller of all virtio-scsi
    iothread: bool = False
    mapping: bool = False       # two, which share the queues of each device
    kind: str = 'raw'           # of the images, see KINDS
    plain: bool = False         # an ordinary disk, which cannot be replicated
    direct: bool = False        # past the cache of the host
    aio: str = ''               # how requests to files are made
    tls: bool = False           # between the hosts
    bytes_per_second: int | None = None     # what all of a side's take
    slow: bool = False          # for limit_writes() of a secondary
    # Options of blkdebug that say which errors there are, by place: 'local'
    # is the image of a primary, 'parent' that of a secondary, or an overlay
    inject: tuple[tuple[str, str], ...] = ()
    log_bytes: int | None = None    # what may wait on the primary
    generations: bool = False   # record which side's is newer
    shared: bool = False        # one image, raw, past the cache of the host
    batch: bool = True          # many writes at a time, by way of a sink
    lossy: bool = False         # what is not flushed can be lost, see power.py
    no_flush: bool = False      # and flushes do nothing
    intent: bool = False        # each side keeps an intent log

    def device(self, n: int) -> str:
        """Where the guest has disk @n."""
        kinds = ['v' if self.bus_of(i) == 'virtio-blk' else 's'
                 for i in range(n + 1)]
        letter = chr(ord('a') + kinds[:n].count(kinds[n]))
        return f'/dev/{kinds[n]}d{letter}'

    def bus_of(self, n: int) -> str:
        names = self.bus.split('+')
        return names[n % len(names)]

    def _is_limited(self, place: str) -> bool:
        return bool(place == 'parent' and self.slow or
                    place in ('local', 'parent') and self.bytes_per_second)

    def node(self, place: str, path: Path, prefix: str = '') -> str:
        """Options of the nodes of the image or overlay @path, each with
        @prefix."""
        inject = dict(self.inject).get(place)
        file = f'filename={path}'
        if self._is_limited(place):
            assert not inject
            file = (f'driver=throttle,throttle-group={THROTTLE},'
                    f'file.driver=file,file.{file}')
        if inject:
            file = f'driver=blkdebug,image.driver=file,image.{file},{inject}'
        if self.direct:
            file += ',cache.direct=on'
        if self.aio:
            file += f',aio={self.aio}'
        if self.no_flush:
            file += ',cache.no-flush=on'
        kind = 'qcow2' if place in OVERLAYS else self.kind
        return ','.join(prefix + 'file.' * depth + option
                        for depth, options in enumerate((*KINDS[kind], file))
                        for option in options.split(','))


def errors(number: int, event: str = 'none', **options: Any) -> str:
    """Options of blkdebug: requests fail with errno @number, at once or after
    an @event of a format."""
    return ','.join(f'inject-error.0.{key}={value}' for key, value in
                    {'errno': number, 'event': event, **options}.items())


def image(run: Path, host: str, n: int) -> Path:
    return run / f'disk{n}-{host}.img'


def image_of(vm: Vm, run: Path, n: int) -> Path:
    """What @vm has disk @n in."""
    assert vm.machine.disks
    return image(run, SHARED_HOST if vm.machine.disks.shared else vm.host, n)


def generation_file(run: Path, host: str, n: int) -> Path:
    return run / f'disk{n}-{host}.generation'


def intent_log(run: Path, host: str, n: int) -> Path:
    return run / f'disk{n}-{host}.intent'


def overlay(run: Path, host: str, n: int, name: str) -> Path:
    return run / f'{name}{n}-{host}.qcow2'


def tool(machine: Machine, *args: str | Path,
         good: tuple[int, ...] = (0,)) -> str:
    """Run qemu-img; what it prints.  @good: how it may end."""
    done = subprocess.run(
        [machine.tools / 'qemu-img', *args], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=TOOL_SECONDS, check=False)
    if done.returncode not in good:
        raise DiskError(f'qemu-img {" ".join(map(str, args))}: exit status '
                        f'{done.returncode}: {done.stdout.strip()}')
    return done.stdout


def _create(machine: Machine, kind: str, path: Path, mib: int,
            *options: str) -> None:
    if kind != 'luks':
        tool(machine, 'create', '-q', '-f', kind, *options, path, f'{mib}M')
        return
    bare = path.with_suffix('.luks')
    tool(machine, 'create', '-q', '-f', 'luks', '--object', SECRET_OBJECT,
         '-o', LUKS_OPTIONS, bare, f'{mib}M')
    tool(machine, 'convert', '-f', 'raw', '-O', 'qcow2', bare, path)
    bare.unlink()


def contents(machine: Machine, path: Path, *overlays: Path) -> bytes:
    """What a guest reads from the image @path, below @overlays, if any: the
    lower one comes first."""
    assert machine.disks
    options = machine.disks.node('', path)
    for overlay in overlays:
        options = f'driver=qcow2,file.filename={overlay},' + ','.join(
            f'backing.{option}' for option in options.split(','))
    copy = path.with_suffix('.copy')
    tool(machine, 'convert', '--image-opts', '--object', SECRET_OBJECT,
         '-U', '-O', 'raw', options, copy)
    data = copy.read_bytes()
    copy.unlink()
    return data


def check_metadata(machine: Machine, path: Path, kind: str) -> None:
    """There may be clusters that nobody uses, but nothing worse."""
    if kind != 'raw':
        tool(machine, 'check', '-q', '-f', 'qcow2', path, good=(0, 3))


def commit(machine: Machine, path: Path, *overlays: Path) -> None:
    """Put @overlays, the lower one first, into the raw image @path."""
    below, kind = path, 'raw'
    for upper in overlays:
        tool(machine, 'rebase', '-u', '-f', 'qcow2', '-F', kind, '-b', below,
             upper)
        below, kind = upper, 'qcow2'
    tool(machine, 'commit', '-q', '-f', 'qcow2', '-b', path, overlays[-1])


def _device(disks: Disks, text: str, n: int = 0) -> list[str]:
    """The device of disk @n, or a controller, maybe with its iothreads."""
    driver, _, options = text.partition(',')
    if disks.iothread and driver in QUEUES:
        return ['-object', f'iothread,id=diskio{n}', '-device',
                f'{text},iothread=diskio{n},{QUEUES[driver]}={N_QUEUES}']
    if not disks.mapping:
        return ['-device', text]
    # All in JSON, or a controller would be made after the disk on it
    device: dict[str, Any] = dict(option.split('=')
                                  for option in options.split(','))
    device['driver'] = driver
    if driver not in QUEUES:
        return ['-device', json.dumps(device)]
    names = [f'diskio{n}-{i}' for i in range(N_QUEUES)]
    device[QUEUES[driver]] = N_QUEUES
    device['iothread-vq-mapping'] = [{'iothread': name} for name in names]
    return [word for name in names
            for word in ('-object', f'iothread,id={name}')] + [
                '-device', json.dumps(device)]


def _devices(disks: Disks) -> list[str]:
    args = []
    for bus in dict.fromkeys(disks.bus.split('+')):
        for controller in BUSES[bus][0]:
            args += _device(disks, controller)
    for n in range(disks.count):
        args += _device(disks, BUSES[disks.bus_of(n)][1].format(n=n), n)
    return args


def files(run: Path, host: str, disks: Disks) -> list[Path]:
    """All images that @host may make."""
    return [path for n in range(disks.count)
            for path in (image(run, host, n), *(overlay(run, host, n, name)
                                                for name in OVERLAYS))]


def remove_images(run: Path) -> None:
    """What an earlier pair has left."""
    for path in (*run.glob('disk*-?.img'), *run.glob('*-?.qcow2'),
                 *run.glob('disk*-?.copy'),
                 *run.glob('disk*-?.generation'),
                 *run.glob('disk*-?.intent')):
        path.unlink()
    power.forget(run)


def _shared_arguments(disks: Disks, disk: Path, overlays: list[Path],
                      n: int) -> list[str]:
    """Without @overlays, of the primary."""
    top = ('-drive', f'if=none,id=disk{n},driver=replication,mode=primary,'
           'shared-disk=on,')
    if disks.log_bytes:
        top = (top[0], f'{top[1]}log-size={disks.log_bytes},')
    if not overlays:
        return [top[0], f'{top[1]}cache=none,file.driver=raw,'
                f'file.file.filename={disk}']
    active, hidden = overlays
    return ['-drive', f'if=none,id=parent{n},driver=raw,read-only=on,'
            f'cache=none,file.filename={disk}',
            '-drive', f'if=none,id=store{n},driver=replication-store,'
            f'file.driver=qcow2,file.node-name=hidden{n},'
            f'file.file.filename={hidden},file.backing=parent{n}',
            top[0], f'{top[1]}file.driver=replication,file.mode=secondary,'
            f'file.node-name=childs{n},file.shared-disk=on,'
            f'file.top-id=disk{n},file.file.driver=qcow2,'
            f'file.file.file.filename={active},file.file.backing=hidden{n}']


def _credentials(run: Path) -> list[str]:
    """Of either end of a connection: who is the primary may change."""
    folder = run / 'tls'
    folder.mkdir(exist_ok=True)
    (folder / 'keys.psk').write_text(f'qemu:{TLS_KEY}\n', encoding='ascii')
    return [word for end in ('server', 'client')
            for word in ('-object', f'tls-creds-psk,id={TLS}-{end},'
                         f'endpoint={end},dir={folder}')]


def _tls(vm: Vm, end: str) -> dict[str, Any]:
    assert vm.machine.disks
    return ({'tls-creds': f'{TLS}-{end}'} if vm.machine.disks.tls else
            vm.machine.tls_creds(end))


def _guest_disk(disks: Disks, run: Path, host: str, n: int,
                child: str) -> str:
    """Options of what the guest has of disk @n, above @child."""
    options = f'{QUORUM},{child}'
    if not disks.intent:
        return options
    log = intent_log(run, host, n)
    log.touch()
    if disks.lossy:
        power.begin(run, log)
    return (f'driver=replication-intent,log={log},region-size={REGION_BYTES},'
            f'clear-interval={CLEAR_MS},file.node-name=quorum{n},' +
            ','.join(f'file.{option}' for option in options.split(',')))


def _parent(vm: Vm, n: int) -> str:
    """The node that gets another child."""
    assert vm.machine.disks
    return f'quorum{n}' if vm.machine.disks.intent else f'disk{n}'


def arguments(machine: Machine, run: Path, host: str,
              secondary: bool) -> list[str]:
    """The command line of @host.  A disk that is there is kept; overlays are
    made anew."""
    disks = machine.disks
    assert disks
    args = ['-object', SECRET_OBJECT] if disks.kind == 'luks' else []
    if disks.tls:
        args += _credentials(run)
    if disks.bytes_per_second or disks.slow:
        args += ['-object', f'throttle-group,id={THROTTLE},'
                 f'x-bps-total={disks.bytes_per_second or 0}']
    for n in range(disks.count):
        disk = image(run, SHARED_HOST if disks.shared else host, n)
        if not disk.exists():
            _create(machine, disks.kind, disk, disks.mib)
        if disks.lossy:
            power.begin(run, disk)
        if disks.plain:
            args += ['-drive', f'if=none,id=disk{n},' +
                     disks.node('local', disk)]
            continue
        if disks.shared and not secondary:
            args += _shared_arguments(disks, disk, [], n)
            continue
        if not secondary:
            args += ['-drive', f'if=none,id=disk{n},' +
                     _guest_disk(disks, run, host, n,
                                 f'children.0.node-name=image{n},' +
                                 disks.node('local', disk, 'children.0.'))]
            continue
        paths = [overlay(run, host, n, name) for name in OVERLAYS]
        for path, options in zip(paths, (ACTIVE_OPTIONS, ())):
            _create(machine, 'qcow2', path, disks.mib, *options)
            if disks.lossy:
                power.begin(run, path, anew=True)
        if disks.shared:
            args += _shared_arguments(disks, disk, paths, n)
            continue
        active, hidden = paths
        options = f'mode=secondary,top-id=disk{n}'
        if disks.generations:
            options += f',generation-file={generation_file(run, host, n)}'
        args += ['-drive', f'if=none,id=parent{n},' +
                 disks.node('parent', disk),
                 '-drive', f'if=none,id=childs{n},driver=replication,'
                 f'{options},' +
                 disks.node('active', active, 'file.') +
                 f',file.node-name=active{n},' +
                 disks.node('hidden', hidden, 'file.backing.') +
                 f',file.backing.backing=parent{n}',
                 '-drive', f'if=none,id=disk{n},' +
                 _guest_disk(disks, run, host, n, f'children.0=childs{n}')]
    return args + _devices(disks)


def load_drivers(pair: Pair) -> None:
    """Have the guest find disks that are not virtio-blk."""
    layout = pair.machine.disks
    assert layout
    if layout.bus == 'virtio-blk':
        return
    pair.control('load disks')
    deadline = time.monotonic() + DRIVER_SECONDS
    last = layout.device(layout.count - 1)
    while not pair.control(f'sh test -b {last}').startswith('0 '):
        if time.monotonic() > deadline:
            raise DiskError(f'the guest has found no {last}')
        time.sleep(0.05)


def guest_device(pair: Pair, n: int) -> str:
    """Where the guest has disk @n: it numbers those of SCSI as they answer."""
    layout = pair.machine.disks
    assert layout
    if layout.bus_of(n) != 'virtio-scsi':
        return layout.device(n)
    for path in map(layout.device, range(layout.count)):
        found = pair.control('sh ls -d /sys/bus/scsi/devices/'
                             f'*:0:{n}:0/block/{Path(path).name}')
        if found.startswith('0 '):
            return path
    raise DiskError(f'the guest has no disk {n}')


def _wait_job(vm: Vm, name: str, status: str, timeout: float) -> None:
    """Until job @name is @status, or gone if that is 'null'."""
    deadline = time.monotonic() + timeout
    while True:
        jobs = {job['id']: job for job in vm.monitor.execute('query-jobs')}
        if name not in jobs:
            if status == 'null':
                return
            raise DiskError(f'job {name} on {vm.host} has ended')
        if jobs[name]['status'] == status:
            return
        if time.monotonic() > deadline:
            raise DiskError(f'{jobs[name]} on {vm.host} is not {status} '
                            f'after {timeout} s')
        time.sleep(0.01)


def wait_folded(vm: Vm, timeout: float = FOLD_SECONDS) -> None:
    """After a failover to a secondary: until its overlays, or what was held,
    are in its disks."""
    deadline = time.monotonic() + timeout
    while (vm.monitor.execute('query-block-jobs') or
           'folding' in (disk['stage'] for disk in
                         vm.status().raw.get('disks', ()))):
        if time.monotonic() > deadline:
            raise DiskError(f'not folded after {timeout} s: '
                            f'{vm.monitor.execute("query-block-jobs")}')
        time.sleep(0.01)


def _address(vm: Vm) -> dict[str, Any]:
    return {'host': net.LINK_ADDRESS[vm.host], 'port': str(NBD_PORT)}


def _has_sinks(vm: Vm) -> bool:
    assert vm.machine.disks
    return vm.machine.disks.batch and not vm.machine.disks.shared


def export_name(vm: Vm, n: int) -> str:
    """What the primary writes to, of @vm, a secondary."""
    assert vm.machine.disks
    if vm.machine.disks.shared:
        return f'store{n}'
    return f'sink{n}' if _has_sinks(vm) else f'parent{n}'


def export(vm: Vm) -> None:
    """Let the primary write to the disks, or stores, of @vm, a secondary."""
    assert vm.machine.disks
    vm.monitor.execute('nbd-server-start', {
        'addr': {'type': 'inet', 'data': _address(vm)}, **_tls(vm, 'server')})
    for n in range(vm.machine.disks.count):
        if _has_sinks(vm):
            vm.monitor.execute('blockdev-add', {
                'driver': 'replication-sink', 'node-name': f'sink{n}',
                'file': f'parent{n}'})
            # As it is: to copy all to it, and to be looked at
            vm.monitor.execute('nbd-server-add', {'device': f'parent{n}',
                                                  'writable': True})
        vm.monitor.execute('nbd-server-add', {'device': export_name(vm, n),
                                              'writable': True})
    vm.disks.add('nbd-server')


def _nbd(secondary: Vm, name: str) -> dict[str, Any]:
    return {'driver': 'nbd', 'export': name,
            'server': {'type': 'inet', **_address(secondary)},
            **_tls(secondary, 'client')}


def _mirror(primary: Vm, secondary: Vm, n: int) -> None:
    """Begin to copy disk @n while the guest runs."""
    primary.monitor.execute('blockdev-add', {'node-name': f'resync{n}',
                                             **_nbd(secondary, f'parent{n}')})
    primary.monitor.execute('blockdev-mirror', {
        'job-id': f'job-resync{n}', 'device': f'disk{n}',
        'target': f'resync{n}', 'sync': 'full'})


def _end_mirror(primary: Vm, n: int) -> None:
    """The guest stands, and both disks are the same."""
    job = f'job-resync{n}'
    primary.monitor.execute('block-job-cancel', {'device': job})
    _wait_job(primary, job, 'null', MIRROR_SECONDS)
    primary.monitor.execute('blockdev-del', {'node-name': f'resync{n}'})


def _replicate(primary: Vm, secondary: Vm, n: int) -> None:
    """From now on all writes go to both disks."""
    node = f'replication{n}'
    options: dict[str, Any] = {
        'driver': 'replication', 'mode': 'primary', 'node-name': node,
        'file': _nbd(secondary, export_name(secondary, n))}
    if _has_sinks(secondary):
        options['batch'] = True
    if primary.machine.disks and primary.machine.disks.log_bytes:
        options['log-size'] = primary.machine.disks.log_bytes
    if primary.machine.disks and primary.machine.disks.generations:
        options['generation-file'] = str(
            generation_file(primary.log.parent, primary.host, n))
    primary.monitor.execute('blockdev-add', options)
    primary.monitor.execute('x-blockdev-change', {
        'parent': _parent(primary, n), 'node': node})
    primary.disks.add(node)


def hashes(primary: Vm, secondary: Vm, n: int) -> str:
    """The primary gets a node that has the hashes of the secondary's disk."""
    node = f'hash{n}'
    secondary.monitor.execute('blockdev-add', {
        'driver': 'colo-hash', 'node-name': node, 'read-only': True,
        'file': f'parent{n}'})
    secondary.monitor.execute('nbd-server-add', {'device': node})
    primary.monitor.execute('blockdev-add', {
        'node-name': node, 'read-only': True,
        **_nbd(secondary, node)})
    return node


def wait_resync(primary: Vm, n: int) -> dict[str, int]:
    """The end of a job, which has to be a good one; its last numbers."""
    job = f'job-resync{n}'
    last: dict[str, int] = {}
    deadline = time.monotonic() + MIRROR_SECONDS
    while True:
        found = [item for item in primary.monitor.execute('query-block-jobs')
                 if item['device'] == job]
        if not found:
            break
        last = {key: found[0][key] for key in ('sent-bytes', 'by-log',
                                               'compared-bytes', 'len')}
        if time.monotonic() > deadline:
            raise DiskError(f'{found[0]} has no end')
        time.sleep(0.002)
    while True:
        data = primary.monitor.wait_event('BLOCK_JOB_COMPLETED',
                                          TOOL_SECONDS)['data']
        if data['device'] == job:
            break
    if 'error' in data:
        raise DiskError(f'{job}: {data["error"]}')
    return last


def prepare_resync(primary: Vm, secondary: Vm, n: int,
                   mode: str) -> dict[str, Any]:
    """All that x-colo-resync needs for disk @n, and its arguments."""
    _replicate(primary, secondary, n)
    arguments = {'job-id': f'job-resync{n}', 'node': f'replication{n}',
                 'mode': mode}
    if mode == 'hash':
        arguments['hashes'] = hashes(primary, secondary, n)
    return arguments


def forget_hashes(side: Vm, n: int) -> None:
    """After a job in mode hash; the primary first."""
    if 'nbd-server' in side.disks:
        side.monitor.execute('nbd-server-remove', {'name': f'hash{n}'})
    side.monitor.execute('blockdev-del', {'node-name': f'hash{n}'})


def resync(primary: Vm, secondary: Vm, mode: str,
           **options: Any) -> list[dict[str, int]]:
    """As attach(), by x-colo-resync in @mode, while the guest runs."""
    assert primary.machine.disks
    detach(primary)
    export(secondary)
    done = []
    for n in range(primary.machine.disks.count):
        arguments = prepare_resync(primary, secondary, n, mode)
        primary.monitor.execute('x-colo-resync', {**arguments, **options})
        done.append(wait_resync(primary, n))
        if mode == 'hash':
            forget_hashes(primary, n)
            forget_hashes(secondary, n)
    return done


def verify(primary: Vm, hashes: str | None, n: int = 0,
           speed: int = 0) -> str | None:
    """Compare disk @n with the secondary's, in a session, by a node that has
    its @hashes or without: what the job says of an error."""
    arguments = {'job-id': 'verify0', 'node': f'replication{n}',
                 'speed': speed}
    if hashes:
        arguments['hashes'] = hashes
    primary.monitor.execute('x-colo-verify', arguments)
    while True:
        data = primary.monitor.wait_event('BLOCK_JOB_COMPLETED',
                                          MIRROR_SECONDS)['data']
        if data['device'] == 'verify0':
            break
    error = data.get('error')
    return None if error is None else str(error)


def _attach_shared(primary: Vm, secondary: Vm) -> None:
    assert primary.machine.disks
    export(secondary)
    for n in range(primary.machine.disks.count):
        primary.monitor.execute('blockdev-add', {
            'node-name': f'peer{n}', **_nbd(secondary, f'store{n}')})
        primary.monitor.execute('x-blockdev-change', {
            'parent': f'disk{n}', 'node': f'peer{n}'})
        primary.disks.add(f'peer{n}')


def attach(primary: Vm, secondary: Vm, resync: bool = True) -> None:
    """Make both ready to be a pair: once the secondary's disks are equal.

    Without @resync they are, and the guest has not written yet or stands.
    """
    if not primary.machine.disks or 'replication0' in primary.disks or \
            'peer0' in primary.disks:
        return
    if primary.machine.disks.shared:
        detach(primary)
        _attach_shared(primary, secondary)
        return
    detach(primary)
    export(secondary)
    count = primary.machine.disks.count
    running = primary.run_state() == 'running'
    if resync:
        for n in range(count):
            _mirror(primary, secondary, n)
        for n in range(count):
            _wait_job(primary, f'job-resync{n}', 'ready', MIRROR_SECONDS)
        if running:
            primary.monitor.execute('stop')
        for n in range(count):
            _end_mirror(primary, n)
    for n in range(count):
        _replicate(primary, secondary, n)
    if resync and running:
        primary.monitor.execute('cont')


def _remove_stores(vm: Vm) -> None:
    """The overlays of a shared disk are of no more use."""
    assert vm.machine.disks
    for n in range(vm.machine.disks.count if vm.machine.disks.shared else 0):
        said = vm.monitor.execute('human-monitor-command', {
            'command-line': f'drive_del store{n}'})
        if str(said).strip():
            raise DiskError(f'drive_del store{n} on {vm.host}: {said}')


def _remove_sinks(vm: Vm) -> None:
    assert vm.machine.disks
    for n in range(vm.machine.disks.count if _has_sinks(vm) else 0):
        vm.monitor.execute('blockdev-del', {'node-name': f'sink{n}'})


def detach(vm: Vm) -> None:
    """After a failover: take away what belonged to the pair, as documented."""
    for name in sorted(vm.disks):
        if name == 'nbd-server':
            # It was the secondary
            wait_folded(vm)
            vm.monitor.execute('nbd-server-stop')
            _remove_stores(vm)
            _remove_sinks(vm)
            continue
        if name.startswith('peer'):
            n = int(name.removeprefix('peer'))
            vm.monitor.execute('x-blockdev-change', {
                'parent': f'disk{n}', 'child': PEER_SHARED})
            vm.monitor.execute('blockdev-del', {'node-name': name})
            continue
        n = int(name.removeprefix('replication'))
        vm.monitor.execute('x-blockdev-change', {'parent': _parent(vm, n),
                                                 'child': PEER_CHILD})
        vm.monitor.execute('blockdev-del', {'node-name': name})
    vm.disks.clear()


def limit_writes(vm: Vm, bytes_per_second: int) -> None:
    """From now on the disks of @vm, made as a secondary's, take no more."""
    vm.monitor.execute('qom-set', {
        'path': THROTTLE, 'property': 'limits',
        'value': {'bps-write': bytes_per_second}})


def io(vm: Vm, command: str, device: str = 'disk0') -> str:
    """A command of qemu-io on @device; disk0 is as the guest of @vm sees it."""
    start = vm.log.stat().st_size
    said = str(vm.monitor.execute('human-monitor-command', {
        'command-line': f'qemu-io {device} "{command}"'}))
    with open(vm.log, 'rb') as log:
        log.seek(start)
        said += log.read().decode(errors='replace')
    if 'bytes at offset' not in said or 'ailed' in said:
        raise DiskError(f'{device} on {vm.host}: {command}: {said.strip()}')
    return said


def export_views(primary: Vm, secondary: Vm, run: Path) -> None:
    """Let views() read what both guests see, and what the disk has."""
    assert primary.machine.disks
    path = run / VIEW_SOCKET
    path.unlink(missing_ok=True)
    primary.monitor.execute('nbd-server-start', {
        'addr': {'type': 'unix', 'data': {'path': str(path)}}})
    for vm in (primary, secondary):
        for n in range(primary.machine.disks.count):
            vm.monitor.execute('nbd-server-add', {'device': f'disk{n}'})


def _digest(vm: Vm, uri: str, run: Path) -> str:
    copy = run / 'view.copy'
    subprocess.run(vm.hosts.argv(
        vm.host, vm.machine.tools / 'qemu-img', 'convert', '-f', 'raw',
        '-O', 'raw', uri, copy), check=True, timeout=TOOL_SECONDS)
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    copy.unlink()
    return digest


def view(vm: Vm, run: Path, n: int = 0) -> str:
    """A digest of what the guest of @vm would read from disk @n."""
    if 'nbd-server' in vm.disks:
        where = f'nbd://{net.LINK_ADDRESS[vm.host]}:{NBD_PORT}/disk{n}'
    else:
        where = f'nbd+unix:///disk{n}?socket={run / VIEW_SOCKET}'
    return _digest(vm, where, run)


def arrived(secondary: Vm, run: Path, n: int = 0) -> str:
    """A digest of what is below the overlays of disk @n of @secondary, where
    the primary writes to."""
    assert secondary.machine.disks
    if secondary.machine.disks.shared:
        data = image_of(secondary, run, n).read_bytes()
        return hashlib.sha256(data).hexdigest()
    link = net.LINK_ADDRESS[secondary.host]
    return _digest(secondary, f'nbd://{link}:{NBD_PORT}/parent{n}', run)


def written(vm: Vm, n: int = 0, unit: str = 'operations') -> int:
    """How often, or how many bytes, the guest of @vm has written to disk
    @n."""
    for item in vm.monitor.execute('query-blockstats'):
        if item['device'] == f'disk{n}':
            return int(item['stats'][f'wr_{unit}'])
    raise DiskError(f'no disk{n} on {vm.host}')


def wait_fresh(vm: Vm, operations: int = 100, n: int = 0) -> None:
    """Until the guest of @vm has written so often again to disk @n."""
    goal = written(vm, n) + operations
    deadline = time.monotonic() + MIRROR_SECONDS
    while written(vm, n) < goal:
        if time.monotonic() > deadline:
            raise DiskError(f'the guest on {vm.host} does not write')
        time.sleep(0.01)


def check_image(machine: Machine, path: Path, *overlays: Path, acked: int,
                seed: int = 1, slots: int = SLOTS) -> None:
    """The image has every block below number @acked that was not overwritten,
    and no other one is damaged.  @overlays: as for contents()."""
    data = contents(machine, path, *overlays)
    stride = len(data) // slots // BLOCK_BYTES * BLOCK_BYTES
    for slot in range(slots):
        block = data[slot * stride:slot * stride + BLOCK_BYTES]
        magic, its_seed, number, crc, _ = BLOCK_HEAD.unpack_from(block)
        least = acked - 1 - (acked - 1 - slot) % slots
        if least < 0 and (magic, its_seed) != (BLOCK_MAGIC, seed):
            continue
        if (magic, its_seed) != (BLOCK_MAGIC, seed) or number < least or \
                number % slots != slot or \
                zlib.crc32(block[BLOCK_HEAD.size:]) != crc:
            raise DiskError(f'{path.name}: slot {slot} has {magic!r} of seed '
                            f'{its_seed}, number {number}, and not {least} or '
                            'later')
