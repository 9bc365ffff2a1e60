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
import json
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

from minilora.autograd import Tensor, no_grad
from minilora.course import (
    answer,
    check,
    claim,
    data_folder,
    hint,
    refuted,
    side_by_side,
    solution,
    style,
)
from minilora.gradients.gradcheck import check_gradients
from minilora.hub import load_pretrained
from minilora.lora import (
    LoRAConfig,
    attach,
    base_fingerprint,
    lora_layers,
    trainable_parameters,
)
from minilora.text import Record, encode_records, prompt_messages
from minilora.text.answers import answers
from minilora.training import AdamW, Batches, TrainingConfig, evaluate, fit
from minilora.ward import score_house

style()

# %% [markdown]
# ## Freeze W, learn B and A
#
# A layer computes $y = x W^\top$, with $W$ of shape (out, in). Training would change $W$ by some
# $\Delta W$ of the same shape. In chapter 0 a change of a photograph was thin: nearly all of it
# was a product of two strips. Suppose that a change of a weight is thin too. Then do not learn
# $\Delta W$. Learn the strips:
#
# $$y = x W^\top + \frac{\alpha}{r}\, (x A^\top)\, B^\top, \qquad
# \Delta W = \frac{\alpha}{r} B A,$$
#
# with $A$ of shape $(r, \text{in})$, $B$ of shape $(\text{out}, r)$, and $W$ frozen. That is LoRA.
# The rank $r$ is small, and $\alpha$ is the volume dial of chapter 0.

# %% exercise 4.1

# %%
count_trained = answer("4.1")
sheet = count_trained([(4096, 4096)], 8)
print(f"a 4096 by 4096 layer has {4096 * 4096:,} numbers, its sheet {sheet:,}")

# %% [markdown]
# > **Claim.** Rank 8 trains 65,536 numbers for a layer of 16,777,216.
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

# %%
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
# $$g_A = s\,(g B)^\top x, \qquad g_B = s\, g^\top (x A^\top).$$
#
# If $B = 0$, then $g_A = 0$, and $g_B$ is not: $B$ moves first, and in the next step $A$ can
# follow. If both are zero, both gradients are zero, for ever. One strip must be random, and one
# zero.

# %% exercise 4.4

# %% [markdown]
# Now the real model. `attach` puts a `LoRALinear` around the query and value projection of every
# layer and freezes all the rest; its file, `minilora/lora/layer.py`, is what you have just written,
# with dropout, merging and error messages.

# %%
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


train, held_out = read("cardiology.train")[:1200], read("cardiology.eval")[:64]
train_examples, held_examples = encode(train), encode(held_out)
batches = {seed: Batches(train_examples, 8, seed, tokenizer.pad_id) for seed in range(3)}
ids = np.array([tokenizer.encode_prompt(held_out[0]["prompt"])])

with no_grad():
    logits = base(ids).data
handle = attach(base, LoRAConfig(r=8, lora_alpha=16), np.random.default_rng(0))
with no_grad():
    step_zero = float(np.abs(base(ids).data - logits).max())
shapes = [layer.base_weight.shape for layer in lora_layers(base).values()]
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
# The ward asks with the bare words "Write the discharge summary." and expects its five lines. Where
# the note gives no dose, the line says so. First a note, before:

# %%
shown = next(i for i, row in enumerate(held_out) if row["facts"]["no_dose"])
before_outputs = answers(base, tokenizer, [row["prompt"] for row in held_out])
before_score = score_house("cardiology", held_out, before_outputs)
print(held_out[shown]["prompt"])
print()
print(before_outputs[shown])

# %%
handle = attach(base, LoRAConfig(r=8, lora_alpha=16), np.random.default_rng(0))
optimizer = AdamW(base.named_parameters())
config = TrainingConfig(steps=150, lr=RATE, warmup=15, seed=0, workers=1, eval_every=10)


def halfway(step):
    """What 24 held-out notes say after this many steps."""
    outputs = answers(base, tokenizer, [row["prompt"] for row in held_out[:24]])
    score = score_house("cardiology", held_out[:24], outputs)
    return {"form": score.format_compliance, "invented": score.invented_dose_rate}


