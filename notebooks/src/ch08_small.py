# The source of notebooks/08_small.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 8. Why is so small a change enough?
#
# **Time.** about 2.5 hours, exercises included.
#
# **What you will be able to do.** Take a change of weights apart, and say how many directions it
# has and how many it needs; set a fair rival beside a cut; compare what two adapters listen to;
# read "amplification" with its control; train a model along a few random directions, and measure
# how few a job needs.
#
# **The story.** An adapter with less than a hundredth of the numbers learns the house's line. "That
# is because the change is of low rank," says Leo, "the paper says so." Maya has trained the same
# job with all the weights. She opens the change. It has a hundred directions, and none is zero. "If
# the change is not thin," she asks, "what is?"

# %%
from minilora.course import pictures

pictures.cut_change()

# %% [markdown]
# Three sentences are easily taken for one. *The change is of low rank*: whoever trains all weights
# gets a thin change. *Its effect is*: the change is thick, but a few of its directions do the work.
# *A thin one can be found*: there are thin changes that do the job, whether or not full training
# finds them. They are three claims, and they come apart.

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
# ## Two jobs, trained with all they have
#
# The jobs are those of chapter 6. *The line*: the sentences of a note that speak of drugs become
# the line `Rx: ...`. The base knows notes and drugs; what is new is how the house writes. *The
# codes*: two letters for each of 57 drugs, drawn at random, which nobody could guess.

# %%
from minilora.course.chapters.ch06.lines import (
    ASKED,
    LETTERS,
    UNSEEN,
    code_questions,
    encoded,
    medication_lines,
)
from minilora.evaluation.paired import wilson
from minilora.hub import load_pretrained
from minilora.text.answers import answers

base, tokenizer = load_pretrained(data_folder("ward-base"))
JOBS = ("line", "codes")
train = {"line": medication_lines(600, seed=1), "codes": code_questions(0, ASKED[:3])}
choose = {
    "line": medication_lines(40, seed=3, split="heldout"),
    "codes": code_questions(0, ("House code for {}?",)),
}
report = {
    "line": medication_lines(80, seed=2, split="heldout"),
    "codes": code_questions(0, (UNSEEN,)),
}
LENGTH = {"line": (60, 8), "codes": (150, 16)}  # steps, rows of a batch
for job in JOBS:
    prompt, wanted = report[job][0]
    print(f"asked for the {job}:\n{prompt}\n-> {wanted}")


# %%
def fresh():
    """A new copy of the base."""
    return load_pretrained(data_folder("ward-base"))[0]


def said(model, rows):
    """The model's answers."""
    room = 4 + max(len(tokenizer.encode(wanted)) for _, wanted in rows)
    found = answers(model, tokenizer, [prompt for prompt, _ in rows], room)
    return [text.strip() for text in found]


def score(model, rows):
    """The share of answers that are right to the last character."""
    return float(
        np.mean([a == wanted for a, (_, wanted) in zip(said(model, rows), rows, strict=True)])
    )


def with_interval(share, job):
    """A share of the reported rows with its 95 % interval, in words."""
    low, high = (100 * x for x in wilson(share * len(report[job]), len(report[job])))
    return f"{100 * share:3.0f} % ({low:.0f} to {high:.0f})"


# %% [markdown]
# All 28 linear maps are trained, every number of them, and nothing else. The rate is the one of
# three that gets the most rows right with seed 0, on rows to choose on. What is reported comes from
# two other seeds and other rows.

# %%
from minilora.nn import Linear
from minilora.training import Batches, TrainingConfig, fit


def maps(model):
    """Name -> linear map."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Linear)}


def teach(model, job, lr, seed, optimizer=None):
    """Train whatever of the model is trained on a job."""
    steps, size = LENGTH[job]
    batches = Batches(encoded(tokenizer, train[job]), size, seed, tokenizer.pad_id)
    settings = TrainingConfig(steps=steps, lr=lr, warmup=5, workers=1, seed=seed)
    fit(model, batches, settings, optimizer=optimizer, progress=False)


def trained_fully(task):
    """(job, rate, seed) -> the maps' weights after training, and the score on rows to choose on."""
    job, lr, seed = task
    model = fresh()
    linear = {f"{name}.weight" for name in maps(model)}
    for name, p in model.named_parameters():
        p.requires_grad = name in linear
    teach(model, job, lr, seed)
    return {name: m.weight.data for name, m in maps(model).items()}, score(model, choose[job])


def best_rate(train_one, rates, jobs=JOBS):
    """Job -> the rate with the best score on rows to choose on, with seed 0."""
    tasks = [(job, lr, 0) for job in jobs for lr in rates]
    found = iter([s for _, s in side_by_side(train_one, tasks)])
    return {job: max(zip([next(found) for _ in rates], rates, strict=True))[1] for job in jobs}


