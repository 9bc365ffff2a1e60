"""llama.cpp loads our GGUF adapter and answers as we do, on a float32 GGUF of the same base."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.interop, pytest.mark.slow]
gguf = pytest.importorskip("gguf")
xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, a build of llama.cpp")

from minilora.hub import load_pretrained  # noqa: E402
from minilora.hub.export import write_gguf_adapter  # noqa: E402
from minilora.hub.smollm import SMOLLM2, cached, fetch  # noqa: E402
from minilora.lora import LoRAConfig, attach  # noqa: E402
from minilora.nn import generate  # noqa: E402

QUESTIONS = [
    "What is a lighthouse?", "Name three fruits.", "Write a line about rain.", "Say hello.",
    "How do bees make honey?", "What is 12 + 7?", "Give me a title for a story.",
    "Why is the sky blue?", "Who wrote Hamlet?", "Translate cat to French.", "What is a fever?",
    "List two colours.", "What does a nurse do?", "How long is a day?", "What is bread made of?",
    "Name a river.", "What is a computer?", "What is a triangle?", "Why do we sleep?",
    "What is snow?",
]  # fmt: skip
NEW = 20


@pytest.fixture(scope="module")
def path():
    try:
        return cached(SMOLLM2) or fetch(SMOLLM2)
    except (OSError, ValueError) as error:
        pytest.skip(f"SmolLM2 can't be had: {error}")


@pytest.fixture(scope="module")
def in_float32(path, tmp_path_factory):
    """The same file with every tensor dequantized, so that both sides have the same numbers."""
    source = path if path.suffix == ".gguf" else next(path.glob("*.gguf"))
    out = tmp_path_factory.mktemp("gguf") / "base.gguf"
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(out, "llama")
    told = ("general.architecture", "general.file_type", "general.quantization_version")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in told:
            continue
        kinds = field.types
        inner = (kinds[-1],) if kinds[0] == gguf.GGUFValueType.ARRAY else ()
        writer.add_key_value(key, field.contents(), kinds[0], *inner)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, numbers.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    yield out
    out.unlink()


def answers_of_llama_cpp(model, adapter, prompts):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(model), 512, 1
    params.verbosity, params.cpuparams.n_threads = 0, 1
    if adapter is not None:
        lora = xllamacpp.CommonAdapterLoraInfo()
        lora.path, lora.scale = str(adapter), 1.0
        params.lora_adapters = [lora]
    server, texts = xllamacpp.Server(params), []
    for prompt in prompts:
        asked = {"prompt": prompt, "n_predict": NEW, "temperature": 0.0, "cache_prompt": False}
        answer = server.handle_completions(asked)
        answer = json.loads(answer) if isinstance(answer, str) else answer
        texts.append(answer["choices"][0]["text"])
    return texts


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"rank_pattern": {"v_proj": 4}, "alpha_pattern": {"q_proj": 32}}, 20),
        ({"use_rslora": True}, 4),
    ],
    ids=["patterns", "one scaling"],
)
def test_greedy_answers_are_ours(path, in_float32, tmp_path, settings, count):
    model, tokenizer = load_pretrained(path)
    rng = np.random.default_rng(3)
    config = LoRAConfig(r=8, lora_alpha=16, target_modules="all-linear", **settings)
    handle = attach(model, config, rng)
    for layer in handle.layers.values():
        layer.lora_B.data[...] = 0.012 * rng.standard_normal(layer.lora_B.shape)
    prompts = [tokenizer.encode_prompt(question) for question in QUESTIONS[:count]]
    ours = generate(model, prompts, NEW, stop_ids=[tokenizer.eos_id])
    texts = [tokenizer.decode(ids) for ids in ours]
    written = write_gguf_adapter(handle.adapter(), model.config, tmp_path / "adapter.gguf")
    assert answers_of_llama_cpp(in_float32, written.path, prompts) == texts
    plain = answers_of_llama_cpp(in_float32, None, prompts[:4])
    assert plain != texts[:4]
