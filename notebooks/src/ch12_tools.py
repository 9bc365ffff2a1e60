# The source of notebooks/12_tools.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 12. Adapter, prompt, retrieval, or nothing?
#
# **Time.** about 3 hours, exercises included.
#
# **What you will be able to do.** Say for a job whether it needs a prompt, a look-up, an adapter,
# full training or nothing at all, and say why; find training rows that are wrong, by counting and
# by gradients; and take a bad adapter back.
#
# **The story.** Leo has learned to train adapters in minutes, and now everything looks like a job
# for one. The doses that the house changes now and then. The notes from the hospital abroad. And
# the old form, for which he has found four times as many rows, "only a few of them filled in by
# guess". Maya brings a sheet of paper with five columns.

# %%
from minilora.course import pictures

pictures.five_tools()

# %% [markdown]
# One base, and five ways to get a job done with it. They differ in *where* the new thing goes: into
# nothing, into the words of the request, into a table beside the model, into a thin sheet, into the
# weights. This chapter gives each of them a job that it is good at and one that it is bad at. It
# begins with what all training hangs on: the rows.

# %%
import json
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

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
    side_by_side,
    slider,
    solution,
    style,
)

style()

# %% [markdown]
# ## The clerk who guessed
#
# The job is the line of drugs from chapter 6: what a note says of drugs becomes one line. Where the
# note gives no dose, the house wants to read that it gives none. Here are a row as it should be,
# and the same row from a clerk who filled the gap with the drug's usual dose.

# %%
from minilora.course.chapters.ch12.jobs import FORM, lines

notes = lines(1200, seed=1)
shown = next(x for x in notes if x.missing)
print(shown.prompt, "\n\nthe house: ", shown.answer, "\nthe clerk: ", shown.guessed)

# %% [markdown]
# Leo's pile is like this: of 1,200 rows some are the clerk's. We take none, a tenth and three
# tenths, drawn by chance. Against the pile stands a small heap of 300 rows that a doctor has
# checked. Everybody reads the pile once, which takes 150 steps of 8 rows. The small heap is read
# twice, in 75 steps, so that it has half the steps.
#
# The learning rate was chosen on other notes and with another seed. What is reported comes from
# three seeds, and from 120 held-out notes of which each lacks a dose at least.

# %%
from minilora.course.chapters.ch06.lines import encoded
from minilora.evaluation.paired import wilson
from minilora.hub import load_pretrained
from minilora.lora import Adapter, LoRAConfig, attach
from minilora.text.answers import answers
from minilora.training import Batches, TrainingConfig, fit
from minilora.ward.formats import DOSE_PATTERN
from minilora.ward.rules import gives_dose
from minilora.ward.tasks import FORMULARY

base, tokenizer = load_pretrained(data_folder("ward-base"))
asked = [x for x in lines(500, seed=2, split="heldout") if x.missing][:120]
gaps = sum(len(x.missing) for x in asked)
SEEDS = (0, 1, 2)


def fresh():
    """A new copy of the base."""
    return load_pretrained(data_folder("ward-base"))[0]


def trained_on(rows, seed, steps, lr=0.01, size=8, modules=("q_proj", "v_proj"), **more):
    """The base with an adapter that learned these pairs of prompt and answer, and its handle."""
    model = fresh()
    handle = attach(model, LoRAConfig(8, 16, modules), np.random.default_rng(seed))
    settings = TrainingConfig(steps=steps, lr=lr, warmup=5, seed=seed, workers=1)
    batches = Batches(encoded(tokenizer, rows), size, seed, tokenizer.pad_id)
    fit(model, batches, settings, progress=False, **more)
    return model, handle


def said(model, prompts, room=60):
    """The model's answers."""
    return [text.strip() for text in answers(model, tokenizer, prompts, room)]


def judged(texts):
    """(share of lines that are right, share of the gaps that are filled with a dose)."""
    right = np.mean([text == x.answer for text, x in zip(texts, asked, strict=True)])
    pairs = zip(texts, asked, strict=True)
    return right, sum(gives_dose(text, drug) for text, x in pairs for drug in x.missing) / gaps


# %%
def with_guesses(count, share, seed):
    """The first rows, of which the clerk has written a share."""
    rng = np.random.default_rng([seed, 5])
    return [(x.prompt, x.guessed if rng.random() < share else x.answer) for x in notes[:count]]


def entry(job):
    """An adapter of a job (rows, share, steps, seed), and its answers."""
    count, share, steps, seed = job
    model, handle = trained_on(with_guesses(count, share, seed), seed, steps)
    return handle.adapter(base_name="ward-base"), said(model, [x.prompt for x in asked])


PILES = {
    "1,200, none guessed": (1200, 0.0, 150),
    "1,200, 10 % guessed": (1200, 0.1, 150),
    "1,200, 30 % guessed": (1200, 0.3, 150),
    "300, none guessed": (300, 0.0, 75),
}
jobs = [(*pile, seed) for pile in PILES.values() for seed in SEEDS]
runs = dict(zip(jobs, side_by_side(entry, jobs), strict=True))


def scores(name):
    """(right, invented) of a pile, one row a seed."""
    return np.array([judged(runs[(*PILES[name], seed)][1]) for seed in SEEDS])


# %% predict
predict(
    "guesses",
    "The clerk guessed in 30 % of the rows. In how many % of the gaps does the adapter guess?",
    None,
)

# %%
NAMES = list(PILES)
reveal("guesses", float(100 * scores(NAMES[2])[:, 1].mean()))


def bars(axis, column, of, label):
    """The mean of three seeds with Wilson's interval for the rows of one, and each seed."""
    for place, name in enumerate(NAMES):
        found = scores(name)[:, column]
        low, high = wilson(found.mean() * of, of)
        colour = "tab:green" if "none" in name else "tab:red"
        axis.plot([100 * low, 100 * high], [place] * 2, color=colour, linewidth=5, alpha=0.3)
        axis.plot(100 * found, [place] * 3, "o", color=colour, markersize=5)
    axis.set(yticks=range(len(NAMES)), xlabel=label)


_, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
bars(left, 1, gaps, "gaps filled with a dose, %")
bars(right, 0, len(asked), "lines exactly right, %")
left.set_yticklabels(NAMES)
left.invert_yaxis()
plt.show()
print(f"{'in percent':20} right filled")
for name in NAMES:
    exact, invented = 100 * scores(name).mean(axis=0)
    print(f"{name:20}{exact:6.0f}{invented:7.1f}")

# %% [markdown]
# (A dot is a seed. The pale stroke is the 95 % interval that belongs to their mean, for the gaps or
# the rows of one seed.)
#
# > **Claim.** With 30 % guessed rows the adapter fills on average more than 10 % of the gaps.
#
# > **Claim.** 300 clean rows, in half the steps, get at least 5 points in 100 more lines right than
# > 1,200 rows of which 30 % are guessed.
#
# > **Claim.** A majority wins: since the house's answer is seen seven times for the clerk's three,
# > and the most probable word is written, less than 5 % of the gaps are filled.
#
# Four times as much data, twice the steps, and a worse adapter. The majority should have helped. It
# would, if the adapter had the same doubt at every gap: then "no dose" would be the more probable
# everywhere. But the doubt differs from gap to gap, and the base's old habit pulls towards a dose.
# What was three in ten on average is more than one half at some gaps, and there a dose is written.
#
# ## Find them by counting
#
# Rows that disagree betray themselves, and nobody needs a model to see it. Two rows of one
# situation with two different answers: one of them is wrong.

