# The source of notebooks/00_adjustment.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 0. The adjustment layer
#
# **Time.** about 1 hour, exercises included.
#
# **What you will be able to do.** Cut a change out of a photograph, find out how thin a sheet can
# carry it, turn its volume up and down, keep a sheet for every client, and melt one into a
# finished file. Nothing here is learned yet, and everything here comes back: LoRA is this idea
# applied to the weights of a language model.
#
# **The story.** Leo has one finished photograph and two clients. One wants evening light, the
# other a cold night. He could retouch the photograph twice and store it twice; Maya asks how many
# numbers a mood really takes.

# %%
from minilora.course import pictures

pictures.adjustment()

# %% [markdown]
# This is the whole idea. The photograph is a large grid of numbers, and it is never changed. The
# mood is a second grid that is added to it, and that grid is not stored: it is the product of two
# thin strips. One dial says how strongly it is added. The rest of this chapter asks whether two
# thin strips can hold a mood at all.

# %%
import matplotlib.pyplot as plt
import numpy as np

from minilora.course import answer, check, claim, hint, predict, refuted, reveal, solution, style

style(photographs=True)

# %% [markdown]
# ## The photograph
#
# A real one: Rear Admiral Grace Hopper, who wrote the first compiler, in the picture that ships
# with matplotlib. It is three grids of numbers between 0 and 1, one each for red, green and blue.

# %%
import matplotlib.cbook as cbook
from PIL import Image

path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
photo = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255
out_features, in_features, channels = photo.shape
print(f"{channels} grids of {out_features} x {in_features}, {photo.size:,} numbers in all")

# %% [markdown]
# ## Two moods
#
# A mood is an ordinary edit, such as a photo program makes: a tone curve for each colour, a beam
# of light that falls across the picture and shows most on dark surfaces, and darker corners.
# Nothing in it was chosen to be easy to compress: the curve bends, the beam is slanted, and the
# result is clipped to what a file can hold.

# %%
down, across = np.mgrid[0 : 1 : out_features * 1j, 0 : 1 : in_features * 1j]
beam = np.exp(-(((0.8 * across + 0.6 * down - 0.55) / 0.22) ** 2))
corners = ((across - 0.5) ** 2 + (down - 0.45) ** 2) / 0.5


def mood(photo, curves, glows, darks):
    """The photo under a tone curve, a beam and dark corners, each with a strength per channel."""
    shade = 1 - photo @ [0.299, 0.587, 0.114]
    edited = np.empty_like(photo)
    for c in range(3):
        tone = photo[..., c] + curves[c] * photo[..., c] * (1 - photo[..., c])
        lit = tone + glows[c] * beam * shade
        edited[..., c] = lit * (1 - darks[c] * corners)
    return np.clip(edited, 0, 1)


evening = mood(photo, (0.5, 0.1, -0.45), (0.30, 0.12, -0.05), (0.25, 0.30, 0.20))
night = mood(photo, (-0.7, -0.5, 0.1), (-0.05, 0.02, 0.10), (0.60, 0.50, 0.30))


# %%
def show(pictures, titles, height=2.9):
    """Pictures in a row."""
    _, axes = plt.subplots(1, len(pictures), figsize=(2.35 * len(pictures), height))
    for axis, picture, title in zip(axes, pictures, titles, strict=True):
        axis.imshow(np.clip(picture, 0, 1))
        axis.set_title(title)
        axis.axis("off")
    plt.show()


show([photo, evening, night], ["the photograph", "evening", "night"])

# %% [markdown]
# ## A mood is a difference
#
# Subtract, and only the mood is left:
#
# $$\Delta = \text{evening} - \text{photo}.$$
#
# Adding $\Delta$ to the photograph gives the evening back. So far nothing is saved: $\Delta$ has as
# many numbers as the photograph. But look at it. Most of it is broad and soft.

