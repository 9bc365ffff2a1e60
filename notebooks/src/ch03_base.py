# The source of notebooks/03_base.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 3. The base
#
# **Time.** about 2 hours, exercises included.
#
# **What you will be able to do.** Find out what a pretrained model can do and what it only guesses,
# put an honest interval around every score, see through a score that looks good and is wrong, and
# get from prompts alone what can be got, before anything is trained.
#
# **The story.** The hospital has a small language model, and the cardiology ward wants its
# discharge summaries in its own form. Leo wants to train at once. Maya has two questions first:
# what does the model do already, and how would we notice if it got worse?

# %%
from minilora.course import pictures

pictures.evaluation()

# %% [markdown]
# Every score of this course is made like this. Rows to train on, rows to choose settings on, and
# rows that are looked at once, at the end, and reported with an interval. This chapter trains
# nothing; it builds the right-hand side.

# %%
import hashlib
import json

import matplotlib.pyplot as plt
import numpy as np

from minilora.course import (
    answer,
    check,
    claim,
    data_folder,
    hint,
    predict,
    refuted,
    reveal,
    solution,
    style,
)
from minilora.hub import load_pretrained
from minilora.text.answers import answers

style()
base, tokenizer = load_pretrained(data_folder("ward-base"))
size = sum(parameter.size for parameter in base.parameters())
print(f"{size:,} parameters, {base.config.num_hidden_layers} layers")


