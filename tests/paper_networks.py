"""Networks of Lavin's figures 3 and 15 as lists of kernels, layer-wise unless told, float16, 128 images."""

from convfirst_ext import analysis
from convfirst_ext.analysis import BlockShape, KernelCost, conv2d_cost, elementwise_cost

BATCH = 128

# Table 3: channels of stages 1 to 5 and blocks in them. The stem has the channels of stage 1.
CONVFIRSTNET = {
    "pico": ((16, 32, 48, 128, 128), (1, 2, 3, 11, 11)),
    "nano": ((24, 48, 64, 160, 160), (1, 3, 4, 14, 14)),
    "tiny": ((24, 48, 72, 192, 192), (2, 5, 6, 18, 18)),
    "small": ((32, 64, 96, 256, 256), (2, 5, 6, 18, 18)),
}


def convfirstnet_blocks(name: str) -> list[BlockShape]:
    """All blocks at 256x256 pixels; those of the first three stages are ConvFirst, the others MBConv."""
    channels, depths = CONVFIRSTNET[name]
    size, width, blocks = 128, channels[0], []
    stages = zip((3, 6, 6, 4, 4), (1, 2, 2, 2, 2), channels, depths, strict=True)
    for expansion, stride, outputs, depth in stages:
        for index in range(depth):
            step = stride if index == 0 else 1
            blocks.append(BlockShape(BATCH, size, width, expansion, outputs, step))
            size, width = size // step, outputs
    return blocks


def is_convfirst(name: str, index: int) -> bool:
    return index < sum(CONVFIRSTNET[name][1][:3])


def convfirstnet(name: str, fused: bool) -> list[KernelCost]:
    channels, _ = CONVFIRSTNET[name]
    kernels = [conv2d_cost(BATCH, 3, channels[0], 256, stride=2, name="stem")]
    for index, block in enumerate(convfirstnet_blocks(name)):
        convfirst = is_convfirst(name, index)
        if fused:
            kernels.append(analysis.convfirst_block(block) if convfirst else analysis.mbconv_block(block))
        else:
            kernels += analysis.convfirst_kernels(block) if convfirst else analysis.mbconv_kernels(block)
    return kernels + head(channels[-1], 1280, 8)


def head(channels: int, width: int, size: int) -> list[KernelCost]:
    pooled = elementwise_cost("average pooling", BATCH * size**2 * width, BATCH * width)
    return [conv2d_cost(BATCH, channels, width, size, 1), pooled, conv2d_cost(BATCH, width, 1000, 1, 1)]


def resnet101() -> list[KernelCost]:
    """224x224 pixels; the strided layer of a block is its 3x3."""
    kernels = [conv2d_cost(BATCH, 3, 64, 224, 7, stride=2)]
    kernels.append(elementwise_cost("max pooling", BATCH * 112**2 * 64, BATCH * 56**2 * 64))
    size, channels = 56, 64
    for stage, (depth, width) in enumerate(zip((3, 4, 23, 3), (64, 128, 256, 512), strict=True)):
        for index in range(depth):
            stride = 2 if stage and index == 0 else 1
            kernels.append(conv2d_cost(BATCH, channels, width, size, 1))
            kernels.append(conv2d_cost(BATCH, width, width, size, stride=stride))
            if index == 0:
                kernels.append(conv2d_cost(BATCH, channels, 4 * width, size, 1, stride=stride))
            size, channels = size // stride, 4 * width
            kernels.append(conv2d_cost(BATCH, width, channels, size, 1, residual=True))
    kernels.append(elementwise_cost("average pooling", BATCH * size**2 * channels, BATCH * channels))
    return [*kernels, conv2d_cost(BATCH, channels, 1000, 1, 1)]


def convnext_small() -> list[KernelCost]:
    """288x288 pixels; layer normalizations are kernels of their own."""

    def norm(size: int, channels: int) -> KernelCost:
        return elementwise_cost("norm", BATCH * size**2 * channels, BATCH * size**2 * channels)

    kernels, size, channels = [conv2d_cost(BATCH, 3, 96, 288, 4, stride=4), norm(72, 96)], 72, 96
    for depth, width in zip((3, 3, 27, 3), (96, 192, 384, 768), strict=True):
        if width > channels:
            kernels += [norm(size, channels), conv2d_cost(BATCH, channels, width, size, 2, stride=2)]
            size, channels = size // 2, width
        for _ in range(depth):
            kernels += [
                conv2d_cost(BATCH, width, width, size, 7, group_width=1),
                norm(size, width),
                conv2d_cost(BATCH, width, 4 * width, size, 1),
                conv2d_cost(BATCH, 4 * width, width, size, 1, residual=True),
            ]
    kernels.append(elementwise_cost("average pooling", BATCH * size**2 * channels, BATCH * channels))
    return [*kernels, conv2d_cost(BATCH, channels, 1000, 1, 1)]


def efficientnet_v2_small() -> list[KernelCost]:
    """384x384 pixels, the size that gives the 8.4 G multiply-adds of table 4."""
    kernels, size, channels = [conv2d_cost(BATCH, 3, 24, 384, stride=2)], 192, 24
    stages = ((1, 1, 24, 2), (4, 2, 48, 4), (4, 2, 64, 4), (4, 2, 128, 6), (6, 1, 160, 9), (6, 2, 256, 15))
    for stage, (expansion, stride, width, depth) in enumerate(stages):
        for index in range(depth):
            step = stride if index == 0 else 1
            hidden, small = expansion * channels, size // step
            residual = step == 1 and channels == width
            if stage == 0:
                kernels.append(conv2d_cost(BATCH, channels, width, size, residual=residual))
            elif stage < 3:
                kernels.append(conv2d_cost(BATCH, channels, hidden, size, stride=step))
                kernels.append(conv2d_cost(BATCH, hidden, width, small, 1, residual=residual))
            else:
                pixels, pooled = BATCH * small**2 * hidden, BATCH * hidden
                kernels += [
                    conv2d_cost(BATCH, channels, hidden, size, 1),
                    conv2d_cost(BATCH, hidden, hidden, size, group_width=1, stride=step),
                    elementwise_cost("squeeze", pixels, pooled),
                    conv2d_cost(BATCH, hidden, channels // 4, 1, 1),
                    conv2d_cost(BATCH, channels // 4, hidden, 1, 1),
                    elementwise_cost("gating", pixels + pooled, pixels),
                    conv2d_cost(BATCH, hidden, width, small, 1, residual=residual),
                ]
            size, channels = small, width
    return kernels + head(channels, 1280, size)
