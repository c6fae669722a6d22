# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU processes on the hosts, and protected pairs of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import client, disks, guest, net, power, product, proxy
from .disks import Disks
from .qmp import Monitor, QmpClosed, QmpError, QmpTimeout

if TYPE_CHECKING:
    from .parts import Parts
    from .tls import Tls

MAC = '52:54:00:c0:10:0{}'
COLO_PORT = 7700
BOOT_SECONDS = 240.0        # under TCG beside other work it has taken 90
UEFI_FACTOR = 2
PROTECT_SECONDS = 60.0
TIMEOUT_MS = 15000          # of a session, where nobody is to be silent
FAILOVER_SECONDS = 30.0
EXIT_SECONDS = 45.0
KVM_PROBE_SECONDS = 6.0
READY = b'colo-guest: ready'    # on the console
DESCRIBE_SECONDS = 2.0
CONSOLE_LINES = 40
FIRMWARE = ('/usr/share/qemu', '/usr/share/seabios', '/usr/lib/ipxe/qemu')
CMDLINE = ('console=ttyS0 quiet no_timer_check mitigations=off '
           'cryptomgr.notests memhp_default_state=online')


class VmError(Exception):
    """A VM did not do what it was started for."""


@dataclass(frozen=True)
class Machine:
    """What both sides of a pair are made of."""
    binary: Path
    image: guest.Image
    accel: str = 'tcg'
    machine: str = 'pc'
    memory: str = '512'
    cpus: int = 1
    mode: str = 'periodic'      # or hybrid
    gate: bool = True           # periodic mode: hold output until it is
                                # committed; hybrid: compare it
    compare: tuple[tuple[str, int], ...] = ()   # its options
    published: bool = False     # colo-compare, not filter-compare
    verify: bool = False        # compare all RAM at each checkpoint
    nic: str = ''               # more properties of the NICs
    nic_model: str = 'virtio-net-pci'   # several with + between them
    nics: int = 1               # each has a network of its own
    disks: Disks | None = None    # replicated ones
    parts: Parts | None = None  # what else a real machine has
    tls: Tls | None = None      # on all connections between the hosts
    cpu_lists: tuple[str, ...] = ()     # of this machine, for each host
    extra: tuple[str, ...] = field(default=())
    cmdline: str = ''

    @property
    def tools(self) -> Path:
        """Where qemu-img is."""
        return self.binary.parent

    def tls_creds(self, end: str) -> dict[str, str]:
        """What makes that end of a connection, server or client, TLS."""
        return {'tls-creds': f'tls-{end}'} if self.tls else {}

    def _addresses(self) -> list[str]:
        """What the kernel's command line says of the NICs."""
        words = []
        for n in range(self.nics):
            words += [f'colo.ip{n or ""}={net.guest_address(n)}/'
                      f'{net.GUEST_PREFIX}',
                      f'colo.ip6{f"-{n}" if n else ""}='
                      f'{net.guest_address6(n)}/{net.GUEST_PREFIX6}']
        return words

    def _nic(self, n: int) -> list[str]:
        models = self.nic_model.split('+')
        nic = f'{models[n % len(models)]},netdev=hn{n}'
        nic += f',mac={MAC.format(n + 1)}'
        if 'romfile' not in self.nic:
            nic += ',romfile='
        if self.nic:
            nic += f',{self.nic}'
        args = ['-netdev', f'tap,id=hn{n},ifname={net.tap(n)},script=no,'
                'downscript=no', '-device', nic]
        if self.gate and self.mode == 'periodic':
            args += ['-object', f'{product.GATE_TYPE},id=oc{n},netdev=hn{n}']
        return args

    def argv(self) -> list[str]:
        pc_bios = self.binary.resolve().parent / 'pc-bios'
        args = [str(self.binary)]
        for path in (pc_bios, *map(Path, FIRMWARE)):
            if path.is_dir():
                args += ['-L', str(path)]
        args += ['-no-user-config', '-nodefaults', '-display', 'none',
                 '-msg', 'timestamp=on',
                 '-machine', self.machine, '-accel', self.accel,
                 '-m', self.memory, '-smp', str(self.cpus),
                 '-kernel', str(self.image.kernel),
                 '-initrd', str(self.image.initrd),
                 '-append', ' '.join((CMDLINE, *self._addresses(),
                                      self.cmdline)).strip()]
        for n in range(self.nics):
            args += self._nic(n)
        if self.verify:
            args += ['-global', product.VERIFY_RAM]
        return args + list(self.extra)


