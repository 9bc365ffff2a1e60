"""Exercise 10.5: old work mixed in with the new."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_mixed(fn: Callable, judge: Judge) -> None:
    for job_like, old_like, share in ((40, 90, 0.2), (60, 7, 0.25), (30, 50, 0.4)):
        jobs, olds = (judge.sizes(like)[0] for like in (job_like, old_like))
        jobs, olds = _telling(jobs, olds, share)
        job = [f"job {i}" for i in range(jobs)]
        old = [f"old {i}" for i in range(olds)]
        seed = int(judge.rng.integers(1000))
        got = judge.call(fn, job=job, old=old, share=share, rng=np.random.default_rng(seed))
        judge.true(
            isinstance(got, (list, tuple, np.ndarray)) and not isinstance(got, str),
            "return one list of examples.",
        )
        got = [str(x) for x in got]
        count = Counter(got)
        foreign = [x for x in count if x not in job and x not in old]
        judge.true(not foreign, "the list holds something that is in neither `job` nor `old`.")
        missing = [x for x in job if not count[x]]
        judge.true(
            not missing,
            f"{len(missing)} of {jobs} of the job's examples are missing; each is in it once.",
        )
        judge.true(
            all(count[x] == 1 for x in job), "an example of the job is in it twice; once is asked."
        )
        replayed = len(got) - jobs
        exact = jobs * share / (1 - share)
        want = round(exact)
        judge.true(
            replayed != round(jobs * share) or abs(replayed - want) <= 1,
            f"{replayed} old examples are {share:.0%} of the job's; asked is {share:.0%} of the "
            "whole list.",
        )
        judge.true(
            abs(replayed - exact) <= 0.5 + 1e-9,
            f"{replayed} of {len(got)} examples are old, {replayed / len(got):.1%}; asked is "
            f"{share:.0%}, which is {exact:.2f}, so {want}.",
        )
        times = [count[x] for x in old]
        judge.true(
            max(times) - min(times) <= 1,
            f"one old example is in it {max(times)} times and another {min(times)} times; none "
            "comes again before every other one was there.",
        )
        kinds = [x.startswith("old") for x in got]
        changes = sum(a != b for a, b in itertools.pairwise(kinds))
        judge.true(
            changes > 4,
            "the old examples stand together, so they are trained on all at once; shuffle.",
        )
        judge.true(
            [x for x in got if x.startswith("job")] != job,
            "the job's examples are still in the order in which they came; shuffle the whole list.",
        )
        again = judge.call(fn, job=job, old=old, share=share, rng=np.random.default_rng(seed))
        judge.true(
            [str(x) for x in again] == got,
            "the same rng gave another list: draw from the `rng` that you are given, and from "
            "nothing else.",
        )
        other = judge.call(fn, job=job, old=old, share=share, rng=np.random.default_rng(seed + 1))
        judge.true(
            [str(x) for x in other] != got,
            "another rng gave the same list; draw with it.",
        )
        if replayed < olds - 5:
            judge.true(
                {x for x in got if x.startswith("old")}
                != {str(x) for x in other if str(x).startswith("old")},
                "the same old examples were taken with two seeds; draw them as well.",
            )


def _telling(jobs: int, olds: int, share: float) -> tuple[int, int]:
    """Sizes like these where rounding up or down, or the same old one over and over, shows."""
    down = share != 0.2  # which way the right number of old examples is rounded
    while not 0.2 < (jobs * share / (1 - share)) % 1 - (0 if down else 0.5) < 0.48:
        jobs += 1
    count = round(jobs * share / (1 - share))
    while count > olds and not 1 < -count % olds < olds - 1:
        olds += 1
    return jobs, olds


@exercise(
    "10.5",
    "Old work among the new",
    minutes=12,
    difficulty=2,
    importance=2,
    check=check_mixed,
    statement=r"""
    Write `mixed(job, old, share, rng)`: one shuffled list with every example of the list `job`
    once, and so many of the list `old` that they are `share` of the **whole** list, rounded to a
    whole number. Which of `old` come is drawn with `rng`, a `numpy.random.Generator`. Where `old`
    is too short they come again, but none a second time before all have been there once.
    """,
    hints=(
        "With m old ones beside n of the job, m / (n + m) = share. Solve for m.",
        "m = round(n * share / (1 - share)). rng.permutation(len(old)) is all old places in a "
        "random order; put as many of these behind one another as m needs, and cut.",
        "rounds = [rng.permutation(len(old)) for _ in range(-(-m // len(old)))], and of "
        "np.concatenate(rounds) the first m. Join both lists, and take them in the order "
        "rng.permutation(n + m).",
    ),
    wrong=(
        mistake(
            "share of the job",
            "of the job's; asked",
            change=("len(job) * share / (1 - share)", "len(job) * share"),
        ),
        mistake(
            "with replacement",
            "comes again before",
            change=(
                "np.concatenate([rng.permutation(len(old)) for _ in range(rounds)])[:count]",
                "rng.integers(len(old), size=count)",
            ),
        ),
        mistake("rounded down", "which is", change=("round(len(job)", "int(len(job)")),
        mistake(
            "the job in order",
            "still in the order",
            change=(
                "[both[i] for i in rng.permutation(len(both))]",
                "[both[i] for i in np.argsort(np.r_[np.sort(rng.random(len(job))), "
                "rng.random(count)])]",
            ),
        ),
        mistake(
            "not shuffled",
            "stand together",
            change=("[both[i] for i in rng.permutation(len(both))]", "both"),
        ),
        mistake(
            "first ones",
            "taken with two seeds",
            change=("rng.permutation(len(old)) for _", "np.arange(len(old)) for _"),
        ),
        mistake(
            "own seed",
            "another rng gave the same list",
            change=("count = round", "rng = np.random.default_rng(0)\n    count = round"),
        ),
        mistake(
            "job cut",
            "are missing",
            change=("both = list(job) +", "both = list(job)[: len(job) - count] +"),
        ),
    ),
)
def mixed(job: list, old: list, share: float, rng: np.random.Generator) -> list:
    """All of `job` and so many of `old` that these are `share` of the list, shuffled."""
    count = round(len(job) * share / (1 - share))
    rounds = -(-count // len(old))
    chosen = np.concatenate([rng.permutation(len(old)) for _ in range(rounds)])[:count]
    both = list(job) + [old[i] for i in chosen]
    return [both[i] for i in rng.permutation(len(both))]
