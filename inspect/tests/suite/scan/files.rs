//! Files to scan, malicious and benign, assembled opcode by opcode and header by header. Nothing here was ever
//! unpickled, and what the malicious ones would do is harmless: they run `id`.

use ckpt_kit::gguf::Gguf;
use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{bytes8, global, pickle, short_text};
use ckpt_kit::safetensors::raw;
use ckpt_kit::tar::tar;
use ckpt_kit::torch::{MAGIC, legacy_of};
use ckpt_kit::zip::{Entry, entry, zip};

/// A file of the set.
pub struct File {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// What it tries, or its contents.
    pub about: &'static str,
    pub malicious: bool,
}

fn bad(name: &'static str, about: &'static str, bytes: impl Into<Vec<u8>>) -> File {
    File { name, about, bytes: bytes.into(), malicious: true }
}

fn good(name: &'static str, about: &'static str, bytes: impl Into<Vec<u8>>) -> File {
    File { name, about, bytes: bytes.into(), malicious: false }
}

/// Protocol 4: `module.name(argument)`, the import by STACK_GLOBAL.
fn call(module: &str, name: &str, argument: &str) -> Vec<u8> {
    [&b"\x80\x04"[..], &short_text(module), &short_text(name), b"\x93", &short_text(argument), b"\x85R."]
        .concat()
}

/// Protocol 2: `os.system('id')` without header or STOP.
fn payload() -> Vec<u8> {
    [&global("posix", "system")[..], b"U\x02id\x85R"].concat()
}

/// Protocol 2: the pickle whose body is `body`.
fn p2(body: &[u8]) -> Vec<u8> {
    pickle(2, body)
}

fn evil() -> Vec<u8> {
    p2(&payload())
}

/// A state dict of one tensor on storage 0, protocol 2, as `torch.save` writes it.
fn state_dict() -> Vec<u8> {
    let mut out = b"\x80\x02}q\0X\x01\0\0\0wq\x01".to_vec();
    out.extend(b"ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storageq\x03ctorch\nFloatStorage\nq\x04X\x01\0\0\x000q\x05X\x03\0\0\0cpuq\x06K\x02tq\x07QK\0K\x02\x85q\x08K\x01\x85q\x09\x89ccollections\nOrderedDict\nq\n)Rq\x0btq\x0cRq\rs.");
    out
}

/// A PyTorch file around `object`.
fn torch(object: Vec<u8>, more: &[Entry]) -> Vec<u8> {
    let mut entries = vec![
        entry("m/data.pkl", object),
        entry("m/byteorder", *b"little"),
        entry("m/data/0", [0, 0, 128, 63, 0, 0, 0, 64]),
        entry("m/version", *b"3\n"),
    ];
    entries.extend_from_slice(more);
    zip(&entries)
}

/// A legacy file: magic number, protocol, `system` info, `object`, no storage keys.
fn legacy(magic: &[u8], system: &[u8], object: &[u8]) -> Vec<u8> {
    let file = legacy_of(system, object, b"\x80\x02].");
    [magic, &file[MAGIC.len()..]].concat()
}

/// An array of numbers as joblib pickles it: the wrapper, its state, one byte that says how many align, the elements.
fn joblib(elements: &[u8]) -> Vec<u8> {
    let mut out = joblib_array("f8", elements.len() / 8);
    out.extend([3, 0xff, 0xff, 0xff]);
    out.extend(elements);
    out.extend(b"s");
    out
}

/// An array of objects as joblib pickles it: the objects are the pickle `objects`.
fn joblib_objects(objects: &[u8]) -> Vec<u8> {
    [&joblib_array("O8", 1)[..], objects, b"s"].concat()
}

/// An array of joblib whose wrapper comes from `make`, and whose bytes hide the call after them from readers that take
/// them for opcodes.
fn joblib_swallows(make: &[u8], shape: &[u8], size: i32) -> Vec<u8> {
    let call = [&b"0"[..], &bare()].concat();
    [
        &b"\x80\x04"[..],
        make,
        b"}(",
        &short_text("shape"),
        shape,
        &short_text("dtype"),
        &short_text("numpy"),
        &short_text("dtype"),
        b"\x93",
        &short_text("V2"),
        b"\x89\x88\x87R(K\x03",
        &short_text("|"),
        b"NNNJ",
        &size.to_le_bytes(),
        b"K\x01K\0tb",
        b"ub",
        &[b'C', call.len() as u8],
        &call,
        b"0.",
    ]
    .concat()
}

