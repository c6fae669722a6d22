# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts made of network namespaces.

          client              10.77.0.1, fd00:77::1
            |
          switch              a bridge; it learns where the guest's MAC is
          /    \\
       host a  host b         each a bridge with the tap of its QEMU
          \\____/              10.78.0.1 -- 10.78.0.2, the COLO link
                              10.79.0.1 -- 10.79.0.2, for heartbeats only

add_network() makes the same again for another NIC: 10.77.1.1 and so on.

enter() first moves the whole process into namespaces of its own: network,
mounts and processes, and a user namespace unless it runs as root.  So nothing
can reach any other network, and when the process ends, for whatever reason,
the kernel ends what it started and takes the interfaces away.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Iterator, NoReturn

GUEST_PREFIX = 24
GUEST_PREFIX6 = 64
LINK_ADDRESS = {'a': '10.78.0.1', 'b': '10.78.0.2'}
BEAT_ADDRESS = {'a': '10.79.0.1', 'b': '10.79.0.2'}
RING_ADDRESS = {'a': '10.80.0.1', 'b': '10.80.0.2'}
LINK_PREFIX = 24
LINK, BEAT_LINK = 'colo0', 'beat0'      # interfaces
COMMAND_SECONDS = 60
RELAY = Path(__file__).resolve().parent / 'relay.py'
SNIFF = Path(__file__).resolve().parent / 'sniff.py'
HOSTILE = Path(__file__).resolve().parent / 'hostile.py'
REMEDY = 'run as root, or permit user namespaces'

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8
_MS_REC_PRIVATE = 0x4000 | 0x40000
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80

_entered = False


def client_address(network: int = 0) -> str:
    return f'10.77.{network}.1'


def guest_address(network: int = 0) -> str:
    return f'10.77.{network}.10'


def client_address6(network: int = 0) -> str:
    return f'fd00:77:0:{network}::1'


def guest_address6(network: int = 0) -> str:
    return f'fd00:77:0:{network}::10'


def tap(network: int = 0) -> str:
    return f'tap{network}'


class NetError(Exception):
    """The hosts cannot be made; the text is one line that says why."""


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise NetError(f'{what}: {reason}; {REMEDY}')


def _mount(source: str, target: str, kind: str, flags: int) -> None:
    _check(_libc().mount(source.encode(), target.encode(), kind.encode(),
                         ctypes.c_ulong(flags), None), f'mount {target}')


def _be_parent(child: int) -> NoReturn:
    """Wait for the process inside and end as it ends."""
    while True:
        info = signal.sigwaitinfo({signal.SIGCHLD, signal.SIGINT,
                                   signal.SIGTERM, signal.SIGHUP})
        if info.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
        elif (info.si_signo == signal.SIGINT and
              info.si_code == _SI_KERNEL):
            pass        # from the terminal: the process inside got it too
        else:
            os.kill(child, info.si_signo)


