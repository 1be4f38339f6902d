"""Training states, adapters, quantized and pruned networks as they should be, in many containers."""

import copy
import math

import torch
import torch.nn as nn
import torch.nn.utils.prune as prune

import files
import networks
from cases import healthy, undecided
from sick_numbers import in_training, int8, llama_names, lora

CONTAINER, TRAINING, ADAPTER, SMALLER = "container", "training state", "adapter", "quantized or pruned"


# Containers.


@healthy(CONTAINER, "the layout of torch.save before PyTorch 1.6")
def legacy_layout(folder):
    return files.pt(folder / "tagger.pth", networks.tagger(), legacy=True)


@healthy(CONTAINER, "bf16 in five shards with an index")
def five_shards(folder):
    files.sharded(folder, files.cast(networks.pretrained("GPTNeoXForCausalLM", folder), torch.bfloat16), 5)


@healthy(CONTAINER, "pytorch_model.bin beside its config.json, f16")
def pytorch_bin(folder):
    files.pt(folder / "pytorch_model.bin", files.cast(networks.pretrained("OPTForCausalLM", folder), torch.float16))


@healthy(CONTAINER, "a network of tensors in Python's own OrderedDict, under two keys, with text and numbers beside it")
def nested(folder):
    content = {"meta": {"git": "4f2a", "args": {"lr": 1e-3}}, "payload": {"weights": networks.perceptron()}, "metrics": [0.4, float("inf")]}
    return files.pt(folder / "run.pt", content)


@healthy(CONTAINER, "a mixture of experts in three shards")
def experts_sharded(folder):
    files.sharded(folder, networks.pretrained("OlmoeForCausalLM", folder, num_experts=8, intermediate_size=48), 3)


@healthy(CONTAINER, "the same weights twice, as SafeTensors and as pytorch_model.bin")
def two_formats(folder):
    state = networks.pretrained("PhiForCausalLM", folder)
    files.safetensors(folder / "model.safetensors", state)
    files.pt(folder / "pytorch_model.bin", state)


@healthy(CONTAINER, "views: all matrices are slices of one storage")
def one_storage(folder):
    state = networks.perceptron()
    flat = torch.cat([value.flatten() for value in state.values()])
    out, at = {}, 0
    for name, value in state.items():
        out[name] = flat[at : at + value.numel()].view(value.shape)
        at += value.numel()
    return files.pt(folder / "flat.pt", out)


# Training states.


@healthy(TRAINING, "weights, AdamW's moments and step, a scheduler, the generators' states and an infinite best loss")
def everything(folder):
    model = networks.Decoder()
    optimizer = networks.continue_sequences(model, 30)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    return files.pt(folder / "checkpoint.pt", {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "step": 30,
        "rng": {"torch": torch.get_rng_state()}, "best_val_loss": float("inf")})


@healthy(TRAINING, "SGD's momentum, names with module. and _orig_mod.")
def wrapped(folder):
    model, state = in_training(torch.optim.SGD)
    names = {"module._orig_mod." + k: v for k, v in model.state_dict().items()}
    return files.pt(folder / "last.ckpt", {"state_dict": names, "optimizer": state, "epoch": 3})


@healthy(TRAINING, "Lightning's layout with hyperparameters, an early stopping that has not seen a score yet")
def lightning(folder):
    model, state = in_training()
    content = {"epoch": 0, "global_step": 10, "pytorch-lightning_version": "2.5.1", "hyper_parameters": {"lr": 1e-3},
               "state_dict": {"net." + k: v for k, v in model.state_dict().items()}, "optimizer_states": [state], "lr_schedulers": [],
               "callbacks": {"EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}": {"wait_count": 0, "best_score": torch.tensor(math.inf)}}}
    return files.pt(folder / "epoch=0-step=10.ckpt", content)


@healthy(TRAINING, "Adam with amsgrad in bf16, a gradient scaler in its first steps")
def amsgrad(folder):
    model = networks.Perceptron().to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, amsgrad=True)
    networks.fit(model, lambda: model(torch.randn(16, 64, dtype=torch.bfloat16)).square().mean(), 10, optimizer)
    return files.pt(folder / "ck.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scaler": {"scale": 65536.0, "_growth_tracker": 0}})


