"""Claims: a sentence with a number, and the measurement that it rests on.

In a notebook every verdict is also sent out as data, from which the builder writes it beside the
sentence in the text, and `notebooks/CLAIMS.md` is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from minilora.course.kernel import live_shell
from minilora.course.questions import QUESTIONS

VERDICT_TYPE = "application/vnd.minilora.verdict+json"
HOLDS, REFUTED, ELSEWHERE = "holds", "refuted", "not here"


@dataclass(frozen=True)
class Verdict:
    """What a measurement says of a sentence: `holds` or `refuted`, and the numbers behind it."""

    sentence: str
    word: str
    measured: str
    wanted: str
    because: str
    answers: tuple[str, ...]

    def line(self) -> str:
        """One line of Markdown, as it stands beside the sentence."""
        mark = "✓" if self.word == HOLDS else "✗"
        reason = f" {self.because}" if self.because else ""
        return f"{mark} **{self.word}**: measured {self.measured}; asserted {self.wanted}.{reason}"


class ClaimError(AssertionError):
    """A sentence of the course that the measurement does not bear out."""


def claim(
    sentence: str,
    measured: float | Sequence[float],
    *,
    above: float | None = None,
    below: float | None = None,
    each: str = "seeds",
    answers: str | Sequence[str] = (),
    of_time: bool = False,
) -> None:
    """Assert that the mean of `measured` lies above and below these bounds, and print a line.

    sentence: as it stands in the text, `> **Claim.** sentence`. measured: one number, or one a
    seed (or channel, or layer: `each` names them); then the mean is asserted and the range is
    shown. The bounds leave a margin to what was measured, because digits differ from machine to
    machine. answers: the numbers of the course's questions (see `questions`) that this answers.
    of_time: that it compares times, which another machine may order otherwise: there a sentence
    that does not hold is said to be so, and the chapter goes on; the builder refuses it.
    Raises ClaimError, quoting the sentence, where it does not hold or nothing was measured.
    """
    _judge(sentence, measured, above, below, each, HOLDS, "", answers, of_time)


def refuted(
    sentence: str,
    measured: float | Sequence[float],
    *,
    because: str,
    above: float | None = None,
    below: float | None = None,
    each: str = "seeds",
    answers: str | Sequence[str] = (),
    of_time: bool = False,
) -> None:
    """Assert what was measured against a sentence that did not hold, and say why it did not.

    above, below: bounds that the measurement keeps and the sentence denies. A claim that fails
    stays in the course like this; it is not tuned until it agrees. Raises as `claim` does.
    """
    _judge(sentence, measured, above, below, each, REFUTED, because, answers, of_time)


def _judge(
    sentence: str,
    measured: float | Sequence[float],
    above: float | None,
    below: float | None,
    each: str,
    word: str,
    because: str,
    answers: str | Sequence[str],
    of_time: bool,
) -> None:
    answers = (answers,) if isinstance(answers, str) else tuple(answers)
    unknown = [name for name in answers if name not in QUESTIONS]
    if unknown:
        raise ValueError(f"got the question {unknown[0]!r}, expected one of {', '.join(QUESTIONS)}")
    values = np.asarray(measured, dtype=np.float64).reshape(-1)
    bounds = [b for b in (above, below) if b is not None]
    if not bounds or not np.isfinite(bounds).all():
        raise ValueError(f"got bounds {bounds} for {sentence!r}, expected finite above or below")
    if values.size == 0 or not np.isfinite(values).all():
        raise ClaimError(f"nothing finite was measured for this sentence: {sentence}")
    mean = float(values.mean())
    found = _shown(mean)
    if values.size > 1:
        low, high = values.min(), values.max()
        found += f" on average ({_shown(low)} to {_shown(high)}, {values.size} {each})"
    wanted = " and ".join(
        f"{side} {_shown(bound)}"
        for side, bound in (("above", above), ("below", below))
        if bound is not None
    )
    held = (above is None or mean > above) and (below is None or mean < below)
    if not held and of_time:
        word = ELSEWHERE
        because = "Times differ between machines; on ours it was otherwise."
    elif not held:
        raise ClaimError(
            f"this sentence is not what was measured: {sentence!r} "
            f"({word} asks for {wanted}, measured {found})"
        )
    _send(Verdict(sentence, word, found, wanted, because, answers))
    lines = [sentence, f"measured {found}; asserted {wanted}", because]
    for i, text in enumerate(filter(None, lines)):
        lead = f"{word:<9}" if i == 0 else " " * 9
        wrapped = textwrap.wrap(text, 84)
        print("\n".join((lead if j == 0 else " " * 9) + part for j, part in enumerate(wrapped)))


def _shown(number: float) -> str:
    """Three significant digits, and whole numbers from a thousand on."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _send(verdict: Verdict) -> None:
    """Hand a verdict to the notebook that the cell runs in; nothing elsewhere."""
    if live_shell() is not None:
        from IPython.display import publish_display_data

        publish_display_data({VERDICT_TYPE: asdict(verdict)})
