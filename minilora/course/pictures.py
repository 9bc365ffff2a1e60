"""The course's schematics by name: what a thing looks like, before any code about it.

`python -m minilora.course.pictures NAME FILE.svg` writes one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minilora.course.schematic import DATA, FROZEN, PLAIN, TRAINED, Schematic


def adjustment() -> Schematic:
    """A photograph, a thin sheet made of two strips, and the photograph with a new mood."""
    s = Schematic(
        640, 210,
        "A photograph, a large grid of numbers, plus a volume times the product of two thin strips "
        "B and A, gives the photograph in a new mood. The photograph itself is not changed.",
    )  # fmt: skip
    s.grid(20, 30, 12, 14, 10, FROZEN, "the photograph", "never changed")
    s.circle(190, 90, "+")
    s.text(222, 95, "volume ×", 13)
    s.grid(292, 30, 12, 2, 10, TRAINED, "B", "a column strip")
    s.text(327, 95, "·")
    s.grid(342, 80, 2, 14, 10, TRAINED, "A", "a row strip")
    s.text(496, 96, "=", 18)
    s.grid(520, 30, 12, 10, 10, DATA, "a new mood", "same size")
    return s


def lora_layer(width: int = 640) -> Schematic:
    """The LoRA layer: x through the frozen W, and beside it through A and B, then added."""
    s = Schematic(
        width, 300,
        "The LoRA layer. The input x goes up two ways: through the large frozen matrix W, and "
        "through the thin A, down to r numbers, and the thin B, back up. The second way is "
        "multiplied by alpha over r and added to the first; the sum is the output y.",
    )  # fmt: skip
    x = s.box(215, 256, 170, 28, "x  (in numbers)", DATA)
    w = s.box(60, 110, 190, 100, "W", FROZEN, "out × in, frozen")
    a = s.box(370, 178, 170, 34, "A   (r × in)", TRAINED)
    b = s.box(370, 108, 170, 34, "B   (out × r), starts at 0", TRAINED)
    total = s.circle(300, 68, "+")
    y = s.box(215, 6, 170, 26, "y  (out numbers)", DATA)
    s.arrow(x.left, w.bottom, bend="across")
    s.arrow(x.right, a.bottom, bend="across")
    s.arrow(a.top, b.bottom, "r numbers")
    s.arrow(w.top, total.left, bend="down")
    s.arrow(b.top, total.right, bend="down")
    s.text(345, 60, "× alpha / r", 12)
    s.arrow(total.top, y.bottom)
    return s


def gradient_graph() -> Schematic:
    """loss = sum of g times (x W^T + b), as a graph: values forward, gradients backward."""
    s = Schematic(
        640, 220,
        "A compute graph. x and W meet in a product, the product and b in a sum, the sum in a "
        "loss. Values run from left to right along solid arrows. Gradients run back from the loss "
        "along dashed arrows, and each operation knows only how to pass one on to its inputs.",
    )  # fmt: skip
    x = s.box(20, 30, 90, 34, "x", DATA, "")
    w = s.box(20, 110, 90, 34, "W", TRAINED)
    b = s.box(200, 165, 90, 34, "b", TRAINED)
    times = s.circle(210, 85, "×", 16)
    plus = s.circle(360, 85, "+", 16)
    loss = s.box(480, 62, 120, 46, "loss", DATA, "one number")
    s.arrow(x.right, (195, 78))
    s.arrow(w.right, (195, 92))
    s.arrow(times.right, plus.left, "x Wᵀ")
    s.arrow(b.right, (350, 99))
    s.arrow(plus.right, loss.left, "y")
    orange = "#c2560c"
    s.arrow((480, 98), (378, 96), dashed=True, colour=orange)
    s.arrow((343, 94), (229, 94), dashed=True, colour=orange)
    s.arrow((196, 100), (112, 134), dashed=True, colour=orange)
    s.arrow((196, 70), (112, 40), dashed=True, colour=orange)
    s.arrow((366, 102), (293, 178), dashed=True, colour=orange)
    s.text(430, 125, "g = ∂loss/∂y", 12, "middle", colour=orange)
    s.text(20, 165, "gW = gᵀ x", 12, colour=orange)
    s.text(345, 165, "gb = sum of g over rows", 12, colour=orange)
    s.text(120, 26, "gx = g W", 12, colour=orange)
    return s


def block() -> Schematic:
    """One block of the Transformer: two branches beside a residual stream, with shapes."""
    s = Schematic(
        640, 330,
        "One block of a Transformer. A residual stream of T rows by C numbers runs from bottom to "
        "top. A first branch goes through a norm and attention and is added back; a second goes "
        "through a norm and the MLP and is added back. The stream keeps its shape all the way.",
    )  # fmt: skip
    s.text(85, 322, "the residual stream, (T, C): C numbers for each of T tokens", 12)
    one, two = s.circle(70, 190, "+"), s.circle(70, 50, "+")
    s.arrow((70, 308), one.bottom)
    s.arrow(one.top, two.bottom)
    s.arrow(two.top, (70, 8))
    for y, norm, name, inside in (
        (235, "RMSNorm", "attention", "q, k, v, o: look at earlier tokens"),
        (95, "RMSNorm", "MLP", "gate, up, down: work on each token"),
    ):
        n = s.box(130, y, 100, 36, norm)
        m = s.box(280, y - 6, 260, 48, name, FROZEN, inside)
        s.arrow((70, y + 18), n.left)
        s.arrow(n.right, m.left)
        s.arrow(m.top, (84, y - 45), bend="down")
    s.text(555, 258, "(T, C)", 12)
    s.text(555, 118, "(T, C)", 12)
    return s


def attention_head() -> Schematic:
    """One head: q and k make scores, softmax makes shares, shares mix v; with all shapes."""
    s = Schematic(
        680, 282,
        "One attention head with shapes. From the normed rows x, T by C, three products make q, k "
        "and v, T by D each. q times k transposed gives scores, T by T, of which the upper right "
        "half is hidden because it is the future. A softmax turns each row into shares that add up "
        "to 1. The shares mix the rows of v.",
    )  # fmt: skip
    s.grid(16, 90, 7, 9, 9, DATA, "x", "(T, C)")
    s.grid(180, 8, 7, 4, 8, TRAINED, "q = x Wqᵀ", "(T, D)")
    s.grid(168, 110, 4, 7, 8, FROZEN, "kᵀ", "(D, T)")
    s.grid(180, 186, 7, 4, 8, FROZEN, "v", "(T, D)")
    s.arrow((102, 106), (174, 40))
    s.arrow((102, 122), (162, 126))
    s.arrow((102, 138), (174, 210))
    scores = s.box(300, 34, 100, 100, "scores\nq kᵀ / √D", PLAIN, "(T, T)")
    s.grid(460, 46, 7, 7, 11, TRAINED, "shares", "rows add up to 1", np.tri(7))
    s.grid(620, 60, 7, 4, 9, DATA, "output", "(T, D)")
    s.arrow((214, 40), (298, 66))
    s.arrow((226, 126), (298, 108))
    s.arrow(scores.right, (456, 84), "softmax")
    s.arrow((540, 84), (616, 88))
    s.arrow((216, 214), (638, 160), "the shares mix the rows of v", bend="across")
    return s


def ward_flow() -> Schematic:
    """The ward's job: a note goes in, a summary in the house's form comes out."""
    s = Schematic(
        660, 190,
        "The ward's job. A note about a patient goes into the base model. Without an adapter the "
        "model writes a summary in a public style and fills in a dose that the note does not give. "
        "With the house's adapter it writes the house's five lines, and a missing dose stays "
        "missing.",
    )  # fmt: skip
    note = s.box(16, 62, 130, 66, "note", DATA, "no dose is written")
    base = s.box(210, 62, 140, 66, "base model", FROZEN, "1.2 million numbers")
    adapter = s.box(222, 10, 116, 34, "house adapter", TRAINED)
    s.arrow(note.right, base.left)
    s.arrow(adapter.bottom, base.top)
    wrong = s.box(430, 120, 214, 56, "“lisinopril 10 mg”", PLAIN, "base alone: it is invented")
    right = s.box(430, 20, 214, 56, "“dose not recorded”", PLAIN, "with the adapter: the rule")
    s.arrow((350, 84), right.left)
    s.arrow((350, 108), wrong.left, dashed=True)
    return s


def two_dials() -> Schematic:
    """Rank is how thick the strips are, alpha how loud their product is played."""
    s = Schematic(
        640, 210,
        "The two dials. Rank sets how thick the strips B and A are: three pairs, of rank 1, 2 and "
        "4. Alpha sets the volume at which their product is added, and changes no shape.",
    )  # fmt: skip
    for x, r in ((24, 1), (160, 2), (310, 4)):
        s.grid(x, 30, 10, r, 10, TRAINED)
        s.grid(x + 10 * r + 12, 30, r, 9, 10, TRAINED)
        s.text(x + 45, 158, f"rank {r}", 13, "middle")
        s.text(x + 45, 174, f"{19 * r} numbers", 11, "middle")
    s.text(40, 200, "rank: capacity", 13, bold=True)
    for i, height in enumerate((14, 34, 64, 100)):
        s.box(490 + 30 * i, 130 - height, 20, height, "", TRAINED)
    s.text(545, 158, "alpha / r", 13, "middle")
    s.text(545, 174, "the same strips, louder", 11, "middle")
    s.text(500, 200, "alpha: volume", 13, bold=True)
    return s


def places() -> Schematic:
    """The seven maps of a block, and which of them q,v, attention, MLP and all mean."""
    s = Schematic(
        640, 200,
        "The seven linear maps of a block: q, k, v and o of attention, gate, up and down of the "
        "MLP. The lean default attaches strips to q and v only; wide coverage attaches them to all "
        "seven.",
    )  # fmt: skip
    names = ("q", "k", "v", "o", "gate", "up", "down")
    for row, (title, chosen) in enumerate((("lean", {"q", "v"}), ("all", set(names)))):
        y = 40 + 80 * row
        s.text(12, y + 26, title, 14, bold=True)
        for i, name in enumerate(names):
            x = 80 + 76 * i + (16 if i > 3 else 0)
            s.box(x, y, 52, 42, name, FROZEN)
            if name in chosen:
                s.box(x + 54, y, 7, 42, "", TRAINED)
    s.text(220, 22, "attention", 12, "middle")
    s.text(500, 22, "MLP", 12, "middle")
    s.text(80, 190, "grey: frozen map; orange: a pair of strips beside it", 11)
    return s


def merge_and_unmerge() -> Schematic:
    """Merging adds B A into W once; unmerging puts the kept W back."""
    s = Schematic(
        660, 190,
        "Merging and unmerging. On the left W and the strips B and A stand apart, and each call "
        "computes both. Merged, their sum is one ordinary matrix of W's size, and a call costs "
        "what the base costs. Unmerging puts back the W that was kept, to the bit.",
    )  # fmt: skip
    s.grid(24, 40, 9, 9, 10, FROZEN, "W", "")
    s.text(124, 90, "+", 18)
    s.grid(146, 40, 9, 1, 10, TRAINED, "B")
    s.grid(166, 80, 1, 9, 10, TRAINED, "A")
    s.text(120, 172, "apart: two ways for every token", 12, "middle")
    s.arrow((280, 70), (400, 70), "merge: W + s B A")
    s.arrow((400, 112), (280, 112), "unmerge: the kept W")
    s.grid(430, 40, 9, 9, 10, DATA, "W + ΔW", "")
    s.text(475, 172, "one ordinary matrix", 12, "middle")
    s.box(560, 60, 84, 50, "a file", PLAIN, "any runtime")
    s.arrow((524, 85), (558, 85))
    return s


def two_adapters() -> Schematic:
    """Two adapters on one W, and the same two side by side as one of twice the rank."""
    s = Schematic(
        680, 216,
        "Two adapters on one base. On the left the frozen W stands beside the strips B1 and A1 of "
        "one job and the strips B2 and A2 of another; each pair was trained as if the other were "
        "not there. On the right the B's lie side by side and the A's one above the other: one "
        "adapter of twice the rank, whose product is the sum of both changes. Whatever comes in "
        "is heard by both pairs.",
    )  # fmt: skip
    s.text(20, 20, "two adapters, trained apart", 13, bold=True)
    s.grid(24, 40, 9, 9, 10, FROZEN, "W", "")
    for x, number in ((140, 1), (268, 2)):
        s.text(x - 18, 90, "+", 18)
        s.grid(x, 40, 9, 1, 10, TRAINED, f"B{number}", "")
        s.grid(x + 16, 80, 1, 8, 10, TRAINED, f"A{number}", "")
    s.arrow((386, 85), (436, 85), "add")
    s.text(440, 20, "one adapter, the exact sum", 13, bold=True)
    s.grid(448, 40, 9, 2, 10, TRAINED, "B1 B2", "")
    s.grid(484, 70, 2, 9, 10, TRAINED, "A1 above A2", "")
    s.text(584, 90, "+ W", 16)
    x = s.box(250, 168, 180, 30, "x, one input for all", DATA)
    for place in ((69, 156), (176, 156), (304, 156), (520, 156)):
        s.arrow((x.left if place[0] < 250 else x.right if place[0] > 430 else x.top), place)
    return s


def evaluation() -> Schematic:
    """Rows are split before anything is tuned: train, choose, report."""
    s = Schematic(
        660, 170,
        "How a score is made honest. The notes are split by patient and by pair of diagnosis and "
        "drug into rows to train on, rows to choose settings on, and rows that are looked at once "
        "and reported with an interval.",
    )  # fmt: skip
    notes = s.box(16, 56, 110, 54, "notes", DATA, "grouped by patient")
    train = s.box(210, 10, 150, 40, "train", TRAINED)
    choose = s.box(210, 62, 150, 40, "choose", FROZEN, "rate, steps, rank")
    report = s.box(210, 114, 150, 40, "report, once", PLAIN)
    for target in (train, choose, report):
        s.arrow(notes.right, target.left)
    score = s.box(450, 104, 194, 58, "0 of 29 invented", PLAIN, "95 % interval: 0 to 11.7 %")
    s.arrow(report.right, score.left)
    s.arrow(train.right, (450, 30), "adapter")
    s.box(450, 12, 194, 36, "base + adapter", FROZEN)
    s.arrow((547, 48), (547, 102))
    return s


def cut_change() -> Schematic:
    """A change as a sum of directions, a cut after the first few, and the answers after it."""
    s = Schematic(
        690, 236,
        "The question of chapter 8. A change of the weights, a full square of numbers, is a sum of "
        "directions from the strongest to the faintest. A cut after the first few throws most of "
        "them away. What is left is added to the frozen weights, and the answers are asked: are "
        "they still right? Below, the fair rival: all directions are kept and made fainter.",
    )  # fmt: skip
    s.text(20, 20, "the change ΔW", 13, bold=True)
    s.grid(24, 40, 9, 9, 10, TRAINED, "all directions", "")
    s.text(134, 92, "=", 18)
    places = (160, 214, 268, 350, 404)
    for i, x in enumerate(places):
        fade = np.full((9, 1), 1.0 - 0.24 * i)
        s.grid(x, 58, 9, 1, 8, TRAINED, "", "", fade)
        s.grid(x + 12, 46, 1, 4, 8, TRAINED, "", "", fade[:4].T)
    for x in (204, 258, 394):
        s.text(x - 6, 96, "+", 15)
    s.text(160, 36, "strongest", 11)
    s.text(350, 36, "faintest", 11)
    s.arrow((326, 24), (326, 142), "", dashed=True, colour="#c2560c")
    s.text(326, 158, "cut", 12, "middle", colour="#c2560c")
    s.text(246, 158, "kept", 12, "middle")
    s.text(390, 158, "thrown away", 12, "middle")
    few = s.box(500, 36, 160, 40, "W + the first few", FROZEN)
    every = s.box(500, 176, 160, 40, "W + all, fainter", FROZEN)
    answers = s.box(500, 104, 160, 44, "answers", DATA, "still right?")
    s.arrow((240, 14), few.top, bend="across")
    s.arrow(few.bottom, answers.top)
    s.grid(40, 174, 9, 9, 6, TRAINED, "", "", np.full((9, 9), -0.2))
    s.text(110, 202, "its fair rival: all directions, each fainter", 12)
    s.arrow((364, 196), every.left)
    s.arrow(every.top, answers.bottom)
    return s


def side_effects() -> Schematic:
    """One adapter stands in the way of every question, of those too that it never saw."""
    s = Schematic(
        660, 230,
        "Four kinds of question go into the base with the house's adapter. The adapter was trained "
        "on the first kind alone, the house's summary. Letters, questions about the note and "
        "requests for a phone number go through the same weights W plus s B A, and so all four "
        "answers may change: the first as wanted, the others without anybody having asked for it.",
    )  # fmt: skip
    asked = ("the house's summary", "a letter, a list", "“How old is …?”", "“What is the number?”")
    answers = ("changed, as wanted", "changed?", "changed?", "changed?")
    s.text(16, 18, "what is asked", 12)
    s.text(494, 18, "what is answered", 12)
    base = s.box(262, 62, 140, 96, "W", FROZEN, "the same bits as ever")
    s.box(274, 170, 116, 34, "+ s B A", TRAINED, "trained on the first")
    for i, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        y = 30 + 50 * i
        left = s.box(16, y, 160, 34, question, DATA)
        right = s.box(484, y, 160, 34, answer, PLAIN if i else TRAINED)
        s.arrow(left.right, (base.x - 2, 74 + 24 * i))
        s.arrow((base.x + base.width, 74 + 24 * i), right.left, dashed=i > 0)
    return s


def many_sheets() -> Schematic:
    """One base, a pair of strips for each client, and a batch whose rows go to different ones."""
    s = Schematic(
        690, 262,
        "Many adapters over one base. A batch of rows, each for a ward, goes two ways: all rows "
        "together through the one frozen matrix W, and each row through the pair of thin strips of "
        "its own ward. The two are added. A row that is for nobody takes the first way alone.",
    )  # fmt: skip
    s.text(20, 20, "a batch", 13, bold=True)
    clients = ("nobody", "cardiology", "cardiology", "pediatrics", "vascular")
    rows = [
        s.box(20, 30 + 44 * i, 130, 34, f"row {i + 1}: {client}", DATA)
        for i, client in enumerate(clients)
    ]
    w = s.box(270, 10, 150, 66, "W", FROZEN, "one, for all rows")
    s.arrow(rows[0].right, w.left, "all rows")
    total = s.circle(520, 130, "+")
    for i, (client, own) in enumerate(
        (("cardiology", (1, 2)), ("pediatrics", (3,)), ("vascular", (4,)))
    ):
        y = 92 + 56 * i
        s.text(345, y + 46, f"the strips of {client}", 11, "middle")
        a, b = s.box(280, y, 54, 32, "A", TRAINED), s.box(356, y, 54, 32, "B", TRAINED)
        s.arrow(a.right, b.left)
        for row in own:
            s.arrow(rows[row].right, a.left)
        s.arrow(b.right, total.left)
    answers = s.box(580, 112, 92, 36, "answers", DATA)
    s.arrow(w.right, total.top, bend="across")
    s.arrow(total.right, answers.left)
    return s


def frozen_codes() -> Schematic:
    """A frozen W kept as codes: some of its numbers are made for a product and forgotten."""
    s = Schematic(
        690, 250,
        "A layer over a base in 4 bits. The frozen W is kept as a grid of 4-bit codes with one "
        "scale for every 64 of them. When a product needs W, some of its rows are made into "
        "ordinary numbers, used, and forgotten again. The thin strips A and B beside it are "
        "trained and stay ordinary numbers. Both ways are added. What is left of the bill are the "
        "activations that every token leaves behind for the way back.",
    )  # fmt: skip
    codes = s.grid(24, 40, 9, 12, 10, FROZEN, "codes, 4 bits each")
    s.grid(178, 40, 9, 1, 10, FROZEN, "scales")
    made = s.box(270, 50, 150, 70, "some rows of W", PLAIN, "made, used, forgotten", dashed=True)
    s.arrow((196, codes.right[1]), made.left, "× scale", dashed=True)
    x = s.box(270, 178, 150, 30, "x, kept for later", DATA)
    a, b = s.box(470, 134, 60, 30, "A", TRAINED), s.box(470, 74, 60, 30, "B", TRAINED)
    total = s.circle(500, 30, "+")
    y = s.box(580, 15, 92, 30, "y", DATA)
    s.arrow(x.top, made.bottom)
    s.arrow(x.right, a.bottom, bend="across")
    s.arrow(a.top, b.bottom)
    s.arrow(made.top, total.left, bend="down")
    s.arrow(b.top, total.bottom)
    s.arrow(total.right, y.left)
    s.text(24, 232, "grey: frozen; orange: trained, float32; blue: data of every token", 11)
    return s


def five_tools() -> Schematic:
    """One base and five ways to get a job done with it: what is added, and where."""
    s = Schematic(
        700, 232,
        "Five ways to get a job done with one base. Nothing: the question goes into the frozen "
        "base as it is. Prompt: more words go in with the question. Look-up: lines from a table go "
        "in with the question, and the table can be changed at any time. Adapter: thin trained "
        "strips stand beside the frozen base. Full training: the base's own weights are changed.",
    )  # fmt: skip
    tools = (
        ("nothing", "the base knows it"),
        ("prompt", "words that explain"),
        ("look-up", "facts from a table"),
        ("adapter", "a habit, learned"),
        ("full training", "a new language"),
    )
    for i, (name, what) in enumerate(tools):
        x = 12 + 138 * i
        s.text(x + 60, 18, name, 14, "middle", bold=True)
        s.text(x + 60, 226, what, 11, "middle")
        base = s.box(x + 10, 34, 100, 62, "W", TRAINED if i == 4 else FROZEN, "changed" if i == 4
                     else "frozen")  # fmt: skip
        question = s.box(x + 10, 170, 100, 30, "question", DATA)
        if i == 1:
            middle = s.box(x + 10, 126, 100, 26, "+ more words", PLAIN)
        elif i == 2:
            middle = s.box(x + 2, 112, 62, 44, "table", PLAIN, "of facts")
            s.arrow(middle.top, (x + 33, base.bottom[1]))
        if i == 1:
            s.arrow(question.top, middle.bottom)
            s.arrow(middle.top, base.bottom)
        elif i == 2:
            s.arrow((x + 33, 170), middle.bottom)
            s.arrow((x + 88, 170), (x + 88, base.bottom[1]))
        else:
            s.arrow(question.top, base.bottom)
        if i == 3:
            s.box(x + 113, 34, 7, 62, "", TRAINED)
            s.box(x + 123, 34, 7, 62, "", TRAINED)
    return s


ALL = (
    adjustment, gradient_graph, block, attention_head, ward_flow, evaluation, lora_layer,
    two_dials, places, merge_and_unmerge, cut_change, many_sheets, side_effects, two_adapters,
    five_tools, frozen_codes,
)  # fmt: skip
"""Every picture, in the order in which the chapters show them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write one picture as SVG."""
    by_name = {picture.__name__: picture for picture in ALL}
    parser = argparse.ArgumentParser(prog="python -m minilora.course.pictures", description=__doc__)
    parser.add_argument("name", choices=by_name)
    parser.add_argument("file", type=Path, help="where to write it")
    options = parser.parse_args(argv)
    by_name[options.name]().write(options.file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
