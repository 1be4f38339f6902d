"""What tests share: fixtures of the repository, and checkpoints that the formats' own libraries wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FIXTURES = REPOSITORY / "tests" / "fixtures"
HEALTHY = FIXTURES / "healthy-run" / "step-02000.pt"
COLLAPSED = FIXTURES / "collapse-run" / "step-04000.pt"


@pytest.fixture(autouse=True)
def of_its_own(tmp_path, monkeypatch):
    """No cache and no policy of the user is used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def program():
    """Runs the console script that belongs to this interpreter."""
    script = Path(sys.executable).with_name("ckpt")

    def run(*args, **options):
        line = [script, *map(str, args)]
        return subprocess.run(line, capture_output=True, text=True, env=os.environ.copy(), timeout=120, **options)

    return run
