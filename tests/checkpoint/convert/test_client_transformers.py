"""transformers as a client: its own BLIP-2 classes and processor, on our exports, do what the bundle does."""

import json
from dataclasses import replace

import made_language
import pytest
import tiny
import torch
import transformers
from PIL import Image
from precision import like
from prompt.made_tokenizers import words_folder

from vglm_train.batch import PromptBatch
from vglm_train.checkpoint.__main__ import main
from vglm_train.checkpoint.bundle.read import open_bundle
from vglm_train.checkpoint.bundle.write import save_bundle
from vglm_train.checkpoint.load.language import load_language
from vglm_train.config import data
from vglm_train.config.language import Decoding, Language, Prompt
from vglm_train.config.model import Text
from vglm_train.config.run import Run
from vglm_train.image import eval_pixels
from vglm_train.model.visual_language import build_visual_language
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.qformer_text import build_text
from vglm_train.prompt.tokenizers import build_tokenizer

CPU = torch.device("cpu")
IMAGE = data.Image(mean=(0.5, 0.4, 0.3), std=(0.25, 0.3, 0.35))
WORDS = made_language.WORDS
NEW = 10
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def opt(rows):
    config = transformers.OPTConfig(**SMALL, ffn_dim=64, max_position_embeddings=64, vocab_size=rows, pad_token_id=1,
                                    eos_token_id=2, bos_token_id=2)  # fmt: skip
    return transformers.OPTForCausalLM(config), {"front": "</s>"}


def gpt2(rows):
    """Whose ids in config.json are those of the released one, 50256."""
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=rows)
    return transformers.GPT2LMHeadModel(config), {}


def neox(rows):
    config = transformers.GPTNeoXConfig(**SMALL, intermediate_size=64, max_position_embeddings=64, vocab_size=rows)
    return transformers.GPTNeoXForCausalLM(config), {"front": "<s>"}


def t5(rows):
    config = transformers.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=rows,
                                   pad_token_id=1, eos_token_id=3, decoder_start_token_id=1)  # fmt: skip
    return transformers.T5ForConditionalGeneration(config), {"behind": "</s>"}


def bart(rows):
    config = transformers.BartConfig(vocab_size=rows, d_model=32, encoder_layers=1, decoder_layers=1,
                                     encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
                                     decoder_ffn_dim=32, max_position_embeddings=64, forced_eos_token_id=None,
                                     decoder_start_token_id=3, eos_token_id=3, pad_token_id=1)  # fmt: skip
    return transformers.BartForConditionalGeneration(config), {"front": "<s>", "behind": "</s>"}


def narrow(rows):
    """As OPT-350m: embeddings narrower than the blocks."""
    config = transformers.OPTConfig(**SMALL, ffn_dim=64, max_position_embeddings=64, vocab_size=rows, pad_token_id=1,
                                    word_embed_proj_dim=16)  # fmt: skip
    return transformers.OPTForCausalLM(config), {"front": "</s>"}


FAMILIES = {"opt": opt, "gpt2": gpt2, "neox": neox, "t5": t5}
REFUSED = {"bart": bart, "narrow": narrow}


def made_bundle(root, family, spare):
    """A bundle whose language model has `spare` rows that no word has; its answers end with a word of the prompt."""
    kind = "seq2seq" if family in ("t5", "bart") else "causal"
    folder, names = root / "language", [*WORDS, "\n"]
    model, around = (FAMILIES | REFUSED)[family](4 + len(names) + spare)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"torch_dtype": "auto"}))  # as people write it
    words_folder(folder, names, **around)
    language = Language(family=kind, weights=str(folder), dtype="fp32")
    qformer = replace(tiny.MODEL.qformer, layers=3, cross_every=2)
    shape = replace(tiny.MODEL, qformer=qformer, language=language)
    prompt = Prompt(style="blip2", asked="{}", end="\n" if kind == "causal" else None)
    pictures = data.Data(global_batch=8, image=IMAGE)
    config = tiny.config(run=Run(name="x", stage="generate"), model=shape, prompt=prompt, data=pictures)
    torch.manual_seed(3)
    ours = build_visual_language(shape, IMAGE.mean, IMAGE.std)
    load_language(ours.language, language)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.dim() > 1 and not name.startswith("language."):
                parameter.normal_(std=0.25)
    save_bundle(root / "bundle", config, ours, build_tokenizer(language), {})
    return root / "bundle"


