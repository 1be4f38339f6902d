"""Tensors of every format are what the formats' own libraries read."""

import gc
import os
import pickle
import random
import subprocess
import sys
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import ckpt_tools
from conftest import COLLAPSED, FIXTURES, HEALTHY, REPOSITORY

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float64", "float32", "float16", "bfloat16"]
EIGHT_BITS = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def of_type(name, shape=(6, 5)):
    """A tensor with any bits that numbers of the type have."""
    dtype = getattr(torch, name)
    generator = torch.Generator().manual_seed(len(name))
    if name == "bool":
        return torch.randint(0, 2, shape, generator=generator).bool()
    if dtype.is_complex:
        return torch.randn(*shape, generator=generator, dtype=torch.complex64).to(dtype)
    if dtype.is_floating_point and dtype.itemsize > 1:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


def bits(tensor):
    """The bytes of an array or a tensor, for comparing NaN too."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        return tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return np.ascontiguousarray(tensor).tobytes()


def same(got, wanted):
    """The same type, shape and bits."""
    assert str(got.dtype).removeprefix("torch.") == str(wanted.dtype).removeprefix("torch.")
    assert tuple(got.shape) == tuple(wanted.shape)
    assert bits(got) == bits(wanted)


def saved(path, state):
    """The tensors of ``state``, saved with PyTorch and with SafeTensors."""
    torch.save(state, path / "state.pt")
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path / "state.safetensors")
    return [path / "state.pt", path / "state.safetensors"]


@pytest.mark.parametrize("name", INTEGERS + FLOATS + EIGHT_BITS + ["bool", "complex64"])
def test_every_type_is_what_was_saved(tmp_path, name):
    tensor = of_type(name)
    for path in saved(tmp_path, {"t": tensor, "scalar": tensor[0, 0].clone(), "none": tensor[:0].clone()}):
        with ckpt_tools.safe_open(path, framework="pt") as f:
            same(f.get_tensor("t"), tensor)
            same(f.get_tensor("scalar"), tensor[0, 0])
            same(f.get_tensor("none"), tensor[:0])
            same(f.get_slice("t")[1:4, ::2], tensor[1:4, ::2])
        with ckpt_tools.safe_open(path) as f:
            array = f.get_tensor("t")
            own = getattr(ml_dtypes, name, None) or np.dtype(name)
            assert array.dtype == np.dtype(own) and array.shape == (6, 5)
            assert bits(array) == bits(tensor)
            assert bits(f.get_tensor("scalar")) == bits(tensor[0, 0]) and f.get_tensor("scalar").shape == ()
            assert f.get_tensor("none").shape == (0, 5)
            assert bits(f.get_slice("t")[1:4, ::2]) == bits(tensor[1:4, ::2])


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", ["complex128", "complex32"])
def test_complex_types_of_pytorch_alone(tmp_path, name):
    tensor = of_type(name)
    torch.save({"t": tensor}, tmp_path / "c.pt")
    same(ckpt_tools.load("c.pt", framework="pt")["t"], tensor)
    wanted = tensor.to(torch.complex128 if name == "complex128" else torch.complex64).numpy()
    same(ckpt_tools.load("c.pt")["t"], wanted)


# In PyTorch's older files storages begin wherever what comes before them ends, which depends on a name's length.
@pytest.mark.parametrize("legacy", [None, "", "x", "xx", "xxx"])
def test_views_are_read_by_their_strides_and_share_what_they_shared(tmp_path, legacy):
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "column": base[:, 2],
        "expanded": base[:, :1].expand(4, 9),
        "every_other": base[::2, ::3],
        "middle": base.flatten()[7:11],
        **({} if legacy is None else {f"name{legacy}": base[0]}),
    }
    torch.save(state, tmp_path / "views.pt", _use_new_zipfile_serialization=legacy is None)
    read = ckpt_tools.load("views.pt", framework="pt")
    for name, wanted in state.items():
        same(read[name], wanted)
        assert read[name].stride() == wanted.stride(), name
        assert bits(ckpt_tools.load("views.pt")[name]) == bits(wanted), name
    read["base"][0, 2] = -1
    assert read["tied"][0, 2] == -1 and read["column"][0] == -1 and read["transposed"][2, 0] == -1
    # What is written stays in this process.
    assert torch.load("views.pt")["base"][0, 2] == 2
    assert ckpt_tools.load("views.pt")["base"][0, 2] == 2


def test_a_tensor_that_is_read_can_be_saved_again(tmp_path):
    saved(tmp_path, {"a": torch.randn(64, 64), "b": torch.randn(3)})
    for name in ["state.pt", "state.safetensors"]:
        b = ckpt_tools.load(name, framework="pt")["b"]
        torch.save({"b": b}, "again.pt")
        same(torch.load("again.pt")["b"], b)
        assert os.path.getsize("again.pt") < 4096, "the whole file came along"


def test_arrays_share_the_file_and_keep_it(tmp_path):
    saved(tmp_path, {"w": torch.arange(4096.0).reshape(64, 64)})
    for name in ["state.pt", "state.safetensors"]:
        f = ckpt_tools.safe_open(name)
        one, two = f.get_tensor("w"), f.get_tensor("w")
        assert np.shares_memory(one, two)
        assert not one.flags.writeable and not one.flags.owndata
        with pytest.raises(ValueError):
            one[0, 0] = 1
        part = f.get_slice("w")[3:5, 60:]
        assert np.shares_memory(part, one)
        f.close()
        os.remove(name)
        del f, two
        gc.collect()
        assert one[63, 63] == 4095 and part.tolist() == [[252, 253, 254, 255], [316, 317, 318, 319]]


def test_a_closed_checkpoint_says_so():
    f = ckpt_tools.safe_open(HEALTHY)
    f.close()
    for use in [f.keys, f.metadata, f.__enter__, lambda: f.get_tensor("x")]:
        with pytest.raises(ckpt_tools.UsageError, match="closed"):
            use()
    assert "closed" in repr(f)


def test_names_metadata_and_lookup_are_those_of_safetensors(tmp_path):
    state = {"b.weight": torch.ones(2), "a.weight": torch.zeros(3)}
    safetensors.torch.save_file(state, "m.safetensors", {"format": "pt", "note": "größe"})
    with ckpt_tools.safe_open("m.safetensors", "np") as f, safetensors.safe_open("m.safetensors", "np") as truth:
        assert sorted(f.keys()) == sorted(truth.keys()) == sorted(f)
        assert f.metadata() == truth.metadata()
        every = f.get_tensors()
        assert list(every) == f.keys() and all((every[name] == truth.get_tensor(name)).all() for name in truth.keys())
        assert len(f) == 2 and "a.weight" in f and "c" not in f
        assert f.get_slice("a.weight").get_shape() == truth.get_slice("a.weight").get_shape()
        with pytest.raises(ckpt_tools.TensorNotFoundError, match="a.weight") as raised:
            f.get_tensor("weight")
        assert isinstance(raised.value, KeyError)


def any_index(rng, shape, reverses):
    """An index of integers, slices, an ellipsis and new axes."""

    def item(size):
        if rng.random() < 0.25 and size:
            return rng.randrange(-size, size)
        ends = [None, *range(-size - 2, size + 3)]
        steps = [None, 1, 2, 3, 7] + ([-1, -2, -5] if reverses else [])
        return slice(rng.choice(ends), rng.choice(ends), rng.choice(steps))

    first = rng.randint(0, len(shape))
    index = [item(size) for size in shape[:first]]
    if rng.random() < 0.3:
        last = rng.randint(0, len(shape) - first)
        index += [Ellipsis, *(item(size) for size in shape[len(shape) - last :])]
    if rng.random() < 0.2:
        index.insert(rng.randint(0, len(index)), None)
    return tuple(index) if len(index) != 1 or rng.random() < 0.5 else index[0]


def deflated(path, state):
    torch.save(state, "plain.pt")
    with zipfile.ZipFile("plain.pt") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


@pytest.mark.parametrize("where", ["pt", "safetensors", "deflated", "big-endian", "fortran", "odd", "ranks", "codes"])
def test_slices_are_those_of_the_whole(where):
    rng = random.Random(where)
    array = np.arange(7 * 5 * 6, dtype=np.float32).reshape(7, 5, 6)
    name, tensor = "t", torch.from_numpy(array)
    match where:
        case "pt":
            torch.save({"t": tensor}, "f")
        case "safetensors":
            safetensors.torch.save_file({"t": tensor}, "f")
        case "deflated":
            deflated("f", {"t": tensor})
        case "big-endian":
            np.savez("f", t=array.astype(">f4"))
            os.rename("f.npz", "f")
        case "fortran":
            np.savez("f", t=np.asfortranarray(array))
            os.rename("f.npz", "f")
        case "odd":
            # Elements that are not aligned.
            header = b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"F32","shape":[7,5,6],"data_offsets":[1,841]}}'
            with open("f", "wb") as file:
                file.write(len(header).to_bytes(8, "little") + header + b"x" + array.tobytes())
        case "ranks":
            in_blocks("f", tensor)
        case "codes":
            import gguf

            writer = gguf.GGUFWriter("f", "llama")
            array = np.random.default_rng(1).standard_normal((7, 5, 64)).astype(np.float32)
            coded = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor("t", coded, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            array = gguf.quants.dequantize(coded, gguf.GGMLQuantizationType.Q4_0)
            tensor = torch.from_numpy(array)
    with ckpt_tools.safe_open("f") as f, ckpt_tools.safe_open("f", "pt") as g:
        assert f.get_tensor(name).tolist() == array.tolist()
        assert g.get_tensor(name).tolist() == array.tolist()
        for _ in range(400):
            index = any_index(rng, array.shape, reverses=True)
            got = f.get_slice(name)[index]
            assert got.shape == array[index].shape and got.tolist() == array[index].tolist(), index
            index = any_index(rng, array.shape, reverses=False)
            got = g.get_slice(name)[index]
            assert got.shape == tensor[index].shape and got.tolist() == tensor[index].tolist(), index


def in_blocks(path, tensor):
    """Saved by torch.distributed.checkpoint in blocks of its rows, as ranks have them."""
    torch.save(tensor, "whole.pt")
    code = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
import torch.multiprocessing as mp

def rank(i, path):
    dist.init_process_group("gloo", init_method=f"file://{path}.store", rank=i, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    tensor = distribute_tensor(torch.load("whole.pt"), mesh, [Shard(1)])
    dcp.save({"t": tensor}, checkpoint_id=path)
    dist.destroy_process_group()

if __name__ == "__main__":
    import os
    mp.spawn(rank, args=(os.path.abspath(sys.argv[1]),), nprocs=2)
"""
    with open("ranks.py", "w") as file:
        file.write(code)
    subprocess.run([sys.executable, "ranks.py", path], check=True, capture_output=True, timeout=300)


