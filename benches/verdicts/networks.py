"""Small networks, trained for a few seconds, that the made checkpoints begin with."""

import functools
import json
import math
import tempfile
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCABULARY, WIDTH, LAYERS = 384, 96, 4
# Of the networks that several cases begin with.
SEED = 0


def sequences(count, length, vocabulary=VOCABULARY):
    """Token ids that can be learnt: each sequence counts up by its own step."""
    start = torch.randint(0, vocabulary, (count, 1))
    step = torch.randint(1, 4, (count, 1))
    return (start + step * torch.arange(length)) % vocabulary


def pictures(count, classes=8, size=24, channels=3):
    """Noisy pictures of a few prototypes, and the number of each one's prototype."""
    generator = torch.Generator().manual_seed(11)
    prototypes = torch.randn(classes, channels, size, size, generator=generator)
    label = torch.randint(0, classes, (count,))
    return prototypes[label] + 0.5 * torch.randn(count, channels, size, size), label


def fit(model, loss, steps, optimizer=None, clip=1.0):
    """Trains `model` on what `loss()` returns; gives the optimizer."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return optimizer


def classify(model, steps=25, optimizer=None, size=24):
    """Trains a network that tells pictures apart."""

    def loss():
        picture, label = pictures(16, size=size)
        return F.cross_entropy(model(picture), label)

    return fit(model, loss, steps, optimizer)


def continue_sequences(model, steps=40, optimizer=None, clip=1.0):
    """Trains a network that predicts the next token."""

    def loss():
        ids = sequences(8, 24)
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    return fit(model, loss, steps, optimizer, clip)


class Block(nn.Module):
    """A transformer's layer with the norms first."""

    def __init__(self, width, heads, act):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"in_proj": nn.Linear(width, 3 * width), "out": nn.Linear(width, width)})
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), act(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = self.attn["in_proj"](self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["out"](F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.ff(self.norm2(x))


class Decoder(nn.Module):
    """A language model with names of its own."""

    def __init__(self, width=WIDTH, layers=LAYERS, heads=4, act=nn.GELU, tied=False):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(VOCABULARY, width), nn.Embedding(64, width)
        nn.init.normal_(self.tok_emb.weight, std=0.05)
        nn.init.normal_(self.pos_emb.weight, std=0.05)
        self.blocks = nn.ModuleList(Block(width, heads, act) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.tok_emb.weight

    def forward(self, ids):
        x = self.tok_emb(ids) + self.pos_emb(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def conv(inputs, outputs, norm=True, stride=1):
    """A convolution, perhaps a BatchNorm, and a ReLU."""
    layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not norm)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU())


class Vgg(nn.Module):
    """Convolutions one after the other, with two fully connected layers behind them."""

    def __init__(self, norm=True, channels=(24, 32, 48, 64)):
        super().__init__()
        steps = zip((3,) + channels[:-1], channels)
        self.features = nn.Sequential(*(nn.Sequential(conv(i, o, norm), nn.MaxPool2d(2)) for i, o in steps))
        self.classifier = nn.Sequential(nn.Linear(channels[-1], 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 8))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Dense(nn.Module):
    """Layers that see what all before them gave, as in DenseNet."""

    def __init__(self, growth=12, layers=6):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1, bias=False)
        self.dense = nn.ModuleList()
        for layer in range(layers):
            inputs = 24 + growth * layer
            self.dense.append(nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, growth, 3, 1, 1, bias=False)))
        self.norm = nn.BatchNorm2d(24 + growth * layers)
        self.out = nn.Linear(24 + growth * layers, 8)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.dense:
            x = torch.cat([x, layer(x)], 1)
        return self.out(self.norm(x).relu().mean((2, 3)))


