"""Writes small checkpoints of unusual make, and objects.json with what PyTorch says is in them.

Run in this folder: python3 objects.py
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import pickle
import warnings

import numpy
import torch

warnings.filterwarnings("ignore")
torch.manual_seed(5)
truth = {}


def facts(tensor):
    tensor = tensor.detach().contiguous()
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def tell(name, tensors):
    truth[name] = {key: facts(tensor) for key, tensor in tensors.items()}


def moments(dense):
    dense = dense.double()
    return {"mean": dense.mean().item(), "std": dense.std().item(), "zeros": int((dense == 0).sum())}


w = torch.randn(4, 3)

# Tensors written by pickle itself: each storage is a legacy file in a byte string.
for protocol in (2, 4):
    shared = {"w": w, "p": torch.nn.Parameter(w + 1), "again": w, "t": w.t(), "h": w.half()}
    with open(f"pickled-p{protocol}.pkl", "wb") as file:
        pickle.dump(shared, file, protocol=protocol)
    tell(f"pickled-p{protocol}.pkl", shared)

# Weights as numpy arrays, which is how some model zoos publish them.
for protocol in (2, 5):
    arrays = {
        "conv.weight": numpy.arange(24, dtype="float32").reshape(2, 3, 4),
        "fortran": numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3)),
        "big": numpy.arange(5, dtype=">i4"),
        "flags": numpy.array([True, False]),
        "scalar": numpy.array(2.5, dtype="float16"),
    }
    with open(f"arrays-p{protocol}.pkl", "wb") as file:
        pickle.dump(arrays, file, protocol=protocol)
    native = {k: torch.from_numpy(numpy.array(a.astype(a.dtype.newbyteorder("=")))) for k, a in arrays.items()}
    tell(f"arrays-p{protocol}.pkl", native)


@dataclasses.dataclass
class Config:
    hidden: int
    weight: torch.Tensor


@dataclasses.dataclass(slots=True)
class Slots:
    weight: torch.Tensor


class Subclass(torch.Tensor):
    pass


Pair = collections.namedtuple("Pair", "first second")
for protocol in (2, 5):
    objects = {
        "config": Config(3, w),
        "slots": Slots(w + 1),
        "args": argparse.Namespace(lr=0.1, mask=w > 0),
        "pair": Pair(w + 2, "x"),
        "subclass": (w + 3).as_subclass(Subclass),
        "queue": collections.deque([w + 4]),
        "lists": collections.defaultdict(list, {"k": [w + 5]}),
        "count": collections.Counter("aab"),
        "wide": 2**100,
        "seed": 2**64 - 1,
        "raw": bytearray(b"\x00\xff"),
        "device": torch.device("cuda:1"),
        "history": numpy.arange(3.0),
        "steps": [True] * 20000,
        "last": w + 6,
    }
    torch.save(objects, f"objects-p{protocol}.pt", pickle_protocol=protocol)
    tell(
        f"objects-p{protocol}.pt",
        {
            "config.weight": w,
            "slots.weight": w + 1,
            "args.mask": w > 0,
            "pair.args.0": w + 2,
            "subclass": w + 3,
            "queue.0": w + 4,
            "lists.k.0": w + 5,
            "last": w + 6,
        },
    )

q = torch.quantize_per_channel(
    w, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), torch.tensor([0, 1, 2, 3]), 0, torch.qint8
)
q32 = torch.quantize_per_tensor(w, 0.01, 3, torch.qint32)
csr = torch.randn(4, 5).relu().to_sparse_csr()
coo = torch.randn(4, 5).relu().to_sparse()
bsr = torch.block_diag(torch.randn(2, 2), torch.randn(2, 2)).to_sparse_bsr((2, 2))
nested = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)])
jagged = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
meta = torch.empty(3, 4, device="meta")
torch.save(
    {"q": q, "q32": q32, "csr": csr, "coo": coo, "bsr": bsr, "nested": nested, "jagged": jagged, "meta": meta},
    "special.pt",
)
truth["special.pt"] = {
    "q": moments(q.dequantize()),
    "q32": moments(q32.dequantize()),
    "csr": moments(csr.to_dense()),
    "coo": moments(coo.to_dense()),
    "bsr": moments(bsr.to_dense()),
    "nested._values": moments(torch.cat([t.reshape(-1) for t in nested.unbind()])),
    "jagged._values": moments(jagged.values()),
}

with open("objects.json", "w") as file:
    json.dump(truth, file, indent=1)
