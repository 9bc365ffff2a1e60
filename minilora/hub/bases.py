"""Which base a name means, and how it is opened."""

from __future__ import annotations

from pathlib import Path

from minilora.backend import to_device
from minilora.hub.checkpoint import load_pretrained
from minilora.hub.smollm import KNOWN, find_known, known_model
from minilora.lora import Adapter
from minilora.nn import BASE_DTYPES, Transformer
from minilora.text import Tokenizer

WARD = "ward-base"
WARD_BASE = Path(__file__).resolve().parents[2] / "data" / WARD
NAMES = (WARD, *KNOWN)


def find_base(name: str, option: str = "--base") -> Path:
    """The folder or .gguf file of a base; `ward-base` is the one in data/ of a checkout.

    option: what named it, for messages. A known model goes by its short name and by its hub id, and
    is the one in the cache. Raises ValueError when that is not there, or `name` is none of these.
    """
    if name == WARD:
        if not (WARD_BASE / "model.safetensors").is_file():
            raise ValueError(
                f"{WARD} is not at {WARD_BASE} (it comes with a checkout of the project); "
                f"name a Hugging Face folder with {option}"
            )
        return WARD_BASE
    known = known_model(name)
    if known is not None:
        return find_known(known)
    if not is_model_path(Path(name)):
        raise ValueError(
            f"got {option} {name}, expected {', '.join(NAMES)}, a Hugging Face model folder or a "
            ".gguf file"
        )
    return Path(name)


def is_model_path(path: Path) -> bool:
    """Whether a model could be here: a folder, or a file that says it is a GGUF."""
    return path.is_dir() or (path.suffix.lower() == ".gguf" and path.is_file())


def public_name(name: str) -> str:
    """What an adapter calls its base: a known model's hub id, as PEFT expects, else the name."""
    known = known_model(name)
    return name if known is None else known.hub_id


def open_base(
    name: str, dtype: str = "float32", device: str = "cpu", option: str = "--base"
) -> tuple[Transformer, Tokenizer]:
    """Model, on the device, and tokenizer of a base.

    Raises ValueError as `find_base` and `load_pretrained` do, or for a device that is not there.
    """
    to_device(0.0, device)  # refused before the base is read
    model, tokenizer = load_pretrained(find_base(name, option), dtype)
    return model.to(device), tokenizer


def base_dtype_of(adapter: Path | None) -> str:
    """How the base was kept when the adapter was trained: "float32" unless its folder says.

    A base rounded to fewer bits is another base, and the adapter fits that one alone. Raises
    ValueError for an adapter that can't be read, or was trained over a dtype that is not known.
    """
    provenance = {} if adapter is None else Adapter.read(adapter).provenance
    dtype = provenance.get("base_dtype", "float32")
    if dtype not in BASE_DTYPES:
        raise ValueError(
            f"{adapter} was trained over a base in {dtype!r}, expected one of {BASE_DTYPES}"
        )
    return dtype


def base_of(name: str | None, adapter: Path | None) -> str:
    """The base to open: as asked, else the one the adapter names, else ward-base.

    Raises ValueError for an adapter that can't be read, or whose base is not here.
    """
    if name is not None or adapter is None:
        return WARD if name is None else name
    named = Adapter.read(adapter).base_name or WARD
    if named != WARD and known_model(named) is None and not is_model_path(Path(named)):
        raise ValueError(
            f"{adapter} was made for base {named!r}, which is no model here; name it with --base"
        )
    return named