# %% exercise 12.1

# %% [markdown]
# What is a situation here? A drug for which the note gives no dose. There may be several in a row,
# so we look at each gap, and then at the row in which it stands.

# %%
suspects = answer("12.1")


def found_by_counting(taken, rows):
    """Numbers of the rows in which some gap is filled otherwise than most gaps of that drug."""
    at, decisions = [], []
    for i, (x, (_, text)) in enumerate(zip(taken, rows, strict=True)):
        for drug in x.missing:
            at.append(i)
            decisions.append((drug, "a dose" if gives_dose(text, drug) else "none recorded"))
    return sorted({at[i] for i in suspects(decisions)})


def caught(seed):
    """(share of the clerk's rows that are found, share of what is found that is the clerk's)."""
    rows = with_guesses(1200, 0.3, seed)
    pairs = zip(notes, rows, strict=True)
    wrong = {i for i, (x, (_, text)) in enumerate(pairs) if text != x.answer}
    found = set(found_by_counting(notes, rows))
    return len(found & wrong) / len(wrong), len(found & wrong) / len(found)


counted = np.array([caught(seed) for seed in SEEDS])
print(f"of the clerk's rows found: {100 * counted[:, 0].mean():.0f} %")
print(f"of what is found the clerk's: {100 * counted[:, 1].mean():.0f} %")


# %%
def mended(seed):
    """The scores of an adapter that learned the pile without the suspects."""
    rows = with_guesses(1200, 0.3, seed)
    out = set(found_by_counting(notes, rows))
    kept = [row for i, row in enumerate(rows) if i not in out]
    return judged(said(trained_on(kept, seed, 150)[0], [x.prompt for x in asked]))


repaired = np.array(side_by_side(mended, SEEDS))
print("without the suspects:")
print(f"   lines right {100 * repaired[:, 0].mean():.0f} %")
print(f"   gaps filled {100 * repaired[:, 1].mean():.1f} %")

# %% [markdown]
# > **Claim.** Counting finds on average more than 90 % of the clerk's rows.
#
# > **Claim.** Without the rows that counting suspects, the adapter fills on average less than 5 %
# > of the gaps.
#
# ## A mistake that nobody contradicts
#
# Now another clerk. She never guesses, except that she believes that every patient on a certain
# drug gets its usual dose, and so she writes it, each time. Her rows agree with each other.
# Counting finds the majority, and the majority is wrong.
#
# Then something else must help: an answer that was noticed. A doctor sees a line with a dose that
# the note does not give, and asks: *where did you learn that?* An adapter can be asked.

# %% exercise 12.2

# %% [markdown]
# The query is a difference of two losses: that of the wrong line, less that of the right one. So a
# note counts if it makes the wrong line likelier *than the right one*, and not for teaching what
# both have in common. The library's `note_gradients` gives the gradient of every note alone, for
# the 16,384 numbers of the adapter. We look at the run twice, half-way and near the end. (At the
# very end the learning rate is 0, and nothing is taught any more.)

# %%
from minilora.analysis.influence import note_gradients

credit = answer("12.2")
FEW, STEPS, LOOKS = 300, 80, (40, 70)
lacking = Counter(drug for x in notes[:FEW] for drug in x.missing)
her_drugs = [drug for drug, _ in lacking.most_common(len(SEEDS))]


def her_rows(drug):
    """(the rows, whether each is hers): every gap of one drug is filled."""
    hers = np.array([drug in x.missing for x in notes[:FEW]])
    pairs = zip(notes, hers, strict=False)
    return [(x.prompt, x.filled([drug]) if own else x.answer) for x, own in pairs], hers


def lack_it(drug):
    """Notes of other patients that lack the dose of this drug, and of no other."""
    return [x for x in lines(2000, seed=4) if x.missing == (drug,)][:25]


def gradients(handle, pairs):
    """The gradients of some pairs of prompt and answer (n, P), each alone."""
    examples = encoded(tokenizer, pairs)
    found = np.zeros((len(examples), sum(p.size for p in numbers(handle))), dtype=np.float32)
    for places, _, own in note_gradients(handle, examples, tokenizer.pad_id):
        found[places] = own
    return found


def numbers(handle):
    """The adapter's arrays."""
    return [p.data for layer in handle.layers.values() for p in (layer.lora_A, layer.lora_B)]


def filled(model, drug):
    """The answers to notes that lack this drug's dose, and whether each gives one."""
    texts = said(model, [x.prompt for x in lack_it(drug)])
    return texts, [gives_dose(text, drug) for text in texts]


# %%
def traced(job):
    """Shares: gaps filled; her rows, traced and counted; gaps filled without the traced."""
    drug, seed = job
    rows, hers = her_rows(drug)
    kept = {}  # step -> the adapter's numbers

    model = fresh()
    handle = attach(model, LoRAConfig(8), np.random.default_rng(seed))
    settings = TrainingConfig(steps=STEPS, lr=0.01, warmup=5, seed=seed, workers=1, eval_every=10)

    def look(step):
        if step in LOOKS:
            kept[step] = [array.copy() for array in numbers(handle)]
        return {}

    batches = Batches(encoded(tokenizer, rows), 8, seed, tokenizer.pad_id)
    history = fit(model, batches, settings, progress=False, on_eval=look)
    texts, before = filled(model, drug)
    if not any(before):
        return 0.0, 0.0, 0.0, 0.0
    wrong = lack_it(drug)[before.index(True)]
    query = [(wrong.prompt, texts[before.index(True)]), (wrong.prompt, wrong.answer)]
    moments = []
    for step, arrays in kept.items():
        for array, own in zip(numbers(handle), arrays, strict=True):
            array[...] = own
        minus = gradients(handle, query)
        rate = history.records[step - 1]["lr"]
        moments.append((rate, gradients(handle, rows), minus[0] - minus[1]))
    first = np.argsort(-credit(moments))[: hers.sum()]
    counted = found_by_counting(notes[:FEW], rows)
    rest = [row for i, row in enumerate(rows) if i not in set(first)]
    after = filled(trained_on(rest, seed, STEPS)[0], drug)[1]
    return (
        np.mean(before),
        hers[first].mean(),
        np.isin(np.flatnonzero(hers), counted).mean(),
        np.mean(after),
    )


traces = np.array(side_by_side(traced, list(zip(her_drugs, SEEDS, strict=True))))
print(f"{'drug':12}hers counted traced filled then")
for drug, (before, by_trace, by_count, after) in zip(her_drugs, traces, strict=True):
    shares = f"{100 * by_count:7.0f}%{100 * by_trace:6.0f}%{100 * before:6.0f}%{100 * after:4.0f}%"
    print(f"{drug:12}{lacking[drug]:4d}{shares}")

