"""Regular expressions out of an adapter's config, matched with names in a bounded number of steps.

Python's `re` tries one way through an expression after another, and `(.+)+Z` has 2^n of them on a
name of n characters. Here the ways are followed all at once, as the set of places in the name that
each part can end at, so that the work is a polynomial of the lengths (Thompson 1968), and what
would still be too much is refused. Simple expressions, which are nearly all, go to `re`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

try:
    from re import _constants as sre
    from re import _parser as sre_parser
except ImportError:  # Python 3.10
    import sre_constants as sre
    import sre_parse as sre_parser

LONGEST = 20_000
"""Characters of an expression: names of all linear layers of a big model, and an "or" between."""
MOST_STEPS = 10_000
"""For one name; expressions of real adapters take a few hundred."""
SIMPLE_REPEATS = 3
"""So many repetitions, none within another, cost `re` at most this power of a name's length."""
MOST_EXPRESSIONS = 2_000
"""In one list or pattern: more than the linear layers of the largest models."""

_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_KNOWN = {
    *_REPEATS, sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN, sre.BRANCH, sre.SUBPATTERN, sre.AT,
    sre.ASSERT, sre.ASSERT_NOT, sre.FAILURE,
}  # fmt: skip
_CATEGORIES = {
    sre.CATEGORY_DIGIT: str.isdecimal,
    sre.CATEGORY_SPACE: str.isspace,
    sre.CATEGORY_WORD: lambda char: char.isalnum() or char == "_",
}
_NEGATED = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
}


def check_expression(expression: str) -> None:
    """Raise ValueError for what is no regular expression, or one that isn't matched here.

    Back references and possessive parts are not: they need the ways one after another.
    """
    _parsed(expression)


@lru_cache(maxsize=1 << 16)
def fits_whole(expression: str, name: str) -> bool:
    """As `re.fullmatch`. Raises ValueError as `check_expression`, or beyond MOST_STEPS."""
    tree, simple = _parsed(expression)
    if simple:
        return re.fullmatch(expression, name) is not None
    return len(name) in _Walk(expression, name).ends(tree, 0)


@lru_cache(maxsize=1 << 16)
def fits_start(expression: str, name: str) -> bool:
    """As `re.match`. Raises ValueError as `check_expression`, or beyond MOST_STEPS."""
    tree, simple = _parsed(expression)
    if simple:
        return re.match(expression, name) is not None
    return bool(_Walk(expression, name).ends(tree, 0))


def ends_after(expression: str, name: str, start: int) -> list[int]:
    """Where a match that begins at `start` can end, sorted. Raises ValueError as `fits_whole`."""
    return sorted(_Walk(expression, name).ends(_parsed(expression)[0], start))


@lru_cache(maxsize=1 << 12)
def _parsed(expression: str) -> tuple[list, bool]:
    """The parts as Python's own parser makes them, and whether `re` is safe with them."""
    if len(expression) > LONGEST:
        raise ValueError(f"it has {len(expression):,} characters, expected at most {LONGEST:,}")
    try:
        re.compile(expression)  # refuses a little that the parser lets pass
        tree = sre_parser.parse(expression)
        parts = list(_parts(tree))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error) or "it is nested too deeply") from None
    unknown = {str(kind).lower() for kind, _, _ in parts if kind not in _KNOWN}
    if unknown:
        raise ValueError(f"it uses {', '.join(sorted(unknown))}, expected a plain expression")
    flags = [value[1] | value[2] for kind, value, _ in parts if kind is sre.SUBPATTERN]
    if any(flags) or tree.state.flags & ~re.UNICODE:
        raise ValueError("it sets flags such as (?i), expected none")
    repeats = [inside for kind, _, inside in parts if kind in _REPEATS]
    return tree, len(repeats) <= SIMPLE_REPEATS and not any(repeats)


def _parts(tree: list, inside: bool = False) -> Iterator[tuple[object, object, bool]]:
    """(kind, value, whether it lies within what is taken several times) of every part."""
    for kind, value in tree:
        yield kind, value, inside
        if kind is sre.BRANCH:
            children = value[1]
        elif kind in (sre.SUBPATTERN, *_REPEATS, sre.ASSERT, sre.ASSERT_NOT):
            children = value[-1:]
        else:
            children = ()
        repeated = kind in _REPEATS and value[1] > 1
        for child in children:
            yield from _parts(child, inside or repeated)