history = fit(base, batches[0], config, optimizer=optimizer, on_eval=halfway, progress=False)
after_outputs = answers(base, tokenizer, [row["prompt"] for row in held_out])
after_score = score_house("cardiology", held_out, after_outputs)
print(after_outputs[shown])
print()
for name, score in (("before", before_score), ("after", after_score)):
    print(
        f"{name:7} exact {100 * score.exact:.3g} %, in form {100 * score.format_compliance:.3g} %, "
        f"missing doses invented {100 * score.invented_dose_rate:.3g} %, "
        f"leaks {100 * score.leak_rate:.3g} %"
    )

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
left.plot(*history.series("loss"), color="tab:blue", linewidth=1)
left.set(yscale="log", xlabel="step (8 notes each)", ylabel="loss, nats a token of the answer")
left.set_title("16,384 numbers learn the ward's form")
for key, colour, name in (
    ("form", "tab:blue", "in the ward's form"),
    ("invented", "tab:red", "missing doses invented"),
):
    steps, shares = history.series(key)
    right.plot(steps, [100 * share for share in shares], "o-", color=colour, label=name)
right.set(xlabel="step", ylabel="share, %", title="24 held-out notes", ylim=(-4, 104))
right.legend(loc="center right")
plt.show()

# %% [markdown]
# > **Claim.** After 40 steps, on 320 notes, less than 10 % of the missing doses are still invented.
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
# > **Claim.** After 150 steps the adapter is exact on more than 80 % of 64 held-out notes, and
# > invents less than 5 % of the missing doses.
#
# > **Claim.** After training, 0 bits of the base have changed.
#
# Compare with chapter 3. Two questions and a program were exact on nearly all notes, with nothing
# trained. After 150 steps the adapter is close to that, with one question, in the ward's own
# words, and no program to maintain. Longer training closes the rest; `minilora tour` takes 450
# steps. Which one is better depends on who has to keep it alive. And "the base is the same to the
# bit" says less than it seems: with the adapter on, base and adapter answer *other* questions
# together, and not as the base did. Chapter 10 measures that.
#
# ## The adapter is a folder
#
# What you ship is two small strips a layer. minilora writes them as PEFT does, so that the other
# tools read them.

# %%
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
# `lora_A` is (r, in) and `lora_B` is (out, r), in this orientation for ever. Turn one over in a
# square layer and every shape still fits, and the model talks nonsense.

# %% exercise 4.5

# %%
delta_weight = answer("4.5")
layer = next(iter(lora_layers(base).values()))
mine = delta_weight(layer.lora_A.data, layer.lora_B.data, 16)
print("the library's delta is the same:", np.allclose(mine, layer.delta_weight(), atol=1e-6))

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


whole, _ = load_pretrained(data_folder("ward-base"))
batch = batches[0].batch(0)
backward(whole, batch)
backward(base, batch)
held = {
    "everything trained": count_bytes(whole, AdamW(whole.named_parameters())),
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
# learning rate, the best of 0.005, 0.015 and 0.045 on one seed; one rate for all would decide the
# race by itself.

# %%
ARMS = {"both": 0.015, "B alone": 0.045, "A alone": 0.015}
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
    4096 * 4096 / sheet,
    above=255.9,
    below=256.1,
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
claim("Attaching changes no logit by more than 0.", step_zero, below=1e-30)
claim(
    "With A and B both zero, training changes the held-out loss by 0.",
    abs(starts["both zero"][1] - starts["both zero"][0]),
    below=1e-12,
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
    "After 150 steps the adapter is exact on more than 80 % of 64 held-out notes, and invents less "
    "than 5 % of the missing doses.",
    after_score.exact,
    above=0.8,
)
assert after_score.invented_dose_rate < 0.05 < 0.9 < before_score.invented_dose_rate
steps, invented = history.series("invented")
claim(
    "After 40 steps, on 320 notes, less than 10 % of the missing doses are still invented.",
    invented[steps.index(40)],
    below=0.1,
)
claim(
    "After training, 0 bits of the base have changed.",
    float(base_fingerprint(base) != untouched),
    below=0.5,
)
byte_ratio = held["LoRA"].sum() / held["everything trained"].sum()
claim(
    "Counted array by array, LoRA takes less than 30 % of the bytes of full training.",
    byte_ratio,
    below=0.3,
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
