"""What llama.cpp computes of GGUF files that ckpt wrote: `llama_cpp.py TRUTHS FILE...` compares the likeliest ids after a text,
one after another, and their probabilities, with those of transformers in TRUTHS (`families.py`), each by the file's name.
Needs xllamacpp, which comes built.
"""

import json
import os
import sys

import torch
import xllamacpp
from safetensors.torch import load_file

# Natural logarithms; both compute in float32.
TOLERANCE = 2e-3
# What it takes for the end of a text where a file does not say, and is asked not to choose.
END = 11


def run(path, ids, count):
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_predict, params.n_gpu_layers = 256, 1, count, 0
    params.warmup = params.ctx_shift = params.fit_params = False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    answer = server.handle_completions({"prompt": ids, "n_predict": count, "temperature": 0.0, "top_k": 1, "n_probs": 1,
                                        "ignore_eos": True, "cache_prompt": False})
    answer = json.loads(answer) if isinstance(answer, str) else answer
    return [(token["id"], token["logprob"]) for token in answer["choices"][0]["logprobs"]["content"]]


def main(truths, *files):
    for path in files:
        name = os.path.basename(path).removesuffix(".gguf")
        truth = load_file(os.path.join(truths, f"{name}.safetensors"))
        ids, wanted = truth["ids"].tolist(), truth["greedy"].tolist()
        first = torch.log_softmax(truth["logits"][-1].double(), -1)[wanted[0]].item()
        same, off = 0, 0.0
        while same < len(wanted):
            # As far as the next one that it never takes.
            end = wanted.index(END, same) if END in wanted[same:] else len(wanted)
            got = run(path, ids + wanted[:same], end - same) if end > same else []
            assert [id for id, _ in got] == wanted[same:end], (name, same, got, wanted)
            off = abs(got[0][1] - first) if got and not same else off
            same = end + 1
        print(f"{name}: all {len(wanted)} tokens the same, {off:.1e} off", flush=True)
        assert off < TOLERANCE, name
    print(f"llama.cpp computes the same of {len(files)} models")


if __name__ == "__main__":
    main(*sys.argv[1:])
