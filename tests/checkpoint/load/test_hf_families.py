"""Every family of transformers loads as transformers loads it, from today's names and from those of its publisher.

`save_pretrained` writes the published layout: GPT-NeoX's embed_out, a tensor for each of Mixtral's experts.
"""

import hf_families
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.load.hf_language import load_hf_language
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language import build_language
from vglm_train.model.language.nf4 import quantize
from vglm_train.weights.identify import identify

# One of each kind of rule: new names, stacked and joined experts, permuted and cut weights, tables that files lack
RULES = {
    "causal": ["aria_text", "bailing_hybrid", "ernie4_5_moe", "gemma3n_text", "gpt_neox", "granitemoe", "jamba",
               "kimi_linear", "minimax", "mixtral", "olmo_hybrid", "phimoe", "qwen2_moe"],
    "seq2seq": ["bart", "fsmt", "marian", "t5", "t5gemma"],
}  # fmt: skip
ROUNDED = 1e-5  # of logits about 1: the same weights and tables, but products depend on where in memory they lie


def pairs(families):
    """Those that the installed transformers has."""
    return [(family, kind) for family, kinds in families.items() for kind in kinds if kind in CONFIG_MAPPING]


def every_family():
    return [(family, shape.model_type) for family, table in hf_families.TABLES.items() for shape in table]


def saved(folder, family, kind, **options):
    """transformers' own reading of the folder that it wrote."""
    model = hf_families.model(family, hf_families.configuration(kind))
    model.save_pretrained(folder, **options)
    return type(model).from_pretrained(folder, dtype=torch.float32).eval()


def loaded(folder, family, dtype="fp32", **options):
    model = build_language(Language(family=family, weights=str(folder), dtype=dtype), **options)
    load_hf_language(model, folder)
    return model


def check_same(mine, oracle):
    wanted = oracle.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in mine.model.state_dict().items())
    expected = hf_families.logits(oracle)
    assert expected.isfinite().all()
    difference = float((hf_families.logits(mine.model) - expected).abs().max())
    assert difference <= ROUNDED, f"largest difference of the logits: {difference}"


@pytest.mark.parametrize("published", [True, False], ids=["published", "today"])
@pytest.mark.parametrize(("family", "kind"), pairs(RULES))
def test_as_transformers_loads_it(tmp_path, family, kind, published):
    oracle = saved(tmp_path, family, kind, save_original_format=published)
    check_same(loaded(tmp_path, family), oracle)


def empty(folder, family, kind):
    """As `--check` builds it."""
    shape = hf_families.configuration(kind)
    shape.architectures = [hf_families.TABLES[family][type(shape)].__name__]
    shape.save_pretrained(folder)
    with torch.device("meta"):
        return build_language(Language(family=family, config=str(folder), tokenizer="none", dtype="fp32"))


@pytest.mark.slow
def test_which_families_are_refused(tmp_path):
    """By name: a family that is refused without a word here is one that a user cannot have."""
    refused = {}
    for family, kind in every_family():
        if kind in hf_families.UNTRIED:
            continue
        folder = tmp_path / f"{family}-{kind}"
        try:
            empty(folder, family, kind)
            found = identify(folder)
            assert not found.advice or found.damaged, found.what  # without weights it is not whole
        except (UserError, AssertionError) as error:
            refused[family, kind] = str(error)
    installed = {pair: words for pair, words in hf_families.REFUSED_KINDS.items() if pair in every_family()}
    assert sorted(refused) == sorted(installed)
    for pair, words in installed.items():
        assert words in refused[pair], pair


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (family, kind)
        for family, kind in every_family()
        if kind not in hf_families.UNTRIED and (family, kind) not in hf_families.REFUSED_KINDS
    ],
)
def test_every_family_that_is_accepted(tmp_path, family, kind):
    oracle = saved(tmp_path, family, kind)
    check_same(loaded(tmp_path, family), oracle)


