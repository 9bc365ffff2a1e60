# The source of notebooks/09_specialists.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 9. What do 40 specialists cost?
#
# **Time.** about 2.5 hours, exercises included.
#
# **What you will be able to do.** Say what forty adapters over one base take in memory and in time,
# run a batch in which every row has another adapter, decide who stays in memory, refuse a base that
# an adapter was not made for, and find out whose a note is when nobody says so.
#
# **The story.** The hospital has grown. Six wards want summaries of their own, and by next year
# there will be forty. Leo merges each sheet into a copy of the model, as in chapter 7, and orders
# forty computers. Maya asks for one computer, one base, and forty sheets beside it.

# %%
from minilora.course import pictures

pictures.many_sheets()

# %% [markdown]
# Every row of the batch goes through the one frozen $W$, all together. Beside it, each row goes
# through the strips of its own client, and through nobody else's.

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
    slider,
    solution,
    style,
)

style()

# %% [markdown]
# ## The wards
#
# Each ward has a form of its own, with a rule that the base would break. The base was asked for the
# same summary a thousand times, and fills in a dose that the note does not give. *Cardiology* and
# *pediatrics* say that the dose is missing, each in its own words. *Respiratory* puts such a drug
# on a line of its own. *Nephrology* stops four drugs, whatever their dose. *Vascular* puts
# drugs that thin the blood before all others. *Gastroenterology* tells no age, only the decade.
#
# The adapters were trained beforehand, by `minilora specialists`: rank 8 on `q_proj` and
# `v_proj`. We load the base once, and put them all into a *bank*: the thing that holds adapters
# by name over one model.

# %%
from minilora.hub import load_pretrained
from minilora.lora import Adapter
from minilora.serving import AdapterBank

folder = data_folder("specialists")
model, tokenizer = load_pretrained(data_folder("ward-base"))
WARDS = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
adapters = {ward: Adapter.read(folder / ward) for ward in WARDS}
bank = AdapterBank(model)
for ward in WARDS:
    bank.add(ward, adapters[ward])
print(*bank.names)

# %% [markdown]
# ## What they take in memory
#
# Count, from the arrays that are there: the base once, and the strips of each client.

# %% predict
predict("memory", "Base and forty sheets together: how many times the base's memory?", None)

# %%
base_bytes = sum(p.data.nbytes for p in model.parameters())
sheet_bytes = bank.nbytes / len(WARDS)
CLIENTS = np.array([1, 2, 5, 10, 20, 40, 100, 300, 1000])
in_bank = (base_bytes + CLIENTS * sheet_bytes) / base_bytes
forty = 1 + 40 * sheet_bytes / base_bytes
reveal("memory", round(float(forty), 2))
_, axis = plt.subplots()
axis.plot(CLIENTS, CLIENTS, "s--", label="a merged copy for each")
axis.plot(CLIENTS, in_bank, "o-", label="one base, a sheet for each")
axis.set(xscale="log", yscale="log", xlabel="clients", ylabel="memory, times the base's")
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** One base and 40 sheets take less than 5 % of 40 merged copies.
#
# A sheet here is a little over a hundredth of the base. On a larger base it is less: the base grows
# with the square of the width, the strips only with the width.
#
# ## A batch of many adapters
#
# Memory is the easy half. Forty clients do not come one after the other; their rows lie in one
# batch. A loop over the rows would read $W$ once for each of them, and reading $W$ is what costs.

# %% exercise 9.1

# %% [markdown]
# Your loop runs over the adapters. With sixty-four of them that is sixty-four small products, and
# starting a product costs more than the product. If the adapters were one array (K, r, in), one
# *batched* product would do them all: `np.matmul` takes stacks of matrices. The ranks stand in the
# way.

# %% exercise 9.2

# %%
stack = answer("9.2")
rng = np.random.default_rng(0)
thin, wide = [(rng.normal(size=(r, 128)), rng.normal(size=(128, r)), 2.0 * r) for r in (2, 8)]
A, B, s = stack([thin, wide])
x = rng.normal(size=(2, 5, 128))  # five rows for each of the two
together = (x @ A.transpose(0, 2, 1)) @ B.transpose(0, 2, 1) * s[:, None, None]
apart = [x[k] @ a.T @ b.T * (alpha / len(a)) for k, (a, b, alpha) in enumerate((thin, wide))]
print(f"largest difference {np.abs(together - np.array(apart)).max():.1g}")

