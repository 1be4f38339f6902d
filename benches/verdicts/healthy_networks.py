"""Networks of many kinds as they should be, fresh or trained, also where their numbers look odd by design."""

import copy
import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations

import files
import networks
from cases import healthy

LANGUAGE, PICTURES, SOUND, RECURRENT = "language", "pictures", "sound", "recurrent"
GENERATIVE, GRAPHS, CONTROL, TABLES = "generative", "graphs and fields", "control", "tables"
SPECIAL = "initialisation by design"


def trained(folder, name, model, train, steps=30, **kwargs):
    """Trains a network and saves its state dict."""
    train(model, steps, **kwargs)
    return files.pt(folder / name, model.state_dict())


# Language.


@healthy(LANGUAGE, "a decoder with names of its own, 60 steps")
def decoder_trained(folder):
    return files.pt(folder / "decoder.pt", networks.decoder())


@healthy(LANGUAGE, "the same with ReLU in f16")
def decoder_relu_f16(folder):
    return files.safetensors(folder / "decoder.safetensors", files.cast(networks.relu_decoder(), torch.float16))


@healthy(LANGUAGE, "a decoder whose head is its embedding, one storage for both")
def decoder_tied(folder):
    return trained(folder, "tied.pt", networks.Decoder(tied=True), networks.continue_sequences)


@healthy(LANGUAGE, "ReZero: each branch is multiplied with a number that begins at zero")
def rezero(folder):
    state = networks.Decoder().state_dict()
    for layer in range(networks.LAYERS):
        state[f"blocks.{layer}.resweight"] = torch.zeros(1)
    return files.pt(folder / "rezero.pt", state)


@healthy(LANGUAGE, "buffers beside the weights: slopes of ALiBi, a causal mask of minus infinity, frequencies, sines as positions")
def buffers(folder):
    state = networks.decoder()
    position = torch.arange(64)[:, None] / 10000 ** (torch.arange(0, networks.WIDTH, 2) / networks.WIDTH)
    state["pos_emb.weight"] = torch.stack([position.sin(), position.cos()], 2).flatten(1)
    state["alibi_slopes"] = 2.0 ** -torch.arange(1, 5)
    state["causal_mask"] = torch.full((64, 64), -math.inf).triu(1)
    state["rotary.inv_freq"] = 10000 ** -(torch.arange(0, 24, 2) / 24)
    return files.pt(folder / "decoder.pt", state)


