# SPDX-License-Identifier: GPL-2.0-or-later
"""Two cluster nodes on the hosts: corosync, Pacemaker, and our resource agent.

Each node has namespaces of its own for processes, mounts, IPC and its name
(../host/colo-node), and the network of a host.  What it needs of Debian's
packages is laid over /usr there if this machine has it not: nothing is
installed, and no daemon begins outside.

The nodes' power is a switch of the test, a socket, which the cluster reaches by
a fence agent (../host/fence_colo_e2e).  A node that is off has no processes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from . import guest, net, vm
from .document import Document
from .qmp import Monitor

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / 'docs/system/qemu-colo-pacemaker.rst'
AGENT = ROOT / 'tools' / 'ocf' / 'colo'
HELPER = ROOT / 'tools' / 'ocf' / 'colo-side'
HOST = Path(__file__).resolve().parent.parent / 'host'
NODE = HOST / 'colo-node'
FENCE = HOST / 'fence_colo_e2e'
PACKAGES = ('corosync', 'pacemaker', 'pacemaker-cli-utils', 'resource-agents')
PROGRAMS = ('corosync', 'pacemakerd', 'crm_attribute', 'ocf-tester')
FOLDER = 'cluster'          # in the cache
PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
USER, GROUP, NUMBER = 'hacluster', 'haclient', 189
RESOURCE = 'vm1'
CONFIG = f'/etc/colo/{RESOURCE}.toml'
COMMAND_SECONDS = 60.0
WAIT_SECONDS = 120.0
UP_SECONDS = 60.0
DOWN_SECONDS = 90.0
DEATH_SECONDS = 10.0
POLL_SECONDS = 0.1
TOKEN_MS = 1000             # of corosync: after so long a node is lost
LAST_LINES = 60

COROSYNC = f'''totem {{
    version: 2
    cluster_name: colo
    transport: knet
    token: {TOKEN_MS}
}}
nodelist {{
    node {{
        name: a
        nodeid: 1
        ring0_addr: {net.RING_ADDRESS['a']}
    }}
    node {{
        name: b
        nodeid: 2
        ring0_addr: {net.RING_ADDRESS['b']}
    }}
}}
quorum {{
    provider: corosync_votequorum
    two_node: 1
    wait_for_all: 0
}}
logging {{
    to_stderr: yes
    to_syslog: no
}}
'''

FENCING = '''<resources>
<primitive id="power" class="stonith" type="fence_colo_e2e">
 <instance_attributes id="power-params">
  <nvpair id="power-switch" name="switch" value="{switch}"/>
  <nvpair id="power-hosts" name="pcmk_host_list" value="a b"/>
  <nvpair id="power-check" name="pcmk_host_check" value="static-list"/>
 </instance_attributes>
</primitive>
</resources>'''


class ClusterError(Exception):
    """The cluster did not do what it was started for."""


def _system_has_all() -> bool:
    return all(shutil.which(name, path=PATH) for name in PROGRAMS)


def _missing_packages() -> list[str]:
    done = subprocess.run(
        ['apt-get', 'install', '-s', '--no-install-recommends', *PACKAGES],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=COMMAND_SECONDS,
        check=False)
    names = re.findall(r'^Inst (\S+)', done.stdout, re.MULTILINE)
    if done.returncode or not names:
        raise guest.GuestError(f'cluster: {done.stdout.strip()[-200:]}')
    return names


def fetch(cache: Path | None = None) -> None:
    """Get the packages while there is a network, if need be."""
    cache = cache or guest.cache_dir()
    if _system_has_all() or (cache / FOLDER).is_dir():
        return
    with tempfile.TemporaryDirectory(dir=cache) as name:
        root = Path(name) / 'root'
        for package in _missing_packages():
            subprocess.run(['dpkg', '-x', guest.download(cache, package),
                            root], check=True, timeout=COMMAND_SECONDS)
        # As on a machine where /lib is a link
        if (root / 'lib').is_dir():
            shutil.copytree(root / 'lib', root / 'usr' / 'lib',
                            symlinks=True, dirs_exist_ok=True)
        root.rename(cache / FOLDER)


def why_not() -> str:
    """'' if nodes can be made here."""
    if os.geteuid() or Path('/proc/self/uid_map').read_text(
            encoding='ascii').split()[2] == '1':
        return 'Pacemaker has users of its own, so it takes root'
    if not _system_has_all() and not (guest.cache_dir() / FOLDER).is_dir():
        return f'no {", ".join(PACKAGES)}'
    return ''


def _reap() -> None:
    """Commands in a node whose nsenter has been killed are ours by then, and
    keep its first process from ending."""
    for task in Path('/proc/self/task').iterdir():
        for pid in (task / 'children').read_text(encoding='ascii').split():
            try:
                status = Path(f'/proc/{pid}/status').read_text(
                    encoding='ascii')
            except OSError:
                continue
            inside = re.search(r'^NSpid:\s+\d+\s+\d+', status, re.MULTILINE)
            if inside and '\nState:\tZ' in status:
                os.waitpid(int(pid), os.WNOHANG)


class Power:
    """The power switch."""

    def __init__(self, cluster: Cluster, path: Path):
        self.path = path
        self.done: list[str] = []       # nodes that it has put off, in order
        self._cluster = cluster
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                try:
                    action, _, node = client.recv(64).decode().partition(' ')
                    if action in ('off', 'reboot'):
                        self._cluster.nodes[node.strip()].kill()
                        self.done.append(node.strip())
                    client.sendall(b'ok\n')
                except (OSError, KeyError, ClusterError):
                    pass        # of somebody whose power has just failed

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.path.unlink(missing_ok=True)


class Node:
    """A host with its power, which is off at first."""

    def __init__(self, hosts: net.Hosts, host: str, folder: Path):
        self.hosts, self.host, self.folder = hosts, host, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        for name in ('etc/corosync', 'etc/colo', 'usr/sbin', 'lib', 'log',
                     'usr/lib/ocf/resource.d/qemu', 'usr/lib/ocf/lib/qemu'):
            (folder / name).mkdir(parents=True)
        for path in [folder, *folder.rglob('*')]:
            path.chmod(0o755)
        etc, usr = folder / 'etc', folder / 'usr'
        (etc / 'corosync/corosync.conf').write_text(COROSYNC, encoding='ascii')
        (etc / 'hosts').write_text('127.0.0.1 localhost\n' + ''.join(
            f'{address} {name}\n'
            for name, address in net.RING_ADDRESS.items()), encoding='ascii')
        for name, line in (('passwd', f'{USER}:x:{NUMBER}:{NUMBER}::'
                            '/var/lib/pacemaker:/usr/sbin/nologin\n'),
                           ('group', f'{GROUP}:x:{NUMBER}:\n')):
            text = Path('/etc', name).read_text(encoding='utf-8')
            if line.split(':', 1)[0] not in text:
                text += line
            (etc / name).write_text(text, encoding='utf-8')
        shutil.copy(FENCE, usr / 'sbin')
        shutil.copy(AGENT, usr / 'lib/ocf/resource.d/qemu/colo')
        shutil.copy(HELPER, usr / 'lib/ocf/lib/qemu/colo-side')

    def start(self, bare: bool = False) -> None:
        """@bare: without a cluster."""
        if bare:
            (self.folder / 'bare').touch()
        packages = guest.cache_dir() / FOLDER
        argv = ['unshare', '--mount', '--pid', '--uts', '--ipc', '--fork',
                '--kill-child', NODE, self.host, self.folder]
        if not _system_has_all():
            argv.append(packages)
        with open(self.folder / 'node.log', 'ab') as log:
            self._process = subprocess.Popen(
                self.hosts.argv(self.host, *argv), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env={**os.environ, 'PATH': PATH})
        children = Path(f'/proc/{self._process.pid}/task/'
                        f'{self._process.pid}/children')
        deadline = time.monotonic() + UP_SECONDS
        while True:
            found = children.read_text(encoding='ascii').split()
            if found:
                self._init = int(found[0])
                if self._answers(bare):
                    return
            if self._process.poll() is not None or \
                    time.monotonic() > deadline:
                text = (self.folder / 'node.log').read_text(errors='replace')
                raise ClusterError(f'node {self.host} does not begin: {text}')
            time.sleep(POLL_SECONDS)

    def _answers(self, bare: bool) -> bool:
        command = ['test', '-d', '/var/log/pacemaker'] if bare else [
            'crm_mon', '-1']
        try:
            self.run(*command)
        except ClusterError:
            return False
        return True

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """The power fails.  All processes have ended when this returns."""
        process = self._process
        if not process:
            return
        self._signal(signal.SIGKILL)
        deadline = time.monotonic() + DEATH_SECONDS
        while process.poll() is None:
            _reap()
            if time.monotonic() > deadline:
                raise ClusterError(f'processes of {self.host} do not end')
            time.sleep(0.01)

    def _signal(self, number: int) -> None:
        if self._init and self._process and self._process.poll() is None:
            try:
                os.kill(self._init, number)
            except ProcessLookupError:
                pass

    def stop(self) -> None:
        """Shut down in order, as systemd does."""
        self._signal(signal.SIGTERM)
        assert self._process
        try:
            self._process.wait(DOWN_SECONDS)
        except subprocess.TimeoutExpired:
            raise ClusterError(f'node {self.host} does not stop') from None

    def run(self, *args: str, check: bool = True,
            stdin: str | None = None) -> str:
        """A command there; what it prints."""
        done = subprocess.run(
            ['nsenter', '-t', str(self._init), '-m', '-u', '-i', '-n', '-p',
             '--', *args], input=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=COMMAND_SECONDS,
            env={**os.environ, 'PATH': PATH}, check=False,
            **({} if stdin is not None else {'stdin': subprocess.DEVNULL}))
        if check and done.returncode:
            raise ClusterError(f'{" ".join(args[:4])} on {self.host}: exit status '
                               f'{done.returncode}: {done.stdout.strip()}')
        return done.stdout

    def side(self, command: str) -> str:
        """What colo-side says there."""
        return self.run('/usr/lib/ocf/lib/qemu/colo-side', '--config', CONFIG,
                        '--host', self.host, command).strip()

    def state(self) -> str:
        """Of the QEMU there, asked itself."""
        return self.side('look').split(':')[0] if self.alive() else 'off'

    def kill_qemu(self, number: int = signal.SIGKILL) -> None:
        self.run('sh', '-c', f'kill -{int(number)} $(cat /run/colo-vm1/pid)')

    def qmp(self, command: str, **arguments: Any) -> Any:
        """By a second monitor, see configuration()."""
        monitor = Monitor(self.folder.parent / f'qmp-{self.host}.sock',
                          timeout=COMMAND_SECONDS)
        try:
            return monitor.execute(command, arguments)
        finally:
            monitor.close()


def configuration(machine: vm.Machine, run: Path) -> str:
    """The pair's, which is the same on both hosts."""
    arguments = vm.replace(machine, gate=False, disks=None).argv()
    arguments += ['-name', 'colo-{host}', '-chardev',
                  f'file,id=ser0,path={run}/serial-{{host}}.log',
                  '-serial', 'chardev:ser0',
                  '-qmp', f'unix:{run}/qmp-{{host}}.sock,server=on,wait=off']
    lines = [f'binary = {json.dumps(arguments[0])}',
             f'arguments = {json.dumps(shlex.join(arguments[1:]))}',
             f'mode = "{machine.mode}"', 'first = "a"', 'nics = ["hn0"]',
             f'log = "{run}/qemu-{{host}}.log"']
    for name, address in net.LINK_ADDRESS.items():
        lines += [f'[host.{name}]', f'address = "{address}"']
    lines += ['[parameters]', 'x-colo-timeout = 3000', 'max-bandwidth = 0']
    if machine.disks:
        lines += ['[[disk]]', f'image = "{run}/disk0-{{host}}.img"',
                  f'generation = "{run}/disk0-{{host}}.generation"']
    return '\n'.join(lines) + '\n'


