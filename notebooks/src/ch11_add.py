# The source of notebooks/11_add.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 11. Do two adapters add?
#
# **Time.** about 2 hours, exercises included.
#
# **What you will be able to do.** Put two adapters into one, exactly; tell an exact sum from a sum
# that works; say before joining who will disturb whom; choose volumes fairly; use TIES, DARE and
# KnOTS and know what they repair; and name the two ways out that need no merging at all.
#
# **The story.** The house has one adapter that writes the line of drugs as cardiology wants it, and
# another that knows the house's codes. Leo wants both in one file. "They are small changes, and
# they have nothing to do with each other," he says. "I checked: they are orthogonal. So they add."
# Maya asks what exactly is orthogonal to what.

# %%
from minilora.course import pictures

pictures.two_adapters()

# %% [markdown]
# On the left two pairs of strips stand beside the same $W$. Each was trained alone. On the right
# they are one adapter: the $B$'s side by side, the $A$'s one above the other. Whatever comes in at
# this place is heard by all of them.

# %%
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
# ## One adapter for two, exactly
#
# The change that two adapters make together is $\Delta W_1 + \Delta W_2$, and there is an adapter
# that makes exactly this change. Think of $BA$ as a sum over the numbers that lie between the two
# strips: column 1 of $B$ times row 1 of $A$, plus column 2 times row 2, and so on. To add another
# such sum, put its columns and rows behind the first ones. Each adapter may have a weight $w$ of
# its own, and a rank and an $\alpha$ of its own.

# %% exercise 11.1

# %% [markdown]
# There is a tempting other way: add $A$ to $A$ and $B$ to $B$. The result is as thin as one adapter
# and has the right shape, and several libraries offer it under the name *linear*. But
#
# $$\begin{gathered}
# (B_1 + B_2)(A_1 + A_2) = \\
# B_1A_1 + B_2A_2 + B_1A_2 + B_2A_1 ,
# \end{gathered}$$
#
# and the last two terms are products of strips that were never trained together. We train two
# adapters and look at both ways.
#
# The jobs are those of chapter 6. *The line*: the sentences of a note that speak of drugs become
# the line `Rx: ...`. *The codes*: two letters for each of 57 drugs, asked in several ways. The
# prompts do not look alike, and a base without an adapter can do neither.

# %%
from minilora.course.chapters.ch06.lines import (
    ASKED,
    UNSEEN,
    code_questions,
    encoded,
    medication_lines,
)
from minilora.evaluation.paired import wilson
from minilora.hub import load_pretrained
from minilora.lora import LoRAConfig, attach, combine, mark_base
from minilora.lora.exchange import wearing
from minilora.text.answers import answers
from minilora.training import Batches, TrainingConfig, fit

base, tokenizer = load_pretrained(data_folder("ward-base"))
mark = mark_base(base)  # so that the weights are hashed once, and not for every adapter
JOBS = ("line", "codes")
train = {"line": medication_lines(600, seed=1), "codes": code_questions(0, ASKED[:3])}
train["both"] = train["line"] + 4 * train["codes"]
choose = {
    "line": medication_lines(40, seed=3, split="heldout"),
    "codes": code_questions(0, ("House code for {}?",)),
}
report = {
    "line": medication_lines(80, seed=2, split="heldout"),
    "codes": code_questions(0, (UNSEEN,)),
}
LENGTH = {"line": (60, 8), "codes": (150, 16), "both": (210, 16)}  # steps, rows of a batch
for job in JOBS:
    prompt, wanted = report[job][0]
    print(f"{job}: {prompt!r}\n   -> {wanted!r}")


# %%
def trained(job, lr, seed):
    """An adapter on all linear maps, trained beside the base and taken off again."""
    rng = np.random.default_rng([seed, len(train[job])])  # every job has an A of its own
    handle = attach(base, LoRAConfig(8, 16, "all-linear"), rng, base=mark)
    steps, size = LENGTH[job]
    batches = Batches(encoded(tokenizer, train[job]), size, seed, tokenizer.pad_id)
    fit(base, batches, TrainingConfig(steps=steps, lr=lr, warmup=5, workers=1), progress=False)
    adapter = handle.adapter()
    handle.detach()
    return adapter


