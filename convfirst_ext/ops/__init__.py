"""Operators as functions, with the argument names, defaults and dtypes of ``torch.nn.functional``."""

from convfirst_ext.ops import chain, packed, selection
from convfirst_ext.ops.activation import ACTIVATIONS
from convfirst_ext.ops.conv1d import conv1d, conv_transpose1d
from convfirst_ext.ops.conv2d import conv2d
from convfirst_ext.ops.conv_transpose2d import conv_transpose2d
from convfirst_ext.ops.convfirst import convfirst
from convfirst_ext.ops.dense_conv2d import dense_conv2d
from convfirst_ext.ops.depthwise_conv2d import depthwise_conv2d
from convfirst_ext.ops.depthwise_separable import depthwise_separable
from convfirst_ext.ops.grouped_conv2d import grouped_conv2d
from convfirst_ext.ops.mbconv import mbconv
from convfirst_ext.ops.pointwise_conv2d import pointwise_conv2d
from convfirst_ext.ops.split_conv_transpose2d import split_conv_transpose2d
from convfirst_ext.ops.squeeze_excite import SqueezeExcite
from convfirst_ext.ops.strided_weight_grad import strided_weight_grad
from convfirst_ext.ops.trimmed_conv2d import trimmed_conv2d
from convfirst_ext.ops.winograd_conv2d import winograd_conv2d

__all__ = [
    "ACTIVATIONS",
    "SqueezeExcite",
    "chain",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "convfirst",
    "dense_conv2d",
    "depthwise_conv2d",
    "depthwise_separable",
    "grouped_conv2d",
    "mbconv",
    "packed",
    "pointwise_conv2d",
    "selection",
    "split_conv_transpose2d",
    "strided_weight_grad",
    "trimmed_conv2d",
    "winograd_conv2d",
]
