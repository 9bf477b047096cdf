"""Decoding over slots gives what decoding through SAT's modules gives, whoever joins and leaves."""

import random

import pytest
import torch
from small_chatglm import EOP, chatglm, prompts

from vglm_train.config.language import Decoding
from vglm_train.model.language.glm import slot_decoder
from vglm_train.model.language.glm.chatglm import ChatGlm
from vglm_train.model.language.glm.slot_decoder import SlotDecoder


@pytest.fixture(params=["cpu", "cuda"])
def model(request: pytest.FixtureRequest) -> ChatGlm:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    made: ChatGlm = chatglm().to(request.param)
    made.uses_slots = True
    return made


def decoders(model: ChatGlm, contexts: list[int], seed: int) -> tuple:
    """Of the same prompts: over slots, and through SAT's modules."""
    batch = prompts(contexts, [0] * len(contexts), seed=seed).to(next(model.parameters()).device)
    embeds = model.embed(batch.input_ids)
    found = []
    for uses_slots in (True, False):
        decoder = model.decoder(embeds, batch, 8)
        found.append(decoder if uses_slots or not isinstance(decoder, SlotDecoder) else decoder.eager)
        model.uses_slots = not uses_slots
    model.uses_slots = True
    assert isinstance(found[0], SlotDecoder)
    return tuple(found)


@pytest.mark.parametrize("seed", range(6))
@torch.no_grad()
def test_logits_are_those_of_the_modules(model: ChatGlm, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Random prompts join, random rows leave, and memory is small enough to be moved often."""
    monkeypatch.setattr(slot_decoder, "COLUMNS", 16)
    chance = random.Random(seed)
    slots, plain = decoders(model, [5, 9], seed)
    logits = slots.start(), plain.start()
    for number in range(60):
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)  # sums in fp32 come in another order
        ids = logits[1].argmax(-1)
        logits = slots.step(ids), plain.step(ids)
        rows = len(ids)
        if number % 3 == 1 and rows < 9:
            more, plain_more = decoders(model, [chance.randint(1, 30) for _ in range(chance.randint(1, 3))], number)
            new, plain_new = more.start(), plain_more.start()
            slots.join(more)
            plain.join(plain_more)
            logits = torch.cat((logits[0], new)), torch.cat((logits[1], plain_new))
        elif number % 3 == 2 and rows > 1:
            kept = torch.tensor(sorted(chance.sample(range(rows), chance.randint(1, rows - 1))))
            kept = kept.to(ids.device)
            slots.select(kept)
            plain.select(kept)
            logits = logits[0][kept], logits[1][kept]


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_the_same(model: ChatGlm, beams: int) -> None:
    batch = prompts([3, 12, 7], [0, 0, 0]).to(next(model.parameters()).device)
    decoding = Decoding(max_new=20, beams=beams)
    found = []
    for uses_slots in (True, False):
        model.uses_slots = uses_slots
        found.append(model.generate(model.embed(batch.input_ids), batch, decoding, EOP).tolist())
    assert found[0] == found[1]


def test_slots_are_used_again_and_not_with_other_weights(model: ChatGlm) -> None:
    batch = prompts([3, 12], [0, 0]).to(next(model.parameters()).device)
    embeds, decoding = model.embed(batch.input_ids), Decoding(max_new=4)
    first = model.generate(embeds, batch, decoding, EOP)
    (kept,) = model.slots._free
    assert torch.equal(model.generate(embeds, batch, decoding, EOP), first)
    assert model.slots._free == [kept]
    layer = model.network.transformer.layers[0].attention.dense
    layer.weight = torch.nn.Parameter(layer.weight * -3, requires_grad=False)
    changed = model.generate(embeds, batch, decoding, EOP)
    model.uses_slots = False
    assert model.slots._free != [kept]
    assert changed.tolist() == model.generate(embeds, batch, decoding, EOP).tolist()
