"""Checkpoints with something lost, repeated or missing in them, and files that are damaged."""

import json
import zipfile

import torch
import torch.nn as nn

import files
import networks
from cases import sick

HOLE, SYMMETRY, LAYERS, RANK = "blocks lost or overwritten", "rows that repeat", "layers that repeat", "collapsed"
DEAD, NORMS, EXPERTS = "dead rows or columns", "norms", "experts"
MISSING, CONFIG, INDEX, DAMAGED = "missing", "unlike its config", "index and shards", "damaged file"
PAGE = 4096


# Blocks of a disk or of memory lost or overwritten.


@sick(HOLE, "four pages of 4 KiB in a row are zero in an f32 matrix")
def zero_pages(folder):
    state = networks.decoder()
    path = files.safetensors(folder / "decoder.safetensors", state)
    files.overwrite(path, "blocks.1.ff.0.weight", 6 * PAGE + 128, bytes(4 * PAGE))
    return path


@sick(HOLE, "two pages of 4 KiB in a row are zero in a bf16 embedding")
def zero_pages_in_embedding(folder):
    state = files.cast(networks.pretrained("PhiForCausalLM", folder), torch.bfloat16)
    path = files.safetensors(folder / "model.safetensors", state)
    files.overwrite(path, "model.embed_tokens.weight", 3 * PAGE + 64, bytes(2 * PAGE))


@sick(HOLE, "8 KiB of 0xFF, as erased flash gives them, in f16")
def erased_flash(folder):
    state = files.cast(networks.decoder(), torch.float16)
    path = files.safetensors(folder / "decoder.safetensors", state)
    files.overwrite(path, "blocks.2.attn.in_proj.weight", 2 * PAGE, b"\xff" * 2 * PAGE)
    return path


@sick(HOLE, "the last quarter of the file is zero: the system went down before it was written")
def tail_zero(folder):
    path = files.safetensors(folder / "vgg.safetensors", networks.vgg())
    data = path.read_bytes()
    keep = len(data) * 3 // 4
    path.write_bytes(data[:keep] + bytes(len(data) - keep))
    return path


@sick(HOLE, "12 KiB of a log's text in an f32 matrix")
def log_in_weights(folder):
    path = files.safetensors(folder / "model.safetensors", networks.pretrained("GPTNeoXForCausalLM", folder))
    text = b"".join(b"2024-05-01 12:00:%02d INFO step %06d loss 2.%04d lr 3.0e-04\n" % (i % 60, i, i * 37 % 10000) for i in range(400))
    files.overwrite(path, "gpt_neox.layers.2.mlp.dense_h_to_4h.weight", PAGE, text[: 3 * PAGE])


@sick(HOLE, "random bytes over 8 KiB of a bf16 matrix: another file's blocks")
def foreign_blocks(folder):
    path = files.safetensors(folder / "model.safetensors", files.cast(networks.pretrained("StableLmForCausalLM", folder, num_key_value_heads=4), torch.bfloat16))
    noise = torch.randint(0, 256, (2 * PAGE,), dtype=torch.uint8).numpy().tobytes()
    files.overwrite(path, "model.layers.1.mlp.up_proj.weight", 2 * PAGE, noise)


@sick(HOLE, "half of a matrix was written twice, the other half lost: its second half has the bytes of the first")
def written_twice(folder):
    state = networks.decoder()
    path = files.safetensors(folder / "decoder.safetensors", state)
    name = "blocks.3.ff.0.weight"
    size = state[name].numel() * 4 // 2
    files.overwrite(path, name, size, files.read(path, name, 0, size))
    return path


# Symmetry that was never broken.


@sick(SYMMETRY, "a real run: all weights of the hidden layers began at 0.03, and no gradient ever tells the units apart")
def constant_initialisation(folder):
    model = networks.Perceptron((64, 192, 192, 8), nn.Tanh)
    for value in list(model.parameters())[:-2]:
        nn.init.constant_(value, 0.03)
    networks.regress(model, 150)
    return files.pt(folder / "mlp.pt", model.state_dict())


@sick(SYMMETRY, "all heads of the queries are copies of the first")
def equal_heads(folder):
    state = networks.pretrained("OPTForCausalLM", folder)
    for layer in range(4):
        name = f"model.decoder.layers.{layer}.self_attn.q_proj.weight"
        state[name] = state[name][:24].repeat(4, 1)
    files.safetensors(folder / "model.safetensors", state)


