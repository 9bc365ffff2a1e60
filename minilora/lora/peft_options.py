"""Which of PEFT's options minilora reads, which it refuses, and the LoRAConfig they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

from minilora.limits import require_count
from minilora.lora.config import ALL_LINEAR, LoRAConfig, Vera
from minilora.lora.expressions import MOST_EXPRESSIONS, check_expression

READ = ("r", "lora_alpha", "target_modules")
OPTIONAL = {
    "lora_dropout": "lora_dropout", "use_rslora": "use_rslora", "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern", "alora_invocation_tokens": "invocation",
    "use_dora": "use_dora", "modules_to_save": "modules_to_save",
    "trainable_token_indices": "trainable_token_indices",
}  # fmt: skip
"""PEFT's key -> the field of LoRAConfig."""
VERA_READ = ("r", "target_modules")
VERA_OPTIONAL = {"vera_dropout": "lora_dropout"}
VERA_OWN = ("projection_prng_key", "save_projection", "d_initial")
"""Of PEFT's VeraConfig; the last are the fields of Vera."""
# With target_modules, these choose the modules; see targets.linears_by_rule.
CHOOSING = ("exclude_modules", "layers_to_transform", "layers_pattern")
# Keys that say nothing about what the adapter computes, whatever their value.
SILENT = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "revision", "task_type",
}  # fmt: skip
# The one value of each that means "as usual"; every other key must be empty (null, false, {}).
USUAL = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
    "init_weights": (True, False),
}


def check_options(options: Mapping) -> None:
    """Raise ValueError, naming the option, for what minilora would not compute as PEFT does."""
    kind, task = options.get("peft_type"), options.get("task_type")
    if kind not in ("LORA", "VERA"):
        raise ValueError(f"got peft_type {kind!r}, expected 'LORA' or 'VERA'")
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(f"got task_type {task!r}, expected 'CAUSAL_LM'")
    needed, own = (VERA_READ, {*VERA_OPTIONAL, *VERA_OWN}) if is_vera(options) else (READ, OPTIONAL)
    known = {*SILENT, *needed, *own, *CHOOSING}
    odd = [
        f"{key} = {value!r}"
        for key, value in sorted(options.items())
        if key not in known and not _is_usual(key, value)
    ]
    if odd:
        raise ValueError(
            f"got {', '.join(odd)}, which minilora does not support; expected these options unset"
        )
    missing = [key for key in needed if options.get(key) is None]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}, expected all of {needed}")
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        _check_names(key, options.get(key))
    _check_layers(options)


def is_vera(options: Mapping) -> bool:
    """Whether they are those of PEFT's VeraConfig."""
    return options.get("peft_type") == "VERA"


def _is_usual(key: str, value: object) -> bool:
    if key in USUAL and value is not None:
        return any(value is usual or value == usual for usual in USUAL[key])
    return not value


def _check_names(key: str, value: object) -> None:
    names = [value] if isinstance(value, str) else value or []
    expected = f"got {key} {value!r}, expected names or a regular expression"
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(expected)
    require_count(f"number of names in {key}", len(names), 0, MOST_EXPRESSIONS)
    # The entries of a list are plain names, but for layers_pattern.
    for rule in names if isinstance(value, str) or key == "layers_pattern" else ():
        try:
            check_expression(rule)
        except ValueError as error:
            raise ValueError(f"{expected} ({error})") from None


def _check_layers(options: Mapping) -> None:
    """As PEFT's own config does: layers only beside a list of names, a pattern only with layers."""
    layers, targets = options.get("layers_to_transform"), options["target_modules"]
    numbers = layers if isinstance(layers, list) else [layers] if _is_set(layers) else []
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers):
        raise ValueError(f"got layers_to_transform {layers!r}, expected numbers of layers")
    if numbers and isinstance(targets, str):
        raise ValueError(
            f"got layers_to_transform {layers!r} beside target_modules {targets!r}, expected "
            "target_modules to be a list of names"
        )
    if _is_set(options.get("layers_pattern")) and not numbers:
        raise ValueError("got layers_pattern without layers_to_transform, expected both")