class Vm:
    """One QEMU on one host, started when made."""

    def __init__(self, hosts: net.Hosts, host: str, machine: Machine,
                 run: Path, incoming: bool = False, secondary: bool = False):
        self.hosts = hosts
        self.host = host
        self.machine = machine
        self.serial = run / f'serial-{host}.log'
        self.log = run / f'qemu-{host}.log'
        self.fenced = False
        self.proxy: set[str] = set()    # see proxy.py
        self.disks: set[str] = set()    # see disks.py
        self.beats = False              # see beat.py
        socket = run / f'qmp-{host}.sock'
        socket.unlink(missing_ok=True)
        args = machine.argv()
        args += ['-name', f'colo-{host},debug-threads=on',
                 '-chardev', f'file,id=ser0,path={self.serial}',
                 '-serial', 'chardev:ser0',
                 '-qmp', f'unix:{socket},server=on,wait=off']
        if machine.disks:
            args += disks.arguments(machine, run, host, secondary)
        if machine.parts:
            args += machine.parts.begin(run, host)
        if machine.tls:
            args += machine.tls.arguments(run, host)
        if incoming:
            args += ['-incoming', 'defer']
        args = self._command(args)
        if machine.disks and machine.disks.lossy:
            args = power.command(run, args)
        if machine.cpu_lists:
            cpus = machine.cpu_lists[list(net.LINK_ADDRESS).index(host)]
            args = ['taskset', '--cpu-list', cpus, *args]
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(
                hosts.argv(host, *args), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT)
        try:
            self.monitor = Monitor(socket, self._must_live)
        except BaseException:
            self.kill()
            raise

    def _command(self, args: list[str]) -> list[str]:
        """What is run for the QEMU that @args is."""
        return args

    def _must_live(self) -> None:
        if self.process.poll() is not None:
            raise VmError(f'QEMU on {self.host} ended: {self.last_words()}')

    def last_words(self) -> str:
        text = self.log.read_text(errors='replace').strip()
        lines = [line for line in text.splitlines() if line.strip()]
        code = self.process.poll()
        end = 'alive' if code is None else f'exit status {code}'
        return f'{end}; {" | ".join(lines[-5:]) or "no output"}'

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if hasattr(self, 'monitor'):
            self.monitor.close()

    def wait_exit(self, timeout: float = EXIT_SECONDS) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise VmError(f'QEMU on {self.host} is still there after '
                          f'{timeout} s') from None

    def state(self) -> str:
        """The letter of the process state, T when stopped by a signal."""
        text = Path(f'/proc/{self.pid}/stat').read_text(encoding='ascii')
        return text.rsplit(')', 1)[1].split()[0]

    def _threads(self) -> list[str]:
        """What each thread waits for."""
        threads = []
        for task in sorted(Path(f'/proc/{self.pid}/task').iterdir()):
            try:
                words = [(task / name).read_text(encoding='ascii').strip()
                         for name in ('comm', 'wchan')]
            except OSError:
                continue            # it has ended
            threads.append(' in '.join(words))
        return threads

    def describe(self) -> str:
        """How it is, for the report of a failure."""
        lines = [f'process state {self.state()}', *self._threads()]
        try:
            for command in ('query-status', 'query-colo-status'):
                answer = self.monitor.execute(command, timeout=DESCRIBE_SECONDS)
                lines.append(f'{command}: {json.dumps(answer)}')
            # Where a guest hangs, if it does
            answer = self.monitor.execute(
                'human-monitor-command', {'command-line': 'info registers -a'},
                timeout=DESCRIBE_SECONDS)
            lines += [line for line in answer.splitlines() if 'RIP=' in line]
        except (QmpError, QmpTimeout, QmpClosed) as err:
            lines.append(str(err))
        console = self.serial.read_text(errors='replace').splitlines()
        return '\n'.join(lines + [f'console: {line}' for line in console[-CONSOLE_LINES:]])

    def rss_kib(self) -> int:
        status = Path(f'/proc/{self.pid}/status').read_text(encoding='ascii')
        for line in status.splitlines():
            if line.startswith('VmRSS:'):
                return int(line.split()[1])
        raise VmError('no VmRSS')

    def status(self) -> product.Status:
        return product.status(self.monitor)

    def run_state(self) -> str:
        return str(self.monitor.execute('query-status')['status'])

    def wait_run_state(self, wanted: str | tuple[str, ...],
                       timeout: float) -> None:
        self.monitor.wait_until('run state', 'query-status', 'status', wanted,
                                timeout)

    def load(self, state: Path) -> None:
        """Load a guest that save() wrote, into a QEMU made with incoming."""
        self.monitor.execute('migrate-incoming', {'uri': f'file:{state}'})
        self.monitor.wait_until('load', 'query-migrate', 'status', 'completed',
                                BOOT_SECONDS, never=('failed',))
        self.wait_run_state('running', BOOT_SECONDS)

    def save(self, state: Path) -> None:
        self.monitor.execute('migrate', {'uri': f'file:{state}'})
        self.monitor.wait_until('save', 'query-migrate', 'status', 'completed',
                                BOOT_SECONDS, never=('failed',))

    def wait_boot(self, timeout: float = BOOT_SECONDS) -> None:
        """Until the guest's program says on the console that it is ready."""
        if self.machine.parts:
            timeout *= UEFI_FACTOR      # the firmware has its time, too
        deadline = time.monotonic() + timeout
        while READY not in self.serial.read_bytes():
            self._must_live()
            if time.monotonic() > deadline:
                raise VmError(f'the guest on {self.host} did not boot within '
                              f'{timeout} s')
            time.sleep(0.02)