fn joblib_array(dtype: &str, elements: usize) -> Vec<u8> {
    let mut out = b"\x80\x04}".to_vec();
    out.extend(short_text("weights"));
    out.extend([short_text("joblib.numpy_pickle"), short_text("NumpyArrayWrapper")].concat());
    out.extend(b"\x93)\x81}(");
    out.extend([short_text("subclass"), short_text("numpy"), short_text("ndarray"), vec![0x93]].concat());
    out.extend([&short_text("shape")[..], b"K", &[elements as u8], b"\x85"].concat());
    out.extend([short_text("order"), short_text("C")].concat());
    out.extend([short_text("dtype"), short_text("numpy"), short_text("dtype"), vec![0x93]].concat());
    out.extend(
        [
            &short_text(dtype)[..],
            b"\x89\x88\x87R(K\x03",
            &short_text("<"),
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
        ]
        .concat(),
    );
    out.extend([&short_text("allow_mmap")[..], b"\x88"].concat());
    out.extend([&short_text("numpy_array_alignment_bytes")[..], b"K\x10"].concat());
    out.extend(b"ub");
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A GGUF file of one string key and no tensors.
pub fn gguf(key: &str, value: &str) -> Vec<u8> {
    Gguf::new().key_text(key, value).bytes()
}

/// Every file of the set.
pub fn all() -> Vec<File> {
    let mut files = opcodes();
    files.extend(imports());
    files.extend(broken());
    files.extend(handed_on());
    files.extend(containers());
    files.extend(several_readings());
    files.extend(taken_for_harmless());
    files.extend(benign());
    files
}

/// The ways in which opcodes import and call.
fn opcodes() -> Vec<File> {
    let memoised = [
        &b"\x80\x04"[..],
        &short_text("posix"),
        b"\x94",
        &short_text("system"),
        b"\x9400h\0h\x01\x93",
        &short_text("id"),
        b"\x85R.",
    ];
    let far_memo = [
        &b"\x80\x02"[..],
        b"X\x05\0\0\0posixr\x10\x27\0\0X\x06\0\0\0systemq\x0700j\x10\x27\0\0h\x07\x93U\x02id\x85R.",
    ];
    vec![
        bad("global-p0.pkl", "GLOBAL and REDUCE, protocol 0", *b"cos\nsystem\n(S'id'\ntR."),
        bad("global-p2.pkl", "GLOBAL and REDUCE, protocol 2", evil()),
        bad("stack-global.pkl", "STACK_GLOBAL", call("posix", "system", "id")),
        bad("stack-global-memo.pkl", "STACK_GLOBAL on memoised strings", memoised.concat()),
        bad("stack-global-far-memo.pkl", "STACK_GLOBAL on LONG_BINPUT and BINPUT", far_memo.concat()),
        bad(
            "stack-global-escapes.pkl",
            "STACK_GLOBAL on UNICODE with \\u escapes",
            *b"\x80\x04V\\u0070osi\\u0078\nV\\u0073ystem\n\x93V\\u0069d\n\x85R.",
        ),
        bad("inst.pkl", "INST", *b"(S'id'\nios\nsystem\n."),
        bad("obj.pkl", "OBJ", *b"(cos\nsystem\nS'id'\no."),
        bad("newobj.pkl", "NEWOBJ", p2(&[&global("subprocess", "Popen")[..], b"U\x02id\x85\x81"].concat())),
        bad(
            "newobj-ex.pkl",
            "NEWOBJ_EX",
            [
                &b"\x80\x04"[..],
                &short_text("subprocess"),
                &short_text("Popen"),
                b"\x93",
                &short_text("id"),
                b"\x85}",
                &short_text("shell"),
                b"\x88s\x92.",
            ]
            .concat(),
        ),
        bad(
            "getattr-chain.pkl",
            "getattr(__import__('os'), 'system')('id')",
            p2(&[
                &global("__builtin__", "getattr")[..],
                &global("__builtin__", "__import__"),
                b"U\x02os\x85RU\x06system\x86RU\x02id\x85R",
            ]
            .concat()),
        ),
        bad(
            "attrgetter.pkl",
            "operator.attrgetter('system')(__import__('os'))('id')",
            p2(&[
                &global("operator", "attrgetter")[..],
                b"U\x06system\x85R",
                &global("builtins", "__import__"),
                b"U\x02os\x85R\x85RU\x02id\x85R",
            ]
            .concat()),
        ),
        bad(
            "dotted-name.pkl",
            "a name that is a path: torch, serialization.os.system",
            call("torch", "serialization.os.system", "id"),
        ),
        bad(
            "popped.pkl",
            "the call's result is popped; a dict remains",
            p2(&[&payload()[..], b"0}"].concat()),
        ),
        bad(
            "in-a-list.pkl",
            "between plain values",
            p2(&[&b"](K\x01U\x01a"[..], &payload(), b"K\x02e"].concat()),
        ),
        bad("as-a-key.pkl", "as the key of a dict", p2(&[&b"}"[..], &payload(), b"K\x02s"].concat())),
        bad("extension.pkl", "EXT1: an import by number", *b"\x80\x02\x82\x07)R."),
        bad(
            "changed-class.pkl",
            "BUILD sets attributes of an imported class",
            p2(&[
                &global("collections", "OrderedDict")[..],
                b"N}U\x07__len__",
                &global("collections", "Counter"),
                b"s\x86b",
            ]
            .concat()),
        ),
        bad(
            "underscored-int.pkl",
            "a number that Python reads and others may not, then the call",
            [&b"I1_0\n0"[..], b"cos\nsystem\n(S'id'\ntR."].concat(),
        ),
        bad(
            "underscored-index.pkl",
            "a memo index that Python reads and others may not, then the call",
            [&b"I1\np1_0\n0g +10 \n0"[..], &bare()].concat(),
        ),
        bad(
            "far-index.bin",
            "a memo index beyond 64 bits, then the call",
            [
                &b"I0x1_f\np00018446744073709551616\n0L-0b1L\nF 1_0.5 \ng18446744073709551616\n000"[..],
                &bare(),
            ]
            .concat(),
        ),
        bad(
            "frame-lies.pkl",
            "a frame that ends before the call",
            [&b"\x80\x04\x95\x03\0\0\0\0\0\0\0N0"[..], &call("posix", "system", "id")[2..]].concat(),
        ),
        bad(
            "append-to-object.pkl",
            "appends to an instance, then calls",
            p2(&[&global("argparse", "Namespace")[..], b")RK\x01a0", &payload()].concat()),
        ),
        bad("stray-proto.pkl", "PROTO within", p2(&[&b"}\x80\x03"[..], &payload()].concat())),
        bad(
            "laughs.pkl",
            "a tuple of tuples that unfolds to 2^60 values",
            p2(&[&b"K\x01"[..], &b"2\x86".repeat(60)].concat()),
        ),
    ]
}

/// What is imported.
fn imports() -> Vec<File> {
    vec![
        bad(
            "eval-p2.pkl",
            "__builtin__.eval",
            p2(&[&global("__builtin__", "eval")[..], b"U\x011\x85R"].concat()),
        ),
        bad("eval-p4.pkl", "builtins.eval", call("builtins", "eval", "1")),
        bad("exec.pkl", "builtins.exec", call("builtins", "exec", "1")),
        bad("compile.pkl", "builtins.compile", call("builtins", "compile", "1")),
        bad("open.pkl", "builtins.open", call("builtins", "open", "x")),
        bad(
            "partial.pkl",
            "functools.partial of posix.system",
            p2(&[&global("functools", "partial")[..], &global("posix", "system"), b"U\x02id\x86R"].concat()),
        ),
        bad("runpy.pkl", "runpy._run_code", call("runpy", "_run_code", "1")),
        bad("webbrowser.pkl", "webbrowser.open", call("webbrowser", "open", "x")),
        bad("httplib.pkl", "httplib.HTTPSConnection", call("httplib", "HTTPSConnection", "x")),
        bad("urlopen.pkl", "urllib.request.urlopen", call("urllib.request", "urlopen", "x")),
        bad("socket.pkl", "socket.create_connection", call("socket", "create_connection", "x")),
        bad("ctypes.pkl", "ctypes.CDLL", call("ctypes", "CDLL", "x")),
        bad("rmtree.pkl", "shutil.rmtree", call("shutil", "rmtree", "x")),
        bad("fileio.pkl", "_io.FileIO", call("_io", "FileIO", "x")),
        bad("filehandler.pkl", "logging.FileHandler", call("logging", "FileHandler", "x")),
        bad("resolve-name.pkl", "pkgutil.resolve_name", call("pkgutil", "resolve_name", "os:system")),
        bad("uuid.pkl", "uuid._get_command_stdout", call("uuid", "_get_command_stdout", "id")),
        bad("timeit.pkl", "timeit.timeit", call("timeit", "timeit", "1")),
        bad("pip.pkl", "pip.main", call("pip", "main", "x")),
        bad("pty.pkl", "pty.spawn", call("pty", "spawn", "id")),
        bad("code-type.pkl", "types.CodeType", call("types", "CodeType", "x")),
        bad("marshal.pkl", "marshal.loads", call("marshal", "loads", "x")),
        bad(
            "make-function.pkl",
            "cloudpickle.cloudpickle._make_function",
            call("cloudpickle.cloudpickle", "_make_function", "x"),
        ),
        bad(
            "asyncio.pkl",
            "asyncio.unix_events._UnixSubprocessTransport._start",
            call("asyncio.unix_events", "_UnixSubprocessTransport._start", "id"),
        ),
        bad(
            "runstring.pkl",
            "numpy.testing._private.utils.runstring",
            call("numpy.testing._private.utils", "runstring", "1"),
        ),
        bad(
            "f2py.pkl",
            "numpy.f2py.crackfortran.getlincoef",
            call("numpy.f2py.crackfortran", "getlincoef", "1"),
        ),
        bad("torch-hub.pkl", "torch.hub.load", call("torch.hub", "load", "x")),
        bad("torch-load.pkl", "torch.load", call("torch", "load", "x")),
        bad("serialization-load.pkl", "torch.serialization.load", call("torch.serialization", "load", "x")),
        bad(
            "load-config.pkl",
            "torch.utils._config_module.ConfigModule.load_config",
            call("torch.utils._config_module", "ConfigModule.load_config", "x"),
        ),
        bad(
            "exec-wrapper.pkl",
            "torch.jit.unsupported_tensor_ops.execWrapper",
            call("torch.jit.unsupported_tensor_ops", "execWrapper", "1"),
        ),
        bad(
            "compile-file.pkl",
            "torch._inductor.codecache.compile_file",
            call("torch._inductor.codecache", "compile_file", "x"),
        ),
        bad("collect-env.pkl", "torch.utils.collect_env.run", call("torch.utils.collect_env", "run", "id")),
        bad(
            "shape-env.pkl",
            "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression",
            call("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", "1"),
        ),
        bad(
            "idlelib.pkl",
            "idlelib.pyshell.ModifiedInterpreter.runcode",
            call("idlelib.pyshell", "ModifiedInterpreter.runcode", "1"),
        ),
        bad(
            "grammar-loads.pkl",
            "lib2to3.pgen2.grammar.Grammar.loads",
            call("lib2to3.pgen2.grammar", "Grammar.loads", "x"),
        ),
        bad(
            "disarm.pkl",
            "fickling.hook.deactivate_safe_ml_environment",
            call("fickling.hook", "deactivate_safe_ml_environment", "x"),
        ),
        bad("unknown.pkl", "a package of the attacker's", call("totally_fine", "Config", "x")),
    ]
}

/// Pickles that end in an error, and pickles in odd places.
fn broken() -> Vec<File> {
    let nested = |inner: &[u8]| {
        p2(&[&global("torch.storage", "_load_from_bytes")[..], &bytes8(inner), b"\x85R"].concat())
    };
    vec![
        bad(
            "invalid-opcode.pkl",
            "an opcode that is none after the call",
            [&evil()[..evil().len() - 1], b"\xff\xff"].concat(),
        ),
        bad("no-stop.pkl", "ends after the call", evil()[..evil().len() - 1].to_vec()),
        bad(
            "memo-missing.pkl",
            "reads a memo entry that is not there, after the call",
            p2(&[&payload()[..], b"h\x63"].concat()),
        ),
        bad(
            "underflow.pkl",
            "pops more than there is, after the call",
            p2(&[&payload()[..], b"0000"].concat()),
        ),
        bad("not-a-name.pkl", "STACK_GLOBAL on a number", *b"\x80\x04K\x01K\x02\x93."),
        bad("after-stop.pkl", "a second pickle after STOP", [p2(b"}"), evil()].concat()),
        bad(
            "after-junk.pkl",
            "bytes after STOP that are no pickle",
            [&p2(b"}")[..], b"\xfe\xfe\xfe junk"].concat(),
        ),
        bad(
            "loads-bytes.pkl",
            "pickle.loads on a pickle in bytes",
            p2(&[&global("pickle", "loads")[..], &bytes8(&evil()), b"\x85R"].concat()),
        ),
        bad("nested-bare.pkl", "_load_from_bytes on a pickle", nested(&evil())),
        bad(
            "nested-legacy.pkl",
            "_load_from_bytes on a legacy file",
            nested(&legacy(MAGIC, &p2(b"}"), &evil())),
        ),
        bad("nested-zip.pkl", "_load_from_bytes on a zip", nested(&torch(evil(), &[]))),
        bad("bytes.pkl", "a pickle in a byte string, for something else to load", p2(&bytes8(&evil()))),
        bad("legacy-object.pt", "legacy, in the object", legacy(MAGIC, &p2(b"}"), &evil())),
        bad("legacy-system.pt", "legacy, in the system info", legacy(MAGIC, &evil(), &state_dict())),
        bad(
            "legacy-magic.pt",
            "legacy, the magic number is a call",
            legacy(&evil(), &p2(b"}"), &state_dict()),
        ),
        bad("protocol-0.bin", "protocol 0 called .bin", *b"cos\nsystem\n(S'id'\ntR."),
        bad(
            "joblib.pkl",
            "after an array of joblib's",
            [joblib(&[0x2e; 40]), payload(), b"0.".to_vec()].concat(),
        ),
        bad(
            "joblib-objects.pkl",
            "in an array of objects of joblib's",
            [joblib_objects(&evil()), b".".to_vec()].concat(),
        ),
        bad("objects.npy", "a NumPy array of objects", npy("\'|O\'", false, "(1,)", &evil())),
        bad("compressed.pkl.gz", "compressed with gzip", gzip(&evil())),
        bad("compressed.joblib", "compressed with zlib", zlib(&evil())),
    ]
}

/// Protocol 3: `body` without header or STOP.
fn p3(body: &[&[u8]]) -> Vec<u8> {
    pickle(3, &body.concat())
}

/// A pickle of protocol 0, which has no magic bytes.
fn bare() -> Vec<u8> {
    b"cposix\nsystem\n(S'id'\ntR.".to_vec()
}

/// `builtins.bytes((…))` or the like.
fn made_of_integers(class: &str, bytes: &[u8]) -> Vec<u8> {
    let integers: Vec<u8> = bytes.iter().flat_map(|&byte| [b'K', byte]).collect();
    [&global("builtins", class)[..], b"(", &integers, b"t\x85R"].concat()
}

/// `_codecs.encode(text, 'latin1')`.
fn encoded(bytes: &[u8]) -> Vec<u8> {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let length = (text.len() as u32).to_le_bytes();
    [&global("_codecs", "encode")[..], b"X", &length, text.as_bytes(), b"X\x06\0\0\0latin1\x86R"].concat()
}

/// Loaders that are passed to harmless callables, and bytes that calls make.
fn handed_on() -> Vec<File> {
    let load = global("torch.storage", "_load_from_bytes");
    let int = global("builtins", "int");
    let rebuild = global("torch._tensor", "_rebuild_from_type_v2");
    let short = |bytes: &[u8]| [&[b'C', bytes.len() as u8], bytes].concat();
    let rebuilt = |bytes: &[u8]| p3(&[&rebuild, b"(", &load, &int, bytes, b"\x85}tR"]);
    let constructed =
        p3(&[&global("numpy.random._pickle", "__generator_ctor"), b"(", &short(&bare()), &load, b"tR"]);
    let first =
        p3(&[&global("torch._tensor", "_rebuild_from_type"), b"(", &load, &int, &short(&bare()), b"\x85}tR"]);
    let wrapper = |name: &str| {
        p3(&[
            &global("joblib.numpy_pickle", "NDArrayWrapper"),
            b")\x81}(U\x08filename",
            &[b'U', name.len() as u8],
            name.as_bytes(),
            b"U\x08subclass",
            &global("numpy", "ndarray"),
            b"ub",
        ])
    };
    let class =
        [short_text("joblib.numpy_pickle"), short_text("NumpyArrayWrapper"), b"\x93".to_vec()].concat();
    let made = [&class[..], b")\x81"].concat();
    let remade =
        [&global("copyreg", "_reconstructor")[..], &class, &global("builtins", "object"), b"N\x87R"].concat();
    let grown = [
        &b"\x80\x05"[..],
        &load,
        b"\x96\0\0\0\0\0\0\0\0(",
        &bare().iter().flat_map(|&byte| [b'K', byte]).collect::<Vec<u8>>(),
        b"e\x85R.",
    ];
    let in_a_class = [MAGIC, b"\x80\x02M\xe9\x03.", &p2(b"}")].concat();
    let object = p2(&[&b"(U\x06module"[..], &load, b"U\x01xU\x01xtQU\x01x\x85R"].concat());
    vec![
        bad(
            "handed-rebuild.pkl",
            "_load_from_bytes handed to _rebuild_from_type_v2",
            rebuilt(&short(&bare())),
        ),
        bad("handed-rebuild-v1.pkl", "_load_from_bytes handed to _rebuild_from_type", first),
        bad(
            "handed-constructor.pkl",
            "_load_from_bytes handed to NumPy's __generator_ctor",
            constructed.clone(),
        ),
        bad("handed-constructor.pt", "the same in PyTorch's zip", torch(constructed, &[])),
        bad("handed-encoded.pkl", "on bytes that _codecs.encode makes", rebuilt(&encoded(&bare()))),
        bad(
            "handed-encoded-p2.pkl",
            "on bytes with a header that _codecs.encode makes",
            rebuilt(&encoded(&evil())),
        ),
        bad("handed-integers.pkl", "on bytes made of integers", rebuilt(&made_of_integers("bytes", &bare()))),
        bad(
            "handed-factory.pkl",
            "_load_from_bytes as a defaultdict's factory",
            p3(&[&global("collections", "defaultdict"), &load, b"\x85R"]),
        ),
        bad(
            "handed-state.pkl",
            "_load_from_bytes as a layer's forward",
            p3(&[&global("torch.nn.modules.linear", "Linear"), b")\x81}U\x07forward", &load, b"sb"]),
        ),
        bad(
            "called-class.pt",
            "legacy, _load_from_bytes as the class of a persistent id",
            [&in_a_class[..], &object, b"\x80\x02]."].concat(),
        ),
        bad(
            "loads-integers.pkl",
            "_load_from_bytes on bytes made of integers",
            p3(&[&load, &made_of_integers("bytearray", &bare()), b"\x85R"]),
        ),
        bad("loads-grown.pkl", "_load_from_bytes on a bytearray that APPENDS fills", grown.concat()),
        bad(
            "loads-encoded.pkl",
            "_load_from_bytes on bytes that _codecs.encode makes",
            p3(&[&load, &encoded(&bare()), b"\x85R"]),
        ),
        bad(
            "array-remade.pkl",
            "joblib's wrapper of an array, made by _reconstructor",
            joblib_swallows(&remade, b"K\x01\x85", -1),
        ),
        bad(
            "array-of-no-size.pkl",
            "joblib's array of a size that is computed",
            joblib_swallows(&made, &[&global("builtins", "tuple")[..], b"]K\x01a\x85R"].concat(), -1),
        ),
        bad(
            "array-resized.pkl",
            "joblib's array of a type whose state gives it another size",
            joblib_swallows(&made, b"K\x00\x85", 200),
        ),
        bad("array-elsewhere.pkl", "joblib loads an array from /etc", wrapper("/etc/evil.npy")),
        bad("array-above.pkl", "joblib loads an array from the folder above", wrapper("../evil.npy")),
    ]
}

/// SafeTensors whose length, header and tensor are one pickle: SHORT_BINBYTES up to the header's text, there a UNICODE
/// up to its last character, a line feed, and the payload in the tensor.
fn safetensors_and_pickle() -> Vec<u8> {
    let start = r#"{"__metadata__":{"a":"V"#;
    let end = "\"},\"w\":{\"dtype\":\"U8\",\"shape\":[64],\"data_offsets\":[0,64]}}\n";
    // The bytes to skip are five of the length and all before the V.
    let skipped = 6 + start.len() - 1;
    let length = usize::from(b'C') + 256 * skipped;
    let mut data = [b"0", &payload()[..], b"."].concat();
    data.resize(64, 0);
    raw(&format!("{start}{}{end}", "x".repeat(length - start.len() - end.len())), &data)
}

/// Files that are one thing to one loader and a pickle to another.
fn several_readings() -> Vec<File> {
    // G is BINFLOAT.
    let gguf = [&b"GGUF\x03\0\0\0\x000"[..], &payload(), b"."].concat();
    let loads = p2(&[&global("torch.storage", "_load_from_bytes")[..], &bytes8(&gguf), b"\x85R"].concat());
    let plain = legacy_of_one_storage();
    vec![
        bad("gguf-first.pt", "a data.pkl that begins as GGUF does", torch(gguf.clone(), &[])),
        bad("gguf-first.pkl.gz", "the same compressed with gzip", gzip(&gguf)),
        bad("gguf-first.pkl", "the same in bytes for _load_from_bytes", loads),
        bad("gguf-first.bin", "the same by itself", gguf),
        bad("both.safetensors", "SafeTensors that is a pickle, too", safetensors_and_pickle()),
        bad("both", "the same without an extension", safetensors_and_pickle()),
        bad("protocol-9.pkl", "protocol 9", [&b"\x80\x09"[..], &payload(), b"."].concat()),
        bad("protocol-255.pkl", "protocol 255", [&b"\x80\xff"[..], &payload(), b"."].concat()),
        bad("legacy-after.pt", "legacy, a pickle after the storages", [&plain[..], &evil()].concat()),
        bad(
            "legacy-after-p0.pt",
            "legacy, a pickle without a header after the storages",
            [&plain[..], &bare()].concat(),
        ),
        bad("legacy-junk.pt", "legacy, bytes after the storages", [&plain[..], b"hello"].concat()),
        bad(
            "implausible-later.safetensors",
            "SafeTensors that is a pickle, with an impossible import after the call",
            {
                let mut file = safetensors_and_pickle();
                let at = file.len() - 64 + payload().len() + 1;
                file[at..at + 6].copy_from_slice(b"c?\n?\n.");
                file
            },
        ),
    ]
}

/// A tar whose headers are as old as version 7 of Unix: nothing after the link's name.
fn old_tar(entries: &[ckpt_kit::tar::Entry<'_>]) -> Vec<u8> {
    let mut bytes = tar(entries);
    for header in bytes.chunks_exact_mut(512).filter(|header| &header[257..262] == b"ustar") {
        header[257..].fill(0);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    bytes
}

/// Two archives: `second` is the comment of `first`, and announces a comment that does not fit.
fn archive_in_a_comment(mut first: Vec<u8>, mut second: Vec<u8>) -> Vec<u8> {
    let (by, end) = (first.len() as u32, first.len() - 2);
    first[end..].copy_from_slice(&(second.len() as u16).to_le_bytes());
    let places = |signature: &[u8]| -> Vec<usize> {
        second.windows(4).enumerate().filter(|(_, w)| *w == signature).map(|(at, _)| at).collect()
    };
    let mut offsets: Vec<usize> = places(b"PK\x01\x02").iter().map(|at| at + 42).collect();
    offsets.push(places(b"PK\x05\x06")[0] + 16);
    for at in offsets {
        let offset = u32::from_le_bytes(second[at..at + 4].try_into().unwrap()) + by;
        second[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }
    let end = second.len() - 2;
    second[end] = 1;
    [first, second].concat()
}

/// `torch.storage._load_from_bytes` on what `bytes` makes.
fn loads(bytes: &[u8]) -> Vec<u8> {
    p3(&[&global("torch.storage", "_load_from_bytes"), bytes, b"\x85R"])
}

/// What scanners take for harmless by its name, by its first reader, or before it has changed.
fn taken_for_harmless() -> Vec<File> {
    let set: Vec<u8> =
        bare().iter().enumerate().flat_map(|(i, &byte)| [b'K', i as u8, b'K', byte, b's']).collect();
    let zeros = b"K\0".repeat(bare().len());
    let set_later = [&global("builtins", "bytes")[..], b"](", &zeros, b"e", &set, b"\x85R"].concat();
    let integers: Vec<u8> = bare().iter().flat_map(|&byte| [b'K', byte]).collect();
    // The list holds something harmless, but only after bytes were made of it.
    let changed: Vec<u8> =
        b"}.".iter().enumerate().flat_map(|(i, &b)| [b'K', i as u8, b'K', b, b's']).collect();
    let changed_later = [
        &b"]q\0("[..],
        &integers,
        b"e0",
        &global("builtins", "bytes"),
        b"h\0\x85Rq\x010h\0",
        &changed,
        b"0h\x01",
    ]
    .concat();
    let ignored = |make: &[u8]| {
        let text = String::from_utf8(bare()).unwrap() + "\u{e9}";
        let length = (text.len() as u32).to_le_bytes();
        loads(&[make, b"X", &length, text.as_bytes(), b"X\x05\0\0\0asciiX\x06\0\0\0ignore\x87R"].concat())
    };
    let skipped = [&b"cos\nsystem\n"[..], &short_text("id"), b"\x85R."].concat();
    let array = p2(&[
        &global("joblib.numpy_pickle", "NumpyArrayWrapper")[..],
        b")\x81}(U\x05shapeK",
        &[skipped.len() as u8],
        b"\x85U\x05dtype",
        &global("numpy", "dtype"),
        b"U\x02u1\x89\x88\x87Rub",
        &skipped,
    ]
    .concat());
    let script = |code: &str| {
        zip(&[
            entry("s/data.pkl", p2(b"}")),
            entry("s/constants.pkl", p2(b")")),
            entry("s/code/__torch__.py", code),
        ])
    };
    let of_script = p2(&[&global("torch.jit._pickle", "__builtins__.get")[..], b"U\x04eval\x85R"].concat());
    vec![
        bad(
            "number.npz",
            "an array of objects called 0",
            zip(&[entry("0", npy("\'|O\'", false, "(1,)", &evil()))]),
        ),
        bad("zip-number.zip", "a zip called 0 in a zip", zip(&[entry("0", torch(evil(), &[]))])),
        bad("number.zip", "a pickle without a header called 0", zip(&[entry("0", bare())])),
        bad("number.tar", "the same in a tar", tar(&[("0", &bare(), None)])),
        bad(
            "unreferred.pt",
            "a pickle among the storages, to which no tensor refers",
            torch(state_dict(), &[entry("m/data/7", bare())]),
        ),
        bad(
            "oldest-v7.pt",
            "PyTorch's oldest form in a tar without `ustar`",
            old_tar(&[
                ("storages", b"\x80\x02K\0.", None),
                ("tensors", b"\x80\x02K\0.", None),
                ("pickle", &evil(), None),
            ]),
        ),
        bad(
            "comment.pt",
            "an archive in the comment of another, whose own comment does not fit",
            archive_in_a_comment(torch(state_dict(), &[]), torch(evil(), &[])),
        ),
        bad(
            "nearly-script.pt",
            "an entry that ends like TorchScript's marker",
            torch(of_script.clone(), &[entry("m/xconstants.pkl", p2(b")"))]),
        ),
        bad(
            "script-elsewhere.pt",
            "TorchScript's marker in another folder",
            torch(of_script.clone(), &[entry("n/constants.pkl", p2(b")"))]),
        ),
        bad(
            "script-path.pt",
            "TorchScript whose object imports by a path of attributes",
            zip(&[entry("s/data.pkl", of_script), entry("s/constants.pkl", p2(b")"))]),
        ),
        bad("script-spaced.pt", "TorchScript with spaces", script("y = torch . save (x, \"p\")\n")),
        bad(
            "script-aten.pt",
            "TorchScript that calls aten::from_file",
            script("y = ops.aten.from_file(\"p\")\n"),
        ),
        bad("list-set.pkl", "_load_from_bytes on bytes of a list that SETITEM fills", loads(&set_later)),
        bad(
            "list-changed.pkl",
            "_load_from_bytes on bytes of a list that changes later",
            loads(&changed_later),
        ),
        bad("array-opcodes.pkl", "an array of joblib's that is opcodes to others", array.clone()),
        bad("array-opcodes.pt", "the same in PyTorch's zip", torch(array, &[])),
        bad("ignored.pkl", "bytes(text, 'ascii', 'ignore')", ignored(&global("builtins", "bytes"))),
        bad(
            "ignored-codecs.pkl",
            "_codecs.encode(text, 'ascii', 'ignore')",
            ignored(&global("_codecs", "encode")),
        ),
        bad(
            "module.pkl",
            "a module that a module of layers imports",
            p2(&global("torch.nn.modules.activation", "F")),
        ),
        bad(
            "template-parts.gguf",
            "a chat template that reaches into Python by a name in parts",
            gguf("tokenizer.chat_template", "{{ lipsum['__glo' ~ 'bals__'] }}"),
        ),
    ]
}

/// A legacy file of one tensor of two float32.
fn legacy_of_one_storage() -> Vec<u8> {
    let head = [MAGIC, b"\x80\x02M\xe9\x03.", &p2(b"}")].concat();
    let storage = b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02Nt";
    let object =
        [&global("torch._utils", "_rebuild_tensor_v2")[..], b"((", storage, b"QK\0K\x02\x85K\x01\x85\x89NtR"]
            .concat();
    let keys = p2(b"]X\x01\0\0\x000a");
    [&head[..], &p2(&object), &keys, &2u64.to_le_bytes(), &[0; 8]].concat()
}

/// Archives.
fn containers() -> Vec<File> {
    let evil_entry = |name: &str| entry(name, evil());
    let mut prepended = evil();
    prepended.extend(torch(state_dict(), &[]));
    let shifted = prepended.clone();
    let in_front = [&b"junk in front of it"[..], &torch(evil(), &[])].concat();
    let script = |code: &str| {
        zip(&[
            entry("s/data.pkl", p2(b"}")),
            entry("s/constants.pkl", p2(b")")),
            entry("s/code/__torch__.py", code),
            entry("s/version", *b"3\n"),
        ])
    };
    vec![
        bad("torch.pt", "PyTorch's zip", torch(evil(), &[])),
        bad("torch.zip", "PyTorch's zip called .zip", torch(evil(), &[])),
        bad(
            "encrypted-flag.pt",
            "marked as encrypted, which it is not",
            zip(&[Entry { flags: 1, ..evil_entry("m/data.pkl") }]),
        ),
        bad(
            "bad-crc.pt",
            "a wrong CRC-32 on data.pkl",
            zip(&[Entry { crc: Some(7), ..evil_entry("m/data.pkl") }]),
        ),
        bad(
            "twice-evil-last.pt",
            "data.pkl twice, the second one malicious",
            torch(state_dict(), &[evil_entry("m/data.pkl")]),
        ),
        bad(
            "twice-evil-first.pt",
            "data.pkl twice, the first one malicious",
            zip(&[evil_entry("m/data.pkl"), entry("m/data.pkl", state_dict())]),
        ),
        bad(
            "two-folders.pt",
            "a data.pkl in a second folder",
            torch(state_dict(), &[evil_entry("n/data.pkl")]),
        ),
        bad(
            "hidden-entry.pt",
            "an entry that the directory conceals",
            torch(state_dict(), &[Entry { hidden: true, ..evil_entry("m/data.pkl") }]),
        ),
        bad(
            "names-disagree.pt",
            "called data.pkl locally and README.txt in the directory",
            torch(
                state_dict(),
                &[Entry { local_name: Some("m/data.pkl".into()), ..evil_entry("README.txt") }],
            ),
        ),
        bad("other-extension.pt", "a pickle called .txt", torch(state_dict(), &[evil_entry("m/notes.txt")])),
        bad(
            "in-storage.pt",
            "a pickle where a storage lies",
            zip(&[entry("m/data.pkl", state_dict()), evil_entry("m/data/0")]),
        ),
        bad("zip-in-zip.zip", "a zip in a zip", zip(&[entry("inner.zip", torch(evil(), &[]))])),
        bad(
            "zip-in-zip-in-zip.zip",
            "three deep",
            zip(&[entry("a.zip", zip(&[entry("b.bin", torch(evil(), &[]))]))]),
        ),
        bad("pickle-then-zip.pt", "a pickle in front of a zip", shifted),
        bad("junk-then-zip.pt", "bytes in front of a zip", in_front),
        bad("zip-then-pickle.pt", "a pickle behind a zip", [torch(state_dict(), &[]), evil()].concat()),
        bad(
            "traversal.zip",
            "an entry called ../../evil.py",
            zip(&[entry("../../evil.py", *b"print()"), entry("m/data.pkl", state_dict())]),
        ),
        bad(
            "link.zip",
            "a symbolic link",
            zip(&[
                Entry { attributes: 0o120777 << 16, ..entry("m/link", *b"/etc/passwd") },
                entry("m/data.pkl", state_dict()),
            ]),
        ),
        bad(
            "library.pt",
            "a shared library",
            torch(state_dict(), &[entry("m/lib.so", *b"\x7fELF\x02\x01\x01\0")]),
        ),
        bad(
            "objects.npz",
            "an array of objects in .npz",
            zip(&[entry("a.npy", npy("\'|O\'", false, "(1,)", &evil()))]),
        ),
        bad(
            "script-saves.pt",
            "TorchScript that writes a file",
            script("def forward(self, x):\n  torch.save(x, \"/tmp/x\")\n"),
        ),
        bad(
            "script-operators.pt",
            "TorchScript that calls a foreign library",
            script("def forward(self, x):\n  return ops.evil.run(x)\n"),
        ),
        bad("pickle.tar", "a tar with a pickle", tar(&[("model/data.pkl", &evil(), None)])),
        bad(
            "oldest.pt",
            "PyTorch's oldest form, in the object",
            tar(&[
                ("storages", b"\x80\x02K\0.", None),
                ("tensors", b"\x80\x02K\0.", None),
                ("pickle", &evil(), None),
            ]),
        ),
        bad(
            "oldest-storages.pt",
            "PyTorch's oldest form, between storages",
            tar(&[
                ("storages", &[&b"\x80\x02K\x01."[..], &[9; 33], &evil()].concat(), None),
                ("pickle", &p2(b"}"), None),
            ]),
        ),
        bad("outside.tar", "a tar entry called ../x", tar(&[("../x", b"x", None)])),
        bad("link.tar", "a tar link to /etc", tar(&[("x", b"", Some("/etc/passwd"))])),
        bad("sevenzip.pt", "a 7z archive called .pt", *b"7z\xbc\xaf\x27\x1c\0\x04 and so on"),
        bad(
            "overlap.safetensors",
            "tensors that overlap",
            raw(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
                &[0; 6],
            ),
        ),
        bad(
            "twice.safetensors",
            "two tensors of one name",
            raw(
                r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#,
                &[0; 8],
            ),
        ),
        bad(
            "pickled.safetensors",
            "a pickle behind a zip's end, behind SafeTensors",
            [raw(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4]), torch(evil(), &[])]
                .concat(),
        ),
        bad(
            "template.gguf",
            "a chat template that reaches into Python",
            gguf("tokenizer.chat_template", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ),
    ]
}

fn benign() -> Vec<File> {
    let rebuilt = p2(&[
        &global("torch.storage", "_load_from_bytes")[..],
        &bytes8(&legacy(MAGIC, &p2(b"}"), &p2(b"}"))),
        b"\x85R",
    ]
    .concat());
    vec![
        good("plain-p0.pkl", "a dict, protocol 0", *b"(dp0\nS'lr'\np1\nF0.01\nsS'steps'\np2\n(lp3\nI1\naI2\nas."),
        good("plain-p2.pkl", "a dict, protocol 2", p2(b"}q\0(U\x02lrG?\x84z\xe1G\xae\x14{U\x05stepsK\x07u")),
        good("plain-p4.pkl", "a framed dict, protocol 4", *b"\x80\x04\x95\x0c\0\0\0\0\0\0\0}\x94\x8c\x04step\x94K\x07s."),
        good("sets-p4.pkl", "sets, big integers, bytes", [&b"\x80\x04(\x8f(K\x01K\x02\x90\x8a\x09\0\0\0\0\0\0\0\0\x01"[..], &bytes8(b"\x80\x04 by chance"), b"t."].concat()),
        good("several.pkl", "three pickles, one after another", [p2(b"}"), p2(b"]"), p2(b"K\x01")].concat()),
        good("namespace.pkl", "argparse.Namespace with a path and a set", p2(&[&global("argparse", "Namespace")[..], b")\x81}(U\x03out", &global("pathlib", "PosixPath"), b"U\x01x\x85RU\x03ids", &global("__builtin__", "set"), b"]K\x01a\x85Rub"].concat())),
        good("ordered.pkl", "an OrderedDict and a defaultdict of lists", p2(&[&b"]"[..], &global("collections", "OrderedDict"), b")Ra", &global("collections", "defaultdict"), &global("__builtin__", "list"), b"\x85Ra"].concat())),
        good("array.pkl", "a NumPy array", p2(&[&global("numpy.core.multiarray", "_reconstruct")[..], &global("numpy", "ndarray"), b"K\0\x85U\x01b\x87R(K\x01K\x01\x85", &global("numpy", "dtype"), b"U\x02f8K\0K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89U\x080123.567tb"].concat())),
        good("joblib-array.pkl", "an array of joblib's whose bytes look like opcodes", [joblib(b"cos\nsystem\n(S'id'\ntR.0123456789abcdefghi"), b".".to_vec()].concat()),
        good("joblib-objects-plain.pkl", "an array of objects of joblib's", [joblib_objects(&p2(b"}")), b".".to_vec()].concat()),
        good("array.npy", "a NumPy array of numbers", npy("\'<f8\'", false, "(1,)", &[0x80, 2, b'c', b'o', b's', 10, 1, 2])),
        good("array.npz", "arrays in .npz", zip(&[entry("a.npy", npy("\'<f8\'", false, "(1,)", &[0; 8]))])),
        good("state-dict.pt", "a state dict", torch(state_dict(), &[])),
        good("storage-by-chance.pt", "a storage that begins like a pickle", zip(&[entry("m/data.pkl", state_dict()), entry("m/data/0", *b"\x80\x04c\x01\x02\n\x03\n..")])),
        good("parts-plain.distcp", "archives one after another, as distributed checkpoints have them", [torch(state_dict(), &[]), torch(state_dict(), &[])].concat()),
        good("commented.zip", "text files in a zip", zip(&[entry("README.md", *b"cos\nsystem\n"), entry("config.json", *b"{}")])),
        good("legacy.pt", "a legacy file", legacy(MAGIC, &p2(b"}"), &p2(b"}U\x01ac__builtin__\nset\n]\x85Rs"))),
        good("nested-legacy-file.pkl", "_load_from_bytes on a harmless legacy file", rebuilt),
        good("legacy-tensor.pt", "a legacy file of one tensor", legacy_of_one_storage()),
        good("constants.pkl", "Ellipsis and NotImplemented", p2(&[&b"("[..], &global("__builtin__", "Ellipsis"), &global("__builtin__", "NotImplemented"), b"t"].concat())),
        good("masked.pkl", "a masked array of NumPy's", p2(&[&global("numpy.ma.core", "_mareconstruct")[..], b"(", &global("numpy.ma.core", "MaskedArray"), &global("numpy", "ndarray"), b"K\0\x85U\x01btR(K\x01K\x01\x85", &global("numpy", "dtype"), b"U\x02i1K\0K\x01\x87R\x89U\x01aU\x01\0Ntb"].concat())),
        good("matrix.pkl", "a matrix of NumPy's", p2(&[&global("numpy.core.multiarray", "_reconstruct")[..], &global("numpy", "matrix"), b"K\0\x85U\x01b\x87R"].concat())),
        good("generator.pkl", "a generator of NumPy's with its constructor", p2(&[&global("numpy.random._pickle", "__generator_ctor")[..], b"U\x05PCG64", &global("numpy.random._pickle", "__bit_generator_ctor"), b"\x86R"].concat())),
        good("optimizer.pkl", "an optimizer", p2(&[&global("torch.optim.sgd", "SGD")[..], b")\x81}(U\x08defaults}U\x0cparam_groups]ub"].concat())),
        good("schedule.pkl", "a schedule of learning rates", p2(&[&global("torch.optim.lr_scheduler", "StepLR")[..], b")\x81}U\x09step_sizeK\x03sb"].concat())),
        good("partial-plain.pkl", "functools.partial of int", p2(&[&global("functools", "partial")[..], &global("__builtin__", "int"), b"U\x0210\x86R"].concat())),
        good("array-beside.pkl", "an array that joblib loads from beside", p2(&[&global("joblib.numpy_pickle", "NDArrayWrapper")[..], b")\x81}(U\x08filenameU\x08a_01.npyU\x08subclass", &global("numpy", "ndarray"), b"ub"].concat())),
        good("array-bytes.pkl", "bytes that are encoded text, protocol 2", p2(&encoded(&[0, 1, 0xfe, 0x80]))),
        good("script.pt", "TorchScript", zip(&[entry("s/data.pkl", *b"\x80\x02c__torch__.m\nNet\n)\x81}U\x01nctorch.jit._pickle\nbuild_intlist\n](K\x01e\x85Rsb."), entry("s/constants.pkl", p2(b")")), entry("s/code/__torch__.py", "def forward(self, x):\n  return torch.add(ops.prim.data(x), 1)\n")])),
        good("oldest.tar", "PyTorch's oldest form", tar(&[("storages", b"\x80\x02K\0.\x80\x02].", None), ("tensors", b"\x80\x02K\0.", None), ("pickle", &p2(b"}"), None)])),
        good("model.safetensors", "SafeTensors", raw(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[0; 4])),
        good("template-mentions.gguf", "a chat template that mentions Python", gguf("tokenizer.chat_template", "{# __init__ #}Do not use __import__.{{ m['role'] }}")),
        good("text.bin", "text called .bin", *b"hello world\n"),
        good("template-plain.gguf", "a chat template that formats", gguf("tokenizer.chat_template", "{% for m in messages %}{{ m['role'] }}{% endfor %}")),
    ]
}
