"""The contract of a stage."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vglm_train.checkpoint.bundle.format import read_document
from vglm_train.checkpoint.bundle.stage_one import is_bundle
from vglm_train.checkpoint.vocabulary import Vocabulary
from vglm_train.config.run import Config
from vglm_train.config.validation import FieldError
from vglm_train.data.eval_captions import EvalSet
from vglm_train.data.processors import Processor
from vglm_train.data.shards.shard import Shard
from vglm_train.data.splits import validating
from vglm_train.distributed import Ranks
from vglm_train.engine.hooks import Evaluator
from vglm_train.model.flops import Cost
from vglm_train.model.visual import VisualModel
from vglm_train.objective.base import Objective


def check_best(config: Config, available: Sequence[str]) -> None:
    """FieldError if checkpoint.best is none of the metrics that the validation data gives."""
    best = config.checkpoint.best
    if best is not None and best not in available:
        reason = f"{best!r} is nothing that the validation data gives; it gives {', '.join(available)}"
        raise FieldError("checkpoint.best", "evaluate.task", reason=reason)


class HeldOut(Protocol):
    """The data of an evaluation during training."""

    @property
    def shards(self) -> Sequence[Shard]: ...

    def items(self, workers: int = 0) -> Iterator[Any]:
        """The usable items, in order; `workers` processes decode."""


class Stage:
    """Parts of a run that depend on what is trained.

    `weights` are the losses' weights. Tokenizers are read when they are first needed, so that a configuration can be
    described on a machine that does not have them.
    """

    config: Config
    weights: Mapping[str, float]

    @property
    def processor(self) -> Processor:
        """Turns records into rows of a batch. UserError where a tokenizer is missing or does not fit."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        """Number of tokens that a loss predicts from."""
        raise NotImplementedError

    def vocabularies(self) -> dict[str, Vocabulary]:
        """Configuration key -> the words whose ids the run learns. UserError as `processor`."""
        raise NotImplementedError

    def absent_tokenizers(self) -> dict[str, str]:
        """For --check: configuration key -> which tokenizer is not on this machine. UserError if nothing can be said
        without it."""
        raise NotImplementedError

    def tokenizer_line(self) -> str:
        """For --check: the tokenizer, which is on this machine."""
        raise NotImplementedError

    def notes(self, model: Any) -> list[str]:
        """For --check: further lines about the model."""
        return []

    def model(self) -> VisualModel:
        """Random weights from torch's generator on its current default device, the meta device included."""
        raise NotImplementedError

    def load(self, model: Any) -> None:
        """Read the weights that the configuration names into `model`. UserError where they do not fit."""
        raise NotImplementedError

    def source(self) -> tuple[Path, str] | None:
        """The bundle that the run starts from, and the name of the run that wrote it; None where there is none."""
        weights = self.config.model.qformer.weights
        if not is_bundle(weights):
            return None
        return Path(str(weights)), str(read_document(Path(str(weights)))["origin"].get("run", Path(str(weights)).name))

    def tune(self, model: Any) -> list[str]:
        """Set what of `model` trains; lines about it. Called once its weights are read, or on the meta device."""
        return []

    def objective(self, model: Any, ranks: Ranks) -> Objective:
        raise NotImplementedError

    def held_out(self) -> HeldOut | None:
        """Validation pictures with all their captions; None where the run has no validation."""
        data, parts = self.config.data, validating(self.config.data)
        size, images = self.config.model.vision.image_size, self.config.evaluate.images
        if not parts:
            return None
        return EvalSet(parts, size, data.languages, images, data.cache, data.image.decoder, self.evaluated_pictures)

    @property
    def evaluated_pictures(self) -> int | None:
        """As EvalSet's `pictures`: stage one learns a sample's first alone."""
        return None

    def evaluator(self, model: Any, items: Sequence[Any], ranks: Ranks) -> Evaluator:
        raise NotImplementedError

    def save(self, folder: Path, model: Any, origin: Mapping[str, Any], read: Mapping[str, str] | None = None) -> None:
        """Write the bundle. `origin`: the run and the step it comes from; `read`: as of `save_bundle`."""
        raise NotImplementedError

    def cost(self, model: Any) -> Cost:
        """Floating point operations of a step, forward and backward. `model` is tuned."""
        raise NotImplementedError

    @property
    def encodes(self) -> bool:
        """Whether a step runs the image encoder: not where data.features stores its outputs."""
        return self.config.data.features is None

    def max_tokens(self) -> Mapping[str, int]:
        """Kind of sequence, as in `cost` -> tokens of a sample at most."""
        return {}

    def group_memory(self, model: Any, world: int) -> dict[str, float]:
        """What a rank holds of the rows that are compared with each other, in bytes, where these are more than run at
        once."""
        return {}

    def activations(self, model: Any) -> float:
        """About how many bytes backward keeps for one row."""
        raise NotImplementedError
