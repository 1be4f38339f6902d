"""Edits done in PyTorch and PEFT, to compare with. The first argument says what to do, with those that follow; after `--`
comes the next. What each has to say is printed as a list of JSON."""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def tensors(path):
    """All tensors of a checkpoint: a SafeTensors or PyTorch file, or a model folder of one."""
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if path.suffix == ".safetensors":
        found = load_file(path)
        with safe_open(path, "pt") as file:
            same = file.metadata() or {}
        return found | {name: found[kept] for name, kept in same.items() if kept in found}
    whole = torch.load(path, weights_only=False)
    return whole.get("model_state_dict", whole) if isinstance(whole, dict) else whole


def differences(ours, theirs):
    """How two checkpoints differ: names, types, bits, and values."""
    report = {
        "missing": sorted(set(theirs) - set(ours)),
        "extra": sorted(set(ours) - set(theirs)),
        "types": sorted(n for n in set(ours) & set(theirs) if ours[n].dtype != theirs[n].dtype),
        "bits": 0,
        "worst": 0.0,
        "elements": 0,
    }
    for name in sorted(set(ours) & set(theirs)):
        a, b = ours[name], theirs[name]
        assert a.shape == b.shape, name
        a, b = a.contiguous(), b.contiguous()
        report["elements"] += a.numel()
        report["bits"] += int((a.double() != b.double()).sum())
        report["worst"] = max(report["worst"], float((a.double() - b.double()).abs().max()) if a.numel() else 0.0)
    return report


def nearest(ours, theirs, exact):
    """How often `ours` is further from `exact` than `theirs`, and than half a unit in the last place of its type allows."""
    worse, beyond, exact_count = 0, 0, 0
    for name, value in exact.items():
        if not ours[name].dtype.is_floating_point:
            continue
        own = (ours[name].double() - value).abs()
        worse += int((own > (theirs[name].double() - value).abs()).sum())
        # Half a unit in the last place of a number of this size, subnormal ones apart.
        info = torch.finfo(ours[name].dtype)
        half = (value.abs() * info.eps / 2).clamp(min=info.tiny * info.eps)
        beyond += int((own > half * (1 + 1e-9)).sum())
        exact_count += value.numel()
    return {"worse": worse, "beyond": beyond, "elements": exact_count}


def average(out, weights, *sources):
    """The mean of `sources` in PyTorch, against the checkpoint `out`."""
    weights = json.loads(weights)
    loaded = [tensors(source) for source in sources]
    exact, theirs = {}, {}
    for name, last in loaded[-1].items():
        if not last.dtype.is_floating_point:
            theirs[name] = last
            continue
        total = torch.zeros(last.shape, dtype=torch.float64)
        for weight, source in zip(weights, loaded):
            total += weight * source[name].double()
        exact[name] = total / sum(weights)
        theirs[name] = exact[name].to(last.dtype)
    ours = tensors(out)
    return differences(ours, theirs) | {"nearest": nearest(ours, theirs, exact)}


def swa(out, *sources):
    """The mean of `sources` by torch.optim.swa_utils, against the checkpoint `out`."""
    from torch.optim.swa_utils import AveragedModel

    class Net(torch.nn.Module):
        def __init__(self, state):
            super().__init__()
            self.names = list(state)
            for i, name in enumerate(self.names):
                value = state[name].clone()
                if value.dtype.is_floating_point:
                    self.register_parameter(f"p{i}", torch.nn.Parameter(value, requires_grad=False))

        def state(self):
            own = dict(self.named_parameters())
            return {name: own[f"p{i}"] for i, name in enumerate(self.names) if f"p{i}" in own}

    loaded = [tensors(source) for source in sources]
    mean = AveragedModel(Net(loaded[0]))
    for state in loaded:
        mean.update_parameters(Net(state))
    ours = tensors(out)
    theirs = {name: value.data for name, value in mean.module.state().items()}
    return differences({name: ours[name] for name in theirs}, theirs)


def compare(out, other):
    return differences(tensors(out), tensors(other))


def llama(dtype, **more):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(
        vocab_size=48, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, tie_word_embeddings=False,
    )
    return LlamaForCausalLM(LlamaConfig(**(sizes | more))).to(dtype)


def gpt2(dtype, **more):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = dict(vocab_size=48, n_positions=32, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False)
    return GPT2LMHeadModel(GPT2Config(**(sizes | more))).to(dtype)


