//! Containers as other tools write them, files that are not checkpoints, and things that are not even files.

use ckpt_inspect::{Checkpoint, DType, DamageKind, ErrorKind, Options, describe, open, open_bytes};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::numbers::le;
use ckpt_kit::torch::{self, TarStorage, TarTensor};
use ckpt_kit::{peers, pickle};
use std::io::{Cursor, Read, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// The entries of a fixture, in order.
fn entries(name: &str) -> Vec<(String, Vec<u8>)> {
    let mut archive =
        ZipArchive::new(std::fs::File::open(fixture(&format!("formats/{name}"))).unwrap()).unwrap();
    (0..archive.len())
        .map(|i| {
            let mut entry = archive.by_index(i).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.name().unwrap().into_owned(), content)
        })
        .collect()
}

fn zip(entries: &[(String, Vec<u8>)], options: SimpleFileOptions, comment: &str) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(name.as_str(), options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.set_comment(comment).unwrap();
    writer.finish().unwrap().into_inner()
}

fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored)
}

/// Names and hashes of all tensors.
fn content(checkpoint: &Checkpoint) -> Vec<(String, String)> {
    let record = describe(
        checkpoint,
        Options::default().with(|o| (o.sha256, o.stats, o.histogram) = (true, false, false)),
        &|_| (),
    );
    record.tensors.into_iter().map(|t| (t.name, t.sha256.unwrap().into())).collect()
}

#[test]
fn zips_of_every_make_hold_the_same_tensors() {
    let original = content(&open(fixture("formats/whole.pt")).unwrap());
    let entries = entries("whole.pt");
    let plain = zip(&entries, stored(), "");
    let mut streamed = ZipWriter::new_stream(Vec::new());
    for (name, content) in &entries {
        streamed.start_file(name.as_str(), stored()).unwrap();
        streamed.write_all(content).unwrap();
    }
    let cases = [
        ("rewritten", plain.clone()),
        ("64-bit sizes", zip(&entries, stored().large_file(true), "")),
        ("deflated", zip(&entries, stored().compression_method(CompressionMethod::Deflated), "")),
        ("deflated, 64-bit sizes", {
            zip(&entries, stored().compression_method(CompressionMethod::Deflated).large_file(true), "")
        }),
        ("with a comment", zip(&entries, stored(), "saved by hand PK\u{5}\u{6} and annotated")),
        ("sizes after the data", streamed.finish().unwrap().into_inner()),
    ];
    for (what, bytes) in cases {
        let opened = open_bytes("file", bytes);
        let mut checkpoint = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(content(&checkpoint), original, "{what}");
        assert_eq!(checkpoint.damage, None, "{what}");
        assert_eq!(checkpoint.verify_checksums(), [""; 0], "{what}");
    }
}

/// An archive of PyTorch, changed.
fn changed(bytes: &[u8], marker: &[u8], at: usize, flip: u8) -> Vec<u8> {
    let place = bytes.windows(marker.len()).position(|w| w == marker).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[place + at] ^= flip;
    bytes
}

