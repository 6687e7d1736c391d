"""Whether this installation has kernels for CUDA tensors."""

from __future__ import annotations

import torch


def _reason_against() -> str:
    if torch.version.cuda is None:
        return "no kernel for cuda tensors: torch was built without CUDA"
    if not torch._C._dispatch_has_kernel_for_dispatch_key("convfirst::depthwise_conv2d", "CUDA"):
        return "no kernel for cuda tensors: convfirst_ext was installed without its CUDA kernels"
    return ""


# Why CUDA tensors go to torch's own kernels, or nothing.
REASON_AGAINST = _reason_against()