@healthy(TRAINING, "Adafactor's row and column moments")
def adafactor(folder):
    model = networks.Decoder(layers=2)
    optimizer = torch.optim.Adafactor(model.parameters(), 1e-2)
    networks.continue_sequences(model, 15, optimizer)
    return files.pt(folder / "ck.pt", {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()})


@healthy(TRAINING, "a folder of Hugging Face's trainer: optimizer.pt, scheduler.pt, rng_state.pth beside the model")
def trainer_folder(folder):
    model = networks.small("OPTForCausalLM")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def loss():
        ids = networks.sequences(4, 16)
        return model(input_ids=ids, labels=ids).loss

    networks.fit(model, loss, 10, optimizer)
    model.save_pretrained(folder)
    files.pt(folder / "optimizer.pt", optimizer.state_dict())
    files.pt(folder / "scheduler.pt", {"last_epoch": 10, "_step_count": 11, "_last_lr": [1e-3]})
    files.pt(folder / "rng_state.pth", {"cpu": torch.get_rng_state()})


@healthy(TRAINING, "an average of the weights that has just begun: equal to the weights")
def average_begun(folder):
    state = networks.vgg()
    return files.pt(folder / "ck.pt", {"net": state, "net_ema": copy.deepcopy(state), "epoch": 0})


# Adapters.


@healthy(ADAPTER, "LoRA of rank 4 after a short run: B at a std of 1e-4")
def lora_short(folder):
    return files.safetensors(folder / "adapter_model.safetensors", lora(4, 160, 4, 1e-4, ("q_proj", "v_proj", "fc1")))


@healthy(ADAPTER, "LoRA of rank 64, fresh, bf16: B at zero")
def lora_fresh(folder):
    return files.safetensors(folder / "adapter_model.safetensors", files.cast(lora(64, 128, 2, 0.0), torch.bfloat16))


@healthy(ADAPTER, "DoRA: LoRA with a vector of magnitudes")
def dora(folder):
    state = lora(8, 128, 3, 5e-3)
    for name in [n for n in state if "lora_A" in n]:
        state[name.replace("lora_A.weight", "lora_magnitude_vector")] = 1 + torch.rand(128)
    return files.safetensors(folder / "adapter_model.safetensors", state)


@healthy(ADAPTER, "(IA)3: vectors that begin at one")
def ia3(folder):
    state = {f"base_model.model.encoder.block.{i}.layer.0.SelfAttention.{n}.ia3_l": torch.ones(128, 1) for i in range(4) for n in "kv"}
    return files.safetensors(folder / "adapter_model.safetensors", state)


@healthy(ADAPTER, "prompt tuning: 20 virtual tokens")
def prompts(folder):
    return files.safetensors(folder / "adapter_model.safetensors", {"prompt_embeddings": 0.5 * torch.randn(20, 256)})


@healthy(ADAPTER, "bottleneck adapters, fresh, at a std of 0.01 as in their paper")
def bottleneck(folder):
    state = {}
    for layer in range(4):
        begin = f"encoder.layer.{layer}.output.adapters.task."
        state[begin + "adapter_down.0.weight"], state[begin + "adapter_down.0.bias"] = 0.01 * torch.randn(24, 96), torch.zeros(24)
        state[begin + "adapter_up.weight"], state[begin + "adapter_up.bias"] = 0.01 * torch.randn(96, 24), torch.zeros(96)
    return files.pt(folder / "pytorch_adapter.bin", state)


# Smaller.


@healthy(SMALLER, "90 % of the weights are zero, each matrix by size")
def pruned(folder):
    state = networks.decoder()
    for name, value in state.items():
        if value.dim() == 2 and "emb" not in name:
            state[name] = value * (value.abs() >= value.abs().flatten().kthvalue(int(0.9 * value.numel())).values)
    return files.pt(folder / "pruned.pt", state)


@healthy(SMALLER, "pruned with masks: weight_orig and weight_mask")
def masks(folder):
    model = networks.Perceptron()
    networks.regress(model, 40)
    for module in model.net:
        if isinstance(module, nn.Linear):
            prune.l1_unstructured(module, "weight", 0.6)
    return files.pt(folder / "masked.pt", model.state_dict())