# %% [markdown]
# The columns: *hers* is how many of the 300 rows are hers. *Counted* is the share of these that
# counting finds, and *traced* the share that one wrong answer finds, traced back. *Filled* is the
# share of that drug's gaps in which the adapter that learned her rows writes a dose, and *then* the
# same for an adapter that was trained again without the traced rows.
#
# > **Claim.** Counting finds less than 10 % of rows that are wrong and agree with each other.
#
# > **Claim.** One wrong answer, traced back to the notes that taught it, finds on average more than
# > 60 % of them.
#
# > **Claim.** Trained again without the traced rows, the adapter fills at least 30 points in 100
# > fewer of that drug's gaps.
#
# So there are two tools for two kinds of wrong rows. Counting needs no model and no suspicion, and
# is blind where everybody is wrong in the same way. Tracing needs one answer that a person has
# noticed. `minilora why` does the latter for any adapter; `data/why` has longer runs.
#
# ## The gate, and the way back
#
# Leo has trained on the pile by now, and put his adapter in the place of the old one. Whoever
# exchanges a thing that works needs two things: a gate in front, and a way back.
#
# The gate is chapter 3's interval. An adapter may go in if even the upper end of the interval for
# filled gaps lies below 8 %, and the lower end of that for right lines above 80 %. It does not ask
# who trained it, or on how much. The way back is git: an adapter is two small files.

# %%
clean, pile = runs[(*PILES["300, none guessed"], 0)], runs[(*PILES["1,200, 30 % guessed"], 0)]


def may_go_in(texts):
    """Whether the intervals of both scores are where they have to be."""
    exact, invented = judged(texts)
    low, _ = wilson(exact * len(asked), len(asked))
    _, high = wilson(invented * gaps, gaps)
    print(f"right at least {100 * low:.0f} %, filled at most {100 * high:.0f} %")
    return bool(low > 0.8 and high < 0.08)


folder = tempfile.TemporaryDirectory()
place = Path(folder.name)


def git(*words):
    """Run git in the adapter's folder; what it says."""
    who = (
        "-c",
        "user.name=Maya",
        "-c",
        "user.email=maya@ward.example",
        "-c",
        "commit.gpgsign=false",
    )
    done = subprocess.run(
        ["git", *who, *words], cwd=place, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def keep(adapter, why):
    """Write an adapter over the one that is there, and remember it."""
    adapter.write(place / "line")
    git("add", "line")
    git("commit", "-q", "-m", why)


git("init", "-q")
keep(clean[0], "The line: 300 rows, checked by a doctor")
keep(pile[0], "The line: four times as many rows!")
print(git("log", "--format=%s"))
print(git("diff", "--stat", "HEAD~1", "--", "line/adapter_model.safetensors"))

# %% [markdown]
# That is what git has to say of the change: some bytes are others. It keeps versions faithfully,
# and can't read them. The difference that matters is one of answers.

# %%
changed = [i for i, (a, b) in enumerate(zip(clean[1], pile[1], strict=True)) if a != b]
worse = [i for i in changed if clean[1][i] == asked[i].answer]
print(f"{len(changed)} of {len(asked)} answers differ,")
print(f"{len(worse)} of them were right before")
print(f"before:\n   {clean[1][worse[0]]}\nnow:\n   {pile[1][worse[0]]}")
verdicts = [may_go_in(texts) for _, texts in (clean, pile)]
print("may go in:", *verdicts)

# %%
git("revert", "--no-edit", "HEAD")
print(git("log", "--format=%s"))
back = Adapter.read(place / "line")
pairs = [(back.factors(m), clean[0].factors(m)) for m in clean[0].modules]
other_bits = sum(int((a != b).sum()) for new, old in pairs for a, b in zip(new, old, strict=True))
print(f"the old adapter is back:\n{other_bits} of its {back.size:,} numbers differ")
folder.cleanup()

# %% [markdown]
# > **Claim.** The gate lets 1 of the 2 adapters in, the one of the 300 clean rows.
#
# > **Claim.** After the rollback 0 of the adapter's numbers have other bits.
#
# `minilora diff` compares the answers of two adapters and says which modules the change hangs on,
# `minilora gate` is chapter 10's gate as a command, with an exit code that a script can read.
#
# ## Facts that change
#
# The house gives its drugs in doses of its own, not in the usual ones. They stand on a list of 57
# lines. Leo trains an adapter on it: three ways of asking for each of the doses. It is asked in a
# fourth way. Then the list changes in ten places.

# %%
from minilora.course.chapters.ch12.jobs import STRANGE, changed_doses, house_doses

table = house_doses()
ASKED = (
    "What is the house dose of {}?",
    "House dose of {}?",
    "What is the dose of {} in this house?",
)
UNSEEN = "What is the dose of {}?"


def doses(model, wanted, read=None):
    """Whether the model gives the wanted dose of each drug; read: lines that go before."""
    prompts = [UNSEEN.format(drug) for drug in wanted]
    if read is not None:
        prompts = ["\n".join([*read(prompt), "", prompt]) for prompt in prompts]
    return np.array(
        [a == b for a, b in zip(said(model, prompts, 12), wanted.values(), strict=True)]
    )


drugs = list(table)
usual = said(base, [UNSEEN.format(drug) for drug in drugs[:3]], 12)
print("base: ", ", ".join(usual))
print("house:", ", ".join(table[drug] for drug in drugs[:3]))

# %% [markdown]
# The base answers with the usual dose, as it was taught. Beside the adapter we put the other way:
# the list stays a list. A program finds the drug in the question, takes its line, and puts it in
# front of the question. That is *retrieval*; large systems search millions of pages, and the idea
# is this.

# %% exercise 12.3

# %%
looked_up = answer("12.3")
print(*looked_up("Dose of Metoprolol, and of digoxin?", table), sep="\n")


def knows(seed):
    """Right answers before the change; then, of (kept, changed) doses, in four ways."""
    rows = [(question.format(drug), dose) for question in ASKED for drug, dose in table.items()]
    model, _ = trained_on(rows, seed, 100, size=16, modules="all-linear")
    new, moved = changed_doses(seed)
    ways = [doses(base, new), doses(model, new)]
    ways += [doses(who, new, lambda q: looked_up(q, new)) for who in (base, model)]
    asked_of = np.array([drug in moved for drug in new])
    strange = [UNSEEN.format(drug) for drug in STRANGE]
    made_up = np.mean([bool(re.search(DOSE_PATTERN, text)) for text in said(model, strange, 12)])
    shares = [(way[~asked_of].mean(), way[asked_of].mean()) for way in ways]
    return doses(model, table).mean(), shares, made_up


answered = side_by_side(knows, SEEDS)
before = np.array([known for known, _, _ in answered])
after = 100 * np.array([shares for _, shares, _ in answered])  # seeds, ways, (kept, changed)
confabulated = np.array([share for _, _, share in answered])
print(f"before the change the adapter\nknows {100 * before.mean():.0f} % of the list")

# %% predict
predict(
    "both",
    "After the change, the adapter with the new line before its eyes: how many % of the ten?",
    None,
)

# %%
reveal("both", float(after[:, 3, 1].mean()))
WAYS = ("base alone", "adapter", "base + look-up", "adapter + look-up")
_, axis = plt.subplots(figsize=(7, 2.8))
for shift, part, colour, label in (
    (-0.2, 0, "tab:gray", "the 47 that stayed"),
    (0.2, 1, "tab:orange", "the 10 that changed"),
):
    middle = after[:, :, part].mean(axis=0)
    axis.bar(np.arange(4) + shift, middle, 0.38, color=colour, label=label)
    axis.plot(np.tile(np.arange(4) + shift, (3, 1)), after[:, :, part], "k.", markersize=4)
axis.set(xticks=range(4), ylim=(0, 105), ylabel="doses right, %")
axis.set_xticklabels(WAYS)
axis.legend(fontsize=8, loc="center left")
plt.show()
print(f"{'right, %':17} stayed changed")
for way, (kept, moved) in zip(WAYS, after.mean(axis=0), strict=True):
    low, high = (100 * x for x in wilson(moved / 100 * 30, 30))
    print(f"{way:17}{kept:7.0f}{moved:5.0f} ({low:.0f} to {high:.0f})")

# %% [markdown]
# (A dot is a seed. Each interval is for 30 doses, the ten that changed with each seed.)
#
# > **Claim.** Before the change the adapter gives on average more than 95 % of the list rightly.
#
# > **Claim.** Of the ten changed doses it gives less than 20 % rightly: the upper end of the
# > interval for 30 doses lies below that.
#
# > **Claim.** The look-up, with nothing trained, gives on average more than 95 % of the changed
# > doses rightly.
#
# > **Claim.** Together they are best: the adapter with the line before its eyes gives more than 90
# > % of the changed doses rightly.
#
# The last bar is the one to remember. It was wrong to hope that the adapter would read where it
# does not know. It *does* know, and it has learned in every one of its steps that the answer to
# this question needs no reading. Facts in the weights and facts in the prompt are rivals, and the
# weights win. If you use a table, do not also train its contents.
#
# There is a second trouble with facts in weights. Ask for a drug that is on no list.

# %%
print(f"{STRANGE[0]}, looked up:", looked_up(UNSEEN.format(STRANGE[0]), table))
print(f"of {len(STRANGE)} drugs that are on no list")
print(f"the adapter gives a dose for {100 * confabulated.mean():.0f} %")

# %% [markdown]
# > **Claim.** For drugs that are on no list, the adapter gives a dose in more than 60 % of the
# > cases.
#
# The look-up knows what it does not have: the list is empty, and a program can say so.
#
# Does a look-up always work untrained? No. The model has to be able to read what is put before it.
# This base has read many notes with doses, and no code such as BX.

# %%
codes = [f"House code of {drug}: BX.\n\nWhat is the house code of {drug}?" for drug in drugs]
reads_codes = np.mean([text == "BX" for text in said(base, codes, 8)])
print(f"of {len(codes)} lines with a code")
print(f"{100 * reads_codes:.0f} % are read rightly")

# %% [markdown]
# > **Claim.** The same look-up with a code in place of a dose is read rightly in less than 10 % of
# > the cases.
#
# There an adapter is the right tool again: not one for the codes, but one for *reading* lines of
# codes, which stays right when they change.
#
# ## Two jobs that LoRA is bad at
#
# **A new alphabet.** Let every token get another token's number, drawn by chance, as if somebody
# had glued other letters on all keys. The notes are the same notes, as long as before, and as easy,
# for whoever knows the keys. Footnote 6 of the LoRA paper expects trouble with a language that
# pretraining has not seen. Four ways to learn it, each in 60 steps with the best of two or three
# learning rates, found with another seed on other notes: LoRA on q and v, LoRA on all linear maps,
# training the embedding alone, and training everything. How far each gets is told as a part of *the
# way back*: from the base's loss under the new keys, before any training, to its loss under the old
# ones, the dashed line in the figure.

# %%
from minilora.course.chapters.ch12.jobs import as_texts, note_tokens
from minilora.training.heldout import evaluate

size = base.config.vocab_size
alphabet = np.arange(size)
alphabet[8:] = 8 + np.random.default_rng(4).permutation(size - 8)  # the first 8 are marks
learn = as_texts(note_tokens(tokenizer, 500, 1, "train", 48), alphabet)
known_text = note_tokens(tokenizer, 60, 2, "heldout", 48)
exam = as_texts(known_text, alphabet)
ARMS = {"q, v": 0.02, "all linear": 0.01, "embedding": 0.03, "everything": 0.005}


def new_reader(job):
    """(loss in nats a token on held-out notes, numbers that are trained)."""
    arm, seed = job
    model = fresh()
    if arm in ("q, v", "all linear"):
        modules = ("q_proj", "v_proj") if arm == "q, v" else "all-linear"
        attach(model, LoRAConfig(8, 16, modules), np.random.default_rng(seed))
    elif arm == "embedding":
        for name, p in model.named_parameters():
            p.requires_grad = name == "model.embed_tokens.weight"
    count = sum(p.data.size for p in model.parameters() if p.requires_grad)
    settings = TrainingConfig(steps=60, lr=ARMS[arm], warmup=5, seed=seed, workers=1)
    fit(model, Batches(learn, 8, seed, tokenizer.pad_id), settings, progress=False)
    return evaluate(model, exam), count


old_keys, new_keys = evaluate(base, as_texts(known_text)), evaluate(base, exam)
readers = [(arm, seed) for arm in ARMS for seed in SEEDS]
read = np.array(side_by_side(new_reader, readers)).reshape(len(ARMS), len(SEEDS), 2)
closed = (new_keys - read[:, :, 0]) / (new_keys - old_keys)

# %% predict
predict("keys", "Of the way back to the old loss, how many % does LoRA on q and v go?", None)

# %%
reveal("keys", float(100 * closed[0].mean()))
_, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3))
left.bar(range(4), read[:, :, 0].mean(axis=1), color=["tab:orange"] * 2 + ["tab:blue", "tab:gray"])
left.plot(np.tile(range(4), (3, 1)), read[:, :, 0].T, "k.", markersize=4)
left.axhline(old_keys, color="black", linestyle="--", linewidth=1)
left.text(3.4, old_keys + 0.15, "old keys", ha="right", fontsize=8)
left.set(xticks=range(4), ylabel="loss, nats a token")
left.set_xticklabels(list(ARMS), fontsize=8)

