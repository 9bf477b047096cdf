"""What ITG is given, and what it is scored on."""

import torch
import torch.nn.functional as F

from vglm_train.objective.captioning import caption_inputs, captioning_loss, target_mask

CLS, SEP, EN, DEC = 2, 3, 8, 9
IDS = torch.tensor([[CLS, EN, 5, 6, SEP], [CLS, EN, 7, SEP, 0], [0, 0, 0, 0, 0]])
MASK = IDS != 0
VALID = torch.tensor([True, True, False])


def test_dec_takes_the_first_place_of_a_copy():
    ids = IDS.clone()
    assert caption_inputs(ids, DEC).tolist() == [[DEC, EN, 5, 6, SEP], [DEC, EN, 7, SEP, 0], [DEC, 0, 0, 0, 0]]
    assert torch.equal(ids, IDS)


def test_targets_without_language_token():
    assert target_mask(IDS, MASK, VALID, ()).int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_a_language_token_is_given_and_never_a_target():
    assert target_mask(IDS, MASK, VALID, (EN, 4)).int().tolist() == [[0, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_sum_is_torchs_smoothed_cross_entropy_of_the_shifted_targets():
    logits = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    chosen = target_mask(IDS, MASK, VALID, (EN,))
    places = [(0, 1, 5), (0, 2, 6), (0, 3, SEP), (1, 1, 7), (1, 2, SEP)]  # row, place that predicts, target
    expected = sum(
        F.cross_entropy(logits[row, place], torch.tensor(target), label_smoothing=0.1) for row, place, target in places
    )
    found = captioning_loss(logits, IDS, chosen, 0.1)
    assert torch.isclose(found, expected)
    found.backward()
    used = logits.grad.abs().sum(2) > 0
    assert used.nonzero().tolist() == [[row, place] for row, place, _ in places]


def test_nothing_to_score_is_zero_not_nan():
    logits = torch.randn(3, 5, 10, requires_grad=True)
    loss = captioning_loss(logits, IDS, torch.zeros(3, 4, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
