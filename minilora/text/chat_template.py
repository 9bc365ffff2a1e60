"""A chat template: Jinja that came with the weights, rendered in a sandbox and within limits.

The environment is that of transformers (utils/chat_template_utils.py), so that a template means
here what it meant where the model was trained: its tags, filters and functions, and None for
`tools` and `documents`. Beyond that a template may take only so many steps, characters and
seconds, since a loop in it would otherwise run in us without an end.
"""

from __future__ import annotations

import functools
import json
import re
import reprlib
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from minilora.storage import one_line

STEPS = 200_000
"""Turns of loops, calls of macros and numbers in ranges, in one rendering."""
LENGTH = 10_000_000
"""Characters of a rendering, and the size of any text, list or number on the way."""
SECONDS = 5.0
"""Processor time of one rendering. Templates in use take a thousandth of a second."""
SOURCE_LENGTH = 1_000_000
"""Characters of a template. Templates in use have a few thousand."""
BITS = 100_000
"""Of a whole number that a template makes."""
WIDE_FILTERS = ("batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap")
WIDE_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")
"""What is handed a number and may write as many characters."""
SIZED = (str, list, tuple, dict)


class ChatTemplate:
    """A compiled template. Raises ValueError for a source that is no text or no Jinja."""

    def __init__(self, source: str) -> None:
        if not isinstance(source, str):
            raise ValueError(f"the chat template is {reprlib.repr(source)}, expected a text")
        if len(source) > SOURCE_LENGTH:
            raise ValueError(
                f"the chat template has {len(source)} characters, expected at most {SOURCE_LENGTH}"
            )
        self._environment = _Environment()
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:  # RecursionError, or Python's own for code it can't compile
            raise ValueError(f"the chat template is not Jinja: {one_line(error)}") from None

    def render(self, **variables: object) -> str:
        """The text. Raises ValueError, in one line, for whatever goes wrong within the template."""
        self._environment.begin()
        try:
            return self._template.render(**variables)
        except TemplateError as error:
            raise ValueError(f"the chat template refused the messages: {one_line(error)}") from None
        except Exception as error:  # a template can raise anything, 1/0 for one
            raise ValueError(
                f"the chat template failed: {type(error).__name__}: {one_line(error)}"
            ) from None


def template_of(config: Mapping) -> str | None:
    """The template that a tokenizer_config.json means; None for none.

    Of several, named in an object or a list of objects, the one named "default". Raises
    ValueError for another kind of value.
    """
    value = config.get("chat_template")
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {str(entry.get("name")): entry.get("template") for entry in value}
    if isinstance(value, dict):
        if value and "default" not in value:
            raise ValueError(
                f"the chat templates are named {reprlib.repr(list(value))}, expected one 'default'"
            )
        value = value.get("default")
    return value or None


# --------------------------------------------------------------------------------- the environment


