"""One network of the zoo, in a process of its own: ``python -m benchmarks.zoo_model NAME SIZE`` prints what it found.

Errors are relative to the largest magnitude of a float64 result. A random network can amplify rounding, so ours is
judged by what stock float32 is off, and gradients by what rounding of the image does to them in float64 too: at most
``MOST_ERROR``, or ``MOST_RATIO`` times that.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

import convfirst_ext as cf
import convfirst_ext.models  # noqa: F401  (timm knows ConvFirstNet from here on)
from convfirst_ext.testing.statistics import with_statistics

MOST_ERROR, MOST_RATIO = 1e-4, 16.0
ROUNDING = 1e-6
BATCH = 2


def create(name: str) -> nn.Module:
    """Returns a timm network, or torchvision's after the prefix "tv:", with random weights and statistics."""
    torch.manual_seed(0)
    if name.startswith("tv:"):
        import torchvision

        return with_statistics(torchvision.models.get_model(name.removeprefix("tv:"), weights=None))
    import timm

    return with_statistics(timm.create_model(name, pretrained=False))


def tensors_of(value: Any) -> list[Tensor]:
    """The floating tensors of a result, whatever holds them."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_of(part)] if isinstance(value, (list, tuple)) else []


def error_of(actual: list[Tensor], exact: list[Tensor]) -> float:
    """Largest difference over the largest magnitude, of the worst of several tensors; infinite where NaN.

    Tensors that are nothing beside the largest, such as gradients that a batch norm cancels, count as a thousandth.
    """
    if len(actual) != len(exact) or any(a.shape != e.shape for a, e in zip(actual, exact, strict=False)):
        return float("inf")
    magnitudes = [e.abs().max().item() if e.numel() else 0.0 for e in exact]
    least, worst = max([1e-30, *(1e-3 * magnitude for magnitude in magnitudes)]), 0.0
    for a, e, magnitude in zip(actual, exact, magnitudes, strict=True):
        error = (a.double() - e).abs().max().item() / max(magnitude, least) if e.numel() else 0.0
        worst = max(worst, error if error == error else float("inf"))
    return worst


def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """What a model gives in eval mode."""
    with torch.inference_mode():
        return tensors_of(model.eval()(image))


def gradients(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Gradients of all parameters in training mode, without anything random."""
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower() or "stochasticdepth" in type(module).__name__.lower():
            module.eval()
    torch.manual_seed(1)
    loss = sum((t * torch.randn(t.shape).to(t.dtype)).sum() for t in tensors_of(model(image)))
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)  # type: ignore[arg-type]
    return [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]


def moved_gradients(exact_model: nn.Module, image: Tensor) -> list[list[Tensor]]:
    """Gradients in float64 for images that differ by as much as float32 rounds.

    Where a ReLU's input is nearly zero its sign is chance, and with it the gradients of all layers before.
    """
    generator = torch.Generator().manual_seed(2)
    moved = [image.double() * (1 + ROUNDING * torch.randn(image.shape, generator=generator)) for _ in range(3)]
    return [gradients(copy.deepcopy(exact_model), image) for image in moved]


def judge(ours: float, stock: float) -> bool:
    """Whether our error is one of rounding."""
    return ours <= MOST_ERROR or ours <= MOST_RATIO * stock


def examine(name: str, size: int) -> dict[str, Any]:
    """Errors of ``optimize`` and ``patch`` on a network, and which of its blocks have kernels."""
    model = create(name).eval()
    image = torch.randn(BATCH, 3, size, size)
    keys = list(model.state_dict())
    exact_model = copy.deepcopy(model).double()
    exact, stock = outputs(exact_model, image.double()), outputs(model, image)
    fused = cf.optimize(model)
    found: dict[str, Any] = {
        "stock_error": error_of(stock, exact),
        "optimize_error": error_of(outputs(fused, image), exact),
    }
    records = cf.explain(fused, image, time=False).records
    found["blocks"] = len(records)
    found["fallbacks"] = dict(Counter(record.detail for record in records if record.kernel is None))
    of_stock, of_exact = gradients(copy.deepcopy(model), image), gradients(exact_model, image.double())
    patched = cf.patch(model)
    found["keys_unchanged"] = list(patched.state_dict()) == keys
    found["stock_gradient_error"] = error_of(of_stock, of_exact)
    found["gradient_error"] = error_of(gradients(patched, image), of_exact)
    found["gradient_sensitivity"] = max(error_of(of, of_exact) for of in moved_gradients(exact_model, image))
    found["passed"] = (
        found["keys_unchanged"]
        and judge(found["optimize_error"], found["stock_error"])
        and judge(found["gradient_error"], max(found["stock_gradient_error"], found["gradient_sensitivity"]))
    )
    return found


def main() -> None:
    """Prints one line of JSON."""
    torch.set_num_threads(2)
    print(json.dumps(examine(sys.argv[1], int(sys.argv[2]))))


if __name__ == "__main__":
    main()
