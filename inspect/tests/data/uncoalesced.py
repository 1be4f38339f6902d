"""Writes uncoalesced.pt: a sparse COO tensor that lists one element twice, and the same coalesced.

Run in this folder: python3 uncoalesced.py
"""

import torch

indices = torch.tensor([[0, 0, 1], [1, 1, 0]])
twice = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, -0.5]), (2, 2))
torch.save({"twice": twice, "once": twice.coalesce()}, "uncoalesced.pt")
print(twice.to_dense())
