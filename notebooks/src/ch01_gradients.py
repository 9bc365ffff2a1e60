# The source of notebooks/01_gradients.ipynb; notebooks/WRITING.md says how chapters are made.

# %% [markdown]
# # 1. Gradients by hand
#
# **Time.** about 3 hours, exercises included.
#
# **What you will be able to do.** Derive the gradient of any operation as one small function per
# input, check it against numbers that know nothing of your derivation, tell when such a check is
# blind, and say why a frozen weight costs nothing.
#
# **The story.** Leo has written a gradient. His test is green, and the model learns nothing. Maya
# asks what the test would have said to a wrong one. They plant mistakes, and most of them pass.

# %%
from minilora.course import pictures

pictures.gradient_graph()

# %% [markdown]
# A model is such a graph, only longer: numbers flow from left to right and end in one number, the
# *loss*, which says how wrong the model is. To make it less wrong we ask of every weight: if it
# grew a little, by how much would the loss grow? That slope is its *gradient*. The dashed arrows
# show how it is found: from the loss backwards, one operation at a time.
#
# ## Once with numbers
#
# Take $y = x w + b$ with $x = 2$, $w = 3$, $b = 1$, and the loss $L = y^2$. Forwards: $y = 7$ and
# $L = 49$. Now backwards, with a pencil:
#
# - The loss is $y^2$. If $y$ grows by a little, $L$ grows by $2y = 14$ times as much. Call that
#   number $g = 14$; it is what the square hands back to the sum.
# - The sum passes $g$ on to both of its parts unchanged, because when $b$ grows by a little, $y$
#   grows by the same. So the gradient of $b$ is $14$.
# - The product hands each factor $g$ times the *other* factor: $w$ gets $14 \cdot 2 = 28$, and $x$
#   gets $14 \cdot 3 = 42$.
#
# Is it right? Nudge $w$ to $3.001$: then $y = 7.002$ and $L = 49.028$. The loss grew by $28$ times
# the nudge. Notice what each operation had to know: the number $g$ that it was handed, its own
# inputs, and nothing else of the model.

# %%
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np

from minilora.autograd import Tensor
from minilora.course import answer, check, claim, hint, predict, refuted, reveal, solution, style

style()
x, w, b = (Tensor(np.array(v), requires_grad=True) for v in (2.0, 3.0, 1.0))
y = x * w + b
(y * y).backward()
print(f"gradient of x {x.grad:.3g}, of w {w.grad:.3g}, of b {b.grad:.3g}")

# %% [markdown]
# ## One small function per input
#
# The same with arrays. At each operation $y = f(x)$ somebody hands you the slope of the loss along
# every entry of $y$,
#
# $$g = \frac{\partial L}{\partial y},$$
#
# an array of $y$'s shape. It is called the *cotangent*; the 14 above was one. You owe the same
# thing for the input, an array of $x$'s shape:
#
# $$g_x = \left(\frac{\partial y}{\partial x}\right)^{\!\top} g .$$
#
# The matrix of all slopes $\partial y / \partial x$ is called the Jacobian, and the function from
# $g$ to $g_x$ is the *vjp*, the vector-Jacobian product. The Jacobian itself is never built: for $y
# = \tanh x$ it would be a large matrix with numbers on its diagonal only, while the vjp is a
# product of two arrays, $g_x = g\,(1 - y^2)$.
#
# In minilora an operation computes its result and records one vjp for each input. That is all
# there is:

# %%
work = {"backward": 0}  # multiplications, counted for later


def times(x, W):
    """x W^T for rows x (n, in) and W (out, in)."""
    n, (out_features, in_features) = x.shape[0], W.shape

    def grad_x(g):
        work["backward"] += n * out_features * in_features
        return g @ W.data

    def grad_W(g):
        work["backward"] += n * out_features * in_features
        return g.T @ x.data

    return Tensor.from_op(x.data @ W.data.T, (x, grad_x), (W, grad_W))


# %% [markdown]
# Where do `g @ W` and `g.T @ x` come from? Write the product with its indices, and each of the two
# falls out as a sum. Derive them before you look back up.

# %% exercise 1.1

