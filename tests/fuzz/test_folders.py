"""Spoiled folders of adapters and of bases: refused, equal, or known for another base.

A weight of a base that was changed to another finite number can't be known from the base alone,
since its folder has no checksum: then the base has another mark, and an adapter of the old base is
refused on it. An adapter has a checksum of its own, so no change of it may show in the logits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.hub import load_pretrained, save_pretrained
from minilora.lora import Adapter, BaseMismatchError, LoRAConfig, attach, mark_base
from minilora.text import Tokenizer
from tests import tiny
from tests.fuzz.mutate import spoiled_bytes, spoiled_json
from tests.fuzz.watch import TEXT, Refused, cases, logits, outcome

BASE = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
ADAPTER = ("adapter_config.json", "minilora.json", "adapter_model.safetensors")
CONFIG_KEYS = (
    "rope_scaling", "rope_parameters", "rope_theta", "head_dim", "num_key_value_heads",
    "attention_bias", "mlp_bias", "quantization_config", "sliding_window", "layer_types",
    "partial_rotary_factor", "pad_token_id", "bos_token_id", "dtype", "torch_dtype",
)  # fmt: skip
TOKENIZER_KEYS = (
    "chat_template", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens",
    "bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_prefix_space",
)  # fmt: skip
ADAPTER_KEYS = (
    "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "use_dora", "use_rslora", "bias", "modules_to_save", "lora_bias",
    "fan_in_fan_out", "alora_invocation_tokens", "trainable_token_indices", "peft_type", "r",
    "base_config", "scaling", "format_version", "base_held_fingerprint", "provenance",
)  # fmt: skip


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Folders:
    """A base and an adapter of it, as they should be, and places to spoil copies in."""

    def __init__(self, place: Path) -> None:
        self.base, self.adapter = place / "base", place / "adapter"
        words = tiny.tokenizer()
        made = tiny.model(tokenizer=words, num_hidden_layers=2).eval()
        save_pretrained(self.base, made, words)
        self.model, self.words = load_pretrained(self.base)
        self.logits, self.ids = logits(self.model), self.words.encode(TEXT)
        self.chat = self.words.encode_prompt(TEXT)
        self.mark = mark_base(self.model, "base", self.words)
        config = LoRAConfig(
            r=2, lora_alpha=6, target_modules=("q_proj", "down_proj"), rank_pattern={"q_proj": 3}
        )
        attachment = attach(self.model, config, np.random.default_rng(0))
        rng = np.random.default_rng(1)
        for layer in attachment.layers.values():
            layer.lora_B.data = rng.standard_normal(layer.lora_B.shape, dtype=np.float32)
        attachment.adapter(base_name="base").write(self.adapter)
        self.adapted = logits(self.model)
        attachment.detach()
        assert np.abs(self.adapted - self.logits).max() > 0.1
        own = Adapter.read(self.adapter)
        made = Adapter(own.config, {m: own.factors(m) for m in own.modules}, base=self.mark)
        made.write(self.adapter)
        self.own = Adapter.read(self.adapter)
        self.copy = place / "copy"

    def spoiled(self, source: Path, name: str, data: bytes | None, how: str = "file") -> Path:
        """A copy of a folder in which one file has other bytes, is gone, or is no file."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(source, self.copy)
        (self.copy / name).unlink()
        if how == "folder":
            (self.copy / name).mkdir()
        elif how == "circle":
            (self.copy / name).symlink_to(name)
        elif how == "file":
            (self.copy / name).write_bytes(data)
        return self.copy

    def use_adapter(self, folder: Path):
        """(the logits with it, the adapter) of a folder; the model is plain again afterwards."""
        adapter = Adapter.read(folder)
        attachment = attach(self.model, adapter, base_name="base")
        try:
            return logits(self.model), adapter
        finally:
            attachment.detach()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("fuzz"))


