# SPDX-License-Identifier: GPL-2.0-or-later
"""How a model gets into a VM: the machine, the bus and the backends it needs.

What a model needs follows from the type of its bus and from its properties.
OPTIONS and NOT_HERE name those of which neither says enough.

In the options of a device {n} is a number of its own in the VM, so that
several devices can share one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable

from catalog import Model

MEMORY = '16M'          # all of it is compared at each load
NULL_DISK = 'null-co,size=67108864,read-zeroes=on,'

# SeaBIOS says there what it does
FIRMWARE_LOG = ['-chardev', 'file,id=firmware,path=firmware',
                '-device', 'isa-debugcon,iobase=0x402,chardev=firmware']
NO_FIRMWARE = 'none'    # the machine that runs nothing

# The machines that a device is tried in, until it can be made in one.
# microvm has its virtio-mmio transports for devices on a virtio-bus.
HOSTS = ('pc', 'q35', 'microvm', 'isapc')
HOSTS_BY_BUS = {
    'virtio-bus': ('microvm',),
    'ISA': ('pc', 'q35', 'isapc'),
}

# What provides a bus that no machine has: shared by all devices on it
PROVIDERS = {
    'usb-bus': ('-device', 'qemu-xhci,id=usb0,p2=8,p3=8'),
    'SCSI': ('-device', 'virtio-scsi-pci,id=scsi0'),
    'virtio-serial-bus': ('-device', 'virtio-serial-pci,id=vser0'),
    'HDA': ('-device', 'intel-hda,id=hda0'),
    'ccid-bus': ('-device', 'qemu-xhci,id=usb0,p2=8,p3=8',
                 '-device', 'usb-ccid,id=ccid0'),
    'sd-bus': ('-device', 'sdhci-pci,id=sdhci0'),
    'nvme-bus': ('-device', 'nvme,id=nvme0,serial=colo'),
    'floppy-bus': ('-device', 'isa-fdc,id=fdc0'),
    'IndustryPack': ('-device', 'tpci200,id=ipack0'),
    'ufs-bus': ('-device', 'ufs,id=ufs0'),
    'vmbus': ('-device', 'vmbus-bridge'),
}

# The first bus of its own that a machine has may be another one of the type
BUSES = {
    'usb-bus': 'usb0.0',
    'SCSI': 'scsi0.0',
    'virtio-serial-bus': 'vser0.0',
    'HDA': 'hda0.0',
}

# What is put on a bus that a device provides
CHILDREN = {
    'SCSI': ('-blockdev', NULL_DISK + 'node-name=cb{n}',
             '-device', 'scsi-hd,drive=cb{n},bus={bus}'),
    # SeaBIOS before 1.16.3 waits for a disk on AHCI for 32 s
    'IDE': ('-blockdev', NULL_DISK + 'node-name=cb{n}',
            '-device', 'ide-cd,drive=cb{n},bus={bus}'),
    'usb-bus': ('-device', 'usb-tablet,bus={bus}'),
    'virtio-serial-bus': ('-chardev', 'null,id=cc{n}',
                          '-device', 'virtserialport,chardev=cc{n},bus={bus}'),
    'HDA': ('-audiodev', 'none,id=ca{n}',
            '-device', 'hda-duplex,audiodev=ca{n},bus={bus}'),
    'PCI': ('-device', 'e1000,bus={bus},addr=1'),
    'PCIE': ('-device', 'e1000,bus={bus},addr=0'),
}

# Options of single devices, beside what follows from their properties
OPTIONS = {
    'cxl-switch-mailbox-cci': 'bus=cxlus0,target=cxlus0',
    'cxl-type3': 'bus=cxlrp0,volatile-memdev=cxlm{n},sn={n}',
    'hv-syndbg': 'host_ip=127.0.0.1,host_port=1',
    'intel-iommu': 'intremap=off',
    'loader': 'addr=0x1000,data=1,data-len=4',
    'nvme': 'serial=colo{n}',
    'pxb': 'bus_nr=4{n}',
    'pxb-cxl': 'bus_nr=4{n}',
    'pxb-pcie': 'bus_nr=4{n}',
    'usb-mtp': 'rootdir=/',
    'vhost-user-fs-device': 'tag=t{n}',
    'vhost-user-fs-pci': 'tag=t{n}',
    'vhost-vsock-device': 'guest-cid=4',
    'vhost-vsock-pci': 'guest-cid=4',
    'vhost-vsock-pci-non-transitional': 'guest-cid=4',
    'vmgenid': 'guid=auto',
}

# The machine that a device asks for, where the others let it be made
# without effect or not at all
MACHINES = {
    'cxl-switch-mailbox-cci': 'q35,cxl=on',
    'cxl-type3': 'q35,cxl=on',
    'nvdimm': 'pc,nvdimm=on',
    'pxb-cxl': 'q35,cxl=on',
    'virtio-iommu-device': 'microvm,pcie=on',
}

# Other devices that a device asks for
_CXL_ROOT = ('-device', 'pxb-cxl,bus_nr=60,bus=pcie.0,id=cxl0',
             '-device', 'cxl-rp,bus=cxl0,id=cxlrp0,chassis=60,slot=1')
EXTRA: dict[str, tuple[str, ...]] = {
    'cxl-switch-mailbox-cci': _CXL_ROOT + (
        '-device', 'cxl-upstream,bus=cxlrp0,id=cxlus0'),
    'cxl-type3': _CXL_ROOT,
    'hv-syndbg': PROVIDERS['vmbus'],
}
BACKENDS: dict[str, tuple[str, ...]] = {
    'cxl-type3': ('-object', 'memory-backend-ram,id=cxlm{n},size=256M'),
}

# Programs that a device's backend is a client of, each VM with its own.  They
# listen on the socket {socket} in the directory of the VM.
SWTPM = ('swtpm', 'socket', '--tpm2', '--tpmstate', 'dir=.', '--ctrl',
         'type=unixio,path={socket}')

# Devices of a Xen guest, which KVM can run
XEN = 'kvm,xen-version=0x4000a,kernel-irqchip=split'
XEN_BUSES = ('xen-bus', 'xen-sysbus')
# Those of a Hyper-V guest likewise
HYPERV_CPU = 'host,hv-vpindex,hv-synic'
HYPERV = ('vmbus-bridge', 'hv-balloon', 'hv-syndbg')

# Never made here: by name, why.  Not to be in any pair:
CANNOT = {
    'guest-loader': 'it needs a device tree, which no x86_64 machine has',
    'uefi-vars-sysbus': 'no x86_64 machine takes it',
    'vfio-pci-igd-lpc-bridge': 'a part of vfio-pci',
    'vmmouse': 'a part of the machines that have an i8042',
}
# A second CPU without an APIC runs the firmware, too, and both fail, in a pair
# or not: these are tried alone
WITHOUT_APIC = ('486', '486-v1', 'base')
# A backend that is a host's device or another program
NOT_HERE = {
    'ivshmem-doorbell': 'needs an ivshmem server',
    'scsi-block': 'needs a SCSI device of the host',
    'scsi-generic': 'needs a SCSI device of the host',
    'u2f-passthru': 'needs a U2F key of the host',
    'vfio-pci': 'needs a PCI device of the host',
    'vfio-pci-nohotplug': 'needs a PCI device of the host',
}
NOT_HERE_BY_PREFIX = {
    'vhost-user-': 'needs a vhost-user program',
    'vhost-vdpa-': 'needs a vDPA device of the host',
    'vhost-scsi': 'needs vhost-scsi of the host',
    'virtio-input-host-': 'needs an input device of the host',
}


def not_here(name: str) -> str:
    """Why a device cannot be tried on any host that runs the tests, or ''."""
    for prefix, why in NOT_HERE_BY_PREFIX.items():
        if name.startswith(prefix):
            return why
    return NOT_HERE.get(name, '')


@dataclass(frozen=True)
class Setup:
    """How one model is tried."""
    model: Model
    machine: str
    device: str = ''                    # what follows -device
    backends: tuple[str, ...] = ()      # its own, with {n}
    shared: tuple[str, ...] = ()        # what others may use, too
    children: tuple[tuple[str, str], ...] = ()  # (type, suffix of bus name)
    program: tuple[str, ...] = ()       # that the backend is a client of
    memory: str = MEMORY
    accel: str = 'tcg'
    cpu: str = ''

    @property
    def host(self) -> str:
        """The machine's name, without its options."""
        return self.machine.split(',')[0]

    @property
    def alike(self) -> tuple[str, ...]:
        """Setups for which this is equal may share a VM."""
        return (self.machine, self.memory, self.accel, self.cpu)

    def own(self, number: int) -> list[str]:
        args = [arg.replace('{n}', str(number)) for arg in self.backends]
        if self.device:
            args += ['-device', self.device.replace('{n}', str(number))]
        for index, (kind, bus) in enumerate(self.children):
            for arg in CHILDREN[kind]:
                args.append(arg.replace('{n}', f'{number}-{index}').replace(
                    '{bus}', bus.replace('{n}', str(number))))
        return args


