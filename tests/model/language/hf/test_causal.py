"""Decoder-only models of transformers behind the contract, against transformers itself."""

from dataclasses import replace

import pytest
import torch
import transformers
from precision import like
from torch import Tensor

from vglm_train.batch import IGNORED, PromptBatch
from vglm_train.config.language import Decoding, Language
from vglm_train.errors import UserError
from vglm_train.model.language.base import left_padded
from vglm_train.model.language.hf.causal import CausalLanguage

END = 2
SHAPE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "max_position_embeddings": 64}  # fmt: skip
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
SMALL = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
IDS = {"pad_token_id": 0, "eos_token_id": END, "bos_token_id": 1}
FAMILIES = {
    "opt": transformers.OPTConfig(**{k: v for k, v in SHAPE.items() if k != "intermediate_size"}, ffn_dim=48),
    "opt-350m": transformers.OPTConfig(
        **{k: v for k, v in SHAPE.items() if k != "intermediate_size"},
        ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False,
    ),
    "llama": transformers.LlamaConfig(**GROUPED),
    "qwen2": transformers.Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**GROUPED),
    "glm4": transformers.Glm4Config(**GROUPED, **IDS),
    "gpt2": transformers.GPT2Config(**SMALL, **IDS),
    "bloom": transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "gemma2": transformers.Gemma2Config(**GROUPED, final_logit_softcapping=0.1),
    "cohere": transformers.CohereConfig(**SHAPE, **IDS, num_key_value_heads=2, logit_scale=0.07),
    "gptj": transformers.GPTJConfig(**SMALL, **IDS, rotary_dim=4),
    "gemma3": transformers.Gemma3TextConfig(**GROUPED),
    "granite": transformers.GraniteConfig(**SHAPE, num_key_value_heads=2, logits_scaling=7.0, embedding_multiplier=3.0),
}  # fmt: skip
ROTARY = ["llama", "qwen2", "qwen3", "glm4", "gemma2"]


def language(tmp_path, family: str, dtype: str = "fp32") -> CausalLanguage:
    FAMILIES[family].save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = CausalLanguage(Language(family="causal", config=str(tmp_path / "config.json"), tokenizer="t", dtype=dtype))
    for parameter in model.parameters():  # far enough from zero that ties are rare
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)
    return model


def batch(lengths=(9, 5, 7), prompt: int = 3) -> PromptBatch:
    ids = torch.randint(3, 64, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    labels = ids.masked_fill(~mask, IGNORED)
    labels[:, :prompt] = IGNORED
    return PromptBatch(
        pixels=torch.zeros(len(lengths), 3, 2, 2), valid=torch.ones(len(lengths), dtype=torch.bool),
        input_ids=ids, attention_mask=mask, visual_mask=torch.zeros_like(mask), labels=labels,
    )  # fmt: skip


def row_of(whole: PromptBatch, row: int) -> PromptBatch:
    """That row alone, without padding."""
    length = int(whole.attention_mask[row].sum())
    names = ("input_ids", "attention_mask", "visual_mask", "labels")
    cut = {name: getattr(whole, name)[row : row + 1, :length] for name in names}
    return replace(whole, **cut, pixels=whole.pixels[:1], valid=whole.valid[:1])


def expected_logits(model: CausalLanguage, embeds: Tensor, whole: PromptBatch) -> Tensor:
    """Each row alone through transformers, the head on every place."""
    rows = []
    for row, labels in enumerate(whole.labels):
        places = (labels != IGNORED).nonzero()[:, 0]
        length = int(whole.attention_mask[row].sum())
        rows.append(model.model(inputs_embeds=embeds[row : row + 1, :length]).logits[0, places - 1])
    return torch.cat(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(tmp_path, family):
    model, whole = language(tmp_path, family), batch()
    embeds = model.embed(whole.input_ids).requires_grad_()
    logits, targets = model.score(embeds, whole)
    assert targets.tolist() == [i for row in whole.labels.tolist() for i in row if i != IGNORED]
    expected = expected_logits(model, embeds, whole)
    torch.testing.assert_close(logits, expected, **like(expected, 2048))  # Gemma caps logits of several at 0.1
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((logits * noise).sum(), embeds)
    (wanted,) = torch.autograd.grad((expected * noise).sum(), embeds)
    torch.testing.assert_close(found, wanted, **like(wanted))
    model.recompute(True)
    (again,) = torch.autograd.grad((model.score(embeds, whole)[0] * noise).sum(), embeds)
    assert torch.equal(again, found)
    read = torch.arange(9) < whole.attention_mask.sum(1)[:, None] - 1  # the last place foretells nothing
    assert (found != 0).any(-1).equal(read)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2", "bloom", "glm4"])
@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new=6),
        Decoding(max_new=6, beams=3, length_penalty=-1.0),
        Decoding(max_new=6, sample=True, temperature=1.3, top_p=0.9, top_k=20, seed=5),
        Decoding(max_new=6, repetition_penalty=3.0),
        Decoding(max_new=5, beams=2, repetition_penalty=2.0),
    ],
    ids=["greedy", "beam", "sample", "penalty", "beam-penalty"],
)
def test_an_answer_is_what_it_is_alone(tmp_path, family, decoding):
    model, whole = language(tmp_path, family), batch()
    embeds = model.embed(whole.input_ids)
    state = torch.get_rng_state()
    answers = model.generate(embeds, whole, decoding, END)
    assert torch.equal(torch.get_rng_state(), state)
    for row, answer in enumerate(answers):
        one = row_of(whole, row)
        (alone,) = model.generate(embeds[row : row + 1, : one.labels.shape[1]], one, decoding, END)
        assert answer[: len(alone)].tolist() == alone.tolist()
        assert (answer[len(alone) :] == model.pad_id).all()


