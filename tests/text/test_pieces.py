"""A long text in pieces: the ids of one call, for every kind of tokenizer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from minilora.text import Tokenizer
from minilora.text.pieces import encode_pieces
from tests.says import refusal

GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = [
    "The patient takes 20 mg of lisinopril daily.\n\nPulse 88,  regular; 1234567 units.",
    "aa aaa aaaa   b\tb\r\n it's, they'll  (x)\n\n\n  äöü éß 漢字仮名。漢字 😀😀 <|end|> e\u0301",
]


def byte_level(**options):
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})


def split(pattern):
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


BYTES = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
LLAMA2 = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
KINDS = {
    "gpt2": dict(pre=byte_level(), trainer=BYTES),
    "smollm": dict(
        pre=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level()]),
        trainer=BYTES,
    ),
    "llama3": dict(
        pre=pre_tokenizers.Sequence([split(GPT4), byte_level(use_regex=False)]), trainer=BYTES
    ),
    "qwen": dict(
        norm=normalizers.NFC(),
        pre=pre_tokenizers.Sequence([split(GPT4), byte_level(use_regex=False)]),
        trainer=BYTES,
    ),
    "prefix space": dict(
        pre=byte_level(add_prefix_space=True),
        post=processors.ByteLevel(trim_offsets=True),
        trainer=BYTES,
    ),
    "llama2": dict(norm=normalizers.Sequence(LLAMA2), no_words=True),
    "metaspace": dict(pre=pre_tokenizers.Metaspace(prepend_scheme="first")),
    "unigram": dict(pre=pre_tokenizers.Metaspace(), unigram=True),
    "lower": dict(
        norm=normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]),
        pre=pre_tokenizers.BertPreTokenizer(),
    ),
}


@functools.cache
def tokenizer(kind):
    """A tokenizer of this kind, trained on CORPUS."""
    options = KINDS[kind]
    is_unigram = options.get("unigram")
    model = models.Unigram() if is_unigram else models.BPE(unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    if "norm" in options:
        backend.normalizer = options["norm"]
    # Llama 2 splits nothing, but was trained on words.
    backend.pre_tokenizer = options.get("pre") or pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<|end|>"]
    kwargs = dict(vocab_size=420, special_tokens=special, show_progress=False)
    if is_unigram:
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **kwargs)
    else:
        trainer = trainers.BpeTrainer(**kwargs, **options.get("trainer", {}))
    backend.train_from_iterator(CORPUS * 4, trainer)
    if options.get("no_words"):
        backend.pre_tokenizer = None
    if "post" in options:
        backend.post_processor = options["post"]
    return Tokenizer(backend, {"eos_token": "<|end|>"})


WORDS = st.one_of(
    st.sampled_from([w for text in CORPUS for w in text.split()]),
    st.text("abe 1234.,'!\n\t ä漢。😀\u0301", min_size=1, max_size=14),
    st.integers(1, 40).map(lambda n: "a" * n),
)
BLANKS = st.sampled_from(["", " ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", " " * 9])
TEXTS = st.lists(st.tuples(WORDS, BLANKS), max_size=90).map(lambda ws: "".join(map("".join, ws)))
CHUNKS = st.integers(1, 700)


def chunks_of(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, size=CHUNKS)
def test_pieces_are_one_call(kind, text, size):
    words = tokenizer(kind)
    pieces = list(encode_pieces(words, chunks_of(text, size), piece=120, context=24))
    assert np.concatenate(pieces).tolist() == words.encode(text)
    assert all(piece.dtype == np.int32 for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_really_cut(kind):
    text = " ".join(CORPUS * 40)
    words = tokenizer(kind)
    pieces = list(encode_pieces(words, [text], piece=400, context=64))
    assert len(pieces) > len(text) / 600
    assert np.concatenate(pieces).tolist() == words.encode(text)
    assert np.concatenate(list(encode_pieces(words, [text]))).tolist() == words.encode(text)


UNBROKEN = st.lists(
    st.sampled_from(["daily", "it's,", "the", "a.", "lisinopril", "漢字仮名。"]), max_size=120
)


@pytest.mark.parametrize("kind", ["llama2", "metaspace", "unigram", "llama3"])
@settings(max_examples=60, deadline=None)
@given(words=UNBROKEN)
def test_pieces_of_a_text_without_blanks_are_one_call(kind, words):
    text, reader = "".join(words), tokenizer(kind)
    pieces = list(encode_pieces(reader, [text], piece=120, context=24))
    assert np.concatenate(pieces).tolist() == reader.encode(text)


@pytest.mark.parametrize("run", [50, 51])
def test_a_place_where_the_context_hides_something_is_no_cut(run):
    """Whether the last a goes with the full stop depends on all of the run, which is longer than
    the context: cut there, the pieces would lose it."""
    vocab = {token: i for i, token in enumerate(["a", ".", "aa", "a."])}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("a", "a"), ("a", ".")]))
    words, text = Tokenizer(backend, {}), ("a" * run + ".") * 20
    pieces = list(encode_pieces(words, [text], piece=120, context=24))
    assert np.concatenate(pieces).tolist() == words.encode(text)


def test_a_word_without_end_is_refused():
    text = "a" * 5000
    with refusal(ValueError, 480, "words"):
        list(encode_pieces(tokenizer("gpt2"), [text], piece=120, context=24, most=500))
    pieces = list(encode_pieces(tokenizer("gpt2"), [text], piece=120, context=24))
    assert np.concatenate(pieces).tolist() == tokenizer("gpt2").encode(text)


def test_no_text_has_no_ids():
    assert sum(len(piece) for piece in encode_pieces(tokenizer("gpt2"), [])) == 0