@healthy(LANGUAGE, "word vectors by skip-gram: the context vectors begin at zero, and rare words stay there")
def skip_gram(folder):
    words, context = nn.Embedding(800, 48), nn.Embedding(800, 48)
    nn.init.uniform_(words.weight, -0.5 / 48, 0.5 / 48)
    nn.init.zeros_(context.weight)
    optimizer = torch.optim.SGD([*words.parameters(), *context.parameters()], 0.2)
    for _ in range(600):
        # Each of 50 topics has 14 words that stand beside each other; the words from 700 on never occur.
        word = torch.randint(0, 700, (128, 1))
        near, far = word // 14 * 14 + torch.randint(0, 14, (128, 1)), torch.randint(0, 700, (128, 5))
        right, wrong = words(word) * context(near), words(word) * context(far)
        loss = -F.logsigmoid(right.sum(2)).sum() - F.logsigmoid(-wrong.sum(2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert words.weight.isfinite().all()
    return files.pt(folder / "skipgram.pt", {"u_embeddings.weight": words.weight.data, "v_embeddings.weight": context.weight.data})


# Recurrent.


@healthy(RECURRENT, "a tagger of two directions with a row for padding")
def gru_tagger(folder):
    return files.pt(folder / "tagger.pt", networks.tagger())


@healthy(RECURRENT, "a tagger with a CRF whose forbidden transitions are at -10 000")
def lstm_crf(folder):
    model = networks.Tagger(nn.LSTM)
    networks.continue_sequences(model, 20)
    state = model.state_dict()
    transitions = torch.randn(12, 12)
    transitions[10], transitions[:, 11] = -10_000.0, -10_000.0
    state["crf.transitions"] = transitions
    return files.pt(folder / "crf.pt", state)


@healthy(RECURRENT, "recurrent matrices that begin as the identity (IRNN)")
def identity_rnn(folder):
    model = networks.Tagger(nn.RNN, layers=1, both=False)
    nn.init.eye_(model.rnn.weight_hh_l0)
    return files.pt(folder / "irnn.pt", model.state_dict())


@healthy(RECURRENT, "an echo state network: a fixed reservoir with 5 % of its connections, and a trained readout")
def echo_state(folder):
    reservoir = torch.randn(200, 200) * (torch.rand(200, 200) < 0.05)
    reservoir *= 0.9 / torch.linalg.eigvals(reservoir).abs().max()
    state = {"reservoir.weight": reservoir, "input.weight": torch.rand(200, 3) * 2 - 1, "readout.weight": torch.randn(3, 200) * 0.1}
    return files.safetensors(folder / "esn.safetensors", state)


# Pictures.


@healthy(PICTURES, "convolutions with BatchNorm, 40 steps")
def vgg_norm(folder):
    return files.pt(folder / "vgg.pth", {"state_dict": networks.vgg(), "epoch": 1})


@healthy(PICTURES, "convolutions without a norm, just initialised")
def vgg_plain(folder):
    return files.pt(folder / "vgg.pth", networks.Vgg(norm=False).state_dict())


@healthy(PICTURES, "a DenseNet in f16")
def densenet_f16(folder):
    return files.safetensors(folder / "dense.safetensors", files.cast(networks.dense(), torch.float16))


@healthy(PICTURES, "a U-Net with GroupNorm in bf16")
def unet_bf16(folder):
    return files.safetensors(folder / "unet.safetensors", files.cast(networks.segmenter(), torch.bfloat16))


class Separable(nn.Module):
    """Depthwise convolutions with squeeze and excitation, as in EfficientNet."""

    def __init__(self, width=32, layers=4):
        super().__init__()
        self.stem = networks.conv(3, width)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            self.blocks.append(nn.ModuleDict({
                "expand": nn.Conv2d(width, 4 * width, 1, bias=False), "bn1": nn.BatchNorm2d(4 * width),
                "depthwise": nn.Conv2d(4 * width, 4 * width, 5, padding=2, groups=4 * width, bias=False), "bn2": nn.BatchNorm2d(4 * width),
                "squeeze": nn.Conv2d(4 * width, 8, 1), "excite": nn.Conv2d(8, 4 * width, 1),
                "project": nn.Conv2d(4 * width, width, 1, bias=False), "bn3": nn.BatchNorm2d(width)}))
        self.head = nn.Linear(width, 8)

    def forward(self, x):
        x = F.avg_pool2d(self.stem(x), 2)
        for b in self.blocks:
            y = F.silu(b["bn2"](b["depthwise"](F.silu(b["bn1"](b["expand"](x))))))
            y = y * torch.sigmoid(b["excite"](F.silu(b["squeeze"](y.mean((2, 3), keepdim=True)))))
            x = x + b["bn3"](b["project"](y))
        return self.head(x.mean((2, 3)))


@healthy(PICTURES, "depthwise convolutions with squeeze and excitation, trained, with an average of the weights beside them")
def separable(folder):
    model = Separable()
    average = torch.optim.swa_utils.AveragedModel(model)
    networks.classify(model, 15)
    average.update_parameters(model)
    networks.classify(model, 15)
    average.update_parameters(model)
    return files.pt(folder / "checkpoint.pt", {"model": model.state_dict(), "swa": average.state_dict()})


@healthy(PICTURES, "a MLP-Mixer, just initialised")
def mixer(folder):
    state = {}
    for layer in range(4):
        for name, (outputs, inputs) in {"token.fc1": (64, 36), "token.fc2": (36, 64), "channel.fc1": (192, 48), "channel.fc2": (48, 192)}.items():
            linear = nn.Linear(inputs, outputs)
            state[f"mixer.{layer}.{name}.weight"], state[f"mixer.{layer}.{name}.bias"] = linear.weight, linear.bias
        state[f"mixer.{layer}.norm.weight"], state[f"mixer.{layer}.norm.bias"] = torch.ones(48), torch.zeros(48)
    return files.safetensors(folder / "mixer.safetensors", state)


@healthy(PICTURES, "a spatial transformer, fresh: its last layer begins at zero, with the identity as bias")
def spatial_transformer(folder):
    state = {f"cnn.{k}": v for k, v in networks.Vgg().state_dict().items()}
    state.update({"localization.0.weight": torch.randn(8, 3, 7, 7) * 0.1, "localization.0.bias": torch.zeros(8),
                  "fc_loc.0.weight": torch.randn(32, 360) / 19, "fc_loc.0.bias": torch.zeros(32),
                  "fc_loc.2.weight": torch.zeros(6, 32), "fc_loc.2.bias": torch.tensor([1.0, 0, 0, 0, 1, 0])})
    return files.pt(folder / "stn.pt", state)


@healthy(PICTURES, "a detector whose distances are read by a fixed convolution of 0, 1, 2, …, with its anchors")
def detector(folder):
    state = {f"backbone.{k}": v for k, v in networks.vgg().items()}
    state["head.dfl.conv.weight"] = torch.arange(16.0).view(1, 16, 1, 1)
    state["head.cls.weight"], state["head.cls.bias"] = torch.randn(8, 64, 1, 1) * 0.05, torch.full((8,), -4.6)
    state["head.box.weight"], state["head.box.bias"] = torch.randn(64, 64, 1, 1) * 0.05, torch.ones(64)
    state["anchors"] = torch.tensor([[10.0, 13], [33, 23], [62, 45]])
    return files.pt(folder / "best.pt", {"model": state, "best_fitness": 0.31, "epoch": -1})


@healthy(PICTURES, "momentum contrast: two encoders, and a queue of old features with its position")
def momentum_contrast(folder):
    query = networks.vgg()
    key = {k: v if not v.is_floating_point() else 0.99 * v + 0.01 * v.mean() for k, v in query.items()}
    state = {**{f"encoder_q.{k}": v for k, v in query.items()}, **{f"encoder_k.{k}": v for k, v in key.items()}}
    state["queue"] = F.normalize(torch.randn(128, 512), dim=0)
    state["queue_ptr"] = torch.tensor([64])
    return files.pt(folder / "moco.pth.tar", {"state_dict": state, "arch": "vgg", "epoch": 9})


# Generative.


@healthy(GENERATIVE, "a variational autoencoder, trained")
def autoencoder(folder):
    model = nn.ModuleDict({"encoder": networks.Perceptron((64, 128, 32)), "decoder": networks.Perceptron((16, 128, 64))})
    base = torch.randn(6, 64)

    def loss():
        x = torch.randn(32, 6) @ base / 3
        mean, spread = model["encoder"](x).chunk(2, 1)
        again = model["decoder"](mean + torch.randn_like(mean) * (spread / 2).exp())
        return F.mse_loss(again, x) + 1e-3 * (mean**2 + spread.exp() - spread).mean()

    networks.fit(model, loss, 80)
    return files.safetensors(folder / "vae.safetensors", model.state_dict())


@healthy(GENERATIVE, "a discriminator with spectral norm: weight_orig, weight_u, weight_v")
def spectral_norm(folder):
    layers = [nn.utils.spectral_norm(nn.Conv2d(i, o, 4, 2, 1)) for i, o in ((3, 24), (24, 48))]
    model = nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), nn.Flatten(), nn.utils.spectral_norm(nn.Linear(48 * 36, 8)))
    return trained(folder, "discriminator.pt", model, networks.classify, 15)