def said(adapter, rows):
    """For each row whether the answer is right to the last character."""
    room = 4 + max(len(tokenizer.encode(wanted)) for _, wanted in rows)
    with wearing(base, adapter, mark):
        found = answers(base, tokenizer, [prompt for prompt, _ in rows], room)
    return np.array([a.strip() == wanted for a, (_, wanted) in zip(found, rows, strict=True)])


def scores(adapter, rows=report):
    """The share of right answers in both jobs."""
    return [said(adapter, rows[job]).mean() for job in JOBS]


# %% [markdown]
# Each kind of training gets the better of two rates, found with seed 0 on rows to choose on. The
# third kind, *both*, is one adapter that is trained on both jobs at once; keep it in mind for the
# end. What is reported comes from three other seeds and other rows.

# %%
RATES, SEEDS = (0.01, 0.02), (1, 2, 3)
kinds = (*JOBS, "both")


def race(job):
    """An adapter of seed 0 and its mean score on the rows to choose on."""
    kind, lr = job
    adapter = trained(kind, lr, 0)
    own = [i for i, job in enumerate(JOBS) if kind in (job, "both")]
    return adapter, np.mean([scores(adapter, choose)[i] for i in own])


found = side_by_side(race, [(kind, lr) for kind in kinds for lr in RATES])
tried = {kind: found[2 * i : 2 * i + 2] for i, kind in enumerate(kinds)}
best = {kind: int(np.argmax([score for _, score in tried[kind]])) for kind in kinds}
first = {kind: tried[kind][best[kind]][0] for kind in kinds}  # the adapters of seed 0
print("rates:", ", ".join(f"{kind} {RATES[i]}" for kind, i in best.items()))


# %%
def entry(job):
    """An adapter of another seed, and what it gets on the reported rows."""
    adapter = trained(job[0], RATES[best[job[0]]], job[1])
    return adapter, scores(adapter)


found = side_by_side(entry, [(kind, seed) for kind in kinds for seed in SEEDS])
adapters = {kind: [a for a, _ in found[3 * i : 3 * i + 3]] for i, kind in enumerate(kinds)}
results = {kind: np.array([s for _, s in found[3 * i : 3 * i + 3]]) for i, kind in enumerate(kinds)}
pairs = list(zip(adapters["line"], adapters["codes"], strict=True))

for kind, found in results.items():
    print(f"trained on {kind}:")
    for job, share in zip(JOBS, found.mean(axis=0), strict=True):
        low, high = (100 * x for x in wilson(share * len(report[job]), len(report[job])))
        print(f"   {job:6} {100 * share:3.0f} % right ({low:.0f} to {high:.0f})")

# %% [markdown]
# Each adapter knows its own job and nothing of the other. Now join them, in both ways, and ask
# for the error: how far the result is from the exact sum, as a share of the sum.

# %%
exact = [combine(pair, (1, 1)) for pair in pairs]
linear = [combine(pair, (1, 1), "linear")[1].error for pair in pairs]
one, two = pairs[0]
module = one.modules[0]
A, B = answer("11.1")(
    [(*x.factors(module), x.scaling(module) * len(x.factors(module)[0])) for x in (one, two)],
    [1, 1],
)
gap = np.abs(B @ A - exact[0][0].delta(module)).max()
print(f"side by side: error {np.mean([r.error for _, r in exact]):.1g}, rank {len(A)}")
print(f"A + A and B + B: error {np.mean(linear):.2g}")
print("yours and the library's", "agree" if gap < 1e-5 else f"differ by {gap:.2g}")

# %% [markdown]
# > **Claim.** Side by side, the result differs from the exact sum by less than 1e-6 of it.
#
# > **Claim.** Adding A's and B's on their own misses the sum by more than 50 % of its size.
#
# Side by side also means that nothing is lost: each adapter's rows and columns are still there, and
# can be taken out again. minilora keeps note of whose they are.

# %%
from minilora.lora import take_out

joined = combine(pairs[0], (1, 1), names=JOBS)[0]
print("the line's, taken out again:", take_out(joined, "codes") == pairs[0][0])

# %% [markdown]
# ## Orthogonal, so independent?
#
# Leo's argument goes like this. Write all numbers of $\Delta W_1$ in one long row, and those of
# $\Delta W_2$ in another. The cosine of the two is 1 if they point the same way and 0 if they are
# orthogonal. And it is nearly 0.

# %%
from minilora.lora.deltas import compare_deltas, factors_of, inner_product

cosines = [[one.cosine for one in compare_deltas(*pair)] for pair in pairs]