# %% [markdown]
# ## An entry that is used many times
#
# A bias of shape `(3,)` is added to five rows. NumPy repeats it quietly, and each of its entries
# ends up in five places. Nudge the entry and all five move. So its gradient is the *sum* over its
# copies:
#
# $$y_{nj} = x_{nj} + b_j \;\Rightarrow\; (g_b)_j = \sum_n g_{nj}.$$
#
# This is one rule for everything that is shared: a bias over a batch, a norm's weight over all
# positions, an embedding row over all places where its word stands.

# %% exercise 1.2

# %%
unbroadcast = answer("1.2")
g = np.arange(15.0).reshape(5, 3)
print(unbroadcast(g, (3,)), unbroadcast(g, (5, 1)).tolist())

# %% [markdown]
# ## Why the order matters: the diamond
#
# The graph above was a chain. Most are not: a value is used in two places, its two ways meet again,
# and the graph has the shape of a diamond. Take $a = 3x$ and $c = a + a^2$. The value $a$ is used
# twice, and its cotangent has two parts: $1$ from the sum and $2a$ from the square. At $x = 2$,
#
# $$\frac{dc}{dx} = 3\,(1 + 2a) = 39 .$$
#
# A walk that sends on what it has as soon as it reaches $a$ sends on the first part only. Here are
# two walks over the graph that minilora records: `node.parents` are the values that a result was
# computed from, and a *leaf* is where the graph ends, here $x$. Each walk returns the gradient at
# the leaf and how many vjps it called. A third, the right one, is your exercise.


# %%
ONE = np.array(1.0)  # the cotangent of the loss itself


def as_they_come(root):
    """Handle every node when it is first reached, with what has arrived by then."""
    sums, queue, done, calls = {id(root.node): ONE}, [root.node], set(), 0
    while queue:
        node = queue.pop(0)
        if id(node) in done:
            continue
        done.add(id(node))
        for parent, vjp in zip(node.parents, node.vjps, strict=True):
            sums[id(parent)] = sums.get(id(parent), 0.0) + vjp(sums[id(node)])
            calls += 1
            if isinstance(parent, Tensor):
                leaf = parent
            else:
                queue.append(parent)
    return float(sums[id(leaf)]), calls


def every_path(node, g=ONE):
    """Send every part on alone, down every path to the leaf."""
    total, calls = 0.0, 0
    for parent, vjp in zip(node.parents, node.vjps, strict=True):
        part, more = (vjp(g), 0) if isinstance(parent, Tensor) else every_path(parent, vjp(g))
        total, calls = total + part, calls + 1 + more
    return float(total), calls


# %%
x = Tensor(np.array(2.0), requires_grad=True)
a = x * 3.0
c = a + a * a
for walk, (gradient, called) in {
    "as they come": as_they_come(c),
    "every path": every_path(c.node),
}.items():
    print(f"{walk:12} gradient {gradient:.3g}, {called} vjps called")

# %% [markdown]
# The first is wrong. The second is right, and look what becomes of it when diamonds are stacked,
# as the residual connections of a Transformer stack them: each multiplies the number of paths. The
# way out is an order in which a node's turn comes after everyone who uses it.

# %% exercise 1.3

# %%
backward_order = answer("1.3")


def in_order(root):
    """Handle every node after all that use it."""
    nodes, parents, waiting = {}, {}, [root.node]
    while waiting:
        node = waiting.pop()
        nodes[id(node)] = node
        below = [] if isinstance(node, Tensor) else list(node.parents)
        parents[id(node)] = [id(parent) for parent in below]
        waiting.extend(parent for parent in below if id(parent) not in nodes)
    sums, calls = {id(root.node): ONE}, 0
    for key in backward_order(id(root.node), parents):
        node = nodes[key]
        if isinstance(node, Tensor):
            return float(sums[key]), calls
        for parent, vjp in zip(node.parents, node.vjps, strict=True):
            sums[id(parent)] = sums.get(id(parent), 0.0) + vjp(sums[key])
            calls += 1


def ladder(rungs):
    """h <- h / 2 + h h, `rungs` times: a diamond on a diamond."""
    leaf = Tensor(np.array(0.3), requires_grad=True)
    h = leaf * 1.0
    for _ in range(rungs):
        h = h * 0.5 + h * h
    return leaf, h


