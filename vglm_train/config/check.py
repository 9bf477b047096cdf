"""Rules across sections, each with its reason. Rules within a section stand in that section's `__post_init__`.

All raise FieldError with whole field names; within `config.load.located` it names file and line too.

Allowed on purpose: a language token with one language (such a run can continue a bilingual one), one source name in
both train and validation, a frozen encoder in fp16 beside bf16 or fp32 training (LAVIS runs it so).
"""

import difflib
from dataclasses import replace

from vglm_train.config.batch_split import BatchSplit, contrast, split
from vglm_train.config.data import Data
from vglm_train.config.metric_names import PREFIX, best_metrics
from vglm_train.config.model import Text
from vglm_train.config.run import Config, Length, StageName, Task
from vglm_train.config.tuning import Tuning
from vglm_train.config.validation import FieldError

ENGLISH_TOKENIZERS = frozenset(f"bert-{size}-{case}" for size in ("base", "large") for case in ("cased", "uncased"))
SCORED: tuple[tuple[StageName, Task], ...] = (
    ("align", "caption"), ("generate", "caption"), ("finetune", "vqa"), ("finetune", "report"),
)  # fmt: skip
"""Stages, with each task that gives metrics of its own."""


def length_window(config: Config) -> int:
    """data.length_window as it is meant. Unset: 1 where that changes no gradient, else 0.

    Within a global batch the order of rows does not matter to a mean over all of its tokens. It does to ITC and ITM,
    whose negatives are the rows that run at once, and to a mean over micro-batches.
    """
    if config.data.length_window is not None:
        return config.data.length_window
    return int(config.run.stage != "align" and config.objective.mean == "global")


def check(config: Config, world: int) -> None:
    """What needs no data: batch shares, languages, evaluation, lengths that are not in epochs. Raises FieldError."""
    if not config.data.train:
        raise FieldError("data.train", reason="is empty; give at least one source: [{name: ..., shards: FOLDER}]")
    if config.run.stage == "align":
        _check_contrastive_batch(config)
    cut = split(config, world)
    _check_mixture(config)
    _check_lengths(config)
    _check_features(config)
    _check_resize(config)
    _check_graphs(config)
    _check_frozen_blocks(config)
    _check_language_model(config)
    _check_tuning(config)
    _check_split(config)
    if config.run.stage == "align":
        _check_candidates(config, cut)
    if config.run.stage == "align" or config.model.qformer.reads_question:
        _check_languages(config.data, config.model.text)
    _check_evaluation(config)
    if config.run.length.epochs is None and config.optim.warmup.epochs is None:
        check_length(config, epoch_samples=0)


def check_length(config: Config, epoch_samples: int) -> None:
    """What needs the number of samples in an epoch: at least one step, warm-up no longer than the run."""
    length, warmup, batch = config.run.length, config.optim.warmup, config.data.global_batch
    total = length.samples_of(epoch_samples, batch)
    if total < batch:
        reason = f"{_words(length)} is {total} samples, less than one step of data.global_batch {batch}"
        raise FieldError("run.length", "data.global_batch", reason=reason)
    rising = warmup.samples_of(epoch_samples, batch)
    if rising > total:
        reason = (
            f"a warm-up of {_words(warmup)} is longer than the run of {_words(length)} "
            f"({rising} against {total} samples): the peak rate would never be reached. "
            f"Lengthen the run, or try optim.warmup={{steps: {max(1, total // batch // 10)}}}"
        )
        raise FieldError("optim.warmup", "run.length", reason=reason)


def check_vocabulary(config: Config, tokens: int) -> None:
    """What needs the tokenizer: none of its `tokens` ids lies beyond the Q-Former's word table."""
    size = config.model.qformer.vocabulary
    if size is not None and size < tokens:
        reason = (
            f"{size} words cannot hold the {tokens} tokens of model.text.tokenizer {config.model.text.tokenizer}, "
            f"added ones included; set {tokens}, or null to take what the tokenizer has"
        )
        raise FieldError("model.qformer.vocabulary", "model.text.tokenizer", reason=reason)


def _check_candidates(config: Config, cut: BatchSplit) -> None:
    """Without objective.itc.batch, ITC and ITM take their negatives from the rows that all ranks run at once."""
    objective = config.objective
    if objective.itc.batch is None and cut.together < 2 and (objective.itc.weight or objective.itm.weight):
        reason = "one row at a time has no other row to be told apart from; ITC and ITM need at least 2 in all ranks"
        field = "engine.micro_batch" if config.engine.micro_batch else "data.global_batch"
        raise FieldError(field, "objective.itc.batch", reason=reason)