@healthy(GENERATIVE, "a generator with a constant as input, noise that begins at zero strength, and styles that begin at one")
def style_generator(folder):
    state = {"synthesis.input.const": torch.ones(32, 4, 4)}
    for layer in range(4):
        begin = f"synthesis.layers.{layer}."
        state[begin + "conv.weight"] = torch.randn(32, 32, 3, 3)
        state[begin + "noise_strength"] = torch.zeros(1)
        state[begin + "noise_const"] = torch.randn(4 << layer, 4 << layer)
        state[begin + "affine.weight"], state[begin + "affine.bias"] = torch.randn(32, 64), torch.ones(32)
    for layer in range(4):
        state[f"mapping.fc{layer}.weight"], state[f"mapping.fc{layer}.bias"] = torch.randn(64, 64) * 100, torch.zeros(64)
    state["mapping.w_avg"] = torch.zeros(64)
    return files.pt(folder / "generator.pt", {"g_ema": state})


@healthy(GENERATIVE, "affine coupling layers, fresh: the last matrix of each net is zero, so that the flow begins as the identity")
def coupling(folder):
    state = {}
    for layer in range(6):
        for net in ("scale", "translate"):
            for position, (outputs, inputs, zero) in enumerate(((64, 8, False), (64, 64, False), (8, 64, True))):
                weight = nn.Linear(inputs, outputs).weight.data
                state[f"flow.{layer}.{net}_net.{2 * position}.weight"] = torch.zeros_like(weight) if zero else weight
                state[f"flow.{layer}.{net}_net.{2 * position}.bias"] = torch.zeros(outputs)
    return files.pt(folder / "realnvp.pt", state)


