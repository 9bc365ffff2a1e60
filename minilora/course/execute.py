"""Notebooks as JSON: made from a chapter's cells, executed, cleaned, and looked at.

Needs nbclient and ipykernel to execute; nothing to make or to look at one.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minilora import THREAD_VARIABLES
from minilora.course.claims import VERDICT_TYPE, Verdict
from minilora.course.frames import FRAMES_VARIABLE
from minilora.course.notebook import PLAIN_VARIABLE
from minilora.course.progress import FOLDER_VARIABLE
from minilora.course.source import ROOT, Cell, Chapter, ChapterError, cell_id, with_verdicts

Notebook = dict[str, Any]
CELL_SECONDS = 300
"""When a cell is taken for an endless loop."""
DIGITS = re.compile(r"(?<![\w.])[-+]?(\d+\.\d+|\d+(?=e))(e[-+]?\d+)?(?![\w.]*\d)", re.IGNORECASE)
SECONDS = re.compile(r"\d\s*(ms|µs|us|ns|s|sec|seconds|minutes)\b")
PATHS = re.compile(r"(?<![\w.])/(home|Users|tmp|usr|root|var|opt|work|mnt)/|[A-Z]:\\\\")
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def make_notebook(chapter: Chapter, answers: Mapping[str, str] | None = None) -> Notebook:
    """The chapter as a notebook that has not run. answers: source by exercise, for its stub."""
    cells, seen = [], {}
    for cell in chapter.cells:
        id = cell_id(chapter.number, cell)
        seen[id] = seen.get(id, 0) + 1
        id += f"-{seen[id]}" if seen[id] > 1 else ""
        text = cell.source
        if cell.role == "exercise" and answers:
            text = answers.get(cell.exercise, text)
        cells.append(_cell(id, cell, text))
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(id: str, cell: Cell, text: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"tags": [cell.role]} if cell.role else {}
    if cell.role == "exercise":
        metadata["exercise"] = cell.exercise
    made = {"cell_type": cell.kind, "id": id, "metadata": metadata, "source": text}
    if cell.kind == "code":
        made.update(execution_count=None, outputs=[])
    return made


def execute(notebook: Notebook, name: str, frames: Path | None = None) -> Notebook:
    """Run every cell in a fresh kernel of this Python, in an empty folder, and clean the result.

    name: of the chapter, for messages. frames: an empty folder for what its sliders show; without
    one they draw a single picture and keep none. Raises ChapterError where a cell raises or never
    ends, with its text and the exception's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    node = nbformat.from_dict(notebook)
    environment = {k: v for k, v in os.environ.items() if k not in (FOLDER_VARIABLE, "MPLBACKEND")}
    environment.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment.update({PLAIN_VARIABLE: "1", "PYTHONPATH": os.pathsep.join(paths)})
    environment.pop(FRAMES_VARIABLE, None)
    if frames is not None:
        environment[FRAMES_VARIABLE] = str(frames)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            node,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        try:
            # A kernel says on stderr that it talks over TCP, each time.
            client.execute(env=environment, stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            text = f"{error.ename}: {error.evalue}"
            raise ChapterError(f"{name}: {_which(node)} stopped with {text}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            problem = str(error).splitlines()[0]
            raise ChapterError(f"{name}: {_which(node)}: {problem}") from None
    return clean(node)


def _which(notebook: Notebook) -> str:
    """The cell that a run stopped in: the last that has a count or an output."""
    begun = [c for c in notebook["cells"] if c.get("execution_count") or c.get("outputs")]
    text = begun[-1]["source"].strip() if begun else ""
    return f"the cell that begins {text.splitlines()[0] if text else ''!r}"


def clean(node: Mapping[str, Any]) -> Notebook:
    """Plain JSON with only what depends on the chapter: no timing, widgets or slider output.

    Verdicts leave the outputs: they go to the notebook's metadata, and beside their sentences.
    """
    verdicts = [
        dict(output["data"][VERDICT_TYPE])
        for cell in node["cells"]
        for output in cell.get("outputs", ())
        if VERDICT_TYPE in output.get("data", {})
    ]
    cells = []
    for cell in node["cells"]:
        kept = {"cell_type": cell["cell_type"], "id": cell["id"]}
        names = ("tags", "exercise")
        kept["metadata"] = {k: cell["metadata"][k] for k in names if k in cell["metadata"]}
        kept["source"] = cell["source"]
        if cell["cell_type"] == "code":
            silent = "slider" in kept["metadata"].get("tags", ())
            kept["execution_count"] = cell["execution_count"]
            kept["outputs"] = (
                []
                if silent
                else [
                    _plain(output)
                    for output in cell["outputs"]
                    if VERDICT_TYPE not in output.get("data", {})
                ]
            )
        cells.append({key: kept[key] for key in sorted(kept)})
    notebook = {key: node[key] for key in ("nbformat", "nbformat_minor")}
    meta = {key: dict(node["metadata"][key]) for key in ("kernelspec", "language_info")}
    meta["language_info"] = {"name": "python"}
    meta["minilora"] = {"verdicts": verdicts}
    put_verdicts(cells, verdicts)
    return {"cells": cells, "metadata": meta, **notebook}


def put_verdicts(cells: Sequence[Notebook], verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Write how each claim came out below its sentence in the text cells, in place."""
    lines = {v["sentence"]: Verdict(**v).line() for v in verdicts}
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_verdicts(cell["source"], lines)


def _plain(output: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: output[key] for key in sorted(output)}
    if "data" in kept:
        kept["data"] = {key: kept["data"][key] for key in sorted(kept["data"])}
        kept["metadata"] = {}
    return kept


def figures(notebook: Notebook) -> int:
    """How many images the outputs hold."""
    return sum(
        any(kind.startswith("image/") for kind in output.get("data", ()))
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
    )


def output_texts(cell: Mapping[str, Any]) -> list[str]:
    """What a cell printed or shows as text."""
    texts = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        texts += [output.get("text"), data.get("text/plain"), data.get("text/html")]
    return [t if isinstance(t, str) else "".join(t) for t in texts if t]


def output_faults(notebook: Notebook) -> Iterator[str]:
    """What must not be committed: errors, warnings, machine paths, times, too many digits."""
    for cell in notebook["cells"]:
        first = (cell["source"].strip().splitlines() or [""])[0]
        for output in cell.get("outputs", ()):
            if output.get("output_type") == "error" or output.get("name") == "stderr":
                what = output.get("evalue") or output.get("text")
                yield f"the cell {first!r} complains: {what}"
        for text in output_texts(cell):
            for pattern, what in ((PATHS, "a path"), (ADDRESS, "an address"), (SECONDS, "a time")):
                if match := pattern.search(text):
                    yield f"the cell {first!r} prints {what} of this machine: {match[0]!r}"
            for match in DIGITS.finditer(text):
                if significant_digits(match[0]) > 3:
                    yield f"the cell {first!r} prints {match[0]}, more than 3 significant digits"


def significant_digits(number: str) -> int:
    """Digits of a decimal number from the first that is not 0: 0.0120 has 3."""
    mantissa = re.split("[eE]", number)[0]
    return len(mantissa.replace(".", "").lstrip("+-0"))