# %% [markdown]
# The bank does the same in every layer: rows are sorted by adapter once a batch, and each layer
# makes two batched products for all of them. `bank.rows` says which row is whose.
#
# ## Every note to every adapter
#
# Sixteen held-out notes of each ward go to each adapter, and to the bare base, all in one call. A
# summary counts if it is right to the last character, by the rules of the ward that *the note* is
# from.

# %% predict
predict("foreign", "A ward's note to another ward's adapter: how many % of summaries exact?", None)

# %%
import json

from minilora.evaluation.paired import wilson
from minilora.serving import BASE
from minilora.text.answers import answers


def held_out(ward, first, last):
    """Some held-out notes of a ward, with the right summaries."""
    lines = (data_folder("ward") / f"{ward}.eval.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[first:last]]


ASKED = [*WARDS, BASE]
notes = {ward: held_out(ward, 0, 16) for ward in WARDS}
rows = [(ward, note, name) for ward in WARDS for name in ASKED for note in notes[ward]]
prompts = [note["prompt"] for _, note, _ in rows]
with bank.rows([name for _, _, name in rows]):
    said = answers(model, tokenizer, prompts)
right = {(ward, name): [] for ward in WARDS for name in ASKED}
for (ward, note, name), text in zip(rows, said, strict=True):
    right[ward, name].append(text == note["completion"])
matrix = np.array([[np.mean(right[ward, name]) for name in ASKED] for ward in WARDS])

# %%
N = len(WARDS)
own = matrix[range(N), range(N)]
foreign = matrix[:, :N][~np.eye(N, dtype=bool)]
owned, others = 16 * N, 16 * N * (N - 1)
reveal("foreign", float(100 * foreign.mean()))
_, axis = plt.subplots(figsize=(6.6, 4.6))
axis.imshow(100 * matrix, cmap="Blues", vmin=0, vmax=100)
for i, line in enumerate(matrix):
    for j, share in enumerate(line):
        colour = "white" if share > 0.5 else "black"
        axis.text(j, i, f"{100 * share:.0f}", ha="center", va="center", color=colour)
axis.set_xticks(range(N + 1), [*WARDS, "base"], rotation=35, ha="right")
axis.set_yticks(range(N), WARDS)
axis.set(xlabel="adapter", ylabel="note of", title="summaries that are exact, %")
plt.show()
low, high = wilson(owned * own.mean(), owned)
print(
    f"own: {100 * own.mean():.0f} % of {owned}, interval {100 * low:.0f} to {100 * high:.0f} (95 %)"
)
low, high = wilson(others * foreign.mean(), others)
print(f"another's: {100 * foreign.mean():.1f} % of {others}, up to {100 * high:.1f}")

# %% [markdown]
# > **Claim.** Its own adapter makes on average more than 50 % of a ward's summaries exact.
#
# > **Claim.** Every ward's own adapter does so for more than 85 % of its notes.
#
# > **Claim.** Another ward's adapter makes less than 5 % of them exact, the interval included.
#
# The rules are not equally hard. To write "dose not recorded" in a dose's place is a change of
# words; to take a drug out of one line and name it in another, or to write drugs in another order
# than it read them, a model must keep track of what it left out. 450 steps of rank 8 on q and v
# teach that only in part. `data/specialists/README.md` has all wards on 200 notes each.
#
# A row that slips to its neighbour's adapter is not a little worse; it is wrong. Does mixing
# itself change anything? The same rows, one adapter at a time:

# %%
alone = {}
for ward in WARDS:
    bank.use(ward)
    alone[ward] = answers(model, tokenizer, [note["prompt"] for note in notes[ward]])
bank.use(BASE)
mixed = {
    ward: [t for (w, _, name), t in zip(rows, said, strict=True) if w == name == ward]
    for ward in WARDS
}
different = sum(a != b for w in WARDS for a, b in zip(alone[w], mixed[w], strict=True))
print(f"{different} of {owned} answers are others than when asked alone")

# %% [markdown]
# > **Claim.** Of the answers of the wards' own adapters, at most 1 is another in the mixed batch
# > than alone.
#
# ## Is mixing free?
#
# While a model writes, it reads one token of each row at a time. Time that step for 32 rows, in
# which 1, 2, 4, … 32 different adapters take part. The mixes are timed one after the other, and
# that seven times over, so that a busy moment does not fall on one of them alone. Each time is
# divided by the time with one adapter for all rows.

# %%
import time

from minilora.nn import generate

STEPS, ROWS = 24, 32
for i in range(ROWS):  # thirty-two names; the strips repeat, but the bank does not know that
    bank.add(f"client {i}", adapters[WARDS[i % len(WARDS)]])
short = [[5, 6, 7]] * ROWS
DISTINCT = [1, 2, 4, 8, 16, 32]


def step_time(names):
    """Processor seconds of writing STEPS tokens in every row."""
    with bank.rows(names):
        began = time.process_time()
        generate(model, short, STEPS)
        return time.process_time() - began


def batch(distinct):
    """Names for the rows, of so many different adapters."""
    return [f"client {i % distinct}" for i in range(ROWS)]


step_time(batch(2))  # warm
rounds = []
for _ in range(7):
    times = {k: step_time(batch(k)) for k in DISTINCT}
    rounds.append({"base": step_time([BASE] * ROWS), **times})
costs = {k: [r[k] / r[1] for r in rounds] for k in DISTINCT}
without = [r["base"] / r[1] for r in rounds]

# %% predict
predict("mixing", "32 rows, 32 adapters: % slower than 32 rows with one adapter?", None)

# %%
reveal("mixing", float(100 * (np.median(costs[32]) - 1)))
_, axis = plt.subplots()
for k in DISTINCT:
    axis.plot([k] * len(rounds), costs[k], ".", color="tab:gray")
axis.plot(DISTINCT, [np.median(costs[k]) for k in DISTINCT], "o-", label="median of 7")
axis.axhline(np.median(without), linestyle=":", color="black", label="no adapter at all")
axis.set(xscale="log", xlabel="different adapters in a batch of 32 rows")
axis.set_xticks(DISTINCT, DISTINCT)
axis.minorticks_off()
axis.set(ylabel="time of a step,\ntimes that with one adapter", ylim=(0, None))
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** Mixing is free: with 32 adapters in the batch a step takes less than 1.02 times as
# > long as with one.
#
# > **Claim.** But it costs less than as much again: below 2 times.
#
# One adapter for all rows is one product with $W + sBA$, made once for the call. A mix can't do
# that: its strips are two more products in each layer. This model is so small that a product is
# mostly the cost of starting it; on a larger one the part of the strips is smaller.
#
# ## Who stays in memory
#
# Forty sheets fit anywhere. A thousand of a large model may not, and a sheet on the disk must be
# read before it can be used. So memory keeps those that are asked for, and lets go of others.

# %% exercise 9.3

# %%
touch = answer("9.3")


def share_found(requests, most, keep_order=False):
    """Share of requests whose client was in memory; keep_order: first come, first to go."""
    resident, found = [], 0
    for name in requests:
        if name in resident:
            found += 1
            if keep_order:
                continue
        resident, _ = touch(resident, name, most)
    return found / len(requests)


popularity = 1 / np.arange(1, 41)  # client 2 comes half as often as client 1, and so on
draws = rng.choice(40, size=3000, p=popularity / popularity.sum())
requests = [f"client {i}" for i in draws]
ROOM = [1, 2, 5, 10, 15, 20, 30, 40]
latest = [share_found(requests, most) for most in ROOM]
first_come = [share_found(requests, most, keep_order=True) for most in ROOM]
_, axis = plt.subplots()
axis.plot(ROOM, 100 * np.array(latest), "o-", label="longest unused goes")
axis.plot(ROOM, 100 * np.array(first_come), "s--", label="first come, first to go")
axis.set(xlabel="sheets that fit into memory, of 40", ylabel="found in memory, %", ylim=(0, 102))
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** With room for 10 of 40 clients, more than 50 % of the requests find their sheet in
# > memory.
#
# Some clients come often, and these stay. `AdapterBank(model, most_resident=64)` works like that.
#
# ## Whose base is this?
#
# The most expensive mistake makes no noise. A sheet of the right shapes goes onto any base. To tell
# one base from another without keeping both, make a short text of all its bytes: a *hash*. One bit
# changed, and the text is another.

# %%
import hashlib

for said in (b"5 mg", b"5 mh"):
    print(said.decode(), hashlib.sha256(said).hexdigest()[:12])

# %% exercise 9.4

# %%
from minilora.lora import BaseMismatchError

other, _ = load_pretrained(data_folder("ward-base"))
weight = other.get_submodule("model.layers.2.mlp.up_proj").weight
weight.data[7, 7] = np.nextafter(weight.data[7, 7], np.float32(9))
try:
    AdapterBank(other).add("cardiology", adapters["cardiology"])
except BaseMismatchError as error:
    print("refused:", type(error).__name__)

# %% [markdown]
# One weight, in its last bit, and it is refused. Is that too strict? Such a base would answer the
# same. But the bank can't know how much a difference matters, and there are bases that answer alike
# and are far apart. The four heads of a layer may stand in any order: move the rows of q, k and v
# and the columns of o along with them, and the model computes what it did before.


# %%
def with_heads_moved():
    """The base with each layer's heads in another order: other weights, the same function."""
    moved, _ = load_pretrained(data_folder("ward-base"))
    heads = model.config.num_attention_heads
    size = model.config.hidden_size // heads
    order = np.concatenate([np.arange(h * size, (h + 1) * size) for h in (2, 0, 3, 1)])
    for block in moved.model.layers:
        for map_ in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj):
            map_.weight.data = map_.weight.data[order]
        out = block.self_attn.o_proj.weight
        out.data = np.ascontiguousarray(out.data[:, order])
    return moved


