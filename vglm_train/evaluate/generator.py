"""A stage-two model with its prompt template: it generates captions and answers, and computes the loss of captions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vglm_train.batch import IGNORED
from vglm_train.config.language import Decoding, Questions
from vglm_train.model.language.base import target_rows
from vglm_train.model.visual_language import VisualLanguageModel
from vglm_train.prompt.dialogue import Dialogue
from vglm_train.prompt.template import Encoded, Template


def as_many(pixels: Tensor, count: int) -> Tensor:
    """Images [k,...], repeated or cut to `count`."""
    return pixels if len(pixels) == count else pixels[torch.arange(count) % len(pixels)]


class Generator:
    """Runs a stage-two model over a batch of images, without gradient, with the prompts of training."""

    def __init__(
        self,
        model: VisualLanguageModel,
        template: Template,
        questions: Questions,
        device: torch.device,
        autocast: bool = False,
    ) -> None:
        """autocast: compute in bf16 what is stored in fp32, as training does with engine.precision bf16."""
        self.model, self.template, self.questions, self.device = model, template, questions, device
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=autocast)

    def prompt(self, language: str) -> Encoded:
        """The prompt of a caption. UserError if it is longer than prompt.max_prompt."""
        return self.template.encode_prompt(self.dialogue(language, None))

    def captions(self, pictures: Sequence[Tensor], language: str, decoding: Decoding) -> list[str]:
        """b times uint8 [k,3,h,w], the pictures of a caption -> b captions."""
        dialogues = [self.dialogue(language, None, len(each)) for each in pictures]
        return self.answers(dialogues, torch.cat(list(pictures)), decoding)

    @torch.no_grad()
    def answers(self, dialogues: Sequence[Dialogue], pixels: Tensor, decoding: Decoding) -> list[str]:
        """b dialogues without their last answer, and their n images in the same order, uint8 [n,3,h,w] -> b answers."""
        rows = [self.template.encode_prompt(dialogue) for dialogue in dialogues]
        batch = self.template.batch(rows, pixels).to(self.device)
        with self.autocast:
            ids = self.model.generate(batch, decoding, self.template.end_id)
        return [self.template.decode(row) for row in ids.tolist()]

    @torch.no_grad()
    def losses(self, pictures: Sequence[Tensor], captions: Sequence[str], language: str) -> list[float]:
        """As of `captions` -> mean cross-entropy of each caption's target tokens, in nats."""
        dialogues = [self.dialogue(language, caption, len(each)) for caption, each in zip(captions, pictures)]
        rows = [self.template.encode(dialogue) for dialogue in dialogues]
        batch = self.template.batch(rows, torch.cat(list(pictures))).to(self.device)
        with self.autocast:
            logits, targets = self.model.score(batch)
        token_losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        row_of_token = target_rows(batch.labels, IGNORED)
        sums = torch.zeros(len(rows), device=token_losses.device).index_add_(0, row_of_token, token_losses)
        return (sums / torch.bincount(row_of_token, minlength=len(rows))).tolist()

    def dialogue(self, language: str, answer: str | None, images: int | None = None) -> Dialogue:
        """The question that training asks about images that have captions only, with `answer`."""
        return Dialogue(getattr(self.questions, language), answer, language=language, images=images)