class _Walk:
    """One expression on one name: what each part can end at from each place, found once."""

    def __init__(self, expression: str, name: str) -> None:
        self.expression, self.name, self.steps = expression, name, 0
        self.known: dict[tuple[int, int], frozenset[int]] = {}

    def ends(self, tree: list, start: int) -> frozenset[int]:
        """Places in the name where a match of all the tree's parts from `start` can end."""
        places = frozenset([start])
        for part in tree:
            places = self._after(part, places)
        return places

    def _after(self, part: tuple, starts: Iterable[int]) -> frozenset[int]:
        """Where one part can end from any of these places."""
        found: set[int] = set()
        for start in starts:
            key = (id(part), start)
            if key not in self.known:
                self.known[key] = frozenset(self._from(*part, start))
            found |= self.known[key]
            self.steps += 1 + len(self.known[key])
        if self.steps > MOST_STEPS:
            raise ValueError(
                f"got the regular expression {self.expression[:60]!r}, which takes more than "
                f"{MOST_STEPS:,} steps on {self.name[:60]!r}; expected a simpler one"
            )
        return frozenset(found)

    def _from(self, kind: object, value: object, start: int) -> Iterable[int]:
        """Where one part can end from one place."""
        if kind is sre.BRANCH:
            return set().union(*(self.ends(tree, start) for tree in value[1]))
        if kind is sre.SUBPATTERN:
            return self.ends(value[-1], start)
        if kind in _REPEATS:
            return self._repeated(*value, start)
        if kind is sre.AT:
            return [start] if self._stands_at(value, start) else []
        if kind in (sre.ASSERT, sre.ASSERT_NOT):
            return [start] if self._asserts(*value, start) is (kind is sre.ASSERT) else []
        if kind is sre.FAILURE or start >= len(self.name):
            return []
        return [start + 1] if _takes(kind, value, self.name[start]) else []

    def _repeated(self, least: int, most: int, tree: list, start: int) -> set[int]:
        """Places after `least` to `most` times the tree.

        Each time moves on or stays, so after more times than the name has characters nothing
        changes any more.
        """
        last = len(self.name) + 1
        places, reached = {start}, set()
        for times in range(min(most, last) + 1):
            if times:
                places = set().union(*(self.ends(tree, place) for place in places))
            if times >= min(least, last):
                reached |= places
            if not places:
                break
        return reached

    def _asserts(self, direction: int, tree: list, start: int) -> bool:
        """Whether the tree matches from here on, or (direction -1) up to here."""
        if direction >= 0:
            return bool(self.ends(tree, start))
        width = tree.getwidth()[0]  # of one that looks back: there is only one
        return start >= width and start in self.ends(tree, start - width)

    def _stands_at(self, where: object, place: int) -> bool:
        if where in (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING):
            return place == 0
        if where in (sre.AT_END, sre.AT_END_STRING):
            return place == len(self.name)
        word = _CATEGORIES[sre.CATEGORY_WORD]
        around = self.name[max(place - 1, 0) : place], self.name[place : place + 1]
        changes = word(around[0]) != word(around[1])
        return changes is (where is sre.AT_BOUNDARY)


def _takes(kind: object, value: object, char: str) -> bool:
    """Whether a part that stands for one character takes this one."""
    if kind is sre.ANY:
        return True
    if kind in (sre.LITERAL, sre.NOT_LITERAL):
        return (ord(char) == value) is (kind is sre.LITERAL)
    negated, held = False, False
    for item, what in value:
        if item is sre.NEGATE:
            negated = True
        elif item is sre.LITERAL:
            held |= ord(char) == what
        elif item is sre.RANGE:
            held |= what[0] <= ord(char) <= what[1]
        elif what in _NEGATED:
            held |= not _CATEGORIES[_NEGATED[what]](char)
        else:
            held |= _CATEGORIES[what](char)
    return held is not negated
