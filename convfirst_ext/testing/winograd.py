"""How far Winograd's minimal filtering in fp32 may be from a convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convfirst_ext.testing.bounded import UNIT_ROUNDOFF, Bounded

# Where F(m x m, 3x3) interpolates, beside infinity.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))}
# Roundings on the way of a value beside those of the sum over channels: both transforms of either kind, and constants.
_TRANSFORMS = 24


def winograd_bound(output: Bounded, input: Tensor, weight: Tensor, sides: Sequence[int], tile: int) -> Bounded:
    """A convolution's value with the error of computing it by F(tile x tile, 3x3).

    Every rounding is bounded by the sum of the magnitudes that Winograd's algorithm adds, A^T [(|G| |g| |G^T|) .
    (|B^T| |d| |B|)] A with |A|, which exceed those of the convolution itself.

    Args:
        output: of the convolution.
        input: (N, C, H, W), stored.
        weight: (O, C, 3, 3).
        sides: padding, left, right, top, bottom.
        tile: 2 or 4.
    """
    a, g, b = (matrix.abs() for matrix in _matrices(tile))
    height, width = output.value.shape[2:]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = F.pad(input.detach().double().abs(), tuple(sides))
    padded = F.pad(padded, (0, columns * tile - width, 0, rows * tile - height))
    tiles = padded.unfold(2, tile + 2, tile).unfold(3, tile + 2, tile)
    products = torch.einsum("ncyxij,ocij->noyxij", b @ tiles @ b.t(), g @ weight.detach().double().abs() @ g.t())
    sums = (
        (a @ products @ a.t()).permute(0, 1, 2, 4, 3, 5).reshape(*output.value.shape[:2], rows * tile, columns * tile)
    )
    terms = (input.shape[1] + _TRANSFORMS) * UNIT_ROUNDOFF
    return Bounded(output.value, output.error + sums[:, :, :height, :width] * terms / (1 - terms))


def _matrices(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """A^T, G and B^T by Toom and Cook: the points' powers, and the coefficients of their polynomials."""
    points = _POINTS[tile]
    a = torch.zeros(tile, tile + 2, dtype=torch.float64)
    g = torch.zeros(tile + 2, 3, dtype=torch.float64)
    b = torch.zeros(tile + 2, tile + 2, dtype=torch.float64)
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        a[:, i] = torch.tensor([point**power for power in range(tile)])
        g[i] = torch.tensor([point**power / scale for power in range(3)])
        b[i, : tile + 1] = _coefficients(others)
    a[-1, -1] = g[-1, -1] = 1.0
    b[-1] = _coefficients(points)
    return a, g, b


def _coefficients(roots: Sequence[float]) -> Tensor:
    """Of the polynomial with these roots, that of the lowest power first."""
    polynomial = torch.ones(1, dtype=torch.float64)
    for root in roots:
        polynomial = F.pad(polynomial, (1, 0)) - root * F.pad(polynomial, (0, 1))
    return polynomial
