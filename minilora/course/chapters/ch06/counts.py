"""Exercises 6.1, 6.2 and 6.3: numbers trained, module names, and the rank a budget allows."""

from __future__ import annotations

from collections.abc import Callable

from minilora.course.comparing import first_of
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def unlike(want: float, meanings: dict[str, float]) -> dict[str, float]:
    """The wrong answers that differ from the right one here, with what they mean."""
    return {sentence: value for sentence, value in meanings.items() if value != want}


def check_trained_numbers(fn: Callable, judge: Judge) -> None:
    for width, heads, shared, dim, r in ((12, 6, 2, 5, 3), (20, 4, 1, 7, 2)):
        q, kv = heads * dim, shared * dim
        outs = {"q_proj": q, "k_proj": kv, "v_proj": kv, "o_proj": width}
        ins = {"q_proj": width, "k_proj": width, "v_proj": width, "o_proj": q}
        for targets in (("q_proj", "v_proj"), ("k_proj",), tuple(outs), ("o_proj", "k_proj")):
            names = ", ".join(targets)
            wide = {**outs, "k_proj": q, "v_proj": q}
            thin_o = {**ins, "o_proj": width}
            want = sum(r * (outs[t] + ins[t]) for t in targets)
            judge.number(
                f"the count for {names}",
                fn(width, heads, shared, dim, targets, r),
                want,
                instead=unlike(
                    want,
                    {
                        "k and v have fewer heads than q: kv_heads * head_dim outputs, not "
                        "heads * head_dim.": sum(r * (wide[t] + ins[t]) for t in targets),
                        "o reads all of q's heads: heads * head_dim inputs, not width.": (
                            sum(r * (outs[t] + thin_o[t]) for t in targets)
                        ),
                        "that is the size of the weights, which are frozen.": sum(
                            outs[t] * ins[t] for t in targets
                        ),
                        "B has out * r numbers; those are missing.": sum(
                            r * ins[t] for t in targets
                        ),
                        "A has r * in numbers; those are missing.": sum(
                            r * outs[t] for t in targets
                        ),
                    },
                ),
            )


@exercise(
    "6.1",
    "What a target set trains",
    minutes=10,
    difficulty=2,
    check=check_trained_numbers,
    statement=r"""
    LoRA of rank $r$ on a map with weight (out, in) trains $A$ (r, in) and $B$ (out, r). In a block
    with *grouped heads*, q has `heads` heads, and k and v have `kv_heads`, each of `head_dim`
    numbers. All three read `width` numbers; `o_proj` takes q's heads back to `width`.

    Write `trained_numbers(width, heads, kv_heads, head_dim, targets, r)`: how many numbers of one
    block are trained, for `targets` out of `q_proj`, `k_proj`, `v_proj`, `o_proj`.
    """,
    hints=(
        "Write down (out, in) of each of the four. q is (heads * head_dim, width).",
        "k and v are (kv_heads * head_dim, width), and o is (width, heads * head_dim).",
        "Each target adds r * (out + in).",
    ),
    wrong=(
        mistake(
            "k as wide as q", "k and v have fewer heads", change=("kv = kv_heads", "kv = heads")
        ),
        mistake(
            "forgot B", "B has out", change=("shapes[name][0] + shapes[name][1]", "shapes[name][1]")
        ),
        mistake(
            "forgot A", "A has r", change=("shapes[name][0] + shapes[name][1]", "shapes[name][0]")
        ),
        mistake(
            "size of W",
            "which are frozen",
            body="""
            q, kv = heads * head_dim, kv_heads * head_dim
            sizes = {"q_proj": q, "k_proj": kv, "v_proj": kv, "o_proj": q}
            return sum(sizes[name] * width for name in targets)
            """,
        ),
        mistake(
            "thin o", "o reads all", change=('"o_proj": (width, q)', '"o_proj": (width, width)')
        ),
    ),
)
def trained_numbers(
    width: int, heads: int, kv_heads: int, head_dim: int, targets: tuple[str, ...], r: int
) -> int:
    """Numbers in A and B of all targets of one block's attention."""
    q = heads * head_dim
    kv = kv_heads * head_dim
    shapes = {
        "q_proj": (q, width),
        "k_proj": (kv, width),
        "v_proj": (kv, width),
        "o_proj": (width, q),
    }
    return sum(r * (shapes[name][0] + shapes[name][1]) for name in targets)