def cosine(a, b):
    """Of two adapters' changes, over all modules as one long row."""
    square = [
        sum(inner_product(factors_of(x, m), factors_of(y, m)) for m in a.modules)
        for x, y in ((a, b), (a, a), (b, b))
    ]
    return square[0] / np.sqrt(square[1] * square[2])


whole = [cosine(*pair) for pair in pairs]
print("cosine of the two changes, by seed:")
print(", ".join(f"{x:+.3f}" for x in whole))


# %%
def summed(pair):
    """The scores of the exact sum."""
    return scores(combine(pair, (1, 1))[0])


together = np.array(side_by_side(summed, pairs))
alone = np.stack([results["line"][:, 0], results["codes"][:, 1]], axis=1)  # seeds, jobs

# %% predict
predict("line", "The line is right in some 90 of 100 notes alone. And with the codes added?", None)

# %%
reveal("line", float(100 * together[:, 0].mean()))
_, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), width_ratios=(3, 2))
layers = np.array([int(name.split(".")[2]) for name in one.modules])
for found, colour in zip(cosines, ("tab:blue", "tab:orange", "tab:green"), strict=True):
    axes[0].plot(layers + np.linspace(-0.25, 0.25, len(layers)), found, "o", color=colour, ms=3)
axes[0].axhline(0, color="black", linewidth=0.8)
axes[0].set(xticks=range(4), xlabel="layer (seven maps, three seeds)", ylim=(-1, 1))
axes[0].set(ylabel="cosine of the two changes")
for shift, (name, found) in zip((-0.2, 0.2), (("alone", alone), ("both", together)), strict=True):
    middle = 100 * found.mean(axis=0)
    reach = [middle - 100 * found.min(axis=0), 100 * found.max(axis=0) - middle]
    axes[1].bar(np.arange(2) + shift, middle, 0.38, yerr=reach, capsize=3, label=name)
axes[1].set(xticks=(0, 1), ylim=(0, 105), ylabel="right answers, %")
axes[1].set_xticklabels(JOBS)
axes[1].legend()
plt.show()

# %% [markdown]
# > **Claim.** Over all their numbers, the two changes have a cosine of less than 0.05.
#
# > **Claim.** Added, they cost the line more than 50 points in 100.
#
# > **Claim.** Changes that are orthogonal do not disturb each other: the line keeps more than 90 %
# > of what its adapter gets alone.
#
# The sum was exact, the changes were orthogonal, and hardly anything of the line is left. (The
# codes fare better; soon we see why.) What went wrong is the conclusion. Two changes are orthogonal
# as soon as they *write* in different directions, even when they listen to the very same inputs:

# %%
v = np.array([1.0, 0.0])  # both listen to this direction
first_change = np.outer([1.0, 0.0], v)  # one writes to the first output
second_change = np.outer([0.0, 1.0], v)  # the other writes to the second
x = np.array([3.0, 4.0])
print("sum of the entries' products:", (first_change * second_change).sum())
print("alone:", first_change @ x, " both:", (first_change + second_change) @ x)

# %% [markdown]
# Both changes answer the input $x$, and each puts its answer in a place of its own. So their cosine
# is 0, and yet the second one adds to $x$ something that the first job has never met. In a large
# matrix two random changes have a cosine near 0 anyway: there is so much room. The cosine compares
# two matrices. It does not say what they do to the inputs of a job.
#
# ## Ask the inputs
#
# So look at the inputs of *one* job, and at what both adapters add there. If the other one is
# silent on them, all is well. If it is as loud as the own one, half of what is added is foreign.

# %% exercise 11.2

# %%
from minilora.lora.forecast import layer_inputs
from minilora.text.answers import prompt_ids

disturbance = answer("11.2")


def inputs_of(job):
    """What every module meets while the base reads some rows of a job."""
    rows = [prompt_ids(tokenizer, p) + tokenizer.encode(a) for p, a in choose[job][:16]]
    return layer_inputs(base, rows, one.modules)


met = {job: inputs_of(job) for job in JOBS}


def triple(adapter, module):
    """(A, B, alpha) of an adapter at one place."""
    A, B = adapter.factors(module)
    return A, B, adapter.scaling(module) * len(A)


ratio = {  # job -> seeds, modules
    job: np.array(
        [
            [disturbance(met[job][m], triple(own, m), triple(other, m)) for m in one.modules]
            for own, other in (pair if job == "line" else pair[::-1] for pair in pairs)
        ]
    )
    for job in JOBS
}

