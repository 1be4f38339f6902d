//! Files in which what is imported is harmless, and what is made of it is not: tensors at addresses, types of NumPy that are
//! not what they say, classes that are computed, numbers that take for ever, code of interpreters, and keys by which
//! loaders call what they name.

use ckpt_kit::pickle::{global, short_text};
use ckpt_kit::zip::{entry, zip};

use super::{File, bad, good, p3};

/// An array of one element of the type that `state` gives to a type of eight bytes, made by `made`.
fn typed(made: &[u8], state: &[u8]) -> Vec<u8> {
    p3(&[made, b"(K\x03", &short_text("|"), state, b"K\x08K\x01K\0tb"])
}

/// The fields of a type's state: one, of the type `field`.
fn one_field(field: &[u8]) -> Vec<u8> {
    [b"N", &short_text("a")[..], b"\x85}", &short_text("a"), field, b"K\0\x86s"].concat()
}

fn dtype(name: &str) -> Vec<u8> {
    [&global("numpy", "dtype")[..], &short_text(name), b"\x89\x88\x87R"].concat()
}

pub(super) fn made() -> Vec<File> {
    let eight = dtype("V8");
    // copyreg._reconstructor(numpy.dtype, numpy.dtype, 'V8')
    let constructor = global("copyreg", "_reconstructor");
    let class = global("numpy", "dtype");
    let rebuilt = [&constructor[..], &class, &class, &short_text("V8"), b"\x87R"].concat();
    let object_class = [&global("numpy.dtypes", "ObjectDType")[..], b")R"].concat();
    let listed = [&class[..], b"]", &short_text("x"), &short_text("O"), b"\x86a\x85R"].concat();
    let of_object = [&class[..], &global("builtins", "object"), b"\x85R"].concat();
    let subtype = |name: &str, count: u8| [&b"("[..], &dtype(name), b"K", &[count], b"\x85tNN"].concat();
    let named = |module: &str, name: &str, key: &str| {
        // NEWOBJ_EX of protocol 4.
        let call = [&global(module, name)[..], b")}", &short_text(key), b"J\0\0\0\x10s\x92."].concat();
        [&b"\x80\x04"[..], &call].concat()
    };
    let partial = p3(&[
        &global("functools", "partial"),
        &global("torch", "Tensor"),
        b"\x85R(",
        &global("torch", "Tensor"),
        b")}",
        &short_text("cdata"),
        b"J\0\0\0\x10sNtb",
    ]);
    let one =
        |module: &str, name: &str, argument: &[u8]| [&global(module, name)[..], argument, b"\x85R"].concat();
    let whole = |number: &str| one("builtins", "int", &one("decimal", "Decimal", &short_text(number)));
    let until = [&global("builtins", "iter")[..], &global("builtins", "int"), b"K\x01\x86R"].concat();
    let pid = |class: &[u8]| {
        p3(&[b"(", &short_text("module"), class, &short_text("a.py"), &short_text("class A: pass"), b"tQ"])
    };
    let computed = one("types", "SimpleNamespace", b"}");
    let metadata = p3(&[&one("torch.distributed.checkpoint.metadata", "Enum", &short_text("a"))]);
    let phone = |operator: &str| {
        let code = p3(&[&short_text("operators"), &short_text(operator), &short_text(""), b"K\x02\x87\x86"]);
        let data = p3(&[b"}"]);
        let constants = p3(&[b")"]);
        zip(&[entry("m/data.pkl", data), entry("m/constants.pkl", constants), entry("m/bytecode.pkl", code)])
    };
    let mock = [
        &b"\x80\x04"[..],
        &short_text("unittest.mock"),
        &short_text("call.a b"),
        b"\x930",
        &one("typing", "get_type_hints", b"N"),
        b".",
    ]
    .concat();
    let hyper = |path: &str| {
        p3(&[
            b"}",
            &short_text("hyper_parameters"),
            b"}",
            &short_text("_instantiator"),
            &short_text(path),
            b"ss",
        ])
    };
    vec![
        bad(
            "allocator.pkl",
            "a storage by an allocator's address",
            named("torch", "UntypedStorage", "allocator"),
        ),
        bad("cdata.pkl", "a tensor at an address", named("torch", "Tensor", "cdata")),
        bad("partial-cdata.pkl", "the same, kept for later", partial),
        bad("rebuilt-dtype.pkl", "a type that copyreg makes", typed(&rebuilt, &one_field(&dtype("O8")))),
        bad("object-class.pkl", "a field of the class of objects", typed(&eight, &one_field(&object_class))),
        bad("listed-dtype.pkl", "a field whose fields are objects", typed(&eight, &one_field(&listed))),
        bad(
            "of-object.pkl",
            "a field of the type of Python's objects",
            typed(&eight, &one_field(&of_object)),
        ),
        bad("subtype.pkl", "rows of objects", typed(&eight, &subtype("O8", 1))),
        bad("long-subtype.pkl", "rows beyond the end", typed(&eight, &subtype("f8", 9))),
        bad("wide-field.pkl", "a field that ends beyond the end", typed(&eight, &one_field(&dtype("f16")))),
        good("field.pkl", "a type with a field", typed(&eight, &one_field(&dtype("<f8")))),
        good("rows.pkl", "a type of rows", typed(&eight, &subtype("f4", 2))),
        bad("until.pkl", "list(iter(int, 1))", p3(&[&one("builtins", "list", &until)])),
        bad("digits.pkl", "int(Decimal('1e1000000000'))", p3(&[&whole("1e1000000000")])),
        bad(
            "fraction.pkl",
            "Fraction('1e1000000000')",
            p3(&[&one("fractions", "Fraction", &short_text("1e1000000000"))]),
        ),
        good("decimal.pkl", "int(Decimal('1e10'))", p3(&[&whole("1e10")])),
        bad("computed-class.pt", "a persistent id with a class that is computed", pid(&computed)),
        bad("enum.metadata.pkl", "what the listing's module imports", metadata),
        bad("phone.ptl", "an operator of the interpreter for phones", phone("aten::save")),
        good("phone-adds.ptl", "arithmetic of the interpreter for phones", phone("aten::add")),
        bad("mock.gif", "behind an attribute of a mock, which has all names", mock),
        bad("instantiator.ckpt", "hyperparameters that Lightning calls", hyper("os.system")),
        good(
            "lightning.ckpt",
            "what Lightning's own command line writes there",
            hyper("lightning.pytorch.cli.instantiate_module"),
        ),
        bad("hparams.yaml", "the same beside a checkpoint", "_instantiator: os.system\nx: 1\n"),
        bad(
            "router_config.json",
            "a router's models",
            r#"{"types": {"q": "os.system"}, "structure": {"query": ["q"]}}"#,
        ),
        bad(
            "dense.json",
            "a dense layer's activation",
            r#"{"in_features": 8, "activation_function": "pdb.set_trace"}"#,
        ),
        good(
            "tanh.json",
            "the same of PyTorch",
            r#"{"activation_function": "torch.nn.modules.activation.Tanh"}"#,
        ),
        bad(
            "adapter.json",
            "a module that peft imports",
            r#"{"peft_type": "LORA", "megatron_core": "antigravity"}"#,
        ),
        good(
            "megatron.json",
            "what it imports usually",
            r#"{"peft_type": "LORA", "megatron_core": "megatron.core"}"#,
        ),
        bad(
            "environment.jinja",
            "the environment of a macro",
            "{% macro m() %}{% endmacro %}{{ m._environment.from_string(messages[0].content).render() }}",
        ),
    ]
}
