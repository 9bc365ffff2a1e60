"""What a slider shows at each of its places, drawn ahead for pages on which nothing computes."""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from minilora.course.source import Chapter
from minilora.storage import atomic_write

FRAMES_VARIABLE = "MINILORA_SLIDER_FRAMES"  # a folder, where a chapter's sliders are to be drawn
MOST = 100
"""Places of one chapter's slider: each is a picture that a reader's phone fetches."""
COLOURS = 64
"""Of a picture of curves; more can't be told apart, and twice as many bytes hold them."""
SUFFIX = {"image/png": "png", "image/jpeg": "jpg"}


@dataclass(frozen=True)
class Frames:
    """A slider or several, and a picture for each combination of their places.

    names: of the sliders. labels: of the places, for each slider. start: the index at which each
    begins. kind: MIME type of the pictures, which come in the order of `itertools.product`.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    start: tuple[int, ...]
    kind: str
    pictures: tuple[bytes, ...]


def places(choice: Any) -> list[Any]:
    """The values that a slider goes through: of (low, high), (low, high, step), or the list."""
    if not isinstance(choice, tuple):
        return list(choice)
    low, high, *rest = choice
    step = rest[0] if rest else (1 if isinstance(low, int) and isinstance(high, int) else 0.1)
    return [low + step * i for i in range(int((high - low) / step + 1e-9) + 1)]


def label(value: Any) -> str:
    """A place in words: four digits of a float."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw_frames(draw: Callable[..., Any], ranges: Mapping[str, Any]) -> Frames:
    """Call `draw` at every combination of places and keep the figure that it shows.

    Raises ValueError for more than MOST combinations, or where a call does not show one figure.
    """
    values = [places(choice) for choice in ranges.values()]
    count = 1
    for some in values:
        count *= len(some)
    if count > MOST:
        raise ValueError(
            f"got sliders {list(ranges)} with {count} combinations, expected {MOST} or fewer"
        )
    arrays = []
    for combination in itertools.product(*values):
        arrays.append(_picture(draw, dict(zip(ranges, combination, strict=True))))
    kind = min(SUFFIX, key=lambda kind: len(_encoded(arrays[0], kind)))
    defaults = inspect.signature(draw).parameters
    start = (_start(defaults, name, some) for name, some in zip(ranges, values, strict=True))
    return Frames(
        tuple(ranges),
        tuple(tuple(label(value) for value in some) for some in values),
        tuple(start),
        kind,
        tuple(_encoded(array, kind) for array in arrays),
    )


def _start(defaults: Mapping[str, inspect.Parameter], name: str, values: Sequence[Any]) -> int:
    default = defaults[name].default if name in defaults else None
    return values.index(default) if default in values else 0


def _picture(draw: Callable[..., Any], values: dict[str, Any]) -> Any:
    """The pixels (height, width, 3) of the one figure that `draw` shows."""
    import numpy as np
    from matplotlib import pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    before, shown = set(plt.get_fignums()), []

    def show(*_: Any, **__: Any) -> None:
        for number in sorted(set(plt.get_fignums()) - before):
            canvas = FigureCanvasAgg(plt.figure(number))
            canvas.draw()
            shown.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
            plt.close(number)

    with mock.patch.object(plt, "show", show):
        draw(**values)
        show()  # what was drawn and not shown, as a notebook does at the end of a cell
    if len(shown) != 1:
        raise ValueError(f"got {len(shown)} figures from {draw.__name__}({values}), expected one")
    return shown[0]


def _encoded(pixels: Any, kind: str) -> bytes:
    from PIL import Image

    image, file = Image.fromarray(pixels), io.BytesIO()
    if kind == "image/png":
        image.quantize(COLOURS).save(file, "PNG", optimize=True)
    else:
        image.save(file, "JPEG", quality=82, optimize=True)
    return file.getvalue()


def write_frames(path: Path, frames: Frames, code: str) -> None:
    """Write frames as JSON; code: the digest of the cells that made them (`code_digest`)."""
    content = {
        "code": code,
        "names": frames.names,
        "labels": frames.labels,
        "start": frames.start,
        "kind": frames.kind,
        "pictures": [base64.b64encode(picture).decode() for picture in frames.pictures],
    }
    atomic_write(path, (json.dumps(content, ensure_ascii=False, indent=0) + "\n").encode())


def read_frames(path: Path) -> tuple[Frames, str]:
    """Frames and the digest of the code that drew them, as `write_frames` wrote both."""
    content = json.loads(path.read_text(encoding="utf-8"))
    frames = Frames(
        tuple(content["names"]),
        tuple(map(tuple, content["labels"])),
        tuple(content["start"]),
        content["kind"],
        tuple(map(base64.b64decode, content["pictures"])),
    )
    return frames, content["code"]


def frames_path(chapter: Chapter, number: int) -> Path:
    """Where the frames of a chapter's slider cell, counted from 1, are committed."""
    return chapter.notebook.parent / "sliders" / f"{chapter.name}-{number}.json"


def code_digests(chapter: Chapter) -> list[str]:
    """For each slider cell a digest of its code and of all that a chapter computes before it.

    Exercises and their checks are left out: what follows has our version of an unwritten answer.
    """
    found, digest = [], hashlib.sha256()
    for cell in chapter.cells:
        if cell.kind == "code" and cell.role in ("", "slider"):
            digest.update(f"{cell.source}\n".encode())
            if cell.role == "slider":
                found.append(digest.hexdigest()[:16])
    return found
