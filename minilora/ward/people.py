"""The people of the synthetic hospital: closed lists of names, allergies, clinics, social lines."""

from __future__ import annotations

from minilora.ward.facts import LATER_WARDS
from minilora.ward.strangers import STRANGE_WARDS


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FEMALE_NAMES = _names(
    """Maria Anna Ruth Helen Clara Nadia Irene Julia Sofia Alice Emma Laura Diana Elena Rosa Sarah
    Priya Fatima Joan Nora Olga Wanda Yasmin Zoe Amina Beth Carol Edith Grete Hanna"""
)
MALE_NAMES = _names(
    """Peter David Omar Victor Karl Hugo Martin Simon Andrew Samuel Tomas Ivan Leo Henry Paul Adam
    Yusuf Ravi Oscar Felix George Walter Nils Boris Callum Dario Ethan Gavin Ismael Jonas"""
)
LAST_NAMES = _names(
    """Lopez Keller Novak Okafor Haddad Jensen Murphy Costa Petrov Silva Nguyen Kowalski Fischer
    Rossi Tanaka Ahmed Patel Larsen Moreau Weber Schmidt Dubois Ferreira Ivanov Johansson Kimura
    Lindgren Mendes Nakamura Olsen Pereira Quinn Ramos Santos Torres Ueda Varga Wagner Xu Yilmaz
    Zeman Abbott Barlow Carver Dawson Ellison Farrell Garner Hopkins Irving Jarvis Kendall Lawson
    Mercer Norris Osborne Parsons Quigley Reeves Saunders Thornton Underhill Vickers Whitaker
    Yardley Ziegler Almeida Bianchi Cordero Delgado Esposito Fontana Gruber Horvat Ibrahim Jansen
    Kaya Lund Marino Nilsen"""
)

NO_ALLERGY = "none known"
ALLERGIES = ("penicillin", "latex", "codeine", "peanuts", "shellfish", "iodine", "plasters")

CLINICS: dict[str, tuple[str, ...]] = {
    "cardiology": ("cardiology clinic", "heart nurse", "rhythm clinic"),
    "pediatrics": ("children's clinic", "community nurse", "family doctor"),
    "general medicine": ("medical clinic", "family doctor", "day unit"),
}
NEUTRAL_CLINICS = ("family doctor", "community nurse", "day unit")
"""Those that do not tell the ward."""
CLINICS |= dict.fromkeys(LATER_WARDS, CLINICS["general medicine"])
CLINICS |= dict.fromkeys(STRANGE_WARDS, NEUTRAL_CLINICS)
# follow-up time in words -> how a telegraphic note writes it
INTERVALS: dict[str, str] = {
    "1 week": "1/52",
    "2 weeks": "2/52",
    "4 weeks": "4/52",
    "6 weeks": "6/52",
    "3 months": "3/12",
}

# role of the relative -> the relative's sex
ADULT_RELATIVES = {"daughter": "F", "son": "M", "sister": "F", "brother": "M"}
CHILD_RELATIVES = {"mother": "F", "father": "M", "aunt": "F", "uncle": "M"}
SPOUSES = {"F": "husband", "M": "wife"}

ADULT_SOCIAL = (
    "lives alone",
    "lives in a bungalow",
    "retired teacher",
    "walks with a stick",
    "does not smoke",
    "stopped smoking last year",
    "has carers each morning",
    "works in a bakery",
    "lives on the third floor",
    "enjoys gardening",
)
CHILD_SOCIAL = (
    "goes to nursery",
    "has two brothers",
    "has a dog at home",
    "likes football",
    "parents do not smoke",
    "just moved house",
    "vaccines up to date",
    "enjoys drawing",
)
