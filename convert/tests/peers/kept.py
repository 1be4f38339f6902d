"""Reads with the gguf package what ckpt made of quantized models by keeping their codes and scales, and compares it with
what these stand for by PyTorch's own 8-bit types.

    kept.py FOLDER

FOLDER holds SCHEME.gguf, and beside it what it was made of: SCHEME, a folder, or SCHEME.safetensors. Exits nonzero with an
assertion when anything differs.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from safetensors.torch import load_file

folder = Path(sys.argv[1])
# OCP Microscaling Formats 1.0, 5.3.3.
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def values(codes, scales):
    """Codes of four bits, the first in the low half of a byte, times a scale for each group."""
    codes = codes.view(torch.uint8)
    all = torch.stack([E2M1[(codes & 15).long()], E2M1[(codes >> 4).long()]], -1).flatten(-2)
    return (all.unflatten(-1, (scales.shape[-1], -1)) * scales.float()[..., None]).flatten(-2)


def parts(source, name):
    """What codes of `name` times scales are, and the factor of all of them."""
    get = lambda suffix: source.get(f"{name}{suffix}")
    if get("_blocks") is not None:
        return values(get("_blocks").flatten(-2), get("_scales").view(torch.float8_e8m0fnu)), 1.0
    if get(".scales") is not None:
        scales, codes = get(".scales"), get(".weight").view(torch.uint8)
        size = 2 * codes.shape[-1] // scales.shape[-1]
        return values(codes, scales.view(torch.float8_e4m3fn if size == 16 else torch.float8_e8m0fnu)), 1.0
    codes = get(".weight_packed") if get(".weight_packed") is not None else get(".weight")
    scales = get(".weight_scale") if get(".weight_scale") is not None else get(".weight_scale_inv")
    scales = scales.view(torch.float8_e8m0fnu) if scales.dtype == torch.uint8 else scales
    if get(".weight_scale_2") is not None:
        return values(codes, scales), get(".weight_scale_2").item()
    if get(".weight_global_scale") is not None:
        return values(codes, scales), np.float32(1) / np.float32(get(".weight_global_scale").item())
    return values(codes, scales), 1.0


def interleaved(w, heads):
    """`permute` in llama.cpp's converter."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


files = sorted(folder.glob("*.gguf"))
for path in files:
    beside = path.with_suffix("")
    source = load_file(beside / "model.safetensors" if beside.is_dir() else path.with_suffix(".safetensors"))
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    names = {f"model.layers.0.{a}": f"blk.0.{b}" for a, b in NAMES.items()} if beside.is_dir() else {
        "model.layers.0.mlp.experts.gate_up_proj": "model.layers.0.mlp.experts.gate_up_proj"
    }  # fmt: skip
    for name, other in names.items():
        whole, factor = parts(source, name)
        whole = interleaved(whole, 4 if "q_proj" in name else 2) if name.endswith(("q_proj", "k_proj")) else whole
        tensor = tensors.get(f"{other}.weight", tensors.get(other))
        assert tensor.tensor_type.name in ("MXFP4", "NVFP4"), (path, name, tensor.tensor_type)
        assert tuple(reversed(tensor.shape.tolist())) == tuple(whole.shape), (path, name, tensor.shape)
        read = dequantize(tensor.data, tensor.tensor_type).reshape(whole.shape)
        assert np.array_equal(read, whole.numpy()), (path, name, np.abs(read - whole.numpy()).max())
        beside_it = tensors.get(f"{other}.scale")
        written = 1.0 if beside_it is None else beside_it.data.item()
        assert written == np.float32(factor), (path, name, written, factor)
print(f"{len(files)} files, all the same")
