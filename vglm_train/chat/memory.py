"""What a model needs of a device's memory, by the form of its language model, and the form that fits."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vglm_train.checkpoint.convert.summary import bytes_of
from vglm_train.errors import UserError
from vglm_train.model.language import LanguageModel, Quantize
from vglm_train.model.language.linears import FORMS, form_of, linears
from vglm_train.model.language.packed import PackedLinear
from vglm_train.model.vision import DTYPES
from vglm_train.model.visual_language import VisualLanguageModel

ORDER: tuple[Quantize | None, ...] = (None, "int8", "int4")  # by precision
SPARE = 2**29  # workspaces of libraries, and gaps between what is allocated
MEMINFO = Path("/proc/meminfo")


@dataclass(slots=True)
class Fit:
    """Chooses the most precise form with which a model, and a conversation of `tokens`, fit into what is free."""

    source: str  # what is opened, for messages
    device: torch.device
    tokens: int  # at most; fewer where the model has fewer positions
    reason: str = ""  # in words, once it has chosen

    def __call__(self, model: VisualLanguageModel) -> Quantize | None:
        """The form for a model without memory. UserError that names the sizes where none fits."""
        free, names = free_memory(self.device), [_name(model.language, form) for form in ORDER]
        tokens = min(self.tokens, model.language.positions or self.tokens)
        if free is None:
            self.reason = f"quantize: {names[0]}, since nothing says how much memory of {self.device} is free"
            return None
        needed = [need(model, form, tokens) for form in ORDER]
        sizes = [f"{name} needs {bytes_of(size)}" for name, size in zip(names, needed, strict=True)]
        conditions = f"with a picture and a conversation of {tokens} tokens; {bytes_of(free)} of {self.device}"
        for number, size in enumerate(needed):
            if size <= free:
                self.reason = f"quantize: {names[number]}; {', '.join(sizes[: number + 1])} {conditions} are free"
                return ORDER[number]
        raise UserError(
            f"{self.source} does not fit: {', '.join(sizes)} {conditions} are free. Free memory there, take a smaller "
            "model, or give another --device (cpu is slow, but often has more)."
        )


def need(model: VisualLanguageModel, form: Quantize | None, tokens: int) -> int:
    """Bytes of weights, of the keys and values of one conversation, and of what is computed meanwhile, at most."""
    language = model.language
    inside = {id(tensor) for tensor in (*language.parameters(), *language.buffers())}
    others = [tensor for tensor in (*model.parameters(), *model.buffers()) if id(tensor) not in inside]
    weights = sum(tensor.nbytes for tensor in others) + language_bytes(language, form)
    size = language.dtype.itemsize
    cache = 2 * tokens * size * _widths(language)
    sizes = [linear.size for linear in linears(language)]
    widest, largest = max(max(pair) for pair in sizes), max(i * o for i, o in sizes)
    reading = tokens * size * (4 * widest + tokens) + 8 * language.vocabulary * size
    dequantised = 2 * largest * size if form else 0
    return weights + 2 * cache + reading + dequantised + SPARE  # the cache is copied once, to where steps use it


def language_bytes(language: LanguageModel, form: Quantize | None) -> int:
    """Bytes of a language model's weights if its blocks were in `form`."""
    seen = {id(tensor): tensor.nbytes for tensor in (*language.parameters(), *language.buffers())}
    total = float(sum(seen.values()))
    for linear in linears(language):
        module, (inputs, outputs) = linear.module, linear.size
        if isinstance(module, PackedLinear):
            total -= sum(tensor.nbytes for tensor in module.buffers())
            full = inputs * outputs * module.dtype.itemsize
        else:
            full = module.weight.nbytes
            total -= full
        total += FORMS[form].size(inputs, outputs) if form else full
    return round(total)


def memory_line(language: LanguageModel, device: torch.device) -> str:
    """What the language model takes, what it would take unquantised, and what is free of the device."""
    form, full = form_of(language), bytes_of(language_bytes(language, None))
    taken = sum(tensor.nbytes for tensor in (*language.parameters(), *language.buffers()))
    change = f"{full} -> {bytes_of(taken)} in {form}" if form else f"{full} in {_name(language, None)}"
    free, total = free_memory(device), total_memory(device)
    left = f"; {bytes_of(free)} free of {bytes_of(total)}" if free is not None and total is not None else ""
    return f"language model: {change} on {device}{left}"


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated; None where nothing says it."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _meminfo(device, "MemAvailable")


def total_memory(device: torch.device) -> int | None:
    """Bytes that the device has; None where nothing says it."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else _meminfo(device, "MemTotal")


def _meminfo(device: torch.device, key: str) -> int | None:
    """Of Linux."""
    if device.type != "cpu" or not MEMINFO.exists():
        return None
    values = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    return int(values[key].split()[0]) * 1024


def _widths(language: LanguageModel) -> int:
    """Numbers of the keys of one token, of all blocks; an encoder-decoder keeps as many of what its encoder read."""
    try:
        return sum(heads * width for _, heads, width in language.attentions())
    except UserError:  # an attention that nothing is known of: no wider than its inputs
        return len(language.blocks()) * max(min(linear.size) for linear in linears(language))


def _name(language: LanguageModel, form: Quantize | None) -> str:
    return form or next(name for name, dtype in DTYPES.items() if dtype == language.dtype)
