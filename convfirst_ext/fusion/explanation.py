"""``explain``: which kernel runs each block, or why torch does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from convfirst_ext import _native
from convfirst_ext.fusion import recognition
from convfirst_ext.nn import Conv2d, PackedMBConv
from convfirst_ext.nn.packed_module import PackedModule


@dataclass(frozen=True)
class Record:
    """One block of a model.

    Attributes:
        name: the original modules it stands for.
        kernel: the kernel that runs it, or None where torch does.
        shapes: input and output shape of its first call.
        detail: tiles of a fused block, or the reason for torch.
    """

    name: str
    kernel: str | None
    shapes: str
    detail: str


class Explanation:
    """Records in the order of execution; ``str`` gives a table."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        rows = [("block", "kernel", "shapes", "detail")]
        rows += [(r.name, r.kernel or "torch", r.shapes, r.detail) for r in self.records]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        ours = sum(r.kernel is not None for r in self.records)
        return "\n".join([*lines, f"{ours} of {len(self.records)} blocks run our kernels."])


def explain(model: nn.Module, example: Any) -> Explanation:
    """Runs the model once and tells, per block, the kernel chosen or the reason for falling back to torch.

    Args:
        model: stock, patched or optimized.
        example: an input tensor, or a tuple of arguments.

    Returns:
        Records in the order of execution. Convolutions of a stock model are listed with what ``optimize`` would choose.

    Raises:
        TypeError: model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {type(model).__name__}.")
    records: list[Record] = []
    seen: set[int] = set()
    handles = []

    def record(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if id(module) not in seen and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                seen.add(id(module))
                records.append(_describe(name, module, args[0], output))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, (PackedModule, nn.Conv2d, nn.ConvTranspose2d)):
            handles.append(module.register_forward_hook(record(name)))
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(*example) if isinstance(example, tuple) else model(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return Explanation(records)


def _describe(name: str, module: nn.Module, input: Tensor, output: Tensor) -> Record:
    shapes = f"{_shape(input)} -> {_shape(output)}"
    if isinstance(module, PackedMBConv):
        return Record(module.source, module.describe(), shapes, _tiles(module, input))
    if isinstance(module, PackedModule):
        return Record(module.source, module.describe(), shapes, "")
    if isinstance(module, Conv2d):
        choice = recognition.choose_for(module)
        return Record(name, choice.kernel, shapes, choice.reason)
    if isinstance(module, nn.Conv2d):
        return Record(name, None, shapes, _reason(module))
    return Record(name, None, shapes, "no kernel for transposed convolutions")


def _reason(conv: nn.Conv2d) -> str:
    hooks = recognition.has_hooks(conv) and len(conv._forward_hooks) > 1  # one is explain's own
    if hooks or conv._forward_pre_hooks:
        return "the module has hooks"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r}"
    choice = recognition.choose_for(conv)
    if choice.kernel is None:
        return choice.reason
    return f"stock torch; patch or optimize would use the {choice.kernel} kernel ({choice.reason})"


def _tiles(module: PackedMBConv, input: Tensor) -> str:
    kernel = module.window.kernel
    plan = _native.plan_tiles(
        input.shape[2],
        input.shape[3],
        module.in_channels,
        module.hidden_channels,
        module.out_channels,
        kernel[0],
        module.window.stride[0],
        module.expand_weight is not None,
        module.se_reduce_weight is not None,
        input.shape[0],
        torch.get_num_threads(),
    )
    return f"{plan['order']}: {plan['row_group']} rows x {plan['hidden_channels']} hidden channels"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
