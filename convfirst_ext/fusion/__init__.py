"""Graph passes: fold batch norm, find blocks, emit fused modules."""

from convfirst_ext.fusion.explanation import Explanation, Record, explain
from convfirst_ext.fusion.optimization import optimize
from convfirst_ext.fusion.patching import patch

__all__ = ["Explanation", "Record", "explain", "optimize", "patch"]
