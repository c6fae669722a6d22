# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine as people have it: UEFI, a TPM, a display, sound, USB, a balloon
that moves, the guest agent, two kinds of NICs and of disks; Debian's kernel.

All of that is at work while hosts die by kill -9.  Each part of the guest looks
for what it has left in its device (../guest/colo-guest-parts.c), so a survivor
whose devices are not of the same instant as its memory is noticed.  What the
guest has said before is what it must still know.
"""

from __future__ import annotations

import functools
import shutil
import struct
import time
from pathlib import Path
from typing import Any

from colo import client, disks, guest, net, parts, product, vm

from .disks import verify_all
from .registry import (Context, Skip, check, check_intact, check_verified,
                       test, wait_for, wait_lines, wait_more)

KILLS_QUICK = 1
KILLS_LONG = 10
MIB = 1 << 20
MEMORY_MIB = 384
BALLOON_MIB = (320, 336, 352)
MOMENT_SECONDS = (0.2, 1.5)
PART_SECONDS = 120.0
DEVICES = ('/dev/dsp', '/dev/fb0', '/dev/tpm0', '/dev/sda')
SLOTS = 64                  # of a disk, for its writer
WRITER_MS = (100, 500)      # between groups of blocks: virtio-blk, USB
AGENT_FILE = '/tmp/agent'
DISKS = disks.Disks(count=2, bus='virtio-blk+usb')
# What both sides are made of, but for the firmware
MACHINE: dict[str, Any] = {
    'machine': 'q35', 'memory': str(MEMORY_MIB), 'nics': 2,
    'nic_model': 'virtio-net-pci+e1000',
    'disks': DISKS}

# Of a variable in the store of the firmware: what begins it, its state, and
# the sizes of its name and of what it is
VARIABLE = struct.Struct('<HBx32xII16x')
VARIABLE_START, VARIABLE_VALID = 0x55aa, 0x3f
VARIABLE_NAME = 'ColoCount\0'.encode('utf-16-le')


def variable_of(store: bytes) -> int:
    """The count in the one valid variable of that name in a file."""
    found = []
    at = store.find(VARIABLE_NAME)
    while at >= 0:
        start, state, name_size, size = VARIABLE.unpack_from(
            store, at - VARIABLE.size)
        value = at + name_size
        if (start, state, size) == (VARIABLE_START, VARIABLE_VALID, 8):
            found.append(int.from_bytes(store[value:value + 8], 'little'))
        at = store.find(VARIABLE_NAME, at + 1)
    check(len(found) == 1, f'{len(found)} valid variables in the file')
    return found[0]


def colour(count: int) -> bytes:
    """As the guest has it."""
    return ((count * 0x9e3779b9 & 0xffffffff) >> 8 & 0xffffff).to_bytes(
        3, 'big')


class Parts:
    """The parts of the guest of a pair."""

    def __init__(self, pair: vm.Pair):
        self.pair = pair
        self.handle = 0
        self.lines = ''

    def start(self) -> None:
        """Begin, after each boot."""
        self.pair.control('load parts')
        wait_for('drivers', lambda: self.pair.control(
            f'sh ls {" ".join(DEVICES)}').startswith('0 '), PART_SECONDS)
        self.pair.control('parts start')
        wait_for('all parts', lambda: all(self.counts().values()),
                 PART_SECONDS)

    def counts(self) -> dict[str, int]:
        """What has been done; the guest finds its devices as they were."""
        counts, pcr = parts.parse(self.pair.control('parts'))
        check(pcr in (b'', parts.pcr_after(counts['tpm'])),
              f'the PCR is {pcr.hex()} after {counts["tpm"]}')
        return counts

    def wait_more(self) -> None:
        """Each part has done something more."""
        before = self.counts()

        def all_have() -> bool:
            now = self.counts()
            return all(now[name] > before[name] for name in before)
        wait_for(f'more than {before}', all_have, PART_SECONDS)

    def open_agent(self, side: vm.Vm) -> None:
        with parts.Agent(self.pair.run, side.host) as agent:
            self.handle = agent.open(AGENT_FILE)

    def tell_agent(self, side: vm.Vm, line: str) -> None:
        """Have it append @line to the file that it has open since then."""
        with parts.Agent(self.pair.run, side.host) as agent:
            agent.append(self.handle, f'{line}\n')
        self.lines += f'{line}\n'

    def check_agent(self) -> None:
        said = self.pair.control(f'sh cat {AGENT_FILE}')
        check(said.partition('\n')[2] == self.lines.strip(),
              f'the file of the agent is {said}, not {self.lines}')

    def check_screen(self, side: vm.Vm) -> None:
        """The last row shows what the guest has painted there."""
        path = self.pair.run / 'screen.ppm'
        before = self.counts()['vga']
        side.monitor.execute('screendump', {'filename': str(path)})
        after = self.counts()['vga']
        head, size, _, pixels = path.read_bytes().split(b'\n', 3)
        width = int(size.split()[0])
        check(head == b'P6' and width > 0, 'no picture')
        row = pixels[-3 * width:]
        seen = {row[at:at + 3] for at in range(0, len(row), 3)}
        allowed = {colour(count) for count in range(before, after + 2)}
        check(seen <= allowed, f'{len(seen)} colours at the bottom of the '
              f'screen that are not of {before} to {after}')


def balloon(side: vm.Vm) -> int:
    return int(side.monitor.execute('query-balloon')['actual']) // MIB


def move_balloon(side: vm.Vm, mib: int) -> None:
    side.monitor.execute('balloon', {'value': mib * MIB})


def machine(ctx: Context, tpm: str) -> dict[str, Any]:
    """Changes of the context's machine; a skip if something lacks here."""
    if not shutil.which(parts.TPM):
        raise Skip(f'no {parts.TPM} here')
    try:
        image = guest.build(kernel='machine')
        firmware = guest.firmware()
    except guest.GuestError as err:
        raise Skip(str(err)) from None
    return {**MACHINE, 'image': image, 'verify': True,
            'parts': parts.Parts(firmware, tpm)}


