"""What the commands say of a gate: its table, what went wrong, and the verdict."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from minilora.cli import show
from minilora.evaluation.gate import Gate, Measure, Verdict

SHOWN_ROWS = 5
SHOWN_TEXT = 60
WORDS = {
    Verdict.PASS: "PASS: the rows show that no metric lost more than it may.",
    Verdict.FAIL: "FAIL: the rows show that more was lost than may be.",
    Verdict.CANT_TELL: "CAN'T TELL: too few rows to say whether more was lost than may be.",
}


def show_gate(console: Console, gate: Gate, before: str = "base", after: str = "adapted") -> None:
    """A table for each file, the rows that went from right to wrong, and the verdict."""
    headings = ("", "rows", before, after, "change", "sees", "may lose", "verdict")
    for sheet in gate.sheets:
        mine = [m for m in gate.measures if m.name.startswith(f"{sheet.name}: ")]
        rows = [(measure.name.removeprefix(f"{sheet.name}: "), *cells(measure)) for measure in mine]
        show.grid(console, sheet.name, headings, rows, right=range(1, 7))
    show_rows(console, gate, before, after)
    show.say(
        console,
        f"Change in points, with its {gate.rules.confidence:.0%} interval. Sees: the smallest drop "
        f"that so many rows show in {gate.rules.power:.0%} of all tries. In brackets: patients.",
    )
    show.say(console, verdict_line(gate))


def cells(measure: Measure) -> tuple[str, ...]:
    """A row of the table, but for its name."""
    low, high = (100 * end for end in measure.interval)
    rows = f"{measure.rows}"
    if measure.patients < measure.rows:
        rows += f" ({measure.patients})"
    least = measure.threshold.least
    bound = f"{measure.threshold.drop:.0%}" + ("" if least is None else f", ≥ {least:.0%}")
    words = [measure.verdict.word]
    if measure.verdict is Verdict.FAIL:
        words.append(f"p {measure.p_fail:.1g}")
    if measure.rows_needed is not None:
        words.append(f"{measure.rows_needed} rows would")
    verdict = ", ".join(words)
    return (
        rows,
        f"{measure.before:.1%}",
        f"{measure.after:.1%}",
        f"{100 * measure.counts.change:+.0f} [{low:+.0f}, {high:+.0f}]",
        "-" if measure.could_see is None else f"{measure.could_see:.0%}",
        bound,
        verdict if measure.threshold.gating else f"({verdict})",
    )


def show_rows(console: Console, gate: Gate, before: str, after: str) -> None:
    """Some rows that went from right to wrong, the lines that both get wrong, hopeless tasks."""
    lost, always = gate.lost, gate.always_wrong
    if lost:
        title = f"From right to wrong: {min(SHOWN_ROWS, len(lost))} of {len(lost)}"
        table = [
            (Path(row.case.source).name, row.case.task, _short(row.before), _short(row.after))
            for row in lost[:SHOWN_ROWS]
        ]
        show.grid(console, title, ("row", "task", before, after), table)
    if always:
        names = ", ".join(Path(row.case.source).name for row in always[:SHOWN_ROWS])
        more = f" and {len(always) - SHOWN_ROWS} more" if len(always) > SHOWN_ROWS else ""
        show.say(console, f"Wrong in both: {len(always)} rows ({names}{more}).")
    for task, count in gate.hopeless.items():
        show.say(console, f"Always wrong now: {task}, 0 of {count}.")


def verdict_line(gate: Gate) -> str:
    """The verdict in a sentence, with the metrics that decided it."""
    line = WORDS[gate.verdict]
    if gate.verdict is not Verdict.PASS:
        names = [m.name for m in gate.measures if m.threshold.gating and m.verdict is gate.verdict]
        line = f"{line[:-1]} ({'; '.join(names)})."
    return line


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"