# %%
delta = evening - photo
figure, axes = plt.subplots(1, 3, figsize=(7.1, 2.9))
for c, name in enumerate(("red", "green", "blue")):
    picture = axes[c].imshow(delta[..., c], cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    axes[c].set_title(f"{name}: evening − photo")
    axes[c].axis("off")
figure.colorbar(picture, ax=axes, label="change", shrink=0.8)
plt.show()

# %% [markdown]
# ## How many directions does it use?
#
# Take one column of numbers and one row of numbers, and multiply every number of the column by
# every number of the row. That fills a grid from very little: a column of 600 and a row of 512 make
# 307,200 numbers out of 1,112. Such a grid is called an *outer product*, and it can show only one
# pattern: each of its rows is the same row, louder or softer.
#
# Add a second outer product, and a third, and the sum can show more. Any grid is a sum of enough of
# them. The *singular value decomposition* (SVD) finds the best such sum, strongest term first:
#
# $$\begin{gathered}
# \Delta = \sum_{i=1}^{n} \sigma_i\, u_i v_i^{\top}, \\[4pt]
# \sigma_1 \ge \sigma_2 \ge \dots \ge 0,
# \end{gathered}$$
#
# Here $u_i$ is a column, $v_i$ (written lying down, $v_i^\top$) is a row, and the number
# $\sigma_i$, the *singular value*, says how strong this term is. The columns have length one and
# are at right angles to each other, and so have the rows. We call one such term a *direction*. The
# *rank* of a grid is how many it needs. Cut the sum after $r$ terms and you hold the best
# approximation of rank $r$ there is (Eckart and Young, 1936). Since the terms are at right angles,
# their energies add up,
#
# $$\|\Delta\|^2 = \sigma_1^2 + \dots + \sigma_n^2,$$
#
# and what the cut leaves over is the sum of the squares that were cut off.


# %%
def singular_values(grid):
    """Singular values of each channel, strongest first, (3, n)."""
    return np.array([np.linalg.svd(grid[..., c], compute_uv=False) for c in range(3)])


def held(values):
    """Share of the energy that the first 1, 2, 3, ... values hold, along the last axis."""
    energy = values**2
    return np.cumsum(energy, axis=-1) / energy.sum(axis=-1, keepdims=True)


noise = np.random.default_rng(0).standard_normal(photo.shape)
spectra = {name: held(singular_values(g)) for name, g in [("edit", delta), ("noise", noise)]}
held_edit = spectra["edit"]

# %% predict
predict("directions", "Of 512 directions, how many hold 90 % of the red edit's energy?", None)

# %%
_, axis = plt.subplots()
ranks = np.arange(1, 129)
for c, name in enumerate(("red", "green", "blue")):
    axis.plot(ranks, held_edit[c, :128], color=f"tab:{name}", label=f"evening edit, {name}")
axis.plot(ranks, spectra["noise"][0, :128], color="gray", linestyle="--", label="pure noise")
axis.axvline(8, color="black", linewidth=0.8)
axis.set(xscale="log", xlabel="rank r of the sheet", ylabel="share of the energy held")
axis.set(ylim=(0, 1.02), xticks=[1, 2, 4, 8, 16, 32, 64, 128])
axis.set_xticklabels([1, 2, 4, 8, 16, 32, 64, 128])
axis.legend()
plt.show()

# %% [markdown]
# Pure noise has no directions to prefer, and needs nearly all of them. The edit has a few that
# matter and a long tail that hardly does.

# %% exercise 0.1

# %%
rank_for = answer("0.1")
values = singular_values(delta)
for share in (0.8, 0.9, 0.95, 0.99):
    needed = [rank_for(values[c], share) for c in range(3)]
    print(f"{100 * share:.0f} % of the edit: rank {needed[0]}, {needed[1]}, {needed[2]}")
reveal("directions", rank_for(values[0], 0.9))

# %% [markdown]
# Red, green and blue do not agree, and that will come back as well: layers of a model do not need
# the same rank either.
#
# ## The sheet
#
# So write the sheet as two thin strips. $B$ has a row for every row of the grid and $r$ columns;
# $A$ has $r$ rows and a column for every column of the grid:
#
# $$\begin{gathered}
# \Delta \approx B A, \\[4pt]
# B:\ (\text{out}, r), \quad A:\ (r, \text{in}).
# \end{gathered}$$

# %% exercise 0.2

# %% exercise 0.3

# %%
thin_sheet, count_sheet = answer("0.2"), answer("0.3")


def sheets_for(edited, r):
    """One sheet (B, A) a channel for what was done to the photo."""
    return [thin_sheet(edited[..., c] - photo[..., c], r) for c in range(3)]


def wear(sheets, volume=1.0):
    """The photo with a sheet on every channel."""
    return photo + volume * np.stack([B @ A for B, A in sheets], axis=-1)


sheets = {r: sheets_for(evening, r) for r in (1, 4, 8, 32)}
for r in sheets:
    share = count_sheet(out_features, in_features, r) / (out_features * in_features)
    left = np.sqrt(np.mean((wear(sheets[r]) - evening) ** 2))
    print(f"rank {r:2}: {100 * share:4.2g} % of the numbers, off by {left:.2g} on average")

# %% [markdown]
# This is what the strips look like: the grid that they stand for, in the red channel, with $B$ at
# its left and $A$ above it, both at rank 8. Each column of $B$ is a pattern from top to bottom,
# each row of $A$ one from left to right.

# %%
B, A = sheets[8][0]
figure, axes = plt.subplots(
    2, 2, figsize=(4.6, 4.6), width_ratios=(1, 6), height_ratios=(1, 6), sharex="col", sharey="row"
)
strength = np.abs(B @ A).max()
for axis, part, title in (
    (axes[0, 1], A, "A: 8 rows"),
    (axes[1, 0], B / np.abs(B).max(), "B: 8 columns"),
    (axes[1, 1], B @ A / strength, ""),
):
    axis.imshow(part / np.abs(part).max(), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])