SEEDS = (1, 2)
before = {name: m.weight.data for name, m in maps(base).items()}
full_rate = best_rate(trained_fully, (0.001, 0.002, 0.004))
places = [(job, seed) for job in JOBS for seed in SEEDS]
found = side_by_side(trained_fully, [(job, full_rate[job], seed) for job, seed in places])
after = {place: weights for place, (weights, _) in zip(places, found, strict=True)}
print("rates:", full_rate)

# %% [markdown]
# Now Maya's first question: how many directions hold 90 % of a change's energy, the sum of the
# squares of its singular values?


# %%
def singular_values(change):
    """From the largest to the smallest."""
    return np.linalg.svd(change, compute_uv=False)


def directions_for(s, share=0.9):
    """How many of the first singular values hold this share of the energy."""
    held = np.cumsum(s.astype(float) ** 2)
    return int(np.searchsorted(held, share * held[-1])) + 1


spectra = {
    place: [singular_values(weights[name] - before[name]) for name in before]
    for place, weights in after.items()
}
needed = {place: [directions_for(s) for s in found] for place, found in spectra.items()}
for job in JOBS:
    per_map = np.concatenate([needed[job, seed] for seed in SEEDS])
    fewest, middle, most = (int(f(per_map)) for f in (np.min, np.median, np.max))
    print(f"{job}: 90 % of the energy in {fewest} to {most}")
    print(f"   directions, in the middle map {middle}")

# %% [markdown]
# > **Claim.** The change of full training is of low rank: in the middle map 90 % of the energy of
# > the codes' change is in fewer than 8 of 128 directions.
#
# The first of the three sentences does not hold. It was never needed: an adapter does not copy full
# training's change.
#
# ## Cut it
#
# Perhaps the many directions are there and do nothing. Then they can be thrown away. Cut the change
# of every map after its first $r$ directions, put the rest back on $W$, and ask again.
#
# A cut makes the change *smaller* as well. Is it the choice of directions that matters then, or
# only the size? So every cut gets a rival of its own size: the whole change, with all its
# directions, turned down until it has the same energy. If strong directions are special, the cut
# wins.

# %% exercise 8.1

# %%
cut_and_quiet = answer("8.1")
CUTS = (1, 2, 4, 8, 16, 32)


def put(model, weights):
    """Place weights in the model's maps."""
    for name, m in maps(model).items():
        m.weight.data = np.asarray(weights[name], dtype=np.float32)


def cut_scores(task):
    """(job, seed, r) -> energy kept, the answers of the cut, and those of the quiet rival."""
    job, seed, r = task
    model, weights = fresh(), after[job, seed]
    pairs = {name: cut_and_quiet(before[name], weights[name], r) for name in before}
    kept = sum(((cut - before[name]) ** 2).sum() for name, (cut, _) in pairs.items())
    energy = sum((s**2).sum() for s in spectra[job, seed])
    texts = []
    for which in (0, 1):
        put(model, {name: pair[which] for name, pair in pairs.items()})
        texts.append(said(model, report[job]))
    return kept / energy, *texts


tasks = [(job, seed, r) for job in JOBS for seed in SEEDS for r in CUTS]
cuts = dict(zip(tasks, side_by_side(cut_scores, tasks), strict=True))


def whole(place):
    """The share of right answers of the change as it was trained."""
    model = fresh()
    put(model, after[place])
    return score(model, report[place[0]])


uncut = dict(zip(places, side_by_side(whole, places), strict=True))


def right(texts, job):
    """The share of right answers."""
    return np.mean([a == wanted for a, (_, wanted) in zip(texts, report[job], strict=True)])


def by_cut(job, which):
    """(seeds, cuts): 0 the energy kept, 1 right after the cut, 2 right of the quiet rival."""
    found = [[cuts[job, seed, r][which] for r in CUTS] for seed in SEEDS]
    return np.array(found if which == 0 else [[right(t, job) for t in row] for row in found])


# %% predict
predict(
    "cut",
    "Cut to 2 directions a map, a change keeps 4 tenths of its energy. How many % of the lines "
    "are right?",
    None,
)

