# SPDX-License-Identifier: GPL-2.0-or-later
"""Nothing grows over many checkpoints."""

from __future__ import annotations

from .registry import Context, check, check_intact, test

WARM_UP = 200
CHECKPOINTS = 1000
SLACK_KIB = 4096


@test('/colo/e2e/soak/memory')
def memory(ctx: Context) -> None:
    """The resident size of both QEMUs is flat over 1,000 checkpoints."""
    with ctx.pair(memory='256') as pair:
        ctx.protected(pair, x_checkpoint_delay=2)
        ticker = pair.client('ticker')
        pair.wait_checkpoints(WARM_UP, 60)
        before = [pair.vm(side).rss_kib() for side in ('primary', 'secondary')]
        pair.wait_checkpoints(CHECKPOINTS, 120)
        after = [pair.vm(side).rss_kib() for side in ('primary', 'secondary')]
        check_intact(ticker)
    ctx.note(f'RSS in KiB: primary {before[0]} -> {after[0]}, '
             f'secondary {before[1]} -> {after[1]}')
    for old, new in zip(before, after):
        check(new - old < SLACK_KIB, f'RSS grew from {old} to {new} KiB')
