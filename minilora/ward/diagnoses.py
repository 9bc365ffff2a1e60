"""The diagnoses, eight a ward, and which (diagnosis, drug) pairs are held out."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from minilora.ward.facts import LATER_WARDS, WARDS, Diagnosis
from minilora.ward.strangers import STRANGE_DIAGNOSES, STRANGE_WARDS

# name | abbreviation | synonym | ages, then "+ drugs | tests", then course sentences behind ">"
_CARDIOLOGY = """
atrial fibrillation | AF | auricular fibrillation | 55 89
+ bisoprolol apixaban rivaroxaban digoxin warfarin amiodarone | rhythm thyroid potassium
> Presented with palpitations and the rate settled overnight.
> Came in breathless and was rate controlled on the ward.

heart failure | HF | cardiac failure | 55 89
+ furosemide spironolactone ramipril bisoprolol dapagliflozin candesartan | ejection bnp creatinine
> Presented with leg swelling and lost four kilograms.
> Breathless at rest on arrival and now walks the corridor.

hypertension | HTN | high blood pressure | 40 84
+ amlodipine ramipril lisinopril indapamide candesartan | pressure creatinine potassium
> Sent in with headache and settled with oral treatment.
> Found at a routine check and had no organ damage.

non-ST elevation myocardial infarction | NSTEMI | non-ST elevation MI | 45 84
+ aspirin ticagrelor clopidogrel atorvastatin bisoprolol ramipril | troponin angiogram
> Had chest pain at rest and one stent was placed.
> Chest tightness settled and medical treatment was chosen.

ST elevation myocardial infarction | STEMI | ST elevation MI | 45 84
+ aspirin ticagrelor clopidogrel atorvastatin metoprolol ramipril | troponin elevation angiogram
> Had crushing chest pain and went straight to the lab.
> Collapsed at home and one artery was opened.

coronary artery disease | CAD | ischaemic heart disease | 50 84
+ aspirin atorvastatin bisoprolol amlodipine verapamil clopidogrel | angiogram pressure
> Had chest tightness on hills and no pain since.
> Exertional chest pain improved with tablets.

supraventricular tachycardia | SVT | narrow complex tachycardia | 40 70
+ verapamil metoprolol flecainide bisoprolol | tachycardia thyroid potassium
> Had a racing heart which stopped with vagal manoeuvres.
> Sudden palpitations ended after one dose in the department.

dilated cardiomyopathy | DCM | dilated heart muscle disease | 40 75
+ spironolactone lisinopril metoprolol furosemide dapagliflozin digoxin | ejection bnp potassium
> Tired and breathless for a month and better after diuresis.
> Ankle swelling cleared and weight is stable.
"""

_GENERAL = """
community-acquired pneumonia | CAP | community pneumonia | 40 89
+ doxycycline clarithromycin levofloxacin omeprazole | crp shadow saturation
> Cough and fever for five days which settled on antibiotics.
> Came in confused with a cough and is now clear.

chronic obstructive pulmonary disease | COPD | chronic obstructive airways disease | 50 84
+ tiotropium theophylline carbocisteine doxycycline | saturation fev crp
> More wheeze and sputum than usual and back to baseline.
> Needed nebulisers for two days and now walks unaided.

urinary tract infection | UTI | urine infection | 40 89
+ nitrofurantoin trimethoprim pivmecillinam levofloxacin | urine crp creatinine
> Burning urine and fever which settled in two days.
> Came in drowsy and woke up after fluids.

type 2 diabetes mellitus | T2DM | type 2 diabetes | 40 80
+ metformin gliclazide sitagliptin dapagliflozin | hba glucose creatinine
> Thirsty for weeks and sugars came down on the ward.
> High sugars found at a check and diet advice given.

pulmonary embolism | PE | lung embolism | 40 84
+ apixaban rivaroxaban edoxaban warfarin | ctpa dimer troponin
> Sudden sharp chest pain and oxygen was stopped on day two.
> Breathless after a long flight and stable since.

deep vein thrombosis | DVT | leg vein thrombosis | 40 84
+ apixaban rivaroxaban edoxaban warfarin | doppler dimer
> Painful swollen calf which is less tense now.
> Leg swelling after a knee operation and walking well.

gastro-oesophageal reflux disease | GORD | acid reflux | 40 80
+ omeprazole lansoprazole famotidine | endoscopy haemoglobin
> Burning pain after meals which eased in hospital.
> Came in with chest discomfort and the heart was cleared.

iron deficiency anaemia | IDA | iron deficiency | 40 84
+ ferrous_fumarate ferrous_gluconate lansoprazole omeprazole | haemoglobin ferritin
> Tired and pale and had two units of blood.
> Breathless on stairs and better after transfusion.
"""

_PEDIATRICS = """
viral-induced wheeze | VIW | viral wheeze | 2 5
+ salbutamol montelukast ipratropium prednisolone | saturation temperature
> Wheezy with a cold and now stretching to four hours.
> Working hard to breathe at first and playing today.

acute otitis media | AOM | middle ear infection | 2 9
+ amoxicillin paracetamol ibuprofen azithromycin | drum temperature
> Ear pain and fever for two days and sleeping better.
> Crying and pulling the ear and now feeding well.

lower respiratory tract infection | LRTI | chest infection | 2 12
+ amoxicillin azithromycin paracetamol ibuprofen cefalexin | crp shadow leucocytes
> Cough and fever for four days and off oxygen since.
> Fast breathing on arrival and running about today.

acute gastroenteritis | AGE | stomach infection | 4 9
+ ondansetron zinc paracetamol ibuprofen | sodium ketones temperature
> Vomiting and loose stools and now drinking well.
> Dry on arrival and passed urine after fluids.

