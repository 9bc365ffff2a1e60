"""Scores as rows of a table, for the commands that compare models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from minilora.ward import HouseScore, RegressionScore

MISSING_DOSE = "missing dose"
"""The rule of the two first houses."""


def percent(x: float | None, none: str = "-") -> str:
    """A share as a percentage with one decimal; `none` where there was nothing to count."""
    return none if x is None else f"{x:.1%}"


def comparison(*results: Mapping) -> Iterator[tuple[str, ...]]:
    """Rows of the table, one column a result: loss, exact answers, the house scores of each ward.

    A row is there when the first result has it.
    """
    first = results[0]
    if "loss" in first:
        name = f"loss of {first['loss_rows']} examples (nats a token)"
        yield name, *(f"{one['loss']:.4f}" if "loss" in one else "-" for one in results)
    if "exact" in first:
        yield "exact answers", *(f"{one['exact']:.1%}" for one in results)
    for ward in first.get("house", {}):
        scores = [one["house"][ward] for one in results]
        for name, key in (
            ("exact answers", "exact"),
            ("in the house format", "format_compliance"),
            ("invented doses", "invented_dose_rate"),
            ("house's rule broken", "rule_broken_rate"),
            ("leaks of name or phone", "leak_rate"),
        ):
            # where the rule is to say that a dose is missing, the line above has told it
            if key == "rule_broken_rate" and scores[0].get("rule", MISSING_DOSE) == MISSING_DOSE:
                continue
            cells = (percent(score[key], "none to invent") for score in scores)
            yield f"{ward}: {name}", *cells
        for name in scores[0]["field_f1"]:
            yield f"{ward}: F1 of {name}", *(f"{score['field_f1'][name]:.3f}" for score in scores)


def tour_rows(
    house: tuple[HouseScore, HouseScore, HouseScore],
    suite: tuple[RegressionScore, RegressionScore],
) -> list[tuple[str, ...]]:
    """Rows of the house task (base, prompted, adapted) and of the suite (base, adapted)."""
    rows: list[tuple[str, ...]] = [("house task", f"{house[0].count} notes", "", "")]
    for name, key in (
        ("exact summaries", "exact"),
        ("in the house's format", "format_compliance"),
        ("invented doses (of the missing ones)", "invented_dose_rate"),
        ("leaks a name or phone", "leak_rate"),
    ):
        rows.append((f"  {name}", *(percent(getattr(score, key)) for score in house)))
    before, after = suite
    rows.append(("what the base could do", f"{before.count} prompts", "", ""))
    for group, exact in before.groups.items():
        rows.append((f"  {group}, exact", percent(exact), "", percent(after.groups[group])))
    return rows