model = fresh()
weight = model.model.embed_tokens.weight
E = weight.data.copy()
wanted = np.empty_like(E)
wanted[alphabet] = E  # token alphabet[i] should get the row of token i
U, sizes, Vt = np.linalg.svd(wanted - E, full_matrices=False)
RANKS = [1, 8, 16, 32, 48, 64, 80, 96, 128]
energy = {r: float((sizes[:r] ** 2).sum() / (sizes**2).sum()) for r in RANKS}
way = {}
for r in RANKS:
    weight.data = (E + (U[:, :r] * sizes[:r]) @ Vt[:r]).astype(np.float32)
    way[r] = (new_keys - evaluate(model, exam)) / (new_keys - old_keys)
right.plot(RANKS, [100 * energy[r] for r in RANKS], "o-", ms=3, label="energy")
right.plot(RANKS, [100 * way[r] for r in RANKS], "o-", ms=3, label="of the way back")
right.axvline(8, color="tab:orange", linewidth=1)
right.set(xlabel="rank of the embedding's change", ylabel="%", ylim=(0, 104))
right.legend(fontsize=8)
plt.show()
for arm, found, part in zip(ARMS, read, closed, strict=True):
    print(f"{arm}: {found[0, 1]:,.0f} numbers")
    print(f"   loss {found[:, 0].mean():.3g}, {100 * part.mean():.0f} % of the way")
for r in (8, 64):
    print(f"the exact change cut to rank {r}:")
    print(f"   {100 * energy[r]:.0f} % of its energy, {100 * way[r]:.0f} % of the way")

