"""Small random BLIP-2 models of transformers, saved as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

IMAGE, LENGTH = 63, 4  # the id of an image's places; queries
VISION = {"image_size": 16, "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 2, "patch_size": 8, "layer_norm_eps": 1e-6}  # fmt: skip
QFORMER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48,
           "encoder_hidden_size": 24, "vocab_size": 50, "max_position_embeddings": 16}  # fmt: skip
OPT = {"model_type": "opt", "vocab_size": 64, "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2,
       "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 48}  # fmt: skip
T5 = {"model_type": "t5", "vocab_size": 64, "d_model": 48, "d_kv": 12, "d_ff": 64, "num_layers": 2, "num_heads": 4,
      "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}  # fmt: skip
TEXT = {"opt": OPT, "t5": T5}


def randomised(model: Any, seed: int = 1) -> Any:
    """Weights large enough that every part matters; norms near one."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        parameter.data.copy_(1 + 0.1 * noise if is_norm else 0.15 * noise)
        if name.endswith("self_attn.qkv.bias"):
            parameter.data.chunk(3)[1].zero_()  # as published: EVA has no bias on keys
    return model.eval()


def generation(family: str) -> Any:
    text = transformers.CONFIG_MAPPING[TEXT[family]["model_type"]].from_dict(dict(TEXT[family])).to_dict()
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config=QFORMER, text_config=text, num_query_tokens=LENGTH,
        image_token_index=IMAGE,
    )  # fmt: skip
    return randomised(transformers.Blip2ForConditionalGeneration(config))


def retrieval() -> Any:
    config = transformers.Blip2Config(
        vision_config=VISION, qformer_config={**QFORMER, "use_qformer_text_input": True}, text_config=OPT,
        num_query_tokens=LENGTH, image_text_hidden_size=16,
    )  # fmt: skip
    config.image_token_index = None
    return randomised(transformers.Blip2ForImageTextRetrieval(config))


def written(model: Any, pixels: Tensor) -> Tensor:
    """Greedy ids of a fixed prompt for each picture."""
    ids = torch.tensor([[IMAGE] * LENGTH + [2, 9, 17, 30]]).expand(len(pixels), -1)
    return model.generate(
        pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
    )


def logits(model: Any, pixels: Tensor) -> Tensor:
    ids = torch.tensor([[IMAGE] * LENGTH + [2, 9, 17, 30]]).expand(len(pixels), -1)
    more = {"decoder_input_ids": ids[:, -3:]} if model.config.text_config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits


def save_torch(model: Any, folder: Path, parts: int) -> None:
    """pytorch_model.bin as transformers 4 wrote it: every name, ties included, in so many files."""
    import json

    model.config.save_pretrained(folder)
    state = model.state_dict()
    if parts == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    index = {}
    for part in range(parts):
        file = f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        tensors = dict(list(state.items())[part::parts])
        torch.save(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
