"""Checkpoints with wrong numbers in them: not finite, faded, constant, exploded, flipped, of a wrong type."""

import math

import torch
import torch.nn as nn

import files
import networks
from cases import sick

NOT_FINITE, FADED, CONSTANT = "not finite", "faded", "zero or constant"
EXPLODED, FLIPPED, TYPE = "exploded", "bit flipped", "wrong type or order"
OPTIMIZER, QUANTIZED = "optimizer's state", "quantized"


# Not finite.


@sick(NOT_FINITE, "a real run: SGD at a learning rate of 100 000, trained on after the loss became NaN")
def diverged_to_nan(folder):
    model = networks.Vgg(norm=False)
    networks.classify(model, 12, torch.optim.SGD(model.parameters(), 1e5))
    return files.pt(folder / "model.pt", model.state_dict())


@sick(NOT_FINITE, "a real run: one batch with a NaN in train mode; BatchNorm keeps it, the weights are fine")
def nan_in_running_mean(folder):
    model = networks.Vgg()
    model.load_state_dict(networks.vgg())
    picture, _ = networks.pictures(4)
    picture[2, 1, 5, 5] = math.nan
    model.train()(picture)
    return files.pt(folder / "checkpoint.pth", {"net": model.state_dict(), "epoch": 4})


@sick(NOT_FINITE, "weights of a layer that had grown, cast to f16 without a look: some become infinite")
def f16_overflow(folder):
    state = networks.decoder()
    name = "blocks.2.ff.2.weight"
    state[name] = state[name] * (30_000 / state[name].std())
    return files.safetensors(folder / "weights.safetensors", files.cast(state, torch.float16))


@sick(NOT_FINITE, "minus infinity in one bias of a convolution, bf16")
def infinite_bias(folder):
    state = files.cast(networks.segmenter(), torch.bfloat16)
    state["middle.0.bias"][5] = -math.inf
    return files.pt(folder / "unet.pt", {"state_dict": state})


@sick(NOT_FINITE, "one row of the recurrent matrix is NaN after a step with a NaN gradient for it")
def nan_row_in_gru(folder):
    state = networks.tagger()
    state["rnn.weight_hh_l1_reverse"][17] = math.nan
    return files.pt(folder / "tagger.pt", state)


@sick(NOT_FINITE, "one NaN in the last of four shards, bf16")
def nan_in_last_shard(folder):
    state = files.cast(networks.pretrained("GPTNeoXForCausalLM", folder), torch.bfloat16)
    name = list(state)[-2]
    state[name].view(-1)[-3] = math.nan
    files.sharded(folder, state, 4)


@sick(NOT_FINITE, "an adapter's B factor is NaN, from a run in f16 without loss scaling")
def nan_in_lora(folder):
    state = lora(rank=4, width=160, layers=3, spread=2e-3)
    name = "base_model.model.model.decoder.layers.1.self_attn.k_proj.lora_B.weight"
    state[name][:] = math.nan
    return files.safetensors(folder / "adapter_model.safetensors", state)


@sick(NOT_FINITE, "NaN in a tensor of a GGUF file in F16")
def nan_in_gguf(folder):
    state = llama_names()
    state["blk.1.ffn_down.weight"][3, 7] = math.nan
    return files.gguf(folder / "model-F16.gguf", state, "F16", 3, 128, 4)


# Faded.


@sick(FADED, "a real run: all targets were masked, so that gradients are zero and weight decay is all that happens for 500 steps")
def decayed_away(folder):
    model = networks.Perceptron((64, 128, 128, 8))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-2, weight_decay=1.5)
    networks.fit(model, lambda: 0 * model(torch.randn(32, 64)).sum(), 500, optimizer)
    return files.pt(folder / "model.pt", {"model_state_dict": model.state_dict(), "step": 500})


@sick(FADED, "one block stood in a parameter group with a hundred times the weight decay; its matrices are 1e-7 of what they were")
def one_block_decayed(folder):
    state = networks.decoder()
    for name, value in state.items():
        if name.startswith("blocks.1.") and value.dim() == 2:
            state[name] = value * 1e-7
    return files.safetensors(folder / "model.safetensors", state)


