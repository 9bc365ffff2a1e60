"""GGUF files of the Llama family: stored blocks or float32 arrays, under Hugging Face's names.

llama.cpp stores the rows of q_proj and k_proj in another order (its rotary embedding turns
neighbouring pairs, Hugging Face's turns the two halves of a head); they are put back here. Only
whole rows move, so the stored blocks can be used as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np

from minilora.autograd.quantize import from_q4_1_blocks, from_q8_0_blocks
from minilora.autograd.stored_array import StoredArray
from minilora.hub.gguf_config import config_of
from minilora.hub.gguf_header import RawTensor, read_header
from minilora.hub.gguf_tokenizer import tokenizer_of
from minilora.hub.weights import fill_model, first_of, require_size
from minilora.nn import Transformer, TransformerConfig
from minilora.storage import MappedFile
from minilora.text.tokenizer import Tokenizer

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
BLOCKS = {"Q4_1": from_q4_1_blocks, "Q8_0": from_q8_0_blocks}
"""ggml type -> how a matrix of it is kept without rounding any number again."""
INSTALL = "pip install 'gguf>=0.10' (or run MINILORA_EXTRAS=gguf python3 minilora ...)"
CHUNK = 1 << 20  # numbers dequantized at a time: small beside a model, large beside a call


@dataclass(frozen=True)
class TensorInfo:
    """A stored tensor: shape (rows, columns) or (columns,), ggml type, place in the file."""

    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int
    stored_name: str


def gguf_package() -> ModuleType:
    """The `gguf` package. Raises ValueError saying how to install it where it is not there."""
    try:
        import gguf
        import gguf.quants
    except ImportError as error:  # it is not there, or something that it needs
        raise ValueError(
            f"reading a GGUF file needs the gguf package ({error}): {INSTALL}"
        ) from None
    return gguf


class GGUFFile:
    """The tensors, config and tokenizer of a GGUF file; nothing but its head is read at first.

    path; metadata: the file's own keys; config: the TransformerConfig; shapes: by name.
    Raises ValueError for a file that is damaged, and for what this decoder does not have, by name.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        package = gguf_package()
        self.file = MappedFile(self.path)
        header = read_header(self.file)
        self.metadata = header.metadata
        names = {raw.name for raw in header.tensors}
        self.config: TransformerConfig = config_of(
            self.path, self.metadata, tied="output.weight" not in names
        )
        self._infos: dict[str, TensorInfo] = {}
        odd: dict[str, str] = {}
        place = 0
        for raw in header.tensors:
            info = self._info(package, raw, header.data_start)
            # As llama.cpp checks it: the data lie in the list's order, without gaps or overlaps.
            if raw.offset != place:
                raise ValueError(
                    f"{self.path}: {raw.name} lies at offset {raw.offset}, expected {place}, "
                    "behind the tensor before it"
                )
            place += info.nbytes + -info.nbytes % header.alignment
            name = hf_name(raw.name)
            if name is None:
                odd[raw.name] = str(raw.shape)
            else:
                self._infos[name] = info
        if odd:
            known = [*NAMES, *(f"blk.N.{name}" for name in LAYER_NAMES)]
            raise ValueError(
                f"{self.path} has tensors this decoder has no place for: {first_of(odd)}; "
                f"supported are {known}"
            )
        self.shapes = {name: info.shape for name, info in self._infos.items()}

    def _info(self, package: ModuleType, raw: RawTensor, start: int) -> TensorInfo:
        try:
            kind = package.GGMLQuantizationType(raw.type_number)
        except ValueError:
            raise ValueError(
                f"{self.path}: {raw.name} has ggml type {raw.type_number}, which the installed "
                "gguf package does not know"
            ) from None
        block, size = package.GGML_QUANT_SIZES[kind]
        if not raw.shape or raw.shape[-1] % block:
            raise ValueError(
                f"{self.path}: {raw.name} has shape {raw.shape}, expected rows of whole "
                f"{kind.name} blocks of {block}"
            )
        nbytes = int(np.prod(raw.shape, dtype=object)) // block * size
        offset = start + raw.offset
        if offset + nbytes > len(self.file):
            raise ValueError(
                f"{self.path} is not a whole GGUF file: {raw.name} ends at byte {offset + nbytes} "
                f"of {len(self.file)}"
            )
        return TensorInfo(raw.shape, kind.name, offset, nbytes, raw.name)

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        """(Hugging Face name, TensorInfo) of every tensor, in the file's order."""
        yield from self._infos.items()

    def stored_types(self) -> dict[str, int]:
        """How many tensors there are of each ggml type."""
        return dict(Counter(info.type for info in self._infos.values()))

    def blocks(self, name: str) -> tuple[np.ndarray, str]:
        """A tensor as stored: uint8 (rows, bytes per row) with its rows in order, and its type.

        A vector is one row. The array is the file's own pages, read-only, except for q_proj and
        k_proj, whose rows are copied into order. Raises ValueError for a name that is not there.
        """
        info = self._info_of(name)
        raw, rows = self._stored(info), self._row_order(name, info)
        return (raw if rows is None else raw[rows]), info.type

    def dequantize(self, name: str) -> np.ndarray:
        """A tensor as a fresh float32 array of its shape.

        Raises ValueError for a name that is not there, or a type that gguf does not dequantize.
        """
        info = self._info_of(name)
        raw, rows = self._stored(info), self._row_order(name, info)
        flat = np.empty((raw.shape[0], info.shape[-1]), np.float32)
        step = max(1, CHUNK // info.shape[-1])
        for start in range(0, len(flat), step):
            stop = start + step
            chunk = raw[start:stop] if rows is None else raw[rows[start:stop]]
            flat[start:stop] = self._floats(chunk, info).reshape(-1, info.shape[-1])
        self.file.release(info.offset, info.nbytes)
        return flat.reshape(info.shape)

    read = dequantize  # as the folders' weights are read

    def stored(self, name: str) -> StoredArray | None:
        """A matrix in its own blocks, which mean what `dequantize` gives; None for other types.

        Raises ValueError for a name that is not there, or scales that are NaN or Inf.
        """
        info = self._info_of(name)
        if info.type not in BLOCKS or len(info.shape) != 2:
            return None
        try:
            array = BLOCKS[info.type](self.blocks(name)[0], info.shape)
        except ValueError as error:
            raise ValueError(f"{self.path}: {info.stored_name}: {error}") from None
        self.file.release(info.offset, info.nbytes)
        return array

    def _floats(self, chunk: np.ndarray, info: TensorInfo) -> np.ndarray:
        package = gguf_package()
        # One long row: a block does not care which row it lies in, and gguf goes row by row.
        stored = np.ascontiguousarray(chunk).reshape(1, -1)
        try:
            return package.quants.dequantize(stored, package.GGMLQuantizationType[info.type])
        except NotImplementedError as error:
            raise ValueError(
                f"{self.path}: {info.stored_name} is stored as {info.type}: {error}"
            ) from None

    def _info_of(self, name: str) -> TensorInfo:
        if name not in self._infos:
            raise ValueError(f"{self.path} has no tensor for {name}, expected one of its names")
        return self._infos[name]

    def _stored(self, info: TensorInfo) -> np.ndarray:
        rows = int(np.prod(info.shape[:-1]))
        return self.file.view(info.offset, info.nbytes).reshape(rows, -1)

    def _row_order(self, name: str, info: TensorInfo) -> np.ndarray | None:
        """Which stored row is each row of ours; None where they are the same."""
        if name.endswith(".q_proj.weight"):
            heads = self.config.num_attention_heads
        elif name.endswith(".k_proj.weight"):
            heads = self.config.num_key_value_heads
        else:
            return None
        rows, dim = info.shape[0], self.config.head_dim
        if rows != heads * dim:
            raise ValueError(
                f"{self.path}: {info.stored_name} has {rows} rows, expected {heads} heads of {dim}"
            )
        # Stored row 2 j + i of a head is row i dim/2 + j of ours (i: which half).
        return np.arange(rows).reshape(heads, dim // 2, 2).swapaxes(1, 2).reshape(-1)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer and chat template that the metadata describes."""
        return tokenizer_of(self.path, self.metadata)


def hf_name(name: str) -> str | None:
    """Hugging Face's name for a llama.cpp tensor, None for one that the plain family lacks."""
    if name in NAMES:
        return NAMES[name]
    block, _, rest = name.partition(".")
    number, _, kind = rest.partition(".")
    if block != "blk" or not number.isdecimal() or kind not in LAYER_NAMES:
        return None
    return f"model.layers.{number}.{LAYER_NAMES[kind]}"


def load_gguf(path: Path | str, dtype: str = "float32") -> tuple[Transformer, Tokenizer]:
    """Model (in eval mode) and tokenizer of a GGUF file, its matrices kept as `fill_model` says.

    Raises ValueError as GGUFFile does, and for missing tensors, wrong shapes, NaN or Inf.
    """
    file = GGUFFile(path)
    tokenizer = file.tokenizer
    require_size(file.config, file)
    model = Transformer(file.config, rng=None)
    fill_model(model, file, dtype)
    return model.eval(), tokenizer
