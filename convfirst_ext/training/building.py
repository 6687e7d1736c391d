"""A network, an optimizer, a schedule and a loss, made of timm's parts after the settings."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from convfirst_ext.fusion import patch

from .config import TrainingConfig
from .distributed import Group
from .errors import ConfigError
from .requirements import train_extra

with train_extra():
    import timm
    from timm.data.mixup import Mixup
    from timm.layers.norm_act import convert_sync_batchnorm
    from timm.loss.binary_cross_entropy import BinaryCrossEntropy
    from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
    from timm.scheduler.scheduler_factory import create_scheduler_v2

    import convfirst_ext.models  # noqa: F401  (registers ConvFirstNet with timm)


def build_model(config: TrainingConfig, classes: int, group: Group) -> nn.Module:
    """The network with fresh weights, on its device, layers swapped and batch norm as asked for."""
    _check_name("model", config.model, timm.list_models(), timm.is_model(config.model))
    if config.batch_norm == "sync" and group.device.type != "cuda":
        raise ConfigError("batch_norm must be local or frozen on the CPU, where PyTorch cannot share it, got 'sync'")
    try:
        model: nn.Module = timm.create_model(
            config.model,
            num_classes=classes,
            drop_rate=config.drop_rate or None,
            drop_path_rate=config.drop_path_rate or None,
        )
    except TypeError as error:
        raise ConfigError(f"model {config.model} does not take these settings: {error}") from None
    if config.batch_norm == "sync" and group.size > 1:
        model = convert_sync_batchnorm(model)
    if config.patch:
        model = patch(model)
    model = model.to(group.device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def build_optimizer(config: TrainingConfig, model: nn.Module) -> Optimizer:
    """Timm's optimizer of that name; the learning rate goes with the batch size."""
    names = list_optimizers()
    _check_name("optimizer", config.optimizer, names, config.optimizer in names)
    epsilon: dict[str, Any] = {"eps": config.optimizer_eps} if config.optimizer_eps else {}
    optimizer: Optimizer = create_optimizer_v2(
        model,
        config.optimizer,
        lr=learning_rate(config),
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        **epsilon,
    )
    return optimizer


def learning_rate(config: TrainingConfig) -> float:
    """The learning rate after warmup: proportional to the batch size where the recipe names the one it was made for."""
    return config.lr * (config.batch_size / config.lr_batch_size if config.lr_batch_size else 1.0)


def build_schedule(config: TrainingConfig, optimizer: Optimizer, steps_per_epoch: int) -> Any:
    """Timm's schedule of that name, to be updated after every step."""
    schedule, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,  # type: ignore[arg-type]  # a part of an epoch is fine
        warmup_lr=config.warmup_lr,
        decay_epochs=config.decay_epochs,
        decay_rate=config.decay_rate,
        min_lr=config.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule


def build_mixup(config: TrainingConfig, classes: int, batch_size: int) -> Any | None:
    """Timm's Mixup, which also makes the labels soft, or None where the recipe has neither mixup nor CutMix."""
    if not (config.mixup or config.cutmix):
        return None
    if batch_size % 2:
        raise ConfigError(f"batch_size must be even in every process for mixup and cutmix, got {batch_size}")
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)


def build_loss(config: TrainingConfig) -> nn.Module:
    """Timm's loss for the labels that training has: soft ones behind mixup, classes otherwise."""
    loss: nn.Module
    if config.loss == "binary_cross_entropy":
        loss = BinaryCrossEntropy(smoothing=config.label_smoothing)
    elif config.mixup or config.cutmix:
        loss = SoftTargetCrossEntropy()
    elif config.label_smoothing:
        loss = LabelSmoothingCrossEntropy(config.label_smoothing)
    else:
        loss = nn.CrossEntropyLoss()
    return loss


def _check_name(setting: str, name: str, known: list[Any], is_known: bool) -> None:
    if not is_known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"{setting} must be one of the {len(known)} that timm knows, got {name!r}{hint}")
