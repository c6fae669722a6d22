# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes C functions out of a file of the base.

It goes by the layout that QEMU's style asks for: a definition begins in
column 0, its body opens with a brace in column 0 and ends with one. What
belongs to a function: its return type on lines of its own, and the comment
that ends right above it.
"""

import re
from typing import List, Optional, Tuple


class NotFound(Exception):
    """The file has no such function."""


def _start(lines: List[str], name_line: int) -> int:
    """The first line of the declaration that names its function here."""
    first = name_line
    while first > 0 and re.match(r'[A-Za-z_][^;{}()#]*$', lines[first - 1]):
        first -= 1
    return first


def _comment(lines: List[str], first: int) -> int:
    """The first line of the comment that ends right above `first`."""
    if first == 0:
        return first
    if lines[first - 1].startswith('//'):
        while first > 0 and lines[first - 1].startswith('//'):
            first -= 1
    elif lines[first - 1].rstrip().endswith('*/'):
        above = first - 1
        while above > 0 and '/*' not in lines[above]:
            above -= 1
        if lines[above].startswith('/*'):
            first = above
    return first


def _extent(lines: List[str], name: str,
            begin: int) -> Optional[Tuple[int, int]]:
    """The lines [first, last] of the next declaration or definition."""
    pattern = re.compile(r'[A-Za-z_][^;{}=#]*?(?<!\w)' + re.escape(name)
                         + r'\s*\(|' + re.escape(name) + r'\s*\(')
    for number in range(begin, len(lines)):
        if not pattern.match(lines[number]):
            continue
        for last in range(number, len(lines)):
            if lines[last].startswith('{'):
                while not lines[last].startswith('}'):
                    last += 1
                break
            if lines[last].rstrip().endswith(';'):
                break
        return _comment(lines, _start(lines, number)), last
    return None


def remove(text: str, name: str) -> str:
    """The text without the function `name` and without its prototypes."""
    lines = text.split('\n')
    begin, found = 0, False
    while True:
        extent = _extent(lines, name, begin)
        if not extent:
            break
        first, last = extent
        found = True
        del lines[first:last + 1]
        # One of the two blank lines around it goes too.
        if first < len(lines) and not lines[first].strip() and \
                (first == 0 or not lines[first - 1].strip()):
            del lines[first]
        begin = max(first - 1, 0)
    if not found:
        raise NotFound(name)
    return '\n'.join(lines)