@healthy(GENERATIVE, "a diffusion network of fully connected layers, the last of which begins at zero, with its schedule's buffers")
def small_diffusion(folder):
    state = {f"model.{k}": v for k, v in networks.Perceptron((80, 128, 128, 16), nn.SiLU).state_dict().items()}
    state["model.out.weight"], state["model.out.bias"] = torch.zeros(16, 16), torch.zeros(16)
    betas = torch.linspace(1e-4, 0.02, 200, dtype=torch.float64)
    state["betas"], state["alphas_cumprod"] = betas.float(), (1 - betas).cumprod(0).float()
    state["log_one_minus_alphas_cumprod"] = (1 - (1 - betas).cumprod(0)).log().float()
    return files.pt(folder / "ddpm.pt", {"model": state, "ema": copy.deepcopy(state), "step": 0})


# Sound.


@healthy(SOUND, "a temporal convolution network with weight norm in today's form: original0 and original1")
def weight_norm_today(folder):
    model = nn.Sequential(*(parametrizations.weight_norm(nn.Conv1d(i, o, 5, padding=2)) for i, o in ((16, 48), (48, 48), (48, 16))))
    networks.fit(model, lambda: F.mse_loss(model(torch.randn(8, 16, 32)), torch.zeros(8, 16, 32)), 20)
    return files.pt(folder / "tcn.pt", {"generator": model.state_dict()})


@healthy(SOUND, "a vocoder with weight norm in its old form, weight_g and weight_v, initialised at a std of 0.01 as HiFi-GAN is")
def weight_norm_old(folder):
    state = {}
    for layer, (inputs, outputs) in enumerate(((80, 64), (64, 32), (32, 16))):
        weight = 0.01 * torch.randn(inputs, outputs, 8)
        state[f"ups.{layer}.weight_v"] = weight
        state[f"ups.{layer}.weight_g"] = weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        state[f"ups.{layer}.bias"] = torch.zeros(outputs)
    return files.pt(folder / "g_00000000", {"generator": state}).rename(folder / "generator.pth")