def spoiled_file(draw, folder: Path, names, keys):
    """(name, bytes or None, how) of one spoiled file of a folder."""
    name = draw(st.sampled_from(names))
    how = draw(st.sampled_from(["file"] * 20 + ["gone", "folder", "circle"]))
    if how != "file":
        return name, None, how
    data = (folder / name).read_bytes()
    if name.endswith(".json") and draw(st.booleans()):
        return name, draw(spoiled_json(json.loads(data), keys)), how
    head = 8 + int.from_bytes(data[:8], "little") if name.endswith(".safetensors") else None
    first = draw(st.sampled_from([head, 16, None]))
    return name, draw(spoiled_bytes(data, first)), how


# -- adapters --------------------------------------------------------------------------------------


@cases(250)
@given(data=st.data())
def test_a_spoiled_adapter_is_refused_or_equal(folders, data):
    place = folders.spoiled(
        folders.adapter, *spoiled_file(data.draw, folders.adapter, ADAPTER, ADAPTER_KEYS)
    )
    got = outcome(lambda: folders.use_adapter(place), size_of(place))
    if not isinstance(got, Refused):
        assert np.array_equal(got[0], folders.adapted)
    assert np.array_equal(logits(folders.model), folders.logits)  # nothing stays behind


# -- bases -----------------------------------------------------------------------------------------


def open_spoiled(place: Path):
    """(model, tokenizer, logits, ids, chat or Refused) of a folder, or what opening it raises."""
    model, words = load_pretrained(place)
    out = logits(model)
    try:
        chat = words.encode_prompt(TEXT)
    except ValueError as error:
        chat = Refused(error)
    return model, words, out, words.encode(TEXT), chat


def check_base(folders: Folders, place: Path) -> None:
    got = outcome(lambda: open_spoiled(place), size_of(place))
    if isinstance(got, Refused):
        return
    model, words, out, ids, chat = got
    mark = mark_base(model, "base", words)
    if not np.array_equal(out, folders.logits):
        assert mark != folders.mark
        with pytest.raises(BaseMismatchError):
            attach(model, folders.own)
    if ids != folders.ids:
        assert mark.tokenizer != folders.mark.tokenizer
    elif chat != folders.chat:
        assert (mark.tokenizer, mark.template) != (folders.mark.tokenizer, folders.mark.template)


@cases(250)
@given(data=st.data())
def test_a_spoiled_base_is_refused_or_equal_or_known_for_another(folders, data):
    keys = CONFIG_KEYS + TOKENIZER_KEYS
    check_base(
        folders, folders.spoiled(folders.base, *spoiled_file(data.draw, folders.base, BASE, keys))
    )


@cases(200)
@given(data=st.data())
def test_a_config_is_refused_or_equal_or_known_for_another(folders, data):
    own = json.loads((folders.base / "config.json").read_bytes())
    text = data.draw(spoiled_json(own, CONFIG_KEYS))
    check_base(folders, folders.spoiled(folders.base, "config.json", text))


@cases(60)
@given(data=st.data())
def test_a_tokenizer_alone_is_refused_or_gives_ids_that_it_has(folders, data):
    name = data.draw(st.sampled_from(BASE[1:3]))
    own = json.loads((folders.base / name).read_bytes())
    place = folders.spoiled(folders.base, name, data.draw(spoiled_json(own, TOKENIZER_KEYS)))

    def use():
        words = Tokenizer.from_folder(place)
        return words.vocab_size, words.encode(TEXT), words.decode(words.encode(TEXT)), words.pad_id

    got = outcome(use, size_of(place))
    if not isinstance(got, Refused):
        assert all(0 <= i < got[0] for i in got[1])


# -- headers of safetensors ------------------------------------------------------------------------


def with_header(data: bytes, header: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


@cases(150)
@given(data=st.data())
def test_a_header_is_refused_or_equal_or_known_for_another(folders, data):
    source, name = data.draw(
        st.sampled_from([(folders.base, BASE[3]), (folders.adapter, ADAPTER[2])])
    )
    raw = (source / name).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    spoiled = data.draw(spoiled_json(header, ("__metadata__", "lm_head.weight")))
    place = folders.spoiled(source, name, with_header(raw, spoiled))
    if source == folders.base:
        check_base(folders, place)
        return
    got = outcome(lambda: folders.use_adapter(place), size_of(place))
    if not isinstance(got, Refused):
        assert np.array_equal(got[0], folders.adapted)
