"""Large published weights into a model: checked as a whole before anything is read, then one tensor at a time."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vglm_train.checkpoint.keymaps.keymap import KeyMap, mismatches
from vglm_train.checkpoint.load.finite import check_finite
from vglm_train.checkpoint.load.tensor_files import TensorFile
from vglm_train.errors import UserError

logger = logging.getLogger(__name__)


def fill(module: nn.Module, shards: Sequence[TensorFile], table: KeyMap, source: Path) -> None:
    """Every tensor of `module` from `shards`, renamed by `table`, whose rules are one to one.

    Each is cast to the dtype it has in the module; where that is on the meta device, it gets memory on torch's current
    default device.
    Raises UserError naming all missing, unexpected and misshapen keys; then nothing has been changed. As `check_finite`
    for values that are not finite.
    """
    assert all(len(rule.sources) == len(rule.targets) == 1 for rule in table.rules)
    state = module.state_dict(keep_vars=True)
    content = {key: torch.empty(*shape, device="meta") for shard in shards for key, shape in shard.shapes.items()}
    if problems := mismatches(table, content, state):
        raise UserError(
            f"{source} does not fit the configured model: {'; '.join(problems)}. Nothing was loaded: complete the "
            "folder, or correct the model section."
        )
    for shard in shards:
        for key in shard.shapes:
            for name, value in table.apply({key: shard.read(key)}).items():
                copy_tensor(module, name, state[name], value, key, shard.path)
    logger.info("%s: read %d tensors from %d files", source, len(state), len(shards))


def copy_tensor(module: nn.Module, name: str, old: Tensor, value: Tensor, key: str, source: Path) -> None:
    """Give the tensor `old`, `name` in `module`, a value; one on the meta device gets memory on the default device.

    UserError where the value, `key` of the file or folder `source`, is not finite.
    """
    if not old.is_meta:
        with torch.no_grad():
            old.copy_(value)
        check_finite(old.detach(), key, source)
        return
    owner, _, last = name.rpartition(".")
    new = value.to(torch.get_default_device(), old.dtype, copy=True)
    check_finite(new, key, source)
    holder = module.get_submodule(owner)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(holder, last, new)