calls = {"every path": [], "in order": []}
rungs = list(range(1, 8))
for count in rungs:
    leaf, top = ladder(count)
    alone, ordered = every_path(top.node), in_order(top)
    assert np.isclose(alone[0], ordered[0])
    calls["every path"].append(alone[1])
    calls["in order"].append(ordered[1])

# %% predict
predict(
    "diamonds", "Seven diamonds in a row: how many times the vjps does every path alone call?", None
)

# %%
reveal("diamonds", calls["every path"][-1] / calls["in order"][-1])
_, axis = plt.subplots()
axis.plot(rungs, calls["every path"], "o-", label="every path alone")
axis.plot(rungs, calls["in order"], "s-", label="in topological order")
axis.set(yscale="log", xlabel="diamonds on top of each other", ylabel="vjps called")
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** In the diamond, handling nodes as they come loses more than 90 % of the gradient.
#
# > **Claim.** With 7 diamonds on top of each other, walking every path alone takes more than
# > 50 times as many vjps as the topological order.
#
# `Tensor.backward` walks in topological order, without recursion, because a deep model would hit
# Python's limit. Both walks agree with it:

# %%
leaf, top = ladder(7)
ordered = in_order(top)[0]
top.backward()
print(f"in order {ordered:.3g}, Tensor.backward {float(leaf.grad):.3g}")

# %% [markdown]
# ## Numbers that know nothing of your derivation
#
# A derivation can be wrong, so we want a witness. Nudge one entry up, nudge it down, and see how
# fast the loss moves. By Taylor,
#
# $$\begin{aligned}
# &\frac{f(x + \epsilon) - f(x - \epsilon)}{2\epsilon} \\
# &\quad = f'(x) + \frac{\epsilon^2}{6} f'''(x) + \dots
# \end{aligned}$$
#
# The error falls with $\epsilon^2$. To one side only it would fall with $\epsilon$.

# %% exercise 1.4

# %% [markdown]
# So make $\epsilon$ tiny? The two values of $f$ then agree in nearly all their digits, and the
# difference is made of rounding: an error of about $u / \epsilon$, where $u$ is $10^{-16}$ in
# float64 and $6 \cdot 10^{-8}$ in float32. So there are two errors. The smaller the step, the
# larger is the rounding error $u / \epsilon$. The larger the step, the larger is the error
# $\epsilon^2$ of the curve, which is not a straight line. The best step lies between.

# %%
STEPS = 10.0 ** np.arange(-10, 0, 0.5)


def difference_error(seed, dtype, eps, two_sided=True):
    """Relative error of finite differences for f(x) = sum(c tanh(x)), computed in dtype."""
    rng = np.random.default_rng(seed)
    x, c = rng.standard_normal((2, 40)).astype(dtype)
    exact = c * (1 - np.tanh(x) ** 2)
    step = dtype(eps)
    high = c * np.tanh(x + step)  # each entry moves its own term of the sum only
    low = c * np.tanh(x - step) if two_sided else c * np.tanh(x)
    rest = (c * np.tanh(x)).sum(dtype=dtype)
    slopes = ((high + rest) - (low + rest)) / (step * dtype(2 if two_sided else 1))
    return float(np.linalg.norm(slopes - exact) / np.linalg.norm(exact))


seeds = range(5)
curves = {
    "float64, two-sided": (np.float64, True),
    "float64, one-sided": (np.float64, False),
    "float32, two-sided": (np.float32, True),
}
errors = {
    name: np.array([[difference_error(s, dtype, e, two) for e in STEPS] for s in seeds])
    for name, (dtype, two) in curves.items()
}

# %%
_, axis = plt.subplots()
for name, found in errors.items():
    axis.plot(STEPS, found.mean(axis=0), "o-", markersize=3, label=name)
