"""Device rules, read from the sources: library code asks an array for its module.

In autograd, nn, training, lora and serving a function of NumPy may be called only where the arrays
are on the host for certain, and each such place is listed here. What is called on `xp` must exist
in CuPy, with these keywords. The runs on a stand-in (tests/device) check what sources don't show.
"""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "minilora"
NAMES = json.loads((TESTS / "device" / "cupy_api.json").read_text())["names"]
ROOMS = ("autograd", "nn", "training", "lora", "serving")

# Types, dtypes and generators compute nothing on arrays; all randomness is drawn on the host.
ALWAYS = {"ndarray", "generic", "dtype", "random", "float32", "float64", "int32", "int64", "inf"}

# Files that work on the host alone.
HOST_FILES = {
    "autograd/normal_float.py": "stored weights are made on the host",
    "autograd/quantize.py": "stored weights are made on the host",
    "autograd/stored_array.py": "stored weights live on the host",
    "nn/rows.py": "which rows a layer sees, and what they said, is known on the host",
    "serving/centres.py": "readings are brought to the host",
    "serving/router.py": "losses are brought to the host, a row at a time",
    "training/prompts.py": "rows are cut on the host, and prompts kept there alone",
    "training/batches.py": "batches are made on the host",
    "training/subspace.py": "random subspaces are for the host, and refuse a device",
    "lora/deltas.py": "an Adapter's arrays are on the host",
    "lora/joining.py": "an Adapter's arrays are on the host",
    "lora/compose.py": "an Adapter's arrays are on the host",
    "lora/extract.py": "differences of weights are brought to the host",
    "lora/forecast.py": "an Adapter's arrays are on the host, and inputs are brought there",
}

# "file: function or class" -> the NumPy functions that it may call.
HOST_CALLS = {
    # Tables and masks of positions, which are host integers; moved by the caller.
    "autograd/attention.py: rope_tables": {"arange", "asarray", "concatenate", "cos", "sin"},
    "autograd/attention.py: _causal_mask": {"tri"},
    # Under `xp is np`: what CuPy lacks.
    "autograd/functional.py: embedding": {"add", "argsort", "diff", "flatnonzero"},
    "autograd/pointwise.py: row_dot": {"vecdot"},
    # Axes and lengths, not arrays.
    "autograd/ops.py: transpose": {"argsort"},
    "autograd/ops.py: concatenate": {"cumsum"},
    # Python numbers and lists, and NumPy's scalars, become host arrays.
    "autograd/tensor.py: Tensor": {"asarray"},
    # Sampling works on logits that were brought to the host, one copy a token.
    "nn/decode.py: Decoding": {"arange"},
    "nn/generate.py: sample_token": {"argsort", "cumsum", "errstate", "exp", "take_along_axis"},
    "nn/generate.py: _left_padded": {"array", "zeros"},
    "nn/generate.py: last_logits": {"arange"},
    "nn/ragged.py: RaggedDecoding": {"append", "arange", "array", "zeros"},
    "nn/generate.py: _read": {"concatenate"},
    "nn/generate.py: read_ahead": {"minimum"},
    "nn/generate.py: _Batch": {"concatenate"},
    # Losses that were brought to the host.
    "training/several.py: _train": {"array"},
    "nn/reading.py: read_past": {"arange", "array", "maximum", "zeros"},
    "nn/generate.py: next_logits": {"concatenate"},
    # Weights start on the host.
    "nn/layers.py: normal": {"zeros"},
    "nn/layers.py: Linear": {"zeros"},
    "nn/layers.py: RMSNorm": {"ones"},
    "nn/transformer.py: Transformer": {"arange"},
    # Rows of batches, and the step count of a checkpoint.
    "training/step.py: split_batch": {"arange", "array_split", "flatnonzero"},
    "training/heldout.py: evaluate": {"arange"},
    "training/saved_run.py: run_settings": {"concatenate"},
    "training/optim.py: Optimizer": {"array"},
    # Checkpoints are read on the host, and NumPy alone warns of what overflows.
    "training/checkpoint.py: load_checkpoint": {"isfinite"},
    "nn/finite.py: quiet_overflow": {"errstate"},
    "training/made_by.py: made_by": {"__version__"},
    # Forked workers are for the host only; they refuse a device.
    "training/parallel.py: _shared_arrays": {"cumsum", "frombuffer"},
    "training/parallel.py: Workers": {"arange", "array_split"},
    # Which rows use which adapter is known on the host.
    "serving/mixing.py: group": {
        "arange",
        "argsort",
        "array_equal",
        "cumsum",
        "flatnonzero",
        "ones",
        "repeat",
        "searchsorted",
        "unique",
        "zeros",
    },
    # Logits come to the host, one copy a step, and tokens start there.
    "serving/engine.py: _Row": {"array", "isfinite"},
    "serving/engine.py: Engine": {"array"},
    "serving/engine.py: _read_by_base": {"array"},
    "serving/kept.py: KeptBeginnings": {"argmax", "array"},
    "serving/kept.py: shared": {"asarray", "flatnonzero"},
    "serving/mixing.py: <module>": {"zeros"},
    "serving/mixing.py: Mix": {"array"},
    "serving/mixing.py: acting_on": {"ones"},
    "serving/mixing.py: BankLinear": {"ones"},
    "serving/mixing.py: _Grouping": {"array", "where"},
    # An Adapter's arrays are on the host.
    "lora/adapter.py: _own_copy": {"array"},
    "lora/adapter.py: _check_array": {"isfinite"},
    "lora/fitting.py: _check_array": {"can_cast"},
    "lora/peft_format.py: _without_repeats": {"array_equal"},
    # Token ids are host integers.
    "lora/tables.py: TableRows": {"array"},
    # Drawn on the host.
    "lora/vera.py: _uniform": {"frombuffer"},
}

