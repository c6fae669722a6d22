# SPDX-License-Identifier: GPL-2.0-or-later
"""The peer is lost without a word: stalled, cut off, or too slow."""

from __future__ import annotations

import signal
import time

from colo import product

from .kill import CHECKPOINTS_SECONDS
from .registry import (Context, check, check_intact, check_verified, report,
                       test, wait_for, wait_lines, wait_more)

TIMEOUT_MS = 1000
NOTICE_SECONDS = 20.0   # after the timeout
LONG_MS = 60000         # nobody may have to wait for this
SOON_SECONDS = 10.0
BOUND = 1 << 20         # bytes in the gate
SLOW = 1 << 20          # bytes a second: the first migration takes minutes
RING = 256 * 65536      # bytes that virtio-net sends at a stop, at most


def wait_lost(monitor: product.Monitor) -> None:
    monitor.wait_event(product.EVENT_LOST, TIMEOUT_MS / 1000 + NOTICE_SECONDS)


@test('/colo/e2e/loss/link-cut')
def link_cut(ctx: Context) -> None:
    """Neither side goes on by itself; the one that is told to does."""
    with ctx.pair() as pair:
        ctx.protected(pair, x_colo_timeout=TIMEOUT_MS)
        ticker = pair.client('ticker')
        wait_lines(ticker)
        ctx.hosts.cut_link()
        try:
            wait_lost(pair.vm('primary').monitor)
            wait_lost(pair.vm('secondary').monitor)
            check(pair.vm('secondary').run_state() == 'colo',
                  'the secondary went live by itself')
            before = report(ticker)['received']
            check(report(ticker)['received'] == before,
                  'output leaves although nobody has decided')
            pair.failover('primary')
            wait_lines(ticker)
            check(pair.vm('secondary').run_state() == 'colo',
                  'both sides live')
        finally:
            ctx.hosts.mend_link()
        check_intact(ticker)


@test('/colo/e2e/loss/link-cut-secondary-wins')
def link_cut_secondary(ctx: Context) -> None:
    with ctx.pair() as pair:
        ctx.protected(pair, x_colo_timeout=TIMEOUT_MS)
        ticker = pair.client('ticker')
        wait_lines(ticker)
        ctx.hosts.cut_link()
        try:
            wait_lost(pair.vm('secondary').monitor)
            pair.fence('primary')
            pair.failover('secondary')
            wait_lines(ticker)
        finally:
            ctx.hosts.mend_link()
        check_intact(ticker)


@test('/colo/e2e/loss/secondary-stalled')
def secondary_stalled(ctx: Context) -> None:
    """The command returns at once although the peer only hangs."""
    with ctx.pair() as pair:
        ctx.protected(pair, x_colo_timeout=LONG_MS)
        ticker = pair.client('ticker')
        wait_lines(ticker)
        pair.vm('secondary').signal(signal.SIGSTOP)
        pair.vm('primary').monitor.execute(product.FAILOVER,
                                           timeout=SOON_SECONDS)
        wait_lines(ticker)
        pair.fence('secondary')
        check_intact(ticker)


@test('/colo/e2e/loss/secondary-stalled-timeout')
def secondary_timeout(ctx: Context) -> None:
    with ctx.pair() as pair:
        ctx.protected(pair, x_colo_timeout=TIMEOUT_MS)
        ticker = pair.client('ticker')
        pair.vm('secondary').signal(signal.SIGSTOP)
        wait_lost(pair.vm('primary').monitor)
        pair.fence('secondary')
        pair.failover('primary')
        wait_lines(ticker)
        check_intact(ticker)


@test('/colo/e2e/loss/primary-stalled')
def primary_stalled(ctx: Context) -> None:
    with ctx.pair() as pair:
        ctx.protected(pair, x_colo_timeout=TIMEOUT_MS)
        ticker = pair.client('ticker')
        wait_lines(ticker)
        pair.vm('primary').signal(signal.SIGSTOP)
        wait_lost(pair.vm('secondary').monitor)
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        check_intact(ticker)


@test('/colo/e2e/loss/primary-power-off')
def primary_power_off(ctx: Context) -> None:
    """No socket is closed when a host loses its power.  Who knows better than
    the timeout says so by force, and the secondary takes over at once."""
    with ctx.pair() as pair:
        ctx.protected(pair, x_colo_timeout=LONG_MS)
        ticker = pair.client('ticker')
        wait_lines(ticker)
        ctx.hosts.cut_link()
        try:
            pair.fence('primary')
            check(pair.vm('secondary').status().state != 'lost',
                  'it has heard of the end')
            took = pair.failover('secondary', force=True)
            check(took < SOON_SECONDS,
                  f'the secondary was live after {took:.1f} s')
            wait_lines(ticker)
        finally:
            ctx.hosts.mend_link()
        check_intact(ticker)


