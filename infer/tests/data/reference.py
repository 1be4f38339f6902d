"""Writes small student models of unusual configurations, and their logits as PyTorch computes them, beside this file.

An independent implementation of the forward pass: no KV cache, no kernels, one expression after the other.
Run with PyTorch and safetensors installed; the seed makes it repeat itself.
"""

import math
import os

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
BASE = dict(vocab_size=50, hidden_dim=20, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=10, mlp_hidden_dim=28,
            max_seq_len=64, rope_base=1e4, rope_scaling=None, bitlinear_per_channel=False, quantization_eps=1e-8,
            norm_eps=1e-6, tie_word_embeddings=True, use_qk_norm=True, attn_logit_soft_cap=50.0,
            final_logit_soft_cap=30.0)
CASES = {
    "per_channel": dict(use_bitlinear=True, bitlinear_per_channel=True, tie_word_embeddings=False, use_qk_norm=False,
                        num_heads=3, num_kv_heads=1, head_dim=6, attn_logit_soft_cap=None),
    "ffn_only": dict(use_bitlinear_attn=False, use_bitlinear_ffn=True, rope_scaling=dict(type="linear", factor=4.0),
                     final_logit_soft_cap=None, norm_eps=1e-3),
    "attn_only": dict(use_bitlinear_attn=True, use_bitlinear_ffn=False, quantization_eps=0.05,
                      rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                        original_max_position_embeddings=32)),
}


def norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def linear(x, weight, bitlinear, config):
    if not bitlinear:
        return x @ weight.T
    mean = weight.abs().mean(1, keepdim=True) if config["bitlinear_per_channel"] else weight.abs().mean()
    ws = mean + config["quantization_eps"]
    wq = (weight / ws).round().clamp(-1, 1)
    xs = x.abs().amax(-1, keepdim=True) + config["quantization_eps"]
    xq = (x / xs * 127).clamp(-128, 127).round()
    return (xq @ wq.T) * (ws.reshape(-1) * xs / 127)


def frequencies(config):
    dim = config["head_dim"]
    inverse = 1.0 / config["rope_base"] ** (torch.arange(0, dim, 2).float() / dim)
    scaling = config["rope_scaling"] or {}
    kind = scaling.get("type", scaling.get("rope_type"))
    if kind == "linear":
        return inverse / scaling["factor"]
    if kind == "llama3":
        low, high, old = (scaling[k] for k in ("low_freq_factor", "high_freq_factor",
                                               "original_max_position_embeddings"))
        out = []
        for f in inverse.tolist():
            wavelength = 2 * math.pi / f
            if wavelength < old / high:
                out.append(f)
            elif wavelength > old / low:
                out.append(f / scaling["factor"])
            else:
                smooth = (old / wavelength - low) / (high - low)
                out.append((1 - smooth) * f / scaling["factor"] + smooth * f)
        return torch.tensor(out)
    return inverse


def rotate(x, angles):
    cos, sin = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def forward(w, ids, c):
    attn = c.get("use_bitlinear_attn", c.get("use_bitlinear"))
    ffn = c.get("use_bitlinear_ffn", c.get("use_bitlinear"))
    n, heads, kv, dim = len(ids), c["num_heads"], c["num_kv_heads"], c["head_dim"]
    angles = torch.arange(n).float()[:, None] * frequencies(c)
    x = w["embed_tokens.weight"][ids]
    for layer in range(c["num_layers"]):
        p = lambda name: w[f"layers.{layer}.{name}.weight"]
        h = norm(x, p("input_layernorm"), c["norm_eps"])
        split = lambda name, count: linear(h, p(f"self_attn.{name}"), attn, c).view(n, count, dim).transpose(0, 1)
        q, k, v = split("q_proj", heads), split("k_proj", kv), split("v_proj", kv)
        if c["use_qk_norm"]:
            q = norm(q, p("self_attn.q_norm"), c["norm_eps"])
            k = norm(k, p("self_attn.k_norm"), c["norm_eps"])
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (t.repeat_interleave(heads // kv, 0) for t in (k, v))
        s = q @ k.transpose(1, 2) / math.sqrt(dim)
        if c["attn_logit_soft_cap"]:
            s = c["attn_logit_soft_cap"] * torch.tanh(s / c["attn_logit_soft_cap"])
        s = s.masked_fill(torch.triu(torch.ones(n, n, dtype=torch.bool), 1), -math.inf)
        mixed = (s.softmax(-1) @ v).transpose(0, 1).reshape(n, heads * dim)
        x = x + linear(mixed, p("self_attn.o_proj"), attn, c)
        h = norm(x, p("post_attention_layernorm"), c["norm_eps"])
        gate, up = linear(h, p("mlp.gate_proj"), ffn, c), linear(h, p("mlp.up_proj"), ffn, c)
        x = x + linear(torch.nn.functional.silu(gate) * up, p("mlp.down_proj"), ffn, c)
    head = w["embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
    z = norm(x, w["norm.weight"], c["norm_eps"]) @ head.T
    return c["final_logit_soft_cap"] * torch.tanh(z / c["final_logit_soft_cap"]) if c["final_logit_soft_cap"] else z


def weights(c):
    rows, kv = c["num_heads"] * c["head_dim"], c["num_kv_heads"] * c["head_dim"]
    hidden, mlp = c["hidden_dim"], c["mlp_hidden_dim"]
    matrix = lambda out, inp: torch.randn(out, inp) / math.sqrt(inp)
    vector = lambda n: 1 + 0.2 * torch.randn(n)
    w = {"embed_tokens.weight": torch.randn(c["vocab_size"], hidden)}
    for layer in range(c["num_layers"]):
        parts = {"input_layernorm": vector(hidden), "self_attn.q_proj": matrix(rows, hidden),
                 "self_attn.k_proj": matrix(kv, hidden), "self_attn.v_proj": matrix(kv, hidden),
                 "self_attn.o_proj": matrix(hidden, rows), "post_attention_layernorm": vector(hidden),
                 "mlp.gate_proj": matrix(mlp, hidden), "mlp.up_proj": matrix(mlp, hidden),
                 "mlp.down_proj": matrix(hidden, mlp)}
        if c["use_qk_norm"]:
            parts.update({"self_attn.q_norm": vector(c["head_dim"]), "self_attn.k_norm": vector(c["head_dim"])})
        w.update({f"layers.{layer}.{name}.weight": value for name, value in parts.items()})
    w["norm.weight"] = vector(hidden)
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = matrix(c["vocab_size"], hidden)
    return w


for number, (name, changes) in enumerate(CASES.items()):
    torch.manual_seed(number)
    config = {**BASE, **changes}
    w = weights(config)
    ids = torch.randint(config["vocab_size"], (33,))
    torch.save({"model_state_dict": w, "config": {"model": config}}, f"{HERE}/{name}.pt")
    save_file({"ids": ids.int(), "logits": forward(w, ids, config)}, f"{HERE}/{name}.safetensors")