NAMES = (
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.cross_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.0.mlp.gate_up_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj_norm",
    "model.layers.11.mlp.up_proj",
    "head",
    "model.layers.2.mlp_up_proj",
)


def check_select_modules(fn: Callable, judge: Judge) -> None:
    cases = (
        (("up_proj",), (2, 6), "a suffix"),
        (("self_attn.q_proj",), (0, 4), "a suffix of two parts"),
        (("up_proj", "mlp.up_proj", "q_proj"), (0, 1, 2, 4, 6), "targets that overlap"),
        (("q_proj", "head"), (0, 1, 4, 7), "two suffixes, one a whole name"),
        (("1.mlp.up_proj",), (), "a part of a part"),
    )
    for targets, places, what in cases:
        out = list(judge.call(fn, names=list(NAMES), targets=targets))
        want = [NAMES[i] for i in places]
        told = f"{what}, {targets}"
        strange = [name for name in out if name not in NAMES]
        judge.true(
            not strange, f"{told}: {first_of(strange)} is none of the names; return them whole."
        )
        judge.true(
            len(out) == len(set(out)),
            f"{told}: a module is there twice; it is still one where two targets name it.",
        )
        _judge_choice(judge, told, out, want, targets)
        judge.true(out == want, f"{told}: right names, not in the model's order.")


def _judge_choice(judge: Judge, told: str, out: list, want: list, targets: tuple) -> None:
    """Mistake for the first name that is too much or missing."""
    extra = [name for name in out if name not in want]
    inside = [name for name in extra if not name.endswith(targets)]
    judge.true(
        not inside,
        f"{told}: you chose {first_of(inside)}, which holds a target and does not end in it.",
    )
    judge.true(
        not extra,
        f"{told}: you chose {first_of(extra)}, which ends in the same letters, and the part of "
        'its name is another one. A target starts at the beginning of a part: after a "." or '
        "at the very start.",
    )
    missing = [name for name in want if name not in out]
    judge.true(
        "head" not in missing,
        f"{told}: 'head' is missing; a target may be the whole name, with no dot before it.",
    )
    several = "." in targets[0]
    why = "a target may have several parts" if several else "it ends in a dot and a target"
    judge.true(not missing, f"{told}: {first_of(missing)} is missing; {why}.")


@exercise(
    "6.2",
    "Which modules a target means",
    minutes=10,
    difficulty=1,
    check=check_select_modules,
    statement=r"""
    `target_modules` holds ends of dotted names. A module is meant if its whole name is a target, or
    ends in a dot and a target: `q_proj` means `layers.0.self_attn.q_proj`, and `up_proj` does not
    mean `layers.0.mlp.gate_up_proj`. This is PEFT's rule.

    Write `select_modules(names, targets)`: the list of names that are meant, each once, in the
    order of `names`.
    """,
    hints=(
        "Loop over the names, and ask of each whether any target fits. Then order and number "
        "come out right.",
        "name.endswith(target) is nearly the test. It also accepts gate_up_proj for up_proj.",
        'any(name == t or name.endswith("." + t) for t in targets)',
    ),
    wrong=(
        mistake("no dot", "ends in the same letters", change=('"." + t', "t")),
        mistake("anywhere", "does not end in it", change=('name.endswith("." + t)', "t in name")),
        mistake(
            "last part returned",
            "is none of the names",
            change=("[name for name in names", '[name.split(".")[-1] for name in names'),
        ),
        mistake("never whole", "'head' is missing", change=("name == t or ", "")),
        mistake(
            "last part only",
            "may have several parts",
            change=('name == t or name.endswith("." + t)', 'name.split(".")[-1] == t'),
        ),
        mistake(
            "by target",
            "not in the model's order",
            body="""
            fits = lambda name, t: name == t or name.endswith("." + t)
            found = [name for t in targets for name in names if fits(name, t)]
            return sorted(set(found), reverse=True)
            """,
        ),
        mistake(
            "twice",
            "is there twice",
            body="""
            fits = lambda name, t: name == t or name.endswith("." + t)
            return [name for name in names for t in targets if fits(name, t)]
            """,
        ),
    ),
)
def select_modules(names: list[str], targets: tuple[str, ...]) -> list[str]:
    """Names that equal a target or end in "." and a target, in order."""
    return [name for name in names if any(name == t or name.endswith("." + t) for t in targets)]