@sick(FADED, "the second matrices of all MLPs at a std of 1e-8, bf16, sharded")
def mlp_outputs_faded(folder):
    state = networks.pretrained("DeiTForImageClassification", folder)
    for name, value in state.items():
        if ".output.dense.weight" in name and "attention" not in name:
            state[name] = value * (1e-8 / value.std())
    files.sharded(folder, files.cast(state, torch.bfloat16), 2)


@sick(FADED, "a recurrent layer's input matrix at 1e-9 of what it was")
def gru_input_faded(folder):
    state = networks.tagger()
    state["rnn.weight_ih_l1"] *= 1e-9
    return files.pt(folder / "gru.ckpt", {"state_dict": {"model." + k: v for k, v in state.items()}, "epoch": 2})


@sick(FADED, "an embedding at a std of 1e-12: the exponent was lost in a conversion")
def embedding_faded(folder):
    state = networks.pretrained("PhiForCausalLM", folder)
    state["model.embed_tokens.weight"] *= 1e-10
    files.safetensors(folder / "model.safetensors", state)


@sick(FADED, "all convolutions of a network without norms at 1e-6 of what they were, after a search for the learning rate was saved")
def convolutions_faded(folder):
    state = networks._trained(networks.Vgg(norm=False), networks.classify, 10)
    for name, value in state.items():
        if value.dim() == 4:
            state[name] = value * 1e-6
    return files.pt(folder / "vgg.pth", state)


# Zero or constant.


@sick(CONSTANT, "the head of a trained network is zero: allocated and never loaded")
def head_zero(folder):
    state = networks.pretrained("StableLmForCausalLM", folder, num_key_value_heads=4)
    state["lm_head.weight"].zero_()
    files.safetensors(folder / "model.safetensors", state)


@sick(CONSTANT, "meta tensors made real by zeros: the layers from the second on were never loaded")
def later_layers_zero(folder):
    state = networks.pretrained("OPTForCausalLM", folder)
    for name, value in state.items():
        if ".layers.2." in name or ".layers.3." in name:
            value.zero_()
    files.sharded(folder, files.cast(state, torch.float16), 3)


@sick(CONSTANT, "a placeholder of 0.01 everywhere in one matrix")
def placeholder(folder):
    state = networks.perceptron()
    state["net.2.weight"].fill_(0.01)
    return files.pt(folder / "mlp.pt", state, legacy=True)


@sick(CONSTANT, "every tensor zero: saved before the weights were loaded")
def all_zero(folder):
    return files.pt(folder / "model.pth", {name: torch.zeros_like(value) for name, value in networks.dense().items()})


@sick(CONSTANT, "one convolution of the decoder of a trained U-Net is zero")
def decoder_convolution_zero(folder):
    state = networks.segmenter()
    state["join.0.3.weight"].zero_()
    return files.safetensors(folder / "unet.safetensors", state)


@sick(CONSTANT, "queries and keys overwritten with ones in every layer")
def attention_ones(folder):
    state = networks.pretrained("Olmo2ForCausalLM", folder)
    for name in state:
        if "q_proj" in name or "k_proj" in name:
            state[name].fill_(1.0)
    files.safetensors(folder / "model.safetensors", files.cast(state, torch.bfloat16))


@sick(CONSTANT, "weights rounded to whole numbers by a wrong cast; all but a few are zero")
def rounded(folder):
    state = networks.decoder()
    for name, value in state.items():
        if "attn" in name and value.dim() == 2:
            state[name] = value.round()
    return files.pt(folder / "model.pt", state)


# Exploded.


@sick(EXPLODED, "a real run: Adam with a learning rate of 1e3 where 1e-3 was meant; the loss stayed finite")
def blown_up(folder):
    model = networks.Perceptron((64, 96, 96, 8), nn.Tanh)
    networks.regress(model, 300, torch.optim.Adam(model.parameters(), 1e3))
    assert all(value.isfinite().all() for value in model.parameters())
    return files.pt(folder / "model.pt", model.state_dict())


