"""The rooms of the house in order, and who imports whom, read from the sources without importing.

A room is a folder of the package, or a file that lies beside the folders. It may import itself and
the rooms before it; and files may not import each other in a circle. `minilora house` prints and
draws what is read here, and a test refuses what breaks these two rules.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

ROOMS = (
    "limits", "machine", "processes", "backend", "storage", "autograd", "nn", "text", "lora",
    "training", "hub", "baselines", "serving", "ward", "evaluation", "analysis", "runs",
    "gradients", "bench", "course", "rooms", "cli",
)  # fmt: skip
"""Every room, each after all that it may import."""

DOORS = ("__init__", "__main__")
"""The package's own two files, which are no rooms: the launcher starts the command line."""


@dataclass(frozen=True)
class Import:
    """One name that one file imports."""

    file: str
    """The file that imports, from the package's folder, as in "lora/attach.py"."""
    line: int
    name: str
    """What is imported, as in "minilora.nn.layers.Linear"."""
    target: str | None
    """The file of the package that it comes from; None if it comes from elsewhere."""


@dataclass(frozen=True)
class House:
    """The files of the package with their lines, and every import in them."""

    lines: dict[str, int]
    imports: tuple[Import, ...]

    def files(self, room: str) -> list[str]:
        """The room's files, by name."""
        return [file for file in self.lines if room_of(file) == room]

    def arrows(self) -> dict[str, Counter[str]]:
        """Room -> the other rooms that it imports, and how many imports go there.

        Rooms come in the order of ROOMS; one without a file is left out, and one that is not in
        ROOMS comes last.
        """
        found = {room_of(file) for file in self.lines} - set(DOORS)
        arrows = {room: Counter[str]() for room in sorted(found, key=_position)}
        for one in self.imports:
            room, target = room_of(one.file), one.target and room_of(one.target)
            if room in arrows and target in arrows and room != target:
                arrows[room][target] += 1
        return {
            room: Counter({to: counts[to] for to in sorted(counts, key=_position)})
            for room, counts in arrows.items()
        }

    def upward(self) -> list[Import]:
        """The imports of a room that comes later than the one that imports it."""
        return [
            one
            for one in self.imports
            if one.target
            and room_of(one.file) in ROOMS
            and room_of(one.target) not in DOORS
            and _position(room_of(one.target)) > _position(room_of(one.file))
        ]

    def strangers(self) -> list[str]:
        """The files that lie in no room of ROOMS."""
        return [file for file in self.lines if room_of(file) not in ROOMS + DOORS]

    def circles(self) -> list[list[str]]:
        """Files that import each other in a circle: a shortest one for each such group of files.

        Each file imports the next, and the last imports the first. An import inside a function, or
        for types only, counts as one at the top does: whoever reads one file must know the other.
        """
        graph: dict[str, set[str]] = {file: set() for file in self.lines}
        for one in self.imports:
            if one.target:
                graph[one.file].add(one.target)
        found, seen = [], set[str]()
        for file in graph:
            if file in seen:
                continue
            circle = _shortest_circle(graph, file)
            if circle:
                found.append(circle)
                seen.update(circle)
        return found


def read_house(package: Path = PACKAGE) -> House:
    """The house whose package lies in the folder `package`."""
    paths = sorted(package.rglob("*.py"))
    texts = {p.relative_to(package).as_posix(): p.read_text(encoding="utf-8") for p in paths}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    bound = {f: set(_given_names(tree, f)) for f, tree in trees.items() if _is_front(f)}
    imports = tuple(
        Import(file, line, name, _file_of(name, whole, trees.keys(), bound))
        for file, tree in trees.items()
        for line, name, whole in _imported_names(tree, file)
    )
    return House({file: len(text.splitlines()) for file, text in texts.items()}, imports)


def room_of(file: str) -> str:
    """The room of "lora/attach.py" is "lora", that of "storage.py" is "storage"."""
    return file.split("/")[0].removesuffix(".py")


def _position(room: str) -> int:
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def _is_front(file: str) -> bool:
    return file.endswith("__init__.py")


def _base(node: ast.ImportFrom, file: str) -> str:
    """The dotted name of the module that a `from … import` in `file` takes names from."""
    package = ["minilora", *file.split("/")[:-1]]
    above = package[: len(package) - node.level + 1] if node.level else []
    return ".".join(filter(None, [*above, node.module]))


def _imported_names(tree: ast.AST, file: str) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, whether the name is a module for certain)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, True
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{_base(node, file)}.{alias.name}", False
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield node.lineno, name, True


def _given_names(tree: ast.Module, file: str) -> Iterator[str]:
    """The names that a folder's `__init__.py` gives, other than those of files beside it."""
    package = ".".join(["minilora", *file.split("/")[:-1]])
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and _base(node, file) == package:
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _file_of(name: str, whole: bool, files: set[str], bound: dict[str, set[str]]) -> str | None:
    """The package's file that gives `name`; None if `name` comes from outside the package.

    In `from minilora.lora import attach`, attach is what `lora/__init__.py` binds to that name, or
    else the file `lora/attach.py`. A name that no file gives belongs to the room that it names, so
    that an import of a room which does not exist is seen.
    """
    top, *parts = name.split(".")
    if top != "minilora":
        return None
    if not parts:
        return "__init__.py"
    *folder, last = parts
    home = "/".join([*folder, "__init__.py"])
    if not whole and last in bound.get(home, ()):
        return home
    for depth in range(len(parts), 0, -1):
        stem = "/".join(parts[:depth])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if file in files:
                return file
    return "__init__.py" if parts[0].startswith("__") else f"{parts[0]}.py"


def _shortest_circle(graph: dict[str, set[str]], start: str) -> list[str]:
    """The files of a shortest circle through `start`, from there on; empty if there is none."""
    reached_from: dict[str, str] = {}
    layer = [start]
    while layer:
        following = []
        for file in layer:
            for target in sorted(graph.get(file, ())):
                if target == start:
                    path = [file]
                    while path[-1] != start:
                        path.append(reached_from[path[-1]])
                    return path[::-1]
                if target not in reached_from:
                    reached_from[target] = file
                    following.append(target)
        layer = following
    return []
