"""Chat templates: what Hugging Face gives them, and an end and one line for what goes wrong."""

from __future__ import annotations

import pytest

from minilora.text import chat_template
from minilora.text.chat_template import ChatTemplate, template_of

CHAT = [{"role": "user", "content": "Pulse?"}, {"role": "assistant", "content": "88"}]


def render(source, **variables):
    return ChatTemplate(source).render(messages=CHAT, tools=None, **variables)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Pulse?"}'),
        ("{{ 'é' | tojson }}{{ '<é>' | tojson(ensure_ascii=true) }}", '"é""<\\u00e9>"'),
        ("{{ {'b': 1, 'a': [2]} | tojson(sort_keys=true, separators=(',', ':')) }}",
         '{"a":[2],"b":1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}!", "88!"),
        ("{%- generation -%} a {%- endgeneration -%} b", "ab"),
        ("{% for m in messages %}{% generation %}{{ m.role[0] }}{% endgeneration %}{% endfor %}",
         "ua"),
        ("{% set n = namespace(x=1) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}"
         "{{ n.x }}", "3"),
        ("{{ dict(a=1)['a'] }}{{ dict.fromkeys(['b'], 2)['b'] }}", "12"),
        ("{% if tools is not none %}tools{% endif %}{% if tools is defined %}known{% endif %}",
         "known"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ 1700000000 | string ~ '%d' % 1700000000 ~ '{:,}'.format(1700000000) }}",
         "170000000017000000001,700,000,000"),
        ("{{ 'a' ~ none ~ 1 }}{{ nothing }}{{ 'x' * 3 + 'y' }}{{ 2 ** 10 }}", "aNone1xxxy1024"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f(2) }}", "<1><2>"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}"
         "{% endfor %}", "88"),
        ("{{ range(99999) | length }}", "99999"),
    ],
)  # fmt: skip
def test_a_template_has_what_hugging_face_gives_it(source, expected):
    assert render(source) == expected


NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
WRONG = [
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{{ range(10**9) }}",
    "{% include 'other' %}",
    "{% import 'other' as x %}",
    "{% extends 'other' %}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "{{ strftime_now(5) }}",
    "{{ strftime_now() }}",
    "{{ raise_exception('roles must\nalternate') }}",
    "{{ messages.append(1) }}",
    "{{ messages.no.such }}",
    "{{ messages[0].__class__.__mro__ }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{% set n = namespace() %}{% set n._x = 1 %}",
    "{{ namespace(_x=1) }}",
    "{{ dict.update(messages[0], {}) }}",
    "{{ messages | tojson(indent='x' * 3, sort_keys=5, nothing=1) }}",
    "{{ lipsum }}{{ lipsum(n=5) }}",
    "{{ messages | map('nothing') | list }}",
    "{% set x = [] %}{% set y = x.append %}{{ y(x) }}",
]
ENDLESS = [
    NESTED,
    "{% for a in range(99999) %}{% set x = range(99999) | list %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% for a in range(99999) %}{% for b in 'x' * 99999 %}{% endfor %}{% endfor %}",
    "{{ 9 ** 999999 }}",
    "{% set n = namespace(x=7) %}{% for a in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * 'x' }}",
    "{{ [0] * 10**9 }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%999999999d' | format(1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ 'a\nb' | indent(10**9) }}",
    "{% set n = namespace(x='xx') %}{% for a in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='xx') %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for a in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set b = 'x' * 99999 %}{% for a in range(99999) %}{{ b }}{% endfor %}",
    "{% set b = 'x' * 99999 %}{% set c %}{% for a in range(9999) %}{{ b }}{% endfor %}{% endset %}",
    "{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "{% for a in range(99) if range(99999) | list %}{% endfor %}",
    "{% generation %}" + NESTED + "{% endgeneration %}",
]  # fmt: skip


@pytest.mark.parametrize("source", WRONG + ENDLESS)
def test_what_goes_wrong_in_a_template_is_one_line(source, monkeypatch):
    if source != NESTED:
        monkeypatch.setattr(chat_template, "STEPS", 20_000)  # these end in the same way, and sooner
    with pytest.raises(ValueError) as error:
        render(source)
    text = str(error.value)
    assert type(error.value) is ValueError and "chat template" in text
    assert "\n" not in text and len(text) < 500


def test_a_rendering_counts_anew(monkeypatch):
    monkeypatch.setattr(chat_template, "STEPS", 10)
    template = ChatTemplate("{% for i in range(n) %}{{ i }}{% endfor %}")
    for _ in range(3):
        assert template.render(n=5) == "01234"
    with pytest.raises(ValueError, match="10 steps"):
        template.render(n=6)
    assert template.render(n=5) == "01234"


def test_a_rendering_ends_in_time(monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", -1.0)
    with pytest.raises(ValueError, match="seconds"):
        ChatTemplate("{% for i in range(9999) %}{% endfor %}").render()


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ x | nothing }}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{{ " + "-" * 5000 + "1 }}",
        "{{ 1" + "+1" * 5000 + " }}",
        "{% if x %}" * 2000 + "{% endif %}" * 2000,
        "{% for x in y %}" * 30 + "{% endfor %}" * 30,
        "{% generation %}{% break %}{% endgeneration %}",
        "x" * 1_000_001,
        5,
        True,
        b"{{ 1 }}",
    ],
    ids=range(14),
)
def test_a_source_that_is_no_jinja_is_refused(source):
    with pytest.raises(ValueError) as error:
        ChatTemplate(source)
    text = str(error.value)
    assert type(error.value) is ValueError and "chat template" in text
    assert "\n" not in text and len(text) < 500


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ("t", "t"),
        ([], None),
        ({}, None),
        ([{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ({"tool_use": "t", "default": "d"}, "d"),
    ],
)
def test_which_of_several_templates_is_taken(value, expected):
    assert template_of({"chat_template": value}) == expected
    assert template_of({}) is None


@pytest.mark.parametrize(
    "value",
    [5, True, 1.5, [1], ["t"], [{"name": "tool", "template": "t"}], {"tool_use": "t"},
     [{"name": "default", "template": 5}], {"default": {"a": 1}}, [{"name": [], "template": "t"}],
     [{}]],
    ids=range(11),
)  # fmt: skip
def test_a_template_of_another_kind_is_refused(tokenizer, value):
    from minilora.text import Tokenizer

    with pytest.raises(ValueError, match="chat template"):
        Tokenizer(tokenizer.backend, {"chat_template": value})
