"""ChatGLM of SwissArmyTransformer (SAT), without what SAT does to the process it is built in.

SAT's model constructor starts torch.distributed, seeds every generator and sets cudnn flags. A model that is whole in
one process needs none of this. So the transformer is built separately, and its linear layers are torch's: SAT's ask for
a "model parallel group" whenever they run. While it is built, a stand-in of one process takes the place of that group.
SAT's own models, built before or after, find the group that they made.

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
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vglm_train.autograd import apply
from vglm_train.config.language import Language
from vglm_train.errors import UserError
from vglm_train.model.language.adapter import Prefix
from vglm_train.model.language.attention import attend
from vglm_train.model.language.cache import KeyValueCache
from vglm_train.model.language.glm import residual
from vglm_train.model.language.glm.attention import rotate_and_attend
from vglm_train.model.language.glm.rope import Rotary, Rotation, SplitAndRotate

INSTALL = 'pip install --no-deps "SwissArmyTransformer>=0.4.12,<0.5"'
_TRITON_USER = "sat.model.position_embedding.triton_rotary_embeddings"
_ACTIVATIONS = "transformers.activations"
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


@contextmanager
def _explained() -> Iterator[None]:
    """Within it, a package that is not installed is a UserError. SAT is installed alone: it requires DeepSpeed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0].replace("sat", "SwissArmyTransformer")
        raise UserError(
            f'ChatGLM needs {package}, which is not installed: pip install "vglm_train[chat]", then {INSTALL}'
        ) from error


@contextmanager
def _without_transformers() -> Iterator[None]:
    """Within it SAT's GPT-2, which comes along, does without transformers, which take seconds to import."""
    absent = _ACTIVATIONS not in sys.modules
    if absent:
        stand_in = ModuleType(_ACTIVATIONS)
        stand_in.ACT2FN = {"gelu_new": partial(F.gelu, approximate="tanh")}  # type: ignore[attr-defined]
        sys.modules[_ACTIVATIONS] = stand_in
    try:
        yield
    finally:
        if absent:
            del sys.modules[_ACTIVATIONS]


class OneProcess:
    """What SAT asks of its model parallel group while it builds: this process alone."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


if find_spec("triton") is None:  # 200 MB, imported by SAT for a kernel of other models
    _stand_in = ModuleType(_TRITON_USER)
    _stand_in.FastRotaryEmbedding = _NoTriton  # type: ignore[attr-defined]
    sys.modules.setdefault(_TRITON_USER, _stand_in)

with _explained(), restored_state(), _without_deepspeed(), _without_transformers():
    import sat.mpu.initialize as sat_groups
    from sat.model.official.chatglm_model import ChatGLMAttnMixin, ChatGLMLayerMixin, ChatGLMModel
    from sat.model.transformer import BaseTransformer
    from sat.mpu.layers import ColumnParallelLinear, RowParallelLinear
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
        mask: None,
        *,
        layer_id: int,
        rotation: Rotation,
        bias: Tensor,
        cache: KeyValueCache | None = None,
        **_: object,
    ) -> Tensor:
        """hidden [b,s,h*d], additive `bias` [b,1,s,t] or wider -> [b,s,h*d]; there is no mask of SAT's."""
        layer = self.transformer.layers[layer_id].attention
        b, s, width = hidden.shape
        qkv = layer.query_key_value(hidden).view(b, s, 3, self.heads, width // self.heads)
        prefix = getattr(layer, "adapter", None)
        if cache is None and not isinstance(prefix, Prefix):
            # a block without prefix uses the first columns only, which leaves them aligned
            return layer.dense(rotate_and_attend(qkv, rotation, bias[..., :s]))  # type: ignore[no-any-return]
        q, k, v = apply(SplitAndRotate, qkv, *rotation)  # [b,s,h,d]
        if cache is not None:
            k, v = (x.transpose(1, 2) for x in cache.append(layer_id, k.transpose(1, 2), v.transpose(1, 2)))
        if isinstance(prefix, Prefix):
            k, v = (x.transpose(1, 2) for x in prefix.append(k.transpose(1, 2), v.transpose(1, 2)))
        return layer.dense(attend(q, k, v, bias[..., : k.shape[1]]))  # type: ignore[no-any-return]


class Layer(ChatGLMLayerMixin):  # type: ignore[misc]
    """Replaces SAT's `layer_forward` hook: kernels for sums and norms on a GPU, and a last block for chosen rows."""

    num_layers: int

    def layer_forward(
        self, hidden: Tensor, mask: None, *, layer_id: int, rows: Tensor | None = None, **options: Any
    ) -> Tensor:
        """A block: [b,s,h*d] -> the same; with `rows` [m] of the flattened batch, its output there alone [m,h*d]."""
        layer, alpha = self.transformer.layers[layer_id], (2 * self.num_layers) ** 0.5
        norms = layer.input_layernorm, layer.post_attention_layernorm
        parts = residual.parts(hidden, *norms)
        options["layer_id"] = layer_id
        x, kept = parts.norm(hidden, norms[0], alpha)
        read = layer.attention(x, mask, **options)
        if rows is not None:
            kept, read = (residual.take(part.flatten(0, 1), rows) for part in (kept, read))
        x, kept = parts.add_and_norm(kept, read, norms[1], alpha)
        output: Tensor = parts.add(kept, layer.mlp(x, **options), alpha)
        return output


class Transformer(BaseTransformer):  # type: ignore[misc]
    """Replaces SAT's forward, which asks for its model parallel group: embeddings in, logits of chosen rows out.

    Blocks and head run as SAT's hooks say. Behind its attention, the last block computes those rows alone.
    `recompute`: blocks' activations are computed again in backward. `random`: blocks have dropout, which recomputing
    must repeat.
    """

    recompute = False
    random = False

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None,
        *,
        embeds: Tensor,
        rows: Tensor,
        **options: Any,
    ) -> list[Tensor]:
        """embeds [b,s,e] -> [logits [m,v]] at positions `rows` [m] of the flattened batch."""
        hidden, last = embeds, len(self.layers) - 1
        for number in range(len(self.layers)):
            # a fresh dictionary: SAT keeps tensors there, which must not outlive the block
            own = {"layer_id": number, "output_this_layer": {}, "rows": rows if number == last else None}
            run = partial(self.hooks["layer_forward"], **own, **options)
            if self.recompute and torch.is_grad_enabled():
                run = partial(checkpoint, run, use_reentrant=False, preserve_rng_state=self.random)
            hidden = self.layers[number](run, hidden)
        return [self.hooks["final_forward"](self.final_layernorm(hidden))]


