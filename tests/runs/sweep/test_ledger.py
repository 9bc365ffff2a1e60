"""The ledger: what it remembers, after any end, and whose it is."""

from __future__ import annotations

import errno
import json
import os

import pytest

from minilora.runs.sweep import Ledger
from minilora.runs.sweep.ledger import require_ledger_folder
from tests.says import refusal

SWEEP = "sha256:" + "a" * 64


@pytest.fixture
def path(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", SWEEP)
    for run in "abc":
        ledger.started(run, {"r": 1})
    ledger.done("a", {"score": 0.5})
    ledger.failed("b", "no memory")
    return ledger.path


def test_done_failed_and_in_flight_are_read_again(path):
    ledger = Ledger(path, SWEEP)
    assert ledger.results == {"a": {"score": 0.5}}
    assert ledger.failures == {"b": "no memory"}
    assert ledger.in_flight == {"c"}


def test_a_failed_run_may_be_done_later(path):
    ledger = Ledger(path, SWEEP)
    ledger.started("b", {})
    for one in (ledger, Ledger(path, SWEEP)):  # the other as after a kill
        assert one.failures == {} and one.in_flight == {"b", "c"}
    ledger.done("b", {"score": 1.0})
    again = Ledger(path, SWEEP)
    assert again.failures == {} and set(again.results) == {"a", "b"} and again.in_flight == {"c"}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_last_line_that_was_cut_off_is_forgotten(path, cut):
    whole = path.read_bytes()
    Ledger(path, SWEEP).done("c", {"score": 0.25, "note": "a longer line of the ledger"})
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + line[:cut])
    ledger = Ledger(path, SWEEP)
    assert ledger.in_flight == {"c"} and path.read_bytes() == whole
    ledger.done("c", {})
    assert [json.loads(text)["id"] for text in path.read_text().splitlines()[-1:]] == ["c"]


def test_a_first_line_that_was_cut_off_begins_anew(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text('{"sweep": "sha2')
    assert Ledger(path, SWEEP).results == {}
    assert json.loads(path.read_text())["sweep"] == SWEEP


@pytest.mark.parametrize("end", [b"", b'{"state": "do'])
def test_the_ledger_of_another_sweep_is_refused_and_left(path, end):
    path.write_bytes(path.read_bytes() + end)
    before = path.read_bytes()
    with refusal(ValueError, path):
        Ledger(path, "sha256:" + "b" * 64)
    assert path.read_bytes() == before


HEAD = '{"sweep": "' + SWEEP + '"}\n'


@pytest.mark.parametrize(
    "text",
    [
        "what is this\n", '{"a": 1}\n', "[1]\n", "notes without an end of line", '{"sweep": 3}\n',
        "notes\nand their end", HEAD + "{}\n", HEAD + '{"state": "done", "id": "a"}\n',
        HEAD + '{"state": [1], "id": "a"}\n', HEAD + '{"state": "done", "id": 1, "result": {}}\n',
        HEAD + "\n",
    ],
)  # fmt: skip
def test_what_is_no_ledger_is_refused(tmp_path, text):
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with refusal(ValueError, path):
        Ledger(path, SWEEP)
    assert path.read_text() == text


def test_a_byte_of_a_files_name_that_is_no_text_stops_no_ledger(path):
    Ledger(path, SWEEP).failed("c", os.fsdecode(b"no \xff file"))
    assert os.fsencode(Ledger(path, SWEEP).failures["c"]) == b"no \xff file"


def test_a_folder_of_something_else_is_refused(path, tmp_path):
    require_ledger_folder(path.parent)
    require_ledger_folder(tmp_path / "new")
    (tmp_path / "begun" / "ledger.run").mkdir(parents=True)
    require_ledger_folder(tmp_path / "begun")
    (tmp_path / "begun" / "thesis.txt").touch()
    with refusal(ValueError, "thesis.txt", "ledger.jsonl"):
        require_ledger_folder(tmp_path / "begun")
    with refusal(ValueError, "thesis.txt"):
        require_ledger_folder(tmp_path / "begun" / "thesis.txt")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_an_error_that_names_the_ledger(path, monkeypatch):
    ledger, before = Ledger(path, SWEEP), path.read_bytes()
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        ledger.done("c", {"score": 1.0})
    assert caught.value.filename == str(path) and caught.value.errno == errno.ENOSPC
    assert "c" not in ledger.results  # what is not written down is not done
    path.unlink()
    path.write_bytes(before)
    assert Ledger(path, SWEEP).in_flight == {"c"}