class _Generation(Extension):
    """`{% generation %}` around what an assistant wrote: its content, and nothing more.

    A call block, as in transformers: what is set inside is not seen outside.
    """

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

    def content(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict(...)` without the type's methods, which would change what they are given."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace(...)` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # so that a template may name an attribute `self`
        values = dict(*rest, **kwargs)
        for name in values:
            _Namespace._require_public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._require_public(name)
        super().__setitem__(name, value)

    @staticmethod
    def _require_public(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a namespace has no attribute {name!r}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON; Jinja's own filter escapes it for HTML."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, which counts what a rendering does and ends one that does too much."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=self._write,
        )
        self._sandbox_range = self.globals["range"]
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
            "range": self._range,
        }
        filters = {**self.filters, "tojson": _tojson}
        self.filters = {name: _measured(name, filter) for name, filter in filters.items()}
        self.begin()

    def begin(self) -> None:
        """A new rendering: nothing is counted yet."""
        self._steps = self._written = 0
        self._end = time.thread_time() + SECONDS

    # -- steps and time --------------------------------------------------------------------

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The parsed template, in which loops and macros count, and `~` measures."""
        tree = super()._parse(source, name, filename)
        for node in list(tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            step = nodes.ExprStmt(nodes.EnvironmentAttribute("one_step"))
            node.body.insert(0, step.set_lineno(node.lineno))
        return _MeasureConcat().visit(tree)

    @property
    def one_step(self) -> None:
        """Counts when it is read: a call from a template would cost more than a turn of a loop."""
        self._count(1)

    def _count(self, steps: int) -> None:
        before = self._steps
        self._steps += steps
        if self._steps > STEPS:
            raise SecurityError(f"it takes more than {STEPS} steps")
        if before >> 8 != self._steps >> 8 and time.thread_time() > self._end:
            raise SecurityError(f"it takes more than {SECONDS:g} seconds")

    def _range(self, *args: int) -> range:
        numbers = self._sandbox_range(*args)
        self._count(len(numbers))
        return numbers

    # -- sizes -----------------------------------------------------------------------------

    def _write(self, value: object) -> str:
        """What an output expression becomes."""
        text = str(value)
        self._written += len(text)
        if self._written > LENGTH:
            _require_length(self._written)
        return text

    def concat(self, pieces: Iterable[str]) -> str:
        """The pieces of a rendering, or of a macro or block within it, as one text."""
        pieces = list(pieces)
        _require_length(sum(map(len, pieces)))
        return "".join(pieces)

    def join(self, *values: object) -> str:
        """`~`."""
        return self.concat(str(value) for value in values)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+`, `*`, `**` and `%`, of which each can make much out of little."""
        if operator == "+":
            if isinstance(left, SIZED) and isinstance(right, SIZED):
                _require_length(len(left) + len(right))
        elif operator == "*":
            if isinstance(left, int) and isinstance(right, int):
                _require_bits(left.bit_length() + right.bit_length())
            elif isinstance(left, SIZED) and isinstance(right, int):
                _require_length(len(left) * right)
            elif isinstance(left, int) and isinstance(right, SIZED):
                _require_length(left * len(right))
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and left not in (-1, 0, 1):
                _require_bits(left.bit_length() * right)
        elif isinstance(left, str):
            _require_format(left, right if isinstance(right, tuple) else (right,))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Any call that a template writes."""
        if getattr(function, "__name__", None) in WIDE_METHODS:
            _require_widths(args)
        value = super().call(context, function, *args, **kwargs)
        _require_length(_length(value))
        return value

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` as the sandbox has it."""
        wrapped = super().wrap_str_format(value)
        return None if wrapped is None else _measured("format", wrapped, value.__self__)


class _MeasureConcat(NodeTransformer):
    """`a ~ b` becomes a call of the environment's `join`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        join = nodes.EnvironmentAttribute("join")
        return nodes.Call(join, node.nodes, [], None, None).set_lineno(node.lineno)


def _length(value: object) -> int:
    return len(value) if isinstance(value, SIZED) else 0


def _require_length(length: int) -> None:
    if length > LENGTH:
        raise SecurityError(f"it makes more than {LENGTH} characters or items")


def _require_bits(bits: int) -> None:
    if bits > BITS:
        raise SecurityError(f"it makes a number of more than {BITS} bits")


def _measured(name: str, function: Callable[..., Any], *text: str) -> Callable[..., Any]:
    """A filter, or `str.format` of a text, which refuses widths and results that are too long."""

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        values = [*text, *args, *kwargs.values()]
        if name in WIDE_FILTERS:
            _require_widths(values)
        elif name == "format":
            _require_format(str(values[0]), values[1:])
        value = function(*args, **kwargs)
        _require_length(_length(value))
        return value

    return measured


def _require_format(text: str, values: Iterable[object]) -> None:
    """Refuse a format that writes wider than LENGTH, by its own digits or by a value's number."""
    _require_widths(int(digits[:20]) for digits in re.findall(r"\d+", text))
    if "*" in text or re.search(r":[^{}]*{", text):
        _require_widths(values)


def _require_widths(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, int):
            _require_length(abs(value))