# %% predict
predict("loud", "On the line's inputs, how loud is the codes' change, if its own is 1?", None)

# %%
reveal("loud", float(np.median(ratio["line"])))
kinds_of = [name.split(".")[-1].removesuffix("_proj") for name in one.modules]
order = ("q", "k", "v", "o", "gate", "up", "down")
_, axes = plt.subplots(1, 2, figsize=(7.6, 3.2), sharey=True)
for axis, job in zip(axes, JOBS, strict=True):
    for layer in range(4):
        heights = [
            np.median(
                [ratio[job][:, i] for i in np.flatnonzero(layers == layer) if kinds_of[i] == k]
            )
            for k in order
        ]
        axis.plot(range(7), heights, "o-", ms=4, label=f"layer {layer}")
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(xticks=range(7), yscale="log", xlabel=f"on the inputs of the {job}")
    axis.set_xticklabels(order)
    axis.minorticks_off()
axes[0].set(ylabel="the other's answer\n(own answer = 1)", yticks=(0.25, 0.5, 1, 2))
axes[0].set_yticklabels(("0.25", "0.5", "1", "2"))
axes[1].legend(fontsize=7)
plt.show()
print("the other's answer, if the own is 1:")
for job in JOBS:
    print(f"   on the inputs of the {job}: {np.median(ratio[job]):.2g}")

# %% [markdown]
# > **Claim.** On the line's own inputs, the codes' change is in the median more than 0.5 times as
# > loud as the line's.
#
# > **Claim.** Nowhere is the silence that a cosine of 0 suggests: at less than 5 % of the places is
# > the other change less than a tenth as loud as the own one.
#
# > **Claim.** The forecast names who suffers: in each of the 3 pairs the line hears the codes
# > louder, beside its own adapter, than the codes hear the line, and the line loses the larger
# > share.
#
# The cosine is 0, and yet on the line's inputs the codes' adapter is the louder of the two. That
# could be seen before anything was joined and before any note was asked. `minilora compose` prints
# it as its forecast, for every pair of adapters. A forecast may be wrong: it says how loud an
# adapter is, and not whether what it says does harm. Of the four adapters in `data/compose` it
# names rightly the one that disturbs most, but it does not tell which pairs suffer more.
#
# ## Two volumes
#
# If both are too loud together, turn them down. Each adapter has a volume $w$, from 0 (silent) to 1
# (as trained). That makes a plane, and each of its points has two scores. We measure it with the
# adapters of seed 0, on the rows to choose on.

# %% exercise 11.3

# %%
VOLUMES = (0.0, 0.25, 0.5, 0.75, 1.0)
grid = [(w, u) for w in VOLUMES for u in VOLUMES]
pair0 = (first["line"], first["codes"])


def at_volumes(weights):
    """The scores at two volumes, on the rows to choose on."""
    return scores(combine(pair0, weights)[0], choose)


plane = np.array(side_by_side(at_volumes, grid))
alone0 = np.array([scores(first[job], choose)[i] for i, job in enumerate(JOBS)])
fairest = answer("11.3")
fair = grid[fairest(plane, alone0)]
print(f"the fairest: line {fair[0]}, codes {fair[1]}")

# %%
_, axes = plt.subplots(1, 3, figsize=(9.2, 3.1), sharey=True)
shares = (plane / alone0).reshape(5, 5, 2)
views = (*((f"the {job}", shares[..., i]) for i, job in enumerate(JOBS)),)
for axis, (title, found) in zip(
    axes, (*views, ("the worse of the two", shares.min(-1))), strict=True
):
    axis.imshow(found, origin="lower", vmin=0, vmax=1, cmap="viridis")
    for i in range(5):
        for j in range(5):
            colour = "white" if found[i, j] < 0.6 else "black"
            axis.text(j, i, f"{100 * found[i, j]:.0f}", ha="center", va="center", color=colour)
    axis.set(title=title, xticks=range(5), yticks=range(5), xlabel="volume of the codes")
    axis.set_xticklabels(VOLUMES)
    axis.set_yticklabels(VOLUMES)
    axis.grid(False)
axes[0].set(ylabel="volume of the line")
plt.show()

# %% [markdown]
# (In percent of what the job's own adapter gets alone.)
#
# In the lower right corner only the codes are on, in the upper left only the line. On the way from
# one to the other, one score falls before the other has risen: no point is good for both jobs.