axis.axvline(1e-6, color="black", linewidth=0.8)
axis.set(xscale="log", yscale="log", xlabel="step ε", ylabel="relative error")
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** In float64 the two-sided difference with a step of 1e-6 is right to better than 1e-8.
#
# > **Claim.** In float32 with the same step of 1e-6 it is wrong by more than 1 %.
#
# That says little about float32 itself: $10^{-6}$ is the wrong step for it. Its curve in the figure
# has its best place near $10^{-2}$, where it is right to better than one part in ten thousand. With
# room for functions that are more curved, that makes a good check in float32: a step of $10^{-2}$
# and a tolerance of $10^{-3}$.
#
# Is it good enough? Plant mistakes of every size, from one part in ten million to the whole, and
# ask which check lets them pass. A check also has to let the right gradient pass, or it is of no
# use.


# %%
SIZES = 10.0 ** np.arange(-7, 0.5, 0.5)
GOOD = {  # dtype, step, tolerance
    "float32, step 1e-2, tolerance 1e-3": (np.float32, 1e-2, 1e-3),
    "float64, step 1e-6, tolerance 1e-6": (np.float64, 1e-6, 1e-6),
}


def lets_pass(seed, dtype, eps, tolerance):
    """Whether a check passes the gradient of W times 1 + size, for every size, and for 0."""
    rng = np.random.default_rng(seed)
    x, g, W = rng.standard_normal((3, 4, 4)).astype(dtype)
    right = (g * (1 - np.tanh(x @ W.T) ** 2)).T @ x
    slopes = np.zeros_like(W)
    for place in np.ndindex(W.shape):
        step = np.zeros_like(W)
        step[place] = eps
        high, low = ((g * np.tanh(x @ (W + way * step).T)).sum() for way in (1, -1))
        slopes[place] = (high - low) / dtype(2 * eps)
    scale = np.abs(slopes).max()
    return [
        bool(np.abs(slopes - dtype(1 + size) * right).max() / scale < tolerance)
        for size in (0.0, *SIZES)
    ]


seen = {name: np.array([lets_pass(s, *good) for s in range(100)]) for name, good in GOOD.items()}
for name, found in seen.items():
    print(f"{name}: the right gradient passes in {found[:, 0].sum()} of 100 trials")

# %%
_, axis = plt.subplots()
for name, found in seen.items():
    axis.plot(SIZES, 100 * found[:, 1:].mean(axis=0), "o-", markersize=4, label=name)
axis.set(xscale="log", xlabel="size of the planted mistake, as a share of the gradient")
axis.set(ylabel="lets it pass, %")
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** With a step of 1e-2 and a tolerance of 1e-3 float32 lets 0 of 100 planted mistakes of
# > 1 % pass.
#
# > **Claim.** It lets more than 90 % of the mistakes of one part in ten thousand pass.
#
# > **Claim.** float64 lets 0 % of those pass.
#
# So a check in float32 can be good: nobody forgets a factor of 1.0001. Two reasons are left to
# check in float64. The step that is right for float32 depends on how curved the function is, while
# in float64 one step serves nearly everything. And what float32 can't see is not only a factor: a
# wrong gradient in one rarely used corner may be that small. From here on gradients are checked in
# float64, with a step of $10^{-6}$, and asked to agree to $10^{-6}$. Training then runs the same
# formulas in float32.
#
# ## Blind checks
#
# Now plant mistakes and see who notices. Four ways to check, each of which looks reasonable, and
# each beside one that sees.
#
# 1. *The sum as the loss.* A check needs one number, so why not `softmax(x).sum()`? Because that is
#    1 for every $x$. Its gradient is zero, and so is any multiple of it.
# 2. *A fresh adapter.* LoRA starts with $B = 0$. Then the gradient of $A$, which is
#    $s B^\top g^\top x$, is zero whatever formula you wrote.
# 3. *Ones everywhere.* With $x$ and $g$ full of ones, $g^\top x$ is symmetric, and nobody can tell
#    it from its transpose.
# 4. *float32 with the step of float64.* Above: so much rounding comes in that the tolerance has to
#    be set to a half, or the right gradient would fail.
#
# Each mistake below is a wrong vjp. A check is asked whether it agrees with finite differences.


# %%
def slopes(f, x, eps):
    """Central differences of f at x, in x's precision."""
    out = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = eps
        out[place] = (f(x + step) - f(x - step)) / (2 * eps)
    return out


