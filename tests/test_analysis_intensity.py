"""Operations and bytes of convolutions: the equations, and the multiply-adds that Lavin's tables print."""

import ast
from pathlib import Path

import numpy as np
import pytest
from paper_networks import (
    CONVFIRSTNET,
    convfirstnet,
    convfirstnet_blocks,
    convnext_small,
    efficientnet_v2_small,
    is_convfirst,
    resnet101,
)

from convfirst_ext import analysis
from convfirst_ext.analysis import KernelCost, conv2d_cost, conv2d_intensity

# Tables 5 to 8, column "Total" of "Layer OPs [millions]": stem, then runs of equal blocks; the sum last.
LAYER_OPS = {
    "pico": (14.16, 88.08, 88.08, 119.54, 62.91, 127.40, 59.78, 860.49, 60.88, 215.61, 1696.93),
    "nano": (21.23, 169.87, 169.87, 509.61, 122.68, 330.30, 92.29, 1671.19, 89.23, 418.80, 3595.07),
    "tiny": (21.23, 339.74, 169.87, 1019.22, 127.40, 690.09, 113.27, 3050.72, 122.83, 764.56, 6418.93),
    "small": (28.31, 553.65, 276.82, 1761.61, 213.91, 1203.24, 182.49, 5209.59, 205.78, 1305.74, 10941.14),
}


def multiply_adds(kernels: list[KernelCost]) -> float:
    """Of convolutions, for one image: neither pooling nor gating is in the paper's tables."""
    return sum(kernel.operations for kernel in kernels if kernel.kind != "pool, multiply, cat or norm") / 256


def test_operations_and_elements_are_those_of_equations_21_to_23() -> None:
    full = conv2d_cost(2, 16, 32, (5, 7), (3, 1))
    assert full.operations == 2 * (2 * 5 * 7 * 32) * (16 * 3) + 32
    assert full.bytes == 2 * (2 * 5 * 7 * 32 + 2 * 5 * 7 * 16 + 32 * 16 * 3 + 32)
    grouped = conv2d_cost(2, 16, 32, 5, group_width=4, bytes_per_element=4)
    assert grouped.operations == 2 * (2 * 25 * 32) * (4 * 9) + 32
    assert grouped.bytes == 4 * (2 * 25 * 32 + 2 * 25 * 16 + 32 * 4 * 9 + 32)
    kinds = [conv2d_cost(1, 8, 8, 4, k, group_width=t).kind for k, t in ((3, None), (1, None), (3, 2), (3, 1))]
    assert kinds == ["convolution", "pointwise convolution", "grouped convolution", "depthwise convolution"]


@pytest.mark.parametrize(("kernel", "group"), [(3, None), (1, None), (3, 1), (3, 32)])
def test_intensity_is_that_of_the_cost(kernel: int, group: int | None) -> None:
    cost = conv2d_cost(128, 64, 128, 28, kernel, group_width=group)
    intensity = conv2d_intensity(64, 128, kernel, group_width=group, pixels=128 * 28**2)
    assert intensity == pytest.approx(cost.intensity, rel=1e-3)


def test_limits_of_the_intensity() -> None:
    """Equations 25 to 28 and what section 4.1.2 concludes from them."""
    channels = np.array([16, 64, 256])
    full, pointwise = conv2d_intensity(channels, channels), conv2d_intensity(channels, channels, 1)
    depthwise = conv2d_intensity(channels, channels, group_width=1)
    np.testing.assert_allclose(full, channels * 9 / 2)  # 25
    np.testing.assert_allclose(pointwise, channels / 2)  # 26
    np.testing.assert_allclose(depthwise, 9 / 2)  # 27
    np.testing.assert_allclose(full / pointwise, 9)
    np.testing.assert_allclose(full / depthwise, channels)
    assert conv2d_intensity(4096, 4096, pixels=10) == pytest.approx(10, rel=1e-2)  # 28
    assert conv2d_intensity(64, 64, bytes_per_element=4) == conv2d_intensity(64, 64) / 2
    assert (np.diff(conv2d_intensity(64, 64, pixels=[1, 10, 100, np.inf])) > 0).all()


