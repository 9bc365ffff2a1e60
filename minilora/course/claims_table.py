"""The table of claims: every sentence of the course that was measured, and how it came out.

Made from the verdicts that the committed notebooks hold; `python -m minilora.course.build --claims`
writes it to `notebooks/CLAIMS.md`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from minilora.course.claims import HOLDS, REFUTED, Verdict
from minilora.course.questions import QUESTIONS
from minilora.course.source import NOTEBOOKS, Chapter

TABLE = NOTEBOOKS / "CLAIMS.md"


def verdicts_of(chapter: Chapter) -> list[Verdict]:
    """The verdicts of a chapter's committed notebook, in the order in which they were measured."""
    notebook = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    found = notebook["metadata"].get("minilora", {"verdicts": []})["verdicts"]
    return [Verdict(**{**verdict, "answers": tuple(verdict["answers"])}) for verdict in found]


def claims_table(chapters: Sequence[Chapter]) -> str:
    """The page in Markdown: the claims by chapter, then the questions and who answers them."""
    by_chapter = {chapter: verdicts_of(chapter) for chapter in chapters}
    every = [verdict for verdicts in by_chapter.values() for verdict in verdicts]
    held = sum(verdict.word == HOLDS for verdict in every)
    lines = [
        "# Every claim of the course, as it was measured",
        "",
        f"{len(every)} claims in {len(chapters)} chapters: {held} hold, "
        f"{sum(v.word == REFUTED for v in every)} are refuted and stay.",
        "Made by `python -m minilora.course.build --claims` from the notebooks' last runs. A range "
        "in brackets is over seeds, or over what is named.",
    ]
    for chapter, verdicts in by_chapter.items():
        lines += ["", f"## {chapter.title}", "", "| | claim | measured | asserted | answers |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        lines += [_row(verdict) for verdict in verdicts]
    lines += [
        "",
        "## The questions",
        "",
        "| | question | from | chapters |",
        "| --- | --- | --- | --- |",
    ]
    for name, (question, source) in QUESTIONS.items():
        found = sorted(
            chapter.number
            for chapter, verdicts in by_chapter.items()
            if any(name in verdict.answers for verdict in verdicts)
        )
        where = ", ".join(map(str, found)) or "open"
        lines.append(f"| {name} | {question} | {source} | {where} |")
    return "\n".join(lines) + "\n"


def _row(verdict: Verdict) -> str:
    sentence = verdict.sentence + (f" *{verdict.because}*" if verdict.because else "")
    cells = (verdict.word, sentence, verdict.measured, verdict.wanted, ", ".join(verdict.answers))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table_faults(chapters: Sequence[Chapter], path: Path = TABLE) -> list[str]:
    """Where the committed page is not what the notebooks say: one sentence, or nothing."""
    if path.is_file() and path.read_text(encoding="utf-8") == claims_table(chapters):
        return []
    return [f"{path.name} is not what the notebooks say; python -m minilora.course.build --claims"]
