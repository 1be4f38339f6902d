"""A small gpt-oss as transformers computes it, quantized and dequantized.

gpt_oss.py make MADE writes a model whose experts are MXFP4, and beside it the logits that transformers gives with those
experts as `convert_moe_packed_tensors` reads them. gpt_oss.py compare MADE COPY loads COPY and compares its logits with
them."""

import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

IDS = torch.arange(40)[None] * 3 % 128


def make(folder):
    torch.manual_seed(0)
    config = GptOssConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=96,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=32,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = GptOssForCausalLM(config).eval()
    state = {name: x.detach().clone() for name, x in model.state_dict().items()}
    stored = {}
    for name, x in state.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = x.shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(118, 122, (experts, outputs, inputs // 32), dtype=torch.uint8)
            state[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).float()
            stored[name + "_blocks"], stored[name + "_scales"] = blocks, scales
        else:
            drawn = torch.randn_like(x) * 0.05 + (1 if "norm" in name else 0)
            stored[name] = drawn.bfloat16()
            state[name] = stored[name].float()
    model.load_state_dict(state)
    os.makedirs(folder)
    with torch.no_grad():
        torch.save(model(IDS).logits, folder + ".logits")
    save_file({name: x.contiguous() for name, x in stored.items()}, folder + "/model.safetensors", {"format": "pt"})
    said = config.to_dict() | {
        "architectures": ["GptOssForCausalLM"],
        "dtype": "bfloat16",
        "quantization_config": {"quant_method": "mxfp4"},
    }
    with open(folder + "/config.json", "w") as file:
        json.dump(said, file)


def compare(folder, copy):
    model = GptOssForCausalLM.from_pretrained(copy, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(IDS).logits
    expected = torch.load(folder + ".logits")
    apart = (logits - expected).abs().max().item()
    assert apart <= 1e-5 * expected.abs().max().item(), apart
    print("the same logits")


{"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