def test_slices_are_those_of_safetensors_own(tmp_path):
    rng = random.Random(3)
    state = {"m": torch.randn(9, 8), "v": torch.randn(13), "c": torch.randn(4, 3, 5).bfloat16()}
    safetensors.torch.save_file(state, "m.safetensors")
    compared = 0
    with ckpt_tools.safe_open("m.safetensors", "pt") as f, safetensors.safe_open("m.safetensors", "pt") as truth:
        for _ in range(600):
            name = rng.choice(list(state))
            index = any_index(rng, state[name].shape, reverses=False)
            try:
                wanted = truth.get_slice(name)[index]
            except Exception:
                # It knows no steps and no new axes.
                continue
            same(f.get_slice(name)[index], wanted)
            compared += 1
        for name in state:
            assert f.get_slice(name).get_dtype() == truth.get_slice(name).get_dtype()
    assert compared > 100


@pytest.mark.parametrize("index", [True, [0, 1], "a", 1.5, np.array([0, 1])])
def test_what_is_no_slice_is_refused(index):
    with ckpt_tools.safe_open(HEALTHY) as f:
        part = f.get_slice(f.keys()[0])
        with pytest.raises(TypeError, match="integers, slices"):
            part[index]
        with pytest.raises(IndexError):
            part[99999999]
        with pytest.raises(IndexError):
            part[0, 0, 0, 0, 0]
        with pytest.raises(IndexError):
            part[..., ...]
    with ckpt_tools.safe_open(HEALTHY, "pt") as f, pytest.raises(ValueError, match="greater than zero"):
        f.get_slice(f.keys()[0])[::-1]


