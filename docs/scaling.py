"""What VisualGLM's pretraining costs on 1 to 512 cards: a model on paper, as tables for the pages.

A step lasts as long as its arithmetic, then what it moves between cards, then a wait:

arithmetic  a part that does not depend on the rows, and a part for each row, as they were measured on one card; with
            several cards also keys and values of the pictures that come from other cards as ITM's negatives
moving      bytes that a card sends, over the speed of the slowest link: nothing is moved while it computes
wait        what two cards were measured to lose beyond that, taken to be the same for any number of cards

Sizes come from the ready configurations, times from the files of benchmarks/results. The speeds of links and storage
are stated here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from benchmarks.result_file import Results
from docs import tables
from docs.cards import Language, built
from vglm_train import stages
from vglm_train.config.run import Config
from vglm_train.model.flops import image_keys_flops, image_tokens

NODE = 8  # cards of a machine
NVLINK = 450e9  # bytes a second that a card sends: NVLink 4 of an H100
NETWORK = 50e9  # the same between machines: 400 Gbit/s for each card
STORAGE = 2e9  # bytes a second that one process writes
FLOAT = 4  # bytes: gradients, weights and embeddings are moved as fp32
STATE = 3 * FLOAT  # of a trained weight in a checkpoint: itself and two moments
HALF = 2  # bytes of an image feature
ROWS = 100  # of a step on one card that was measured
CARDS = (1, 8, 64, 512)
STAGES = ("visualglm_stage1", "visualglm_stage2")
PAIRS = {"zh": 30e6, "en": 300e6}


@dataclass(frozen=True, slots=True)
class Work:
    """One stage on one card.

    rate: samples a second at `rows` rows; fixed: share of that step that does not depend on the rows; again: share of a
    row's arithmetic that several cards do twice.
    """

    config: Config
    rate: float
    rows: int
    fixed: float
    again: float
    trained: int

    @property
    def batch(self) -> int:
        return self.config.data.global_batch

    @property
    def samples(self) -> float:
        """Of the whole stage."""
        return float(self.config.run.length.steps or 0) * self.batch

    def arithmetic(self, rows: float, cards: int = 1) -> float:
        """Seconds of a step of so many rows on each card; more than `rows` run one part after the other."""
        again, part = 1 + self.again * (cards > 1), min(rows, self.rows)
        return rows / part * self.rows / self.rate * (self.fixed + (1 - self.fixed) * again * part / self.rows)

    def weight_bytes(self, cards: int) -> float:
        """ZeRO 1 in a ring: gradients are summed where their optimizer is, then the weights are gathered."""
        return 2 * FLOAT * self.trained * (cards - 1) / cards

    def contrast_bytes(self, cards: int, rows: float) -> float:
        """ITC: the embeddings of all cards are gathered, and their gradients summed over all (twice the bytes)."""
        model = self.config.model
        each = (model.qformer.queries + 1) * model.contrastive_width * FLOAT
        return 3 * each * rows * (cards - 1) if self.aligns else 0.0

    def picture_bytes(self, cards: int, rows: float) -> float:
        """ITM: the image features of a negative for each row, from the card that has it."""
        vision = self.config.model.vision
        return HALF * image_tokens(vision) * vision.width * rows * (cards - 1) / cards if self.aligns else 0.0

    @property
    def aligns(self) -> bool:
        return self.config.run.stage == "align"


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of a step on each of `cards` cards."""

    work: Work
    cards: int
    rows: float  # of each card
    arithmetic: float
    moving: float
    wait: float

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.moving + self.wait

    @property
    def efficiency(self) -> float:
        """Of a card, beside one alone at the rows that were measured."""
        return self.rows / self.seconds / self.work.rate

    @property
    def hours(self) -> float:
        """Of the whole stage, with its checkpoints."""
        steps = self.work.samples / (self.rows * self.cards)
        save = STATE * self.work.trained / STORAGE / self.work.config.checkpoint.every
        return steps * (self.seconds + save) / 3600


def number(file: str, case: str, name: str, key: str) -> float:
    """A measured number."""
    results = tables.read(file)
    assert isinstance(results, Results)
    return results.row(case, name).get(key)