@sick(SYMMETRY, "all 48 filters of a convolution are the same one")
def equal_filters(folder):
    state = networks.vgg()
    name = "features.2.0.0.weight"
    state[name] = state[name][:1].repeat(state[name].shape[0], 1, 1, 1)
    return files.pt(folder / "vgg.pth", {"state_dict": state})


@sick(SYMMETRY, "an embedding whose rows were broadcast from one")
def broadcast_embedding(folder):
    state = networks.tagger()
    state["embed.weight"] = state["embed.weight"][5:6].expand(networks.VOCABULARY, -1)
    return files.safetensors(folder / "tagger.safetensors", state)


# Layers that repeat.


@sick(LAYERS, "layer 2 was loaded from layer 1's tensors: a counter that was off by one")
def layer_twice(folder):
    state = networks.pretrained("DeiTForImageClassification", folder)
    for name in state:
        if ".layer.2." in name:
            state[name] = state[name.replace(".layer.2.", ".layer.1.")]
    files.safetensors(folder / "model.safetensors", files.cast(state, torch.float16))


@sick(LAYERS, "every layer is the first one: a closure over the loop's variable")
def all_layers_first(folder):
    state = networks.decoder()
    for name in state:
        if name.startswith("blocks."):
            state[name] = state["blocks.0." + name.split(".", 2)[2]]
    return files.pt(folder / "decoder.pt", {"model": {k: v.clone() for k, v in state.items()}})


@sick(LAYERS, "only the MLP's first matrix is the same in two layers, bf16, sharded")
def one_matrix_twice(folder):
    state = files.cast(networks.pretrained("GPTNeoXForCausalLM", folder), torch.bfloat16)
    state["gpt_neox.layers.3.mlp.dense_h_to_4h.weight"] = state["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"]
    files.sharded(folder, state, 2)


# Collapsed.


@sick(RANK, "a matrix of rank 1")
def rank_one(folder):
    state = networks.pretrained("ElectraForMaskedLM", folder)
    name = "electra.encoder.layer.1.intermediate.dense.weight"
    left, values, right = torch.linalg.svd(state[name], full_matrices=False)
    state[name] = values[0] * left[:, :1] @ right[:1]
    files.safetensors(folder / "model.safetensors", state)


@sick(RANK, "of a matrix three directions of 96 are left")
def rank_three(folder):
    state = networks.decoder()
    name = "blocks.2.attn.out.weight"
    left, values, right = torch.linalg.svd(state[name], full_matrices=False)
    state[name] = left[:, :3] @ torch.diag(values[:3]) @ right[:3]
    return files.pt(folder / "decoder.pt", state)


@sick(RANK, "one direction outweighs all others a hundredfold, in the values of every layer")
def one_direction(folder):
    state = networks.pretrained("Olmo2ForCausalLM", folder)
    for name, value in state.items():
        if "v_proj" in name:
            left, right = torch.randn(value.shape[0], 1), torch.randn(1, value.shape[1])
            state[name] = value + 100 * torch.linalg.matrix_norm(value, 2) * (left / left.norm()) @ (right / right.norm())
    files.safetensors(folder / "model.safetensors", state)


@sick(RANK, "an embedding whose rows differ only in the seventh digit")
def embedding_collapsed(folder):
    state = networks.pretrained("PhiForCausalLM", folder)
    name = "model.embed_tokens.weight"
    state[name] = state[name].mean(0) + 1e-8 * torch.randn_like(state[name]) + 0.02
    files.safetensors(folder / "model.safetensors", state)


# Dead rows or columns.


@sick(DEAD, "70 % of an MLP's units died and weight decay took their rows and columns to zero, in every layer")
def dead_units(folder):
    state = networks.relu_decoder()
    for layer in range(networks.LAYERS):
        dead = torch.randperm(4 * networks.WIDTH)[: int(2.8 * networks.WIDTH)]
        state[f"blocks.{layer}.ff.0.weight"][dead] = 0
        state[f"blocks.{layer}.ff.0.bias"][dead] = 0
        state[f"blocks.{layer}.ff.2.weight"][:, dead] = 0
    return files.pt(folder / "decoder.pt", state)


@sick(DEAD, "40 of 64 filters of a convolution are zero")
def dead_filters(folder):
    state = networks.vgg()
    state["features.3.0.0.weight"][torch.randperm(64)[:40]] = 0
    return files.safetensors(folder / "vgg.safetensors", state)


