"""The gate's verdicts on answers, its rules, what it lists, its evidence, and stopping early."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from minilora.evaluation.cases import ward_case
from minilora.evaluation.gate import (
    Sheet,
    Verdict,
    judge_sheets,
    metrics_of,
    outcomes,
    row_key,
    rows_to_tell,
)
from minilora.evaluation.junit import junit
from minilora.evaluation.paired import Counts
from minilora.evaluation.rules import DROP, GROUP_DROP, Rules, Threshold, read_rules
from minilora.evaluation.stopping import StoppingGate
from minilora.ward import house_examples, regression_suite
from tests.says import refusal

WRONG = "something else"


def cases_of(count, task="t/a", patients=0):
    """Cases that differ; with patients, so many patients take turns."""
    return [
        ward_case(
            {"prompt": f"ask {i}", "completion": f"answer {i}", "task": task}
            | ({"patient": i % patients} if patients else {}),
            f"rows:{i + 1}",
        )
        for i in range(count)
    ]


def sheet_of(right_before, right_after, *, name="s", tasks=None, patients=0):
    """A sheet whose answers are right where the lists say so."""
    cases = []
    for i in range(len(right_before)):
        cases += [cases_of(i + 1, (tasks or ["t/a"] * (i + 1))[i], patients)[i]]

    def answers(right):
        return [c.expected if ok else WRONG for c, ok in zip(cases, right, strict=True)]

    return Sheet(name, cases, answers(right_before), answers(right_after))


def verdict_of(before, after, **rules):
    sheet = sheet_of(before, after)
    (measure,) = judge_sheets([sheet], Rules(metrics={"s: exact": Threshold(**rules)})).measures
    return measure.verdict


def test_three_verdicts_and_their_codes():
    assert [v.code for v in Verdict] == [0, 1, 2]
    right = [1] * 100
    assert verdict_of(right, right) is Verdict.PASS
    assert verdict_of(right, [1] * 80 + [0] * 20) is Verdict.FAIL
    assert verdict_of(right, [1] * 94 + [0] * 6) is Verdict.CANT_TELL
    # As few rows as these tell no drop of a twentieth from none.
    assert verdict_of([1] * 40, [1] * 40) is Verdict.CANT_TELL
    assert verdict_of([1] * 40, [1] * 40, drop=0.1) is Verdict.PASS
    # A drop below 0 asks for more than before.
    assert verdict_of([0] * 50 + [1] * 50, right, drop=-0.3) is Verdict.PASS
    assert verdict_of(right, right, drop=-0.1) is Verdict.FAIL
    # The least share: of the second model, whatever the first had.
    assert verdict_of([0] * 100, [1] * 99 + [0], least=0.9) is Verdict.PASS
    assert verdict_of([0] * 100, [1] * 70 + [0] * 30, least=0.9) is Verdict.FAIL
    assert verdict_of([0] * 100, [1] * 91 + [0] * 9, least=0.9) is Verdict.CANT_TELL


def test_the_overall_verdict_is_of_what_decides():
    good, bad = sheet_of([1] * 100, [1] * 100, name="a"), sheet_of([1] * 100, [0] * 100, name="b")
    few = sheet_of([1] * 5, [1] * 5, name="c")
    assert judge_sheets([good]).verdict is Verdict.PASS
    assert judge_sheets([good, few]).verdict is Verdict.CANT_TELL
    assert judge_sheets([few, bad, good]).verdict is Verdict.FAIL
    informed = Rules(metrics={"b: exact": Threshold(gating=False)})
    gate = judge_sheets([good, bad], informed)
    assert gate.verdict is Verdict.PASS
    assert [m.verdict for m in gate.measures] == [Verdict.PASS, Verdict.FAIL]
    with refusal(ValueError, "gating"):
        judge_sheets([bad], informed)
    with refusal(ValueError, "c: exact", "a: exact"):
        judge_sheets([good], Rules(metrics={"c: exact": Threshold()}))


def test_many_metrics_do_not_fail_by_chance():
    # Six lost of sixty: alone that is a drop, among ten such files it may be chance.
    one = sheet_of([1] * 60, [1] * 54 + [0] * 6, name="one")
    still = [sheet_of([1] * 60, [1] * 60, name=f"f{i}") for i in range(9)]
    rules = Rules(drop=0.0)
    assert judge_sheets([one], rules).verdict is Verdict.FAIL
    gate = judge_sheets([one, *still], rules)
    assert gate.verdict is Verdict.CANT_TELL
    assert gate.measures[0].p_fail == pytest.approx(10 * 2**-6)
    # Five of sixty are chance with 1 in 32, and one in forty is what a failure asks for.
    five = sheet_of([1] * 60, [1] * 55 + [0] * 5, name="five")
    assert judge_sheets([five], rules).verdict is Verdict.CANT_TELL
    # A metric that only informs takes no part in the correction.
    informing = Rules(drop=0.0, metrics={f"f{i}: exact": Threshold(gating=False) for i in range(9)})
    assert judge_sheets([one, *still], informing).verdict is Verdict.FAIL


def test_metrics_are_all_rows_each_group_and_the_houses_scores():
    tasks = ["public/a", "public/b", "question/c", "question/d"]
    sheet = sheet_of([1, 1, 1, 0], [1, 0, 0, 0], tasks=tasks)
    found = {m.name: (m.group, list(m.rows), m.pairs.counts) for m in metrics_of(sheet)}
    assert found == {
        "s: exact": (False, [0, 1, 2, 3], Counts(1, 2, 0, 1)),
        "s: public": (True, [0, 1], Counts(1, 1, 0, 0)),
        "s: question": (True, [2, 3], Counts(0, 1, 0, 1)),
    }
    assert len(metrics_of(sheet_of([1], [1]))) == 1  # one group is the file itself
    thresholds = {m.name: m.threshold.drop for m in judge_sheets([sheet]).measures}
    assert thresholds == {"s: exact": DROP, "s: public": GROUP_DROP, "s: question": GROUP_DROP}

    rows = [e.to_dict() for e in house_examples("cardiology", "heldout", 12, seed=4)]
    row = next(row for row in rows if len(row["facts"]["no_dose"]) > 1)
    case = ward_case(row, "x")
    drug = row["facts"]["no_dose"][0]
    name = row["facts"]["name"]
    assert outcomes(case, row["completion"]) == {
        "exact": [True], "house format": [True],
        "no dose invented": [True] * len(row["facts"]["no_dose"]), "no name or phone": [True],
    }  # fmt: skip
    answer = outcomes(case, f"{name} takes {drug} 5 mg")
    assert answer["exact"] == answer["house format"] == answer["no name or phone"] == [False]
    assert answer["no dose invented"][0] is False and answer["no dose invented"][1] is True
    # Doses of one note are one patient's.
    sheet = Sheet("h", [ward_case(r, str(i)) for i, r in enumerate(rows)], *[["-"] * 12] * 2)
    doses = next(m for m in metrics_of(sheet) if m.name == "h: no dose invented").pairs
    assert len(doses) > len(doses.sizes) and len(doses) == sum(
        len(r["facts"]["no_dose"]) for r in rows
    )


def test_rows_of_one_patient_count_as_one():
    alone = sheet_of([1] * 60, [1] * 48 + [0] * 12)
    of_six = sheet_of([1] * 60, [1] * 48 + [0] * 12, patients=6)
    (one,), (other,) = (judge_sheets([s]).measures for s in (alone, of_six))
    assert (one.patients, other.patients) == (60, 6)
    assert other.interval[0] < one.interval[0] and other.interval[1] > one.interval[1]
    assert one.could_see < other.could_see


def test_the_p_value_beside_the_interval_is_two_sided():
    before, after = [1] * 30 + [0] * 30, [1] * 26 + [0] * 4 + [1] * 9 + [0] * 21
    (alone,) = judge_sheets([sheet_of(before, after)]).measures
    assert alone.p == pytest.approx(binomtest(4, 13).pvalue)
    for one, other in ((before, after), (after, before)):
        (few,) = judge_sheets([sheet_of(one, other, patients=20)]).measures
        # Each patient has three rows, of which one at most was lost, and one at most gained.
        nets = np.array(other).reshape(3, 20).sum(0) - np.array(one).reshape(3, 20).sum(0)
        up, down = int((nets > 0).sum()), int((nets < 0).sum())
        assert set(nets.tolist()) <= {-1, 0, 1}
        assert few.p == pytest.approx(binomtest(up, up + down).pvalue)


def test_a_least_share_is_a_second_test_and_counts_patients():
    rules = Rules(metrics={"s: exact": Threshold(least=0.9)})
    (alone,) = judge_sheets([sheet_of([0] * 60, [1] * 48 + [0] * 12)], rules).measures
    assert alone.p_fail == pytest.approx(2 * binom.cdf(48, 60, 0.9))
    # 50 of 60 rows of 7 patients are 5.83 patients, and nobody is counted as less than they are.
    sheet = sheet_of([0] * 60, [1] * 50 + [0] * 10, patients=7)
    (few,) = judge_sheets([sheet], rules).measures
    assert few.p_fail == pytest.approx(min(1, 2 * binom.cdf(6, 7, 0.9)))


def test_what_was_lost_and_what_never_works_is_listed():
    tasks = ["a/x", "a/x", "a/y", "a/y", "a/z"]
    gate = judge_sheets([sheet_of([1, 1, 1, 0, 0], [1, 1, 0, 0, 0], tasks=tasks)])
    assert [row.case.source for row in gate.lost] == ["rows:3"]
    assert [row.case.source for row in gate.always_wrong] == ["rows:4", "rows:5"]
    assert gate.hopeless == {"a/y": 2}  # one row, as of a/z, is no pattern
    evidence = json.loads(json.dumps(gate.to_dict()))
    assert evidence["verdict"] == gate.verdict.word
    assert [row["right"] for row in evidence["rows"]][2] == [True, False]
    assert evidence["rows"][2]["after"] == WRONG
    (measure,) = [m for m in evidence["metrics"] if m["name"] == "s: exact"]
    assert (measure["lost"], measure["gained"], measure["rows"]) == (1, 0, 5)
    assert measure["change"] == pytest.approx(-0.2)


def test_a_row_is_known_by_what_it_asks_and_expects():
    one, other = cases_of(2)
    again = ward_case({"prompt": "ask 0", "completion": "answer 0", "task": "q/z"}, "moved:9")
    assert row_key(one) == row_key(again) != row_key(other)
    changed = ward_case({"prompt": "ask 0", "completion": "answer 1"}, "rows:1")
    assert row_key(changed) not in (row_key(one), row_key(other))


def test_how_many_rows_would_tell():
    counts = Counts(57, 3, 0, 0)
    needed = rows_to_tell(counts, 0.1, 0.95)
    assert needed > 60
    (measure,) = judge_sheets([sheet_of([1] * 60, [1] * 57 + [0] * 3)], Rules(drop=0.1)).measures
    assert measure.rows_needed == needed and measure.verdict is Verdict.CANT_TELL
    more = round(needed / 20) * 20
    more_lost = round(more * 0.05)
    assert (
        verdict_of([1] * more, [1] * (more - more_lost) + [0] * more_lost, drop=0.1) is Verdict.PASS
    )
    assert rows_to_tell(counts, 0.05, 0.95) is None  # the change is the tolerance itself


def test_rules_are_read_from_toml(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        'confidence = 0.9\ngroup_drop = 0.2\n[metrics."s: exact"]\nleast = 0.8\ngating = false\n'
    )
    rules = read_rules(path)
    assert rules == Rules(
        confidence=0.9, group_drop=0.2, metrics={"s: exact": Threshold(least=0.8, gating=False)}
    )
    assert rules.alpha == pytest.approx(0.05)
    assert rules.threshold("s: exact", False).least == 0.8
    assert rules.threshold("s: g", True).drop == 0.2
    for text, *named in (
        ("drop = 2.0", 2, 1),
        ("drop = nan", "drop"),
        ('drop = "much"', "much"),
        ("confidence = 0.2", 0.2),
        ("drops = 0.1", "drops", "group_drop"),
        ('[metrics."x"]\nmost = 1', "most", "least"),
        ('[metrics."x"]\nleast = 1.5', 1.5),
        ('[metrics."x"]\ngating = 1', 1),
        ('metrics = "x"', "x"),
        ("[metrics]\nx = 3", 3),
        ("= broken", "TOML"),
    ):
        path.write_text(text)
        with refusal(ValueError, str(path), *named):
            read_rules(path)
    path.write_bytes(b"\xff")
    with refusal(ValueError, str(path)):
        read_rules(path)


def test_junit_shows_failures_where_they_decide():
    bad = sheet_of([1] * 100, [0] * 100, name="b")
    bad = Sheet(bad.name, bad.cases, bad.before, ["bell \x07"] * 100)
    gate = judge_sheets(
        [sheet_of([1] * 5, [1] * 5, name="c"), bad, sheet_of([1] * 9, [0] * 9, name="i")],
        Rules(metrics={"i: exact": Threshold(gating=False)}),
    )
    root = ET.fromstring(junit(gate, "cardio <1>"))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("3", "1", "1")
    by_name = {case.get("name"): [child.tag for child in case] for case in root}
    assert by_name == {"c: exact": ["error"], "b: exact": ["failure"], "i: exact": ["system-out"]}
    assert "rows:1" in root.find(".//failure").text


# -- stopping early -------------------------------------------------------------------------------


def play(cases, rules, right_after, seed=0, right_before=None):
    """A stopping gate on one file whose rows are right where the lists say so."""
    gate = StoppingGate([("s", cases)], rules, seed)
    before = [True] * len(cases) if right_before is None else right_before
    for batch in gate.batches():
        texts = [
            [cases[row].expected if right[row] else WRONG for _, row in batch]
            for right in (before, right_after)
        ]
        gate.add(batch, *texts)
    return gate


def test_it_stops_when_it_is_decided():
    cases = cases_of(400)
    lost = play(cases, Rules(), [False] * 400)
    assert lost.verdict is Verdict.FAIL and len(lost.answered[0]) == 32
    same = play(cases, Rules(drop=0.1), [True] * 400)
    assert same.verdict is Verdict.PASS and len(same.answered[0]) < 100
    edge = play(cases, Rules(drop=0.1), [i % 10 > 0 for i in range(400)])
    assert edge.verdict is Verdict.CANT_TELL and len(edge.answered[0]) == 400
    result = lost.result()
    assert result.verdict is Verdict.FAIL and result.measures[0].rows == 32
    assert result.measures[0].p_fail < 0.025
    assert {row.case.source for row in result.rows()} != {f"rows:{i + 1}" for i in range(32)}
    with refusal(ValueError, "answers"):
        StoppingGate([("s", cases)]).result()


def test_its_order_is_the_seeds_and_patients_stay_whole():
    cases = cases_of(200, patients=50)
    firsts = [next(StoppingGate([("s", cases)], seed=seed).batches()) for seed in (0, 0, 1)]
    assert firsts[0] == firsts[1] != firsts[2]
    chosen = {cases[row].patient for _, row in firsts[0]}
    assert len(firsts[0]) == 4 * len(chosen)


def test_a_least_share_is_decided_too():
    rules = Rules(metrics={"s: exact": Threshold(least=0.5)})
    nothing = [False] * 300
    gate = play(cases_of(300), rules, nothing, right_before=nothing)
    assert gate.verdict is Verdict.FAIL and len(gate.answered[0]) < 100
    good = play(cases_of(300), rules, [True] * 300, right_before=nothing)
    assert good.verdict is Verdict.PASS


def test_groups_that_are_decided_are_asked_no_more():
    tasks = ["a/x", "b/y"]
    cases = [cases_of(i + 1, tasks[i % 2])[i] for i in range(200)]
    rules = Rules(metrics={"s: exact": Threshold(gating=False), "s: b": Threshold(drop=0.3)})
    after = [True] * 200
    after[::2] = [i % 10 > 0 for i in range(100)]  # of group a a tenth is lost, as it may be
    gate = play(cases, rules, after)
    asked = [sum(row % 2 == side for row in gate.answered[0]) for side in (0, 1)]
    assert asked[0] == 100 and asked[1] < 60
    assert {m.name: m.verdict for m in gate.result().measures}["s: b"] is Verdict.PASS


def test_stopping_early_keeps_the_error_rate():
    # Of three groups each loses exactly what it may: any verdict but "can't tell" is an error.
    rng, tries, rules = np.random.default_rng(), 150, Rules(confidence=0.8, group_drop=0.1)
    rules = Rules(confidence=0.8, group_drop=0.1, metrics={"s: exact": Threshold(gating=False)})
    cases = [cases_of(i + 1, f"g{i % 3}/x")[i] for i in range(180)]
    ends = [play(cases, rules, rng.random(180) >= 0.1, seed=k).verdict for k in range(tries)]
    for verdict in (Verdict.FAIL, Verdict.PASS):
        rate = ends.count(verdict) / tries
        assert rate <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / tries), (verdict, rate)


def test_the_wards_suite_has_the_groups_that_a_gate_needs():
    suite = regression_suite("heldout", 2, 3)
    cases = [ward_case(example.to_dict(), str(i)) for i, example in enumerate(suite)]
    names = {m.name for m in metrics_of(Sheet("r", cases, *[[c.expected for c in cases]] * 2))}
    expected = {"public", "question", "refusal", "formulary", "abbreviation", "exact"}
    assert names == {f"r: {name}" for name in expected}
    assert all(case.patient for case in cases if case.task.split("/")[0] == "public")
