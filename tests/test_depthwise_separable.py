from contract import OpContract
from gradient_contract import GradientContract


class TestDepthwiseSeparable(OpContract, GradientContract):
    op = "depthwise_separable"
