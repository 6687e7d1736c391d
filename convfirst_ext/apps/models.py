"""Makes the model that a user names: of timm, of torchvision, or of a function of their own."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NamedTuple

from torch import nn

from .networks import check_network
from .photos import printable
from .requirements import models_extra


class NamedModel(NamedTuple):
    """A model in eval mode and the size of an image that it is made for.

    Attributes:
        model: its weights are random, or what the user's function gave it.
        channels: of an image.
        size: height and width of an image.
    """

    model: nn.Module
    channels: int
    size: int


def make_model(name: str) -> NamedModel:
    """Makes a model.

    Args:
        name: of timm's, else of torchvision's, or ``module:function`` where the function gives a torch.nn.Module;
            modules are also looked for in the present folder.

    Raises:
        ValueError: there is none; the message is one line.
        MissingPackageError: timm or torchvision is not installed.
    """
    if ":" in name:
        return NamedModel(_call(name).eval(), 3, 224)
    with models_extra():
        import timm
        import torchvision

        import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)

    if not timm.is_model(name) and name in torchvision.models.list_models():
        model: nn.Module = torchvision.models.get_model(name, weights=None, **_without_backbone_weights(name))
        return NamedModel(model.eval(), 3, _image_size(name))
    check_network(name)
    model = timm.create_model(name).eval()
    configuration: Any = model.pretrained_cfg
    channels, height, _ = configuration.get("input_size", (3, 224, 224))
    return NamedModel(model, channels, height)


def _call(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        make: Any = importlib.import_module(module)
        for part in function.split("."):
            make = getattr(make, part)
        model = make()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ValueError(f"{printable(name)}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not isinstance(model, nn.Module):
        raise ValueError(f"{printable(name)}: gives {type(model).__name__}, it must give a torch.nn.Module")
    return model


def _without_backbone_weights(name: str) -> dict[str, None]:
    import torchvision

    weights: Any = torchvision.models.get_model_builder(name)
    takes = "weights_backbone" in getattr(weights, "__wrapped__", weights).__code__.co_varnames
    return {"weights_backbone": None} if takes else {}


def _image_size(name: str) -> int:
    """Of torchvision's newest weights, or 224."""
    import torchvision

    weights: Any = torchvision.models.get_model_weights(name)
    crop = getattr(weights.DEFAULT.transforms(), "crop_size", [224])
    return int(crop[0])
