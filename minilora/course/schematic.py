"""Schematics: boxes, grids of numbers and arrows, with a text for readers who can't see them.

A notebook shows a `Schematic` by itself: as SVG where the page may show it, and as PNG where it
may not, as in a notebook that somebody else has run. `picture.write(path)` saves the SVG. Lengths
are in pixels; the picture scales with the page. Colours are the course's: grey is frozen, orange
is trained, blue is data that flows through.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minilora.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FROZEN, TRAINED, DATA, PLAIN = "#d5d9e0", "#f6b26b", "#a9cdf0", "#ffffff"
INK, LINE, PAPER = "#1f2430", "#5b6472", "#ffffff"
FONT = "font-family='Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, and the middles of its sides, where arrows begin and end."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        """The middle of the left side."""
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        """The middle of the right side."""
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        """The middle of the upper side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> tuple[float, float]:
        """The middle of the lower side."""
        return self.x + self.width / 2, self.y + self.height


@dataclass(frozen=True)
class _Rectangle:
    x: float
    y: float
    width: float
    height: float
    fill: str = "none"
    opacity: float = 1.0
    outlined: bool = True
    round: float = 0.0
    dashed: bool = False

    def svg(self) -> str:
        line = f" stroke='{LINE}' stroke-width='1.2'" if self.outlined else ""
        line += " stroke-dasharray='5 4'" if self.dashed else ""
        corners = f" rx='{self.round:g}'" if self.round else ""
        faint = f" fill-opacity='{self.opacity:.2f}'" if self.opacity < 1 else ""
        return (
            f"<rect x='{self.x:g}' y='{self.y:g}' width='{self.width:g}' height='{self.height:g}'"
            f"{corners} fill='{self.fill}'{faint}{line}/>"
        )

    def draw(self, axes: Axes) -> None:
        from matplotlib.colors import to_rgba
        from matplotlib.patches import FancyBboxPatch, Rectangle

        look = {
            "facecolor": "none" if self.fill == "none" else to_rgba(self.fill, self.opacity),
            "edgecolor": LINE if self.outlined else "none",
            "linewidth": 0.9,
            "linestyle": (0, (4, 3)) if self.dashed else "solid",
        }
        corner, size = (self.x, self.y), (self.width, self.height)
        if self.round:
            style = f"round,pad=0,rounding_size={self.round}"
            axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, **look))
        else:
            axes.add_patch(Rectangle(corner, *size, **look))


@dataclass(frozen=True)
class _Circle:
    x: float
    y: float
    radius: float
    fill: str

    def svg(self) -> str:
        return (
            f"<circle cx='{self.x:g}' cy='{self.y:g}' r='{self.radius:g}' fill='{self.fill}' "
            f"stroke='{LINE}' stroke-width='1.2'/>"
        )

    def draw(self, axes: Axes) -> None:
        from matplotlib.patches import Circle

        axes.add_patch(
            Circle(
                (self.x, self.y), self.radius, facecolor=self.fill, edgecolor=LINE, linewidth=0.9
            )
        )


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    size: float
    anchor: str
    bold: bool
    colour: str

    def svg(self) -> str:
        weight = " font-weight='bold'" if self.bold else ""
        return (
            f"<text x='{self.x:g}' y='{self.y:g}' font-size='{self.size:g}' "
            f"text-anchor='{self.anchor}' fill='{self.colour}'{weight}>{escape(self.text)}</text>"
        )

    def draw(self, axes: Axes) -> None:
        sides = {"start": "left", "middle": "center", "end": "right"}
        axes.text(
            self.x, self.y, self.text.replace("$", r"\$"), fontsize=0.68 * self.size,
            ha=sides[self.anchor], va="baseline", color=self.colour,
            fontweight="bold" if self.bold else "normal",
        )  # fmt: skip


@dataclass(frozen=True)
class _Arrow:
    points: tuple[tuple[float, float], ...]
    dashed: bool
    colour: str

    def svg(self) -> str:
        dashes = " stroke-dasharray='5 4'" if self.dashed else ""
        way = "M " + " L ".join(f"{x:g} {y:g}" for x, y in self.points)
        return (
            f"<path d='{way}' fill='none' stroke='{self.colour}' stroke-width='1.6'{dashes} "
            "marker-end='url(#head)'/>"
        )

    def draw(self, axes: Axes) -> None:
        style = (0, (4, 3)) if self.dashed else "solid"
        for (x, y), (u, v) in zip(self.points, self.points[1:-1], strict=False):
            axes.plot([x, u], [y, v], color=self.colour, linewidth=1.1, linestyle=style)
        look = {"arrowstyle": "-|>", "color": self.colour, "linewidth": 1.1, "linestyle": style}
        axes.annotate(
            "", self.points[-1], self.points[-2], arrowprops={**look, "shrinkA": 0, "shrinkB": 0}
        )


