"""Writing checkpoints in the containers that people use, and damaging their bytes."""

import json
import struct

import torch
from safetensors.torch import save_file


def plain(state):
    """The tensors, each with a storage of its own."""
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def cast(state, dtype):
    """The floats in another type."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def safetensors(path, state, metadata=None):
    """One SafeTensors file."""
    save_file(plain(state), str(path), metadata=metadata or {"format": "pt"})
    return path


def sharded(folder, state, parts, stem="model"):
    """SafeTensors files with an index, as Hugging Face's libraries name them."""
    state = plain(state)
    names = list(state)
    size = -(-len(names) // parts)
    files, where = [], {}
    for part in range(parts):
        file = f"{stem}-{part + 1:05d}-of-{parts:05d}.safetensors"
        some = names[part * size : (part + 1) * size]
        save_file({name: state[name] for name in some}, str(folder / file), metadata={"format": "pt"})
        where.update(dict.fromkeys(some, file))
        files.append(folder / file)
    total = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return files


def pt(path, content, legacy=False):
    """One file of torch.save, in today's layout or in that from before PyTorch 1.6."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def header(path):
    """Where the data of a SafeTensors file begins, and its header."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        return 8 + length, json.loads(file.read(length))


def relabel(path, names, dtype):
    """Calls the bytes of some tensors of a SafeTensors file another type of the same width."""
    data = path.read_bytes()
    begin, entries = header(path)
    for name in names:
        entries[name]["dtype"] = dtype
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[begin:])


def overwrite(path, tensor, at, data):
    """Replaces bytes of a tensor in a SafeTensors file, from byte `at` of it."""
    begin, entries = header(path)
    first, last = entries[tensor]["data_offsets"]
    assert at + len(data) <= last - first, (tensor, last - first)
    with open(path, "r+b") as file:
        file.seek(begin + first + at)
        file.write(data)


def read(path, tensor, at, length):
    """Bytes of a tensor in a SafeTensors file."""
    begin, entries = header(path)
    with open(path, "rb") as file:
        file.seek(begin + entries[tensor]["data_offsets"][0] + at)
        return file.read(length)


def cut(path, share):
    """Keeps only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def gguf(path, state, kind, layers, width, heads):
    """A GGUF file of a Llama-like network whose matrices are of one type; names are those of llama.cpp."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    kind = GGMLQuantizationType[kind]
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, value in state.items():
        array = value.float().numpy()
        if array.ndim == 2:
            writer.add_tensor(name, quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
