"""A bundle names the towers that its run read, also where their files have changed until it ends."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vglm_train.checkpoint.bundle import towers
from vglm_train.errors import UserError
from vglm_train.fingerprint import fingerprint


def test_the_fingerprint_is_that_of_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "SMALL", 0)
    source = tmp_path / "tower.safetensors"
    save_file({"a": torch.zeros(4)}, source)
    read = fingerprint(source)
    save_file({"a": torch.ones(4)}, source)
    reference = towers.save_or_reference(tmp_path / "vision.safetensors", {"a": torch.zeros(4)}, str(source), read)
    assert reference["fingerprint"] == read != fingerprint(source)
    with pytest.raises(UserError, match="its fingerprint differs"):
        towers.find(tmp_path, "vision", reference, None)