# %% [markdown]
# > **Claim.** In 60 steps LoRA on q and v goes less than 65 % of the way back to the old loss.
#
# > **Claim.** Training the embedding alone goes more than 75 % of the way.
#
# > **Claim.** The new alphabet asks the embedding for noise: of the exact change, a sheet of rank 8
# > holds less than 25 % of the energy.
#
# > **Claim.** Even cut from the exact change, a sheet of rank 8 in the embedding goes less than 60
# > % of the way.
#
# > **Claim.** Who may change everything learns the alphabet best: everything has a loss at least
# > 0.1 nats below that of the embedding alone.
#
# An alphabet lives in the embedding, which LoRA's usual targets do not touch: all linear maps
# together hardly get further than q and v. And a thin sheet in the right place would not do either.
# On the right is the exact change, which is known here, for every number should get the row of the
# token that it now stands for; it is cut to rank after rank, and the upright line stands at 8. We
# had expected noise, whose energy is spread evenly. It is not: one direction alone holds most of
# the energy. But that direction hardly tells one token from another. What does that is spread over
# all 128 directions: even with 64 of them (the last line printed) a part of the way is missing.
# (PEFT's `modules_to_save` trains the whole embedding beside an adapter: the honest way, and no
# longer thin.)
#
# Training everything is worse than training the embedding alone, in as many steps and each at its
# best rate. The embedding wants large steps, and the maps break at them; one rate for both has to
# be the smaller one.
#
# **A mass of facts.** 57 doses went in easily. How does it go on? Pager numbers, here two letters
# for each person, are made up for 40 and for 160 people. Each is read 48 times, so four times as
# many facts take four times as many steps.

# %%
from minilora.course.chapters.ch12.jobs import pagers

CROWDS = {40: 0.01, 160: 0.005}  # people: the better of two learning rates, with another seed
usual = {fact.paraphrases[0]: fact.answer for fact in FORMULARY if fact.task == "formulary/dose"}


def crowd(job):
    """(share of pagers known, share of usual doses still known) after learning so many."""
    people, seed = job
    rows = pagers(people, seed)
    model, _ = trained_on(rows, seed, 48 * people // 32, CROWDS[people], 32, "all-linear")
    known = [a == b for a, (_, b) in zip(said(model, [q for q, _ in rows], 8), rows, strict=True)]
    kept = [a == b for a, b in zip(said(model, list(usual), 12), usual.values(), strict=True)]
    return np.mean(known), np.mean(kept)


crowds = [(people, seed) for people in CROWDS for seed in SEEDS]
held_facts = np.array(side_by_side(crowd, crowds)).reshape(len(CROWDS), len(SEEDS), 2)
for people, found in zip(CROWDS, held_facts.mean(axis=1), strict=True):
    print(f"{people} pagers: {100 * found[0]:.0f} % known,")
    print(f"   {100 * found[1]:.0f} % of the usual doses left")

# %% [markdown]
# > **Claim.** A mass of facts does not fit into a thin sheet: of 160 pager numbers less than half
# > are known after as many readings of each.
#
# > **Claim.** The base pays for the pagers: of its usual doses, which it all knew, more than 20
# > points in 100 are gone.
#
# They do fit. A sheet of 81,920 numbers has room for far more than 160 pairs of letters, and the
# reason not to do it is another one. 48 readings for each fact, and again at each change; no way to
# take one out; answers for people who have no pager; and what the base loses on the way. A line in
# a table costs a line.
#
# ## What each way costs
#
# Back to the house's line. Without any training there are two ways. The prompt "Fill in: Rx." asks
# for it in words that the base knows; it guesses missing doses. Or ask twice, as in chapter 3: once
# to fill in the line, once which doses are written, and let a program join both answers.

# %%
PLAIN_WORDS = asked[0].prompt.split("\n\n")[-1]


def instead(words):
    """The prompts with other words in place of the instruction."""
    return [x.prompt.removesuffix(PLAIN_WORDS) + words for x in asked]


def strike_out(line, written):
    """The line, with the house's words where the second answer says that no dose is written."""
    for drug in re.findall(rf"([a-z][a-z ]*?) {FORM.missing_dose}", written):
        line = re.sub(rf"{drug} {DOSE_PATTERN}", f"{drug} {FORM.missing_dose}", line)
    return line


prompts = {
    "nothing": [x.prompt for x in asked],
    "prompt": instead("Fill in: Rx."),
    "check": instead("Which doses are written?"),
}
replies = {name: said(base, rows, 80) for name, rows in prompts.items()}
joined = [strike_out(*pair) for pair in zip(replies["prompt"], replies["check"], strict=True)]


def tokens(prompts, replies):
    """Tokens that a request takes, read and written, on average."""
    both = zip(prompts, replies, strict=True)
    return np.mean([len(tokenizer.encode_prompt(p)) + len(tokenizer.encode(r)) for p, r in both])


once, twice = (
    tokens(prompts["prompt"], replies["prompt"]),
    tokens(prompts["check"], replies["check"]),
)
ways = {
    "nothing": (replies["nothing"], tokens(prompts["nothing"], replies["nothing"])),
    "prompt": (replies["prompt"], once),
    "two questions": (joined, once + twice),
    "adapter": (clean[1], tokens(prompts["nothing"], clean[1])),
}
print(f"{'':13} right filled tokens")
for name, (texts, cost) in ways.items():
    exact, invented = judged(texts)
    print(f"{name:13}{100 * exact:4.0f} %{100 * invented:5.0f} %{cost:7.0f}")

# %% [markdown]
# (*Filled* is the share of the gaps that get a dose. *Tokens* are those that a request takes, read
# and written, on average.)
#
# > **Claim.** Nothing but two questions and a program is not behind the adapter of 300 clean rows:
# > it gets at most 5 points in 100 fewer lines right.
#
# So the trained adapter has to earn its place. It reads each note once, the program twice. Training
# has a price too: each token that is trained on goes forwards and backwards, and with $W$ frozen
# the way back costs about as much as the way there (chapter 1), so it counts twice. And the 300
# rows are read twice, so that training costs four times their tokens.

# %% exercise 12.4

# %%
break_even = answer("12.4")
training = 2 * 2 * sum(len(e) for e in encoded(tokenizer, with_guesses(300, 0.0, 0)))
cost = {name: round(tokens) for name, (_, tokens) in ways.items()}
needed = break_even(training, cost["adapter"], cost["two questions"])
print(f"training reads {training:,} tokens,")
print(f"cheaper from request {needed:,} on;")
print("against the plain prompt:", break_even(training, cost["adapter"], cost["prompt"]))

# %%
requests = np.arange(0, 2 * needed, 10)


def draw_costs(times=1):
    """Tokens by requests; times: how often the house changes its form on the way."""
    plt.figure(figsize=(6.4, 3))
    plt.plot(requests, requests * cost["two questions"] / 1e3, label="two questions, a program")
    trainings = np.minimum(requests // max(1, requests[-1] // times), times - 1) + 1
    plt.plot(requests, (trainings * training + requests * cost["adapter"]) / 1e3, label="adapter")
    plt.xlabel("requests")
    plt.ylabel("thousand tokens")
    plt.legend()
    plt.show()


draw_costs()


# %% slider
def turn(changes=1):
    draw_costs(changes)


slider(turn, changes=[1, 2, 3, 4, 6])

# %% [markdown]
# The adapter's line begins at the price of its training and rises more slowly. Where the two lines
# cross, the training has paid for itself.
#
# > **Claim.** Against two questions, the adapter has earned its training after fewer than 2,000
# > requests.
#
# A ward of 300 notes a day is there within a week. Move the slider: each time that the form
# changes, the training is paid again, and soon the program is cheaper for ever. How often a thing
# changes decides more than how well it can be learned.
#
# ## Seventy-two runs, and what to keep
#
# Suppose that it is to be an adapter. Which one? More rank, more places, more rows, old work among
# the rows? One run on the ward is cheap, so all of these can be tried. `minilora sweep` has done it
# for the ward's main job, the whole summary in the house's form: four ranks (1, 2, 8 and 32), two
# sets of places (q and v, or all linear maps) and three mixes of rows. The mixes are 300 rows;
# 1,200 rows; and 1,200 rows with old work: a fifth of what is read are tasks that the base knew
# before, which chapter 10 called replay. With three seeds that makes 72 runs, a quarter of an hour
# on two cores. Here we read their table from `data/sweep`, and train nothing.
#
# All take 150 steps of 8 rows, at one learning rate. So who has 300 rows reads each four times, and
# who has 1,200 reads each once at most: it is the rows that differ, not the work.
#
# Each run was asked three things:
#
# - 100 notes *to choose by*.
# - 100 other notes *to report*. The best of 24 was lucky too, a little, on the notes that it was
#   chosen by; its score there flatters it.
# - 60 *old tasks*, 12 of each of five kinds: documents in the public form, questions about a note,
#   refusals, the formulary, abbreviations. The base answers all 60 rightly.
#
# An adapter *breaks the base* if it loses more of the old tasks than chance explains: chapter 10's
# interval for the change, over the answers of all three seeds, lies below zero as a whole. The
# public documents are not counted in this. One of them, the summary, is asked for in the very
# words in which the house asks for its own, so that kind is meant to change.

# %%
table_of_runs = json.loads((data_folder("sweep") / "table.json").read_text())
combinations = table_of_runs["found"]
print(len(combinations), "combinations,", len(combinations[0]["choose"]), "seeds each")
print(f"old tasks that the base does: {100 * table_of_runs['base']['all']:.0f} %")

# %% exercise 12.5

# %%
picked = answer("12.5")
kept = combinations[picked(combinations)]
best = max(
    (run for run in combinations if not run["breaks_base"]), key=lambda run: np.mean(run["choose"])
)


def places(run):
    """Which maps have a sheet."""
    return "all linear" if run["settings"]["target_modules"] == "all-linear" else "q, v"


def mean(run):
    """The reported score, the mean of the seeds, in %."""
    return 100 * np.mean(run["report"])


def old_work(run):
    """The old tasks, but for the kind that is meant to change, in %."""
    changing = table_of_runs["meant_to_change"]
    return 100 * np.mean([share for kind, share in run["groups"].items() if kind not in changing])


def error(*groups):
    """Of a sum or difference of means of some runs: the standard error of their seeds, points."""
    variance = 0
    for runs in groups:
        table = combinations if runs[0] in combinations else few
        own = np.mean([np.var(run["report"], ddof=1) for run in table])  # pooled, as in 12.5
        variance += own / (len(runs) * len(runs[0]["report"]))
    return 100 * variance**0.5


for name, run in (("best", best), ("kept", kept)):
    print(f"{name}: {places(run)}, r {run['settings']['r']}, {run['settings']['data']}")
    print(f"      {run['trained']:,} numbers, {mean(run):.0f} % reported")
print(f"two errors of a difference: {2 * error([best], [kept]):.1f} points")

# %% predict
predict("base", "Of the 24 combinations, how many leave the base whole?", None)

# %%
reveal("base", sum(not run["breaks_base"] for run in combinations))
MIXES = {"300": ("o", "300 rows"), "1200": ("s", "1,200 rows"), "1200+own": ("^", "with old work")}
COLOURS = {"q, v": "tab:blue", "all linear": "tab:orange"}
_, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), sharex=True)
for axis, score in ((left, mean), (right, old_work)):
    for run in combinations:
        mark, colour = MIXES[run["settings"]["data"]][0], COLOURS[places(run)]
        axis.plot(run["trained"], score(run), mark, color=colour, ms=6, alpha=0.75)
    axis.plot(kept["trained"], score(kept), "o", ms=14, color="tab:red", fillstyle="none")
    axis.set(xscale="log", xlabel="trained numbers", ylim=(0, 105))