def forced(base, adapter):
    """The base with the adapter's update added to its weights, and nobody asked."""
    for name in adapter.modules:
        A, B = adapter.factors(name)
        base.get_submodule(name).weight.data += adapter.scaling(name) * (B @ A)
    return base


def exact(base, ward, count=24):
    """Share of a ward's held-out summaries that are exact."""
    asked = held_out(ward, 0, count)
    given = answers(base, tokenizer, [note["prompt"] for note in asked])
    return np.mean([a == note["completion"] for a, note in zip(given, asked, strict=True)])


ids = np.array([tokenizer.encode_prompt(notes["cardiology"][0]["prompt"])])
plain, same = load_pretrained(data_folder("ward-base"))[0], with_heads_moved()
scale = np.abs(plain(ids).data).max()
heads_gap = float(np.abs(same(ids).data - plain(ids).data).max() / scale)
on_own = exact(forced(plain, adapters["cardiology"]), "cardiology")
on_moved = exact(forced(same, adapters["cardiology"]), "cardiology")
print(f"without the sheet, logits differ by {heads_gap:.1g} of the largest")
print(f"with it: {100 * on_own:.0f} % exact on its own base, {100 * on_moved:.0f} % on the other")
print(
    f"(of 24 notes; 95 % interval of the second up to {100 * wilson(24 * on_moved, 24)[1]:.0f} %)"
)

