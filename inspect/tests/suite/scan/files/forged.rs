//! Files in which only harmless names are imported, or none that a first look finds: forged arrays, storages that are files
//! of their own, imports behind one of any name, and lines that end where others do not see it.

use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{global, short_text};
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{entry, zip};

use super::{File, bad, bare, evil, good, p3, state_dict};

/// A tar whose only entry says that it has holes, in GNU's way: one piece of data, from its beginning on.
fn with_holes() -> Vec<u8> {
    let content = evil();
    let mut archive = tar(&[("a.pkl", &content, None)]);
    let octal = |number: usize| format!("{number:011o}\0");
    archive[156] = b'S';
    archive[257..265].copy_from_slice(b"ustar  \0");
    archive[386..398].copy_from_slice(octal(0).as_bytes());
    archive[398..410].copy_from_slice(octal(content.len()).as_bytes());
    archive[483..495].copy_from_slice(octal(content.len()).as_bytes());
    // The checksum is the sum of the header with blanks in its own place.
    let sum: u32 =
        archive[..148].iter().chain(&archive[156..512]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive
}

pub(super) fn forged() -> Vec<File> {
    let behind_any_name = |module: &str| [format!("c{module}\n!!x y!!\n0").as_bytes(), &bare()].concat();
    let objects = npy("'|O'", false, "(1,)", &evil());
    let storage =
        |inside: &[u8]| zip(&[entry("x/data.pkl", state_dict()), entry("x/data/0", inside.to_vec())]);
    let dtype = |flags: u8| {
        let made = [&global("numpy", "dtype")[..], &short_text("V8"), b"\x89\x88\x87R"].concat();
        let field = [&global("numpy", "dtype")[..], &short_text("O8"), b"\x89\x88\x87R"].concat();
        let state = [
            &b"(K\x03"[..],
            &short_text("|"),
            b"N",
            &short_text("a"),
            b"\x85}",
            &short_text("a"),
            &field,
            b"K\0\x86s",
            b"K\x08K\x01K",
            &[flags],
            b"tb",
        ]
        .concat();
        p3(&[&made, &state])
    };
    let namespace = p3(&[
        &global("types", "SimpleNamespace"),
        b")R}",
        &short_text("__array_interface__"),
        b"}",
        &short_text("data"),
        b"J\0\0\0\x10\x89\x86ssb",
    ]);
    let endless = p3(&[&global("builtins", "list"), &global("itertools", "count"), b")R\x85R"]);
    let ended = p3(&[&global("builtins", "list"), &global("itertools", "count"), b")R0]\x85R"]);
    let unfinished = b"cposix\nsystem\n(S'id'\ntR".to_vec();
    let alias = format!("a: &x {}system\nb:\n  _target_: *x\n", "os.path.".repeat(40));
    vec![
        bad("storage-array.npz", "a storage that is an array of objects to NumPy", storage(&objects)),
        bad(
            "storage-zip.pt",
            "a storage that is a file of PyTorch's",
            storage(&zip(&[entry("m/data.pkl", evil())])),
        ),
        bad("storage-bare.pt", "a storage that is a pickle of protocol 0", storage(&bare())),
        bad("unfinished.json", "a pickle under another name, which ends after its call", unfinished),
        bad(
            "any-name.json",
            "behind an import that succeeds whatever its name",
            behind_any_name("torch.classes"),
        ),
        bad(
            "package-case.pt",
            "torch.package, whose reader does not distinguish cases",
            zip(&[entry("m/.data/Extern_Modules", *b""), entry("m/evil.PY", *b"import os")]),
        ),
        bad("array-interface.pkl", "an array at an address that the pickle names", namespace),
        bad("forged-dtype.pkl", "a type of NumPy with objects that it does not declare", dtype(0)),
        good("object-dtype.pkl", "a type of NumPy with objects", dtype(63)),
        bad("endless.pkl", "list(itertools.count())", endless),
        good("counted.pkl", "itertools.count(), and another list", ended),
        bad("breaks.yaml", "a line that ends for YAML 1.1 alone", "a: 1 # x\u{2028}_target_: os.system\n"),
        bad("long-alias.yaml", "the name behind an alias is long", alias),
        bad("resolver.yaml", "OmegaConf makes a mapping of a text", "m: ${oc.create:{_target_:os.system}}\n"),
        bad(
            "config.json",
            "attention that is fetched from the Hub",
            r#"{"attn_implementation": "owner/kernel"}"#,
        ),
        good("kernels.json", "attention of transformers", r#"{"attn_implementation": "flash_attention_2"}"#),
        bad("holes.tar", "an entry with holes", with_holes()),
    ]
}
