"""What is read: sources of shards, how a picture is cropped, how many rows make a step."""

from dataclasses import dataclass, field
from string import Formatter
from typing import Annotated, Literal, get_args

from vglm_train.config.validation import (
    FRACTION,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    FieldError,
    Range,
    check_limits,
    multiple,
    unique,
)

Language = Literal["en", "zh"]
Format = Literal["json", "jsonl", "csv", "tsv", "token", "coco", "vqa", "chinese_clip", "tar", "parquet", "saved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Which keys or columns of a table hold what; null: the first known one that the table has; empty: none is read."""

    image: Annotated[str | None, "the picture's path", NOT_EMPTY] = None
    question: Annotated[str | None, "the question"] = None
    context: Annotated[str | None, "a text before the question"] = None
    input: Annotated[str | None, "a text after the question, as Alpaca's"] = None
    history: Annotated[str | None, "earlier turns: [question, answer] each"] = None
    options: Annotated[str | None, "choices, which are written into the question"] = None
    answer: Annotated[str | None, "the answer, report or caption", NOT_EMPTY] = None
    turns: Annotated[str | None, "a dialogue: LLaVA's conversations, or messages"] = None
    group: Annotated[str | None, "patient, study or page: what a split must keep together"] = None
    kind: Annotated[str | None, "closed, open, report: how an answer is scored"] = None
    language: Annotated[str | None, "the row's language, en or zh"] = None

    def __post_init__(self) -> None:
        check_limits(self)


TABLE_ONLY = (
    "format", "encoding", "delimiter", "columns", "join", "images", "image_template", "fields", "split"
)  # fmt: skip
TEMPLATE = "{KEY} stands for what a row has under it, {KEY:012d} for a number of twelve digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where samples come from: shards with their manifest.json (here, on a server, or out of a command), or a table as
    people have it."""

    name: Annotated[str, "what logs, damage reports and shares call it; one name for each source", NOT_EMPTY]
    shards: Annotated[
        str | None,
        "folder that holds manifest.json, a manifest, or shards as a brace list ({000..099}.tar); a path, http(s)://, "
        "s3://BUCKET/..., or pipe:COMMAND that writes to its output what stands for {}",
        NOT_EMPTY,
    ] = None
    table: Annotated[
        str | None,
        ".json, .jsonl, .csv, .tsv, .parquet, .tar, a folder or a pattern of the last two, or what `datasets` saved",
        NOT_EMPTY,
    ] = None
    format: Annotated[Format | None, "of a table; null: by its name and what is in it"] = None
    encoding: Annotated[
        str | None, "of a table in text; null: UTF-8, UTF-16 or GB18030, as its bytes say", NOT_EMPTY
    ] = None
    delimiter: Annotated[str | None, "one character, of a CSV or TSV; null: as its first row says"] = None
    columns: Annotated[
        tuple[str, ...] | None,
        "names of a CSV's or TSV's columns, where the first row does not hold them",
        NOT_EMPTY,
    ] = None
    join: Annotated[
        str | None,
        "a table's other half: VQAv2's annotations beside its questions, Chinese-CLIP's texts",
        NOT_EMPTY,
    ] = None
    images: Annotated[
        str | None, "folder that a table's paths of pictures are relative to; null: the table's own", NOT_EMPTY
    ] = None
    image_template: Annotated[
        str | None,
        "how pictures are called where rows have a number: COCO_val2014_{image_id:012d}.jpg; null: COCO's names are "
        "tried",
    ] = None
    fields: Annotated[Fields, "which columns of a table hold what"] = field(default_factory=Fields)
    split: Annotated[str | None, "of a table whose rows say theirs (key split): the one to read", NOT_EMPTY] = None
    manifest: Annotated[
        str | None, "of shards, where it is not beside them: a path, http(s):// or s3://", NOT_EMPTY
    ] = None
    licence: Annotated[str | None, "of the data; the model card names it", NOT_EMPTY] = None
    weight: Annotated[
        float | None,
        "share of the rows against other sources; null for all: by their numbers of samples",
        POSITIVE,
    ] = None

    def __post_init__(self) -> None:
        check_limits(self)
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise FieldError("delimiter", reason=f"must be one character, found {self.delimiter!r}")
        self._check_template()
        if (self.shards is None) == (self.table is None):
            raise FieldError("shards", "table", reason="give one of shards (a folder of them) and table (a file)")
        given = [name for name in TABLE_ONLY if getattr(self, name) not in (None, Fields())]
        if self.table is None and given:
            raise FieldError(given[0], "shards", reason="is of a table; these are shards")
        if self.manifest is not None and self.shards is None:
            raise FieldError("manifest", "table", reason="lists shards, but the source is a table; leave it out")

    def _check_template(self) -> None:
        if self.image_template is None:
            return
        try:
            keys = [key for _, key, _, _ in Formatter().parse(self.image_template) if key is not None]
            for _, _, spec, _ in Formatter().parse(self.image_template):
                format(0, spec or "")
        except ValueError as error:
            raise FieldError("image_template", reason=f"{error}; {TEMPLATE}") from None
        if not keys:
            raise FieldError("image_template", reason=f"would call all pictures the same; {TEMPLATE}")
        if self.fields.image is not None:
            raise FieldError("image_template", "fields.image", reason="both say where a picture's name is; give one")


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdout:
    """Rows of data.train's tables that are kept for validation, chosen by a hash of what is kept together."""

    by: Annotated[
        Literal["group", "image", "row"], "what is kept together; group: no patient in both; image: no picture in both"
    ]
    share: Annotated[float, "share of the rows, about", Range(above=0, below=1)] = 0.1

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """The frozen encoder's outputs on disk, so that later epochs skip the encoder.

    Epoch n reads version n % views of each picture; odd ones are mirrored where image.flip is on.
    """

    folder: Annotated[str, "where they are kept", NOT_EMPTY]
    limit_gib: Annotated[float, "the run does not start if they would need more, GiB", POSITIVE] = 100.0
    views: Annotated[int, "augmented versions of each picture; 1 wants crop_scale [1, 1] and no flip", POSITIVE] = 1

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """Copies of remote shards on a local disk, shared by all processes of a host, and patience with servers."""

    folder: Annotated[
        str | None, "on a local disk; null: vglm_train/shards in $XDG_CACHE_HOME or ~/.cache", NOT_EMPTY
    ] = None
    limit_gib: Annotated[float, "size of the copies, GiB; the shard unused for longest goes first", POSITIVE] = 50.0
    retries: Annotated[
        int, "tries of one shard after the first; 16 MiB that arrive give all of them back", NOT_NEGATIVE
    ] = 5
    timeout_s: Annotated[float, "seconds to connect, and without a byte", POSITIVE] = 30.0
    backoff_s: Annotated[
        float,
        "seconds before the first retry; doubles up to a minute, times 0.5 to 1.5 at random",
        NOT_NEGATIVE,
    ] = 1.0

    def __post_init__(self) -> None:
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """Augmentation and normalisation; the size is model.vision.image_size."""

    crop_scale: Annotated[
        tuple[float, float],
        "smallest and largest share of the area that a crop keeps; [1, 1]: the whole picture, as in evaluation",
        Range(above=0, most=1),
    ] = (0.5, 1.0)
    flip: Annotated[bool, "mirror half of the pictures; off for X-rays and text, where left is not right"] = True
    decoder: Annotated[
        Literal["turbo", "pillow"] | None,
        "what decodes and resizes: turbo (libjpeg-turbo, torch) is twice as fast, pillow is what earlier versions "
        "had; null: turbo in a new run, and what was begun with pillow goes on with it",
    ] = None
    mean: Annotated[
        tuple[float, float, float],
        "subtracted from red, green, blue",
        Range(least=0, most=1, why="pixels run from 0 to 1 here, not to 255"),
    ] = (0.48145466, 0.4578275, 0.40821073)
    std: Annotated[
        tuple[float, float, float],
        "red, green, blue are divided by it",
        Range(above=0, most=1, why="pixels run from 0 to 1 here, not to 255"),
    ] = (0.26862954, 0.26130258, 0.27577711)
    squeeze: Annotated[
        bool, "evaluation: the whole picture into a square; false: its shorter side to `resize`, then the centre of it"
    ] = True
    resize: Annotated[
        int | None,
        "pixels a side before the centre of model.vision.image_size is cut out; null: image_size",
        POSITIVE,
    ] = None
    resample: Annotated[Literal["bicubic", "bilinear"], "the filter that resizes"] = "bicubic"

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            reason = f"must be two fractions of the area, 0 < smallest <= largest <= 1; found [{low}, {high}]"
            raise FieldError("crop_scale", reason=reason)
        check_limits(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What is read: sources, languages, mixtures, augmentation, and how many rows make a step."""

    train: Annotated[tuple[Source, ...], "the sources that are trained on; at least one"] = ()
    validation: Annotated[tuple[Source, ...], "the sources that evaluation reads"] = ()
    holdout: Annotated[Holdout | None, "tables only: part of train that is kept for validation"] = None
    features: Annotated[Features | None, "keep the image encoder's outputs; null: it runs every time"] = None
    languages: Annotated[
        tuple[Language, ...], "captions that are used; drawn at equal weight among those that a record has", NOT_EMPTY
    ] = ("en",)
    balance: Annotated[
        dict[Language, float] | None,
        "shares of drawn captions by language, held whatever the records have; each above 0",
    ] = None
    mix: Annotated[Literal["sample", "batch"], "batch: rows come from one source at a time"] = "sample"
    mix_rows: Annotated[int | None, "for mix batch: rows that come from one source; null: global_batch", POSITIVE] = (
        None
    )
    image: Annotated[Image, "augmentation and normalisation"] = field(default_factory=Image)
    cache: Annotated[Cache, "copies of remote shards"] = field(default_factory=Cache)
    global_batch: Annotated[int, "rows of a step, of all processes together", POSITIVE] = 1680
    workers: Annotated[int, "loader processes of each rank; 0: the rank reads itself", NOT_NEGATIVE] = 4
    shuffle_shards: Annotated[int, "shards whose samples are permuted together", POSITIVE] = 16
    length_window: Annotated[
        int | None,
        "global batches whose rows are sorted by text length together; 0: off; null: 1 where that changes no gradient",
        NOT_NEGATIVE,
    ] = None
    max_damaged: Annotated[float, "fraction of the samples read; above it the run stops", FRACTION] = 0.01

    def __post_init__(self) -> None:
        unique("train", [source.name for source in self.train], "the name")
        unique("validation", [source.name for source in self.validation], "the name")
        check_limits(self)
        unique("languages", self.languages, "the language")
        self._check_mixture()
        self._check_features()

    def _check_features(self) -> None:
        """One view is one version of a picture: nothing may be drawn for it."""
        if self.features is None:
            return
        low, high = self.image.crop_scale
        random = low < 1 or self.image.flip
        if self.features.views == 1 and random:
            reason = (
                f"1 stores one version of each picture, but image.crop_scale [{low:g}, {high:g}] and image.flip "
                f"{str(self.image.flip).lower()} draw another every epoch; set image.crop_scale [1, 1] and image.flip "
                "false, or give the number of versions to store (epoch n reads version n % views)"
            )
            raise FieldError("features.views", "image.crop_scale", "image.flip", reason=reason)
        if self.features.views > 1 and not random:
            reason = (
                f"{self.features.views} versions would all be the same: image.crop_scale and image.flip change nothing"
            )
            raise FieldError("features.views", "image.crop_scale", "image.flip", reason=reason)

    def _check_mixture(self) -> None:
        without = [index for index, source in enumerate(self.train) if source.weight is None]
        if 0 < len(without) < len(self.train):
            raise FieldError(f"train.{without[0]}.weight", reason="is missing; give all sources a weight, or none")
        for index, source in enumerate(self.train):
            if source.name in get_args(Language):
                reason = f"{source.name!r} is a language; shares of sources and languages are logged under their names"
                raise FieldError(f"train.{index}.name", reason=reason)
        if self.balance is not None:
            if set(self.balance) != set(self.languages):
                names = "[" + ", ".join(self.languages) + "]"
                reason = f"must give a share to each of languages {names}, found {', '.join(self.balance) or 'none'}"
                raise FieldError("balance", "languages", reason=reason)
            for language, share in self.balance.items():
                if share <= 0:
                    raise FieldError(f"balance.{language}", reason=f"must be above 0, found {share}")
        if self.mix_rows is not None and self.mix == "sample":
            raise FieldError("mix_rows", "mix", reason="is for mix batch only; leave it out, or set mix: batch")
        if self.mix_rows is not None:
            why = "a step takes whole turns of the sources"
            multiple(self, "global_batch", "mix_rows", why)
