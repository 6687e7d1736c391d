"""What a convolution costs and what a machine can make of it: shapes and models, no tensors, no torch."""

from convfirst_ext.analysis.algorithm_traffic import (
    fft_traffic,
    im2col_traffic,
    matmul_traffic,
    naive_traffic,
    traffic_curves,
    winograd_traffic,
)
from convfirst_ext.analysis.amdahl import amdahl_speedup, amdahl_speedups
from convfirst_ext.analysis.block_costs import (
    BlockShape,
    convfirst_block,
    convfirst_kernels,
    mbconv_block,
    mbconv_kernels,
)
from convfirst_ext.analysis.bounds import CommunicationBound, communication_bound, parallel_communication_bound
from convfirst_ext.analysis.conv_problem import ConvProblem, Precision
from convfirst_ext.analysis.efficiency import (
    EfficiencyCurves,
    ModelPoint,
    actual_throughput,
    computational_efficiency,
    efficiency_gap,
    efficiency_gap_figure,
    ideal_latency,
)
from convfirst_ext.analysis.intensity import (
    KernelCost,
    conv2d_cost,
    conv2d_intensity,
    elementwise_cost,
    ffn_kernels,
    fused_ffn,
    mediant_intensity,
)
from convfirst_ext.analysis.machines import Machine, find_machine, load_machines
from convfirst_ext.analysis.network import BlockRecord, LayerRecord, NetworkAnalysis
from convfirst_ext.analysis.network_figures import prediction_figure, roofline_figure, time_figure
from convfirst_ext.analysis.tile_lp import TilePlan, solve_tile
from convfirst_ext.analysis.tile_traffic import Tile, tile_bytes_moved, tile_footprint
from convfirst_ext.analysis.waterline import (
    attainable_throughput,
    maximum_efficiency,
    minimum_latencies,
    minimum_latency,
    roofline_efficiencies,
    roofline_efficiency,
    waterline_efficiencies,
    waterline_figure,
)
from convfirst_ext.analysis.zero_skipping import (
    MultiplyAdds,
    conv2d_multiply_adds,
    conv_transpose2d_multiply_adds,
    weight_grad_multiply_adds,
)

__all__ = [
    "BlockRecord",
    "BlockShape",
    "CommunicationBound",
    "ConvProblem",
    "EfficiencyCurves",
    "KernelCost",
    "LayerRecord",
    "Machine",
    "ModelPoint",
    "MultiplyAdds",
    "NetworkAnalysis",
    "Precision",
    "Tile",
    "TilePlan",
    "actual_throughput",
    "amdahl_speedup",
    "amdahl_speedups",
    "attainable_throughput",
    "communication_bound",
    "computational_efficiency",
    "conv2d_cost",
    "conv2d_intensity",
    "conv2d_multiply_adds",
    "conv_transpose2d_multiply_adds",
    "convfirst_block",
    "convfirst_kernels",
    "efficiency_gap",
    "efficiency_gap_figure",
    "elementwise_cost",
    "ffn_kernels",
    "fft_traffic",
    "find_machine",
    "fused_ffn",
    "ideal_latency",
    "im2col_traffic",
    "load_machines",
    "matmul_traffic",
    "maximum_efficiency",
    "mbconv_block",
    "mbconv_kernels",
    "mediant_intensity",
    "minimum_latencies",
    "minimum_latency",
    "naive_traffic",
    "parallel_communication_bound",
    "prediction_figure",
    "roofline_efficiencies",
    "roofline_efficiency",
    "roofline_figure",
    "solve_tile",
    "tile_bytes_moved",
    "tile_footprint",
    "time_figure",
    "traffic_curves",
    "waterline_efficiencies",
    "waterline_figure",
    "weight_grad_multiply_adds",
    "winograd_traffic",
]
