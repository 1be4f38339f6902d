"""PyTorch's side of the benchmark: pytorch.py FILE THREADS

FILE holds a student model as a trainer saves it, and the batch. For every line that comes in, one training step: the
seconds that it took and its loss; at the end of input, the largest resident size in bytes.
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[2]))
saved = torch.load(sys.argv[1], weights_only=True)
c = json.loads(saved["config"])
ids, targets = saved["ids"].long(), saved["targets"].long()
w = {name: tensor.requires_grad_() for name, tensor in saved["weights"].items()}
heads, kv, dim = c["num_heads"], c["num_kv_heads"], c["head_dim"]
rows, length = ids.shape
eps = c["quantization_eps"]

inverse = 1.0 / c["rope_base"] ** (torch.arange(0, dim, 2).float() / dim)
angles = torch.outer(torch.arange(length).float(), inverse)
angles = torch.cat([angles, angles], -1)
cos, sin = angles.cos(), angles.sin()
future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)


def straight(z, low, high):
    """Rounded and clamped, with the gradient of the identity."""
    return z + (z.clamp(low, high).round() - z).detach()


def bitlinear(x, weight):
    ws = weight.abs().mean() + eps
    xs = x.abs().amax(-1, keepdim=True) + eps
    return F.linear(straight(x / xs * 127, -128, 127), straight(weight / ws, -1, 1)) * (ws * xs / 127)


def norm(x, weight):
    return F.rms_norm(x, weight.shape, weight, c["norm_eps"])


def rotate(x):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def forward():
    x = F.embedding(ids, w["embed_tokens.weight"])
    for layer in range(c["num_layers"]):
        p = lambda name: w[f"layers.{layer}.{name}.weight"]
        h = norm(x, p("input_layernorm"))
        split = lambda name, n: bitlinear(h, p(f"self_attn.{name}")).view(rows, length, n, dim).transpose(1, 2)
        q, k, v = split("q_proj", heads), split("k_proj", kv), split("v_proj", kv)
        q, k = rotate(norm(q, p("self_attn.q_norm"))), rotate(norm(k, p("self_attn.k_norm")))
        k, v = (t.repeat_interleave(heads // kv, 1) for t in (k, v))
        s = q @ k.transpose(2, 3) * dim**-0.5
        s = c["attn_logit_soft_cap"] * torch.tanh(s / c["attn_logit_soft_cap"])
        mixed = s.masked_fill(future, float("-inf")).softmax(-1) @ v
        x = x + bitlinear(mixed.transpose(1, 2).reshape(rows, length, heads * dim), p("self_attn.o_proj"))
        h = norm(x, p("post_attention_layernorm"))
        h = F.silu(bitlinear(h, p("mlp.gate_proj"))) * bitlinear(h, p("mlp.up_proj"))
        x = x + bitlinear(h, p("mlp.down_proj"))
    z = F.linear(norm(x, w["norm.weight"]), w["embed_tokens.weight"])
    return c["final_logit_soft_cap"] * torch.tanh(z / c["final_logit_soft_cap"])


optimizer = torch.optim.AdamW(w.values(), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0, fused=True)
print(torch.__version__, flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = F.cross_entropy(forward().flatten(0, 1), targets.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
    optimizer.step()
    print(time.perf_counter() - start, loss.item(), flush=True)
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
