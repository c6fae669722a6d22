# SPDX-License-Identifier: GPL-2.0-or-later
"""Build the guest of the end-to-end tests: a Debian cloud kernel, and an
initramfs that holds one static program (../guest/colo-guest*.c), busybox and
the modules for virtio.

The result stays in a cache directory ($XDG_CACHE_HOME/colo-guest or
~/.cache/colo-guest) and is made anew when a source file changes.  Only the
first build needs the package archive.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from . import web

# The kernel for machines of all kinds is larger, slower to boot, and has the
# modules of more NICs.  That of a "machine" has the guest agent beside it, a
# "web" the server of web.py
METAPACKAGES = {
    'cloud': 'linux-image-cloud-amd64',
    'generic': 'linux-image-amd64',
    'machine': 'linux-image-amd64',
    'web': 'linux-image-cloud-amd64',
    'web-generic': 'linux-image-amd64',
}
WEB = ('web', 'web-generic')
# Libraries that the agent needs and that this host may not have
AGENT_PACKAGES = ['qemu-guest-agent', 'liburing2']
FIRMWARE_PACKAGE = 'ovmf'
SOURCES = Path(__file__).resolve().parent.parent / 'guest'
# Sets of modules: "boot" is loaded at once, others by the control port.  What
# the kernel has built in (ext4 for one) needs none.
MODULE_SETS = {
    'boot': ['virtio_pci', 'virtio_net', 'virtio_blk', 'vmxnet3', 'e1000',
             'e1000e', '8139cp'],
    'disks': ['virtio_scsi', 'ata_piix', 'ahci', 'sd_mod'],
    'parts': ['efivarfs', 'virtio_console', 'virtio_balloon', 'virtio_rng',
              'xhci_pci', 'ehci_pci', 'usbhid', 'hid_generic', 'evdev',
              'usb_storage', 'sd_mod', 'snd_hda_codec_generic',
              'snd_hda_intel', 'snd_pcm_oss'],
}
COMMAND_SECONDS = 300


class GuestError(Exception):
    """The guest cannot be built; the text says what is lacking."""


@dataclass(frozen=True)
class Image:
    """Files of a guest that is ready to boot, and the program of its clients."""
    kernel: Path
    initrd: Path
    client: Path
    server: Path    # the guest's program, which also runs on the host
    certificate: Path   # of the web server; only "web" images have it


def cache_dir() -> Path:
    base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return Path(base) / 'colo-guest'


def _run(*args: str | Path, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run([str(arg) for arg in args], cwd=cwd, check=True,
                              stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=COMMAND_SECONDS)
    except FileNotFoundError:
        raise GuestError(f'guest: no program {args[0]} here') from None
    except subprocess.TimeoutExpired:
        raise GuestError(f'guest: {args[0]} did not end within '
                         f'{COMMAND_SECONDS} s') from None
    except subprocess.CalledProcessError as err:
        raise GuestError(f'guest: {" ".join(map(str, args))}: '
                         f'{err.stderr.strip()}') from None
    return done.stdout


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One build at a time; others wait for it."""
    with open(path, 'w', encoding='ascii') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _kernel_package_name(metapackage: str) -> str:
    pattern = re.compile(r'^\s*Depends: (linux-image-[0-9]\S+-amd64)\s*$',
                         re.MULTILINE)
    for attempt in range(2):
        match = pattern.search(_run('apt-cache', 'depends', metapackage))
        if match:
            return match.group(1)
        if attempt == 0 and os.geteuid() == 0:
            _run('apt-get', 'update')
    raise GuestError(f'guest: the package lists do not know {metapackage}; '
                     'run apt-get update')


def download(cache: Path, name: str) -> Path:
    """The newest package file of that name in the cache, fetched if none."""
    files = sorted(cache.glob(f'{name}_*.deb'))
    if not files:
        with tempfile.TemporaryDirectory(dir=cache) as tmp:
            try:
                _run('apt-get', 'download', name, cwd=Path(tmp))
            except GuestError:
                if os.geteuid():
                    raise
                _run('apt-get', 'update')   # the lists may be older than it
                _run('apt-get', 'download', name, cwd=Path(tmp))
            for file in Path(tmp).glob('*.deb'):
                file.rename(cache / file.name)
        files = sorted(cache.glob(f'{name}_*.deb'))
    if not files:
        raise GuestError(f'guest: apt-get download {name} brought nothing')
    return files[-1]


