"""API pages from the docstrings, read from the sources: nothing is imported for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

from minilora.course.book.text import code_html, docstring_html
from minilora.course.source import ROOT

ROOMS = ("autograd", "nn", "lora", "training", "serving", "evaluation", "analysis")
Definition = ast.FunctionDef | ast.ClassDef


def room_html(room: str, package: Path = ROOT / "minilora") -> str:
    """Every documented public class and function of a room, by file. Raises ValueError for none."""
    folder = package / room
    files = sorted(folder.glob("*.py"), key=lambda p: (p.stem != "__init__", p.stem))
    if not files:
        raise ValueError(f"got no files of the room {room} in {package}")
    parts = [f"<h1>minilora.{room}</h1>"]
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        about = docstring_html(ast.get_docstring(tree) or "")
        if path.stem == "__init__":
            parts.append(about)
            continue
        body = [_entry(node, 3) for node in _public(tree)]
        if body:
            parts += [f"<h2>minilora.{room}.{path.stem}</h2>", about, *body]
    return "\n".join(parts)


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named = not node.name.startswith("_") or node.name == "__init__"
            if named and ast.get_docstring(node):
                yield node


def _entry(node: Definition, level: int) -> str:
    text = docstring_html(ast.get_docstring(node) or "")
    parts = [f"<h{level}>{escape(node.name)}</h{level}>", code_html(signature(node)), text]
    if isinstance(node, ast.ClassDef):
        parts += [_entry(inner, level + 1) for inner in _public(node)]
    return "\n".join(parts)


def signature(node: Definition) -> str:
    """The line that defines a function or a class, with the fields of a dataclass below it.

    A field's own docstring becomes the comment above it.
    """
    if isinstance(node, ast.FunctionDef):
        marks = [f"@{ast.unparse(mark)}\n" for mark in node.decorator_list]
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        given = ast.unparse(node.args)
        line = f"def {node.name}({given}){returns}"
        if len(line) > 80:
            line = f"def {node.name}(\n{_one_a_line(node.args)}\n){returns}"
        return "".join(marks) + line
    bases = ", ".join(map(ast.unparse, node.bases))
    lines = [f"class {node.name}({bases})" if bases else f"class {node.name}"]
    for field, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or ast.unparse(field.target).startswith("_"):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            about = " ".join(str(following.value.value).split())
            lines.append(f"    # {about}")
        lines.append(f"    {ast.unparse(field)}")
    return "\n".join(lines)


def _one_a_line(arguments: ast.arguments) -> str:
    """The parameters of a long definition below each other."""
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    written = [
        _parameter(one, default)
        for one, default in zip(positional, [None] * missing + arguments.defaults, strict=True)
    ]
    if arguments.posonlyargs:
        written.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg:
        written.append(f"*{_parameter(arguments.vararg, None)}")
    elif arguments.kwonlyargs:
        written.append("*")
    pairs = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    written += [_parameter(one, default) for one, default in pairs]
    if arguments.kwarg:
        written.append(f"**{_parameter(arguments.kwarg, None)}")
    return "\n".join(f"    {line}," for line in written)


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    if default is None:
        return one.arg + kind
    return (
        f"{one.arg}{kind} = {ast.unparse(default)}" if kind else f"{one.arg}={ast.unparse(default)}"
    )
