# The source of notebooks/13_bill.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 13. What of the bill is left?
#
# **Time.** about 2.5 hours, exercises included.
#
# **What you will be able to do.** Say where the bytes of training are once LoRA has taken its
# share away; keep a frozen base in 4 bits a weight, and say what that costs in error, in right
# answers and in time; send a gradient through a matrix that exists only as codes; and find the
# part of the bill that no shorter code makes smaller.
#
# **The story.** Leo's adapters are small and the ward is content. Now he wants to adapt a real
# model, at home, on a card with 24 GB. "The adapter is two megabytes," he says, "so what can be in
# the way?" Maya has the bill in her hand. The adapter is on it, and hardly counts.

# %%
from minilora.course import pictures

pictures.frozen_codes()

# %% [markdown]
# That is where this chapter goes. On the left is the frozen $W$ as it lies in memory: not numbers,
# but short codes and a few scales. When a product needs $W$, some of its rows are made into
# numbers, used, and forgotten. Beside it stand $A$ and $B$, as ever. This arrangement is called
# *QLoRA*, a LoRA over a *quantized* base; to quantize is to round to a few allowed values.

# %%
import itertools
import json
import time
import warnings
from dataclasses import replace
from statistics import NormalDist

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
# ## Where the bytes are
#
# Chapter 4 counted what training holds: 16 bytes for each number that is trained (its weight, its
# gradient, and AdamW's two averages), and 4 for one that is frozen. There is a fifth kind, which we
# left out there. On its way forward the model leaves arrays behind that the way back will need:
# the input of every layer with an $A$, the shares of attention, and so on. They are called
# *activations*.
#
# All five can be predicted from sizes alone. Here for SmolLM2, a real model of 135 million numbers
# in 30 layers, one text of 512 tokens, and adapters of rank 8.

# %%
from minilora.analysis.bill import (
    METHODS,
    SHAPES,
    Batch,
    base_bytes,
    bill_of,
    counted_bill,
    prepared,
)
from minilora.nn import BASE_DTYPES

KINDS = ("weights", "adapter", "gradients", "optimizer", "activations")
MIB = 2**20
small = SHAPES["smollm2-135m"]
page = Batch(rows=1, time=512, labels=512)
lora = bill_of(small, page, "LoRA q,v", 8)

# %% predict
predict(
    "frozen",
    "Of LoRA's weights, gradients and averages, how many % of the bytes are the frozen base?",
    None,
)

# %%
frozen_share = lora.weights / (lora.total - lora.activations)
reveal("frozen", round(100 * frozen_share, 1))


def bars(bills, unit=MIB, name="MiB"):
    """A bar a bill, its kinds of memory one on the other."""
    _, axis = plt.subplots(figsize=(7, 0.45 * len(bills) + 1.2))
    left = np.zeros(len(bills))
    colours = ("0.65", "tab:orange", "tab:red", "tab:purple", "tab:blue")
    for kind, colour in zip(KINDS, colours, strict=True):
        widths = np.array([getattr(bill, kind) for bill in bills.values()]) / unit
        axis.barh(list(bills), widths, left=left, color=colour, label=kind)
        left += widths
    axis.invert_yaxis()
    axis.set(xlabel=name, xlim=(0, 1.35 * left.max()))
    axis.legend(loc="center right", fontsize=8)
    plt.show()


bars({"full": bill_of(small, page, "full", 8), "LoRA on q, v": lora})

# %% [markdown]
# > **Claim.** Of what LoRA holds of SmolLM2, activations aside, the frozen float32 base is more
# > than 90 %.
#
# Red and purple are gone, and orange is too thin to be seen. Two bars are left, grey and blue. Is
# the prediction to be believed? On the ward's base we can take a step and count every array that
# is alive.

# %%
from minilora.hub import load_pretrained


def opened(kind="float32"):
    """A fresh copy of the ward's base, kept in one of BASE_DTYPES."""
    return load_pretrained(data_folder("ward-base"), kind)[0]


tokenizer = load_pretrained(data_folder("ward-base"))[1]
ward_page = Batch(rows=4, time=120, labels=40)
miscounted = []
print(f"{'MiB':10} predicted counted")
for method in ("full", "LoRA q,v", "q,v on q4", "q,v on nf4"):
    told = bill_of(opened().config, ward_page, method, 8)
    from_arrays = opened(METHODS[method].base_dtype)
    optimizer = prepared(from_arrays, METHODS[method], 8, np.random.default_rng(0))
    counted = counted_bill(from_arrays, ward_page, optimizer)
    miscounted.append(abs(told.total / counted.total - 1))
    print(f"{method:10}{told.total / MIB:10.3g}{counted.total / MIB:8.3g}")

# %% [markdown]
# > **Claim.** Predicted and counted bytes differ by less than 5 %, for full training and for LoRA
# > over three kinds of base.
#
# ## Which sixteen numbers?
#
# Start with the grey bar. A float32 weight has 32 bits, and can be one of 4 billion numbers. Does
# the model need that? Suppose that a weight has 4 bits: sixteen numbers to choose from, the same
# sixteen for all weights. To fit them to large and small weights alike, cut each row of $W$ into
# *blocks* of 64 neighbours, and give each block a *scale*: its largest magnitude. Every weight is
# then its scale times a number between -1 and 1, and only the latter is rounded. What is kept of it
# is its *code*, from 0 to 15: the place of the nearest of the sixteen.
#
# Which sixteen numbers between -1 and 1? The obvious answer is: evenly spaced. Look at what has to
# be rounded.

