"""Exercises 13.5 and 13.6: what fits beside a base, and activations that are made again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minilora.course.exercises import exercise, mistake
from minilora.course.judge import Judge


def check_fit(fn: Callable, judge: Judge) -> None:
    cases = []
    for base_like, bits in ((9_001, 4.127), (5_001, 16), (40_009, 4.53)):
        base, trained, kept = judge.sizes(base_like, 2003, 611)
        room = int(judge.rng.integers(120, 200))
        used = base * bits / 8 + 16 * trained
        memory = int(used + 4 * kept * (room + 0.7))
        whole = (memory - used) / (4 * kept)
        got = judge.call(fn, memory=memory, base=base, bits=bits, trained=trained, kept=kept)
        instead = {
            "the base's bits are counted as bytes; a byte has 8 bits.": (memory - base * bits
            - 16 * trained) // (4 * kept),
            "a trained number takes 16 bytes: its weight, its gradient and two averages, 4 bytes "
            "each.": (memory - base * bits / 8 - 4 * trained) // (4 * kept),
            "the two averages of the trained numbers are missing.": (
                memory - base * bits / 8 - 8 * trained
            ) // (4 * kept),
            "12 bytes a trained number; weight, gradient and two averages are 16.": (
                memory - base * bits / 8 - 12 * trained
            ) // (4 * kept),
            "a base of a fraction of a byte is cut to whole bytes a number.": (
                memory - base * (bits // 8) - 16 * trained
            ) // (4 * kept),
            "a number of a fraction of a bit is cut; 4.53 bits are not 4.": (
                memory - base * int(bits) / 8 - 16 * trained
            ) // (4 * kept),
            "that leaves out the trained numbers.": (memory - base * bits / 8) // (4 * kept),
            "that leaves out the base.": (memory - 16 * trained) // (4 * kept),
            "what a token keeps is counted in bytes; `kept` are float32 numbers of 4.": (
                memory - used
            ) // kept,
            "a batch has a whole number of tokens; round down.": whole,
            "that is one token too many; round down.": np.ceil(whole),
            "the frozen base has neither a gradient nor averages.": (
                memory - base * (bits / 8 + 12) - 16 * trained
            ) // (4 * kept),
        }  # fmt: skip
        cases.append(("the tokens", got, float(np.floor(whole)), instead))
    judge.numbers(cases)
    got = judge.call(fn, memory=1000, base=5000, bits=8, trained=10, kept=7)
    judge.true(
        judge.one("the tokens", got) >= 0,
        "where the base alone does not fit, the answer is 0: there are no negative tokens.",
    )
    judge.number("the tokens where the base does not fit", got, 0.0)


@exercise(
    "13.5",
    "What fits beside it?",
    minutes=8,
    difficulty=1,
    importance=2,
    check=check_fit,
    statement=r"""
    A card has `memory` bytes. In them must lie: a frozen base of `base` numbers in `bits` bits each
    (which may be a fraction, such as 4.13); `trained` numbers in float32 with all that AdamW needs
    to train them; and for each token of the batch `kept` float32 numbers, which the forward pass
    leaves for the backward pass. Write `tokens_that_fit(memory, base, bits, trained, kept)`: the
    largest number of tokens in a batch, 0 where none fits.
    """,
    hints=(
        "8 bits are a byte, so the base takes base * bits / 8 bytes.",
        "A trained number takes 16 bytes: weight, gradient and two averages. A token takes 4 * "
        "kept.",
        "max(0, int((memory - base * bits / 8 - 16 * trained) // (4 * kept)))",
    ),
    wrong=(
        mistake("bits as bytes", "a byte has 8 bits", change=("bits / 8", "bits")),
        mistake("weights alone", "16 bytes", change=("16 * trained", "4 * trained")),
        mistake(
            "no averages", "averages of the trained numbers", change=("16 * trained", "8 * trained")
        ),
        mistake("numbers as bytes", "numbers of 4", change=("(4 * kept)", "kept")),
        mistake(
            "a fraction", "round down", change=("int(left // (4 * kept))", "left / (4 * kept)")
        ),
        mistake(
            "negative",
            "no negative tokens",
            change=("max(0, int(left // (4 * kept)))", "int(left // (4 * kept))"),
        ),
    ),
)
def tokens_that_fit(memory: int, base: int, bits: float, trained: int, kept: int) -> int:
    """How many tokens of a batch fit beside a base in so many bits; 0 where none does."""
    left = memory - base * bits / 8 - 16 * trained
    return max(0, int(left // (4 * kept)))


class _Blocks:
    """n maps x -> x + tanh(x W), and how often each was made."""

    def __init__(self, judge: Judge, count: int, rows: int, width: int) -> None:
        self.made = 0
        self.pairs = []
        for _ in range(count):
            W = 0.3 * judge.normal(width, width)
            self.pairs.append((self._forward(W), self._backward(W)))
        self.x, self.g = judge.normal(rows, width), judge.normal(rows, width)

    def _forward(self, W: np.ndarray) -> Callable:
        def forward(x: np.ndarray) -> np.ndarray:
            self.made += 1
            return x + np.tanh(x @ W)

        return forward

    def _backward(self, W: np.ndarray) -> Callable:
        return lambda x, g: g + (g * (1 - np.tanh(x @ W) ** 2)) @ W.T

    def gradient(self, of_outputs: bool = False, forwards: bool = False) -> np.ndarray:
        """gx with every input kept; of_outputs and forwards: two mistakes."""
        inputs = [self.x]
        for forward, _ in self.pairs:
            inputs.append(forward(inputs[-1]))
        own = inputs[1:] if of_outputs else inputs[:-1]
        both = list(zip(own, self.pairs, strict=True))
        g = self.g
        for x, (_, backward) in both if forwards else reversed(both):
            g = backward(x, g)
        return g


def check_remade(fn: Callable, judge: Judge) -> None:
    for count, every in ((12, 4), (11, 3), (5, 7)):
        blocks = _Blocks(judge, count, *judge.sizes(3, 5))
        want = blocks.gradient()
        instead = {
            "a block's backward takes the block's input, and that is its output.": (
                blocks.gradient(of_outputs=True)
            ),
            "backward goes through the blocks from the last to the first.": (
                blocks.gradient(forwards=True)
            ),
        }
        got = judge.call(fn, blocks=blocks.pairs, x=blocks.x, g=blocks.g, every=every)
        judge.close(f"gx through {count} blocks, every {every} kept", got, want, instead=instead)
    count, every = 24, 6
    blocks = _Blocks(judge, count, 160, 32)
    got, peak = judge.call_measured(fn, blocks=blocks.pairs, x=blocks.x, g=blocks.g, every=every)
    made = blocks.made
    judge.close("gx through 24 blocks", got, blocks.gradient())
    held = peak / blocks.x.nbytes
    judge.true(
        made <= 2 * count,
        f"{made} forward passes through a block for {count} blocks; start again at the last input "
        f"that was kept, not at x: then {2 * count} are enough.",
    )
    judge.true(
        held < count / every + every + 6,
        f"at one time your function held {held:.0f} arrays of x's size; with the input of every "
        f"{every}th block kept, and those of one stretch made again, it takes about "
        f"{count // every + every + 4}.",
    )


@exercise(
    "13.6",
    "Keep, or make again?",
    minutes=18,
    difficulty=3,
    importance=2,
    check=check_remade,
    statement=r"""
    `blocks` is a list of pairs `(forward, backward)`: `forward(x)` is the block's output, and
    `backward(x, g)` turns the gradient of its output into that of its input, for which it needs the
    input `x` again. Write `remade(blocks, x, g, every)`: the gradient with respect to the first
    input `x`, where `g` is that of the last output. On the way forward keep only the inputs of
    block 0, `every`, 2 · `every` and so on. On the way back, make the inputs of one stretch
    again from the one that was kept, go back through it, and let them go. Each block may be
    computed twice forward, no more.
    """,
    hints=(
        "Forward: kept = []; for block i, append x where i % every == 0, then x = forward(x).",
        "Backward: for each kept input, the last first, make the list of inputs of its stretch: "
        "inputs = [start]; then inputs.append(forward(inputs[-1])) for all of its blocks but the "
        "last.",
        "Then g = backward(input, g) through the stretch from its end to its start. The stretch of "
        "kept input k is blocks[k * every : (k + 1) * every].",
    ),
    wrong=(
        mistake(
            "keeps all",
            "it takes about",
            body="""
            inputs = [x]
            for forward, _ in blocks:
                inputs.append(forward(inputs[-1]))
            for (_, backward), x in zip(reversed(blocks), inputs[-2::-1]):
                g = backward(x, g)
            return g
            """,
        ),
        mistake(
            "from the start",
            "not at x",
            body="""
            for i in reversed(range(len(blocks))):
                at = x
                for forward, _ in blocks[:i]:
                    at = forward(at)
                g = blocks[i][1](at, g)
            return g
            """,
        ),
        mistake(
            "outputs",
            "that is its output",
            change=("backward(inputs.pop(), g)", "backward(_forward(inputs.pop()), g)"),
        ),
        mistake(
            "order",
            "from the last to the first",
            body="""
            for forward, backward in blocks:
                g, x = backward(x, g), forward(x)
            return g
            """,
        ),
    ),
)
def remade(blocks: list, x: np.ndarray, g: np.ndarray, every: int) -> np.ndarray:
    """gx through all blocks, with the input of every `every`th kept and the others made again."""
    kept = []
    for i, (forward, _) in enumerate(blocks):
        if i % every == 0:
            kept.append(x)
        x = forward(x)
    for k in reversed(range(len(kept))):
        stretch = blocks[k * every : (k + 1) * every]
        inputs = [kept.pop()]
        for forward, _ in stretch[:-1]:
            inputs.append(forward(inputs[-1]))
        for _forward, backward in reversed(stretch):
            g = backward(inputs.pop(), g)
    return g
