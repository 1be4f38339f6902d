"""How large the page of `ckpt report` is for very many checkpoints and for very many tensors, and how long Chromium takes
until it can be read. docs/benchmarks.md says how to run it and what the figures mean. Needs chromedriver and chromium;
of Python, its own library alone.
"""

import argparse
import array
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CHECKPOINTS = 2000
TENSORS = 50_000
MOST_BYTES = 8_000_000
LEAST_RATIO = 20

# Values to cut tensors from, for each scale.
POOL = 1 << 20


def pools(scales):
    chance = random.Random(1)
    return {s: array.array("f", (chance.gauss(0, s) for _ in range(POOL))).tobytes() for s in scales}


HEALTHY, WEAK, DEAD, NAN = 0.06, 1e-4, 0.0, float("nan")
VALUES = pools([HEALTHY, WEAK, DEAD]) | {NAN: array.array("f", [NAN] * POOL).tobytes()}


def write(path, tensors, chance):
    """A SafeTensors file of f32 `tensors`: name, shape, scale."""
    header, at, parts = {}, 0, []
    for name, shape, scale in tensors:
        size = 4
        for side in shape:
            size *= side
        start = 4 * chance.randrange(POOL - size // 4 + 1)
        parts.append(VALUES[scale][start : start + size])
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


FAMILIES = [
    ("model.layers.{}.", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"]),
    ("transformer.h.{}.", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    ("encoder.layer.{}.", ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"]),
    ("blocks.{}.", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]),
]


def model(number, chance):
    """Tensors of a small network that no other is like; one in twenty is sick."""
    layer, parts = FAMILIES[number % len(FAMILIES)]
    width = 16 + 2 * chance.randrange(20)
    sick = number % 20 == 19
    tensors = [("embed.weight", [64 + number % 97, width], HEALTHY)]
    for i in range(2 + chance.randrange(4)):
        for part in parts:
            scale = chance.choice([HEALTHY, WEAK, DEAD, NAN]) if sick else HEALTHY
            tensors.append((f"{layer.format(i)}{part}.weight", [width, width], scale))
            tensors.append((f"{layer.format(i)}{part}.bias", [width], HEALTHY))
    return tensors


def zoo(folder):
    """Many models that have nothing in common."""
    folder.mkdir()
    chance = random.Random(2)
    for number in range(CHECKPOINTS):
        write(folder / f"model-{number:04}.safetensors", model(number, chance), chance)


def run(folder):
    """One run of many checkpoints, which shrinks towards its end."""
    folder.mkdir()
    chance = random.Random(3)
    names = [name for name, *_ in model(0, chance)]
    for number in range(CHECKPOINTS):
        scale = WEAK if number > CHECKPOINTS * 0.9 else HEALTHY
        tensors = [(name, [16, 16] if name.endswith("weight") else [16], scale if "mlp" in name else HEALTHY) for name in names]
        write(folder / f"step-{100 * number:07}.safetensors", tensors, chance)


def large(folder):
    """One model of many small tensors, such as a mixture of experts."""
    folder.mkdir()
    chance = random.Random(4)
    parts = ["gate_proj", "up_proj", "down_proj"]
    tensors = []
    for number in range(TENSORS):
        expert, part = divmod(number, len(parts))
        scale = chance.choice([WEAK, DEAD]) if number % 500 == 499 else HEALTHY
        name = f"model.layers.{expert // 128}.mlp.experts.{expert % 128}.{parts[part]}.weight"
        tensors.append((name, [16, 16], scale))
    write(folder / "model.safetensors", tensors, chance)


CASES = {"2 000 models": zoo, "a run of 2 000": run, "50 000 tensors": large}


class Browser:
    """A Chromium of its own."""

    def __init__(self):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = next(line.split("on port ")[1].strip().rstrip(".") for line in self.driver.stdout if "successfully on port" in line)
        self.base = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options = {"args": arguments + ["--window-size=1200,900"]}
        answer = self.post("", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.base += "/" + answer["sessionId"]
        self.post("/timeouts", {"pageLoad": 3_600_000, "script": 3_600_000})

    def post(self, command, body):
        request = urllib.request.Request(self.base + command, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=3600) as answer:
            return json.load(answer)["value"]

    def ready(self, page):
        """Seconds from the order to show `page` until its script has run and its first screen is laid out and drawn."""
        self.post("/url", {"url": "about:blank"})
        start = time.monotonic()
        self.post("/url", {"url": page.as_uri()})
        drawn = "const done = arguments[0]; document.body.getBoundingClientRect(); requestAnimationFrame(() => requestAnimationFrame(() => done(document.readyState)))"
        assert self.post("/execute/async", {"script": drawn, "args": []}) == "complete"
        return time.monotonic() - start

    def close(self):
        urllib.request.urlopen(urllib.request.Request(self.base, method="DELETE"), timeout=60).close()
        self.driver.kill()
        self.driver.wait()


def page(program, folder, output):
    """Seconds that `program` takes for the page of `folder`. Its cache is filled before, so that measuring is left out."""
    command = [program, "report", folder, "-o", output, "--force"]
    seconds = 0.0
    for _ in range(2):
        start = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
        if done.returncode not in (0, 3) or not output.exists():
            sys.exit(f"{program}: {done.stderr[-2000:]}")
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", type=Path, default=Path("target/release/ckpt"), help="the program")
    parser.add_argument("--old", type=Path, help="an older one, to compare with")
    parser.add_argument("--turns", type=int, default=3, help="how often each page is opened")
    parser.add_argument("--only", choices=list(CASES), help="one case")
    args = parser.parse_args()
    programs = {"now": args.ckpt.resolve()} | ({"old": args.old.resolve()} if args.old else {})
    good = True
    print(f"{'':<16}{'program':>8}{'page':>10}{'written in':>12}{'ready in':>12}{'times faster':>14}")
    with tempfile.TemporaryDirectory() as place:
        for case, make in CASES.items():
            if args.only and case != args.only:
                continue
            folder = Path(place) / case.replace(" ", "-")
            make(folder)
            pages = {which: Path(place) / f"{which}.html" for which in programs}
            written = {which: page(program, folder, pages[which]) for which, program in programs.items()}
            times = {which: [] for which in programs}
            for _ in range(args.turns):
                for which in programs:
                    browser = Browser()
                    times[which].append(browser.ready(pages[which]))
                    browser.close()
            ready = {which: statistics.median(all) for which, all in times.items()}
            for which in programs:
                size = pages[which].stat().st_size
                ratio = ready["old"] / ready["now"] if which == "now" and args.old else None
                good &= which == "old" or size <= MOST_BYTES
                good &= ratio is None or case == "a run of 2 000" or ratio >= LEAST_RATIO
                shown = f"{ratio:.1f}" if ratio else ""
                print(f"{case:<16}{which:>8}{size / 1e6:>7.2f} MB{written[which]:>10.2f} s{ready[which]:>10.2f} s{shown:>14}", flush=True)
    sys.exit(0 if good else f"not every page has at most {MOST_BYTES / 1e6} MB and is ready {LEAST_RATIO} times as fast")


if __name__ == "__main__":
    main()
