"""Adapters as a command line gives them, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minilora.hub.several import BASE, NamedAdapter


def named_adapters(texts: Sequence[str]) -> list[NamedAdapter]:
    """What `--adapter` was given, in order: NAME=DIR, a DIR by its own name, or `__base__`.

    Nothing given means the base. Raises ValueError for a name that is given twice, is empty or
    unprintable, or is `__base__` for a folder.
    """
    chosen = [_named(text) for text in texts] or [NamedAdapter(BASE)]
    first: dict[str, NamedAdapter] = {}
    for one in chosen:
        other = first.setdefault(one.name, one)
        if other is not one:
            raise ValueError(
                f"got --adapter {one.name!r} twice, for {other.folder or 'the base'} and "
                f"{one.folder or 'the base'}; expected a name for each, as in NAME=DIR"
            )
    return chosen


def _named(text: str) -> NamedAdapter:
    if text == BASE:
        return NamedAdapter(BASE)
    name, mark, folder = text.partition("=")
    if not mark or Path(text).exists():  # a folder's own name may hold "="
        name, folder = Path(text).resolve().name, text
    if not name or not folder or not name.isprintable():
        raise ValueError(f"got --adapter {text!r}, expected DIR, NAME=DIR or {BASE}")
    if name == BASE:
        raise ValueError(
            f"got --adapter {text!r}, whose name stands for the base without an adapter; "
            "expected another, as in NAME=DIR"
        )
    return NamedAdapter(name, Path(folder).expanduser())  # NAME=~/x is not the shell's to expand
