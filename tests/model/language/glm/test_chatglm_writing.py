"""What ChatGLM answers does not depend on a cache, on padding or on its neighbours."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_chatglm import EOP, SOP, prompts

from vglm_train.batch import IGNORED
from vglm_train.config.language import Decoding

WAYS = {
    "greedy": Decoding(max_new=8),
    "penalty": Decoding(max_new=8, repetition_penalty=1.5),
    "sample": Decoding(max_new=8, sample=True, temperature=1.5, top_p=0.95, top_k=20, seed=5),
    "beams": Decoding(max_new=8, beams=3),
}


def answer(model, batch, decoding, end_id=EOP, on_token=None):
    return model.generate(model.embed(batch.input_ids), batch, decoding, end_id, on_token)


def uncached(model, batch, steps) -> list[list[int]]:
    """Row by row, the whole sequence read again for each id."""
    answers = []
    for row in range(len(batch.input_ids)):
        ids = batch.input_ids[row : row + 1][batch.attention_mask[row : row + 1]][None]
        start = ids.shape[1]
        for _ in range(steps):
            longer = F.pad(ids, (0, 1))
            labels = torch.full_like(longer, IGNORED)
            labels[0, -1] = 0
            whole = torch.ones_like(longer, dtype=torch.bool)
            one = replace(batch, input_ids=longer, attention_mask=whole, visual_mask=~whole, labels=labels)
            logits, _ = model.score(model.embed(longer), one)
            ids = torch.cat((ids, logits.argmax(-1)[None]), 1)
        answers.append(ids[0, start:].tolist())
    return answers


def test_cached_is_uncached(model):
    batch = prompts([5, 9, 2], [0, 0, 0], width=14)
    answers = answer(model, batch, WAYS["greedy"], end_id=-1).tolist()
    assert answers == uncached(model, batch, 8)
    assert len({tuple(row) for row in answers}) == 3, "prompts that all get one answer show nothing"


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_is_what_it_would_be_alone(model, way):
    together = answer(model, prompts([5, 9, 2, 7], [0] * 4, width=15), WAYS[way])
    for row, context in enumerate([5, 9, 2, 7]):
        alone = answer(model, prompts([context], [0]), WAYS[way])[0]
        assert together[row, : len(alone)].tolist() == alone.tolist()
        assert (together[row, len(alone) :] == model.pad_id).all()


def test_an_answer_ends_with_its_end_and_padding(model):
    batch = prompts([5, 9], [0, 0])
    free = answer(model, batch, WAYS["greedy"], end_id=-1)
    end = int(free[0, 2])
    cut = answer(model, batch, WAYS["greedy"], end_id=end)
    stop = free[0].tolist().index(end)
    assert cut[0].tolist()[: stop + 1] == free[0].tolist()[: stop + 1]
    assert (cut[0, stop + 1 :] == model.pad_id).all()


def test_ids_come_as_they_are_written(model):
    heard = []
    batch = prompts([5, 9], [0, 0])
    answers = answer(model, batch, WAYS["greedy"], on_token=heard.append)
    assert torch.equal(torch.stack(heard, 1), answers)
    with pytest.raises(ValueError, match="beam search cannot stream"):
        answer(model, batch, WAYS["beams"], on_token=heard.append)


def test_positions_go_on_where_the_prompt_ended(model):
    """Teacher forcing: logits of a cached answer are those of one pass over all of it."""
    batch = prompts([6], [5])
    logits, _ = model.score(model.embed(batch.input_ids), batch)
    assert int(batch.input_ids[0, 7]) == SOP
    start = prompts([6], [0])
    assert torch.equal(start.input_ids[0], batch.input_ids[0, :8])
    decoder = model.decoder(model.embed(start.input_ids), start, 5)
    written = [decoder.start(), *(decoder.step(batch.input_ids[:, place]) for place in range(8, 12))]
    torch.testing.assert_close(torch.cat(written), logits[1:], rtol=1e-4, atol=1e-4)
