"""Chat templates and special tokens against transformers: the same texts, the same ids."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minilora.text import Tokenizer

pytestmark = pytest.mark.interop
transformers = pytest.importorskip("transformers")

# In the styles of model families, written for this test.
TEMPLATES = {
    "chatml": """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}
{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "instructions in brackets": """{%- if messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set system = false -%}{%- set rest = messages -%}{%- endif -%}
{{- bos_token -}}
{%- for m in rest -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}
{%- if loop.index0 == 0 and system -%}{%- set text = '<<SYS>>\\n' + system + '\\n<</SYS>>' -%}
{%- set content = text + m['content'] -%}{%- else -%}{%- set content = m['content'] -%}{%- endif -%}
{%- if m['role'] == 'user' -%}{{ '[INST] ' + content.strip() + ' [/INST]' }}
{%- elif m['role'] == 'assistant' -%}{{ ' ' + content.strip() + ' ' + eos_token }}{%- endif -%}
{%- endfor -%}""",
    "headers and a date": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}{{- "Environment: ipython\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "what an assistant wrote is marked": """{%- for message in messages %}
{%- if message.role == "user" %}{{ "<|im_start|>user\n" + message.content + "<|im_end|>\n" }}
{%- elif message.role == "assistant" %}
{% generation %}
{%- set own = message.content.lstrip('\n') %}{{ "<|im_start|>assistant\n" + own + "<|im_end|>\n" }}
{%- endgeneration %}
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\n" }}{%- endif %}""",
    "thinking, with a namespace": """{%- set ns = namespace(last=-1, found=false) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}
{%- if not ns.found and message.role == "user" and message.content is string
 and not (message.content.startswith('<tool_response>')) %}
{%- set ns.found = true %}{%- set ns.last = index %}{%- endif %}{%- endfor %}
{%- for message in messages %}
{%- if message.content is string %}{%- set content = message.content %}
{%- else %}{%- set content = '' %}{%- endif %}
{%- if message.role == "assistant" and '</think>' in content %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}
{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}
{%- endif %}{%- endif %}{{ ns.last }}""",
    "turns, the system within": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{% set first_user_prefix = messages[0]['content'] + '\n\n' %}{% set loop_messages = messages[1:] %}
{% else %}{% set first_user_prefix = '' %}{% set loop_messages = messages %}{% endif %}
{%- for message in loop_messages -%}
{%- if (message['role'] == 'assistant') -%}{%- set role = 'model' -%}
{%- else -%}{%- set role = message['role'] -%}{%- endif -%}
{{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}
{{- message['content'] | trim }}{{ '<end_of_turn>\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}""",
    "a macro, a filter and JSON": """{% macro show(m) %}{{ m.role | upper }}: {{ m.content }}
{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | tojson }}
{{ messages[0] | tojson(indent=2) }}{{ messages[-1].items() | list | length }}
{{ {'z': 1, 'a': '<ü>'} | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}""",
    "loops that break and continue": """{% for m in messages %}{% if m.role == 'system' %}
{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}{% endif %}
{{ loop.cycle('A', 'B') }} {{ m.content }}
    {% if not loop.last %}
        --
    {% endif %}
{% endfor %}
""",
    "tools and documents": """{% if tools is not none and tools %}{{ tools | tojson }}{% endif %}
{% if documents %}{{ documents[0].title }}{% endif %}{{ tools is none }}{{ documents is defined }}
{% for m in messages %}{{ m.get('content', '') ~ '|' ~ m.get('name', 'nobody') }}{% endfor %}""",
    "all special tokens": """{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}
{{ sep_token }}{{ cls_token is defined }}{{ image_token }}
{% for m in messages %}{{ m.content + eos_token }}
{%- endfor %}""",
    "sets, tests and arithmetic": """{% set n = messages | length %}{{ n * 2 }}{{ n ** 2 }}
{{ n // 2 }}{{ '%02d' % n }}{{ '{:>5}'.format(n) }}{{ 'x' * n ~ n }}
{{ (messages | last).content[:3] }}
{% set parts = messages | map(attribute='role') | join(',') %}{{ parts }}{{ parts is string }}
{{ dict(a=n)['a'] }}{{ [1, 2] + [n] }}{{ messages[0].content.replace('\n', ' ') | indent(2) }}""",
    "what is missing": """{{ nothing }}{{ messages[99] }}{{ messages[0].nothing }}
{% if nothing %}no{% else %}yes{% endif %}{{ messages[0]['content'] | default('none', true) }}""",
    "roles must be known": """{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}
{{ raise_exception('Unknown role: ' + m.role) }}{% endif %}{{ m.content }}{% endfor %}""",
    "one of several": [
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "{% for m in messages %}{{ m.content }}\n{% endfor %}"},
    ],
}
CHATS = [
    [{"role": "user", "content": " Pulse?\n"}],
    [{"role": "user", "content": "Pulse?"}, {"role": "assistant", "content": "\n88 {{ x }}"}],
    [
        {"role": "system", "content": "Be brief. Café 😀"},
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nB", "name": None},
        {"role": "user", "content": "C", "name": "me"},
    ],
    [{"role": "tool", "content": "7"}, {"role": "user", "content": ""}],
    [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
]
SPECIAL = {"bos_token": "<|user|>", "eos_token": "<|end|>", "sep_token": "<|sep|>"}


@pytest.fixture(scope="module")
def words():
    return Tokenizer.train(["Pulse 88, regular. <think> role user assistant"], 300)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name, words):
    config = {**SPECIAL, "pad_token": "<|pad|>", "chat_template": TEMPLATES[name]}
    config["image_token"] = "<|assistant|>"
    extra = {"image_token": config["image_token"]}
    template = config["chat_template"]
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend, **SPECIAL, pad_token="<|pad|>", chat_template=template,
        model_specific_special_tokens=extra,
    )  # fmt: skip
    ours = Tokenizer(words.backend, config)
    rendered = 0
    for chat in CHATS:
        for prompt in (False, True):
            try:
                expected = theirs.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=prompt
                )
            except Exception:
                with pytest.raises(ValueError):
                    ours.apply_chat_template(chat, add_generation_prompt=prompt)
                continue
            rendered += 1
            assert ours.apply_chat_template(chat, add_generation_prompt=prompt) == expected
    assert rendered


TEXTS = [
    "<|user|>Pulse <|end|> 88<|sep|>", "a <|im_start|> b<|im_end|>", "<|x|><|y|> <s>user</s>",
    "Pulse role user", "  <|x|>  assistant", "<mask>[PAD]",
]  # fmt: skip


def random_settings(rng, words):
    """A tokenizer_config.json that names tokens the tokenizer has, has not, or does not mark."""
    plain = [t for t in words.backend.get_vocab() if t.isalpha() and len(t) > 2][:4]
    pool = ["<|end|>", "<|user|>", "<|im_end|>", "<|x|>", "<s>", "[PAD]", "<mask>", *plain]
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token"):
        if rng.random() < 0.5:
            text = str(rng.choice(pool))
            marks = {"lstrip": bool(rng.integers(2)), "rstrip": bool(rng.integers(2)),
                     "normalized": False, "single_word": bool(rng.integers(2))}  # fmt: skip
            token = {"__type": "AddedToken", "content": text, **marks}
            config[name] = token if rng.random() < 0.3 else text
    if rng.random() < 0.4:
        name = ("extra_special_tokens", "additional_special_tokens")[rng.integers(2)]
        config[name] = [str(t) for t in rng.choice(pool, 2, replace=False)]
    if rng.random() < 0.3:
        config["image_token"] = str(rng.choice(pool))
    if rng.random() < 0.5:
        known = words.backend.get_added_tokens_decoder()
        numbered = {n: json.loads(json.dumps(t.__getstate__())) for n, t in known.items()}
        following = words.vocab_size
        for text in ("<|y|>", "<|im_start|>")[: rng.integers(3)]:
            flags = {k: bool(rng.integers(2)) for k in ("lstrip", "normalized", "special")}
            numbered[following] = {"content": text, "rstrip": False, "single_word": False, **flags}
            following += 1
        config["added_tokens_decoder"] = numbered
    return config


@pytest.mark.parametrize("seed", range(60))
def test_special_tokens_are_cut_out_as_in_transformers(seed, words, tmp_path):
    rng = np.random.default_rng(seed)
    config = random_settings(rng, words)
    words.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    if seed % 3 == 0:  # a file that asks for short texts
        saved["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
                               "stride": 0}  # fmt: skip
        (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    for text in TEXTS:
        expected = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == expected, (text, config)
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=True)
    assert ours.eos_id == theirs.eos_token_id
    assert ours.vocab_size == len(theirs)
    ours.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
