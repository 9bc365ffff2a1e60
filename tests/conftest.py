"""Settings for every test: one BLAS thread, no network, and which tests a run leaves out.

`pytest` runs the library's tests, every exercise and one chapter. `-m core` runs the rooms that a
change of the mathematics touches, `-m ch05` all of a chapter as shipped, `--all` everything.

`minilora test` shares the tests among two processes, which both make the list: what a test is
called must depend on nothing but the sources (no time, no set's order, no temporary path).
"""

from __future__ import annotations

import multiprocessing
import os
import re

# Before NumPy is imported: a second OpenBLAS thread spins while it waits.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs a download is a mistake

import pytest  # noqa: E402

ONLY_WITH_ALL = ("interop", "gpu", "solved", "chapters")
SAMPLE = "ch00"
"""The mark of the chapter that every run executes as shipped."""
CORE = ("autograd", "nn", "lora", "training", "gradients")
"""The folders whose tests get the mark `core`, but for those that start processes."""


@pytest.fixture(scope="session")
def house():
    """The house as its sources are: files, lines and imports."""
    from minilora.rooms import read_house

    return read_house()


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer of tiny.py."""
    from tests import tiny

    return tiny.tokenizer()


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """A maker of models in which every field of config.json has a value that nobody guesses."""
    from tests import tiny

    shape = dict(
        hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=0, max_position_embeddings=64, rms_norm_eps=2e-5,
    )  # fmt: skip
    return lambda **changes: tiny.model(tokenizer=tokenizer, **{**shape, **changes}).eval()


@pytest.fixture
def saved(tmp_path, make_model, tokenizer):
    """A saved folder, fresh for each test that spoils it."""
    from minilora.hub import save_pretrained

    save_pretrained(tmp_path / "model", make_model(), tokenizer, "# A card\n")
    return tmp_path / "model"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="also run tests marked interop and solved, every chapter, and gpu where there is one",
    )


def pytest_ignore_collect(collection_path, config: pytest.Config) -> bool | None:
    """Leave folders of such tests unread, so that they may import what is not installed."""
    if collection_path.parent != config.rootpath / "tests":
        return None
    if collection_path.name in {"interop", "gpu"} & set(_left_out(config)):
        return True
    if config.getoption("-m") == "core" and collection_path.name not in CORE:
        return True
    return None


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name in CORE and not item.get_closest_marker("processes"):
        item.add_marker("core")
    if item.path.parent.name == "interop" and item.config.pluginmanager.hasplugin("xdist"):
        # In one process: a module's real model is loaded once, and two would not fit everywhere.
        item.add_marker(pytest.mark.xdist_group(item.path.stem.split("_")[1]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = _left_out(config)
    kept, dropped = [], []
    for item in items:
        marks = {mark for mark in left_out if item.get_closest_marker(mark)}
        if item.get_closest_marker(SAMPLE):
            marks.discard("chapters")
        (dropped if marks else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    from minilora.backend import is_gpu_available

    for item in items:
        if item.get_closest_marker("gpu") and not is_gpu_available():
            item.add_marker(pytest.mark.skip(reason="needs CuPy and a CUDA device"))


def _left_out(config: pytest.Config) -> tuple[str, ...]:
    """The marks whose tests this run leaves out: those of ONLY_WITH_ALL that nobody asked for."""
    if config.getoption("--all"):
        return ()
    asked = config.getoption("-m") or ""
    if re.search(r"\bch\d\d\b|\bsolved\b", asked):
        asked += " chapters"
    return tuple(mark for mark in ONLY_WITH_ALL if mark not in asked)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if _left_out(config):
        marks = ", ".join(_left_out(config))
        but = f" but for {SAMPLE}" if "chapters" in _left_out(config) else ""
        terminalreporter.write_line(f"left out: tests marked {marks}{but} (--all runs them)")


@pytest.fixture
def no_child_is_left():
    """Fails a test that leaves a process. Those of a pool that an earlier test used may idle on."""
    before = set(multiprocessing.active_children())
    yield before
    assert not set(multiprocessing.active_children()) - before
