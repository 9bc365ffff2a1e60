"""The tables of data/*/README.md say what the JSON files beside them say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, mean, variance
from xml.etree import ElementTree

import pytest

from minilora.runs.dimension import Curve, Level
from minilora.runs.memory_law import Held, exponent

DATA = Path(__file__).resolve().parents[1] / "data"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def load(name):
    return json.loads((DATA / name).read_text("utf-8"))


def page(name: str) -> str:
    """The text of data/NAME/README.md."""
    return (DATA / name / "README.md").read_text("utf-8")


def tables(name: str) -> list[list[list[str]]]:
    """The tables of data/NAME/README.md: rows of cells, the heading first."""
    blocks = re.findall(r"(?:^\|.*\n)+", page(name), re.M)
    cells = [
        [[c.strip() for c in line.strip()[1:-1].split("|")] for line in block.splitlines()]
        for block in blocks
    ]
    return [[row for row in table if not set("".join(row)) <= set("-: |")] for table in cells]


def table(page: str, heading: Sequence[str]) -> dict[str, dict[str, str]]:
    """The table whose heading has these cells: cells by row and column; empty ones left out."""
    for first, *rows in tables(page):
        if set(heading) <= set(first):
            return {
                row[0].strip("*"): {c: t for c, t in zip(first[1:], row[1:], strict=False) if t}
                for row in rows
            }
    raise AssertionError(f"{page} has no table with {heading}")


def agrees(cell: str, *values: float) -> bool:
    """Whether the numbers of a cell are these values, rounded to the digits that it shows."""
    shown = [text.replace(",", "") for text in NUMBER.findall(cell.replace("..", " "))]
    digits = [len(text.partition(".")[2]) for text in shown]
    return len(shown) == len(values) and all(
        abs(float(text) - value) <= 0.5001 * 10.0**-places
        for text, places, value in zip(shown, digits, values, strict=True)
    )


@pytest.mark.parametrize(
    ("cell", "values", "same"),
    [
        ("1.68 [1.63..1.95]", (1.676, 1.634, 1.946), True),
        ("1.68 [1.63..1.95]", (1.676, 1.634, 1.956), False),
        ("150,205", (150204.6,), True),
        ("4.9", (4.96,), False),
        ("4.9 [4.1..5.6]", (4.9,), False),
        ("97.3 % (97.0 to 97.5)", (97.33, 97.0, 97.5), True),
    ],
)
def test_a_cell_is_compared_as_it_says(cell, values, same):
    assert agrees(cell, *values) == same


# ------------------------------------------------------------------------------------------- speed

LABELS = {
    "time of torch with PEFT / ours": ("lora-qv", "torch / minilora, best"),
    "the same, torch's logits at labels only": ("lora-qv", "torch-labelled / minilora, best"),
    "ours / the bare matmuls of the step": ("lora-qv", "minilora / matmul, best"),
    "ours / our own full step": ("lora-qv", "minilora / full, best"),
    "time of a textbook autograd / ours": ("lora-qv", "textbook / minilora, best"),
    "full step, torch / ours": ("full", "torch / minilora, best"),
    "64 tokens at batch 1, torch in a bare loop / ours": ("generate-1", "torch / minilora, best"),
    "the same, transformers' generate loop": ("generate-1", "transformers / minilora, best"),
    "64 tokens at batch 8, torch in a bare loop / ours": ("generate-8", "torch / minilora, best"),
    "time of torch under bfloat16 autocast / ours": ("lora-qv", "torch-bf16 / minilora, best"),
    "our plain step / an activated one": ("lora-qv", "minilora / activated, best"),
    "the same, prompts kept": ("lora-qv", "minilora / activated-kept, best"),
}


@pytest.mark.parametrize(
    ("heading", "files"),
    [
        ("S: width 64", ("lora", "r", "full", "gen", "gen8")),
        ("S", ("xeon",)),
    ],
)
def test_speed(heading, files):
    cells = {
        (cell["workload"]["name"], cell["job"]): cell
        for name in files
        for cell in load(f"bench/{name}.json")["results"]
    }
    compared = 0
    for label, row in table("bench", (heading,)).items():
        for column, shown in row.items():
            job, name = LABELS.get(label, ("lora-qv", ""))
            cell = cells[column.partition(":")[0], job]
            sides = {side: cell["sides"][cell["best"][side]] for side in ("minilora", "torch")}
            if label == "LoRA step on q and v, tokens a second":
                assert agrees(shown, sides["minilora"]["tokens_per_second"]), (label, column)
            elif label == "memory above the model, ours / torch's":
                ours, theirs = (sides[side]["memory"]["growth"] for side in ("minilora", "torch"))
                assert agrees(shown, ours / theirs), (label, column)
            else:
                ratio = cell["ratios"][name]
                values = (ratio["median"], ratio["low"], ratio["high"])
                few = values if "[" in shown else values[:1]
                assert agrees(shown, *few), (label, column)
            compared += 1
    assert compared > 15


def test_tokens_of_the_server_beside_llama_cpp():
    rates = {
        (one["server"], one["work"], str(one["clients"])): one
        for name in ("smollm2-135m-wall", "llama-cpp-wall")
        for one in load(f"serving/{name}.json")["rates"]
    }
    (rows,) = (rows for first, *rows in tables("serving") if first[0] == "by wall")
    assert len(rows) == 6
    for work, clients, *cells in rows:
        ours, theirs = (rates[server, work, clients] for server in ("minilora", "llama.cpp"))
        told = (ours["tokens"], theirs["tokens"], ours["pace"], theirs["pace"])
        for cell, value in zip(cells, told, strict=True):
            assert agrees(cell, value) if value else cell == "none finished"


def test_variants():
    ways = load("variants/variants.json")["ways"]
    (rows,) = (rows for first, *rows in tables("variants") if first[0] == "way")
    assert [row[0] for row in rows] == [way["name"] for way in ways]
    for (name, trained, rate, exact, seeds, less, step), way in zip(rows, ways, strict=True):
        shares = [100 * share for share in way["exact"]]
        assert agrees(trained, way["trained"]) and agrees(rate, way["rate"]), name
        assert agrees(exact, mean(shares), *(100 * end for end in way["interval"])), name
        assert agrees(seeds, min(shares), max(shares)) and agrees(step, *way["step"]), name
        assert not less or agrees(less, *(100 * number for number in way["against"])), name


def test_answers_of_activated_adapters():
    found = load("activated/ward.json")["found"]
    (rows,) = (rows for first, *rows in tables("activated") if "chosen by, %" in first)
    for (how, rate, *cells), row in zip(rows, found, strict=True):
        settings = row["settings"]
        assert (how == "activated", float(rate)) == (settings["activated"], settings["lr"])
        for cell, name in zip(cells, ("choose", "report"), strict=False):
            shares = [100 * share for share in row[name]]
            assert agrees(cell, mean(shares), min(shares), max(shares))
        assert agrees(cells[2], row["seconds"])


def test_steps_of_activated_adapters():
    results = load("activated/steps.json")["results"]
    for label, row in table("activated", ("shape",)).items():
        for column in ("activated", "activated, prompts kept"):
            found = results[label.partition(":")[0]][column]
            values = (found["plain / this"], found["least"], found["largest"])
            assert agrees(row[column], *values), (label, column)


# ----------------------------------------------------------------------------------------- quality


def test_planted_mistakes():
    several = {
        "a wrong answer, less the right one": "a wrong answer",
        "a wrong answer**, less the right one": "a wrong answer",
        "the same, by cosine": "a wrong answer, cosine",
        "what raises the loss of 100 trusted rows": "trusted rows",
        "the row's influence on itself": "itself",
        "the row's own loss": "loss",
    }
    compared = 0
    for label, row in table("why", ("precision of the first 25",)).items():
        for column, shown in row.items():
            precision = load(f"why/{column.replace(' ', '-')}.json")["precision"]
            name = several.get(label)
            if label.startswith("several wrong answers"):
                (name,) = (key for key in precision if key.endswith("wrong answers"))
            if name:
                assert agrees(shown, 100 * precision[name]), (label, column)
                compared += 1
    assert compared == 36


def test_what_replay_gives_back():
    arms = {f"{100 * arm['share']:.0f} % replay": arm for arm in load("gate/replay.json")["arms"]}
    arms["no replay"] = arms.pop("0 % replay")
    names = {"house, exact": "house", "invented, of the missing doses": "invented",
             "base's own tasks, exact": "base"}  # fmt: skip
    groups = {"public styles": "public", "questions": "questions", "refusals": "refusals"}
    rows = table("gate", ("no replay",))
    assert set(names) | set(groups) <= set(rows)
    for label, name in (*names.items(), *groups.items()):
        for column, arm in arms.items():
            runs = arm["runs"]
            values = [100 * (run[name] if label in names else run["groups"][name]) for run in runs]
            shown = rows[label][column].partition(" [")[0]  # Wilson's interval is another test's
            known = (sum(values) / len(values), min(values), max(values))
            assert agrees(shown, *(known if "(" in shown else known[:1])), (label, column)
    for column, arm in arms.items():
        assert agrees(rows["learning rate"][column], arm["lr"])


def test_changes_and_their_ranks():
    arms = load("spectra/changes.json")["arms"]
    names = {"norm of ΔW": "norm", "effective rank": "effective",
             "directions that hold 90 % of the energy": "energy_rank",
             "amplification (4 directions at most)": "amplified"}  # fmt: skip
    rows = table("spectra", ("r 2", "full"))
    for column in ("r 2", "r 8", "r 32", "full"):
        own = [arms[f"{column.replace(' ', '')}s{seed}"] for seed in (0, 1, 2)]
        for label, name in names.items():
            assert agrees(rows[label][column], *(arm[name][0] for arm in own)), label
        assert agrees(rows["intruders"][column], *(arm["intruders"] for arm in own))
        assert agrees(rows["exact, %"][column], *(100 * arm["exact"] for arm in own))
    cuts = load("spectra/changes.json")["full_cut_to"]
    rows = table("spectra", ("full training, cut to its first directions",))
    for directions, found in cuts["0"].items():
        assert agrees(rows["energy left, seed 0, %"][directions], 100 * found["energy"])
        exact = [100 * cut[directions]["exact"] for cut in cuts.values()]
        assert agrees(rows["exact, seeds 0, 1, 2, %"][directions], *exact)


def test_changes_and_what_they_share():
    shared = load("spectra/changes.json")["shared"]
    rows = table("spectra", ("φ of what both read",))
    assert len(rows) == len(shared)
    for label, row in rows.items():
        one, _, other = re.sub(r" \([^)]*\)", "", label).partition(" and ")
        a, b = (f"{one}s0", f"{other}s0") if other else (f"{one.split(',')[0]}s0",) * 2
        b = b if other else b.replace("s0", "s1")
        found = shared[f"{a} {b}".replace("r ", "r")]
        assert agrees(row["first direction"], found["reads_first"][0]), label
        assert agrees(row["whole"], found["reads_whole"][0]), label


def places(run):
    return "all linear" if run["settings"]["target_modules"] == "all-linear" else "q, v"


def old_tasks(run, changing):
    shares = [share for group, share in run["groups"].items() if group not in changing]
    return sum(shares) / len(shares)


def test_many_cheap_runs():
    found = load("sweep/table.json")
    rows = table("sweep", ("combination", "chosen by"))
    assert len(rows) == len(found["found"]) == 24
    for run in found["found"]:
        mix = run["settings"]["data"].replace("1200", "1,200").replace("+", " ")
        row = rows[f"{places(run)}, r {run['settings']['r']}, {mix}"]
        assert agrees(row["numbers"], run["trained"])
        assert agrees(row["chosen by"], 100 * mean(run["choose"]))
        report = [100 * share for share in run["report"]]
        assert agrees(row["reported"], mean(report), min(report), max(report))
        assert agrees(row["old tasks"], 100 * old_tasks(run, found["meant_to_change"]))
        assert row["breaks"] == ("yes" if run["breaks_base"] else "no")


def test_few_rows_and_two_rates():
    found = load("sweep/few.json")
    ((_, *headings), *rows), *others = (
        t for t in tables("sweep") if t[0][0].startswith("from 75 rows")
    )
    assert not others and len(rows) * 2 == len(found["found"]) == 16
    half = len(headings) // 2
    assert headings[half + 1 :] == headings[1:half]
    rates = [float(NUMBER.findall(headings[at])[0]) for at in (0, half)]
    for label, *cells in rows:
        for rate, shown in zip(rates, (cells[:half], cells[half:]), strict=True):
            (run,) = (
                run
                for run in found["found"]
                if f"{places(run)}, r {run['settings']['r']}" == label
                and run["settings"]["lr"] == rate
            )
            old = old_tasks(run, found["meant_to_change"])
            for cell, value in zip(
                shown, (mean(run["choose"]), mean(run["report"]), old), strict=False
            ):
                assert agrees(cell, 100 * value), (label, rate)
            assert shown[3] == ("yes" if run["breaks_base"] else "no")


def test_what_each_knob_gains():
    many, few = load("sweep/table.json")["found"], load("sweep/few.json")["found"]

    def runs(mix, where, *ranks):
        """For each rank the run that is best by the rows to choose by."""
        every = [
            run for run in many + few if (run["settings"]["data"], places(run)) == (mix, where)
        ]
        own = [[run for run in every if run["settings"]["r"] == r] for r in ranks]
        return [max(of_rank, key=lambda run: mean(run["choose"])) for of_rank in own]

    def gain(more, lean):
        total = 0.0
        for side in (more, lean):
            spread = mean(variance(run["report"]) for run in (many if side[0] in many else few))
            total += spread / (3 * len(side))
        points = mean(map(score, more)) - mean(map(score, lean))
        return 100 * points, 200 * total**0.5

    def score(run):
        return mean(run["report"])

    rows = table("sweep", ("from 75 rows", "from 300 rows"))
    for mix, four_times in (("75", "300"), ("300", "1200")):
        lean = runs(mix, "q, v", 1, 2, 8)
        knobs = {
            "rank 32": runs(mix, "q, v", 32),
            "all linear maps": runs(mix, "all linear", 1, 2, 8),
            "four times the rows": runs(four_times, "q, v", 1, 2, 8),
        }
        for label, more in knobs.items():
            assert agrees(rows[label][f"from {mix} rows"], *gain(more, lean)), (label, mix)


def test_steering_wheels():
    found = load("compose/steering.json")
    rows = table("compose", ("domain", "all four"))
    every = {f"{label}": method for label, method in found["methods"].items()}
    named = {
        label: next((m for name, m in every.items() if _is(label, name)), None) for label in rows
    }
    assert sum(method is not None for method in named.values()) == len(every)
    for label, method in named.items():
        if method is None:
            continue
        for rule in ("domain", "tone", "safety", "customer"):
            values = sorted(100 * kept["rules"][rule] for kept in method["kept"])
            middle, spread = values[1], (values[0], values[-1])
            shown = rows[label][rule]
            assert agrees(shown, middle, *(spread if "[" in shown else ())), (label, rule)


def _is(label: str, name: str) -> bool:
    return label == name or label.startswith(f"{name},")


# ------------------------------------------------------------------- dimension, curvature, memory


BASES = ("base64", "base128", "ward-base", "base192")


def curve_of(base):
    (curve,) = (c for c in load("dimension/dimension.json")["curves"] if c["base"] == base)
    return curve


def crossing_of_seed(curve, seed):
    """Where the losses of one seed cross the limit of that seed."""
    levels = tuple(
        Level(x["start"], x["d"], x["step_a_weight"], x["loss"][seed:][:1], x["exact"][seed:][:1])
        for x in curve["levels"]
    )
    told = (curve[name] for name in ("base", "start", "size", "before", "exact_before"))
    return Curve(*told, levels).d90_between


@pytest.mark.parametrize("base", BASES)
def test_losses_along_directions(base):
    curve = curve_of(base)
    rows = table("dimension", (f"{base}: d", "rate a weight"))
    assert agrees(rows.pop("before")["loss (range)"], curve["before"])
    assert len(rows) == len(curve["levels"])
    for level in curve["levels"]:
        row = rows["all, freely" if level["d"] is None else f"{level['d']:,}"]
        assert agrees(row["rate a weight"], level["step_a_weight"])
        for column, scale in (("loss", 1), ("exact", 100)):
            values = [scale * value for value in level[column]]
            known = (fmean(values), min(values), max(values))
            assert agrees(row[f"{column} (range)"], *known), (row, column)


def test_directions_that_a_task_needs():
    curve = curve_of("ward-base")
    for label, key in (("by the loss", "d90"), ("By exact answers", "d90_exact")):
        (text,) = re.findall(rf"{label}\*\* \([^)]*\):\s+([\d,]+)[,;]", page("dimension"))
        assert agrees(text.strip(","), curve[key]), label


def test_directions_that_each_base_needs():
    rows = table("dimension", ("base", "own tasks"))
    assert set(rows) == set(BASES)
    for base, row in rows.items():
        curve = curve_of(base)
        for column, name in {"numbers": "size", "limit": "threshold", "d90": "d90"}.items():
            assert agrees(row[column], curve[name]), (base, column)
        alone = [crossing_of_seed(curve, seed) for seed in range(3)]
        known = (curve["d90_between"], min(alone), max(alone))
        assert agrees(row["interpolated (range)"], *known), base
        exact = row["by exact answers"]
        assert exact == "none" if curve["d90_exact"] is None else agrees(exact, curve["d90_exact"])


def test_single_trials_of_directions():
    rows = table("dimension", ("trial", "loss"))
    told = load("dimension/more_trials.json")
    assert len(rows) == len(told)
    for trial in told:
        said = ", `--said`" * trial["scaled"]
        seed = ", seed 1" * trial["seed"]
        row = rows[f"d {trial['d']:,}, rate {trial['step_a_weight']:g}{said}{seed}"]
        assert agrees(row["loss"], trial["loss"]) and agrees(row["exact"], 100 * trial["exact"])


def test_directions_from_random_weights():
    trials = load("dimension/two_rates.json")
    told = {(x["start"], x["d"], x["step_a_weight"]): x for x in trials if x["seed"] == 0}
    rows, compared = table("dimension", ("d", "random: loss, exact")), 0
    for label, row in rows.items():
        if "d90" in label:
            continue
        rate = 0.0 if label == "before" else 0.0015
        d = None if label in ("before", "all, freely") else int(label.replace(",", ""))
        for start in ("pretrained", "random"):
            trial = told[start, d, rate]
            assert agrees(row[f"{start}: loss, exact"], trial["loss"], 100 * trial["exact"]), label
            compared += 1
    assert compared == 18


def test_curvature_and_rates():
    found = load("curvature/curvature.json")
    shapes = {shape["name"]: shape for shape in found["shapes"]}
    rows = table("curvature", ("adapter", "rate times eigenvalue"))
    assert set(rows) == set(shapes)
    for name, row in rows.items():
        shape = shapes[name]
        values = shape["eigenvalue"]
        middle = math.exp(fmean(map(math.log, values)))
        assert agrees(row["largest eigenvalue (range)"], middle, min(values), max(values)), name
        assert agrees(row["best rate, seeds 0, 1, 2"], *shape["best_rate"]), name
        assert agrees(row["rate times eigenvalue"], shape["product"]), name
        assert agrees(row["loss"], fmean(shape["loss"])), name
    rows = table("curvature", ("over the shapes", "95 % interval"))
    for label, name in (("exponent", "exponent"), ("rank correlation", "correlation")):
        row = rows[label]
        assert agrees(row["measured"], found[name]), label
        assert agrees(row["95 % interval"], *found[f"{name}_interval"]), label


PASSES = {"loads": "300", "ranks": "600", "passes1000": "1,000", "passes2000": "2,000",
          "passes4000": "4,000"}  # fmt: skip
RANKS = ("ranks", "ranks8", "ranks32")


@pytest.mark.parametrize(
    ("heading", "names"),
    [("by load, r 1", ("loads",)), ("by rank", RANKS), ("by passes, r 1", tuple(PASSES))],
)
def test_what_adapters_hold(heading, names):
    rows, compared = table("memory", (heading, "bits held, a number")), 0
    for name in names:
        told = load(f"memory/{name}.json")
        for held in told["held"]:
            facts, r = f"{held['facts']:,}", str(held["r"])
            if heading == "by passes, r 1" and (r, facts) != ("1", "320"):
                continue
            key = {"by load, r 1": facts, "by rank": r, "by passes, r 1": PASSES.get(name)}[heading]
            taught = held["facts"] * told["bits_a_fact"] / held["trained"]
            bits = [bits / held["trained"] for bits in held["bits"]]
            assert agrees(rows[key]["bits taught, a number"], taught), key
            assert agrees(rows[key]["bits held, a number"], *bits), key
            assert agrees(rows[key]["rate"], held["rate"]), key
            assert agrees(rows[key]["recall"], *(100 * share for share in held["recall"])), key
            compared += 1
    assert compared == len(rows) > 1


def test_what_is_held_at_other_rates():
    rows, trials = table("memory", ("trial",)), load("memory/other_rates.json")
    assert len(rows) == len(trials) == 3
    for trial in trials:
        row = rows[f"r {trial['r']}, rate {trial['rate']:g}"]
        assert agrees(row["bits held, a number"], trial["bits"] / trial["trained"])


def test_how_memory_goes_with_the_rank():
    found = [
        Held(h["r"], h["trained"], h["facts"], h["rate"], h["bits"], h["recall"], h["probability"])
        for name in RANKS
        for h in load(f"memory/{name}.json")["held"]
    ]
    assert [held.r for held in found] == [1, 2, 4, 8, 16, 32]
    (text,) = re.findall(r"to the power of \*\*([\d.]+)\*\*", page("memory"))
    assert agrees(text, exponent(found))


# -------------------------------------------------------------------------------------- the tour


def test_the_picture_of_the_tour_has_the_tables_numbers():
    """The first page's picture and the base's card were taken from the same run, or equal ones."""
    root = ElementTree.parse(DATA / "pictures/tour.svg").getroot()
    shown = "".join(root.itertext()).replace("\xa0", " ")
    rows = table("ward-base", ("base, prompted", "adapted"))
    compared = 0
    for label, row in rows.items():
        for column, cell in row.items():
            if cell.endswith("%"):
                assert cell.replace(" ", "") in shown, (label, column)
                compared += 1
    assert compared == 22
