"""Spoiled GGUF heads and metadata: refused, equal, or known for another base.

Where a tensor lies is checked as llama.cpp checks it: each begins where the one before it ends, at
the next multiple of the alignment. A changed number or text of the metadata that still makes a
model is another base, which its mark shows.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("gguf", reason="the gguf package is not installed")

from minilora.hub import load_gguf
from minilora.hub.gguf_header import read_header
from minilora.lora import mark_base
from minilora.storage import MappedFile
from tests.fuzz.mutate import spoiled_bytes, spoiled_values
from tests.fuzz.watch import TEXT, Refused, cases, logits, outcome
from tests.hub import ggufs

KEYS = (
    "llama.rope.scaling.type", "llama.expert_count", "llama.attention.value_length",
    "llama.attention.causal", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.unknown_token_id",
    "general.alignment", "llama.rope.scale_linear",
)  # fmt: skip


class File:
    """A GGUF file as it should be, of Q8_0 and F32 tensors, and a place for spoiled ones."""

    def __init__(self, place) -> None:
        self.words = ggufs.digit_tokenizer([TEXT] * 3)
        self.model, self.metadata, self.arrays = ggufs.parts(self.words)
        self.kinds = {
            name: "Q8_0" for name, x in self.arrays.items() if x.shape[-1] % 32 == 0 and x.ndim == 2
        }
        self.path, self.copy = place / "own.gguf", place / "copy.gguf"
        ggufs.write_gguf(self.path, self.metadata, self.arrays, self.kinds)
        self.data = self.path.read_bytes()
        self.head = read_header(MappedFile(self.path)).data_start
        self.own = self.use(self.path)

    def use(self, path):
        """(the logits, ids, mark) of a file."""
        model, words = load_gguf(path)
        return logits(model), words.encode(TEXT), mark_base(model, tokenizer=words)

    def check(self) -> None:
        got = outcome(lambda: self.use(self.copy), len(self.data))
        if isinstance(got, Refused):
            return
        if not np.array_equal(got[0], self.own[0]):
            assert got[2] != self.own[2]
        if got[1] != self.own[1]:
            assert got[2].tokenizer != self.own[2].tokenizer


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return File(tmp_path_factory.mktemp("gguf"))


@cases(150)
@given(data=st.data())
def test_a_spoiled_head_is_refused_or_equal_or_known_for_another(file, data):
    first = data.draw(st.sampled_from([file.head, 32, 1200, None]))
    file.copy.write_bytes(data.draw(spoiled_bytes(file.data, first)))
    file.check()


@cases(100)
@given(data=st.data())
def test_spoiled_metadata_is_refused_or_equal_or_known_for_another(file, data):
    metadata = data.draw(spoiled_values(file.metadata, KEYS))
    try:
        ggufs.write_gguf(file.copy, metadata, file.arrays, file.kinds)
    except Exception:  # a value that this format has no room for
        return
    file.check()


@cases(100)
@given(data=st.data())
def test_a_tensor_that_lies_elsewhere_is_refused(file, data):
    tensors = read_header(MappedFile(file.path)).tensors
    raw = data.draw(st.sampled_from(tensors))
    name = raw.name.encode()
    entry = len(name).to_bytes(8, "little") + name
    at = file.data.index(entry) + len(entry) + 4 + 8 * len(raw.shape) + 4
    offset = data.draw(
        st.one_of(
            st.sampled_from([t.offset for t in tensors]),
            st.integers(-64, 64).map(lambda step: max(0, raw.offset + step)),
            st.integers(0, 2**64 - 1),
        )
    )
    assert int.from_bytes(file.data[at : at + 8], "little") == raw.offset
    file.copy.write_bytes(file.data[:at] + offset.to_bytes(8, "little") + file.data[at + 8 :])
    got = outcome(lambda: file.use(file.copy), len(file.data))
    assert isinstance(got, Refused) == (offset != raw.offset)
