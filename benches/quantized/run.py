"""Measuring quantized weights, against what their own libraries and PyTorch take to dequantize them and to reduce the
result: python benches/quantized/run.py CKPT [TURNS].

Both take turns, and the ratio is the median over the turns, so that a machine that is busy with something else slows
both alike. Reading the files is left out on PyTorch's side, and starting the process is not on the other. A library that
is not installed is left out."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file

CKPT, TURNS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
ROWS, COLS, LAYERS = 4096, 4096, 4
torch.manual_seed(1)


def reduce(w):
    """What `ckpt inspect` tells of a weight, without its histogram and what it looks for in the rows."""
    w = w.float()
    finite = torch.isfinite(w).sum()
    return w.mean(), w.std(), w.min(), w.max(), w.abs().mean(), (w == 0).sum(), finite, (w.double() ** 4).mean()


def weight():
    return torch.randn(ROWS, COLS) * 0.02


def fp8():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    op, b = Fp8Dequantize(None), weight().reshape(ROWS // 128, 128, COLS // 128, 128)
    s = b.abs().amax((1, 3)) / 448
    q = (b / s[:, None, :, None]).reshape(ROWS, COLS).to(torch.float8_e4m3fn)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    return {"weight": q, "weight_scale_inv": s}, config, lambda: op._dequantize_one(q, s, torch.float32)


def nf4():
    import bitsandbytes.functional as F

    q, state = F.quantize_4bit(weight(), quant_type="nf4", blocksize=64)
    stored = {"weight": q} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    return stored, {"quantization_config": {"quant_method": "bitsandbytes"}}, lambda: F.dequantize_4bit(q, state)


def packed():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    form, w = "pack-quantized", weight()
    args = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=128)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=form)
    compressor = BaseCompressor.load_from_registry(form)
    scale = w.reshape(ROWS, -1, 128).abs().amax(-1) / 7.5
    stored = compressor.compress({"weight": w, "weight_scale": scale}, scheme)
    return stored, {}, lambda: compressor.decompress(dict(stored), scheme)["weight"]


def gpt_oss():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.randint(0, 256, (1, ROWS, COLS // 32, 16), dtype=torch.uint8)
    scales = torch.randint(110, 125, (1, ROWS, COLS // 32), dtype=torch.uint8)
    return {"_blocks": blocks, "_scales": scales}, {}, lambda: convert_moe_packed_tensors(blocks, scales)


def gptq():
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    words = lambda *shape: torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)
    layer = TorchLinear(bits=4, group_size=128, sym=False, desc_act=False, in_features=COLS, out_features=ROWS, bias=False)
    layer.qweight, layer.qzeros = words(COLS // 8, ROWS), words(COLS // 128, ROWS // 8) & 0x77777777
    layer.scales = (torch.rand(COLS // 128, ROWS) * 0.01 + 0.001).half()
    layer.g_idx = (torch.arange(COLS) // 128).to(torch.int32)
    stored = {k: getattr(layer, k) for k in ("qweight", "qzeros", "scales", "g_idx")}
    config = {"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2"}
    return stored, {"quantization_config": config}, layer.dequantize_weight


def awq():
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    words = lambda *shape: torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)
    qweight, qzeros = words(COLS, ROWS // 8), words(COLS // 128, ROWS // 8)
    scales = (torch.rand(COLS // 128, ROWS) * 0.01).half()
    config = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    stored = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
    return stored, {"quantization_config": config}, lambda: dequantize_gemm(qweight, qzeros, scales, 4, 128)


def mlx():
    import mlx.core as mx
    import numpy as np

    parts = mx.quantize(mx.array(weight().numpy()), group_size=64, bits=4)
    tensors = {n: torch.from_numpy(np.array(p).copy()) for n, p in zip(("weight", "scales", "biases"), parts)}
    config = {"quantization": {"group_size": 64, "bits": 4}}
    return tensors, config, lambda: torch.from_numpy(np.array(mx.dequantize(*parts, group_size=64, bits=4)))


print(f"{LAYERS} matrices of {ROWS} x {COLS}, {torch.get_num_threads()} threads, medians of {TURNS} turns")
for kind in (fp8, nf4, packed, gpt_oss, gptq, awq, mlx):
    try:
        stored, config, dequantize = kind()
    except ImportError as error:
        print(f"{kind.__name__:8} left out: {error}")
        continue
    with tempfile.TemporaryDirectory() as folder:
        joint = "" if any(k.startswith("_") for k in stored) else "."
        tensors = {f"l.{n}.up{joint}{k}": v.contiguous().clone() for n in range(LAYERS) for k, v in stored.items()}
        save_file(tensors, os.path.join(folder, "model.safetensors"))
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config, f)
        ours, theirs = [], []
        for turn in range(TURNS + 1):
            begun = time.perf_counter()
            subprocess.run([CKPT, "inspect", "--no-cache", "--format", "json", folder], check=True, capture_output=True)
            ours.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            for _ in range(LAYERS):
                reduce(dequantize())
            theirs.append(time.perf_counter() - begun)
    # The first turn only warms up.
    ratio = statistics.median(t / o for o, t in zip(ours[1:], theirs[1:]))
    print(f"{kind.__name__:8} ckpt {statistics.median(ours[1:]):.3f} s, library {statistics.median(theirs[1:]):.3f} s: {ratio:.1f} times as fast")
