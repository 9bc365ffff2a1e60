# The source of notebooks/07_flatten.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 7. Flatten
#
# **Time.** about 2.5 hours, exercises included.
#
# **What you will be able to do.** Melt an adapter into its base so that it costs nothing, get the
# base back to the last bit, say what each number format loses on the way and what a merged file
# holds, measure what an adapter costs that is not melted in, and tell when to leave it beside the
# base.
#
# **The story.** The ward's computer is old, and every note has a nurse waiting for it. Leo says
# that LoRA is free: you add it into the weights. Maya asks what exactly is free, and when, and what
# happens if the house wants its old model back.

# %%
from minilora.course import pictures

pictures.merge_and_unmerge()

# %% [markdown]
# On the left every token goes two ways, through $W$ and through the thin strips. On the right there
# is one matrix of $W$'s size and one way. To get there is called *merging*; to come back,
# *unmerging*, and for that somebody must have kept $W$.

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
    solution,
    style,
)

style()

# %% [markdown]
# ## One weight for two
#
# An adapted layer computes $xW^\top$ and, beside it, $s\,(xA^\top)B^\top$ with $s = \alpha / r$.
# Both are linear in $x$, so there is one matrix that does both:
#
# $$\begin{gathered}
# x W^\top + s\,(x A^\top) B^\top \\
# = x\,(W + s\,BA)^\top .
# \end{gathered}$$
#
# To put $W + \Delta W$ with $\Delta W = s\,BA$ in the place of $W$ is to *merge*. From then on the
# layer is an ordinary one: same shape, same file, same speed. Nothing of this holds for an adapter
# that is not linear. If the strips computed $\tanh(xA^\top)B^\top$, no matrix could do the same.
# How would one tell, from outside?

# %% exercise 7.1

# %%
one_matrix = answer("7.1")
rng = np.random.default_rng(0)
W, A, B = (rng.standard_normal(shape) for shape in ((5, 7), (2, 7), (5, 2)))
M = one_matrix(lambda x: x @ W.T + 0.5 * (x @ A.T) @ B.T, 7)
print("LoRA, and it is W + s B A:", np.allclose(M, W + 0.5 * B @ A))
try:
    one_matrix(lambda x: x @ W.T + 0.5 * np.tanh(x @ A.T) @ B.T, 7)
except ValueError:
    print("with tanh: no matrix does the same")

# %% [markdown]
# ## Three adapters for one job
#
# To compare costs we need adapters that do the same work. The job is the medication line of
# chapter 6: read what a note says of the drugs, write the line as the cardiology ward wants it.
# Three candidates:
#
# - LoRA on `q_proj` and `v_proj`, rank 8;
# - LoRA on all seven linear maps of a block, rank 4;
# - *bottleneck adapters* as Houlsby and others built them in 2019. After attention and after the
#   MLP stands a small network of its own, narrow in the middle, and not linear there:
#
# $$y = h + \operatorname{gelu}(h D^\top + d)\, U^\top + u .$$
#
# It starts near zero, so that the model begins as it was; everything else is frozen. Ours has 16
# numbers in the middle. Its gradient is short enough to derive; take $\tanh$ in place of gelu.

# %% exercise 7.2

# %%
from minilora.baselines.bottleneck import attach_bottlenecks
from minilora.course.chapters.ch06.lines import encoded, medication_lines
from minilora.hub import load_pretrained
from minilora.lora import LoRAConfig, attach, lora_layers, trainable_parameters
from minilora.text.answers import answers
from minilora.training import Batches, TrainingConfig, fit

_, tokenizer = load_pretrained(data_folder("ward-base"))
train = encoded(tokenizer, medication_lines(600, seed=1))
held_out = medication_lines(40, seed=2, split="heldout")


def fresh():
    """A new copy of the base."""
    return load_pretrained(data_folder("ward-base"))[0]


def lora(r, targets):
    config = LoRAConfig(r=r, lora_alpha=2 * r, target_modules=targets)
    return lambda model, rng: attach(model, config, rng)


