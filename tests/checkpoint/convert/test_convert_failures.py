"""Everything that can go wrong ends in one line on stderr and status 2, and the target is untouched."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import blip2_folders
import pytest
import torch
from safetensors.torch import load_file, save_file

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.convert import writers

SECRET = "qformer.encoder.layer.1.attention.attention.query.weight"


class Malicious:
    """What torch.load without weights_only would run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("blip2") / "there"
    blip2_folders.generation("opt").save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def bundle(folder):
    out = folder.parent / "bundle"
    assert main(["import", str(folder), "--out", str(out)]) == 0
    return out


def spoilt(folder, tmp_path, change):
    """A copy whose tensors `change` has changed."""
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    tensors = load_file(there / "model.safetensors")
    change(tensors)
    save_file(tensors, there / "model.safetensors", {"format": "pt"})
    return there


def refused(capsys, command, *words):
    """Status 2, one line, all words in it; nothing new beside the target, and an old target as it was."""
    out = Path(command[command.index("--out") + 1])
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error, f"{word} is not in: {error}"
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before


def import_of(there, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)
    return ["import", str(there), "--out", str(tmp_path / "out" / "bundle")]


def test_truncated_safetensors(folder, tmp_path, capsys):
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    file = there / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(capsys, import_of(there, tmp_path), str(file), "cut short")


@pytest.mark.parametrize("keep", [0, 50, 0.6, -20])
def test_truncated_torch_file(folder, tmp_path, capsys, keep):
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    (there / "model.safetensors").unlink()
    file = there / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refused(capsys, import_of(there, tmp_path), str(file), "an empty file" if keep == 0 else "cannot read weights")


def test_a_part_that_was_not_downloaded(folder, tmp_path, capsys):
    there = tmp_path / "there"
    shutil.copytree(folder, there)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (there / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(capsys, import_of(there, tmp_path), "model-00001-of-00002.safetensors", "Complete the download")


def test_one_key_missing(folder, tmp_path, capsys):
    there = spoilt(folder, tmp_path, lambda tensors: tensors.pop(SECRET))
    refused(capsys, import_of(there, tmp_path), str(there), SECRET, "missing")
    shutil.rmtree(there)
    name = "language_projection.bias"
    there = spoilt(folder, tmp_path, lambda tensors: tensors.pop(name))
    refused(capsys, import_of(there, tmp_path), f"missing: {name}.")


@pytest.mark.parametrize("name", ["strange.weight", "language_model.model.decoder.layers.7.fc1.bias", "lora.a"])
def test_one_key_too_many(folder, tmp_path, capsys, name):
    there = spoilt(folder, tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))
    refused(capsys, import_of(there, tmp_path), f"unexpected: {name}")


def test_another_shape(folder, tmp_path, capsys):
    name = "language_projection.weight"
    there = spoilt(folder, tmp_path, lambda tensors: tensors.update({name: torch.ones(48, 31)}))
    refused(capsys, import_of(there, tmp_path), f"{name}: [48, 31] here, [48, 32] expected")


def test_another_architecture(folder, tmp_path, capsys):
    there = tmp_path / "there"
    there.mkdir()
    (there / "config.json").write_text('{"model_type": "resnet"}')
    refused(capsys, import_of(there, tmp_path), "a model of another kind (resnet)")
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["num_hidden_layers"] = 3
    (there / "config.json").write_text(json.dumps(content))
    shutil.copyfile(folder / "model.safetensors", there / "model.safetensors")
    refused(capsys, import_of(there, tmp_path), "missing", "language_model.model.decoder.layers.2.fc1.weight")
    content["vision_config"]["layer_norm_eps"] = 1e-5
    (there / "config.json").write_text(json.dumps(content))
    refused(capsys, import_of(there, tmp_path), "vision_config.layer_norm_eps is 1e-05")
    refused(capsys, [*import_of(there, tmp_path), "--format", "visualglm-sat"], "model_config.json")


@pytest.mark.parametrize("name", ["lavis.pth", "pytorch_model.bin"])
def test_a_pickle_with_code_is_not_run(folder, tmp_path, capsys, name):
    there = tmp_path / "there"
    there.mkdir()
    shutil.copyfile(folder / "config.json", there / "config.json")
    mark = tmp_path / "mark"
    torch.save({"model": {"query_tokens": torch.ones(1, 2, 3)}, "extra": Malicious(mark)}, there / name)
    source = there / name if name == "lavis.pth" else there
    refused(capsys, import_of(source, tmp_path), str(there / name), "which is code and no tensor: it was not run")
    assert main(["inspect", str(source)]) in (0, 2)
    assert not mark.exists()


