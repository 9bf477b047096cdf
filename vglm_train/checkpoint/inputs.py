"""What a run's result depends on beside its configuration: training data, weights, tokenizers, versions of the code.

A checkpoint holds these inputs. A start that continues from it compares them and refuses what has changed, since the
order of the samples, and so what an epoch has read, is a function of them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from vglm_train.checkpoint.bundle.stage_one import is_bundle
from vglm_train.checkpoint.vocabulary import Vocabulary
from vglm_train.config.data import Source
from vglm_train.config.load import show
from vglm_train.config.metric_names import MEANING
from vglm_train.config.run import Config
from vglm_train.data.features.identity import VERSIONS
from vglm_train.data.shards.manifest import Manifest
from vglm_train.data.shards.shard import Shard
from vglm_train.data.tables.picture_state import picture_state
from vglm_train.data.tables.table import TableSlice
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.files import file_states
from vglm_train.fingerprint import bundle_fingerprint, content_hashes, fingerprint, tokenizer_fingerprint
from vglm_train.prompt.qformer_text import find_tokenizer

STREAM = 2  # raised when another sample would be at a position of the stream, or something else be drawn of it
COMPARED = 8 << 30  # bytes of shards whose times have changed that are read again
LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy")

PICTURES = ", pictures"  # follows the name of a table's source
ACCEPT = "--accept-changes"


@dataclass(frozen=True, slots=True)
class Inputs:
    """`held` must be equal from start to start; `words` are digests of vocabularies (see `checkpoint.vocabulary`);
    `times` of local shards may change, and `told` (versions of libraries, held-out data) as well, which is then said.

    All have the name of a source or configuration key -> what a person and a program compare it by.
    """

    held: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    times: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, str]]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None) -> Self | None:
        """Inverse of `to_dict`; None for a checkpoint of before there were inputs."""
        return cls(**values) if values else None

    def without(self, names: Collection[str]) -> Self:
        """Less what is under these names, and the pictures of tables among them."""

        def kept(values: Mapping[str, str]) -> dict[str, str]:
            return {name: value for name, value in values.items() if name.removesuffix(PICTURES) not in names}

        return replace(self, held=kept(self.held), words=kept(self.words))


def gather_inputs(
    config: Config,
    manifests: Sequence[Manifest],
    vocabularies: Callable[[], Mapping[str, Vocabulary]],
    ranks: Ranks,
    absent: Collection[str] = (),
) -> Inputs:
    """The inputs of this start, the same on every rank. The first process of each machine reads the files, but for
    those of the configuration keys in `absent`.

    UserError on all ranks where two machines do not have the same.
    """
    mine = None
    with ranks.together():
        if ranks.local == 0:
            with ThreadPoolExecutor(1) as pool:  # seconds, in which the tokenizers' library is imported
                weights = pool.submit(_weights, config)
                words = {key: each.digest for key, each in vocabularies().items()}
                held, times = _data([source for source in config.data.train if _key(source) not in absent], manifests)
                held |= weights.result() | _tokenizers(config, absent)
            decoder = config.data.image.decoder
            libraries = (*LIBRARIES, "simplejpeg") if decoder == "turbo" else LIBRARIES
            told = {name: f"version {version(name)}" for name in libraries}
            mine = Inputs(held | {"code": f"pixels {VERSIONS[decoder]}, order {STREAM}"}, words, times, told)
    every: list[Inputs] = [inputs for inputs in ranks.gather_objects(mine) if inputs is not None]
    for other in every[1:]:
        if changed := differences({**every[0].words, **every[0].held}, {**other.words, **other.held}):
            raise UserError(
                "the machines of this run do not hold the same:\n"
                + "\n".join(f"  {name}: {first} on the first, {second} on another" for name, first, second in changed)
                + "\nCopy the data and weights of one machine to the others, or use a shared file system."
            )
    return every[0]


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(name, before, now) of all that is not equal."""
    names = dict.fromkeys([*before, *now])
    pairs = [(name, before.get(name, "absent"), now.get(name, "absent")) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]


