"""What the model will see: pictures after augmentation beside the texts, their ids and what is learned of them.

    vglm data preview configs/pretrain/my_run.yaml data.workers=0 --out preview.html

Read by the same objects, with the same seed, that training (or validation) reads with: the first rows of
`--split train` are the first rows of the run. Writes a page for the browser and lists the texts on stdout; `--png` also
writes one picture of all, if a font of this machine has the letters. Of stage one: captions with their tokens, which
share of these is [UNK] in each language, and how many captions are cut at model.text.max_length. Of stage two and
fine-tuning: the sequence that the language model reads with its pictures, which ids it learns, how many samples are cut
at prompt.max_prompt or prompt.max_answer; of validation the prompt and the right answers.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from data_tools.common import cli
from data_tools.preview.page import render_page
from data_tools.preview.prompts import PromptView, read_epoch
from data_tools.preview.sheet import Cell, advice, draw_sheet, find_face
from vglm_train.config.check import check
from vglm_train.config.data import Cache
from vglm_train.config.load import errors_with_location, load
from vglm_train.config.presets import find_config
from vglm_train.config.run import Config
from vglm_train.data.eval_captions import EvalItem, EvalSet
from vglm_train.data.loader import build
from vglm_train.data.processors import PairProcessor
from vglm_train.data.record import DamagedSample, RecordError, parse
from vglm_train.data.shards.reader import ShardReader
from vglm_train.data.shards.shard import Shard
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.files import replace_file, write_text
from vglm_train.prompt.qformer_text import QFormerTokenizer, build_text

UNKNOWN = 0.02  # share of [UNK] above which a vocabulary does not fit
COUNTED = 2000  # samples, spread over the source, whose captions are counted
COLUMNS = 2


@dataclass(frozen=True, slots=True)
class PreviewSample:
    """A sample as the model sees it. `texts`: (language, caption) with the ids that it becomes."""

    where: str  # shard and key
    image_id: int
    pixels: Tensor  # [3,h,w] uint8
    texts: tuple[tuple[str, str, list[int]], ...]


@dataclass(slots=True)
class TokenCounts:
    """Of one language's captions."""

    captions: int = 0
    tokens: int = 0
    unknown: int = 0
    cut: int = 0
    missing: Counter[str] = field(default_factory=Counter)  # words that are [UNK]


def train_samples(config: Config, text: QFormerTokenizer, epoch: int) -> Iterator[PreviewSample | DamagedSample]:
    """The samples of an epoch in training's order, augmented, each with the caption that training takes of it."""
    for found in read_epoch(config, PairProcessor(text, config.data.languages), epoch):
        if isinstance(found, DamagedSample):
            yield found
            continue
        position, sample = found
        texts = ((sample.processed.language, sample.processed.text, sample.processed.row),)
        yield PreviewSample(f"{position.shard.name} {sample.key}", sample.image_id, sample.pixels[0], texts)


def validation_samples(config: Config, text: QFormerTokenizer) -> Iterator[PreviewSample | DamagedSample]:
    """The validation samples in order, with every caption."""
    if not config.data.validation:
        raise UserError("data.validation is empty; give it a source, or preview --split train")
    data, size = config.data, config.model.vision.image_size
    items = EvalSet(data.validation, size, data.languages, cache=data.cache, decoder=data.image.decoder, fit=data.image)
    for number in range(len(items)):
        item = items[number]
        if isinstance(item, EvalItem):
            pairs = [(language, caption) for language, captions in item.captions.items() for caption in captions]
            texts = tuple((language, caption, text.encode(caption, language)) for language, caption in pairs)
            yield PreviewSample(item.key, item.image_id, item.pixels, texts)
        else:
            yield item


def all_shards(config: Config, text: QFormerTokenizer, split: str) -> Sequence[Shard]:
    """The shards of the split."""
    if split == "train":
        return build(config, PairProcessor(text, config.data.languages), Ranks()).dataset.mixture.shards()
    return EvalSet(config.data.validation, 1, config.data.languages, cache=config.data.cache).shards