class Schematic:
    """A picture of `width` by `height` pixels; `alt` says in words what it shows.

    Raises ValueError for an alt text of fewer than 20 characters: it must say what is shown.
    """

    def __init__(self, width: float, height: float, alt: str) -> None:
        if len(alt) < 20:
            raise ValueError(f"got the alt text {alt!r}, expected what the picture shows, in words")
        self.width, self.height, self.alt = width, height, alt
        self._parts: list[_Rectangle | _Circle | _Text | _Arrow] = []

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "",
        fill: str = PLAIN, note: str = "", dashed: bool = False,
    ) -> Box:  # fmt: skip
        """A rectangle with lines of text in its middle, and a smaller note below the text."""
        self._parts.append(_Rectangle(x, y, width, height, fill, round=5, dashed=dashed))
        lines = [*text.split("\n")] if text else []
        middle, below = x + width / 2, len(lines) * 17 + (13 if note else 0)
        start = y + height / 2 - below / 2 + 13
        for i, line in enumerate(lines):
            self.text(middle, start + 17 * i, line, anchor="middle")
        if note:
            self.text(middle, start + 17 * len(lines) - 2, note, size=11, anchor="middle")
        return Box(x, y, width, height)

    def grid(
        self, x: float, y: float, rows: int, columns: int, cell: float = 9,
        fill: str = FROZEN, label: str = "", shape: str = "", values: np.ndarray | None = None,
    ) -> Box:  # fmt: skip
        """A matrix as a grid of cells, its name below it, and its shape below that.

        values (rows, columns) in [0, 1]: how strongly each cell is coloured; a fixed pattern
        without them.
        """
        if values is None:
            values = np.random.default_rng(rows * 131 + columns).random((rows, columns))
        for i in range(rows):
            for j in range(columns):
                strength = 0.35 + 0.65 * float(values[i, j])
                corner = x + j * cell, y + i * cell
                self._parts.append(
                    _Rectangle(*corner, cell - 1, cell - 1, fill, strength, outlined=False)
                )
        width, height = columns * cell, rows * cell
        self._parts.append(_Rectangle(x - 1, y - 1, width + 1, height + 1))
        if label:
            self.text(x + width / 2, y + height + 16, label, anchor="middle")
        if shape:
            self.text(x + width / 2, y + height + 30, shape, size=11, anchor="middle")
        return Box(x, y, width, height)

    def text(
        self, x: float, y: float, text: str, size: float = 13, anchor: str = "start",
        bold: bool = False, colour: str = INK,
    ) -> None:  # fmt: skip
        """A line of text; y is its base line. anchor: start, middle or end."""
        self._parts.append(_Text(x, y, text, size, anchor, bold, colour))

    def circle(self, x: float, y: float, text: str, radius: float = 13, fill: str = PLAIN) -> Box:
        """A circle with a sign in it, such as + or ×; (x, y) is its middle."""
        self._parts.append(_Circle(x, y, radius, fill))
        self.text(x, y + 5, text, size=15, anchor="middle")
        return Box(x - radius, y - radius, 2 * radius, 2 * radius)

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], label: str = "",
        dashed: bool = False, colour: str = LINE, bend: str = "",
    ) -> None:  # fmt: skip
        """An arrow from start to end: straight, or with one corner.

        bend: "across" goes across first and then up or down, "down" the other way round.
        label: above the middle of a line across, to the right of one that goes up or down.
        """
        (x, y), (u, v) = start, end
        corner = {"across": [(u, y)], "down": [(x, v)]}.get(bend, [])
        self._parts.append(_Arrow((start, *corner, end), dashed, colour))
        if label and abs(u - x) >= abs(v - y):
            self.text((x + u) / 2, (y + v) / 2 - 6, label, size=12, anchor="middle")
        elif label:
            self.text((x + u) / 2 + 6, (y + v) / 2 + 4, label, size=12)

    def svg(self) -> str:
        """The picture as an SVG text, the same for the same calls."""
        head = (
            "<marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' "
            f"markerHeight='7' orient='auto-start-reverse'><path d='M 0 0 L 8 4 L 0 8 z' "
            f"fill='{LINE}'/></marker>"
        )
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width:g} {self.height:g}' "
            f"width='{self.width:g}' role='img' aria-label='{escape(self.alt, quote=True)}' "
            f"style='max-width:100%;height:auto' {FONT}><title>{escape(self.alt)}</title>"
            f"<defs>{head}</defs><rect width='100%' height='100%' fill='{PAPER}'/>"
            + "".join(part.svg() for part in self._parts)
            + "</svg>"
        )

    def png(self) -> bytes:
        """The same picture as a PNG file, with 1.3 pixels for each of its lengths."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width / 100, self.height / 100), dpi=130, facecolor=PAPER)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        axes.axis("off")
        for part in self._parts:
            part.draw(axes)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        return {"image/svg+xml": self.svg(), "image/png": self.png(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"picture: {self.alt}"

    def write(self, path: Path | str) -> None:
        """Save the picture as an SVG file."""
        atomic_write(Path(path), (self.svg() + "\n").encode())
