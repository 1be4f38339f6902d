"""Quantized weights as the libraries that made the formats write and read them.

quantized.py OUT makes a folder in OUT for each case, with model.safetensors and mostly config.json, and beside it CASE.truth.safetensors:
the weights as the format's own library dequantizes them, in float32. It prints a list of what was made: name, the type
that is to be told, and by how much of the largest magnitude a value may differ, because the library computes in fewer
bits or in another order. A library that is not installed is left out."""

import contextlib
import json
import os
import sys

import torch
from safetensors.torch import save_file

OUT = sys.argv[1]
CASES = []
EXACT = 0.0
ROUNDED = 2.0**-22
torch.manual_seed(7)


def weight(rows=48, cols=256):
    return torch.randn(rows, cols) * 0.02 * (1 + torch.rand(rows, 1))


def case(name, kind, tensors, truth, config=None, tolerance=EXACT, metadata=None):
    folder = os.path.join(OUT, name)
    os.makedirs(folder)
    plain = {"model.norm.weight": torch.ones(8), "model.embed_tokens.weight": weight(16, 8).bfloat16()}
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file(plain | tensors, os.path.join(folder, "model.safetensors"), metadata=metadata or {"format": "pt"})
    truth = {k: v.detach().float().contiguous().clone() for k, v in truth.items()}
    save_file(truth, folder + ".truth.safetensors")
    if config is not None:
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump({"architectures": ["OtherForCausalLM"]} | config, f)
    CASES.append({"name": name, "dtype": kind, "tolerance": tolerance})


L = "model.layers.0.mlp.up_proj"


def float8():
    def quantized(w, scale, dtype=torch.float8_e4m3fn):
        limit = torch.finfo(dtype).max
        return (w / scale).clamp(-limit, limit).to(dtype)

    w = weight()
    s = w.abs().max() / 448
    q = quantized(w, s)
    case("fp8-tensor", "fp8_e4m3 tensor", {L + ".weight": q, L + ".weight_scale": s}, {L + ".weight": q.float() * s})
    s = w.abs().amax(1, keepdim=True) / 448
    q = quantized(w, s)
    case("fp8-channel", "fp8_e4m3 channel", {L + ".weight": q, L + ".weight_scale": s}, {L + ".weight": q.float() * s})
    s = w.abs().max() / 57344
    q = quantized(w, s, torch.float8_e5m2)
    tensors = {L + ".weight": q, L + ".qscale_weight": s, L + ".qscale_act": torch.ones(())}
    case("fp8-mistral", "fp8_e5m2 tensor", tensors, {L + ".weight": q.float() * s})


def fine_grained():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    op = Fp8Dequantize(None)
    w = weight(256, 384)
    b = w.reshape(2, 128, 3, 128)
    s = b.abs().amax((1, 3)) / 448
    q = (b / s[:, None, :, None]).reshape(256, 384).to(torch.float8_e4m3fn)
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    truth = {L + ".weight": op._dequantize_one(q, s, torch.float32)}
    case("fp8-block", "fp8_e4m3 128x128", {L + ".weight": q, L + ".weight_scale_inv": s}, truth, config)
    e = torch.randint(110, 130, (256, 12), dtype=torch.uint8)
    truth = {L + ".weight": op._dequantize_one(q, e, torch.float32)}
    case("mxfp8", "mxfp8 g32", {L + ".weight": q, L + ".weight_scale_inv": e}, truth, config)
    codes = torch.randint(0, 256, (64, 128), dtype=torch.uint8)
    e = torch.randint(110, 130, (64, 8), dtype=torch.uint8)
    tensors = {L + ".weight": codes.view(torch.int8), L + ".weight_scale_inv": e.view(torch.float8_e8m0fnu)}
    truth = {L + ".weight": op._dequantize_one(codes.view(torch.int8), e, torch.float32)}
    case("deepseek-v4", "mxfp4 g32", tensors, truth, config)


