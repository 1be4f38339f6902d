"""Writes tiny random ternary models of the kinds that others publish, as they publish them, with what transformers' own
classes compute, beside this file: one folder of `ternary` each, with model.safetensors, config.json and truth.safetensors:
`ids`; the `logits` of a float64 run of the class; for each position whether an activation is within 1e-5 of where it is
rounded to another code (`close`); and `greedy`, the 24 ids that the class as it is chooses after `start`, the first of `ids`.

1bitLLM's class is not in transformers: its model is computed by transformers' BitNet with silu, whose layers round
weights and activations by the same formulas, and saved under the names of 1bitLLM.

Run with torch, transformers and safetensors installed; the seed makes it repeat itself.
"""

import copy
import json
import os

# Its BitLinear is meant to be compiled, for which a C compiler would be needed.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitNetConfig, BitNetQuantConfig, LlamaConfig
from transformers.integrations import bitnet
from transformers.models.bitnet.modeling_bitnet import BitNetRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

HERE = os.path.dirname(os.path.abspath(__file__))
# Rows of 128 fill the blocks of I2_S.
SIZES = dict(vocab_size=64, hidden_size=128, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
             max_position_embeddings=128, initializer_range=0.05, pad_token_id=None, bos_token_id=1, eos_token_id=None)
TIED, UNTIED = dict(tie_word_embeddings=True), dict(tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)


def packed(linear, **more):
    return dict(linear_class=linear, quantization_mode="offline", **more)


ONLINE = dict(linear_class="autobitlinear", quantization_mode="online")
NORMS = dict(use_rms_norm=True, rms_norm_eps=1e-6)
CASES = {
    # microsoft/bitnet-b1.58-2B-4T is packed for `autobitlinear`, its bf16 form has masters.
    "bitnet-packed": (BitNetConfig, TIED | dict(num_hidden_layers=2), packed("bitlinear"), torch.float32),
    "bitnet-auto": (BitNetConfig, TIED | dict(num_hidden_layers=2), packed("autobitlinear"), torch.bfloat16),
    "bitnet-online": (BitNetConfig, TIED | dict(num_hidden_layers=1), ONLINE, torch.bfloat16),
    "1bitllm": (BitNetConfig, TIED | dict(num_hidden_layers=1, hidden_act="silu"), ONLINE, torch.bfloat16),
    # HF1BitLLM's Llama 3, Falcon3-1.58bit, and Falcon-E.
    "llama-packed": (LlamaConfig, UNTIED | dict(num_hidden_layers=2, rope_parameters=LLAMA3), packed("bitlinear"), torch.bfloat16),
    "norms-packed": (LlamaConfig, UNTIED | dict(num_hidden_layers=2), packed("autobitlinear", **NORMS), torch.bfloat16),
    "norms-online": (LlamaConfig, UNTIED | dict(num_hidden_layers=1), ONLINE | NORMS, torch.bfloat16),
}
NAMES_OF_1BITLLM = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
START, GREEDY = 6, 24


def saved(config, quantization, dtype):
    """The tensors of a random model, as its file has them."""
    tensors = {}
    masters = AutoModelForCausalLM.from_config(config)
    replaced = bitnet.replace_with_bitnet_linear(masters, ["lm_head"], quantization)
    for name, meta in replaced.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings or name.endswith("weight_scale"):
            continue
        matrix = name.split(".")[-2].endswith("_proj")
        if not matrix:
            # Small tables, so that what the layers add decides about the next id.
            center, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.03)
            tensors[name] = (center + spread * torch.randn(meta.shape)).to(dtype)
            continue
        rows = meta.shape[0] * (4 if meta.dtype == torch.uint8 else 1)
        # Scales that differ from matrix to matrix.
        master = (0.02 + 0.1 * torch.rand(1)) * torch.randn(rows, meta.shape[1])
        if quantization.quantization_mode == "online":
            tensors[name] = master.to(dtype)
            continue
        mean = master.abs().mean()
        tensors[name] = bitnet.pack_weights((master / mean).round().clamp(-1, 1))
        scale = mean if quantization.linear_class == "autobitlinear" else 1 / mean
        tensors[f"{name}_scale"] = scale.reshape(1).to(dtype)
    return tensors