def wait_committed(pair: vm.Pair) -> None:
    """What the primary has now is on the secondary."""
    primary, secondary = pair.vm('primary'), pair.vm('secondary')
    # The next one may have begun already
    goal = primary.status().epoch + 2
    while primary.status().epoch < goal:
        primary.monitor.execute('x-colo-checkpoint')
        this = primary.status().epoch + 1
        wait_for(f'checkpoint {this}', functools.partial(
            lambda number: primary.status().epoch >= number, this))
    wait_for(f'checkpoint {goal} to be loaded',
             lambda: secondary.status().epoch >= goal)


def start_clients(pair: vm.Pair) -> list[client.Client]:
    """The guest has much else to do, so these do little."""
    second = {'host': net.guest_address(1)}
    return [pair.client('ticker'), pair.client('udp', interval=50, **second),
            pair.client('echo', interval=50, **second)]


def start_writers(pair: vm.Pair) -> list[client.Client]:
    disks.load_drivers(pair)
    return [pair.client('disk', device=DISKS.device(n), seed=1 + n,
                        slots=SLOTS, interval=interval)
            for n, interval in enumerate(WRITER_MS)]


def one_kill(ctx: Context, pair: vm.Pair, at_work: Parts, victim: str,
             target: int, moment: float) -> int:
    """Protect the pair, kill a side, look at the other; how many checkpoints
    were compared."""
    survivor = 'primary' if victim == 'secondary' else 'secondary'
    pair.protect()
    primary = pair.vm('primary')
    at_work.tell_agent(primary, f'{victim} on {pair.vm(victim).host}')
    wait_committed(pair)
    move_balloon(primary, target)
    at_work.wait_more()
    time.sleep(moment)
    before = at_work.counts()
    verified = check_verified(pair.vm('secondary').status(), 1)
    pair.fence(victim)
    pair.failover(survivor)
    after = at_work.counts()
    check(all(after[name] >= before[name] for name in before),
          f'{after} after the failover, {before} before it')
    at_work.wait_more()
    at_work.check_screen(pair.vm(survivor))
    at_work.tell_agent(pair.vm(survivor), 'goes on')
    at_work.check_agent()
    wait_for(f'the balloon to be at {target} MiB',
             lambda: balloon(pair.vm(survivor)) == target)
    return verified


def boot_again(pair: vm.Pair, at_work: Parts) -> None:
    """The survivor is reset by its guest and comes up through the firmware,
    which has what the guest has left there."""
    side = pair.vm('primary')
    before = at_work.counts()['efi']
    seen = side.serial.read_bytes().count(vm.READY)
    pair.control('reboot')
    wait_for('the guest to boot again',
             lambda: side.serial.read_bytes().count(vm.READY) > seen,
             2 * vm.BOOT_SECONDS)
    at_work.start()
    check(at_work.counts()['efi'] > before, 'a variable has been forgotten')


def power_off(pair: vm.Pair, at_work: Parts) -> None:
    """What the guest wrote to its flash is in the file of that host."""
    side = pair.vm('primary')
    before = at_work.counts()['efi']
    pair.control('poweroff')
    side.wait_exit()
    found = variable_of(parts.variables(pair.run, side.host).read_bytes())
    check(found >= before, f'{found} in the file, {before} was said')


def kills(ctx: Context, mode: str, tpm: str) -> None:
    changes = machine(ctx, tpm)
    rounds = ctx.kills or (KILLS_LONG if ctx.long else KILLS_QUICK)
    rng = ctx.rng(f'machine/{mode}')
    verified = 0
    with ctx.pair(mode=mode, **changes) as pair:
        at_work = Parts(pair)
        primary = pair.start_primary()
        at_work.start()
        at_work.open_agent(primary)
        writers = start_writers(pair)
        clients = start_clients(pair)
        host = 'b'
        for done in range(rounds):
            pair.start_secondary(host)
            victim = rng.choice(('primary', 'secondary')) if done else 'primary'
            verified += one_kill(ctx, pair, at_work, victim,
                                 BALLOON_MIB[done % len(BALLOON_MIB)],
                                 rng.uniform(*MOMENT_SECONDS))
            wait_lines(clients[0])
            for running in clients[1:]:
                wait_more(running)
            verify_all(writers)
            host = vm.retire(pair)
        for running in (*clients, *writers):
            check_intact(running)
        if ctx.long or mode == 'hybrid':    # it takes a while
            boot_again(pair, at_work)
        power_off(pair, at_work)
    ctx.note(f'{rounds} kills, RAM and disks equal at {verified} checkpoints')


@test('/colo/e2e/machine/kill', kernel='machine')
def kill_periodic(ctx: Context) -> None:
    kills(ctx, 'periodic', 'tpm-tis')


@test('/colo/e2e/machine/hybrid/kill', kernel='machine')
def kill_hybrid(ctx: Context) -> None:
    kills(ctx, 'hybrid', 'tpm-crb')