def test_greedy_is_the_argmax_of_score(tmp_path):
    model, one = language(tmp_path, "llama"), row_of(batch(), 0)
    ids, answer = one.input_ids, []
    for _ in range(5):
        logits = model.model(inputs_embeds=model.embed(ids)).logits[0, -1]
        answer.append(int(logits.argmax()))
        ids = torch.cat((ids, torch.tensor([[answer[-1]]])), 1)
    for on in (False, True):
        model.recompute(on)
        assert model.generate(model.embed(one.input_ids), one, Decoding(max_new=5), 99)[0].tolist() == answer


def test_an_answer_ends_at_its_end_and_is_padded(tmp_path):
    model, whole = language(tmp_path, "opt"), batch()
    embeds = model.embed(whole.input_ids)
    free = model.generate(embeds, whole, Decoding(max_new=8), 99)
    end = int(free[1, 2])  # what one row says third ends it now
    bound = model.generate(embeds, whole, Decoding(max_new=8), end)
    for long, short in zip(free.tolist(), bound.tolist(), strict=True):
        stop = long.index(end) + 1 if end in long else len(long)
        assert short == (long[:stop] + [model.pad_id] * 8)[: len(short)]


@pytest.mark.parametrize("sample", [False, True])
def test_streamed_ids_are_the_answer(tmp_path, sample):
    model, whole = language(tmp_path, "opt"), batch()
    steps: list[Tensor] = []
    answer = model.generate(
        model.embed(whole.input_ids), whole, Decoding(max_new=5, sample=sample), END, on_token=steps.append
    )
    assert torch.equal(torch.stack(steps, 1), answer)
    with pytest.raises(ValueError, match="beam"):
        model.generate(model.embed(whole.input_ids), whole, Decoding(beams=2), END, on_token=steps.append)


def test_sampling_follows_its_seed_and_the_distribution(tmp_path):
    model = language(tmp_path, "gpt2")
    one = row_of(batch(), 0)
    embeds = model.embed(one.input_ids)
    drawn = [int(model.generate(embeds, one, Decoding(max_new=1, sample=True, seed=seed), 99)) for seed in range(300)]
    assert drawn[7] == int(model.generate(embeds, one, Decoding(max_new=1, sample=True, seed=7), 99))
    probability = model.model(inputs_embeds=embeds).logits[0, -1].softmax(-1)
    top = int(probability.argmax())
    share, spread = float(probability[top]), float((probability[top] * (1 - probability[top]) / 300).sqrt())
    assert abs(drawn.count(top) / 300 - share) < 4 * spread
    few = {int(model.generate(embeds, one, Decoding(max_new=1, sample=True, seed=s, top_k=2), 99)) for s in range(20)}
    assert few == set(probability.topk(2).indices.tolist())


def test_no_target_gives_no_logits_but_a_gradient(tmp_path):
    model, whole = language(tmp_path, "llama"), batch()
    empty = replace(whole, labels=torch.full_like(whole.labels, IGNORED))
    embeds = model.embed(whole.input_ids).requires_grad_()
    logits, targets = model.score(embeds, empty)
    assert logits.shape == (0, 64)
    assert targets.shape == (0,)
    logits.sum().backward()
    assert embeds.grad is not None
    assert not embeds.grad.any()


