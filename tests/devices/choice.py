# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines that are tried when it is to be quick: what people use, several
devices of each class.

run.py tries them as they stand here, and those of `turn` beside them: as many
of the other devices that work, other ones at each turn.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from recipe import Setup
from table import Verdict

BIOS = 'bios-256k.bin'
PFLASH = ',pflash0=code,pflash1=vars'
TURN = 10       # other devices


@dataclass(frozen=True)
class Machine:
    """A machine with devices."""
    name: str
    devices: tuple[str, ...]
    pflash: bool = False    # its firmware is in one, and a writable one beside


CHOICE = (
    # The usual one of old
    Machine('pc', (
        'VGA', 'e1000', 'rtl8139', 'virtio-net-pci', 'ide-hd', 'ide-cd',
        'virtio-blk-pci', 'lsi53c895a', 'piix3-usb-uhci', 'usb-storage',
        'usb-tablet', 'AC97', 'virtio-balloon-pci', 'virtio-rng-pci',
        'virtserialport')),
    # Its less usual parts
    Machine('pc', (
        'cirrus-vga', 'pcnet', 'ne2k_pci', 'i82559er', 'tulip', 'megasas',
        'mptsas1068', 'isa-fdc', 'isa-serial', 'pci-serial', 'sb16', 'ES1370',
        'usb-ehci', 'virtio-scsi-pci', 'ib700')),
    # The usual one of today
    Machine('q35', (
        'virtio-vga', 'e1000e', 'igb', 'vmxnet3', 'virtio-blk-pci', 'ide-cd',
        'scsi-hd', 'hda-duplex', 'ich9-usb-ehci1', 'usb-kbd', 'usb-ccid',
        'pcie-root-port', 'tpm-tis', 'vmgenid', 'i6300esb')),
    # With writable flash, and what is there for its firmware
    Machine('q35', (
        'bochs-display', 'virtio-gpu-pci', 'virtio-net-pci', 'pvscsi',
        'scsi-cd', 'ich9-ahci', 'usb-mouse', 'usb-hub', 'virtio-tablet-pci',
        'virtio-keyboard-pci', 'virtio-9p-pci', 'pcie-pci-bridge',
        'pvpanic-pci', 'ramfb', 'tpm-crb'), pflash=True),
    # Memory that is plugged in
    Machine('pc', ('pc-dimm',)),
    # Without PCI
    Machine('isapc', ('isa-vga', 'ne2k_isa', 'isa-parallel')),
    Machine('microvm', (
        'virtio-net-device', 'virtio-blk-device', 'virtio-scsi-device',
        'virtio-rng-device', 'virtio-balloon-device', 'virtio-serial-device')),
)


def _firmware(binary: Path) -> Path:
    done = subprocess.run([str(binary), '-L', 'help'], check=True, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL)
    for line in done.stdout.splitlines():
        path = Path(line) / BIOS
        if path.exists():
            return path
    raise RuntimeError(f'{binary.name} finds no {BIOS}')


def placed(setup: Setup, machine: Machine, binary: Path) -> Setup:
    """@setup, in that machine."""
    if not machine.pflash:
        return setup
    code = _firmware(binary)
    return replace(setup, machine=machine.name + PFLASH, shared=setup.shared + (
        '-blockdev', f'file,filename={code},node-name=code,read-only=on',
        '-blockdev', 'null-co,node-name=vars,size=131072,read-zeroes=on'))


def turn(known: list[Verdict], number: int) -> list[Verdict]:
    """Some of the devices that are not in CHOICE and work by the table."""
    chosen = {name for machine in CHOICE for name in machine.devices}
    others = [verdict for verdict in known
              if verdict.model.kind == 'device' and verdict.result == 'works'
              and verdict.model.name not in chosen]
    count = max(1, -(-len(others) // TURN))
    # Neighbours are of a kind
    return others[number % count::count]