def _on_signal(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _be_root_inside(uid: int, gid: int) -> None:
    """In a new user namespace, that user of the one around it is root."""
    for name, text in (('setgroups', 'deny'), ('uid_map', f'0 {uid} 1'),
                       ('gid_map', f'0 {gid} 1')):
        try:
            Path('/proc/self', name).write_text(text, encoding='ascii')
        except OSError as err:
            raise NetError(f'{name}: {err.strerror}; {REMEDY}') from None


def enter() -> None:
    """Go on inside new namespaces; the caller has no threads yet.

    The process that called stays outside and waits; the one that returns from
    here is process 1 inside.
    """
    global _entered
    if _entered:
        return
    libc = _libc()
    flags = _CLONE_NEWNET | _CLONE_NEWNS | _CLONE_NEWPID
    uid, gid = os.geteuid(), os.getegid()
    if uid:
        flags |= _CLONE_NEWUSER
    if not os.access('/dev/net/tun', os.R_OK | os.W_OK):
        raise NetError('no access to /dev/net/tun, which tap devices need')
    sys.stdout.flush()
    _check(libc.unshare(flags), 'unshare')
    if uid:
        _be_root_inside(uid, gid)
    handled = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    ours, theirs = os.pipe()
    child = os.fork()
    if child:
        os.close(ours)
        os.write(theirs, b'.')
        _be_parent(child)
    os.close(theirs)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.read(ours, 1) != b'.':
        os._exit(1)             # the parent died before it could be watched
    os.close(ours)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    signal.signal(signal.SIGTERM, _on_signal)
    signal.signal(signal.SIGHUP, _on_signal)
    _check(libc.mount(b'none', b'/', None, ctypes.c_ulong(_MS_REC_PRIVATE),
                      None), 'mount /')
    _mount('proc', '/proc', 'proc', _MS_NOSUID_NODEV_NOEXEC)
    _mount('tmpfs', '/run', 'tmpfs', _MS_NOSUID_NODEV_NOEXEC)
    _entered = True


def _command(*args: str) -> None:
    try:
        done = subprocess.run(args, stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=COMMAND_SECONDS, check=False)
    except FileNotFoundError:
        raise NetError(f'no program {args[0]} here (Debian: iproute2, '
                       'util-linux)') from None
    if done.returncode:
        raise NetError(f'{" ".join(args)}: {done.stdout.strip()}')


class Hosts:
    """The four namespaces: 'a' and 'b' are the hosts, 'client', 'switch'."""

    names = ('a', 'b', 'switch', 'client')

    def __init__(self) -> None:
        if not _entered:
            raise NetError('net.enter() comes first')
        for name in self.names:
            _command('ip', 'netns', 'add', name)
            self.ip(name, 'link', 'set', 'lo', 'up')
        self.networks = 0
        self.add_network()
        for dev, addresses in ((LINK, LINK_ADDRESS), (BEAT_LINK, BEAT_ADDRESS)):
            self._cable('a', dev, 'b', dev)
            for name, address in addresses.items():
                self._address(name, dev, address, LINK_PREFIX)

    def add_network(self) -> None:
        """From the client to a NIC of the guest, over another switch."""
        n = self.networks
        end = f'-{n}' if n else ''      # of a port of a switch
        self._bridge('switch', n)
        for name in ('a', 'b'):
            self._bridge(name, n)
            self._tap(name, n)
            self._cable(name, f'up{n}', 'switch', f'to-{name}{end}')
            self._port(name, f'up{n}', n)
            self._port('switch', f'to-{name}{end}', n)
        self._cable('client', f'eth{n}', 'switch', f'to-client{end}')
        self._port('switch', f'to-client{end}', n)
        self._address('client', f'eth{n}', client_address(n), GUEST_PREFIX)
        self._address('client', f'eth{n}', client_address6(n), GUEST_PREFIX6,
                      'nodad')
        self.networks += 1

    def close(self) -> None:
        """Take the namespaces away; their processes have ended before."""
        for name in self.names:
            _command('ip', 'netns', 'del', name)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ip(self, name: str, *args: str) -> None:
        _command('ip', '-n', name, *args)

    def argv(self, name: str, *args: str | Path) -> list[str]:
        """The command line that runs @args on that host, as one process."""
        return ['nsenter', f'--net=/run/netns/{name}', '--',
                *(str(arg) for arg in args)]

    def _bridge(self, name: str, n: int) -> None:
        self.ip(name, 'link', 'add', f'br{n}', 'type', 'bridge', 'stp_state',
                '0', 'forward_delay', '0', 'mcast_snooping', '0')
        self.ip(name, 'link', 'set', f'br{n}', 'addrgenmode', 'none', 'up')

    def _tap(self, name: str, n: int) -> None:
        """A tap that outlives its QEMU, so that the next one finds it."""
        self.ip(name, 'tuntap', 'add', 'dev', tap(n), 'mode', 'tap',
                'vnet_hdr')
        self._port(name, tap(n), n)

    def _cable(self, one: str, dev: str, other: str, peer: str) -> None:
        self.ip(one, 'link', 'add', dev, 'type', 'veth', 'peer', 'name', peer,
                'netns', other)

    def _port(self, name: str, dev: str, n: int) -> None:
        self.ip(name, 'link', 'set', dev, 'master', f'br{n}', 'addrgenmode',
                'none', 'up')

    def _address(self, name: str, dev: str, address: str, prefix: int,
                 *flags: str) -> None:
        self.ip(name, 'link', 'set', dev, 'addrgenmode', 'none', 'up')
        self.ip(name, 'address', 'add', f'{address}/{prefix}', 'dev', dev,
                *flags)

    def cut_link(self, dev: str = LINK) -> None:
        """Between the hosts only; both keep their clients."""
        self.ip('a', 'link', 'set', dev, 'down')

    def mend_link(self, dev: str = LINK) -> None:
        self.ip('a', 'link', 'set', dev, 'up')

    def add_ring(self) -> None:
        """Between the hosts, for a cluster: it does not fail with the link."""
        self._cable('a', 'ring0', 'b', 'ring0')
        for name, address in RING_ADDRESS.items():
            self._address(name, 'ring0', address, LINK_PREFIX)

    def cut_ring(self) -> None:
        self.ip('a', 'link', 'set', 'ring0', 'down')

    def mend_ring(self) -> None:
        self.ip('a', 'link', 'set', 'ring0', 'up')

    def cut_uplink(self, name: str) -> None:
        """As if that host's port of the switch went dark."""
        self.ip('switch', 'link', 'set', f'to-{name}', 'down')

    def mend_uplink(self, name: str) -> None:
        self.ip('switch', 'link', 'set', f'to-{name}', 'up')

    @contextlib.contextmanager
    def flooded(self) -> Iterator[None]:
        """The switch, and the bridges of the hosts, forget where the guest is:
        each frame for it comes to both."""
        ports = [('switch', 'to-a'), ('switch', 'to-b'), ('a', 'up0'),
                 ('b', 'up0')]

        def learning(state: str) -> None:
            for name, port in ports:
                _command('bridge', '-n', name, 'link', 'set', 'dev', port,
                         'learning', state)
                self.ip(name, 'link', 'set', 'br0', 'type', 'bridge',
                        'fdb_flush')
        learning('off')
        try:
            yield
        finally:
            learning('on')

    @contextlib.contextmanager
    def bad_network(self, loss: float, jitter_ms: float,
                    seed: int) -> Iterator[dict[str, int]]:
        """Between client and switch frames are lost and overtake each other.

        @loss: share of the frames; @jitter_ms: longest delay of one.  What is
        yielded tells in the end how many there were.
        """
        done: dict[str, int] = {}
        self._cable('switch', 'bad0', 'switch', 'bad1')
        self._port('switch', 'bad0', 0)
        self.ip('switch', 'link', 'set', 'bad1', 'addrgenmode', 'none', 'up')
        self.ip('switch', 'link', 'set', 'to-client', 'nomaster')
        _command(*self.argv('switch', RELAY, '--plain', 'bad0'))
        _command(*self.argv('client', RELAY, '--plain', 'eth0'))
        with subprocess.Popen(
                self.argv('switch', RELAY, '--loss', str(loss), '--jitter',
                          str(jitter_ms), '--seed', str(seed), 'bad1',
                          'to-client'),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            try:
                if process.stdout.readline() != b'ready\n':
                    raise NetError('the relay does not begin')
                yield done
                process.terminate()
                counts = process.stdout.readline().split()
                if len(counts) != 3:
                    raise NetError('the relay has ended')
                done.update(zip(('frames', 'lost', 'overtaken'),
                                map(int, counts)))
            finally:
                process.kill()
        self.ip('switch', 'link', 'del', 'bad0')
        self._port('switch', 'to-client', 0)

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[tuple[int, bytes]]]:
        """What is yielded has in the end each connection between the hosts that
        was opened: the port, and what the caller has said first."""
        opened: list[tuple[int, bytes]] = []
        with subprocess.Popen(
                self.argv('a', SNIFF, LINK, BEAT_LINK),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            try:
                if process.stdout.readline() != b'ready\n':
                    raise NetError('the sniffer does not begin')
                yield opened
                process.terminate()
                opened += [(one['port'], bytes.fromhex(one['first']))
                           for one in json.loads(process.stdout.readline())]
            finally:
                process.kill()

    @contextlib.contextmanager
    def hostile_client(self, port: int, seed: int) -> Iterator[dict[str, int]]:
        """The client's host has a program that means harm, see hostile.py.

        @port: of the guest's, a service on TCP.  What is yielded tells in the
        end how many frames and connections there were.
        """
        done: dict[str, int] = {}
        with subprocess.Popen(
                self.argv('client', HOSTILE, '--seed', str(seed), 'eth0',
                          guest_address(), str(port)),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            try:
                if process.stdout.readline() != b'ready\n':
                    raise NetError('the hostile client does not begin')
                yield done
                process.terminate()
                counts = process.stdout.readline().split()
                if len(counts) != 2:
                    raise NetError('the hostile client has ended')
                done.update(zip(('frames', 'connections'), map(int, counts)))
            finally:
                process.kill()

    def limit_link(self, mbit: float) -> None:
        """No more than so many Mbit/s between the hosts, in each direction."""
        burst = max(int(mbit * 1000000 / 8 / 100), 65536)
        for name in ('a', 'b'):
            _command('tc', '-n', name, 'qdisc', 'replace', 'dev', 'colo0',
                     'root', 'tbf', 'rate', f'{int(mbit * 1000)}kbit', 'burst',
                     str(burst), 'latency', '200ms')

    def unlimit_link(self) -> None:
        for name in ('a', 'b'):
            _command('tc', '-n', name, 'qdisc', 'del', 'dev', 'colo0', 'root')