# %%
reveal("cut", float(100 * by_cut("line", 1)[:, 1].mean()))
_, axes = plt.subplots(1, 2, figsize=(7.8, 3.3), sharey=True)
for axis, job in zip(axes, JOBS, strict=True):
    axis.plot(CUTS, 100 * by_cut(job, 0).mean(axis=0), ":", color="gray", label="energy kept")
    for which, colour, name in ((1, "tab:orange", "cut"), (2, "tab:blue", "its quiet rival")):
        found = 100 * by_cut(job, which)
        axis.fill_between(CUTS, found.min(axis=0), found.max(axis=0), color=colour, alpha=0.2)
        axis.plot(CUTS, found.mean(axis=0), "o-", color=colour, label=f"right: {name}")
    axis.axhline(100 * np.mean([uncut[job, seed] for seed in SEEDS]), color="black", linewidth=0.8)
    axis.set(xscale="log", xticks=CUTS, xlabel="directions kept in each map", title=f"the {job}")
    axis.set_xticklabels(CUTS)
    axis.minorticks_off()
axes[0].set(ylabel="%", ylim=(-4, 104))
axes[1].legend(fontsize=8, loc="lower right")
plt.show()
for job in JOBS:
    print(job, "uncut:", with_interval(np.mean([uncut[job, seed] for seed in SEEDS]), job))
    for i, r in enumerate(CUTS[:5]):
        energy, one, two = (by_cut(job, which)[:, i].mean() for which in range(3))
        print(f"  {r:2}: energy {100 * energy:2.0f} %, cut {with_interval(one, job)}")
        print(f"      quiet {with_interval(two, job)}")

# %% [markdown]
# (Black: the change as it was trained. Shaded: two seeds.)
#
# > **Claim.** The line: cut to two directions a map, the change keeps on average less than 50 % of
# > its energy and gets more than 80 % of the lines right.
#
# > **Claim.** The codes: cut to two directions, it gets on average less than 10 % right; cut to 16,
# > more than 70 %.
#
# So the second sentence holds for one job and not for the other. Two directions a map steer the
# base into the house's way of writing. They can't hold 57 codes.
#
# ## Energy is not effect
#
# Now look at the blue lines. The rival has the *same* energy as the cut, spread over all
# directions. On the codes it is far ahead.
#
# > **Claim.** The strongest directions matter most: at the same energy the codes' cut to at most 8
# > directions is on average as right as the whole change made quiet.
#
# > **Claim.** Turned down to the energy of one direction, the whole change gets on average more
# > than 80 % of the lines right.
#
# It is tempting to say that two directions do the line's job *because* they hold 4 tenths of the
# energy. But a quarter of the energy is enough, and better than in one direction, when all
# directions stay and each is made fainter. Training overshoots: it stops when the loss is small,
# and nobody asks it to be frugal. Chapter 10 finds the same slack when it turns a volume down. And
# the codes, cut to four directions, still have half of their energy, and hardly an answer.
#
# So "90 % of the energy is in 20 directions" says nothing about how many are needed. For the line
# it is far too many. Only the answers tell.

# %%
first_line = next(i for i, (_, wanted) in enumerate(report["line"]) if len(wanted) < 60)
shown = {"line": (first_line,), "codes": (0, 1, 2, 3)}


def shorten(text, length=34):
    """One line of a text."""
    flat = text.replace("\n", " / ")
    return flat if len(flat) <= length else flat[: length - 1] + "…"


for r in (1, 4, 16):
    print(f"cut to {r}:")
    for job, rows in shown.items():
        for i in rows[:2]:
            text = cuts[job, 1, r][1][i]
            print("  ", "✓" if text == report[job][i][1] else "✗", shorten(text))


# %% slider
def turn(directions=4):
    _, (bars, page) = plt.subplots(1, 2, figsize=(8.4, 3.2), width_ratios=(2, 3))
    i = CUTS.index(directions)
    for which, colour, name in ((1, "tab:orange", "cut"), (2, "tab:blue", "quiet")):
        height = [100 * by_cut(job, which)[:, i].mean() for job in JOBS]
        bars.bar(np.arange(2) + 0.4 * which - 0.6, height, 0.38, color=colour, label=name)
    bars.set(xticks=(0, 1), ylim=(0, 104), ylabel="right, %", title=f"{directions} directions")
    bars.set_xticklabels(JOBS)
    bars.legend(fontsize=8)
    page.axis("off")
    lines = []
    for job, rows in shown.items():
        for place in rows:
            lines.append(shorten(report[job][place][0].split("\n")[0], 52))
            for which, name in ((1, "cut"), (2, "quiet")):
                text = cuts[job, 1, directions][which][place]
                sign = "✓" if text == report[job][place][1] else "✗"
                lines.append(f"   {sign} {name}: {shorten(text, 44)}")
    page.text(0, 1, "\n".join(lines), va="top", fontsize=7.5)
    plt.show()


slider(turn, directions=list(CUTS))

# %% [markdown]
# ## Found, not cut
#
# The third sentence is about another thing than a cut. Give training one direction a map from the
# start, and let it look for one that does the job: that is LoRA of rank 1. Same steps, same rows,
# a rate of its own.

