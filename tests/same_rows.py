"""What training takes of a table, with `check_table` and `convert` beside it: the three must agree on every row.

Training is the real stream with a real processor, over as many epochs as a dialogue has turns, so that every answer has
been the last one.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from data_tools.check_table.scan import TableScan, scan_table
from data_tools.convert import __main__ as command
from vglm_train.config.data import Data, Source
from vglm_train.config.language import Language, Prompt, Questions
from vglm_train.config.model import Model, Vision
from vglm_train.config.run import Config, Engine, Run
from vglm_train.data import loader
from vglm_train.data.processors import Processor, PromptProcessor
from vglm_train.data.rules import LanguageCheck
from vglm_train.data.shards.index import LANGUAGES
from vglm_train.data.tables.base import name_row
from vglm_train.data.tables.canonical import NoPicture
from vglm_train.data.tables.table import Table
from vglm_train.distributed import Ranks
from vglm_train.errors import UserError
from vglm_train.prompt.build import build_template
from vglm_train.prompt.tokenizers import build_tokenizer

EPOCHS = 4  # as many as the longest dialogue of a test has answers
MOST = 3  # prompt.max_images


def prompts(folder: Path, family: str) -> PromptProcessor:
    """The processor of a later stage, with the tokenizer in the folder `words`."""
    language = Language(family=family, config="config.json", tokenizer=str(folder / "words"))
    prompt = Prompt(style="blip2", max_images=MOST, end="</s>")
    template = build_template(prompt, language, build_tokenizer(language), 2)
    return PromptProcessor(template, Questions(en="one", zh="狗"), ("en", "zh"))


def taken(source: Source, processor: Processor, languages: tuple) -> tuple[dict[int, int], int]:
    """Row -> epochs in which training takes it, of the rows of the stream; and how often a sample was damaged.
    `languages`: those that the rows are in, since training refuses others."""
    config = Config(
        run=Run(name="test"),
        data=Data(train=(source,), languages=languages, global_batch=1, workers=0),
        model=Model(vision=Vision(image_size=16, patch=8)),
        engine=Engine(precision="fp32", backend="gloo"),
    )
    stream = loader.build(config, processor, Ranks()).dataset
    epochs: dict[int, int] = {}
    damaged = 0
    for number in range(EPOCHS * stream.epoch_samples):
        position = stream.mixture.at(number)
        row = int(position.shard.rows[position.nth])
        batch = stream[number]
        epochs[row] = epochs.get(row, 0) + int(batch.valid.sum())
        damaged += sum(batch.damaged.values())
    return epochs, damaged


def check(source: Source, processor: Processor) -> TableScan:
    """`check_table`'s scan of the rows of the source's split, after a comparison with training."""
    table = Table(source)
    scan = scan_table(table, processor, workers=1, split=source.split)
    rows = len(table.index)
    assert scan.usable.sum() + scan.damage.counts.total() + scan.outside == rows
    passed = {row for row in range(rows) if scan.usable[row]}
    bits = np.bitwise_or.reduce(table.index.languages[table.usable(source.split)])
    if not bits:
        assert not passed  # and training refuses to start
        return scan
    epochs, damaged = taken(source, processor, tuple(name for bit, name in enumerate(LANGUAGES) if bits >> bit & 1))
    assert damaged == sum(EPOCHS - times for times in epochs.values())
    assert passed == {row for row, times in epochs.items() if times == EPOCHS}
    assert rows - len(epochs) - scan.outside == scan.damage.counts[str(NoPicture())]
    return scan


def damage_of(source: Source) -> Counter[str] | None:
    """What `check_table` counts without a run's rules, of all splits; None where it refuses the table. Rows are named
    as the reader names them."""
    try:
        table = Table(source)
    except UserError:
        return None
    assert [table.where(row) for row in range(len(table.index))] == [
        name_row(table.file, row) for row in table.file.scan()
    ]
    scan = scan_table(table, LanguageCheck(("en", "zh")), workers=1)
    return scan.damage.counts if scan.usable.any() else None


def damage_in_convert(words: list[str], out: Path) -> Counter[str] | None:
    """What `convert` leaves out; None where it refuses. The other rows are all in the records."""
    args = command.parse([*words, "--out", str(out)])
    try:
        rows, rules = command.open_source(args)
        report = command.convert(rows, rules, command.target(args))
    except UserError:
        return None
    assert report.rows == sum(1 for _ in rows.scan())
    return report.bad
