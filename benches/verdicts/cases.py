"""The list of checkpoints: each is a function that writes one, with the truth about it beside it."""

import dataclasses
import shutil
import zlib
from pathlib import Path
from typing import Callable, Optional

MADE, ARCHITECTURES, RELEASED, UNDECIDED = "made", "architectures", "released", "undecided"


@dataclasses.dataclass
class Case:
    """A checkpoint whose state is known because of how it came about."""

    name: str
    group: str
    # None where the file alone cannot tell.
    sick: Optional[bool]
    # What kind of fault it has, or of network it is.
    kind: str
    # How the fault comes about, or why the checkpoint is as it should be.
    why: str
    # Writes into the folder; returns what is to be judged, by default the folder.
    make: Callable[[Path], Optional[Path]]
    # Whether a program that cannot read the checkpoint has found the fault by that.
    damaged: bool = False

    def write(self, folder, seed):
        """Writes the checkpoint, always the same one for a seed, and returns its path."""
        import torch

        folder = Path(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        torch.manual_seed(zlib.crc32(f"{seed}/{self.name}".encode()))
        return Path(self.make(folder) or folder)


ALL = []


def _listed(group, sick, kind, why, damaged=False):
    def add(make):
        name = make.__name__.replace("_", "-")
        assert all(case.name != name for case in ALL), name
        ALL.append(Case(name, group, sick, kind, why, make, damaged))
        return make

    return add


def sick(kind, why, damaged=False):
    """Lists a made checkpoint with one fault."""
    return _listed(MADE, True, kind, why, damaged)


def healthy(kind, why):
    """Lists a made checkpoint that is as it should be."""
    return _listed(MADE, False, kind, why)


def undecided(kind, why):
    """Lists a checkpoint that looks the same whether it is as it should be or not."""
    return _listed(UNDECIDED, None, kind, why)