# %% [markdown]
# > **Claim.** A base with its heads in another order says the same to 1 part in 10,000, and with
# > the sheet on it fewer than 20 % of the summaries are exact.
#
# An adapter is a change *to these weights*. What the base answers is no sign that it is the right
# one; the weights are.
#
# ## Whose note is this?
#
# So far every row came with a name. Often it does not: a note lies there, and names no ward. There
# are two ways to find out. Each has a threshold that must be chosen. Choose it on some notes and
# count on others, or the count flatters the choice.
#
# *By loss.* Every adapter reads the note and begins to answer. The loss of its own first words says
# how unsure it was of them. The adapter with the lowest loss gets the note. That sounds right: a
# specialist is sure of its own field.
#
# *By reading.* The base reads the note once, without any adapter. Its hidden states, averaged over
# the note, are one point in 128 dimensions. Points of one ward lie together, and their average is
# the ward's centre. The note goes to the ward whose centre is nearest.
#
# And some notes are for none. A neurologist's patient belongs to no ward of ours, and the lowest of
# six losses is still a number. Above some threshold the answer must be: none of these.

# %% exercise 9.5

# %%
from minilora.serving import Centres, LossRouter, LossSettings
from minilora.serving.centres import read_means
from minilora.ward import mixed_notes

choosing, counting = mixed_notes(56, seed=5), mixed_notes(140, seed=6)


def places(some):
    """Where notes belong: the number of a ward, -1 for none."""
    return np.array([WARDS.index(n.ward) if n.ward in WARDS else -1 for n in some])


def encoded(some):
    """The notes' tokens, as the model is asked them."""
    return [tokenizer.encode_prompt(note.example.prompt) for note in some]


by_loss = LossRouter(bank, LossSettings("answer", tokens=16), WARDS)
losses = {
    "choosing": by_loss.losses(encoded(choosing)),
    "counting": by_loss.losses(encoded(counting)),
}

# %%
train_prompts = {}
for ward in WARDS:
    lines = (data_folder("ward") / f"{ward}.train.jsonl").read_text().splitlines()[:60]
    train_prompts[ward] = [tokenizer.encode_prompt(json.loads(line)["prompt"]) for line in lines]
