"""Graph passes: fold batch norm, find blocks, emit fused modules."""

from convfirst_ext.fusion.analyze import analyze
from convfirst_ext.fusion.explanation import Explanation, explain
from convfirst_ext.fusion.optimization import optimize
from convfirst_ext.fusion.patching import patch
from convfirst_ext.fusion.records import Record, Totals

__all__ = ["Explanation", "Record", "Totals", "analyze", "explain", "optimize", "patch"]
