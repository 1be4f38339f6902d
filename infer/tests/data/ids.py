"""Writes healthy.jsonl and collapsed.jsonl, two sequences of token ids each, and perplexity.json, what a healthy and a
collapsed model of the runs in tests/fixtures make of them, from logits that were computed in PyTorch.

    ids.py LOGITS_FOLDER

with the files nano-healthy-2000.safetensors and nano-collapse-4000.safetensors: `ids` [2, 48], `logits` [2, 48, vocabulary].
"""

import json
import os
import sys

import torch
from safetensors.torch import load_file

HERE = os.path.dirname(os.path.abspath(__file__))
truth = {}
for name, file in [("healthy", "nano-healthy-2000"), ("collapsed", "nano-collapse-4000")]:
    tensors = load_file(os.path.join(sys.argv[1], f"{file}.safetensors"))
    ids, logits = tensors["ids"].long(), tensors["logits"].double()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    truth[name] = loss.exp().item()
    with open(os.path.join(HERE, f"{name}.jsonl"), "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in ids.tolist())
with open(os.path.join(HERE, "perplexity.json"), "w") as file:
    json.dump(truth, file)