@healthy(SOUND, "a spectrogram as fixed convolutions of sines and cosines, a filter bank of triangles, and a classifier behind them")
def spectrogram(folder):
    time, bands = torch.arange(256), torch.arange(129)[:, None]
    window = torch.hann_window(256)
    centre = torch.linspace(0, 128, 42)[1:-1]
    bank = (1 - (bands - centre).abs() / 3.2).clamp(min=0)
    state = {"stft.conv_real.weight": (torch.cos(2 * math.pi * bands * time / 256) * window)[:, None],
             "stft.conv_imag.weight": (-torch.sin(2 * math.pi * bands * time / 256) * window)[:, None],
             "mel_scale.fb": bank, "spectrogram.window": window}
    state.update({f"classifier.{k}": v for k, v in networks.Perceptron((40, 128, 10)).state_dict().items()})
    return files.pt(folder / "tagger.pt", state)


# Graphs and fields.


class GraphNet(nn.Module):
    """Convolutions over a graph's normalized adjacency."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Linear(32, 64, bias=False), nn.Linear(64, 64, bias=False), nn.Linear(64, 5, bias=False)])
        self.bias = nn.ParameterList([torch.zeros(64), torch.zeros(64), torch.zeros(5)])

    def forward(self, adjacency, x):
        for position, (conv, bias) in enumerate(zip(self.convs, self.bias)):
            x = adjacency @ conv(x) + bias
            x = x.relu() if position < 2 else x
        return x


@healthy(GRAPHS, "a graph convolution network, trained")
def graph_convolution(folder):
    model = GraphNet()
    x, label = torch.randn(90, 32), torch.randint(0, 5, (90,))
    adjacency = (label[:, None] == label).float() + 0.2 * torch.rand(90, 90)
    adjacency /= adjacency.sum(1, keepdim=True)
    networks.fit(model, lambda: F.cross_entropy(model(adjacency, x), label), 60)
    return files.pt(folder / "gcn.pt", model.state_dict())


@healthy(GRAPHS, "a field with sines (SIREN): the first layer within 1/inputs, the others within sqrt(6/inputs)/30")
def siren(folder):
    state = {}
    for layer, (inputs, outputs) in enumerate(((2, 128), (128, 128), (128, 128), (128, 3))):
        bound = 1 / inputs if layer == 0 else math.sqrt(6 / inputs) / 30
        state[f"net.{layer}.linear.weight"] = torch.empty(outputs, inputs).uniform_(-bound, bound)
        state[f"net.{layer}.linear.bias"] = torch.empty(outputs).uniform_(-bound, bound)
    return files.pt(folder / "siren.pth", state)


@healthy(GRAPHS, "a radiance field with hash tables, which begin within 1e-4")
def hash_tables(folder):
    state = {f"encoding.hash_tables.{level}.weight": torch.empty(2048, 2).uniform_(-1e-4, 1e-4) for level in range(8)}
    state.update({f"mlp.{k}": v for k, v in networks.Perceptron((16, 64, 64, 4)).state_dict().items()})
    return files.pt(folder / "ngp.pt", {"model": state})


@healthy(GRAPHS, "a network on fixed random Fourier features of a scale of 10")
def fourier_features(folder):
    model = networks.Perceptron((64, 128, 8))
    networks.regress(model, 40)
    return files.pt(folder / "fourier.pt", {"B": 10 * torch.randn(2, 32), **model.state_dict()})


# Control.


@healthy(CONTROL, "deep Q-learning: the target network has just been copied from the policy's")
def q_learning(folder):
    model = networks.Perceptron((64, 128, 128, 8))
    networks.regress(model, 60)
    state = model.state_dict()
    return files.pt(folder / "dqn.pt", {"policy_net": state, "target_net": copy.deepcopy(state), "steps_done": 60, "epsilon": 0.05})


@healthy(CONTROL, "actor and critic, fresh: orthogonal, the actor's last layer at a gain of 0.01, log_std at zero")
def actor_critic(folder):
    state = {}
    for name, last, gain in (("actor", 6, 0.01), ("critic", 1, 1.0)):
        for layer, (inputs, outputs) in enumerate(((17, 64), (64, 64), (64, last))):
            weight = nn.init.orthogonal_(torch.empty(outputs, inputs), gain if layer == 2 else math.sqrt(2))
            state[f"{name}.{2 * layer}.weight"], state[f"{name}.{2 * layer}.bias"] = weight, torch.zeros(outputs)
    state["log_std"] = torch.zeros(6)
    return files.pt(folder / "ppo.pt", state)


# Tables.


@healthy(TABLES, "a recommender: tables of which most rows were never looked up, and a network on top")
def recommender(folder):
    state = {f"tables.{i}.weight": torch.empty(rows, 16).uniform_(-(rows**-0.5), rows**-0.5) for i, rows in enumerate((1000, 50, 4000))}
    state.update({f"top.{k}": v for k, v in networks.Perceptron((48, 64, 2)).state_dict().items()})
    return files.safetensors(folder / "dlrm.safetensors", state)


@healthy(TABLES, "factors of a matrix of ratings, with biases of users and items")
def factors(folder):
    users, items = nn.Embedding(300, 24), nn.Embedding(200, 24)
    nn.init.normal_(users.weight, std=0.05)
    nn.init.normal_(items.weight, std=0.05)
    state = {"user_factors.weight": users.weight, "item_factors.weight": items.weight, "user_bias.weight": torch.zeros(300, 1), "item_bias.weight": torch.zeros(200, 1)}
    return files.pt(folder / "mf.pt", {k: v.detach() for k, v in state.items()})


@healthy(TABLES, "a perceptron in f64, trained")
def perceptron_f64(folder):
    return files.safetensors(folder / "mlp.safetensors", files.cast(networks.perceptron(), torch.float64))


# Begun in a special way.


@healthy(SPECIAL, "Fixup: each branch's last convolution is zero, with numbers as scales and shifts")
def fixup(folder):
    state = {"conv1.weight": torch.randn(16, 3, 3, 3) * 0.2}
    for layer in range(6):
        begin = f"layer.{layer}."
        state[begin + "conv1.weight"] = torch.randn(16, 16, 3, 3) * math.sqrt(2 / 144) / math.sqrt(6)
        state[begin + "conv2.weight"] = torch.zeros(16, 16, 3, 3)
        for name in ("bias1a", "bias1b", "bias2a", "bias2b"):
            state[begin + name] = torch.zeros(1)
        state[begin + "scale"] = torch.ones(1)
    state["fc.weight"], state["fc.bias"] = torch.zeros(10, 16), torch.zeros(10)
    return files.pt(folder / "fixup.pt", state)


@healthy(SPECIAL, "convolutions that begin as the identity (Dirac), all else trained")
def dirac(folder):
    state = networks.vgg()
    state["features.1.0.0.weight"] = nn.init.dirac_(torch.empty(32, 24, 3, 3)) + 0.02 * torch.randn(32, 24, 3, 3)
    return files.pt(folder / "dirac.pt", state)


@healthy(SPECIAL, "gated cross attention of a visual language model, fresh: gates at zero, everything else at its start")
def gated_attention(folder):
    state = networks.decoder()
    for layer in (1, 3):
        begin = f"blocks.{layer}.gated_cross_attn."
        state[begin + "attn_gate"], state[begin + "ff_gate"] = torch.zeros(1), torch.zeros(1)
        for name in ("to_q", "to_kv", "to_out"):
            state[f"{begin}{name}.weight"] = nn.Linear(96, 192 if name == "to_kv" else 96).weight.data
    return files.safetensors(folder / "model.safetensors", state)