# %%
model = opened()
places = [name for name, _ in model.named_parameters() if "_proj" in name]
matrices = {name: p.data for name, p in model.named_parameters() if name in places}
blocks = np.concatenate([W.reshape(-1, 64) for W in matrices.values()])
ratios = (blocks / np.abs(blocks).max(axis=1, keepdims=True)).ravel()
even = np.linspace(-1, 1, 16)

_, axis = plt.subplots(figsize=(7, 2.8))
axis.hist(ratios, bins=201, range=(-1, 1), color="0.7", density=True)
axis.vlines(even, 0, 0.35, color="tab:red", label="sixteen evenly spaced numbers")
axis.set(xlabel="weight / its block's scale", ylabel="how often")
axis.legend()
plt.show()

# %% [markdown]
# It is a bell, the curve of the normal distribution, as the weights of trained models mostly are;
# and at both ends stands a spike, the largest weight of each block, which is its own scale. Evenly
# spaced numbers are wasted on such a bell: few weights are near the outer ones, and between the
# inner two lie many that all become the same. Better put the numbers where the weights are. If
# each is to be used about equally often, they must be *quantiles*: as many weights between one
# and the next, everywhere.
#
# One more wish: a weight of exactly 0 should stay 0, so 0 is one of the sixteen. That leaves seven
# on one side and eight on the other.

# %% exercise 13.1

# %% [markdown]
# At probability 1 the quantile is infinite, so the outermost probability must be smaller. The
# authors of QLoRA leave half a step out. How long is a step? Sixteen numbers have fifteen gaps
# between them, so it may be called 1/15 or 1/16; they take the mean of half of the one and half of
# the other. With that these are their published sixteen numbers, called *NF4*, for normal float.