@pytest.fixture(
    scope="module", params=[(f, s) for f in FAMILIES for s in (3, 0)], ids=lambda p: f"{p[0]}, {p[1]} spare"
)
def case(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("client")
    bundle = made_bundle(root, *request.param)
    assert main(["export", str(bundle), "--format", "hf-blip2", "--out", str(root / "hf")]) == 0
    assert "# " in (root / "hf" / "README.md").read_text("utf-8"), "the model card"
    kind = transformers.Blip2ForConditionalGeneration
    theirs, report = kind.from_pretrained(root / "hf", output_loading_info=True)
    assert not {name: keys for name, keys in report.items() if keys}
    processor = transformers.Blip2Processor.from_pretrained(root / "hf", backend="pil")
    return root, open_bundle(bundle, CPU), theirs.eval(), processor, request.param[1]


def pictures():
    """Three pictures that differ."""
    return [Image.frombytes("RGB", (40, 30), bytes((i * j) % 256 for j in range(3600))) for i in (3, 7, 11)]


def test_the_processor_makes_our_ids_and_pixels(case):
    _, bundle, theirs, processor, _ = case
    for question in ("a photo", ""):
        prompt = bundle.template.encode_prompt(Dialogue(question, None))
        wanted = list(prompt.input_ids)
        start, length = prompt.image_starts[0], bundle.template.image_length
        wanted[start : start + length] = [theirs.config.image_token_index] * length
        inputs = processor(images=pictures()[0], text=question, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == wanted
    pixels = eval_pixels(pictures()[0], 16) / 255
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGE.mean, IMAGE.std))
    torch.testing.assert_close(inputs["pixel_values"][0], (pixels - mean) / std, atol=1e-5, rtol=1e-5)


def test_the_same_answers(case):
    """Greedy, in fp32; with a prompt and, where the family can, without."""
    _, bundle, theirs, processor, _ = case
    for question in ("a photo", "a"):
        prompt = bundle.template.encode_prompt(Dialogue(question, None))
        pixels = torch.stack([eval_pixels(picture, 16) for picture in pictures()])
        fields = bundle.template.collate([prompt] * 3)
        batch = PromptBatch(pixels=pixels, valid=torch.ones(3, dtype=torch.bool), **fields)
        mine = bundle.model.generate(batch, Decoding(max_new=NEW), bundle.template.end_id)
        inputs = processor(images=pictures(), text=[question] * 3, return_tensors="pt")
        written = theirs.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        start = 1 if theirs.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        answers = [upto(row, bundle.template.end_id) for row in written[:, start:].tolist()]
        assert answers == [upto(row, bundle.template.end_id) for row in mine.tolist()]
        assert len({tuple(answer) for answer in answers}) > 1, "pictures matter"


def upto(ids, end):
    return ids[: ids.index(end) + 1] if end in ids else ids


def test_every_key_of_the_configuration(case):
    root, bundle, _, processor, spare = case
    config = json.loads((root / "hf" / "config.json").read_text())
    shape, language = bundle.config.model, bundle.model.language
    tokenizer = bundle.template.tokenizer
    text = config.pop("text_config")
    image = tokenizer.vocabulary
    assert config == {
        "architectures": ["Blip2ForConditionalGeneration"], "model_type": "blip-2", "dtype": "float32",
        "num_query_tokens": 4, "image_text_hidden_size": 16, "image_token_index": image,
        "vision_config": {
            "model_type": "blip_2_vision_model", "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
            "qkv_bias": True,
        },
        "qformer_config": {
            "model_type": "blip_2_qformer", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
            "intermediate_size": 48, "max_position_embeddings": 16, "cross_attention_frequency": 2,
            "encoder_hidden_size": 24, "vocab_size": 30522, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "use_qformer_text_input": False,
        },
    }  # fmt: skip
    ids = {"eos_token_id": bundle.template.end_id, "pad_token_id": tokenizer.pad_id}
    for place in (text, json.loads((root / "hf" / "generation_config.json").read_text())):
        assert {name: place[name] for name in ids} == ids
    assert text["vocab_size"] == (language.vocabulary if spare else image + 1)
    assert text["dtype"] == "float32"
    assert not {"torch_dtype", "auto_map", "_name_or_path"} & set(text)
    assert processor.tokenizer.convert_tokens_to_ids("<image>") == image
    assert processor.num_query_tokens == 4
    size = {"height": 16, "width": 16}
    pictures = json.loads((root / "hf" / "preprocessor_config.json").read_text())
    assert (pictures["size"], pictures["image_mean"], pictures["image_std"]) == (size, [*IMAGE.mean], [*IMAGE.std])
    assert shape.qformer.queries == 4