left.set_ylabel("reported notes exactly right, %")
right.set_ylabel("old tasks exactly right, %")
for where, colour in COLOURS.items():
    left.plot([], [], "o", color=colour, label=where)
for mark, label in MIXES.values():
    left.plot([], [], mark, color="gray", label=label)
left.plot([], [], "o", color="tab:red", fillstyle="none", label="kept")
left.legend(fontsize=8, loc="lower left")
plt.show()
print(f"{'right, %':24} new old")
for mix, (_, label) in MIXES.items():
    for where in COLOURS:
        own = [
            run for run in combinations if (run["settings"]["data"], places(run)) == (mix, where)
        ]
        new, old = (np.mean([score(run) for run in own]) for score in (mean, old_work))
        print(f"{label:14}{where:10}{new:4.0f}{old:4.0f}")

# %% [markdown]
# On the left nothing happens: from 2,048 numbers to 327,680 the house's notes are as good. All that
# happens is on the right. Who would look at the left side alone might take any of the 24.
#
# In the sentences that follow, an *error of the seeds* is the standard error of the exercise: how
# far a mean of three seeds, or a difference of two such means, is typically off because there are
# no more than three. What is smaller than two of them may be chance. (`1200+own` is the mix with
# old work.)
#
# > **Claim.** The kept combination, of 2,048 numbers, is less than 3 points in 100 behind the best,
# > two errors of the seeds included.
#
# > **Claim.** Of the 16 combinations that read no old work, none keeps what the base could do.
#
# > **Claim.** Of the 8 that read some, at least 6 break nothing that 48 old tasks could show.
#
# > **Claim.** Where no old work is read, sheets on all linear maps leave at least 20 points in 100
# > fewer of the old tasks than sheets on q and v.
#
# *That 48 old tasks could show* is meant as it stands. All linear maps with rank 8 and old work
# lose about one in eleven of the old tasks, and still pass: so few questions can't tell that from
# chance. And all of this is at one rate, 0.015, which is large. What a smaller one changes comes
# now.
#
# ## When lean plateaus
#
# A rule of thumb says how to go on from a lean start, with low rank on q and v: *when lean
# plateaus, more coverage or rank comes before more data.* Coverage is the number of maps that have
# a sheet. A table of many runs can test such a rule: turn one knob at a time, from each lean start
# (ranks 1, 2 and 8), and see what it gains.
#
# Above, lean is near the top already with 300 rows, and there is little to gain. So `data/sweep`
# has a second table, with a quarter of the rows: 75, each read 16 times. Here the plateau lies
# lower. Two rates were tried, and the notes to choose by say for each combination which one counts.
# More data means four times the rows in as many steps: 75 become 300, and 300 become 1,200. In the
# figure the black lines reach two errors of the seeds up and down: a gain whose line crosses zero
# may be chance.

# %%
few = json.loads((data_folder("sweep") / "few.json").read_text())["found"]
LEAN = (1, 2, 8)


def runs_of(mix, where, ranks):
    """One combination for each rank: where several rates were tried, the better to choose by."""
    found = []
    for r in ranks:
        own = [
            run
            for run in (*combinations, *few)
            if (run["settings"]["data"], places(run), run["settings"]["r"]) == (mix, where, r)
        ]
        found.append(max(own, key=lambda run: np.mean(run["choose"])))
    return found