# %%
from minilora.lora import LoRAConfig, attach


def adapted(task):
    """(job, rank, rate, seed) -> the adapter, and its score on rows to choose on."""
    job, r, lr, seed = task
    model = fresh()
    rng = np.random.default_rng([seed, len(train[job])])  # every job has an A of its own
    handle = attach(model, LoRAConfig(r, 2 * r, "all-linear"), rng)
    teach(model, job, lr, seed)
    return handle.adapter(), score(model, choose[job])


def thin(task):
    """As `adapted`, of rank 1."""
    job, lr, seed = task
    return adapted((job, 1, lr, seed))


def adapter_score(task):
    """(job, adapter) -> its score on the reported rows."""
    job, adapter = task
    model = fresh()
    attach(model, adapter)
    return score(model, report[job])


thin_rate = best_rate(thin, (0.01, 0.02))
print("rates:", thin_rate)
found = side_by_side(thin, [(job, thin_rate[job], seed) for job, seed in places])
thin_adapters = {place: adapter for place, (adapter, _) in zip(places, found, strict=True)}
found = side_by_side(adapter_score, [(job, thin_adapters[job, seed]) for job, seed in places])
thin_scores = {
    job: np.array([s for (j, _), s in zip(places, found, strict=True) if j == job]) for job in JOBS
}

# %% predict
predict("found", "LoRA of rank 1 on all maps: how many % of the codes does it get right?", None)

# %%
reveal("found", float(100 * thin_scores["codes"].mean()))
_, axis = plt.subplots(figsize=(5.4, 3))
bars = {
    "full training": [np.mean([uncut[job, seed] for seed in SEEDS]) for job in JOBS],
    "cut to 1 direction": [by_cut(job, 1)[:, 0].mean() for job in JOBS],
    "LoRA of rank 1": [thin_scores[job].mean() for job in JOBS],
}
colours = ("gray", "tab:orange", "tab:green")
for i, ((name, shares), colour) in enumerate(zip(bars.items(), colours, strict=True)):
    ends = [
        wilson(s * len(report[job]), len(report[job])) for s, job in zip(shares, JOBS, strict=True)
    ]
    reach = 100 * np.array([[s - a, b - s] for s, (a, b) in zip(shares, ends, strict=True)]).T
    axis.bar(
        np.arange(2) + 0.27 * (i - 1), 100 * np.array(shares), 0.25, yerr=np.maximum(reach, 0),
        color=colour, capsize=3, label=name,
    )  # fmt: skip
axis.set(xticks=(0, 1), yticks=range(0, 101, 20), ylim=(0, 122), ylabel="right, %")
axis.set_xticklabels(JOBS)
axis.legend(fontsize=8, loc="upper center", ncol=3)
plt.show()
for job in JOBS:
    print(f"LoRA of rank 1, {job}:", with_interval(thin_scores[job].mean(), job))

# %% [markdown]
# (Black strokes: 95 % intervals, for the rows of one seed.)
#
# > **Claim.** Of the codes, LoRA of rank 1 gets on average more than 50 points in 100 more right
# > than full training cut to one direction.
#
# The third sentence holds even where the second does not. One direction a map is 28 directions in
# all, and if they are *chosen together* they hold most of the codes. Full training never had to
# choose. Every batch pulled the weights where it liked, and the work was spread over all of it.
# What LoRA shows is not that changes are thin. It shows that thin changes are easy to find.
#
# ## Do two searches find the same?
#
# If there were one thin change that does the job, two trainings would find it. Take two adapters of
# rank 8, trained from other starting values and with other batches. What do they listen to?

# %% exercise 8.2

# %%
from minilora.analysis.spectra import adapter_changes
from minilora.analysis.spectra import overlap as overlap_grids

# The rates are those of rank 1: what is compared here are directions, not scores.
found = side_by_side(adapted, [(job, 8, thin_rate[job], seed) for job, seed in places])
adapters = {place: adapter for place, (adapter, _) in zip(places, found, strict=True)}
modules = adapters["line", 1].modules
overlap = answer("8.2")


def whole_overlap(one, other):
    """phi of all that two adapters listen to: the mean over the maps, and by chance."""
    rows = [(one.factors(m)[0], other.factors(m)[0]) for m in modules]
    return np.mean([overlap(a, b) for a, b in rows]), np.mean([8 / a.shape[1] for a, _ in rows])


def grids(one, other):
    """phi of the first i and the first j directions of two changes, the mean over the maps."""
    a, b = adapter_changes(one), adapter_changes(other)
    found = [overlap_grids(m, a[m], b[m]) for m in modules]
    return [
        np.mean([getattr(o, side) for o in found], axis=0) for side in ("reads", "chance_reads")
    ]