#[test]
fn what_pytorch_does_not_read_or_others_read_otherwise_is_damaged_and_its_tensors_are_listed() {
    let original = content(&open(fixture("formats/whole.pt")).unwrap());
    let entries = entries("whole.pt");
    let plain = zip(&entries, stored(), "");
    let with = |name: &str| {
        let mut more = entries.clone();
        more.push((name.to_string(), b"\x80\x02).".to_vec()));
        zip(&more, stored(), "")
    };
    let cases = [
        ("before the archive", [b"#!/bin/sh\nexit 0\n".to_vec(), plain.clone()].concat()),
        ("before the archive", [b"PK\x07\x08".to_vec(), plain.clone()].concat()),
        ("is not in the folder", with("zz/constants.pkl")),
        ("is not in the folder", with("note.txt")),
        ("disagree on the name", changed(&plain, b"data.pkl", 7, 1)),
        ("disagree on the encryption flag", changed(&plain, b"PK\x03\x04", 6, 1)),
        ("disagree on the encryption flag", changed(&plain, b"PK\x01\x02", 8, 1)),
        ("marked as encrypted", changed(&changed(&plain, b"PK\x01\x02", 8, 1), b"PK\x03\x04", 6, 1)),
    ];
    for (what, bytes) in cases {
        let checkpoint = open_bytes("file", bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        let damage = checkpoint.damage.as_ref().unwrap_or_else(|| panic!("{what}: whole"));
        assert!(damage.what.contains(what), "{what}: {}", damage.what);
        assert_eq!(content(&checkpoint), original, "{what}");
    }
    let beside = open_bytes("file", with(&format!("{}/note.txt", entries[0].0.split('/').next().unwrap())));
    assert_eq!(beside.unwrap().damage, None);
}

#[test]
fn without_a_central_directory_the_local_headers_tell() {
    let original = content(&open(fixture("formats/whole.pt")).unwrap());
    let entries = entries("whole.pt");
    let mut streamed = ZipWriter::new_stream(Vec::new());
    for (name, content) in &entries {
        streamed.start_file(name.as_str(), stored()).unwrap();
        streamed.write_all(content).unwrap();
    }
    let streamed = streamed.finish().unwrap().into_inner();
    for (what, bytes) in [
        ("plain", zip(&entries, stored(), "")),
        ("64-bit sizes", zip(&entries, stored().large_file(true), "")),
        ("sizes after the data", streamed),
    ] {
        let directory = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        let opened = open_bytes("file", bytes[..directory].to_vec());
        let checkpoint = opened.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(checkpoint.is_damaged(), "{what}");
        assert_eq!(content(&checkpoint), original, "{what}");
    }
}

#[test]
fn a_big_endian_archive_reads_as_the_same_numbers() {
    for name in ["dtypes_float.pt", "dtypes_int.pt"] {
        let checkpoint = open(fixture(&format!("formats/{name}"))).unwrap();
        let mut entries = entries(name);
        for (entry, content) in &mut entries {
            if entry.ends_with("/byteorder") {
                *content = b"big".to_vec();
            }
            // Storages are numbered as their tensors come.
            let Some((_, key)) = entry.split_once("/data/") else { continue };
            let tensor = &checkpoint.tensors[key.parse::<usize>().unwrap()];
            let size = tensor.dtype.element_size().unwrap();
            let word = if tensor.dtype.is_complex() { size / 2 } else { size };
            content.chunks_exact_mut(word).for_each(<[u8]>::reverse);
        }
        assert!(entries.iter().any(|(n, _)| n.ends_with("/byteorder")), "{name} says its byte order");
        let opened = open_bytes("file", zip(&entries, stored(), ""));
        let mut swapped = opened.unwrap();
        assert_eq!(content(&swapped), content(&checkpoint), "{name}");
        assert_eq!(swapped.verify_checksums(), [""; 0], "checksums are of the bytes as they are in the file");
        for tensor in swapped.tensors.iter().filter(|t| t.dtype == DType::F32) {
            let there = checkpoint.tensor(&tensor.name).unwrap();
            assert_eq!(swapped.view::<f32>(tensor).unwrap(), checkpoint.view::<f32>(there).unwrap());
        }
    }
}

#[test]
fn a_compression_method_that_is_not_read_is_named() {
    let entries = entries("whole.pt");
    let bytes = zip(&entries, stored(), "");
    // The method is at offset 10 of a central header, whose name is at 46.
    let patch = |entry_end: &str| {
        let mut bytes = bytes.clone();
        let mut at = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        while bytes[at..].starts_with(b"PK\x01\x02") {
            let length = |i: usize| usize::from(u16::from_le_bytes([bytes[at + i], bytes[at + i + 1]]));
            let (name, rest) = (length(28), length(30) + length(32));
            if bytes[at + 46..at + 46 + name].ends_with(entry_end.as_bytes()) {
                bytes[at + 10] = 93;
            }
            at += 46 + name + rest;
        }
        bytes
    };
    let opened = open_bytes("file", patch("data.pkl"));
    let error = opened.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.to_string().contains("zip method 93"), "{error}");
    let opened = open_bytes("file", patch("data/0"));
    let checkpoint = opened.unwrap();
    let damaged: Vec<&ckpt_inspect::Damage> =
        checkpoint.tensors.iter().filter_map(|t| t.damage.as_ref()).collect();
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].what.contains("zip method 93"));
}

#[test]
fn errors_say_what_files_that_are_not_checkpoints_are() {
    for (bytes, what) in [
        (&b""[..], "is empty"),
        (&[0; 4096], "only zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "error page"),
        (b"{\"error\": \"Repository not found\"}", "JSON"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"hello, this is text and no checkpoint at all", "not a PyTorch"),
        (b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "not a PyTorch checkpoint"),
    ] {
        let opened = open_bytes("file", bytes);
        let error = opened.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unrecognised | ErrorKind::Unsupported), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn what_steers_a_terminal_does_not_get_through_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("evil\u{1b}[2Jname\u{202e}.pt");
    std::fs::write(&path, b"").unwrap();
    let text = open(&path).unwrap_err().to_string();
    assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains("\\u{1b}[2Jname\\u{202e}"), "{text}");
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_loops_of_links_are_errors_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.pt");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let link = folder.path().join("loop.pt");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("inside")).unwrap();
    let dangling = folder.path().join("dangling.pt");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    for path in [pipe, "/dev/zero".into(), link, dangling, folder.path().join("absent")] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let opened = path.clone();
        std::thread::spawn(move || sender.send(open(&opened).map(drop)));
        let result = receiver.recv_timeout(std::time::Duration::from_secs(120));
        let error =
            result.unwrap_or_else(|_| panic!("{} keeps the reader waiting", path.display())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Io, "{error}");
        assert!(error.to_string().contains(&*path.file_name().unwrap().to_string_lossy()), "{error}");
    }
    // Broken links named like checkpoints are not skipped; pipes are not checkpoints.
    assert_eq!(
        ckpt_inspect::find(folder.path()).unwrap(),
        ["dangling.pt", "loop.pt"].map(|name| folder.path().join(name))
    );
    assert_eq!(open(folder.path()).unwrap_err().kind, ErrorKind::Unrecognised);
}