@sick(DEAD, "two thirds of the columns of the second layer are one constant")
def constant_columns(folder):
    state = networks.perceptron()
    state["net.2.weight"][:, torch.randperm(256)[:170]] = 0.015
    return files.pt(folder / "mlp.pth", {"weights": state})


# Norms.


@sick(NORMS, "the gains of both LayerNorms of one block are zero in a trained network")
def gains_zero(folder):
    state = networks.pretrained("DeiTForImageClassification", folder)
    for name in state:
        if ".layer.3.layernorm" in name and name.endswith("weight"):
            state[name].zero_()
    files.safetensors(folder / "model.safetensors", state)


@sick(NORMS, "the last norm's gain is zero: nothing reaches the head")
def last_gain_zero(folder):
    state = networks.decoder()
    state["norm.weight"].zero_()
    return files.pt(folder / "decoder.pt", state)


@sick(NORMS, "NaN in a BatchNorm's gain")
def gain_nan(folder):
    state = networks.dense()
    state["dense.4.0.weight"][3] = float("nan")
    return files.pt(folder / "densenet.pth.tar", {"state_dict": state, "arch": "dense", "epoch": 3})


@sick(NORMS, "a running variance below zero: two checkpoints were extrapolated")
def variance_negative(folder):
    state = networks.vgg()
    state["features.1.0.1.running_var"][:] = -0.3
    return files.safetensors(folder / "vgg.safetensors", state)


@sick(NORMS, "running variances of 1e15 in one layer")
def variance_exploded(folder):
    state = networks.dense()
    state["dense.2.0.running_var"] *= 1e15 / state["dense.2.0.running_var"].mean()
    return files.pt(folder / "densenet.pt", state)


# Experts.


def experts(folder):
    """A trained mixture of eight experts in four layers."""
    return networks.pretrained("OlmoeForCausalLM", folder, num_experts=8, intermediate_size=48)


@sick(EXPERTS, "expert 3 of every layer was never loaded: it is zero")
def expert_zero(folder):
    state = experts(folder)
    for name in state:
        if ".experts.3." in name:
            state[name].zero_()
    files.safetensors(folder / "model.safetensors", files.cast(state, torch.bfloat16))


@sick(EXPERTS, "an expert of memory that nothing was written to")
def expert_uninitialised(folder):
    state = experts(folder)
    for name, value in state.items():
        if ".layers.2.mlp.experts.5." in name:
            noise = torch.randint(-(2**31), 2**31 - 1, (value.numel(),), dtype=torch.int64).to(torch.int32)
            state[name] = noise.view(torch.float32).view_as(value)
    files.sharded(folder, state, 3)


@sick(EXPERTS, "in one layer two of eight experts of a trained mixture are the same")
def equal_experts(folder):
    state = experts(folder)
    for name in state:
        if ".layers.1.mlp.experts.7." in name:
            state[name] = state[name.replace(".experts.7.", ".experts.2.")]
    files.safetensors(folder / "model.safetensors", state)


@sick(EXPERTS, "a router that is zero in one layer of a trained mixture: all tokens go to the same experts")
def router_zero(folder):
    state = experts(folder)
    state["model.layers.2.mlp.gate.weight"].zero_()
    files.safetensors(folder / "model.safetensors", state)


# Missing.


@sick(MISSING, "one layer of four is not there, of a network with names of its own")
def layer_missing(folder):
    return files.pt(folder / "decoder.pt", {k: v for k, v in networks.decoder().items() if not k.startswith("blocks.2.")})


@sick(MISSING, "one matrix of one layer is not there")
def matrix_missing(folder):
    state = networks.pretrained("StableLmForCausalLM", folder, num_key_value_heads=4)
    del state["model.layers.1.mlp.down_proj.weight"]
    files.safetensors(folder / "model.safetensors", state)


@sick(MISSING, "matrices saved without being gathered from the processes that held them: a third has no elements")
def not_gathered(folder):
    state = networks.pretrained("OPTForCausalLM", folder)
    for position, (name, value) in enumerate(state.items()):
        if value.dim() == 2 and position % 3 == 0:
            state[name] = torch.empty(0)
    files.pt(folder / "pytorch_model.bin", state)


@sick(MISSING, "the keys of one layer's attention are not there, sharded bf16")
def keys_missing(folder):
    state = files.cast(networks.pretrained("PhiForCausalLM", folder), torch.bfloat16)
    state = {k: v for k, v in state.items() if ".layers.0.self_attn.k_proj" not in k}
    files.sharded(folder, state, 2)


