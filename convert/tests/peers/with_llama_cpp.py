"""Compares what llama.cpp makes of GGUF files that ckpt wrote with what `ckpt infer` makes of the same files, and with the
source computed in float64.

    with_llama_cpp.py SOURCE.pt TOKENIZER.json CKPT

Run on demand: needs llama-cpp-python (which builds llama.cpp, about ten minutes), torch, numpy,
safetensors and tokenizers. SOURCE is a
student checkpoint beside nothing, TOKENIZER its tokenizer.json, CKPT the built command.

1. Tokenization: for a list of texts llama.cpp gives the ids that the tokenizers library gives.
2. Logits: the student without caps and activation rounding, computed here in float64 from the ternary weights, against
   llama.cpp's for files of each type; and `ckpt infer`'s on the same file, without the caps that llama.cpp has no word for,
   against llama.cpp's. Plain types run there without activation rounding too; packed ones have BitLinear's, one scale a token,
   where llama.cpp has one for 256 elements. Greedy tokens are compared at every position.
Prints a table and exits nonzero when ids differ or logits are further apart than the type explains.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama
from safetensors.numpy import load_file
from tokenizers import Tokenizer

source, tokenizer_json, ckpt = map(Path, sys.argv[1:4])
TEXTS = [
    "def main():\n    return 0\n", "", " ", "  two  spaces", "a\n\n\n b\t\tc", "I've we'll THEY'RE", "x = 3333 + 12.5",
    "Grüße, 世界 🦙🦙", "class Ünïcode(object): pass", "    for i in range(10):\n\tprint(i, end='')", "!!!???...,,,", "\x00\x01",
]
# Largest allowed difference of logits, relative to their spread: F32 leaves summation order, the others their rounding of
# weights (block scales in f16) and of activations (blocks of 8 bits).
CASES = [
    ("f32", ["--quant", "f32"], 2e-3), ("f16", ["--quant", "f16"], 1e-2),
    ("q8_0", ["--quant", "q8_0"], 5e-2), ("tq2_0", ["--quant", "tq2_0", "--embed", "f16"], 5e-2),
    ("tq1_0", ["--quant", "tq1_0", "--embed", "f16"], 5e-2),
    ("tq2_0, scales beside", ["--quant", "tq2_0", "--embed", "f16", "--exact-scales"], 5e-2),
]


def reference(state, config, ids):
    """Logits of the student with ternary weights, float activations and no caps: what llama.cpp's qwen3 computes."""
    w = {k: v.double() for k, v in state.items()}
    for name in w:
        if name.endswith("_proj.weight"):
            scale = w[name].abs().mean().float() + torch.tensor(config["quantization_eps"], dtype=torch.float32)
            w[name] = (w[name].float() / scale).round().clamp(-1, 1).double() * scale.double()
    eps = config["norm_eps"]

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight

    heads, kv_heads, dim = config["num_heads"], config["num_kv_heads"], config["head_dim"]
    n = len(ids)
    frequencies = config["rope_base"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * frequencies
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def rotate(x):
        first, second = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

    x = w["embed_tokens.weight"][ids]
    mask = torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)
    for i in range(config["num_layers"]):
        at = lambda name: w[f"layers.{i}.{name}.weight"]
        h = norm(x, at("input_layernorm"))
        q = (h @ at("self_attn.q_proj").T).view(n, heads, dim)
        k = (h @ at("self_attn.k_proj").T).view(n, kv_heads, dim)
        v = (h @ at("self_attn.v_proj").T).view(n, kv_heads, dim).repeat_interleave(heads // kv_heads, 1)
        q, k = rotate(norm(q, at("self_attn.q_norm"))), rotate(norm(k, at("self_attn.k_norm")))
        k = k.repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / dim**0.5 + mask
        h = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(n, -1)
        x = x + h @ at("self_attn.o_proj").T
        h = norm(x, at("post_attention_layernorm"))
        gate = h @ at("mlp.gate_proj").T
        x = x + (torch.nn.functional.silu(gate) * (h @ at("mlp.up_proj").T)) @ at("mlp.down_proj").T
    return (norm(x, w["norm.weight"]) @ w.get("lm_head.weight", w["embed_tokens.weight"]).T).numpy()


checkpoint = torch.load(source, weights_only=True, map_location="cpu")
state = checkpoint.get("model_state_dict", checkpoint)
given = (checkpoint.get("config") or {}).get("model", {})
hidden = state["embed_tokens.weight"].shape[1]
head_dim = state["layers.0.self_attn.q_norm.weight"].shape[0]
config = {
    "num_layers": 1 + max(int(k.split(".")[1]) for k in state if k.startswith("layers.")),
    "head_dim": head_dim,
    "num_heads": state["layers.0.self_attn.q_proj.weight"].shape[0] // head_dim,
    "num_kv_heads": state["layers.0.self_attn.k_proj.weight"].shape[0] // head_dim,
    "rope_base": given.get("rope_base", 1e6), "norm_eps": given.get("norm_eps", 1e-6),
    "quantization_eps": given.get("quantization_eps", 1e-8),
}
tokenizer = Tokenizer.from_file(str(tokenizer_json))
prompt = tokenizer.encode(TEXTS[0] + TEXTS[9] + TEXTS[6], add_special_tokens=False).ids
wanted = reference(state, config, prompt)
spread = wanted.std()
failed = False


def our_logits(path, packed, folder):
    """Logits of ckpt infer."""
    dumped = Path(folder) / "logits.safetensors"
    command = [str(ckpt), "infer", str(path), "--ids", ",".join(map(str, prompt)), "--dump-logits", str(dumped)]
    command += ["--attn-cap", "none", "--final-cap", "none"]
    if not packed:
        command += ["--bitlinear-attn", "false", "--bitlinear-ffn", "false"]
    subprocess.run(command, check=True, capture_output=True)
    return load_file(dumped)["logits"].astype(np.float64)


def apart(a, b):
    """Largest difference in standard deviations, and the share of positions with the same greedy token."""
    return np.abs(a - b).max() / spread, (a.argmax(-1) == b.argmax(-1)).mean()


print(f"{len(prompt)} tokens; largest difference of logits over their standard deviation, greedy tokens that agree")
print(f"{'':24} {'llama.cpp, float64':>20} {'llama.cpp, ckpt infer':>24}")
for name, flags, allowed in CASES:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        command = [str(ckpt), "convert", str(source), "--to", "gguf", "--tokenizer", str(tokenizer_json), "-o", str(path)]
        subprocess.run(command + flags, check=True, capture_output=True)
        llama = Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=2)
        for text in TEXTS:
            ours = llama.tokenize(text.encode(), add_bos=False, special=False)
            theirs = tokenizer.encode(text, add_special_tokens=False).ids
            if ours != theirs:
                print(f"{name}: {text!r} is {ours} in llama.cpp, {theirs} in tokenizers")
                failed = True
        llama.eval(prompt)
        got = np.array(llama.scores[: len(prompt)], dtype=np.float64)
        error, agree = apart(got, wanted)
        beside, together = apart(got, our_logits(path, name.startswith("tq"), folder))
        print(f"{name:24} {error:>12.2e} {agree:>7.1%} {beside:>16.2e} {together:>7.1%}")
        failed |= bool(error > allowed or beside > max(allowed, 0.1 if name.startswith("tq") else 0))
        del llama
sys.exit(int(failed))