def test_what_is_there_is_not_replaced_unasked(folder, bundle, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "bundle").mkdir(parents=True)
    (out / "bundle" / "mine").write_text("mine")
    (out / "b").write_text("mine")
    refused(capsys, import_of(folder, tmp_path), "is there already", "--force")
    refused(capsys, ["export", str(bundle), "--format", "hf-blip2", "--out", str(out / "b")], "is there already")
    assert main([*import_of(folder, tmp_path), "--force"]) == 0
    assert not (out / "bundle" / "mine").exists()
    assert main(["diff", str(out / "bundle"), str(bundle)]) == 0
    assert main(["export", str(bundle), "--format", "lavis", "--out", str(out / "b"), "--force"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["b", "bundle"]


def test_a_failed_replacement_leaves_the_old(folder, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "bundle").mkdir(parents=True)
    (out / "bundle" / "mine").write_text("mine")
    there = spoilt(folder, tmp_path, lambda tensors: tensors.pop(SECRET))
    refused(capsys, [*import_of(there, tmp_path), "--force"], SECRET)


def full_after(monkeypatch, tensors):
    """The disk is full when so many tensors have been written."""
    real, count = writers._write, iter(range(10**6))

    def write(stream, tensor):
        if next(count) >= tensors:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(stream, tensor)

    monkeypatch.setattr(writers, "_write", write)


@pytest.mark.parametrize("command", ["import", "export"])
def test_full_disk(folder, bundle, tmp_path, capsys, monkeypatch, command):
    full_after(monkeypatch, 20)
    (tmp_path / "out").mkdir()
    out = ["--out", str(tmp_path / "out" / "x")]
    arguments = [str(folder)] if command == "import" else [str(bundle), "--format", "hf-blip2"]
    refused(capsys, [command, *arguments, *out], "the disk is full")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_room_is_told_beforehand(bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    (tmp_path / "out").mkdir()
    refused(capsys, ["export", str(bundle), "--format", "lavis", "--out", str(tmp_path / "out" / "x")], "GiB left")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; less than any of the formats takes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(bundle, small_disk, capsys, monkeypatch):
    free = shutil._ntuple_diskusage(10**9, 0, 10**9)  # another process takes the room meanwhile
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    for kind in ("lavis", "hf-blip2"):
        command = ["export", str(bundle), "--format", kind, "--out", str(small_disk / "x")]
        refused(capsys, command, "the disk is full")
        assert list(small_disk.iterdir()) == []


def test_a_killed_conversion(folder, tmp_path):
    """kill -9 half-way: no target; the next conversion to the same place leaves nothing but the target."""
    out = tmp_path / "out" / "bundle"
    out.parent.mkdir()
    script = (
        "import os, sys\n"
        "from vglm_train.checkpoint.__main__ import main\n"
        "from vglm_train.checkpoint.convert import writers\n"
        "real, count = writers._write, iter(range(10**6))\n"
        "def write(stream, tensor):\n"
        "    real(stream, tensor)\n"
        "    if next(count) == 20: os.kill(os.getpid(), 9)\n"
        "writers._write = write\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "import", str(folder), "--out", str(out)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    assert not out.exists()
    assert [path.name[:11] for path in out.parent.iterdir()] == ["bundle.tmp-"]
    assert main(["import", str(folder), "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def test_what_a_format_has_no_place_for(bundle, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    out = ["--out", str(tmp_path / "out" / "x")]
    refused(capsys, ["export", str(bundle), "--format", "visualglm-sat", *out], "not ChatGLM")
    refused(capsys, ["export", str(bundle), "--format", "hf-blip2-retrieval", *out], "is of stage generate")
    refused(capsys, ["export", str(tmp_path), "--format", "lavis", *out], "is not a bundle")


def test_a_key_bias_that_lavis_has_no_place_for(folder, tmp_path, capsys):
    name = "vision_model.encoder.layers.0.self_attn.qkv.bias"
    there = spoilt(folder, tmp_path, lambda tensors: tensors.update({name: torch.ones(72)}))
    assert main(["import", str(there), "--out", str(tmp_path / "bundle")]) == 0
    (tmp_path / "out").mkdir()
    command = ["export", str(tmp_path / "bundle"), "--format", "lavis", "--out", str(tmp_path / "out" / "x")]
    refused(capsys, command, "vision.encoder.blocks.#.attention.qkv.bias", "bias of the keys is not zero")


def test_inspect_and_diff(folder, bundle, tmp_path, capsys):
    capsys.readouterr()
    assert main(["inspect", str(folder)]) == 0
    seen = capsys.readouterr().out
    for words in ("Blip2ForConditionalGeneration (hf-blip2)", "float32", "language_model.model", "can become: bundle"):
        assert words in seen
    assert main(["inspect", str(bundle)]) == 0
    assert "can become: hf-blip2, lavis" in capsys.readouterr().out

    def change(tensors):
        tensors["qformer.layernorm.bias"][3] += 0.5
        del tensors["language_projection.bias"]
        tensors["strange"] = torch.ones(1)

    there = spoilt(folder, tmp_path, change)
    assert main(["diff", str(folder), str(there)]) == 1
    seen = capsys.readouterr().out
    for words in ("only in the first (1): language_projection.bias", "only in the second (1): strange",
                  "largest difference 0.5", "not the same"):  # fmt: skip
        assert words in seen
    assert main(["diff", str(bundle), str(folder)]) == 0, "a bundle and the folder that it came from"
    assert main(["diff", str(bundle), str(tmp_path / "nowhere")]) == 2