axes[1, 1].set_xlabel("B A, red channel")
axes[0, 0].axis("off")
plt.show()

# %% [markdown]
# And this is the photograph with sheets of three thicknesses. They look alike, so below each stands
# what it gets wrong, made five times as strong; grey is no error.

# %%
worn = [wear(sheets[r]) for r in (1, 8, 32)]
show([*worn, evening], ["rank 1", "rank 8", "rank 32", "the real edit"])
show(
    [0.5 + 5 * (picture - evening) for picture in [*worn, evening]],
    ["error × 5", "error × 5", "error × 5", "none"],
)

# %% [markdown]
# > **Claim.** The best sheet of rank 8 holds on average more than 90 % of the edit's energy, in
# > less than 3 % of the edit's numbers.
#
# > **Claim.** A sheet of rank 8 holds less than 10 % of the energy of pure noise: thin works
# > because of what an edit is like, and not because SVD is clever.
#
# Two sentences that sound right and are not. They stay here because both are said of language
# models too.
#
# > **Claim.** The edit is of low rank: no channel needs more than 50 of its 512 directions.
#
# > **Claim.** Rank 8 is enough for every channel to keep 95 % of its energy.
#
# "Almost everything in few directions" is not "low rank". All 512 directions are used; most of them
# only a little, and these faint ones draw fine detail, such as the rim of a pair of glasses. Green
# keeps the smallest share of its energy, although green was edited the least. The reason: in green
# the bright beam and the dark corners nearly cancel each other. Both are broad patterns, which few
# directions can hold. What is left when they cancel is fine detail, and that needs many.
#
# > **Claim.** Without the dark corners, a sheet of rank 8 holds more than 95 % of the green edit.
#
# ## The volume dial
#
# A sheet need not be worn at full strength. Let $\alpha$ be a dial and divide by the rank:
#
# $$\text{photo} + \frac{\alpha}{r}\, B A.$$
#
# At $\alpha = 0$ the photograph is untouched. With $\alpha = r$ you get the edit as it was cut.

# %% exercise 0.4

# %%
turn_dial = answer("0.4")


def dialled(alpha, r=8):
    """The photo with the evening sheet of rank r at volume alpha / r."""
    return np.stack([turn_dial(photo[..., c], *sheets[r][c], alpha) for c in range(3)], axis=-1)


show([dialled(a) for a in (0, 4, 8, 16)], [f"α = {a}, r = 8" for a in (0, 4, 8, 16)])

# %% [markdown]
# Twice the volume overshoots. The strips say *which way* to change the photograph; how far to go is
# not in them. That is what $\alpha$ says. In JupyterLab you can turn the dial yourself; the row of
# pictures above says the same.


# %% slider
from minilora.course import slider


def turn(alpha=8.0):
    plt.figure(figsize=(3.2, 3.6))
    plt.imshow(np.clip(dialled(alpha), 0, 1))
    plt.title(f"α = {alpha:.3g}, r = 8")
    plt.axis("off")
    plt.show()


slider(turn, alpha=(0.0, 16.0, 0.5))

# %% [markdown]
# ## A sheet for every client
#
# The question of chapter 9, in small. The photograph is stored once. Each client costs one sheet,
# and changing clients is changing sheets: nothing is retouched, and nothing has to be undone.

# %%
clients = {"evening": sheets[8], "night": sheets_for(night, 8)}
show(
    [photo, wear(clients["evening"]), wear(clients["night"])],
    ["no sheet", "evening, r = 8", "night, r = 8"],
)

# %%
grid = photo.size
sheet = channels * count_sheet(out_features, in_features, 8)
for count in (1, 10, 100):
    copies, thin = count * grid, grid + count * sheet
    print(f"{count:3} clients: {copies:,} numbers as copies, {thin:,} as one photo and sheets")