childhood absence epilepsy | CAE | absence epilepsy | 5 10
+ ethosuximide lamotrigine levetiracetam | eeg sodium
> Staring spells at school and fewer each day.
> Brief blank spells seen on the ward by staff.

juvenile idiopathic arthritis | JIA | juvenile arthritis | 6 14
+ naproxen ibuprofen prednisolone paracetamol | esr effusion crp
> Stiff swollen knee each morning and walking better.
> Limping for a month and joint pain has eased.

cystic fibrosis | CF | mucoviscidosis | 6 15
+ flucloxacillin azithromycin salbutamol cefalexin | sputum fev crp
> More cough than usual and physiotherapy went well.
> Weight loss and sputum and now eating well.

acute pyelonephritis | APN | kidney infection | 2 12
+ cefalexin gentamicin ceftriaxone paracetamol | urine kidneys crp
> Fever and back pain and no fever for a day.
> Shivering and vomiting which stopped on day two.
"""


def _diagnosis(ward: str, block: str) -> Diagnosis:
    head, drugs_and_tests, *courses = block.splitlines()
    name, abbreviation, synonym, ages = head.split(" | ")
    drugs, tests = drugs_and_tests.removeprefix("+ ").split(" | ")
    low, high = (int(age) for age in ages.split())
    return Diagnosis(
        name=name,
        abbreviation=abbreviation,
        ward=ward,
        synonym=synonym,
        drugs=tuple(drug.replace("_", " ") for drug in drugs.split()),
        tests=tuple(tests.split()),
        courses=tuple(course.removeprefix("> ") for course in courses),
        ages=(low, high),
    )


def _by_name(tables: dict[str, str]) -> dict[str, Diagnosis]:
    return {
        diagnosis.name: diagnosis
        for ward, table in tables.items()
        for diagnosis in (_diagnosis(ward, block) for block in table.strip().split("\n\n"))
    }


DIAGNOSES = _by_name(dict(zip(WARDS, (_CARDIOLOGY, _PEDIATRICS, _GENERAL), strict=True)))
"""The twenty-four that the base was trained on."""
ALL_DIAGNOSES = DIAGNOSES | _by_name(STRANGE_DIAGNOSES)
ABBREVIATIONS: dict[str, str] = {d.abbreviation: d.name for d in DIAGNOSES.values()}
ALL_WARDS = (*WARDS, *LATER_WARDS, *STRANGE_WARDS)


def diagnoses_of(ward: str) -> tuple[Diagnosis, ...]:
    """The diagnoses of a ward of ``ALL_WARDS``."""
    if ward in LATER_WARDS:
        return tuple(DIAGNOSES[ABBREVIATIONS[short]] for short in LATER_WARDS[ward])
    return tuple(d for d in ALL_DIAGNOSES.values() if d.ward == ward)


HELD_OUT_PAIRS_PER_WARD = 4


def hash_rank(kind: str, *parts: str) -> int:
    """The first 8 bytes of sha256 over ``kind`` and ``parts``: the same on every machine."""
    return int.from_bytes(sha256("|".join((kind, *parts)).encode()).digest()[:8], "big")


def _held_out_pairs(
    wards: tuple[str, ...], diagnoses: dict[str, Diagnosis]
) -> frozenset[tuple[str, str]]:
    """In each of `wards` the four (diagnosis, drug) pairs of lowest hash, about a ninth of all.

    At most one per diagnosis, and only while the drug keeps a pair in train: every drug and every
    diagnosis is met in training, only their combination is new.
    """
    left = Counter(drug for d in diagnoses.values() for drug in d.drugs)
    held: dict[str, str] = {}
    for ward in wards:
        pairs = [(d.name, drug) for d in diagnoses.values() if d.ward == ward for drug in d.drugs]
        quota = len(held) + HELD_OUT_PAIRS_PER_WARD
        for diagnosis, drug in sorted(pairs, key=lambda pair: hash_rank("diagnosis-drug", *pair)):
            if len(held) < quota and diagnosis not in held and left[drug] > 1:
                held[diagnosis] = drug
                left[drug] -= 1
    return frozenset(held.items())


HELD_OUT_PAIRS = _held_out_pairs(WARDS, DIAGNOSES)
"""What is held out of the base's corpus."""


def _later_pairs() -> frozenset[tuple[str, str]]:
    """Of each diagnosis of a later ward that has no pair held out, the pair of lowest hash.

    The base has read them; an adapter that is trained on the ward's train cases has not.
    """
    held = {diagnosis for diagnosis, _ in HELD_OUT_PAIRS}
    pairs = []
    for diagnosis in (d for ward in LATER_WARDS for d in diagnoses_of(ward)):
        if diagnosis.name not in held:
            ranked = sorted(
                diagnosis.drugs, key=lambda drug: hash_rank("diagnosis-drug", diagnosis.name, drug)
            )
            pairs.append((diagnosis.name, ranked[0]))
    return frozenset(pairs)


LATER_HELD_OUT_PAIRS = HELD_OUT_PAIRS | _later_pairs()
"""What is held out in the later wards."""
STRANGE_HELD_OUT_PAIRS = _held_out_pairs(STRANGE_WARDS, ALL_DIAGNOSES)


def held_out_pairs(ward: str) -> frozenset[tuple[str, str]]:
    """The (diagnosis, drug) pairs that no train case of the ward has."""
    if ward in LATER_WARDS:
        return LATER_HELD_OUT_PAIRS
    return STRANGE_HELD_OUT_PAIRS if ward in STRANGE_WARDS else HELD_OUT_PAIRS