class Pair:
    """A primary and a secondary; each may be replaced by a new one."""

    def __init__(self, hosts: net.Hosts, machine: Machine, run: Path):
        self.hosts = hosts
        self.machine = machine
        self.run = run
        self.primary: Vm | None = None
        self.secondary: Vm | None = None
        disks.remove_images(run)
        if machine.tls:
            machine.tls.make(run)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure:
            for vm in (self.primary, self.secondary):
                if vm and vm.alive():
                    path = self.run / f'state-{vm.host}.txt'
                    path.write_text(vm.describe() + '\n', encoding='utf-8')
        self.close()

    def close(self) -> None:
        for vm in (self.primary, self.secondary):
            if vm:
                vm.kill()
        self.primary = self.secondary = None

    def vm(self, side: str) -> Vm:
        """'primary' or 'secondary'."""
        vm = self.primary if side == 'primary' else self.secondary
        if not vm:
            raise VmError(f'there is no {side}')
        return vm

    def other(self, side: str) -> Vm:
        return self.vm('secondary' if side == 'primary' else 'primary')

    def start_primary(self, host: str = 'a', state: Path | None = None) -> Vm:
        """Boot the guest, or load it from @state; ready when this returns."""
        self.primary = Vm(self.hosts, host, self.machine, self.run,
                          incoming=state is not None)
        if state:
            self.primary.load(state)
        else:
            self.primary.wait_boot()
        return self.primary

    def start_secondary(self, host: str = 'b') -> Vm:
        self.secondary = Vm(self.hosts, host, self.machine, self.run,
                            incoming=True, secondary=True)
        return self.secondary

    def begin_protection(self, exit_on_error: bool = True,
                         **parameters: Any) -> None:
        """Ask for it; parameters with _ for - (e.g. x_colo_timeout=1000).

        @exit_on_error: the secondary ends if the first migration fails.
        """
        primary, secondary = self.vm('primary'), self.vm('secondary')
        capability = {'capabilities': [{'capability': product.CAPABILITY,
                                        'state': True}]}
        settings: dict[str, Any] = {
            product.PARAMETER_MODE: self.machine.mode,
            product.PARAMETER_TIMEOUT: TIMEOUT_MS,
            'max-bandwidth': 0}             # of the first migration
        for key, value in parameters.items():
            settings[key.replace('_', '-')] = value
        if self.machine.mode == 'hybrid' and self.machine.gate:
            proxy.attach_primary(primary, self.run,
                                 **dict(self.machine.compare))
            proxy.attach_secondary(secondary, primary)
        disks.attach(primary, secondary)
        uri = f'tcp:{net.LINK_ADDRESS[secondary.host]}:{COLO_PORT}'
        for vm, end in ((primary, 'client'), (secondary, 'server')):
            vm.monitor.execute('migrate-set-capabilities', capability)
            vm.monitor.execute('migrate-set-parameters',
                               {**settings,
                                **vm.machine.tls_creds(end)})
        secondary.monitor.execute('migrate-incoming', {
            'uri': uri, 'exit-on-error': exit_on_error})
        primary.monitor.execute('migrate', {'uri': uri})

    def wait_protected(self, timeout: float = PROTECT_SECONDS) -> None:
        """Both sides in COLO and the secondary ready to take over.

        In periodic mode, with at least one checkpoint committed.
        """
        primary, secondary = self.vm('primary'), self.vm('secondary')
        for vm in (primary, secondary):
            vm.monitor.wait_until('protection', 'query-migrate', 'status',
                                  'colo', timeout,
                                  never=('failed', 'completed', 'cancelled'))
        if self.machine.mode == 'periodic':
            self.wait_checkpoints(1, timeout)
            return
        deadline = time.monotonic() + timeout
        while (secondary.status().state != 'running' or
               primary.status().state == 'starting'):
            if time.monotonic() > deadline:
                raise VmError('the secondary is not ready after '
                              f'{timeout} s: {secondary.status().raw}')
            time.sleep(0.01)

    def wait_checkpoints(self, count: int, timeout: float) -> product.Status:
        """Until @count more checkpoints than now have been committed."""
        vm = self.vm('primary')
        goal = vm.status().checkpoints + count
        deadline = time.monotonic() + timeout
        while True:
            status = vm.status()
            if status.checkpoints >= goal:
                return status
            if status.mode != 'primary':
                raise VmError(f'protection ended: {status.raw}')
            if time.monotonic() > deadline:
                raise VmError(f'{status.checkpoints} checkpoints and not '
                              f'{goal} after {timeout} s, state '
                              f'{status.state}')
            time.sleep(0.01)

    def compared(self, nic: int = 0) -> dict[str, int]:
        """What compares on the primary has done, by name."""
        found = self.vm('primary').status().raw['compare']
        if len(found) != self.machine.nics:
            raise VmError(f'{len(found)} objects that compare')
        item = {item.pop('id'): item for item in found}
        return dict(item[proxy.name('comp0', nic)])

    def protect(self, timeout: float = PROTECT_SECONDS,
                **parameters: Any) -> None:
        self.begin_protection(**parameters)
        self.wait_protected(timeout)

    def client(self, mode: str, **options: Any) -> client.Client:
        """A client of the guest, connected."""
        program = self.machine.image.client
        running = client.Client(self.hosts, program, mode, **options)
        return running.wait_connected(BOOT_SECONDS)

    def control(self, command: str) -> str:
        return client.control(self.hosts, self.machine.image.client, command)

    def fence(self, side: str) -> None:
        """What a cluster manager does first: make sure that side is dead."""
        vm = self.vm(side)
        vm.kill()
        vm.fenced = True

    def failover(self, side: str, timeout: float = FAILOVER_SECONDS,
                 force: bool = False) -> float:
        """Tell @side to go on without its peer; how many seconds it took.

        The command itself has a short deadline of its own: it must return at
        once, whatever the peer's state.  A guest that runs is not yet the
        service: in hybrid mode that of the secondary has run all along.
        """
        vm = self.vm(side)
        start = time.monotonic()
        vm.monitor.execute(product.FAILOVER, {'force': force}, timeout=3)
        vm.monitor.wait_until('to go on alone', 'query-colo-status', 'mode',
                              'none', timeout)
        vm.wait_run_state('running', timeout)
        return time.monotonic() - start


