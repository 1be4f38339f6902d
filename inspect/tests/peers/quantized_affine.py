"""torchao's AffineQuantizedTensor, of the versions that made it.

quantized_affine.py OUT TORCHAO makes OUT/CASE.pt for each case with the torchao in the folder TORCHAO, and
OUT/CASE.truth.safetensors, the weights as it dequantizes them. It prints a list of what was made: name, the type that is to be
told, or the class that is refused."""

import contextlib
import json
import os
import sys

OUT = sys.argv[1]
sys.path.insert(0, sys.argv[2])

import torch
from safetensors.torch import save_file

with contextlib.redirect_stdout(sys.stderr):
    from torchao import quantization as q
    from torchao.dtypes import to_affine_quantized_intx
    from torchao.dtypes.nf4tensor import to_nf4

CASES = []
torch.manual_seed(7)


def weight(rows=48, cols=256):
    return torch.randn(rows, cols) * 0.02 * (1 + torch.rand(rows, 1))


def case(name, kind, value, refused=None, weight=None):
    torch.save({"a.weight": value, "a.bias": torch.ones(8)}, os.path.join(OUT, name + ".pt"))
    if refused is None:
        truth = {"a.weight": (value if weight is None else weight).dequantize().float().contiguous().clone()}
        save_file(truth, os.path.join(OUT, name + ".truth.safetensors"))
    CASES.append({"name": name, "dtype": "torchao " + kind, "refused": refused})


def made(config):
    layer = torch.nn.Linear(256, 48, bias=False)
    layer.weight.data = weight()
    q.quantize_(layer, config)
    return layer.state_dict()["weight"]


def affine(block, mapping=q.MappingType.ASYMMETRIC, dtype=torch.int8, rows=48, cols=256):
    return to_affine_quantized_intx(weight(rows, cols), mapping, block, dtype, scale_dtype=torch.float32)


with contextlib.redirect_stdout(sys.stderr):
    case("int8", "int8 channel", made(q.int8_weight_only()))
    case("fp8", "fp8_e4m3 channel", made(q.float8_weight_only()))
    rounded = made(q.int8_dynamic_activation_int8_weight())
    case("int8-rounding", "int8 channel", rounded, weight=rounded.original_weight_tensor)
    rounded = made(q.int8_dynamic_activation_int4_weight(group_size=32))
    case("int4-rounding", "int8 g32", rounded, weight=rounded.original_weight_tensor)
    case("groups", "int8 g64", affine((1, 64)))
    case("matrix", "int8 tensor", affine((48, 256)))
    case("blocks", "int8 16x64", affine((16, 64)))
    case("bytes", "8-bit g64", affine((1, 64), dtype=torch.uint8))
    case("transposed", "int8 256x1", affine((1, 256), cols=256).t())
    case("slice", "int8 g64", affine((1, 64))[8:24])
    case("uint4", "", made(q.uintx_weight_only(torch.uint4, 64)), refused="UintxAQTTensorImpl")
    case("nf4", "", to_nf4(weight(256, 384).bfloat16(), 64, 256), refused="NF4Tensor")
print(json.dumps(CASES))
