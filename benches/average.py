"""How long `ckpt edit --average` takes for ten checkpoints, next to reading them (`cat`) and to the same average in PyTorch, in
turns; and how much memory it takes. docs/benchmarks.md says how to run it and what the figures mean. Needs Python alone; PyTorch and
safetensors if they are to be compared.
"""

import argparse
import array
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# Values to cut tensors from.
POOL = 1 << 21
WIDTH = {"F32": 4, "BF16": 2}

PYTORCH = """
import sys, torch
from safetensors import safe_open
from safetensors.torch import save_file
out, *paths = sys.argv[1:]
files = [safe_open(path, "pt") for path in paths]
mean = {}
for name in files[0].keys():
    total = None
    for file in files:
        value = file.get_tensor(name)
        total = value.double() if total is None else total.add_(value)
    mean[name] = (total / len(files)).to(value.dtype)
save_file(mean, out)
"""


def pool(dtype, seed):
    chance = random.Random(seed)
    floats = array.array("f", (chance.gauss(0, 0.02) for _ in range(POOL))).tobytes()
    if dtype == "F32":
        return floats
    # The upper half of a float32 is a bfloat16.
    return b"".join(floats[i + 2 : i + 4] for i in range(0, len(floats), 4))


def write(path, megabytes, dtype, values, chance):
    """A checkpoint of matrices of 4096 columns, a few large ones and many smaller."""
    width, header, at, sizes = WIDTH[dtype], {}, 0, []
    left = megabytes * 1_000_000
    for i in range(1 << 20):
        rows = [4096, 1024, 11008, 1][i % 4]
        size = min(rows * 4096 * width, left // (4096 * width) * 4096 * width)
        if size == 0:
            break
        header[f"layers.{i}.weight"] = {"dtype": dtype, "shape": [size // width // 4096, 4096], "data_offsets": [at, at + size]}
        at, left = at + size, left - size
        sizes.append(size)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for size in sizes:
            while size > 0:
                start = chance.randrange(POOL // 2) * width
                piece = values[start : start + min(size, len(values) - start)]
                file.write(piece)
                size -= len(piece)


def run(command, **more):
    """Seconds that `command` took, and its peak of anonymous memory in MB."""
    start = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    peak, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.01):
            try:
                status = Path(f"/proc/{child.pid}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak[0] = max(peak[0], int(line.split()[1]) / 1000)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = child.wait()
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    if code != 0:
        sys.exit(f"{command[:3]} ends with {code}")
    return seconds, peak[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ckpt", help="the program, built with --release")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=300, help="of each checkpoint")
    parser.add_argument("--dtype", choices=WIDTH, default="BF16")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--python", help="a Python with torch and safetensors, to compare with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, chance = Path(folder), random.Random(2)
        paths = [str(folder / f"step-{i + 1:03}.safetensors") for i in range(args.count)]
        for i, path in enumerate(paths):
            write(path, args.megabytes, args.dtype, pool(args.dtype, i), chance)
        out = str(folder / "mean.safetensors")
        edit = [args.ckpt, "edit", *paths, "--average", "--force", "-o", out]
        commands = {
            "reading them (cat)": ["sh", "-c", 'cat "$@" > /dev/null', "cat", *paths],
            "reading, and writing as much as the mean (cat, cp, sync)": [
                "sh", "-c", 'cat "$@" > /dev/null; cp "$1" "$0"; sync "$0"', out, *paths,
            ],
            "ckpt edit --no-verify": [*edit, "--no-verify"],
            "ckpt edit": edit,
        }
        if args.python:
            commands["PyTorch"] = [args.python, "-c", PYTORCH, out, *paths]
        found = {name: [] for name in commands}
        for turn in range(args.turns + 1):
            for name, command in commands.items():
                took = run(command)
                # The first turn brings the files into the page cache.
                if turn > 0:
                    found[name].append(took)
        size = sum(os.path.getsize(path) for path in paths)
        print(f"{args.count} checkpoints of {args.dtype}, {size / 1e9:.2f} GB, {args.turns} turns: median seconds (least to most), anonymous MB")
        for name, took in found.items():
            seconds = sorted(s for s, _ in took)
            print(f"{statistics.median(seconds):8.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f}) {max(m for _, m in took):8.0f}  {name}")


if __name__ == "__main__":
    main()