def agrees(claimed, f, x, eps=1e-6, tolerance=1e-6):
    """What a check says: claimed is as good as equal to the slopes of f."""
    found = slopes(f, x, eps)
    size = max(np.abs(found).max(), np.abs(claimed).max(), 1e-3)  # what is smaller is rounding
    return bool(np.abs(found - claimed).max() / size < tolerance)


def rows_softmax(x):
    """Softmax of each row."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


# %%
def softmax_mistakes(g, p):
    """Wrong vjps of softmax, by name."""
    right = p * (g - (g * p).sum(axis=-1, keepdims=True))
    return {
        "wrong sign": -right,
        "5 times too large": 5 * right,
        "zeros": 0 * right,
        "diagonal only": p * (1 - p) * g,
        "mean for the weighted sum": p * (g - g.mean(axis=-1, keepdims=True)),
    }


def lora_mistakes(g, x, A, B, s):
    """Wrong gradients of A in y = s x A^T B^T, by name."""
    right = s * (g @ B).T @ x
    return {
        "wrong sign": -right,
        "alpha / r forgotten": right / s,
        "alpha / r twice": right * s,
        "zeros": 0 * right,
        "rows of A exchanged": right[::-1],
    }


def linear_mistakes(g, x):
    """Wrong gradients of a square W in y = x W^T, by name."""
    right = g.T @ x
    return {"transposed": right.T, "columns reversed": right[:, ::-1], "rows reversed": right[::-1]}


# %%
def softmax_check(seed, careless):
    rng = np.random.default_rng(seed)
    x, g = rng.standard_normal((2, 3, 5))
    g = np.ones_like(g) if careless else g
    return {
        name: agrees(wrong, lambda v: (g * rows_softmax(v)).sum(), x)
        for name, wrong in softmax_mistakes(g, rows_softmax(x)).items()
    }


def lora_check(seed, careless):
    rng = np.random.default_rng(seed)
    x, A, B, g = (rng.standard_normal(s) for s in ((7, 5), (2, 5), (4, 2), (7, 4)))
    B, s = (0 * B if careless else B), 3.0 / 2
    return {
        name: agrees(wrong, lambda v: (g * (s * x @ v.T @ B.T)).sum(), A)
        for name, wrong in lora_mistakes(g, x, A, B, s).items()
    }


def linear_check(seed, careless):
    rng = np.random.default_rng(seed)
    x, g, W = rng.standard_normal((3, 4, 4))
    x, g = (np.ones_like(x), np.ones_like(g)) if careless else (x, g)
    return {
        name: agrees(wrong, lambda v: (g * (x @ v.T)).sum(), W)
        for name, wrong in linear_mistakes(g, x).items()
    }


def precision_check(seed, careless):
    rng = np.random.default_rng(seed)
    x, g, W = rng.standard_normal((3, 4, 4)).astype(np.float32 if careless else np.float64)
    right = g.T @ x
    tolerance = 0.5 if careless else 1e-6  # in float32 a right gradient needs as much as this
    return {
        name: agrees(wrong, lambda v: (g * (x @ v.T)).sum(), W, tolerance=tolerance)
        for name, wrong in {"1 % too large": 1.01 * right, "9 % too large": 1.09 * right}.items()
    }


checks = {
    "softmax, sum as the loss": softmax_check,
    "LoRA's A, B = 0": lora_check,
    "square W, all ones": linear_check,
    "W, float32 with a step of 1e-6": precision_check,
}
missed = {
    name: {
        kind: [np.mean(list(one(seed, kind == "careless").values())) for seed in seeds]
        for kind in ("careless", "careful")
    }
    for name, one in checks.items()
}
for name, found in missed.items():
    share = {kind: 100 * np.mean(values) for kind, values in found.items()}
    print(
        f"{name:30} careless lets {share['careless']:3.0f} % pass, careful {share['careful']:.0f} %"
    )

# %% predict
predict("blind", "Of all these planted mistakes, how many % pass the four careless checks?", None)

# %%
reveal("blind", float(100 * np.mean([found["careless"] for found in missed.values()])))
_, axis = plt.subplots(figsize=(6.4, 2.6))
rows = np.arange(len(missed))
for shift, kind, colour in ((-0.2, "careless", "tab:red"), (0.2, "careful", "tab:blue")):
    shares = [100 * np.mean(found[kind]) for found in missed.values()]
    bars = axis.barh(rows + shift, shares, height=0.36, color=colour, label=kind)
    axis.bar_label(bars, fmt="%.0f %%", padding=3)
axis.set(
    yticks=rows, xlabel="planted mistakes that pass, %", xlim=(0, 160), xticks=range(0, 101, 20)
)
axis.set_yticklabels(list(missed))
axis.invert_yaxis()
axis.legend(loc="center right")
plt.show()

# %% [markdown]
# > **Claim.** The four careless checks together let more than 60 % of the planted mistakes pass.
#
# > **Claim.** The four careful checks let 0 of them pass.
#
# From here on: a random cotangent, $A$ and $B$ not zero, $\alpha \ne r$, sides of different
# lengths, float64. And one habit more: a gradient that is zero everywhere proves nothing, so
# minilora's checker refuses it. Ask it about $A$ with a fresh adapter:


# %%
from minilora.gradients.gradcheck import check_gradients


def adapted(A, B=np.zeros((4, 2))):
    """x A^T B^T with a B that is not trained."""
    rows = Tensor(np.random.default_rng(0).standard_normal((7, 5)))
    return times(times(rows, A), Tensor(B))


rng = np.random.default_rng(1)
report = check_gradients(adapted, {"A": rng.standard_normal((2, 5))}, rng=rng)
print(report.ok, "-", report.rows[0].problem)

# %% exercise 1.5

# %%
softmax = answer("1.5")
report = check_gradients(softmax, {"x": rng.standard_normal((3, 5))}, rng=rng)
print("softmax agrees with finite differences:", report.ok)

# %% [markdown]
# ## A frozen weight costs nothing
#
# `times` has two vjps, and each is a matrix product as large as the forward one. If $W$ is frozen,
# nobody will ask for its gradient. minilora keeps a vjp only where its input needs one, so that
# product is not computed and thrown away: it is never computed.
#
# Take six layers $h \leftarrow \tanh(h W^\top + s\, h A^\top B^\top)$ and count multiplications of
# the backward walk in three ways: everything trained; only $A$ and $B$, with $W$ frozen; and only
# $A$ and $B$, by a program that computes $W$'s gradient anyway and ignores it.


# %%
def tanh(x):
    """tanh with its vjp."""
    y = np.tanh(x.data)
    return Tensor.from_op(y, (x, lambda g: g * (1 - y * y)))


def backward_work(width, r, layers=6, rows=32, *, train_W, sheets=True):
    """Multiplications of one backward walk."""
    rng = np.random.default_rng(0)

    def normal(*shape, train):
        return Tensor(rng.standard_normal(shape) / width**0.5, requires_grad=train)

    h = normal(rows, width, train=False)
    for _ in range(layers):
        y = times(h, normal(width, width, train=train_W))
        if sheets:
            thin = times(h, normal(r, width, train=True))
            y = y + times(thin, normal(width, r, train=True)) * 0.5
        h = tanh(y)
    work["backward"] = 0
    (h * h).sum().backward()
    return work["backward"]


widths = [32, 64, 128, 256]
full = np.array([backward_work(w, 4, train_W=True, sheets=False) for w in widths])
pruned = np.array([backward_work(w, 4, train_W=False) for w in widths])
ignored = np.array([backward_work(w, 4, train_W=True) for w in widths])

# %%
_, axis = plt.subplots()
axis.plot(widths, ignored / full, "^-", label="A and B, W's gradient computed and ignored")
axis.plot(widths, full / full, "o-", label="all of W")
axis.plot(widths, pruned / full, "s-", label="A and B, W frozen")
axis.set(xscale="log", xticks=widths, xlabel="width of a layer", ylim=(0, 2))
axis.set(ylabel="multiplications, backward\n(all of W = 1)")
axis.set_xticklabels(widths)
axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# > **Claim.** At width 256 and rank 4 the backward walk with W frozen takes less than 60 % of the
# > multiplications of training W.
#
# > **Claim.** Freezing W makes the backward walk free: it takes less than 10 % of the
# > multiplications of training W.
#
# The second sentence is what people hope for. It fails for a reason worth knowing: to reach the
# sheets of the layer below, the cotangent still has to pass through $W$. Freezing saves $W$'s own
# gradient, one product of two. The forward walk and the way through stay.
#
# And the program that computes and ignores pays more than full training does, because the sheets
# come on top.
#
# There is a second saving. A vjp captures what it needs: $W$'s needs the layer's input. No vjp, no
# reason to keep it. (A *weak reference* below looks at an array without keeping it alive.)


# %%
import weakref

from minilora.autograd import functional as F


def input_outlives(train_W):
    """Whether the input of a linear layer is still in memory after the forward pass."""
    rng = np.random.default_rng(0)
    V = Tensor(rng.standard_normal((6, 5)), requires_grad=True)
    W = Tensor(rng.standard_normal((4, 6)), requires_grad=train_W)
    h = times(Tensor(rng.standard_normal((3, 5))), V)
    seen = weakref.ref(h.data)
    y = F.linear(h, W)
    del h
    return seen() is not None and y.requires_grad


print("W trained: input kept", input_outlives(True))
print("W frozen:  input kept", input_outlives(False))

# %% [markdown]
# ## The claims, measured

# %% claims
x = Tensor(np.array(2.0), requires_grad=True)
a = x * 3.0
c = a + a * a
claim(
    "In the diamond, handling nodes as they come loses more than 90 % of the gradient.",
    1 - as_they_come(c)[0] / every_path(c.node)[0],
    above=0.9,
)
claim(
    "With 7 diamonds on top of each other, walking every path alone takes more than 50 times as "
    "many vjps as the topological order.",
    calls["every path"][-1] / calls["in order"][-1],
    above=50,
)
at = int(np.argmin(np.abs(STEPS - 1e-6)))
claim(
    "In float64 the two-sided difference with a step of 1e-6 is right to better than 1e-8.",
    errors["float64, two-sided"][:, at],
    below=1e-8,
)
claim(
    "In float32 with the same step of 1e-6 it is wrong by more than 1 %.",
    errors["float32, two-sided"][:, at],
    above=0.01,
)
large, tiny = (1 + int(np.argmin(np.abs(SIZES - size))) for size in (1e-2, 1e-4))
claim(
    "With a step of 1e-2 and a tolerance of 1e-3 float32 lets 0 of 100 planted mistakes of 1 % "
    "pass.",
    float(
        seen["float32, step 1e-2, tolerance 1e-3"][
            :, 1 + int(np.argmin(np.abs(SIZES - 1e-2)))
        ].sum()
    ),
    below=0.5,
)
claim(
    "It lets more than 90 % of the mistakes of one part in ten thousand pass.",
    seen["float32, step 1e-2, tolerance 1e-3"][:, tiny],
    above=0.9,
    each="trials",
)
claim(
    "float64 lets 0 % of those pass.",
    seen["float64, step 1e-6, tolerance 1e-6"][:, tiny],
    below=0.01,
    each="trials",
)
assert all(found[:, 0].all() for found in seen.values())
claim(
    "The four careless checks together let more than 60 % of the planted mistakes pass.",
    np.mean([found["careless"] for found in missed.values()], axis=0),
    above=0.6,
)
claim(
    "The four careful checks let 0 of them pass.",
    np.mean([found["careful"] for found in missed.values()], axis=0),
    below=0.01,
)
claim(
    "At width 256 and rank 4 the backward walk with W frozen takes less than 60 % of the "
    "multiplications of training W.",
    pruned[-1] / full[-1],
    below=0.6,
    answers="E30",
)
refuted(
    "Freezing W makes the backward walk free: it takes less than 10 % of the multiplications of "
    "training W.",
    pruned[-1] / full[-1],
    above=0.3,
    because="The cotangent still passes through W on its way to the layer below.",
)
assert input_outlives(True) and not input_outlives(False)

# %% [markdown]
# ## What to read
#
# - A. Griewank and A. Walther, "Evaluating Derivatives", 2008, chapters 3 and 4: reverse mode, and
#   what it costs.
# - A. Baydin and others, "Automatic Differentiation in Machine Learning: a Survey", 2018.
# - In this project: `minilora/autograd/tensor.py`, which is this chapter and little more, and
#   `python3 minilora gradcheck --mutants`, which plants mistakes in every vjp of the library.
