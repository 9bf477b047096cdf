"""The files of a store: what a kill leaves, several writers, each dtype's bits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vglm_train.data.features import store as store_module
from vglm_train.data.features.identity import VERSIONS, Identity, holds_older, of_earlier_kernels, picture_digest
from vglm_train.data.features.store import FeatureStore, Writer, row_key
from vglm_train.errors import UserError
from vglm_train.image import ImageError
from vglm_train.model.vision.base import KERNELS

IMAGES = [f"picture {number}".encode() for number in range(6)]


def identity(dtype: str = "float32") -> Identity:
    mean = (0.5, 0.5, 0.5)
    return Identity("f", 3, 4, dtype, 16, mean, mean, (1.0, 1.0), False, None, VERSIONS["turbo"])


def keys(*numbers: int) -> np.ndarray:
    return np.array([row_key(picture_digest(IMAGES[number]), 0) for number in numbers], "S20")


def features(*numbers: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.stack([torch.randn(3, 4, generator=torch.Generator().manual_seed(n)) for n in numbers]).to(dtype)


def test_features_of_earlier_versions_keep_their_folder() -> None:
    """A key that a version before turbo gave."""
    assert replace(identity(), version=VERSIONS["pillow"]).key == "e22e62b65035a3ae"
    assert VERSIONS[None] == VERSIONS["pillow"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bits_come_back(tmp_path: Path, dtype: str) -> None:
    store = FeatureStore(tmp_path, identity(dtype), 1)
    with Writer(store) as one, Writer(store) as other:
        one.add(keys(0, 1), features(0, 1, dtype=getattr(torch, dtype)))
        other.add(keys(2), features(2, dtype=getattr(torch, dtype)))
        other.add_damaged(keys(3)[0], "bomb")
    store.refresh()
    for number in range(3):
        found = store.read(IMAGES[number], 0)
        assert found.dtype == getattr(torch, dtype)
        assert torch.equal(found, features(number, dtype=getattr(torch, dtype))[0])
    with pytest.raises(ImageError) as damage:
        store.read(IMAGES[3], 0)
    assert damage.value.cause == "bomb"
    assert store.holds(keys(0, 4, 3)).tolist() == [True, False, True]


def test_only_what_was_synced_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path, identity(), 1)
    monkeypatch.setattr(store_module, "SYNC_BYTES", 2 * store.row_bytes)
    writer = Writer(store)
    writer.add(keys(0, 1, 2), features(0, 1, 2))  # and here it is killed
    store.refresh()
    assert store.holds(keys(0, 1, 2)).tolist() == [True, True, False]
    assert torch.equal(store.read(IMAGES[1], 0), features(1)[0])


@pytest.mark.parametrize(("suffix", "cut"), [(".index", 5), (".rows", 5)])
def test_a_cut_tail_is_left_out(tmp_path: Path, suffix: str, cut: int) -> None:
    store = FeatureStore(tmp_path, identity(), 1)
    with Writer(store) as writer:
        writer.add(keys(0, 1), features(0, 1))
    (file,) = store.folder.glob(f"part-*{suffix}")
    file.write_bytes(file.read_bytes()[:-cut])
    store.refresh()
    assert store.holds(keys(0, 1)).tolist() == [True, False]


def test_parts_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path, identity(), 1)
    monkeypatch.setattr(store_module, "PART_BYTES", 2 * store.row_bytes)
    with Writer(store) as writer:
        writer.add(keys(0, 1, 2, 3, 4), features(0, 1, 2, 3, 4))
    store.refresh()
    assert len(store.parts) == 3
    assert all(torch.equal(store.read(IMAGES[n], 0), features(n)[0]) for n in range(5))


def test_done_is_of_as_many_views(tmp_path: Path) -> None:
    FeatureStore(tmp_path, identity(), 2).mark_done(["a", "b"])
    assert FeatureStore(tmp_path, identity(), 1).done() == {"a", "b"}
    assert FeatureStore(tmp_path, identity(), 3).done() == set()


def test_a_store_that_describes_something_else(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, identity(), 1)
    (store.folder / "store.json").write_text("{}")
    with pytest.raises(UserError, match=r"describes other features.*Delete"):
        FeatureStore(tmp_path, identity(), 1)


def test_everything_that_changes_features_changes_the_key() -> None:
    one = identity()
    changes = [
        {"encoder": "g"}, {"dtype": "float16"}, {"size": 32}, {"mean": (0.4,) * 3}, {"std": (0.4,) * 3},
        {"crop_scale": (0.5, 1.0)}, {"flip": True}, {"seed": 1}, {"version": VERSIONS["pillow"]},
    ]  # fmt: skip
    assert len({one.key, *(replace(one, **change).key for change in changes)}) == len(changes) + 1


def test_rows_of_fused_kernels_stand_apart_and_the_others_stay_where_they_are() -> None:
    """Fused kernels round in other places."""
    plain = identity()
    assert "fused" not in plain.json()
    assert len({replace(plain, fused=version).key for version in range(KERNELS + 1)}) == KERNELS + 1


def test_features_of_earlier_kernels_are_told_apart(tmp_path: Path) -> None:
    """They are of no use any more: neither a reason for Pillow's pixels nor to be kept."""
    made = replace(identity(), version=VERSIONS["pillow"])

    def store(name: str, said: Identity) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").write_text(said.json())

    store("earlier", replace(made, fused=KERNELS - 1))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "store.json").write_text("{")
    assert not holds_older(tmp_path, KERNELS)
    store("other", replace(made, fused=KERNELS - 1, size=32))
    wanted = replace(made, fused=KERNELS)
    assert of_earlier_kernels(tmp_path, wanted) == ["earlier"]
    store("plain", made)  # of a CPU, or of an encoder without fused kernels
    assert holds_older(tmp_path, KERNELS)
    assert of_earlier_kernels(tmp_path, wanted) == ["earlier"]
