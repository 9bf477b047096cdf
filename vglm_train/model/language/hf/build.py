"""A transformers model from its config.json. Code in a model's folder is never run."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.weights.identify import require


def source_of(config: Language) -> str:
    """Where config.json is: for messages."""
    return str(config.config or f"{config.weights}/config.json")


def read_config(config: Language) -> dict[str, Any]:
    """config.json of model.language.weights or .config (a folder or a file). Raises UserError if it cannot be read."""
    path = Path(str(config.config or config.weights))
    if not path.exists():
        field = "config" if config.config else "weights"
        raise UserError(f"model.language.{field}: no such file or folder: {path}")
    if not config.config:
        require(path, "language")
    path = path / "config.json" if path.is_dir() or not config.config else path
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        field = "config" if config.config else "weights"
        raise UserError(
            f"model.language.{field}: cannot read {path} ({error}). Give a Hugging Face folder with config.json."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a model's configuration; give a Hugging Face folder with config.json.")
    return content


def configuration(content: dict[str, Any], source: str) -> PreTrainedConfig:
    """transformers' configuration of a config.json, without dropout. Raises UserError naming `source`."""
    kind = str(content.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"{source}: transformers {transformers.__version__} has no model_type {kind!r}. Code that comes with a "
            "model is not run; take one that transformers knows (for ChatGLM-6B set model.language.family=chatglm)."
        )
    if content.get("quantization_config"):
        raise UserError(f"{source}: quantised weights are not supported; take the model's bf16 or fp16 release.")
    plain = {key: _number(value) for key, value in content.items() if key not in ("auto_map", "dtype", "torch_dtype")}
    plain |= {key: 0.0 for key, value in plain.items() if ("drop" in key or "pdrop" in key) and type(value) is float}
    try:
        return CONFIG_MAPPING[kind].from_dict(plain)
    except Exception as error:  # transformers raises many kinds here
        raise UserError(f"{source} is not a configuration of {kind}: {error}") from error


def _number(value: Any) -> Any:
    """transformers writes infinite numbers of a config.json as {"__float__": "Infinity"}."""
    if isinstance(value, dict) and set(value) == {"__float__"}:
        return float(value["__float__"])
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    return [_number(item) for item in value] if isinstance(value, list) else value


def build(kind: Any, shape: PreTrainedConfig, dtype: torch.dtype, filled: bool) -> Any:
    """A transformers model made directly in `dtype`, on torch's default device.

    `filled`: with random weights. Otherwise memory is left uninitialised, for weights that are read afterwards.
    """
    attention = "sdpa" if kind._supports_sdpa else "eager"
    with nullcontext() if filled else no_init_weights():
        model = kind._from_config(shape, dtype=dtype, attn_implementation=attention)
    model.tie_weights()  # no_init_weights leaves this out too
    kept = set(getattr(kind, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:  # T5's `wo` overflows in fp16
        kept |= set(getattr(kind, "_keep_in_fp32_modules", None) or ())
    for name, module in model.named_modules():
        if kept & set(name.split(".")):
            module.float()
    if not any(parameter.is_meta for parameter in model.parameters()):
        compute_tables(model)  # again, since constructors may have computed them in the dtype of the weights
    return model


def compute_tables(model: Any) -> list[str]:
    """Compute in fp32 what weight files do not hold, such as rotary tables. Returns names of those that it cannot."""
    names = []
    for prefix, module in model.named_modules():
        own = [key for key, _ in module.named_buffers(recurse=False) if key in module._non_persistent_buffers_set]
        names += [f"{prefix}.{key}" if prefix else key for key in own]
    return compute(model, names)


@torch.no_grad()
def compute(model: Any, names: Sequence[str]) -> list[str]:
    """Let transformers compute these tensors of a model, in fp32; returns the names of those that it cannot.

    They keep the values that they have.
    """
    lost, default = [], torch.get_default_dtype()
    owners: dict[str, dict[str, Tensor]] = {}
    for name in names:
        owner, _, key = name.rpartition(".")
        owners.setdefault(owner, {})[key] = getattr(model.get_submodule(owner), key)
    try:
        torch.set_default_dtype(torch.float32)
        for owner, tables in owners.items():
            left = _not_computed(_model_of(model, owner), model.get_submodule(owner), tables)
            lost += [f"{owner}.{key}" if owner else key for key in left]
    finally:
        torch.set_default_dtype(default)
    return lost


def _model_of(model: Any, name: str) -> Any:
    """The innermost of transformers' models around a module: it initialises the module by its own numbers."""
    inner = model
    for part in name.split(".") if name else ():
        model = getattr(model, part)
        inner = model if isinstance(model, PreTrainedModel) else inner
    return inner


def _not_computed(model: Any, module: nn.Module, tables: Mapping[str, Tensor]) -> list[str]:
    """Let transformers compute the tables; returns the names of those that it left as they were."""
    before = {key: table.clone() for key, table in tables.items()}
    others = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    weights = [weight for key, weight in others.items() if key not in tables]
    for weight in weights:
        weight._is_hf_initialized = True  # type: ignore[attr-defined]  # its mark for weights that must not be initialised
    filled: list[dict[str, Tensor]] = []
    for mark in (0, 1):
        for table in tables.values():
            table.fill_(mark)
        with next(iter(tables.values())).device:
            model._init_weights(module)
        filled.append({key: table.clone() for key, table in tables.items()})
    for weight in weights:
        del weight._is_hf_initialized  # type: ignore[attr-defined]
    left = [key for key in tables if not torch.equal(filled[0][key], filled[1][key])]
    for key in left:
        tables[key].copy_(before[key])
    return left