pairs = {
    "the line, two seeds": (adapters["line", 1], adapters["line", 2]),
    "the codes, two seeds": (adapters["codes", 1], adapters["codes", 2]),
    "line and codes": (adapters["line", 1], adapters["codes", 1]),
}
shared = {name: grids(*pair) for name, pair in pairs.items()}
for name, pair in pairs.items():
    mean, chance = whole_overlap(*pair)
    print(f"{name}:\n   all 8 rows of A {mean:.2g}, by chance {chance:.2g}")

# %% [markdown]
# By chance two random sets of $r$ directions among $n$ share $\varphi = r / n$ on average, and that
# is nearly all there is: most of $A$ is still as it was drawn. But not all rows of $A$ are used
# alike. Take the directions of $\Delta W = s\,BA$ in the order of their strength, and compare the
# first $i$ of one adapter with the first $j$ of the other.

# %% predict
predict("same", "The strongest direction of each of two seeds on the line: phi, from 0 to 1?", None)

# %%
reveal("same", float(shared["the line, two seeds"][0][0, 0]))
_, axes = plt.subplots(1, 4, figsize=(9.2, 2.6), layout="constrained")
maps_shown = {name: grid for name, (grid, _) in shared.items()}
maps_shown["by chance"] = shared["the line, two seeds"][1]
for axis, (name, grid) in zip(axes, maps_shown.items(), strict=True):
    image = axis.imshow(grid, vmin=0, vmax=0.4, origin="lower", extent=(0.5, 8.5, 0.5, 8.5))
    axis.set(title=name, xticks=(1, 4, 8), yticks=(1, 4, 8), xlabel="first j of the other")
    axis.title.set_fontsize(9)
    axis.grid(False)
axes[0].set(ylabel="first i of the one")
plt.colorbar(image, ax=axes, label="φ")
plt.show()
for name, (grid, chance) in shared.items():
    print(f"{name}: first directions\n   {grid[0, 0]:.2f}, by chance {chance[0, 0]:.3f}")

# %% [markdown]
# > **Claim.** The strongest directions of two seeds overlap more than 5 times as much as chance
# > would have it, on both jobs.
#
# > **Claim.** Two seeds find the same adapter: all that they listen to overlaps by more than 0.5.
#
# Look at the lower left corners: the strongest directions of two runs lean towards each other, far
# more than chance would have it, and are far from the same, which would be 1. (Along the left and
# the lower edge the first direction of one run is looked for among the first eight of the other:
# more of it is there, and never all.) The rest is where each run happened to start. So there is not
# one thin change that does the job. There are many, and each search finds another.
#
# ## Louder than W?
#
# The paper looked at the change from another side. Take the first directions of $\Delta W$, and ask
# how strong $W$ is in the same directions. It found $\Delta W$ some 20 times as strong there, and
# concluded that an adapter *amplifies* what the base has learned and does not use. What would any
# other directions give? That is the control, and you write it along.

# %% exercise 8.3

# %%
amplification = answer("8.3")


def amplified(adapter, r):
    """(maps, 2): the factor and its control for each map."""
    return np.array([amplification(before[m], adapter.delta(m), r) for m in modules])


by_rank = {1: thin_adapters, 8: adapters}
loud = {
    (job, r): np.concatenate([amplified(found[job, seed], r) for seed in SEEDS])
    for r, found in by_rank.items()
    for job in JOBS
}
print("so many times as strong as W there:")
for (job, r), found in loud.items():
    factor, chance = np.median(found, axis=0)
    print(f"{job}, rank {r}: {factor:.2g}, by chance {chance:.2g}")

# %%
_, axis = plt.subplots(figsize=(4.6, 4))
for (job, r), found in loud.items():
    mark, colour = "ov"[r == 8], "tab:orange" if job == "line" else "tab:blue"
    axis.plot(found[:, 1], found[:, 0], mark, color=colour, markersize=4, label=f"{job}, rank {r}")