def programs(setups: list[Setup]) -> dict[str, list[str]]:
    """The commands that a VM with all of them needs, by socket."""
    found = {}
    for number, setup in enumerate(setups, 1):
        if setup.program:
            found[f's{number}'] = [arg.replace('{socket}', f's{number}')
                                   for arg in setup.program]
    return found


def pairs(args: Iterable[str]) -> list[tuple[str, str]]:
    items = list(args)
    return list(zip(items[::2], items[1::2]))


def arguments(setups: list[Setup]) -> list[str]:
    """The options of a VM with all of them."""
    first = setups[0]
    args = ['-M', first.machine, '-accel', first.accel, '-m', first.memory]
    if first.cpu:
        args += ['-cpu', first.cpu, '-smp', '1,sockets=2,maxcpus=2']
    if first.host != NO_FIRMWARE:
        args += FIRMWARE_LOG
    seen: set[tuple[str, str]] = set()
    for setup in setups:
        for pair in pairs(setup.shared):
            if pair not in seen:
                seen.add(pair)
                args += pair
    for number, setup in enumerate(setups, 1):
        args += setup.own(number)
    return args


def _backends(properties: set[str]) -> tuple[list[str], list[str]]:
    """Options of the VM and of the device, by the device's properties."""
    backends: list[str] = []
    options: list[str] = []
    if 'drive' in properties:
        backends += ['-blockdev',
                     NULL_DISK + 'node-name=b{n}']
        options.append('drive=b{n}')
    if 'netdev' in properties:
        backends += ['-netdev', 'hubport,id=n{n},hubid={n}']
        options.append('netdev=n{n}')
    if 'chardev' in properties:
        backends += ['-chardev', 'null,id=c{n}']
        options.append('chardev=c{n}')
    if 'audiodev' in properties:
        backends += ['-audiodev', 'none,id=a{n}']
        options.append('audiodev=a{n}')
    for name in sorted(properties):
        if name.startswith('canbus'):
            backends += ['-object', f'can-bus,id={name}-{{n}}']
            options.append(f'{name}={name}-{{n}}')
    if 'memdev' in properties and 'lsa' not in properties:
        backends += ['-object', 'memory-backend-ram,id=m{n},size=32M']
        options.append('memdev=m{n}')
    if 'cryptodev' in properties:
        backends += ['-object', 'cryptodev-backend-builtin,id=k{n}']
        options.append('cryptodev=k{n}')
    if 'fsdev' in properties:
        backends += ['-fsdev', 'synth,id=f{n}']
        options += ['fsdev=f{n}', 'mount_tag=t{n}']
    if 'tpmdev' in properties:
        backends += ['-chardev', 'socket,id=c{n},path=s{n}',
                     '-tpmdev', 'emulator,id=t{n},chardev=c{n}']
        options.append('tpmdev=t{n}')
    for name in ('chassis', 'chassis_nr'):
        if name in properties:
            options.append(f'{name}={{n}}')
    if 'bmc' in properties:
        backends += ['-device', 'ipmi-bmc-sim,id=i{n}']
        options.append('bmc=i{n}')
    return backends, options


