"""Writes llama.gguf, a small Llama-like model as llama.cpp's converter lays it out (query and key rows interleaved), with
every block type that gguf.quants quantizes to among its matrices, and llama.safetensors, the same model under Hugging
Face's names and in its order, unquantized. Needs gguf, numpy and safetensors."""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

here = Path(__file__).parent
rng = np.random.default_rng(7)
hidden, heads, kv_heads, mlp, vocab, head_dim = 256, 4, 2, 8, 4, 4
T = gguf.GGMLQuantizationType

shapes = {
    "model.embed_tokens.weight": ((vocab, hidden), T.F16),
    "model.layers.0.input_layernorm.weight": ((hidden,), T.F32),
    "model.layers.0.self_attn.q_proj.weight": ((head_dim * heads, hidden), T.Q8_0),
    "model.layers.0.self_attn.k_proj.weight": ((head_dim * kv_heads, hidden), T.F32),
    "model.layers.0.self_attn.v_proj.weight": ((head_dim * kv_heads, hidden), T.Q4_0),
    "model.layers.0.self_attn.o_proj.weight": ((mlp, hidden), T.Q5_0),
    "model.layers.0.post_attention_layernorm.weight": ((hidden,), T.F32),
    "model.layers.0.mlp.gate_proj.weight": ((mlp, hidden), T.Q4_1),
    "model.layers.0.mlp.up_proj.weight": ((mlp, hidden), T.Q5_1),
    "model.layers.0.mlp.down_proj.weight": ((mlp, hidden), T.TQ2_0),
    "model.norm.weight": ((hidden,), T.F32),
    "lm_head.weight": ((vocab, hidden), T.BF16),
}
names = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permute(w, n_head):
    """convert_hf_to_gguf.py, LlamaModel.permute."""
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


writer = gguf.GGUFWriter(here / "llama.gguf", "llama")
writer.add_block_count(1)
writer.add_context_length(64)
writer.add_embedding_length(hidden)
writer.add_feed_forward_length(mlp)
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
hf = {}
for name, (shape, kind) in shapes.items():
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == T.TQ2_0:
        # Ternary already, at one scale that an f16 holds.
        values = np.clip(np.round(values), -1, 1).astype(np.float32) * np.float32(0.5)
    elif kind == T.BF16:
        values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    elif kind == T.F16:
        values = values.astype(np.float16).astype(np.float32)
    hf[name] = values
    module = name.removesuffix(".weight")
    theirs = names.get(module) or "blk.0." + names[module.removeprefix("model.layers.0.")]
    if theirs.endswith("attn_q"):
        values = permute(values, heads)
    if theirs.endswith("attn_k"):
        values = permute(values, kv_heads)
    raw = values if kind == T.F32 else gguf.quants.quantize(values, kind)
    writer.add_tensor(theirs + ".weight", raw, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
save_file({k: np.ascontiguousarray(v) for k, v in hf.items()}, here / "llama.safetensors")
