"""A base with tokens that it did not have, written as a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minilora.hub import save_pretrained
from minilora.hub.bases import open_base
from minilora.hub.tokens import add_tokens


def base_with_tokens(base: str, texts: Sequence[str], out: Path) -> list[tuple[str, int, int]]:
    """Write it; of each text its id and how many tokens it was before.

    Raises ValueError as `add_tokens`, for a base that is not here, and for an `out` that is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"got --out {out}, which is there already, expected a new folder")
    model, tokenizer = open_base(base)
    before = [len(tokenizer.encode(text)) for text in texts]
    grown, ids = add_tokens(model, tokenizer, texts)
    card = f"{base} with {len(ids)} more tokens, made by `minilora tokens`.\n"
    save_pretrained(out, model, grown, card)
    return list(zip(texts, ids, before, strict=True))