def boot_once(hosts: net.Hosts, machine: Machine, run: Path) -> Path:
    """A file with the state of a guest that has just booted.

    Loading it takes a fraction of a second, booting takes several.
    """
    state = run / 'booted.state'
    plain = replace(machine, gate=False, verify=False)
    with Pair(hosts, plain, run) as pair:
        vm = pair.start_primary()
        pair.control('ping')
        vm.save(state)
    return state


def retire(pair: Pair) -> str:
    """After a failover: the survivor becomes the primary, and has nothing left
    of the pair.  The other host."""
    survivor = pair.vm('primary')
    if not survivor.alive():
        survivor = pair.vm('secondary')
    dead = 'b' if survivor.host == 'a' else 'a'
    pair.primary, pair.secondary = survivor, None
    disks.detach(survivor)
    return dead


def rebuild(pair: Pair) -> None:
    """As retire(), with a new QEMU on the other host as the secondary."""
    pair.start_secondary(retire(pair))


def pick_accel(machine: Machine, run: Path, cache: Path) -> tuple[str, str]:
    """'kvm' if a guest really runs under it here, else 'tcg'; and why.

    A device node says little: under some nested hypervisors it opens and the
    guest never executes.  The answer holds until the machine is booted anew.
    """
    if not os.access('/dev/kvm', os.R_OK | os.W_OK):
        return 'tcg', 'no access to /dev/kvm'
    boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii')
    memo = cache / 'kvm-probe'
    try:
        known = memo.read_text(encoding='ascii').split()
        if known[0] == boot.strip() and known[1] in ('kvm', 'tcg'):
            return known[1], 'as probed before'
    except (FileNotFoundError, IndexError):
        pass
    serial = run / 'serial-probe.log'
    serial.write_bytes(b'')
    probe = replace(machine, accel='kvm', gate=False, verify=False)
    args = probe.argv()
    at = args.index('-netdev')
    args[at:at + 4] = ['-chardev', f'file,id=ser0,path={serial}',
                       '-serial', 'chardev:ser0']
    args[args.index('-append') + 1] = 'console=ttyS0 earlyprintk=ttyS0'
    process = subprocess.Popen(args, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + KVM_PROBE_SECONDS
    accel = 'tcg'
    try:
        while process.poll() is None and time.monotonic() < deadline:
            # The first message from user space: timers and interrupts work
            if b'colo-guest:' in serial.read_bytes():
                accel = 'kvm'
                break
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    memo.write_text(f'{boot.strip()} {accel}\n', encoding='ascii')
    if accel == 'kvm':
        return accel, 'a guest runs under it'
    return accel, f'no guest ran under kvm within {KVM_PROBE_SECONDS:.0f} s'


__all__ = ['Machine', 'Monitor', 'Pair', 'QmpClosed', 'QmpError', 'QmpTimeout',
           'Vm', 'VmError', 'boot_once', 'pick_accel', 'rebuild', 'retire',
           'signal']