def count_tokens(
    shards: Sequence[Shard], text: QFormerTokenizer, languages: Sequence[str], cache: Cache | None = None
) -> dict[str, TokenCounts]:
    """Tokens, [UNK] and cut captions of samples spread evenly over the shards; their pictures are not decoded."""
    total = sum(shard.samples for shard in shards)
    step = -(-total // COUNTED)
    counts = {language: TokenCounts() for language in languages}
    reader, passed = ShardReader(2, cache), 0
    for shard in shards:
        for index in range(-passed % step, shard.samples, step):
            try:
                record = parse(reader.read(shard, index).json)
            except (DamagedSample, RecordError):
                continue
            for language in languages:
                for caption in record.captions.get(language, ()):
                    _count(counts[language], text, caption, language)
        passed += shard.samples
    return counts


def _count(counts: TokenCounts, text: QFormerTokenizer, caption: str, language: str) -> None:
    whole = text.tokenizer.backend_tokenizer.encode(text.process(caption), add_special_tokens=False)
    unknown = [index for index, number in enumerate(whole.ids) if number == text.tokenizer.unk_token_id]
    counts.captions += 1
    counts.tokens += len(whole.ids)
    counts.unknown += len(unknown)
    counts.cut += len(text.encode(caption, language)) < len(whole.ids) + 2 + bool(text.language_ids)
    counts.missing.update(text.process(caption)[slice(*whole.offsets[index])] for index in unknown)


def describe(shown: PreviewSample, text: QFormerTokenizer) -> Iterator[str]:
    """The lines that stand beside a picture."""
    yield f"{shown.where}   image_id {shown.image_id}"
    for language, caption, ids in shown.texts:
        yield f"{language}: {caption}"
        yield f"ids: {' '.join(map(str, ids))}"
        yield f"tokens: {' '.join(text.tokenizer.convert_ids_to_tokens(ids))}"


def report(counts: dict[str, TokenCounts], config: Config) -> Iterator[str]:
    """[UNK] and cut captions by language, with a warning where the vocabulary does not fit."""
    for language, found in counts.items():
        if not found.captions:
            yield f"{language}: no captions"
            continue
        share = found.unknown / max(found.tokens, 1)
        length = f"{found.cut} cut at model.text.max_length {config.model.text.max_length}"
        mean = found.tokens / found.captions
        yield f"{language}: {found.captions} captions, {mean:.1f} tokens each, {length}, {100 * share:.2f} % [UNK]"
        if share > UNKNOWN:
            common = ", ".join(word for word, _ in found.missing.most_common(8))
            yield (
                f"warning: {100 * share:.1f} % of the {language} tokens are [UNK] (most often: {common}): the model "
                "cannot read them. Use a tokenizer for this language, or train one: vglm data vocabulary"
            )


class View(Protocol):
    """What is shown of a run's samples, whose type is its own."""

    def samples(self, split: str, epoch: int) -> Iterator[Any | DamagedSample]:
        """In the order of the split."""

    def picture(self, sample: Any) -> Tensor:
        """[k,3,h,w] uint8"""

    def describe(self, sample: Any) -> Iterator[str]:
        """The lines that stand beside a sample's pictures."""

    def closing(self, split: str) -> Iterator[str]:
        """What is said of all samples."""


class CaptionView:
    """Captions with their tokens, of a run of stage one."""

    def __init__(self, config: Config) -> None:
        self.config, self.text = config, build_text(config.model.text, config.data.languages)

    def samples(self, split: str, epoch: int) -> Iterator[PreviewSample | DamagedSample]:
        train = split == "train"
        return train_samples(self.config, self.text, epoch) if train else validation_samples(self.config, self.text)

    def picture(self, shown: PreviewSample) -> Tensor:
        """[1,3,h,w] uint8"""
        return shown.pixels[None]

    def describe(self, shown: PreviewSample) -> Iterator[str]:
        return describe(shown, self.text)

    def closing(self, split: str) -> Iterator[str]:
        start, data = self.text.tokenizer.bos_token, self.config.data
        yield f"ITC and ITM read the tokens as they stand; ITG reads {start} in place of the first."
        counts = count_tokens(all_shards(self.config, self.text, split), self.text, data.languages, data.cache)
        yield from report(counts, self.config)


def collect(samples: Iterator[Any], rows: int) -> tuple[list[Any], list[DamagedSample]]:
    """The first `rows` samples that can be used, and the damaged ones met on the way, ten times as many at most."""
    shown: list[Any] = []
    damaged: list[DamagedSample] = []
    for sample in samples:
        if isinstance(sample, DamagedSample):
            damaged.append(sample)
        else:
            shown.append(sample)
        if len(shown) == rows or len(damaged) == 10 * rows:
            break
    return shown, damaged


def side_by_side(pixels: Tensor) -> Image.Image:
    """Pictures [k,3,h,w] uint8 of one sample in a row; a grey line parts them."""
    (k, _, h, w), gap = pixels.shape, 2
    sheet = Image.new("RGB", (max(1, k) * (w + gap) - gap, h), "grey")
    for number, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (number * (w + gap), 0))
    return sheet


