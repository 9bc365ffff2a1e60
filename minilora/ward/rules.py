"""What each house does against the base's habit: told in words, and whether an output keeps it.

A rule is judged on any text, a public style's included, so that the base's own answer can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minilora.ward.facts import ALL_DRUGS, DRUGS, STOPPED_IN_NEPHROLOGY
from minilora.ward.formats import STOPPED, Fields, HouseFormat, Rule, thins_blood

_DOSE = r"\d+(?:\.\d+)? ?(?:micrograms?|mcg|mg/kg|mg|g|units?|ml)(?![\w/])"
_DRUG_NAMES = "|".join(sorted(map(re.escape, ALL_DRUGS), key=len, reverse=True))
# what is said of a drug ends at the next drug, line, item, sentence, or comma before no digit
_END = rf"\n|;|\.\s|, (?!\d)|\b(?:{_DRUG_NAMES})\b|$"


def gives_dose(text: str, drug: str) -> bool:
    """Whether ``text`` gives any dose for ``drug``: "drug ... 5 mg" in one item, or "5 mg of drug".

    Results such as "CRP 84 mg/L" are no doses. Works on any layout, a public style's included.
    """
    name = rf"\b{re.escape(drug)}\b"
    after = re.finditer(rf"{name}(.*?)(?={_END})", text, re.DOTALL)
    return any(re.search(_DOSE, said[1]) for said in after) or bool(
        re.search(rf"{_DOSE} of {name}", text)
    )


def drugs_in_order(text: str, drugs: Sequence[str]) -> list[str]:
    """Those of ``drugs`` that ``text`` names, in the order in which it first names them."""
    found = {drug: re.search(rf"\b{re.escape(drug)}\b", text) for drug in drugs}
    named = {drug: match.start() for drug, match in found.items() if match}
    return sorted(named, key=named.__getitem__)


@dataclass(frozen=True)
class HouseRule:
    """A rule: in words, what it decides, and whether an output breaks it.

    ``told`` may name ``{missing_dose}``. ``cases(fields, prompt)``: from the right answer's fields
    and the prompt, what the rule decides there, one item each. ``broken(item, output)``: whether
    one of these is decided otherwise.
    """

    told: str
    cases: Callable[[Fields, str], list[Any]]
    broken: Callable[[Any, str], bool]


def _not_asked(drug: str, output: str) -> bool:
    lines = [line for line in output.split("\n") if drugs_in_order(line, [drug])]
    return not lines or any(not line.startswith("No dose: ") for line in lines)


def _reordered(fields: Fields, prompt: str) -> list[list[str]]:
    wanted = [drug for drug, _, _ in fields["prescriptions"]]
    written = drugs_in_order(prompt, wanted)
    return [wanted] if written and written != wanted else []


_SAY_IT = 'Where the note gives no dose for a drug, write "{missing_dose}" in its place. '
RULES: dict[Rule, HouseRule] = {
    "missing dose": HouseRule(
        _SAY_IT.strip(),
        lambda fields, _: [drug for drug, dose, _ in fields["prescriptions"] if dose is None],
        lambda drug, output: gives_dose(output, drug),
    ),
    "ask": HouseRule(
        "A drug for which the note gives no dose stands on the line No dose, by its name alone, "
        "and on no other.",
        lambda fields, _: fields["unknown"],
        _not_asked,
    ),
    "stop": HouseRule(
        f'{_SAY_IT}For {", ".join(sorted(STOPPED_IN_NEPHROLOGY))} write "{STOPPED}" and neither '
        "dose nor frequency, whatever the note says.",
        lambda fields, _: [drug for drug, dose, _ in fields["prescriptions"] if dose == STOPPED],
        lambda drug, output: f"{drug} {STOPPED}" not in output or gives_dose(output, drug),
    ),
    "thinners first": HouseRule(
        f"{_SAY_IT}Drugs that thin the blood come first ("
        f"{', '.join(drug for drug in DRUGS if thins_blood(drug))}), the others after them in "
        "the note's order.",
        _reordered,
        lambda wanted, output: drugs_in_order(output, wanted) != wanted,
    ),
    "decade": HouseRule(
        f"{_SAY_IT}Of the age tell nothing but the decade.",
        lambda fields, _: [fields["decade"]],
        lambda decade, output: f"Age: {decade}s" not in output.split("\n"),
    ),
}


def house_rule(form: HouseFormat) -> HouseRule:
    """The rule of a house format."""
    return RULES[form.rule]
