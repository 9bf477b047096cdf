"""The loop against transformers' `generate`, on small GPT-2 and OPT models driven through the same interface."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vglm_train.config.language import Decoding
from vglm_train.model.language.decoding import generate, penalise_repetition, sample

VOCABULARY, END, PAD, NEW = 23, 7, 1, 9


def gpt2():
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False
    )
    return GPT2LMHeadModel(config)


def opt():
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        tie_word_embeddings=False,  # tied and untrained, each id foretells itself
    )
    return OPTForCausalLM(config)


def build(family, seed):
    torch.manual_seed(seed)
    model = family().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model


class Reread:
    """The interface without a cache: every row's prompt is read again with what was written."""

    def __init__(self, model, prompts):
        self.model, self.rows = model, prompts

    def start(self):
        return self.model(inputs_embeds=self.rows).logits[:, -1]

    def step(self, ids):
        self.rows = torch.cat((self.rows, self.model.get_input_embeddings()(ids)[:, None]), 1)
        return self.start()

    def select(self, rows):
        self.rows = self.rows[rows]


def both(model, prompts, **settings):
    """Our ids and transformers', from embeddings, so that both know new ids only."""
    decoding = Decoding(max_new=NEW, **settings)
    embeds = model.get_input_embeddings()(prompts)
    options = {
        "num_beams": decoding.beams,
        "length_penalty": decoding.length_penalty,
        "repetition_penalty": decoding.repetition_penalty,
        "min_new_tokens": decoding.min_new,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "do_sample": False,
    }
    with torch.no_grad():
        mine = generate(Reread(model, embeds), decoding, END, PAD)
        mask = torch.ones_like(prompts)
        theirs = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=NEW, **options)
    return mine, theirs


@pytest.mark.parametrize("family", [gpt2, opt])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.7},
        {"beams": 2},
        {"beams": 5},
        {"beams": 4, "length_penalty": -1.0},
        {"beams": 4, "length_penalty": 0.0},
        {"beams": 4, "length_penalty": 2.5},
        {"beams": 3, "repetition_penalty": 1.3},
        {"min_new": 4},
        {"beams": 3, "min_new": 4, "length_penalty": -1.0},
    ],
    ids=str,
)
def test_ids_are_transformers(family, settings):
    ends = 0
    for seed in range(6):
        model = build(family, seed)
        prompts = torch.randint(8, VOCABULARY, (5, 4), generator=torch.Generator().manual_seed(seed))
        mine, theirs = both(model, prompts, **settings)
        assert mine.tolist() == theirs.tolist()
        ends += int((mine == END).any(1).sum())
    assert 0 < ends < 30, "answers that end, and answers that are cut"


def test_beams_are_independent_of_the_batch():
    model = build(gpt2, 3)
    prompts = torch.randint(8, VOCABULARY, (5, 4), generator=torch.Generator().manual_seed(3))
    together, _ = both(model, prompts, beams=4)
    for row in range(5):
        alone, _ = both(model, prompts[row : row + 1], beams=4)
        assert together[row, : alone.shape[1]].tolist() == alone[0].tolist()


def test_penalty_is_transformers():
    scores, written = torch.randn(4, VOCABULARY), torch.randint(0, VOCABULARY, (4, 6))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(written, scores)
    assert torch.equal(penalise_repetition(scores, written, 1.3), expected)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.6), (8, 0.7), (1, 1.0), (0, 0.01)])
def test_sampling_draws_from_transformers_distribution(top_k, top_p):
    """Evenly spaced draws in place of random ones: shares are probabilities up to their spacing."""
    logits = 2 * torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0))
    warped = logits / 0.8
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    decoding = Decoding(sample=True, temperature=0.8, top_k=top_k, top_p=top_p)
    draws = 2000
    counts = torch.zeros(3, VOCABULARY)
    for number in range(draws):
        counts[torch.arange(3), sample(logits, decoding, (number + 0.5) / draws)] += 1
    torch.testing.assert_close(counts / draws, warped.softmax(-1), rtol=0, atol=1.5 / draws)


@pytest.mark.parametrize("top_k", [0, 1, 7, 30, 199, 200, 1000])
@pytest.mark.parametrize("levels", [3, 40, 10**6], ids=["ties", "some", "none"])
def test_the_likeliest_are_those_of_a_whole_stable_sort(top_k, levels):
    """Also where many ids are equally likely, or not likely at all."""
    torch.manual_seed(0)
    logits = (torch.rand(5, 200) * levels).floor() * (200 / levels)
    for draw in torch.rand(20, dtype=torch.float64).tolist():
        for top_p in (0.7, 1.0):
            decoding = Decoding(sample=True, top_k=top_k, top_p=top_p, temperature=0.95)
            probability, order = (logits / 0.95).softmax(-1).double().sort(stable=True, descending=True)
            if top_k:
                probability, order = probability[:, :top_k], order[:, :top_k]
                probability = probability / probability.sum(-1, keepdim=True)
            kept = probability * (probability.cumsum(-1) - probability < top_p)
            sums = kept.cumsum(-1)
            index = (sums <= draw * sums[:, -1:]).sum(-1).clamp(max=order.shape[1] - 1)
            assert torch.equal(sample(logits, decoding, draw), order.gather(1, index[:, None])[:, 0])


def test_same_seed_same_answer_another_seed_another():
    model = build(gpt2, 0)
    prompts = torch.randint(8, VOCABULARY, (4, 4), generator=torch.Generator().manual_seed(0))
    embeds = model.get_input_embeddings()(prompts)

    def answers(seed):
        with torch.no_grad():
            decoding = Decoding(max_new=NEW, sample=True, temperature=3.0, seed=seed)
            return generate(Reread(model, embeds), decoding, END, PAD).tolist()

    state = torch.get_rng_state()
    assert answers(1) == answers(1)
    assert answers(1) != answers(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_end_at_once_stops_the_loop():
    class Always:
        steps = 0

        def start(self):
            logits = torch.zeros(2, VOCABULARY)
            logits[:, END] = 9
            return logits

        def step(self, ids):
            raise AssertionError("all answers have ended")

        def select(self, rows):
            pass

    assert generate(Always(), Decoding(max_new=5), END, PAD).tolist() == [[END], [END]]
