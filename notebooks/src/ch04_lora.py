# The source of notebooks/04_lora.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 4. LoRA
#
# **Time.** about 2.5 hours, exercises included.
#
# **What you will be able to do.** Write LoRA by hand: freeze a weight, learn a thin change beside
# it, derive and check its gradients, start it right, count what it costs in numbers, bytes and
# time, and adapt the ward's model to its own form.
#
# **The story.** The base can tell a missing dose and fills it in all the same. Leo wants to change
# one habit and not a million weights. Maya wants to see that nothing else was touched, to the bit.

# %%
from minilora.course import pictures

pictures.lora_layer()

# %% [markdown]
# This is all of LoRA. On the left is the layer as it was: a large matrix $W$, which stays frozen.
# On the right are two thin matrices. $A$ squeezes the input to $r$ numbers, $B$ spreads them out
# again, and what comes out is added, times $\alpha / r$. Only the two orange ones are trained.

# %%
import matplotlib.pyplot as plt
import numpy as np

from minilora.autograd import Tensor
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
# ## Freeze W, learn B and A
#
# A layer computes $y = x W^\top$, with $W$ of shape (out, in). Training would change $W$ by some
# $\Delta W$ of the same shape. In chapter 0 a change of a photograph was thin: nearly all of it
# was a product of two strips. Suppose that a change of a weight is thin too. Then do not learn
# $\Delta W$. Learn the strips:
#
# $$\begin{gathered}
# y = x W^\top + \frac{\alpha}{r}\, (x A^\top)\, B^\top, \\[4pt]
# \Delta W = \frac{\alpha}{r} B A,
# \end{gathered}$$
#
# with $A$ of shape $(r, \text{in})$, $B$ of shape $(\text{out}, r)$, and $W$ frozen. That is LoRA.
# The rank $r$ is small, and $\alpha$ is the volume dial of chapter 0.

# So a layer of 4096 by 4096 with rank 8 trains two strips of 4096 times 8 numbers. The saving
# shrinks as the rank grows, and at some rank it is gone.


# %%
def count_trained(shapes, r):
    """Entries of A (r, in) and B (out, r) of all layers with these shapes (out, in)."""
    return sum(r * (out + in_) for out, in_ in shapes)


sheet = count_trained([(4096, 4096)], 8)
print(f"a 4096 by 4096 layer has {4096 * 4096:,} numbers, its two strips {sheet:,}")

# %% exercise 4.1

# %% [markdown]
# > **Claim.** Rank 8 trains 65,536 numbers for a layer of 16,777,216.
#
# > **Claim.** For that layer the strips are smaller than W up to rank 2047.
#
# ## The layer by hand

# %% exercise 4.2

# %% [markdown]
# Now backwards. Chapter 1 said what to do: one vjp for each input whose gradient somebody needs.
# $W$ is frozen, so nobody needs $W$'s. There are three left, and the third is easily forgotten.

# %% exercise 4.3


# %%
def lora_linear(x, W, A, B, alpha):
    """The layer as an operation on Tensors; W is an array, because it is frozen."""
    forward, vjps = answer("4.2"), answer("4.3")

    def gradient(place):
        return lambda g: vjps(g, x.data, W, A.data, B.data, alpha)[place]

    y = forward(x.data, W, A.data, B.data, alpha)
    return Tensor.from_op(y, (x, gradient(0)), (A, gradient(1)), (B, gradient(2)))


rng = np.random.default_rng(0)
inputs = {"x": rng.standard_normal((7, 5)), "A": rng.standard_normal((2, 5))}
inputs["B"] = rng.standard_normal((4, 2))
W = rng.standard_normal((4, 5))
from minilora.gradients.gradcheck import check_gradients

report = check_gradients(lambda x, A, B: lora_linear(x, W, A, B, 3.0), inputs, rng=rng)
print("agrees with finite differences:", report.ok)

# %% [markdown]
# Does such a check mean anything? Plant mistakes, and check in four ways. Three are what one writes
# first: with a fresh adapter, whose $B$ is zero; with the sum of the outputs as the loss, whose
# cotangent is all ones; and with $\alpha = r$, which makes the scaling one.


