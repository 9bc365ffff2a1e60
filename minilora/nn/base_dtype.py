"""A frozen base kept in fewer bits: `store_base` and what it does with each weight.

The layers stay the same: a Linear or Embedding whose weight holds a `StoredArray` makes the
numbers it needs in each product (`autograd/products.py`), so only an adapter beside it can train.
"""

from __future__ import annotations

from collections.abc import Mapping

from minilora.autograd.products import Matrix, is_stored
from minilora.autograd.quantize import quantize
from minilora.autograd.stored_array import BLOCKS, StoredArray
from minilora.backend import get_array_module, keep_freed_memory, to_numpy
from minilora.nn.freeze import is_frozen
from minilora.nn.layers import Embedding, Linear
from minilora.nn.module import Module, Parameter
from minilora.nn.transformer import Transformer

BASE_DTYPES = ("float32", "float16", "q4", "nf4")
"""What `store_base` takes. Norms and biases are float32 in each."""


def require_base_dtype(dtype: object) -> None:
    """Raise ValueError for what is none of BASE_DTYPES."""
    if dtype not in BASE_DTYPES:
        raise ValueError(f"got base dtype {dtype!r}, expected one of {', '.join(BASE_DTYPES)}")


class StoredParameter(Parameter):
    """A weight held as a StoredArray: frozen for good.

    Merging an adapter puts float32 numbers in its place, and unmerging the StoredArray back.
    """

    __slots__ = ()

    def __init__(self, data: StoredArray) -> None:
        super().__init__(data, requires_grad=False)

    @property
    def requires_grad(self) -> bool:
        """False. Raises ValueError when set to True."""
        return False

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value:
            raise ValueError(
                f"got requires_grad True for a weight {self.shape} of a stored base, which is "
                "frozen; expected an adapter to train, or a float32 base"
            )


def store_base(
    model: Transformer, dtype: str, ready: Mapping[str, StoredArray] | None = None
) -> Transformer:
    """Keep a plain model's matrices as stored blocks, in place; returns it.

    "float16": all of them. "q4" and "nf4": linear layers in that format; the embedding and the
    output head, to which a language model is most sensitive, in q8; where the inputs are no
    multiple of a block (32, of nf4 64), float16. "float32" changes nothing. ready: weights that
    are stored already, by parameter name (a GGUF file's own blocks), used as they are. From then
    on the model computes with the stored numbers, and so do fingerprints, merging and saving,
    which write float32.
    Raises ValueError, before anything changes, for another dtype, a model that carries an
    adapter, is on a device or is stored already, and for ready names or shapes it does not have.
    """
    formats, ready = formats_for(model, dtype), dict(ready or {})
    if not formats and not ready:
        return model
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2}
    _check(model, matrices, ready)
    stored = {name: ready.get(name) for name in matrices if name in ready or name in formats}
    for name, blocks in stored.items():
        stored[name] = _stored(name, matrices[name], formats[name]) if blocks is None else blocks
    # Each product makes a layer's numbers and frees them again. Fresh pages from the system each
    # time would cost more than the product (data/bench/README.md has the figures).
    keep_freed_memory()
    # Looked up by identity, so that a Parameter that two modules share stays shared.
    new = {id(matrices[name]): StoredParameter(blocks) for name, blocks in stored.items()}
    for _, module in model.named_modules():
        for leaf, parameter in list(module._parameters.items()):
            if id(parameter) in new:
                setattr(module, leaf, new[id(parameter)])
    return model


def unpack_base(model: Transformer) -> Transformer:
    """Put the float32 numbers that stored blocks mean in their place, in place; returns it.

    The model computes with the same numbers, and no product has to make them first: one token of
    one row is then as fast as in float32, and takes float32's memory. Frozen as it was.
    """
    plain: dict[int, Parameter] = {}
    for _, module in model.named_modules():
        for leaf, parameter in list(module._parameters.items()):
            if isinstance(parameter, StoredParameter):
                if id(parameter) not in plain:
                    numbers = parameter.data.dense().copy()  # rows lie together, as in a file
                    plain[id(parameter)] = Parameter(numbers, requires_grad=False)
                setattr(module, leaf, plain[id(parameter)])
    return model


def _stored(name: str, parameter: Parameter, format: str) -> StoredArray:
    try:
        return quantize(to_numpy(parameter.data), format).astype(parameter.dtype)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check(model: Module, matrices: Mapping[str, Parameter], ready: Mapping) -> None:
    if is_frozen(model):
        raise ValueError(
            "store_base got a model that carries an adapter, expected a plain one; detach or "
            "merge_and_unload it first"
        )
    held = [name for name, p in matrices.items() if is_stored(p.data)]
    if held:
        raise ValueError(
            f"store_base got {len(held)} of {len(matrices)} matrices stored already, as "
            f"{matrices[held[0]].data.format} ({held[0]}); expected float32 ones"
        )
    if any(get_array_module(p.data).__name__ != "numpy" for p in matrices.values()):
        raise ValueError("store_base got a model on a device, expected one on the cpu")
    foreign = {
        n: a.shape for n, a in ready.items() if n not in matrices or matrices[n].shape != a.shape
    }
    if foreign:
        raise ValueError(
            f"store_base got {foreign}, expected names and shapes of this model's matrices"
        )


def formats_for(model: Transformer, dtype: str) -> dict[str, str]:
    """Parameter name -> the format that `store_base` gives it; {} for "float32".

    Raises ValueError for another dtype.
    """
    require_base_dtype(dtype)
    formats: dict[str, str] = {}
    if dtype == "float32":
        return formats
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Embedding)):
            sensitive = isinstance(module, Embedding) or module is model.lm_head
            kind = "q8" if sensitive and dtype != "float16" else dtype
            fits = module.weight.shape[1] % BLOCKS[kind] == 0
            formats[f"{name}.weight"] = kind if fits else "float16"
    return formats


def bytes_by_format(model: Module) -> dict[str, tuple[int, int]]:
    """How the weights are held: format (or dtype) -> (numbers, bytes), largest first."""
    totals: dict[str, tuple[int, int]] = {}
    for parameter in model.parameters():
        data: Matrix = parameter.data
        kind = data.format if is_stored(data) else str(data.dtype)
        numbers, held = totals.get(kind, (0, 0))
        totals[kind] = (numbers + data.size, held + data.nbytes)
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))
