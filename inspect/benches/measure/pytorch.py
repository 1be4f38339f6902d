"""PyTorch's side of the benchmark.

pytorch.py list FILE             name, shape and dtype of every tensor
pytorch.py measure FILE THREADS  for every word that comes in on a line, `plain` or `tuned`, the seconds that
                                 measuring every tensor took; at the end of input, the measurements themselves
"""

import json
import sys
import time

import torch

EPS = 1e-8


def plain(w, ternary):
    """Each number by the expression that says it."""
    found = {
        "mean": w.mean(),
        "std": w.std(),
        "min": w.min(),
        "max": w.max(),
        "abs_mean": w.abs().mean(),
        "zero": (w == 0).float().mean(),
    }
    if ternary:
        codes = (w / (found["abs_mean"] + EPS)).round().clamp(-1, 1)
        for code, name in ((-1, "ternary_neg"), (0, "ternary_zero"), (1, "ternary_pos")):
            found[name] = (codes == code).float().mean()
    return {name: value.item() for name, value in found.items()}


def tuned(w, ternary):
    """The same in as few passes as PyTorch's fused operations allow."""
    n = w.numel()
    std, mean = torch.std_mean(w)
    low, high = torch.aminmax(w)
    abs_mean = torch.linalg.vector_norm(w, ord=1) / n
    found = {"mean": mean, "std": std, "min": low, "max": high, "abs_mean": abs_mean}
    found["zero"] = 1 - torch.count_nonzero(w) / n
    if ternary:
        line = 0.5 * (abs_mean + EPS)
        found["ternary_pos"] = torch.count_nonzero(w > line) / n
        found["ternary_neg"] = torch.count_nonzero(w < -line) / n
        found["ternary_zero"] = 1 - found["ternary_pos"] - found["ternary_neg"]
    return {name: value.item() for name, value in found.items()}


mode, path = sys.argv[1:3]
state = torch.load(path, mmap=True, weights_only=True, map_location="cpu")["model_state_dict"]
if mode == "list":
    for name, tensor in state.items():
        print(name, tuple(tensor.shape), tensor.dtype)
    sys.exit()

torch.set_num_threads(int(sys.argv[3]))
print(torch.__version__, flush=True)
found = {}
with torch.inference_mode():
    for line in sys.stdin:
        measure = {"plain": plain, "tuned": tuned}[line.strip()]
        start = time.perf_counter()
        found = {name: measure(w, name.endswith("_proj.weight")) for name, w in state.items()}
        print(time.perf_counter() - start, flush=True)
print(json.dumps(found))
