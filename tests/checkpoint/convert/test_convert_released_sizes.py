"""The published models at full size, as files without content: every key has its place, none is left over."""

import json
import re
import struct

import pytest
import torch
import transformers
from safetensors.torch import load_file

from vglm_train.checkpoint.convert import hugging_face, lavis
from vglm_train.checkpoint.convert.source import Options, expected
from vglm_train.checkpoint.convert.visualglm import hub_table
from vglm_train.checkpoint.keymaps.sat import visualglm_table
from vglm_train.checkpoint.load.lazy_tensors import convert, of_tensors
from vglm_train.config.language import Language
from vglm_train.config.model import Model
from vglm_train.config.run import Config, Run

# config.json of the published folders, what differs from the classes' defaults
OPT_27B = {"model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32,
           "num_attention_heads": 32, "vocab_size": 50304, "word_embed_proj_dim": 2560}  # fmt: skip
FLAN_T5_XL = {"model_type": "t5", "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_decoder_layers": 24,
              "num_heads": 32, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu",
              "tie_word_embeddings": False, "decoder_start_token_id": 0}  # fmt: skip
VIT_G = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}
HEADS = {"eva_args": 16, "qformer_args": 12, "": 32}


def hollow(file, shapes):
    """A safetensors file of these fp16 tensors that takes no room: a header and a hole."""
    header, place = {}, 0
    for name, shape in shapes.items():
        end = place + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + place)


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def expanded(names, layers):
    """Key names of a small model with as many layers as a large one: {prefix of a layer's number: (small, large)}."""
    found = set()
    for name in names:
        prefix = next((p for p in layers if re.match(re.escape(p) + r"\d", name)), None)
        if prefix is None:
            found.add(name)
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        small, large = layers[prefix]
        period = 2 if "cross" in rest else 1  # cross-attention stands in every 2nd layer
        if int(number) < period:
            found |= {f"{prefix}{n}.{rest}" for n in range(int(number), large, period)}
        assert int(number) < small
    return found


@pytest.mark.parametrize(("text", "trained"), [(OPT_27B, 107_133_696), (FLAN_T5_XL, 106_739_968)], ids=["opt", "t5"])
def test_hugging_face_generation(tmp_path, text, trained):
    full = transformers.CONFIG_MAPPING[text["model_type"]].from_dict(dict(text)).to_dict()
    with torch.device("meta"):
        theirs = transformers.Blip2ForConditionalGeneration(
            transformers.Blip2Config(vision_config=VIT_G, text_config=full)
        )
    theirs.config.save_pretrained(tmp_path)
    shapes = shapes_of(theirs.state_dict())
    hollow(tmp_path / "model.safetensors", shapes)
    source = hugging_face.read(tmp_path, Options())
    frozen = ("vision.encoder.", "language.")
    assert sum(t.meta.numel() for name, t in source.tensors.items() if not name.startswith(frozen)) == trained
    assert source.dropped == source.fresh == []
    assert shapes_of(hugging_face.to_hugging_face(source.tensors, False, tmp_path)) == shapes
    assert source.config.model == Model(
        vision=source.config.model.vision, qformer=Model().qformer, language=source.config.model.language
    )


def test_stage_one_of_lavis(shared, tmp_path):
    """Names from LAVIS's own small model; shapes as published."""
    small = load_file(shared / "fixtures" / "blip2_stage1_a" / "weights.safetensors")
    names = expanded(small, {"visual_encoder.blocks.": (3, 39), "Qformer.bert.encoder.layer.": (4, 12)})
    model = expected(Config(run=Run(name="x")), None, 30523)
    theirs = convert(lavis.LAVIS_STAGE1.inverse(), of_tensors(model.state_dict()))
    assert set(theirs) == names
    shapes = shapes_of(theirs)
    for name, shape in {
        "visual_encoder.pos_embed": (1, 257, 1408), "visual_encoder.blocks.38.mlp.fc1.weight": (6144, 1408),
        "visual_encoder.blocks.0.attn.q_bias": (1408,), "Qformer.bert.embeddings.word_embeddings.weight": (30523, 768),
        "Qformer.bert.encoder.layer.10.crossattention.self.key.weight": (768, 1408), "query_tokens": (1, 32, 768),
        "vision_proj.weight": (256, 768), "temp": (),
    }.items():  # fmt: skip
        assert shapes[name] == shape, name
    hollow(tmp_path / "blip2_pretrained.safetensors", shapes)
    source = lavis.read(tmp_path / "blip2_pretrained.safetensors", Options())
    assert shapes_of(source.tensors) == shapes_of(model.state_dict())
    assert source.config.model.vision.heads == 16
    assert source.config.model.qformer.cross_every == 2
    encoder = sum(t.meta.numel() for n, t in source.tensors.items() if n.startswith("vision.encoder."))
    assert encoder == 985_894_528 + 39 * 1408, "with a zero bias on the keys of each block"


def test_visualglm_6b(shared):
    """Names from VisualGLM's own small model on SAT; shapes from the released numbers."""
    file = shared / "fixtures" / "visualglm_sat_a" / "1" / "mp_rank_00_model_states.pt"
    small = torch.load(file, weights_only=True, mmap=True)["module"]
    image = "mixins.eva.model."
    names = expanded(small, {
        "transformer.layers.": (2, 28), f"{image}vit.transformer.layers.": (2, 39),
        f"{image}qformer.transformer.layers.": (4, 12),
    })  # fmt: skip
    model = expected(Config(run=Run(name="x", stage="generate"), model=Model(language=Language(tokenizer="none"))))
    ours = of_tensors(model.state_dict())
    table = visualglm_table(12, HEADS, "thirds")
    theirs = convert(table.inverse(), ours)
    assert set(theirs) == names
    assert shapes_of(convert(table, theirs)) == shapes_of(ours)
    hub = hub_table(12, HEADS)
    there = convert(hub.inverse(), ours)
    assert shapes_of(convert(hub, there)) == shapes_of(ours)
    for name, shape in {
        "transformer.word_embeddings.weight": (130528, 4096), f"{image}glm_proj.weight": (4096, 768),
        "transformer.layers.27.attention.query_key_value.weight": (12288, 4096),
        f"{image}qformer.transformer.layers.10.cross_attention.key_value.weight": (1536, 1408),
        f"{image}vit.transformer.position_embeddings.weight": (257, 1408),
    }.items():  # fmt: skip
        assert theirs[name].shape == shape, name
    assert there["image_encoder.glm_proj.bias"].shape == (4096,)
    assert 7.7e9 < sum(tensor.meta.numel() for tensor in ours.values()) < 7.9e9