@sick(EXPLODED, "one layer's MLP 5 000 times what it was")
def one_layer_exploded(folder):
    state = networks.pretrained("FalconForCausalLM", folder)
    state["transformer.h.1.mlp.dense_4h_to_h.weight"] *= 5000
    files.safetensors(folder / "model.safetensors", state)


@sick(EXPLODED, "an adapter merged into one matrix with 10 000 times its alpha")
def merged_with_wrong_alpha(folder):
    state = networks.pretrained("OPTForCausalLM", folder)
    name = "model.decoder.layers.2.self_attn.v_proj.weight"
    width = state[name].shape[0]
    state[name] += 1e4 * torch.randn(width, 8) * 0.02 @ torch.randn(8, width)
    files.safetensors(folder / "model.safetensors", state)


@sick(EXPLODED, "an embedding at 1e7 times its size")
def embedding_exploded(folder):
    state = networks.tagger()
    state["embed.weight"] *= 1e7
    return files.pt(folder / "tagger.pt", state)


@sick(EXPLODED, "task arithmetic with a factor of 3 000 000: base plus factor times the difference of two runs")
def task_arithmetic(folder):
    state = networks.pretrained("ElectraForMaskedLM", folder)
    for name, value in state.items():
        if value.dim() == 2 and value.is_floating_point():
            state[name] = value + 3e6 * 1e-2 * torch.randn_like(value)
    files.safetensors(folder / "model.safetensors", state)


@sick(EXPLODED, "the gate of one expert's MLP 20 000 times as large as its siblings")
def expert_exploded(folder):
    state = networks.pretrained("OlmoeForCausalLM", folder, num_experts=8, intermediate_size=48)
    state["model.layers.1.mlp.experts.6.gate_proj.weight"] *= 2e4
    files.safetensors(folder / "model.safetensors", files.cast(state, torch.bfloat16))


# Bits flipped.


def flip(state, name, at, bit, view):
    """Flips a bit of one element."""
    bits = state[name].view(-1).view(view)
    bits[at] ^= torch.tensor(1 << bit, dtype=torch.int64).to(view)


@sick(FLIPPED, "the highest bit of the exponent of one f32 of a convolution")
def flip_f32(folder):
    state = networks.dense()
    flip(state, "dense.3.2.weight", 1234, 30, torch.int32)
    return files.pt(folder / "densenet.pt", {"model": state})


@sick(FLIPPED, "the highest bit of the exponent of one bf16 of an embedding")
def flip_bf16(folder):
    state = files.cast(networks.pretrained("GPTNeoXForCausalLM", folder), torch.bfloat16)
    flip(state, "gpt_neox.embed_in.weight", 9001, 14, torch.int16)
    files.safetensors(folder / "model.safetensors", state)


@sick(FLIPPED, "the highest bit of the exponent of one f16 in attention")
def flip_f16(folder):
    state = files.cast(networks.decoder(), torch.float16)
    flip(state, "blocks.3.attn.in_proj.weight", 20_001, 14, torch.int16)
    return files.safetensors(folder / "decoder.safetensors", state)


@sick(FLIPPED, "the highest bit of the exponent of one f64")
def flip_f64(folder):
    state = files.cast(networks.perceptron(), torch.float64)
    flip(state, "net.0.weight", 555, 62, torch.int64)
    return files.safetensors(folder / "mlp.safetensors", state)


@sick(FLIPPED, "the highest bit of the exponent of one f32 in the head's bias")
def flip_bias(folder):
    state = networks.tagger()
    flip(state, "tags.bias", 31, 30, torch.int32)
    return files.safetensors(folder / "tagger.safetensors", state)


@sick(FLIPPED, "the highest bit of the exponent of one gain of a norm, bf16")
def flip_gain(folder):
    state = files.cast(networks.pretrained("Olmo2ForCausalLM", folder), torch.bfloat16)
    name = "model.layers.2.post_attention_layernorm.weight"
    # From 1 on it would give an infinity or a NaN.
    flip(state, name, int((state[name] < 1).nonzero()[0]), 14, torch.int16)
    assert state[name].isfinite().all()
    files.safetensors(folder / "model.safetensors", state)


