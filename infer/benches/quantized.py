"""Speed of quantized models beside llama.cpp, which runs the same GGUF files, in one run on one machine.

    quantized.py CKPT [--threads 1,2] [--rounds 5] [--keep FOLDER] [--busy] [TYPE ...]

CKPT is the built command; no flags but the number of threads are given to it. Needs torch, safetensors and
llama-cpp-python; where they are not in this Python, CKPT_PEERS_PYTHON and CKPT_LLAMA_PYTHON name Pythons that have them. The
model has the sizes of Qwen2 0.5 B and random weights; `ckpt convert --quant TYPE` (q8_0 and q4_k unless others are named)
makes the files. Prefill of 512 tokens, and decoding of 64 after 16. With --busy the processor's time of one thread is
measured, for a machine that does other things too. Prints tables in Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import peers

SIZES = dict(vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
             num_key_value_heads=2, max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6,
             tie_word_embeddings=True, hidden_act="silu")


def make(folder):
    """Random weights in Hugging Face's form."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    c = SIZES
    width, inner, kv = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // c["num_attention_heads"] * c["num_key_value_heads"]
    matrix = lambda out, inp: (torch.randn(out, inp) * 0.02).bfloat16()
    vector = lambda n, mean: (mean + 0.1 * torch.randn(n)).bfloat16()
    w = {"model.embed_tokens.weight": matrix(c["vocab_size"], width), "model.norm.weight": vector(width, 1)}
    for layer in range(c["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, out, inp in [("q", width, width), ("k", kv, width), ("v", kv, width)]:
            w[f"{at}self_attn.{name}_proj.weight"], w[f"{at}self_attn.{name}_proj.bias"] = matrix(out, inp), vector(out, 0)
        w[f"{at}self_attn.o_proj.weight"] = matrix(width, width)
        for name, out, inp in [("gate", inner, width), ("up", inner, width), ("down", width, inner)]:
            w[f"{at}mlp.{name}_proj.weight"] = matrix(out, inp)
        for name in ["input_layernorm", "post_attention_layernorm"]:
            w[f"{at}{name}.weight"] = vector(width, 1)
    os.makedirs(folder, exist_ok=True)
    save_file(w, f"{folder}/model.safetensors", {"format": "pt"})
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16", **c}, file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ckpt")
    parser.add_argument("types", nargs="*", default=["q8_0", "q4_k"])
    parser.add_argument("--threads", default=f"1,{os.cpu_count()}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", help="folder to keep the models in")
    parser.add_argument("--busy", action="store_true", help="measure processor time of one thread")
    arguments = parser.parse_args()
    ckpt, rounds = arguments.ckpt, arguments.rounds
    torch_python = os.environ.get("CKPT_PEERS_PYTHON", sys.executable)
    llama_python = os.environ.get("CKPT_LLAMA_PYTHON", sys.executable)
    prompt, context, decoded = peers.PROMPT, peers.CONTEXT, peers.DECODED

    def ours(gguf, n):
        if arguments.busy:
            start = lambda ids, new: min(
                peers.processor_seconds(ckpt, "infer", gguf, "--ids", ",".join(map(str, peers.some_ids(ids))), "-n", new,
                                        "--ignore-eos", "--threads", 1) for _ in range(2))
            first, more, long = start(context, 1), start(context, 1 + decoded), start(context + prompt, 1)
            return {"prefill": prompt / (long - first), "decode": decoded / (more - first)}
        command = [ckpt, "bench", gguf, "--prompt", prompt, "--context", context, "-n", decoded, "--threads", n,
                   "--repeat", 3, "--format", "json"]
        output = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        record = json.loads(output.stdout)["threads"][0]
        return {what: record[what][0]["tokens_per_second"] for what in ["prefill", "decode"]}

    def theirs(gguf, n):
        output = subprocess.run([llama_python, peers.__file__, "llama", gguf, str(n), "3", str(int(arguments.busy))],
                                check=True, stdout=subprocess.PIPE)
        return json.loads(output.stdout.splitlines()[-1])

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or temporary
        source = os.path.join(folder, "hf")
        if not os.path.exists(os.path.join(source, "config.json")):
            subprocess.run([torch_python, __file__, "make", source], check=True)
        print("| type | threads | | llama.cpp tokens/s | ckpt tokens/s | ratio of bests | ratio of turns |")
        print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
        for kind in arguments.types:
            gguf = os.path.join(folder, f"{kind}.gguf")
            if not os.path.exists(gguf):
                convert = [ckpt, "convert", source, "--to", "gguf", "--quant", kind, "-o", gguf]
                subprocess.run(convert, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for n in [1] if arguments.busy else list(dict.fromkeys(map(int, arguments.threads.split(",")))):
                turns = [(theirs(gguf, n), ours(gguf, n)) for _ in range(rounds)]
                for what, name in [("prefill", f"prefill of {prompt}"), ("decode", "decode")]:
                    a, b = (max(turn[side][what] for turn in turns) for side in (0, 1))
                    ratio = statistics.median(turn[1][what] / turn[0][what] for turn in turns)
                    print(f"| {kind} | {n} | {name} | {a:.1f} | {b:.1f} | {b / a:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(sys.argv[2])
    else:
        main()
