"""Compares nested state dicts as PyTorch reads them: nested.py WHOLE.pt OTHER.pt WRITTEN, of which the last is a distributed
checkpoint that ckpt wrote of the first. Of a tuple ckpt makes a list."""

import sys
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

warnings.simplefilter("ignore")


def same(a, b, at=""):
    kind = lambda value: list if isinstance(value, tuple) else type(value)
    assert kind(a) is kind(b), (at, type(a), type(b))
    if torch.is_tensor(a):
        assert a.dtype == b.dtype and torch.equal(a, b), at
    elif isinstance(a, dict):
        assert set(a) == set(b), (at, set(a) ^ set(b))
        for key in a:
            same(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), (at, a, b)
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{at}[{i}]")
    else:
        assert a == b, (at, a, b)


def zeroed(value):
    if torch.is_tensor(value):
        return torch.zeros_like(value)
    if isinstance(value, dict):
        return {key: zeroed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [zeroed(inner) for inner in value]
    return None


whole, other, written = sys.argv[1:]
whole = torch.load(whole, weights_only=True)
same(whole, torch.load(other, weights_only=True))
with tempfile.TemporaryDirectory() as folder:
    dcp_to_torch_save(written, Path(folder) / "back.pt")
    same(whole, torch.load(Path(folder) / "back.pt", weights_only=True))
# As a run resumes, into what is there.
state = zeroed(whole)
dcp.load(state, checkpoint_id=written, no_dist=True)
same(whole, state)
print("the same")