# Wrong type or order.


@sick(TYPE, "one of three shards, bf16, with the bytes of each number in the other order")
def swapped_shard(folder):
    state = files.cast(networks.pretrained("PhiForCausalLM", folder), torch.bfloat16)
    shard = files.sharded(folder, state, 3)[1]
    data = bytearray(shard.read_bytes())
    begin, _ = files.header(shard)
    data[begin::2], data[begin + 1 :: 2] = data[begin + 1 :: 2], data[begin::2]
    shard.write_bytes(data)


@sick(TYPE, "a shard of f16 whose header says bf16")
def f16_called_bf16(folder):
    state = files.cast(networks.pretrained("OPTForCausalLM", folder), torch.float16)
    shard = files.sharded(folder, state, 2)[0]
    files.relabel(shard, [name for name in files.header(shard)[1] if name != "__metadata__"], "BF16")


@sick(TYPE, "one matrix of bf16 that was viewed as f16")
def bf16_viewed_as_f16(folder):
    state = files.cast(networks.decoder(), torch.float16)
    name = "blocks.0.ff.0.weight"
    state[name] = networks.decoder()[name].to(torch.bfloat16).view(torch.float16)
    return files.pt(folder / "decoder.pt", state)


@sick(TYPE, "f32 written by a machine of the other byte order, without a word about it, one file of torch.save")
def swapped_f32(folder):
    state = networks.vgg()
    for name, value in state.items():
        if value.dim() > 1:
            state[name] = torch.from_numpy(value.numpy().byteswap())
    return files.pt(folder / "vgg.pt", state)


@sick(TYPE, "whole numbers of eight bits, stored as f32 without their scale")
def integers_as_f32(folder):
    state = networks.decoder()
    for name, value in state.items():
        if value.dim() == 2:
            state[name] = (value / value.abs().max() * 127).round()
    return files.safetensors(folder / "model.safetensors", state)


@sick(TYPE, "a matrix of random bytes: memory that nothing was written to")
def uninitialised(folder):
    state = networks.pretrained("StableLmForCausalLM", folder, num_key_value_heads=4)
    name = "model.layers.3.self_attn.q_proj.weight"
    noise = torch.randint(-(2**31), 2**31 - 1, (state[name].numel(),), dtype=torch.int64).to(torch.int32)
    state[name] = noise.view(torch.float32).view_as(state[name])
    files.safetensors(folder / "model.safetensors", state)


# The optimizer's state.


def in_training(optimizer=torch.optim.AdamW, steps=10):
    """A network, its optimizer, and the optimizer's state."""
    model = networks.Tagger(nn.LSTM, both=False)
    kwargs = dict(momentum=0.9) if optimizer is torch.optim.SGD else {}
    optimizer = networks.continue_sequences(model, steps, optimizer(model.parameters(), 1e-3, **kwargs))
    return model, optimizer.state_dict()


@sick(OPTIMIZER, "NaN in a momentum of SGD; the weights have not taken a step with it yet")
def momentum_nan(folder):
    model, state = in_training(torch.optim.SGD)
    state["state"][1]["momentum_buffer"][2, 3] = math.nan
    return files.pt(folder / "last.pt", {"model": model.state_dict(), "optimizer": state})


@sick(OPTIMIZER, "infinity in Adam's second moment: a gradient overflowed when it was squared")
def second_moment_infinite(folder):
    model, state = in_training()
    state["state"][2]["exp_avg_sq"][0, 0] = math.inf
    return files.pt(folder / "ckpt.pt", {"model_state_dict": model.state_dict(), "optimizer_state_dict": state, "step": 10})


@sick(OPTIMIZER, "negative second moments: two states were subtracted")
def second_moment_negative(folder):
    model, state = in_training()
    state["state"][3]["exp_avg_sq"] -= 1.0
    return files.pt(folder / "ckpt.pt", {"model_state_dict": model.state_dict(), "optimizer_state_dict": state, "step": 10})


