"""Access traces of our operators on one thread: what their drivers read and write, in their order.

An access is (address, bytes, whether written); every tensor and scratch has pages of its own. Follows csrc/cpu:
fused_block.cpp with hidden_tile.cpp and projection.cpp, convnext_block.cpp, direct_conv.cpp, spatial_conv.cpp, and
multiply.cpp with register blocks of two times 16 channels.
"""

from __future__ import annotations

from typing import NamedTuple

from convfirst_ext.analysis.ceilings import load_native
from convfirst_ext.fusion.tiles import tiles_of
from convfirst_ext.fusion.work import Call
from convfirst_ext.nn import PackedConv2d, PackedConvNeXtBlock, PackedLinear, PackedMBConv
from convfirst_ext.nn.packed_module import PackedModule

FLOAT = 4
LANES = 16
BLOCK = LANES * FLOAT
_PAGE = 4096
_COLUMN = 2  # blocks of output channels that a register block spans
_MOST_RUN = 112
_CHUNK_BLOCKS = 8
_BAND_ROWS = 4

Access = tuple[int, int, int]


class Part(NamedTuple):
    """Consecutive bytes."""

    start: int
    size: int

    def cut(self, offset: float, size: float) -> Part:
        """A part of the part."""
        return Part(self.start + int(offset), int(size))

    def block(self, index: int, count: int) -> Part:
        """One of `count` equal parts."""
        return self.cut(self.size * index / count, self.size / count)


