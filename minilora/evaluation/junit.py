"""A gate's verdict as JUnit XML, for continuous integration: a test case for each metric."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from minilora.evaluation.gate import Gate, Measure, Row, Verdict

SHOWN_ROWS = 20


def junit(gate: Gate, name: str) -> bytes:
    """The XML document. A metric that fails is a failure, one that can't tell an error.

    A metric that only informs passes, whatever it shows. name: of the suite, such as the adapter's.
    """
    deciding = [m.verdict for m in gate.measures if m.threshold.gating]
    suite = ET.Element(
        "testsuite",
        name=f"minilora gate: {name}",
        tests=str(len(gate.measures)),
        failures=str(deciding.count(Verdict.FAIL)),
        errors=str(deciding.count(Verdict.CANT_TELL)),
        skipped="0",
    )
    lost = gate.lost
    for measure in gate.measures:
        case = ET.SubElement(suite, "testcase", classname="minilora.gate", name=measure.name)
        text = in_words(measure)
        kind = {Verdict.FAIL: "failure", Verdict.CANT_TELL: "error"}.get(measure.verdict)
        if kind and measure.threshold.gating:
            element = ET.SubElement(case, kind, message=text, type=measure.verdict.word)
            element.text = _printable("\n".join([text, *_rows(lost, measure)]))
        else:
            ET.SubElement(case, "system-out").text = text
    ET.indent(suite)
    return ET.tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n"


def in_words(measure: Measure) -> str:
    """A measure on one line."""
    low, high = measure.interval
    threshold = measure.threshold
    bound = f"may lose {threshold.drop:.1%}"
    if threshold.least is not None:
        bound += f", at least {threshold.least:.1%}"
    return (
        f"{measure.name}: {measure.before:.1%} before, {measure.after:.1%} after, change "
        f"{measure.counts.change:+.1%} [{low:+.1%}, {high:+.1%}] on {measure.rows} rows "
        f"({measure.counts.lost:g} lost, {measure.counts.gained:g} gained); {bound}: "
        f"{measure.verdict.word}"
    )


def _rows(lost: Sequence[Row], measure: Measure) -> list[str]:
    """Some of the rows of the measure's file that went from right to wrong."""
    file, _, group = measure.name.partition(": ")
    mine = [row for row in lost if row.sheet == file]
    if any(row.case.task.split("/")[0] == group for row in mine):
        mine = [row for row in mine if row.case.task.split("/")[0] == group]
    more = [f"and {len(mine) - SHOWN_ROWS} more"] if len(mine) > SHOWN_ROWS else []
    return [
        f"right to wrong: {row.case.source} {row.case.task}" for row in mine[:SHOWN_ROWS]
    ] + more


def _printable(text: str) -> str:
    """Without the control characters that XML has no place for."""
    return "".join(c for c in text if c in "\n\t" or ord(c) >= 32)