@pytest.mark.filterwarnings("ignore")
def test_every_fixture_of_pytorch_is_what_pytorch_loads():
    """Files of any age, with objects in them that are never made."""
    compared = 0
    for path in sorted((FIXTURES / "formats").glob("*.pt")):
        try:
            truth = flat(torch.load(path, weights_only=True))
        except Exception:
            continue
        with ckpt_tools.safe_open(path, "pt") as f:
            for name, wanted in truth.items():
                if wanted.is_quantized or name not in f:
                    continue
                got = f.get_tensor(name)
                if wanted.layout is not torch.strided:
                    got, wanted = got.to_dense(), wanted.to_dense()
                same(got, wanted.detach())
                compared += 1
    assert compared > 40, compared


def flat(item, path=""):
    if isinstance(item, torch.Tensor):
        return {path: item}
    inner = path + "." if path else ""
    if isinstance(item, dict):
        return {k: v for key, value in item.items() for k, v in flat(value, f"{inner}{key}").items()}
    if isinstance(item, (list, tuple)):
        return {k: v for i, value in enumerate(item) for k, v in flat(value, f"{inner}{i}").items()}
    return {}


def test_quantized_tensors_of_pytorch_are_their_values():
    path = FIXTURES / "formats" / "quantized.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = {name: t for name, t in flat(torch.load(path, weights_only=False)).items() if t.is_quantized}
    assert truth
    values, codes = ckpt_tools.load(path), ckpt_tools.load(path, stored=True)
    for name, tensor in truth.items():
        assert np.allclose(values[name], tensor.dequantize().numpy(), rtol=1e-6)
        assert bits(codes[name]) == bits(tensor.int_repr())


