"""ITC as a pure function of embeddings."""

import torch
import torch.nn.functional as F

from vglm_train.objective.contrastive import contrastive_loss, count_correct, similarities, soft_targets

ALL = torch.ones(5, dtype=torch.bool)
UNIQUE = torch.eye(5, dtype=torch.bool)


def logits(rows: int = 5, columns: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_similarity_is_the_best_query():
    image, text = torch.randn(2, 3, 4), torch.randn(2, 4)
    images, texts = torch.randn(6, 3, 4), torch.randn(6, 4)
    image_to_text, text_to_image = similarities(image, text, images, texts)
    assert image_to_text.shape == text_to_image.shape == (2, 6)
    for row in range(2):
        for column in range(6):
            best = max(float(query @ texts[column]) for query in image[row])
            assert torch.isclose(image_to_text[row, column], torch.tensor(best), atol=1e-6)
            best = max(float(query @ text[row]) for query in images[column])
            assert torch.isclose(text_to_image[row, column], torch.tensor(best), atol=1e-6)


def test_unique_images_give_torchs_label_smoothing():
    x = logits()
    expected = F.cross_entropy(x, torch.arange(5), label_smoothing=0.1, reduction="sum")
    assert torch.isclose(contrastive_loss(x, UNIQUE, ALL, ALL, 0.1), expected)


def test_soft_targets_share_what_smoothing_leaves():
    positives = torch.tensor([[True, True, False, False], [False, False, True, False]])
    columns = torch.tensor([True, True, True, False])
    third = 0.1 / 3
    expected = [[0.45 + third, 0.45 + third, third, 0], [third, third, 0.9 + third, 0]]
    assert torch.allclose(soft_targets(positives, columns, 0.1), torch.tensor(expected))


def test_rows_and_columns_left_out_are_as_if_absent():
    x = logits()
    kept = torch.tensor([True, True, False, True, True])
    small = contrastive_loss(x[kept][:, kept], UNIQUE[kept][:, kept], ALL[:4], ALL[:4], 0.1)
    assert torch.isclose(contrastive_loss(x, UNIQUE, kept, kept, 0.1), small)
    assert count_correct(x, UNIQUE, kept, kept) == count_correct(
        x[kept][:, kept], UNIQUE[kept][:, kept], ALL[:4], ALL[:4]
    )


def test_gradient_of_what_is_left_out_is_zero_and_nothing_is_nan():
    x = logits().requires_grad_()
    none = torch.zeros(5, dtype=torch.bool)
    contrastive_loss(x, UNIQUE, torch.tensor([True, True, False, True, True]), ALL, 0.1).backward()
    assert not x.grad[:, 2].any()
    x.grad = None
    contrastive_loss(x, UNIQUE, none, none, 0.1).backward()  # a batch that is damaged from end to end
    assert torch.equal(x.grad, torch.zeros(5, 5))


def test_correct_counts_any_positive():
    x = torch.tensor([[1.0, 5.0, 0.0], [0.0, 5.0, 4.0], [3.0, 0.0, 1.0]])
    positives = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    everything = torch.ones(3, dtype=torch.bool)
    assert count_correct(x, positives, everything, everything) == 2
    assert count_correct(x, positives, everything, torch.tensor([True, False, True])) == 1