# %% [markdown]
# > **Claim.** For 100 clients, one photograph and 100 sheets of rank 8 take less than 1/20 of the
# > numbers of 100 retouched copies.
#
# ## Flatten
#
# In the end a client wants one ordinary file, which opens anywhere and shows as fast as any other.
# So add the sheet in and forget that it was one.

# %% exercise 0.5

# %% [markdown]
# What you can't do is take it off again. Stored numbers are rounded, so taking away what you added
# does not quite lead back. Try it in single precision, the way weights are kept:

# %%
flatten = answer("0.5")
original = photo[..., 0].astype(np.float32)
B, A = (part.astype(np.float32) for part in sheets[8][0])
flat = flatten(original, [(B, A, 8.0)])
peeled = flat - B @ A
changed = np.mean(peeled != original)
print(f"{100 * changed:.2g} % of the numbers are no longer what they were")
print(f"largest difference {np.abs(peeled - original).max():.1g}")

# %% [markdown]
# > **Claim.** Subtracting a flattened sheet leaves more than 10 % of the numbers changed.
#
# The differences are tiny, and they are not zero. Whoever wants to return to the photograph bit
# for bit keeps the photograph. minilora does that with weights: `merge` keeps the old array, and
# `unmerge` puts this very array back.
#
# ## From a photograph to a model
#
# A weight matrix $W$ of a language model is such a grid, out rows by in columns. Its size in a
# model of seven billion weights is 4096 by 4096. A sheet of rank 8 for it:

# %%
print(f"grid {4096 * 4096:,}, sheet {count_sheet(4096, 4096, 8):,}")

# %% [markdown]
# > **Claim.** A sheet of rank 8 has 1/256 of the numbers of a 4096 by 4096 grid.
#
# One thing is different, and it is the subject of the rest of this course. Here we had the finished
# evening picture and could cut the sheet out of it. For a model nobody has the finished $W$. What
# we have is examples of what it should say, and so $B$ and $A$ have to be *learned*. That takes
# gradients, and they come next.
#
# ## The claims, measured

# %% claims
at_eight = held_edit[:, 7]
sheet_share = count_sheet(out_features, in_features, 8) / (out_features * in_features)
claim(
    "The best sheet of rank 8 holds on average more than 90 % of the edit's energy, in less than "
    "3 % of the edit's numbers.",
    at_eight,
    above=0.9,
    each="channels",
)
assert sheet_share < 0.03, sheet_share
claim(
    "A sheet of rank 8 holds less than 10 % of the energy of pure noise: thin works because of "
    "what an edit is like, and not because SVD is clever.",
    spectra["noise"][:, 7],
    below=0.1,
    each="channels",
)
refuted(
    "The edit is of low rank: no channel needs more than 50 of its 512 directions.",
    [np.linalg.matrix_rank(delta[..., c]) for c in range(3)],
    above=500,
    each="channels",
    because="All directions are used. A few of them carry most of the energy, which is another "
    "thing than a low rank.",
)
refuted(
    "Rank 8 is enough for every channel to keep 95 % of its energy.",
    at_eight.min(),
    below=0.93,
    because="In green the beam and the dark corners nearly cancel where they are broad, so more of "
    "what is left is detail.",
)
no_corners = mood(photo, (0.5, 0.1, -0.45), (0.30, 0.12, -0.05), (0, 0, 0)) - photo
claim(
    "Without the dark corners, a sheet of rank 8 holds more than 95 % of the green edit.",
    held(singular_values(no_corners))[1, 7],
    above=0.95,
)
claim(
    "For 100 clients, one photograph and 100 sheets of rank 8 take less than 1/20 of the numbers "
    "of 100 retouched copies.",
    (grid + 100 * sheet) / (100 * grid),
    below=0.05,
)
claim(
    "Subtracting a flattened sheet leaves more than 10 % of the numbers changed.",
    changed,
    above=0.1,
)
claim(
    "A sheet of rank 8 has 1/256 of the numbers of a 4096 by 4096 grid.",
    4096**2 / count_sheet(4096, 4096, 8),
    above=255,
    below=257,
    answers="E3",
)

# %% [markdown]
# ## What to read
#
# - C. Eckart and G. Young, "The approximation of one matrix by another of lower rank",
#   Psychometrika, 1936: why the cut SVD is the best one.
# - E. Hu and others, "LoRA: Low-Rank Adaptation of Large Language Models", 2021, sections 1 and 4:
#   the same picture with weights.
# - In this project: `minilora/lora/layer.py`, where $\Delta W = \frac{\alpha}{r} B A$ is written
#   down once.
