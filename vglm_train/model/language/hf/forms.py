"""Which modules of transformers get a class that runs fused on a GPU, and which models attention over short rows."""

from functools import cache
from typing import Any

from torch import nn

from vglm_train.model.language.hf.attention import family_of, replace_attention
from vglm_train.model.language.hf.blocks import Block
from vglm_train.model.language.hf.fused import SHORT_SDPA, Mlp, Norm, PackedMlp
from vglm_train.model.language.hf.opt import OptAttention, OptBlock
from vglm_train.model.language.hf.t5 import T5Attention, T5Bias, T5Mlp, T5Norm

# Of `transformers.models`, those whose code is the formula: the same in transformers 5.17 and 5.23
FORMS: dict[type[nn.Module], str] = {
    T5Norm: "t5.T5LayerNorm mt5.MT5LayerNorm umt5.UMT5LayerNorm",
    T5Mlp: "t5.T5DenseGatedActDense mt5.MT5DenseGatedActDense umt5.UMT5DenseGatedActDense",
    T5Attention: "t5.T5Attention mt5.MT5Attention",
    T5Bias: "umt5.UMT5Attention",
    Norm: "arcee.ArceeRMSNorm deepseek_v2.DeepseekV2RMSNorm deepseek_v3.DeepseekV3RMSNorm ernie4_5.Ernie4_5RMSNorm "
    "exaone4.Exaone4RMSNorm glm.GlmRMSNorm glm4.Glm4RMSNorm granite.GraniteRMSNorm "
    "hunyuan_v1_dense.HunYuanDenseV1RMSNorm llama.LlamaRMSNorm ministral.MinistralRMSNorm "
    "ministral3.Ministral3RMSNorm mistral.MistralRMSNorm mixtral.MixtralRMSNorm phi3.Phi3RMSNorm qwen2.Qwen2RMSNorm "
    "qwen2_moe.Qwen2MoeRMSNorm qwen3.Qwen3RMSNorm qwen3_moe.Qwen3MoeRMSNorm seed_oss.SeedOssRMSNorm "
    "smollm3.SmolLM3RMSNorm",
    Mlp: "cohere.CohereMLP deepseek_v2.DeepseekV2MLP deepseek_v3.DeepseekV3MLP ernie4_5.Ernie4_5MLP "
    "exaone4.Exaone4MLP gemma.GemmaMLP gemma2.Gemma2MLP gemma3.Gemma3MLP granite.GraniteMLP helium.HeliumMLP "
    "hunyuan_v1_dense.HunYuanDenseV1MLP llama.LlamaMLP ministral.MinistralMLP ministral3.Ministral3MLP "
    "mistral.MistralMLP olmo.OlmoMLP olmo2.Olmo2MLP olmo3.Olmo3MLP qwen2.Qwen2MLP qwen2_moe.Qwen2MoeMLP qwen3.Qwen3MLP "
    "qwen3_moe.Qwen3MoeMLP smollm3.SmolLM3MLP stablelm.StableLmMLP",
    PackedMlp: "glm.GlmMLP glm4.Glm4MLP phi3.Phi3MLP",
    Block: "arcee.ArceeDecoderLayer deepseek_v2.DeepseekV2DecoderLayer deepseek_v3.DeepseekV3DecoderLayer "
    "ernie4_5.Ernie4_5DecoderLayer glm.GlmDecoderLayer hunyuan_v1_dense.HunYuanDenseV1DecoderLayer "
    "llama.LlamaDecoderLayer ministral.MinistralDecoderLayer ministral3.Ministral3DecoderLayer "
    "mistral.MistralDecoderLayer mixtral.MixtralDecoderLayer qwen2.Qwen2DecoderLayer qwen2_moe.Qwen2MoeDecoderLayer "
    "qwen3.Qwen3DecoderLayer qwen3_moe.Qwen3MoeDecoderLayer seed_oss.SeedOssDecoderLayer "
    "smollm3.SmolLM3DecoderLayer",
    OptAttention: "opt.OPTAttention",
    OptBlock: "opt.OPTDecoderLayer",
}
BY_NAME = {name: form for form, names in FORMS.items() for name in names.split()}
# whose modules ask for their attention by name, and look at nothing else of it
FAMILIES = {name.partition(".")[0] for name in BY_NAME}


def fuse(model: nn.Module) -> None:
    """Give the modules of a transformers model that are known here a class that runs fused on a GPU.

    The class keeps its name, which transformers and others look at.
    """
    for module in model.modules():
        kind: Any = type(module)
        form: Any = BY_NAME.get(_name(kind))
        if form is not None and not isinstance(module, form):
            module.__class__ = _class(form, kind)


def use_short(model: nn.Module) -> None:
    """Make a transformers model of the families that are known here use `short_sdpa` where it uses SDPA."""
    replace_attention(model, SHORT_SDPA, {"sdpa"}, FAMILIES)


def _name(kind: type[nn.Module]) -> str:
    family = family_of(kind)
    own = kind.__module__ == f"transformers.models.{family}.modeling_{family}"
    return f"{family}.{kind.__name__}" if own else ""


@cache
def _class(form: Any, kind: Any) -> Any:
    return type(kind.__name__, (form, kind), {"__module__": kind.__module__})
