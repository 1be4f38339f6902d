"""What is wrong only beside the other layers, the other experts, or the configuration."""

import torch

import files
import networks
from cases import sick
from sick_numbers import CONSTANT, FADED, llama_names
from sick_structure import CONFIG, EXPERTS, LAYERS, MISSING


def without(name, part, **changes):
    """A case that lacks the weights with that part in their names."""
    def make(folder):
        state = networks.pretrained(name, folder, **changes)
        files.safetensors(folder / "model.safetensors", {k: v for k, v in state.items() if part not in k})

    return make


@sick(MISSING, "the values of the first layer's attention are not there")
def first_values_missing(folder):
    without("StableLmForCausalLM", ".layers.0.self_attn.v_proj", num_key_value_heads=4)(folder)


@sick(MISSING, "the second matrix of the last layer's MLP is not there")
def last_output_missing(folder):
    without("OPTForCausalLM", ".layers.3.fc2")(folder)


@sick(MISSING, "the keys of the last layer of a network for pictures are not there")
def last_keys_missing(folder):
    without("DeiTForImageClassification", ".layer.3.attention.attention.key")(folder)


@sick(MISSING, "two layers of eight, apart, are not there")
def two_layers_missing(folder):
    state = networks._trained(networks.Decoder(layers=8), networks.continue_sequences, 5)
    return files.pt(folder / "decoder.pt", {k: v for k, v in state.items() if not k.startswith(("blocks.2.", "blocks.5."))})


@sick(MISSING, "one layer's attention is not there at all")
def attention_missing(folder):
    return files.pt(folder / "decoder.pt", {k: v for k, v in networks.decoder().items() if not k.startswith("blocks.1.attn.")})


@sick(MISSING, "the keys of the first layer of a GGUF file are not there")
def gguf_keys_missing(folder):
    state = llama_names(4)
    del state["blk.0.attn_k.weight"]
    return files.gguf(folder / "model-F16.gguf", state, "F16", 4, 128, 4)


def configured(name, **changes):
    """A case whose config.json says something else."""
    def make(folder):
        files.safetensors(folder / "model.safetensors", networks.pretrained(name, folder))
        networks.configure(folder, **changes)

    return make


@sick(CONFIG, "config.json says a width of half of what the file has")
def half_the_width(folder):
    configured("GPTNeoXForCausalLM", hidden_size=48)(folder)


@sick(CONFIG, "config.json says twice the width of a network for pictures")
def other_width_of_pictures(folder):
    configured("DeiTForImageClassification", hidden_size=192)(folder)


@sick(CONFIG, "config.json says two layers, the file has four")
def more_layers(folder):
    configured("GPTNeoXForCausalLM", num_hidden_layers=2)(folder)


@sick(CONFIG, "config.json says 50 tokens, the embedding has 384")
def more_tokens(folder):
    configured("PhiForCausalLM", vocab_size=50)(folder)


@sick(CONFIG, "a GGUF file's keys say five blocks, it has three")
def gguf_blocks(folder):
    return files.gguf(folder / "model-F16.gguf", llama_names(), "F16", 5, 128, 4)


@sick(CONFIG, "a GGUF file's keys say a width of 256, it is 128")
def gguf_width(folder):
    return files.gguf(folder / "model-F16.gguf", llama_names(), "F16", 3, 256, 4)


def fused(change, layer=1):
    """A decoder with eight experts in one tensor a layer, of which one tensor is changed."""
    def make(folder):
        state = networks.decoder()
        for number in range(networks.LAYERS):
            state[f"blocks.{number}.mlp.experts.gate_up_proj"] = 0.1 * torch.randn(8, 96, 192)
        change(state[f"blocks.{layer}.mlp.experts.gate_up_proj"])
        return files.safetensors(folder / "model.safetensors", state)

    return make


@sick(EXPERTS, "of eight experts in one tensor one is zero")
def fused_expert_zero(folder):
    return fused(lambda w: w[5].zero_())(folder)


@sick(EXPERTS, "of eight experts in one tensor two are the same")
def fused_experts_equal(folder):
    return fused(lambda w: w[5].copy_(w[1]), 3)(folder)


@sick(EXPERTS, "of eight experts in one tensor one is 0.02 throughout")
def fused_expert_filled(folder):
    return fused(lambda w: w[2].fill_(0.02), 0)(folder)


@sick(EXPERTS, "of eight experts in one tensor one is 20 000 times as large")
def fused_expert_exploded(folder):
    return fused(lambda w: w[6].mul_(2e4), 2)(folder)


@sick(EXPERTS, "adaLN's modulation is zero in one block of a trained network")
def modulation_zero(folder):
    state = networks.decoder()
    for layer in range(networks.LAYERS):
        state[f"blocks.{layer}.adaLN_modulation.1.weight"] = 0.01 * torch.randn(576, 96) * (layer != 2)
        state[f"blocks.{layer}.adaLN_modulation.1.bias"] = 0.01 * torch.randn(576)
    return files.pt(folder / "dit.pt", state)


@sick(LAYERS, "a layer of a network just initialised is the one before it, the others are not")
def fresh_layer_twice(folder):
    state = networks.Decoder().state_dict()
    for name in state:
        if name.startswith("blocks.2."):
            state[name] = state["blocks.1." + name.split(".", 2)[2]].clone()
    return files.pt(folder / "decoder.pt", state)


@sick(CONSTANT, "the attention of a network just initialised is zero at both ends: it can never learn")
def both_ends_zero(folder):
    state = networks.Decoder().state_dict()
    for layer in range(networks.LAYERS):
        state[f"blocks.{layer}.attn.out.weight"].zero_()
        state[f"blocks.{layer}.attn.in_proj.weight"].zero_()
    return files.pt(folder / "decoder.pt", state)


@sick(CONSTANT, "a hidden layer of a trained perceptron without norms is zero")
def hidden_layer_zero(folder):
    state = networks.perceptron()
    state["net.2.weight"].zero_()
    return files.pt(folder / "mlp.pt", state)


@sick(CONSTANT, "the last convolution of a trained U-Net, to one channel, is zero")
def one_channel_zero(folder):
    state = networks.segmenter()
    state["out.weight"].zero_()
    return files.pt(folder / "unet.pt", state)


@sick(FADED, "the head of a trained decoder at a hundred-thousandth of what it was")
def head_faded(folder):
    state = networks.decoder()
    state["head.weight"] *= 1e-5
    return files.pt(folder / "decoder.pt", state)
