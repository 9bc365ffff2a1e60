"""Write cupy_api.json: the names of the installed CuPy and the keywords that each accepts.

    python tests/device/record_cupy_api.py            (with CuPy installed; needs no GPU)

A value is the space-separated names of the parameters, "ufunc", or "..." where CuPy does not tell
them. Methods of arrays stand under "ndarray.", attributes that are no methods as "attribute".
`cupy.random` is left out: the library draws everything on the host.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from pathlib import Path

PATH = Path(__file__).with_name("cupy_api.json")
# These take **kwargs and refuse most of them.
BY_HAND = {"einsum": "operands dtype optimize"}


def keywords(function: object) -> str:
    """The names of a function's parameters; "..." for any, or where there is no signature."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return "..."
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return "..."
    starred = "*" if any(p.kind is p.VAR_POSITIONAL for p in parameters) else ""
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return " ".join([starred, *names]).strip()


def method_keywords(method: object) -> str:
    """The same for a compiled method, whose signature is the first line of its docstring."""
    if not callable(method):
        return "attribute"
    told = re.match(r"[\w.]+\(self(?:, )?(.*)\)", (method.__doc__ or "").partition("\n")[0])
    if told is None:
        return "..."
    parts = [part.split("=")[0].split()[-1] for part in told[1].split(",") if part.strip()]
    starred = "*" if any(part.startswith("*") for part in parts) else ""
    return " ".join([starred, *(p for p in parts if not p.startswith("*"))]).strip()


def record() -> dict:
    """CuPy's version and table of names."""
    import cupy

    table = {}
    for prefix, module in (("", cupy), ("linalg.", cupy.linalg)):
        for name in dir(module):
            value = getattr(module, name)
            if name.startswith("_") or isinstance(value, (type, types.ModuleType)):
                continue
            if isinstance(value, type(cupy.add)):
                table[prefix + name] = "ufunc"
            elif callable(value):
                table[prefix + name] = BY_HAND.get(prefix + name) or keywords(value)
    for name in dir(cupy.ndarray):
        if not name.startswith("_"):
            table["ndarray." + name] = method_keywords(getattr(cupy.ndarray, name))
    scatters = [n for n, kind in table.items() if kind == "ufunc" and _has_at(getattr(cupy, n))]
    return {"cupy": cupy.__version__, "ufuncs_with_at": scatters, "names": table}


def _has_at(ufunc: object) -> bool:
    return getattr(ufunc, "_scatter_op", None) is not None


if __name__ == "__main__":
    found = record()
    PATH.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
    print(f"{PATH.name}: {len(found['names'])} names of CuPy {found['cupy']}")
