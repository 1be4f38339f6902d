"""The console script is the program, and Ctrl-C stops long work."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import ckpt_tools
from conftest import COLLAPSED, HEALTHY

SCRIPT = Path(sys.executable).with_name("ckpt")
@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A model of 4 GiB of zeros, which a file system need not store, so that work on it takes a while."""
    path = tmp_path_factory.mktemp("big") / "model.safetensors"
    count, size = 64, 64 << 20
    tensors = {
        f"layers.{i}.up_proj.weight": {
            "dtype": "F32", "shape": [4096, 4096], "data_offsets": [i * size, (i + 1) * size]
        }
        for i in range(count)
    }  # fmt: skip
    header = json.dumps(tensors).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * size)
    return path


def test_exit_codes_and_outputs_are_the_programs(program):
    assert program("--version").stdout == f"ckpt {ckpt_tools.__version__}\n"
    assert program("gate", HEALTHY).returncode == 0
    assert program("gate", COLLAPSED).returncode == 1
    wrong = program("gate", "--no-such-flag")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: ") and "Usage: ckpt gate" in wrong.stderr
    missing = program("inspect", "nowhere.pt")
    assert missing.returncode == 3 and missing.stdout == "" and "nowhere.pt" in missing.stderr
    assert "_ckpt()" in program("completions", "bash").stdout
    module = subprocess.run([sys.executable, "-m", "ckpt_tools", "--version"], capture_output=True, text=True)
    assert module.stdout == program("--version").stdout


def test_names_that_are_no_text_arrive(program, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.pt"
    with open(name, "wb") as file:
        file.write(HEALTHY.read_bytes())
    assert subprocess.run([SCRIPT, "gate", name], capture_output=True).returncode == 0
    assert ckpt_tools.gate(os.fsdecode(name))


def test_a_pipe_that_closes_ends_it_quietly():
    line = f"'{SCRIPT}' inspect --all --format json '{HEALTHY}' | head -c 10"
    ran = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, timeout=60)
    assert ran.stderr == b"" and len(ran.stdout) == 10


def interrupted(line, after, **options):
    """What a process says that gets Ctrl-C once ``after`` is true."""
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    try:
        end = time.monotonic() + 60
        while not after() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err, time.monotonic() - begun


def test_ctrl_c_ends_the_program_and_leaves_nothing(big, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    line = [SCRIPT, "convert", "--no-cache", big, "--to", "bf16", "-o", folder / "copy.safetensors"]
    code, out, err, took = interrupted(line, lambda: any(folder.iterdir()))
    assert code == 130 and "copy" not in out, (code, out, err)
    assert not any(folder.iterdir())
    # What does not write is ended by the signal itself.
    line = [SCRIPT, "inspect", "--no-cache", big]
    started = time.monotonic()
    code, *_ = interrupted(line, lambda: time.monotonic() > started + 0.4)
    assert code == -signal.SIGINT


@pytest.mark.parametrize(
    "call",
    [
        "ckpt_tools.inspect(path, cache=False)",
        "ckpt_tools.gate(path, cache=False)",
        "ckpt_tools.diff(path, path + '')",
        "ckpt_tools.convert(path, 'copy.safetensors', to='bf16', cache=False)",
        "ckpt_tools.measure(ckpt_tools.load(path))",
    ],
)
def test_ctrl_c_is_a_keyboard_interrupt(big, tmp_path, call):
    code = f"""
import ckpt_tools, sys, threading
path = sys.argv[1]
open("begun", "w").close()
try:
    for _ in range(100):
        {call}
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
    # It goes on.
    print(ckpt_tools.gate(sys.argv[2]).passed)
"""
    begun = tmp_path / "begun"
    started = []

    def after():
        if begun.exists():
            started.append(time.monotonic())
        return bool(started) and time.monotonic() > started[0] + 0.5

    line = [sys.executable, "-c", code, big, HEALTHY]
    code, out, err, took = interrupted(line, after, cwd=tmp_path)
    assert (code, out.split()) == (0, ["interrupted", "1", "True"]), err
    assert took < 15
    assert [p.name for p in tmp_path.iterdir() if "copy" in p.name] == []


def test_browse_has_the_terminal():
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        os.environ["TERM"] = "xterm"
        os.execv(SCRIPT, [str(SCRIPT), "browse", str(HEALTHY)])
    seen = b""
    end = time.monotonic() + 60
    while b"embed_tokens" not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536)
    os.write(terminal, b"q")
    code = None
    while code is None and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                os.read(terminal, 65536)
            except OSError:
                pass
        pid, status = os.waitpid(child, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if pid else None
    os.close(terminal)
    assert b"embed_tokens" in seen and code == 0
