"""Exercise 6.2: which modules a target means."""

from __future__ import annotations

from collections.abc import Callable

from minilora.course.comparing import first_of
from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def _names(first: int) -> list[str]:
    """Names of a model's modules; `first` is a block's number, of one digit."""
    return [
        f"model.layers.{first}.self_attn.q_proj",
        f"model.layers.{first}.cross_attn.q_proj",
        f"model.layers.{first}.mlp.up_proj",
        f"model.layers.{first}.mlp.gate_up_proj",
        f"model.layers.{first + 1}.self_attn.q_proj",
        f"model.layers.{first + 1}.mlp.up_proj_norm",
        f"model.layers.1{first + 1}.mlp.up_proj",
        "head",
        f"model.layers.{first + 2}.mlp_up_proj",
    ]


def check_select_modules(fn: Callable, judge: Judge) -> None:
    first = int(judge.rng.integers(7))
    names = _names(first)
    cases = (
        (("up_proj",), (2, 6), "a suffix"),
        (("self_attn.q_proj",), (0, 4), "a suffix of two parts"),
        (("up_proj", "mlp.up_proj", "q_proj"), (0, 1, 2, 4, 6), "targets that overlap"),
        (("q_proj", "head"), (0, 1, 4, 7), "two suffixes, one a whole name"),
        ((f"{first + 1}.mlp.up_proj",), (), "a part of a part"),
    )
    for targets, places, what in cases:
        out = list(judge.call(fn, names=list(names), targets=targets))
        want = [names[i] for i in places]
        told = f"{what}, {targets}"
        strange = [name for name in out if name not in names]
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
    importance=3,
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