def mixtral(dtype):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = dict(
        vocab_size=48, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )
    return MixtralForCausalLM(MixtralConfig(**sizes)).to(dtype)


def phi3(dtype):
    from transformers import Phi3Config, Phi3ForCausalLM

    sizes = dict(
        vocab_size=48, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )
    return Phi3ForCausalLM(Phi3Config(**sizes)).to(dtype)


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONV = ["c_attn", "c_proj", "c_fc"]
CASES = {
    "plain": (llama, {}, dict(target_modules=ALL, r=4, lora_alpha=6)),
    "rslora": (llama, {}, dict(target_modules=ALL, r=4, lora_alpha=6, use_rslora=True)),
    "patterns": (
        llama,
        {},
        dict(
            target_modules=ALL, r=4, lora_alpha=6, rank_pattern={"layers.1.self_attn.q_proj": 2, "k_proj": 3},
            alpha_pattern={r"^model\.layers\.0\..*": 16, "down_proj": 1},
        ),
    ),
    "dora": (llama, {}, dict(target_modules=ALL, r=4, lora_alpha=6, use_dora=True)),
    "embeddings": (llama, {}, dict(target_modules=["embed_tokens", "lm_head", "q_proj"], r=4, lora_alpha=6)),
    "dora-embeddings": (llama, {}, dict(target_modules=["embed_tokens", "v_proj"], r=4, lora_alpha=6, use_dora=True)),
    "saved": (llama, {}, dict(target_modules=["q_proj"], r=4, lora_alpha=6, modules_to_save=["lm_head", "norm"])),
    "bias-lora": (llama, dict(attention_bias=True), dict(target_modules=["q_proj", "v_proj"], r=4, bias="lora_only")),
    "bias-all": (llama, dict(attention_bias=True), dict(target_modules=["q_proj"], r=4, bias="all")),
    "lora-bias": (llama, dict(attention_bias=True), dict(target_modules=["q_proj", "k_proj"], r=4, lora_bias=True)),
    "tied": (llama, dict(tie_word_embeddings=True), dict(target_modules=["embed_tokens", "q_proj"], r=4)),
    "fused": (phi3, {}, dict(target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], r=4, lora_alpha=6)),
    "conv": (gpt2, {}, dict(target_modules=CONV, r=4, lora_alpha=6, fan_in_fan_out=True)),
    "conv-dora": (gpt2, {}, dict(target_modules=CONV, r=4, lora_alpha=6, fan_in_fan_out=True, use_dora=True)),
    # PEFT goes by each module, and saves of fan_in_fan_out what the last one needed.
    "conv-square": (gpt2, {}, dict(target_modules=r".*attn\.c_proj", r=4, lora_alpha=6), dict(fan_in_fan_out=False)),
    "conv-head": (gpt2, {}, dict(target_modules=["c_attn", "c_proj", "lm_head"], r=4, lora_alpha=6, fan_in_fan_out=True)),
    "conv-head-last": (gpt2, {}, dict(target_modules=r".*attn\.c_proj|lm_head", r=4, lora_alpha=6)),
    "conv-bias-saved": (gpt2, {}, dict(target_modules=["c_fc"], r=4, bias="all", modules_to_save=["ln_f"], fan_in_fan_out=True)),
    "turned": (llama, {}, dict(target_modules=["q_proj", "v_proj"], r=4, lora_alpha=6), dict(fan_in_fan_out=True)),
    "bias-saved": (llama, dict(attention_bias=True), dict(target_modules=["v_proj"], r=4, bias="all", modules_to_save=["q_proj"])),
    "tied-both": (llama, dict(tie_word_embeddings=True), dict(target_modules=["embed_tokens"], r=4, ensure_weight_tying=True)),
    "tied-saved": (
        llama, dict(tie_word_embeddings=True),
        dict(target_modules=["q_proj"], r=4, modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    ),
    "router": (mixtral, {}, dict(target_modules=["gate", "q_proj"], r=4, lora_alpha=6)),
    "router-saved": (mixtral, {}, dict(target_modules=["q_proj"], r=4, modules_to_save=["gate"])),
}