class Trace:
    """Collects accesses.

    Attributes:
        accesses: in order.
        output: where the result lies.
    """

    def __init__(self, output_bytes: int) -> None:
        self.accesses: list[Access] = []
        self._end = 0
        self.output = self.space(output_bytes)

    def space(self, size: float) -> Part:
        """New bytes on pages of their own."""
        start = self._end
        self._end += -(-max(int(size), 1) // _PAGE) * _PAGE
        return Part(start, int(size))

    def read(self, *parts: Part) -> None:
        """Reads parts."""
        self.accesses += [(part.start, part.size, 0) for part in parts]

    def write(self, *parts: Part) -> None:
        """Writes parts."""
        self.accesses += [(part.start, part.size, 1) for part in parts]

    def product(self, inputs: list[Part], weights: list[Part], results: list[Part], added: list[Part]) -> None:
        """All pixels for one column of register blocks, then for the next.

        Args:
            inputs: of all pixels.
            weights: of every block of output channels.
            results: where the pixels' results lie; a column's are counted as all of them.
            added: residual or earlier sums.
        """
        for first in range(0, len(weights), _COLUMN):
            self.read(*weights[first : first + _COLUMN], *inputs, *added)
            self.write(*results)


def trace_of(module: PackedModule, call: Call) -> Trace | None:
    """Returns the accesses of a call on one thread, None for a kind that has no trace here."""
    trace = Trace(call.output.numel() * FLOAT)
    image = trace.space(call.input.numel() * FLOAT)
    added = None
    if call.residual is not None:
        same = call.residual.data_ptr() == call.input.data_ptr()
        added = image if same else trace.space(call.residual.numel() * FLOAT)
    if isinstance(module, PackedMBConv):
        _MBConv(trace, module, call, image, added).run()
    elif isinstance(module, PackedConvNeXtBlock):
        _convnext(trace, module, call, image)
    elif isinstance(module, PackedLinear):
        _linear(trace, module, image)
    elif isinstance(module, PackedConv2d):
        _convolution(trace, module, call, image, added)
    else:
        return None
    return trace


def _linear(trace: Trace, module: PackedLinear, image: Part) -> None:
    blocks = -(-module.out_channels // LANES)
    weights = trace.space(module.weight.numel() * FLOAT)
    trace.product([image], [weights.block(i, blocks) for i in range(blocks)], [trace.output], [])


class _MBConv:
    """A fused inverted residual."""

    def __init__(self, trace: Trace, module: PackedMBConv, call: Call, image: Part, added: Part | None) -> None:
        self.trace, self.module, self.image, self.added = trace, module, image, added
        self.tiles = tiles_of(module, call.input)
        self.images, self.in_c, self.in_h, self.in_w = call.input.shape
        self.out_c, self.out_h, self.out_w = call.output.shape[1:]
        self.blocks, self.out_blocks = -(-module.hidden_channels // LANES), -(-self.out_c // LANES)
        self.chunk, self.rows = self.tiles.channels // LANES, self.tiles.rows
        window = module.window
        self.stride, self.span = window.stride[0], window.dilation[0] * (window.kernel[0] - 1) + 1
        self.top = window.padding_for(call.input)[2]
        self.ring_rows, self.padded_w = (self.rows - 1) * self.stride + self.span, self.in_w + self.span - 1
        self.ring = trace.space(self.chunk * self.ring_rows * self.padded_w * BLOCK)
        self.weights = {name: trace.space(tensor.numel() * FLOAT) for name, tensor in module.named_buffers()}

    def run(self) -> None:
        """All images, one after the other."""
        for image in range(self.images):
            if self.tiles.order == "kept":
                self._kept(image)
                continue
            if self.tiles.order == "strips, twice":
                self._strips(image, projects=False)
                self.trace.read(self.weights["se_reduce_weight"], self.weights["se_expand_weight"])
            self._strips(image, projects=True)

    def _strips(self, image: int, projects: bool) -> None:
        trace = self.trace
        convolved = trace.space(self.chunk * self.rows * self.out_w * BLOCK)
        sums = trace.space(self.tiles.strip_rows * self.out_w * self.out_blocks * BLOCK)
        for strip in range(0, self.out_h, self.tiles.strip_rows):
            last = min(self.out_h, strip + self.tiles.strip_rows)
            for first in range(0, self.blocks, self.chunk):
                count, filled = min(self.chunk, self.blocks - first), 0
                for y in range(strip, last, self.rows):
                    end = min(last, y + self.rows)
                    pixels = (end - y) * self.out_w
                    hidden = [convolved.cut(block * pixels * BLOCK, pixels * BLOCK) for block in range(count)]
                    filled = self._hidden_rows(image, y, end, first, hidden, filled)
                    if projects:
                        size = pixels * self.out_blocks * BLOCK
                        own = sums.cut((y - strip) * self.out_w * self.out_blocks * BLOCK, size)
                        self._project(image, y * self.out_w, pixels, hidden, first, own)

    def _kept(self, image: int) -> None:
        trace, module, pixels = self.trace, self.module, self.out_h * self.out_w
        kept = [trace.space(pixels * BLOCK) for _ in range(self.blocks)]
        for first in range(0, self.blocks, self.chunk):
            filled = 0
            for y in range(0, self.out_h, self.rows):
                end = min(self.out_h, y + self.rows)
                cut = y * self.out_w * BLOCK, (end - y) * self.out_w * BLOCK
                rows = [block.cut(*cut) for block in kept[first : first + self.chunk]]
                filled = self._hidden_rows(image, y, end, first, rows, filled)
                if module.squeezes:
                    trace.read(*rows)
        if module.squeezes:
            trace.read(self.weights["se_reduce_weight"], self.weights["se_expand_weight"])
            if self.out_blocks * LANES < pixels:  # the gate scales weights
                trace.read(self.weights["project_weight"])
                gated = trace.space(self.weights["project_weight"].size)
                trace.write(gated)
                self.weights["project_weight"] = gated
            else:
                trace.read(*kept)
                trace.write(*kept)
        run = -(-pixels // -(-pixels // _MOST_RUN))
        for first in range(0, pixels, run):
            count = min(run, pixels - first)
            self._project(image, first, count, [block.cut(first * BLOCK, count * BLOCK) for block in kept], 0, None)

    def _hidden_rows(self, image: int, y: int, end: int, first: int, out: list[Part], filled: int) -> int:
        """Expands the input rows that outputs [y, end) reach and the ring lacks; convolves blocks from `first` on."""
        trace = self.trace
        low, high = y * self.stride - self.top, (end - 1) * self.stride - self.top + self.span
        start, stop = max(filled, low, 0), min(high, self.in_h)
        if stop > start:
            row = self.in_w * self.in_c * FLOAT
            pixels = self.image.cut((image * self.in_h + start) * row, (stop - start) * row)
            expand = self.weights.get("expand_weight")
            for block in range(0, len(out), _COLUMN):
                own = range(block, min(block + _COLUMN, len(out)))
                weights = [] if expand is None else [expand.block(first + b, self.blocks) for b in own]
                trace.read(*weights, pixels)
                trace.write(*(self._ring_row(b, r) for b in own for r in range(start, stop)))
        for block, result in enumerate(out):
            trace.read(self.weights["convolution_weight"].block(first + block, self.blocks))
            trace.read(*(self._ring_row(block, r) for r in range(max(low, 0), min(high, self.in_h))))
            trace.write(result)
        return max(filled, stop)

    def _ring_row(self, block: int, row: int) -> Part:
        """With the zeros at its ends."""
        return self.ring.block(block * self.ring_rows + row % self.ring_rows, self.chunk * self.ring_rows)

    def _project(self, image: int, pixel: int, pixels: int, hidden: list[Part], first: int, sums: Part | None) -> None:
        """Adds hidden blocks from `first` on to sums, the last ones to the output."""
        position = (image * self.out_h * self.out_w + pixel) * self.out_c * FLOAT
        out = position, pixels * self.out_c * FLOAT
        ends = first + len(hidden) == self.blocks
        weights = []
        for block in range(self.out_blocks):
            column = self.weights["project_weight"].block(block, self.out_blocks)
            weights.append(column.cut(column.size * first / self.blocks, column.size * len(hidden) / self.blocks))
        added = [sums] if sums is not None and first > 0 else []
        if ends and self.added is not None:
            added.append(self.added.cut(*out))
        result = self.trace.output.cut(*out) if ends or sums is None else sums
        self.trace.product(hidden, weights, [result], added)


def _convnext(trace: Trace, module: PackedConvNeXtBlock, call: Call, image: Part) -> None:
    """The convolution of an image to scratch, then runs of pixels through both products, a chunk at a time."""
    images, channels, height, width = call.output.shape
    pixels, inputs = height * width, module.in_channels
    convolved = trace.space(inputs * pixels * FLOAT)
    taps, expand, project = (
        trace.space(weight.numel() * FLOAT)
        for weight in (module.depthwise_weight, module.expand_weight, module.project_weight)
    )
    blocks, out_blocks = -(-module.hidden_channels // LANES), -(-channels // LANES)
    hidden, sums = trace.space(_CHUNK_BLOCKS * _MOST_RUN * BLOCK), trace.space(out_blocks * _MOST_RUN * BLOCK)
    run = -(-pixels // -(-pixels // _MOST_RUN))
    for n in range(images):
        _bands(trace, image.block(n, images), taps, convolved, module, call)
        for first in range(0, pixels, run):
            count = min(run, pixels - first)
            normalized = convolved.cut(first * inputs * FLOAT, count * inputs * FLOAT)
            if module.epsilon is not None:
                trace.read(normalized)
                trace.write(normalized)
            out = (n * pixels + first) * channels * FLOAT, count * channels * FLOAT
            for block in range(0, blocks, _CHUNK_BLOCKS):
                own = range(block, min(block + _CHUNK_BLOCKS, blocks))
                active = hidden.cut(0, len(own) * count * BLOCK)
                trace.product([normalized], [expand.block(b, blocks) for b in own], [active], [])
                columns = [project.block(b, out_blocks) for b in range(out_blocks)]
                cut = columns[0].size * block / blocks, columns[0].size * len(own) / blocks
                weights = [column.cut(*cut) for column in columns]
                ends = own[-1] == blocks - 1
                added = [sums.cut(0, out_blocks * count * BLOCK)] if block else []
                added += [image.cut(*out)] if ends and module.adds_input else []
                result = trace.output.cut(*out) if ends else sums.cut(0, out_blocks * count * BLOCK)
                trace.product([active], weights, [result], added)


def _convolution(trace: Trace, module: PackedConv2d, call: Call, image: Part, added: Part | None) -> None:
    images, channels, height, width = call.output.shape
    weights = trace.space(module.weight.numel() * FLOAT)
    blocks = -(-channels // LANES)
    columns = [weights.block(block, blocks) for block in range(blocks)]
    if module.kernel in ("depthwise", "grouped"):
        for n in range(images):
            _bands(trace, image.block(n, images), weights, trace.output.block(n, images), module, call)
        return
    if module.window.kernel == (1, 1):
        depth, pixels = module.in_channels, images * height * width
        run = load_native().plan_conv_tiles(height, width, depth, channels, images=images)["run_pixels"]
        for first in range(0, pixels, run):
            count = min(run, pixels - first)
            out = first * channels * FLOAT, count * channels * FLOAT
            residual = [] if added is None else [added.cut(*out)]
            inputs = [image.cut(first * depth * FLOAT, count * depth * FLOAT)]
            trace.product(inputs, columns, [trace.output.cut(*out)], residual)
        return
    # Bands of input rows are copied with their padding; a row of outputs is one product.
    in_h, row = call.input.shape[2], call.input.shape[1] * call.input.shape[3] * FLOAT
    stride, span, top = module.window.stride[0], module.window.kernel[0], module.window.padding_for(call.input)[2]
    copy = trace.space(((_BAND_ROWS - 1) * stride + span) * row)
    for n in range(images):
        for y in range(0, height, _BAND_ROWS):
            end = min(height, y + _BAND_ROWS)
            first, last = max(0, y * stride - top), min(in_h, (end - 1) * stride - top + span)
            trace.read(image.cut((n * in_h + first) * row, (last - first) * row))
            trace.write(copy.cut(0, (last - first) * row))
            for out_row in range(y, end):
                size = width * channels * FLOAT
                out = (n * height + out_row) * size, size
                residual = [] if added is None else [added.cut(*out)]
                top_row = min((out_row - y) * stride, last - first - 1)
                inputs = [copy.cut(top_row * row, min(span, last - first - top_row) * row)]
                trace.product(inputs, columns, [trace.output.cut(*out)], residual)


def _bands(
    trace: Trace, image: Part, weights: Part, out: Part, module: PackedConv2d | PackedConvNeXtBlock, call: Call
) -> None:
    """A depthwise convolution of one image: bands of rows, channel block by channel block, copied side by side."""
    in_h, in_w = call.input.shape[2:]
    channels, window = module.in_channels, module.window
    stride, span, top = window.stride[0], window.kernel[0], window.padding_for(call.input)[2]
    height, width = window.output_size(call.input)
    band = load_native().plan_conv_tiles(in_h, in_w, channels, channels, span, stride, True)["band_rows"]
    blocks = -(-channels // LANES)
    copy = trace.space(((band - 1) * stride + span) * (in_w + span - 1) * BLOCK)

    def pixels_of(part: Part, first: int, last: int, block: int) -> list[Part]:
        lanes = min(BLOCK, (channels - block * LANES) * FLOAT)
        return [part.cut((pixel * channels + block * LANES) * FLOAT, lanes) for pixel in range(first, last)]

    for y in range(0, height, band):
        end = min(height, y + band)
        first, last = max(0, y * stride - top), min(in_h, (end - 1) * stride - top + span)
        rows = copy.cut(0, (last - first) * (in_w + span - 1) * BLOCK)
        for block in range(blocks):
            trace.read(weights.block(block, blocks), *pixels_of(image, first * in_w, last * in_w, block))
            trace.write(rows)
            trace.read(rows)
            trace.write(*pixels_of(out, y * width, end * width, block))