ends = np.array([1, 200])
axis.plot(ends, ends, color="black", linewidth=0.8)
axis.set(xscale="log", yscale="log", xlabel="factor with random directions")
axis.set(ylabel="factor with its own directions")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
# A point is one map of one adapter. On the black line both are alike; below it $W$ is *stronger* in
# the change's directions than elsewhere. (With one direction a single number is compared, and
# chance scatters it widely: half of all random directions give a factor above 1.5 times the line.)
#
# > **Claim.** An adapter of rank 8 amplifies what $W$ has weakly: in more than 50 % of the maps the
# > factor is above that of random directions.
#
# A factor of 40 sounds like a discovery. Random directions give about as much, or more. $\Delta W$
# has all of its size in a few directions and $W$ spreads its own over a hundred, so *any* few
# directions of that size look amplified. If anything, an adapter goes where $W$ is strong already.
#
# ## In how few numbers?
#
# Rank counts directions inside each map. One can ask more boldly. Put all 1.2 million weights of
# the base into one row $\theta$. Draw $d$ random directions in that space, once, and let training
# move along these alone:
#
# $$\theta = \theta_0 + P z ,$$
#
# with $z$ of $d$ numbers and a fixed $P$ of $d$ columns. Nothing here knows of maps, or of ranks,
# and nobody chose the directions. The fewest $d$ with which a job can be learned is called its
# *intrinsic dimension*.
#
# A full $P$ for $d = 10{,}000$ has 12 billion numbers. So let every weight follow one number of
# $z$ only, drawn at random, with a random sign. A number that $n$ weights follow moves each of them
# by $1/\sqrt n$ of its step, so that a step of $z$ is a step of the same length in the weights.
# The columns of this $P$ are still at right angles and of length 1.
#
# What is left to derive is the gradient. The backward pass gives $g$, one number a weight. The loss
# feels $z$ through $Pz$ alone, so the gradient of $z$ is $P^\top g$.

# %% exercise 8.4

# %%
from minilora.training.subspace import RandomSubspace, SubspaceAdamW

rng = np.random.default_rng(0)
space = RandomSubspace({"a": 700, "b": 500}, 9, rng)
g = rng.standard_normal(1200)
mine = answer("8.4")(g, space.place, space.weight, 9)
library = space.pull_back({"a": g[:700], "b": g[700:]}, np.zeros(9, np.float32))
print("yours and the library's agree:", bool(np.allclose(mine, library, atol=1e-5)))

# %% [markdown]
# Train both jobs along $d$ random directions, as many steps as before. And the line a second time,
# from a base of the same shape that was *never trained*: random initial weights. If pretraining is
# what makes a few directions enough, this one should need far more.
#
# A rate for $z$ is best told as what a weight moves in a step. The subspaces have the better of two
# rates, found with seed 0 by the loss on the rows to choose on, at one $d$ of each case. Training
# with all weights has the rate that full training got above.

# %%
from minilora.nn import Transformer
from minilora.training import evaluate

CASES = {"the line": "line", "the codes": "codes", "the line, untrained base": "line"}
TRIED = {
    "the line": (10, 30, 100, 300, 1000),
    "the codes": (300, 1000, 3000, 10_000, 100_000),
    "the line, untrained base": (1000, 10_000, 100_000),
}
TUNED_AT = {"the line": 300, "the codes": 10_000, "the line, untrained base": 10_000}
SIZE = sum(p.size for p in base.parameters())


def start_of(case, seed):
    """The base, or a model of its shape with random weights."""
    return Transformer(base.config, np.random.default_rng(seed)) if "untrained" in case else fresh()


def along_few(task):
    """(case, d or None for all, rate, seed) -> losses on rows to choose on and to report, score."""
    case, d, rate, seed = task
    job, model = CASES[case], start_of(case, seed)
    if rate:
        optimizer = None
        if d is not None:
            named = model.named_parameters()
            optimizer = SubspaceAdamW(named, d, np.random.default_rng([seed, d]))
            rate = rate * (SIZE / d) ** 0.5
        teach(model, job, rate, seed, optimizer)
    losses = [
        evaluate(model, encoded(tokenizer, rows[job]), pad_id=tokenizer.pad_id)
        for rows in (choose, report)
    ]
    return *losses, score(model, report[job])


def tuned(case):
    """The better rate of two, by the loss on rows to choose on."""
    offered = (0.005, 0.015)
    found = side_by_side(along_few, [(case, TUNED_AT[case], rate, 0) for rate in offered])
    return min(zip([f[0] for f in found], offered, strict=True))[1]


rates = {case: {None: full_rate[job], "few": tuned(case)} for case, job in CASES.items()}
tasks = [
    (case, d, rates[case][None if d is None else "few"], 1)
    for case in CASES
    for d in (*TRIED[case], None)
]
tasks += [(case, None, 0.0, 1) for case in CASES]  # not trained at all
found = dict(zip(tasks, side_by_side(along_few, tasks), strict=True))
loss = {(case, d, rate > 0): f[1] for (case, d, rate, _), f in found.items()}
exact = {(case, d): f[2] for (case, d, rate, _), f in found.items() if rate}

# %% exercise 8.5

# %%
d90 = answer("8.5")
dimension = {
    case: d90(
        loss[case, None, False],
        loss[case, None, True],
        {d: loss[case, d, True] for d in TRIED[case]},
    )
    for case in CASES
}

