"""Exercises 9.1 and 9.2: a batch whose rows have different adapters, and ranks side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from minilora.course.comparing import as_numbers
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _updates(x, adapter_of, A, B, s):
    """The update of each row by its own adapter, a row at a time."""
    rows = [
        np.zeros(B.shape[1]) if k < 0 else s[k] * (B[k] @ (A[k] @ row))
        for row, k in zip(x, adapter_of, strict=True)
    ]
    return np.array(rows)


def check_mixed(fn: Callable, judge: Judge) -> None:
    for of in ([2, -1, 0, 2, 1, -1, 0, 2], [1, 0, -1, -1, 0, 1, 2, 2, 0]):
        n, r, out = judge.sizes(7, 2, 5)
        x, A, B = judge.normal(len(of), n), judge.normal(3, r, n), judge.normal(3, out, r)
        s = judge.rng.uniform(0.5, 3.0, 3)
        want = _updates(x, of, A, B, s)
        order = np.argsort(of, kind="stable")
        last = [k if k >= 0 else 2 for k in of]
        got = judge.call(fn, x=x, adapter_of=list(of), A=A, B=B, s=s)
        judge.close(
            "the update of each row",
            got,
            want,
            instead={
                "no row found its adapter. adapter_of is a list, and a list == k is never True; "
                "np.asarray(adapter_of) == k asks each entry.": want * 0,
                "the rows without an adapter got the last one's: -1 is a place in NumPy, the last.":
                _updates(x, last, A, B, s),
                "the rows are still in sorted order; put each back in its own place.": want[order],
                "every adapter has a scaling of its own.": _updates(x, of, A, B, s * 0 + s[0]),
                "the scaling is missing.": _updates(x, of, A, B, np.ones(3)),
                "every row got all adapters together; each has one of its own.": sum(
                    s[k] * x @ A[k].T @ B[k].T for k in range(3)
                ),
            },
        )  # fmt: skip
        # Two more adapters with a row each cost little, unless they read everybody's rows. A
        # product B A of each adapter is no mistake: it costs less than twice one of all rows.
        many = of * 8
        x, A, B = judge.normal(len(many) + 2, n), judge.normal(5, r, n), judge.normal(5, out, r)
        s = judge.rng.uniform(0.5, 3.0, 5)
        few = judge.multiplications(fn, x=x[:-2], adapter_of=list(many), A=A[:3], B=B[:3], s=s[:3])
        more = judge.multiplications(fn, x=x, adapter_of=[*many, 3, 4], A=A, B=B, s=s)
        judge.true(
            more - few <= 4 * out * n * (r + 2),
            f"right, but two rows more, with an adapter each, took {more - few} products of two "
            f"numbers more where {2 * (n * r + r * out)} do: every adapter reads every row. Pick "
            "the rows of one adapter, x[rows], before you multiply.",
        )
        judge.true(
            more <= 2 * len(many) * out * n,
            f"right, with {more} products of two numbers where {len(many) * r * (n + out)} do: the "
            "whole B A is made for every row again. Go through the thin side: (x A^T) B^T.",
        )
        _only_its_own(fn, judge, list(of))


def _only_its_own(fn: Callable, judge: Judge, of: list[int]) -> None:
    """Numbers too large for each other where a row meets an adapter that is not its own.

    What turns counted numbers into plain ones goes uncounted, and is found here. Rows without an
    adapter are left out.
    """
    n, r, out = judge.sizes(7, 2, 5)
    of, count = [k for k in of if k >= 0], 3
    x, A, B = judge.normal(len(of), n), judge.normal(count, r, n), judge.normal(count, out, r)
    s = judge.rng.uniform(0.5, 3.0, count)

    def overflows() -> bool:
        with np.errstate(over="raise", invalid="raise"):
            try:
                fn(x.copy(), list(of), A.copy(), B.copy(), s.copy())
            except FloatingPointError:
                return True
        return False

    if overflows():  # some BLAS libraries raise these flags for nothing
        return
    A[:, :, :count] = 1e200
    for k in range(count):
        A[k, :, k] = 0.0
    x[:, :count] = 1e200 * (np.asarray(of)[:, None] == np.arange(count))
    judge.true(
        not (overflows() or _in_torch(overflows)),
        "right, but a row meets an adapter that is not its own, and what comes of it is thrown "
        "away. Pick the rows of one adapter, x[rows], before you multiply.",
    )


def _in_torch(run: Callable[[], object]) -> bool:
    """Whether run makes a number too large from tensors of finite ones, which PyTorch lets pass.

    What only makes room, or turns numbers into shorter ones, is no product. False where the answer
    has not imported PyTorch.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    found = []

    def tensors(values: object) -> list:
        if isinstance(values, list | tuple):
            return [tensor for value in values for tensor in tensors(value)]
        return [values] if isinstance(values, torch.Tensor) and values.is_floating_point() else []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            given = tensors([*args, *(kwargs or {}).values()])
            sound = bool(given) and all(bool(torch.isfinite(x).all()) for x in given)
            out = func(*args, **(kwargs or {}))
            makes_room = any(word in getattr(func, "__name__", "") for word in ("empty", "full"))
            found.extend(
                sound
                and not makes_room
                and all(x.dtype == made.dtype for x in given)
                and not bool(torch.isfinite(made).all())
                for made in tensors([out])
            )
            return out

    with Watch():
        run()
    return any(found)


