"""ConvFirstNet: ConvFirst blocks in early stages, MBConv in late ones (Lavin, arXiv 2404.03617, section 6, table 3)."""

from __future__ import annotations

import math
import operator
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.classifier import create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn

from convfirst_ext.nn import ConvFirst, MBConv

# Stages 1 to 5: the block, its expansion, the stride of the first block. The stem halves the image before them.
_STAGES: tuple[tuple[type[ConvFirst] | type[MBConv], int, int], ...] = (
    (ConvFirst, 3, 1),
    (ConvFirst, 6, 2),
    (ConvFirst, 6, 2),
    (MBConv, 4, 2),
    (MBConv, 4, 2),
)


class ConvFirstNet(nn.Module):
    """Stem, five stages and classifier of Lavin's table 3, with the interface of timm's models.

    What the paper leaves open: the 1x1 convolution of the head has batch norm and SiLU, as the stage before it, and
    stochastic depth grows linearly from the first block to the last. Convolutions before a batch norm add no bias,
    which would change nothing but the number of parameters: 0.30 to 0.43 % below the paper's table 9, and 0.12 % above
    it at most with ``conv_bias=True``.

    Args:
        channels: of stages 1 to 5, multiples of group_width; the stem has those of stage 1.
        depths: blocks of stages 1 to 5.
        num_classes: outputs of the classifier, 0 for none.
        in_chans: channels of the image.
        global_pool: timm's name of the pooling before the classifier; "" for none.
        head_width: channels that are pooled.
        group_width: channels of a group in the blocks' 3x3 convolutions.
        conv_bias: whether convolutions before a batch norm add a bias.
        drop_rate: dropout before the classifier; the paper trains Pico with 0.2, the others with 0.3.
        drop_path_rate: stochastic depth of the last block; the paper trains with 0.2.

    Raises:
        TypeError: channels or depths holds no ints.
        ValueError: channels or depths has not five positive numbers, or channels is no multiple of group_width.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        depths: tuple[int, ...],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        head_width: int = 1280,
        group_width: int = 8,
        conv_bias: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        for name, values in (("channels", channels), ("depths", depths)):
            try:
                sizes = [operator.index(value) for value in values]
            except TypeError:
                raise TypeError(f"{name} must be {len(_STAGES)} ints, but is {values!r}.") from None
            if len(sizes) != len(_STAGES) or min(sizes) < 1:
                raise ValueError(f"{name} must be {len(_STAGES)} positive numbers, but is {values!r}.")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []

        width = channels[0]
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 3, 2, 1, bias=conv_bias), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential()
        reduction, index = 2, 0
        for (block, expansion, first_stride), out_channels, depth in zip(_STAGES, channels, depths, strict=True):
            stage = nn.Sequential()
            for position in range(depth):
                stage.append(
                    block(
                        width,
                        out_channels,
                        stride=first_stride if position == 0 else 1,
                        expansion=expansion,
                        group_width=group_width,
                        bias=conv_bias,
                        drop_path=drop_path_rate * index / max(1, sum(depths) - 1),
                    )
                )
                width, index = out_channels, index + 1
            reduction *= first_stride
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{len(self.stages)}"})
            self.stages.append(stage)

        self.head_conv = nn.Conv2d(width, head_width, 1, bias=conv_bias)
        self.head_norm = nn.BatchNorm2d(head_width)
        self.head_activation = nn.SiLU()
        self.num_features = head_width
        self.global_pool, self.head_drop, self.classifier = create_classifier(
            head_width, num_classes, pool_type=global_pool, drop_rate=drop_rate
        )
        self.head_hidden_size: int = head_width * self.global_pool.feat_mult()
        self.apply(_initialize)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm groups parameters for layer-wise learning rates; coarse: by stages."""
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^head_(?:conv|norm)", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps only the blocks' inputs and computes the rest again in the backward pass."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The layer that gives the classes."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts a fresh classifier in.

        Args:
            num_classes: 0 for none.
            global_pool: timm's name of the pooling, "" for none, None for what there is.
        """
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, classifier = create_classifier(self.num_features, num_classes, pool_type=pool_type)
        classifier.apply(_initialize)
        self.classifier = classifier.to(self.head_conv.weight).train(self.training)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, head_width, H', W'), where H' = ceil(H / 32); at least 17x17 pixels."""
        x = self.stem(x)
        x = checkpoint_seq(self.stages, x, flatten=True) if self.grad_checkpointing else self.stages(x)
        return self.head_activation(self.head_norm(self.head_conv(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to (N, num_classes); pre_logits: to what the classifier takes."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, num_classes); to (N, head_width) without a classifier."""
        return self.forward_head(self.forward_features(x))


def _initialize(module: nn.Module) -> None:
    """EfficientNet's initial values: convolutions keep the variance of gradients, group by group."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = 1.0 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _configuration() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "test_input_size": (3, 256, 256),
        "min_input_size": (3, 17, 17),
        "pool_size": (7, 7),
        "test_pool_size": (8, 8),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0",
        "classifier": "classifier",
        "paper_ids": "arXiv:2404.03617",
    }


default_cfgs = generate_default_cfgs(
    {f"convfirstnet_{size}.untrained": _configuration() for size in ("pico", "nano", "tiny", "small")}
)


def _create(name: str, pretrained: bool, options: dict[str, Any], **shape: tuple[int, ...]) -> ConvFirstNet:
    return build_model_with_cfg(
        ConvFirstNet,
        name,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4), "flatten_sequential": True},
        **(shape | options),
    )


@register_model
def convfirstnet_pico(pretrained: bool = False, **options: Any) -> ConvFirstNet:
    """0.860 G multiply-adds at 256x256; there are no weights yet."""
    return _create("convfirstnet_pico", pretrained, options, channels=(16, 32, 48, 128, 128), depths=(1, 2, 3, 11, 11))


@register_model
def convfirstnet_nano(pretrained: bool = False, **options: Any) -> ConvFirstNet:
    """1.812 G multiply-adds at 256x256; there are no weights yet."""
    return _create("convfirstnet_nano", pretrained, options, channels=(24, 48, 64, 160, 160), depths=(1, 3, 4, 14, 14))


@register_model
def convfirstnet_tiny(pretrained: bool = False, **options: Any) -> ConvFirstNet:
    """3.227 G multiply-adds at 256x256; there are no weights yet."""
    return _create("convfirstnet_tiny", pretrained, options, channels=(24, 48, 72, 192, 192), depths=(2, 5, 6, 18, 18))


@register_model
def convfirstnet_small(pretrained: bool = False, **options: Any) -> ConvFirstNet:
    """5.493 G multiply-adds at 256x256; there are no weights yet."""
    return _create("convfirstnet_small", pretrained, options, channels=(32, 64, 96, 256, 256), depths=(2, 5, 6, 18, 18))
