"""What an import gives is a bundle like any other: it is loaded, speaks, and a run can begin with it."""

import json
from dataclasses import replace

import blip2_folders
import pytest
import tiny
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from vglm_train.batch import PromptBatch
from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.keymaps.encoders import EVA
from vglm_train.config.language import Decoding, Language, Prompt
from vglm_train.config.load import dump, load
from vglm_train.model.alignment import build_alignment
from vglm_train.model.vision import build_vision
from vglm_train.prompt.qformer_text import build_text

CPU = torch.device("cpu")
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def tokenizer(folder):
    """Words w4 ... w62, and <image>, as processors of BLIP-2 have it."""
    names = ["<pad>", "<unk>", "</s>", "<s>", *(f"w{number}" for number in range(4, 63)), "<image>"]
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(folder)


@pytest.fixture(scope="module", params=["opt", "t5"])
def case(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    theirs = blip2_folders.generation(request.param)
    theirs.generation_config.eos_token_id = 2
    theirs.save_pretrained(root / "there")
    tokenizer(root / "there")
    assert main(["import", str(root / "there"), "--out", str(root / "bundle")]) == 0
    return theirs, root


def test_the_bundle_writes_what_transformers_writes(case):
    theirs, root = case
    bundle = open_bundle(root / "bundle", CPU)
    ids = torch.tensor([[blip2_folders.IMAGE] * 4 + [2, 9, 17, 30]]).expand(2, -1)
    everything = torch.ones_like(ids, dtype=torch.bool)
    batch = PromptBatch(
        pixels=PIXELS, valid=torch.ones(2, dtype=torch.bool), input_ids=ids, attention_mask=everything,
        visual_mask=ids == blip2_folders.IMAGE, labels=ids[:, :0],
    )  # fmt: skip
    answer = bundle.model.generate(batch, Decoding(max_new=12), bundle.template.end_id)
    expected = blip2_folders.written(theirs, PIXELS)
    expected = expected[:, 1:] if theirs.config.text_config.is_encoder_decoder else expected[:, ids.shape[1] :]
    for mine, wanted in zip(answer.tolist(), expected.tolist(), strict=True):
        assert upto(mine, 2) == upto(wanted, 2)


def upto(ids, end):
    return ids[: ids.index(end) + 1] if end in ids else ids


def test_tokenizer_and_token_of_the_image_travel(case, tmp_path):
    _, root = case
    assert main(["export", str(root / "bundle"), "--format", "hf-blip2", "--out", str(tmp_path / "back")]) == 0
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert back.get_vocab()["<image>"] == blip2_folders.IMAGE
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["image_token_index"] == blip2_folders.IMAGE
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"] == 2
    processor = transformers.Blip2Processor.from_pretrained(tmp_path / "back")
    inputs = processor(images=Image.new("RGB", (30, 20)), text="w9 w17", return_tensors="pt")
    assert inputs["input_ids"][0].tolist()[: blip2_folders.LENGTH] == [blip2_folders.IMAGE] * blip2_folders.LENGTH
    assert inputs["pixel_values"].shape == (1, 3, 16, 16)


def test_opt_ends_its_answers_with_a_new_line(tmp_path):
    """Where the tokenizer has one: OPT's has, as a byte of its own."""
    theirs = blip2_folders.generation("opt")
    theirs.save_pretrained(tmp_path / "there")
    names = ["<pad>", "<unk>", "</s>", "<s>", "\n", *(f"w{number}" for number in range(5, 60))]
    backend = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    marks = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **marks).save_pretrained(tmp_path / "there")
    assert main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "bundle")]) == 0
    assert open_bundle(tmp_path / "bundle", CPU).template.end_id == 4


def test_a_head_of_its_own_stays_so(tmp_path):
    """Flan-T5's head is not its embeddings, which transformers 5 does not write into config.json."""
    theirs = blip2_folders.generation("t5")
    head = torch.randn(64, 48, generator=torch.Generator().manual_seed(8))
    theirs.save_pretrained(tmp_path / "there")
    tokenizer(tmp_path / "there")
    weights = load_file(tmp_path / "there" / "model.safetensors")
    save_file(
        {**weights, "language_model.lm_head.weight": head}, tmp_path / "there" / "model.safetensors", {"format": "pt"}
    )
    assert main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "bundle")]) == 0
    network = open_bundle(tmp_path / "bundle", CPU).model.language.model
    assert torch.equal(network.lm_head.weight, head)
    assert torch.equal(network.shared.weight, theirs.language_model.shared.weight)
    assert main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2", "--out", str(tmp_path / "back")]) == 0
    assert main(["diff", str(tmp_path / "there"), str(tmp_path / "back")]) == 0
    assert main(["import", str(tmp_path / "back"), "--out", str(tmp_path / "again")]) == 0
    assert main(["diff", str(tmp_path / "bundle"), str(tmp_path / "again")]) == 0


