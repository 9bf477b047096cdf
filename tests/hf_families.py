"""A tiny model of each decoder-only and encoder-decoder family of the transformers that is installed."""

import inspect
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    PreTrainedConfig,
)

TABLES = {"causal": MODEL_FOR_CAUSAL_LM_MAPPING, "seq2seq": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING}
VOCABULARY = 64
IDS = torch.randint(3, 60, (2, 7), generator=torch.Generator().manual_seed(0))
# number -> names that configuration classes have for it
SIZES: dict[Any, str] = {
    32: "hidden_size d_model n_embd word_embed_proj_dim embedding_size emb_dim dim attention_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers "
       "num_key_value_heads num_experts_per_tok moe_k eos_token_id",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts "
       "num_local_experts n_routed_experts moe_num_experts rotary_dim attention_window",
    48: "intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim ffn_hidden_size",
    VOCABULARY: "vocab_size max_position_embeddings n_positions n_ctx max_seq_len",
    8: "d_kv head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim",
    16: "moe_intermediate_size shared_expert_intermediate_size q_lora_rank kv_lora_rank sliding_window",
    1: "n_group topk_group bos_token_id", 0: "pad_token_id decoder_start_token_id",
}  # fmt: skip
SMALL = {name: number for number, names in SIZES.items() for name in names.split()}
PART = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
        "num_key_value_heads": 2, "vocab_size": VOCABULARY, "sliding_window": 16}  # fmt: skip
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
GEMMA = {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8}
LATENT: dict[str, Any] = {"head_dim": None, "num_key_value_heads": 4}  # attention whose heads have widths of their own
# What the sizes above do not make one model of; None: the class's own.
OTHERS: dict[str, dict[str, Any]] = {
    "bamba": MAMBA, "granitemoehybrid": MAMBA,
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]}, "zaya": {"num_experts_per_tok": 1},
    "t5gemma": {"encoder": PART, "decoder": PART}, "dots1": {"first_k_dense_replace": 1, "n_shared_experts": 1},
    "cohere_compass_text": {"num_hidden_layers": 4}, "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, **GEMMA}, "gemma4_text": {"global_head_dim": 8, **GEMMA},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "nemotron_h": {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8},
    "xlm": {"n_words": VOCABULARY}, "zamba": {"num_hidden_layers": None}, "zamba2": {"num_hidden_layers": None},
    "dots3_note_text": {"num_key_value_heads": 4},
    **{name: LATENT for name in ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite",
                                 "glm_moe_dsa", "minicpm3", "youtu")},
}  # fmt: skip

# What is refused, by words of the reason. Kinds that the installed transformers does not have are left out.
REFUSED: dict[tuple[str, str], str] = {
    ("causal", "is not of the family"):
        "bart bigbird_pegasus blenderbot blenderbot-small marian mbart musicgen musicgen_melody mvp pegasus plbart "
        "prophetnet whisper",
    ("causal", "is an encoder"):
        "bert bert-generation blt camembert data2vec-text electra ernie git roberta roberta-prelayernorm roc_bert "
        "xlm-roberta xlm-roberta-xl xmod",
    ("causal", "transformers cannot build"):
        "cohere_compass_text dbrx reformer",
    ("causal", "reads pictures itself"):
        "dots3_note emu3 fuyu gemma3 gemma3n gemma4 gemma4_unified gemma4_unified_assistant got_ocr2 llama4 mllama "
        "moss_transcribe_diarize qwen3_5 qwen3_5_moe qwen4_exp",
    ("causal", "is not a stack of blocks"):
        "hrm_text longcat_flash",
    ("seq2seq", "is not of the family"):
        "audioflamingo3 glmasr granite_speech granite_speech_plus moss_transcribe_diarize musicflamingo nemo_speechlm "
        "qwen2_audio qwen3_asr vibevoice_asr voxtral voxtral_realtime",
    ("seq2seq", "is not a stack of blocks"):
        "t5gemma2",
    ("seq2seq", "a model of sounds"):
        "seamless_m4t",
}  # fmt: skip
REFUSED_KINDS = {(family, kind): words for (family, words), kinds in REFUSED.items() for kind in kinds.split()}
# What no small model shows, and why
UNTRIED = {
    "encoder-decoder": "247 million parameters", "phi4_multimodal": "870 million parameters",
    "gemma4_assistant": "these sizes do not fit it", "zamba": "transformers cannot run it in these sizes",
    "youtu": "transformers 5.23 initialises its embeddings again after it has read them",
}  # fmt: skip


def configuration(kind: str) -> PreTrainedConfig:
    """A small configuration of a model_type. Raises what transformers raises where the sizes do not fit each other."""
    known: set[str] = set()
    for parent in CONFIG_MAPPING[kind].__mro__:
        known |= set(getattr(parent, "__annotations__", {})) | set(inspect.signature(parent.__init__).parameters)
    sizes = {name: size for name, size in SMALL.items() if name in known - set(CONFIG_MAPPING[kind].attribute_map)}
    sizes |= OTHERS.get(kind, {})
    return CONFIG_MAPPING[kind](**{name: size for name, size in sizes.items() if size is not None})


def model(family: str, shape: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    """With random weights, of which no two are alike."""
    torch.manual_seed(0)
    made = TABLES[family][type(shape)]._from_config(shape, dtype=dtype).eval()
    draw = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return made


def logits(network: Any) -> torch.Tensor:
    more = {"decoder_input_ids": IDS[:, :3]} if network.config.is_encoder_decoder else {}
    with torch.no_grad():
        return network(input_ids=IDS, use_cache=False, **more).logits