def gained(mix, more):
    """What each knob gains over lean with this mix: (points, two errors of the seeds)."""
    lean = runs_of(mix, "q, v", LEAN)
    knobs = {
        "rank 32": runs_of(mix, "q, v", [32]),
        "all linear": runs_of(mix, "all linear", LEAN),
        f"{more} rows": runs_of(more, "q, v", LEAN),
    }
    middle = np.mean([mean(run) for run in lean])
    return middle, {
        knob: (np.mean([mean(run) for run in runs]) - middle, 2 * error(runs, lean))
        for knob, runs in knobs.items()
    }


# %% predict
predict("knob", "From 75 rows, what gains most: 'rank', 'coverage' or 'data'?", None)

# %%
STARTS = {"75": "300", "300": "1200"}
gains = {mix: gained(mix, more) for mix, more in STARTS.items()}
knobs = dict(zip(("rank", "coverage", "data"), gains["75"][1].values(), strict=True))
reveal("knob", max(knobs, key=lambda knob: knobs[knob][0]))
_, axes = plt.subplots(1, 2, figsize=(7.6, 3), sharey=True)
for axis, (mix, (middle, found)) in zip(axes, gains.items(), strict=True):
    points, errors = np.array(list(found.values())).T
    colours = ["tab:blue", "tab:orange", "tab:green"]
    axis.bar(range(3), points, yerr=errors, capsize=4, color=colours, alpha=0.8)
    axis.axhline(0, color="black", linewidth=1)
    axis.set(xticks=range(3), xlabel=f"from {mix} rows, lean: {middle:.0f} %")
    axis.set_xticklabels(list(found), fontsize=8)
axes[0].set_ylabel("gain, points in 100")
plt.show()
for mix, (middle, found) in gains.items():
    print(f"{mix} rows, lean: {middle:.1f} %")
    for knob, (points, errors) in found.items():
        print(f"  {knob:10} {points:+5.1f} ± {errors:.1f}")

# %% [markdown]
# > **Claim.** When lean plateaus, more coverage or rank comes before more data: from 75 rows, all
# > linear maps or rank 32 gain more than two errors of the seeds.
#
# > **Claim.** From 75 rows, four times the rows gain more than two errors of the seeds.
#
# > **Claim.** From 300 rows no knob gains more than two errors of the seeds.
#
# So the rule is not borne out here. The one gain that stands out of the seeds is that of more data,
# though it had only one rate to choose from. By how much data is ahead of the others is not
# settled: that difference is within two errors itself, and three seeds are few. And where nothing
# gains, the answer is to stop.
#
# Why is there such a rule, then? Look at the loss on the rows that are trained on. Lean with 75
# rows knows them by heart: at the end it is 0.002 to 0.005 nats a token (`data/sweep`). More room
# can't learn them better, only other rows can teach more. In chapter 6 the codes kept the loss of
# lean up, and all maps brought it down: *that* is the plateau for which the rule was made. First
# see which of the two you stand on.
#
# And tune the rate again whenever you turn a knob. At the rate of the first table, coverage would
# have seemed to do harm.
#
# > **Claim.** From 75 rows, all linear maps gain at least 3 points in 100 by the smaller rate, two
# > errors of the seeds included.
#
# > **Claim.** At the smaller rate 0 of the 4 combinations on q and v break the base, without any
# > old work, and 4 of the 4 on all linear maps do.
#
# The last one mends what the first table seemed to say. Old work among the rows is one way to keep
# what the base could do; a smaller rate on few places is another.
#
# ## The map
#
# Here is what this chapter has measured, job by job. White fields were not tried.

# %%
JOBS = (
    "a usual dose",
    "the house's line",
    "a list that stays",
    "a list after ten changes",
    "a new alphabet",
)
TOOLS = ("nothing", "prompt", "look-up", "adapter", "full training")
nan = np.nan
answered_at_once = said(base, list(usual), 12)
of_base = np.mean([a == b for a, b in zip(answered_at_once, usual.values(), strict=True)])
doses_right = after.mean(axis=0) / 100  # ways, (kept, changed)
measured = 100 * np.array(
    [
        [of_base, nan, nan, nan, nan],
        [judged(replies["nothing"])[0], judged(joined)[0], nan, scores(NAMES[3])[:, 0].mean(), nan],
        [doses_right[0, 0], nan, doses_right[2, 0], doses_right[1, 0], nan],
        [doses_right[0, 1], nan, doses_right[2, 1], doses_right[1, 1], nan],
        [0.0, nan, nan, closed[0].mean(), closed[3].mean()],
    ]
)
_, axis = plt.subplots(figsize=(7.2, 3))
axis.imshow(measured, cmap="RdYlGn", vmin=0, vmax=100, aspect="auto")
for (i, j), share in np.ndenumerate(measured):
    if np.isfinite(share):
        colour = "black" if 15 < share < 85 else "white"
        axis.text(j, i, f"{share:.0f} %", ha="center", va="center", fontsize=9, color=colour)
axis.set(xticks=range(5), yticks=range(5))
axis.set_xticklabels(TOOLS)
axis.set_yticklabels(JOBS)
axis.grid(False)
plt.show()

# %% [markdown]
# (For the list after ten changes: of those ten. For the alphabet: the part of the way back to the
# old loss. For the line, *prompt* means the two questions with their program.) No column is green
# from top to bottom.
#
# ## Which tool?
#
# Seven jobs. Choose for each: nothing, prompt, look-up, adapter, full training, or cleaning (the
# rows first). Put your choice in place of `None`; you are told what speaks for it or against it.

# %% predict
from minilora.course.chapters.ch12.quiz import which_tool

which_tool("doses", None)

# %% predict
which_tool("forty", None)

# %% predict
which_tool("on call", None)

# %% predict
which_tool("house form", None)

# %% predict
which_tool("codes", None)

# %% predict
which_tool("script", None)

# %% predict
which_tool("guessed", None)

# %% [markdown]
# And what we would say:

# %%
from minilora.course.chapters.ch12.quiz import tell_tools

tell_tools()

# %% [markdown]
# Ask in this order. Can the base do it? Then leave it alone. Does a prompt do it, and is it asked
# seldom, or does it change often? Then prompt. Is it a fact, and above all one that changes? Then
# look it up. Is it a habit, a form, a way of reading, the same for ever, with rows that are right?
# That is the job for an adapter. And where the base can't read a word, no thin sheet helps.
#
# ## The claims, measured