def vocabulary(folder):
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(45))]))
    return str(folder / "vocab.txt")


def run_file(folder, **vision):
    """A run of stage one with a vocabulary of 49 words and [DEC]."""
    text = replace(tiny.MODEL.text, tokenizer=vocabulary(folder))
    model = replace(tiny.MODEL, text=text, vision=replace(tiny.MODEL.vision, **vision))
    (folder / "run.yaml").write_text(dump(tiny.config(model=model)))
    return str(folder / "run.yaml")


def test_eva_as_lavis_publishes_it(tmp_path, capsys):
    """`eva_vit_g.pth`: half precision, a block too many, a head; the bundle is what the run would begin with."""
    torch.manual_seed(7)
    deep = build_vision(replace(tiny.MODEL.vision, depth=2)).encoder
    weights = {name: value.half() for name, value in EVA.inverse().apply(deep.state_dict()).items()}
    torch.save(weights | {"norm.weight": torch.ones(24), "head.bias": torch.ones(3)}, tmp_path / "eva_vit_g.pth")
    command = ["import", str(tmp_path / "eva_vit_g.pth"), "--out", str(tmp_path / "bundle")]
    assert main(command) == 2
    assert "part of a model" in capsys.readouterr().err
    assert main([*command, "--config", run_file(tmp_path)]) == 0
    model = open_bundle(tmp_path / "bundle", CPU).model
    for name, value in model.vision.encoder.state_dict().items():
        assert torch.equal(value, deep.state_dict()[name].half().float()), name


@pytest.mark.parametrize("files", ["safetensors", "bin"])
def test_bert_into_the_qformer(tmp_path, files):
    config = transformers.BertConfig(
        vocab_size=49, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16,
    )  # fmt: skip
    theirs = transformers.BertForPreTraining(config)
    theirs.save_pretrained(tmp_path / "bert")
    if files == "bin":
        (tmp_path / "bert" / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "bert" / "pytorch_model.bin")
    command = ["import", str(tmp_path / "bert"), "--out", str(tmp_path / "bundle"), "--config", run_file(tmp_path)]
    assert main(command) == 0
    model = open_bundle(tmp_path / "bundle", CPU).model
    up = theirs.bert.encoder.layer[1].intermediate.dense.weight
    assert torch.equal(model.qformer.blocks[1].text_mlp.up.weight, up)
    assert torch.equal(model.qformer.blocks[1].query_mlp.up.weight, up)
    assert torch.equal(model.qformer.embeddings.words.weight[:49], theirs.bert.embeddings.word_embeddings.weight)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_encoders_of_hugging_face(tmp_path, family):
    kinds = {
        "clip": (transformers.CLIPVisionConfig, transformers.CLIPVisionModel),
        "siglip": (transformers.SiglipVisionConfig, transformers.SiglipVisionModel),
    }
    shape = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    configuration, kind = kinds[family]
    theirs = kind(configuration(**shape, image_size=16, patch_size=8)).eval()
    theirs.save_pretrained(tmp_path / "there")
    run = run_file(tmp_path, family=family)
    assert main(["import", str(tmp_path / "there"), "--out", str(tmp_path / "bundle"), "--config", run]) == 0
    model = open_bundle(tmp_path / "bundle", CPU).model
    with torch.no_grad():
        expected = theirs(PIXELS, output_hidden_states=True).hidden_states[1]
        torch.testing.assert_close(model.encode_image(PIXELS), expected, atol=1e-4, rtol=1e-4)
    command = ["export", str(tmp_path / "bundle"), "--format", "lavis", "--out", str(tmp_path / "x.pth")]
    assert main(command) == 2