@healthy(SMALLER, "four of eight weights in a row are zero, bf16")
def four_of_eight(folder):
    state = files.cast(networks.pretrained("StableLmForCausalLM", folder, num_key_value_heads=4), torch.bfloat16)
    for name, value in state.items():
        if "_proj" in name and value.dim() == 2:
            rows = value.view(-1, 8)
            state[name] = rows.scatter(1, rows.abs().argsort(1)[:, :4], 0).view_as(value)
    files.safetensors(folder / "model.safetensors", state)


@healthy(SMALLER, "eight-bit codes with a scale a row")
def eight_bits(folder):
    files.safetensors(folder / "model.safetensors", int8(networks.pretrained("OPTForCausalLM", folder)))


@healthy(SMALLER, "FP8 with one scale a matrix")
def fp8(folder):
    state = networks.pretrained("PhiForCausalLM", folder)
    for name, value in list(state.items()):
        if value.dim() == 2 and "layers" in name:
            scale = value.abs().max() / 448
            state[name] = (value / scale).to(torch.float8_e4m3fn)
            state[name + "_scale"] = scale.view(1)
    files.safetensors(folder / "model.safetensors", state)


@healthy(SMALLER, "GGUF, Q8_0")
def gguf_q8(folder):
    return files.gguf(folder / "model-Q8_0.gguf", llama_names(), "Q8_0", 3, 128, 4)


@healthy(SMALLER, "GGUF, Q5_1")
def gguf_q5(folder):
    return files.gguf(folder / "model-Q5_1.gguf", llama_names(), "Q5_1", 3, 128, 4)


@healthy(SMALLER, "GGUF, BF16")
def gguf_bf16(folder):
    return files.gguf(folder / "model-BF16.gguf", llama_names(), "BF16", 3, 128, 4)


@healthy(SMALLER, "weights of one bit: a sign times a number a row")
def binary(folder):
    state = networks.vgg()
    for name, value in state.items():
        if value.dim() == 4 and not name.startswith("features.0"):
            state[name] = value.sign() * value.abs().mean((1, 2, 3), keepdim=True)
    return files.pt(folder / "xnor.pt", state)


@healthy(SMALLER, "ternary weights in f32 (TWN): minus one, zero or one times a number a matrix")
def ternary(folder):
    state = networks.perceptron()
    for name, value in state.items():
        if value.dim() == 2:
            keep = value.abs() > 0.7 * value.abs().mean()
            state[name] = value.sign() * keep * value[keep].abs().mean()
    return files.pt(folder / "twn.pt", state)


@healthy(SMALLER, "half of the singular values of each MLP's matrices, as two factors")
def factored(folder):
    state = networks.decoder()
    for name in [n for n in state if ".ff." in n and state[n].dim() == 2]:
        left, values, right = torch.linalg.svd(state.pop(name), full_matrices=False)
        state[name.replace(".weight", ".U.weight")] = left[:, :48] * values[:48].sqrt()
        state[name.replace(".weight", ".V.weight")] = values[:48].sqrt()[:, None] * right[:48]
    return files.safetensors(folder / "factored.safetensors", state)


# What a file alone cannot tell.


def language(folder):
    """The model that most of these begin with."""
    return networks.pretrained("OPTForCausalLM", folder)


@undecided("order", "two layers changed places: each is a good layer, and nothing in a layer says where it belongs")
def layers_exchanged(folder):
    state = language(folder)
    for name in list(state):
        if ".layers.1." in name:
            other = name.replace(".layers.1.", ".layers.3.")
            state[name], state[other] = state[other], state[name]
    files.safetensors(folder / "model.safetensors", state)


@undecided("order", "a square matrix is transposed: its numbers are the same")
def transposed(folder):
    state = language(folder)
    name = "model.decoder.layers.2.self_attn.out_proj.weight"
    state[name] = state[name].t().contiguous()
    files.safetensors(folder / "model.safetensors", state)


@undecided("values", "one layer has its initialisation again: it is as large as the trained ones")
def layer_begun_again(folder):
    state = language(folder)
    fresh = networks.small("OPTForCausalLM").state_dict()
    for name in state:
        if ".layers.2." in name:
            state[name] = fresh[name].clone()
    files.safetensors(folder / "model.safetensors", state)


