"""Saves tensors with the negative and the conjugate bit set, and the same as PyTorch loads them: bits.py FOLDER."""

import pathlib
import sys
import warnings

import torch
import torch.distributed.checkpoint as dcp

warnings.simplefilter("ignore")


def state():
    random = torch.Generator().manual_seed(0)

    def matrix(dtype, *shape):
        return torch.randn(*shape, generator=random).to(dtype)

    out = {}
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        out[f"neg.{dtype}"] = torch._neg_view(matrix(dtype, 5, 3))
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        numbers = torch.tensor([[0, 1, 2], [100, -128 if dtype.is_signed else 128, 127]], dtype=dtype)
        out[f"neg.{dtype}"] = torch._neg_view(numbers)
    for dtype in (torch.complex128, torch.complex64):
        pairs = matrix(dtype, 4, 3)
        pairs.imag.copy_(matrix(dtype, 4, 3).real)
        out[f"conj.{dtype}"] = pairs.conj()
        out[f"adjoint.{dtype}"] = pairs.mH
        out[f"imag.{dtype}"] = pairs.clone().conj().imag
        out[f"row.{dtype}"] = pairs.conj()[1]
        out[f"both.{dtype}"] = torch._neg_view(pairs.conj())
        out[f"plain.{dtype}"] = pairs
    out["parameter"] = torch.nn.Parameter(torch._neg_view(matrix(torch.float32, 3, 4)))
    return out


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    torch.save(state(), folder / "bits.pt")
    torch.save(state(), folder / "bits-legacy.pt", _use_new_zipfile_serialization=False)
    loaded = torch.load(folder / "bits.pt")
    assert any(tensor.is_neg() for tensor in loaded.values()) and any(tensor.is_conj() for tensor in loaded.values())
    whole = {name: tensor.detach().resolve_conj().resolve_neg().contiguous() for name, tensor in loaded.items()}
    torch.save(whole, folder / "whole.pt")
    dcp.save({name: tensor.detach() for name, tensor in state().items()}, checkpoint_id=folder / "distributed", no_dist=True)
    lazy = torch.nn.LazyLinear(4)
    torch.save(lazy.state_dict(), folder / "lazy.pt")