def _check_contrastive_batch(config: Config) -> None:
    """Groups of objective.itc.batch rows fill the global batch."""
    rows, batch = config.objective.itc.batch, config.data.global_batch
    if rows is None:
        return
    if batch % rows:
        near = [n for n in (batch // rows * rows, (batch // rows + 1) * rows) if n]
        reason = (
            f"{rows} does not divide data.global_batch {batch}: a step holds whole groups of rows that are compared. "
            f"Give a divisor of {batch}, or data.global_batch {' or '.join(map(str, near))}"
        )
        raise FieldError("objective.itc.batch", "data.global_batch", reason=reason)
    if config.objective.mean == "micro":
        reason = "needs objective.mean=global: a group has one loss, so none of its micro-batches has a mean of its own"
        raise FieldError("objective.itc.batch", "objective.mean", reason=reason)
    if config.objective.itc.gather == "lavis":
        reason = "needs objective.itc.gather=exact: gradients pass between micro-batches, so between ranks too"
        raise FieldError("objective.itc.batch", "objective.itc.gather", reason=reason)


def _check_mixture(config: Config) -> None:
    """Rows that are compared come from one source where batches are not mixed."""
    data, compared = config.data, contrast(config)
    rows = data.mix_rows or data.global_batch
    if compared and data.mix == "batch" and rows % compared:
        reason = (
            f"{rows} rows come from one source, but objective.itc.batch compares {compared}: "
            f"give a multiple of {compared}, or another objective.itc.batch"
        )
        raise FieldError("data.mix_rows", "objective.itc.batch", reason=reason)


def _check_lengths(config: Config) -> None:
    """Like lengths do not meet where that would change what is learned."""
    if config.run.stage == "align" and length_window(config):
        reason = (
            "ITC and ITM tell each text from those that run with it, which would all be of its length; and stage align "
            "pads every text to model.text.max_length anyway. Leave it out, or set 0"
        )
        raise FieldError("data.length_window", "run.stage", reason=reason)
    if config.data.mix == "batch" and length_window(config) > 1:
        reason = "above 1 it would mix the sources that mix batch keeps apart; set 0 or 1"
        raise FieldError("data.length_window", "data.mix", reason=reason)


def _check_features(config: Config) -> None:
    """What is stored once must not change."""
    if config.data.features is not None and config.tuning.vision_blocks is not None:
        reason = "are of a frozen image encoder, but tuning.vision_blocks trains its last blocks; leave one of them out"
        raise FieldError("data.features", "tuning.vision_blocks", reason=reason)


def _check_resize(config: Config) -> None:
    """The square is cut out of what is there."""
    resize, size = config.data.image.resize, config.model.vision.image_size
    if resize is not None and resize < size:
        reason = f"{resize} is less than model.vision.image_size {size}, which is cut out of it; give that at least"
        raise FieldError("data.image.resize", "model.vision.image_size", reason=reason)


def _check_languages(data: Data, text: Text) -> None:
    if "zh" not in data.languages:
        return
    if text.processor == "blip":
        reason = (
            "blip is for English only: it cuts at spaces, so that a Chinese sentence is one word, and strips "
            "punctuation; data.languages has zh, so use plain"
        )
        raise FieldError("model.text.processor", "data.languages", reason=reason)
    if text.tokenizer in ENGLISH_TOKENIZERS:
        reason = (
            f"{text.tokenizer} is an English vocabulary: most Chinese characters would become [UNK]; data.languages "
            "has zh, so use bert-base-chinese, bert-base-multilingual-cased or an own vocab.txt"
        )
        raise FieldError("model.text.tokenizer", "data.languages", reason=reason)


def _check_graphs(config: Config) -> None:
    if config.engine.graphs and config.engine.recompute:
        reason = "cannot both be on: what a graph keeps for backward is not computed again. Leave one out"
        raise FieldError("engine.graphs", "engine.recompute", reason=reason)


def moves_blocks(config: Config, world: int) -> bool:
    """Whether the weights of frozen blocks are elsewhere until they run: a process alone has nothing to divide."""
    return config.engine.offload != "none" or (config.engine.zero == 3 and world > 1)


def _check_frozen_blocks(config: Config) -> None:
    """There is a frozen tower whose blocks run in every step."""
    engine = config.engine
    if (engine.zero == 3 or engine.offload != "none") and config.run.stage == "align" and config.data.features:
        field, value = ("engine.zero", 3) if engine.zero == 3 else ("engine.offload", engine.offload)
        reason = (
            f"{value} is for frozen towers, and with data.features no step of stage align runs one: the image encoder, "
            "which makes the features and evaluates, stays whole. Leave it out"
        )
        raise FieldError(field, "data.features", reason=reason)

    if (engine.zero == 3 or engine.offload != "none") and config.model.vision.dtype == "fp8":
        field, value = ("engine.zero", 3) if engine.zero == 3 else ("engine.offload", engine.offload)
        reason = f"{value} moves weights as they were read, and fp8 has made others of them: take bf16, or leave it out"
        raise FieldError(field, "model.vision.dtype", reason=reason)


def _check_language_model(config: Config) -> None:
    """It is given where it is used, and its positions hold the longest sequence."""
    language, stage, prompt = config.model.language, config.run.stage, config.prompt
    if stage == "align" and language is not None:
        reason = "stage align trains no language model; leave it out, or set run.stage generate"
        raise FieldError("model.language", "run.stage", reason=reason)
    if stage == "align":
        return
    if language is None:
        how = "give family, weights, tokenizer" if stage == "generate" else "name a bundle of stage two, model.bundle"
        raise FieldError("model.language", "run.stage", reason=f"stage {stage} needs one: {how}")
    places = config.model.qformer.queries * prompt.max_images
    longest = places + prompt.max_prompt + prompt.max_answer
    if language.family == "chatglm" and longest > language.positions:
        reason = (
            f"{places} places of pictures, prompt.max_prompt {prompt.max_prompt} and "
            f"prompt.max_answer {prompt.max_answer} are {longest}; the model has {language.positions} positions"
        )
        raise FieldError("prompt.max_prompt", "prompt.max_answer", "model.language.positions", reason=reason)


def _check_tuning(config: Config) -> None:
    """Sections of stage finetune are given to that stage."""
    if config.run.stage == "finetune":
        return
    for field, given, default in (
        ("tuning", config.tuning, Tuning()),
        ("evaluate.task", config.evaluate.task, "caption"),
    ):
        if given != default:
            raise FieldError(field, "run.stage", reason=f"belongs to stage finetune; this is {config.run.stage}")


def _check_split(config: Config) -> None:
    """Fine-tuning on a few hundred rows is judged by rows it has not seen; only tables can be cut."""
    data = config.data
    if config.run.stage == "finetune" and data.holdout is None and not data.validation:
        reason = (
            "nothing is kept for validation, so nobody would know whether the model learned or memorised. Write "
            "holdout: {by: group} (patient or study; or image, where no two pictures belong together), or name a "
            "table or shards of other patients as validation"
        )
        raise FieldError("data.holdout", "data.validation", reason=reason)
    if data.holdout is not None and not any(source.table for source in data.train):
        reason = "keeps rows of tables for validation, but train has shards only; give validation instead"
        raise FieldError("data.holdout", "data.train", reason=reason)


def _check_evaluation(config: Config) -> None:
    best, every = config.checkpoint.best, config.evaluate.every
    if config.evaluate.patience is not None and best is None:
        reason = "counts evaluations without a better checkpoint.best, which is null; name a score there"
        raise FieldError("evaluate.patience", "checkpoint.best", reason=reason)
    if every is not None and not (config.data.validation or config.data.holdout):
        reason = "is empty, but evaluate.every asks for scores during training; give a source, or evaluate.every null"
        raise FieldError("data.validation", "evaluate.every", reason=reason)
    if best is not None and every is None:
        reason = f"keeps the step with the best {best}, but evaluate.every is null: nothing is scored during training"
        raise FieldError("checkpoint.best", "evaluate.every", reason=reason)
    known = best_metrics(config)
    if best is not None and best not in known:
        reason = f"{best!r} is none of this run's evaluation scores; {_meant(best, known, config)}"
        reason += f"They are: {', '.join(known)}"
        raise FieldError("checkpoint.best", "data.languages", "evaluate.rerank", reason=reason)


def _meant(best: str, known: list[str], config: Config) -> str:
    """What to write in place of `best`, or which runs have it; for the middle of a message."""
    whole = PREFIX + best.removeprefix(PREFIX)
    if whole in known:
        return f"its whole name is {whole}. "
    for stage, task in SCORED:
        other = replace(config, run=replace(config.run, stage=stage), evaluate=replace(config.evaluate, task=task))
        if whole in best_metrics(other):
            asks = f" with evaluate.task {task}" if stage == "finetune" else ""
            return f"runs of stage {stage}{asks} have it. "
    near = difflib.get_close_matches(whole, known, 1, 0.8)
    return f"did you mean {near[0]}? " if near else "name one of these. "


def _words(length: Length) -> str:
    if length.epochs is not None:
        return f"{length.epochs:g} epochs"
    return f"{length.steps} steps" if length.steps is not None else f"{length.samples} samples"
