//! Memory is bounded by the input's size, whatever the input says. One test alone in its process, so that the
//! allocator's peak is its own.

use ckpt_inspect::{Options, describe, open};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MB: usize = 1 << 20;

fn repeat(unit: &[u8], total: usize) -> Vec<u8> {
    unit.iter().copied().cycle().take(total / unit.len() * unit.len()).collect()
}

fn pickle(body: Vec<u8>) -> Vec<u8> {
    let mut bytes = vec![0x80, 4];
    bytes.extend(body);
    bytes.push(b'.');
    bytes
}

/// Lists that hold the previous list twice: 2^n paths from n nodes.
fn doubling(levels: usize) -> Vec<u8> {
    let mut body = b"]\x94".to_vec();
    for level in 0..levels {
        body.extend(b"]\x94(");
        for _ in 0..2 {
            body.push(b'j');
            body.extend((level as u32).to_le_bytes());
        }
        body.push(b'e');
    }
    body
}

fn gguf_with_counts(tensors: u64, keys: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.resize(MB, 0);
    bytes
}

fn deep(open: &[u8], close: &[u8], levels: usize) -> Vec<u8> {
    [open.repeat(levels), close.repeat(levels)].concat()
}

fn safetensors(header: &str, announced: u64) -> Vec<u8> {
    let mut bytes = announced.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes
}

#[test]
fn one_megabyte_never_takes_hundreds() {
    let expanded = r#"{"w":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}"#;
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("nothing but None", pickle(repeat(b"N", MB))),
        ("marks", pickle(repeat(b"(", MB))),
        ("empty lists", pickle(repeat(b"]", MB))),
        ("empty dicts", pickle(repeat(b"}", MB))),
        ("memoized", pickle(repeat(b"]\x94", MB))),
        ("duplicates", pickle([b"]".to_vec(), repeat(b"2", MB)].concat())),
        ("short strings", pickle(repeat(b"\x8c\x01a", MB))),
        ("one-tuples", pickle([b"N".to_vec(), repeat(b"\x85", MB)].concat())),
        ("instances", pickle([b"N".to_vec(), repeat(b")\x81", MB)].concat())),
        ("appended to one list", pickle([b"]".to_vec(), repeat(b"Na", MB)].concat())),
        ("doubling", pickle(doubling(MB / 16))),
        (
            "a string of 2^60 bytes",
            pickle([b"\x8d".to_vec(), (1u64 << 60).to_le_bytes().to_vec(), vec![0; MB]].concat()),
        ),
        (
            "a frame of 2^60 bytes",
            pickle([b"\x95".to_vec(), (1u64 << 60).to_le_bytes().to_vec(), vec![0; MB]].concat()),
        ),
        ("a GGUF of 2^60 tensors", gguf_with_counts(1 << 60, 0)),
        ("a GGUF of 2^60 keys", gguf_with_counts(0, 1 << 60)),
        ("a SafeTensors header of 2^60 bytes", safetensors("{}", 1 << 60)),
        ("a SafeTensors tensor of 2^82 bytes", safetensors(expanded, expanded.len() as u64)),
        ("deep JSON", safetensors(&String::from_utf8(deep(b"[", b"]", MB / 2)).unwrap(), MB as u64)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    for (what, bytes) in inputs {
        std::fs::write(&path, &bytes).unwrap();
        drop(bytes);
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        if let Ok(checkpoint) = open(&path) {
            describe(&checkpoint, Options::default(), &|_| ());
        }
        let peak = (ALLOCATOR.peak_usage() - before) / MB;
        assert!(peak < 256, "{what}: {peak} MB for one");
    }
}
