"""What is done to an image before the network sees it: timm's pipeline, behind a random affine map."""

from __future__ import annotations

from typing import Any

from .config import TrainingConfig
from .data import DIGITS, Transform
from .errors import ConfigError
from .requirements import train_extra

with train_extra():
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.data.transforms_factory import create_transform
    from torchvision import transforms


def training_transform(config: TrainingConfig) -> Transform:
    """Random affine map, crop, flip, timm's policy, normalization and random erasing, as far as they are asked for.

    Random erasing is part of the pipeline and not of timm's loader, which would draw its boxes from the generator of
    the process that trains: then they would depend on the order of images.
    """
    try:
        pipeline = create_transform(
            input_size=(3, config.train_size, config.train_size),
            is_training=True,
            scale=(config.crop_scale, 1.0),
            ratio=(1.0 / config.crop_ratio, config.crop_ratio),
            hflip=config.hflip,
            color_jitter=None,  # type: ignore[arg-type]  # timm takes it
            auto_augment=config.auto_augment or None,
            interpolation=config.interpolation,
            re_prob=config.erase_prob,
            re_mode=config.erase_mode,
            **_normalization(config),
        )
    except (AssertionError, ValueError, TypeError, IndexError):  # timm asserts as it parses a policy's name
        allowed = "the name of one of timm's policies, such as rand-m9-mstd0.5, or empty"
        raise ConfigError(f"auto_augment must be {allowed}, got {config.auto_augment!r}") from None
    transform: Transform = transforms.Compose([*_affine(config), pipeline])
    return transform


def evaluation_transform(config: TrainingConfig) -> Transform:
    """Resizes, crops the middle and normalizes."""
    transform: Transform = create_transform(
        input_size=(3, config.eval_size, config.eval_size),
        crop_pct=config.crop_pct,
        interpolation="bicubic" if config.interpolation == "random" else config.interpolation,
        **_normalization(config),
    )
    return transform


def _affine(config: TrainingConfig) -> list[Any]:
    if not (config.rotate or config.shift or config.zoom):
        return []
    return [
        transforms.RandomAffine(
            config.rotate,
            translate=(config.shift, config.shift),
            scale=(1.0 - config.zoom, 1.0 + config.zoom),
            interpolation=transforms.InterpolationMode.BILINEAR,
        )
    ]


def _normalization(config: TrainingConfig) -> dict[str, Any]:
    if config.data == DIGITS:
        return {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
