"""Reads GGUF files that ckpt wrote with the gguf package, and compares them with their source as PyTorch reads it; and
the tokenizers that went along, with the tokenizers package.

    gguf_peers.py FIXTURES WRITTEN

FIXTURES is the repository's tests/fixtures; WRITTEN holds what tests/suite/peers.rs has had converted. Exits nonzero with an
assertion when anything differs.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from tokenizers import Tokenizer

fixtures, written = Path(sys.argv[1]), Path(sys.argv[2])
source = torch.load(written / "student.pt", weights_only=True)["model_state_dict"]
NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def name_in_gguf(name):
    module = name.removesuffix(".weight")
    if module.startswith("layers."):
        _, layer, inner = module.split(".", 2)
        return f"blk.{layer}.{NAMES[inner]}.weight"
    return f"{NAMES[module]}.weight"


def ternary(w, eps=1e-8):
    """The form that BitLinear multiplies with."""
    scale = np.float32(np.abs(w.astype(np.float64)).mean()) + np.float32(eps)
    return (np.clip(np.round(w / scale), -1, 1) * scale + 0.0).astype(np.float32)  # + 0.0 makes -0 a 0


def load(path):
    reader = gguf.GGUFReader(path)
    keys = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    return {t.name: t for t in reader.tensors}, keys


compared = decoded_too = 0
for path in sorted(written.glob("*.gguf")):
    latent = path.stem.startswith("latent")
    tensors, keys = load(path)
    assert keys["general.architecture"] == "qwen3" and keys["qwen3.block_count"] == 2, keys
    assert abs(keys["qwen3.attn_logit_softcapping"] - 50.0) < 1e-6
    for name, value in source.items():
        if name == "lm_head.weight" and name_in_gguf(name) not in tensors:
            continue
        tensor = tensors[name_in_gguf(name)]
        value = value.float().numpy()
        assert tuple(reversed(tensor.shape.tolist())) == value.shape, (path, name, tensor.shape)
        wanted = ternary(value) if "_proj" in name and not latent else value
        kind = tensor.tensor_type
        if value.ndim == 1:
            assert kind == gguf.GGMLQuantizationType.F32, (path, name, kind)
        raw = np.asarray(tensor.data)
        try:
            same = quantize(wanted, kind)
        except NotImplementedError:
            # gguf decodes these and does not encode them: both must read the same of them.
            decoded = torch.load(path.with_suffix(".decoded.pt"), weights_only=True)
            decoded = decoded.get("model_state_dict", decoded)
            ours, theirs = decoded[name].numpy(), dequantize(raw, kind)
            assert np.array_equal(ours, theirs), (path, name, np.abs(ours - theirs).max())
            decoded_too += 1
        else:
            assert raw.tobytes() == same.tobytes(), (path, name, kind)
        compared += 1

# Split sets: every part opens, and together they hold every tensor once.
parts = [gguf.GGUFReader(p) for p in sorted((written / "split-gguf").glob("*.gguf"))]
names = [t.name for part in parts for t in part.tensors]
assert len(parts) > 1 and len(names) == len(set(names)) == parts[0].fields["split.tensors.count"].contents()
assert [p.fields["split.no"].contents() for p in parts] == list(range(len(parts)))
assert decoded_too > 0

# What is no known model: tensors as they are, views laid out.
views = torch.load(fixtures / "formats/views.pt", weights_only=True)
tensors, keys = load(written / "model/views.gguf")
assert keys["general.architecture"] == "unknown" and set(tensors) == set(views)
for name, value in views.items():
    assert np.array_equal(np.asarray(tensors[name].data).reshape(value.shape), value.numpy()), name

# Tokenizers: the one in the Hugging Face folder is the source's, and the one in GGUF has its tokens, ids and merges.
source = Tokenizer.from_file(str(fixtures / "tokenizer.json"))
text = "def main():\n    return 'Grüße, 世界' + str(12.5)\n"
copy = Tokenizer.from_file(str(written / "hf-tokenizer/tokenizer.json"))
assert copy.encode(text).ids == source.encode(text).ids and copy.get_vocab() == source.get_vocab()
_, keys = load(written / "model/tokenizer.gguf")
tokens = keys["tokenizer.ggml.tokens"]
assert all(tokens[i] == token for token, i in source.get_vocab().items())
merges = [m if isinstance(m, str) else " ".join(m) for m in json.loads(source.to_str())["model"]["merges"]]
assert keys["tokenizer.ggml.merges"] == merges and keys["tokenizer.ggml.model"] == "gpt2"
print(f"gguf reads the same: {compared} tensors, {len(parts)} splits")
