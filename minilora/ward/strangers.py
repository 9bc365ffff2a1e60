"""Strangers: patients of two wards that this hospital does not have, with drugs, tests, diagnoses.

The base has read no note of theirs, and no specialist is right for them. The tables are kept apart
from those of `facts.py` and `diagnoses.py`, from which the base's corpus is drawn, so that the
corpus stays what it was.
"""

from __future__ import annotations

STRANGE_WARDS = ("neurology", "orthopedics")

# name | usual dose | other doses | frequencies | class, as in `facts.py`
STRANGE_DRUGS = """
propranolol | 40 mg | 20 mg, 80 mg | bd tds | beta blocker
topiramate | 25 mg | 50 mg, 100 mg | bd nocte | antiepileptic
carbamazepine | 200 mg | 100 mg, 400 mg | bd | antiepileptic
valproate | 300 mg | 200 mg, 500 mg | bd | antiepileptic
levodopa | 100 mg | 50 mg, 200 mg | tds qds | dopamine precursor
ropinirole | 2 mg | 1 mg, 4 mg | tds | dopamine agonist
pyridostigmine | 60 mg | 30 mg | qds | cholinesterase inhibitor
amitriptyline | 25 mg | 10 mg, 50 mg | nocte | tricyclic
gabapentin | 300 mg | 100 mg, 600 mg | tds | gabapentinoid
baclofen | 10 mg | 5 mg, 20 mg | tds | muscle relaxant
prednisone | 30 mg | 20 mg, 40 mg | od | steroid
mycophenolate | 500 mg | 250 mg, 1 g | bd | immunosuppressant
tramadol | 50 mg | 100 mg | qds tds | opioid
morphine | 10 mg | 5 mg, 20 mg | bd | opioid
enoxaparin | 40 mg | 20 mg, 60 mg | od | anticoagulant
dabigatran | 110 mg | 75 mg, 150 mg | bd | anticoagulant
meloxicam | 7.5 mg | 15 mg | od | anti-inflammatory
clindamycin | 300 mg | 150 mg, 450 mg | qds | lincosamide antibiotic
linezolid | 600 mg | 400 mg | bd | oxazolidinone antibiotic
colchicine | 500 micrograms | 1 mg | bd tds | gout medicine
calcium carbonate | 1.25 g | 2.5 g | bd | mineral supplement
"""

STRANGE_ALTERNATIVES = (
    ("apixaban", "rivaroxaban", "warfarin", "edoxaban", "enoxaparin", "dabigatran"),
    ("bisoprolol", "metoprolol", "propranolol"),
    ("tramadol", "morphine"),
)

STRANGE_TESTS = """
brain | MRI {} lesions | frontal parietal brainstem
perfusion | CT {} infarct | left-sided right-sided cerebellar
waves | EEG {} discharges | temporal occipital
antibody | receptor antibody {} nmol/L | 4 9 14
spinal | CSF protein {} g/L | 0.3 0.6 0.9
standing | standing BP {} mmHg | 84/50 88/52 94/58
bone | bone density T {} | -2.6 -3.1 -3.4
film | X-ray {} fracture | displaced undisplaced comminuted
joint | joint fluid {} | crystals Staphylococcus cloudy
disc | MRI L{} disc bulge | 3 4 5
tendon | ultrasound {} gap | 1-cm 2-cm 4-cm
mobility | walks {} metres | 10 30 50
"""

STRANGE_DIAGNOSES = {
    "neurology": """
ischaemic stroke | IS | cerebral infarction | 50 89
+ clopidogrel aspirin atorvastatin amlodipine | perfusion brain pressure
> Woke with a weak arm and speech is clearer now.
> Face drooped at breakfast and strength is returning.

transient ischaemic attack | TIA | mini-stroke | 50 89
+ clopidogrel aspirin atorvastatin ramipril | brain pressure
> Lost words for ten minutes and nothing since.
> Arm went numb for an hour and then recovered.

Parkinson's disease | PD | paralysis agitans | 55 84
+ levodopa ropinirole amitriptyline | standing brain
> Slow and stiff for months and turns more easily now.
> Tremor at rest eased after the tablets were moved.

multiple sclerosis | MS | disseminated sclerosis | 40 65
+ baclofen gabapentin prednisone amitriptyline | brain spinal
> Blurred sight in one eye which is clearing.
> Legs weak and stiff and now climbs the stairs.

focal epilepsy | FE | partial epilepsy | 40 75
+ carbamazepine valproate topiramate | waves brain sodium
> Two seizures in a week and none since Friday.
> Found confused on the floor and awake by noon.

myasthenia gravis | MG | autoimmune muscle weakness | 40 80
+ pyridostigmine prednisone mycophenolate | antibody potassium
> Drooping lids by evening and chewing is easier.
> Double vision and a weak neck which improved.

migraine with aura | MWA | classical migraine | 40 65
+ propranolol topiramate amitriptyline | brain pressure
> Zigzag lights and headache for three days.
> Weekly attacks and the last one was short.

trigeminal neuralgia | TN | facial nerve pain | 45 84
+ carbamazepine gabapentin baclofen | brain sodium
> Stabbing pain in the cheek which is rarer now.
> Could not brush teeth and eats again.
""",
    "orthopedics": """
neck of femur fracture | NOF | hip fracture | 60 94
+ enoxaparin tramadol morphine calcium_carbonate | film haemoglobin
> Slipped on ice and was fixed the next morning.
> Fell from a chair and stands with two helpers.

total knee replacement | TKR | knee arthroplasty | 50 85
+ rivaroxaban enoxaparin tramadol meloxicam | mobility haemoglobin
> New knee on Tuesday and bends it to ninety degrees.
> Wound is dry and walks with crutches.

total hip replacement | THR | hip arthroplasty | 50 88
+ dabigatran apixaban tramadol omeprazole | mobility haemoglobin
> New hip last week and sits on a high chair.
> Walked the stairs with the therapist.

distal radius fracture | DRF | wrist fracture | 40 88
+ tramadol calcium_carbonate aspirin meloxicam | film bone
> Fell on the hand and has a plaster to the elbow.
> Plate put in and fingers move freely.

Achilles tendon rupture | ATR | torn heel cord | 40 70
+ dabigatran enoxaparin tramadol | tendon mobility
> Heard a snap at tennis and wears a boot.
> Tendon sewn and toes are warm.

lumbar disc herniation | LDH | slipped disc | 40 75
+ morphine meloxicam gabapentin aspirin | disc mobility
> Pain down one leg which eased with rest.
> Could not tie a shoe and can again.

septic arthritis | SA | joint infection | 40 85
+ clindamycin linezolid rivaroxaban morphine | joint crp
> Hot knee was washed out twice and is cool.
> Fever and a stiff elbow which moves again.

gouty arthritis | GA | gout | 40 85
+ colchicine meloxicam omeprazole clopidogrel | joint creatinine
> Red toe at midnight and walks in shoes again.
> Third attack this year which passed in two days.
""",
}
"""In the form of `diagnoses.py`: name, abbreviation, synonym, ages; drugs and tests; courses."""