# Methods of arrays whose keywords are checked: names that no other object here shares.
METHODS = ("sum", "mean", "max", "min", "prod", "any", "all", "argmax", "argmin", "clip", "astype")


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name not in HOST_FILES:
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def numpy_calls(root: Path) -> dict[str, dict[str, int]]:
    """ "file: function or class" -> NumPy name -> line, for what is not always allowed."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for name, tree in sources(root):
        for top in tree.body:
            place = f"{name}: {getattr(top, 'name', '<module>')}"
            for node in ast.walk(top):
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "np":
                    if node.attr not in ALWAYS:
                        found[place][node.attr] = node.lineno
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numpy"):
                    found[place][f"from {node.module}"] = node.lineno
                elif isinstance(node, ast.Import):
                    odd = [a for a in node.names if a.name.startswith("numpy") and a.asname != "np"]
                    found[place].update({f"import {a.name}": node.lineno for a in odd})
    return found


def numpy_faults(root: Path, allowed: dict[str, set[str]]) -> list[str]:
    return [
        f"{place}:{line}: np.{name} (xp = get_array_module(...) is meant, or list it here)"
        for place, names in numpy_calls(root).items()
        for name, line in names.items()
        if name not in allowed.get(place, ())
    ]


def _xp_name(node: ast.AST) -> str | None:
    """The name after `xp.` or `get_array_module(...).`, dotted; None for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "get_array_module"
    if not parts or not (called or getattr(node, "id", "") == "xp"):
        return None
    return ".".join(parts)


def _xp_fault(node: ast.Call) -> str | None:
    name = _xp_name(node.func)
    if name is None:
        method = getattr(node.func, "attr", "")
        module = getattr(getattr(node.func, "value", None), "id", "") if method else ""
        if method not in METHODS or module == "np":
            return None
        name, known = f".{method}", NAMES[f"ndarray.{method}"]
    else:
        base, _, tail = name.rpartition(".")
        if NAMES.get(base) == "ufunc":
            if tail == "at" or (tail == "reduce" and base in ("add", "multiply")):
                return None
            return f"cupy.{base} has no {tail}"
        if name not in NAMES:
            return f"cupy has no {name}"
        known = "out dtype casting" if NAMES[name] == "ufunc" else NAMES[name]
    odd = [k.arg for k in node.keywords if k.arg and k.arg not in known.split()]
    return f"cupy's {name} takes no {odd[0]}=" if odd and known != "..." else None


