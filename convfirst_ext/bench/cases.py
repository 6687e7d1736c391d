"""A case: a model with non-trivial weights, an input and the eager output, written once for all contestants.

Freshly initialised networks have identity batch norms, zero biases and vanishing layer scales: activations
collapse, an engine that dropped a term would still agree, and denormals would slow some peers. So batch-norm
statistics are measured on a random input and then perturbed, and affine terms are drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """One thing to time: how to make the model, and the shape of its input.

    Args:
        name: what tables and plots call it.
        make_model: picklable; returns the module (its weights are overwritten).
        input_shape: N, C, H, W.
        channels_last_input: whether runtimes that take channels_last tensors as they are get one. A network
            starts from an image as a user has it (NCHW), a layer sits inside a channels_last network.
        group: the heading under which plots show the case; the batch size if not given.
    """

    name: str
    make_model: Callable[[], nn.Module]
    input_shape: tuple[int, int, int, int]
    channels_last_input: bool = False
    group: str = ""

    @property
    def title(self) -> str:
        """The name, with the batch size where it does not say it already."""
        return self.name if self.group else f"{self.name} b{self.batch}"

    @property
    def batch(self) -> int:
        """The number of images."""
        return self.input_shape[0]


@dataclass(frozen=True)
class PreparedCase:
    """A case whose state, input and reference output lie in the file at ``path``; small enough to pickle."""

    case: Case
    path: Path

    def load(self) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
        """Returns the model in eval mode with the shared weights, the NCHW input and the eager output."""
        saved = torch.load(self.path, weights_only=True)
        model = self.case.make_model().eval()
        model.load_state_dict(saved["state"])
        return model.requires_grad_(False), saved["input"], saved["reference"]


def prepare(case: Case, directory: Path, seed: int = 0) -> PreparedCase:
    """Draws weights and input from ``seed``, runs eager once and writes all three under ``directory``."""
    torch.manual_seed(seed)
    model = case.make_model().eval()
    image = torch.randn(case.input_shape)
    with torch.no_grad():
        randomize(model, (max(2, min(case.batch, 4)), *case.input_shape[1:]))
        reference = model(image)
    if not torch.isfinite(reference).all():
        raise RuntimeError(f"the reference output of {case.name} is not finite")
    shape = "x".join(map(str, case.input_shape))  # cases of one name and several sizes may share a directory
    path = directory / f"{case.name.replace('/', '_').replace(' ', '_')}-{shape}.pt"
    torch.save({"state": model.state_dict(), "input": image, "reference": reference}, path)
    return PreparedCase(case, path)


@torch.no_grad()
def randomize(model: nn.Module, calibration_shape: tuple[int, ...]) -> None:
    """Gives batch norms, biases and layer scales values that matter, in place, from torch's generator.

    Statistics are those of random images: others let activations of some deep networks explode, and with them every
    runtime's roundings.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # layer scale: 1e-6 at initialisation, which hides the whole block
            parameter.uniform_(0.1, 0.3)
        elif name.endswith("bias"):
            parameter.normal_(0.0, 0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.7, 1.3)
        norm.bias.normal_(0.0, 0.2)
    _measure_statistics(model, norms, calibration_shape)


def _measure_statistics(model: nn.Module, norms: list[nn.BatchNorm2d], shape: tuple[int, ...]) -> None:
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(torch.randn(shape))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
