"""Random signs that need no saved state: each has a key (seed, step, parameter, element), so that a resumed run draws what
one that was not stopped would have drawn, and every device draws the same."""

import torch
from torch import Tensor

_START = 0x243F6A8885A308D3
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_ALL = (1 << 64) - 1


def signs(seed: int, step: int, parameter: int, elements: Tensor) -> Tensor:
    """-1 or +1, in float32, for each of ``elements``, indices into a parameter (int64).

    SplitMix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195).
    """
    stream = _START
    for part in (seed, step, parameter):
        stream = _next((stream ^ (part & _ALL)) & _ALL)
    state = _next_of(elements ^ _signed(stream))
    return torch.where(_next_of(state) < 0, -1.0, 1.0)


def _next(stream: int) -> int:
    z = (stream + _GOLDEN) & _ALL
    z = ((z ^ (z >> 30)) * _FIRST) & _ALL
    z = ((z ^ (z >> 27)) * _SECOND) & _ALL
    return z ^ (z >> 31)


def _next_of(stream: Tensor) -> Tensor:
    """The same of each element; products and sums of int64 wrap around."""
    z = stream + _signed(_GOLDEN)
    z = (z ^ _right(z, 30)) * _signed(_FIRST)
    z = (z ^ _right(z, 27)) * _signed(_SECOND)
    return z ^ _right(z, 31)


def _right(z: Tensor, bits: int) -> Tensor:
    """Shifted as if it had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
