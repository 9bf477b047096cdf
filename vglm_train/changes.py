"""What has changed under a run since its last start: refused, accepted or told, by training and --check alike."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vglm_train.checkpoint.inputs import (
    ACCEPT,
    Inputs,
    check_inputs,
    check_shards,
    data_changed,
    differences,
    gather_inputs,
    held_out_state,
    judged_by,
    named_files,
)
from vglm_train.checkpoint.run_folder import RunFolder
from vglm_train.checkpoint.vocabulary import Vocabulary, check_words
from vglm_train.config.run import Config
from vglm_train.data.shards.manifest import Manifest, Shard
from vglm_train.distributed import Ranks
from vglm_train.engine.progress import RunState
from vglm_train.log.run_info import RunInfo
from vglm_train.stages import Stage


class Changes:
    """`lines` say what is another than at the last start, for a person; a new run has none.

    `state`, of the checkpoint or new, is brought up to date: what this start depends on, where its data begins, whether
    its best value still counts.
    """

    def __init__(
        self, config: Config, folder: RunFolder, checkpoint: Path | None, state: RunState, accept: bool
    ) -> None:
        self.config, self.folder, self.checkpoint = config, folder, checkpoint
        self.state, self.accept = state, accept
        self.before = Inputs.from_dict(state.inputs)
        self.lines: list[str] = []

    def compare_inputs(
        self, stage: Stage, manifests: Sequence[Manifest], ranks: Ranks, absent: Collection[str] = ()
    ) -> None:
        """Vocabularies, data, weights, versions. Data that has changed is read from its beginning.

        `absent`: configuration keys of what is not on this machine, which --check leaves out. UserError where a change
        is neither harmless nor accepted.
        """
        now = gather_inputs(self.config, manifests, lambda: _vocabularies(stage, absent), ranks, absent)
        self.state.inputs = now.to_dict()
        if self.checkpoint is None:
            return
        name = self.checkpoint.name
        if self.before is None:
            self.lines.append(f"{name} does not say what it was trained on, so data and weights are not compared")
            return
        before = self.before.without(absent)
        with ranks.together():
            if ranks.local == 0:
                words = _vocabularies(stage, absent)
                self.lines += check_words(self.folder.path, name, before.words, words, ACCEPT)
        self.lines += check_inputs(self.checkpoint, before, now, self.accept, self._paths())
        with ranks.together():
            if ranks.local == 0:  # shards may be read again: once a machine
                self.lines += check_shards(manifests, before, now)
        if data_changed(before, now):
            self.state.begin_stream()
            self.lines.append(
                f"the data is read from its beginning again, in a new order, from step {self.state.step} on"
            )

    def _paths(self) -> dict[str, str]:
        model, language = self.config.model, self.config.model.language
        paths = {key: str(path) for key, path in named_files(self.config).items()}
        paths["model.text.tokenizer"] = model.text.tokenizer
        if language is not None:
            paths["model.language.tokenizer"] = str(language.tokenizer or language.weights)
        return paths

    def compare_settings(self) -> None:
        """What a run may change half-way. Before the run folder is claimed."""
        if self.checkpoint is not None:
            self.lines += self.folder.changed_settings(self.config)

    def compare_validation(self, shards: Sequence[Shard]) -> None:
        """What scores are measured on, and whether the best value so far can be compared with later ones."""
        now = self.state.inputs["told"]["data.validation"] = held_out_state(shards)
        before = None if self.before is None else self.before.told.get("data.validation")
        if self.checkpoint is not None and before not in (None, now):
            self.lines.append(f"data.validation: {before} before, {now} now: later scores are of other data")
        best, state = self.config.checkpoint.best, self.state
        judged, earlier = judged_by(self.config, shards) if best else None, state.best_of
        step, value = state.best_step, state.best_value
        if state.judge_by(judged):
            pairs = differences(earlier or {"checkpoint.best": "another"}, judged or {"checkpoint.best": "null"})
            reasons = [each for each in pairs if earlier and (judged or each[0] == "checkpoint.best")] or pairs[:1]
            self.lines.append(
                f"the best step so far, {step} with {value}, was judged otherwise ("
                + "; ".join(f"{name}: {old} before, {new} now" for name, old, new in reasons)
                + "). It counts no longer; the best is chosen from now on by " + (best or "nothing")
            )  # fmt: skip

    def compare_candidates(self, candidates: int) -> None:
        """A line where the number of texts that ITC compares an image with has changed: its losses shift then."""
        before = RunInfo.read(self.folder.path) if self.checkpoint is not None else None
        if before is not None and before.weights.get("itc") and before.candidates != candidates:
            self.lines.append(
                f"candidates: ITC has compared each image with {before.candidates} texts so far and will with "
                f"{candidates}: its loss, and ITM's, will shift. Set objective.itc.batch={before.candidates}, or "
                "choose engine.micro_batch so that processes x micro_batch stays the same, to avoid it"
            )


def _vocabularies(stage: Stage, absent: Collection[str]) -> Mapping[str, Vocabulary]:
    return {} if any(key.endswith(".tokenizer") for key in absent) else stage.vocabularies()