@pytest.mark.parametrize("legacy", [False, True])
def test_quantized_tensors_are_their_values_in_pytorch_too(tmp_path, legacy):
    x = torch.randn(6, 5)
    state = {
        "q": torch.quantize_per_tensor(x, 0.03, 2, torch.qint8),
        "u": torch.quantize_per_tensor(x, 0.03, 7, torch.quint8),
        "i": torch.quantize_per_tensor(x, 0.03, 0, torch.qint32),
        "c": torch.quantize_per_channel(x, torch.full((6,), 0.03), torch.zeros(6), 0, torch.qint8),
    }
    torch.save(state, tmp_path / "q.pt", _use_new_zipfile_serialization=not legacy)
    with ckpt_tools.safe_open(tmp_path / "q.pt", "pt") as f:
        for name, tensor in ckpt_tools.load(tmp_path / "q.pt", "pt").items():
            wanted = state[name].dequantize()
            assert tensor.dtype == torch.float32 and torch.allclose(tensor, wanted, rtol=1e-6)
            assert torch.equal(f.get_slice(name)[1:3], tensor[1:3])


def test_keys_that_lead_to_one_name_are_told(tmp_path):
    torch.save({"a.b": torch.zeros(2), "a": {"b": torch.ones(3)}}, tmp_path / "m.pt")
    with pytest.warns(ckpt_tools.CkptWarning, match="two tensors are called `a.b`"):
        assert len(ckpt_tools.load(tmp_path / "m.pt")) == 1
    assert any("two tensors are called `a.b`" in warning for warning in ckpt_tools.inspect(tmp_path / "m.pt").warnings)


def test_quantized_weights_are_their_values_and_stored_ones_their_parts():
    q = torch.randn(256, 384).clamp(-400, 400).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 3) + 0.5
    state = {"layers.0.up_proj.weight": q, "layers.0.up_proj.weight_scale_inv": scale}
    safetensors.torch.save_file(state, "model.safetensors")
    config = '{"model_type": "llama", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}'
    with open("config.json", "w") as file:
        file.write(config)
    wanted = q.float() * scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    with ckpt_tools.safe_open("model.safetensors", "pt") as f:
        assert f.keys() == ["layers.0.up_proj.weight"]
        assert torch.equal(f.get_tensor(f.keys()[0]), wanted)
        assert torch.equal(f.get_slice(f.keys()[0])[100:140, 120:300:7], wanted[100:140, 120:300:7])
    parts = ckpt_tools.load("model.safetensors", "pt", stored=True)
    assert parts.keys() == state.keys()
    for name, tensor in state.items():
        same(parts[name], tensor)


