"""Reads what ckpt wrote with PyTorch, numpy and safetensors, and compares it with the source as PyTorch reads it.

    peers.py FIXTURES WRITTEN

FIXTURES is the repository's tests/fixtures; WRITTEN holds what tests/suite/peers.rs has had converted. Exits nonzero with
an assertion when anything differs.
"""

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

fixtures, written = Path(sys.argv[1]), Path(sys.argv[2])


def load(path, **options):
    return torch.load(path, weights_only=True, **options)


def same(a, b, at=""):
    """Equal objects: tensors to the bit, containers by what they hold (tuples come back as lists)."""
    if torch.is_tensor(a):
        assert torch.is_tensor(b) and a.dtype == b.dtype and a.shape == b.shape, (at, a.dtype, b)
        raw = [t.contiguous().flatten().view(torch.uint8) if t.numel() else t for t in (a, b)]
        assert torch.equal(*raw), at
    elif isinstance(a, dict):
        assert set(a) == set(b), (at, set(a) ^ set(b))
        for key in a:
            same(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{at}[{i}]")
    else:
        assert type(a) is type(b) and (a == b or a != a), (at, a, b)


source = fixtures / "healthy-run/step-02000.pt"
original = load(source)
weights = original["model_state_dict"]

# PyTorch: the object with its optimizer, mapped too; storages aligned so that mapping serves them in place.
same(original, load(written / "full.pt"))
mapped = load(written / "full.pt", mmap=True)
same(original, mapped)
assert all(t.data_ptr() % 64 == 0 for t in mapped["model_state_dict"].values())
lean = load(written / "lean.pt")
same(weights, lean["model_state_dict"])
assert "optimizer_state_dict" not in lean and lean["config"]["model"] == original["config"]["model"]

# Every fixture that PyTorch itself reads as plain tensors.
compared = 0
for path in sorted((fixtures / "formats").glob("*.pt")):
    copy = written / "formats" / path.name
    if path.name in ("evil.pt", "truncated.pt") or not copy.exists():
        continue
    read = load(copy)
    try:
        before = load(path)
    except Exception:
        continue
    if path.name in ("sparse.pt", "quantized.pt"):
        for (key, a), b in zip(before.items(), read.values()):
            dense = a.to_dense() if a.layout != torch.strided else a.dequantize()
            same(dense, b, f"{path.name}: {key}")
    elif path.name not in ("cycle.pt", "shared_cycle.pt", "module.pt", "torchscript.pt"):
        same(before, read, path.name)
    compared += 1
assert compared > 12, compared

# Tied weights are one storage still.
tied = load(written / "formats/tied.pt")
assert tied["embed.weight"].data_ptr() == tied["lm_head.weight"].data_ptr()
strided = load(written / "formats/views.pt")
assert strided["transposed"].stride() == load(fixtures / "formats/views.pt")["transposed"].stride()

# Narrower types round as PyTorch rounds.
for name, dtype in (("half.pt", torch.float16), ("brain.pt", torch.bfloat16)):
    narrow = load(written / name)["model_state_dict"]
    same({k: v.to(dtype) for k, v in weights.items()}, narrow, name)

# SafeTensors, whole and in shards.
flat = load_file(written / "flat.safetensors")
same(dict(weights), flat)
with safe_open(written / "flat.safetensors", "np") as f:
    assert f.metadata()["format"] == "pt" and f.metadata()["step"] == "2000"
    assert json.loads(f.metadata()["config"])["model"] == original["config"]["model"]
    for key in f.keys():
        assert np.array_equal(f.get_tensor(key), weights[key].numpy()), key
index = json.loads((written / "hf/model.safetensors.index.json").read_text())
shards = {name: load_file(written / "hf" / name) for name in set(index["weight_map"].values())}
assert len(shards) > 1
same({f"model.{k}": v for k, v in weights.items()}, {k: shards[s][k] for k, s in index["weight_map"].items()})
assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in weights.values())


# NumPy: the arrays, and entries to the byte as NumPy writes them.
def arrays(name):
    with zipfile.ZipFile(written / name) as archive:
        assert archive.testzip() is None, name
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with np.load(written / name, allow_pickle=False) as read:
        read = {key: read[key] for key in read.files}
    assert len(entries) == len(read), name
    for key, array in read.items():
        own = io.BytesIO()
        np.save(own, array)
        assert entries[f"{key}.npy"] == own.getvalue(), (name, key)
    return read


same({k: v.to(torch.float16) for k, v in weights.items()}, {k: torch.from_numpy(a) for k, a in arrays("half.npz").items()})
same(dict(weights), {k: torch.from_numpy(a) for k, a in arrays("arrays.npz").items()})
integers, before = arrays("integers.npz"), load(fixtures / "formats/dtypes_int.pt")
assert set(integers) == set(before) and len(integers) > 5
for key, tensor in before.items():
    numbers = tensor.resolve_conj().numpy()
    assert integers[key].dtype == numbers.dtype and np.array_equal(integers[key], numbers), key
with np.load(written / "many.npz") as many:
    assert len(many.files) == 65535 and [int(many[key][0]) for key in ("0", "65534")] == [7, 7]
odd = {key: array.shape for key, array in arrays("odd.npz").items()}
assert odd == {"a/b c": (), "ünï\"\n'": (0, 3), "x\\y.npy": (1,), "": (1, 1, 1)}, odd


def absmean(w, eps=1e-8):
    """The student's rule, as its BitLinear computes it."""
    scale = w.abs().mean() + eps
    return torch.clamp(torch.round(w / scale), -1, 1), scale


def unpack_i2s(packed, shape):
    """The seed's formula: four values a byte, the first in the high bits, code = value + 1."""
    fields = torch.stack([(packed >> shift) & 3 for shift in (6, 4, 2, 0)], dim=1).flatten()
    numel = int(torch.prod(torch.as_tensor(shape)))
    return (fields[:numel].to(torch.float32) - 1).view(*[int(n) for n in shape])


def unpack_hf(packed):
    """transformers' unpack_weights: row r at packed row r % P, bits 2 * (r / P)."""
    return torch.cat([((packed >> (2 * i)) & 3).to(torch.float32) - 1 for i in range(4)], dim=0)


i2s = load(written / "i2s.pt")
assert i2s["packed"] is True
i2s = i2s["model_state_dict"]
with open(written / "packed.safetensors", "rb") as f:
    # A tensor called __metadata__ is what this form is; the safetensors library writes such a file and does not read it.
    header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    body = f.read()
entry = lambda name: torch.frombuffer(bytearray(body[slice(*header[name]["data_offsets"])]), dtype=torch.uint8)
shapes = json.loads(bytes(entry("__metadata__").numpy()))
hf = load_file(written / "hf-packed/model.safetensors")
config = json.loads((written / "hf-packed/config.json").read_text())
assert config["quantization_config"]["linear_class"] == "autobitlinear"
matrices = [k for k in weights if k.endswith("_proj.weight")]
assert len(matrices) == 14
for key in matrices:
    codes, scale = absmean(weights[key])
    layer = key.removesuffix(".weight")
    assert torch.equal(unpack_i2s(i2s[key], i2s[f"{layer}_shape"]), codes), key
    assert torch.equal(unpack_i2s(entry(key), shapes[f"{key}_shape"]), codes), key
    assert torch.equal(unpack_hf(hf[f"model.{key}"]), codes), key
    for stored in (i2s[f"{layer}_scale"], hf[f"model.{layer}.weight_scale"][0]):
        assert abs(stored.item() - scale.item()) <= torch.finfo(torch.float32).eps * scale.item(), key

print("all read the same")
