"""Every YAML for fine-tuning trains what was published, is judged by others, and says where its bundle is from."""

import pytest
import torch
from shipped import BASES, FINETUNE, Read, begins_with, linear, name, norm, qformer_query_side, reader, tuned

from vglm_train.config.load import load
from vglm_train.config.metric_names import best_metrics
from vglm_train.errors import UserError
from vglm_train.model.visual_language import VisualLanguageModel

ADDED = (".lora_a", ".lora_b", ".prefix_keys", ".prefix_values")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    return reader(tmp_path_factory.mktemp("bundles"))


def test_there_are_configs_to_test():
    methods = ("chatglm_lora", "chatglm_qlora", "chatglm_ptuning", "opt", "flan_t5", "small")
    wanted = {f"xray_{task}_{method}" for task in ("vqa", "report") for method in methods}
    assert {path.stem for path in FINETUNE} == {"marks", *wanted}
    assert {begins_with(path) for path in FINETUNE} == set(BASES)


@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_of_the_language_model_only_what_was_added_trains(path, read):
    model = tuned(read(path))
    assert all(name.endswith(ADDED) for name, _ in trained_language(model))
    assert all(parameter.is_meta for parameter in model.parameters())


def trained_language(model: VisualLanguageModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(n, parameter) for n, parameter in model.language.named_parameters() if parameter.requires_grad]


def lora_pair(rank: int, inputs: int, outputs: int) -> int:
    return rank * (inputs + outputs)


ADAPTED = {
    "lora": 2 * (lora_pair(10, 4096, 3 * 4096) + lora_pair(10, 4096, 4096)),  # rank 10, two blocks, both products
    "ptuning": 28 * 4 * 2 * 4096,  # a key and a value for each of 4 places in 28 blocks
    "opt": qformer_query_side() + norm(1408) + linear(768, 2560),
    "t5": qformer_query_side() + norm(1408) + linear(768, 2048),
}
ADAPTED["qlora"] = ADAPTED["lora"]


@pytest.mark.parametrize("path", [path for path in FINETUNE if path.stem.split("_")[-1] in ADAPTED], ids=name)
def test_fine_tuning_trains_what_was_published(path, read):
    """VisualGLM's script: rank 10 on blocks 0 and 14, or 4 places before every block; BLIP-2: what stage two trains."""
    model = tuned(read(path))
    assert sum(parameter.numel() for _, parameter in model.trained_parameters()) == ADAPTED[path.stem.split("_")[-1]]


def test_fine_tuning_sizes_in_figures():
    assert ADAPTED["lora"] == 491_520  # 1.97 MB in fp32, beside 15 GB that VisualGLM's script saves
    assert ADAPTED["ptuning"] == 917_504
    assert ADAPTED["opt"] == 107_133_696


@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_fine_tuning_is_judged_by_others_and_mirrors_nothing(path, read):
    config = read(path)
    assert not config.data.image.flip  # X-rays have a left side
    assert config.data.holdout.by == "group"
    assert config.checkpoint.best in best_metrics(config)
    assert config.evaluate.patience is not None


@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_fine_tuning_says_where_a_bundle_is_missing(path, monkeypatch, tmp_path):
    """One line that names the bundle; the first lines of the file say how it is made."""
    monkeypatch.chdir(tmp_path)
    bundle = begins_with(path)
    with pytest.raises(UserError, match=rf"model\.bundle: {bundle} is no bundle"):
        load(path)
    head = path.read_text("utf-8").split("run:")[0]
    assert bundle in head or "make demo" in head
