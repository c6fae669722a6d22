# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS on all connections of a pair at once, with credentials as documented."""

from __future__ import annotations

from colo import beat, disks, proxy, tls, vm

from .disks import check_images, start_writers, verify_all
from .registry import (Context, check, check_intact, test, wait_for,
                       wait_lines)

ROUNDS_QUICK = 2
ROUNDS_LONG = 20
BEAT_MS = 2000
HANDSHAKE = b'\x16\x03'     # how a TLS connection begins
# NBD asks for TLS before anything else: flags, magic, NBD_OPT_STARTTLS
NBD_STARTTLS = b'\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0'


def check_encrypted(opened: list[tuple[int, bytes]], wanted: set[int]) -> None:
    """All of these ports were called, and by nobody without TLS."""
    for port, first in opened:
        begins = first.startswith(HANDSHAKE) or (
            port == disks.NBD_PORT and first[:len(NBD_STARTTLS)] in (
                NBD_STARTTLS, NBD_STARTTLS[:4]))
        check(not first or begins, f'port {port} begins with {first[:24]!r}')
    missing = wanted - {port for port, first in opened if first}
    check(not missing, f'nobody has called {missing}: {opened}')


def protect(ctx: Context, pair: vm.Pair) -> None:
    sides = pair.vm('primary'), pair.vm('secondary')
    ports = {vm.COLO_PORT, beat.PORT, disks.NBD_PORT}
    if pair.machine.mode == 'hybrid':
        ports |= {proxy.MIRROR_PORT, proxy.COMPARE_PORT}
    with ctx.hosts.watched() as opened:
        for side in sides:
            beat.attach(side, timeout=BEAT_MS)
        pair.protect()
    check_encrypted(opened, ports)
    for side in sides:
        wait_for(f'protection on {side.host}', lambda of=side:
                 of.status().raw['protected'] and
                 of.status().raw['heartbeat']['health'] == 'well')


def kills(ctx: Context, kind: str, mode: str) -> None:
    """kill -9 of either side, again and again; an arbiter decides."""
    rounds = ROUNDS_LONG if ctx.long else ROUNDS_QUICK
    with ctx.pair(memory='256', mode=mode, verify=True, tls=tls.Tls(kind),
                  disks=disks.Disks(),
                  extra=('-object', 'colo-arbiter-file,id=arb0,'
                         f'path={ctx.run}/arbiter')) as pair:
        pair.start_primary()
        ticker = pair.client('ticker')
        writers = start_writers(pair)
        host, survivor = 'b', 'primary'
        for done in range(1, rounds + 1):
            pair.start_secondary(host)
            protect(ctx, pair)
            wait_lines(ticker)
            victim, survivor = (('primary', 'secondary') if done % 2 else
                                ('secondary', 'primary'))
            pair.fence(victim)
            side = pair.vm(survivor)
            side.monitor.wait_until('to go on by itself', 'query-colo-status',
                                    'mode', 'none', vm.FAILOVER_SECONDS)
            side.wait_run_state('running', vm.FAILOVER_SECONDS)
            wait_lines(ticker)
            verify_all(writers)
            if done < rounds:
                host = vm.retire(pair)
        gap = check_intact(ticker)['longest_gap_us'] / 1000
        check_images(pair, survivor, writers)
    ctx.note(f'{kind}, {rounds} kills; longest gap of the ticker {gap:.0f} ms')


@test('/colo/e2e/tls/psk')
def psk(ctx: Context) -> None:
    kills(ctx, 'psk', 'hybrid')


@test('/colo/e2e/tls/x509')
def x509(ctx: Context) -> None:
    kills(ctx, 'x509', 'periodic')


@test('/colo/e2e/tls/hybrid/x509', long_only=True)
def x509_hybrid(ctx: Context) -> None:
    kills(ctx, 'x509', 'hybrid')
