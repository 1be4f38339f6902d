"""Why nothing runs in a file that another scanner suspects and ckpt does not. Each reason is a property of the file that is
looked up here, with pickletools, zipfile and tarfile, which execute nothing; which imports are harmless is what ckpt says."""

import bz2
import gzip
import io
import json
import lzma
import pickletools
import re
import tarfile
import zipfile
import zlib

# What makes an unpickler import or call.
CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4"}
# PyTorch's magic number, pickled.
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
UNPACK = {".xz": lzma.decompress, ".bz2": bz2.decompress, ".gz": gzip.decompress}
# Messages about what a text mentions, and not about what a loader does.
MENTIONS = re.compile(r"S30\d|S310|S70\d|S6\d\d|S9\d\d|None: MD5 hash|None: SHA1 hash|None: Potential code injection detected in metadata")


def pickles(data):
    """The opcodes of the pickles one after another in `data`, or None where something else is in it. Behind the five of
    PyTorch's legacy form there are storages."""
    file, found, most = io.BytesIO(data), [], 5 if data.startswith(LEGACY) else None
    try:
        while file.tell() < len(data) and most != 0:
            found += [(code.name, argument) for code, argument, _ in pickletools.genops(file)]
            most = most and most - 1
    except Exception:
        return None
    return found


def until_it_stops(data):
    """The opcodes of the pickle at the beginning of `data`, up to where an unpickler gives up."""
    found = []
    try:
        for code, argument, _ in pickletools.genops(data):
            found.append((code.name, argument))
    except Exception:
        pass
    return found


def imports(opcodes):
    """The names that these opcodes import; None where one can't be told from the texts just before it."""
    names, memo, last = set(), {}, []
    for code, argument in opcodes:
        if code in ("GLOBAL", "INST"):
            names.add(argument.replace(" ", "."))
            last.append(None)
        elif code == "STACK_GLOBAL":
            if len(last) < 2 or None in last[-2:]:
                return None
            names.add(".".join(last[-2:]))
            last.append(None)
        elif code.startswith("EXT"):
            return None
        elif code == "MEMOIZE":
            memo[len(memo)] = last[-1] if last else None
        elif code in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = last[-1] if last else None
        elif code in ("GET", "BINGET", "LONG_BINGET"):
            last.append(memo.get(argument))
        elif code == "STOP":
            memo, last = {}, []
        elif code not in ("PROTO", "FRAME"):
            last.append(argument if isinstance(argument, str) else None)
    return names


def members(path):
    """The members of an archive: names and bytes; nothing where `path` is none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return [(name, archive.read(name)) for name in archive.namelist() if not name.endswith("/")]
        with tarfile.open(path) as archive:
            return [(item.name, archive.extractfile(item).read()) for item in archive.getmembers() if item.isfile()]
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError, zlib.error):
        return []


def programs(path):
    """Everything in a file that is named like a pickle, as opcodes; None where some of it can't be read as such."""
    inside = members(path)
    if not inside:
        return pickles(path.read_bytes())
    found = []
    for name, data in inside:
        if name.endswith((".pkl", ".pickle", ".p")) or "/" not in name and name in ("pickle", "storages", "tensors", "sys_info"):
            opcodes = pickles(data)
            if opcodes is None:
                return None
            found += opcodes
    return found


def data_alone(path, said, harmless):
    """Its pickles import nothing."""
    opcodes = programs(path)
    return opcodes is not None and not any(code in CALLS for code, _ in opcodes) and not others(path)


def others(path):
    """Members of an archive that are neither pickles by their names nor storages to which one refers."""
    inside = dict(members(path))
    objects = [name for name in inside if name.endswith(".pkl")]
    texts = {argument for name in objects for _, argument in pickles(inside[name]) or [] if isinstance(argument, str)}
    known = re.compile(r"(.*/)?(version|byteorder|\.format_version|\.storage_alignment|serialization_id|model\.json|pickle|storages|tensors|sys_info|.*\.(pkl|pickle|p|npy|debug_pkl))$")
    storage = re.compile(r"(.*/)?data/([^/]+)$")
    return [name for name in inside if not known.match(name) and not ((found := storage.match(name)) and found[2] in texts)]


def harmless_imports(path, said, harmless):
    """Its pickles import only what is on ckpt's list."""
    names = imports(programs(path) or [])
    return bool(names) and names <= set(harmless) and not others(path)


def listed(path, said, harmless):
    """The scanner lists what is imported, and all of it is on ckpt's list."""
    return bool(said) and set(said) <= set(harmless)


def storages(path, said, harmless):
    """What is suspected is a storage to which the object refers: the object imports nothing but storages."""
    return harmless_imports(path, said, harmless) and all(name.startswith("torch.") and name.endswith("Storage") for name in harmless)


