"""The words of `health.py`: what is so, what it means, and what to try. In both languages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from vglm_train.log.tongues import Text, Tongue
from vglm_train.progress import duration

Kind = Literal["ok", "fact", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is so. `values` fill in its words."""

    code: str
    kind: Kind
    values: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Words:
    """A note in one language. Empty where there is nothing to explain or to do."""

    short: str
    means: str = ""
    to_try: str = ""


def line(notes: Iterable[Note], language: Tongue) -> str:
    """All notes in one line, the worst first where it is bad."""
    ordered = sorted(notes, key=lambda note: note.kind != "bad")
    return ("; " if language == "en" else "；").join(said(note, language).short for note in ordered)


def explained(notes: Iterable[Note], language: Tongue) -> list[Words]:
    """Of those that are wrong, and of a run that has stopped: what they mean and what to try."""
    shown = [note for note in notes if note.kind != "fact" or note.code in ("stopped", "no_row")]
    if any(note.kind == "bad" for note in shown):
        shown = [note for note in shown if note.code != "complete"]  # nobody wants its bundle
    shown.sort(key=lambda note: ("bad", "warn").index(note.kind) if note.kind in ("bad", "warn") else 2)
    return [words for words in (said(note, language) for note in shown) if words.means or words.to_try]


def advice(code: str) -> Text:
    """What to try, of a note whose advice has no values."""
    return Text(*(words.to_try for words in WORDS[code]))


def said(note: Note, language: Tongue) -> Words:
    """The note's words with its values."""
    values = {**note.values, "left": duration(float(note.values.get("seconds", 0)))}
    if language == "zh":
        values["left"] = _in_chinese(str(values["left"]))
    words = WORDS[note.code][language == "zh"]
    return Words(*(text.format(**values) for text in (words.short, words.means, words.to_try)))


def _in_chinese(time: str) -> str:
    for english, chinese in ((" min", " 分钟"), (" s", " 秒"), (" h", " 小时"), (" d", " 天")):
        time = time.replace(english, chinese)
    return time