def _is_set(value: object) -> bool:
    """Whether a choosing option says anything; layer 0 does."""
    return value is not None and value != [] and value != ""


def choosing_rule(options: Mapping) -> dict:
    """The options that chose the modules where they are more than names; {} where they are names.

    More than names: a regular expression for target_modules, or any of CHOOSING.
    """
    targets = options["target_modules"]
    is_expression = isinstance(targets, str) and targets != ALL_LINEAR
    if not is_expression and not any(_is_set(options.get(key)) for key in CHOOSING):
        return {}
    keys = ("target_modules", *CHOOSING)
    return {key: options[key] for key in keys if options.get(key) is not None}


def config_of(options: Mapping, modules: list[str]) -> LoRAConfig:
    """The config; `modules` are its targets where a rule chose them. Raises ValueError."""
    targets = modules if choosing_rule(options) else options["target_modules"]
    optional = VERA_OPTIONAL if is_vera(options) else OPTIONAL
    given = {own: options[key] for key, own in optional.items() if options.get(key) is not None}
    if is_vera(options):
        own = {key: options[key] for key in VERA_OWN if options.get(key) is not None}
        return LoRAConfig(options["r"], target_modules=targets, vera=Vera(**own), **given)
    rows = given.get("trainable_token_indices")
    if isinstance(rows, list):
        given["trainable_token_indices"] = {"embed_tokens": rows}
    return LoRAConfig(options["r"], options["lora_alpha"], targets, **given)


def shared_scaling(config: LoRAConfig, modules: Iterable[str]) -> float | dict[str, float]:
    """s where all these modules share it, else module -> s, sorted."""
    scalings = {name: config.at(name).scaling for name in sorted(modules)}
    values = set(scalings.values())
    return values.pop() if len(values) == 1 else scalings


def options_of(config: LoRAConfig, modules: list[str], base_name: str) -> dict:
    """What adapter_config.json says of an adapter on these modules."""
    config = in_plain_names(config, modules)
    common = {
        "r": config.r,
        "target_modules": list(config.target_modules),
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": "CAUSAL_LM",
    }
    if config.vera is not None:
        dropout = {"vera_dropout": config.lora_dropout}
        return {**common, **dropout, **asdict(config.vera), "init_weights": True,
                "peft_type": "VERA"}  # fmt: skip
    rows = {name: list(ids) for name, ids in config.trainable_token_indices.items()}
    patterns = {"rank_pattern": config.rank_pattern, "alpha_pattern": config.alpha_pattern}
    return {
        **common,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "use_rslora": config.use_rslora,
        **{name: dict(pattern) for name, pattern in patterns.items() if pattern},
        **({"use_dora": True} if config.use_dora else {}),
        **({"modules_to_save": list(config.modules_to_save)} if config.modules_to_save else {}),
        **({"trainable_token_indices": rows} if rows else {}),
        **({"alora_invocation_tokens": list(config.invocation)} if config.invocation else {}),
        "init_lora_weights": True,
        "peft_type": "LORA",
    }


def in_plain_names(config: LoRAConfig, modules: list[str]) -> LoRAConfig:
    """The config that means the same for these modules, with its targets and keys as in a file.

    There they are sorted, and the modules' names stand for "all-linear". The first key of a
    pattern that fits counts, so where keys overlap whole module names replace them.
    """
    targets = modules if config.target_modules == ALL_LINEAR else config.target_modules
    ordered = replace(
        config,
        target_modules=sorted(targets),
        rank_pattern=dict(sorted(config.rank_pattern.items())),
        alpha_pattern=dict(sorted(config.alpha_pattern.items())),
    )
    own = {name: config.at(name) for name in modules}
    if all(
        (ordered.at(n).r, ordered.at(n).lora_alpha) == (x.r, x.lora_alpha) for n, x in own.items()
    ):
        return ordered
    return replace(
        ordered,
        rank_pattern={n: one.r for n, one in own.items() if one.r != config.r},
        alpha_pattern={
            n: one.lora_alpha for n, one in own.items() if one.lora_alpha != config.lora_alpha
        },
    )
