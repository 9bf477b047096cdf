"""A frozen encoder's products in eight bits (e4m3) with a scale for each row: `model.vision.dtype: fp8`.

A row of what goes in, and an output's row of weights, is divided by its scale and rounded to e4m3: a sign, four bits of
exponent, three of mantissa. The scale is the row's largest magnitude divided by 448, e4m3's largest number. Products
are summed, multiplied by both scales and rounded to bf16. All else is as in bf16.

What the MLP holds between its products has another scale: its largest possible number, which Cauchy and Schwarz give
before the product is computed. Six octaves that this may be too large cost e4m3 nothing.

On a Hopper GPU, tensor cores multiply the codes, and Triton kernels quantise where sums, norms and GELU are computed
anyway (`fp8_triton.py`). Elsewhere each function is the plain computation of the same numbers. A tensor core adds with
fewer bits than fp32 has. That moves a product by 0.2 %, where rounding its factors moves it by 3.5 %.

i inputs, o outputs.
"""

from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vglm_train.model.launch import builds

CODES = torch.float8_e4m3fn
TOP = torch.finfo(CODES).max  # 448
ROUNDED = (1 + 2**-4) ** 2  # the most that rounding makes the product of two rows' lengths longer
LEAST = torch.finfo(torch.float32).tiny  # the scale of a row of zeros
HOPPER = 9  # compute capability 9.x, the only cards that this was measured on
VERSION = 1  # raised when other numbers would come of the same weights


class Rows(NamedTuple):
    """Numbers in eight bits."""

    codes: Tensor  # [...,i] e4m3
    scales: Tensor  # [...,1] fp32
    lengths: Tensor | None = None  # [...,1] fp32, Euclidean norms before rounding; None where nobody asks for them

    def full(self) -> Tensor:
        """[...,i] fp32."""
        return self.codes.float() * self.scales


class Kernels(Protocol):
    """What is needed of `fp8_triton`."""

    def gelu_product(
        self, x: tuple[Tensor, ...], weight: tuple[Tensor, ...], bias: Tensor, limits: Tensor, top: float, least: float
    ) -> tuple[Tensor, Tensor]: ...

    def add_norm(
        self, x: Tensor, added: Tensor | None, norm: nn.LayerNorm, top: float, least: float
    ) -> tuple[Tensor, ...]: ...


class Fp8Linear(nn.Linear):
    """A linear layer that reads rows in eight bits while its weight is bf16. In fp32, for training, an ordinary one.

    The weight stays as it was read. Its codes are made when they are first needed, and again when it has changed.
    """

    _made: tuple[tuple[int, ...], Rows, Tensor] | None = None

    @property
    def active(self) -> bool:
        return self.weight.dtype == torch.bfloat16

    def quantized(self) -> tuple[Rows, Tensor]:
        """The weight [o,i] in eight bits, and [2]: a row of length x gives numbers up to 448 (x first + second)."""
        weight, bias = self.weight.detach(), self.bias.detach()
        state = (weight.data_ptr(), weight._version, bias.data_ptr(), bias._version)
        if self._made is None or self._made[0] != state:
            rows = quantize(weight)
            assert rows.lengths is not None
            limits = torch.stack((ROUNDED * rows.lengths.amax(), bias.float().abs().amax())) / TOP
            self._made = state, rows, limits
        return self._made[1:]

    def forward(self, x: Tensor | Rows) -> Tensor:
        """x [...,i] -> [...,o] in the weight's dtype."""
        if isinstance(x, Tensor):
            return super().forward(x)
        out = product(x.codes.flatten(0, -2), x.scales.flatten(0, -2), self.quantized()[0], self.bias)
        return out.view(*x.codes.shape[:-1], -1)


def product(codes: Tensor, scales: Tensor, weight: Rows, bias: Tensor) -> Tensor:
    """Codes [r,i] and scales [r,1], weight [o,i] -> [r,o] bf16."""
    if has_fp8(codes.device):
        options: dict[str, Any] = {"bias": bias, "out_dtype": torch.bfloat16, "use_fast_accum": True}
        return torch._scaled_mm(codes, weight.codes.t(), scales, weight.scales.t(), **options)
    return F.linear(codes.float() * scales, weight.full(), bias.float()).bfloat16()


def quantize(x: Tensor) -> Rows:
    """x [...,i] in eight bits. A row that holds a number that is not finite becomes NaN."""
    x = x.float()
    scales = (x.abs().amax(-1, keepdim=True) / TOP).clamp(min=LEAST)
    return Rows(_codes(x, scales), scales, x.norm(dim=-1, keepdim=True))


def _codes(x: Tensor, scales: Tensor) -> Tensor:
    return (x * (1 / scales)).clamp(-TOP, TOP).to(CODES)


def gelu_rows(linear: Fp8Linear, x: Rows) -> Rows:
    """gelu(linear(x)) in tanh form, x [...,i] with lengths -> [...,o] without."""
    assert x.lengths is not None
    weight, limits = linear.quantized()
    if found := _kernels_for(x.codes):
        rows = x.codes, x.scales, x.lengths
        codes, scales = found.gelu_product(rows, weight[:2], linear.bias, limits, TOP, LEAST)
        return Rows(codes, scales)
    out = F.linear(x.full(), weight.full(), linear.bias.float())
    scales = (x.lengths * limits[0] + limits[1]).clamp(min=LEAST)
    return Rows(_codes(F.gelu(out, approximate="tanh"), scales), scales)


def norm_rows(x: Tensor, added: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Rows]:
    """x and what is added to it [...,i] -> their sum, and its norm, which is not rounded to bf16 before."""
    if found := _kernels_for(x):
        total, *rows = found.add_norm(x, added, norm, TOP, LEAST)
        return total, Rows(*rows)
    total = x if added is None else x + added
    weight, bias = norm.weight.float(), norm.bias.float()
    return total, quantize(F.layer_norm(total.float(), norm.normalized_shape, weight, bias, norm.eps))


def copied_bytes(module: nn.Module) -> int:
    """Bytes of the codes and scales that a GPU holds beside a module's weights."""
    linears = [part for part in module.modules() if isinstance(part, Fp8Linear) and part.active]
    return sum(part.weight.numel() + 4 * part.out_features for part in linears)


@cache
def has_fp8(device: torch.device) -> bool:
    """Whether this device multiplies in eight bits."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == HOPPER


def _kernels_for(x: Tensor) -> Kernels | None:
    return _kernels() if has_fp8(x.device) else None


@builds("an image encoder in fp8 is slower than in bf16")
def _kernels() -> Kernels:
    from vglm_train.model.vision import fp8_triton

    x = torch.zeros(1, 16, device="cuda", dtype=torch.bfloat16)
    fp8_triton.add_norm(x, x, nn.LayerNorm(16).to(x), TOP, LEAST)
    return fp8_triton