def test_a_run_s_own_bundle_of_stage_one(tmp_path):
    """Ours -> LAVIS -> ours, and ours -> Hugging Face -> ours but for what that class lacks."""
    config = load(run_file(tmp_path))
    text = build_text(config.model.text, ("en",))
    model = blip2_folders.randomised(build_alignment(config.model, text.vocabulary, (0.5,) * 3, (0.5,) * 3))
    for block in model.vision.encoder.blocks:
        block.attention.qkv.bias.data.chunk(3)[1].zero_()
    save_bundle(tmp_path / "run", config, model, text, {"name": "tiny"})
    run = str(tmp_path / "run")
    assert main(["export", run, "--format", "lavis", "--out", str(tmp_path / "x.pth")]) == 0
    again = [
        "import",
        str(tmp_path / "x.pth"),
        "--out",
        str(tmp_path / "again"),
        "--config",
        str(tmp_path / "run.yaml"),
    ]
    assert main([*again, "--tokenizer", config.model.text.tokenizer]) == 0
    assert main(["diff", run, str(tmp_path / "again")]) == 0
    found = open_bundle(tmp_path / "again", CPU)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.model.state_dict().items())
    assert found.text.vocabulary == text.vocabulary
    assert main(["export", run, "--format", "hf-blip2-retrieval", "--out", str(tmp_path / "hf")]) == 0
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "from_hf")]) == 0
    lost = {"temperature", *(name for name in model.state_dict() if name.startswith("caption_head."))}
    ours, back = (load_file(folder / "trained.safetensors") for folder in (tmp_path / "run", tmp_path / "from_hf"))
    assert ours.keys() == back.keys()
    assert {name for name in ours if not torch.equal(ours[name], back[name])} <= lost


def test_a_language_model_behind_an_earlier_bundle(tmp_path):
    """A frozen language model, and the Q-Former and encoder of stage one: what stage two would begin with."""
    config = load(run_file(tmp_path))
    text = build_text(config.model.text, ("en",))
    earlier = blip2_folders.randomised(build_alignment(config.model, text.vocabulary, (0.5,) * 3, (0.5,) * 3))
    save_bundle(tmp_path / "one", config, earlier, text, {"name": "tiny"})
    blip2_folders.generation("opt").language_model.save_pretrained(tmp_path / "opt")
    tokenizer(tmp_path / "opt")
    language = Language(family="causal", weights=str(tmp_path / "opt"), dtype="fp32")
    qformer = replace(config.model.qformer, weights=str(tmp_path / "one"))
    run = replace(
        config, run=replace(config.run, stage="generate"), prompt=Prompt(style="blip2"),
        model=replace(config.model, qformer=qformer, language=language),
    )  # fmt: skip
    (tmp_path / "two.yaml").write_text(dump(run))
    command = ["import", str(tmp_path / "opt"), "--out", str(tmp_path / "two"), "--config", str(tmp_path / "two.yaml")]
    assert main(command) == 0
    model = open_bundle(tmp_path / "two", CPU).model
    state = earlier.state_dict()
    shared = [name for name in model.state_dict() if name in state]
    assert {name.partition(".")[0] for name in shared} == {"vision", "vision_norm", "qformer"}
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in shared)


def test_a_run_s_own_bundle_of_stage_two(case, tmp_path):
    """A model that stands in memory, saved as a run saves it, in transformers' hands: the same logits."""
    theirs, root = case
    bundle = open_bundle(root / "bundle", CPU)
    language = replace(bundle.config.model.language, config=str(root / "bundle" / "tokenizer"), weights=None)
    config = replace(bundle.config, model=replace(bundle.config.model, language=language))
    save_bundle(tmp_path / "run", config, bundle.model, bundle.template.tokenizer, {"name": "tiny"})
    assert main(["export", str(tmp_path / "run"), "--format", "hf-blip2", "--out", str(tmp_path / "hf")]) == 0
    back, report = transformers.Blip2ForConditionalGeneration.from_pretrained(
        tmp_path / "hf", output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = blip2_folders.logits(theirs, PIXELS)
    torch.testing.assert_close(blip2_folders.logits(back.eval(), PIXELS), expected, atol=1e-4, rtol=1e-4)
    assert main(["import", str(tmp_path / "hf"), "--out", str(tmp_path / "again")]) == 0
    assert main(["diff", str(tmp_path / "run"), str(tmp_path / "again")]) == 0
