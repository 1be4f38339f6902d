"""What the page about Python shows runs, and the types are right."""

import re
import subprocess
import sys

import pytest

import ckpt_tools
from conftest import REPOSITORY


@pytest.mark.parametrize("page", ["docs/python.md", "python/README.md"])
def test_every_example_runs(tmp_path, page):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "fixtures").symlink_to(REPOSITORY / "tests" / "fixtures")
    import gguf
    import numpy
    import torch

    # What the short page speaks of.
    torch.save({"w": torch.randn(64, 64)}, tmp_path / "model.pt")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("w", numpy.ones((4, 4), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / page).read_text(), re.M | re.S)
    assert blocks
    code = "\n".join(blocks)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=tmp_path, timeout=120)


def test_everything_public_says_what_it_is():
    for name in ckpt_tools.__all__:
        assert name == "__version__" or getattr(ckpt_tools, name).__doc__, name


def test_types_are_checked():
    """The package itself, strictly; and that users of it see its types."""
    pytest.importorskip("mypy")
    # Whether an exception is needed depends on which libraries are there.
    check = [sys.executable, "-m", "mypy", "--strict", "--no-warn-unused-ignores", "--ignore-missing-imports"]
    subprocess.run([*check, "-p", "ckpt_tools"], check=True, cwd=REPOSITORY / "python")
    user = 'import ckpt_tools\nreveal_type(ckpt_tools.inspect("x").verdict)\nckpt_tools.gate(3)\n'
    ran = subprocess.run([*check, "-c", user], capture_output=True, text=True)
    assert 'Revealed type is "str | None"' in ran.stdout, ran.stdout
    assert ran.stdout.count("error:") == 1 and "incompatible type" in ran.stdout, ran.stdout
