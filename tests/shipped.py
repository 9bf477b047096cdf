"""The YAMLs that are shipped, how to read them without their bundles, and sizes that were published."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vglm_train.checkpoint.bundle.format import VERSION
from vglm_train.config.load import dump, load
from vglm_train.config.run import Config
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
YAMLS = sorted(path for path in CONFIGS.rglob("*.yaml") if path not in SWEEPS)
PRESETS = sorted((CONFIGS / "pretrain").glob("*_stage1.yaml"))
STAGE_TWO = sorted((CONFIGS / "pretrain").glob("*_stage2*.yaml"))
FINETUNE = sorted((CONFIGS / "finetune").glob("*.yaml"))
BASES = {
    "weights/visualglm": "pretrain/visualglm_stage2.yaml",
    "weights/blip2-opt-2.7b": "pretrain/blip2_paper_stage2_opt.yaml",
    "weights/blip2-flan-t5-xl": "pretrain/blip2_paper_stage2_flan_t5.yaml",
    "demo_run/run2/bundle": "demo_stage2.yaml",
}


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


Read = Callable[..., Config]


def begins_with(path: Path) -> str | None:
    """The bundle that a YAML names."""
    found = re.search(r"^  bundle: (\S+)$", path.read_text("utf-8"), re.MULTILINE)
    return found.group(1) if found else None


def write_description(folder: Path, recipe: Path) -> None:
    """Of a bundle of stage two what is read before its weights: configuration, shape, and where the towers are."""
    config = load(recipe)
    towers = {tower: getattr(config.model, tower).weights for tower in ("vision", "language")}
    named = {tower: {"file": file, "fingerprint": "not computed"} for tower, file in towers.items()}
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"version": VERSION, "stage": "generate", "towers": named}))
    (folder / "config.yaml").write_text(dump(config), "utf-8")
    if config.model.language.config:
        shutil.copy(CONFIGS.parent / config.model.language.config / "config.json", folder / "tokenizer")


def reader(folder: Path) -> Read:
    """`load`; where a YAML begins with a bundle, that one's description lies in `folder`."""
    places = {name: folder / str(number) for number, name in enumerate(BASES)}
    for name, recipe in BASES.items():
        write_description(places[name], CONFIGS / recipe)

    def read(path: Path, overrides: Sequence[str] = ()) -> Config:
        bundle = begins_with(path)
        described = [f"model.bundle={places[bundle]}"] if bundle else []
        return load(path, [*described, *overrides])

    return read


def meta_language(config: Config) -> VisualLanguageModel:
    with torch.device("meta"):
        image, four_bits = config.data.image, config.tuning.quantize
        return build_visual_language(config.model, image.mean, image.std, quantize=four_bits)


def tuned(config: Config) -> VisualLanguageModel:
    model = meta_language(config)
    apply_tuning(model, config.tuning)
    return model


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def eva_g() -> int:
    """EVA ViT-g/14 at 224 px without its last block and its final norm."""
    width, mlp, tokens = 1408, 6144, 1 + (224 // 14) ** 2
    block = linear(width, 3 * width) + linear(width, width) + linear(width, mlp) + linear(mlp, width) + 2 * norm(width)
    return 3 * 14 * 14 * width + width + width + tokens * width + 39 * block


def qformer_query_side() -> int:
    """What a Q-Former without text is made of: queries, shared attention, query feed-forwards, 6 cross-attentions."""
    width, mlp = 768, 3072
    attention = 4 * linear(width, width) + norm(width)
    feed_forward = linear(width, mlp) + linear(mlp, width) + norm(width)
    cross = 2 * linear(width, width) + 2 * linear(1408, width) + norm(width)
    return 32 * width + norm(width) + 12 * (attention + feed_forward) + 6 * cross


def qformer_text_side(vocabulary: int) -> int:
    """Words, positions and a feed-forward of its own in each block; attention is shared with the queries."""
    width, mlp = 768, 3072
    return (vocabulary + 512) * width + 12 * (linear(width, mlp) + linear(mlp, width) + norm(width))