def test_every_type_of_gguf_is_what_its_own_library_makes_of_it():
    import gguf

    path = REPOSITORY / "inspect" / "tests" / "data" / "every_type.gguf"
    reader = gguf.GGUFReader(path)
    values, stored = ckpt_tools.load(path), ckpt_tools.load(path, stored=True)
    compared = 0
    for tensor in reader.tensors:
        try:
            wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, KeyError, ValueError):
            continue
        got = values[tensor.name]
        assert got.shape == wanted.shape, tensor.name
        assert np.array_equal(got.astype(np.float32), wanted.astype(np.float32), equal_nan=True), tensor.name
        assert bits(stored[tensor.name]) == bits(tensor.data), tensor.name
        compared += 1
    assert compared > 20, compared


def test_packed_ternary_matrices_are_their_values():
    packed, whole = FIXTURES / "packed" / "nano-healthy-2000-i2s.pt", HEALTHY
    values, stored = ckpt_tools.load(packed), ckpt_tools.load(packed, stored=True)
    name = next(name for name in values if name.endswith("mlp.up_proj.weight"))
    assert values[name].dtype == np.float32 and len(np.unique(values[name])) <= 3
    assert stored[name].dtype == np.uint8 and stored[name].size * 4 >= values[name].size
    assert values[name].ndim == ckpt_tools.load(whole)[next(iter(ckpt_tools.load(whole)))].ndim == 2


def test_arrays_of_numpys_archives_are_those_that_were_saved():
    arrays = {"a": np.arange(6, dtype=">i4").reshape(2, 3), "b": np.asfortranarray(np.eye(3)), "c": np.float32(2.5)}
    np.savez("plain.npz", **arrays)
    np.savez_compressed("packed.npz", **arrays)
    for name in ["plain.npz", "packed.npz"]:
        read = ckpt_tools.load(name)
        for key, wanted in arrays.items():
            assert np.array_equal(read[key], wanted) and read[key].dtype.isnative, (name, key)


def test_damaged_tensors_say_what_is_damaged_and_the_others_are_read():
    path = FIXTURES / "formats" / "truncated.pt"
    with ckpt_tools.safe_open(path) as f:
        assert f.damage
        states = {}
        for name in f:
            try:
                f.get_tensor(name)
                states[name] = "read"
            except ckpt_tools.DamagedError as error:
                assert error.tensor == name and name in str(error) and os.fspath(path) in str(error)
                assert isinstance(error, OSError)
                with pytest.raises(ckpt_tools.DamagedError):
                    f.get_slice(name)[:1]
                states[name] = "damaged"
    assert set(states.values()) == {"read", "damaged"}
    with pytest.raises(ckpt_tools.DamagedError):
        ckpt_tools.load(path)


def test_nothing_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/executed",))

    with open("evil.pt", "wb") as file:
        pickle.dump({"w": Evil()}, file)
    torch.save({"w": torch.ones(2), "x": Evil()}, "evil2.pt")
    same(ckpt_tools.load("evil2.pt", "pt")["w"], torch.ones(2))
    for name in ["evil.pt", "evil2.pt"]:
        assert not ckpt_tools.scan(name).clean
        ckpt_tools.inspect(name)
    assert not (tmp_path / "executed").exists()


def test_what_is_no_checkpoint_is_a_typed_error():
    with open("text.bin", "w") as file:
        file.write("hello" * 100)
    with pytest.raises(ckpt_tools.UnrecognisedError):
        ckpt_tools.safe_open("text.bin")
    with pytest.raises(FileNotFoundError) as raised:
        ckpt_tools.load("nowhere.pt")
    assert isinstance(raised.value, ckpt_tools.UnreadableError) and raised.value.path == "nowhere.pt"
    with pytest.raises(ckpt_tools.UsageError, match="'np' and 'pt'"):
        ckpt_tools.safe_open(HEALTHY, "jax")
    with pytest.raises(ckpt_tools.UsageError, match="I2_S"):
        ckpt_tools.safe_open(HEALTHY, i2s_layout="odd")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again), again.path) == (type(raised.value), str(raised.value), "nowhere.pt")