def check_rank_for_budget(fn: Callable, judge: Judge) -> None:
    tall = {"q": (13, 11), "v": (5, 11), "down": (11, 29)}
    wide = {"q": (17, 19), "v": (12, 7), "down": (31, 12)}
    cases = []
    for shapes, cap in ((tall, 5), (wide, 7)):
        each, size = (sum(f(a, b) for a, b in shapes.values()) for f in (int.__add__, int.__mul__))
        for budget, want in ((3 * each, 3), (4 * each - 1, 3), (each, 1), (99 * each, cap)):
            instead = {
                "no update can have a higher rank than the smallest side of its weight.": (
                    budget // each
                ),
                "a side that caps the rank can be in; you looked at out.": min(
                    budget // each, *(out for out, _ in shapes.values())
                ),
                "that is over the budget; round down.": min(-(-budget // each), cap),
                "out * in is the size of W; a rank costs out + in.": budget // size,
            }
            got = judge.call(fn, shapes=shapes, budget=budget)
            cases.append((f"the rank for {budget} numbers and {shapes}", got, want, instead))
    judge.numbers(cases)
    each = sum(map(sum, tall.values()))
    judge.true(
        judge.refuses(fn, tall, each - 1),
        f"for {each - 1} numbers and {tall} not even rank 1 fits, and your function returned as if "
        "nothing were wrong; raise ValueError.",
    )


@exercise(
    "6.3",
    "The rank a budget allows",
    minutes=10,
    difficulty=2,
    check=check_rank_for_budget,
    statement=r"""
    `shapes` maps the names of the chosen modules to their (out, in). Write
    `rank_for_budget(shapes, budget)`: the largest rank $r$, the same everywhere, with

    $$r \sum_{\text{modules}} (\text{out} + \text{in}) \le \text{budget}
    \qquad\text{and}\qquad r \le \min(\text{out}, \text{in}) \text{ of every module.}$$

    Raise `ValueError` where not even $r = 1$ fits.
    """,
    hints=(
        "Add up what one unit of rank costs over all modules. How often does that go into budget?",
        "budget // cost rounds down. Then cap it with the smallest side of all the shapes.",
        "r = min(budget // cost, min(min(shape) for shape in shapes.values())); raise for r < 1.",
    ),
    wrong=(
        mistake("rounds up", "over the budget", change=("budget // cost", "-(-budget // cost)")),
        mistake(
            "no cap",
            "smallest side",
            change=("min(budget // cost, min(map(min, shapes.values())))", "budget // cost"),
        ),
        mistake(
            "out alone",
            "you looked at out",
            change=("min(map(min, shapes.values()))", "min(out for out, _ in shapes.values())"),
        ),
        mistake("rank 0", "not even rank 1", change=("if r < 1:", "if r < 0:")),
        mistake(
            "size of W",
            "a rank costs out + in",
            body="return budget // sum(a * b for a, b in shapes.values())",
        ),
    ),
)
def rank_for_budget(shapes: dict[str, tuple[int, int]], budget: int) -> int:
    """The largest common rank within the budget; ValueError where none fits."""
    cost = sum(out + in_ for out, in_ in shapes.values())
    r = min(budget // cost, min(map(min, shapes.values())))
    if r < 1:
        raise ValueError(f"got budget {budget}, expected at least {cost} for rank 1")
    return r