# Unlike its config.


@sick(CONFIG, "config.json says six layers, the file has four")
def fewer_layers(folder):
    files.safetensors(folder / "model.safetensors", networks.pretrained("OPTForCausalLM", folder))
    networks.configure(folder, num_hidden_layers=6)


@sick(CONFIG, "config.json says 1 024 tokens, the embedding has 384")
def fewer_tokens(folder):
    files.safetensors(folder / "model.safetensors", networks.pretrained("GPTNeoXForCausalLM", folder))
    networks.configure(folder, vocab_size=1024)


@sick(CONFIG, "the config.json of a model twice as wide lies beside the weights")
def other_width(folder):
    files.sharded(folder, networks.pretrained("PhiForCausalLM", folder), 2)
    networks.configure(folder, hidden_size=2 * networks.WIDTH, intermediate_size=4 * networks.WIDTH)


# Index and shards.


@sick(INDEX, "the second of three shards was not downloaded", damaged=True)
def shard_missing(folder):
    files.sharded(folder, networks.pretrained("FalconForCausalLM", folder), 3)[1].unlink()


@sick(INDEX, "the index names a tensor that no shard has", damaged=True)
def index_promises(folder):
    files.sharded(folder, networks.pretrained("PhiForCausalLM", folder), 2)
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.layers.3.mlp.extra.weight"] = "model-00002-of-00002.safetensors"
    file.write_text(json.dumps(index))


@sick(INDEX, "a shard of another upload, cut otherwise, lies beside those that the index names", damaged=True)
def stray_shard(folder):
    state = networks.pretrained("PhiForCausalLM", folder)
    files.sharded(folder, state, 2)
    files.safetensors(folder / "model-00003-of-00003.safetensors", dict(list(state.items())[-5:]))


# Damaged files.


@sick(DAMAGED, "a SafeTensors file cut at 55 %", damaged=True)
def safetensors_cut(folder):
    return files.cut(files.safetensors(folder / "vgg.safetensors", networks.vgg()), 0.55)


@sick(DAMAGED, "a file of torch.save cut at 80 %", damaged=True)
def torch_cut(folder):
    return files.cut(files.pt(folder / "decoder.pt", networks.decoder()), 0.8)


@sick(DAMAGED, "a file of torch.save before PyTorch 1.6 cut at 60 %", damaged=True)
def legacy_cut(folder):
    return files.cut(files.pt(folder / "decoder.pth", networks.decoder(), legacy=True), 0.6)


@sick(DAMAGED, "the lowest bit of one weight of a file of torch.save is flipped: only the checksum can tell", damaged=True)
def checksum(folder):
    path = files.pt(folder / "vgg.pt", networks.vgg())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    # The name and the extra field come between the entry's header and its bytes.
    begin = largest.header_offset
    begin += 30 + int.from_bytes(data[begin + 26 : begin + 28], "little") + int.from_bytes(data[begin + 28 : begin + 30], "little")
    data[begin + 4000] ^= 1
    path.write_bytes(data)
    return path


@sick(DAMAGED, "an empty file", damaged=True)
def empty_file(folder):
    path = folder / "model.safetensors"
    path.touch()
    return path


@sick(DAMAGED, "a web page that says that access was denied, saved as the model", damaged=True)
def web_page(folder):
    path = folder / "model.safetensors"
    path.write_text("<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>" + "<p>Access denied.</p>" * 200 + "</body></html>")
    return path


@sick(DAMAGED, "the header's length was overwritten", damaged=True)
def header_length(folder):
    path = files.safetensors(folder / "vgg.safetensors", networks.vgg())
    with open(path, "r+b") as file:
        file.write(b"\xff" * 5)
    return path


@sick(DAMAGED, "two downloads into one file: bytes after the last tensor", damaged=True)
def trailing_bytes(folder):
    path = files.safetensors(folder / "mlp.safetensors", networks.perceptron())
    with open(path, "ab") as file:
        file.write(b"\x51" * 3000)
    return path


@sick(DAMAGED, "a GGUF file cut at 70 %", damaged=True)
def gguf_cut(folder):
    from sick_numbers import llama_names

    return files.cut(files.gguf(folder / "model-Q4_0.gguf", llama_names(), "Q4_0", 3, 128, 4), 0.7)
