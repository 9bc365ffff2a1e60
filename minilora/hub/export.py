"""Adapters for elsewhere: a GGUF file for llama.cpp, a folder for mlx-lm.

Both compute what `LoRALinear` does. llama.cpp scales by alpha / r of each tensor; mlx-lm has one
rank and one scale for all. Where an adapter's modules differ in these, s is put into B, and ranks
are filled up with zeros: the product stays what it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.hub.gguf import LAYER_NAMES, gguf_package
from minilora.lora import Adapter
from minilora.nn import TransformerConfig
from minilora.storage import atomic_folder, atomic_write, write_safetensors

GGUF_LEAVES = {hf.removesuffix(".weight"): stored for stored, hf in LAYER_NAMES.items()}
"""Our module's name in its layer -> llama.cpp's name of its weight."""
MLX_CONFIG, MLX_TENSORS = "adapter_config.json", "adapters.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written: the path, its bytes, and how many modules' tensors are in it."""

    path: Path
    nbytes: int
    modules: int


def layer_and_leaf(module: str) -> tuple[int, str]:
    """("model.layers.3.self_attn.q_proj") -> (3, "self_attn.q_proj").

    Raises ValueError for a module that is not in a layer of the Llama family.
    """
    parts = module.split(".")
    leaf = ".".join(parts[3:])
    if parts[:2] != ["model", "layers"] or not parts[2].isdecimal() or leaf not in GGUF_LEAVES:
        raise ValueError(
            f"got module {module}, expected model.layers.N.LEAF with LEAF among "
            f"{sorted(name for name in GGUF_LEAVES if name.endswith('proj'))}"
        )
    return int(parts[2]), leaf


# -- llama.cpp -------------------------------------------------------------------------------------


def write_gguf_adapter(adapter: Adapter, config: TransformerConfig, path: Path) -> Exported:
    """Write an adapter as llama.cpp's `--lora` takes it, in float32.

    config: of its base, whose heads say how llama.cpp orders the rows of q_proj and k_proj. An
    activated adapter keeps its invocation (`adapter.alora.invocation_tokens`). Raises ValueError
    for modules that llama.cpp's Llama has not, or a missing gguf package.
    """
    package = gguf_package()
    tensors, alpha = gguf_tensors(adapter, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    writer = package.GGUFWriter(part, "llama")
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        if adapter.config.invocation is not None:
            writer.add_array("adapter.alora.invocation_tokens", list(adapter.config.invocation))
        for name, array in tensors.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        atomic_write(path, part.read_bytes())
    finally:
        part.unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, len(adapter.modules))


def gguf_tensors(
    adapter: Adapter, config: TransformerConfig
) -> tuple[dict[str, np.ndarray], float]:
    """llama.cpp's names -> A (r, in) and B (out, r), and the alpha of all of them.

    With one scaling and one rank alpha is s r, as llama.cpp divides by r; else B holds s and alpha
    is 0, which llama.cpp takes for no scaling.
    """
    kinds = {(adapter.scaling(m), len(adapter.factors(m)[0])) for m in adapter.modules}
    scaling, r = next(iter(kinds)) if len(kinds) == 1 else (0.0, 0)
    tensors = {}
    for module in adapter.modules:
        layer, leaf = layer_and_leaf(module)
        A, B = (np.asarray(x, np.float32) for x in adapter.factors(module))
        if not scaling:
            B = B * np.float32(adapter.scaling(module))
        rows = _llama_cpp_rows(leaf, len(B), config)
        name = f"blk.{layer}.{GGUF_LEAVES[leaf]}"
        tensors[f"{name}.lora_a"] = np.ascontiguousarray(A)
        tensors[f"{name}.lora_b"] = np.ascontiguousarray(B if rows is None else B[rows])
    return tensors, float(scaling * r)


def _llama_cpp_rows(leaf: str, rows: int, config: TransformerConfig) -> np.ndarray | None:
    """Which of our rows is each of llama.cpp's; None where they are the same (see `hub.gguf`)."""
    heads = {
        "self_attn.q_proj": config.num_attention_heads,
        "self_attn.k_proj": config.num_key_value_heads,
    }.get(leaf)
    if heads is None:
        return None
    if rows != heads * config.head_dim:
        raise ValueError(
            f"got {leaf} with {rows} outputs, expected {heads} heads of {config.head_dim}"
        )
    halves = np.arange(rows).reshape(heads, 2, config.head_dim // 2)
    return halves.swapaxes(1, 2).reshape(-1)


# -- mlx-lm ----------------------------------------------------------------------------------------


def write_mlx_adapter(adapter: Adapter, config: TransformerConfig, folder: Path) -> Exported:
    """Write an adapter as the folder that mlx-lm's `--adapter-path` takes, in float32.

    mlx-lm adapts the same modules in each of the last layers; those that the adapter leaves alone
    get zeros. Raises ValueError for an activated adapter, which mlx-lm has not, or for other
    modules than those of the Llama family.
    """
    if adapter.config.invocation is not None:
        raise ValueError(
            "got an activated adapter to export for mlx-lm, which applies adapters everywhere; "
            "expected a plain one"
        )
    tensors, about = mlx_tensors(adapter, config)
    with atomic_folder(folder) as part:
        write_safetensors(part / MLX_TENSORS, tensors)
        (part / MLX_CONFIG).write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    nbytes = sum(path.stat().st_size for path in folder.iterdir())
    return Exported(folder, nbytes, len(adapter.modules))


def mlx_tensors(adapter: Adapter, config: TransformerConfig) -> tuple[dict[str, np.ndarray], dict]:
    """mlx-lm's names -> lora_a (in, r) and lora_b (r, out), and its adapter_config.json.

    y = x W^T + scale (x lora_a) lora_b, with scale 1 and s in lora_b.
    """
    places = {module: layer_and_leaf(module) for module in adapter.modules}
    first = min(layer for layer, _ in places.values())
    leaves = sorted({leaf for _, leaf in places.values()})
    rank = max(len(adapter.factors(module)[0]) for module in adapter.modules)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(first, config.num_hidden_layers):
        for leaf in leaves:
            module = f"model.layers.{layer}.{leaf}"
            lora_a, lora_b = _mlx_factors(adapter, module, rank, _sizes(leaf, config))
            tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"] = lora_a, lora_b
    about = {
        "fine_tune_type": "lora",
        "num_layers": config.num_hidden_layers - first,
        "lora_parameters": {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": leaves},
    }
    return tensors, about


def _mlx_factors(
    adapter: Adapter, module: str, rank: int, sizes: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    inputs, outputs = sizes
    lora_a, lora_b = np.zeros((inputs, rank), np.float32), np.zeros((rank, outputs), np.float32)
    if module in adapter.modules:
        A, B = adapter.factors(module)
        lora_a[:, : len(A)] = A.T
        lora_b[: len(A)] = B.T * np.float32(adapter.scaling(module))
    return lora_a, lora_b


def _sizes(leaf: str, config: TransformerConfig) -> tuple[int, int]:
    """(inputs, outputs) of a layer's Linear."""
    width, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    shared = config.num_key_value_heads * config.head_dim
    sizes: Mapping[str, tuple[int, int]] = {
        "q_proj": (width, queries), "k_proj": (width, shared), "v_proj": (width, shared),
        "o_proj": (queries, width), "gate_proj": (width, inner), "up_proj": (width, inner),
        "down_proj": (inner, width),
    }  # fmt: skip
    return sizes[leaf.rpartition(".")[2]]