def setups(model: Model, properties: set[str]) -> list[Setup]:
    """Ways to try @model; the first in which it can be made is taken."""
    if model.kind == 'machine':
        return [Setup(model, model.name)]
    if model.kind == 'cpu':
        cpu = model.name.removesuffix('-x86_64-cpu')
        if cpu in WITHOUT_APIC:
            return [Setup(model, 'q35', cpu=cpu)]
        setup = Setup(model, 'q35', cpu=cpu, device=(
            f'{model.name},socket-id=1,core-id=0,thread-id=0'))
        return [setup, replace(setup, accel='kvm')]
    backends, options = _backends(properties)
    if model.bus in BUSES:
        options.append(f'bus={BUSES[model.bus]}')
    if model.name in OPTIONS:
        options.append(OPTIONS[model.name])
    device = ','.join([model.name, 'id=d{n}', *options])
    backends += BACKENDS.get(model.name, ())
    memory = f'{MEMORY},slots=8,maxmem=2G' if 'memdev' in properties else MEMORY
    shared = PROVIDERS.get(model.bus, ()) + EXTRA.get(model.name, ())
    accel, cpu = 'tcg', ''
    if model.bus in XEN_BUSES or model.name == 'xen-platform':
        accel = XEN
    elif model.name in HYPERV:
        accel, cpu = 'kvm', HYPERV_CPU
    hosts = HOSTS_BY_BUS.get(model.bus, HOSTS)
    if model.name in MACHINES:
        hosts = (MACHINES[model.name],)
    return [Setup(model, host, device, tuple(backends), shared,
                  memory=memory, accel=accel, cpu=cpu,
                  program=SWTPM if 'tpmdev' in properties else ())
            for host in hosts]