centres = Centres.learn({ward: read_means(bank, p) for ward, p in train_prompts.items()})
distances = {
    "choosing": centres.distances(read_means(bank, encoded(choosing))),
    "counting": centres.distances(read_means(bank, encoded(counting))),
}

# %%
choose_threshold = answer("9.5")


def sent(values, t):
    """Where notes go: the lowest, or -1 above the threshold."""
    return np.where(values.min(axis=1) <= t, values.argmin(axis=1), -1)


belongs = places(counting)
results, cuts = {}, {}
for name, values in (("by loss", losses), ("by reading", distances)):
    cuts[name] = choose_threshold(values["choosing"], places(choosing))
    results[name] = sent(values["counting"], cuts[name])

# %% predict
predict("loss", "By the lowest loss: how many % of the 140 notes come to their place?", None)

# %%
hits = {name: float(np.mean(results[name] == belongs)) for name in results}
reveal("loss", 100 * hits["by loss"])
_, axes = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True)
shown = [*(ward[:7] for ward in WARDS), "none"]
for axis, (name, where) in zip(axes, results.items(), strict=True):
    table = np.zeros((N + 1, N + 1), dtype=int)
    np.add.at(table, (belongs, where), 1)  # -1, none, is the last
    axis.imshow(table, cmap="Blues")
    for i in range(N + 1):
        for j in range(N + 1):
            if table[i, j]:
                colour = "white" if table[i, j] > 10 else "black"
                axis.text(j, i, table[i, j], ha="center", va="center", color=colour)
    axis.set_xticks(range(N + 1), shown, rotation=35, ha="right")
    axis.set_yticks(range(N + 1), shown)
    axis.set(xlabel="sent to", title=f"{name}: {100 * hits[name]:.0f} % right")
axes[0].set_ylabel("belongs to")
plt.show()
for name, share in hits.items():
    low, high = wilson(140 * share, 140)
    print(f"{name}: 95 % interval {100 * low:.0f} to {100 * high:.0f} % of all such notes")

# %% [markdown]
# > **Claim.** The lowest loss brings more than 75 % of the notes to their place.
#
# > **Claim.** The nearest centre of the base's reading brings more than 80 % there, the strangers
# > included.
#
# The first was too good an idea. A specialist here has learnt how to *write*, and reads as the base
# does; another ward's note is no harder for it, and it fills its own form with the same ease. Who
# is sure is not who is right. The base, which has no opinion on forms, keeps the wards well apart,
# in one reading instead of two for each adapter.


# %% slider
def threshold(times=1.0):
    lowest = distances["counting"].min(axis=1)
    t = times * cuts["by reading"]
    plt.figure(figsize=(6, 3))
    for mask, label in ((belongs >= 0, "of a ward"), (belongs < 0, "of nobody")):
        plt.hist(lowest[mask], bins=np.linspace(0, lowest.max(), 40), alpha=0.7, label=label)
    plt.axvline(t, color="black")
    good = np.mean(sent(distances["counting"], t) == belongs)
    plt.title(f"threshold {t:.2f}: {100 * good:.0f} % come to their place")
    plt.xlabel("distance from the nearest centre")
    plt.ylabel("notes")
    plt.legend()
    plt.show()


slider(threshold, times=[0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.4, 4.0])

# %% [markdown]
# ## One reading, many answers
#
# Six wards want a summary of one note. With plain adapters the note is read six times, for each
# adapter changes what every layer makes of every token, the note's included. Unless it sleeps
# there. An *activated* adapter acts only from a few agreed tokens on, its *invocation*: here the
# tokens that open the assistant's turn, which come after the note. Up to there the model is the
# base, so the note's keys and values are the base's, and one reading serves all.

# %% exercise 9.6

# %%
from minilora.lora import LoRAConfig, attach
from minilora.nn.reading import read_past

question = tokenizer.encode_prompt(notes["cardiology"][0]["prompt"])
alone_note = tokenizer.encode_prompt("x")
common = 0  # how many last tokens any two prompts share: those that open the assistant's turn
while question[-1 - common] == alone_note[-1 - common]:
    common += 1
invocation = tuple(question[-common:])
note_tokens = len(question) - common


