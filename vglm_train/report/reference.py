"""A published stage-one loss curve, to compare runs with.

Logs of yiren-jian/BLIText: BLIP-2 stage one on 4.6 M pairs (COCO, VG, CC3M, SBU), 8 A6000, 1024 pairs a step,
4498 steps an epoch, 10 epochs; unweighted sum of ITC, ITM and ITG.
"""

import itertools
import math

SOURCE = "yiren-jian/BLIText, BLIP-2 stage 1, 4.6 M pairs, batch 1024"
STEPS_PER_EPOCH = 4498
BATCH = 1024
VOCABULARY = 30523
EPOCH_MEANS = (7.93, 6.31, 5.95, 5.75, 5.60, 5.48, 5.38, 5.30, 5.24, 5.20)
POINTS = ((0, 17.76), (450, 10.26), (2250, 7.07))  # step, loss

EXPECTED_START = math.log(BATCH) + math.log(2) + math.log(VOCABULARY)  # 17.95


def curve() -> list[tuple[float, float]]:
    """(step, loss): single steps of the first epoch, then the mean of each later epoch at its middle step."""
    means = [((epoch + 0.5) * STEPS_PER_EPOCH, mean) for epoch, mean in enumerate(EPOCH_MEANS)]
    # the start dominates the mean of the first epoch, so single steps say more
    return [(float(step), loss) for step, loss in POINTS] + means[1:]


def loss_at(step: float) -> float | None:
    """The curve at a step, interpolated by the logarithm of the step; None beyond its end."""
    points = curve()
    if step > points[-1][0]:
        return None
    for (left, high), (right, low) in itertools.pairwise(points):
        if left <= step <= right:
            share = math.log((step + 1) / (left + 1)) / math.log((right + 1) / (left + 1))
            return high + share * (low - high)
    return None
