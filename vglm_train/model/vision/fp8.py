"""A frozen encoder's products in eight bits (e4m3) with a scale for each row: `model.vision.dtype: fp8`.

A row of what goes in, and an output's row of weights, is divided by its scale and rounded to e4m3, a sign, four bits of
exponent and three of mantissa. The scale is the row's largest magnitude divided by 448, e4m3's largest number. Products
are summed in fp32, multiplied by both scales and rounded to bf16. Everything else stays as in bf16.

On a Hopper GPU or newer, tensor cores multiply the codes, and Triton kernels quantise where sums, norms and GELU are
computed anyway (`fp8_triton.py`). Elsewhere each function is the plain computation of the same numbers.

r rows, i inputs, o outputs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODES = torch.float8_e4m3fn
TOP = torch.finfo(CODES).max  # 448
LEAST = torch.finfo(torch.float32).tiny  # scale of a row of zeros
CAPABILITY = (9, 0)  # Hopper, the first card whose products were measured
VERSION = 1  # raised when another code or scale would be made of the same numbers


class Rows(NamedTuple):
    """Numbers in eight bits."""

    codes: Tensor  # [r,i] e4m3
    scales: Tensor  # [r,1] fp32

    def full(self) -> Tensor:
        """[r,i] fp32."""
        return self.codes.float() * self.scales


def multiplies(device: torch.device) -> bool:
    """Whether this device has tensor cores for it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY


def quantize(x: Tensor) -> Rows:
    """x [r,i], of any floating dtype. A row that holds a number that is not finite becomes NaN."""
    if fuses(x):
        return Rows(*kernels().quantize(x.contiguous(), False, TOP, LEAST))
    return plain(x)


def plain(x: Tensor) -> Rows:
    x = x.float()
    scales = (x.abs().amax(1, keepdim=True) / TOP).clamp(min=LEAST)
    return Rows((x / scales).clamp(-TOP, TOP).to(CODES), scales)