KINDS = {  # how it is attached, and its learning rate
    "LoRA q, v": (lora(8, ("q_proj", "v_proj")), 0.01),
    "LoRA all": (lora(4, "all-linear"), 0.01),
    "bottleneck": (lambda model, rng: attach_bottlenecks(model, 16, rng), 0.01),
}


def trained(kind, seed, base):
    """The handle of an adapter of this kind on this base, which has learned the job."""
    attach_it, lr = KINDS[kind]
    handle = attach_it(base, np.random.default_rng(seed))
    config = TrainingConfig(steps=70, lr=lr, warmup=5, seed=seed, workers=1)
    fit(base, Batches(train, 8, seed, tokenizer.pad_id), config, progress=False)
    return handle


def say(model):
    """What a model answers to the held-out prompts."""
    return answers(model, tokenizer, [prompt for prompt, _ in held_out], max_new_tokens=48)


def exact(model):
    """Share of held-out lines that are right to the last character."""
    return np.mean([a == wanted for a, (_, wanted) in zip(say(model), held_out, strict=True)])


# %%
seeds = range(3)


def entry(job):
    """The handle of an adapted model, and the model's score."""
    handle = trained(*job, fresh())
    return handle, exact(handle.model)


base_score = exact(fresh())
found = side_by_side(entry, [(kind, seed) for kind in KINDS for seed in seeds])
handles = {kind: [found[3 * i + j][0] for j in seeds] for i, kind in enumerate(KINDS)}
models = {kind: [handle.model for handle in handles[kind]] for kind in KINDS}
scores = {kind: [found[3 * i + j][1] for j in seeds] for i, kind in enumerate(KINDS)}
print(f"{'':11} exact  numbers trained")
print(f"{'base':11} {100 * base_score:3.0f} %{0:17}")
for kind, found in scores.items():
    count = trainable_parameters(models[kind][0])
    print(f"{kind:11} {100 * np.mean(found):3.0f} %{count:17,}")

# %% [markdown]
# > **Claim.** Each of the three adapters gets on average more than 75 % of the held-out lines
# > exactly right, and the base gets less than 5 %.
#
# So they do the same job, and from here on the question is what it costs.
#
# ## How equal is equal?
#
# On paper the merged model *is* the adapted one. On a machine every sum is rounded, and the two
# round in different places. We measure the largest difference between the logits, on the scale of
# the largest logit, and two things beside it, for a difference means little before one knows what
# it must be small against: what the adapter itself changes, and what a file in float16 costs the
# base alone, with no adapter in it.


# %%
from copy import deepcopy

from minilora.autograd import no_grad


def convert(model, dtype):
    """The model with all its numbers in dtype, in place."""
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(dtype)
    return model


def through(model, names, dtype):
    """The weights of these layers rounded to dtype as a file would hold them, in place."""
    for name in names:
        layer = model.get_submodule(name)
        weight = getattr(layer, "base_layer", layer).weight
        weight.data = weight.data.astype(dtype).astype(weight.dtype)


def logits(model):
    with no_grad():
        return model(probe).data


def gap(a, b):
    """Largest difference on the scale of the largest entry."""
    return float(np.abs(a - b).max() / np.abs(b).max())


probe = np.array([tokenizer.encode_prompt(held_out[0][0])[:16]])


def compare(seed):
    """What the adapter changes, what merging changes in three formats, and the control."""
    found, base = {}, fresh()
    names = list(lora_layers(models["LoRA all"][seed]))
    for name, dtype in (("float64", np.float64), ("float32", np.float32)):
        handle = deepcopy(handles["LoRA all"][seed])
        model = convert(handle.model, dtype)
        beside = logits(model)
        handle.merge()
        found[name] = gap(logits(model), beside)
        assert found[name] != gap(logits(convert(base, dtype)), beside)
        if dtype is np.float32:
            found["the adapter itself"] = gap(logits(base), beside)
            through(model, names, np.float16)
            found["float16"] = gap(logits(model), beside)
            before = logits(base)
            through(base, names, np.float16)
            found["base in float16"] = gap(logits(base), before)
        handle.unmerge()
        assert np.array_equal(logits(model), beside)
    return found


