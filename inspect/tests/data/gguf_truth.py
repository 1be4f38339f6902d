"""Writes the GGUF fixtures and what the gguf package reads from them.

every_type.gguf      every tensor type that the gguf package dequantizes, and every type of value
every_type.f32       the values gguf.quants gives to the tensors whose names begin with "v.", in file order
big_endian.gguf      the types that gguf's own byte-order conversion handles, converted
gguf_truth.json      names, types, shapes, places and keys of both, as gguf.GGUFReader tells them

Run in this folder: python3 gguf_truth.py
"""

import argparse
import builtins
import json
import logging

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from gguf.scripts import gguf_convert_endian

ROWS, COLS = 2, 256
rng = np.random.default_rng(20)
# Where a block keeps its f16 scales, so that random blocks have finite ones.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ1_S: [0], T.IQ2_XXS: [0], T.IQ2_XS: [0],
    T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ4_XS: [0],
}
PLAIN = {
    T.F32: np.float32, T.F16: np.float16, T.F64: np.float64, T.I8: np.int8, T.I16: np.int16, T.I32: np.int32,
    T.I64: np.int64,
}
QUANTIZED = [
    T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_K, T.TQ1_0, T.TQ2_0, T.BF16,
]
# Types without an f16 scale, or with one in parts: random bytes are restricted so that it is finite.
BYTES = {T.MXFP4: (range(1), 110, 130), T.IQ1_M: (range(49, 56, 2), 0, 0x30)}
# Not NVFP4, which gguf-rs does not know.
NEWER = [
    T.IQ4_NL, T.MXFP4, T.IQ1_S, T.IQ1_M, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ3_XXS, T.IQ3_S, T.IQ4_XS,
]
CONVERTIBLE = [T.F32, T.F16, T.BF16, T.Q4_0, T.Q8_0, T.Q4_K, T.Q6_K, T.MXFP4]


def weights(rows):
    return (rng.standard_normal((rows, COLS)) * 0.05).astype(np.float32)


def random_blocks(kind, rows):
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * COLS // elements, size), dtype=np.uint8)
    for at in HALVES.get(kind, []):
        scale = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    if kind in BYTES:
        places, low, high = BYTES[kind]
        blocks[:, list(places)] = rng.integers(low, high, (len(blocks), len(places)), dtype=np.uint8)
    if kind == T.Q8_K:
        blocks[:, :4] = weights(1)[0, : len(blocks)].view(np.uint8).reshape(-1, 4)
    return blocks.reshape(rows, -1)


def packed(kind):
    """One row quantized by gguf where it can, the rest random blocks."""
    if kind in (T.TQ1_0, T.TQ2_0, T.BF16):
        return quantize(weights(ROWS), kind)
    try:
        first = quantize(weights(1), kind)
    except NotImplementedError:
        return random_blocks(kind, ROWS)
    return np.concatenate([first, random_blocks(kind, ROWS - 1)])


def values(data, kind):
    if kind == T.Q8_K:  # gguf.quants lacks it: ggml-quants.c has y = d * q
        blocks = data.reshape(-1, 292)
        return blocks[:, :4].copy().view(np.float32) * blocks[:, 4:260].view(np.int8).astype(np.float32)
    return data.astype(np.float32) if kind in PLAIN else dequantize(data, kind)


def plain(kind):
    if np.issubdtype(PLAIN[kind], np.floating):
        return weights(ROWS).astype(PLAIN[kind]) * PLAIN[kind](1.0 + 2.0**-40 if kind == T.F64 else 1.0)
    limits = np.iinfo(PLAIN[kind])
    low, high = max(limits.min, -(2**40)), min(limits.max, 2**40)
    return rng.integers(low, high, (ROWS, COLS), dtype=PLAIN[kind])


def write(path, tensors, keys):
    writer = gguf.GGUFWriter(path, "llama")
    keys(writer)
    for name, kind, data in tensors:
        writer.add_tensor(name, data, raw_dtype=None if kind in PLAIN else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def every_key(writer):
    writer.add_custom_alignment(64)
    writer.add_uint8("k.uint8", 200)
    writer.add_int8("k.int8", -100)
    writer.add_uint16("k.uint16", 60000)
    writer.add_int16("k.int16", -30000)
    writer.add_uint32("k.uint32", 4000000000)
    writer.add_int32("k.int32", -2000000000)
    writer.add_float32("k.float32", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_string("k.string", "Ternäre Gewichte ▁")
    writer.add_uint64("k.uint64", 2**53)
    writer.add_int64("k.int64", -(2**53))
    writer.add_float64("k.float64", 0.1)
    writer.add_array("k.integers", [1, -2, 3])
    writer.add_array("k.floats", [0.5, -0.25])
    writer.add_array("k.bools", [True, False])
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "▁a", "", "\n"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, -2.0, -3.0])


def truth(path):
    reader = gguf.GGUFReader(path)
    return {
        "alignment": int(reader.alignment),
        "data_offset": int(reader.data_offset),
        "keys": {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")},
        "tensors": [
            {
                "name": t.name,
                "type": t.tensor_type.name,
                "number": int(t.tensor_type),
                "shape": [int(n) for n in reversed(t.shape)],
                "offset": int(t.data_offset),
                "bytes": int(t.n_bytes),
            }
            for t in reader.tensors
        ],
    }


tensors = [(f"v.{kind.name.lower()}", kind, plain(kind)) for kind in PLAIN]
tensors += [(f"v.{kind.name.lower()}", kind, packed(kind)) for kind in QUANTIZED]
tensors += [(f"v.{kind.name.lower()}", kind, packed(kind)) for kind in NEWER]
expected = np.concatenate([values(data, kind).reshape(-1).astype("<f4") for _, kind, data in tensors])
write("every_type.gguf", tensors, every_key)
expected.tofile("every_type.f32")

write("big_endian.gguf", [t for t in tensors if t[1] in CONVERTIBLE], lambda writer: writer.add_uint32("llama.block_count", 3))
logging.disable()
builtins.input = lambda prompt: "YES"
reader = gguf.GGUFReader("big_endian.gguf", "r+")
gguf_convert_endian.convert_byteorder(reader, argparse.Namespace(order="big", dry_run=False))
reader.data.flush()
del reader
json.dump({p: truth(p) for p in ("every_type.gguf", "big_endian.gguf")}, open("gguf_truth.json", "w"))
