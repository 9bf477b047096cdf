"""An image encoder of family auto from its published folder, tensor by tensor, as strictly as the others."""

from pathlib import Path
from typing import Any

import torch

from vglm_train.checkpoint.load.hf_language import as_published
from vglm_train.checkpoint.load.lazy_tensors import Tensors, of_shards
from vglm_train.checkpoint.load.tensor_files import open_weights
from vglm_train.errors import UserError
from vglm_train.model.vision.hf import published_class

TOWER = "tower."


def vision_folder(folder: Path, encoder: Any) -> Tensors:
    """What the folder holds for `encoder`, a `HfVision`, under its names, unread.

    Names are those of the class that config.json names, or ours, as a bundle has them. Of that class its head, final
    norm and blocks beyond the depth are left out. UserError naming every key that is missing, or has no place in it.
    """
    raw = of_shards(open_weights(folder))
    if raw and all(name.startswith(TOWER) for name in raw):
        return raw
    with torch.device("meta"):
        whole, prefix = published_class(folder, type(encoder.tower))
    found = as_published(whole, raw)
    wanted = encoder.tower.state_dict()
    tensors = {name: found.tensors.get(f"{prefix}{name}") for name in wanted}
    problems = list(found.problems)
    if missing := [name for name, tensor in tensors.items() if tensor is None]:
        problems.insert(0, f"missing: {', '.join(missing)}")
    if found.unknown:
        problems.append(f"unexpected: {', '.join(found.unknown)}")
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != tuple(wanted[name].shape):
            keys = ", ".join(found.keys[f"{prefix}{name}"][:3])
            problems.append(f"{keys} is {list(tensor.shape)}, the encoder has {list(wanted[name].shape)}")
    if problems:
        raise UserError(
            f"{folder} does not fit the {type(whole).__name__} that its config.json describes: {'; '.join(problems)}. "
            "Nothing was loaded: complete the folder."
        )
    return {f"{TOWER}{name}": tensor for name, tensor in tensors.items() if tensor is not None}