# %%
BARS = {
    "float64": "merged, float64",
    "float32": "merged, float32",
    "float16": "merged, kept in float16",
    "base in float16": "the base alone in float16",
    "the adapter itself": "the adapter itself",
}
gaps = [compare(seed) for seed in seeds]
print("of the largest logit:")
for key, name in BARS.items():
    print(f"{name:25} {np.mean([found[key] for found in gaps]):.2g}")

# %% predict
predict("rounding", "Merging in float32 moves the logits by 1 part in how many?", None)

# %%
reveal("rounding", int(round(1 / np.mean([found["float32"] for found in gaps]), -5)))
_, axis = plt.subplots(figsize=(6.4, 2.9))
for row, key in enumerate(BARS):
    values = [found[key] for found in gaps]
    axis.barh(row, np.mean(values), color="tab:blue" if row < 3 else "tab:orange", height=0.6)
    axis.plot(values, [row] * len(values), "k|", markersize=9)
axis.set(xscale="log", xlabel="change of the logits, on the scale of the largest")
axis.set_yticks(range(len(BARS)), BARS.values())
axis.invert_yaxis()
plt.show()

# %% [markdown]
# Bars are means, strokes the three seeds.
#
# > **Claim.** Merging moves the logits by less than 1e-12 of the largest in float64.
#
# > **Claim.** Merging moves the logits by less than 1e-5 of the largest in float32.
#
# > **Claim.** Kept in float16, merged weights move the logits more than 50 times as much as in
# > float32.
#
# > **Claim.** That is the price of float16 and not of merging: the base alone, put into float16,
# > moves its logits at least half as much.
#
# All of it is small beside what the adapter changes. But look at what a half-precision *sum*
# does to a single weight. Near 0.1 the numbers of float16 are $6 \cdot 10^{-5}$ apart; a change of
# less than half of that is no change.

# %% exercise 7.3

