#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure how much of our C is word for word the base's own COLO code.

Both sides are read as C tokens, without comments and #include lines, and cut
into windows of 24 tokens, one starting at each token. A file is over the limit
when more than 12 percent of its windows occur in the base's COLO files, or
when windows that do follow one another over a stretch of more than 150 tokens.
What is over has to be written anew, from the design.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

WINDOW = 24
MAX_PERCENT = 12.0
MAX_STRETCH = 150

# Files of the base that hold COLO code beside those that patches/removed
# takes out.
SHARED = ('migration/ram.c', 'block/quorum.c', 'tests/unit/test-replication.c',
          'tests/qtest/test-filter-mirror.c',
          'tests/qtest/test-filter-redirector.c')

LEXER = re.compile(r'''
    (?P<skip>  /\*.*?\*/ | //[^\n]* | ^[ \t]*\#[ \t]*include[^\n]* | \s+ )
  | (?P<token> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'
             | [A-Za-z_]\w* | [0-9][\w.]* | ->
             | [-+&|=<>!][-+&|=<>!] | . )
''', re.VERBOSE | re.DOTALL | re.MULTILINE)


@dataclass
class Measure:
    """What one file of ours has in common with the base's COLO."""
    percent: float = 0.0
    stretch: int = 0

    def over(self) -> bool:
        return self.percent > MAX_PERCENT or self.stretch > MAX_STRETCH


def tokens(path: Path) -> List[str]:
    text = path.read_text(encoding='utf-8', errors='replace')
    return [m.group('token') for m in LEXER.finditer(text)
            if m.lastgroup == 'token']


def windows(words: List[str]) -> Iterator[Tuple[str, ...]]:
    for start in range(len(words) - WINDOW + 1):
        yield tuple(words[start:start + WINDOW])


def base_files(base: Path, removed: Path) -> List[Path]:
    """The COLO files that are there in the base."""
    names = [line.split('#')[0].split(':')[0].strip()
             for line in removed.read_text().splitlines()]
    return [base / n for n in sorted({*names, *SHARED})
            if n.endswith(('.c', '.h')) and (base / n).exists()]


def known_windows(base: Path, removed: Path) -> Set[Tuple[str, ...]]:
    found: Set[Tuple[str, ...]] = set()
    for path in base_files(base, removed):
        found.update(windows(tokens(path)))
    return found


def measure(path: Path, known: Set[Tuple[str, ...]]) -> Measure:
    total = common = row = longest = 0
    for window in windows(tokens(path)):
        total += 1
        row = row + 1 if window in known else 0
        common += row > 0
        longest = max(longest, row)
    if not common:
        return Measure()
    return Measure(100.0 * common / total, longest + WINDOW - 1)


def measure_all(base: Path, removed: Path,
                files: List[Path]) -> Dict[Path, Measure]:
    known = known_windows(base, removed)
    if not known:
        raise FileNotFoundError(f'{base} has no COLO file: is it the '
                                'untouched base?')
    return {path: measure(path, known) for path in files}


def main() -> None:
    top = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--base', type=Path, default=top / 'build' / 'base',
                        help='the untouched base (default: build/base)')
    parser.add_argument('--removed', type=Path,
                        default=top / 'patches' / 'removed',
                        help='(default: patches/removed)')
    parser.add_argument('file', nargs='+', type=Path)
    args = parser.parse_args()
    try:
        found = measure_all(args.base, args.removed, args.file)
    except OSError as error:
        sys.exit(f'originality: {error}')
    for path, one in found.items():
        print(f'{"OVER" if one.over() else "ok":4} {one.percent:5.1f} % '
              f'{one.stretch:5} tokens  {path}')
    sys.exit(any(one.over() for one in found.values()))


if __name__ == '__main__':
    main()
