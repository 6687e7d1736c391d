from contract import OpContract
from gradient_contract import GradientContract


class TestDenseConv2d(OpContract, GradientContract):
    op = "dense_conv2d"