@pytest.mark.filterwarnings("ignore")
def test_sparse_tensors_are_pytorchs():
    path = FIXTURES / "formats" / "sparse.pt"
    truth = flat(torch.load(path, weights_only=True))
    sparse = [name for name, t in truth.items() if t.layout is not torch.strided]
    assert sparse
    with ckpt_tools.safe_open(path) as f:
        with pytest.raises(ckpt_tools.UnsupportedError, match="framework='pt'"):
            f.get_tensor(sparse[0])
    read = ckpt_tools.load(path, "pt")
    for name in sparse:
        assert read[name].layout == truth[name].layout
        assert torch.equal(read[name].to_dense(), truth[name].to_dense())


@pytest.mark.filterwarnings("ignore")
def test_every_sparse_layout_is_read(tmp_path):
    torch.manual_seed(0)
    dense = torch.where(torch.rand(6, 8) < 0.4, torch.randn(6, 8), 0)
    truth = {
        "coo": dense.to_sparse_coo(),
        "hybrid": dense.to_sparse(1),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((3, 2)),
        "bsc": dense.to_sparse_bsc((2, 4)),
    }
    torch.save(truth, tmp_path / "sparse.pt")
    read = ckpt_tools.load(tmp_path / "sparse.pt", "pt")
    for name, tensor in truth.items():
        assert read[name].layout == tensor.layout
        assert torch.equal(read[name].to_dense(), dense)


def test_a_forked_process_reads_too():
    """Workers of a DataLoader are forked from a process that has threads."""
    code = """
import os, sys, ckpt_tools, numpy
path = sys.argv[1]
whole = ckpt_tools.load(path)
assert ckpt_tools.inspect(path, cache=False).verdict == "healthy"
child = os.fork()
if child == 0:
    again = ckpt_tools.load(path)
    fine = all(numpy.array_equal(whole[k], again[k]) for k in whole)
    fine = fine and ckpt_tools.inspect(path, cache=False).verdict == "healthy"
    os._exit(0 if fine else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    packed = FIXTURES / "packed" / "nano-healthy-2000-i2s.pt"
    for path in [HEALTHY, packed]:
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, path], check=True, timeout=60)
    assert ckpt_tools.inspect(COLLAPSED).verdict == "weak"


@pytest.mark.parametrize("framework", ["np", "pt"])
def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path, framework):
    path, link = tmp_path / "m.pt", tmp_path / "link.pt"
    old, new = torch.randn(64, 64), torch.full((64, 64), 7.0)
    torch.save({"w": old}, path)
    link.symlink_to(path)
    for name in (path, link):
        torch.save({"w": old}, path)
        opened = ckpt_tools.safe_open(name, framework)
        torch.save({"w": new}, tmp_path / "other.pt")
        os.replace(tmp_path / "other.pt", path)
        same(opened.get_tensor("w"), old)
    # A link that leads elsewhere since.
    torch.save({"w": old}, path)
    opened = ckpt_tools.safe_open(link, framework)
    torch.save({"w": new}, tmp_path / "other.pt")
    link.unlink()
    link.symlink_to(tmp_path / "other.pt")
    same(opened.get_tensor("w"), old)


def test_numbers_of_four_bits_are_those_of_safetensors(tmp_path):
    codes = torch.arange(35, dtype=torch.uint8).reshape(7, 5)
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"w": codes.view(torch.float4_e2m1fn_x2)}, path)
    wanted = safetensors.torch.load_file(path)["w"]
    with ckpt_tools.safe_open(path, "pt") as opened:
        got = opened.get_tensor("w")
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        assert torch.equal(got.view(torch.uint8), codes)
        part = opened.get_slice("w")
        assert part.get_dtype() == "F4"
        assert torch.equal(part[2:4, 1:].view(torch.uint8), codes[2:4, 1:])
    assert np.array_equal(ckpt_tools.load(path)["w"], codes.numpy())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_and_names_in_bytes_are_paths(tmp_path):
    weights = torch.randn(8, 8)
    torch.save({"w": weights}, tmp_path / "m.pt")
    name = os.fsencode(tmp_path) + b"/n\xff\xe9.pt"
    os.rename(tmp_path / "m.pt", name)
    for path in (name, os.fsdecode(name)):
        assert torch.equal(ckpt_tools.load(path, "pt")["w"], weights)
        assert np.array_equal(ckpt_tools.load(path)["w"], weights.numpy())
        assert ckpt_tools.inspect(path).verdict == "healthy"
