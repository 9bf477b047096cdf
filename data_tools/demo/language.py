"""Where the demo's Q-Former starts: a BERT with random weights, as large as its width asks for.

BLIP-2 starts from a trained BERT. Fresh weights have BERT's standard deviation of 0.02, which suits 768 channels; at
the demo's width it makes every attention all but even for hundreds of steps.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM

from vglm_train.config.model import QFormer

SPREAD = 0.68  # standard deviation of a weight, times the square root of the width


def write_bert(file: Path, config: QFormer, vocabulary: int, seed: int) -> None:
    """Write Hugging Face's names, which model.qformer.weights reads. `vocabulary`: words of vocab.txt."""
    torch.manual_seed(seed)
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.positions,
            initializer_range=SPREAD / config.width**0.5,
        )
    )
    state = bert.state_dict()
    tied = [name for name in state if name.startswith("cls.predictions.decoder.")]
    save_file({name: tensor.contiguous() for name, tensor in state.items() if name not in tied}, file)