@pytest.mark.parametrize("family", ROTARY)
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_weights_are_in_the_models_dtype_but_rotary_tables_in_fp32(tmp_path, family, dtype):
    model = language(tmp_path, family, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {model.dtype}
    tables = {name: table.dtype for name, table in model.named_buffers() if "inv_freq" in name}
    assert tables
    assert set(tables.values()) == {torch.float32}


def test_a_table_is_as_exact_in_a_bf16_model(tmp_path):
    """transformers computes GPT-J's in the dtype of the weights."""
    half, full = language(tmp_path, "gptj", "bf16"), language(tmp_path, "gptj")
    name = "model.transformer.h.0.attn.embed_positions"
    assert torch.equal(half.get_buffer(name), full.get_buffer(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_built_on_meta_and_materialised_it_has_the_same_tables(tmp_path, family):
    real = language(tmp_path, family, "bf16")
    with torch.device("meta"):
        model = CausalLanguage(Language(family="causal", config=str(tmp_path), tokenizer="t"))
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    model.materialise(torch.device("cpu"))
    tables = dict(model.named_buffers())
    for name, table in real.named_buffers():
        assert tables[name].dtype == table.dtype
        assert torch.equal(tables[name], table), name
    assert len(dict(model.named_parameters())) == len(dict(real.named_parameters())), "ties hold"


def test_half_precision_never_stands_in_fp32(tmp_path):
    """What is allocated while building is the model in bf16, no more."""
    FAMILIES["llama"].save_pretrained(tmp_path)
    seen = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.is_floating_point() and out.numel() > 64:
                seen.add(out.dtype)
            return out

    with Watch():
        CausalLanguage(Language(family="causal", config=str(tmp_path), tokenizer="t"))
    assert seen == {torch.bfloat16}


def test_autocast_and_train_change_nothing(tmp_path):
    model, whole = language(tmp_path, "opt"), batch()
    embeds = model.embed(whole.input_ids)
    expected = model.score(embeds, whole)[0]
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.score(embeds, whole)[0]
    assert torch.equal(found, expected)
    assert not any(module.training for module in model.modules())


def test_small_gradients_pass_an_fp16_model(tmp_path):
    model, whole = language(tmp_path, "llama", "fp16"), batch()
    exact = language(tmp_path, "llama")
    exact.load_state_dict(model.state_dict())
    gradients = []
    for each in (model, exact):
        embeds = each.embed(whole.input_ids).requires_grad_()
        assert embeds.dtype == torch.float32
        (each.score(embeds, whole)[0].softmax(-1)[:, 5].sum() * 1e-8).backward()
        gradients.append(embeds.grad)
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[1].norm()


def test_blocks_and_widths(tmp_path):
    model = language(tmp_path, "opt-350m")
    assert [type(block).__name__ for block in model.blocks()] == ["OPTDecoderLayer"] * 2
    assert (model.embed_width, model.pad_id) == (16, 1)


def test_left_padding_moves_rows_to_the_right():
    embeds = torch.arange(1.0, 9.0).view(2, 4, 1)
    moved, index = left_padded(embeds, torch.tensor([2, 3]))
    assert index.tolist() == [[-1, 0, 1], [0, 1, 2]]
    assert moved[0, 1:, 0].tolist() == [1, 2]
    assert moved[1, :, 0].tolist() == [5, 6, 7]


def test_longer_than_its_positions(tmp_path):
    model, whole = language(tmp_path, "opt"), batch()
    with pytest.raises(UserError, match=r"69 tokens.* 64 positions"):
        model.generate(model.embed(whole.input_ids), whole, Decoding(max_new=60), END)
    long = batch((65,))
    with pytest.raises(UserError, match="65 tokens"):
        model.score(model.embed(long.input_ids), long)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["config.json", "cannot read"]),
        ("[1]", ["not a model's configuration"]),
        ('{"model_type": "chatglm", "auto_map": {"AutoModel": "m.M"}}', ["'chatglm'", "family=chatglm"]),
        ('{"model_type": "t5"}', ["t5", "seq2seq"]),
        ('{"model_type": "bart"}', ["seq2seq"]),
        ('{"model_type": "gemma3"}', ["gemma3 reads pictures"]),
        ('{"model_type": "bert"}', ["bert", "attend to later ones"]),
        ('{"model_type": "llama", "quantization_config": {"bits": 4}}', ["quantised"]),
        ('{"model_type": "opt", "num_attention_heads": 7}', ["opt"]),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(tmp_path, content, words):
    if content:
        (tmp_path / "config.json").write_text(content)
    with torch.device("meta"), pytest.raises(UserError) as error:
        CausalLanguage(Language(family="causal", config=str(tmp_path), tokenizer="none"))
    assert all(word in str(error.value) for word in [str(tmp_path), *words])