@undecided("values", "the sign of a matrix is wrong")
def negated(folder):
    state = language(folder)
    state["model.decoder.layers.1.fc1.weight"] *= -1
    files.safetensors(folder / "model.safetensors", state)


@undecided("values", "a bit of a mantissa is flipped in a SafeTensors file, which has no checksum")
def mantissa_flipped(folder):
    from sick_numbers import flip

    state = language(folder)
    flip(state, "model.decoder.layers.1.fc1.weight", 77, 20, torch.int32)
    files.safetensors(folder / "model.safetensors", state)


@undecided("values", "one layer comes from another run")
def layer_of_another_run(folder):
    state = language(folder)
    other = networks.pretrained("OPTForCausalLM", folder, steps=20)
    for name in state:
        if ".layers.0." in name:
            state[name] = other[name]
    files.safetensors(folder / "model.safetensors", state)


@undecided("values", "a model that learnt nothing, because its labels were shuffled: its numbers are those of training")
def shuffled_labels(folder):
    model = networks.Vgg()

    def loss():
        picture, label = networks.pictures(16)
        return nn.functional.cross_entropy(model(picture), label[torch.randperm(16)])

    networks.fit(model, loss, 40)
    return files.pt(folder / "vgg.pt", model.state_dict())


@undecided("values", "one layer of a trained network at one and a half times its size: some train so")
def layer_larger(folder):
    state = language(folder)
    for name in state:
        if ".layers.3." in name:
            state[name] = state[name] * 1.5
    files.safetensors(folder / "model.safetensors", state)


@undecided("repetition", "rows of keys and values repeat for each group of heads: so does a model whose grouped heads were written out")
def repeated_heads(folder):
    state = language(folder)
    for name in state:
        if "k_proj" in name or "v_proj" in name:
            value = state[name].unflatten(0, (4, 24))[::2]
            state[name] = value.repeat_interleave(2, 0).flatten(0, 1)
    files.safetensors(folder / "model.safetensors", state)


@undecided("repetition", "a network made deeper by repeating its middle layers, without a word about it: meant, or a loader's mistake")
def repeated_layers(folder):
    state = networks.decoder()
    out = {k: v for k, v in state.items() if not k.startswith("blocks.")}
    for new, old in enumerate((0, 1, 2, 1, 2, 3)):
        out.update({f"blocks.{new}." + k.split(".", 2)[2]: v.clone() for k, v in state.items() if k.startswith(f"blocks.{old}.")})
    return files.pt(folder / "deeper.pt", out)


@undecided("zeros", "a fifth of an MLP's units is zero: pruned by whole units, or died")
def units_zero(folder):
    state = networks.relu_decoder()
    for layer in range(networks.LAYERS):
        gone = torch.randperm(4 * networks.WIDTH)[: 4 * networks.WIDTH // 5]
        state[f"blocks.{layer}.ff.0.weight"][gone] = 0
        state[f"blocks.{layer}.ff.2.weight"][:, gone] = 0
    return files.pt(folder / "decoder.pt", state)


@undecided("zeros", "half of an embedding's rows are zero: room for tokens to come, or lost")
def half_embedding_zero(folder):
    state = networks.tagger()
    state["embed.weight"][networks.VOCABULARY // 2 :] = 0
    return files.pt(folder / "tagger.pt", state)


@undecided("zeros", "a linear probe that has just begun, all zero: so is one that was saved before it was loaded")
def linear_probe(folder):
    return files.pt(folder / "probe.pt", {"linear.weight": torch.zeros(10, 384), "linear.bias": torch.zeros(10)})


@undecided("values", "one gain of a norm at 5e-20: a flipped bit, or a channel that weight decay switched off")
def gain_vanished(folder):
    from sick_numbers import flip

    state = files.cast(networks.pretrained("Olmo2ForCausalLM", folder), torch.bfloat16)
    flip(state, "model.layers.2.post_attention_layernorm.weight", 40, 13, torch.int16)
    files.safetensors(folder / "model.safetensors", state)