@dataclass(frozen=True, slots=True)
class Output:
    """Where the preview goes. `png`: one picture of all, drawn with `font` or one that is found; None: it is not."""

    page: Path
    png: Path | None = None
    font: Path | None = None


def preview(config: Config, split: str, rows: int, epoch: int, out: Output) -> Iterator[str]:
    """Write the page, and the picture if one is wanted; yields the listing, line by line.

    UserError as training would raise it, and, once the page is there, where no font has the letters for the picture.
    """
    view: View = CaptionView(config) if config.run.stage == "align" else PromptView(config)
    face = find_face(out.font)
    shown, damaged = collect(view.samples(split, epoch), rows)
    if not shown:
        first = f"; the first: {damaged[0]}" if damaged else ""
        raise UserError(f"no sample of {split} can be shown{first}. Run vglm data check_shards")
    cells = [Cell(side_by_side(view.picture(sample)), list(view.describe(sample))) for sample in shown]
    for cell in cells:
        yield from cell.lines
        yield ""
    notes = [*(f"damaged, not shown: {damage}" for damage in damaged), *view.closing(split)]
    yield from notes
    write_text(out.page, render_page(f"{config.run.name}: what {split} reads", cells, notes))
    yield f"written: {out.page}"
    if out.png is not None:
        if missing := face.missing(line for cell in cells for line in cell.lines):
            raise UserError(f"{out.png} is not written, the page is: {advice(face, missing)}")
        with replace_file(out.png) as file:
            draw_sheet(cells, face, COLUMNS).save(file, "PNG")
        yield f"written: {out.png}"


def _output(args: Namespace) -> Output:
    """The files of the command line. UserError where the page would be no page."""
    if args.out.suffix.lower() not in (".html", ".htm"):
        hint = f" --png {args.out}" if args.out.suffix.lower() == ".png" else ""
        raise UserError(
            f"--out {args.out}: the preview is a page for the browser; give --out {args.out.with_suffix('.html')}{hint}"
        )
    png = None if args.png is None else cli.output(args.png, [args.config], "--png")
    return Output(cli.output(args.out, [args.config]), png, args.font)


def main(argv: Sequence[str] | None = None) -> int:
    parser = cli.parser("data_tools.preview", __doc__)
    parser.add_argument("config", help="YAML file of a run, or a preset's name")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change single values of it")
    parser.add_argument("--out", type=Path, default=Path("preview.html"), help="the page (default: preview.html)")
    parser.add_argument("--png", type=Path, help="also one picture of all, where a font has the letters")
    parser.add_argument("--rows", type=cli.at_least_one, default=16, help="samples shown (default: 16)")
    parser.add_argument("--split", choices=("train", "validation"), default="train", help="whose samples")
    parser.add_argument("--epoch", type=int, default=0, help="train: whose augmentation and order (default: 0)")
    parser.add_argument("--font", type=Path, help="--png: font file with Chinese (default: one that is found)")
    args = parser.parse_intermixed_args(argv)
    args.config = find_config(args.config).path
    out = _output(args)
    with errors_with_location(args.config, args.overrides):
        config = load(args.config, args.overrides)
        check(config, 1)
        for line in preview(config, args.split, args.rows, args.epoch, out):
            print(line)
    return 0


if __name__ == "__main__":
    cli.command(main)
