"""Modules: drop-ins for torch's layers, trainable blocks, and the packed inference modules that ``optimize`` emits."""

from convfirst_ext.nn.blur_pool import BlurPool
from convfirst_ext.nn.conv2d import Conv2d
from convfirst_ext.nn.conv_transpose2d import ConvTranspose2d
from convfirst_ext.nn.convfirst import ConvFirst
from convfirst_ext.nn.depthwise_separable import DepthwiseSeparableConv2d
from convfirst_ext.nn.drop_path import DropPath
from convfirst_ext.nn.mbconv import MBConv
from convfirst_ext.nn.packed_blur_pool import PackedBlurPool
from convfirst_ext.nn.packed_chain import PackedChain
from convfirst_ext.nn.packed_conv2d import PackedConv2d
from convfirst_ext.nn.packed_convnext_block import PackedConvNeXtBlock
from convfirst_ext.nn.packed_layer_norm import PackedLayerNorm
from convfirst_ext.nn.packed_linear import PackedLinear
from convfirst_ext.nn.packed_mbconv import PackedMBConv
from convfirst_ext.nn.packed_pool import PackedPool
from convfirst_ext.nn.squeeze_excite import SqueezeExcite

__all__ = [
    "BlurPool",
    "Conv2d",
    "ConvTranspose2d",
    "ConvFirst",
    "DepthwiseSeparableConv2d",
    "DropPath",
    "MBConv",
    "PackedBlurPool",
    "PackedChain",
    "PackedConv2d",
    "PackedConvNeXtBlock",
    "PackedLayerNorm",
    "PackedLinear",
    "PackedMBConv",
    "PackedPool",
    "SqueezeExcite",
]
