#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Try each model of a QEMU binary in a COLO pair, in both modes.

What a pair of a model has to hold is in trial.py, what a model needs to be
made in recipe.py.  Several devices share a pair; if that fails they are tried
apart until it is known which one it is.

Prints TAP.  The table of the manual is made by --write-table, from a run over
all models; one over some replaces what it says of these.  Without the option a
run fails if the table does not say what was found.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import catalog
import choice
import table
from catalog import Model
from recipe import CANNOT, Setup, not_here, setups
from table import Verdict
from trial import LOADS, MODES, Failure, NotMade, Refused, Trials

ROOT = Path(__file__).resolve().parents[2]
GROUP = 10              # devices in a pair, at most
QUICK_LOADS = 40
RESULTS = {NotMade: 'not tried', Refused: 'refused', Failure: 'fails'}


class Run:
    """A run over models; results are kept by model."""

    def __init__(self, trials: Trials, properties: dict[str, set[str]],
                 jobs: int, count: int, raw: Path | None = None):
        self.trials = trials
        self.properties = properties
        self.jobs = jobs
        self.count = count
        self.raw = raw
        self.lock = threading.Lock()
        self.verdicts: dict[str, Verdict] = {}
        self.together: list[str] = []   # failures of groups, not of one model

    def save(self) -> None:
        """What is known so far, if somebody wants it."""
        if self.raw:
            with self.lock:
                self.raw.write_text(json.dumps(
                    [verdict.plain() for verdict in self.verdicts.values()],
                    indent=1))

    def note(self, text: str) -> None:
        with self.lock:
            for line in text.splitlines():
                print(f'# {line}', flush=True)

    def setups(self, model: Model) -> list[Setup]:
        return setups(model, self.properties.get(model.name, set()))

    def judge(self, model: Model, machine: str, result: str,
              why: str = '') -> None:
        with self.lock:
            old = self.verdicts.get(model.key)
            if old and old.result == 'fails' and old.why != why:
                why = f'{old.why}\n{why}'
            self.verdicts[model.key] = Verdict(model, machine, result, why)

    def probe(self, model: Model) -> Setup | None:
        """The setup in which @model can be made, or its verdict."""
        if model.name in CANNOT:
            self.judge(model, '', 'cannot work', CANNOT[model.name])
            return None
        if not_here(model.name):
            self.judge(model, '', 'not tried', not_here(model.name))
            return None
        reasons = []
        for setup in self.setups(model):
            try:
                return self.trials.probe([setup])[0]
            except Refused as why:
                self.judge(model, setup.host, 'refused', str(why))
                return None
            except Failure as why:
                self.judge(model, setup.host, 'fails', str(why))
                return None
            except NotMade as why:
                reasons.append(str(why))
        # A CPU model that TCG does not have is tried with KVM
        self.judge(model, '', 'not tried',
                   reasons[-1 if model.kind == 'cpu' else 0])
        return None

    def made(self, group: list[Setup]) -> list[list[Setup]]:
        """@group, or parts of it that can be made in one VM each."""
        try:
            return [self.trials.probe(group)]
        except (NotMade, Refused, Failure) as why:
            if len(group) == 1:
                self.judge(group[0].model, group[0].host, RESULTS[type(why)],
                           str(why))
                return []
            self.note(f'not together: {why}')
        half = len(group) // 2
        return self.made(group[:half]) + self.made(group[half:])

    def attempt(self, group: list[Setup], mode: str) -> bool:
        """Try @group in @mode; who fails is found and noted.

        NotMade: not even without a pair.
        """
        begin = time.monotonic()
        names = f'{mode}: {" ".join(setup.model.name for setup in group)}'
        result = 'fails'
        try:
            said = self.trials.run(group, mode, self.count)
            self.note(f'{names}: {said}, {time.monotonic() - begin:.1f} s')
            return True
        except (NotMade, Failure) as why:
            result, problem = RESULTS[type(why)], str(why)
        self.note(f'{names}: FAILED after {time.monotonic() - begin:.1f} s: '
                  f'{problem}')
        if len(group) == 1:
            self.judge(group[0].model, group[0].host, result,
                       f'{mode}: {problem}')
            return False
        half = len(group) // 2
        parts = [self.attempt(part, mode)
                 for part in (group[:half], group[half:])]
        if all(parts) and result == 'fails':
            self.together.append(f'{names}: {problem}')
        return False

    def try_all(self, groups: list[list[Setup]],
                modes: tuple[str, ...]) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            attempts = [(group, [pool.submit(self.attempt, group, mode)
                                 for mode in modes]) for group in groups]
            for group, futures in attempts:
                for future in futures:
                    future.result()
                for setup in group:
                    if setup.model.key not in self.verdicts:
                        self.judge(setup.model, setup.host, 'works')
                self.save()

    def long(self, models: list[Model], failing: set[str],
             modes: tuple[str, ...]) -> None:
        """Every model; @failing are the keys of those that share no VM."""
        with ThreadPoolExecutor(self.jobs) as pool:
            made = [setup for setup in pool.map(self.probe, models) if setup]
            groups = [part for parts in pool.map(
                self.made, grouped(made, failing)) for part in parts]
        self.note(f'{len(made)} of {len(models)} can be made and migrate')
        self.try_all(groups, modes)

    def choice(self, models: dict[str, Model], wanted: list[Model],
               known: list[Verdict], number: int,
               modes: tuple[str, ...]) -> None:
        """The machines of choice.py and those devices whose turn it is, as far
        as they are @wanted."""
        groups = []
        for machine in choice.CHOICE:
            found = [models[f'device/{name}'] for name in machine.devices]
            group = [choice.placed(self.setup_in(model, machine.name), machine,
                                   self.trials.binary)
                     for model in found if model in wanted]
            if group:
                groups.append(group)
        groups += grouped([self.setup_in(verdict.model, verdict.machine)
                           for verdict in choice.turn(known, number)], set())
        with ThreadPoolExecutor(self.jobs) as pool:
            groups = [part for parts in pool.map(self.made, groups)
                      for part in parts]
        self.try_all(groups, modes)

    def setup_in(self, model: Model, machine: str) -> Setup:
        """How it is tried in @machine."""
        for setup in self.setups(model):
            if setup.host == machine:
                return setup
        raise KeyError(f'{model.name} is not tried in {machine}')


