"""The house rules, read from the sources: who may import whom, and what nobody may import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minilora.cli.app import find_commands
from minilora.rooms import DOORS, PACKAGE, ROOMS, House, read_house, room_of

NEVER = ("torch", "transformers", "peft", "tensorflow", "jax")
HTTP = ("starlette", "uvicorn", "anyio", "prometheus_client")
PEERS = (  # what minilora is compared with
    "bench/torch_peer.py",
    "bench/torch_bank.py",
    "runs/capstone/peft_peer.py",
)


def outside_faults(house: House) -> Iterator[str]:
    """Imports that are forbidden wherever in the order of the rooms they stand."""
    for one in house.imports:
        where, top = f"{one.file}:{one.line}", one.name.split(".")[0]
        if top in NEVER and one.file not in PEERS:
            yield f"{where}: the library imports {top}"
        if top == "cupy" and room_of(one.file) != "backend":
            yield f"{where}: cupy is imported outside backend.py"
        if top in HTTP and not one.file.startswith("serving/http/"):
            yield f"{where}: {top} is imported outside serving/http"
        if one.file == "__init__.py" and one.target:
            yield f"{where}: importing the package must stay light, and it imports {one.target}"
        if one.target and room_of(one.target) not in ROOMS + DOORS:
            yield f"{where}: imports {one.name}, which is in no room of the house"


def test_rooms_import_only_rooms_before_them(house):
    assert house.upward() == []
    assert house.strangers() == []


def test_files_do_not_import_each_other_in_a_circle(house):
    assert house.circles() == []


def test_nothing_is_imported_that_the_library_must_do_without(house):
    assert list(outside_faults(house)) == []


def test_no_file_imports_a_command(house):
    commands = {f"cli/{name.replace('-', '_')}.py" for name in find_commands()}
    assert {"cli/adapt.py", "cli/house.py"} <= commands
    assert [one for one in house.imports if one.target in commands] == []


def test_every_room_and_file_is_read(house):
    sources = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")}
    assert house.lines.keys() == sources
    arrows = house.arrows()
    assert list(arrows) == [room for room in ROOMS if room in arrows]
    assert "autograd" in arrows["nn"] and "nn" not in arrows["autograd"]


def test_the_launcher_needs_only_the_standard_library(house):
    tops = {one.name.split(".")[0] for one in house.imports if one.file == "__main__.py"}
    assert "subprocess" in tops
    assert tops - set(sys.stdlib_module_names) == {"minilora"}


def build(tmp_path: Path, sources: dict[str, str]) -> House:
    """The house made of these files and of the layers that they may import."""
    everywhere = {"__init__.py": "__version__ = '1'\n", "nn/layers.py": "", "ward/notes.py": ""}
    for path, source in {**everywhere, **sources}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text(source)
    return read_house(tmp_path)


UPWARD = [
    ("nn/layers.py", "from minilora.lora import attach\n", "lora"),
    ("nn/layers.py", "import minilora.lora.attach as attach\n", "lora"),
    ("nn/layers.py", "from ..lora import attach\n", "lora"),
    ("nn/layers.py", "from .. import lora\n", "lora"),
    ("nn/layers.py", "def f():\n    from minilora import lora\n", "lora"),
    ("nn/layers.py", "if TYPE_CHECKING:\n    from minilora import lora\n", "lora"),
    ("nn/layers.py", "import_module('minilora.cli.app')\n", "cli"),
    ("storage.py", "from .autograd.tensor import Tensor\n", "autograd"),
    ("hub/gguf.py", "from minilora.ward import notes\n", "ward"),
]


@pytest.mark.parametrize(("path", "source", "room"), UPWARD)
def test_an_import_of_a_later_room_is_found(tmp_path, path, source, room):
    house = build(tmp_path, {path: source})
    (fault,) = house.upward()
    assert (fault.file, fault.line) == (path, source.count("\n"))
    assert room_of(fault.target) == room
    assert list(outside_faults(house)) == house.strangers() == house.circles() == []


OUTSIDE = [
    ("lora/layer.py", "import cupy as cp\n"),
    ("lora/layer.py", "from cupy import ndarray\n"),
    ("hub/checkpoint.py", "import torch.nn\n"),
    ("cli/adapt.py", "from peft import LoraConfig\n"),
    ("bench/sides.py", "import torch\n"),
    ("cli/torch_peer.py", "import torch\n"),
    ("serving/service.py", "import anyio.to_thread\n"),
    ("cli/serve.py", "from starlette.routing import Route\n"),
    ("__init__.py", "from minilora.nn import layers\n"),
]


@pytest.mark.parametrize(("path", "source"), OUTSIDE)
def test_a_forbidden_import_is_found(tmp_path, path, source):
    house = build(tmp_path, {path: source})
    (fault,) = outside_faults(house)
    assert fault.startswith(f"{path}:1:")
    assert house.upward() == house.strangers() == []


def test_a_file_in_no_room_is_found(tmp_path):
    assert build(tmp_path, {"cellar/wine.py": ""}).strangers() == ["cellar/wine.py"]


def test_an_import_from_no_room_is_found(tmp_path):
    house = build(tmp_path, {"nn/layers.py": "from minilora.cellar import wine\n"})
    assert [fault.split(":")[0] for fault in outside_faults(house)] == ["nn/layers.py"]


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
        ("serving/http/app.py", "import uvicorn\n"),
        ("bench/torch_peer.py", "import peft\nimport torch\n"),
        ("bench/torch_bank.py", "import peft\nimport torch\n"),
        ("__main__.py", "from minilora.cli.app import main\n"),
    ],
)
def test_an_allowed_import_is_not_found(tmp_path, path, source):
    house = build(tmp_path, {path: source})
    assert house.upward() == house.strangers() == house.circles() == []
    assert list(outside_faults(house)) == []


GIVES_A = {"lora/__init__.py": "from .a import thing\n"}


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"lora/a.py": "from . import b\n", "lora/b.py": "from .a import f\n"}, "a b"),
        ({"lora/a.py": "from .b import f\n", "lora/b.py": "def g():\n    from . import a\n"},
         "a b"),
        ({"lora/a.py": "from .b import f\n", "lora/b.py":
          "if TYPE_CHECKING:\n    from . import a\n"}, "a b"),
        ({"lora/a.py": "import minilora.lora.b\n", "lora/b.py": "from .a import x\n"}, "a b"),
        ({"lora/a.py": "from .b import x\n", "lora/b.py": "from .c import x\n",
          "lora/c.py": "from .a import x\n"}, "a b c"),
        ({**GIVES_A, "lora/a.py": "from minilora.lora import thing\n"}, "__init__ a"),
        # A name that the folder gives is the folder's, even where a file has the same name.
        ({"lora/__init__.py": "from .b import a\n", "lora/a.py": "", "lora/b.py":
          "from minilora.lora import a\n"}, "__init__ b"),
    ],
)  # fmt: skip
def test_a_circle_is_found(tmp_path, sources, circle):
    house = build(tmp_path, sources)
    assert house.circles() == [[f"lora/{name}.py" for name in circle.split()]]
    assert house.upward() == []


@pytest.mark.parametrize(
    "sources",
    [
        {"lora/a.py": "from . import b\n", "lora/b.py": "from .c import x\n", "lora/c.py": ""},
        {**GIVES_A, "lora/a.py": "from minilora.lora import b\n", "lora/b.py": ""},
        {"lora/__init__.py": "from . import a\n", "lora/a.py": "", "lora/b.py":
         "from . import a\n"},
    ],
)  # fmt: skip
def test_what_is_no_circle_is_not_found(tmp_path, sources):
    assert build(tmp_path, sources).circles() == []


def test_two_circles_are_told_apart(tmp_path):
    pairs = {"lora/a.py": "b", "lora/b.py": "a", "nn/c.py": "d", "nn/d.py": "c"}
    house = build(tmp_path, {file: f"from . import {name}\n" for file, name in pairs.items()})
    assert house.circles() == [["lora/a.py", "lora/b.py"], ["nn/c.py", "nn/d.py"]]