ENDED = {"complete", "stopped", "killed", "killed_early"}  # states of a run without a process
WORDS: dict[str, tuple[Words, Words]] = {
    "no_row": (
        Words("no row yet", "The run has not reached its first log step.", "Wait; log.txt says what it is doing."),
        Words("还没有数据", "训练还没有到第一个记录步。", "请等待；log.txt 写着它在做什么。"),
    ),
    "too_few": (
        Words("too early to tell ({rows} rows)"),
        Words("为时尚早（{rows} 行）"),
    ),
    "warm_up": (
        Words("warming up ({steps} steps)", "The learning rate is still rising, so the loss need not fall yet."),
        Words("预热中（{steps} 步）", "学习率还在上升，loss 暂时不必下降。"),
    ),
    "learning": (Words("learning"), Words("正在学习")),
    "words_only": (
        Words("learning words without pictures", "The total falls by ITG alone. Pictures are not used."),
        Words("只学了文字，没有看图", "总 loss 的下降只来自 ITG：学到的是文字，图片没有用上。"),
    ),
    "flat": (
        Words(
            "the loss does not fall",
            "The newest rows are no better than the first ones, beyond their noise.",
            "Try three times optim.lr and a third of it; see in log.txt that the weights are loaded; look at a few "
            "samples (vglm data preview).",
        ),
        Words(
            "loss 没有下降",
            "最新的若干行与最初相比，差别没有超出噪声。",
            "试试 optim.lr 的三倍和三分之一；在 log.txt 里确认权重已加载；看几个样本（vglm data preview）。",
        ),
    ),
    "risen": (
        Words(
            "{loss} has risen: {best:.3f} at step {step:.0f}, {now:.3f} now",
            "A loss that was lower and stays higher: the rate is too high, or the data changed.",
            "Go on from an earlier checkpoint with a lower optim.lr, or with optim.clip; look at the data since then.",
        ),
        Words(
            "{loss} 回升：第 {step:.0f} 步 {best:.3f}，现在 {now:.3f}",
            "曾经更低的 loss 又升高并停在高处：学习率过高，或数据变了。",
            "从较早的检查点继续，降低 optim.lr 或设 optim.clip；查看那之后的数据。",
        ),
    ),
    "not_finite": (
        Words(
            "the loss is not finite since step {step:.0f}",
            "Losses or gradients are NaN or infinite, so steps are skipped and nothing is learned.",
            "Lower optim.lr, lengthen optim.warmup or set optim.clip; look at the data of these steps.",
        ),
        Words(
            "自第 {step:.0f} 步起 loss 不是有限数",
            "loss 或梯度为 NaN 或无穷大，这些步被跳过，什么也没有学到。",
            "降低 optim.lr、加长 optim.warmup 或设 optim.clip；查看这些步的数据。",
        ),
    ),
    "itm_not_yet": (
        Words("ITM still blind ({now:.3f})", "ITM has not come below 0.637, the cost of always saying no. It is late."),
        Words("ITM 仍在瞎猜（{now:.3f}）", "ITM 还没有低于 0.637，即总说“不匹配”的代价。它学得较晚。"),
    ),
    "itm_blind": (
        Words(
            "ITM blind",
            "Since step {since:.0f} ITM has answered by the share of its labels. It does not look at the pictures.",
            "Where ITC falls, captions belong to their images, and ITM learns last: train longer; see whether captions "
            "fit several images (vglm data preview); then a longer optim.warmup, a lower optim.lr, more pairs a step. "
            "Where it does not fall: do captions belong to their images, and are image weights loaded?",
        ),
        Words(
            "ITM 在瞎猜",
            "自第 {since:.0f} 步起，ITM 只按标签比例作答，没有看图片。",
            "若 ITC 在下降，说明描述与图片对应，而 ITM 学得最晚：再训练一段；看看描述是否适合多张图片"
            "（vglm data preview）；再试更长的 optim.warmup、更低的 optim.lr、每步更多图文对。"
            "若 ITC 不下降：描述与图片是否对应？图像权重是否加载？",
        ),
    ),
    "itm_blind_too": (
        Words(
            "ITM blind",
            "Since step {since:.0f} ITM has answered by the share of its labels: it cannot learn before ITC does.",
            "Do what helps ITC first.",
        ),
        Words(
            "ITM 在瞎猜",
            "自第 {since:.0f} 步起，ITM 只按标签比例作答：ITC 学到之前，它学不到。",
            "先解决 ITC。",
        ),
    ),
    "itc_blind": (
        Words(
            "ITC finds nothing",
            "ITC is no better than an even guess after warm-up: images and texts do not find each other.",
            "The likeliest first: do captions belong to their images (vglm data preview); are image weights loaded "
            "(log.txt names what was read); is optim.lr too high or optim.warmup too short; is train/temperature "
            "between 0.01 and 0.5? With fewer than 8 candidates raise engine.micro_batch.",
        ),
        Words(
            "ITC 一无所获",
            "预热之后 ITC 并不比均匀瞎猜好：图片和文字找不到对方。",
            "按可能性：描述与图片是否对应（vglm data preview）；图像权重是否加载（log.txt 写有读了什么）；"
            "optim.lr 是否过高、optim.warmup 是否过短；train/temperature 是否在 0.01 到 0.5 之间？"
            "候选少于 8 个时提高 engine.micro_batch。",
        ),
    ),
    "gap_blind": (
        Words(
            "pictures make no difference ({language} loss gap {gap:.3f})",
            "Captions are as likely with another picture as with their own: the model writes without looking.",
            "Check that stage one was loaded and knows pictures (its retrieval scores), and that captions belong to "
            "their images; train longer before you judge.",
        ),
        Words(
            "图片不起作用（{language} loss 差 {gap:.3f}）",
            "换一张图片，描述的概率不变：模型没有看图。",
            "检查是否加载了第一阶段、它是否认得图片（检索分数），描述与图片是否对应；再训练一段时间后判断。",
        ),
    ),
    "waiting": (Words("waiting {share:.1%}"), Words("等待数据 {share:.1%}")),
    "starved": (
        Words(
            "starved: waiting for data {share:.0%} of the time",
            "The GPU waits for pictures, so the run takes longer than it has to.",
            "If log.txt tells of slow downloads, copy the shards to a local disk. Else raise data.workers up to the "
            "number of cores, or make pictures smaller once (vglm data pack_shards --resize-short-side).",
        ),
        Words(
            "数据供不上：{share:.0%} 的时间在等待",
            "GPU 在等图片，训练比应有的更慢。",
            "若 log.txt 写有缓慢的下载，就把分片复制到本地磁盘；否则把 data.workers 提高到核数，"
            "或一次性缩小图片（vglm data pack_shards --resize-short-side）。",
        ),
    ),
    "skipped": (
        Words(
            "{steps:.0f} steps skipped",
            "Their loss or gradient was not finite. A few at the start of fp16 are normal.",
            "If their number grows: lower optim.lr, lengthen optim.warmup, set optim.clip.",
        ),
        Words(
            "跳过 {steps:.0f} 步",
            "这些步的 loss 或梯度不是有限数。fp16 开始时有几步是正常的。",
            "若不断增加：降低 optim.lr、加长 optim.warmup、设 optim.clip。",
        ),
    ),
    "damaged": (
        Words(
            "{samples:.0f} damaged samples",
            "Samples that could not be read are left out of the loss.",
            "log.txt names them; vglm data check_shards or check_table lists them all.",
        ),
        Words(
            "{samples:.0f} 个损坏样本",
            "读不出来的样本不计入 loss。",
            "log.txt 写有它们的名字；vglm data check_shards 或 check_table 列出全部。",
        ),
    ),
    "slowed": (
        Words("{factor:.1f} times slower than up to step {step:.0f}"),
        Words("比第 {step:.0f} 步之前慢 {factor:.1f} 倍"),
    ),
    "left": (Words("{left} left"), Words("还需 {left}")),
    "complete": (
        Words("complete", "", "vglm evaluate and vglm chat take RUN/bundle."),
        Words("已完成", "", "vglm evaluate 和 vglm chat 使用 RUN/bundle。"),
    ),
    "stopped": (
        Words("stopped when asked to, at step {step}", "", "The same command goes on from there."),
        Words("按要求停在第 {step} 步", "", "同一条命令从那里继续。"),
    ),
    "killed": (
        Words(
            "dead: the process ended at step {step} of {steps}",
            "The last line of log.txt: \u201c{last}\u201d. If it names no error, the process was killed, and that "
            "leaves no word.",
            "If that line names an error, mend it. Else ask the scheduler (time limit?) and the system (out of memory? "
            "dmesg | grep -i kill) about that time. Then run the same command: it goes on from step {checkpoint}.",
        ),
        Words(
            "已死：进程在第 {step} 步（共 {steps} 步）结束",
            "log.txt 的最后一行：“{last}”。若其中没有错误，进程就是被杀掉的，那样不会留下任何话。",
            "若那一行写了错误，先解决它；否则查调度系统（超时？）和操作系统（内存不足？dmesg | grep -i kill）"
            "在那一刻的记录。"
            "然后运行同一条命令：从第 {checkpoint} 步继续。",
        ),
    ),
    "killed_early": (
        Words(
            "dead: the process ended at step {step} of {steps}",
            "The last line of log.txt: \u201c{last}\u201d. If it names no error, the process was killed, and that "
            "leaves no word.",
            "If that line names an error, mend it. Else ask the scheduler (time limit?) and the system (out of memory? "
            "dmesg | grep -i kill) about that time. There is no checkpoint yet, so the same command begins again; a "
            "lower checkpoint.every loses less.",
        ),
        Words(
            "已死：进程在第 {step} 步（共 {steps} 步）结束",
            "log.txt 的最后一行：“{last}”。若其中没有错误，进程就是被杀掉的，那样不会留下任何话。",
            "若那一行写了错误，先解决它；否则查调度系统（超时？）和操作系统（内存不足？dmesg | grep -i kill）"
            "在那一刻的记录。"
            "还没有检查点，所以同一条命令会从头开始；调低 checkpoint.every 可以少损失一些。",
        ),
    ),
    "silent": (
        Words(
            "no row for {left}",
            "A long evaluation, a checkpoint, or a run that hangs or ended on another machine.",
            "Look at the end of log.txt and at nvidia-smi. If nothing moves, stop the run and start it again.",
        ),
        Words(
            "已有 {left} 没有新数据",
            "可能是长时间评测、写检查点，或训练卡住、在另一台机器上结束了。",
            "看 log.txt 的结尾和 nvidia-smi。若毫无动静，停止后重新启动。",
        ),
    ),
}
