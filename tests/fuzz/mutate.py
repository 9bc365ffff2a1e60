"""Strategies that spoil: the bytes of a file, the values of a JSON object."""

from __future__ import annotations

import copy
import json

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 3, 7, 8, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**9, 10**12, 10**30, 0.5,
         1e-300, 1e300, -0.0, float("nan"), float("inf"), float("-inf"), 4096, 65536, 1 << 20]
    ),
    st.integers(-5, 300),
    st.floats(),
)  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "a\nb", "\x00", "\ud800", "é漢😀", "(.+)+Z", "(", ".*", "q_proj", "all-linear",
         "linear", "default", "llama3", "yarn", "LORA", "LlamaForCausalLM", "silu", "gelu", "../x",
         "sha256:", "<|end|>", "{{ 1/0 }}", "{% for %}", "1", "true", "x" * 5000]
    ),
    st.text(max_size=8),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["rope_type", "type", "rope_theta", "factor", "content", "default", "template",
                     "name", "q_proj", "0"]
                ),
                TEXTS,
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=4,
)  # fmt: skip


STRAYS = [
    b"\xff", b"\x00", b"\n", b"[" * 5000, b"\xef\xbb\xbf", b'"', b"{", b"NaN", b"1e999",
]  # fmt: skip


@st.composite
def spoiled_bytes(draw, data: bytes, first: int | None = None) -> bytes:
    """`data` with a few faults: bits flipped, parts cut, doubled, exchanged, overwritten.

    first: faults lie within so many bytes of the beginning, where a header is.
    """
    spoiled = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        reach = min(len(spoiled), first or len(spoiled))
        if not reach:
            break
        at, size = draw(st.integers(0, reach - 1)), draw(st.sampled_from([1, 1, 2, 4, 8, 64]))
        kind = draw(st.sampled_from(["flip", "set", "number", "cut", "end", "double", "insert"]))
        if kind == "flip":
            spoiled[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            new = draw(st.binary(min_size=size, max_size=size))
            spoiled[at : at + size] = new[: len(spoiled) - at]
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, 2, 8, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1]))
            spoiled[at : at + 8] = number.to_bytes(8, "little")[: len(spoiled) - at]
        elif kind == "cut":
            del spoiled[at : at + size]
        elif kind == "end":
            del spoiled[at:]
        elif kind == "double":
            spoiled[at:at] = spoiled[at : at + size]
        else:
            spoiled[at:at] = draw(st.sampled_from(STRAYS))
    return bytes(spoiled)


def _places(value, path=()):
    yield path
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = list(enumerate(value))[:3] + list(enumerate(value))[-3:]
    else:
        return
    for key, inner in pairs:
        yield from _places(inner, (*path, key))


@st.composite
def spoiled_values(draw, value: dict, keys: tuple[str, ...] = (), deepest: int = 3) -> dict:
    """A copy of the object, with one to three of its parts set anew, gone, or written elsewhere.

    keys: settings that are worth adding.
    """
    value = copy.deepcopy(value)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = [p for p in _places(value) if 0 < len(p) <= deepest]
        kind = draw(st.sampled_from(["set", "set", "set", "near", "delete", "add", "rename"]))
        if kind == "add" or not places:
            value[draw(st.sampled_from(keys) if keys else TEXTS)] = draw(VALUES)
            continue
        *path, last = draw(st.sampled_from(places))
        holder = value
        for key in path:
            holder = holder[key]
        if kind == "delete":
            del holder[last]
        elif kind == "rename" and isinstance(holder, dict):
            holder[draw(TEXTS)] = holder.pop(last)
        elif kind == "near" and type(holder[last]) in (int, float):
            holder[last] = holder[last] * draw(st.sampled_from([0.5, 2, -1, 1.0, 1000])) + draw(
                st.sampled_from([0, 1, -1])
            )
        else:
            holder[last] = draw(VALUES)
    return value


def spoiled_json(value: dict, keys: tuple[str, ...] = ()) -> st.SearchStrategy[bytes]:
    """As `spoiled_values`, as the bytes of a file."""
    return spoiled_values(value, keys).map(lambda spoiled: json.dumps(spoiled).encode())
