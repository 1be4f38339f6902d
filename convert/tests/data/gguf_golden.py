"""Writes gguf_golden.f32 and gguf_golden.bin: values, and the bytes that the gguf package makes of them.

gguf_golden.f32      four rows of 512 values: ordinary weights; ternary times a scale; weights of very different sizes,
                     exact halves and zeros; a row whose f16 scales are subnormal
gguf_golden.bin      the bytes of each type after another, in the order of TYPES; I2_S is packed here as bitnet.cpp's
                     quantize_i2_s does in x86 builds, from the ternary row

Run in this folder: python3 gguf_golden.py
"""

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import quantize

TYPES = [T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.TQ1_0, T.TQ2_0]
rng = np.random.default_rng(7)

ordinary = rng.standard_normal(512) * 0.05
codes = rng.integers(-1, 2, 512)
codes[256:320] = 0
ternary = codes * np.float64(np.float32(0.0371))
mixed = rng.standard_normal(512) * 10.0 ** rng.integers(-6, 2, 512)
mixed[:32] = 0.0
mixed[32:64] = np.tile([1.0, 0.5, -0.5, 0.25, -1.0, -0.25, 0.75, 0.0], 4)
mixed[64:96] = 3.5
tiny = rng.standard_normal(512) * 5e-7
values = np.stack([ordinary, ternary, mixed, tiny]).astype(np.float32)
values.astype("<f4").tofile("gguf_golden.f32")


def i2_s(row):
    """The row's codes, byte i of each 32 holding values i, 32 + i, 64 + i, 96 + i, and the scale behind them."""
    quads = (np.sign(row).astype(np.int8) + 1).astype(np.uint8).reshape(-1, 4, 32)
    packed = quads[:, 0] << 6 | quads[:, 1] << 4 | quads[:, 2] << 2 | quads[:, 3]
    tail = np.zeros(8, dtype="<f4")
    tail[0] = np.abs(row).max()
    return packed.tobytes() + tail.tobytes()


with open("gguf_golden.bin", "wb") as out:
    for kind in TYPES:
        out.write(quantize(values, kind).tobytes())
    out.write(i2_s(values[1]))
