"""ChatGLM of SwissArmyTransformer (SAT), without what SAT does to the process it is built in.

SAT's model constructor starts torch.distributed, seeds every generator and sets cudnn flags. A model that is whole in
one process needs none of this. So the transformer is built separately, and SAT's "model parallel group" is a stand-in
of one process, whether or not there is a process group.

b rows, s tokens, t tokens with those of the cache, h heads, d width of a head.
"""

import logging
import os
import random
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vglm_train.config.language import Language
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.cache import KeyValueCache
from vglm_train.model.language.glm.rope import Rotary, Rotation, SplitAndRotate

_TRITON_USER = "sat.model.position_embedding.triton_rotary_embeddings"
_FLAGS = (
    (torch.backends.cudnn, "enabled"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
)


@contextmanager
def restored_state() -> Iterator[None]:
    """Within it SAT may seed generators and set flags. Afterwards they and the default dtype are as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    flags = [getattr(owner, name) for owner, name in _FLAGS]
    dtype, level = torch.get_default_dtype(), os.environ.get("SAT_LOGLEVEL")
    os.environ["SAT_LOGLEVEL"] = "ERROR"  # read on import: SAT warns of packages that it does without
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)
        for (owner, name), value in zip(_FLAGS, flags, strict=True):
            setattr(owner, name, value)
        torch.set_default_dtype(dtype)
        del os.environ["SAT_LOGLEVEL"]
        if level is not None:
            os.environ["SAT_LOGLEVEL"] = level


class _NoTriton(nn.Module):
    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("rotary embeddings by Triton: it is not installed, and ChatGLM-6B does not use them")


@contextmanager
def _without_deepspeed() -> Iterator[None]:
    """Within it SAT finds no DeepSpeed, and so leaves out its trainer, which imports wandb, datasets and webdataset."""
    absent = "deepspeed" not in sys.modules
    if absent:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules["deepspeed"]


class OneProcess:
    """SAT's model parallel group of this process alone."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


if find_spec("triton") is None:  # 200 MB, imported by SAT for a kernel of other models
    _stand_in = ModuleType(_TRITON_USER)
    _stand_in.FastRotaryEmbedding = _NoTriton  # type: ignore[attr-defined]
    sys.modules.setdefault(_TRITON_USER, _stand_in)

with restored_state(), _without_deepspeed():
    import sat.mpu.initialize as sat_groups
    from sat.model import BaseMixin
    from sat.model.official.chatglm_model import ChatGLMAttnMixin, ChatGLMModel
    from sat.model.transformer import BaseTransformer
logging.getLogger("sat").propagate = False  # it has a handler of its own


class Attention(ChatGLMAttnMixin):  # type: ignore[misc]
    """Replaces SAT's `attention_forward` hook: 2-D RoPE from angles of the whole pass, SDPA with any mask, a cache."""

    rotary_emb: nn.Module

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.heads = heads
        self.rotary_emb = Rotary(self.rotary_emb.get_buffer("inv_freq"))

    def attention_forward(
        self,
        hidden: Tensor,
        mask: Tensor,
        *,
        layer_id: int,
        rotation: Rotation,
        bias: Tensor,
        cache: KeyValueCache | None = None,
        **_: object,
    ) -> Tensor:
        """hidden [b,s,h*d], additive `bias` [b,1,s,t] or wider -> [b,s,h*d]; SAT's own mask is not used."""
        layer = self.transformer.layers[layer_id].attention
        b, s, width = hidden.shape
        qkv = layer.query_key_value(hidden).view(b, s, 3, self.heads, width // self.heads)
        q, k, v = (part.transpose(1, 2) for part in SplitAndRotate.apply(qkv, *rotation))  # [b,h,s,d]
        if cache is not None:
            k, v = cache.append(int(layer_id), k, v)
        if isinstance(prefix := getattr(layer, "adapter", None), Prefix):
            k, v = prefix.append(k, v)
        # a block without prefix uses the first columns only, which leaves them aligned
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[..., : k.shape[2]])
        return layer.dense(x.transpose(1, 2).reshape(b, s, width))


class Driver(BaseMixin):  # type: ignore[misc]
    """Takes embeddings as input, runs the head on chosen rows only, and recomputes blocks in backward."""

    recompute = False
    random = False  # whether blocks have dropout, which recomputing must repeat

    def word_embedding_forward(self, input_ids: Tensor, *, embeds: Tensor, **_: object) -> Tensor:
        return embeds

    @BaseMixin.non_conflict
    def final_forward(self, hidden: Tensor, *, rows: Tensor, old_impl, **_: object) -> Tensor:
        """hidden [b,s,e] -> logits [m,v] at positions `rows` [m] of the flattened batch."""
        return old_impl(hidden.flatten(0, 1).index_select(0, rows))

    @BaseMixin.non_conflict
    def layer_forward(self, hidden: Tensor, mask: Tensor, *args: object, old_impl, **options) -> Tensor:
        options["output_this_layer"] = {}  # SAT would keep tensors there longer than the block runs
        run = partial(old_impl, **options)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(run, hidden, mask, *args, use_reentrant=False, preserve_rng_state=self.random)
        return run(hidden, mask, *args)


def build_network(config: Language, dtype: torch.dtype) -> ChatGLMModel:
    """ChatGLM of this shape on torch's current default device (meta included), in `dtype`; weights are not set."""
    device = torch.get_default_device()
    if sat_groups._MODEL_PARALLEL_GROUP is None:
        sat_groups._MODEL_PARALLEL_GROUP = OneProcess()
    with restored_state():
        transformer = BaseTransformer(
            num_layers=config.layers,
            vocab_size=1,  # SAT's embeddings and head draw their weights in fp32 on the CPU: replaced below
            hidden_size=config.width,
            num_attention_heads=config.heads,
            max_sequence_length=1,
            inner_hidden_size=config.mlp_width,
            layernorm_order="post",
            activation_func=partial(F.gelu, approximate="tanh"),
            hooks={},
            params_dtype=dtype,
            row_parallel_linear_final_bias=False,  # the same sum, within the matrix product
            skip_init=True,
            device=device,
        )
        shape = Namespace(
            vocab_size=1, hidden_size=config.width, num_attention_heads=config.heads, num_layers=config.layers
        )
        ids = Namespace(bos_token_id=None, mask_token_id=None, gmask_token_id=None, pad_token_id=None)
        network = ChatGLMModel(Namespace(**vars(shape), **vars(ids)), transformer=transformer)
        network.del_mixin("chatglm-attn")
        network.add_mixin("chatglm-attn", Attention(config.width, config.heads))
        network.add_mixin("driver", Driver())
        sizes = {"device": device, "dtype": dtype}
        skip = nn.utils.skip_init
        transformer.word_embeddings = skip(nn.Embedding, config.vocabulary, config.width, **sizes)
        head = skip(nn.Linear, config.width, config.vocabulary, bias=False, **sizes)
        network.get_mixin("chatglm-final").lm_head = head
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(device, dtype)
    network.get_mixin("chatglm-attn").rotary_emb.to(device)
    return network