# %%
lost_share = answer("7.3")
SIZES = [1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
layers = [x for model in models["LoRA all"] for x in lora_layers(model).values()]
shares = {
    name: [
        np.mean([lost_share(x.base_weight, size * x.delta_weight(), dtype) for x in layers])
        for size in SIZES
    ]
    for name, dtype in (("float16", np.float16), ("float32", np.float32))
}
_, axis = plt.subplots()
for (name, found), mark in zip(shares.items(), "os", strict=True):
    axis.plot(SIZES, 100 * np.array(found), mark + "-", label=f"summed in {name}")
axis.set(xscale="log", xlabel="ΔW, times", ylabel="entries of ΔW\nthat leave no trace, %")
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** Summed in float16, a thousandth of this ΔW loses more than 50 % of its entries
# > altogether.
#
# The whole update is large enough to come through: here half precision costs little. What goes is a
# fine one, learned at a small rate or turned down at the volume dial. So minilora merges in
# float32, whatever the base is kept in, and rounds once at the end.
#
# ## Two updates in one weight
#
# Updates add up, so why not merge two of them? For each layer of the base, add both $\Delta W$.


# %%
def with_both(one, two, volume):
    """The base with two models' adapters merged in, each at this volume."""
    model = fresh()
    for (name, a), b in zip(lora_layers(one).items(), lora_layers(two).values(), strict=True):
        both = a.delta_weight() + b.delta_weight()
        model.get_submodule(name).weight.data = a.base_weight + volume * both
    return model


pairs = [(i, j) for i in seeds for j in seeds if i < j]
made = models["LoRA all"]


def both_exact(job):
    i, j, volume = job
    return exact(with_both(made[i], made[j], volume))


whole, halves = (side_by_side(both_exact, [(*pair, v) for pair in pairs]) for v in (1.0, 0.5))
print("lines exactly right:")
for name, found in (
    ("one adapter", scores["LoRA all"]),
    ("two", whole),
    ("two at half volume", halves),
):
    print(f"   {name:18} {100 * np.mean(found):3.0f} %")

# %% [markdown]
# > **Claim.** Two adapters for the same job, both merged whole, get at least 15 points in 100 fewer
# > lines right than one.
#
# Each was trained to do the job alone. Together they do it twice, and overshoot. At half volume
# they agree again, because they were made for the same base and the same job. What happens to two
# adapters for different jobs is the subject of chapter 11.
#
# One of these files lies on the ward's server, and nobody wrote down at which volume it was made.
# Nor whether somebody, to be safe, merged an adapter into a file that held it already: no program
# complains, for a merged file looks like any other. It can still be found out.

# %% exercise 7.4

# %%
volumes_inside = answer("7.4")


def read_volumes(model, candidates):
    """The volumes of these adapted models' updates in a merged model, one row a layer."""
    rows = []
    for name in lora_layers(candidates[0]):
        parts = [lora_layers(other)[name] for other in candidates]
        factors = [(x.lora_A.data, x.lora_B.data, x.config.lora_alpha) for x in parts]
        merged = model.get_submodule(name).weight.data
        rows.append(volumes_inside(merged, parts[0].base_weight, factors))
    return np.array(rows)


# %% predict
predict("inside", "The first two adapters at half volume: what will be read of the third?", None)

# %%
inside = read_volumes(with_both(made[0], made[1], 0.5), made)
reveal("inside", round(abs(float(inside.mean(axis=0)[2])), 3))
for seed, column in enumerate(inside.T):
    print(f"adapter {seed}: volume {round(float(np.mean(column)), 2) + 0.0:.2f}")

# %% [markdown]
# > **Claim.** From the merged weights alone, each of three adapters' volumes is read in every layer
# > to better than 0.001.
#
# So whoever keeps the base and the adapters can say what a merged file holds. Whoever keeps the
# file alone cannot.
#
# ## There and back a hundred times
#
# The house wants its old model back. The obvious way is to subtract what was added. But
# $(W + \Delta W) - \Delta W$ has been rounded twice, and what fell off is gone. Change adapters all
# day, and the base drifts away under them. Let the three seeds' adapters take turns, and count the
# base's weights that no longer have their bits.

# %% exercise 7.5

# %% exercise 7.6

# %%
merge_once, unmerge_once = answer("7.5"), answer("7.6")
first = [lora_layers(model) for model in models["LoRA all"]]
deltas = [{name: x.delta_weight() for name, x in layers.items()} for layers in first]
kept = {name: x.base_weight for name, x in first[0].items()}


def drift(cycles, dtype):
    """Share of weights with other bits after each cycle of += and -=."""
    start = {name: W.astype(dtype) for name, W in kept.items()}
    now = {name: W.copy() for name, W in start.items()}
    total, changed = sum(W.size for W in start.values()), [0.0]
    for cycle in range(cycles):
        for name, W in now.items():
            delta = deltas[cycle % len(deltas)][name].astype(dtype)
            W += delta
            W -= delta
        changed.append(sum(int((now[n] != start[n]).sum()) for n in start) / total)
    moved = max(float(np.abs(now[n] - start[n]).max()) for n in start)
    return np.array(changed), moved, now


def swapped(cycles):
    """The same with the array kept."""
    layers = {name: {"weight": W.copy(), "kept": None} for name, W in kept.items()}
    for cycle in range(cycles):
        for name, layer in layers.items():
            delta = deltas[cycle % len(deltas)][name]
            merge_once(layer, delta)
            unmerge_once(layer, delta)
    total = sum(W.size for W in kept.values())
    return sum(int((layers[n]["weight"] != W).sum()) for n, W in kept.items()) / total


drifts = {dtype.__name__: drift(100, dtype) for dtype in (np.float32, np.float16)}
_, axis = plt.subplots()
for (name, (changed, *_)), mark in zip(drifts.items(), "-:", strict=True):
    axis.plot(100 * changed, mark, label=f"+= and -= in {name}")
axis.plot([0, 100], [0, 100 * swapped(100)], "k-", label="the array kept and put back")
axis.set(xlabel="merged and unmerged, times", ylabel="weights with other bits, %", ylim=(-2, 50))
axis.legend()
plt.show()

# %%
said = {}
for name, (*_, weights) in drifts.items():
    model = deepcopy(models["LoRA all"][0])
    for place, layer in lora_layers(model).items():
        layer.base_layer.weight.data = weights[place].astype(np.float32)
    said[name] = say(model)
usual = say(models["LoRA all"][0])
other = {
    name: sum(a != b for a, b in zip(usual, found, strict=True)) for name, found in said.items()
}
print(f"other answers, of {len(usual)}, over the base")
for name, count in other.items():
    print(f"   that drifted in {name}: {count}")

# %% [markdown]
# > **Claim.** After 100 turns of += and -= in float32 more than 10 % of the weights have other
# > bits.
#
# > **Claim.** With the array kept and put back, 0 weights have other bits.
#
# > **Claim.** In float32 no weight has moved by more than 1e-4.
#
# > **Claim.** In float16 some weight has moved by more than 0.003.
#
# With three adapters the drift comes to a stop after a turn or two: a weight that has once been
# rounded so that adding and subtracting these three $\Delta W$ leads back to it, stays. A new
# adapter with another $\Delta W$ starts the drift again. And a changed bit is not yet a changed
# answer.
#
# > **Claim.** Over the base that has drifted in float32, at most 1 of the adapter's 40 answers is
# > another.
#
# In float16, where weights have moved by far more, it is hardly worse. But the base's
# fingerprint is another one now, so nobody can say any more which model answered last Tuesday, and
# a comparison with yesterday's outputs has lost its "equal". Keeping the array costs one copy of
# the merged layers, and settles it.
#
# minilora's `merge` and `unmerge` do that, and they know what state they are in:

# %%
from minilora.lora import MergeError

handle = handles["LoRA all"][0]
before = {name: x.base_layer.weight.data for name, x in handle.layers.items()}
for _ in range(100):
    handle.merge()
    handle.unmerge()
print(all(x.base_layer.weight.data is before[n] for n, x in handle.layers.items()))
handle.merge()
try:
    handle.merge()
except MergeError as error:
    print(str(error)[:32], "...")
handle.unmerge()

# %% [markdown]
# ## What an adapter costs that is not merged
#
# Time one forward pass: one text, 1, 16 or 256 tokens of it, without the output head. One token
# is what a machine reads when it writes; 256 is a note. Five models take turns, so that whatever
# else the machine does hits all alike, and the median counts. The clock is the processor's, not
# the wall's.
#
# (Where many tokens are read at a time, this library builds $W + sBA$ once and uses that, because
# it is then the cheaper way. That is why the overhead all but goes away at 256 tokens. For the same
# reason `generate` pays for an unmerged adapter once a call, and not once a token.)

# %%
import time

LENGTHS = {1: 150, 16: 90, 256: 30}  # tokens, and how often each is timed


def contestants():
    """Five models by name; the merged one had LoRA on all linear maps."""
    return {
        "base": fresh(),
        "merged": deepcopy(handles["LoRA all"][0]).merge_and_unload(),
        "LoRA q, v": models["LoRA q, v"][0],
        "LoRA all": models["LoRA all"][0],
        "bottleneck": models["bottleneck"][0],
    }


def forward_times(entrants, length, repeats):
    """Median processor seconds of a forward pass, by name, all taking turns."""
    ids = np.random.default_rng(0).integers(4, 2000, (1, length))
    taken = {name: [] for name in entrants}
    with no_grad():
        for _ in range(repeats):
            for name, model in entrants.items():
                began = time.process_time()
                model.hidden_states(ids)
                taken[name].append(time.process_time() - began)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


entrants = contestants()
forward_times(entrants, 16, 10)  # warm
rounds = [
    {length: forward_times(entrants, length, n) for length, n in LENGTHS.items()} for _ in range(3)
]
ratio = {
    name: {n: [r[n][name] / r[n]["base"] for r in rounds] for n in LENGTHS}
    for name in entrants
    if name != "base"
}

# %% predict
predict(
    "unmerged", "LoRA on all maps, not merged, one token: how many % slower than the base?", None
)

# %%
reveal("unmerged", float(100 * (np.mean(ratio["LoRA all"][1]) - 1)))
_, axis = plt.subplots()
for (name, found), mark in zip(ratio.items(), "os^D", strict=True):
    means = [100 * (np.mean(found[n]) - 1) for n in LENGTHS]
    axis.plot(range(len(LENGTHS)), means, mark + "-", label=name)
axis.axhline(0, color="black", linewidth=0.8)
axis.set(xticks=range(len(LENGTHS)), xlabel="tokens read at a time")
axis.set(ylabel="time more than the base, %")
axis.set_xticklabels(LENGTHS)
axis.legend()
plt.show()
print(f"{'tokens':10}" + "".join(f"{n:7}" for n in LENGTHS))
for name, found in ratio.items():
    print(f"{name:10}" + "".join(f"{np.mean(found[n]):7.2f}" for n in LENGTHS))

# %% [markdown]
# > **Claim.** A merged model takes between 0.9 and 1.1 times the base's time at every length.
#
# > **Claim.** Reading one token with unmerged LoRA on all maps takes more than 1.15 times the
# > base's time.
#
# > **Claim.** Reading one token with bottleneck adapters takes more than 1.08 times the base's
# > time.
#
# > **Claim.** On q and v alone, one token takes less than 0.98 of the time that it takes with
# > bottleneck adapters.
#
# > **Claim.** Unmerged LoRA's overhead on all maps at 256 tokens is less than 60 % of that at 1.
#
# > **Claim.** The bottleneck's overhead at 256 tokens is less than 80 % of that at 1.
#
# > **Claim.** LoRA is faster than a bottleneck adapter even when it is not merged: on all maps, at
# > one token, it takes less than 0.95 times as long.
#
# The last one is what people remember from the paper, and it is not what the paper says. An
# unmerged adapter is two more products for each map it stands beside, and seven maps a block make
# fourteen; the bottleneck has four a block, and two gelus. At one token the products are tiny, and
# what they cost is to start them: the more of them, the dearer. On q and v alone LoRA has four a
# block too, and no gelu, and it is the cheapest of the three. The zero in "no added latency"
# belongs to merging, not to LoRA as such: the bottleneck is not linear, so it can't be merged and
# can never have that zero.
#
# ## When not to merge
#
# - *Many adapters over one base.* A merged model serves one client. Beside the base, forty adapters
#   share it, and one batch may hold rows for all of them (chapter 9).
# - *You may want to go back.* Detaching restores the base exactly, because nothing was written.
#   A merged file has forgotten what it was.
# - *A base in four bits.* The adapter was trained beside the coarse weights. A merged weight is no
#   longer on their grid, so it must be kept in more bits, or be rounded again. How much of the
#   update does that cost? We put the base into four bits, train beside it, and try.


# %%
from minilora.autograd.quantize import quantize
from minilora.nn import store_base


def in_four_bits(seed):
    """Exact beside a 4-bit base, exact merged into 4 bits, and the error on the scale of ΔW."""
    model, errors = trained("LoRA all", seed, store_base(fresh(), "q4")).model, []
    beside = exact(model)
    for layer in lora_layers(model).values():
        total = layer.merged_weight()
        again = quantize(total, "q4")
        errors.append(np.linalg.norm(again.dense() - total) / np.linalg.norm(layer.delta_weight()))
        layer.base_layer.weight.data = again
        layer.lora_B.data = np.zeros_like(layer.lora_B.data)
    return beside, exact(model), float(np.mean(errors))


beside, again, errors = zip(*side_by_side(in_four_bits, seeds), strict=True)
print("lines exactly right:")
print(f"   beside a base in 4 bits {100 * np.mean(beside):.0f} %")
print(f"   merged into 4 bits {100 * np.mean(again):.0f} %")
print(f"error: {np.mean(errors):.2g} of the update")

# %% [markdown]
# > **Claim.** Merged into 4 bits, the update comes out wrong by more than 20 % of its own size.
#
# > **Claim.** And so at least 10 points in 100 of the exact lines are lost.
#
# The first holds, the second doesn't. The rounding is spread over all weights like noise, and the
# job's answers stand far enough apart not to notice. A finer job might. So minilora keeps a merged
# layer of a 4-bit base in float32, as you see next, and the only way to know what a coarser file
# costs is the one taken here: score the file that you ship, not the model that you trained.

# %%
handle = attach(store_base(fresh(), "q4"), LoRAConfig(), np.random.default_rng(0))
layer = next(iter(handle.layers.values()))
print("before:", type(layer.base_layer.weight.data).__name__)
handle.merge()
print("merged:", layer.base_layer.weight.dtype)

# %% [markdown]
# ## One ordinary file
#
# This is what it was all for. Merge, save, and hand over a folder that knows nothing of LoRA.
# Whoever opens it needs no adapter and no minilora: it is a Hugging Face folder like any other.
# Does it say the same? We open it again, from the disk, and ask it all forty prompts.

# %%
import tempfile
from pathlib import Path

from minilora.hub import save_pretrained


def size_of(folder):
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir())