needs = {case: found or 2 * max(TRIED[case]) for case, found in dimension.items()}

# %% predict
predict("d90", f"Of {SIZE:,} random directions, how many are enough for the line?", None)

# %%
reveal("d90", dimension["the line"])
_, (left, bars) = plt.subplots(1, 2, figsize=(8.4, 3.3))
for case, colour in zip(CASES, ("tab:orange", "tab:blue", "gray"), strict=True):
    start, end = loss[case, None, False], loss[case, None, True]
    gone = [100 * (start - loss[case, d, True]) / (start - end) for d in TRIED[case]]
    left.plot(TRIED[case], gone, "o-", color=colour, label=case)
    bars.plot(TRIED[case], [100 * exact[case, d] for d in TRIED[case]], "o-", color=colour)
left.axhline(90, color="black", linewidth=0.8, linestyle="--")
left.set(xscale="log", xlabel="random directions d", ylim=(0, 108))
left.set(ylabel="of full training's gain, %")
left.legend(fontsize=8, loc="lower right")
bars.set(xscale="log", xlabel="random directions d", ylabel="right, %", ylim=(-4, 104))
plt.show()
for case in CASES:
    start, end = loss[case, None, False], loss[case, None, True]
    enough = "more than were tried" if dimension[case] is None else f"{dimension[case]:,}"
    print(f"{case}: d90 {enough}, loss {start:.2g} before, {end:.2g} with all weights")
    print(f"   right: all {100 * exact[case, None]:.0f} %;", end="")
    print("".join(f" d {d:,}: {100 * exact[case, d]:.0f} %" for d in TRIED[case]))

# %% [markdown]
# > **Claim.** For the line at most 300 random directions take off 90 % of the loss that all
# > 1,213,568 weights take off.
#
# > **Claim.** For the codes at least 10 times as many are needed as for the line.
#
# > **Claim.** From an untrained base the line needs at least 30 times as many as from the trained
# > one.
#
# So the few directions are no property of the *job*. They are one of the job *and the base*:
# pretraining has made the weights such that a small step in nearly any direction reaches what the
# line needs. (One seed a point, and equal steps for all: the untrained base is far from done after
# 60, with any number of directions, and gets no line right.)
#
# And does a *better* base need fewer still? That takes several bases, each pretrained for longer
# than this page may run; `data/dimension` has four, asked for whole summaries. Three were
# pretrained for 3,000 steps each. The one of 287,040 numbers is the worst at its own tasks and
# needs about 420 directions; those of 1.2 and 2.5 million are equally good, and need about 250 and
# 270. The fourth is ours: as large as the middle one, pretrained for 11,000 steps, and content with
# about 170. So it is how good a base is that counts, and its size only as far as it makes it
# better.
#
# > **Claim.** 90 % of the loss is 90 % of the way: with its d90 the line is right in at least 9 of
# > 10 of the cases in which it is right with all weights.
#
# Beware of the measure. Most of the loss is form: that an answer begins with `Rx:`, that a code is
# two letters. It goes first, and by it 90 % is reached early. The last tenth decides whether an
# answer is right. Chapter 3 said the same of the base.
#
# And look at the codes. An adapter of rank 1 around all maps has 10,240 numbers and got three of
# four codes; 3,000 numbers along random directions get all of them. They move the embeddings too,
# which that adapter leaves alone. So thin is not the only small there is. What speaks for the
# adapter is the bill: random directions need the gradient of *every* weight, and change every
# weight, so that nothing of chapter 4's savings is left.
#
# ## How much is steering, how much is new?
#
# Both jobs look alike to a machine: prompts, answers, a loss. And one of them needs a few hundred
# random numbers and two directions a map, while the other needs thousands and can't be cut to four
# directions. What differs is what the base is *told*.

# %%
news = 57 * np.log2(len(LETTERS) ** 2)
print(f"the codes: 57 drugs, {len(LETTERS)}² codes to choose from: {news:.0f} bits of news")

# %% [markdown]
# About 490 bits, and no code follows from any other: this is new, and has to be stored. The line
# can be said in a paragraph: which drugs, in which order, what to write where a dose is missing. It
# is a choice among things that the base can do, and so it holds for notes that nobody trained on.
# That is *steering*, and for steering a small change is enough.
#
# Was there room for the codes in the thinnest adapter, which got three of four? `data/memory`
# teaches adapters random facts, more than they can hold. After thousands of passes the thinnest
# holds about 2 bits a trained number, and up to rank 32 the bits grow nearly in proportion to the
# numbers. At that price 490 bits need some 250 numbers, and rank 1 around all maps has 10,240. So
# room it had. What a thin adapter lacks sooner is training: after 300 passes it held 1.4 of those 2
# bits.
#
# The sentence for the wall: a change is as thin as the job lets it be, and most of the jobs that
# people bring to LoRA steer. Whoever brings news instead should count it, in bits, before choosing
# a rank. Chapter 12 asks when another tool is the better place for it.
#
# ## The claims, measured