def gpt_oss():
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    name = "model.layers.0.mlp.experts.gate_up_proj"
    blocks = torch.randint(0, 256, (3, 24, 4, 16), dtype=torch.uint8)
    scales = torch.randint(110, 130, (3, 24, 4), dtype=torch.uint8)
    truth = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    # The library holds experts as [E, in, out].
    truth = {name: truth.transpose(1, 2) if tuple(truth.shape) == (3, 128, 24) else truth}
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    case("gpt-oss", "mxfp4 g32", {name + "_blocks": blocks, name + "_scales": scales}, truth, config)


def compressed_tensors():
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def made(name, kind, form, args, parameters, w, tolerance=EXACT):
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args), format=form)
        compressor = BaseCompressor.load_from_registry(form)
        stored = compressor.compress({"weight": w} | parameters, scheme)
        truth = compressor.decompress(dict(stored), scheme)["weight"]
        group = {"weights": {k: v for k, v in args.items() if isinstance(v, (int, str))}, "targets": ["Linear"]}
        config = {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}}
        tensors = {f"{L}.{k}": v for k, v in stored.items()}
        case("ct-" + name, "compressed-tensors " + kind, tensors, {L + ".weight": truth}, config, tolerance)

    def scales(w, group, bits):
        return w.reshape(w.shape[0], -1, group).abs().amax(-1) / (2 ** (bits - 1) - 0.5)

    for bits in (2, 3, 4, 5, 6, 7, 8):
        w = weight(40, 256)
        args = dict(num_bits=bits, type="int", symmetric=True, strategy="group", group_size=64)
        parameters = {"weight_scale": scales(w, 64, bits)}
        made(f"packed-{bits}", f"{bits}-bit g64", "pack-quantized", args, parameters, w, ROUNDED)
    w = weight(40, 256)
    low, high = (f(w.reshape(40, 4, 64), -1) for f in (torch.amin, torch.amax))
    s = (high - low) / 15
    z = (-8 - (low / s).round()).clamp(-8, 7).to(torch.int8)
    args = dict(num_bits=4, type="int", symmetric=False, strategy="group", group_size=64)
    made("packed-asymmetric", "4-bit g64", "pack-quantized", args, {"weight_scale": s, "weight_zero_point": z}, w, ROUNDED)
    args = dict(num_bits=8, type="int", symmetric=True, strategy="channel")
    s = w.abs().amax(1, keepdim=True) / 127
    made("int8", "int8 channel", "int-quantized", args, {"weight_scale": s}, w, ROUNDED)
    args = dict(num_bits=8, type="float", symmetric=True, strategy="channel")
    s = w.abs().amax(1, keepdim=True) / 448
    made("fp8", "fp8_e4m3 channel", "float-quantized", args, {"weight_scale": s}, w, ROUNDED)
    args = dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16)
    g = 448 * 6 / w.abs().max()
    s = (w.reshape(40, 16, 16).abs().amax(-1) / 6 * g).to(torch.float8_e4m3fn).float()
    parameters = {"weight_scale": s, "weight_global_scale": g.reshape(1)}
    # The library computes it in bfloat16.
    made("nvfp4", "nvfp4 g16", "nvfp4-pack-quantized", args, parameters, w, 2.0**-8)
    args = dict(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32)
    s = torch.exp2((w.reshape(40, 8, 32).abs().amax(-1)).log2().floor() - 2)
    made("mxfp4", "mxfp4 g32", "mxfp4-pack-quantized", args, {"weight_scale": s}, w, ROUNDED)


