"""What is read: sources of shards, how a picture is cropped, how many rows make a step."""

from dataclasses import dataclass, field
from string import Formatter
from typing import Literal, get_args

from vglm_train.config.validation import FieldError, multiple, not_empty, not_negative, positive, unique

Language = Literal["en", "zh"]
Format = Literal["json", "jsonl", "csv", "tsv", "token", "coco", "vqa", "chinese_clip", "tar", "parquet", "saved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fields:
    """Which keys or columns of a table hold what; null: the first known one that the table has; empty: none is read."""

    image: str | None = None
    question: str | None = None
    context: str | None = None  # a text before the question
    input: str | None = None  # a text after the question, as Alpaca's
    history: str | None = None  # earlier turns: [question, answer] each
    options: str | None = None  # choices, which are written into the question
    answer: str | None = None
    turns: str | None = None  # a dialogue: LLaVA's conversations, or messages
    group: str | None = None  # patient, study or page: what a split must keep together
    kind: str | None = None  # closed, open, report: how an answer is scored
    language: str | None = None

    def __post_init__(self) -> None:
        not_empty(self, "image", "answer")


TABLE_ONLY = (
    "format", "encoding", "delimiter", "columns", "join", "images", "image_template", "fields", "split"
)  # fmt: skip
TEMPLATE = "{KEY} stands for what a row has under it, {KEY:012d} for a number of twelve digits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where samples come from: shards with their manifest.json (here, on a server, or out of a command), or a table as
    people have it."""

    name: str
    # folder that holds manifest.json, a manifest, or shards as a brace list ({000..099}.tar); a path, http(s)://,
    # s3://BUCKET/..., or pipe:COMMAND that writes to its output what stands for {}
    shards: str | None = None
    # .json, .jsonl, .csv, .tsv, .parquet, .tar, a folder or a pattern of the last two, or what `datasets` saved
    table: str | None = None
    format: Format | None = None  # of a table; null: by its name and what is in it
    encoding: str | None = None  # of a table in text; null: UTF-8, UTF-16 or GB18030, as its bytes say
    delimiter: str | None = None  # of a CSV or TSV; null: as its first row says
    columns: tuple[str, ...] | None = None  # names of a CSV's or TSV's columns, where the first row does not hold them
    join: str | None = None  # a table's other half: VQAv2's annotations beside its questions, Chinese-CLIP's texts
    images: str | None = None  # folder that a table's paths of pictures are relative to; null: the table's own
    # how pictures are called where rows have a number: COCO_val2014_{image_id:012d}.jpg; null: COCO's names are tried
    image_template: str | None = None
    fields: Fields = field(default_factory=Fields)  # of a table
    split: str | None = None  # of a table whose rows say theirs (key split): the one to read
    manifest: str | None = None  # of shards, where it is not beside them: a path, http(s):// or s3://
    weight: float | None = None  # share of the rows against other sources; null for all: by their numbers of samples

    def __post_init__(self) -> None:
        not_empty(self, "name", "shards", "manifest", "table", "images", "split", "encoding", "columns", "join")
        positive(self, "weight")
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

    by: Literal["group", "image", "row"]  # group: no patient in both; image: no picture in both
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise FieldError("share", reason=f"must be between 0 and 1, found {self.share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """The frozen encoder's outputs on disk, so that later epochs skip the encoder.

    Epoch n reads version n % views of each picture; odd ones are mirrored where image.flip is on.
    """

    folder: str
    limit_gib: float = 100.0
    views: int = 1  # augmented versions of each picture; 1 wants crop_scale [1, 1] and no flip

    def __post_init__(self) -> None:
        not_empty(self, "folder")
        positive(self, "limit_gib", "views")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cache:
    """Copies of remote shards on a local disk, shared by all processes of a host, and patience with servers."""

    folder: str | None = None  # null: vglm_train/shards in $XDG_CACHE_HOME or ~/.cache
    limit_gib: float = 50.0  # the shard unused for longest goes first
    retries: int = 5  # after the first try, of one shard; whoever brings 16 MiB has his tries again
    timeout_s: float = 30.0  # to connect, and without a byte
    backoff_s: float = 1.0  # before the first retry; doubles up to a minute, times 0.5 to 1.5 at random

    def __post_init__(self) -> None:
        not_empty(self, "folder")
        positive(self, "limit_gib", "timeout_s")
        not_negative(self, "retries", "backoff_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """Augmentation and normalisation; the size is model.vision.image_size."""

    crop_scale: tuple[float, float] = (0.5, 1.0)  # [1, 1]: the whole picture, as in evaluation
    flip: bool = True  # off for X-rays and text: left is not right there
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            reason = f"must be two fractions of the area, 0 < smallest <= largest <= 1; found [{low}, {high}]"
            raise FieldError("crop_scale", reason=reason)
        if not all(0 <= m <= 1 for m in self.mean):
            raise FieldError("mean", reason=f"pixels run from 0 to 1 here, not to 255; found {list(self.mean)}")
        if not all(0 < s <= 1 for s in self.std):
            raise FieldError("std", reason=f"must be above 0; pixels run from 0 to 1 here; found {list(self.std)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    train: tuple[Source, ...] = ()
    validation: tuple[Source, ...] = ()
    holdout: Holdout | None = None  # tables only: part of train kept for validation
    features: Features | None = None  # none: the encoder runs every time
    languages: tuple[Language, ...] = ("en",)  # captions drawn at equal weight among those that a record has
    balance: dict[Language, float] | None = None  # shares of drawn captions by language, held whatever the records have
    mix: Literal["sample", "batch"] = "sample"  # batch: rows come from one source at a time
    mix_rows: int | None = None  # for mix batch: rows that come from one source; null: global_batch
    image: Image = field(default_factory=Image)
    cache: Cache = field(default_factory=Cache)
    global_batch: int = 1680
    workers: int = 4
    shuffle_shards: int = 16  # shards whose samples are permuted together
    length_window: int | None = None  # global batches sorted by text length together; 0: off; none: see length_window
    max_damaged: float = 0.01  # fraction of samples read; above it the run stops

    def __post_init__(self) -> None:
        unique("train", [source.name for source in self.train], "the name")
        unique("validation", [source.name for source in self.validation], "the name")
        not_empty(self, "languages")
        unique("languages", self.languages, "the language")
        positive(self, "global_batch", "shuffle_shards", "mix_rows")
        self._check_mixture()
        self._check_features()
        not_negative(self, "workers", "length_window")
        if not 0 <= self.max_damaged <= 1:
            raise FieldError("max_damaged", reason=f"must be a fraction from 0 to 1, found {self.max_damaged}")

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
