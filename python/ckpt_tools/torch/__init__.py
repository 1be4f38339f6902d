"""Optimizers that keep ternary weights alive, for those who train in PyTorch: those of ``ckpt train``, step for step.

>>> from ckpt_tools.torch import BitNetSpinSolver, Muon, optimizer, polarize
>>> polarized = polarize(torch.optim.AdamW(model.parameters(), lr=3e-4), model)      # doctest: +SKIP
>>> muon = Muon(model, lr=0.02)                                                    # doctest: +SKIP
>>> same = optimizer("polarized-adamw", model)      # by its name in ckpt train     # doctest: +SKIP

Each is a ``torch.optim.Optimizer``: learning-rate schedulers, ``GradScaler``, closures, parameter groups, ``state_dict``,
pickling and copying work as with PyTorch's own. Steps are plain operations on tensors, on any device. State dicts have the
layout of those that ``ckpt train`` saves as ``optimizer_state_dict``: what one saved the other resumes. Parameters that
ranks share out among themselves (DTensor) are refused; copies of them on each rank (DDP) are not, and stay copies, as long
as all ranks are given the same ``seed``.
"""

from ..frameworks import needs

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise needs("torch", "torch") from error

from .muon import Muon, orthogonalize
from .named import NAMES, optimizer
from .polarizer import Polarized, polarize
from .spin import BitNetSpinSolver

__all__ = ["NAMES", "BitNetSpinSolver", "Muon", "Polarized", "optimizer", "orthogonalize", "polarize"]