def read(name):
    """The examples of one of the ward's files."""
    text = (data_folder("ward") / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def ask(prompts):
    """What the base answers, always taking the likeliest next token."""
    return answers(base, tokenizer, prompts)


# %% [markdown]
# ## What pretraining gave it
#
# `data/ward-base` is a Transformer as you wrote it in chapter 2, trained on 200,000 documents of a
# made-up hospital: notes with something asked of them, questions, letters, drug facts. Its card,
# `data/ward-base/README.md`, says how. Nothing in it comes from a real patient.
#
# Here is a note that it has never seen. Neither the patient's name nor one of the pairs of
# diagnosis and drug occurs in its training.

# %%
held_out = read("cardiology.eval")
shown = next(row for row in held_out if row["facts"]["no_dose"])
print(shown["prompt"])
print("\nno dose in the note:", ", ".join(shown["facts"]["no_dose"]))

# %%
print(ask([shown["prompt"]])[0])

# %% [markdown]
# It reads the note, finds what matters and puts it in order. Look at the medication. A dose stands
# there that the note does not give. It is the drug's *usual* dose: the corpus filled gaps that way,
# so the model learned to. Such a summary looks complete, and that is the danger. (The age is off by
# one. It misreads now and then, too, and that is another kind of mistake: rare, and by chance.)
#
# ## A score is a share, and a share has an interval
#
# The base is tested on 300 held-out prompts in five groups. A right answer is one that equals the
# wanted text to the last character.

# %% exercise 3.1

# %%
from minilora.ward import score_regression

exact_rate = answer("3.1")
suite = read("regression")
suite_outputs = ask([row["prompt"] for row in suite])
groups = score_regression(suite, suite_outputs)
everything = exact_rate([row["completion"] for row in suite], suite_outputs)
for name, share in groups.groups.items():
    print(f"{name:14} {round(share * groups.counts[name]):2} of {groups.counts[name]}")
print(f"all together {100 * everything:.3g} %")

# %% [markdown]
# Is 60 of 60 perfect? A model that fails once in 50 would show the same quite often. So ask which
# true rates $p$ are compatible with what was seen. If the true rate is $p$, the seen share
# $\hat p$ scatters around it with the spread $\sqrt{p(1-p)/n}$, and with $z = 1.96$ it stays within
# $z$ spreads about 95 times in 100.
#
# The textbook shortcut puts the *seen* share into the spread: $\hat p \pm z\sqrt{\hat p(1-\hat
# p)/n}$. At 60 of 60 its width is zero. Wilson (1927) did it properly.

# %% exercise 3.2

# %%
wilson = answer("3.2")
low, high = wilson(60, 60, 1.96)
print(f"60 of 60: between {100 * low:.3g} % and {100 * high:.3g} %")


def textbook(right, count, z):
    """The interval with the spread taken at the seen share."""
    share = right / count
    side = z * (share * (1 - share) / count) ** 0.5
    return share - side, share + side


def coverage(interval, p, count, draws=4000):
    """How often the interval around a seen share holds the true rate p."""
    right = np.random.default_rng(0).binomial(count, p, size=draws)
    ends = {k: interval(int(k), count, 1.96) for k in np.unique(right)}
    return float(np.mean([ends[k][0] <= p <= ends[k][1] for k in right]))


# %%
rates = np.array([0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99])
_, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
for interval, name in ((textbook, "textbook"), (wilson, "Wilson")):
    left.plot(rates, [100 * coverage(interval, p, 60) for p in rates], "o-", label=name)
left.axhline(95, color="black", linewidth=0.8)
left.set(xlabel="true rate", ylabel="intervals that hold it, %", title="60 prompts", ylim=(40, 101))
left.legend(loc="lower left")
sizes = np.array([20, 60, 200, 600, 2000])
for seen, colour in ((0.6, "tab:blue"), (0.95, "tab:orange")):
    ends = np.array([wilson(round(seen * n), n, 1.96) for n in sizes])
    right.fill_between(sizes, 100 * ends[:, 0], 100 * ends[:, 1], alpha=0.3, color=colour)
    right.plot(
        sizes, np.full(len(sizes), 100 * seen), color=colour, label=f"{100 * seen:.0f} % seen"
    )
right.set(xscale="log", xticks=sizes, xlabel="prompts", ylabel="true rate, %", ylim=(30, 101))
right.set_title("what was seen, and what may be true")
right.set_xticklabels(sizes)
right.minorticks_off()
right.legend(loc="lower right")
plt.show()

# %% [markdown]
# > **Claim.** On the five groups the base answers on average more than 95 % of 60 held-out prompts
# > exactly.
#
# > **Claim.** After 60 right answers of 60, a true rate of 95 % is still inside the interval.
#
# > **Claim.** For a true rate of 97 % and 60 prompts, the textbook interval holds it less than 90 %
# > of the time.
#
# > **Claim.** Wilson's holds it more than 92 % of the time.
#
# Sixty prompts tell little. They tell 60 % from 95 %, and they do not tell 95 % from 99 %. To halve
# an interval takes four times as many prompts.
#
# ## It can, it just doesn't
#
# Does the base not see that a dose is missing? Ask it. `with_prompt` keeps the note and puts
# another request under it.


# %%
from minilora.ward.formats import HOUSE_INSTRUCTION


def with_prompt(rows, instruction):
    """The notes, each with this instruction under it."""
    return [row["prompt"].removesuffix(HOUSE_INSTRUCTION) + instruction for row in rows]


print(ask(with_prompt([shown], "Check the dose of every drug."))[0])

# %% [markdown]
# It can. One example proves nothing, so measure. The rate that matters is the rate of *invented*
# doses, and the first question is: of what is it a share?

# %% exercise 3.3

# %% [markdown]
# To count doses, the answers must be read back into drug and dose. `house_format` reads the ward's
# own form, and it tells us what each note says. Sixty notes are for trying things out. The other
# notes stay fresh: we look at them only with what was chosen on the sixty. There are 140 of them,
# because of the interval: the rate of invented doses is a share of the doses that are missing,
# these notes have 78 of them, and 0 of about 75 is the least that says "below 5 %".

# %%
from minilora.ward import house_format, score_house

tuning, fresh = held_out[:60], held_out[60:]
form = house_format("cardiology")


def doses(text):
    """Drug -> dose (or None) of a text in the ward's form; {} where it is not in that form."""
    fields = form.parse(text.strip())
    return {drug: dose for drug, dose, _ in fields["prescriptions"]} if fields else {}


def checked_doses(text):
    """The same for the answer to "Check the dose of every drug."."""
    pairs = [item.rsplit(" dose not recorded", 1) for item in text.split("; ")]
    known = [drug for row in fresh + tuning for drug in doses(row["completion"])]
    found = {}
    for parts in pairs:
        drug = next((d for d in known if parts[0] == d or parts[0].startswith(d + " ")), None)
        if drug:
            found[drug] = None if len(parts) == 2 else parts[0].removeprefix(drug + " ")
    return found


invented_rate = answer("3.3")
notes = [doses(row["completion"]) for row in fresh]
bare = ask([row["prompt"] for row in fresh])
bare_score = score_house("cardiology", fresh, bare)
said = [checked_doses(text) for text in ask(with_prompt(fresh, "Check the dose of every drug."))]
can_tell = float(np.mean([a == b for a, b in zip(notes, said, strict=True)]))
missing = bare_score.no_dose_count


def ends(share, count):
    """Wilson's interval around a share of `count`."""
    return np.array(wilson(round(share * count), count, 1.96))


def shown_with_interval(share, count):
    """ "98 % (95 to 99 %)", a share and its interval."""
    low, high = 100 * ends(share, count)
    return f"{100 * share:.3g} % ({low:.3g} to {high:.3g} %)"


print(f"missing doses in {len(fresh)} notes: {missing}")
for name, share, count in (
    ("invented in its own summary", bare_score.invented_dose_rate, missing),
    ("invented when asked to check", invented_rate(notes, said), missing),
    ("notes told right when asked", can_tell, len(fresh)),
):
    print(f"{name}:\n   {shown_with_interval(share, count)}")

# %% [markdown]
# > **Claim.** In its own summaries the base invents more than 90 % of the doses that a note does
# > not give: the whole interval lies above it.
#
# > **Claim.** Asked to check the doses, it tells all of a note right in more than 90 % of the
# > notes: the whole interval lies above it.
#
# So nothing needs to be *taught* here but a habit. Chapter 4 comes back to this: a small change is
# enough where the knowledge is already there.
#
# ## Prompt first
#
# A prompt costs nothing and is changed in a second. The ward's summary has five lines, and the base
# knows forms whose lines are asked for by name. It even knows these names, though not
# with the ward's rule. Here are ten ways to ask. The last two state the rule.

# %%
print(shown["completion"])

# %%
labels = ", ".join(label for label, _ in form.layout)
PROMPTS = [
    HOUSE_INSTRUCTION,
    f"Fill in: {labels}.",
    f"Complete these lines: {labels}.",
    f"Give me these lines: {labels}.",
    f"Fill in the form: {labels}.",
    f"Write down: {labels}.",
    f"Please fill in: {labels}.",
    f"Summarise: {labels}.",
    f"Fill in: {labels}. Do not guess a dose.",
    f"Fill in: {labels}. Where no dose is written, write dose not recorded.",
]
tried = [score_house("cardiology", tuning, ask(with_prompt(tuning, text))) for text in PROMPTS]
for text, score in zip(PROMPTS, tried, strict=True):
    print(f"{text}\n   exact {100 * score.exact:.0f} %, ", end="")
    print(f"in the form {100 * score.format_compliance:.0f} %")

# %% [markdown]
# The first way scores zero, and that is not the base's fault: it was asked for a summary and
# wrote its own kind. Then look how much hangs on a word. "Fill in" works and "please fill in"
# does half as well, because the base knows the one and not the other. A small model is literal.
# And a rule in the prompt is not followed; it only disturbs, because this base has never seen a
# request with a rule in it. Large models that were trained to follow instructions do better here.
# Measure yours.
#
# > **Claim.** A rule in the prompt is followed: told not to guess, the base keeps the form in more
# > than 90 % of its answers.

# %%
best = int(np.argmax([score.exact for score in tried]))
prompted_outputs = ask(with_prompt(fresh, PROMPTS[best]))
prompted = score_house("cardiology", fresh, prompted_outputs)
print(f"the best on {len(tuning)} notes:\n   {PROMPTS[best]}")
print(f"exact on {len(fresh)} fresh notes:\n  ", shown_with_interval(prompted.exact, len(fresh)))

# %% [markdown]
# ## A score that looks good and is wrong
#
# More than half is exact. And how good is the rest? Leo looks at how many words are right. Maya
# counts items, field by field, and invented doses.

# %% exercise 3.4

# %%
from collections import Counter
from itertools import zip_longest

field_f1 = answer("3.4")


def words_right(row, output):
    """Share of the wanted words that stand in the same line of the output."""
    lines = zip_longest(row["completion"].split("\n"), output.split("\n"), fillvalue="")
    shared = sum((Counter(w.split()) & Counter(o.split())).total() for w, o in lines)
    return shared / len(row["completion"].split())


def items(text):
    """Drug with dose, as a set."""
    return {f"{drug} {dose}" for drug, dose in doses(text).items()}


wanted_items = [items(row["completion"]) for row in fresh]
dose_f1 = field_f1(wanted_items, [items(text) for text in prompted_outputs])
words = float(np.mean([words_right(*pair) for pair in zip(fresh, prompted_outputs, strict=True)]))
shares = {
    "in the ward's form": prompted.format_compliance,
    "words right": words,
    "F1 of diagnosis": prompted.field_f1["diagnosis"],
    "F1 of drugs": prompted.field_f1["drugs"],
    "F1 of doses": dose_f1,
    "exact": prompted.exact,
    "missing doses invented": prompted.invented_dose_rate,
    "name or phone leaked": prompted.leak_rate,
}

# %% predict
predict(
    "missing", "The form is nearly always right. How many % of missing doses are invented?", None
)

# %%
reveal("missing", float(100 * prompted.invented_dose_rate))
_, axis = plt.subplots(figsize=(6.4, 3.0))
colours = ["tab:blue"] * 6 + ["tab:red"] * 2
bars = axis.barh(list(shares), [100 * s for s in shares.values()], color=colours)
axis.bar_label(bars, fmt="%.0f %%", padding=3)
axis.set(xlabel="share, %   (red: should be zero)", xlim=(0, 112))
axis.invert_yaxis()
axis.set_title("the best prompt, fresh notes")
plt.show()

# %% [markdown]
# > **Claim.** The best prompt has more than 95 % of its answers in the ward's form and more than
# > 80 % of the words right, and invents more than 95 % of the missing doses.
#
# The top bars are not wrong. They answer a question that nobody has. A dose is one word of thirty,
# and a made-up dose is a word like any other.
#
# The opposite mistake is as easy: to watch the one harm alone. A model that says nothing invents
# nothing and leaks nothing.

# %%
silent = score_house("cardiology", fresh, [""] * len(fresh))
print(f"silence invents {100 * silent.invented_dose_rate:.0f} % of missing doses,")
print(f"leaks in {100 * silent.leak_rate:.0f} % of the notes,")
print(f"is exact in {100 * silent.exact:.0f} % of them")

# %% [markdown]
# So whoever decides whether a model may be used (a *gate*) needs both kinds of number: one that is
# high only if the work is done, and one for each harm, which must be low.
#
# ## Two questions and ten lines of code
#
# The base fills the form but invents; asked to check, it does not invent. Nobody said that it must
# be one question. Ask both, and let a program put the checked doses into the form.


# %%
def put_doses(text, checked):
    """The form with the doses that the check found."""
    fields = form.parse(text.strip())
    if fields is None:
        return text
    rows = [(drug, checked.get(drug, dose), often) for drug, dose, often in fields["prescriptions"]]
    return form.render_fields({**fields, "prescriptions": rows})


combined = [put_doses(text, found) for text, found in zip(prompted_outputs, said, strict=True)]
program = score_house("cardiology", fresh, combined)
print("exact:   ", shown_with_interval(program.exact, len(fresh)))
print("invented:", shown_with_interval(program.invented_dose_rate, missing))
print("leaked:  ", shown_with_interval(program.leak_rate, len(fresh)))

# %% [markdown]
# > **Claim.** Two questions and a small program, with nothing trained, are exact on more than 85 %
# > of fresh notes: the whole interval lies above it.
#
# > **Claim.** They invent less than 8 % of the missing doses: the whole interval lies below it.
#
# ## Two systems on the same notes
#
# Is the program really better than the prompt? Each has its interval, but both answered the *same*
# notes, and that says more than two intervals do. Notes that both get right, or both wrong, tell
# nothing about which is better. Count the others: notes that only one of the two gets right. If
# neither were better, each such note would be a fair coin. How likely is it that a fair coin falls
# so far to one side? That probability is McNemar's exact test (1947).

# %%
from math import comb

wanted = [row["completion"] for row in fresh]
by_prompt = np.array([a == b for a, b in zip(wanted, prompted_outputs, strict=True)])
by_program = np.array([a == b for a, b in zip(wanted, combined, strict=True)])
won, lost = int((by_program & ~by_prompt).sum()), int((by_prompt & ~by_program).sum())
tosses, fewer = won + lost, min(won, lost)
chance = min(1.0, 2 * sum(comb(tosses, k) for k in range(fewer + 1)) / 2**tosses)
print(f"right with the program alone: {won}")
print(f"right with the prompt alone: {lost}\np = {chance:.1g}")

# %% [markdown]
# > **Claim.** On the same notes the program beats the prompt, and a fair coin would show it less
# > than once in 1000 times.
#
# This is the number to beat, and it was found before anything was trained. What does it cost? Two
# calls for every note, and a program that knows this one form and must be changed with it. And it
# works only because the base happens to know both halves. The next chapter pays in training
# instead, and gets by with the ward's own words, "Write the discharge summary.", alone.
#
# ## Held out, but from what?
#
# An evaluation is worth what it was kept apart from. Take a model that cannot read: it looks up the
# training note with the most words in common, and repeats its answer. Each patient here has two
# notes, written by different people. Split the notes at random, and then by patient.

# %% exercise 3.5


# %%
from minilora.ward import sample_case, write_note


def patients(seed, count=120):
    """Two notes of every patient, in two styles, with what the ward would write."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        case = sample_case(rng, "cardiology")
        for manner in ("prose", "telegraphic"):
            note = write_note(case, rng, manner)
            rows.append({"name": case.name, "note": note, "completion": form.render(case)})
    return rows


def parrot(train, held):
    """The share of held-out notes that the nearest training note's answer fits."""
    bags = [set(row["note"].lower().replace(".", " ").split()) for row in train]
    outputs = []
    for row in held:
        bag = set(row["note"].lower().replace(".", " ").split())
        nearest = max(range(len(train)), key=lambda i: len(bag & bags[i]) / len(bag | bags[i]))
        outputs.append(train[nearest]["completion"])
    return exact_rate([row["completion"] for row in held], outputs)


split = answer("3.5")
by_row, by_name = [], []
for seed in range(3):
    rows = patients(seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = round(0.2 * len(rows))
    by_row.append(parrot([rows[i] for i in order[cut:]], [rows[i] for i in order[:cut]]))
    by_name.append(parrot(*split(rows, 0.2)))
print(f"split at random: {100 * np.mean(by_row):.3g} % exact")
print(f"split by patient: {100 * np.mean(by_name):.3g} % exact")

# %% [markdown]
# > **Claim.** Where notes are split at random, a parrot that looks up the nearest note is exact on
# > more than 20 % of them.
#
# > **Claim.** Where they are split by patient, it is exact on less than 5 %.
#
# A third of the test for a model that reads nothing, because the patient's other note is in the
# training set. The ward's files hold out name pairs and also four pairs of diagnosis and drug in
# every ward. A model that has learned "heart failure, so furosemide" without reading is found out
# by them.
#
# ## Tuning on the test
#
# The last leak goes through yourself. Try many settings, keep the best, and report the score that
# made it the best: it is too high. To see it alone, take settings of which we *know* that none is
# better than another. Leo's guesser takes the prompted form and flips a coin for every drug: with
# one chance in three it says that the dose is not recorded. His only setting is the seed.


# %%
def flip_coins(outputs, seed):
    """The forms, with every dose struck out by the coin of this seed, one chance in three."""
    rng = np.random.default_rng(seed)
    struck = [{d: None for d in doses(text) if rng.random() < 1 / 3} for text in outputs]
    return [put_doses(text, coins) for text, coins in zip(outputs, struck, strict=True)]


def right(seed):
    """Which of the fresh notes the guesser has exactly right."""
    pairs = zip(fresh, flip_coins(prompted_outputs, seed), strict=True)
    return [row["completion"] == text for row, text in pairs]


SEEDS = 60
table = np.array([right(seed) for seed in range(SEEDS)], dtype=float)  # (settings, notes)


def flattery(settings, few, draws=300):
    """Mean score of the best of `settings` on `few` notes: there, and on the other notes."""
    rng = np.random.default_rng(settings)
    pairs = []
    for _ in range(draws):
        chosen, order = rng.permutation(SEEDS)[:settings], rng.permutation(len(fresh))
        seen = table[chosen][:, order[:few]].mean(axis=1)
        pairs.append((seen.max(), table[chosen[seen.argmax()], order[few:]].mean()))
    return 100 * np.mean(pairs, axis=0)


# %%
counts = [1, 2, 5, 10, 20, 40]
_, axis = plt.subplots()
for few, colour in ((20, "tab:red"), (60, "tab:blue")):
    found = np.array([flattery(k, few) for k in counts])
    axis.plot(counts, found[:, 0], "o-", color=colour, label=f"on the {few} notes of the choice")
    axis.plot(counts, found[:, 1], "s--", color=colour, label=f"on the other {len(fresh) - few}")
axis.set(xscale="log", xticks=counts, xlabel="settings tried", ylabel="exact, %")
axis.set_xticklabels(counts)
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** The best of 40 worthless settings looks more than 10 points better on the 20 notes
# > that it was chosen on than on fresh ones.
#
# The dashed lines are flat, because nothing got better. The solid ones climb with every setting
# that is tried. More notes help, and a second set helps completely: choose on one, report on the
# other, look at the other once. That is why the best prompt above was chosen on 60 notes and
# reported on 100 others.
#
# What about those ten prompts? Was the best one only lucky? Hardly: most of them differ by so much
# that any sixty notes would have told them apart, and the good ones fail on the same notes, so that
# none of them can be lucky where the others are not. Choosing among few settings that differ much
# flatters little; choosing among many that are alike flatters a lot.
#
# ## The claims, measured

# %% claims
claim(
    "On the five groups the base answers on average more than 95 % of 60 held-out prompts exactly.",
    list(groups.groups.values()),
    above=0.95,
    each="groups",
)
claim(
    "After 60 right answers of 60, a true rate of 95 % is still inside the interval.",
    wilson(60, 60, 1.96)[0],
    below=0.95,
)
claim(
    "For a true rate of 97 % and 60 prompts, the textbook interval holds it less than 90 % of the "
    "time.",
    coverage(textbook, 0.97, 60),
    below=0.9,
)
claim(
    "Wilson's holds it more than 92 % of the time.",
    coverage(wilson, 0.97, 60),
    above=0.92,
)
claim(
    "In its own summaries the base invents more than 90 % of the doses that a note does not give: "
    "the whole interval lies above it.",
    ends(bare_score.invented_dose_rate, missing)[0],
    above=0.9,
)
claim(
    "Asked to check the doses, it tells all of a note right in more than 90 % of the notes: the "
    "whole interval lies above it.",
    ends(can_tell, len(fresh))[0],
    above=0.9,
)
refuted(
    "A rule in the prompt is followed: told not to guess, the base keeps the form in more than "
    "90 % of its answers.",
    [score.format_compliance for score in tried[-2:]],
    below=0.2,
    each="prompts",
    because="This base has never seen a request with a rule in it. The rule costs it the form.",
)
claim(
    "The best prompt has more than 95 % of its answers in the ward's form and more than 80 % of "
    "the words right, and invents more than 95 % of the missing doses.",
    prompted.invented_dose_rate,
    above=0.95,
)
assert prompted.format_compliance > 0.95 and words > 0.8
claim(
    "Two questions and a small program, with nothing trained, are exact on more than 85 % of fresh "
    "notes: the whole interval lies above it.",
    ends(program.exact, len(fresh))[0],
    above=0.85,
)
claim(
    "They invent less than 8 % of the missing doses: the whole interval lies below it.",
    ends(program.invented_dose_rate, missing)[1],
    below=0.08,
)
claim(
    "On the same notes the program beats the prompt, and a fair coin would show it less than once "
    "in 1000 times.",
    chance,
    below=0.001,
)
assert won > lost
claim(
    "Where notes are split at random, a parrot that looks up the nearest note is exact on more "
    "than 20 % of them.",
    by_row,
    above=0.2,
)
claim(
    "Where they are split by patient, it is exact on less than 5 %.",
    by_name,
    below=0.05,
)
looks, is_worth = flattery(40, 20)
claim(
    "The best of 40 worthless settings looks more than 10 points better on the 20 notes that it"
    " was chosen on than on fresh ones.",
    looks - is_worth,
    above=10,
)

# %% [markdown]
# ## What to read
#
# - E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of
#   the American Statistical Association, 1927.
# - Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
#   percentages", Psychometrika, 1947.
# - L. Brown, T. Cai and A. DasGupta, "Interval estimation for a binomial proportion", Statistical
#   Science, 2001: how badly the textbook interval does, and where.
# - In this project: `data/ward/README.md`, what is held out and why; `minilora/ward/score.py`,
#   every rate that the ward reports; `minilora/runs/tour.py`, which measures the prompt beside the
#   adapter.
