"""`python -m minilora.course.build [N ...] [--check | --texts | --sliders | --claims]`: notebooks.

Without an option each chapter is executed and its notebook written with outputs. With --check
nothing is written: the committed notebook must have the source's cells, have run from top to
bottom, hold figures and nothing of the machine it was built on, and the chapter must run again.
Output digits are never compared, because they differ between BLAS kernels. With --texts
nothing is executed either: texts are renewed, and refused where code has changed. With --sliders
chapters are executed and only what their sliders show is kept. With --claims only
notebooks/CLAIMS.md is made, from the notebooks as they are.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from minilora.course.claims import ELSEWHERE
from minilora.course.claims_table import TABLE, claims_table
from minilora.course.execute import (
    Notebook,
    execute,
    figures,
    make_notebook,
    output_faults,
    put_verdicts,
)
from minilora.course.frames import code_digests, frames_path, read_frames, write_frames
from minilora.course.source import (
    Chapter,
    ChapterError,
    find_chapter,
    find_chapters,
    measured_claims,
    written_claims,
)
from minilora.storage import atomic_write

BYTES = 1_000_000
"""Larger notebooks are not shown by code hosts."""


def build(chapter: Chapter) -> Notebook:
    """Execute a chapter, write its notebook and what its sliders show. ChapterError: neither."""
    require(chapter, source_faults(chapter))
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(make_notebook(chapter), chapter.path.name, Path(folder))
        require(chapter, notebook_faults(chapter, notebook))
        require(chapter, time_faults(notebook))
        atomic_write(chapter.notebook, notebook_bytes(notebook))
        keep_frames(chapter, Path(folder))
    return notebook


def draw_sliders(chapter: Chapter) -> Notebook:
    """Execute a chapter for what its sliders show; its notebook stays. Returns the new run."""
    require(chapter, source_faults(chapter))
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(make_notebook(chapter), chapter.path.name, Path(folder))
        keep_frames(chapter, Path(folder))
    return notebook


def keep_frames(chapter: Chapter, folder: Path) -> None:
    """Commit the frames of a run, one file a slider cell, and remove those of cells that left.

    Raises ChapterError where the run has not called `slider` once in each slider cell.
    """
    drawn = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    codes = code_digests(chapter)
    if len(drawn) != len(codes):
        raise ChapterError(
            f"{chapter.path.name}: got {len(drawn)} calls of slider in {len(codes)} slider cells, "
            "expected one in each"
        )
    for number, (path, code) in enumerate(zip(drawn, codes, strict=True), 1):
        write_frames(frames_path(chapter, number), read_frames(path)[0], code)
    kept = {frames_path(chapter, number) for number in range(1, len(codes) + 1)}
    for path in frames_path(chapter, 1).parent.glob(f"{chapter.name}-*.json"):
        if path not in kept:
            path.unlink()


def check(chapter: Chapter) -> Notebook:
    """Check a committed notebook and execute its chapter again; returns the new run."""
    require(chapter, source_faults(chapter))
    require(chapter, committed_faults(chapter))
    notebook = execute(make_notebook(chapter), chapter.path.name)
    require(chapter, notebook_faults(chapter, notebook))
    return notebook


def renew_texts(chapter: Chapter) -> Notebook:
    """Write the source's texts into the committed notebook, whose code and outputs stay.

    Raises ChapterError and writes nothing where a cell of code is another.
    """
    require(chapter, source_faults(chapter))
    committed = json.loads(chapter.notebook.read_text(encoding="utf-8"))
    wanted = make_notebook(chapter)
    ran, written = (
        [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for notebook in (committed, wanted)
    )
    if [cell["source"] for cell in ran] != [cell["source"] for cell in written]:
        raise ChapterError(f"{chapter.path.name}: its code has changed; build it without --texts")
    for cell, before in zip(written, ran, strict=True):
        cell |= {key: before[key] for key in ("execution_count", "outputs")}
    wanted["metadata"] = committed["metadata"]
    put_verdicts(wanted["cells"], wanted["metadata"]["minilora"]["verdicts"])
    require(chapter, notebook_faults(chapter, wanted))
    atomic_write(chapter.notebook, notebook_bytes(wanted))
    return wanted


def require(chapter: Chapter, faults: Iterator[str]) -> None:
    """Raise ChapterError with all faults, if there are any."""
    found = list(faults)
    if found:
        raise ChapterError("\n".join(f"{chapter.path.name}: {fault}" for fault in found))


def notebook_bytes(notebook: Notebook) -> bytes:
    """The notebook as it is committed."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def source_faults(chapter: Chapter) -> Iterator[str]:
    """What a chapter's source lacks: a numbered title, claims that are measured, exercises."""
    if not chapter.title.startswith(f"{chapter.number}. "):
        yield f"got the title {chapter.title!r}, expected it to begin '{chapter.number}. '"
    written, measured = written_claims(chapter.cells), measured_claims(chapter.cells)
    if not written:
        yield "got no '> **Claim.** …' line in the text, expected one or more"
    for sentence in set(written) - set(measured):
        yield f"the text claims, and the claims cell does not measure: {sentence}"
    for sentence in set(measured) - set(written):
        yield f"the claims cell measures, and the text does not claim: {sentence}"
    for sentence in written:
        if not re.search(r"\d", sentence):
            yield f"a claim without a number: {sentence}"
    if not chapter.hours:
        yield "got no '**Time.** about N hours', expected it in the opening text"
    if not 3 <= len(chapter.exercises) <= 6:
        yield f"got {len(chapter.exercises)} exercises, expected 3 to 6"
    code = [cell.role for cell in chapter.cells if cell.kind == "code"]
    if code.count("claims") != 1 or code[-1] != "claims":
        yield "expected one '# %% claims' cell, and no code after it"


