from contract import OpContract
from gradient_contract import GradientContract


class TestGroupedConv2d(OpContract, GradientContract):
    op = "grouped_conv2d"