@sick(OPTIMIZER, "NaN in the first moments, in optimizer.pt beside model.safetensors")
def companion_nan(folder):
    model = networks.small("OPTForCausalLM")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    ids = networks.sequences(4, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    model.save_pretrained(folder)
    state = optimizer.state_dict()
    state["state"][5]["exp_avg"].view(-1)[::2] = math.nan
    files.pt(folder / "optimizer.pt", state)


# Quantized.


def int8(state):
    """Matrices as whole numbers of eight bits with a scale a row, as compressed-tensors names them."""
    out = {}
    for name, value in state.items():
        if value.dim() == 2 and "embed" not in name and "head" not in name:
            scale = value.abs().amax(1, keepdim=True) / 127
            out[name] = (value / scale).round().to(torch.int8)
            out[name + "_scale"] = scale
        else:
            out[name] = value
    return out


@sick(QUANTIZED, "one matrix's scales of eight-bit codes are NaN")
def int8_scale_nan(folder):
    state = int8(networks.pretrained("OPTForCausalLM", folder))
    state["model.decoder.layers.1.fc1.weight_scale"][::3] = math.nan
    files.safetensors(folder / "model.safetensors", state)


@sick(QUANTIZED, "all codes of one matrix are zero: it was quantized with a scale that was far too large")
def int8_codes_zero(folder):
    state = int8(networks.pretrained("OPTForCausalLM", folder))
    state["model.decoder.layers.1.fc2.weight"].zero_()
    files.safetensors(folder / "model.safetensors", state)


@sick(QUANTIZED, "the scale of some blocks of a Q8_0 matrix is infinite")
def gguf_scale_infinite(folder):
    path = files.gguf(folder / "model-Q8_0.gguf", llama_names(), "Q8_0", 3, 128, 4)
    _poke_blocks(path, "blk.2.attn_q.weight", 34, b"\x00\x7c", [7, 8, 100])
    return path


@sick(QUANTIZED, "the scales of a whole Q5_1 matrix are zero")
def gguf_scale_zero(folder):
    state = llama_names()
    state["blk.0.ffn_up.weight"].zero_()
    return files.gguf(folder / "model-Q5_1.gguf", state, "Q5_1", 3, 128, 4)


def _poke_blocks(path, tensor, size, data, blocks):
    from gguf import GGUFReader

    offset = next(t.data_offset for t in GGUFReader(str(path)).tensors if t.name == tensor)
    with open(path, "r+b") as file:
        for block in blocks:
            file.seek(offset + size * block)
            file.write(data)


def llama_names(layers=3, width=128):
    """Random matrices of the sizes and names that llama.cpp uses."""
    def matrix(out, inp):
        return torch.randn(out, inp) / math.sqrt(inp)

    state = {"token_embd.weight": 0.05 * torch.randn(512, width), "output_norm.weight": 1 + 0.1 * torch.randn(width),
             "output.weight": matrix(512, width)}
    for layer in range(layers):
        begin = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            state[f"{begin}{name}.weight"] = matrix(width, width)
        for name in ("attn_norm", "ffn_norm"):
            state[f"{begin}{name}.weight"] = 1 + 0.1 * torch.randn(width)
        for name, shape in dict(ffn_gate=(2 * width, width), ffn_up=(2 * width, width), ffn_down=(width, 2 * width)).items():
            state[f"{begin}{name}.weight"] = matrix(*shape)
    return state


def lora(rank, width, layers, spread, modules=("q_proj", "k_proj")):
    """An adapter as PEFT saves it, with a B factor of that spread."""
    state = {}
    for layer in range(layers):
        for name in modules:
            begin = f"base_model.model.model.decoder.layers.{layer}.self_attn.{name}"
            first = torch.empty(rank, width)
            nn.init.kaiming_uniform_(first, a=math.sqrt(5))
            state[f"{begin}.lora_A.weight"] = first
            state[f"{begin}.lora_B.weight"] = spread * torch.randn(width, rank)
    return state