def time_faults(notebook: Notebook) -> Iterator[str]:
    """Claims about time that this run did not bear out: not to be committed."""
    for verdict in notebook["metadata"]["minilora"]["verdicts"]:
        if verdict["word"] == ELSEWHERE:
            yield f"a claim about time that is not so here: {verdict['sentence']}"


def notebook_faults(chapter: Chapter, notebook: Notebook) -> Iterator[str]:
    """What is wrong with a notebook that has run."""
    yield from output_faults(notebook)
    counts = [c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code"]
    if counts != list(range(1, len(counts) + 1)):
        yield "the cells were not run once each from top to bottom"
    if figures(notebook) == 0:
        yield "got no figure, expected one or more"
    sentences = [v["sentence"] for v in notebook["metadata"]["minilora"]["verdicts"]]
    if sorted(sentences) != sorted(measured_claims(chapter.cells)):
        yield f"got verdicts on {len(sentences)} claims, expected one on each claim of the text"
    size = len(notebook_bytes(notebook))
    if size > BYTES:
        yield f"the notebook has {size:,} bytes, expected at most {BYTES:,}"


def committed_faults(chapter: Chapter) -> Iterator[str]:
    """Where the committed notebook and the source differ, and what is wrong with it."""
    path = chapter.notebook
    again = f"python -m minilora.course.build {chapter.number}"
    if not path.is_file():
        yield f"{path.name} is missing; {again}"
        return
    committed = json.loads(path.read_text(encoding="utf-8"))
    wanted = make_notebook(chapter)
    wanted["metadata"]["minilora"] = committed["metadata"].get("minilora", {"verdicts": []})
    put_verdicts(wanted["cells"], wanted["metadata"]["minilora"]["verdicts"])
    keys = ("id", "cell_type", "metadata", "source")
    found_cells = [{key: cell[key] for key in keys} for cell in committed["cells"]]
    wanted_cells = [{key: cell[key] for key in keys} for cell in wanted["cells"]]
    if found_cells != wanted_cells or committed["metadata"] != wanted["metadata"]:
        odd = [c for c in found_cells if c not in wanted_cells]
        odd += [c for c in wanted_cells if c not in found_cells]
        first = f", first at {odd[0]['source'][:60]!r}" if odd else ""
        yield f"{path.name} is not made from this source{first}; {again}"
    yield from notebook_faults(chapter, committed)
    for number, code in enumerate(code_digests(chapter), 1):
        path = frames_path(chapter, number)
        if not path.is_file() or read_frames(path)[1] != code:
            yield f"{path.name} is missing or drawn by other code; {again} --sliders"


def main(argv: Sequence[str] | None = None) -> int:
    """Build or check chapters; 1 where one fails."""
    parser = argparse.ArgumentParser(prog="python -m minilora.course.build", description=__doc__)
    parser.add_argument("chapters", nargs="*", type=int, metavar="N", help="all by default")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--texts", action="store_true", help="renew texts, execute nothing")
    parser.add_argument("--sliders", action="store_true", help="write only what sliders show")
    parser.add_argument("--claims", action="store_true", help="only write notebooks/CLAIMS.md")
    options = parser.parse_args(argv)
    failed = False
    if options.claims:
        atomic_write(TABLE, claims_table(find_chapters()).encode())
        print(f"wrote {TABLE.name}")
        return 0
    try:
        chapters = [find_chapter(n) for n in options.chapters] or find_chapters()
    except ChapterError as error:
        print(error, file=sys.stderr)
        return 1
    act, word = build, "built"
    if options.check:
        act, word = check, "checked"
    elif options.texts:
        act, word = renew_texts, "renewed the texts of"
    elif options.sliders:
        act, word = draw_sliders, "drew the sliders of"
        chapters = [chapter for chapter in chapters if code_digests(chapter)]
    for chapter in chapters:
        began = time.perf_counter()
        try:
            notebook = act(chapter)
        except ChapterError as error:
            failed = True
            print(error, file=sys.stderr)
            continue
        seconds = time.perf_counter() - began
        size = len(notebook_bytes(notebook)) // 1000
        print(f"{word} {chapter.notebook.name}: {figures(notebook)} figures, {size} kB, ", end="")
        print(f"{seconds:.0f} s")
    if not options.check and not failed:
        atomic_write(TABLE, claims_table(find_chapters()).encode())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
