"""A convolution as the theory of communication sees it: seven nested loops and three arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from convfirst_ext.analysis.arguments import int_pair, require_kind, require_positive


class Precision(NamedTuple):
    """Bytes of an element of each array; a memory that is counted in elements has 1.0 thrice.

    Attributes:
        image: p_I, of the input.
        filter: p_F, of the weights.
        output: p_O, of the output.
    """

    image: float = 2.0
    filter: float = 2.0
    output: float = 2.0


@dataclass(frozen=True)
class ConvProblem:
    """Sizes of a convolution. The border that padding adds to the image counts as pixels.

    Attributes:
        batch: N.
        in_channels: C.
        out_channels: K.
        out_height: H', rows of the output.
        out_width: W', columns of the output.
        kernel: (R, S), or one int for both.
        stride: (vertical, horizontal), or one int for both.
        groups: in which channels are convolved apart; C for a depthwise convolution.

    Raises:
        ValueError: a size is not positive or groups does not divide the channels.
    """

    batch: int
    in_channels: int
    out_channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        require_positive(
            batch=self.batch,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            out_height=self.out_height,
            out_width=self.out_width,
            groups=self.groups,
        )
        for name in ("kernel", "stride"):
            object.__setattr__(self, name, int_pair(name, getattr(self, name), 1))
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"groups must divide {name} {getattr(self, name)}, but is {self.groups}.")

    @property
    def multiply_adds(self) -> int:
        """G, iterations of the innermost loop."""
        per_output = self.in_channels // self.groups * self.kernel[0] * self.kernel[1]
        return self.output_elements * per_output

    @property
    def image_elements(self) -> int:
        """Elements of the image that a multiply-add reads."""
        rows, columns = (
            (outputs - 1) * stride + taps if stride <= taps else outputs * taps
            for outputs, stride, taps in zip((self.out_height, self.out_width), self.stride, self.kernel, strict=True)
        )
        return self.batch * self.in_channels * rows * columns

    @property
    def filter_elements(self) -> int:
        """K T R S."""
        return self.out_channels * self.in_channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def output_elements(self) -> int:
        """N K H' W'."""
        return self.batch * self.out_channels * self.out_height * self.out_width

    @property
    def phases(self) -> tuple[int, int]:
        """How many taps of an axis never meet the pixels of one another, min(taps, stride)."""
        return min(self.kernel[0], self.stride[0]), min(self.kernel[1], self.stride[1])

    @property
    def phase_taps(self) -> tuple[int, int]:
        """Taps of an axis that share pixels, ceil(taps / stride), by the small-filter split i = stride i'' + i'."""
        return -(-self.kernel[0] // self.stride[0]), -(-self.kernel[1] // self.stride[1])

    def compulsory_bytes(self, precision: Precision) -> float:
        """Bytes when every element of image, filter and output moves once."""
        image, filters, output = precision
        return image * self.image_elements + filters * self.filter_elements + output * self.output_elements


def checked_precision(problem: ConvProblem, precision: Precision | None) -> Precision:
    """The precision, two bytes each for None, of arguments that are what they should be.

    Raises:
        TypeError: problem or precision is something else.
        ValueError: a precision is not positive.
    """
    require_kind("problem", problem, ConvProblem)
    if precision is None:
        return Precision()
    if not isinstance(precision, tuple) or len(precision) != 3:
        raise TypeError(f"precision must be a Precision or None, but is {precision!r}.")
    for size in precision:
        require_positive(precision=size)
    return Precision(*precision)