def _kernel_package(cache: Path, kernel: str) -> Path:
    cloud = '-cloud-' in METAPACKAGES[kernel]
    files = [file for file in sorted(cache.glob('linux-image-*-amd64_*.deb'))
             if ('-cloud-' in file.name) == cloud]
    if files:
        return files[-1]
    return download(cache, _kernel_package_name(METAPACKAGES[kernel]))


def _module_data(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == '.xz' else data


def _module_depends(data: bytes) -> list[str]:
    """Names in the module's own record, so that no depmod is needed."""
    match = re.search(rb'\0depends=([^\0]*)\0', data)
    names = match.group(1).decode('ascii') if match else ''
    return [name for name in names.split(',') if name]


class _Modules:
    """Modules by name, and the order in which to insert them."""

    def __init__(self, root: Path):
        self.path: dict[str, Path] = {}
        for path in root.rglob('*.ko*'):
            name = path.name.split('.')[0].replace('-', '_')
            self.path[name] = path
        self.data: dict[str, bytes] = {}

    def order(self, wanted: list[str]) -> list[str]:
        result: list[str] = []

        def add(name: str) -> None:
            name = name.replace('-', '_')
            if name in result or name not in self.path:
                return      # not there: built in, or left out of this kernel
            if name not in self.data:
                self.data[name] = _module_data(self.path[name])
            for other in _module_depends(self.data[name]):
                add(other)
            result.append(name)

        for name in wanted:
            add(name)
        return result


class _Cpio:
    """Writer of the "newc" format that the kernel unpacks."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.number = 0

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self.number += 1
        raw = name.encode('ascii') + b'\0'
        fields = (self.number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                  len(raw), 0)
        head = b'070701' + b''.join(b'%08x' % field for field in fields) + raw
        for part in (head, data):
            self.parts.append(part + b'\0' * (-len(part) % 4))

    def directory(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755, b'')

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode('ascii'))

    def bytes(self) -> bytes:
        self._entry('TRAILER!!!', 0, b'')
        data = b''.join(self.parts)
        return data + b'\0' * (-len(data) % 512)


def _busybox(cache: Path, tmp: Path) -> bytes:
    found = shutil.which('busybox')
    if found:
        data = Path(found).read_bytes()
        if b'/ld-linux' not in data[:4096]:     # no interpreter: static
            return data
    _run('dpkg', '-x', download(cache, 'busybox-static'), tmp / 'busybox')
    for path in (tmp / 'busybox').rglob('bin/busybox'):
        return path.read_bytes()
    raise GuestError('guest: no busybox in busybox-static')


APPLETS = ['ash', 'cat', 'cmp', 'cp', 'dd', 'df', 'dmesg', 'echo', 'free',
           'ip', 'ls', 'md5sum', 'mkdir', 'mount', 'ps', 'sh', 'sha256sum',
           'sync', 'umount']


def _program(cache: Path, tmp: Path, packages: list[str],
             place: str) -> dict[str, bytes]:
    """A program and the libraries that it needs, by path; it comes to
    @place."""
    root = tmp / packages[0]
    for name in packages:
        _run('dpkg', '-x', download(cache, name), root)
    programs = sorted(root.rglob(f's{place}'))      # all are in some sbin
    if not programs:
        raise GuestError(f'guest: no s{place} in {packages[0]}')
    extra = {path.name: path
             for path in root.rglob('lib*.so*') if path.is_file()}
    result = {place: programs[0].read_bytes()}
    for line in _run('ldd', programs[0]).splitlines():
        words = line.split()
        path = Path(words[2 if '=>' in words else 0])
        if path.name == 'not':
            if words[0] not in extra:
                raise GuestError(f'guest: {place} needs {words[0]}')
            path = extra[words[0]]
        if path.is_absolute():
            # The program names its loader by /lib64
            lib = 'lib64' if path.name.startswith('ld-') else 'lib'
            result[f'{lib}/{Path(words[0]).name}'] = path.read_bytes()
    return result


def _web(cache: Path, tmp: Path, certificate: Path) -> dict[str, bytes]:
    """The web server and its files, by path; writes its certificate."""
    key = tmp / 'key.pem'
    _run(*web.certificate_command(str(certificate), str(key)))
    return {**_program(cache, tmp, [web.PACKAGE], web.PROGRAM),
            **web.files(certificate.read_bytes(), key.read_bytes())}


def _initramfs(server: Path, modules: _Modules, busybox: bytes,
               files: dict[str, bytes]) -> bytes:
    cpio = _Cpio()
    for name in ('bin', 'dev', 'lib', 'lib/modules', 'lib64', 'mnt', 'proc',
                 'sys', 'tmp'):
        cpio.directory(name)
    parents = {str(path) for name in files for path in Path(name).parents}
    for name in sorted(parents - {'.', 'bin', 'lib', 'lib64'}):
        cpio.directory(name)
    for name, data in files.items():
        cpio.file(name, data, 0o755)
    cpio.file('init', server.read_bytes(), 0o755)
    cpio.file('bin/busybox', busybox, 0o755)
    for applet in APPLETS:
        cpio.link(f'bin/{applet}', 'busybox')
    for name, wanted in MODULE_SETS.items():
        order = modules.order(wanted)
        text = ''.join(f'/lib/modules/{module}.ko\n' for module in order)
        cpio.file(f'lib/modules/{name}', text.encode('ascii'))
    for module, data in modules.data.items():
        cpio.file(f'lib/modules/{module}.ko', data)
    return cpio.bytes()


def _compile(sources: str, target: Path, *flags: str) -> None:
    compiler = os.environ.get('CC', 'gcc').split()
    _run(*compiler, '-O2', '-Wall', *flags, '-o', target,
         *sorted(SOURCES.glob(sources)))


def _key(kernel: str) -> str:
    digest = hashlib.sha256(kernel.encode('ascii'))
    python = [Path(__file__)] + ([Path(web.__file__)] if kernel in WEB else [])
    for path in sorted(SOURCES.glob('*.[ch]')) + python:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cached(cache: Path | None = None, kernel: str = 'cloud') -> bool:
    """Whether build() has nothing to do."""
    return ((cache or cache_dir()) / f'image-{_key(kernel)}').is_dir()


def build(cache: Path | None = None, kernel: str = 'cloud') -> Image:
    """The image, built if the cache has none of these sources."""
    cache = cache or cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / f'image-{_key(kernel)}'
    image = Image(done / 'vmlinuz', done / 'initrd', done / 'colo-client',
                  done / 'colo-guest', done / 'certificate.pem')
    with _lock(cache / 'lock'):
        if done.is_dir():
            return image
        with tempfile.TemporaryDirectory(dir=cache) as name:
            tmp = Path(name)
            result = tmp / 'result'
            result.mkdir()
            _compile('colo-guest*.c', result / 'colo-guest', '-static',
                     '-pthread')
            _compile('colo-client*.c', result / 'colo-client')
            _run('dpkg', '-x', _kernel_package(cache, kernel), tmp / 'kernel')
            kernels = sorted((tmp / 'kernel' / 'boot').glob('vmlinuz-*'))
            if not kernels:
                raise GuestError('guest: the kernel package has no vmlinuz')
            shutil.copyfile(kernels[-1], result / 'vmlinuz')
            modules = _Modules(tmp / 'kernel')
            busybox = _busybox(cache, tmp)
            files = {}
            if kernel == 'machine':
                files = _program(cache, tmp, AGENT_PACKAGES, 'bin/qemu-ga')
            elif kernel in WEB:
                files = _web(cache, tmp, result / 'certificate.pem')
            (result / 'initrd').write_bytes(
                _initramfs(result / 'colo-guest', modules, busybox, files))
            result.rename(done)
    return image


def firmware(cache: Path | None = None) -> Path:
    """Where UEFI for virtual machines is."""
    cache = cache or cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    done = cache / FIRMWARE_PACKAGE
    with _lock(cache / 'lock'):
        if not done.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as name:
                _run('dpkg', '-x', download(cache, FIRMWARE_PACKAGE), name)
                result = Path(name) / 'usr/share/OVMF'
                if not result.is_dir():
                    raise GuestError('guest: no firmware in '
                                     f'{FIRMWARE_PACKAGE}')
                result.rename(done)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description='build the guest image')
    parser.add_argument('--cache', type=Path, help='directory to keep it in')
    args = parser.parse_args()
    try:
        image = build(args.cache)
    except GuestError as err:
        print(err, file=sys.stderr)
        return 1
    print(f'{image.kernel}\n{image.initrd}\n{image.client}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