# %% claims
refuted(
    "The change of full training is of low rank: in the middle map 90 % of the energy of the "
    "codes' change is in fewer than 8 of 128 directions.",
    [np.median(needed["codes", seed]) for seed in SEEDS],
    above=12,
    because="Nothing in full training asks for few directions, and it does not find few.",
    answers="E14",
)
assert by_cut("line", 0)[:, 1].mean() < 0.5
claim(
    "The line: cut to two directions a map, the change keeps on average less than 50 % of its "
    "energy and gets more than 80 % of the lines right.",
    by_cut("line", 1)[:, 1],
    above=0.8,
    answers="E14",
)
assert by_cut("codes", 1)[:, CUTS.index(16)].mean() > 0.7
claim(
    "The codes: cut to two directions, it gets on average less than 10 % right; cut to 16, more "
    "than 70 %.",
    by_cut("codes", 1)[:, 1],
    below=0.1,
    answers="E14",
)
refuted(
    "The strongest directions matter most: at the same energy the codes' cut to at most 8 "
    "directions is on average as right as the whole change made quiet.",
    (by_cut("codes", 1) - by_cut("codes", 2))[:, :4].mean(axis=1),
    below=-0.2,
    because="The work is spread over all directions, and there is more volume than it needs.",
)
claim(
    "Turned down to the energy of one direction, the whole change gets on average more than 80 % "
    "of the lines right.",
    by_cut("line", 2)[:, 0],
    above=0.8,
)
claim(
    "Of the codes, LoRA of rank 1 gets on average more than 50 points in 100 more right than full "
    "training cut to one direction.",
    thin_scores["codes"] - by_cut("codes", 1)[:, 0],
    above=0.5,
    answers="E14",
)
claim(
    "The strongest directions of two seeds overlap more than 5 times as much as chance would have "
    "it, on both jobs.",
    [shared[name][0][0, 0] / shared[name][1][0, 0] for name in list(pairs)[:2]],
    above=5,
    each="jobs",
    answers="E17",
)
refuted(
    "Two seeds find the same adapter: all that they listen to overlaps by more than 0.5.",
    [whole_overlap(*pairs[name])[0] for name in list(pairs)[:2]],
    below=0.4,
    each="jobs",
    because="Most rows of A stay near where they were drawn; only the used directions agree.",
    answers="E17",
)
refuted(
    "An adapter of rank 8 amplifies what $W$ has weakly: in more than 50 % of the maps the factor "
    "is above that of random directions.",
    [float(np.mean(loud[job, 8][:, 0] > loud[job, 8][:, 1])) for job in JOBS],
    below=0.4,
    each="jobs",
    because="Random directions of that size look amplified even more: W is spread thin everywhere.",
    answers="E16",
)
claim(
    "For the line at most 300 random directions take off 90 % of the loss that all 1,213,568 "
    "weights take off.",
    dimension["the line"],
    below=301,
    answers="E18",
)
assert SIZE == 1_213_568
claim(
    "For the codes at least 10 times as many are needed as for the line.",
    needs["the codes"] / needs["the line"],
    above=9.9,
    answers="E18",
)
claim(
    "From an untrained base the line needs at least 30 times as many as from the trained one.",
    needs["the line, untrained base"] / needs["the line"],
    above=29.9,
    answers="E18",
)
refuted(
    "90 % of the loss is 90 % of the way: with its d90 the line is right in at least 9 of 10 of "
    "the cases in which it is right with all weights.",
    exact["the line", dimension["the line"]] / exact["the line", None],
    below=0.9,
    because="Most of the loss is form and goes first; the last tenth decides the answers.",
    answers="E18",
)

# %% [markdown]
# ## What to read
#
# - C. Li and others, "Measuring the Intrinsic Dimension of Objective Landscapes", 2018: random
#   directions, and the 90 % that you measured.
# - A. Aghajanyan and others, "Intrinsic Dimensionality Explains the Effectiveness of Language Model
#   Fine-Tuning", 2020: a better base needs fewer of them.
# - E. Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021, Section 7: overlap
#   of ranks and seeds, and amplification.
# - D. Biderman and others, "LoRA Learns Less and Forgets Less", 2024: full training's change has a
#   rank that is 10 to 100 times as high as LoRA's.
# - In this project: `minilora spectrum` for your own adapters, `minilora dimension`, and
#   `data/spectra`, where whole summaries are cut: there the first two directions are not enough.