def loaded(config, quantization, tensors):
    """The class of `config` with these tensors, in float32."""
    model = AutoModelForCausalLM.from_config(config)
    model = bitnet.replace_with_bitnet_linear(model, ["lm_head"], quantization)
    values = {}
    for name, tensor in tensors.items():
        unpacks = tensor.dtype == torch.uint8 and quantization.linear_class == "autobitlinear"
        if unpacks:
            tensor = bitnet.unpack_weights(tensor, torch.float32)
        values[name] = tensor.clone() if tensor.dtype == torch.uint8 else tensor.float()
    if config.tie_word_embeddings:
        values["lm_head.weight"] = values["model.embed_tokens.weight"]
    model.load_state_dict(values, assign=True)
    return model.eval()


def exact(model, ids):
    """Logits in float64, and how close to a boundary the activations of each position come."""
    margins = []

    def watch(x):
        codes = x * (127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5))
        margins.append((codes - codes.floor() - 0.5).abs().min(-1).values[0])

    model = copy.deepcopy(model).double()
    for module in model.modules():
        if isinstance(module, bitnet.BitLinear):
            module.dtype = torch.float64
        if isinstance(module, (bitnet.BitLinear, bitnet.AutoBitLinear)):
            (module.rms_norm or module).register_forward_hook(lambda module, given, out: watch(
                out if isinstance(module, LlamaRMSNorm) else given[0]))

    def normalized(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    old = [(norm, norm.forward) for norm in (BitNetRMSNorm, LlamaRMSNorm)]
    narrow = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    for norm, _ in old:
        norm.forward = normalized
    with torch.no_grad():
        logits = model(ids).logits[0]
    torch.Tensor.float = narrow
    for norm, forward in old:
        norm.forward = forward
    assert logits.dtype == torch.float64
    return logits, torch.stack(margins).min(0).values


for name, (kind, settings, quantization, dtype) in CASES.items():
    quantization = BitNetQuantConfig(**quantization)
    # The first model that has something to say, and in which float32, whose codes are off by up to 3e-5, crosses no boundary
    # that float64 does not.
    for seed in range(500):
        torch.manual_seed(seed)
        config = kind(**SIZES | settings)
        tensors = saved(config, quantization, dtype)
        model = loaded(config, quantization, tensors)
        ids = torch.randint(SIZES["vocab_size"], (1, 30))
        logits, margins = exact(model, ids)
        close = margins < 1e-5
        with torch.no_grad():
            own = model(ids).logits[0]
            text = ids[:, :START]
            for _ in range(GREEDY):
                text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], 1)
        off = ((own - logits).abs().max() / logits.abs().max()).item()
        known = int(close.int().argmax()) if close.any() else len(close)
        crossed = ((margins >= 1e-5) & (margins < 3e-5))[:known].any()
        if off < 2e-5 and known >= 15 and not crossed and len(set(text[0, START:].tolist())) >= 8:
            break
    else:
        raise SystemExit(f"{name}: no such model")
    folder = os.path.join(HERE, "ternary", name)
    os.makedirs(folder, exist_ok=True)
    words = config.to_dict() | {"architectures": [type(model).__name__], "quantization_config": quantization.to_dict()}
    words["dtype"] = str(dtype).split(".")[-1]
    if name == "1bitllm":
        del words["quantization_config"]
        words |= {"architectures": ["BitnetForCausalLM"], "model_type": "llama", "input_bits": 8, "weight_bits": 1}
        for ours, theirs in NAMES_OF_1BITLLM.items():
            tensors = {name.replace(ours, theirs): tensor for name, tensor in tensors.items()}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(words, file, indent=2, default=str)
        file.write("\n")
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    truth = {"ids": ids[0].int(), "logits": logits.float(), "close": close.int(), "greedy": text[0, START:].int()}
    save_file(truth, os.path.join(folder, "truth.safetensors"))
    print(f"{name}: seed {seed}, {len(close) - known} positions left out, closest {margins.min():.1e}, the class is {off:.1e} off,"
          f" {len(set(text[0, START:].tolist()))} different ids")