def check_inputs(
    checkpoint: Path, before: Inputs, now: Inputs, accept: bool, paths: Mapping[str, str] | None = None
) -> list[str]:
    """Lines about what has changed since `checkpoint` was written. UserError unless `accept`, where it matters.

    `paths`: configuration key -> the file or folder that it names. Vocabularies are not compared; see `check_words`.
    """
    pairs = differences(before.held, now.held)
    unknown = [each for each in pairs if each[0].startswith("model.") and each[0] not in before.held]
    changed = [each for each in pairs if each not in unknown]
    names = {name for name, _, _ in changed}
    lines = [
        f"{_named(name, paths or {})}: {_short(old)} when {checkpoint.name} was written, {_short(new)} now"
        for name, old, new in changed
        if name.removesuffix(PICTURES) == name or name.removesuffix(PICTURES) not in names  # rows name their pictures
    ]
    if changed and not accept:
        raise UserError(
            f"{checkpoint} was trained on something else:\n" + "\n".join(f"  {line}" for line in lines) + "\nBring "
            f"back what was there, give another run.name or run.folder for a new run, or add {ACCEPT} to go on from "
            "these weights with what is there now" + (". The data is then read from its beginning, in a new order."
            if data_changed(before, now) else ".")
        )  # fmt: skip
    moved = [each for each in differences(before.told, now.told) if each[0] in now.told]
    lines += [
        f"{_named(name, paths or {})} is not compared, since {checkpoint.name} does not say what it was"
        for name, _, _ in unknown  # an earlier version wrote it
    ]
    return [*lines, *(f"{name}: {old} before, {new} now" for name, old, new in moved)]


def _named(name: str, paths: Mapping[str, str]) -> str:
    return f"{name} {paths[name]}" if name in paths else name


def _short(value: str) -> str:
    """A whole SHA-256 by its beginning, as what it is of."""
    if match := re.fullmatch(r"(folder:)?([0-9a-f]{64})", value):
        return f"content {match[2][:12]}"
    return value


def data_changed(before: Inputs, now: Inputs) -> bool:
    """Whether the order of the samples of `before` is none of `now`."""
    return any(name.startswith("data.") or name == "code" for name, _, _ in differences(before.held, now.held))


def check_shards(manifests: Sequence[Manifest], before: Inputs, now: Inputs) -> list[str]:
    """Read local shards again whose times have changed, and compare them with their manifest. Lines for a person.

    UserError where one differs. Sources that are too large to be read at a start are only named.
    """
    changed = {name for name, _, _ in differences(before.times, now.times)}
    lines = []
    for manifest in manifests:
        if str(manifest.where) not in changed:
            continue
        size = sum(shard.bytes for shard in _local(manifest.shards) if shard.sha256)
        if size > COMPARED:
            lines.append(
                f"{manifest.where}: shards were written or copied since; they are too large to be compared here. "
                f"vglm data check_shards {manifest.path.parent} does it."
            )
            continue
        local = [shard for shard in _local(manifest.shards) if shard.sha256]
        hashes = content_hashes([shard.path for shard in local])
        if wrong := [shard for shard in local if hashes[shard.path] != shard.sha256]:
            raise UserError(
                f"{wrong[0].path}: its content is not what {manifest.path} says, though its size is. Bring the shard "
                f"back, or run vglm data check_shards {manifest.path.parent} --write-manifest."
            )
    return lines


def held_out_state(shards: Sequence[Shard]) -> str:
    """Held-out data, in words that are equal where it is."""
    return f"{sum(shard.samples for shard in shards)} samples ({_digest(shard.identity() for shard in shards)})"


