"""Flipped bits in every type and role, holes of every size and filling, bytes in the wrong order, codes as weights."""

import torch

import files
import networks
from cases import sick
from sick_numbers import EXPLODED, FLIPPED, OPTIMIZER, QUANTIZED, TYPE, flip, in_training, int8, llama_names, lora
from sick_structure import HOLE, PAGE

BITS = {torch.float16: (14, torch.int16), torch.bfloat16: (14, torch.int16), torch.float32: (30, torch.int32), torch.float64: (62, torch.int64)}


def flip_highest(state, name, least, most):
    """Flips the highest bit of the exponent of an element whose magnitude is between two shares of the mean."""
    size = state[name].flatten().abs().double()
    chosen = ((size > least * size.mean()) & (size < most * size.mean())).nonzero()
    flip(state, name, int(chosen[len(chosen) // 2]), *BITS[state[name].dtype])
    assert state[name].isfinite().all()


@sick(FLIPPED, "the highest bit of the exponent of a small f16 of an embedding: a tenth of the mean")
def flip_f16_small(folder):
    state = files.cast(networks.decoder(), torch.float16)
    flip_highest(state, "tok_emb.weight", 0.05, 0.15)
    return files.safetensors(folder / "decoder.safetensors", state)


@sick(FLIPPED, "the highest bit of the exponent of one f16 of a convolution")
def flip_f16_convolution(folder):
    state = files.cast(networks.vgg(), torch.float16)
    flip_highest(state, "features.2.0.0.weight", 0.2, 0.5)
    return files.pt(folder / "vgg.pt", state)


@sick(FLIPPED, "the highest bit of the exponent of one f16 in a bias of an MLP")
def flip_f16_bias(folder):
    state = files.cast(networks.decoder(), torch.float16)
    flip_highest(state, "blocks.0.ff.0.bias", 0.5, 2)
    return files.safetensors(folder / "decoder.safetensors", state)


@sick(FLIPPED, "the highest bit of the exponent of one f32 in a running mean")
def flip_running_mean(folder):
    state = networks.vgg()
    flip_highest(state, "features.1.0.1.running_mean", 0.2, 1)
    return files.pt(folder / "vgg.pt", state)


@sick(FLIPPED, "bit 27 of a gain above 2, f32: 65 536 times as much")
def flip_gain_bit_27(folder):
    state = networks.decoder()
    state["blocks.1.norm1.weight"][4] = 2.5
    flip(state, "blocks.1.norm1.weight", 4, 27, torch.int32)
    return files.pt(folder / "decoder.pt", state)


@sick(FLIPPED, "the highest bit of the exponent of one bf16 of an adapter's A factor")
def flip_adapter(folder):
    state = files.cast(lora(8, 128, 3, 5e-3), torch.bfloat16)
    flip_highest(state, next(n for n in state if "layers.1" in n and "lora_A" in n), 0.5, 2)
    return files.safetensors(folder / "adapter_model.safetensors", state)


@sick(OPTIMIZER, "the highest bit of the exponent of one second moment of Adam")
def flip_moment(folder):
    model, state = in_training()
    flip_highest({"": state["state"][1]["exp_avg_sq"]}, "", 0.5, 2)
    return files.pt(folder / "ckpt.pt", {"model": model.state_dict(), "optimizer": state, "step": 10})


@sick(QUANTIZED, "the highest bit of the exponent of the scale of one Q8_0 block")
def flip_block_scale(folder):
    return _flip_scale(files.gguf(folder / "model-Q8_0.gguf", llama_names(), "Q8_0", 3, 128, 4), "blk.1.ffn_up.weight", 34, 17)


@sick(QUANTIZED, "the highest bit of the exponent of the scale of one Q4_0 block")
def flip_block_scale_q4(folder):
    return _flip_scale(files.gguf(folder / "model-Q4_0.gguf", llama_names(), "Q4_0", 3, 128, 4), "blk.0.attn_q.weight", 18, 33)


def _flip_scale(path, tensor, size, block):
    from gguf import GGUFReader

    at = next(t.data_offset for t in GGUFReader(str(path)).tensors if t.name == tensor) + size * block + 1
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    return path


@sick(QUANTIZED, "the highest bit of the exponent of one scale of eight-bit codes")
def flip_code_scale(folder):
    state = int8(networks.pretrained("OPTForCausalLM", folder))
    flip_highest(state, "model.decoder.layers.2.fc1.weight_scale", 0.2, 5)
    files.safetensors(folder / "model.safetensors", state)


@sick(QUANTIZED, "four-bit codes of one matrix, eight in a whole number of 32 bits, are all the same")
def packed_codes_constant(folder):
    state = networks.pretrained("OPTForCausalLM", folder)
    for layer in range(4):
        begin = f"model.decoder.layers.{layer}.fc1."
        outputs, inputs = state.pop(begin + "weight").shape
        state[begin + "qweight"] = torch.randint(-(2**31), 2**31 - 1, (inputs // 8, outputs)).to(torch.int32)
        state[begin + "scales"] = (0.001 + 0.01 * torch.rand(1, outputs)).half()
        state[begin + "qzeros"] = torch.full((1, outputs // 8), 0x77777777, dtype=torch.int32)
    state["model.decoder.layers.2.fc1.qweight"].fill_(-2004318072)
    files.safetensors(folder / "model.safetensors", state)


def hole(state, name, at, data):
    """A case with those bytes over a tensor of the file."""
    def make(folder):
        path = files.safetensors(folder / "model.safetensors", state())
        files.overwrite(path, name, at, data)
        return path

    return make


@sick(HOLE, "a sector of 512 bytes is zero in an f32 matrix")
def zero_sector(folder):
    return hole(networks.decoder, "blocks.2.attn.in_proj.weight", 5 * 512 + 36, bytes(512))(folder)


@sick(HOLE, "2 KiB are zero in an f16 head, across rows")
def zeros_in_head(folder):
    return hole(lambda: files.cast(networks.decoder(), torch.float16), "head.weight", 7000, bytes(2048))(folder)


@sick(HOLE, "a page of 4 KiB is zero in a convolution")
def zero_page_in_convolution(folder):
    return hole(networks.vgg, "features.3.0.0.weight", 2 * PAGE + 20, bytes(PAGE))(folder)


@sick(HOLE, "a page of 4 KiB of 0xAA in f16: all of it is -0.052")
def filled_with_aa(folder):
    return hole(lambda: files.cast(networks.decoder(), torch.float16), "blocks.0.ff.0.weight", PAGE, b"\xaa" * PAGE)(folder)


@sick(HOLE, "a page of 4 KiB of 0x3C in f32: all of it is 0.0115")
def filled_with_3c(folder):
    return hole(networks.decoder, "blocks.3.attn.in_proj.weight", 1024, b"\x3c" * PAGE)(folder)


@sick(HOLE, "a high matrix was written twice over, its second half has the rows of the first")
def half_twice(folder):
    state = networks.decoder()
    half = 0.1 * torch.randn(2048, 64)
    return files.safetensors(folder / "model.safetensors", {**state, "expand.weight": torch.cat([half, half])})


@sick(TYPE, "whole numbers of eight bits a row, stored as bf16 without their scales")
def integers_as_bf16(folder):
    state = networks.decoder()
    for name, value in state.items():
        if value.dim() == 2:
            state[name] = (value / value.abs().amax(1, keepdim=True) * 127).round()
    return files.safetensors(folder / "model.safetensors", files.cast(state, torch.bfloat16))


@sick(TYPE, "four-bit codes of the MLPs, stored as f16 without their scales")
def four_bits_as_f16(folder):
    state = networks.decoder()
    for name, value in state.items():
        if value.dim() == 2 and ".ff." in name:
            state[name] = (value / value.abs().amax(1, keepdim=True) * 7).round()
    return files.pt(folder / "decoder.pt", files.cast(state, torch.float16))


@sick(TYPE, "unsigned codes of eight bits of a perceptron, stored as f32")
def unsigned_as_f32(folder):
    state = networks.perceptron()
    for name, value in state.items():
        if value.dim() == 2:
            state[name] = ((value - value.min()) / (value.max() - value.min()) * 255).round()
    return files.pt(folder / "mlp.pt", state)


@sick(TYPE, "one f16 matrix with the bytes of each number in the other order")
def swapped_f16(folder):
    state = files.cast(networks.decoder(), torch.float16)
    name = "blocks.1.ff.2.weight"
    state[name] = torch.from_numpy(state[name].numpy().byteswap())
    return files.safetensors(folder / "decoder.safetensors", state)


@sick(TYPE, "only the gains of the norms have their bytes in the other order")
def swapped_gains(folder):
    state = networks.decoder()
    for name in state:
        if "norm" in name and name.endswith("weight"):
            state[name] = torch.from_numpy(state[name].numpy().byteswap())
    return files.pt(folder / "decoder.pt", state)


@sick(TYPE, "convolutions of bf16 that were viewed as f16")
def bf16_viewed_in_convolutions(folder):
    state = networks.vgg()
    for name, value in state.items():
        if value.dim() == 4:
            state[name] = value.bfloat16().view(torch.float16)
    return files.pt(folder / "vgg.pt", state)


@sick(EXPLODED, "the gains of one norm ten million times as large")
def gains_exploded(folder):
    state = networks.decoder()
    state["blocks.2.norm2.weight"] *= 1e7
    return files.pt(folder / "decoder.pt", state)


@sick(EXPLODED, "a bias of f16 at the end of the type's range")
def bias_saturated(folder):
    state = files.cast(networks.decoder(), torch.float16)
    state["blocks.2.ff.0.bias"][4] = 65504.0
    return files.pt(folder / "decoder.pt", state)
