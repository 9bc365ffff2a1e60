"""Schematics: boxes, grids of numbers and arrows, drawn as SVG with a text for who can't see them.

A notebook shows a `Schematic` by itself (`_repr_svg_`), and `figure.write(path)` saves it. Lengths
are in pixels; the picture scales with the page. Colours are the course's: grey is frozen, orange is
trained, blue is data that flows through.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from minilora.storage import atomic_write

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


class Schematic:
    """A picture of `width` by `height` pixels; `alt` says in words what it shows.

    Raises ValueError for an alt text of fewer than 20 characters: it must say what is shown.
    """

    def __init__(self, width: float, height: float, alt: str) -> None:
        if len(alt) < 20:
            raise ValueError(f"got the alt text {alt!r}, expected what the picture shows, in words")
        self.width, self.height, self.alt = width, height, alt
        self._parts: list[str] = []

    def box(
        self, x: float, y: float, width: float, height: float, text: str = "",
        fill: str = PLAIN, note: str = "", dashed: bool = False,
    ) -> Box:  # fmt: skip
        """A rectangle with lines of text in its middle, and a smaller note below the text."""
        dashes = " stroke-dasharray='5 4'" if dashed else ""
        self._parts.append(
            f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='5' "
            f"fill='{fill}' stroke='{LINE}' stroke-width='1.2'{dashes}/>"
        )
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
                self._parts.append(
                    f"<rect x='{x + j * cell:g}' y='{y + i * cell:g}' width='{cell - 1:g}' "
                    f"height='{cell - 1:g}' fill='{fill}' fill-opacity='{strength:.2f}'/>"
                )
        width, height = columns * cell, rows * cell
        self._parts.append(
            f"<rect x='{x - 1:g}' y='{y - 1:g}' width='{width + 1:g}' height='{height + 1:g}' "
            f"fill='none' stroke='{LINE}' stroke-width='1.2'/>"
        )
        if label:
            self.text(x + width / 2, y + height + 16, label, anchor="middle")
        if shape:
            self.text(x + width / 2, y + height + 30, shape, size=11, anchor="middle")
        return Box(x, y, width, height)

    def text(
        self, x: float, y: float, text: str, size: float = 13, anchor: str = "start",
        bold: bool = False, colour: str = INK,
    ) -> None:  # fmt: skip
        """A line of text; y is its base line."""
        weight = " font-weight='bold'" if bold else ""
        self._parts.append(
            f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' text-anchor='{anchor}' "
            f"fill='{colour}'{weight}>{escape(text)}</text>"
        )

    def circle(self, x: float, y: float, text: str, radius: float = 13, fill: str = PLAIN) -> Box:
        """A circle with a sign in it, such as + or ×; (x, y) is its middle."""
        self._parts.append(
            f"<circle cx='{x:g}' cy='{y:g}' r='{radius:g}' fill='{fill}' stroke='{LINE}' "
            "stroke-width='1.2'/>"
        )
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
        corner = {"across": f"L {u:g} {y:g} ", "down": f"L {x:g} {v:g} "}.get(bend, "")
        dashes = " stroke-dasharray='5 4'" if dashed else ""
        self._parts.append(
            f"<path d='M {x:g} {y:g} {corner}L {u:g} {v:g}' fill='none' stroke='{colour}' "
            f"stroke-width='1.6'{dashes} marker-end='url(#head)'/>"
        )
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
            + "".join(self._parts)
            + "</svg>"
        )

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"picture: {self.alt}"

    def write(self, path: Path | str) -> None:
        """Save the picture as an SVG file."""
        atomic_write(Path(path), (self.svg() + "\n").encode())
