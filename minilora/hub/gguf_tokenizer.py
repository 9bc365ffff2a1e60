"""The tokenizer in a GGUF file's metadata: byte-level BPE, as GPT-2 and SmolLM2 have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from minilora.storage import one_line
from minilora.text.tokenizer import Tokenizer

MODEL = "gpt2"
# tokenizer.ggml.pre -> whether every digit stands alone before the bytes are split as in GPT-2
# (llama.cpp's patterns \p{N} and GPT-2's; in tokenizer.json: Digits, then ByteLevel).
PRE_TOKENIZERS = {
    "smollm": True, "starcoder": True, "refact": True, "command-r": True, "codeshell": True,
    "gpt-2": False, "gpt2": False,
}  # fmt: skip
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
SPECIAL = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


def tokenizer_of(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    """The Tokenizer that the metadata describes.

    Raises ValueError naming another kind of tokenizer, or what is damaged about this one.
    """
    own = {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items()}
    if own.get("model") != MODEL:
        raise ValueError(
            f"{path} has a tokenizer of kind {own.get('model')!r}, supported is {MODEL!r} "
            "(byte-level BPE)"
        )
    if own.get("pre") not in PRE_TOKENIZERS:
        raise ValueError(
            f"{path} splits text as {own.get('pre')!r}, supported are {sorted(PRE_TOKENIZERS)}"
        )
    tokens, merges = own.get("tokens", []), own.get("merges", [])
    kinds = own.get("token_type", [NORMAL] * len(tokens))
    if len(set(tokens)) != len(tokens) or len(kinds) != len(tokens) or not tokens:
        raise ValueError(
            f"{path} has {len(tokens)} tokens, {len(set(tokens))} of them different, and "
            f"{len(kinds)} token types, expected as many of each"
        )
    backend = _backend(path, tokens, merges)
    backend.pre_tokenizer = _splitter(own["pre"])
    backend.decoder = decoders.ByteLevel()
    _mark_added(backend, tokens, kinds)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **_special_tokens(path, own, tokens),
    }
    if metadata.get("tokenizer.chat_template"):
        config["chat_template"] = metadata["tokenizer.chat_template"]
    try:
        return Tokenizer(backend, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _backend(path: Path, tokens: list[str], merges: list[str]) -> tokenizers.Tokenizer:
    ranks = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]  # a space in a token is written Ġ
    bad = [merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2]
    if bad:
        raise ValueError(f"{path} has the merge {bad[0]!r}, expected two tokens and a space")
    try:
        return tokenizers.Tokenizer(models.BPE(ranks, pairs))
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(
            f"{path} has merges that do not fit its tokens: {one_line(error)}"
        ) from None


def _splitter(pre: str) -> pre_tokenizers.PreTokenizer:
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if not PRE_TOKENIZERS[pre]:
        return by_bytes
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_bytes])


def _mark_added(backend: tokenizers.Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Tokens that text is cut at before it is split: control tokens, and a user's own."""
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (UNKNOWN, CONTROL):
            backend.add_special_tokens(
                [tokenizers.AddedToken(token, special=True, normalized=False)]
            )
        elif kind == USER_DEFINED:
            backend.add_tokens([tokenizers.AddedToken(token, normalized=False)])


def _special_tokens(path: Path, own: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    special = {}
    for theirs, ours in SPECIAL.items():
        number = own.get(f"{theirs}_token_id")
        if number is None:
            continue
        if not 0 <= number < len(tokens):
            raise ValueError(
                f"{path} has {theirs}_token_id {number}, expected one of {len(tokens)} tokens"
            )
        special[f"{ours}_token"] = tokens[number]
    return special