def xp_faults(root: Path) -> list[str]:
    calls = (
        (name, node)
        for name, tree in sources(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )
    return [f"{name}:{node.lineno}: {fault}" for name, node in calls if (fault := _xp_fault(node))]


def test_numpy_is_called_only_where_arrays_are_on_the_host():
    assert numpy_faults(PACKAGE, HOST_CALLS) == []


def test_the_list_of_host_calls_is_not_longer_than_it_must_be():
    found = numpy_calls(PACKAGE)
    assert {place: set(found.get(place, ())) for place in HOST_CALLS} == HOST_CALLS
    assert all((PACKAGE / name).is_file() for name in HOST_FILES)


def test_cupy_has_what_is_called_on_xp():
    assert xp_faults(PACKAGE) == []
    called = {
        name
        for _, tree in sources(PACKAGE)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (name := _xp_name(node.func))
    }
    assert {"matmul", "zeros_like", "add.at", "vdot", "isfinite"} <= called  # it does look


def write(root: Path, source: str) -> Path:
    file = root / "nn" / "layers.py"
    file.parent.mkdir()
    file.write_text(source)
    return root


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("def f(x):\n    return np.exp(x.data)\n", "nn/layers.py: f:2: np.exp"),
        ("class A:\n    def f(self, x):\n        return lambda: np.where(x)\n", "A:3: np.where"),
        ("y = np.zeros(3)\n", "<module>:1: np.zeros"),
        ("def f(x):\n    return np.linalg.svd(x)\n", "np.linalg"),
        ("def f(x):\n    return np.add.reduceat(x, [0])\n", "np.add"),
        ("from numpy import exp\n", "from numpy"),
        ("import numpy\n", "import numpy"),
        ("def normal(x):\n    return np.zeros(3), np.ones(3)\n", "normal:2: np.ones"),
    ],
)  # fmt: skip
def test_a_call_of_numpy_is_found(tmp_path, source, word):
    faults = numpy_faults(write(tmp_path, source), HOST_CALLS)
    assert len(faults) == 1 and word in faults[0]


@pytest.mark.parametrize(
    ("call", "word"),
    [
        ("xp.vecdot(x, x)", "no vecdot"),
        ("xp.errstate(all='ignore')", "no errstate"),
        ("xp.maximum.reduce(x)", "maximum has no reduce"),
        ("xp.add.reduceat(x, [0])", "add has no reduceat"),
        ("xp.random.normal(2)", "no random.normal"),
        ("get_array_module(x).sum(x, where=m)", "takes no where="),
        ("xp.take(x, i, mode='clip')", "takes no mode="),
        ("xp.linalg.svd(x, hermitian=True)", "takes no hermitian="),
        ("xp.exp(x, where=m)", "takes no where="),
        ("x.data.max(axis=0, initial=0)", ".max takes no initial="),
        ("x.astype(d, device='cpu')", ".astype takes no device="),
    ],
)
def test_a_call_that_cupy_refuses_is_found(tmp_path, call, word):
    faults = xp_faults(write(tmp_path, f"def f(x):\n    return {call}\n"))
    assert len(faults) == 1 and word in faults[0]


def test_allowed_calls_are_not_found(tmp_path):
    source = (
        "import numpy as np\n"
        "def normal(rng: np.random.Generator) -> np.ndarray:\n    return np.zeros(3, np.float32)\n"
        "def f(xp, x):\n    return xp.exp(x, out=x), xp.add.at(x, x, x), x.sum(keepdims=True)\n"
    )
    root = write(tmp_path, source)
    assert numpy_faults(root, HOST_CALLS) == xp_faults(root) == []
