"""`minilora steering`: its options and its table."""

from __future__ import annotations

import re

from minilora.cli import steering as command
from minilora.cli.app import main
from minilora.cli.steering import spread
from minilora.runs.steering import Kept, Steering
from minilora.ward.steering import RULES
from tests.says import error_line, names


def kept(share, jointly=0.0):
    return Kept(dict.fromkeys(RULES, share), jointly, jointly)


def test_the_table_has_every_way_with_its_range(tmp_path, capsys, monkeypatch):
    plans = []

    def fake(plan, progress):
        plans.append(plan)
        progress("tone: rate 0.01")
        return Steering(
            plan=plan,
            base=kept(0.0),
            alone={rule: [kept(1.0), kept(0.8), kept(1.0)] for rule in RULES},
            joint=[kept(0.9, 0.7)] * 3,
            methods={"cat": {"kept": [kept(0.5), kept(0.2), kept(0.25, 0.1)]}},
            pairs=[{}] * 36,
            correlations={"on_inputs": -0.25},
            seconds={"training": 1.0},
        )

    monkeypatch.setattr(command, "steer", fake)
    monkeypatch.setenv("COLUMNS", "250")
    out = tmp_path / "out"
    assert main(["steering", "--out", str(out), "--seeds", "3", "--steps", "7"]) == 0
    assert (plans[0].out, plans[0].seeds, plans[0].steps) == (out, (0, 1, 2), 7)
    said = capsys.readouterr().out
    share = r"25% \[20% to 50%\]"
    assert re.search(rf"cat( +{share}){{4}} +25% \[25% to 50%\] +0% \[0% to 10%\]", said)
    assert names(said, "tone: rate 0.01", "36", "-0.25", "70% [70% to 70%]")


def test_a_spread_is_the_median_and_the_ends():
    assert spread([0.9, 0.1, 0.5]) == "50% [10% to 90%]"


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["steering", "--out", str(tmp_path)]) == 1
    assert names(error_line(capsys), tmp_path)