class Segmenter(nn.Module):
    """A U-Net with GroupNorm that gives a value a pixel."""

    def __init__(self, width=16):
        super().__init__()

        def part(i, o):
            return nn.Sequential(nn.Conv2d(i, o, 3, 1, 1), nn.GroupNorm(4, o), nn.SiLU(), nn.Conv2d(o, o, 3, 1, 1), nn.GroupNorm(4, o), nn.SiLU())

        self.down = nn.ModuleList([part(3, width), part(width, 2 * width)])
        self.middle = part(2 * width, 4 * width)
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.ConvTranspose2d(2 * width, width, 2, 2)])
        self.join = nn.ModuleList([part(4 * width, 2 * width), part(2 * width, width)])
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        kept = []
        for down in self.down:
            x = down(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.out(x)


class Tagger(nn.Module):
    """Recurrent cells over an embedding, and a label for each token."""

    def __init__(self, cell=nn.GRU, width=64, layers=2, both=True):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.rnn = cell(width, width, layers, batch_first=True, bidirectional=both)
        self.tags = nn.Linear(width * (2 if both else 1), VOCABULARY)

    def forward(self, ids):
        return self.tags(self.rnn(self.embed(ids))[0])


class Perceptron(nn.Module):
    """Fully connected layers."""

    def __init__(self, sizes=(64, 256, 256, 8), act=nn.ReLU):
        super().__init__()
        pairs = list(zip(sizes, sizes[1:]))
        self.net = nn.Sequential(*(m for i, o in pairs[:-1] for m in (nn.Linear(i, o), act())), nn.Linear(*pairs[-1]))

    def forward(self, x):
        return self.net(x)


def regress(model, steps=60, optimizer=None, clip=1.0, inputs=64, outputs=8):
    """Trains a network on a fixed smooth function."""
    goal = torch.randn(inputs, outputs, generator=torch.Generator().manual_seed(5)) / math.sqrt(inputs)

    def loss():
        x = torch.randn(32, inputs)
        return F.mse_loss(model(x), torch.sin(2 * x @ goal))

    return fit(model, loss, steps, optimizer, clip)


def _seeded(make):
    """A trained network's state dict, made once, and the same whatever was made before."""

    @functools.cache
    def once():
        with torch.random.fork_rng():
            torch.manual_seed(1000 * SEED + 77)
            return make()

    return lambda: {name: value.detach().clone() for name, value in once().items()}


def _trained(model, train, steps):
    train(model, steps)
    return model.state_dict()


decoder = _seeded(lambda: _trained(Decoder(), continue_sequences, 60))
relu_decoder = _seeded(lambda: _trained(Decoder(act=nn.ReLU), continue_sequences, 60))
vgg = _seeded(lambda: _trained(Vgg(), classify, 40))
dense = _seeded(lambda: _trained(Dense(), classify, 30))
tagger = _seeded(lambda: _trained(Tagger(), continue_sequences, 40))
perceptron = _seeded(lambda: _trained(Perceptron(), regress, 100))


@_seeded
def segmenter():
    model = Segmenter()

    def loss():
        picture, _ = pictures(8)
        return F.binary_cross_entropy_with_logits(model(picture), (picture.mean(1, keepdim=True) > 0).float())

    fit(model, loss, 25)
    return model.state_dict()


def small(name, layers=LAYERS, **changes):
    """An untrained language model or classifier of transformers, small."""
    import transformers

    transformers.logging.set_verbosity_error()
    heads = dict(num_attention_heads=4, num_hidden_layers=layers)
    text = dict(heads, vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=2 * WIDTH, max_position_embeddings=64,
                bos_token_id=0, eos_token_id=1, pad_token_id=2)
    picture = dict(heads, hidden_size=WIDTH, intermediate_size=2 * WIDTH, image_size=24, patch_size=8, num_labels=8)
    kwargs = dict(picture if "Image" in name else text, **changes)
    if name.startswith("OPT"):
        kwargs["ffn_dim"] = kwargs.pop("intermediate_size")
        kwargs["word_embed_proj_dim"] = WIDTH
    model = getattr(transformers, name)
    return model(model.config_class(**kwargs))


@functools.cache
def _pretrained(name, steps, changes):
    with torch.random.fork_rng():
        torch.manual_seed(1000 * SEED + 78)
        model = small(name, **dict(changes))

        def loss():
            if "Image" in name:
                picture, label = pictures(8)
                return model(pixel_values=picture, labels=label).loss
            ids = sequences(8, 24)
            return model(input_ids=ids, labels=ids).loss

        fit(model, loss, steps)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        from safetensors.torch import load_file

        return load_file(f"{folder}/model.safetensors"), (Path(folder) / "config.json").read_text()


def pretrained(name, folder, steps=40, **changes):
    """The tensors, as transformers saves them, of a small model of that class after some training; writes its config.json."""
    state, config = _pretrained(name, steps, tuple(sorted(changes.items())))
    (folder / "config.json").write_text(config)
    return {key: value.clone() for key, value in state.items()}


def configure(folder, **changes):
    """Changes keys of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}, indent=2))
