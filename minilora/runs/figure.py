"""figure_in: a matplotlib figure that becomes a PNG file, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from minilora.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def figure_in(path: Path, width: float, height: float, dpi: float = 100) -> Iterator[Figure]:
    """A figure of these inches to draw on; written to `path` at the end, unless drawing fails.

    Without pyplot, whose state all of a process shares. Raises OSError where it can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, used once
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    yield figure
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    atomic_write(path, buffer.getvalue())
