"""Speed of a student model of 100 M random parameters beside llama.cpp and PyTorch, in one run on one machine.

    peers.py CKPT [--threads 1,2] [--rounds 5] [--keep FOLDER] [--busy]

CKPT is the built command. Needs torch and llama-cpp-python (which builds llama.cpp, about ten minutes); where they are not
in this Python, CKPT_PEERS_PYTHON and CKPT_LLAMA_PYTHON name Pythons that have them.

1. The same GGUF file (TQ2_0, embedding and head Q8_0) in ckpt and llama.cpp: prefill of 512 tokens and decoding after 16.
2. The same checkpoint as a training program runs it in PyTorch, without a KV cache, and in ckpt: 256 new tokens.
3. Time from the start of a process to its first token, with the file in the page cache and without.

The programs take turns, and each figure is the best of the turns: what else the machine does only makes it worse. Where it
does much, --busy measures the processor's time that one thread takes instead of the time that passes: 1 and 2 with one thread,
of ckpt as the difference between processes that compute more and less.
Prints tables in Markdown.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT, CONTEXT, DECODED, NEW = 512, 16, 64, 256
# Of the GGUF file: activations of 16 bits at the head, and of 8 as llama.cpp has them.
FLAGS = [[], ["--fast"]]
SIZES = dict(vocab_size=32000, hidden_dim=768, num_layers=12, num_heads=12, num_kv_heads=4, head_dim=64,
             mlp_hidden_dim=2048, max_seq_len=2048, rope_base=1e6, rope_scaling=None, use_bitlinear=True,
             bitlinear_per_channel=False, quantization_eps=1e-8, norm_eps=1e-6, tie_word_embeddings=True,
             use_qk_norm=True, attn_logit_soft_cap=50.0, final_logit_soft_cap=30.0)


def some_ids(n):
    return [i * 7919 % SIZES["vocab_size"] for i in range(n)]


def make(path):
    """Random weights, as a trainer saves them."""
    import torch

    torch.manual_seed(0)
    c = SIZES
    width, rows, kv = c["hidden_dim"], c["num_heads"] * c["head_dim"], c["num_kv_heads"] * c["head_dim"]
    matrix = lambda out, inp: torch.randn(out, inp) * 0.02
    vector = lambda n: 1 + 0.1 * torch.randn(n)
    w = {"embed_tokens.weight": matrix(c["vocab_size"], width)}
    for layer in range(c["num_layers"]):
        parts = {"input_layernorm": vector(width), "self_attn.q_proj": matrix(rows, width),
                 "self_attn.k_proj": matrix(kv, width), "self_attn.v_proj": matrix(kv, width),
                 "self_attn.o_proj": matrix(width, rows), "self_attn.q_norm": vector(c["head_dim"]),
                 "self_attn.k_norm": vector(c["head_dim"]), "post_attention_layernorm": vector(width),
                 "mlp.gate_proj": matrix(c["mlp_hidden_dim"], width), "mlp.up_proj": matrix(c["mlp_hidden_dim"], width),
                 "mlp.down_proj": matrix(width, c["mlp_hidden_dim"])}
        w.update({f"layers.{layer}.{name}.weight": value for name, value in parts.items()})
    w["norm.weight"] = vector(width)
    torch.save({"model_state_dict": w, "config": {"model": c}}, path)


def llama(path, threads, repeat, busy):
    """Best speeds of llama.cpp for the prompt and for decoding."""
    import llama_cpp as lib

    clock = time.process_time if busy else time.perf_counter

    lib.llama_backend_init()
    silent = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silent, None)
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 1024, PROMPT, PROMPT
    params.n_threads = params.n_threads_batch = threads
    context = lib.llama_init_from_model(model, params)

    def run(ids):
        tokens = (lib.llama_token * len(ids))(*ids)
        assert lib.llama_decode(context, lib.llama_batch_get_one(tokens, len(ids))) == 0
        assert lib.llama_get_logits(context)

    ids = some_ids(PROMPT + DECODED)
    prefill, token = [], []
    for _ in range(repeat):
        for start, n, times in [(0, PROMPT, prefill), (CONTEXT, DECODED, token)]:
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            if start:
                run(ids[:start])
                begin = clock()
                for i in range(n):
                    run(ids[start + i : start + i + 1])
                times.append((clock() - begin) / n)
            else:
                begin = clock()
                run(ids[:n])
                times.append(clock() - begin)
    print(json.dumps({"prefill": PROMPT / min(prefill), "decode": 1 / min(token)}))


def seed(path, threads, step, busy):
    """Tokens a second of PyTorch as a training program generates: the whole text through the model for each token. Every
    `step`th token is timed, and those between are left out."""
    import math

    import torch
    import torch.nn.functional as F

    clock = time.process_time if busy else time.perf_counter
    torch.set_num_threads(threads)
    c = SIZES
    w = torch.load(path, weights_only=True)["model_state_dict"]
    heads, kv, dim = c["num_heads"], c["num_kv_heads"], c["head_dim"]
    frequencies = c["rope_base"] ** (-torch.arange(0, dim, 2).float() / dim)

    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c["norm_eps"]) * weight

    def bitlinear(x, weight):
        scale = weight.abs().mean() + c["quantization_eps"]
        codes = (weight / scale).round().clamp(-1, 1)
        most = x.abs().amax(-1, keepdim=True) + c["quantization_eps"]
        return F.linear((x / most * 127).clamp(-128, 127).round(), codes) * (scale * most / 127)

    def forward(ids):
        n = len(ids)
        angle = torch.arange(n).float()[:, None] * frequencies
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        rotate = lambda x: x * cos + torch.cat([-x[..., dim // 2 :], x[..., : dim // 2]], -1) * sin
        mask = torch.full((n, n), -math.inf).triu(1)
        x = w["embed_tokens.weight"][torch.tensor(ids)]
        for layer in range(c["num_layers"]):
            at = lambda name: w[f"layers.{layer}.{name}.weight"]
            h = norm(x, at("input_layernorm"))
            split = lambda name, count: bitlinear(h, at(f"self_attn.{name}")).view(n, count, dim).transpose(0, 1)
            q = rotate(norm(split("q_proj", heads), at("self_attn.q_norm")))
            k = rotate(norm(split("k_proj", kv), at("self_attn.k_norm"))).repeat_interleave(heads // kv, 0)
            v = split("v_proj", kv).repeat_interleave(heads // kv, 0)
            cap = c["attn_logit_soft_cap"]
            scores = cap * torch.tanh(q @ k.transpose(1, 2) / math.sqrt(dim) / cap) + mask
            h = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1)
            x = x + bitlinear(h, at("self_attn.o_proj"))
            h = norm(x, at("post_attention_layernorm"))
            x = x + bitlinear(F.silu(bitlinear(h, at("mlp.gate_proj"))) * bitlinear(h, at("mlp.up_proj")), at("mlp.down_proj"))
        cap = c["final_logit_soft_cap"]
        return cap * torch.tanh(norm(x, w["norm.weight"]) @ w["embed_tokens.weight"].T / cap)

    ids, times = some_ids(CONTEXT), []
    with torch.no_grad():
        forward(ids)
        for _ in range(0, NEW, step):
            begin = clock()
            ids.append(int(forward(ids)[-1].argmax()))
            times.append(clock() - begin)
            ids += some_ids(step - 1)
    first = times[: 64 // step]
    print(json.dumps({"all": len(times) / sum(times), "first": len(first) / sum(first), "ids": ids[CONTEXT:]}))


def child(python, *arguments):
    output = subprocess.run([python, __file__, *map(str, arguments)], check=True, stdout=subprocess.PIPE)
    return json.loads(output.stdout.splitlines()[-1]) if output.stdout.strip() else None


def processor_seconds(*command):
    """User and system time of a process."""
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = spent()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return spent() - before


def busy(ckpt, rounds, pt, gguf, torch_python, llama_python):
    """Tables of speeds per second of processor time, one thread each."""
    def start(path, prompt, new, *flags):
        ids = ",".join(map(str, some_ids(prompt)))
        return processor_seconds(ckpt, "infer", path, "--ids", ids, "-n", new, "--threads", 1, *flags)

    def ours(path, *flags):
        first, more, long = (min(start(path, prompt, new, *flags) for _ in range(3)) for prompt, new in
                             [(CONTEXT, 1), (CONTEXT, 1 + 2 * DECODED), (CONTEXT + PROMPT, 1)])
        return {"prefill": PROMPT / (long - first), "decode": 2 * DECODED / (more - first), "start": first}

    turns = [(child(llama_python, "llama", gguf, 1, 3, 1), *(ours(gguf, *flags) for flags in FLAGS)) for _ in range(rounds)]
    best = lambda side, what: max(turn[side][what] for turn in turns)
    print("| tokens per second of one thread's processor time | llama.cpp | ckpt | ratio |\n| --- | ---: | ---: | ---: |")
    for side, flags in enumerate(FLAGS, 1):
        for what, name in [("prefill", f"prefill of {PROMPT}"), ("decode", "decode")]:
            a, b = best(0, what), best(side, what)
            ratio = statistics.median(turn[side][what] / turn[0][what] for turn in turns)
            print(f"| {' '.join([name, *flags])} | {a:.0f} | {b:.0f} | {b / a:.2f} (turns: {ratio:.2f}) |", flush=True)
    print(f"\nA process until its first token: {1e3 * min(turn[1]['start'] for turn in turns):.0f} ms of processor time.\n")
    theirs = child(torch_python, "seed", pt, 1, 8, 1)
    print("| decode from the float checkpoint | tokens/s | PyTorch's time over it |\n| --- | ---: | ---: |")
    print(f"| PyTorch, no KV cache, {NEW} tokens | {theirs['all']:.2f} ({theirs['first']:.2f} over the first 64) | |")
    for tables in ["f32", "int8", "q6"]:
        speed = max(ours(pt, "--embeddings", tables)["decode"] for _ in range(rounds))
        print(f"| ckpt --embeddings {tables} | {speed:.0f} | {speed / theirs['all']:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ckpt")
    parser.add_argument("--threads", default=f"1,{os.cpu_count()}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", help="folder to keep the model in")
    parser.add_argument("--busy", action="store_true", help="measure processor time of one thread")
    arguments = parser.parse_args()
    ckpt, rounds = arguments.ckpt, arguments.rounds
    threads = list(dict.fromkeys(int(n) for n in arguments.threads.split(",")))
    torch_python = os.environ.get("CKPT_PEERS_PYTHON", sys.executable)
    llama_python = os.environ.get("CKPT_LLAMA_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or temporary
        pt, gguf = os.path.join(folder, "model.pt"), os.path.join(folder, "model.gguf")
        if not os.path.exists(gguf):
            os.makedirs(folder, exist_ok=True)
            child(torch_python, "make", pt)
            convert = [ckpt, "convert", pt, "--to", "gguf", "--quant", "tq2_0", "--embed", "q8_0", "-o", gguf]
            subprocess.run(convert, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def bench(n, flags):
            command = [ckpt, "bench", gguf, *flags, "--prompt", PROMPT, "--context", CONTEXT,
                       "-n", DECODED, "--threads", n, "--repeat", 3, "--format", "json"]
            output = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            record = json.loads(output.stdout)["threads"][0]
            speed = lambda what: record[what][0]["tokens_per_second"]
            return {"prefill": speed("prefill"), "decode": speed("decode"), "limit": record["limit"],
                    "load": record["load_seconds"]}

        if arguments.busy:
            return busy(ckpt, rounds, pt, gguf, torch_python, llama_python)

        print("| threads | | llama.cpp tokens/s | ckpt tokens/s | ratio | share of the limit |")
        print("| ---: | --- | ---: | ---: | ---: | ---: |")
        for n in threads:
            theirs, all_ours = [], [[] for _ in FLAGS]
            for _ in range(rounds):
                theirs.append(child(llama_python, "llama", gguf, n, 3, 0))
                for ours, flags in zip(all_ours, FLAGS):
                    ours.append(bench(n, flags))
            best = lambda records, what: max(record[what] for record in records)
            for ours, flags in zip(all_ours, FLAGS):
                limit = best(ours, "limit")
                for what, name in [("prefill", f"prefill of {PROMPT}"), ("decode", "decode")]:
                    a, b = best(theirs, what), best(ours, what)
                    share = f"{b / limit:.2f}" if what == "decode" else ""
                    ratio = statistics.median(x[what] / y[what] for x, y in zip(ours, theirs))
                    row = f"| {n} | {' '.join([name, *flags])} | {a:.0f} | {b:.0f} | {b / a:.2f} (turns: {ratio:.2f}) | {share} |"
                    print(row, flush=True)
                print(f"\nload {1e3 * min(r['load'] for r in ours):.0f} ms, limit {limit:.0f} tokens/s\n", flush=True)

        most = max(threads)
        theirs = child(torch_python, "seed", pt, most, 1, 0)
        prompt = ",".join(map(str, some_ids(CONTEXT)))
        command = [ckpt, "infer", pt, "--ids", prompt, "-n", NEW + 1, "--threads", most, "--json"]
        runs = []
        for flags in [[], ["--embeddings", "int8"]]:
            records = []
            for _ in range(rounds):
                output = subprocess.run(list(map(str, command + flags)), check=True, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
                records.append(json.loads(output.stdout))
            runs.append((flags, records))
        print(f"| {NEW} new tokens, {most} threads | tokens/s | PyTorch's time over it |\n| --- | ---: | ---: |")
        print(f"| PyTorch, no KV cache | {theirs['all']:.2f} ({theirs['first']:.2f} over the first 64) | |")
        for flags, records in runs:
            speed = max(NEW / record["decode_seconds"] for record in records)
            same = sum(a == b for a, b in zip(records[0]["ids"], theirs["ids"]))
            print(f"| ckpt {' '.join(flags)} | {speed:.0f} | {speed / theirs['all']:.0f} | ({same} of {NEW} ids the same)")

        print("\n| first token of a new process | ms |\n| --- | ---: |")
        for cold in [False, True]:
            for path, flags in [(gguf, []), (pt, ["--embeddings", "int8"])]:
                times = []
                for _ in range(rounds):
                    if cold:
                        with open(path, "rb") as file:
                            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    begin = time.perf_counter()
                    subprocess.run([ckpt, "infer", path, "--ids", prompt, "-n", "1", *flags], check=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    times.append(time.perf_counter() - begin)
                state = "read from disk" if cold else "in the page cache"
                print(f"| {os.path.basename(path)}, {state} | {1e3 * min(times):.0f} |")


if __name__ == "__main__":
    role = {"make": make, "llama": llama, "seed": seed}.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if role:
        role(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main()
