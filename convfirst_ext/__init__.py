"""Fused and zero-skipping convolution operators for PyTorch.

``patch`` swaps trainable drop-ins into a model, ``optimize`` gives a fused inference copy of it, ``explain`` tells
which kernel runs each block or why one fell back to torch, ``analyze`` the least time of a network on any machine,
``analysis`` counts what a layer costs. ``torch.compile`` knows the backend "convfirst".
"""

from convfirst_ext import _loading  # isort: skip  (the operators must be there before anything names them)
from convfirst_ext import analysis, nn, ops
from convfirst_ext.fusion import analyze, compiling, explain, optimize, patch
from convfirst_ext.ops.kept_memory import release_memory

compiling.register()

__version__ = _loading.VERSION

__all__ = ["__version__", "analysis", "analyze", "explain", "nn", "ops", "optimize", "patch", "release_memory"]