# %%
def planted(g, x, W, A, B, s):
    """Wrong gradients by name: which one, and what somebody wrote for it."""
    u, h = s * g @ B, x @ A.T
    return {
        "gA: wrong sign": ("A", -u.T @ x),
        "gA: zeros": ("A", 0 * A),
        "gx: past the sheet": ("x", g @ W),
        "gA: alpha / r forgotten": ("A", u.T @ x / s),
        "gB: alpha / r forgotten": ("B", g.T @ h),
        "gA: outputs exchanged": ("A", s * (g[:, ::-1] @ B).T @ x),
        "gB: rows mixed up": ("B", s * g[::-1].T @ h),
    }


def passes(seed, *, fresh=False, ones=False, alpha=3.0):
    """Which planted mistakes a check lets pass, by name."""
    rng = np.random.default_rng(seed)
    x, W, A, B, g = (rng.standard_normal(s) for s in ((7, 5), (4, 5), (2, 5), (4, 2), (7, 4)))
    B, g = (0 * B if fresh else B), (np.ones_like(g) if ones else g)
    point = {"x": x, "A": A, "B": B}
    forward, difference = answer("4.2"), answer("1.4")
    let = {}
    for name, (which, wrong) in planted(g, x, W, A, B, alpha / 2).items():

        def loss(v, which=which):
            p = {**point, which: v}
            return (g * forward(p["x"], W, p["A"], p["B"], alpha)).sum()

        found = difference(loss, point[which], 1e-6)
        size = max(np.abs(found).max(), np.abs(wrong).max(), 1e-3)
        let[name] = bool(np.abs(found - wrong).max() / size < 1e-6)
    return let


WAYS = {
    "B = 0": {"fresh": True},
    "sum of outputs": {"ones": True},
    "alpha = r": {"alpha": 2.0},
    "random B, g; alpha ≠ r": {},
}
let = {way: [passes(seed, **how) for seed in range(3)] for way, how in WAYS.items()}

# %% predict
predict(
    "careless", "Of 7 planted mistakes, how many get past one of the three careless checks?", None
)

# %%
first = let["B = 0"][0]
reveal("careless", sum(any(let[way][0][name] for way in list(WAYS)[:3]) for name in first))
grid = np.array([[let[way][0][name] for way in WAYS] for name in let["B = 0"][0]])
_, axis = plt.subplots(figsize=(7.6, 3.4))
axis.imshow(grid, cmap="RdYlGn_r", vmin=-0.6, vmax=1.6, aspect="auto")
for (row, column), passed in np.ndenumerate(grid):
    axis.text(column, row, "passes" if passed else "caught", ha="center", va="center")
axis.set(xticks=range(len(WAYS)), yticks=range(len(grid)), xlabel="how it is checked")
axis.set_xticklabels(WAYS)
axis.set_yticklabels(let["B = 0"][0])
axis.grid(False)
axis.set_title("planted mistakes")
plt.show()

# %% [markdown]
# > **Claim.** Each of the three careless checks lets at least 1 of the 7 planted mistakes pass, and
# > together they let 7 pass.
#
# > **Claim.** With random A, B and cotangent and α ≠ r, 0 pass.
#
# ## Where to start
#
# At the start the model should be the base, so $BA$ must be zero. Look at the gradients, with
# $s = \alpha / r$:
#
# $$\begin{gathered}
# g_A = s\,(g B)^\top x, \\[4pt]
# g_B = s\, g^\top (x A^\top).
# \end{gathered}$$
#
# If $B = 0$, then $g_A = 0$, and $g_B$ is not: $B$ moves first, and in the next step $A$ can
# follow. If both are zero, both gradients are zero, for ever. One strip must be random, and one
# zero.

# %% exercise 4.4

# %% [markdown]
# (The paper draws $A$ from a Gaussian. Its own program, and PEFT, draw it uniformly, and so do we;
# the two start alike if their spread is alike.)
#
# Now the real model. `attach` puts a `LoRALinear` around the query and value projection of every
# layer and freezes all the rest; its file, `minilora/lora/layer.py`, is what you have just written,
# with dropout, merging and error messages.

# %%
import json

from minilora.autograd import no_grad
from minilora.hub import load_pretrained
from minilora.lora import LoRAConfig, attach, base_fingerprint, trainable_parameters
from minilora.text import Record, encode_records, prompt_messages
from minilora.training import Batches

