"""What a wrong call must do: raise at once, in one sentence that names the argument, and leave everything as it was."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

Wrong = tuple[str, dict[str, Any], type[Exception], str]  # of what, the changed arguments, the error, its words


def assert_refused(call: Callable[[], object], error: type[Exception], pattern: str) -> None:
    """Exactly that class of error, and one sentence with those words."""
    with pytest.raises(error, match=pattern) as caught:
        call()
    assert caught.type is error
    assert_one_sentence(str(caught.value))


def assert_one_sentence(message: str) -> None:
    assert message.endswith(".") and ". " not in message and "\n" not in message, message


def copies(arguments: Mapping[str, object]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in arguments.items() if isinstance(value, Tensor)}


def assert_unchanged(arguments: Mapping[str, object], before: Mapping[str, Tensor]) -> None:
    for name, tensor in before.items():
        value = arguments[name]
        assert isinstance(value, Tensor) and (value.is_meta or torch.equal(value, tensor)), name


def state_of(module: nn.Module) -> dict[str, object]:
    """All that a call could change: tensors, modes and hooks of every part."""
    state: dict[str, object] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for name, part in module.named_modules():
        state[f"{name}:"] = type(part), part.training, len(part._forward_hooks), sorted(vars(part))
    return state


def assert_state(module: nn.Module, before: Mapping[str, object]) -> None:
    after = state_of(module)
    assert after.keys() == before.keys()
    for name, value in before.items():
        same = torch.equal(after[name], value) if isinstance(value, Tensor) else after[name] == value  # type: ignore[arg-type]
        assert same, name


def name_of(value: Any) -> str | None:
    """The short name of a parameter of a test."""
    if isinstance(value, dict):
        return ",".join(f"{key}={_short(item)}" for key, item in value.items()) or "nothing"
    return value.__name__ if isinstance(value, type) else None


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        text = f"{'x'.join(map(str, value.shape))}.{value.dtype}.{value.device}"
        return text.replace("torch.", "").removesuffix(".cpu").removesuffix(".float32")
    if isinstance(value, nn.Module):
        return type(value).__name__
    return repr(value)[:30].replace("\n", "")