def sources(path, said, harmless):
    """What is suspected is Python source, or another text, in an archive that names no file to run."""
    inside = members(path)
    texts = [name for name, data in inside if name.endswith((".py", ".txt", ".md", ".bin", ".dat")) or "." not in name.rsplit("/", 1)[-1]]
    manifest = any(name.upper().endswith("MANIFEST.JSON") for name, _ in inside)
    rest = [data for name, data in inside if name not in texts and not name.endswith(("version", ".json"))]
    quiet = all((opcodes := pickles(data)) is not None and not any(code in CALLS for code, _ in opcodes) for data in rest)
    unpickled = [data for name, data in inside if name in texts and not name.endswith(".py") and not data.startswith(b"import ")]
    stop = not any(code in CALLS for data in unpickled for code, _ in until_it_stops(data))
    return bool(texts) and not manifest and quiet and stop


def tensors(path, said, harmless):
    """It holds tensors and texts, which no loader evaluates."""
    head = path.read_bytes()[:4096]
    return path.suffix == ".safetensors" and head[8:9] == b"{" or head[:4] == b"GGUF" and b"chat_template" not in head


def configured(path, said, harmless):
    """A configuration without a key that a loader imports by."""
    text = path.read_bytes()
    if path.suffix == ".json":
        try:
            text = json.dumps(json.loads(text)).encode()
        except ValueError:
            return False
    return path.suffix in (".json", ".yaml", ".yml") and not re.search(rb"_target_|auto_map|class_name|__module__|handler|modelFile|template|target|class_path|!!python|%TAG", text)


def written(path, said, harmless):
    """A text that is no pickle."""
    return path.suffix in (".json", ".yaml", ".yml") and path.read_bytes().isascii() and pickles(path.read_bytes()) is None


def stops(path, said, harmless):
    """What is unpacked begins with a text, at which an unpickler stops before it imports anything."""
    unpack = UNPACK.get(path.suffix)
    return bool(unpack) and not any(code in CALLS for code, _ in until_it_stops(unpack(path.read_bytes())))


def always(path, said, harmless):
    """What it said is enough."""
    return True


def registered(path, said, harmless):
    """A model of Keras whose classes the caller has to register; what it says of functions are plain texts."""
    config = next((data for name, data in members(path) if name == "config.json"), b"")
    called = set(re.findall(rb'"class_name":\s*"(\w+)"', config))
    runs = {b"function", b"Lambda", b"__lambda__", b"TorchModuleWrapper", b"TFSMLayer", b"StringLookup", b"TFOpLambda"}
    return bool(config) and not called & runs and not any(name.endswith(".h5") for name, _ in members(path))


def small(path, said, harmless):
    """Its object has no more values than the pickle has opcodes."""
    opcodes = programs(path)
    return opcodes is not None and not any(code in CALLS for code, _ in opcodes)


def no_pickle(path, said, harmless):
    """It is no pickle."""
    return pickles(path.read_bytes()) is None


# Whom a reason answers, what all of its messages have to be like, what is looked up, and the reason.
REASONS = [
    ("fickling", "ExpansionAttackAnalysis", small, "it repeats references, and imports nothing"),
    ("picklescan fickling modelscan modelaudit", None, data_alone, "it imports nothing: what looks like code or a pickle is a text, a byte string or a storage in it"),
    ("modelaudit", None, storages, "what is suspected is a storage, which PyTorch reads as numbers and nothing unpickles"),
    ("picklescan fickling modelscan modelaudit", None, harmless_imports, "it imports only what is known to be harmless"),
    ("picklescan", None, listed, "it imports only what is known to be harmless"),
    ("modelaudit fickling", None, tensors, "it holds tensors and texts, which no loader evaluates"),
    ("modelaudit fickling", None, sources, "what is suspected is Python source or text in an archive that names nothing to run"),
    ("picklescan fickling modelaudit", None, configured, "it mentions hashes, addresses or code, in texts by which nothing is imported"),
    ("picklescan", None, written, "it is a text, of which the first line reads like an import"),
    ("modelaudit", None, registered, "it names classes of Keras' or the caller's, and no function"),
    ("modelaudit", None, stops, "what is unpacked begins with a text, at which an unpickler stops"),
    ("modelaudit", re.compile("S410"), always, "it is highly compressed, which is not a program"),
    ("modelaudit", re.compile("S501: Python operator in ONNX|S902: Model uses Python op"), always, "it names an operator that only a host which registers it has"),
    ("modelaudit", re.compile("None: Suspicious library reference in MXNet graph"), always, "it mentions a library, which MXNet loads only when it is called to"),
    ("modelaudit", MENTIONS, no_pickle, "it mentions hashes, addresses or secrets, or its name does not match its content"),
    ("fickling", None, no_pickle, "it is not a pickle from beginning to end; fickling reads every file as one"),
]


def why_not(path, scanner, said, harmless):
    """Why nothing runs in the file that `scanner` suspects, having `said` that; None where no reason is known."""
    for scanners, pattern, holds, reason in REASONS:
        told = pattern is None or said and all(re.match(pattern, message) for message in said)
        if scanner in scanners.split() and told and holds(path, said, harmless):
            return reason
    return None