@exercise(
    "9.1",
    "A batch of many adapters",
    minutes=12,
    difficulty=2,
    importance=3,
    check=check_mixed,
    statement=r"""
    A batch holds rows for several clients. `x` (rows, in) is what a layer reads, and `adapter_of`
    is a list that names for each row its adapter, a number, or `-1` for none. The adapters lie side
    by side: `A` (K, r, in), `B` (K, out, r) and their scalings `s` (K,).

    Write `mixed_update(x, adapter_of, A, B, s)` and return what is added to the base's output,
    (rows, out): for a row of adapter $k$

    $$s_k\, (x A_k^\top) B_k^\top ,$$

    and zeros for a row without one. A row goes through its own adapter only.
    """,
    hints=(
        "Which rows belong to adapter k? np.flatnonzero(np.asarray(adapter_of) == k) says it.",
        "Begin with zeros for all rows, and loop over the adapters, not over the rows.",
        "out[rows] = s[k] * ((x[rows] @ A[k].T) @ B[k].T) puts each result back in its place.",
    ),
    wrong=(
        mistake(
            "-1 is the last",
            "-1 is a place in NumPy",
            body="""
            k = np.asarray(adapter_of)
            return np.array([s[i] * (B[i] @ (A[i] @ row)) for row, i in zip(x, k)])
            """,
        ),
        mistake(
            "left sorted",
            "still in sorted order",
            body="""
            of = np.asarray(adapter_of)
            parts = [np.zeros((int((of < 0).sum()), B.shape[1]))]
            for k in range(len(A)):
                parts.append(s[k] * ((x[of == k] @ A[k].T) @ B[k].T))
            return np.concatenate(parts)
            """,
        ),
        mistake("one scaling", "a scaling of its own", change=("s[k] *", "s[0] *")),
        mistake("no scaling", "the scaling is missing", change=("s[k] * (", "(")),
        mistake(
            "a list is no number",
            "no row found its adapter",
            change=("np.asarray(adapter_of) == k", "adapter_of == k"),
        ),
        mistake(
            "a mask",
            "every adapter reads every row",
            body="""
            of = np.asarray(adapter_of)
            out = np.zeros((len(x), B.shape[1]), dtype=x.dtype)
            for k in range(len(A)):
                whole = s[k] * ((x @ A[k].T) @ B[k].T)
                out[of == k] = whole[of == k]
            return out
            """,
        ),
        mistake(
            "a mask over plain numbers",
            "is thrown away",
            body="""
            x, A, B, s = (np.asarray(array, dtype=float) for array in (x, A, B, s))
            of = np.asarray(adapter_of)[:, None]
            parts = [np.where(of == k, s[k] * ((x @ A[k].T) @ B[k].T), 0) for k in range(len(A))]
            return sum(parts)
            """,
        ),
        mistake(
            "B A for every row",
            "for every row again",
            body="""
            return np.array([
                s[k] * ((B[k] @ A[k]) @ row) if k >= 0 else np.zeros(B.shape[1])
                for row, k in zip(x, adapter_of)
            ])
            """,
        ),
        mistake(
            "all together",
            "got all adapters together",
            body="return sum(s[k] * x @ A[k].T @ B[k].T for k in range(len(A)))",
        ),
    ),
)
def mixed_update(
    x: np.ndarray, adapter_of: list[int], A: np.ndarray, B: np.ndarray, s: np.ndarray
) -> np.ndarray:
    """(rows, out): what each row's own adapter adds; zeros where adapter_of is -1."""
    out = np.zeros((len(x), B.shape[1]), dtype=x.dtype)
    for k in range(len(A)):
        rows = np.flatnonzero(np.asarray(adapter_of) == k)
        out[rows] = s[k] * ((x[rows] @ A[k].T) @ B[k].T)
    return out


