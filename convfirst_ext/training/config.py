"""The settings of a training run, and recipes: TOML files that hold them."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .fields import allowed, choice, number, switch, text, whole
from .requirements import train_extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    with train_extra():
        import tomli as tomllib

FOR_MODEL = "for_model"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; where a recipe leaves one out, the default here holds: digits without augmentation.

    Attributes:
        model: a name that timm knows; importing `convfirst_ext.models` adds ConvFirstNet to them.
        patch: swap layers for `convfirst_ext.nn`'s where a kernel exists.
        channels_last: keep images and weights in that memory format.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, at the last block.
        batch_norm: statistics of each process's images (local), of all processes' (sync, CUDA only), or the stored
            ones, which then do not change (frozen).
        data: "digits", or a folder with train/ and val/, each with a folder a class.
        train_size: height and width of training images.
        eval_size: height and width of test images.
        crop_pct: share of a test image's sides that its crop keeps.
        interpolation: of resized training images; random takes bilinear or bicubic for each.
        crop_scale: smallest share of a training image's area that a random crop keeps; 1 keeps all.
        crop_ratio: largest aspect ratio, or its inverse, of a random crop.
        hflip: probability of a horizontal flip.
        rotate: largest random rotation, degrees.
        shift: largest random shift, as a share of the side.
        zoom: largest relative change of size.
        auto_augment: one of timm's policies, for example rand-m9-mstd0.5; empty for none.
        erase_prob: probability of random erasing.
        erase_mode: what erased boxes hold: 0, a random colour, or random pixels.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.
        workers: processes that read images; 0 reads them in the process that trains.
        epochs: how often the training images are seen.
        batch_size: images of a step, over all processes together.
        optimizer: a name that timm's create_optimizer_v2 knows.
        lr: learning rate after warmup, at `lr_batch_size` images a step.
        lr_batch_size: `lr` is scaled by batch_size / lr_batch_size; 0 takes it as it is.
        momentum: of optimizers that have one.
        weight_decay: of weights, not of biases and normalization.
        optimizer_eps: the optimizer's epsilon; 0 for its own default.
        schedule: how the learning rate goes down; it is updated after every step.
        warmup_epochs: epochs, or parts of one, over which it goes up first.
        warmup_lr: where it starts; not scaled.
        decay_epochs: with the step schedule, epochs between two decays.
        decay_rate: with the step schedule, the factor of a decay.
        min_lr: where the cosine schedule ends.
        clip_grad: largest norm of all gradients together; 0 for no limit.
        loss: cross_entropy or binary_cross_entropy; with mixup or CutMix its form for soft targets.
        label_smoothing: of either loss.
        ema_decay: decay of the moving average of weights, which then is what is tested and saved; 0 for none.
        ema_warmup: start with a smaller decay, for short runs.
        amp: dtype of autocast; float16 also scales the loss.
        device: auto (CUDA where there is one), cpu, cuda or cuda:N.
        threads: of PyTorch; 0 for its own choice.
        seed: of everything that is drawn at random.
    """

    model: str = text("convfirstnet_pico", "the name of a timm model")
    patch: bool = switch(True)
    channels_last: bool = switch(True)
    drop_rate: float = number(0.0, 0.0, 0.99)
    drop_path_rate: float = number(0.0, 0.0, 0.99)
    batch_norm: str = choice("local", "sync", "frozen")

    data: str = text("digits", "digits or the path of a folder with train/ and val/")
    train_size: int = whole(64, 8)
    eval_size: int = whole(64, 8)
    crop_pct: float = number(1.0, 0.1, 1.0)
    interpolation: str = choice("bicubic", "bilinear", "random")
    crop_scale: float = number(1.0, 0.01, 1.0)
    crop_ratio: float = number(1.0, 1.0, 4.0)
    hflip: float = number(0.0, 0.0, 1.0)
    rotate: float = number(0.0, 0.0, 180.0)
    shift: float = number(0.0, 0.0, 0.5)
    zoom: float = number(0.0, 0.0, 0.9)
    auto_augment: str = text("", "the name of one of timm's policies, such as rand-m9-mstd0.5, or empty")
    erase_prob: float = number(0.0, 0.0, 1.0)
    erase_mode: str = choice("const", "rand", "pixel")
    mixup: float = number(0.0)
    cutmix: float = number(0.0)
    workers: int = whole(0, 0)

    epochs: int = whole(15, 1)
    batch_size: int = whole(32, 1)
    optimizer: str = text("adamw", "the name of one of timm's optimizers")
    lr: float = number(0.002, excluded=True)
    lr_batch_size: int = whole(0, 0)
    momentum: float = number(0.9, 0.0, 1.0)
    weight_decay: float = number(0.05)
    optimizer_eps: float = number(0.0)
    schedule: str = choice("cosine", "step", "constant")
    warmup_epochs: float = number(0.0)
    warmup_lr: float = number(1e-5)
    decay_epochs: float = number(10.0, excluded=True)
    decay_rate: float = number(0.1, 0.0, 1.0, excluded=True)
    min_lr: float = number(1e-5)
    clip_grad: float = number(0.0)
    loss: str = choice("cross_entropy", "binary_cross_entropy")
    label_smoothing: float = number(0.1, 0.0, 0.99)
    ema_decay: float = number(0.99, 0.0, 0.999999)
    ema_warmup: bool = switch(True)

    amp: str = choice("none", "bfloat16", "float16")
    device: str = text("auto", "auto, cpu, cuda or cuda:N")
    threads: int = whole(0, 0)
    seed: int = whole(0, 0)

    def __post_init__(self) -> None:
        """Checks every setting.

        Raises:
            ConfigError: one is of the wrong type or out of its range; the message names it, its value and what is
                allowed.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            rule = allowed(field)
            if not rule.accepts(value):
                raise ConfigError(f"{field.name} must be {rule.words}, got {value!r}")
            if isinstance(field.default, float):
                object.__setattr__(self, field.name, float(value))
        if self.warmup_epochs >= self.epochs:
            raise ConfigError(f"warmup_epochs must be less than epochs ({self.epochs}), got {self.warmup_epochs:g}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        return dataclasses.asdict(self)


SETTINGS = tuple(field.name for field in dataclasses.fields(TrainingConfig))


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a TOML file of settings; those of a table [for_model.NAME] hold for that model only.

    Raises:
        ConfigError: it cannot be read, is not TOML, or holds something that is no setting.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"recipe {path}: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {path} is not valid TOML: {error}") from None
    per_model = content.get(FOR_MODEL, {})
    if not isinstance(per_model, dict) or not all(isinstance(table, dict) for table in per_model.values()):
        raise ConfigError(f"recipe {path}: {FOR_MODEL} must hold one table a model, got {per_model!r}")
    for settings in ({key: value for key, value in content.items() if key != FOR_MODEL}, *per_model.values()):
        _check_names(settings, f"recipe {path}: ")
    return content


def make_config(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> TrainingConfig:
    """Settings of a recipe, then what it holds for the model, then the user's changes.

    Raises:
        ConfigError: a setting is unknown or its value not allowed.
    """
    _check_names(changes)
    settings = {key: value for key, value in recipe.items() if key != FOR_MODEL}
    model = {**settings, **changes}.get("model", TrainingConfig.model)
    tables = recipe.get(FOR_MODEL, {})
    return TrainingConfig(**{**settings, **(tables.get(model, {}) if isinstance(model, str) else {}), **changes})


def _check_names(settings: Mapping[str, Any], where: str = "") -> None:
    for key, value in settings.items():
        if key not in SETTINGS:
            close = difflib.get_close_matches(key, SETTINGS, n=1)
            hint = f"did you mean {close[0]}?" if close else "allowed are " + ", ".join(SETTINGS)
            raise ConfigError(f"{where}{key} = {value!r} is not a setting; {hint}")