@cache
def work(name: str) -> Work:
    """Of a ready configuration. Stage one's rate is that of its arithmetic, beside the shape that was measured."""
    config, model = built(name)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if config.run.stage != "align":
        rate = number("training", "stage2/chatglm-bf16", "engine, ZeRO 1", "samples_per_s")
        fewer = number("h100", "stage2/chatglm-32", "engine, ZeRO 1", "samples_per_s")
        return Work(config, rate, 64, fixed_share((32, fewer), (64, rate), 64), 0.0, trained)
    cost = {each: stages.build(built(each)[0]).cost(built(each)[1]).per_sample for each in (name, "lavis_stage1")}
    rate = number("training", "stage1/plain", "engine, ZeRO 1, eager", "samples_per_s")
    graphs = "encoder, compiled and graphs"
    sizes = [(100, graphs), (256, f"{graphs}, 256")]
    few, many = ((rows, number("h200", "features/align", each, "samples_per_s")) for rows, each in sizes)
    again = 3 * image_keys_flops(config.model) / cost[name]  # forward, and two products backward
    fixed = fixed_share(few, many, ROWS)
    return Work(config, rate * cost["lavis_stage1"] / cost[name], ROWS, fixed, again, trained)


def fixed_share(few: tuple[int, float], many: tuple[int, float], rows: int) -> float:
    """Share of a step of `rows` rows that does not depend on them: two (rows, samples a second) make a line."""
    seconds = [size / rate for size, rate in (few, many)]
    slope = (seconds[1] - seconds[0]) / (many[0] - few[0])
    fixed = seconds[0] - slope * few[0]
    return fixed / (fixed + slope * rows)


@cache
def lost(name: str = "engine, ZeRO 1, eager") -> float:
    """Seconds of a step that two cards were measured to lose beyond their arithmetic and what they move."""
    one = work("lavis_stage1")
    times = number("h100", "stage1/two", name, "times_one")
    return 2 * one.arithmetic(ROWS) / times - one.arithmetic(ROWS, 2) - moving(one, 2, ROWS)


def moving(one: Work, cards: int, rows: float) -> float:
    """Seconds."""
    sent = one.weight_bytes(cards) + one.contrast_bytes(cards, rows) + one.picture_bytes(cards, rows)
    return sent / (NVLINK if cards <= NODE else NETWORK)


def step(one: Work, cards: int, rows: float) -> Step:
    """A step of `rows` rows on each of `cards` cards."""
    return Step(one, cards, rows, one.arithmetic(rows, cards), moving(one, cards, rows), lost() if cards > 1 else 0.0)


def cost_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: both stages, at the rows of a card that were measured and at one batch."""
    yield {
        "en": ["", "cards", "rows a step", "arithmetic, ms", "moving", "wait", "of one card", "hours", "card-hours"],
        "zh": ["", "卡", "每步的行", "计算，毫秒", "传输", "等待", "相对单卡", "小时", "卡时"],
    }[language]
    found = {name: list(_steps(work(name))) for name in STAGES}
    for name, steps in found.items():
        yield from (_line(_called(name, language), each) for each in steps)
    for first, second in zip(*found.values()):
        hours = first.hours + second.hours
        rows = f"{first.rows * first.cards:,.0f}, {second.rows * second.cards:,.0f}"
        both = {"en": "both stages", "zh": "两个阶段"}[language]
        yield [both, str(first.cards), rows, "", "", "", "", f"{hours:,.1f}", f"{hours * first.cards:,.0f}"]


def _steps(one: Work) -> Iterator[Step]:
    """At the rows of a card that were measured, then at the configuration's batch."""
    yield from (step(one, cards, float(one.rows)) for cards in CARDS)
    yield from (step(one, cards, one.batch / cards) for cards in CARDS[1:])


