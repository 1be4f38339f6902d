"""Writes blocks of every GGML type that gguf.quants decodes, and the values that it gives them.

    ggml_blocks.py FOLDER

For each type, FOLDER gets NAME.blocks and NAME.f32: blocks of one repeated byte, for every byte; blocks of random bytes, as
they come and with plausible f16 scales; and, where gguf.quants encodes, what it makes of weights of very different sizes.
Prints the names as JSON.
"""

import json
import sys
from pathlib import Path

import gguf.quants
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

folder = Path(sys.argv[1])
rng = np.random.default_rng(11)
# Where a block keeps its f16 scales; IQ1_M's is in parts.
HALVES = {
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.Q4_1: [0, 2], T.Q5_1: [0, 2],
    T.TQ1_0: [52], T.TQ2_0: [64], T.MXFP4: [], T.NVFP4: [], T.IQ1_M: [],
}
names = []
np.seterr(all="ignore")
for kind in gguf.quants._type_traits:
    if kind == T.BF16:
        continue
    elements, size = GGML_QUANT_SIZES[kind]
    repeated = np.repeat(np.arange(256, dtype=np.uint8)[:, None], size, axis=1)
    noise = rng.integers(0, 256, (2000, size), dtype=np.uint8)
    for at in HALVES.get(kind, [0]):
        scales = (rng.standard_normal(1000) * 10.0 ** rng.integers(-8, 3, 1000)).astype("<f2")
        noise[:1000, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    blocks = [repeated, noise]
    try:
        values = rng.standard_normal((64, 2048)) * 10.0 ** rng.integers(-6, 2, (64, 1))
        blocks.append(quantize(values.astype(np.float32), kind).reshape(-1, size))
    except NotImplementedError:
        pass
    blocks = np.concatenate(blocks)
    blocks.tofile(folder / f"{kind.name}.blocks")
    dequantize(blocks, kind).astype("<f4").tofile(folder / f"{kind.name}.f32")
    names.append(kind.name)
print(json.dumps(names))
