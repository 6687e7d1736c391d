"""What changes as a run goes on: weights, their average, optimizer, schedule, loss scale and counters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .building import build_loss, build_mixup, build_model, build_optimizer, build_schedule
from .config import TrainingConfig
from .distributed import Group
from .requirements import train_extra

with train_extra():
    from timm.utils.distributed import distribute_bn
    from timm.utils.model_ema import ModelEmaV3

_HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer:
    """Takes steps; its `state_dict` is all that a later process needs to take the next one."""

    def __init__(self, config: TrainingConfig, classes: int, steps_per_epoch: int, group: Group) -> None:
        self.config = config
        self.group = group
        self.step = 0
        self.model = build_model(config, classes, group)
        self.optimizer = build_optimizer(config, self.model)
        self.schedule = build_schedule(config, self.optimizer, steps_per_epoch)
        self.scaler = torch.amp.grad_scaler.GradScaler(group.device.type, enabled=config.amp == "float16")
        self.average: Any = None
        if config.ema_decay:
            self.average = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=config.ema_warmup)
        self._mixup = build_mixup(config, classes, group.share_of(config.batch_size))
        self._loss = build_loss(config)
        self._parallel = group.wrap(self.model)

    @property
    def tested_model(self) -> nn.Module:
        """The network whose accuracy counts: the averaged weights where there are any."""
        return self.model if self.average is None else self.average.module

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_mode(self) -> None:
        """Makes the network ready for steps; frozen batch norm keeps to its stored statistics."""
        self._parallel.train()
        if self.config.batch_norm == "frozen":
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def take_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step on this process's images; returns their mean loss, on the device."""
        images, labels = self.to_device(images), labels.to(self.group.device, non_blocking=True)
        if self._mixup is not None:
            images, labels = self._mixup(images, labels)
        with self.autocast():
            outputs = self._parallel(images)
        loss: Tensor = self._loss(outputs.float(), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self.schedule.step_update(self.step)
        if self.average is not None:
            self.average.update(self.model, step=self.step)
        return loss.detach()

    def end_epoch(self) -> None:
        """Averages over the processes what each of them counted on its own images."""
        if self.group.size > 1:
            for model in (self.model, self.average):
                if model is not None:
                    distribute_bn(model, self.group.size, reduce=True)

    def to_device(self, images: Tensor) -> Tensor:
        """Images where, and in the memory format that, the network wants them."""
        memory_format = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return images.to(self.group.device, non_blocking=True, memory_format=memory_format)

    def autocast(self) -> torch.autocast:
        """The context in which the network runs."""
        half = _HALVES.get(self.config.amp)
        return torch.autocast(self.group.device.type, dtype=half, enabled=half is not None)

    def state_dict(self) -> dict[str, Any]:
        """Everything that steps change, but for the random number generators."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets everything to what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