# %%
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def quantiles(bits):
    """The book of 2^bits quantiles, made as NF4 is."""
    n = 2**bits
    outermost = 1 - (1 / (2 * (n - 1)) + 1 / (2 * n)) / 2
    return answer("13.1")(n // 2 - 1, n // 2, outermost)


nf4 = quantiles(4)
from_paper = float(np.abs(nf4 - PUBLISHED).max())
print(f"largest difference from the published numbers: {from_paper:.1g}")


def used(book):
    """The share of the weights that each number of a book stands for."""
    return np.bincount(np.abs(ratios[:, None] - book).argmin(axis=1), minlength=16) / len(ratios)


shares = {"evenly spaced": used(even), "quantiles": used(nf4)}
_, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
for axis, (name, book, colour) in zip(
    axes, (("evenly spaced", even, "tab:red"), ("quantiles", nf4, "tab:blue")), strict=True
):
    axis.bar(book, 100 * shares[name], width=0.05, color=colour)
    axis.axhline(100 / 16, color="black", linestyle=":")
    axis.set(xlabel="the number", title=name, ylim=(0, 16))
axes[0].set(ylabel="% of the weights")
plt.show()

# %% [markdown]
# The dotted line is a sixteenth: where all bars would end if all numbers were used alike. On the
# left the two in the middle stand for a quarter of all weights, and those near the ends for hardly
# any. On the right the bars are closer to the line, though not on it: a trained matrix is not
# exactly normal.
#
# > **Claim.** The quantiles are the sixteen numbers that the paper prints: they differ by less than
# > 1e-6.
#
# Now round whole matrices.

# %% exercise 13.2

# %%
round_in_blocks = answer("13.2")


def error(W, rounded):
    """The size of the difference, in terms of the size of W."""
    return float(np.linalg.norm(np.asarray(rounded) - W) / np.linalg.norm(W))


errors = {
    "evenly spaced": [error(W, round_in_blocks(W, even, 64)) for W in matrices.values()],
    "NF4": [error(W, round_in_blocks(W, nf4, 64)) for W in matrices.values()],
}
for name, found in errors.items():
    print(f"{name}: {100 * np.mean(found):.3g} % off")
    print(f"   ({100 * min(found):.3g} to {100 * max(found):.3g}, {len(found)} matrices)")
gain = 1 - np.array(errors["NF4"]) / np.array(errors["evenly spaced"])

# %% [markdown]
# > **Claim.** With the same 4 bits and the same blocks, NF4's error is more than 5 % below that of
# > evenly spaced numbers.
#
# Better, and not by much. More hangs on the scale: one large weight makes the steps large for all
# that share its scale, 63 others here. How large should a block be?

# %% predict
predict(
    "blocks",
    "Blocks of 16 in place of 64: how many % smaller is the error?",
    None,
)

# %%
SIZES = (16, 32, 64, 128, None)
by_size = {
    size: np.mean([error(W, round_in_blocks(W, nf4, size or W.size)) for W in matrices.values()])
    for size in SIZES
}
reveal("blocks", round(100 * (1 - by_size[16] / by_size[64])))
print(f"{'':16} % off bits a weight")
for size, found in by_size.items():
    name = f"blocks of {size}" if size else "the whole matrix"
    print(f"{name:16}{100 * found:6.3g}{4 + 32 / size if size else 4:7.3g}")

# %% [markdown]
# Small blocks round better, and each costs a scale. With a float32 scale for every 64 weights, 4
# bits are 4.5 in truth; for every 16 they are 6. So the scales are on the bill as well. But they
# too are numbers that can be rounded: all are positive and of similar size, so take off their mean
# and give each of them 8 bits. This is called *double quantization*.

# %% exercise 13.3

# %%
scales_twice = answer("13.3")


def rounded_twice(W, size=64, group=128):
    """NF4 in blocks, the scales themselves in 8 bits; and the bits a weight."""
    scales = np.abs(W.reshape(-1, size)).max(axis=1)
    codes, d, mean = scales_twice(scales, group)
    again = (mean + np.repeat(d, group) * codes)[:, None]
    ratio = W.reshape(-1, size) / scales[:, None]
    rounded = again * nf4[np.abs(ratio[..., None] - nf4).argmin(axis=-1)]
    bits = 4 + 8 * (codes.nbytes + 4 * len(d) + 4) / W.size
    return rounded.reshape(W.shape), bits


twice = {name: rounded_twice(W) for name, W in matrices.items()}
second_error = [error(W, twice[name][0]) for name, W in matrices.items()]
grown = np.array(second_error) / np.array(errors["NF4"]) - 1
bits = np.mean([found[1] for found in twice.values()])
print(f"bits a weight: {bits:.3g} in place of {4 + 32 / 64:g}")
print(f"the error grows by {100 * grown.mean():.2g} %")

# %% [markdown]
# > **Claim.** Scales in 8 bits save more than 0.3 bits a weight, and the error grows by less than
# > 1 % of itself.
#
# The library does the same, with another set of 256 numbers for the scales (`minilora adapt
# --base-dtype nf4`). It also has `q4`, in which a block of 32 weights has two float16 numbers: a
# scale and its smallest weight. That is 5 bits. The embedding and the output head are kept in 8.5
# bits in both, because a language model feels it most when these are rounded; and norms are a few
# float32 numbers. All of it together:

# %%
ward = opened().config
bytes_each = {
    (name, kind): base_bytes(config, kind) / config.parameter_count
    for name, config in (("the ward's base", ward), ("SmolLM2", small))
    for kind in BASE_DTYPES
}
print("bytes a number:")
for (name, kind), found in bytes_each.items():
    print(f"{name:15} {kind:8}{found:6.3g}")
kept_in = {
    kind: {name: p.data for name, p in opened(kind).named_parameters() if name in places}
    for kind in ("q4", "nf4")
}
by_format = {
    kind: [error(W, found[name]) for name, W in matrices.items()] for kind, found in kept_in.items()
}
print({kind: f"{100 * np.mean(found):.3g} % off" for kind, found in by_format.items()})

# %% [markdown]
# > **Claim.** In q4 and in NF4 a base takes less than 0.8 bytes a number, embedding, head and norms
# > included.
#
# > **Claim.** NF4 is the best code of 4 bits, so no other of them has a smaller error: q4's is
# > larger.
#
# q4's is smaller, on every one of these matrices. It is no contradiction: its "4 bits" are 5. Half
# of the blocks' size and twice the scales' bits buy more than better numbers do. Who compares
# codes must compare them at the same number of bits, all of them counted.
#
# ## Does the base notice?
#
# An error of 9 % in every weight sounds like a lot. But a model is not a file that has to come back
# whole. It has to give the same answers. Round all linear maps of the ward's base to ever fewer
# bits, and ask it its own tasks: 100 prompts, those with a note about held-out patients.

# %%
from minilora.text.answers import answers
from minilora.training import evaluate
from minilora.ward import house_examples, regression_suite

own = [(e.prompt, e.completion) for e in regression_suite("heldout", 20, 21)]
wilson = answer("3.2")


def encoded(pairs):
    """Examples with labels on the answers, from (prompt, answer)."""
    from minilora.text import Record, encode_records, prompt_messages

    records = [Record(str(i), messages=prompt_messages(*pair)) for i, pair in enumerate(pairs)]
    return encode_records(tokenizer, records, 512)[0]


def scored(model, pairs):
    """(share of right answers, loss a word of the answers)."""
    said = answers(model, tokenizer, [prompt for prompt, _ in pairs])
    right = [text.strip() == wanted for text, (_, wanted) in zip(said, pairs, strict=True)]
    return float(np.mean(right)), evaluate(model, encoded(pairs), pad_id=tokenizer.pad_id)


def rounded_base(book):
    """The ward's base with every linear map rounded to a book, in blocks of 64."""
    model = opened()
    for name, parameter in model.named_parameters():
        if name in places:
            parameter.data = round_in_blocks(parameter.data, book, 64).astype(np.float32)
    return model


def base_of(kind):
    """A base by name: one of BASE_DTYPES, or (kind of book, bits)."""
    if isinstance(kind, str):
        return opened(kind)
    return rounded_base(
        quantiles(kind[1]) if kind[0] == "quantiles" else np.linspace(-1, 1, 2 ** kind[1])
    )


BITS = (2, 3, 4)
BOOKS = [(name, bits) for name in ("evenly spaced", "quantiles") for bits in BITS]


def own_score(kind):
    """`scored` of a base on its own tasks."""
    return scored(base_of(kind), own)


CODES = ("float32", "q4", "nf4")
asked = [*CODES, *BOOKS]
own_scores = dict(zip(asked, side_by_side(own_score, asked), strict=True))

# %% predict
predict(
    "fewest",
    "4, 3, 2 evenly spaced bits: at which is more than a tenth of the right answers lost?",
    None,
)

# %%
whole = own_scores["float32"][0]
lost_at = [b for b in BITS if own_scores["evenly spaced", b][0] < whole - 0.1]
reveal("fewest", max(lost_at, default=0))


def draw_bits(axes):
    """Right answers and loss by bits."""
    for name, colour in (("evenly spaced", "tab:red"), ("quantiles", "tab:blue")):
        right, loss = np.array([own_scores[name, bits] for bits in BITS]).T
        low, high = np.array([wilson(r * len(own), len(own), 1.96) for r in right]).T
        axes[0].errorbar(BITS, 100 * right, 100 * np.array([right - low, high - right]),
                         fmt="o-", color=colour, label=name, capsize=3)  # fmt: skip
        axes[1].plot(BITS, loss, "o-", color=colour, label=name)
    axes[0].axhline(100 * whole, color="black", linestyle=":", label="float32")
    axes[1].axhline(own_scores["float32"][1], color="black", linestyle=":")
    axes[0].set(xlabel="bits a code", ylabel="right, % (95 %)", ylim=(-4, 104), xticks=BITS)
    axes[1].set(xlabel="bits a code", ylabel="loss of the answers", yscale="log", xticks=BITS)
    axes[0].legend(loc="lower right")


draw_bits(plt.subplots(1, 2, figsize=(8, 3))[1])
plt.show()
for kind in CODES:
    right, loss = own_scores[kind]
    low, high = wilson(right * len(own), len(own), 1.96)
    print(f"{kind}: loss {loss:.3g},")
    print(f"   {100 * right:.3g} % right ({100 * low:.3g} to {100 * high:.3g})")

# %%
shown = house_examples("cardiology", "heldout", 1, 5)[0].prompt.split("\n\n")[0]
question = f"{shown}\n\nWrite a letter to the patient."


def letter(kind):
    """What a base writes."""
    return answers(base_of(kind), tokenizer, [question])[0]


sliding = [("evenly spaced", bits) for bits in BITS]
letters = dict(zip(BITS, side_by_side(letter, sliding), strict=True))


# %% slider
def turn(bits=4):
    book = np.linspace(-1, 1, 2**bits)
    W = next(iter(matrices.values()))
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
    left.plot(W.ravel(), round_in_blocks(W, book, 64).ravel(), ".", markersize=1)
    left.set(xlabel="weight", ylabel="rounded", title=f"{bits} bits")
    right.bar(
        ["float32", f"{bits} bits"], [100 * whole, 100 * own_scores["evenly spaced", bits][0]]
    )
    right.set(ylim=(0, 104), ylabel="right, %")
    plt.show()
    print(letters[bits])


slider(turn, bits=list(BITS))

# %% [markdown]
# > **Claim.** In q4 and in NF4 the base answers at most 5 points in 100 fewer of its own tasks
# > right than in float32.
#
# > **Claim.** Even three evenly spaced bits cost less than 5 points in 100.
#
# > **Claim.** Two cost more than 20.
#
# > **Claim.** Quantiles beat evenly spaced numbers at 2 bits as well as at 4.
#
# At 2 bits they lose, by far. Made as NF4 is, four numbers are -1, 0, 0.44 and 1: the zero and the
# two ends are given, and one number is left for all the rest. What is right for sixteen need not be
# right for four.
#
# Where the answers still hold, their loss has begun to rise (on the right): rounding is felt in the
# probabilities first, and in the words only when a likelier word is overtaken. And a base of a
# million numbers that knows one narrow world is not one of seven billion: what 3 bits cost there is
# not measured here.
#
# ## A gradient through codes
#
# Now the adapter. Rounding is a staircase: flat nearly everywhere, so its slope is 0, and where it
# is not flat it jumps. A code can't be trained by small steps. But who wants to train it? $W$ is
# frozen. All that LoRA asks of $W$ is to pass a gradient on, from the layer's output to its input,
# to the adapters further down. For that no slope of the rounding is needed.

# %% exercise 13.4

# %%
through_codes = answer("13.4")
name, W = next((n, W) for n, W in matrices.items() if "down_proj" in n)
scales = np.abs(W.reshape(len(W), -1, 64)).max(axis=2)
codes = np.abs((W.reshape(-1, 64) / scales.reshape(-1, 1))[..., None] - nf4).argmin(axis=-1)
codes = codes.astype(np.uint8).reshape(W.shape)
g = np.random.default_rng(0).standard_normal((5, len(W)))
through = through_codes(g, codes, scales, nf4)
dense = g @ round_in_blocks(W, nf4, 64)
print(f"{name}: off by {np.abs(through - dense).max() / np.abs(dense).max():.1g}")

# %% [markdown]
# And this is all that changes. $gA$ and $gB$ are computed from $x$ and $g$ as in chapter 4, in
# float32. In the library a layer's weight is then not an array but a `StoredArray`, which makes its
# numbers in each product; nothing else knows of it.
#
# ## Train over it
#
# The house's summaries again, 100 steps of 8 notes, rank 8 on `q_proj` and `v_proj`: over the base
# in float32, in q4 and in NF4, three seeds each. The learning rate was chosen for each of the three
# on 60 other notes, with another seed: of 0.01, 0.015, 0.02 and 0.03 the one with the lowest loss.

# %%
from minilora.lora import Adapter, LoRAConfig, attach
from minilora.training import Batches, TrainingConfig, fit

RATES = {"float32": 0.015, "q4": 0.02, "nf4": 0.02}
SEEDS = (0, 1, 2)
notes = house_examples("cardiology", "train", 800, seed=11, keep_complete=0.3)
lessons = encoded([(e.prompt, e.completion) for e in notes])
house = [(e.prompt, e.completion) for e in house_examples("cardiology", "heldout", 60, 21)]


def trained(job):
    """The adapter of (kind of base, seed), and its scores on the house's summaries."""
    kind, seed = job
    model = base_of(kind)
    handle = attach(model, LoRAConfig(r=8), np.random.default_rng(seed))
    settings = TrainingConfig(steps=100, lr=RATES[kind], warmup=10, seed=seed, workers=1)
    fit(model, Batches(lessons, 8, seed, tokenizer.pad_id), settings, progress=False)
    return handle.adapter(base_name="ward-base"), scored(model, house)


jobs = [(kind, seed) for kind in RATES for seed in SEEDS]
runs = dict(zip(jobs, side_by_side(trained, jobs), strict=True))
right, loss = (
    {kind: np.array([runs[kind, seed][1][i] for seed in SEEDS]) for kind in RATES} for i in (0, 1)
)

# %% [markdown]
# And a question on the side: must the adapter have been trained over the very base that it will be
# used with? The library thinks so, and refuses.

# %%
from minilora.lora import AdapterError

ours = runs["float32", 0][0]
try:
    attach(opened("nf4"), ours)
except AdapterError as refusal:
    print(str(refusal).split(", got")[0] + ",\nand this is another.")


def moved(job):
    """The float32 base's adapter of a seed, put on another base all the same."""
    kind, seed = job
    adapter, model = runs["float32", seed][0], opened(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that nobody checks the base, which is meant
        attach(model, Adapter(adapter.config, {m: adapter.factors(m) for m in adapter.modules}))
    return scored(model, house)


moves = [(kind, seed) for kind in ("q4", "nf4") for seed in SEEDS]
on_other = dict(zip(moves, side_by_side(moved, moves), strict=True))

# %% predict
predict("over", "Trained over NF4: how many % of the house's summaries are right?", None)

# %%
reveal("over", round(100 * float(right["nf4"].mean()), 1))
arms = {
    "float32": [runs["float32", s][1] for s in SEEDS],
    "over q4": [runs["q4", s][1] for s in SEEDS],
    "over NF4": [runs["nf4", s][1] for s in SEEDS],
    "moved to q4": [on_other["q4", s] for s in SEEDS],
    "moved to NF4": [on_other["nf4", s] for s in SEEDS],
}
_, axis = plt.subplots(figsize=(7, 2.8))
for place, (name, found) in enumerate(arms.items()):
    exact = np.array(found)[:, 0]
    low, high = wilson(exact.mean() * len(house), len(house), 1.96)
    colour = "tab:gray" if name.startswith("moved") else "tab:orange"
    axis.plot([100 * low, 100 * high], [place] * 2, color=colour, linewidth=3, alpha=0.4)
    axis.plot(100 * exact, [place] * 3, "o", color=colour, markersize=4)
    print(f"{name}: loss {np.mean(found, axis=0)[1]:.2g},")
    print(f"   {100 * exact.mean():.3g} % right ({100 * low:.3g} to {100 * high:.3g})")
axis.set(yticks=range(len(arms)), xlabel="summaries exactly right, %; a dot a seed")
axis.set_yticklabels(arms)
axis.invert_yaxis()
plt.show()

# %% [markdown]
# (The pale stroke is the 95 % interval that belongs to the mean of the dots, for the 60 notes of
# one seed.)
#
# > **Claim.** Over q4 and over NF4 the adapter gets at most 5 points in 100 fewer of the summaries
# > right than over float32.
#
# > **Claim.** Moved to q4 or NF4, the float32 base's adapter loses more than 5 points in 100.
#
# So $A$ and $B$ learn over codes as over numbers: the rounding is there from the first step on, and
# a gradient that came through the rounded $W$ is right for the rounded $W$. The second claim was
# our guess, and it is wrong: 4 bits shift this base's answers by less than the adapter moves them.
# Of another base, or of 2 bits, that says nothing. So the library refuses all the same, and an
# adapter's folder says which codes it was trained over.
#
# ## Is it faster?
#
# A base of a sixth of the bytes: surely it is read faster, too? Clock a forward and a backward
# pass over each in turn, in processor time, with the same adapter and the same notes.

# %%
batch = Batches(lessons, 8, 0, tokenizer.pad_id).batch(0)
clocked = {kind: opened(kind) for kind in CODES}
for one in clocked.values():
    attach(one, LoRAConfig(r=8), np.random.default_rng(0))


def clock(model):
    """Processor time of one loss and backward."""
    model.zero_grad()
    began = time.process_time()
    model.loss(batch.ids, batch.labels).backward()
    return time.process_time() - began


rounds = np.array([[clock(one) for one in clocked.values()] for _ in range(9)])[2:]

# %% predict
predict("faster", "A step over q4, in terms of one over float32: how many times as long?", None)

# %%
slower = dict(zip(("q4", "nf4"), np.median(rounds[:, 1:] / rounds[:, :1], axis=0), strict=True))
reveal("faster", round(float(slower["q4"]), 2))
for kind, ratio in slower.items():
    print(f"{kind}: {ratio:.3g} times as long")

# %% [markdown]
# > **Claim.** QLoRA is faster: a step over q4 or NF4 takes less processor time than one over
# > float32.
#
# It is slower. The product is the same product as before, with the same float32 numbers in it; and
# these numbers have to be made first, in every product, forwards and backwards. What is saved is
# memory and nothing else. The rest of a step takes as long as ever, which is why it is not worse.
# (On a card whose arithmetic waits for memory, a special program that reads codes may win where
# few tokens are computed at a time, as in writing an answer word by word. Training computes
# thousands at a time.)
#
# ## The real model
#
# All this was the ward's own small base. SmolLM2-135M has read a part of the internet, and
# `minilora fetch smollm2-135m` gets it. Its file holds q4 blocks already, so that "float32" is here
# a base that was rounded before, and q4 the very same one; NF4 rounds it a second time, to other
# numbers. In the project's `data/bill` is a log of 40 training steps over each, one note a step.
# Where the model is on your computer, the next cell takes the first ten of them again, for at most
# half a minute, and lays them over the log.

# %%
from minilora.bench.base_quality import big_steps
from minilora.hub.smollm import SMOLLM2, cached

kept_log = json.loads((data_folder("bill") / "quality.json").read_text())
smollm2 = {arm["dtype"]: arm["smollm2"] for arm in kept_log["arms"]}


def live_steps(most=10, seconds=30):
    """The losses of the first steps over q4, as many as time allows; none without the model."""
    if cached(SMOLLM2) is None:
        print("SmolLM2 is not here: `minilora fetch smollm2-135m` gets it. The log is kept.")
        return []
    began, losses = time.perf_counter(), []
    for loss in itertools.islice(big_steps(*load_pretrained(cached(SMOLLM2), "q4")), most):
        losses.append(loss)
        if time.perf_counter() - began > seconds:
            break
    return losses


live = live_steps()
print(f"{len(live)} live steps")
if live:
    off = np.abs(np.array(live) - smollm2["q4"]["steps"][: len(live)]).max()
    print("on the log" if off < 0.05 else f"up to {off:.2g} away from the log")

# %%
_, axis = plt.subplots(figsize=(7, 3))
for kind, colour, width in (("float32", "0.8", 5), ("q4", "tab:red", 1), ("nf4", "tab:blue", 1)):
    axis.plot(smollm2[kind]["steps"], color=colour, linewidth=width, label=f"log, {kind}")
axis.plot(live, "o", color="tab:red", label="live, q4")
axis.set(xlabel="step", ylabel="loss of the note's summary", yscale="log")
axis.legend()
plt.show()
print(f"{'loss':8} plain notes summary, then")
for kind in BASE_DTYPES:
    found = smollm2[kind]
    parts = ("plain", "notes", "summaries_before", "summaries_after")
    print(f"{kind:8}" + "".join(f"{found[part]:6.3g}" for part in parts))

# %% [markdown]
# (The loss of a plain text, of the ward's notes, and of their summaries before and after training.)
# float32 and q4 agree to the digits shown, as they must: they are the same numbers. In NF4 the base
# is worse from the start, and most of that distance is gone after 40 steps. The log is one run a
# base, of one setting that nobody tuned: enough to see that training goes the same way, and not
# enough to say which base is best.
#
# > **Claim.** In NF4 SmolLM2's loss on a plain text is less than 10 % above that in float32.
#
# > **Claim.** After 40 steps over NF4 the loss of held-out summaries is less than a third of what
# > it was before.
#
# ## The blue bar
#
# The grey bar is now a sixth of what it was. And the bill?

# %% predict
predict(
    "bill",
    "SmolLM2, q and v, one text of 512 tokens: NF4's whole bill, in % of float32's?",
    None,
)

# %%
bills = {
    "full": bill_of(small, page, "full", 8),
    "LoRA on q, v": lora,
    **{f"over {kind}": bill_of(small, page, f"q,v on {kind}", 8) for kind in BASE_DTYPES[1:]},
}
of_lora = bills["over nf4"].total / lora.total
reveal("bill", round(100 * of_lora))
bars(bills)

# %% [markdown]
# > **Claim.** In NF4 the base takes less than a fifth of the bytes, so the whole bill of LoRA on
# > SmolLM2 is less than a fifth as well.
#
# It isn't, for the blue bar has hardly moved. What the way back needs of every token is as many
# numbers as before. In a small model, and with long texts in any model, that is the largest part.
# What does it mean for Leo's card?

# %% exercise 13.5

# %%
tokens_that_fit = answer("13.5")
seven = SHAPES["llama-2-7b"]
CARD = 24 * 2**30
fits = {}
print("7 billion  GiB   tokens fit")
for kind in BASE_DTYPES:
    told = bill_of(seven, page, "LoRA q,v" if kind == "float32" else f"q,v on {kind}", 8)
    fits[kind] = tokens_that_fit(
        CARD,
        seven.parameter_count,
        8 * told.weights / seven.parameter_count,
        told.adapter // 4,
        told.activations // 4 // page.positions,
    )
    print(f"{kind:8}{told.weights / 2**30:6.3g}{fits[kind]:13,}")

# %% [markdown]
# (In rows of 512 tokens, as this library computes them. In longer rows each token keeps more, for
# the shares of attention grow with the square of the length.)
#
# > **Claim.** On a card of 24 GiB a base of 7 billion numbers leaves room for no token in float32,
# > and for more than 1,000 in float16.
#
# > **Claim.** NF4 leaves room for 3 times as many tokens as float16.
#
# That was our guess, from "a quarter of the bytes". The base is a quarter; what is left for tokens
# is not four times as much, because float16 had left half of the card free already.
#
# ## Keep, or make again?
#
# Can the blue bar be made shorter? An activation is kept because the way back needs it. But it was
# computed once, from the input of its block, and could be computed again. So keep the input of a
# block and nothing else; on the way back compute the block once more, go back through it, and let
# its arrays go before the next. That is *gradient checkpointing*: time for memory.

# %% exercise 13.6

# %% [markdown]
# How far apart should the inputs that are kept be? If every $e$-th block's input is kept (`every`
# in the code), there are $30 / e$ inputs in memory, and on the way back the arrays of one
# stretch of $e$ blocks as well. With $i$ bytes for an input and $b$ for all that one block leaves
# behind, that is
#
# $$\frac{30}{e}\, i + e\, b ,$$
#
# and what is kept outside the blocks comes on top.

# %%
few = replace(small, num_hidden_layers=10)
of_few = bill_of(few, page, "q,v on nf4", 8).activations
of_block = (bills["over nf4"].activations - of_few) / 20
rest = bills["over nf4"].activations - 30 * of_block
of_input = 4 * page.positions * small.hidden_size
EVERY = (1, 2, 3, 5, 6, 10, 15, 30)
left = [rest + 30 / every * of_input + every * of_block for every in EVERY]
print("MiB that are kept:")
print(f"   of a block {of_block / MIB:.3g}")
print(f"   of that, its input {of_input / MIB:.3g}")
print(f"   outside the blocks {rest / MIB:.3g}")

# %% predict
predict("every", "Which `every` leaves the least: 1, 2, 3, 5, 6, 10, 15 or 30?", None)

# %%
reveal("every", EVERY[int(np.argmin(left))])
_, axis = plt.subplots(figsize=(6.4, 2.8))
axis.plot(EVERY, np.array(left) / MIB, "o-", color="tab:blue")
axis.axhline(bills["over nf4"].activations / MIB, color="black", linestyle=":", label="all kept")
axis.set(xlabel="every so many blocks an input is kept", ylabel="activations, MiB", ylim=(0, None))
axis.legend()
plt.show()
checkpointed = replace(bills["over nf4"], activations=round(min(left)))
bars({**bills, "NF4, made again": checkpointed})
print(f"{100 * checkpointed.total / bills['full'].total:.2g} % of full training's bytes")

# %% [markdown]
# > **Claim.** With the input of every block kept and the rest made again, less than 40 % of the
# > activations are left.
#
# > **Claim.** The best distance is the square root of the number of blocks, about 5.
#
# The sum is least where both parts are equal, at $e = \sqrt{30\, i / b}$. That is the root of the
# number of blocks, as in the paper, if a block keeps as much as its input. Here it keeps some 16
# times its input, so that $e$ comes out between 1 and 2, and a stretch should be one block. The
# price is one more forward pass. A step of LoRA is about one unit forward and one back through the
# frozen maps, so it becomes 3 units in place of 2. (This is computed from sizes. minilora itself
# keeps everything, and asks for shorter rows or smaller batches instead.) The largest part that is
# left now is neither base nor blocks: it is the scores of 49,152 words for each token.
#
# So, Leo: the adapter was never in the way. First the optimizer went, by LoRA; then the base, by
# codes; then the blocks, by patience. What is left is the text that you want to teach it.
#
# ## The claims, measured

# %% claims
claim(
    "Of what LoRA holds of SmolLM2, activations aside, the frozen float32 base is more than 90 %.",
    frozen_share,
    above=0.9,
    answers="E29",
)
claim(
    "Predicted and counted bytes differ by less than 5 %, for full training and for LoRA over "
    "three kinds of base.",
    miscounted,
    below=0.05,
    each="methods",
    answers="E29",
)
assert max(miscounted) < 0.05
claim(
    "The quantiles are the sixteen numbers that the paper prints: they differ by less than 1e-6.",
    from_paper,
    below=1e-6,
)
claim(
    "With the same 4 bits and the same blocks, NF4's error is more than 5 % below that of evenly "
    "spaced numbers.",
    gain,
    above=0.05,
    each="matrices",
)
claim(
    "Scales in 8 bits save more than 0.3 bits a weight, and the error grows by less than 1 % of "
    "itself.",
    grown,
    below=0.01,
    each="matrices",
)
assert 4.5 - bits > 0.3
claim(
    "In q4 and in NF4 a base takes less than 0.8 bytes a number, embedding, head and norms "
    "included.",
    [found for (_, kind), found in bytes_each.items() if kind in ("q4", "nf4")],
    below=0.8,
    each="bases",
)
refuted(
    "NF4 is the best code of 4 bits, so no other of them has a smaller error: q4's is larger.",
    np.array(by_format["q4"]) / np.array(by_format["nf4"]),
    below=0.95,
    each="matrices",
    because="q4's blocks are half as large, and with their two scales it takes 5 bits.",
)
claim(
    "In q4 and in NF4 the base answers at most 5 points in 100 fewer of its own tasks right than "
    "in float32.",
    [whole - own_scores[kind][0] for kind in ("q4", "nf4")],
    below=0.05,
    each="codes",
)
claim(
    "Even three evenly spaced bits cost less than 5 points in 100.",
    whole - own_scores["evenly spaced", 3][0],
    below=0.05,
)
claim("Two cost more than 20.", whole - own_scores["evenly spaced", 2][0], above=0.2)
claim(
    "Over q4 and over NF4 the adapter gets at most 5 points in 100 fewer of the summaries right "
    "than over float32.",
    [right["float32"].mean() - right[kind].mean() for kind in ("q4", "nf4")],
    below=0.05,
    each="codes",
)
refuted(
    "Quantiles beat evenly spaced numbers at 2 bits as well as at 4.",
    own_scores["quantiles", 2][0] - own_scores["evenly spaced", 2][0],
    below=-0.1,
    because="Of four numbers a zero and two ends are given, so that one is left.",
)
refuted(
    "Moved to q4 or NF4, the float32 base's adapter loses more than 5 points in 100.",
    [
        right["float32"].mean() - np.mean([on_other[kind, s][0] for s in SEEDS])
        for kind in ("q4", "nf4")
    ],
    below=0.04,
    each="codes",
    because="Four bits move this base's answers by less than the adapter does.",
)
refuted(
    "QLoRA is faster: a step over q4 or NF4 takes less processor time than one over float32.",
    list(slower.values()),
    above=1.02,
    each="codes",
    because="The product is the same, and its numbers are made anew each time.",
    of_time=True,
)
claim(
    "In NF4 SmolLM2's loss on a plain text is less than 10 % above that in float32.",
    smollm2["nf4"]["plain"] / smollm2["float32"]["plain"] - 1,
    below=0.1,
)
claim(
    "After 40 steps over NF4 the loss of held-out summaries is less than a third of what it was "
    "before.",
    smollm2["nf4"]["summaries_after"] / smollm2["nf4"]["summaries_before"],
    below=1 / 3,
)
refuted(
    "In NF4 the base takes less than a fifth of the bytes, so the whole bill of LoRA on SmolLM2 is "
    "less than a fifth as well.",
    of_lora,
    above=0.4,
    because="The activations are as large as before, and they are most of what is left.",
    answers="E29",
)
claim(
    "On a card of 24 GiB a base of 7 billion numbers leaves room for no token in float32, and for "
    "more than 1,000 in float16.",
    fits["float16"],
    above=1000,
)
assert fits["float32"] == 0
refuted(
    "NF4 leaves room for 3 times as many tokens as float16.",
    fits["nf4"] / fits["float16"],
    below=2.5,
    because="The base is a quarter; the room beside it was half of the card already.",
)
claim(
    "With the input of every block kept and the rest made again, less than 40 % of the activations "
    "are left.",
    left[0] / bills["over nf4"].activations,
    below=0.4,
)
refuted(
    "The best distance is the square root of the number of blocks, about 5.",
    EVERY[int(np.argmin(left))],
    below=2.5,
    because="A block keeps many times its input here, so that a stretch should be short.",
)

# %% [markdown]
# ## What to read
#
# - T. Dettmers and others, "QLoRA: Efficient Finetuning of Quantized LLMs", 2023: NF4, double
#   quantization, and a model of 65 billion numbers adapted on one card of 48 GB.
# - T. Dettmers and L. Zettlemoyer, "The case for 4-bit precision: k-bit Inference Scaling Laws",
#   2022: at a fixed number of bits in all, 4 a weight are best nearly everywhere.
# - T. Dettmers and others, "8-bit Optimizers via Block-wise Quantization", 2021: blocks, and the
#   same idea for AdamW's averages.
# - T. Chen and others, "Training Deep Nets with Sublinear Memory Cost", 2016: keep some, make the
#   rest again.
# - Y. Li and others, "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", 2023:
#   an adapter that starts by making up for the rounding.
# - In this project: `minilora/autograd/normal_float.py`, `minilora/analysis/bill.py`, and
#   `data/bill`, where adapters were trained longer over every kind of base.