handle = deepcopy(handles["LoRA all"][0])
said_before = say(handle.model)
with tempfile.TemporaryDirectory() as folder:
    adapter_bytes = size_of(handle.adapter(base_name="ward-base").write(Path(folder) / "adapter"))
    merged = handle.merge_and_unload()
    save_pretrained(Path(folder) / "merged", merged, tokenizer)
    merged_bytes = size_of(Path(folder) / "merged")
    reopened, _ = load_pretrained(Path(folder) / "merged")
    files = sorted(path.name for path in (Path(folder) / "merged").iterdir())
said_after = say(reopened)
same_answers = sum(a == b for a, b in zip(said_before, said_after, strict=True))
base_bytes = size_of(data_folder("ward-base"))
print(*files, sep="\n")
print(f"the same answers: {same_answers} of {len(said_before)}")
print(f"base {base_bytes / 1e6:.3g} MB, adapter {adapter_bytes / 1e6:.2g} MB,")
print(f"merged {merged_bytes / 1e6:.3g} MB")

# %% [markdown]
# > **Claim.** Saved, and opened again from the file, the merged model gives at least 39 of the 40
# > answers of base and adapter.
#
# > **Claim.** The merged file is as large as the base: less than 3 % off.
#
# > **Claim.** An adapter kept apart takes less than 5 % of that.
#
# ## The claims, measured

