"""Writes tiny random Llama, Mistral, Qwen2 and Qwen3 models as transformers saves them, with the logits that it computes, beside
this file: one folder each, with model.safetensors, config.json and truth.safetensors: `ids`, `logits`, the `loss` of
predicting each id from those before it; and for the same model with its embedding and head rounded to float16 (or of
float16 already) `rounded_loss` and `kl`, the divergence of its predictions from the exact ones at each position.

Run with torch, transformers and safetensors installed; the seed makes it repeat itself.
"""

import copy
import os

# Its BitLinear is meant to be compiled, for which a C compiler would be needed.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import (
    BitNetQuantConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.integrations.bitnet import replace_with_bitnet_linear

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = dict(vocab_size=53, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=36, max_position_embeddings=128, initializer_range=0.2)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
CASES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES, rms_norm_eps=1e-5, rope_parameters=LLAMA3), torch.float32),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, head_dim=10, sliding_window=9), torch.float32),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True), torch.float16),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZES), torch.float32),
    "llama-biases": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True), torch.float32),
    # Its matrices are small enough to tell a least scale of 1e-5 from one that is 1e-5 more.
    "llama-bitlinear": (LlamaForCausalLM, LlamaConfig(**SIZES | dict(initializer_range=0.02)), torch.float32),
}

for number, (name, (architecture, config, dtype)) in enumerate(CASES.items()):
    torch.manual_seed(number)
    model = architecture(config).eval()
    if name == "llama-bitlinear":
        masters = model.state_dict()
        quantization = BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online")
        model = replace_with_bitnet_linear(model, ["lm_head"], quantization).eval()
        model.load_state_dict(masters, assign=True)
        config.quantization_config = quantization.to_dict()
        # Only the matrices are small: what comes in and goes out is not.
        for table in (model.model.embed_tokens, model.lm_head):
            torch.nn.init.normal_(table.weight, std=0.2)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            # Biases begin at zero, where nobody would see that they are missing.
            if "norm" in parameter_name or "bias" in parameter_name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    folder = os.path.join(HERE, "transformers", name)
    copy.deepcopy(model).to(dtype).save_pretrained(folder)
    # Weights as they are saved, computed with in float32. Rotary frequencies were never rounded.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    ids = torch.randint(config.vocab_size, (1, 30))
    with torch.no_grad():
        exact = model(ids, labels=ids)
        for table in {model.model.embed_tokens, model.lm_head}:
            table.weight.copy_(table.weight.half().float())
        rounded = model(ids, labels=ids)
    p, q = (torch.log_softmax(out.logits[0].double(), -1) for out in (exact, rounded))
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    truth = {"ids": ids[0].int(), "logits": exact.logits[0].contiguous(), "loss": exact.loss.reshape(1),
             "rounded_loss": rounded.loss.reshape(1), "kl": kl}
    save_file(truth, os.path.join(folder, "truth.safetensors"))
    generation = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
