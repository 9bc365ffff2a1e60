"""The house format in words: what a plain prompt can say in place of an adapter."""

from __future__ import annotations

from minilora.ward.diagnoses import diagnoses_of
from minilora.ward.facts import FREQUENCIES
from minilora.ward.formats import HOUSE_INSTRUCTION, HouseFormat, house_format
from minilora.ward.people import INTERVALS
from minilora.ward.rules import house_rule

NUMBER_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven")


def house_instruction(ward: str) -> str:
    """All that the house format of ``ward`` asks for, made from the format itself.

    Its lines in order, abbreviations, separator, exclusions, and its rule.
    Raises ``ValueError`` for a ward without a house format.
    """
    form = house_format(ward)
    lines = [f"{label}: {_content(name, form)}" for label, name in form.layout]
    count = NUMBER_WORDS[len(lines)]
    return "\n".join(
        (
            f"{HOUSE_INSTRUCTION} Write exactly these {count} lines and nothing else. "
            "Give no name and no phone number.",
            *lines,
            f"{house_rule(form).told.format(missing_dose=form.missing_dose)} "
            "Never add a dose that is not in the note.",
        )
    )


def _content(name: str, form: HouseFormat) -> str:
    """What stands behind the label of one field."""
    between = f'with "{form.separator}" between them'
    if name == "diagnosis":
        return f"the diagnosis as an abbreviation ({_diagnoses(form.ward)})"
    if name == "age":
        return "the age as a number"
    if name == "decade":
        return "the age's decade, as in: 70s"
    if name == "unknown":
        return f"the drugs without a dose, {between}, or none"
    if name == "allergy":
        return f"the allergy, or {form.no_allergy} where none is known"
    if name == "investigations":
        return f"the test results as the note gives them, {between}"
    if name == "prescriptions":
        codes = ", ".join(
            f"{forms[form.frequency_form]} for {words}" for words, forms in FREQUENCIES.items()
        )
        return f"each drug with dose and frequency, {between} ({codes})"
    if form.short_interval:
        codes = ", ".join(f"{short} for {words}" for words, short in INTERVALS.items())
        return f"the clinic and when ({codes})"
    return f"the clinic and when, as in: family doctor in {next(iter(INTERVALS))}"


def _diagnoses(ward: str) -> str:
    return ", ".join(f"{d.abbreviation} for {d.name}" for d in diagnoses_of(ward))
