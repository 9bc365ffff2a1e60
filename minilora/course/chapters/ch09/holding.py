"""Exercises 9.3 and 9.4: who stays in memory, and whose base an adapter was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge, Mistake


def _lru(resident: list[str], name: str, most: int) -> tuple[list[str], str | None]:
    kept = [*(one for one in resident if one != name), name]
    return (kept[1:], kept[0]) if len(kept) > most else (kept, None)


def check_touch(fn: Callable, judge: Judge) -> None:
    for clients, most in (judge.sizes(5, 3), judge.sizes(7, 4), (3, 1)):
        names = [f"client {c}" for c in judge.rng.permutation(clients)]
        resident: list[str] = []
        calls = [*names[: most + 1], names[1], names[most + 1 - clients]]
        calls += [names[i] for i in judge.rng.integers(clients, size=40)]
        for call in calls:
            want, gone = _lru(resident, call, most)
            again = call[:1] + call[1:]  # an equal text that is another object
            out = judge.parts(
                judge.call(fn, resident=list(resident), name=again, most=most),
                2,
                "two things, the list and who had to go (or None)",
            )
            judge.true(
                isinstance(out[0], Iterable) and not isinstance(out[0], str),
                f"the first thing returned is {out[0]!r}, expected the new list; the list comes "
                "first, then who had to go. list.append and list.remove return None.",
            )
            got, dropped = list(out[0]), out[1]
            hit = call in resident
            judge.true(
                len(got) == len(set(got)) and not (hit and dropped == call),
                f"{call!r} stands in the list twice; take it out before you put it at the end.",
            )
            judge.true(
                call in got,
                f"{call!r} is being used and is not in the list; let go of another.",
            )
            judge.true(
                len(got) <= most,
                f"the list holds {len(got)}, and there is room for {most}.",
            )
            judge.true(
                not (hit and dropped is not None),
                f"{call!r} was in memory already, and yet {dropped!r} had to go; nobody needs to.",
            )
            judge.true(
                not (len(resident) < most and dropped is not None),
                f"{dropped!r} had to go while there was room for {most - len(resident)} more.",
            )
            if hit and got == resident and got != want:
                raise Mistake(
                    f"{call!r} was used just now and keeps its old place in the list, so that it "
                    "is the next to go although it is in use; move it to the end."
                )
            if dropped is not None and dropped == resident[-1] != gone:
                raise Mistake(
                    f"{dropped!r} had to go, which was used last of all; the first in the list was "
                    "not used for the longest time."
                )
            judge.true(
                dropped == gone,
                f"of {resident}, {dropped!r} had to go for {call!r}; expected {gone!r}.",
            )
            judge.true(got == want, f"after {call!r} the list is {got}, expected {want}.")
            resident = want


@exercise(
    "9.3",
    "Who stays in memory",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_touch,
    statement=r"""
    A thousand sheets lie on the disk, and memory has room for `most` of them. When one more is
    wanted, the one goes that was not used for the longest time: it is the least likely to be asked
    for next.

    `resident` is a list of names, from the one that was used longest ago to the one that was used
    last. Write `touch(resident, name, most)`: client `name` is used now. Return a new list, and the
    name of the one that had to go, or `None` if nobody had to.
    """,
    hints=(
        "Whoever is used now stands at the end of the new list, also if it was in it before.",
        "Take it out of the list first, then put it at the end. Only then count.",
        "If the list is longer than most, the first one goes: return kept[1:], kept[0].",
    ),
    wrong=(
        mistake(
            "first come",
            "keeps its old place",
            body="""
            if name in resident:
                return list(resident), None
            kept = [*resident, name]
            return (kept[1:], kept[0]) if len(kept) > most else (kept, None)
            """,
        ),
        mistake(
            "drops the newest",
            "which was used last of all",
            body="""
            kept = [one for one in resident if one != name]
            if len(kept) == most:
                return [*kept[:-1], name], kept[-1]
            return [*kept, name], None
            """,
        ),
        mistake(
            "twice",
            "stands in the list twice",
            body="""
            kept = [*resident, name]
            return (kept[1:], kept[0]) if len(kept) > most else (kept, None)
            """,
        ),
        mistake(
            "what append returns",
            "list.append and list.remove return None",
            body="""
            kept = [one for one in resident if one != name]
            gone = kept.pop(0) if len(kept) == most else None
            return kept.append(name), gone
            """,
        ),
        mistake("one too many", "there is room for", change=("> most", "> most + 1")),
        mistake("one too few", "while there was room", change=("> most", ">= most")),
        mistake(
            "in place",
            "in place",
            body="""
            if name in resident:
                resident.remove(name)
            resident.append(name)
            return resident, (resident.pop(0) if len(resident) > most else None)
            """,
        ),
    ),
)
def touch(resident: list[str], name: str, most: int) -> tuple[list[str], str | None]:
    """The new list, latest last, and who had to go."""
    kept = [*(one for one in resident if one != name), name]
    if len(kept) > most:
        return kept[1:], kept[0]
    return kept, None


def check_fingerprint(fn: Callable, judge: Judge) -> None:
    rows, columns = judge.sizes(4, 6)
    shapes = {"embed": (rows, columns), "q": (columns, columns), "v": (columns, columns)}
    # multiples of 1/1024, whose sums are exact, so that a sum can't tell an order by its rounding
    weights = {
        name: np.round(1024 * judge.normal(*shape)) / 1024
        for name, shape in {**shapes, "norm": (columns,)}.items()
    }
    own = judge.call(fn, weights=dict(weights))
    judge.true(
        isinstance(own, (str, bytes)) and len(own) >= 8,
        "return a text, such as hashlib.sha256(...).hexdigest().",
    )
    judge.true(
        fn({name: array.copy() for name, array in weights.items()}) == own,
        "two calls with equal weights gave two fingerprints; it must hang on the numbers alone.",
    )
    judge.true(
        fn(dict(reversed(list(weights.items())))) == own,
        "the same weights in another order of the dictionary got another fingerprint; go through "
        "the names in sorted order.",
    )

    def other(why: str, **changed: np.ndarray) -> None:
        judge.true(fn({**weights, **changed}) != own, why)

    wide = weights["embed"].copy()
    wide[0, 0], wide[-1, -1] = wide[-1, -1], wide[0, 0]
    other(
        "two numbers of one weight changed places, and the fingerprint is the same: a sum does not "
        "see it. Hash the bytes.",
        embed=wide,
    )
    for name, array in weights.items():
        hidden = "rounded or printed numbers hide it; hash the bytes."
        for place in np.ndindex(array.shape):
            turned = array.copy()
            turned[place] += 1.0
            if fn({**weights, name: turned}) == own:
                hidden = "it is not looked at, nor would a larger change be; hash all the bytes."
            nudged = array.copy()
            nudged[place] = np.nextafter(nudged[place], 9.0)
            other(
                f"the number of {name} at {place} changed in its last bit, and the fingerprint is "
                f"the same: {hidden}",
                **{name: nudged},
            )
    other(
        "q and v have changed places, and the fingerprint is the same: the names must go in too.",
        q=weights["v"],
        v=weights["q"],
    )
    other(
        "embed has the same numbers in another shape, which is another layer, and the fingerprint "
        "is the same: the shape must go in too.",
        embed=weights["embed"].reshape(columns, rows),
    )
    renamed = {("value" if name == "v" else name): array for name, array in weights.items()}
    judge.true(
        fn(renamed) != own,
        "v is called value now, and the fingerprint is the same: the names must go in too.",
    )
    fewer = {name: array for name, array in weights.items() if name != "norm"}
    judge.true(fn(fewer) != own, "a weight less, and the fingerprint is the same.")
    strided = {**weights, "q": np.ascontiguousarray(weights["q"].T).T}
    judge.true(
        fn(strided) == own,
        "equal weights got another fingerprint because one lies in memory in another order; "
        "np.ascontiguousarray puts it in the usual one.",
    )


@exercise(
    "9.4",
    "Whose base is this?",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_fingerprint,
    statement=r"""
    A sheet fits any base of the right shapes, and computes nonsense on all but one. So the bank
    notes which base a sheet was made for, and refuses another.

    Write `fingerprint(weights)`, a text for a dictionary of name → array. Equal weights have equal
    fingerprints, in whatever order the dictionary is. Weights that differ in one bit, in a name, or
    in a shape, have different ones. After `import hashlib`, `hashlib.sha256()` takes bytes with
    `.update(...)` and gives a text with `.hexdigest()`.
    """,
    hints=(
        "A hash reads bytes one after the other, so the order must be yours: sorted(weights).",
        "What belongs to a weight: its name, its shape, its numbers. str(array.shape).encode() "
        "makes bytes of a shape.",
        "for name in sorted(weights): update with name.encode(), the shape's bytes and "
        "np.ascontiguousarray(weights[name]).tobytes().",
    ),
    wrong=(
        mistake(
            "a sum",
            "a sum does not see it",
            body="""
            import hashlib
            total = {name: float(weights[name].sum()) for name in sorted(weights)}
            return hashlib.sha256(repr(total).encode()).hexdigest()
            """,
        ),
        mistake(
            "any order", "another order of the dictionary", change=("sorted(weights)", "weights")
        ),
        mistake(
            "no names",
            "the names must go in too",
            change=("mark.update(name.encode())", "mark.update(b'')"),
        ),
        mistake(
            "no shape",
            "the shape must go in too",
            change=("mark.update(str(array.shape).encode())", "mark.update(b'')"),
        ),
        mistake(
            "rounded",
            "rounded or printed",
            change=("array.tobytes()", "array.round(6).tobytes()"),
        ),
        mistake(
            "not the last row",
            "it is not looked at",
            change=("array.tobytes()", "array[:-1].tobytes()"),
        ),
        mistake("no text", "return a text", change=("mark.hexdigest()", "1")),
    ),
)
def fingerprint(weights: dict[str, np.ndarray]) -> str:
    """A text that tells these weights from any others."""
    import hashlib

    mark = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        mark.update(name.encode())
        mark.update(str(array.shape).encode())
        mark.update(array.tobytes())
    return mark.hexdigest()
