"""`minilora bill`: the table, JSON, the picture, and the count beside the prediction."""

from __future__ import annotations

import json

import pytest
from matplotlib.image import imread

from minilora.analysis import METHODS, SHAPES, Batch, Bill, bill_of
from minilora.cli.app import main
from minilora.cli.bill import unit_of
from tests.says import names


def test_json_holds_the_predicted_bills(capsys):
    assert main(["bill", "--shape", "gpt-3", "--r", "4", "--rows", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["of"] == "gpt-3" and told["counted"] == {}
    for name in METHODS:
        expected = bill_of(SHAPES["gpt-3"], Batch(1, 128, 128), name, 4)
        assert told["predicted"][name] == expected.to_dict()


def test_a_count_stands_beside_the_prediction(capsys):
    assert main(["bill", "--rows", "2", "--time", "30", "--labels", "9", "--count", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for name in METHODS:
        held = told["counted"][name]["total"]
        assert told["predicted"][name]["total"] == pytest.approx(held, rel=0.05)


def test_the_table_and_the_picture(tmp_path, capsys):
    assert main(["bill", "--shape", "llama-2-7b", "--plot", str(tmp_path / "bill.png")]) == 0
    assert names(capsys.readouterr().out, "full", "q,v on nf4", "llama-2-7b")
    assert imread(tmp_path / "bill.png")[..., :3].std() > 0.01


def test_a_unit_is_one_in_which_the_bill_can_be_read():
    def of(total):
        return unit_of({"one": Bill(total - 1, 1, 0, 0, 0), "smaller": Bill(1, 0, 0, 0, 0)})

    assert of(20 << 30) == ("GiB", 1 << 30) and of((20 << 30) - 1) == ("MiB", 1 << 20)
    assert of(20 << 20) == ("MiB", 1 << 20) and of(2) == ("KiB", 1 << 10)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--shape", "8b"), ("'8b'", "gpt-3")),
        (("--shape", "gpt-3", "--count"), ("--count", "--base")),
        (("--r", "0"), ("--r", 0)),
        (("--rows", "0"), ("rows", 0)),
    ],
)
def test_what_makes_no_sense_is_refused(options, named, capsys):
    assert main(["bill", *options]) == 1
    assert names(capsys.readouterr().err, *named)
