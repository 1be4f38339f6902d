"""Saves small models in the layouts that one process of PyTorch can make, each beside the same state dict whole:
layouts.py FOLDER."""

import io
import json
import pathlib
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, get_state_dict

folder = pathlib.Path(sys.argv[1]).resolve()
random = torch.Generator().manual_seed(0)


def matrix(*shape):
    return torch.randn(*shape, generator=random) * 0.05


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(8, 6)
        self.down = torch.nn.Linear(6, 8, bias=False).to(torch.bfloat16)
        self.tied = self.up.weight
        self.turned = torch.nn.Parameter(matrix(4, 3).t())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("mask", torch.ones(3), persistent=False)

    def forward(self, x):
        x = self.up(x).to(torch.bfloat16)
        return self.down(x) + self.turned.sum() + self.tied.sum() + self.count + self.mask.sum() + torch.tensor([2.0])


program = torch.export.export(Network(), (torch.randn(2, 8),))
torch.export.save(program, folder / "program.pt2")
torch.save(dict(program.state_dict), folder / "program.pt")

state = {"model": {"layers.0.weight": matrix(64, 32), "layers.1.weight": torch.zeros(300, 300)}, "step": 7}
torch.save(state, folder / "whole.pt")
dcp.save(state, storage_writer=FileSystemWriter(folder / "zstd", _extensions=[ZStandard()]), no_dist=True)

# Both options at once, of tensors alone: PyTorch writes it, and cannot read it.
torch.save(state["model"], folder / "flat.pt")
both = FileSystemWriter(folder / "both", _extensions=[ZStandard()], serialization_format=SerializationFormat.SAFETENSORS)
dcp.save(state["model"], storage_writer=both, no_dist=True)

# As PyTorch's recipe keeps a model and its optimizer under one key, and as torchtitan flattens the latter.
small = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 4))
optimizer = torch.optim.AdamW(small.parameters(), lr=1e-3)
small(torch.ones(2, 8)).sum().backward()
optimizer.step()
model, moments = get_state_dict(small, optimizer)
app = {
    "app": {"model": model, "optim": moments},
    "tuple": (1, torch.ones(2), {"a": torch.arange(3)}),
    "list": [torch.ones(3), {"a": torch.full((2,), 2.0), "b": 5}, torch.zeros(1), [torch.arange(2), 8]],
    "plain": [1, (2, 3), None],
    "step": 1,
}
dcp.save(app, checkpoint_id=folder / "app", no_dist=True)
dcp_to_torch_save(folder / "app", folder / "app.pt")
flattened = get_optimizer_state_dict(small, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True))
dcp.save({"model": model, "optimizer": flattened}, checkpoint_id=folder / "titan", no_dist=True)

# As Megatron-Core's `torch_dist` lays it out: objects that ranks save by themselves are bytes that are written as they are.
class Planner(dcp.DefaultSavePlanner):
    def transform_object(self, write_item, object):
        return object if isinstance(object, io.BytesIO) else super().transform_object(write_item, object)


def saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream


blocks = {
    "decoder.layers.self_attention.linear_qkv.weight": matrix(2, 12, 8),
    "optimizer.state.exp_avg.decoder.layers.self_attention.linear_qkv.weight": matrix(2, 12, 8),
    "decoder.layers.mlp._extra_state/shard_0_2": saved({"scale": torch.ones(3)}),
    "decoder.layers.mlp._extra_state/shard_1_2": io.BytesIO(b"bytes of a form of its own"),
    "rng_state/shard_0.0_1.1": saved([torch.arange(5, dtype=torch.uint8)]),
}
megatron = folder / "megatron" / "iter_0000300"
dcp.save(blocks, storage_writer=FileSystemWriter(megatron), planner=Planner(flatten_state_dict=False), no_dist=True)
common = {"iteration": 300, "checkpoint_version": 3.0, "optimizer": {"param_groups": [{"lr": 1e-3}]}}
torch.save(common, megatron / "common.pt")
(megatron / "metadata.json").write_text(json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1}))
torch.save({name: tensor for name, tensor in blocks.items() if torch.is_tensor(tensor)}, folder / "megatron.pt")
