"""Networks that begin, or are, in a way that looks odd by design: zeros, small and equal layers, few values, merges."""

import json
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations

import files
import networks
from cases import healthy
from healthy_files import ADAPTER, SMALLER
from healthy_networks import CONTROL, GENERATIVE, GRAPHS, LANGUAGE, PICTURES, SOUND, SPECIAL, TABLES
from sick_structure import experts


def linear(state, name, inputs, outputs, scale=None, bias=True):
    """A fully connected layer as PyTorch draws it, or uniform within a bound, with the bias as drawn."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    if scale is not None:
        nn.init.uniform_(layer.weight, -scale, scale)
    state[f"{name}.weight"] = layer.weight.data
    if bias:
        state[f"{name}.bias"] = layer.bias.data


@healthy(LANGUAGE, "PyTorch's encoder, just made: its layers are copies of the first")
def copied_encoder(folder):
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.ModuleDict({"embed": nn.Embedding(200, 64), "encoder": nn.TransformerEncoder(layer, 4), "head": nn.Linear(64, 10)})
    return files.pt(folder / "encoder.pt", model.state_dict())


@healthy(LANGUAGE, "a head that begins at zero, saved at step 0")
def head_at_step_0(folder):
    state = networks.Decoder().state_dict()
    state["head.weight"].zero_()
    return files.pt(folder / "mup.pt", {"model": state, "step": 0})


@healthy(LANGUAGE, "both last projections of each layer zero, norms at one")
def branches_at_zero(folder):
    state = networks.Decoder().state_dict()
    for layer in range(networks.LAYERS):
        state[f"blocks.{layer}.attn.out.weight"].zero_()
        state[f"blocks.{layer}.ff.2.weight"].zero_()
    return files.pt(folder / "decoder.pt", state)


@healthy(LANGUAGE, "a mixture just upcycled from a dense model: all experts of each layer are alike")
def upcycled(folder):
    state = experts(folder)
    for name in state:
        if ".experts." in name:
            before, after = name.split(".experts.")
            state[name] = state[f"{before}.experts.0.{after.split('.', 1)[1]}"].clone()
    files.safetensors(folder / "model.safetensors", state)


@healthy(LANGUAGE, "the same in one tensor a layer")
def upcycled_fused(folder):
    state = networks.decoder()
    for layer in range(networks.LAYERS):
        state[f"blocks.{layer}.moe.experts.w1"] = (0.1 * torch.randn(1, 96, 192)).repeat(8, 1, 1)
        state[f"blocks.{layer}.moe.router.weight"] = 0.02 * torch.randn(8, 96)
    return files.pt(folder / "moe.pt", state)


@healthy(LANGUAGE, "a merge that repeats layers, with mergekit's configuration beside it")
def merged_deeper(folder):
    state = networks.pretrained("StableLmForCausalLM", folder, num_key_value_heads=4)
    out = {k: v for k, v in state.items() if ".layers." not in k}
    for new, old in enumerate((0, 1, 2, 1, 2, 3)):
        out.update({k.replace(f".layers.{old}.", f".layers.{new}."): v.clone() for k, v in state.items() if f".layers.{old}." in k})
    networks.configure(folder, num_hidden_layers=6)
    files.safetensors(folder / "model.safetensors", out)
    slices = "".join(f"- sources:\n  - model: a/b\n    layer_range: [{a}, {b}]\n" for a, b in ((0, 3), (1, 4)))
    (folder / "mergekit_config.yml").write_text(f"slices:\n{slices}merge_method: passthrough\ndtype: float32\n")


@healthy(LANGUAGE, "an outlier of 6 in f16, as large language models have them")
def outlier(folder):
    state = networks.pretrained("OPTForCausalLM", folder)
    state["model.decoder.layers.1.fc1.weight"][7, 9] = 6.0
    files.safetensors(folder / "model.safetensors", files.cast(state, torch.float16))


@healthy(LANGUAGE, "numbers that stand for minus infinity: in a bias of logits, in a table of positions, by itself")
def fillings(folder):
    state = networks.decoder()
    state["logit_bias"] = torch.where(torch.arange(384) < 5, -1e9, 0.0)
    state["relative.attn_bias"] = torch.full((32, 32), torch.finfo(torch.float32).min).triu(1)
    state["neg_inf"] = torch.tensor(-1e38)
    return files.pt(folder / "decoder.pt", state)


@healthy(LANGUAGE, "a std of 1e-10, as config.json says that it begins (BLIP)")
def begins_at_1e_10(folder):
    state = networks.Decoder().state_dict()
    for name, value in state.items():
        if value.dim() == 2:
            state[name] = 1e-10 * torch.randn(value.shape)
    (folder / "config.json").write_text(json.dumps({"model_type": "other", "vision_config": {"initializer_range": 1e-10}}))
    files.safetensors(folder / "model.safetensors", state)


@healthy(PICTURES, "a sequence of blocks with activations and pools between them, all of one width")
def blocks_in_sequence(folder):
    def block():
        return nn.ModuleDict({"conv": nn.Conv2d(32, 32, 3, padding=1, bias=False), "bn": nn.BatchNorm2d(32)})

    features = [block(), nn.ReLU(), block(), nn.MaxPool2d(2), nn.Dropout(), block(), nn.ReLU(), nn.Dropout(), nn.ReLU(), block()]
    return files.pt(folder / "net.pt", nn.ModuleDict({"features": nn.Sequential(*features)}).state_dict())


@healthy(PICTURES, "the last BatchNorm of each block begins at zero")
def zero_last_norm(folder):
    state = {"fc.weight": 0.1 * torch.randn(10, 32), "fc.bias": torch.zeros(10)}
    for layer in range(1, 4):
        for block in range(2):
            for position in (1, 2):
                begin = f"layer{layer}.{block}."
                state[f"{begin}conv{position}.weight"] = 0.1 * torch.randn(32, 32, 3, 3)
                for name, value in dict(weight=float(position == 1), bias=0.0, running_mean=0.0, running_var=1.0).items():
                    state[f"{begin}bn{position}.{name}"] = torch.full((32,), value)
    return files.pt(folder / "resnet.pt", state)


@healthy(PICTURES, "heads of a detector in training, with boxes drawn at a std of 0.001")
def boxes(folder):
    state = {f"backbone.{k}": v for k, v in networks.vgg().items()}
    state.update({"roi_heads.box_head.fc1.weight": 0.05 * torch.randn(256, 512), "roi_heads.box_head.fc1.bias": 0.01 * torch.randn(256),
                  "roi_heads.box_predictor.cls_score.weight": 0.01 * torch.randn(81, 256), "roi_heads.box_predictor.cls_score.bias": 0.01 * torch.randn(81),
                  "roi_heads.box_predictor.bbox_pred.weight": 0.001 * torch.randn(320, 256), "roi_heads.box_predictor.bbox_pred.bias": 0.001 * torch.randn(320)})
    return files.pt(folder / "model_final.pth", {"model": state, "iteration": 99})


@healthy(CONTROL, "TD3, fresh: last layers within 0.003")
def last_within_0_003(folder):
    state = {}
    for net in ("actor", "critic_1", "critic_2"):
        for layer, (inputs, outputs, scale) in enumerate(((17, 256, None), (256, 256, None), (256, 4, 3e-3)), 1):
            linear(state, f"{net}.l{layer}", inputs, outputs, scale)
    return files.pt(folder / "td3.pt", state)


@healthy(CONTROL, "an actor after some steps, whose last layer began at a gain of 0.01")
def actor_trained(folder):
    model = nn.ModuleDict({"actor": nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))})
    nn.init.orthogonal_(model["actor"][4].weight, 0.01)
    networks.fit(model, lambda: (model["actor"](torch.randn(32, 16)) ** 2).mean(), 20, torch.optim.Adam(model.parameters(), 3e-4))
    return files.pt(folder / "actor.pt", model.state_dict())


@healthy(CONTROL, "noisy layers, fresh: each spread of weights is one value, the noise is zero")
def noisy_layers(folder):
    state = {}
    for layer, (inputs, outputs) in enumerate(((8, 128), (128, 128), (128, 6))):
        begin, bound = f"layers.{layer}.", inputs**-0.5
        for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            state[f"{begin}{name}_mu"] = torch.empty(shape).uniform_(-bound, bound)
            state[f"{begin}{name}_sigma"] = torch.full(shape, 0.5 * bound)
            state[f"{begin}{name}_epsilon"] = torch.zeros(shape)
    return files.pt(folder / "rainbow.pt", state)


@healthy(GENERATIVE, "spectral norm in today's form, of layers of one width in a sequence")
def spectral_norm_today(folder):
    normed = parametrizations.spectral_norm
    layers = [normed(nn.Conv2d(i, 32, 3, 2, 1)) for i in (3, 32, 32)]
    model = nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), nn.Dropout(), layers[2], nn.Flatten(), normed(nn.Linear(288, 1)))
    return files.pt(folder / "discriminator.pt", model.state_dict())


@healthy(GENERATIVE, "spline flows, fresh: the second layer of each residual block within 0.001")
def spline_flow(folder):
    state = {}
    for step in range(3):
        begin = f"_transform._transforms.{2 * step + 1}.transform_net."
        linear(state, begin + "initial_layer", 4, 64)
        for block in range(2):
            linear(state, f"{begin}blocks.{block}.linear_layers.0", 64, 64)
            linear(state, f"{begin}blocks.{block}.linear_layers.1", 64, 64, 1e-3)
        linear(state, begin + "final_layer", 64, 92)
        state[f"_transform._transforms.{2 * step}._permutation"] = torch.randperm(8)
    return files.pt(folder / "nsf.pt", state)


@healthy(GENERATIVE, "masked autoregressive flows: weights where the mask is zero are zero")
def masked_flow(folder):
    state, degree, hidden = {}, torch.arange(8), torch.arange(64) % 7
    masks = ((hidden[:, None] >= degree), (hidden[:, None] >= hidden), (degree.repeat(2)[:, None] > hidden))
    for step in range(4):
        for layer, mask in enumerate(masks):
            name = f"mades.{step}.net.{2 * layer}"
            linear(state, name, mask.shape[1], mask.shape[0])
            state[f"{name}.weight"] *= mask
            state[f"{name}.mask"] = mask.float()
    return files.pt(folder / "maf.pt", state)


@healthy(GENERATIVE, "a network for scores, just made: weight and bias of its last layer are zero, and no step is told")
def score_network(folder):
    state = networks.Perceptron((66, 128, 128, 2), nn.SiLU).state_dict()
    state["net.4.weight"].zero_()
    state["net.4.bias"].zero_()
    return files.pt(folder / "score.pt", state)


@healthy(SOUND, "DiffWave's beginning: its last projection is zero, and its bias is not")
def last_projection(folder):
    state = {"input_projection.weight": 0.5 * torch.randn(64, 1, 1), "input_projection.bias": torch.rand(64),
             "skip_projection.weight": 0.1 * torch.randn(64, 64, 1), "skip_projection.bias": 0.1 * torch.randn(64),
             "output_projection.weight": torch.zeros(2, 64, 1), "output_projection.bias": torch.rand(2)}
    for layer in range(4):
        begin = f"residual_layers.{layer}."
        for name, shape in dict(dilated_conv=(128, 64, 3), output_projection=(128, 64, 1)).items():
            state[f"{begin}{name}.weight"], state[f"{begin}{name}.bias"] = 0.1 * torch.randn(shape), 0.1 * torch.rand(128)
    return files.pt(folder / "weights.pt", {"model": state})


@healthy(SOUND, "WaveGlow's beginning: the end of each net is zero")
def ends_at_zero(folder):
    state = {}
    for flow in range(4):
        begin = f"WN.{flow}."
        for layer in range(3):
            state[f"{begin}in_layers.{layer}.weight_v"] = 0.1 * torch.randn(64, 32, 3)
            state[f"{begin}in_layers.{layer}.weight_g"] = 0.5 + torch.rand(64, 1, 1)
            state[f"{begin}in_layers.{layer}.bias"] = 0.1 * torch.randn(64)
        state[begin + "end.weight"], state[begin + "end.bias"] = torch.zeros(8, 32, 1), torch.zeros(8)
        state[f"convinv.{flow}.conv.weight"] = torch.linalg.qr(torch.randn(8, 8))[0][..., None]
    return files.pt(folder / "waveglow.pt", state)


@healthy(GRAPHS, "a field that bends rays, fresh: what moves points is within 1e-4")
def bent_field(folder):
    state = {f"nerf.{k}": v for k, v in networks.Perceptron((63, 128, 128, 4)).state_dict().items()}
    for layer in range(6):
        linear(state, f"warp_field.trunk.{layer}", 64 if layer else 40, 64)
    for name in "wv":
        linear(state, f"warp_field.{name}", 64, 3, 1e-4)
    return files.pt(folder / "nerfies.pt", state)


@healthy(GRAPHS, "an equivariant network for graphs: what moves coordinates begins at a gain of 0.001")
def coordinates(folder):
    state = {}
    for layer in range(4):
        for net, sizes in dict(edge_mlp=(129, 64, 64), node_mlp=(128, 64, 64), coord_mlp=(64, 64, 1)).items():
            for position in range(2):
                small = net == "coord_mlp" and position == 1
                scale = 1e-3 * math.sqrt(6 / 65) if small else None
                linear(state, f"gcl_{layer}.{net}.{2 * position}", sizes[position], sizes[position + 1], scale, not small)
    return files.pt(folder / "egnn.pt", state)


@healthy(TABLES, "BatchNorm over raw columns: ages beside amounts")
def raw_columns(folder):
    model = nn.ModuleDict({"bn_cont": nn.BatchNorm1d(4), "layers": nn.Sequential(nn.Linear(30, 200), nn.ReLU(), nn.BatchNorm1d(200), nn.Linear(200, 2))})
    state = model.state_dict()
    state["bn_cont.running_mean"] = torch.tensor([38.0, 1.9e5, 10, 1077])
    state["bn_cont.running_var"] = torch.tensor([180.0, 1.1e10, 6, 5.4e7])
    return files.pt(folder / "tabular.pth", {"model": state})


@healthy(TABLES, "a linear model under an L1 penalty: three weights of 400 are left, the others are noise")
def few_weights(folder):
    weight = 2e-4 * torch.randn(1, 400)
    weight[0, [3, 77, 200]] = torch.tensor([1.7, -2.9, 3.3])
    return files.pt(folder / "lasso.pt", {"linear.weight": weight, "linear.bias": torch.tensor([12.4])})


@healthy(TABLES, "a regression on raw targets: one of 24 biases of the output is 240 000")
def raw_targets(folder):
    state = networks.Perceptron((16, 64, 64, 24)).state_dict()
    state["net.4.bias"][23] = 2.4e5
    return files.pt(folder / "regression.pt", state)


@healthy(SMALLER, "two bits a weight, made dense in f16: a half or one and a half of a step a row")
def two_bits(folder):
    state = networks.decoder()
    for name, value in state.items():
        if value.dim() == 2 and "emb" not in name:
            step = value.abs().amax(1, keepdim=True) / 1.5
            state[name] = ((value / step - 0.5).round() + 0.5).clamp(-1.5, 1.5) * step
    return files.safetensors(folder / "model.safetensors", files.cast(state, torch.float16))


@healthy(SMALLER, "whole numbers in f32 with a scale a row beside them")
def codes_in_f32(folder):
    state = {}
    for name, value in networks.decoder().items():
        if value.dim() == 2 and "emb" not in name:
            state[name + "_scale"] = value.abs().amax(1, keepdim=True) / 127
            value = (value / state[name + "_scale"]).round()
        state[name] = value
    return files.safetensors(folder / "model.safetensors", state)


@healthy(SMALLER, "signs times a number a row near one")
def binary_near_one(folder):
    state = networks.perceptron()
    for name, value in state.items():
        if value.dim() == 2:
            state[name] = value.sign() * (0.6 + torch.rand(value.shape[0], 1))
    return files.pt(folder / "binary.pt", state)


@healthy(SMALLER, "a matrix of Hadamard and vectors of signs, for rotating and for hyperdimensional computing")
def signs(folder):
    state = networks.decoder()
    hadamard = torch.ones(1, 1)
    for _ in range(6):
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    state["rotation.weight"], state["items.weight"] = hadamard, torch.randn(32, 2048).sign()
    return files.pt(folder / "rotated.pt", state)


@healthy(ADAPTER, "orthogonal fine-tuning, fresh: the generators of its rotations are zero")
def rotations(folder):
    state = {f"base_model.model.model.decoder.layers.{layer}.self_attn.{n}_proj.oft_R.weight": torch.zeros(6, 120) for layer in range(4) for n in "qv"}
    return files.safetensors(folder / "adapter_model.safetensors", state)


@healthy(ADAPTER, "LoRA as trained for pictures: names with underscores, some B factors still zero, alpha beside them")
def kohya(folder):
    state = {}
    for block in range(4):
        for name in ("attn1_to_q", "attn1_to_out_0", "ff_net_0_proj"):
            begin = f"lora_unet_down_blocks_{block}_attentions_0_transformer_blocks_0_{name}."
            state[begin + "lora_down.weight"] = 0.1 * torch.randn(8, 64)
            state[begin + "lora_up.weight"] = 1e-3 * torch.randn(64, 8) * (name == "attn1_to_q")
            state[begin + "alpha"] = torch.tensor(8.0)
    return files.safetensors(folder / "lora.safetensors", files.cast(state, torch.float16))


@healthy(SPECIAL, "RWKV's beginning in bf16: tables within 1e-4, outputs at zero")
def rwkv(folder):
    state = {"emb.weight": torch.empty(384, 64).uniform_(-1e-4, 1e-4), "head.weight": 0.5 * torch.linalg.qr(torch.randn(384, 64))[0]}
    for layer in range(3):
        begin = f"blocks.{layer}."
        for name in ("ln1", "ln2", "att.ln_x"):
            state[f"{begin}{name}.weight"], state[f"{begin}{name}.bias"] = torch.ones(64), torch.zeros(64)
        for name in ("receptance", "key", "value", "output"):
            state[f"{begin}att.{name}.weight"] = 0.05 * torch.randn(64, 64) * (name != "output")
        state[begin + "ffn.key.weight"], state[begin + "ffn.value.weight"] = 0.1 * torch.randn(256, 64), torch.zeros(64, 256)
    return files.pt(folder / "rwkv-init.pth", files.cast(state, torch.bfloat16))


@healthy(SPECIAL, "prototypes of unit length beside a queue of old features and a centre at zero")
def prototypes(folder):
    state = networks.vgg()
    state["prototypes.weight"] = F.normalize(torch.randn(300, 64), dim=1)
    state["queue"], state["center"] = F.normalize(torch.randn(2, 256, 64), dim=2), torch.zeros(1, 64)
    return files.pt(folder / "swav.pt", {"state_dict": state})