def judged_by(config: Config, shards: Sequence[Shard]) -> dict[str, str]:
    """What is equal where two values of checkpoint.best can be compared: metric, held-out data, way of scoring."""
    how = {field.name: getattr(config.evaluate, field.name) for field in fields(config.evaluate)}
    for free in ("every", "table", "patience"):
        how.pop(free)
    return {
        "checkpoint.best": str(config.checkpoint.best),
        "meaning of the metrics' names": f"version {MEANING}",
        **{f"evaluate.{name}": show(value) for name, value in how.items()},
        "data.languages": show(config.data.languages),
        "data.validation": held_out_state(shards),
    }


def _key(source: Source) -> str:
    return f"data.train {source.name}"


def _data(sources: Sequence[Source], manifests: Sequence[Manifest]) -> tuple[dict[str, str], dict[str, str]]:
    held, times = {}, {}
    for source, manifest in zip(sources, manifests, strict=True):
        shards, name = manifest.shards, _key(source)
        tables = [shard for shard in shards if isinstance(shard, TableSlice)] if _is_table(shards) else []
        unit = "" if tables else f" in {len(shards)} shards"
        held[name] = f"{manifest.samples} samples{unit} ({_digest(shard.identity() for shard in shards)})"
        if tables:
            held[name + PICTURES] = picture_state(tables)
        if any(True for _ in _local(shards)):
            times[str(manifest.where)] = _digest(_times(shards))
    return held, times


def _is_table(shards: Sequence[Shard]) -> bool:
    """All shards of a manifest are of one kind."""
    return bool(shards) and isinstance(shards[0], TableSlice)


def _local(shards: Iterable[Shard]) -> Iterator[Shard]:
    """Tars on a disk of this machine."""
    return (shard for shard in shards if shard.url is None and not isinstance(shard, TableSlice))


def _times(shards: Iterable[Shard]) -> Iterator[tuple[str, int]]:
    """Names and times of the tars on this machine. UserError where one is gone."""
    for shard, state in file_states((shard.path, shard) for shard in _local(shards)):
        if isinstance(state, OSError):
            raise UserError(f"{shard.path}: {state.strerror}")
        yield shard.name, state.st_mtime_ns


def _weights(config: Config) -> dict[str, str]:
    """Configuration key -> fingerprint of the file or folder of weights that it names."""
    found = {}
    for key, path in named_files(config).items():
        if not path.exists():  # whoever loads it says what is missing
            continue
        is_whole = key.startswith("model.qformer") and is_bundle(str(path))
        found[key] = bundle_fingerprint(path) if is_whole else fingerprint(path)
    return found


def _tokenizers(config: Config, absent: Collection[str]) -> dict[str, str]:
    """Configuration key -> fingerprint of the tokenizer that it names."""
    model, language = config.model, config.model.language
    found = {}
    if (language is None or model.qformer.reads_question) and "model.text.tokenizer" not in absent:
        found["model.text.tokenizer"] = tokenizer_fingerprint(find_tokenizer(model.text.tokenizer))
    if language is not None:
        path = Path(str(language.tokenizer or language.weights))
        if path.exists():
            found["model.language.tokenizer"] = tokenizer_fingerprint(path)
    return found


def named_files(config: Config) -> dict[str, Path]:
    """Configuration key -> file or folder of weights, or of their shape, of those that the configuration names."""
    model, language = config.model, config.model.language
    named = {
        "model.vision.weights": model.vision.weights,
        "model.vision.config": model.vision.config,
        "model.qformer.weights": model.qformer.weights,
        "model.qformer.text_weights": model.qformer.text_weights,
        "model.language.weights": None if language is None else language.weights,
        "model.language.config": None if language is None else language.config,
    }
    return {key: Path(path) for key, path in named.items() if path}


def _digest(values: Iterable[Any]) -> str:
    """Of the values as a JSON list, which need not be in memory as a whole."""
    digest = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        digest.update(f"{', ' if number else ''}{json.dumps(value)}".encode())
    digest.update(b"]")
    return digest.hexdigest()[:16]
