"""The tables at the released sizes: every name and shape of transformers' BLIP-2 has one of ours, none is left over."""

import json

import pytest
import torch
import transformers

from vglm_train.checkpoint.keymaps.hf_blip2 import HF_BLIP2, HF_BLIP2_RETRIEVAL, NOT_IN_RETRIEVAL, TO_HF_BLIP2_RETRIEVAL
from vglm_train.checkpoint.keymaps.keymap import KeyMapError
from vglm_train.config.language import Language
from vglm_train.config.model import Model, Vision
from vglm_train.config.model import QFormer as QFormerConfig
from vglm_train.model.alignment import build_alignment
from vglm_train.model.language import build_language
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.vision import build_vision
from vglm_train.model.visual_language import VisualLanguageModel

# config.json of facebook/opt-2.7b and google/flan-t5-xl, what differs from the classes' defaults
OPT_27B = {"model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32,
           "num_attention_heads": 32, "vocab_size": 50304, "word_embed_proj_dim": 2560}  # fmt: skip
FLAN_T5_XL = {"model_type": "t5", "d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_decoder_layers": 24,
              "num_heads": 32, "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu",
              "tie_word_embeddings": False, "decoder_start_token_id": 0}  # fmt: skip
VIT_G = {"hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16}


def shapes(state) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(("content", "trained"), [(OPT_27B, 107_133_696), (FLAN_T5_XL, 106_739_968)])
def test_generation(tmp_path, content, trained):
    (tmp_path / "config.json").write_text(json.dumps(content))
    family = "seq2seq" if content["model_type"] == "t5" else "causal"
    text = transformers.CONFIG_MAPPING[content["model_type"]].from_dict(dict(content)).to_dict()
    with torch.device("meta"):
        theirs = transformers.Blip2ForConditionalGeneration(
            transformers.Blip2Config(vision_config=VIT_G, text_config=text)
        )
        language = build_language(Language(family=family, config=str(tmp_path), tokenizer="t"))
        qformer = QFormer(QFormerConfig(), 1408, None)
        ours = VisualLanguageModel(build_vision(Vision()), qformer, language, (0.0,) * 3, (1.0,) * 3)
    assert shapes(HF_BLIP2.apply(theirs.state_dict())) == shapes(ours.state_dict())
    assert shapes(HF_BLIP2.inverse().apply(ours.state_dict())) == shapes(theirs.state_dict())
    assert sum(parameter.numel() for _, parameter in ours.trained_parameters()) == trained


def test_retrieval():
    with torch.device("meta"):
        theirs = transformers.Blip2ForImageTextRetrieval(
            transformers.Blip2Config(
                vision_config=VIT_G, qformer_config={"vocab_size": 30523, "use_qformer_text_input": True}
            )
        )
        ours = build_alignment(Model(), 30523, (0.0,) * 3, (1.0,) * 3)
    state = ours.state_dict()
    absent = {name for name in state if name.startswith(tuple(name.rstrip("*") for name in NOT_IN_RETRIEVAL))}
    expected = {name: shape for name, shape in shapes(state).items() if name not in absent}
    assert shapes(HF_BLIP2_RETRIEVAL.apply(theirs.state_dict())) == expected
    assert shapes(TO_HF_BLIP2_RETRIEVAL.apply(state)) == shapes(theirs.state_dict())
    assert sorted(name.partition(".")[0] for name in absent) == ["caption_head"] * 5 + ["temperature"]


def test_a_key_that_means_nothing_or_lacks_its_partner_is_named():
    query = "qformer.encoder.layer.0.attention.attention.query.weight"
    with pytest.raises(KeyMapError, match=r"unexpected: strange"):
        HF_BLIP2.apply({"strange": torch.zeros(1)})
    with pytest.raises(KeyMapError, match=r"missing beside .*query\.weight: .*key\.weight"):
        HF_BLIP2.apply({query: torch.zeros(2, 2)})
