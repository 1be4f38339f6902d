"""Reads the distributed checkpoints that ckpt wrote with torch.distributed.checkpoint, and compares them with their
sources as PyTorch reads those: dcp_peers.py FOLDER, which holds pairs of NAME.pt and NAME, a folder."""

import sys
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

warnings.simplefilter("ignore")


def same(a, b, at=""):
    """Equal objects: tensors to the bit, keys as the text that a planner makes of them. Of what is empty nothing is saved."""
    if torch.is_tensor(a):
        # Written as the values that they stand for.
        a = a.dequantize() if a.is_quantized else a.to_dense() if a.layout != torch.strided else a
        assert torch.is_tensor(b) and a.dtype == b.dtype and a.shape == b.shape, (at, a.dtype, b)
        raw = [t.contiguous().flatten().view(torch.uint8) if t.numel() else t for t in (a, b)]
        assert torch.equal(*raw), at
    elif isinstance(a, dict):
        a = {str(key): value for key, value in a.items() if value != {} or torch.is_tensor(value)}
        assert set(a) == set(b), (at, set(a) ^ set(b))
        for key in a:
            same(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{at}[{i}]")
    else:
        assert a == b or a != a, (at, a, b)


compared = 0
for source in sorted(Path(sys.argv[1]).glob("*.pt")):
    # It holds itself, which a planner would follow without an end.
    if source.name == "cycle.pt":
        continue
    try:
        original = torch.load(source, weights_only=True)
    except Exception:
        continue
    written = source.with_suffix("")
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.pt"
        dcp_to_torch_save(written, whole)
        same(original, torch.load(whole, weights_only=True), source.name)
    # As a run resumes: into tensors that are there.
    state = original["model_state_dict"] if "model_state_dict" in original else original
    if all(torch.is_tensor(tensor) for tensor in state.values()) and state is not original:
        empty = {"model_state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()}}
        dcp.load(empty, checkpoint_id=written, no_dist=True)
        same(state, empty["model_state_dict"], source.name)
        compared += 1
    compared += 1
print(compared, "read the same")