def test_ffn_fusion() -> None:
    """Section 5.2: the hidden tensor is alpha / (alpha + 1) of the activations' bytes; fusion saves them."""
    pixels, channels, expansion = 4096, 64, 4
    layers, fused = analysis.ffn_kernels(pixels, channels, expansion), analysis.fused_ffn(pixels, channels, expansion)
    weights = 2 * (2 * expansion * channels**2 + expansion * channels + channels)
    activations = sum(layer.bytes for layer in layers) - weights
    assert fused.bytes - weights == 2 * 2 * pixels * channels
    assert 1 - (fused.bytes - weights) / activations == pytest.approx(expansion / (expansion + 1))
    assert fused.operations == sum(layer.operations for layer in layers)
    assert fused.operations == pytest.approx(4 * pixels * channels**2 * expansion, rel=1e-3)


def test_mediant_lies_between_the_intensities() -> None:
    """Section 4.3: a / b < (a + c) / (b + d) < c / d."""
    low, high = conv2d_cost(8, 64, 64, 28, group_width=1), conv2d_cost(8, 64, 64, 28)
    assert low.intensity < analysis.mediant_intensity([low, high]) < high.intensity
    assert analysis.mediant_intensity([low, low]) == low.intensity


@pytest.mark.parametrize("name", CONVFIRSTNET)
def test_multiply_adds_of_tables_5_to_8(name: str) -> None:
    runs: list[tuple[object, float]] = []
    for index, block in enumerate(convfirstnet_blocks(name)):
        convfirst = is_convfirst(name, index)
        kernels = analysis.convfirst_kernels(block) if convfirst else analysis.mbconv_kernels(block)
        layer_ops = 2e-6 * multiply_adds(kernels)
        if runs and runs[-1][0] == block:
            runs[-1] = (block, runs[-1][1] + layer_ops)
        else:
            runs.append((block, layer_ops))
    computed = [2e-6 * multiply_adds(convfirstnet(name, fused=False)[:1]), *(ops for _, ops in runs)]
    # The printed numbers are rounded, some before they are multiplied by the depth.
    np.testing.assert_allclose([*computed, sum(computed)], LAYER_OPS[name], rtol=2e-4, atol=0.006)


@pytest.mark.parametrize(
    ("name", "printed", "of_batch"),
    [("pico", 0.86, 110.1), ("nano", 1.812, 231.9), ("tiny", 3.227, 413.1), ("small", 5.493, 703.1)],
)
def test_multiply_adds_of_table_9(name: str, printed: float, of_batch: float) -> None:
    macs = multiply_adds(convfirstnet(name, fused=False))
    assert macs / 1e9 == pytest.approx(printed, abs=6e-4)
    # 128 times what is printed, rounded.
    assert macs * 128 / 1e9 == pytest.approx(of_batch, abs=128 * 6e-4 + 0.05)


@pytest.mark.parametrize(
    ("kernels", "printed"), [(resnet101(), 7.8), (convnext_small(), 14.4), (efficientnet_v2_small(), 8.4)]
)
def test_multiply_adds_of_baselines(kernels: list[KernelCost], printed: float) -> None:
    """Figure 3 (ResNet101) and table 4."""
    assert round(multiply_adds(kernels) / 1e9, 1) == printed


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="batch must be positive, but is 0"):
        conv2d_cost(0, 8, 8, 4)
    with pytest.raises(ValueError, match="group_width must divide in_channels 8, but is 3"):
        conv2d_cost(1, 8, 8, 4, group_width=3)
    with pytest.raises(ValueError, match="out_channels must be a multiple of 4 groups, but is 6"):
        conv2d_cost(1, 8, 6, 4, group_width=2)
    with pytest.raises(ValueError, match="pixels must be positive"):
        conv2d_intensity(8, 8, pixels=0)
    with pytest.raises(ValueError, match="costs must hold at least one kernel"):
        analysis.mediant_intensity([])
    with pytest.raises(ValueError, match="expansion must make 3 channels a whole number"):
        analysis.fused_ffn(4, 3, 0.5)
    with pytest.raises(ValueError, match="kind must be one of"):
        KernelCost("layer", "unknown", 1, 1)


def test_importing_needs_numpy_only() -> None:
    """Scipy, matplotlib and tomli are imported where they are used."""
    for path in Path(analysis.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"scipy", "matplotlib", "tomli", "tomllib"}, path