def _run_layer(run: Any, hidden: Tensor) -> Tensor:
    """A layer's forward: SAT's hook says what it computes, and the layer is called as a module for torch's hooks."""
    result: Tensor = run(hidden, None)
    return result


@contextmanager
def whole_in_one_process() -> Iterator[None]:
    """Within it SAT builds models that are whole in this process. Afterwards its model parallel group is as before."""
    before = sat_groups._MODEL_PARALLEL_GROUP
    sat_groups._MODEL_PARALLEL_GROUP = OneProcess()
    try:
        yield
    finally:
        sat_groups._MODEL_PARALLEL_GROUP = before


def use_plain_linears(transformer: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """torch's linear layers, of the same names and shapes, in place of SAT's parallel ones; weights are not set."""
    for owner in list(transformer.modules()):
        for name, module in list(owner.named_children()):
            if isinstance(module, ColumnParallelLinear | RowParallelLinear):
                sizes = module.input_size, module.output_size
                bias = module.bias is not None
                setattr(owner, name, nn.utils.skip_init(nn.Linear, *sizes, bias=bias, device=device, dtype=dtype))


def build_network(config: Language, dtype: torch.dtype) -> ChatGLMModel:
    """ChatGLM of this shape on torch's current default device (meta included), in `dtype`; weights are not set."""
    device = torch.get_default_device()
    with restored_state(), whole_in_one_process():
        transformer = Transformer(
            num_layers=config.layers,
            vocab_size=1,  # SAT's head draws its weights in fp32 on the CPU
            hidden_size=config.width,
            num_attention_heads=config.heads,
            max_sequence_length=1,
            inner_hidden_size=config.mlp_width,
            layernorm_order="post",
            activation_func=partial(F.gelu, approximate="tanh"),
            hooks={},
            params_dtype=dtype,
            skip_init=True,
            device=torch.device("meta"),  # its linear layers and embeddings are replaced below
        )
        use_plain_linears(transformer, device, dtype)
        for layer in transformer.layers:
            layer.forward = _run_layer
        shape = Namespace(
            vocab_size=1, hidden_size=config.width, num_attention_heads=config.heads, num_layers=config.layers
        )
        ids = Namespace(bos_token_id=None, mask_token_id=None, gmask_token_id=None, pad_token_id=None)
        network = ChatGLMModel(Namespace(**vars(shape), **vars(ids)), transformer=transformer)
        network.del_mixin("chatglm-attn")
        network.add_mixin("chatglm-attn", Attention(config.width, config.heads))
        network.del_mixin("chatglm-layer")
        network.add_mixin("chatglm-layer", Layer(config.layers))
        sizes = {"device": device, "dtype": dtype}
        transformer.word_embeddings = nn.utils.skip_init(nn.Embedding, config.vocabulary, config.width, **sizes)
        head = nn.utils.skip_init(nn.Linear, config.width, config.vocabulary, bias=False, **sizes)
        network.get_mixin("chatglm-final").lm_head = head
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(device, dtype)
    network.get_mixin("chatglm-attn").rotary_emb.to(device)
    return network