# %% claims
claim(
    "Each of the three adapters gets on average more than 75 % of the held-out lines exactly "
    "right, and the base gets less than 5 %.",
    min(np.mean(found) for found in scores.values()),
    above=0.75,
)
assert base_score < 0.05
claim(
    "Merging moves the logits by less than 1e-12 of the largest in float64.",
    [found["float64"] for found in gaps],
    below=1e-12,
    answers="E4",
)
claim(
    "Merging moves the logits by less than 1e-5 of the largest in float32.",
    [found["float32"] for found in gaps],
    below=1e-5,
)
claim(
    "Kept in float16, merged weights move the logits more than 50 times as much as in float32.",
    [found["float16"] / found["float32"] for found in gaps],
    above=50,
)
claim(
    "That is the price of float16 and not of merging: the base alone, put into float16, moves its "
    "logits at least half as much.",
    [found["base in float16"] / found["float16"] for found in gaps],
    above=0.5,
)
claim(
    "Summed in float16, a thousandth of this ΔW loses more than 50 % of its entries altogether.",
    shares["float16"][-1],
    above=0.5,
)
claim(
    "Two adapters for the same job, both merged whole, get at least 15 points in 100 fewer lines "
    "right than one.",
    np.mean(scores["LoRA all"]) - np.array(whole),
    above=0.15,
    each="pairs",
)
claim(
    "From the merged weights alone, each of three adapters' volumes is read in every layer to "
    "better than 0.001.",
    np.abs(inside - (0.5, 0.5, 0.0)).max(),
    below=0.001,
)
claim(
    "After 100 turns of += and -= in float32 more than 10 % of the weights have other bits.",
    drifts["float32"][0][-1],
    above=0.1,
)
claim("With the array kept and put back, 0 weights have other bits.", swapped(100), below=1e-9)
claim("In float32 no weight has moved by more than 1e-4.", drifts["float32"][1], below=1e-4)
claim(
    "Over the base that has drifted in float32, at most 1 of the adapter's 40 answers is another.",
    other["float32"],
    below=1.5,
)
assert len(usual) == 40 and other["float16"] < 5
claim("In float16 some weight has moved by more than 0.003.", drifts["float16"][1], above=0.003)
claim(
    "A merged model takes between 0.9 and 1.1 times the base's time at every length.",
    [np.mean(found) for found in ratio["merged"].values()],
    above=0.9,
    below=1.1,
    each="lengths",
    of_time=True,
    answers="E4",
)
claim(
    "Reading one token with unmerged LoRA on all maps takes more than 1.15 times the base's time.",
    ratio["LoRA all"][1],
    above=1.15,
    each="rounds",
    of_time=True,
    answers="E5",
)
claim(
    "Reading one token with bottleneck adapters takes more than 1.08 times the base's time.",
    ratio["bottleneck"][1],
    above=1.08,
    each="rounds",
    of_time=True,
    answers="E5",
)
claim(
    "On q and v alone, one token takes less than 0.98 of the time that it takes with bottleneck "
    "adapters.",
    np.array(ratio["LoRA q, v"][1]) / np.array(ratio["bottleneck"][1]),
    below=0.98,
    each="rounds",
    of_time=True,
)


