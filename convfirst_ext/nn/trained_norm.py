"""Batch norm, with the activation it has inside if any, that keeps nothing but its input for the backward pass."""

from __future__ import annotations

from torch import Tensor, nn

from convfirst_ext.nn.trained_module import TrainedModule, is_plain_norm, is_watched, update_running
from convfirst_ext.ops import normed_activation
from convfirst_ext.ops.layout import restore_layout


class TrainedNorm(TrainedModule):
    """A ``torch.nn.BatchNorm2d``, or timm's with an activation.

    Attributes:
        trained_activation: what follows the norm inside the module, one of ``normed_activation.ACTIVATIONS``.
    """

    trained_activation: str

    def fused(self, input: Tensor) -> Tensor | None:
        """The norm's result, or None where torch must compute it."""
        pixels = input.shape[0] * input.shape[2] * input.shape[3]
        if pixels < 2 or not is_plain_norm(self) or any(is_watched(m) for m in self.children()):
            return None
        assert isinstance(self, nn.BatchNorm2d)
        if input.shape[1] != self.num_features:
            return None
        output, mean, variance = normed_activation.batch_norm(
            input, self.weight, self.bias, self.eps, self.trained_activation
        )
        update_running(self, mean, variance, pixels)
        return restore_layout(output, input)