def _line(name: str, found: Step) -> list[str]:
    times = (f"{1e3 * seconds:,.1f}" for seconds in (found.arithmetic, found.moving, found.wait))
    rows, share = f"{found.rows * found.cards:,.0f}", f"{100 * found.efficiency:.0f} %"
    return [name, str(found.cards), rows, *times, share, f"{found.hours:,.1f}",
            f"{found.hours * found.cards:,.0f}"]  # fmt: skip


def _called(name: str, language: Language) -> str:
    numbers = {"en": ("stage one", "stage two"), "zh": ("第一阶段", "第二阶段")}[language]
    return numbers[STAGES.index(name)]


def byte_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: what a card sends in a step of stage one."""
    yield {
        "en": ["cards, 100 rows each", "gradients and weights, GB", "ITC's embeddings", "ITM's pictures"],
        "zh": ["卡数，每卡 100 行", "梯度与权重，GB", "ITC 的向量", "ITM 的图片"],
    }[language]
    one = work(STAGES[0])
    for cards in (2, *CARDS[1:]):
        sent = one.weight_bytes(cards), one.contrast_bytes(cards, ROWS), one.picture_bytes(cards, ROWS)
        yield [str(cards), *(f"{each / 1e9:.2f}" for each in sent)]


def need_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: what else each stage asks of a machine, and how often a pair is read."""
    yield {
        "en": "; loader cores a card, 256 px; 1333 px; checkpoint, GB; written in, s; Chinese pairs are read; English",
        "zh": "; 每卡的加载核数，256 像素; 1333 像素; 检查点，GB; 写入，秒; 中文对读取次数; 英文",
    }[language].split("; ")
    for name in STAGES:
        one = work(name)
        rates = (number("cpu", "stream/decode", f"short side {side}", "samples_per_s") for side in (256, 1333))
        size = STATE * one.trained
        cells = [*(one.rate / rate for rate in rates), size / 1e9, size / STORAGE]
        cells += [one.samples / 2 / pairs for pairs in PAIRS.values()]
        yield [_called(name, language), *(f"{cell:.1f}" for cell in cells)]


def two_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: two cards by this model and as measured."""
    yield {
        "en": ["two H100s, 100 pairs each", "times one, by bytes", "by bytes and arithmetic", "measured", "wait, ms"],
        "zh": ["两块 H100，每卡 100 对", "按字节，单卡的倍数", "按字节与计算", "实测", "等待，毫秒"],
    }[language]
    one = work("lavis_stage1")
    alone, sent = one.arithmetic(ROWS), moving(one, 2, ROWS)
    by = [2 * alone / (alone + sent), 2 * alone / (one.arithmetic(ROWS, 2) + sent)]
    for name, called in (("engine, ZeRO 1, eager", {"en": "without", "zh": "不用"}),
                         ("engine, ZeRO 1, compiled and graphs", {"en": "with", "zh": "用"})):  # fmt: skip
        times = [*by, number("h100", "stage1/two", name, "times_one")]
        label = f"{called[language]} `engine.compile`{', ' if language == 'en' else '、'}`engine.graphs`"
        yield [label, *(f"{each:.2f}" for each in times), f"{1e3 * lost(name):.1f}"]


def given_rows(language: Language) -> Iterator[list[str]]:
    """A table's lines, the head first: what is not measured here."""
    yield {"en": ["taken as given", ""], "zh": ["以此为前提", ""]}[language]
    one, two = map(work, STAGES)
    words = {
        "en": "a card sends within a machine (NVLink 4); between machines (400 Gbit/s a card); one process writes; "
        "pairs, Chinese and English; rows in stage one; rows in stage two",
        "zh": "机器内每卡发送（NVLink 4）; 机器之间（每卡 400 Gbit/s）; 一个进程写入; 图文对，中文与英文; "
        "第一阶段的行; 第二阶段的行",
    }[language].split("; ")
    values = [f"{speed / 1e9:.0f} GB/s" for speed in (NVLINK, NETWORK, STORAGE)]
    values.append(" + ".join(f"{pairs / 1e6:.0f} M" for pairs in PAIRS.values()))
    values += [f"{each.config.run.length.steps:,} x {each.batch:,} = {each.samples / 1e6:.1f} M" for each in (one, two)]
    yield from map(list, zip(words, values))
