"""Does what ckpt convert does, with Python's libraries and llama.cpp. Reads jobs from stdin, one a line,
`JOB SOURCE OUTPUT`, and answers each with the seconds it took, until the output is on the disk, and those of processors.

    peers.py THREADS
"""

import os
import sys
import time

THREADS = int(sys.argv[1])


def to_f16(source, output):
    """gguf-py's writer: float16 matrices, float32 norms."""
    state = torch.load(source, weights_only=True, mmap=True)["model_state_dict"]
    writer = gguf.GGUFWriter(output, "qwen3")
    for name, value in state.items():
        array = value.numpy()
        writer.add_tensor(name, array if array.ndim == 1 else array.astype(np.float16))
    finish(writer)


def to_tq2_0(source, output):
    """gguf.quants: BitLinear's matrices made ternary and packed, the embedding in Q8_0."""
    state = torch.load(source, weights_only=True, mmap=True)["model_state_dict"]
    writer = gguf.GGUFWriter(output, "qwen3")
    for name, value in state.items():
        array, kind = value.numpy(), None
        if array.ndim == 1:
            writer.add_tensor(name, array)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        if "_proj" in name:
            scale = np.abs(array).mean() + np.float32(1e-8)
            array = np.clip(np.round(array / scale), -1, 1) * scale
            kind = gguf.GGMLQuantizationType.TQ2_0
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    finish(writer)


loaded = {}


def blocks(source, _):
    """gguf.quants' TQ2_0 blocks of every projection, from memory to memory."""
    for array in loaded[source]:
        gguf.quants.quantize(array, gguf.GGMLQuantizationType.TQ2_0)


def load(source):
    state = torch.load(source, weights_only=True)["model_state_dict"]
    loaded[source] = [value.numpy() for name, value in state.items() if "_proj" in name]


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def to_i2s(source, output):
    """The original packer's formula in PyTorch."""
    state = torch.load(source, weights_only=True, mmap=True)["model_state_dict"]
    packed = {}
    for name, weight in state.items():
        if "_proj" not in name:
            packed[name] = weight
            continue
        scale = weight.abs().mean() + 1e-8
        codes = (torch.clamp(torch.round(weight / scale), -1, 1) + 1).to(torch.uint8).flatten()
        codes = torch.nn.functional.pad(codes, (0, -codes.numel() % 4), value=1).view(-1, 4)
        layer = name.removesuffix(".weight")
        packed[name] = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
        packed[f"{layer}_shape"] = torch.tensor(weight.shape)
        packed[f"{layer}_scale"] = scale
    torch.save({"model_state_dict": packed, "packed": True}, output)


def quantize(source, output):
    """llama.cpp's quantizer on the float32 GGUF: the layers' matrices in TQ2_0, the embedding in Q8_0."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = THREADS
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_TQ2_0
    params.token_embedding_type = params.output_tensor_type = 8
    if llama_cpp.llama_model_quantize(source.encode(), output.encode(), params) != 0:
        raise RuntimeError("llama_model_quantize failed")


JOBS = {"f16": to_f16, "tq2_0": to_tq2_0, "i2s": to_i2s, "blocks": blocks}
said = []
try:
    import gguf
    import numpy as np
    import torch

    torch.set_num_threads(THREADS)
    said.append(f"torch {torch.__version__}, numpy {np.__version__}")
except ImportError:
    JOBS.clear()
try:
    import llama_cpp

    # Its messages go to stdout's neighbour, and take their time.
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    JOBS["quantize"] = quantize
    said.append(f"llama-cpp-python {llama_cpp.__version__}")
except ImportError:
    pass
print(", ".join(said), flush=True)
print(" ".join(JOBS), flush=True)
for line in sys.stdin:
    job, source, output = line.rstrip("\n").split("\t")
    if job == "blocks" and source not in loaded:
        load(source)
    start, busy = time.perf_counter(), time.process_time()
    JOBS[job](source, output)
    if output != "-":
        with open(output, "rb+") as file:
            os.fsync(file.fileno())
    print(time.perf_counter() - start, time.process_time() - busy, flush=True)