def keys_and_values(config):
    """The note's keys and values, and the logits after the prompt, under an adapter."""
    adapted, _ = load_pretrained(data_folder("ward-base"))
    if config is not None:
        handle = attach(adapted, config, np.random.default_rng(1))
        for layer in handle.layers.values():
            layer.lora_B.data[...] = np.random.default_rng(2).normal(0, 0.1, layer.lora_B.shape)
    cut = [np.array(question[:note_tokens])]
    pairs = read_past(adapted, cut).layers
    return np.concatenate([part.ravel() for pair in pairs for part in pair])


base_kv = keys_and_values(None)
awake = keys_and_values(LoRAConfig())
asleep = keys_and_values(LoRAConfig(invocation=invocation))
moved = {"plain": np.mean(awake != base_kv), "activated": np.mean(asleep != base_kv)}
reads = {"plain": 6 * len(question), "activated": note_tokens + 6 * common}
for name in moved:
    share, count = 100 * moved[name], reads[name]
    print(f"{name:10} {share:3.0f} % of the note's keys and values are others, {count} tokens read")

# %% [markdown]
# > **Claim.** Under an activated adapter 0 of the note's keys and values have other bits than the
# > base's.
#
# > **Claim.** For six answers about this note, it reads less than 25 % of the tokens.
#
# There is a price: the adapter can't change how the note is *read*, only what is made of it. On
# this base that loses nothing; on larger ones something is lost (the README has the figures). And
# it can't be merged, for a merged weight does not know where in the text it is.
#
# ## The claims, measured

# %% claims
claim(
    "One base and 40 sheets take less than 5 % of 40 merged copies.",
    forty / 40,
    below=1 / 20,
)
claim(
    "Its own adapter makes on average more than 50 % of a ward's summaries exact.",
    np.mean(own),
    above=0.5,
)
refuted(
    "Every ward's own adapter does so for more than 85 % of its notes.",
    own.min(),
    below=0.8,
    because="A rule that moves a drug to another line is harder than one that changes a word.",
)
claim(
    "Another ward's adapter makes less than 5 % of them exact, the interval included.",
    wilson(others * foreign.mean(), others)[1],
    below=0.05,
    answers="E24",
)
claim(
    "Of the answers of the wards' own adapters, at most 1 is another in the mixed batch than "
    "alone.",
    different,
    below=1.5,
)
assert sum(map(len, mixed.values())) == owned
refuted(
    "Mixing is free: with 32 adapters in the batch a step takes less than 1.02 times as long as "
    "with one.",
    np.median(costs[32]),
    above=1.05,
    because="The strips of a mix are two more products in every layer, and can't be merged.",
    of_time=True,
    answers="E25",
)
claim(
    "But it costs less than as much again: below 2 times.",
    np.median(costs[32]),
    below=2.0,
    of_time=True,
    answers="E25",
)
claim(
    "With room for 10 of 40 clients, more than 50 % of the requests find their sheet in memory.",
    latest[ROOM.index(10)],
    above=0.5,
)
claim(
    "A base with its heads in another order says the same to 1 part in 10,000, and with the sheet "
    "on it fewer than 20 % of the summaries are exact.",
    wilson(24 * on_moved, 24)[1],
    below=0.2,
)
assert heads_gap < 1e-4 and on_own > 0.7
refuted(
    "The lowest loss brings more than 75 % of the notes to their place.",
    hits["by loss"],
    below=0.72,
    because="A specialist writes its own form with ease whatever it reads.",
    answers="E24",
)
claim(
    "The nearest centre of the base's reading brings more than 80 % there, the strangers included.",
    hits["by reading"],
    above=0.8,
    answers="E24",
)
claim(
    "Under an activated adapter 0 of the note's keys and values have other bits than the base's.",
    moved["activated"],
    below=1e-9,
)
assert moved["plain"] > 0.5
claim(
    "For six answers about this note, it reads less than 25 % of the tokens.",
    reads["activated"] / reads["plain"],
    below=0.25,
)

# %% [markdown]
# ## What to read
#
# - L. Chen and others, "Punica: Multi-Tenant LoRA Serving", 2023: rows of one adapter side by side
#   in one product.
# - Y. Sheng and others, "S-LoRA: Serving Thousands of Concurrent LoRA Adapters", 2023: memory, and
#   who stays in it.
# - K. Greenewald and others, "Activated LoRA", 2025: adapters that sleep through the prompt.
# - In this project: `minilora/serving/mixing.py`, how rows are grouped; `minilora/serving/bank.py`;
#   and `data/router/README.md`, the routers on 600 notes.