def modelopt():
    # ModelOpt needs a GPU build to run; its rule is torch arithmetic (NVFP4QTensor.dequantize).
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = torch.randint(0, 256, (32, 64), dtype=torch.uint8)
    s = (torch.rand(32, 8) * 3 + 0.5).to(torch.float8_e4m3fn)
    g = torch.tensor(0.003)
    values = torch.stack([table[(codes & 15).long()], table[(codes >> 4).long()]], -1).reshape(32, 128)
    truth = (values.reshape(32, 8, 16) * (s.float() * g)[:, :, None]).reshape(32, 128)
    tensors = {
        L + ".weight": codes,
        L + ".weight_scale": s,
        L + ".weight_scale_2": g,
        L + ".input_scale": torch.tensor(0.1),
    }
    config = {"quantization_config": {"quant_algo": "NVFP4", "quant_method": "modelopt"}}
    case("modelopt-nvfp4", "modelopt nvfp4 g16", tensors, {L + ".weight": truth}, config)


def gptq():
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT

    for bits in (2, 3, 4, 8):
        for act_order in (False, True):
            rows, cols, group = 64, 256, 64
            linear = torch.nn.Linear(cols, rows, bias=False)
            linear.weight.data = weight(rows, cols)
            index = torch.arange(cols) // group
            if act_order:
                index = index[torch.randperm(cols)]
            index = index.to(torch.int32)
            levels = 2**bits - 1
            s, z = torch.empty(rows, cols // group), torch.empty(rows, cols // group)
            for g in range(cols // group):
                part = linear.weight.data[:, index == g]
                low, high = part.amin(1), part.amax(1)
                s[:, g] = ((high - low) / levels).half().float()
                # One is subtracted before they are stored.
                z[:, g] = (-low / s[:, g]).round().clamp(1, levels)
            layer = TorchLinear(
                bits=bits, group_size=group, sym=False, desc_act=act_order, in_features=cols, out_features=rows, bias=False
            )
            layer.pack(linear, s.T.contiguous().T, z, index)
            truth = layer.dequantize_weight().T.float()
            stored = {f"{L}.{k}": v for k, v in layer.state_dict().items() if k in ("qweight", "scales", "qzeros", "g_idx")}
            config = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": "gptq_v2"}
            name = f"gptq-{bits}" + ("-act-order" if act_order else "")
            config = {"quantization_config": config}
            case(name, f"gptq {bits}-bit g64", stored, {L + ".weight": truth}, config, 2.0**-10)


def awq():
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    rows, cols, group = 64, 256, 64
    words = lambda *shape: torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int64).to(torch.int32)
    qweight, qzeros = words(cols, rows // 8), words(cols // group, rows // 8)
    scales = (torch.rand(cols // group, rows) * 0.01 + 0.001).half()
    truth = dequantize_gemm(qweight, qzeros, scales, 4, group).T.float()
    tensors = {L + ".qweight": qweight, L + ".qzeros": qzeros, L + ".scales": scales}
    config = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm"}}
    case("awq", "awq 4-bit g64", tensors, {L + ".weight": truth}, config, 2.0**-10)


def bitsandbytes():
    import bitsandbytes.functional as F

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            # Blocks that go on in the next row.
            w = weight(48, 200 if nested else 256)
            q, state = F.quantize_4bit(w, quant_type=kind, blocksize=64, compress_statistics=nested)
            truth = F.dequantize_4bit(q, state)
            tensors = {L + ".weight": q} | {f"{L}.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
            name = f"bnb-{kind}" + ("-nested" if nested else "")
            config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
            case(name, f"bitsandbytes {kind} g64", tensors, {L + ".weight": truth}, config, ROUNDED)
    w = weight()
    stats = w.abs().amax(1)
    q = (w * (127 / stats[:, None])).round().to(torch.int8)
    truth = F.int8_vectorwise_dequant(q, stats)
    tensors = {L + ".weight": q, L + ".SCB": stats, L + ".weight_format": torch.zeros((), dtype=torch.uint8)}
    config = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    case("bnb-int8", "bitsandbytes int8 channel", tensors, {L + ".weight": truth}, config, ROUNDED)


def mlx():
    import mlx.core as mx
    import numpy as np

    modes = [("affine", bits, 64) for bits in (2, 3, 4, 5, 6, 8)] + [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
    for mode, bits, group in modes:
        w = weight(32, 256)
        parts = mx.quantize(mx.array(w.numpy()), group_size=group, bits=bits, mode=mode)
        truth = mx.dequantize(*parts, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
        names = ("weight", "scales", "biases")
        tensors = {f"{L}.{n}": torch.from_numpy(np.array(p).copy()) for n, p in zip(names, parts)}
        config = {"quantization": {"group_size": group, "bits": bits, "mode": mode}}
        kind = f"{bits}-bit" if mode == "affine" else mode
        truth = {L + ".weight": torch.from_numpy(np.array(truth).copy())}
        case(f"mlx-{mode}-{bits}", f"mlx {kind} g{group}", tensors, truth, config, ROUNDED)


def torchao():
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    configs = {
        "int8": ("int8 channel", Int8WeightOnlyConfig()),
        "intx": ("int8 g32", IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))),
        "fp8": ("fp8_e4m3 channel", Float8WeightOnlyConfig()),
    }
    weights = {}
    for name, (kind, config) in configs.items():
        linear = torch.nn.Linear(256, 48, bias=False)
        linear.weight.data = weight()
        quantize_(linear, config)
        weights[name] = (kind, linear.state_dict()["weight"])
    weights |= microscaling()
    for name, (kind, quantized) in weights.items():
        state = {L + ".weight": quantized}
        truth = {k: v.dequantize() for k, v in state.items()}
        tensors, metadata = flatten_tensor_state_dict(state)
        case(f"torchao-{name}", "torchao " + kind, tensors, truth, tolerance=ROUNDED, metadata=metadata)
        folder = os.path.join(OUT, f"torchao-{name}-pickle")
        os.makedirs(folder)
        plain = {"model.norm.weight": torch.ones(8), "model.embed_tokens.weight": weight(16, 8).bfloat16()}
        torch.save(plain | state, os.path.join(folder, "pytorch_model.bin"))
        save_file({k: v.float().contiguous() for k, v in truth.items()}, folder + ".truth.safetensors")
        CASES.append({"name": f"torchao-{name}-pickle", "dtype": "torchao " + kind, "tolerance": ROUNDED})


def microscaling():
    """torchao's MXTensor and NVFP4Tensor, with scales in rows and in the tiles that tensor cores read, of which the last
    are not full; and experts."""
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    made = {}
    elements = {"mxfp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2, "mxfp4": torch.float4_e2m1fn_x2}
    for tiled in (False, True):
        place = "-tiled" if tiled else ""
        for name, element in elements.items():
            w = weight(200, 416)
            made[f"{name}-mx{place}"] = (f"{name} g32", MXTensor.to_mx(w, element, 32, is_swizzled_scales=tiled))
        w = weight(200, 208)
        g = per_tensor_amax_to_scale(w.abs().max())
        made[f"nvfp4{place}"] = ("nvfp4 g16", NVFP4Tensor.to_nvfp4(w, per_tensor_scale=g, is_swizzled_scales=tiled))
        w = torch.stack([weight(128, 64), 3 * weight(128, 64)])
        g = torch.stack([per_tensor_amax_to_scale(e.abs().max()) for e in w])[:, None, None]
        experts = NVFP4Tensor.to_nvfp4(w, per_tensor_scale=g, is_swizzled_scales=tiled)
        made[f"nvfp4-experts{place}"] = ("nvfp4 g16", experts)
    made["nvfp4-alone"] = ("nvfp4 g16", NVFP4Tensor.to_nvfp4(weight(48, 256)))
    return made


MAKERS = (float8, fine_grained, gpt_oss, compressed_tensors, modelopt, gptq, awq, bitsandbytes, mlx, torchao)
for maker in MAKERS:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            maker()
    except ImportError as error:
        print(f"left out: {maker.__name__}: {error}", file=sys.stderr)
print(json.dumps(CASES))