def adapters(folder, names, dtype="float32"):
    """Bases, adapters and what PEFT merges them to, in a folder for each case."""
    from peft import LoraConfig, get_peft_model

    folder = Path(folder)
    for name in names.split(","):
        make, more, settings, *written = CASES[name]
        torch.manual_seed(sum(map(ord, name)))
        base = make(getattr(torch, dtype), **more)
        for parameter in base.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
        place = folder / name
        base.save_pretrained(place / "base")
        model = get_peft_model(base, LoraConfig(**settings))
        for own, parameter in model.named_parameters():
            if "lora_" in own:
                noise = torch.randn_like(parameter)
                parameter.data.copy_(parameter.data * (1 + 0.1 * noise) if "magnitude" in own else 0.3 * noise)
            elif parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(place / "adapter")
        for change in written:
            config = place / "adapter" / "adapter_config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | change))
        model.merge_and_unload().save_pretrained(place / "merged")


def exactly(out, base, adapter, merged):
    """Whether `out` is nearer to W + s B A in f64 than what PEFT merges."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    weights, lora = tensors(base), load_file(Path(adapter) / "adapter_model.safetensors")
    exact = {name: value.double() for name, value in weights.items()}
    for name, a in lora.items():
        if name.endswith(".lora_A.weight"):
            own = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            exact[own] += scale * (lora[name.replace("lora_A", "lora_B")].double() @ a.double())
    ours, theirs = tensors(out), tensors(merged)
    return differences(ours, theirs) | {"nearest": nearest(ours, theirs, exact)}


def gguf(path):
    """The keys and tensors of a GGUF file, by its own library."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    found = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
    return keys, found


def permuted(weights, heads):
    """llama.cpp's `LlamaModel.permute`: halves of each head become neighbours."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def adapter_of(out, adapter):
    """Whether the GGUF adapter `out` is what convert_lora_to_gguf.py makes of `adapter`, for a base of `llama` above."""
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    keys, ours = gguf(out)
    theirs = {}
    for name, value in load_file(Path(adapter) / "adapter_model.safetensors").items():
        name = name.removeprefix("base_model.model.")
        if ".base_layer." in name:
            continue
        if "lora_embedding" in name:
            assert name.startswith("model.embed_tokens.")
            is_a = name.endswith("A")
            theirs["token_embd.weight.lora_" + ("a" if is_a else "b")] = value.T if is_a else value
            continue
        module, part = name.split(".lora_")
        if module == "lm_head":
            own = "output"
        else:
            _, _, layer, module = module.split(".", 3)
            own = f"blk.{layer}.{names[module]}"
            if part.startswith("B") and names[module] in ("attn_q", "attn_k"):
                value = permuted(value, 4 if names[module] == "attn_q" else 2)
        theirs[f"{own}.weight.lora_{part[0].lower()}"] = value
    keys = {name: value for name, value in keys.items() if name.startswith(("general.", "adapter."))}
    return differences(ours, {name: value.contiguous() for name, value in theirs.items()}) | {"keys": keys}


def networks(folder, count, dtype="float32"):
    """Checkpoints of a small network with buffers, as steps of a run: PyTorch files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    for step in range(1, int(count) + 1):
        state = {
            "fc.weight": torch.randn(70, 1000).to(getattr(torch, dtype)),
            "fc.bias": torch.randn(70).to(getattr(torch, dtype)),
            "bn.running_mean": torch.randn(9),
            "bn.num_batches_tracked": torch.tensor(100 * step),
            "positions": torch.arange(7),
            "half": torch.randn(33).half(),
            "double": torch.randn(5, 3).double(),
            "turned": torch.randn(4, 6).T,
            "none": torch.zeros(0, 3),
        }
        state["tied.weight"] = state["fc.weight"]
        optimizer = {"state": {0: {"exp_avg": torch.randn(4)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
        whole = {"model_state_dict": state, "optimizer_state_dict": optimizer, "step": 100 * step, "rng_state": torch.zeros(8, dtype=torch.uint8)}
        torch.save(whole, folder / f"step-{100 * step:05}.pt")


def renamed(out, source, prefix, by):
    """Whether `out` has the tensors of `source` with `prefix` replaced."""
    state = {by + name.removeprefix(prefix) if name.startswith(prefix) else name: value for name, value in tensors(source).items()}
    return differences(tensors(out), state)


if __name__ == "__main__":
    asked = [[]]
    for argument in sys.argv[1:]:
        asked.append([]) if argument == "--" else asked[-1].append(argument)
    print(json.dumps([globals()[name](*arguments) for name, *arguments in asked]))
