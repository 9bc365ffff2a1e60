"""`minilora house`: the rooms of the house, and which imports which."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from minilora.cli import show
from minilora.rooms import House, read_house, room_of
from minilora.runs.figure import figure_in

GROUP = "Understand"


def house(
    files: str = typer.Option("", "--files", help="Show this room's files, and what they import."),
    plot: Path | None = typer.Option(None, "--plot", help="Draw rooms and arrows into this PNG."),
) -> None:
    """Show the rooms in order and what each imports; exit code 1 if an import breaks the order.

    Example: minilora house --files lora
    """
    console, built = Console(), read_house()
    if files:
        show_files(console, built, files)
    else:
        show_rooms(console, built)
    if plot is not None:
        draw(built, plot)
        show.say(console, f"Drawn into {plot}")
    faults = [*upward_lines(built), *circle_lines(built), *stranger_lines(built)]
    for line in faults:
        show.say(console, line)
    if not files:
        count = sum(one.target is not None for one in built.imports)
        show.say(console, f"{len(built.lines)} files, {count} imports, {len(faults)} out of order")
    raise typer.Exit(1 if faults else 0)


def show_rooms(console: Console, built: House) -> None:
    """The table of rooms, each after all that it may import."""
    rows = []
    for room, targets in built.arrows().items():
        mine = built.files(room)
        lines = sum(built.lines[file] for file in mine)
        rows.append((room, str(len(mine)), f"{lines:,}", ", ".join(targets) or "-"))
    headings = ("room", "files", "lines", "imports")
    show.grid(console, "Rooms, each after all that it may import", headings, rows, right=(1, 2))


def show_files(console: Console, built: House, room: str) -> None:
    """The table of one room's files. Raises ValueError naming the rooms if it has none."""
    mine = built.files(room)
    if not mine:
        raise ValueError(f"got --files {room!r}, expected one of {', '.join(built.arrows())}")
    rows = []
    for file in mine:
        targets = {one.target for one in built.imports if one.file == file and one.target}
        rows.append((file, f"{built.lines[file]:,}", ", ".join(sorted(targets)) or "-"))
    show.grid(console, f"The files of {room}", ("file", "lines", "imports"), rows, right=(1,))


def upward_lines(built: House) -> list[str]:
    """A line for each import of a room that comes later."""
    return [
        f"{one.file}:{one.line} imports {one.name}, and {room_of(one.target)} "
        f"comes after {room_of(one.file)}"
        for one in built.upward()
    ]


def circle_lines(built: House) -> list[str]:
    """A line for each circle of files."""
    return [f"circle: {' → '.join([*circle, circle[0]])}" for circle in built.circles()]


def stranger_lines(built: House) -> list[str]:
    """A line for each file that lies in no room."""
    return [f"{file} lies in no room of the house" for file in built.strangers()]


def draw(built: House, path: Path) -> None:
    """Rooms as boxes, the first at the bottom, and an arc from each room down to what it imports.

    An arc is grey where other arcs lead there too. One that leads up is red and on the left.
    """
    from matplotlib.patches import FancyBboxPatch

    arrows = built.arrows()
    height = {room: level for level, room in enumerate(arrows)}
    with figure_in(path, 6.5, 0.45 * len(arrows) + 0.6, dpi=150) as figure:
        axes = figure.add_subplot()
        for room, level in height.items():
            box = {"boxstyle": "round,pad=0,rounding_size=0.15", "fc": "white", "ec": "0.4"}
            axes.add_patch(FancyBboxPatch((-1, level - 0.3), 2, 0.6, **box))
            axes.text(0, level - 0.04, room, ha="center", va="center", fontsize=10)
        below: dict[str, set[str]] = {}
        """Room -> the earlier rooms that arcs lead to, over however many others."""
        for room, targets in arrows.items():
            earlier = [target for target in targets if target in below]
            below[room] = set(earlier).union(*(below[target] for target in earlier))
            for target in targets:
                ends = [(1.1, height[room] - 0.15), (1.1, height[target] + 0.15)]
                colour, level = "C0", 3
                if target not in earlier:
                    ends, colour = [(-x, y) for x, y in ends], "red"
                elif any(target in below[other] for other in earlier):
                    colour, level = "0.8", 2
                style = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.5", "color": colour}
                axes.annotate("", ends[1], ends[0], arrowprops=style, zorder=level)
        axes.set(xlim=(-2.5, 5.5), ylim=(-0.7, len(arrows) - 0.3))
        axes.axis("off")
