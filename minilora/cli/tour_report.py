"""The tour's table of scores before and after."""

from __future__ import annotations

from minilora.ward import HouseScore, RegressionScore


def percent(x: float | None) -> str:
    """A share as a percentage with one decimal; a dash where there was nothing to count."""
    return "-" if x is None else f"{x:.1%}"


def score_rows(
    house: tuple[HouseScore, HouseScore, HouseScore],
    base: tuple[RegressionScore, RegressionScore],
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
    rows.append(("what the base could do", f"{base[0].count} prompts", "", ""))
    for group, exact in base[0].groups.items():
        rows.append((f"  {group}, exact", percent(exact), "", percent(base[1].groups[group])))
    return rows
