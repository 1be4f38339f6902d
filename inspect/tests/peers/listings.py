"""Saves a state dict as torch.distributed.checkpoint does, and copies of it with a changed listing: listings.py FOLDER."""

import dataclasses
import pathlib
import pickle
import shutil
import sys
import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata

warnings.simplefilter("ignore")
FOLDER = pathlib.Path(sys.argv[1])


def changed(name, change):
    folder = FOLDER / name
    shutil.copytree(FOLDER / "whole", folder)
    listing = pickle.loads((folder / ".metadata").read_bytes())
    change(listing)
    (folder / ".metadata").write_bytes(pickle.dumps(listing))


def place(listing, name):
    return next(index for index in listing.storage_data if index.fqn == name)


def negative(listing):
    index = place(listing, "a")
    listing.storage_data[index] = dataclasses.replace(listing.storage_data[index], offset=-5)


def block(listing):
    tensor = listing.state_dict_metadata["a"]
    tensor.chunks[0] = ChunkStorageMetadata((-2, 0), tensor.chunks[0].sizes)


def shared(listing):
    listing.storage_data[place(listing, "a")] = listing.storage_data[place(listing, "b")]


def gone(listing):
    for index in [index for index in listing.storage_data if index.fqn.startswith("values.")]:
        del listing.storage_data[index]


if __name__ == "__main__":
    torch.manual_seed(0)
    state = {"a": torch.randn(4, 3), "b": torch.randn(4, 3), "values": {f"v{i}": i for i in range(10)}}
    dcp.save(state, checkpoint_id=FOLDER / "whole", no_dist=True)
    for change in (negative, block, shared, gone):
        changed(change.__name__, change)
    quantized = torch.quantize_per_tensor(torch.tensor([0.5, -0.5, 1.0, 0.0]), 0.5, 0, torch.qint8)
    dcp.save({"x": quantized}, checkpoint_id=FOLDER / "quantized", no_dist=True)
