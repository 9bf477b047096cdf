"""The sentences of `verdict.py` and `evaluations.py`, in English and Chinese, which fill in the same numbers."""

from vglm_train.log.tongues import Text, fill

WORDS: dict[str, tuple[str, str]] = {
    # the run
    "no_rows": (
        "The run has not reached its first log step (log.every steps).",
        "训练还没有到第一个记录步（每 log.every 步记录一次）。",
    ),
    "no_facts": (
        "No facts.json: planned length and batch are unknown, so losses cannot be judged.",
        "没有 facts.json：不知道计划的步数和批大小，无法判断 loss。",
    ),
    "logged": ("Logged up to step {step}.", "已记录到第 {step} 步。"),
    "progress": (
        "Step {step} of {steps} ({share}%): {state}{warming}.",
        "第 {step} 步，共 {steps} 步（{share}%）：{state}{warming}。",
    ),
    "complete": ("complete", "已完成"),
    "under_way": ("not complete", "未完成"),
    "warming": (", still in warm-up", "，仍在预热"),
    "no_row": ("No row holds {name} yet.", "还没有哪一行含有 {name}。"),
    "alarm": ("Alarm: {alarm}", "警报：{alarm}"),
    # the first loss
    "first": (
        "First logged loss {loss:.2f} (step {step:.0f}); random weights start near {expected:.2f} = {terms}",
        "第一个记录的 loss 为 {loss:.2f}（第 {step:.0f} 步）；随机权重从约 {expected:.2f} = {terms} 开始",
    ),
    "term": ("{plus}{weight}{term} {loss:.2f}", "{plus}{weight}{term} {loss:.2f}"),
    "first_high": (
        "{text}. It starts {more:.0%} higher: check weights, labels and temperature.",
        "{text}。起点高出 {more:.0%}：请检查权重、标签和温度。",
    ),
    "first_low": (
        "{text}. It is lower: pretrained weights, or steps before the first row.",
        "{text}。低于它：用了预训练权重，或第一行之前已有若干步。",
    ),
    "first_normal": ("{text}. Within 10 %: normal.", "{text}。相差在 10 % 以内：正常。"),
    # losses of stage one
    "one_candidate": (
        "{loss} has one candidate a step, so nothing to choose from: raise engine.micro_batch.",
        "{loss} 每步只有一个候选，无从选择：请提高 engine.micro_batch。",
    ),
    "loss": (
        "{name} {loss}{right}; an even guess costs {term} = {even:.3f}{prior}",
        "{name} {loss}{right}；均匀瞎猜的代价为 {term} = {even:.3f}{prior}",
    ),
    "right": (" ({share:.0%} right)", "（正确率 {share:.0%}）"),
    "prior": (", the share of matches alone {blind}", "，只按匹配比例作答为 {blind}"),
    "ln_candidates": ("ln(candidates)", "ln(候选数)"),
    "ln_2": ("ln 2", "ln 2"),
    "ln_vocabulary": ("ln(vocabulary)", "ln(词表大小)"),
    "worse_than_guess": ("{text}: worse than an even guess.", "{text}：比均匀瞎猜还差。"),
    "too_few": ("{text}: too few rows to tell.", "{text}：行数太少，无法判断。"),
    "learning": ("{text}: learning.{held_out}", "{text}：正在学习。{held_out}"),
    "by_heart": (
        "{text}: learned of the training data alone.{held_out} That is what chance gives.",
        "{text}：只记住了训练数据。{held_out}这只是随机水平。",
    ),
    "not_learned": (
        "{text}: the run has ended without learning it{why}.{held_out}",
        "{text}：训练已结束，没有学到{why}。{held_out}",
    ),
    "begun": ("{text}: has begun to learn{newest}.{held_out}", "{text}：开始学到{newest}。{held_out}"),
    "newest": (", step {step:.0f}: {loss:.3f}{right}", "，第 {step:.0f} 步：{loss:.3f}{right}"),
    "not_learning": ("{text}: not learning yet{why}.{held_out}", "{text}：还没有学到{why}。{held_out}"),
    "as_guessed": (
        ": as many answers are right as by a guess, {guessed:.0%}",
        "：答对的比例与瞎猜相同，{guessed:.0%}",
    ),
    "held_out": (" Held-out, step {step}: {what} {scores}.", "留出集，第 {step} 步：{what} {scores}。"),
    "itm_accuracy": ("ITM accuracy", "ITM 准确率"),
    "recall_at_1": ("recall at 1", "前 1 名召回率"),
    "score": (
        "{language} {value:.1f} % (chance {chance:.1f}, give or take {noise:.1f})",
        "{language} {value:.1f} %（随机 {chance:.1f}，上下 {noise:.1f}）",
    ),
    "comma": (", ", "，"),
    # the language model's loss
    "lm": (
        "LM {first:.3f} at first (step {step:.0f}), {now} now{right}",
        "LM 最初为 {first:.3f}（第 {step:.0f} 步），现在 {now}{right}",
    ),
    "tokens_right": (", {share:.0%} of the tokens predicted", "，{share:.0%} 的词元预测正确"),
    "lm_too_few": ("{text}: {rows} rows are too few to tell.", "{text}：{rows} 行太少，无法判断。"),
    "lm_same": (
        "{text}: not told apart from its first rows, {first}.",
        "{text}：与最初的若干行 {first} 没有区别。",
    ),
    "padding": (
        "{share:.0%} of the positions are padding: texts of a batch differ much in length.",
        "{share:.0%} 的位置是填充：同一批文字的长度相差很大。",
    ),
    # beside the public run
    "longer": (
        "This run is longer than the public one, which ends at a mean loss of {loss:.2f}.",
        "本次训练比公开训练更长；后者结束时的平均 loss 为 {loss:.2f}。",
    ),
    "beside": (
        "After {step:.0f} steps the loss is {now:.2f}, {left:.0%} of the {start:.2f} of random weights; the public run "
        "({source}) was at {public:.0%} after as many ({public_now:.2f} of {public_start:.2f})",
        "{step:.0f} 步之后 loss 为 {now:.2f}，是随机权重的 {start:.2f} 的 {left:.0%}；公开训练"
        "（{source}）在同样步数后为 {public:.0%}（{public_start:.2f} 中的 {public_now:.2f}）",
    ),
    "as_fast": (
        "{text}: the sum, of which ITG is the largest part, falls at least as fast.",
        "{text}：总 loss 下降得不比它慢，其中最大的一部分是 ITG。",
    ),
    "not_fallen": ("{text}: it has not fallen.", "{text}：没有下降。"),
    "slower": ("{text}: slower than the public run{reason}.", "{text}：比公开训练慢{reason}。"),
    "more_pairs": (
        "; that one read {ratio:.3g} times as many pairs a step",
        "；后者每步的图文对是本次的 {ratio:.3g} 倍",
    ),
    # what slows or spoils it
    "risen": (
        "{loss} was {best} about step {step:.0f} and has risen to {now}. A lower optim.lr, or an earlier checkpoint, "
        "may help.",
        "{loss} 在第 {step:.0f} 步附近为 {best}，之后回升到 {now}。降低 optim.lr 或用更早的检查点可能有帮助。",
    ),
    "skipped": (
        "{steps:.0f} steps were skipped: a loss or gradient was not finite.",
        "跳过了 {steps:.0f} 步：loss 或梯度不是有限数。",
    ),
    "not_finite": (
        "No loss is finite since step {step}: {rows} rows. What stands above is of before.",
        "自第 {step} 步起没有有限的 loss：{rows} 行。以上所说都是此前的情况。",
    ),
    "damaged": ("{samples:.0f} damaged samples were skipped{causes}.", "跳过了 {samples:.0f} 个损坏样本{causes}。"),
    "causes": (" ({causes})", "（{causes}）"),
    "shared": (
        "Held-out scores are too good: {text}.",
        "留出集的得分偏高，因为验证数据与训练数据有重叠：{text}。",
    ),
    "slowed": (
        "Slower by a factor of {slow.factor:.1f} than up to step {slow.step:.0f} ({slow.usual:.3g}, now {slow.now:.3g} "
        "samples/s), not for want of data (waiting {slow.waiting:.0%}): look for other programs on the machine, the "
        "GPU's clock (nvidia-smi -q -d CLOCK), swapping.",
        "比第 {slow.step:.0f} 步之前慢 {slow.factor:.1f} 倍（每秒 {slow.usual:.3g} 个样本，现在 {slow.now:.3g} 个），"
        "不是因为等数据（{slow.waiting:.0%}）：看看机器上有没有别的程序、GPU 频率（nvidia-smi -q -d CLOCK）、"
        "是否在用交换内存。",
    ),
    "waits": (
        "{share:.0%} of the time is spent waiting for data.",
        "{share:.0%} 的时间在等待数据。",
    ),
    # evaluations
    "no_evaluation": (
        "No evaluation shows yet whether the model uses its images.",
        "还没有评测能说明模型是否用到了图片。",
    ),
    "gap": (
        "Held-out, {language}: another image costs {gap:+.3f} nats a token",
        "留出集，{language}：换一张图片，每词元的代价为 {gap:+.3f} nat",
    ),
    "gap_too_few": (
        "{text}, of too few pictures to tell whether the model uses its image.",
        "{text}，图片太少，无法判断模型是否用到了图片。",
    ),
    "gap_interval": ("{text}, 95 % [{low:+.3f}, {high:+.3f}]", "{text}，95 % 区间 [{low:+.3f}, {high:+.3f}]"),
    "gap_used": ("{text}: the model uses its image.", "{text}：模型用到了图片。"),
    "gap_unused": (
        "{text}: this could be a model that does not use its image.",
        "{text}：模型可能没有用到图片。",
    ),
    "answers": (
        "Held-out, {task}: {score} {value:.1f} %, {baseline} {other:.1f} %",
        "留出集，{task}：{score} {value:.1f} %，{baseline} {other:.1f} %",
    ),
    "majority": ("always giving the commonest answer", "总说最常见的答案时为"),
    "shuffled": ("shown another picture", "给它看另一张图片时为"),
    "blank": ("a grey one", "给它看灰色图片时为"),
    "above": ("{text}: above it.", "{text}：高于它。"),
    "below": ("{text}: below it.", "{text}：低于它。"),
    "not_apart": ("{text}: not told apart, give or take {noise:.1f}.", "{text}：分不出高下（上下 {noise:.1f}）。"),
    "shuffled_above": (
        "Held-out, step {step}, {language}: with the images exchanged {value:.1f} % are right, by chance {chance:.1f}: "
        "captions fit several pictures, or the evaluation is broken.",
        "留出集，第 {step} 步，{language}：交换图片后仍有 {value:.1f} % 正确，随机为 {chance:.1f}："
        "描述适合多张图片，或评测有问题。",
    ),
    "worse": (
        "Held-out {name} was {best:.4g} at step {step:.0f}, and is {now:.4g} now{overfitting}.",
        "留出集 {name} 在第 {step:.0f} 步为 {best:.4g}，现在为 {now:.4g}{overfitting}。",
    ),
    "overfitting": (
        ", while the training loss fell: overfitting. checkpoint.best keeps the best step",
        "，而训练 loss 仍在下降：过拟合。checkpoint.best 会保留最好的一步",
    ),
}  # fmt: skip


def say(code: str, **values: object) -> Text:
    """The sentence in both languages."""
    return fill(WORDS[code], **values)