@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral"])
def test_parts_of_a_layer_in_several_files(tmp_path, kind):
    oracle = saved(tmp_path, "causal", kind, max_shard_size="6KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    check_same(loaded(tmp_path, "causal"), oracle)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["gpt_neox", "mixtral"])
def test_half_precision_files_into_half_precision(tmp_path, kind, dtype):
    """The same bits, on the meta device too."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    model = hf_families.model("causal", hf_families.configuration(kind), half)
    model.save_pretrained(tmp_path)
    wanted = model.state_dict()
    with torch.device("meta"):
        empty = build_language(Language(family="causal", weights=str(tmp_path), dtype=dtype))
    load_hf_language(empty, tmp_path)
    for mine in (loaded(tmp_path, "causal", dtype), empty):
        assert all(torch.equal(value, wanted[name]) for name, value in mine.model.state_dict().items())


def test_in_four_bits(tmp_path):
    """Blocks are quantised from the renamed weights, the head is not."""
    saved(tmp_path, "causal", "gpt_neox")
    model = loaded(tmp_path, "causal", "bf16", quantize="nf4")
    whole = loaded(tmp_path, "causal", "bf16")
    assert torch.equal(model.model.lm_head.weight, whole.model.lm_head.weight)
    name = "gpt_neox.layers.0.attention.query_key_value"
    codes, _ = quantize(whole.model.get_submodule(name).weight)
    assert torch.equal(model.model.get_submodule(name).codes, codes)


def test_tables_that_older_versions_wrote(tmp_path):
    """As EleutherAI's Pythia folders have them."""
    oracle = saved(tmp_path, "causal", "gpt_neox")
    weights = load_file(tmp_path / "model.safetensors")
    assert "embed_out.weight" in weights
    for number in range(2):
        there = f"gpt_neox.layers.{number}.attention."
        weights |= {f"{there}bias": torch.ones(1, 1, 8, 8), f"{there}masked_bias": torch.tensor(-1e9),
                    f"{there}rotary_emb.inv_freq": torch.ones(2)}  # fmt: skip
    save_file(weights, tmp_path / "model.safetensors")
    check_same(loaded(tmp_path, "causal"), oracle)


def test_what_does_not_fit_is_named_as_the_file_has_it(tmp_path):
    saved(tmp_path, "causal", "mixtral")
    weights = load_file(tmp_path / "model.safetensors")
    lost = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    assert weights.pop(lost) is not None
    other = "model.layers.0.block_sparse_moe.gate.weight"
    weights[other] = torch.ones(3, 3)
    save_file(weights | {"strange": torch.ones(1)}, tmp_path / "model.safetensors")
    model = build_language(Language(family="causal", weights=str(tmp_path), dtype="fp32"))
    for parameter in model.parameters():
        parameter.data.zero_()
    with pytest.raises(UserError) as error:
        load_hf_language(model, tmp_path)
    message = str(error.value)
    for words in ("model.layers.1.block_sparse_moe.experts.0.w1.weight", "cannot be put together", "strange",
                  f"{other} is [3, 3], the model has [4, 32]"):  # fmt: skip
        assert words in message
    assert not any(parameter.any() for parameter in model.parameters()), "nothing was loaded"


def test_infinite_numbers_of_a_configuration(tmp_path):
    """transformers writes them as objects."""
    oracle = saved(tmp_path, "causal", "nemotron_h")
    assert '"__float__"' in (tmp_path / "config.json").read_text()
    check_same(loaded(tmp_path, "causal"), oracle)


def test_import_and_export_follow_the_same_rules(tmp_path):
    """A BLIP-2 folder whose GPT-NeoX has its published names; the bundle's are today's, and it opens."""
    import blip2_folders
    import transformers

    shape = hf_families.configuration("gpt_neox")
    config = transformers.Blip2Config(
        vision_config=blip2_folders.VISION, qformer_config=blip2_folders.QFORMER, text_config=shape.to_dict(),
        num_query_tokens=blip2_folders.LENGTH, image_token_index=63,
    )  # fmt: skip
    theirs = blip2_folders.randomised(transformers.Blip2ForConditionalGeneration(config))
    theirs.save_pretrained(tmp_path / "there")
    names = set(load_file(tmp_path / "there" / "model.safetensors"))
    assert "language_model.embed_out.weight" in names
    assert main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "bundle")]) == 0
    assert "model.lm_head.weight" in load_file(tmp_path / "bundle" / "language.safetensors")
    assert main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2", "--out", str(tmp_path / "back")]) == 0
    back, report = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not {name: keys for name, keys in report.items() if keys}
    wanted = theirs.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in back.state_dict().items())