@test('/colo/e2e/loss/first-migration-cut')
def first_migration_cut(ctx: Context) -> None:
    """The link breaks before there is a session.  The secondary says so; the
    primary's guest has run all along."""
    with ctx.pair() as pair:
        pair.start_primary()
        pair.start_secondary()
        ticker = pair.client('ticker')
        secondary = pair.vm('secondary')
        pair.begin_protection(exit_on_error=False, max_bandwidth=SLOW,
                              x_colo_timeout=TIMEOUT_MS)
        wait_for('RAM to arrive', lambda: pair.vm('primary').monitor.execute(
            'query-migrate').get('ram', {}).get('transferred', 0) > SLOW)
        ctx.hosts.cut_link()
        try:
            secondary.monitor.wait_until(
                'the secondary to notice', 'query-migrate', 'status', 'failed',
                TIMEOUT_MS / 1000 + NOTICE_SECONDS)
            wait_lines(ticker)
        finally:
            ctx.hosts.mend_link()
        pair.fence('secondary')
        check_intact(ticker)


@test('/colo/e2e/loss/slow-link')
def slow_link(ctx: Context) -> None:
    """A checkpoint takes seconds on the wire; nothing is lost, nothing hung."""
    with ctx.pair(verify=True, memory='256') as pair:
        ctx.protected(pair)
        ticker = pair.client('ticker')
        pair.control('dirty 8')
        ctx.hosts.limit_link(100)
        try:
            pair.wait_checkpoints(4, CHECKPOINTS_SECONDS)
        finally:
            ctx.hosts.unlimit_link()
        wait_lines(ticker)
        check_intact(ticker)
        check_verified(pair.vm('secondary').status(), 4)


@test('/colo/e2e/loss/small-staging')
def small_staging(ctx: Context) -> None:
    """Checkpoints that do not fit into the staging area are streamed with
    the guest stopped, and are right all the same."""
    with ctx.pair(verify=True, memory='256') as pair:
        ctx.protected(pair, x_colo_staging_limit=4 << 20)
        ticker = pair.client('ticker')
        pair.control('dirty 32')
        wait_for('overflows', lambda: pair.vm('primary').status()
                 .statistics['staging-overflows'] >= 5, CHECKPOINTS_SECONDS)
        # An overflow is counted at the cut
        wait_for('comparisons',
                 lambda: pair.vm('secondary').status().verified >= 5)
        check_verified(pair.vm('secondary').status(), 5)
        peak = pair.vm('primary').status().statistics['staging-peak']
        check(peak <= 5 << 20, f'staging of {peak} bytes')
        pair.fence('primary')
        pair.failover('secondary')
        wait_lines(ticker)
        check_intact(ticker)


@test('/colo/e2e/loss/small-queue')
def small_queue(ctx: Context) -> None:
    """A gate that is full makes the NIC wait and asks for checkpoints; while
    the peer is lost it stays bounded, and nothing is dropped."""
    gate = '/objects/oc0'
    with ctx.pair() as pair:
        pair.start_primary()
        pair.start_secondary()
        monitor = pair.vm('primary').monitor
        monitor.execute('qom-set', {'path': gate, 'value': 200000,
                                    'property': 'max-queue-bytes'})
        pair.protect()
        # Datagrams come however long nobody acknowledges anything
        clients = [pair.client('ticker'), pair.client('bulk-out'),
                   pair.client('udp')]

        def full() -> int:
            return {r['reason']: r['count'] for r in pair.vm('primary')
                    .status().statistics['reasons']}['queue-full']
        wait_for('checkpoints for a full queue', lambda: full() >= 20,
                 CHECKPOINTS_SECONDS)
        pair.fence('secondary')
        monitor.wait_event(product.EVENT_LOST, NOTICE_SECONDS)

        def queued() -> int:
            return int(monitor.execute('qom-get', {
                'path': gate, 'property': 'queued-bytes'}))
        wait_for('a full queue', lambda: queued() >= 200000)
        before = queued()
        check(before < 200000 + RING, f'{before} bytes are queued')
        time.sleep(1)
        check(queued() == before, f'the NIC does not wait: {before} bytes '
              f'are queued, {queued()} a second later')
        pair.failover('primary')
        wait_lines(clients[0])
        dropped = monitor.execute('qom-get', {'path': gate,
                                              'property': 'dropped-packets'})
        check(dropped == 0, f'{dropped} packets dropped')
        for running in clients:
            check_intact(running)


@test('/colo/e2e/loss/small-queue-no-waiting')
def small_queue_no_waiting(ctx: Context) -> None:
    """A NIC that cannot be told to wait: a checkpoint is asked for in time,
    and nothing is dropped while there is a peer to have it."""
    gate = '/objects/oc0'
    with ctx.pair(nic_model='vmxnet3') as pair:
        pair.start_primary()
        pair.start_secondary()
        monitor = pair.vm('primary').monitor
        monitor.execute('qom-set', {'path': gate, 'value': BOUND,
                                    'property': 'max-queue-bytes'})
        # Long epochs: only the queue asks for checkpoints
        pair.protect(x_checkpoint_delay=1000)
        bulk = pair.client('bulk-out')
        wait_for('checkpoints for a full queue', lambda: {
            r['reason']: r['count'] for r in pair.vm('primary').status()
            .statistics['reasons']}['queue-full'] >= 10, CHECKPOINTS_SECONDS)
        counters = {name: monitor.execute('qom-get', {
            'path': gate, 'property': name})
            for name in ('dropped-packets', 'queued-bytes-max')}
        check(counters['dropped-packets'] == 0, str(counters))
        pair.fence('primary')
        pair.failover('secondary')
        wait_more(bulk, 1 << 20)
        check_intact(bulk)
    ctx.note(f'{counters["queued-bytes-max"]} bytes were queued, the bound '
             f'is {BOUND}')