base, tokenizer = load_pretrained(data_folder("ward-base"))
untouched = base_fingerprint(base)
numbers = sum(parameter.size for parameter in base.parameters())


def read(name):
    """The examples of one of the ward's files."""
    text = (data_folder("ward") / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def encode(rows):
    """Prompts and answers as token ids; the loss is taken on the answers."""
    records = [
        Record(str(i), messages=prompt_messages(row["prompt"], row["completion"]))
        for i, row in enumerate(rows)
    ]
    return encode_records(tokenizer, records, base.config.max_position_embeddings)[0]


# Three sets that never meet: to train on, to choose learning rates on, and to report.
train, choosing = read("cardiology.train")[:1200], read("cardiology.train")[1200:1264]
held_out = read("cardiology.eval")
train_examples, choosing_examples = encode(train), encode(choosing)
held_examples = encode(held_out[:64])
batches = {seed: Batches(train_examples, 8, seed, tokenizer.pad_id) for seed in range(3)}
ids = np.array([tokenizer.encode_prompt(held_out[0]["prompt"])])

with no_grad():
    logits = base(ids).data
handle = attach(base, LoRAConfig(r=8, lora_alpha=16), np.random.default_rng(0))
with no_grad():
    step_zero = float(np.abs(base(ids).data - logits).max())
shapes = [layer.base_weight.shape for layer in handle.layers.values()]
trained = trainable_parameters(base)
assert trained == count_trained(shapes, 8)
print(f"{len(shapes)} layers adapted, {trained:,} of {numbers:,} numbers trained: ", end="")
print(f"{100 * trained / numbers:.3g} %")
print(f"largest change of any logit: {step_zero:.3g}")
base = handle.detach()

# %% [markdown]
# > **Claim.** On ward-base, rank 8 on the query and value projections trains 1.35 % of the numbers.
#
# > **Claim.** Attaching changes no logit by more than 0.
#
# And the other starts? Train a little from each of three, and watch the loss on held-out notes.
# Before that, look at the base's *own* tasks, which have nothing to do with the ward's form: a
# start that is not zero disturbs them before the first example is seen.

# %%
from minilora.training import TrainingConfig, evaluate, fit

RATE = 0.015
suite_examples = encode(read("regression")[::3])


def lay_out(kind, seed):
    """Attach a rank-8 adapter with these initial values; the handle that takes it off."""
    handle = attach(base, LoRAConfig(r=8, lora_alpha=16), np.random.default_rng(seed))
    rng = np.random.default_rng(100 + seed)
    for layer in handle.layers.values():
        A, B = layer.lora_A, layer.lora_B
        random_B = ((2 * rng.random(B.shape) - 1) / np.sqrt(8)).astype(np.float32)
        normal_B = rng.standard_normal(B.shape).astype(np.float32)
        if kind in ("both zero", "A alone"):
            A.data = np.zeros_like(A.data)
        if kind in ("both random", "A alone"):
            B.data = random_B
        if kind == "B normal":
            B.data = normal_B
        A.requires_grad = kind != "B alone"
        B.requires_grad = kind != "A alone"
    return handle


def own_loss(job):
    """Loss on the base's own tasks with an adapter that has learned nothing yet."""
    handle = lay_out(*job)
    loss = evaluate(base, suite_examples, pad_id=tokenizer.pad_id)
    handle.detach()
    return loss


def short_run(job):
    """Held-out loss at the start and at the end of a run: kind of start, seed, steps, rate."""
    kind, seed, steps, rate = job
    handle = lay_out(kind, seed)
    before = evaluate(base, held_examples, pad_id=tokenizer.pad_id)
    config = TrainingConfig(steps=steps, lr=rate, warmup=5, seed=seed, workers=1)
    fit(base, batches[seed], config, progress=False)
    after = evaluate(base, held_examples, pad_id=tokenizer.pad_id)
    handle.detach()
    return before, after


plain = evaluate(base, suite_examples, pad_id=tokenizer.pad_id)
random_starts, all_starts = ("both random", "B normal"), ("B zero", "both zero", "both random")
disturbed = side_by_side(own_loss, [(kind, seed) for kind in random_starts for seed in range(3)])
own = dict(zip(random_starts, (disturbed[:3], disturbed[3:]), strict=True))
print(f"the base on its own tasks: loss {plain:.3g}")
print(f"with a random B within 1 / sqrt(r): {np.mean(own['both random']):.3g}")
print(f"with a B of standard normal numbers: {np.mean(own['B normal']):.3g}")
found = side_by_side(short_run, [(kind, 0, 20, RATE) for kind in all_starts])
starts = dict(zip(all_starts, found, strict=True))
for kind, (before, after) in starts.items():
    print(f"{kind:12} ward's loss {before:.3g}, after 20 steps {after:.3g}")

# %% [markdown]
# > **Claim.** With A and B both zero, training changes the held-out loss by 0.
#
# > **Claim.** A B of standard normal numbers raises the loss on the base's own tasks by more than
# > 1 nat, before any training.
#
# > **Claim.** Every random B does such harm: one within 1 / sqrt(r) raises it by 1 nat as well.
#
# The last sentence does not hold. A small random $B$ disturbs little here. Whether it then learns
# better or worse, one run can't say: with another draw of the same $B$ we saw the order turned
# round. Zero is still the better habit: the model is the base until it has seen an example,
# exactly, whatever the size of the numbers.
#
# ## Teach it the ward's form
#
# And how does full training do on the same job? It gets the same notes in the same order, and a
# learning rate of its own, because one rate for both would decide the race by itself. For each way
# three rates are tried for 40 steps, and the choice is made on notes that are reported nowhere.


# %%
def tried_rate(job):
    """Loss on the choosing notes after 40 steps, for a way of training and a rate."""
    way, rate = job
    model, handle = base, None
    if way == "LoRA":
        handle = attach(base, LoRAConfig(r=8, lora_alpha=16), np.random.default_rng(5))
    else:
        model, _ = load_pretrained(data_folder("ward-base"))
    config = TrainingConfig(steps=40, lr=rate, warmup=5, seed=5, workers=1)
    fit(model, Batches(train_examples, 8, 5, tokenizer.pad_id), config, progress=False)
    loss = evaluate(model, choosing_examples, pad_id=tokenizer.pad_id)
    if handle:
        handle.detach()
    return loss


RATES = {"LoRA": (0.0075, 0.015, 0.03), "full": (0.001, 0.003, 0.006)}
jobs = [(way, rate) for way, rates in RATES.items() for rate in rates]
losses = dict(zip(jobs, side_by_side(tried_rate, jobs), strict=True))
best = {way: min(rates, key=lambda r, way=way: losses[way, r]) for way, rates in RATES.items()}
for way, rate in jobs:
    mark = " <- chosen" if rate == best[way] else ""
    print(f"{way:5} rate {rate:<7} loss {losses[way, rate]:.3g}{mark}")

# %% [markdown]
# The ward asks with the bare words "Write the discharge summary." and expects its five lines. Where
# the note gives no dose, the line says so. First a note, before:

# %%
from minilora.text.answers import answers
from minilora.ward import score_house

shown = next(i for i, row in enumerate(held_out) if row["facts"]["no_dose"])
before_outputs = answers(base, tokenizer, [row["prompt"] for row in held_out])
before_score = score_house("cardiology", held_out, before_outputs)
print(held_out[shown]["prompt"])
print()
print(before_outputs[shown])

# %%
from minilora.training import AdamW

STEPS, EARLY = 150, 40


def scored(model, rows):
    """The ward's scores of a model on these notes."""
    return score_house("cardiology", rows, answers(model, tokenizer, [r["prompt"] for r in rows]))


def train_and_watch(model, rate, optimizer, early):
    """Train on the ward's notes; the history, and by step what 24 held-out notes say.

    At step EARLY the scores of all held-out notes are put into `early`, where that is a list.
    """
    seen = {0: scored(model, held_out[:24])}

    def look(step):
        seen[step] = scored(model, held_out[:24])
        if step == EARLY and early is not None:
            early.append(scored(model, held_out))
        return {"form": seen[step].format_compliance}

    config = TrainingConfig(steps=STEPS, lr=rate, warmup=15, seed=0, workers=1, eval_every=10)
    history = fit(model, batches[0], config, optimizer=optimizer, on_eval=look, progress=False)
    return history, seen


handle = attach(base, LoRAConfig(r=8, lora_alpha=16), np.random.default_rng(0))
optimizer = AdamW(base.named_parameters())
early = []
history, seen = train_and_watch(base, best["LoRA"], optimizer, early)
whole, _ = load_pretrained(data_folder("ward-base"))
whole_optimizer = AdamW(whole.named_parameters())
whole_history, whole_seen = train_and_watch(whole, best["full"], whole_optimizer, None)
whole_score = scored(whole, held_out)
after_outputs = answers(base, tokenizer, [row["prompt"] for row in held_out])
after_score = score_house("cardiology", held_out, after_outputs)
print(after_outputs[shown])
print()
everyone = (("before", before_score), ("LoRA", after_score), ("full training", whole_score))
for name, score in everyone:
    print(
        f"{name:13} exact {100 * score.exact:.3g} %, "
        f"in form {100 * score.format_compliance:.3g} %, "
        f"missing doses invented {100 * score.invented_dose_rate:.3g} %, "
        f"leaks {100 * score.leak_rate:.3g} %"
    )

# %% predict
predict("first", "Which does the adapter learn first: the form, or not to invent a dose?", None)

# %%
learned = {
    "form": next(s for s, score in seen.items() if score.format_compliance > 0.5),
    "not to invent": next(s for s, score in seen.items() if score.invented_dose_rate < 0.5),
}
reveal("first", ", ".join(f"{name} by step {step}" for name, step in learned.items()))
_, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
for one, colour, name in ((history, "tab:blue", "LoRA"), (whole_history, "tab:grey", "full")):
    left.plot(*one.series("loss"), color=colour, linewidth=1, label=name)
left.set(yscale="log", xlabel="step (8 notes each)", ylabel="loss, nats a token of the answer")
left.set_title("the same notes, two ways to train")
left.legend()
for one, line, way in ((seen, "o-", "LoRA"), (whole_seen, "s:", "full")):
    for key, colour, what in (
        ("format_compliance", "tab:blue", "in the ward's form"),
        ("invented_dose_rate", "tab:red", "doses invented"),
    ):
        shares = [100 * getattr(score, key) for score in one.values()]
        right.plot(list(one), shares, line, color=colour, markersize=4, label=f"{what}, {way}")
right.set(xlabel="step", ylabel="share, %", title="24 held-out notes", ylim=(-4, 104))
right.legend(loc="center right", fontsize=8)
plt.show()

# %%
wilson = answer("3.2")


def interval(share, count):
    """Wilson's interval around a share of `count`."""
    return np.array(wilson(round(share * count), count, 1.96))


for name, score in (("after 40 steps", early[0]), ("after 150 steps", after_score)):
    low, high = 100 * interval(score.invented_dose_rate, score.no_dose_count)
    print(f"{name}: of {score.no_dose_count} missing doses ", end="")
    print(f"{100 * score.invented_dose_rate:.3g} % invented ({low:.3g} to {high:.3g} %)")

# %% [markdown]
# > **Claim.** After 40 steps, on 320 notes, less than 10 % of the missing doses are still invented:
# > the whole interval lies below it.
#
# Both come fast, the rule even before the form. Nobody had to teach the model what a missing dose
# is: chapter 3 saw that it could tell. What was learned is what to say then. And has anything else
# changed?

# %%
print("base after training, bit for bit the same:", base_fingerprint(base) == untouched)
print(
    "base arrays with a gradient:",
    sum(
        parameter.grad is not None for parameter in base.parameters() if not parameter.requires_grad
    ),
)

# %% [markdown]
# > **Claim.** After 150 steps the adapter is exact on more than 80 % of 200 held-out notes: the
# > whole interval lies above it.
#
# > **Claim.** It invents less than 6 % of the missing doses: the whole interval lies below it.
#
# > **Claim.** Full training with its own best rate is ahead of LoRA by more than 10 points in 100
# > exact answers.
#
# > **Claim.** After training, 0 bits of the base have changed.
#
# Compare with chapter 3. Two questions and a program were exact on nearly all notes, with nothing
# trained. After 150 steps the adapter is close to that, with one question, in the ward's own
# words, and no program to maintain. Longer training closes the rest; `minilora tour` takes 320
# steps. Which one is better depends on who has to maintain it: somebody has to change that program
# whenever the form changes. And "the base is the same to the
# bit" says less than it seems: with the adapter on, base and adapter answer *other* questions
# together, and not as the base did. Chapter 10 measures that.
#
# What did the paper find? It adapted GPT-3, with 175 billion numbers, and measured accuracy on MNLI
# (does one sentence follow from another?) and WikiSQL (questions to database queries). LoRA on
# query and value with 4.7 million numbers reached 91.7 % on MNLI and 73.4 % on WikiSQL; full
# training, all 175 billion, 89.5 % and 73.8 %. So about as good, with 1/37,000 of the numbers. On
# 100 examples of MNLI alone LoRA was ahead, 63.8 to 60.2 %.
#
# ## The adapter is a folder
#
# What you ship is two small strips a layer. minilora writes them as PEFT does, so that the other
# tools read them.

# %%
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

with tempfile.TemporaryDirectory() as folder:
    saved = handle.adapter(base_name="ward-base").write(Path(folder) / "adapter")
    files = sorted(path.name for path in saved.iterdir())
    options = json.loads((saved / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(saved / "adapter_model.safetensors")
print(*files, sep="\n")
print({key: options[key] for key in ("r", "lora_alpha", "target_modules")})
for name in sorted(tensors)[:4]:
    print(name, tensors[name].shape)
print(f"... {len(tensors)} tensors, {sum(t.nbytes for t in tensors.values()):,} bytes")

# %% [markdown]
# `lora_A` is (r, in) and `lora_B` is (out, r), always in this orientation. If somebody writes $A$
# or $B$ transposed, and the layer is square, then every shape still fits, and $\Delta W$ is wrong
# all the same. So compare numbers, and not shapes:

# %%
layer = next(iter(handle.layers.values()))
A, B = layer.lora_A.data, layer.lora_B.data
print("the library's delta is the same:", np.allclose(2 * B @ A, layer.delta_weight(), atol=1e-6))
print("turned over it has the same shape:", (2 * A.T @ B.T).shape == layer.delta_weight().shape)
print("and is the same:", np.allclose(2 * A.T @ B.T, layer.delta_weight(), atol=1e-6))

# %% [markdown]
# ## One part more: dropout
#
# With few examples an adapter may learn them by heart. The paper's remedy is *dropout* in front of
# $A$: while training, each number that $A$ reads is replaced by zero with probability $p$, anew at
# every step, and the others are made larger by $1 / (1 - p)$, so that the sum stays the same on
# average. $W$ reads the input as it is.

# %% exercise 4.5

# %% [markdown]
# ## The bill: memory
#
# Adam keeps two running averages for each trained number. With the weight and its gradient that is
# 16 bytes in float32.

# %% exercise 4.6


# %%
def count_bytes(model, optimizer):
    """Bytes of the weights, gradients and optimizer state that exist right after a backward."""
    parameters = list(model.parameters())
    weights = sum(p.data.nbytes for p in parameters)
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    return np.array([weights, gradients, optimizer.state_bytes])


def backward(model, batch):
    """One loss and its gradients, from none."""
    for parameter in model.parameters():
        parameter.zero_grad()
    model.loss(batch.ids, batch.labels).backward()


batch = batches[0].batch(0)
backward(whole, batch)
backward(base, batch)
held = {
    "everything trained": count_bytes(whole, whole_optimizer),
    "LoRA": count_bytes(base, optimizer),
}
expected_full, expected_lora = answer("4.6")(numbers, trained)
assert held["everything trained"].sum() == expected_full and held["LoRA"].sum() == expected_lora
for name, parts in held.items():
    print(f"{name:18} {parts.sum() / 1e6:.3g} MB: {parts.sum() / numbers:.3g} bytes a base number")

# %%
_, axis = plt.subplots(figsize=(6.4, 2.2))
left = np.zeros(2)
for place, name in enumerate(("weights", "gradients", "Adam's averages")):
    part = np.array([parts[place] / 1e6 for parts in held.values()])
    axis.barh(list(held), part, left=left, label=name)
    left += part
axis.set(xlabel="MB, without what the forward pass keeps", xlim=(0, 27))
axis.invert_yaxis()
axis.legend(loc="lower right")
plt.show()

# %% [markdown]
# > **Claim.** Counted array by array, LoRA takes less than 30 % of the bytes of full training.
#
# > **Claim.** LoRA trains 1.35 % of the numbers, and so it needs less than 2 % of the memory.
#
# The gradients and averages are nearly gone, and the frozen weights are still there. They are now
# nearly all of the bill. That is why people store the base in 4 bits (QLoRA), a saving that makes
# sense only after this one. What the forward pass keeps is not counted here, and for long texts it
# can be the largest part.
#
# ## The bill: time
#
# Freezing saves $W$'s own gradient, one product of three: forward, back through $W$, and $W$'s
# gradient. Clock both ways in turn, with the processor's time and not the wall's, and compare the
# medians.


# %%
import time


def clock(model):
    """Processor time of one loss and backward."""
    start = time.process_time()
    backward(model, batch)
    return time.process_time() - start


pairs = np.array([(clock(whole), clock(base)) for _ in range(9)])[2:]
time_ratio = float(np.median(pairs[:, 1]) / np.median(pairs[:, 0]))
print(f"a LoRA step takes {time_ratio:.2g} of a full one")
base = handle.detach()

# %% [markdown]
# > **Claim.** Forward and backward of LoRA take between 0.4 and 0.98 of the time of full training:
# > cheaper, and far from free.
#
# ## A and B do different things
#
# $A$ chooses $r$ directions of the input to look at, $B$ says what to do with what was found. Must
# both be learned? Freeze one at random values and train the other from zero. Each arm has its own
# learning rate, the best of 0.005, 0.015 and 0.045 on the choosing notes.


# %%
def arm_rate(job):
    """Loss on the choosing notes after 30 steps: kind of start, rate."""
    kind, rate = job
    handle = lay_out(kind, 5)
    config = TrainingConfig(steps=30, lr=rate, warmup=5, seed=5, workers=1)
    fit(base, Batches(train_examples, 8, 5, tokenizer.pad_id), config, progress=False)
    loss = evaluate(base, choosing_examples, pad_id=tokenizer.pad_id)
    handle.detach()
    return loss


kinds, three = ("both", "B alone", "A alone"), (0.005, 0.015, 0.045)
tries = side_by_side(arm_rate, [(kind, rate) for kind in kinds for rate in three])
ARMS = {kind: three[int(np.argmin(tries[3 * i : 3 * i + 3]))] for i, kind in enumerate(kinds)}
print("chosen:", ARMS)
jobs = [(kind, seed, 30, rate) for kind, rate in ARMS.items() for seed in range(3)]
ends = [after for _, after in side_by_side(short_run, jobs)]
roles = {kind: ends[3 * i : 3 * i + 3] for i, kind in enumerate(ARMS)}
for kind, found in roles.items():
    print(f"{kind:8} {np.mean(found):.3g} ({min(found):.3g} to {max(found):.3g})")

# %%
_, axis = plt.subplots(figsize=(6.4, 2.4))
for row, found in enumerate(roles.values()):
    axis.plot(found, [row] * 3, "o", color="tab:blue")
    axis.plot(np.mean(found), row, "|", color="black", markersize=18)
axis.set(xlabel="held-out loss after 30 steps (a dot a seed, a bar the mean)", xlim=(0, None))
axis.set(yticks=range(len(roles)), ylim=(2.5, -0.5))
axis.set_yticklabels(roles)
plt.show()

# %% [markdown]
# > **Claim.** With either of them frozen the loss after 30 steps is more than 1.5 times that of
# > training both.
#
# > **Claim.** B matters far more than A: freezing B leaves more than 2 times the loss of freezing
# > A.
#
# Papers have found that $B$ is the one to train, and on larger tasks that may hold. Here the two
# come out about even, and the seeds scatter as much as the arms differ. What is plain is that each
# of them can learn most of this task alone: with $A$ frozen, $B$ reads whatever $r$ random
# directions show, and with $B$ frozen, $A$ steers $r$ random directions of the output.
#
# ## The claims, measured

# %% claims
claim(
    "Rank 8 trains 65,536 numbers for a layer of 16,777,216.",
    sheet,
    above=65_535,
    below=65_537,
    answers="E3",
)
claim(
    "For that layer the strips are smaller than W up to rank 2047.",
    float(answer("4.1")(4096, 4096)),
    above=2046.5,
    below=2047.5,
    answers="E3",
)
assert sheet == 65_536
by_way = [[sum(one.values()) for one in found] for found in let.values()]
together = [
    sum(any(let[way][seed][name] for way in list(WAYS)[:3]) for name in let["B = 0"][0])
    for seed in range(3)
]
claim(
    "Each of the three careless checks lets at least 1 of the 7 planted mistakes pass, and "
    "together they let 7 pass.",
    together,
    above=6.5,
)
assert min(map(min, by_way[:3])) >= 1
claim("With random A, B and cotangent and α ≠ r, 0 pass.", by_way[3], below=0.5)
claim(
    "On ward-base, rank 8 on the query and value projections trains 1.35 % of the numbers.",
    100 * trained / numbers,
    above=1.34,
    below=1.36,
)
claim("Attaching changes no logit by more than 0.", step_zero, below=1e-30, answers="E2")
claim(
    "With A and B both zero, training changes the held-out loss by 0.",
    abs(starts["both zero"][1] - starts["both zero"][0]),
    below=1e-12,
    answers="E2",
)
assert starts["B zero"][0] - starts["B zero"][1] > 1
claim(
    "A B of standard normal numbers raises the loss on the base's own tasks by more than 1 nat, "
    "before any training.",
    np.array(own["B normal"]) - plain,
    above=1,
)
refuted(
    "Every random B does such harm: one within 1 / sqrt(r) raises it by 1 nat as well.",
    np.array(own["both random"]) - plain,
    below=0.2,
    because="The change B A is then small beside W, and the base is robust against small changes.",
)
claim(
    "After 150 steps the adapter is exact on more than 80 % of 200 held-out notes: the whole "
    "interval lies above it.",
    interval(after_score.exact, len(held_out))[0],
    above=0.8,
)
claim(
    "It invents less than 6 % of the missing doses: the whole interval lies below it.",
    interval(after_score.invented_dose_rate, after_score.no_dose_count)[1],
    below=0.06,
)
assert before_score.invented_dose_rate > 0.9
refuted(
    "Full training with its own best rate is ahead of LoRA by more than 10 points in 100 exact "
    "answers.",
    whole_score.exact - after_score.exact,
    below=0.1,
    because="The job is a new habit, and 1.35 % of the numbers are enough to carry it.",
    answers="E10",
)
claim(
    "After 40 steps, on 320 notes, less than 10 % of the missing doses are still invented: the "
    "whole interval lies below it.",
    interval(early[0].invented_dose_rate, early[0].no_dose_count)[1],
    below=0.1,
)
claim(
    "After training, 0 bits of the base have changed.",
    float(base_fingerprint(base) != untouched),
    below=0.5,
    answers="E1",
)
byte_ratio = held["LoRA"].sum() / held["everything trained"].sum()
claim(
    "Counted array by array, LoRA takes less than 30 % of the bytes of full training.",
    byte_ratio,
    below=0.3,
    answers="E29",
)
refuted(
    "LoRA trains 1.35 % of the numbers, and so it needs less than 2 % of the memory.",
    byte_ratio,
    above=0.2,
    because="The frozen weights stay in memory, and they are a quarter of the full bill.",
)
claim(
    "Forward and backward of LoRA take between 0.4 and 0.98 of the time of full training: cheaper, "
    "and far from free.",
    time_ratio,
    above=0.4,
    below=0.98,
    answers="E30",
)
both = np.array(roles["both"])
singles = [np.array(roles[kind]) / both for kind in ("B alone", "A alone")]
claim(
    "With either of them frozen the loss after 30 steps is more than 1.5 times that of training "
    "both.",
    np.min([np.mean(single) for single in singles]),
    above=1.5,
)
refuted(
    "B matters far more than A: freezing B leaves more than 2 times the loss of freezing A.",
    np.array(roles["A alone"]) / np.array(roles["B alone"]),
    below=1.7,
    because="On this task either strip alone learns most of it, given its own learning rate.",
    answers="E19",
)

# %% [markdown]
# ## What to read
#
# - E. Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.
# - J. Zhu and others, "Asymmetry in Low-Rank Adapters of Foundation Models", 2024: what A and B are
#   for, and why one may be frozen.
# - J. Schulman and others, "LoRA Without Regret", 2025: what a step costs, and when LoRA is enough.
# - In this project: `minilora/lora/layer.py` and `attach.py`, and
#   `minilora/autograd/functional.py`, where `lora_linear` does what you wrote above, faster.