def check_stack(fn: Callable, judge: Judge) -> None:
    for ranks in ((2, 5, 3), (4, 1)):
        n, out = judge.sizes(7, 6)
        factors = [
            (judge.normal(r, n), judge.normal(out, r), alpha)
            for r, alpha in zip(ranks, (3.5, 7.3, 1.1), strict=False)
        ]
        widest, count = max(ranks), len(ranks)
        made = judge.parts(judge.call(fn, factors=factors), 3, "three arrays, `return A, B, s`")
        A, B, s = (as_numbers(name, part) for name, part in zip("ABs", made, strict=True))
        for name, array, shape in (
            ("A", A, (count, widest, n)),
            ("B", B, (count, out, widest)),
            ("s", s, (count,)),
        ):
            why = ""
            if array.ndim == 3 and array.shape == (shape[0], *shape[:0:-1]):
                why = ": the last two axes have changed places"
            elif name != "s" and array.ndim == 3:
                why = ": as wide as the largest rank, so that nothing is cut off"
            judge.true(
                array.shape == shape,
                f"{name}: your shape is {array.shape}, expected {shape}{why}.",
            )
        # The scaling may also stand inside the factors: what is asked for is the whole product.
        whole = [s[k] * (B[k] @ A[k]) for k in range(count)]
        meant = [alpha / len(a) * (b @ a) for a, b, alpha in factors]
        if all(map(np.allclose, whole, meant)):
            continue
        wanted = np.array([alpha / len(a) for a, _, alpha in factors])
        judge.close(
            "s",
            s,
            wanted,
            instead={
                "alpha is divided by the largest rank. Filling up with zeros adds no rank: each "
                "adapter keeps the r that it was trained with.": wanted * ranks / widest,
                "alpha is not divided by r.": wanted * ranks,
            },
        )
        for k, (a, b, _) in enumerate(factors):
            spare = widest - len(a)
            judge.true(
                np.isfinite(A[k]).all() and np.isfinite(B[k]).all(),
                "some places that were to be filled up hold NaN or infinity.",
            )
            shifted = B[k].copy()
            if spare:
                shifted = np.concatenate([B[k][:, spare:], B[k][:, :spare]], axis=1)
            apart = not np.allclose(B[k] @ A[k], b @ a) and np.allclose(shifted @ A[k], b @ a)
            judge.true(
                not apart,
                "A is filled up at one end and B at the other, so their ranks no longer meet; fill "
                "both at the end.",
            )
            judge.close(f"B[{k}] @ A[{k}]", B[k] @ A[k], b @ a)
            judge.true(
                spare == 0 or not (A[k].any(axis=1).sum() > len(a) and B[k].any(axis=0).all()),
                "what is filled up must be zeros.",
            )


@exercise(
    "9.2",
    "Ranks side by side",
    minutes=10,
    difficulty=2,
    importance=2,
    check=check_stack,
    statement=r"""
    Adapters of different ranks are not one array. But a product with zeros is nothing, so a thin
    adapter can be filled up to the width of the widest.

    `factors` is a list of `(A, B, alpha)` with `A` (r, in) and `B` (out, r), and every r may be
    another. Write `side_by_side_factors(factors)` and return `A` (K, R, in), `B` (K, out, R) and
    `s` (K,), where R is the largest rank, such that for every adapter

    $$s_k\, B_k A_k = \frac{\alpha_k}{r_k}\, B A .$$
    """,
    hints=(
        "R = max(a.shape[0] for a, _, _ in factors). Make both arrays of zeros first.",
        "The first r rows of A[k] and the first r columns of B[k] are its own; leave the rest.",
        "A[k, :r] = a and B[k, :, :r] = b, and s[k] = alpha / r with that adapter's own r.",
    ),
    wrong=(
        mistake(
            "largest rank", "Filling up with zeros adds no rank", change=("alpha / r", "alpha / R")
        ),
        mistake("forgot / r", "alpha is not divided by r", change=("alpha / r", "alpha")),
        mistake(
            "other end",
            "at one end and B at the other",
            change=("B[k, :, :r] = b", "B[k, :, R - r :] = b"),
        ),
        mistake(
            "sideways",
            "axes have changed places",
            change=("return A, B, s", "return A.transpose(0, 2, 1), B, s"),
        ),
        mistake(
            "cut off",
            "nothing is cut off",
            body="""
            R = min(a.shape[0] for a, _, _ in factors)
            A = np.stack([a[:R] for a, _, _ in factors])
            B = np.stack([b[:, :R] for _, b, _ in factors])
            return A, B, np.array([alpha / len(a) for a, _, alpha in factors])
            """,
        ),
    ),
)
def side_by_side_factors(
    factors: list[tuple[np.ndarray, np.ndarray, float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (K, R, in), B (K, out, R), s (K,), ranks filled up with zeros to the largest, R."""
    R = max(a.shape[0] for a, _, _ in factors)
    A = np.zeros((len(factors), R, factors[0][0].shape[1]))
    B = np.zeros((len(factors), factors[0][1].shape[0], R))
    s = np.zeros(len(factors))
    for k, (a, b, alpha) in enumerate(factors):
        r = a.shape[0]
        A[k, :r] = a
        B[k, :, :r] = b
        s[k] = alpha / r
    return A, B, s