# %% slider
def turn(line=0.5, codes=0.5):
    """Both shares at two volumes."""
    got = shares[VOLUMES.index(line), VOLUMES.index(codes)]
    plt.figure(figsize=(4, 2.4))
    plt.bar(JOBS, 100 * got, color=["tab:blue", "tab:orange"])
    plt.ylim(0, 110)
    plt.ylabel("% of alone")
    plt.title(f"line at {line}, codes at {codes}")
    plt.show()


slider(turn, line=list(VOLUMES), codes=list(VOLUMES))

# %% [markdown]
# ## Repairs
#
# Three methods try to be cleverer than a sum.
#
# *TIES* looks at single entries. Most entries of a change are small and matter little, but added up
# they blur the other change; so only the largest stay. Where two changes disagree about the sign of
# an entry, one of them wins, and the loser is left out instead of half cancelling the winner.

# %% exercise 11.4

# %% [markdown]
# Yours beside the library's, at one place of the first pair:

# %%
from minilora.lora import joining

changes = [adapter.delta(module) for adapter in pairs[0]]
own = answer("11.4")(changes, changes[0].size // 2)
gap = np.abs(own - joining.ties(changes, 0.5)).max()
print("the same" if gap < 1e-5 else f"they differ by {gap:.2g}")
print(f"of {own.size:,} entries {np.mean(own != 0):.0%} are not 0")

# %% [markdown]
# *DARE* drops entries at random and makes those that stay larger, so that the sum is right on
# average: of two changes with few entries left, fewer meet. *KnOTS* says that entries are the wrong
# place to look, because two adapters write in bases of their own. It puts both changes side by
# side, takes their SVD, so that both are written in the same output directions, and does TIES
# there.
#
# Each has settings: how many entries stay (the density), and a volume for the result. They are
# chosen as the volumes were, by the fairest of the rows to choose on, with seed 0.

# %%
ENTRIES = [
    (how, d, w) for how in ("ties", "knots") for d in (0.2, 0.5, 1.0) for w in (0.5, 0.7, 1.0)
]
ENTRIES += [("dare", d, w) for d in (0.5, 0.9) for w in (0.5, 0.7)]


def repaired(pair, setting):
    """One adapter from two by a method, its density and a volume for both."""
    how, density, volume = setting
    return combine(pair, (volume, volume), how, density=density)[0]


def on_rows_to_choose(setting):
    """The scores of a repair of the pair of seed 0."""
    return scores(repaired(pair0, setting), choose)


table = np.array(side_by_side(on_rows_to_choose, ENTRIES))
chosen = {}
for how in ("ties", "dare", "knots"):
    own = [i for i, setting in enumerate(ENTRIES) if setting[0] == how]
    chosen[how] = ENTRIES[own[fairest(table[own], alone0)]]
    print(f"{how}: {chosen[how][1]:.0%} of the entries, volume {chosen[how][2]}")

# %%
NAMES = {"ties": "TIES", "dare": "DARE", "knots": "KnOTS"}
ways = {
    "half volume": lambda pair: combine(pair, (0.5, 0.5))[0],
    "fair volumes": lambda pair: combine(pair, fair)[0],
    **{NAMES[how]: lambda pair, s=s: repaired(pair, s) for how, s in chosen.items()},
}


def reported(job):
    """The scores of one way to join, for one seed."""
    name, i = job
    return scores(ways[name](pairs[i]))


found = side_by_side(reported, [(name, i) for name in ways for i in range(len(SEEDS))])
merged = {name: np.array(found[3 * i : 3 * i + 3]) for i, name in enumerate(ways)}

# %% [markdown]
# ## Two ways out
#
# *Train together.* One adapter that sees both jobs while it learns need not be repaired: training
# itself finds a change that does both. That is the *both* from the beginning, as thin as one.
#
# *Don't merge: route.* If a prompt tells which job it is, choose the adapter for each prompt, and
# nothing is ever added (chapter 9). Our router is small: it takes the base's last hidden state of
# a prompt, averaged over its tokens, and asks which job's average prompt is nearer.

# %%
from minilora.autograd import no_grad


def portrait(prompt):
    """The base's hidden state of a prompt, averaged over its tokens."""
    with no_grad():
        return base.hidden_states(np.array([tokenizer.encode_prompt(prompt)])).data[0].mean(axis=0)


centres = np.stack([np.mean([portrait(p) for p, _ in train[job][:20]], axis=0) for job in JOBS])


def routed_to(prompt):
    """The number of the job whose average prompt is nearer."""
    return int(np.argmin(np.linalg.norm(centres - portrait(prompt), axis=1)))


choices = {job: np.array([routed_to(p) for p, _ in report[job]]) for job in JOBS}
right_way = np.mean(np.concatenate([choices[job] == i for i, job in enumerate(JOBS)]))


def routed(pair):
    """The scores when each prompt goes to the adapter that the router names."""
    return [
        np.where(choices[job] == 0, *(said(a, report[job]) for a in pair)).mean() for job in JOBS
    ]


merged["trained together"] = results["both"]
merged["routed"] = np.array(side_by_side(routed, pairs))
print(f"to their own adapter: {100 * right_way:.3g} % of the prompts")

# %% predict
predict(
    "repair", "The best of the repairs (fair volumes, TIES, DARE, KnOTS): worst job, in %?", None
)

# %%
columns = {"alone": alone, "sum": together, **merged}
REPAIRS = ("fair volumes", "TIES", "DARE", "KnOTS")
worst = {name: (found / alone).min(axis=1) for name, found in columns.items()}
top = max(REPAIRS, key=lambda name: worst[name].mean())
reveal("repair", float(100 * worst[top].mean()))
plt.figure(figsize=(8.6, 3.4))
for i, job in enumerate(JOBS):
    for j, found in enumerate(columns.values()):
        middle = 100 * found[:, i].mean()
        reach = [[middle - 100 * found[:, i].min()], [100 * found[:, i].max() - middle]]
        plt.bar(j + 0.4 * i - 0.2, middle, 0.38, color=f"C{i}", label=job if j == 0 else None,
                yerr=reach, capsize=2)  # fmt: skip
plt.xticks(range(len(columns)), [name.replace(" ", "\n") for name in columns], fontsize=8)
plt.ylabel("right answers, %")
plt.legend(loc="upper left", bbox_to_anchor=(0.12, 1.0))
plt.show()
print(f"{'right, %':16}  line codes share")
for name, found in columns.items():
    percents = *(100 * found.mean(axis=0)), 100 * worst[name].mean()
    print(f"{name:16}" + "".join(f"{percent:6.0f}" for percent in percents))

# %% [markdown]
# (*Share* is what the worse of the two jobs keeps of what its own adapter gets alone, in percent.)
#
# > **Claim.** At half volume of both, some job keeps less than 50 % of what it gets alone.
#
# > **Claim.** TIES, DARE or KnOTS repairs the sum: the best of them leaves the worse job more than
# > 80 % of what it gets alone.
#
# > **Claim.** Trained together, one adapter of the same rank keeps more than 80 % of both jobs.
#
# > **Claim.** Routed, both jobs keep more than 95 % of what they get alone.
#
# TIES and KnOTS do better than volumes alone, with wide ranges from seed to seed, and are far from
# two working jobs. They can choose among entries, signs and volumes, but what disturbs is that both
# adapters answer the same inputs, and no choice among the numbers of two finished changes teaches
# one of them to be silent. Training together does teach it, for each job's rows say what the other
# should leave alone. Routing makes it unnecessary.
#
# **Four wheels, one car.** What if nothing in the prompt tells the jobs apart? In `data/compose`
# four adapters steer one and the same summary: which doses it gives, in what voice it speaks, whom
# it names, which codes it uses. No router can choose, for all four are meant at once. Of six ways
# to join them not one gets a single answer right in all four; one adapter of the same rank, trained
# on all four, gets most of them. (`minilora steering` makes that table again.)
#
# ## Taking something away
#
# Weights may be negative. *Task negation* subtracts an adapter, to make a model forget a job. Take
# the adapter that was trained on both jobs, and subtract the codes. If a change were a bag of
# skills, the line would remain.


# %%
def without_codes(i):
    """The scores of the adapter for both jobs, less the one for the codes."""
    return scores(combine((adapters["both"][i], adapters["codes"][i]), (1, -1))[0])


minus = np.array(side_by_side(without_codes, range(3)))
print("both - codes: line {:.0f} %, codes {:.0f} %".format(*100 * minus.mean(axis=0)))

# %% [markdown]
# > **Claim.** With the codes' adapter subtracted, the adapter for both jobs knows less than 10 % of
# > the codes: the whole interval lies below it.
#
# > **Claim.** And it still writes the line: more than 80 % of what it wrote before.
#
# It forgets the codes, and the line with them. The subtracted change is as loud on the line's
# inputs as the added one was, and it was never trained to be silent there. Subtracting an adapter
# takes away exactly one thing without harm: that same adapter, where it was added before, as
# `take_out` did above.
#
# ## The claims, measured

# %% claims
claim(
    "Side by side, the result differs from the exact sum by less than 1e-6 of it.",
    [found.error for _, found in exact],
    below=1e-6,
    each="pairs",
    answers="E22",
)
claim(
    "Adding A's and B's on their own misses the sum by more than 50 % of its size.",
    linear,
    above=0.5,
    each="pairs",
    answers="E22",
)
claim(
    "Over all their numbers, the two changes have a cosine of less than 0.05.",
    np.abs(whole),
    below=0.05,
    each="pairs",
)
claim(
    "Added, they cost the line more than 50 points in 100.",
    alone[:, 0] - together[:, 0],
    above=0.5,
    each="pairs",
)
refuted(
    "Changes that are orthogonal do not disturb each other: the line keeps more than 90 % of what "
    "its adapter gets alone.",
    together[:, 0] / alone[:, 0],
    below=0.5,
    each="pairs",
    because="Orthogonal matrices may listen to the same inputs, and then both answer.",
    answers="E21",
)
claim(
    "On the line's own inputs, the codes' change is in the median more than 0.5 times as loud as "
    "the line's.",
    np.median(ratio["line"], axis=1),
    above=0.5,
    each="pairs",
    answers="E21",
)
claim(
    "Nowhere is the silence that a cosine of 0 suggests: at less than 5 % of the places is the "
    "other change less than a tenth as loud as the own one.",
    [np.mean(ratio[job] < 0.1) for job in JOBS],
    below=0.05,
    each="jobs",
)
claim(
    "The forecast names who suffers: in each of the 3 pairs the line hears the codes louder, "
    "beside its own adapter, than the codes hear the line, and the line loses the larger share.",
    np.minimum(
        np.median(ratio["line"], axis=1) - np.median(ratio["codes"], axis=1),
        (together[:, 1] / alone[:, 1]) - (together[:, 0] / alone[:, 0]),
    ),
    above=0,
    each="pairs",
)
claim(
    "At half volume of both, some job keeps less than 50 % of what it gets alone.",
    worst["half volume"],
    below=0.5,
    each="pairs",
)
refuted(
    "TIES, DARE or KnOTS repairs the sum: the best of them leaves the worse job more than 80 % of "
    "what it gets alone.",
    max(np.mean(worst[name]) for name in ("TIES", "DARE", "KnOTS")),
    below=0.75,
    because="They choose among entries and signs; what disturbs are the answers to shared inputs.",
    answers="E23",
)
claim(
    "Trained together, one adapter of the same rank keeps more than 80 % of both jobs.",
    worst["trained together"],
    above=0.8,
)
claim(
    "Routed, both jobs keep more than 95 % of what they get alone.",
    worst["routed"],
    above=0.95,
    each="pairs",
    answers="E24",
)
claim(
    "With the codes' adapter subtracted, the adapter for both jobs knows less than 10 % of the "
    "codes: the whole interval lies below it.",
    wilson(minus[:, 1].mean() * len(report["codes"]), len(report["codes"]))[1],
    below=0.1,
)
refuted(
    "And it still writes the line: more than 80 % of what it wrote before.",
    minus[:, 0] / results["both"][:, 0],
    below=0.6,
    because="What is subtracted for the codes speaks on the line's inputs as well.",
)

# %% [markdown]
# ## What to read
#
# - G. Ilharco and others, "Editing Models with Task Arithmetic", 2022: adding and negating changes.
# - P. Yadav and others, "TIES-Merging: Resolving Interference When Merging Models", 2023.
# - L. Yu and others, "Language Models are Super Mario", 2023: DARE.
# - G. Stoica and others, "Model Merging with SVD to Tie the Knots", 2024: KnOTS.
# - C. Huang and others, "LoraHub", 2023: volumes found by search.
# - In this project: `minilora/lora/joining.py`, the six ways to join on two pages, and
#   `data/compose`, where four adapters steer one and the same answer, so that no router could help.
