"""What the synthetic hospital knows: drugs, diagnoses, investigations, frequencies.

The tables are closed and small on purpose: every name becomes a token or two of a byte-level BPE,
and the usual dose of a drug is a function, so that a note and an instruction have one right answer.
Doses are plausible in kind and for teaching only; nothing here is medical advice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from minilora.ward.strangers import STRANGE_ALTERNATIVES, STRANGE_DRUGS, STRANGE_TESTS

WARDS = ("cardiology", "pediatrics", "general medicine")
"""The wards whose notes the base was trained on."""

LATER_WARDS: dict[str, tuple[str, ...]] = {
    "respiratory": ("CAP", "COPD"),
    "vascular": ("PE", "DVT"),
    "gastroenterology": ("GORD", "IDA"),
    "nephrology": ("UTI", "T2DM"),
}
"""The wards into which general medicine was split when the hospital grew, with their diagnoses.

They have no words that the base does not know. Wards of new diagnoses, drugs and labels were tried
first: adapters on q and v and on all layers, r 8, made no summary of theirs exact, as the base
cannot write a token that it never wrote.
"""

STOPPED_IN_NEPHROLOGY = frozenset(["metformin", "nitrofurantoin", "trimethoprim", "gliclazide"])
"""What that ward stops, whatever the note says."""

THINNER_KINDS = frozenset(["anticoagulant", "antiplatelet", "P2Y12 inhibitor"])
"""Classes of drugs that thin the blood."""


@dataclass(frozen=True)
class Drug:
    """A drug: its one usual dose, other valid doses, frequencies (the first is usual), class."""

    name: str
    usual_dose: str
    other_doses: tuple[str, ...]
    frequencies: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Diagnosis:
    """A diagnosis with its ward, abbreviation, synonym, fitting drugs, tests, courses and ages."""

    name: str
    abbreviation: str
    ward: str
    synonym: str
    drugs: tuple[str, ...]
    tests: tuple[str, ...]
    courses: tuple[str, ...]
    ages: tuple[int, int]


# canonical words -> how a note may write them: abbreviation, a spoken variant, hour-based form
FREQUENCIES: dict[str, tuple[str, str, str]] = {
    "once daily": ("od", "once a day", "q24h"),
    "twice daily": ("bd", "twice a day", "q12h"),
    "three times daily": ("tds", "three times a day", "q8h"),
    "four times daily": ("qds", "four times a day", "q6h"),
    "at night": ("nocte", "at bedtime", "qhs"),
}
_FREQUENCY_CODES = {short: words for words, (short, _, _) in FREQUENCIES.items()}
_FREQUENCY_CODES["nocte"] = "at night"

# name | usual dose | other doses | frequencies | class
_DRUGS = """
bisoprolol | 5 mg | 2.5 mg, 10 mg | od | beta blocker
metoprolol | 50 mg | 25 mg, 100 mg | bd tds | beta blocker
digoxin | 125 micrograms | 62.5 micrograms, 250 micrograms | od | cardiac glycoside
apixaban | 5 mg | 2.5 mg, 10 mg | bd | anticoagulant
rivaroxaban | 20 mg | 15 mg, 10 mg | od | anticoagulant
warfarin | 3 mg | 2 mg, 4 mg, 5 mg | od | anticoagulant
amiodarone | 200 mg | 100 mg, 400 mg | od bd | antiarrhythmic
flecainide | 50 mg | 100 mg, 150 mg | bd | antiarrhythmic
verapamil | 80 mg | 40 mg, 120 mg | tds | calcium channel blocker
amlodipine | 5 mg | 10 mg, 2.5 mg | od | calcium channel blocker
furosemide | 40 mg | 20 mg, 80 mg | od bd | loop diuretic
spironolactone | 25 mg | 12.5 mg, 50 mg | od | potassium-sparing diuretic
indapamide | 2.5 mg | 1.25 mg, 1.5 mg | od | thiazide-like diuretic
ramipril | 2.5 mg | 1.25 mg, 5 mg, 10 mg | od bd | ACE inhibitor
lisinopril | 10 mg | 5 mg, 20 mg | od | ACE inhibitor
candesartan | 8 mg | 4 mg, 16 mg | od | angiotensin receptor blocker
dapagliflozin | 10 mg | 5 mg | od | SGLT2 inhibitor
atorvastatin | 80 mg | 20 mg, 40 mg | nocte od | statin
aspirin | 75 mg | 150 mg, 300 mg | od | antiplatelet
clopidogrel | 75 mg | 150 mg, 300 mg | od | P2Y12 inhibitor
ticagrelor | 90 mg | 60 mg | bd | P2Y12 inhibitor
doxycycline | 100 mg | 200 mg | od bd | tetracycline antibiotic
clarithromycin | 500 mg | 250 mg | bd | macrolide antibiotic
levofloxacin | 500 mg | 250 mg, 750 mg | od bd | quinolone antibiotic
tiotropium | 18 micrograms | 5 micrograms | od | inhaled bronchodilator
theophylline | 200 mg | 300 mg, 400 mg | bd | oral bronchodilator
carbocisteine | 750 mg | 375 mg | tds bd | mucolytic
nitrofurantoin | 100 mg | 50 mg | bd qds | urinary antibiotic
trimethoprim | 200 mg | 100 mg | bd | folate antagonist antibiotic
pivmecillinam | 400 mg | 200 mg | tds | penicillin antibiotic
metformin | 500 mg | 850 mg, 1 g | bd tds | biguanide
gliclazide | 80 mg | 40 mg, 160 mg | bd od | sulfonylurea
sitagliptin | 100 mg | 25 mg, 50 mg | od | DPP-4 inhibitor
edoxaban | 60 mg | 30 mg | od | anticoagulant
omeprazole | 20 mg | 10 mg, 40 mg | od bd | proton pump inhibitor
lansoprazole | 30 mg | 15 mg | od | proton pump inhibitor
famotidine | 40 mg | 20 mg | nocte bd | H2 blocker
ferrous fumarate | 210 mg | 322 mg | od bd | iron supplement
ferrous gluconate | 300 mg | 600 mg | od bd | iron supplement
salbutamol | 200 micrograms | 100 micrograms, 400 micrograms | qds tds | inhaled bronchodilator
ipratropium | 250 micrograms | 125 micrograms, 20 micrograms | tds qds | inhaled bronchodilator
montelukast | 4 mg | 5 mg | nocte | leukotriene antagonist
prednisolone | 1 mg/kg | 2 mg/kg, 20 mg | od | steroid
amoxicillin | 250 mg | 500 mg, 30 mg/kg | tds | penicillin antibiotic
azithromycin | 10 mg/kg | 5 mg/kg, 200 mg | od | macrolide antibiotic
paracetamol | 15 mg/kg | 10 mg/kg, 120 mg, 240 mg | qds | analgesic
ibuprofen | 10 mg/kg | 5 mg/kg, 100 mg | tds | anti-inflammatory
ondansetron | 4 mg | 2 mg, 0.1 mg/kg | bd tds | antiemetic
zinc | 20 mg | 10 mg | od | mineral supplement
levetiracetam | 20 mg/kg | 10 mg/kg, 30 mg/kg | bd | antiepileptic
ethosuximide | 250 mg | 125 mg, 500 mg | bd | antiepileptic
lamotrigine | 2 mg/kg | 1 mg/kg, 50 mg | bd | antiepileptic
naproxen | 5 mg/kg | 10 mg/kg, 250 mg | bd | anti-inflammatory
flucloxacillin | 250 mg | 125 mg, 500 mg | bd qds | penicillin antibiotic
cefalexin | 25 mg/kg | 12.5 mg/kg, 250 mg | tds bd | cephalosporin antibiotic
gentamicin | 7 mg/kg | 5 mg/kg | od | aminoglycoside antibiotic
ceftriaxone | 50 mg/kg | 80 mg/kg | od | cephalosporin antibiotic
"""

# not given to a patient whose note says "allergic to penicillin"
BETA_LACTAMS = frozenset(
    ["pivmecillinam", "amoxicillin", "flucloxacillin", "cefalexin", "ceftriaxone"]
)

# at most one drug of each row in a note: nobody is sent home on two of these
_ALTERNATIVES = (
    ("apixaban", "rivaroxaban", "warfarin", "edoxaban"),
    ("bisoprolol", "metoprolol", "verapamil"),
    ("ramipril", "lisinopril", "candesartan"),
    ("amlodipine", "verapamil"),
    ("ticagrelor", "clopidogrel"),
    ("omeprazole", "lansoprazole", "famotidine"),
    ("ferrous fumarate", "ferrous gluconate"),
    ("ibuprofen", "naproxen"),
)

# every result is one string without commas or semicolons, copied as it stands
_TESTS = """
rhythm | ECG irregular at {}/min | 112 124 136 148
tachycardia | ECG regular at {}/min | 160 172 184 196
ejection | LVEF {}% | 25 30 35 40
bnp | BNP {} ng/L | 640 980 1250 2100
pressure | BP {} mmHg | 168/96 172/98 184/102 190/110
potassium | potassium {} mmol/L | 3.6 3.9 4.2 4.6
creatinine | creatinine {} umol/L | 84 96 118 142
troponin | troponin {} ng/L | 140 260 480 950
elevation | ECG {} ST changes | inferior anterior lateral
angiogram | angiogram {} stenosis | LAD RCA circumflex
thyroid | TSH {} mU/L | 1.4 2.1 3.2
crp | CRP {} mg/L | 28 64 112 186
shadow | chest X-ray {} zone shadowing | right-lower left-lower right-middle
saturation | saturation {}% on air | 88 89 90 91
fev | FEV1 {}% predicted | 38 44 52 61
urine | urine {} | nitrite-positive leucocyte-positive
hba | HbA1c {} mmol/mol | 62 74 86 98
glucose | glucose {} mmol/L | 14 18 22 26
ctpa | CTPA {} emboli | bilateral right-sided left-sided
dimer | D-dimer {} ng/mL | 900 1400 2600 3800
doppler | Doppler {} clot | popliteal femoral
endoscopy | endoscopy {} | oesophagitis normal
haemoglobin | Hb {} g/L | 78 84 92 98
ferritin | ferritin {} ug/L | 4 6 9 12
leucocytes | white cells {} | 12 15 18 21
temperature | temperature {} C | 38.2 38.6 39.1 39.4
drum | otoscopy {} drum bulging | left right
eeg | EEG 3 Hz {} | spike-wave
esr | ESR {} mm/h | 28 42 56 70
effusion | {} ultrasound effusion | knee ankle
sputum | sputum {} | Staphylococcus Haemophilus
kidneys | renal ultrasound {} | normal swollen
ketones | ketones {} mmol/L | 0.8 1.2 2.4
sodium | sodium {} mmol/L | 132 135 138
"""


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _drug(name: str, usual: str, others: str, codes: str, kind: str) -> Drug:
    frequencies = tuple(_FREQUENCY_CODES[code] for code in codes.split())
    return Drug(name, usual, tuple(others.split(", ")), frequencies, kind)


def _results(table: str) -> dict[str, tuple[str, ...]]:
    return {
        key: tuple(text.format(re.sub(r"\b-", " ", value)) for value in values.split())
        for key, text, values in _rows(table)
    }


DRUGS: dict[str, Drug] = {row[0]: _drug(*row) for row in _rows(_DRUGS)}
"""The formulary that the base was taught."""
ALL_DRUGS = DRUGS | {row[0]: _drug(*row) for row in _rows(STRANGE_DRUGS)}
"""Its drugs and those of strangers."""
TESTS = _results(_TESTS)
ALL_TESTS = TESTS | _results(STRANGE_TESTS)


def usual_dose(drug: str) -> str:
    """The one dose the hospital calls usual for ``drug``; ``ValueError`` if unknown."""
    if drug not in ALL_DRUGS:
        raise ValueError(f"unknown drug {drug!r}; expected one of {len(ALL_DRUGS)} names")
    return ALL_DRUGS[drug].usual_dose


def are_alternatives(one: str, other: str) -> bool:
    """Whether a note never has both drugs: two antibiotics, or two of one row of alternatives."""
    if all(ALL_DRUGS[drug].kind.endswith("antibiotic") for drug in (one, other)):
        return True
    return any(one in row and other in row for row in _ALTERNATIVES + STRANGE_ALTERNATIVES)
