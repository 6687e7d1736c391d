"""``explain``: which kernel runs each block, what it costs and how near that is to the machine's ceilings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from convfirst_ext.analysis import conv_transpose2d_multiply_adds
from convfirst_ext.analysis.ceilings import Ceilings
from convfirst_ext.fusion import recognition
from convfirst_ext.fusion.ceilings import ceilings_for
from convfirst_ext.fusion.chain_watch import ChainWatch
from convfirst_ext.fusion.explanation_table import table
from convfirst_ext.fusion.kernel_rates import rates_for
from convfirst_ext.fusion.prediction import Forecast
from convfirst_ext.fusion.records import ChainTime, Record, Totals, totals_of
from convfirst_ext.fusion.stopwatch import Stopwatch
from convfirst_ext.fusion.tiles import tiles_of
from convfirst_ext.fusion.work import Call, convolution_work, fused_work, packed_work
from convfirst_ext.nn import Conv2d, ConvTranspose2d, PackedMBConv
from convfirst_ext.nn.fused_blocks import FusedConvFirst, FusedMBConv
from convfirst_ext.nn.packed_module import PackedModule

_FUSED = (FusedConvFirst, FusedMBConv)
_LISTED = (PackedModule, nn.Conv2d, nn.ConvTranspose2d, *_FUSED)


class Explanation:
    """Records in the order of execution; ``str`` gives a table.

    Attributes:
        records: one a block.
        ceilings: what the times are compared with, or None where nothing was timed.
        chains: what the calls take that run several blocks; empty where nothing was timed.
    """

    def __init__(
        self, records: list[Record], ceilings: Ceilings | None = None, chains: list[ChainTime] | None = None
    ) -> None:
        self.records = records
        self.ceilings = ceilings
        self.chains = chains or []

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def totals(self) -> Totals:
        """Sums over all records."""
        return totals_of(self.records)

    def to_dict(self) -> list[dict[str, Any]]:
        """The records as plain dicts of strings, numbers and None; the keys are the fields of ``Record``."""
        return [asdict(record) for record in self.records]

    def __str__(self) -> str:
        totals = self.totals
        ours = sum(record.kernel is not None for record in self.records)
        summary = f"{ours} of {len(self.records)} blocks run our kernels"
        if totals.fallback_share is not None:
            summary += f"; layers left to torch take {100 * totals.fallback_share:.0f} % of the time"
        lines = [*table(self.records, totals), f"{summary}."]
        for chain in self.chains:
            lines.append(f"{chain.name}: {chain.blocks} blocks in one call, {1e3 * chain.seconds:.3f} ms.")
        if totals.predicted_seconds is not None:
            lines.append(f"Predicted from the rates of the kernels: {1e3 * totals.predicted_seconds:.3f} ms.")
        if self.ceilings is not None:
            lines.append(f"Ceilings of {self.ceilings}.")
        return "\n".join(lines)


def explain(model: nn.Module, example: Any, time: bool = True, predict: bool = False) -> Explanation:
    """Runs the model once and tells, per block, the kernel chosen or the reason for torch, its cost and its time.

    A block is a packed module or a convolution; other layers are not listed. With ``time`` each is called by itself on
    the input it got, its caches warm, for about 20 ms (about three seconds for all, unless single calls take longer),
    and compared with the machine's peak and copy bandwidth, which are measured once a process and number of threads.
    Blocks of a chain are timed where they run, inside it.

    Args:
        model: stock, patched or optimized; it is not changed.
        example: an input tensor, or a tuple of arguments; they are not changed.
        time: whether to measure times. Blocks off the CPU are not timed.
        predict: whether to predict the times of our blocks from the rates of their kernels, which are measured once in
            about two seconds unless `convfirst info --measure` has kept them.

    Returns:
        Records in the order of execution, of each module's first call. Convolutions of a stock model are listed with
        what ``optimize`` would choose, and timed as torch runs them.

    Raises:
        TypeError: model is not a module, example neither a tensor nor a tuple, or time or predict no bool.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but is {type(model).__name__}.")
    if not isinstance(example, (Tensor, tuple)):
        raise TypeError(f"example must be a tensor or a tuple of arguments, but is {type(example).__name__}.")
    for name, value in (("time", time), ("predict", predict)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, but is {value!r}.")
    forecast = Forecast(rates_for(torch.get_num_threads())) if predict else None
    # A container that can run its blocks one by one is none itself.
    listed: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _LISTED) and not _is_container(module)
    }
    arguments = _copy(example if isinstance(example, tuple) else (example,))
    with ExitStack() as stack:
        watch = stack.enter_context(Stopwatch(len(listed))) if time else None
        stack.enter_context(_in_eval_mode(model))
        chains = stack.enter_context(_one_by_one(model, watch))
        records = stack.enter_context(_recording(listed, watch, chains, forecast))
        stack.enter_context(torch.no_grad())
        model(*arguments)
    if forecast is not None:
        records = forecast.added_to(records)
    if all(record.seconds is None for record in records):
        return Explanation(records)
    ceilings = ceilings_for(torch.get_num_threads())
    return Explanation([_compared(record, ceilings) for record in records], ceilings, chains.times)


