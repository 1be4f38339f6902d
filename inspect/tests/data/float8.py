"""Writes float8.json: the value PyTorch gives to each code of its 8-bit floating-point types.

Run in this folder: python3 float8.py
"""

import json

import torch

codes = torch.arange(256, dtype=torch.uint8)
table = {}
for name in ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]:
    values = codes.view(getattr(torch, name)).to(torch.float32).tolist()
    table[name] = [v if v == v and abs(v) != float("inf") else str(v) for v in values]
json.dump(table, open("float8.json", "w"), indent=None)