/// The form PyTorch 0.1 wrote: storages with a view on one, tensors with strides and offsets.
#[test]
fn the_tar_form_reads_with_views_and_many_types() {
    let storage = |key, class, elements, data| TarStorage { key, class, elements, data };
    let storages = [
        storage(1, "FloatStorage", 6, le(&[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0])),
        storage(2, "LongStorage", 1, le(&[7i64])),
    ];
    let tensor = |key, storage, class, sizes, strides, offset| TarTensor {
        key,
        storage,
        class,
        sizes,
        strides,
        offset,
    };
    let tensors = [
        tensor(10, 1, "FloatTensor", &[3, 2], &[1, 3], 0),
        tensor(11, 3, "FloatTensor", &[3], &[1], 1),
        tensor(12, 2, "LongTensor", &[1], &[1], 0),
    ];
    let called = |key: i32| pickle::persistent(&pickle::int(key));
    let object = pickle::dict(&[("t", called(10)), ("v", called(11)), ("n", called(12))]);
    // One view: storage 3 is elements 2..6 of storage 1.
    let opened = open_bytes("old.pt", torch::tar(&storages, &[[3, 1, 2, 4]], &tensors, &object));
    let checkpoint = opened.unwrap();
    let values = |name: &str| checkpoint.values(checkpoint.tensor(name).unwrap()).unwrap();
    assert_eq!(values("t"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0], "a transposed view");
    assert_eq!(values("v"), [3.0, 4.0, 5.0], "a view on a view");
    assert_eq!(values("n"), [7.0]);
}

/// PyTorch's oldest form with the tensor `w`, and after it what Solaris wrote: a name for a member, `pickle`, that Python
/// heeds and other readers don't. The member's tensor is called `v`.
fn tar_of_two_readings() -> Vec<u8> {
    let storage = TarStorage { key: 1, class: "FloatStorage", elements: 2, data: le(&[1.0f32, 2.0]) };
    let tensor =
        TarTensor { key: 10, storage: 1, class: "FloatTensor", sizes: &[2], strides: &[1], offset: 0 };
    let object = |name: &str| pickle::dict(&[(name, pickle::persistent(&pickle::int(10)))]);
    let mut archive = torch::tar(&[storage], &[], &[tensor], &object("w"));
    archive.truncate(archive.len() - 1024);
    let of_kind = |name: &str, content: &[u8], kind: u8| {
        let mut member = ckpt_kit::tar::tar(&[(name, content, None)]);
        member.truncate(member.len() - 1024);
        member[156] = kind;
        member[148..156].fill(b' ');
        let sum: u32 = member[..512].iter().map(|&byte| u32::from(byte)).sum();
        member[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        member
    };
    archive.extend(of_kind("header", b"15 path=pickle\n", b'X'));
    archive.extend(of_kind("other", &pickle::pickle(2, &object("v")), b'0'));
    archive.extend([0; 1024]);
    archive
}

#[test]
fn a_tar_that_readers_disagree_about_is_damaged_and_shown_as_pytorch_reads_it() {
    let bytes = tar_of_two_readings();
    let checkpoint = open_bytes("model.pt", bytes.clone()).unwrap();
    let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["v"]);
    let damage = checkpoint.damage.clone().unwrap();
    assert_eq!(damage.kind, DamageKind::Duplicate);
    assert!(damage.what.contains("disagree about `pickle`"), "{damage}");
    // To all readers the same.
    let end = bytes.len() - 1024 - 2 * 1024;
    let whole = [&bytes[..end], &[0; 1024]].concat();
    let checkpoint = open_bytes("model.pt", whole.clone()).unwrap();
    assert_eq!((checkpoint.damage.clone(), checkpoint.tensors[0].name.as_str()), (None, "w"));
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    for (bytes, expected) in [(bytes, "v"), (whole, "w")] {
        let path = folder.path().join("model.pt");
        std::fs::write(&path, bytes).unwrap();
        let code = "import sys, torch\nprint(*torch.load(sys.argv[1], weights_only=False))";
        assert_eq!(python.code(code, &[&path]).trim(), expected);
    }
}
