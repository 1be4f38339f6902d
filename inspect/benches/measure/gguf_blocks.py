"""The gguf package's side of the benchmark of blocks: for every name of a tensor of the GGUF file FILE that comes in on a
line, the seconds that dequantizing it and measuring its values took; at the end of input, the measurements themselves.

gguf_blocks.py FILE
"""

import json
import sys
import time

import gguf
import numpy as np
from gguf.quants import dequantize

tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(sys.argv[1]).tensors}
print(np.__version__, flush=True)
found = {}
for line in sys.stdin:
    name = line.strip()
    tensor = tensors[name]
    start = time.perf_counter()
    w = dequantize(tensor.data, tensor.tensor_type)
    size = np.abs(w)
    found[name] = {
        "mean": float(w.mean(dtype=np.float64)),
        "std": float(w.std(dtype=np.float64, ddof=1)),
        "min": float(w.min()),
        "max": float(w.max()),
        "abs_mean": float(size.mean(dtype=np.float64)),
        "zeros": int((w == 0).sum()),
        "nan": int(np.isnan(w).sum()),
        "inf": int(np.isinf(w).sum()),
    }
    print(time.perf_counter() - start, flush=True)
print(json.dumps(found))
