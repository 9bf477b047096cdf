"""Arithmetic of stage two by kinds of sequence: by hand, and against torch's own counter."""

from dataclasses import replace

import pytest
import tiny
import tiny_language
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BartConfig, T5Config

from vglm_train.batch import PromptBatch
from vglm_train.config.language import Language
from vglm_train.config.model import Model
from vglm_train.config.tuning import Lora, Rule, Tuning
from vglm_train.model.flops import Cost, generation_cost, image_tokens, vision_flops
from vglm_train.model.qformer.qformer import QFormer
from vglm_train.model.tuning import apply_tuning
from vglm_train.model.visual_language import VisualLanguageModel, build_visual_language

D, F, V, HEADS = 64, 96, 40, 2
ENCODER, DECODER = 2, 3
T5 = T5Config(
    vocab_size=V, d_model=D, d_kv=D // HEADS, d_ff=F, num_layers=ENCODER, num_decoder_layers=DECODER, num_heads=HEADS,
    decoder_start_token_id=0,
)  # fmt: skip
BART = BartConfig(
    vocab_size=V, d_model=D, encoder_layers=ENCODER, decoder_layers=DECODER, encoder_attention_heads=HEADS,
    decoder_attention_heads=HEADS, encoder_ffn_dim=F, decoder_ffn_dim=F, max_position_embeddings=40,
)  # fmt: skip


def build(folder, config, **qformer) -> tuple[Model, VisualLanguageModel]:
    config.save_pretrained(folder)
    language = Language(family="seq2seq", config=str(folder), tokenizer="t", dtype="fp32")
    whole = replace(tiny.MODEL, language=language, qformer=replace(tiny.MODEL.qformer, **qformer))
    return whole, build_visual_language(whole, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), words=V)


def cost(folder, config, **qformer) -> Cost:
    return generation_cost(*build(folder, config, **qformer))


def test_an_encoder_decoder_by_hand(tmp_path):
    """The encoder reads the sequence and so do the keys and values of cross-attention; the rest is the answer's."""
    found = dict(cost(tmp_path, T5).per_token)
    position_bias = 32 * HEADS  # counted as weights, of no weight
    encoder = ENCODER * (4 * D * D + 2 * D * F) + position_bias
    crossing = DECODER * 2 * D * D
    decoder = DECODER * (4 * D * D + 2 * D * D + 2 * D * F) + position_bias
    forward_and_input_gradient = 2 + 2
    assert found.pop("visual") > 0
    assert found == {
        "sequence": forward_and_input_gradient * (encoder + crossing),
        "answer": forward_and_input_gradient * decoder,
        "target": forward_and_input_gradient * D * V,
    }


def test_what_trains_in_the_decoder_alone_leaves_the_encoder_out_of_backward(tmp_path):
    whole, model = build(tmp_path, T5)
    apply_tuning(model, Tuning(rules=(Rule(match="*", train=False),), lora=Lora(rank=1, layers=(ENCODER + 1,))))
    found = generation_cost(whole, model).per_token
    lora, position_bias = 2 * 4 * D, 32 * HEADS  # q and v, or whatever the attention's products are: within the bound
    reading, block = ENCODER * (4 * D * D + 2 * D * F) + position_bias, 6 * D * D + 2 * D * F
    assert found["sequence"] == pytest.approx(2 * (reading + DECODER * 2 * D * D), rel=0.05)
    assert found["answer"] == pytest.approx(2 * (3 * block + 2 * block + position_bias) + 4 * lora, rel=0.05)


@pytest.mark.parametrize("config", [T5, BART], ids=["t5", "bart"])
@pytest.mark.parametrize(("s", "t"), [(30, 3), (5, 20)])
def test_an_encoder_decoder_by_torchs_counter(tmp_path, config, s, t):
    whole, visual = build(tmp_path, config)
    model = visual.language
    ids, labels = torch.randint(3, V, (1, s)), torch.randint(3, V, (1, t))
    mask = torch.ones(1, s, dtype=torch.bool)
    batch = PromptBatch(
        pixels=torch.zeros(1, 3, 2, 2), valid=mask[:, 0], input_ids=ids, attention_mask=mask, visual_mask=~mask,
        labels=labels,
    )  # fmt: skip
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.score(model.embed(ids), batch)
    products = ("mm", "addmm")  # without attention's own
    counted = sum(n for op, n in counter.get_flop_counts()["Global"].items() if str(op).split(".")[-1] in products)
    forward = generation_cost(whole, visual).of(0, {"sequence": s, "answer": t, "target": t}) / 2
    assert forward == pytest.approx(counted, rel=0.05)  # norms and biases of so narrow a model


def test_a_decoder_alone_has_no_answer_apart():
    """ChatGLM's last block computes its MLP for targets alone."""
    config = tiny_language.CHATGLM.language
    found = generation_cost(tiny_language.CHATGLM, tiny_language.build(tiny_language.CHATGLM)).per_token
    mlp, head = 2 * config.width * config.mlp_width, config.width * config.vocabulary
    blocks = config.layers * (4 * config.width**2 + mlp)
    assert found == {"visual": found["visual"], "sequence": 4 * (blocks - mlp), "target": 4 * (mlp + head)}


def test_a_question_that_the_q_former_reads(tmp_path):
    """By hand: attention's four products in every block, the feed-forward in all but the last, and what queries and
    question attend to of each other; three times, since what trains has two backward products for each."""
    size, n, u = replace(tiny.MODEL.qformer, dropout=0.0), 3, 7
    d, q = size.width, size.queries
    forward = size.layers * (4 * 2 * d * d + 2 * 4 * q * d) + (size.layers - 1) * 2 * 2 * d * size.mlp_width
    plain, reading = cost(tmp_path, T5), cost(tmp_path, T5, reads_question=True)
    assert reading.per_token == {**plain.per_token, "question": 3 * forward}
    assert reading.of(0, {"question": 5}) == 15 * forward

    qformer = QFormer(size, tiny.MODEL.vision.width, 50, writes=False).eval()
    image = torch.randn(n, image_tokens(tiny.MODEL.vision), tiny.MODEL.vision.width)
    ids = torch.randint(5, 50, (n, u))
    counts = []
    for read in (qformer.queries, lambda keys: qformer.joint(keys, ids, ids > 0)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            read(qformer.image_keys(image))
        counts.append(counter.get_total_flops())
    within = size.layers * n * 4 * u * u * d
    assert counts[1] - counts[0] == n * u * forward + within
    projection = 3 * 2 * q * d * D
    assert n * (vision_flops(tiny.MODEL.vision) + projection) + 3 * counts[0] == pytest.approx(
        n * plain.of(0, {"visual": q})
    )