@contextmanager
def _recording(
    listed: dict[str, nn.Module], watch: Stopwatch | None, chains: ChainWatch, forecast: Forecast | None
) -> Iterator[list[Record]]:
    """Gives the list that fills with a record at the first call of every listed module."""
    records: list[Record] = []
    seen: set[nn.Module] = set()

    def recorder(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            values = [*args, *kwargs.values()]
            tensors = [value for value in values if isinstance(value, Tensor)]
            if module in seen or not tensors or not isinstance(output, Tensor):
                return
            seen.add(module)
            call = Call(tensors[0], tensors[1] if len(tensors) > 1 else None, output)
            record = _describe(name, module, call)
            if forecast is not None:
                forecast.see(len(records), module, call)
            if watch is not None and output.device.type == "cpu":
                seconds = chains.seconds.get(module)
                if seconds is None:
                    # Timed at once, so that no input is kept longer than the model keeps it; past users' hooks.
                    seconds = watch.median_seconds(lambda: module.forward(*args, **kwargs))
                record = replace(record, seconds=seconds)
            records.append(record)

        return hook

    handles = []
    try:
        for name, module in listed.items():
            handles.append(module.register_forward_hook(recorder(name), with_kwargs=True))
        yield records
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:  # one by one: parts of a model may be frozen
            module.training = training


@contextmanager
def _one_by_one(model: nn.Module, watch: Stopwatch | None) -> Iterator[ChainWatch]:
    """Lets containers that make one call for all their blocks call them singly, so that each can be seen."""
    chains = ChainWatch(watch)
    changed: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for name, module in model.named_modules():
            if _is_container(module):
                own = {key: value for key, value in vars(module).items() if key == "forward"}
                changed.append((module, own))
                module.__dict__["forward"] = chains.stepwise(name, module)
        yield chains
    finally:
        for module, own in changed:
            module.__dict__.pop("forward", None)
            module.__dict__.update(own)


def _is_container(module: nn.Module) -> bool:
    return callable(getattr(module, "run_stepwise", None))


def _copy(value: Any) -> Any:
    """Tensors copied, so that a model whose first layer works in place does not reach the caller's."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (tuple, list):
        return type(value)(_copy(item) for item in value)
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    return value


def _compared(record: Record, ceilings: Ceilings) -> Record:
    if record.seconds is None:
        return record
    return replace(record, roofline=ceilings.roofline_seconds(2 * record.macs, record.bytes_bound) / record.seconds)


def _describe(name: str, module: nn.Module, call: Call) -> Record:
    shapes = f"{_shape(call.input)} -> {_shape(call.output)}"
    if isinstance(module, PackedModule):
        tiles = tiles_of(module, call.input) if isinstance(module, PackedMBConv) else None
        plan = (tiles.sentence(), str(tiles)) if tiles else ("", "")
        work = packed_work(module, call, tiles)
        space = tiles.workspace_bytes if tiles else None
        return Record(module.source or name, module.describe(), shapes, *plan, *work, workspace_bytes=space)
    if isinstance(module, _FUSED):
        reason = module.reason_against(call.input)
        return Record(name, None if reason else module.describe(), shapes, reason, "", *fused_work(module, call))
    assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    kernel, reason = _choice(module)
    if kernel == "split":
        reason = f"{reason}, {_zeros_saved(module, call):.0%} of the dense products"  # type: ignore[arg-type]
    work = convolution_work(module, call, kernel is not None)
    return Record(name, kernel, shapes, reason, "", *work)


def _choice(conv: nn.Conv2d | nn.ConvTranspose2d) -> tuple[str | None, str]:
    """The kernel that runs an unpacked convolution, or None where torch does, and the reason."""
    if isinstance(conv, Conv2d):
        return recognition.choose_for(conv)
    if isinstance(conv, ConvTranspose2d):
        return recognition.choose_transposed_for(conv)
    hooks = recognition.has_hooks(conv) and len(conv._forward_hooks) > 1  # one is explain's own
    if hooks or conv._forward_pre_hooks:
        return None, "the module has hooks"
    if conv.padding_mode != "zeros":
        return None, f"padding_mode {conv.padding_mode!r}"
    if isinstance(conv, nn.ConvTranspose2d):
        choice = recognition.choose_transposed_for(conv)
    else:
        choice = recognition.choose_for(conv)
    if choice.kernel is None:
        return None, choice.reason
    return None, f"stock torch; patch or optimize would use the {choice.kernel} kernel ({choice.reason})"


def _zeros_saved(conv: nn.ConvTranspose2d, call: Call) -> float:
    """The fraction of the products on a zero-inserted image that a transposed convolution does not make."""
    window = conv.stride, conv.padding, conv.output_padding, conv.dilation
    return conv_transpose2d_multiply_adds(call.input.shape, conv.weight.shape, *window).saved  # type: ignore[arg-type]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
