//! Pickles: the ways in which opcodes import and call, what they import, and pickles that end early.

use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{bytes8, global, short_text};
use ckpt_kit::torch::MAGIC;

use super::{
    File, bad, bare, call, evil, gzip, joblib, joblib_objects, legacy, p2, payload, state_dict, torch, zlib,
};

/// The ways in which opcodes import and call.
pub(super) fn opcodes() -> Vec<File> {
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
pub(super) fn imports() -> Vec<File> {
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
pub(super) fn broken() -> Vec<File> {
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