class Cluster:
    """Both nodes, and what the cluster says of them."""

    def __init__(self, hosts: net.Hosts, machine: vm.Machine, run: Path):
        self.hosts, self.run = hosts, run
        hosts.add_ring()
        folder = run / 'nodes'
        shutil.rmtree(folder, ignore_errors=True)
        self.nodes = {host: Node(hosts, host, folder / host)
                      for host in net.LINK_ADDRESS}
        for node in self.nodes.values():
            (node.folder.parent.parent / f'serial-{node.host}.log').write_bytes(
                b'')
            (node.folder / 'etc/colo/vm1.toml').write_text(
                configuration(machine, run), encoding='utf-8')
        for path in run.glob('disk0-?.*'):
            path.unlink()
        if machine.disks:
            for host in self.nodes:
                with open(run / f'disk0-{host}.img', 'wb') as image:
                    image.truncate(machine.disks.mib << 20)
        self.power = Power(self, run / 'power.sock')

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if failure:
            self._report()
        for node in self.nodes.values():
            node.kill()
        self.power.close()

    def _report(self) -> None:
        """For the one who looks for the reason of a failure."""
        for host, node in self.nodes.items():
            text = ''
            if node.alive():
                text = node.run('crm_mon', '-1', '-A', check=False)
            for name in ('log/pacemaker/pacemaker.log', 'log/corosync.out',
                         'node.log'):
                path = node.folder / name
                if path.exists():
                    lines = path.read_text(errors='replace').splitlines()
                    keep = [line for line in lines if 'colo' in line or
                            'notice' in line or 'error' in line]
                    text += '\n'.join(keep[-LAST_LINES:]) + '\n'
            (self.run / f'state-{host}.txt').write_text(text,
                                                        encoding='utf-8')

    def any(self) -> Node:
        for node in self.nodes.values():
            if node.alive():
                return node
        raise ClusterError('both nodes are off')

    def start(self, *hosts: str) -> None:
        for host in hosts:
            self.nodes[host].start()

    def configure(self, shutdown: int = 3) -> None:
        node = self.any()
        self._wait('a DC', lambda: self.status().find(
            './summary/current_dc[@present="true"]') is not None)
        node.run('crm_attribute', '-n', 'stonith-action', '-v', 'off')
        node.run('crm_attribute', '-n', 'stonith-enabled', '-v', 'true')
        document = Document(DOCUMENT).block(
            'pacemaker-resource', {'60': str(shutdown)})
        for text in (FENCING.format(switch=self.power.path), document):
            node.run('cibadmin', '--modify', '--allow-create', '--scope',
                     'resources', '--xml-text', text)

    def _wait(self, what: str, condition: Any,
              timeout: float = WAIT_SECONDS) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                states = {host: node.state()
                          for host, node in self.nodes.items()}
                raise ClusterError(f'{what}: not within {timeout:.0f} s: '
                                   f'{self.roles()}, {states}')
            time.sleep(POLL_SECONDS)

    def status(self) -> ElementTree.Element:
        """As any node tells it; empty if it cannot."""
        try:
            return ElementTree.fromstring(
                self.any().run('crm_mon', '--output-as=xml'))
        except (ClusterError, ElementTree.ParseError):
            return ElementTree.Element('unknown')

    def roles(self) -> dict[str, str]:
        """Of the instances, by node."""
        return {node.get('name', ''): item.get('role', '')
                for item in self.status().iter('resource')
                if item.get('id', '').partition(':')[0] == RESOURCE
                for node in item.findall('node')}

    def wait_roles(self, timeout: float = WAIT_SECONDS,
                   **wanted: str) -> None:
        self._wait(f'roles {wanted}', lambda: self.roles() == wanted, timeout)

    def wait_state(self, host: str, *wanted: str,
                   timeout: float = WAIT_SECONDS) -> None:
        self._wait(f'{host} to be {" or ".join(wanted)}',
                   lambda: self.nodes[host].state() in wanted, timeout)

    def wait_protected(self, primary: str, secondary: str) -> None:
        """And the cluster knows that the secondary could be promoted."""
        self.wait_state(primary, 'protected')
        self.wait_state(secondary, 'ready')
        self.wait_roles(**{primary: 'Promoted', secondary: 'Unpromoted'})
        self._wait(f'a promotion score of {secondary}',
                   lambda: self.score(secondary) == 500)

    def score(self, host: str) -> int | None:
        """For a promotion there, None if there must not be any."""
        said = self.any().run('crm_attribute', '--promotion', RESOURCE, '-N',
                              host, '-G', '-q', check=False).strip()
        return int(said) if said.lstrip('-').isdigit() else None

    def standby(self, host: str, wanted: bool) -> None:
        self.any().run('crm_attribute', '--node', host, '--name', 'standby',
                       '--lifetime', 'forever', '-v',
                       'on' if wanted else 'off')

    def stop_all(self, wanted: bool) -> None:
        self.any().run('crm_attribute', '-n', 'stop-all-resources', '-v',
                       'true' if wanted else 'false')