def test_a_row_for_the_image_is_never_written(tmp_path):
    """Where every row has its word, embeddings and head get one more, whose logit is the mean of the others."""
    bundle = made_bundle(tmp_path, "opt", 0)
    assert main(["export", str(bundle), "--format", "hf-blip2", "--out", str(tmp_path / "hf")]) == 0
    theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(tmp_path / "hf").eval()
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    logits = theirs.language_model.lm_head(hidden).detach()
    torch.testing.assert_close(logits[:, -1], logits[:, :-1].mean(1), **like(logits.detach()))
    ours = open_bundle(bundle, CPU).model.language.model
    assert torch.equal(theirs.get_input_embeddings().weight[:-1], ours.get_input_embeddings().weight)


@pytest.mark.parametrize(("family", "reason"), [("bart", "also has a decoder-only class"), ("narrow", "32, not to")])
def test_language_models_that_transformers_would_build_otherwise(tmp_path, capsys, family, reason):
    """It would load such a folder, with random weights in place of what it did not find."""
    bundle = made_bundle(tmp_path, family, 3)
    assert main(["export", str(bundle), "--format", "hf-blip2", "--out", str(tmp_path / "hf")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("nested", [False, True], ids=["preprocessor_config.json", "processor_config.json"])
def test_what_the_processor_of_an_imported_folder_says(tmp_path, nested):
    """transformers 5 writes mean and deviation into another file; sizes change with --image-size."""
    bundle = made_bundle(tmp_path, "opt", 3)
    there = tmp_path / "hf"
    assert main(["export", str(bundle), "--format", "hf-blip2", "--out", str(there)]) == 0
    if nested:
        transformers.Blip2Processor.from_pretrained(there, backend="pil").save_pretrained(tmp_path / "processor")
        (there / "preprocessor_config.json").unlink()
        (there / "processor_config.json").write_bytes((tmp_path / "processor" / "processor_config.json").read_bytes())
        assert "image_processor" in json.loads((there / "processor_config.json").read_text())
    again = tmp_path / "again"
    assert main(["import", str(there), "--out", str(again), "--image-size", "32"]) == 0
    image = open_bundle(again, CPU).config.data.image
    assert (tuple(image.mean), tuple(image.std)) == (IMAGE.mean, IMAGE.std)
    assert main(["export", str(again), "--format", "hf-blip2", "--out", str(tmp_path / "back")]) == 0
    processor = transformers.Blip2Processor.from_pretrained(tmp_path / "back", backend="pil")
    assert processor(images=pictures()[0], return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
    assert list(processor.image_processor.image_mean) == list(IMAGE.mean)


def test_retrieval_with_the_processor(tmp_path):
    """Contrast and matching of pictures and texts, from the processor's own ids."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "photo", *letters, *(f"##{x}" for x in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    text = build_text(Text(tokenizer=str(tmp_path / "vocab.txt"), max_length=12), ("en",))
    qformer = replace(tiny.MODEL.qformer, layers=3, cross_every=2, vocabulary=text.vocabulary)
    shape = replace(tiny.MODEL, qformer=qformer, text=replace(text.config, tokenizer=str(tmp_path / "vocab.txt")))
    config = tiny.config(model=shape, data=data.Data(global_batch=8, image=IMAGE))
    torch.manual_seed(4)
    from vglm_train.model.alignment import build_alignment

    model = build_alignment(shape, text.vocabulary, IMAGE.mean, IMAGE.std).eval()
    save_bundle(tmp_path / "bundle", config, model, text, {})
    out = tmp_path / "hf"
    assert main(["export", str(tmp_path / "bundle"), "--format", "hf-blip2-retrieval", "--out", str(out)]) == 0
    theirs = transformers.Blip2ForImageTextRetrieval.from_pretrained(out).eval()
    assert theirs.config.qformer_config.vocab_size == text.vocabulary
    processor = transformers.Blip2Processor.from_pretrained(out, backend="pil")
    captions = ["a photo", "photo of b"]
    inputs = processor(images=pictures()[:2], text=captions, padding=True, return_tensors="pt")
    ids, mask = text.batch([text.encode(caption, "en") for caption in captions])
    with torch.no_grad():
        features, images = model.embed_images(torch.stack([eval_pixels(p, 16) for p in pictures()[:2]]))
        cosines = torch.einsum("nqe,be->nbq", images, model.embed_texts(ids, mask)).amax(-1)
        torch.testing.assert_close(theirs(**inputs).logits_per_image, cosines, atol=1e-4, rtol=1e-4)
        matched = theirs(**inputs, use_image_text_matching_head=True).logits_per_image
        mine = model.match_logits(model.image_keys(features), ids, mask)
    torch.testing.assert_close(matched, mine, atol=1e-4, rtol=1e-4)