def grouped(made: list[Setup], apart: set[str]) -> list[list[Setup]]:
    """Setups that may share a VM; none with those of @apart."""
    by: dict[Any, list[Setup]] = {}
    for setup in made:
        model = setup.model
        alone = (model.key if model.kind != 'device' or model.key in apart
                 else '')
        by.setdefault((setup.alike, alone), []).append(setup)
    groups = []
    for items in by.values():
        # Neighbours are of a kind and want the same ports: apart with them
        count = -(-len(items) // GROUP)
        groups += [items[at::count] for at in range(count)]
    return groups


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--build', type=Path, default=ROOT / 'build/check',
                        help='where qemu-system-x86_64 is, or its path')
    parser.add_argument('-k', dest='pattern', default='',
                        help='models whose kind/name has this in it')
    parser.add_argument('--exact', action='append', default=[],
                        help='this kind/name (may be repeated)')
    parser.add_argument('--mode', choices=MODES, action='append')
    parser.add_argument('--quick', action='store_true',
                        help='the machines of choice.py, few loads')
    parser.add_argument('--turn', type=int, default=0, metavar='N',
                        help='with --quick: the Nth choice of other devices')
    parser.add_argument('--long', action='store_true', help='all (default)')
    parser.add_argument('--loads', type=int, metavar='N')
    parser.add_argument('--jobs', type=int, default=2, metavar='N')
    parser.add_argument('--keep', action='store_true',
                        help='keep logs, below the directory printed')
    parser.add_argument('--raw', type=Path, help='write results as JSON')
    parser.add_argument('--write-table', type=Path, nargs='*',
                        metavar='RAW', help='make the table of the manual '
                        'from such files, or put what this run finds there')
    return parser.parse_args()


class Tap:
    """Prints tests as they are known."""

    def __init__(self) -> None:
        self.number = 0
        self.failed = 0

    def test(self, name: str, problem: str = '', directive: str = '') -> None:
        self.number += 1
        self.failed += bool(problem) and not directive
        print(f'{"not ok" if problem else "ok"} {self.number} - {name}'
              + (f' # {directive}' if directive else ''))
        for line in problem.splitlines():
            print(f'# {line}')

    def done(self) -> None:
        print(f'1..{self.number}')
        sys.exit(bool(self.failed))


def compare(tap: Tap, verdict: Verdict, known: Verdict | None) -> None:
    """One test: is what was found what the table says?"""
    name, said = verdict.model.key, known.result if known else 'nothing'
    if verdict.result == 'fails':
        tap.test(name, verdict.why, 'TODO known' if said == 'fails' else '')
    elif verdict.result == 'not tried':
        tap.test(name, directive=f'SKIP {verdict.why}')
    elif verdict.result != said and said != 'not tried':
        tap.test(name, f'{verdict.text()}\nbut the table says {said}')
    else:
        tap.test(name)


def main() -> None:
    args = arguments()
    binary = args.build.resolve()
    if binary.is_dir():
        binary /= 'qemu-system-x86_64'
    if args.write_table:
        table.write([Verdict.of(item) for path in args.write_table
                     for item in json.loads(path.read_text())])
        return
    everything = catalog.models(binary)
    models = [model for model in everything if args.pattern in model.key
              and (not args.exact or model.key in args.exact)]
    known = table.read()
    tap = Tap()
    if args.write_table is None and len(models) == len(everything):
        names = {model.key for model in everything}
        strange = sorted(names ^ set(known))
        tap.test('the table names each model', '' if not strange else
                 'it does not name, or the binary does not have: '
                 + ' '.join(strange))
    scratch = tempfile.mkdtemp(prefix='colo-dev-')
    try:
        run = Run(Trials(binary, Path(scratch), args.keep),
                  catalog.properties(binary, everything), args.jobs,
                  args.loads or (QUICK_LOADS if args.quick else LOADS),
                  args.raw)
        modes = tuple(args.mode or MODES)
        if args.quick:
            run.choice({model.key: model for model in everything}, models,
                       [known[model.key] for model in models
                        if model.key in known], args.turn, modes)
        else:
            run.long(models, {key for key, verdict in known.items()
                              if verdict.result == 'fails'}, modes)
    finally:
        if args.keep:
            print(f'# logs: {scratch}')
        else:
            shutil.rmtree(scratch)
    run.save()
    verdicts = [run.verdicts[model.key] for model in models
                if model.key in run.verdicts]
    if args.write_table is not None:
        table.write([replace(known[model.key], model=model)
                     for model in everything if model.key in known] + verdicts)
        known = table.read()
    for verdict in verdicts:
        compare(tap, verdict, known.get(verdict.model.key))
    for problem in run.together:
        tap.test('together', problem)
    tap.done()


if __name__ == '__main__':
    main()
