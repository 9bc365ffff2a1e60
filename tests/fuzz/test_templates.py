"""Chat templates of every kind: a text, or one line; and tame ones as plain Jinja has them."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minilora.text.chat_template import LENGTH, ChatTemplate, template_of
from minilora.text.tokenizer import CHAT_TEMPLATE
from tests.fuzz.mutate import VALUES
from tests.fuzz.watch import Refused, cases, outcome

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Pulse?\né"},
    {"role": "assistant", "content": "88"},
]
TAME = st.sampled_from(
    ["m.role", "m['content']", "messages[0].role", "bos_token", "loop.index0", "missing", "none",
     "'x'", "3", "2.5", "true", "m", "messages", "[1, 2]", "{'a': m.role}", "m.content.strip()",
     "m.content.split('e')", "m.missing.deeper", "messages[9]", "1 / 0", "'a' + 1",
     "m.role.upper()",
     "m.__class__", "namespace(n=1).n", "range(3)", "range(3) | list"]
)  # fmt: skip
WILD = st.sampled_from(
    ["range(10**9)", "range(99999)", "'x' * 10**9", "2 ** 10**7", "'%999999999d' % 1",
     "[0] * 10**9",
     "'{:>999999999}'.format(1)", "m.content * 9999999", "lipsum(n=9**9)", "cycler", "self",
     "raise_exception('a\\nb')", "strftime_now('%Q' * 9999)", "strftime_now(3)", "caller()",
     "'x'.center(10**9)", "m.update(a=1)", "messages.append(1)", "dict(a=1).fromkeys(range(9**9))",
     "'a'.join(range(10**8))", "messages.__init__", "(1,) * 10**9", "10**10**10", "m.role ~ m",
     "'a'.replace('', 'b' * 10**7)", "'x'.encode()", "loop", "[messages] | tojson(indent=10**9)",
     "joiner", "'a'|format(1,2)", "1 << 10**10", "messages | batch(10**9) | list", "0.0 / 0",
     "range(9999)|map('string')|join('x'*9999)", "'\\ud800'", "'a'.expandtabs(10**10)",
     "messages|groupby('role')", "messages|sort", "m|xmlattr", "m.role.format_map({})", "super()"]
)  # fmt: skip
FILTERS = ("trim", "length", "tojson", "upper", "string", "list", "first", "join(',')",
           "default('d')",
           "int", "reverse", "map(attribute='role')", "sum", "safe", "e", "replace('e', 'E')",
           "count",
           "items", "unique", "wordwrap(3)", "indent(2)", "batch(2)", "pprint",
           "random")  # fmt: skip


OPERATORS = ("+", "*", "~", "%", "==", "in", "and", "-", "<")


def expressions(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from(OPERATORS), inner).map(" ".join),
            st.tuples(inner, st.sampled_from(FILTERS[:23])).map(lambda p: f"({p[0]}) | {p[1]}"),
            st.tuples(inner, inner).map(lambda p: f"({p[0]} if {p[1]} else 0)"),
            st.tuples(inner, st.sampled_from(["defined", "none", "string", "iterable"])).map(
                lambda p: f"({p[0]}) is {p[1]}"
            ),
        ),
        max_leaves=4,
    )  # fmt: skip


def templates(leaves):
    expression = expressions(leaves)
    return st.recursive(
        st.one_of(
            expression.map(lambda e: "{{ " + e + " }}"),
            st.text("ab<|\n \té", max_size=5),
            expression.map(lambda e: "{%- set x = " + e + " %}{{ x }}"),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map("".join),
            st.tuples(expression, inner).map(
                lambda p: "{% if " + p[0] + " %}" + p[1] + "{% endif %}\n"
            ),
            st.tuples(st.one_of(st.just("messages"), expression), inner).map(
                lambda p: "{% for m in " + p[0] + " -%} " + p[1] + "{% endfor %}"
            ),
        ),
        max_leaves=6,
    )  # fmt: skip


SHARDS = st.lists(
    st.sampled_from(
        ["{% generation %}", "{% endgeneration %}", "{% macro f(a) %}", "{% endmacro %}",
         "{{ f(1) }}",
         "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% call f(1) %}",
         "{% endcall %}", "{% for %}", "{% endfor %}", "{% break %}", "{% continue %}", "{% raw %}",
         "{% block b %}", "{% endblock %}", "{% filter upper %}", "{% endfilter %}", "{{", "}}",
         "{%",
         "%}", "{#", "#}", "\x00", "\n", "{% set ns = namespace(a=1) %}", "{% set ns._b = 1 %}",
         "{% macro f(a) %}{{ f(a) }}{% endmacro %}{{ f(1) }}", "{% for a in f %}", "{{ self.b() }}",
         "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "(" * 300,
         "{{ " + "(" * 200 + "1" + ")" * 200 + " }}",
         "{% if true %}" * 150, "{% autoescape true %}",
         "{% set x %}", "{% endset %}", "{% with %}", "{% for m in messages if m.role %}",
         "{% else %}",
         "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
         CHAT_TEMPLATE]
    ),
    max_size=6,
).map("".join)  # fmt: skip


def render(source):
    return ChatTemplate(source).render(
        messages=[dict(m) for m in MESSAGES], bos_token="<s>", add_generation_prompt=True
    )


@cases(100)
@given(
    st.one_of(
        templates(st.one_of(TAME, WILD)), SHARDS, st.tuples(SHARDS, templates(WILD)).map("".join)
    )
)
def test_a_template_gives_a_text_or_one_line(source):
    got = outcome(lambda: render(source), 0, spare=12 * LENGTH)
    assert isinstance(got, Refused) or (isinstance(got, str) and len(got) <= LENGTH)


@cases(100)
@given(templates(TAME))
def test_a_tame_template_is_what_plain_jinja_makes_of_it(source):
    plain = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    assume("tojson" not in source)  # transformers' own, without HTML
    try:
        expected = plain.from_string(source).render(
            messages=[dict(m) for m in MESSAGES], bos_token="<s>", add_generation_prompt=True
        )
    except (TemplateError, ArithmeticError, TypeError, ValueError, AttributeError, LookupError):
        expected = None
    got = outcome(lambda: render(source), 0, spare=12 * LENGTH)
    assume(" at 0x" not in (expected or ""))
    assert isinstance(got, Refused) if expected is None else got == expected, source


@cases(60)
@given(VALUES)
def test_a_config_names_a_template_or_none_or_one_line(value):
    def use():
        source = template_of({"chat_template": value})
        return source if source is None else ChatTemplate(source)

    got = outcome(use, 0)
    assert got is None or isinstance(got, (Refused, ChatTemplate))