def overhead(name):
    """Extra time at 256 tokens over that at 1, as shares of the base's."""
    return (np.mean(ratio[name][256]) - 1) / (np.mean(ratio[name][1]) - 1)


claim(
    "Unmerged LoRA's overhead on all maps at 256 tokens is less than 60 % of that at 1.",
    overhead("LoRA all"),
    below=0.6,
    of_time=True,
    answers="E5",
)
claim(
    "The bottleneck's overhead at 256 tokens is less than 80 % of that at 1.",
    overhead("bottleneck"),
    below=0.8,
    of_time=True,
)
refuted(
    "LoRA is faster than a bottleneck adapter even when it is not merged: on all maps, at one "
    "token, it takes less than 0.95 times as long.",
    np.array(ratio["LoRA all"][1]) / np.array(ratio["bottleneck"][1]),
    above=0.96,
    each="rounds",
    because="It starts fourteen small products a block, and the bottleneck four.",
    of_time=True,
)
claim(
    "Merged into 4 bits, the update comes out wrong by more than 20 % of its own size.",
    errors,
    above=0.2,
)
refuted(
    "And so at least 10 points in 100 of the exact lines are lost.",
    np.array(beside) - np.array(again),
    below=0.08,
    because="The error is spread like noise over all weights, and the answers stand far apart.",
)
claim(
    "Saved, and opened again from the file, the merged model gives at least 39 of the 40 answers "
    "of base and adapter.",
    same_answers,
    above=38.5,
)
claim(
    "The merged file is as large as the base: less than 3 % off.",
    abs(merged_bytes / base_bytes - 1),
    below=0.03,
)
claim(
    "An adapter kept apart takes less than 5 % of that.",
    adapter_bytes / base_bytes,
    below=0.05,
)

# %% [markdown]
# ## What to read
#
# - E. Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021, sections 3, 4.1
#   and Table 1: latency of adapters, and what merging rules out.
# - N. Houlsby and others, "Parameter-Efficient Transfer Learning for NLP", 2019: the bottleneck.
# - T. Dettmers and others, "QLoRA: Efficient Finetuning of Quantized LLMs", 2023.
# - D. Goldberg, "What Every Computer Scientist Should Know About Floating-Point Arithmetic", 1991.
# - In this project: `minilora/lora/attach.py`, where `merge` makes every delta before it uses the
#   first, and `minilora/baselines/bottleneck.py`.
