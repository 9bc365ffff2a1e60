"""The house rules, read from the sources: who may import whom, and how long things may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "minilora"

# A room may import itself and the rooms before it.
ROOMS = (
    "backend", "limits", "storage", "autograd", "nn", "text", "lora", "training", "hub",
    "baselines", "serving", "ward", "evaluation", "analysis", "runs", "gradients", "bench",
    "course", "cli",
)  # fmt: skip
FREE = ("__init__", "__main__")  # the package's own doors: the launcher starts the command line
NEVER = ("torch", "transformers", "peft", "tensorflow", "jax")
PEER = ("bench", "torch_peer")  # the one file that runs what minilora is compared with
FILE_LINES = 320
FUNCTION_LINES = 45


def imported_names(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file of `package`, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join(filter(None, [*above, base]))
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = getattr(node.args[0], "value", None)
            if called in ("import_module", "__import__") and isinstance(name, str):
                yield node.lineno, name


def room_of(dotted: str, package: str = "minilora") -> str | None:
    """The room that `minilora.room.file.name` lies in; None outside the package."""
    parts = dotted.split(".")
    if parts[0] != package or len(parts) < 2 or parts[1].startswith("__"):
        return None
    return parts[1]


def import_faults(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).with_suffix("").parts
        room = inside[0]
        if room not in ROOMS + FREE:
            yield f"{path.relative_to(root)}: {room!r} is no room of the house"
            continue
        package = ".".join(["minilora", *inside[:-1]])
        for line, name in imported_names(ast.parse(path.read_text(encoding="utf-8")), package):
            where = f"{path.relative_to(root)}:{line}"
            top, target = name.split(".")[0], room_of(name)
            if top in NEVER and inside != PEER:
                yield f"{where}: the library imports {top}"
            elif top == "cupy" and room != "backend":
                yield f"{where}: cupy is imported outside backend.py"
            elif target and target not in ROOMS:
                yield f"{where}: imports {name}, which is no room of the house"
            elif target and room in ROOMS and ROOMS.index(target) > ROOMS.index(room):
                yield f"{where}: {room} imports {target}, a room below it"
            elif target and room == "__init__":
                yield f"{where}: importing the package must stay light, and it imports {target}"


def length_faults(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > FILE_LINES:
            yield f"{path.relative_to(root)}: {lines} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                if ast.get_docstring(node):  # words that explain are not what is being limited
                    length -= node.body[0].end_lineno - node.body[0].lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{path.relative_to(root)}:{node.lineno}: {node.name} has {length} lines"


def test_rooms_import_only_rooms_above_them():
    assert list(import_faults(PACKAGE)) == []


def test_files_and_functions_stay_short():
    assert list(length_faults(PACKAGE)) == []


def test_launcher_needs_only_the_standard_library():
    import sys

    tree = ast.parse((PACKAGE / "__main__.py").read_text(encoding="utf-8"))
    tops = {name.split(".")[0] for _, name in imported_names(tree, "minilora")}
    assert "subprocess" in tops
    assert tops - set(sys.stdlib_module_names) == {"minilora"}


LONG_FUNCTION = "def f():\n" + "    x = 1\n" * FUNCTION_LINES


@pytest.mark.parametrize(
    ("path", "source", "word"),
    [
        ("nn/layers.py", "from minilora.lora import attach\n", "a room below it"),
        ("nn/layers.py", "import minilora.lora.attach as attach\n", "a room below it"),
        ("nn/layers.py", "from ..lora import attach\n", "a room below it"),
        ("nn/layers.py", "from .. import lora\n", "a room below it"),
        ("nn/layers.py", "def f():\n    from minilora import lora\n", "a room below it"),
        ("nn/layers.py", "import_module('minilora.cli.app')\n", "a room below it"),
        ("storage.py", "from .autograd.tensor import Tensor\n", "a room below it"),
        ("hub/gguf.py", "from minilora.ward import notes\n", "a room below it"),
        ("lora/layer.py", "import cupy as cp\n", "cupy"),
        ("lora/layer.py", "from cupy import ndarray\n", "cupy"),
        ("hub/checkpoint.py", "import torch.nn\n", "imports torch"),
        ("cli/adapt.py", "from peft import LoraConfig\n", "imports peft"),
        ("bench/sides.py", "import torch\n", "imports torch"),
        ("cli/torch_peer.py", "import torch\n", "imports torch"),
        ("cellar/wine.py", "", "no room"),
        ("nn/layers.py", "from minilora.cellar import wine\n", "no room"),
        ("__init__.py", "from minilora.nn import Linear\n", "stay light"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path, path, source, word):
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    faults = list(import_faults(tmp_path))
    assert len(faults) == 1
    assert word in faults[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "lora/layer.py",
            "from minilora.nn.layers import Linear\nfrom .config import LoRAConfig\n",
        ),
        ("cli/adapt.py", "from minilora import __version__, backend\nfrom ..ward import notes\n"),
        ("ward/score.py", "from ..hub import checkpoint\nimport numpy as np\n"),
        ("backend.py", "import cupy\n"),
        ("bench/torch_peer.py", "import peft\nimport torch\n"),
        ("__main__.py", "from minilora.cli.app import main\n"),
    ],
)
def test_an_allowed_import_is_not_found(tmp_path, path, source):
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    assert list(import_faults(tmp_path)) == []


def test_a_docstring_is_no_code(tmp_path):
    text = LONG_FUNCTION.replace("    x = 1\n", '    """\n    Why.\n    """\n', 1)
    (tmp_path / "backend.py").write_text(text)
    assert list(length_faults(tmp_path)) == []


@pytest.mark.parametrize("source", [LONG_FUNCTION, "x = 1\n" * (FILE_LINES + 1)])
def test_excess_length_is_found(tmp_path, source):
    (tmp_path / "backend.py").write_text(source)
    assert len(list(length_faults(tmp_path))) == 1
    (tmp_path / "backend.py").write_text("\n".join(source.splitlines()[:-1]))
    assert list(length_faults(tmp_path)) == []
