"""The modules of LAVIS's BLIP-2, by name, shape and what is a buffer (lavis/models/{eva_vit,blip2_models/*}.py).

They have no forward pass: they are there to load a file strictly. LAVIS itself needs transformers 4.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vglm_train.config.model import Model


def holder(**parts: Any) -> nn.Module:
    """A module with these children and parameters."""
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, nn.Parameter(part) if isinstance(part, Tensor) else part)
    return module


def eva(shape: Any) -> nn.Module:
    width, places = shape.width, (shape.image_size // shape.patch) ** 2 + 1

    def block() -> nn.Module:
        attention = holder(q_bias=torch.zeros(width), v_bias=torch.zeros(width),
                           qkv=nn.Linear(width, 3 * width, bias=False), proj=nn.Linear(width, width))  # fmt: skip
        mlp = holder(fc1=nn.Linear(width, shape.mlp_width), fc2=nn.Linear(shape.mlp_width, width))
        return holder(norm1=nn.LayerNorm(width), attn=attention, norm2=nn.LayerNorm(width), mlp=mlp)

    patches = holder(proj=nn.Conv2d(3, width, shape.patch, shape.patch))
    return holder(cls_token=torch.zeros(1, 1, width), pos_embed=torch.zeros(1, places, width), patch_embed=patches,
                  blocks=nn.ModuleList(block() for _ in range(shape.depth)))  # fmt: skip


def output(inputs: int, width: int) -> nn.Module:
    return holder(dense=nn.Linear(inputs, width), LayerNorm=nn.LayerNorm(width))


def layer(shape: Any, number: int, image_width: int, text: bool) -> nn.Module:
    width, inner = shape.width, shape.mlp_width

    def attention(keys: int) -> nn.Module:
        own = holder(query=nn.Linear(width, width), key=nn.Linear(keys, width), value=nn.Linear(keys, width))
        return nn.ModuleDict({"self": own, "output": output(width, width)})

    parts = {"attention": attention(width)}
    if number % shape.cross_every == 0:
        parts["crossattention"] = attention(image_width)
    for suffix in ("", "_query") if text else ("_query",):
        parts |= {
            f"intermediate{suffix}": holder(dense=nn.Linear(width, inner)),
            f"output{suffix}": output(inner, width),
        }
    return holder(**parts)


class Embeddings(nn.Module):
    def __init__(self, shape: Any, words: int | None) -> None:
        super().__init__()
        if words is not None:  # stage two sets both tables to None
            self.word_embeddings = nn.Embedding(words, shape.width)
            self.position_embeddings = nn.Embedding(shape.positions, shape.width)
        self.LayerNorm = nn.LayerNorm(shape.width)
        self.register_buffer("position_ids", torch.arange(shape.positions).expand((1, -1)))


def qformer(shape: Any, image_width: int, words: int | None) -> nn.Module:
    layers = nn.ModuleList(layer(shape, n, image_width, words is not None) for n in range(shape.layers))
    bert = holder(embeddings=Embeddings(shape, words), encoder=holder(layer=layers))
    if words is None:
        return holder(bert=bert)
    transform = output(shape.width, shape.width)
    bias = nn.Parameter(torch.zeros(words))
    decoder = nn.Linear(shape.width, words)
    decoder.weight, decoder.bias = bert.embeddings.word_embeddings.weight, bias
    predictions = holder(transform=transform, decoder=decoder)
    predictions.bias = bias
    return holder(bert=bert, cls=holder(predictions=predictions))


def stage_one(model: Model, words: int) -> nn.Module:
    """`Blip2Qformer`."""
    q, width = model.qformer, model.contrastive_width
    return holder(visual_encoder=eva(model.vision), ln_vision=nn.LayerNorm(model.vision.width),
                  Qformer=qformer(q, model.vision.width, words), query_tokens=torch.zeros(1, q.queries, q.width),
                  vision_proj=nn.Linear(q.width, width), text_proj=nn.Linear(q.width, width),
                  itm_head=nn.Linear(q.width, 2), temp=torch.zeros([]))  # fmt: skip


def stage_two(model: Model, projection: str, embed_width: int) -> nn.Module:
    """`Blip2OPT` (opt_proj) or `Blip2T5` (t5_proj), but for the language model, which LAVIS leaves out of its files."""
    q = model.qformer
    return holder(visual_encoder=eva(model.vision), ln_vision=nn.LayerNorm(model.vision.width),
                  Qformer=qformer(q, model.vision.width, None), query_tokens=torch.zeros(1, q.queries, q.width),
                  **{projection: nn.Linear(q.width, embed_width)})  # fmt: skip
