//! Archives, and files that are one thing to one loader and a pickle to another.

use ckpt_kit::npy::npy;
use ckpt_kit::pickle::{bytes8, global};
use ckpt_kit::safetensors::raw;
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{Entry, entry, zip};

use super::{
    File, bad, bare, evil, gguf, gzip, legacy_of_one_storage, p2, payload, replaced, state_dict, torch,
};

/// SafeTensors whose length, header and tensor are one pickle: SHORT_BINBYTES up to the header's text, there a UNICODE
/// up to its last character, a line feed, and the payload in the tensor.
pub(super) fn safetensors_and_pickle() -> Vec<u8> {
    let start = r#"{"__metadata__":{"a":"V"#;
    let end = "\"},\"w\":{\"dtype\":\"U8\",\"shape\":[64],\"data_offsets\":[0,64]}}\n";
    // The bytes to skip are five of the length and all before the V.
    let skipped = 6 + start.len() - 1;
    let length = usize::from(b'C') + 256 * skipped;
    let mut data = [b"0", &payload()[..], b"."].concat();
    data.resize(64, 0);
    raw(&format!("{start}{}{end}", "x".repeat(length - start.len() - end.len())), &data)
}

/// `archive` without its end record, its offsets moved by `by` bytes, where its directory begins in it, and how many entries
/// that has.
fn moved(mut archive: Vec<u8>, by: usize) -> (Vec<u8>, usize, usize) {
    archive.truncate(archive.len() - 22);
    let headers: Vec<usize> =
        archive.windows(4).enumerate().filter(|(_, w)| *w == b"PK\x01\x02").map(|(at, _)| at).collect();
    for at in &headers {
        let field = at + 42..at + 46;
        let offset = u32::from_le_bytes(archive[field.clone()].try_into().unwrap()) + by as u32;
        archive[field].copy_from_slice(&offset.to_le_bytes());
    }
    (archive, headers[0], headers.len())
}

/// A zip64 record for a directory of `count` entries, `size` bytes and this `start` (APPNOTE 4.3.14).
fn wide_record(count: usize, size: usize, start: usize) -> Vec<u8> {
    let [count, size, start] = [count, size, start].map(|value| (value as u64).to_le_bytes());
    [&b"PK\x06\x06"[..], &44u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8], &count, &count, &size, &start]
        .concat()
}

/// Two archives, each with a zip64 record: the locator points to that of `first`, that of `second` lies before the locator.
fn two_wide_records(first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    let (mut file, directory, count) = moved(first, 0);
    let (size, at) = (file.len() - directory, file.len());
    file.extend(wide_record(count, size, directory));
    let by = file.len();
    let (second, inner, more) = moved(second, by);
    let inner_size = second.len() - inner;
    file.extend(second);
    file.extend(wide_record(more, inner_size, by + inner));
    file.extend([&b"PK\x06\x07"[..], &[0; 4], &(at as u64).to_le_bytes(), &[1, 0, 0, 0]].concat());
    let count = (count as u16).to_le_bytes();
    let [size, directory] = [size, directory].map(|value| (value as u32).to_le_bytes());
    file.extend([&b"PK\x05\x06"[..], &[0; 4], &count, &count, &size, &directory, &[0; 2]].concat());
    file
}

/// `archive`, whose end record counts one entry less.
fn one_less(mut archive: Vec<u8>) -> Vec<u8> {
    let end = archive.len() - 22;
    archive[end + 8] -= 1;
    archive[end + 10] -= 1;
    archive
}

/// Files that are one thing to one loader and a pickle to another.
pub(super) fn several_readings() -> Vec<File> {
    // G is BINFLOAT.
    let gguf = [&b"GGUF\x03\0\0\0\x000"[..], &payload(), b"."].concat();
    let loads = p2(&[&global("torch.storage", "_load_from_bytes")[..], &bytes8(&gguf), b"\x85R"].concat());
    let plain = legacy_of_one_storage();
    let numbers = |name: &str| zip(&[entry(name, npy("'<f8'", false, "(1,)", &[0; 8]))]);
    let objects = || entry("b.npy", npy("'|O'", false, "(1,)", &evil()));
    let mut two = vec![entry("a.npy", npy("'<f8'", false, "(1,)", &[0; 8]))];
    two.push(objects());
    vec![
        bad(
            "wide.npz",
            "two zip64 records, of which readers take different ones",
            two_wide_records(numbers("a.npy"), zip(&[objects()])),
        ),
        bad(
            "wide.pt",
            "the same in PyTorch's zip",
            two_wide_records(torch(state_dict(), &[]), torch(evil(), &[])),
        ),
        bad("uncounted.npz", "a directory of more entries than it counts", one_less(zip(&two))),
        bad(
            "pickle-as-storage.pt",
            "an object that another object calls its storage",
            zip(&[
                entry(
                    "constants.pkl",
                    p2(b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x08\0\0\0data.pklX\x03\0\0\0cpuK\x02tQ"),
                ),
                entry("constants/data.pkl", bare()),
            ]),
        ),
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

/// Archives.
pub(super) fn containers() -> Vec<File> {
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
            "tensor-item.pt",
            "an item is set on a tensor, which weights_only took (CVE-2026-24747)",
            torch(replaced(&state_dict(), b"q\rs.", b"q\rX\x01\0\0\0aK\x01ss."), &[]),
        ),
        bad(
            "short-storage.pt",
            "a storage is shorter than the pickle says (CVE-2026-24747)",
            torch(replaced(&state_dict(), b"cpuq\x06K\x02", b"cpuq\x06K\x40"), &[]),
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
