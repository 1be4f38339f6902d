"""A small ternary network, and how it is trained."""

import torch
from ckpt_tools.torch import NAMES
from torch import nn

# Tensors are small: threads that wait for each other take longer than the work.
torch.set_num_threads(1)


class BitLinear(nn.Linear):
    """y = (xq . wq) * ws, with the straight-through estimator: w rounds to -1, 0, +1 times its mean size."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        scale = self.weight.abs().mean() + 1e-8
        rounded = (self.weight / scale).round().clamp(-1, 1) * scale
        return nn.functional.linear(x, self.weight + (rounded - self.weight).detach())


class Network(nn.Module):
    """An embedding, norms, biases, a convolution, ternary matrices, and a head."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(12, width)
        self.conv = nn.Conv1d(width, width, 1)
        mlp = {"up_proj": BitLinear(width, 2 * width), "down_proj": BitLinear(2 * width, width)}
        self.layers = nn.ModuleList([nn.ModuleDict({"norm": nn.LayerNorm(width), "mlp": nn.ModuleDict(mlp)})])
        self.lm_head = nn.Linear(width, 12)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            x = x + layer["mlp"]["down_proj"](torch.relu(layer["mlp"]["up_proj"](layer["norm"](x))))
        return self.lm_head(x)


TERNARY = ["layers.0.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight"]


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 12, (4, 8), generator=generator)


def loss_of(model, step):
    ids = batch(step)
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), (ids.flatten() + 1) % 12)


def train(model, made, steps, first=0):
    for step in range(first, first + steps):
        made.zero_grad()
        loss_of(model, step).backward()
        made.step()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def zero_rate(model):
    """An optimizer that changes nothing by itself."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


def every():
    """Each optimizer by name, polarized and not."""
    return [front + name for name in NAMES for front in ("", "polarized-")]