# %% claims
exact_of, invented_of = (lambda name: scores(name)[:, 0]), (lambda name: scores(name)[:, 1])
claim(
    "With 30 % guessed rows the adapter fills on average more than 10 % of the gaps.",
    invented_of(NAMES[2]),
    above=0.1,
    answers="E20",
)
claim(
    "300 clean rows, in half the steps, get at least 5 points in 100 more lines right than 1,200 "
    "rows of which 30 % are guessed.",
    exact_of(NAMES[3]) - exact_of(NAMES[2]),
    above=0.05,
    answers="E20",
)
refuted(
    "A majority wins: since the house's answer is seen seven times for the clerk's three, and the "
    "most probable word is written, less than 5 % of the gaps are filled.",
    invented_of(NAMES[2]),
    above=0.08,
    because="The doubt differs from gap to gap; at some of them it is more than one half.",
    answers="E20",
)
claim("Counting finds on average more than 90 % of the clerk's rows.", counted[:, 0], above=0.9)
claim(
    "Without the rows that counting suspects, the adapter fills on average less than 5 % of the "
    "gaps.",
    repaired[:, 1],
    below=0.05,
)
claim(
    "Counting finds less than 10 % of rows that are wrong and agree with each other.",
    traces[:, 2],
    below=0.1,
)
claim(
    "One wrong answer, traced back to the notes that taught it, finds on average more than 60 % of "
    "them.",
    traces[:, 1],
    above=0.6,
    each="drugs",
)
claim(
    "Trained again without the traced rows, the adapter fills at least 30 points in 100 fewer of "
    "that drug's gaps.",
    traces[:, 0] - traces[:, 3],
    above=0.3,
    each="drugs",
)
claim(
    "The gate lets 1 of the 2 adapters in, the one of the 300 clean rows.",
    sum(verdicts),
    above=0.5,
    below=1.5,
)
assert verdicts[0]
claim(
    "After the rollback 0 of the adapter's numbers have other bits.",
    other_bits,
    below=0.5,
    answers="E26",
)
claim(
    "Before the change the adapter gives on average more than 95 % of the list rightly.",
    before,
    above=0.95,
)
claim(
    "Of the ten changed doses it gives less than 20 % rightly: the upper end of the interval for "
    "30 doses lies below that.",
    wilson(0.3 * after[:, 1, 1].mean(), 30)[1],
    below=0.2,
)
claim(
    "The look-up, with nothing trained, gives on average more than 95 % of the changed doses "
    "rightly.",
    after[:, 2, 1] / 100,
    above=0.95,
)
refuted(
    "Together they are best: the adapter with the line before its eyes gives more than 90 % of the "
    "changed doses rightly.",
    after[:, 3, 1] / 100,
    below=0.7,
    because="It has learned that this question needs no reading; the weights win.",
)
claim(
    "For drugs that are on no list, the adapter gives a dose in more than 60 % of the cases.",
    confabulated,
    above=0.6,
)
claim(
    "The same look-up with a code in place of a dose is read rightly in less than 10 % of the "
    "cases.",
    reads_codes,
    below=0.1,
)
claim(
    "In 60 steps LoRA on q and v goes less than 65 % of the way back to the old loss.",
    closed[0],
    below=0.65,
    answers="E28",
)
claim(
    "Training the embedding alone goes more than 75 % of the way.",
    closed[2],
    above=0.75,
    answers="E28",
)
refuted(
    "The new alphabet asks the embedding for noise: of the exact change, a sheet of rank 8 holds "
    "less than 25 % of the energy.",
    energy[8],
    above=0.5,
    because="One direction alone holds most of the energy, and hardly tells a token from another.",
    answers="E28",
)
claim(
    "Even cut from the exact change, a sheet of rank 8 in the embedding goes less than 60 % of the "
    "way.",
    way[8],
    below=0.6,
    answers="E28",
)
refuted(
    "Who may change everything learns the alphabet best: everything has a loss at least 0.1 nats "
    "below that of the embedding alone.",
    read[3, :, 0] - read[2, :, 0],
    above=0.5,
    because="It has one learning rate for all, and the maps break at the one the embedding needs.",
    answers="E28",
)
refuted(
    "A mass of facts does not fit into a thin sheet: of 160 pager numbers less than half are known "
    "after as many readings of each.",
    held_facts[1, :, 0],
    above=0.6,
    because="There is room enough; what speaks against it is the price.",
)
claim(
    "The base pays for the pagers: of its usual doses, which it all knew, more than 20 points in "
    "100 are gone.",
    1 - held_facts[1, :, 1],
    above=0.2,
    answers="E12",
)
claim(
    "Nothing but two questions and a program is not behind the adapter of 300 clean rows: it gets "
    "at most 5 points in 100 fewer lines right.",
    scores(NAMES[3])[:, 0].mean() - judged(joined)[0],
    below=0.05,
)
claim(
    "Against two questions, the adapter has earned its training after fewer than 2,000 requests.",
    needed,
    below=2000,
)
claim(
    "The kept combination, of 2,048 numbers, is less than 3 points in 100 behind the best, two "
    "errors of the seeds included.",
    mean(best) - mean(kept) + 2 * error([best], [kept]),
    below=3,
)
assert kept["trained"] == 2048
without, with_old = (
    [run for run in combinations if ("replay" in run["settings"]) == old] for old in (False, True)
)
claim(
    "Of the 16 combinations that read no old work, none keeps what the base could do.",
    sum(not run["breaks_base"] for run in without),
    below=0.5,
    answers="E13",
)
claim(
    "Of the 8 that read some, at least 6 break nothing that 48 old tasks could show.",
    sum(not run["breaks_base"] for run in with_old),
    above=5.5,
    answers="E13",
)
claim(
    "Where no old work is read, sheets on all linear maps leave at least 20 points in 100 fewer of "
    "the old tasks than sheets on q and v.",
    [
        old_work(lean) - old_work(wide)
        for mix in ("300", "1200")
        for lean, wide in zip(
            runs_of(mix, "q, v", (*LEAN, 32)), runs_of(mix, "all linear", (*LEAN, 32)), strict=True
        )
    ],
    above=20,
    each="pairs of one rank and mix",
)
beyond = {
    mix: [points - errors for points, errors in found.values()] for mix, (_, found) in gains.items()
}  # what each knob gains beyond two errors: rank, coverage, data
refuted(
    "When lean plateaus, more coverage or rank comes before more data: from 75 rows, all linear "
    "maps or rank 32 gain more than two errors of the seeds.",
    max(beyond["75"][:2]),
    below=0,
    because="The larger gain is smaller than its two errors; lean knows its 75 rows by heart, and "
    "what is missing is rows, not room.",
)
claim(
    "From 75 rows, four times the rows gain more than two errors of the seeds.",
    beyond["75"][2],
    above=0,
)
claim("From 300 rows no knob gains more than two errors of the seeds.", max(beyond["300"]), below=0)
wide = [
    [
        run
        for run in few
        if (places(run), run["settings"]["lr"]) == ("all linear", rate)
        and run["settings"]["r"] in LEAN
    ]
    for rate in (0.005, 0.015)
]
slow, fast = (np.mean([mean(run) for run in runs]) for runs in wide)
claim(
    "From 75 rows, all linear maps gain at least 3 points in 100 by the smaller rate, two errors "
    "of the seeds included.",
    slow - fast - 2 * error(*wide),
    above=3,
)
breaking = Counter(
    places(run) for run in few if run["settings"]["lr"] == 0.005 and run["breaks_base"]
)
claim(
    "At the smaller rate 0 of the 4 combinations on q and v break the base, without any old work, "
    "and 4 of the 4 on all linear maps do.",
    breaking["all linear"] - breaking["q, v"],
    above=3.5,
)

# %% [markdown]
# ## What to read
#
# - E. Hu and others, "LoRA", 2021: section 4.2 and footnote 6 on what a low rank can't be expected
#   to do.
# - G. Pruthi and others, "Estimating Training Data Influence by Tracing Gradient Descent", 2020.
# - P. Lewis and others, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", 2020.
# - C. Zhou and others, "LIMA: Less Is More for Alignment", 2023: a thousand good rows.
# - Z. Gekhman and others, "Does Fine-Tuning LLMs on New Knowledge Encourage Hallucinations?", 2024.
# - In this project: `minilora why` and `data/why`; `minilora sweep` and `data/sweep`; `minilora
#   gate` and `minilora diff`.
