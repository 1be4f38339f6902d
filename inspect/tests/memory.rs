//! Memory is bounded by the input's size, even if the input announces more. One test alone in its process, so that the
//! allocator's peak is its own.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ckpt_inspect::diff::{Status, diff};
use ckpt_inspect::scan::{Rule, scan};
use ckpt_inspect::stored::{self, Stat, Store, StoredFile};
use ckpt_inspect::{Options, describe, judge, open, open_bytes};
use ckpt_kit::pickle::pickle;
use ckpt_kit::safetensors;
use ckpt_kit::torch::zip_of;
use flate2::Compression;
use flate2::write::GzEncoder;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MB: usize = 1 << 20;

fn repeat(unit: &[u8], total: usize) -> Vec<u8> {
    unit.iter().copied().cycle().take(total / unit.len() * unit.len()).collect()
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

/// A list of one string of half the size, referred to by as many two-byte opcodes as fit into the rest.
fn one_string_many_times() -> Vec<u8> {
    let mut body = b"](X".to_vec();
    body.extend((MB as u32 / 2).to_le_bytes());
    body.extend(vec![b'a'; MB / 2]);
    body.extend(b"q\0");
    body.extend(repeat(b"h\0", MB / 2));
    body.push(b'e');
    body
}

/// As above, but the string is the key of dicts.
fn one_key_many_times() -> Vec<u8> {
    let mut body = b"](X".to_vec();
    body.extend((MB as u32 / 2).to_le_bytes());
    body.extend(vec![b'a'; MB / 2]);
    body.extend(b"q\0");
    body.extend(repeat(b"}h\0Ns", MB / 2));
    body.push(b'e');
    body
}

/// A string of half the size in memo 0, and in the rest a list of as many `unit`, which refers to it, as fit.
fn one_string_as(before: &[u8], unit: &[u8]) -> Vec<u8> {
    let mut body = b"X".to_vec();
    body.extend((MB as u32 / 2).to_le_bytes());
    body.extend(vec![b'a'; MB / 2]);
    body.extend(b"q\x000");
    body.extend(before);
    body.extend(b"](");
    body.extend(repeat(unit, MB / 2));
    body.push(b'e');
    body
}

/// Every role that a string can have except that of a value or a key.
fn strings_in_roles() -> Vec<(&'static str, Vec<u8>)> {
    let call = |function: &str| [b"c", function.as_bytes(), b"\nq\x010"].concat();
    let pid = b"ctorch\nFloatStorage\nq\x020X\x07\0\0\0storageq\x030";
    vec![
        ("one global many times", one_string_as(b"h\0h\0\x93q\x010", b"h\x01")),
        ("globals of one module", one_string_as(b"", b"h\0h\0\x93")),
        ("one class many times", one_string_as(b"h\0h\0\x93q\x010", b"h\x01)R")),
        ("devices", one_string_as(&call("torch\ndevice"), b"h\x01h\0\x85R")),
        ("paths", one_string_as(&call("pathlib\nPosixPath"), b"h\x01h\0h\0\x86R")),
        (
            "unknown constructors",
            one_string_as(
                &[b"X\x0c\0\0\0torch._utilsX\x09\0\0\0_rebuild_\x93q\x010".as_slice()].concat(),
                b"h\x01h\0\x85R",
            ),
        ),
        ("storage keys", one_string_as(pid, b"(h\x03h\x02h\0NJ\x01\x02\x03\x04tQ")),
        (
            "storage classes",
            one_string_as(&[pid.as_slice(), b"h\0h\0\x93q\x040"].concat(), b"(h\x03h\x04h\0NK\x01tQ"),
        ),
        (
            "byte strings as text",
            one_string_as(&[call("_codecs\nencode"), b"X\x06\0\0\0latin1q\x020".to_vec()].concat(), b"h\x01h\0h\x02\x86R"),
        ),
        (
            "one array as text many times",
            one_string_as(
                &[
                    call("numpy\ndtype"),
                    b"X\x02\0\0\0u1q\x020h\x01h\x02\x85Rq\x030".to_vec(),
                    b"cnumpy.core.numeric\n_frombuffer\n(h\0h\x03J\0\0\x08\0\x85X\x01\0\0\0CtRq\x040".to_vec(),
                ]
                .concat(),
                b"h\x04",
            ),
        ),
        (
            "one tensor many times",
            one_string_as(
                b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000NK\x01tQK\0))\x89}tRq\x010",
                b"h\x01",
            ),
        ),
        (
            "one dict many times in one call",
            [b"ccollections\nOrderedDict\n(}q\0(".to_vec(), repeat(b"K\x01N", MB / 2), b"u".to_vec(), repeat(b"h\0", MB / 2), b"tR".to_vec()].concat(),
        ),
    ]
}

/// A tensor subclass made from a tensor subclass made from …
fn subclasses(levels: usize) -> Vec<u8> {
    let mut body = b"ctorch._tensor\n_rebuild_from_type_v2\nq\0".to_vec();
    body.extend(b"(h\0N".repeat(levels));
    body.extend(b"(N");
    body.extend(b"tNt".repeat(levels));
    body.extend(b"tR");
    body
}

/// A tensor subclass made from itself.
fn endless_subclass() -> Vec<u8> {
    b"ctorch._tensor\n_rebuild_from_type_v2\nq\0]q\x01(h\0Nh\x01NeR".to_vec()
}

/// A quantized tensor without elements, of 2^40 channels whose scales are one number repeated.
fn endless_scales() -> Vec<u8> {
    let storage = |class: &str, key: u8| {
        [b"(X\x07\0\0\0storagectorch\n", class.as_bytes(), b"\nX\x01\0\0\0", &[key], b"X\x03\0\0\0cpuK\x01tQ"]
            .concat()
    };
    let huge = b"\x8a\x06\0\0\0\0\0\x01";
    let scales = |key: u8| {
        let head = b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        [head, storage("DoubleStorage", key), b"K\0".to_vec(), huge.to_vec(), b"\x85K\0\x85\x89}tR".to_vec()]
            .concat()
    };
    let mut body = b"}X\x01\0\0\0qctorch._utils\n_rebuild_qtensor\n(".to_vec();
    body.extend(storage("QInt8Storage", b'0'));
    body.extend(b"K\0");
    body.extend([huge, &b"K\0\x86"[..], b"K\x01K\x01\x86(ctorch\nper_channel_affine\n"].concat());
    body.extend([scales(b'1'), scales(b'2'), b"K\0t\x89}tRs".to_vec()].concat());
    body
}

fn gguf_with_counts(tensors: u64, keys: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.resize(MB, 0);
    bytes
}

/// A GGUF header that announces as many keys and tensors as it has, with `key` and `tensor` repeated to half a megabyte
/// each, and numbers put where they have `####`.
fn gguf_of(key: &[u8], tensor: &[u8]) -> Vec<u8> {
    let numbered = |unit: &[u8]| -> (u64, Vec<u8>) {
        let count = if unit.is_empty() { 0 } else { MB / 2 / unit.len() };
        let units = (0..count as u32).flat_map(|i| {
            let mut unit = unit.to_vec();
            if let Some(at) = unit.windows(4).position(|w| w == b"####") {
                unit[at..at + 4].copy_from_slice(&i.to_le_bytes());
            }
            unit
        });
        (count as u64, units.collect())
    };
    let ((keys, key_bytes), (tensors, tensor_bytes)) = (numbered(key), numbered(tensor));
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend(key_bytes);
    bytes.extend(tensor_bytes);
    bytes
}

fn gguf_array_key(element: u32, elements: &[u8], unit: usize) -> Vec<u8> {
    let mut key = b"\x04\0\0\0\0\0\0\0####\x09\0\0\0".to_vec();
    key.extend(element.to_le_bytes());
    key.extend(((elements.len() / unit) as u64).to_le_bytes());
    key.extend(elements);
    key
}

/// A tensor entry without dimensions, whose name is a number.
fn gguf_scalar() -> Vec<u8> {
    [b"\x04\0\0\0\0\0\0\0####".as_slice(), &[0; 16]].concat()
}

/// A file elsewhere: a SafeTensors header, and zeros.
#[derive(Debug)]
struct Zeros {
    header: Vec<u8>,
    len: u64,
}

impl StoredFile for Zeros {
    fn len(&self) -> u64 {
        self.len
    }

    fn version(&self) -> Option<String> {
        None
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let from = self.header.get(range.start as usize..).unwrap_or_default();
        let shown = from.len().min(bytes.len());
        bytes[..shown].copy_from_slice(&from[..shown]);
        Ok(bytes)
    }

    fn expect(&self, _: &[Range<u64>]) -> io::Result<()> {
        Ok(())
    }
}

/// Where such files are: `zeros://` and how many megabytes of float32 their one tensor has.
#[derive(Debug)]
struct Elsewhere;

impl Store for Elsewhere {
    fn schemes(&self) -> Vec<&'static str> {
        vec!["zeros"]
    }

    fn stat(&self, location: &str) -> io::Result<Stat> {
        Ok(Stat::file(self.open(location)?.len(), None))
    }

    fn list(&self, _: &str) -> io::Result<Vec<(String, Stat)>> {
        Err(io::ErrorKind::NotADirectory.into())
    }

    fn open(&self, location: &str) -> io::Result<Arc<dyn StoredFile>> {
        let size = location.strip_prefix("zeros://").and_then(|size| size.parse::<u64>().ok());
        let bytes = size.ok_or(io::ErrorKind::NotFound)? << 20;
        let header = format!(
            r#"{{"model.layers.0.mlp.up_proj.weight":{{"dtype":"F32","shape":[{},1024],"data_offsets":[0,{bytes}]}}}}"#,
            bytes / 4096
        );
        let header = safetensors::raw(&header, &[]);
        let len = header.len() as u64 + bytes;
        Ok(Arc::new(Zeros { header, len }))
    }
}

/// Of a large tensor elsewhere, a few tens of megabytes are in memory at a time, whatever is done with it.
fn a_tensor_elsewhere_is_looked_at_in_parts() {
    stored::register(vec![Arc::new(Elsewhere)]);
    let path = Path::new("zeros://256");
    let peak = |what: &str, work: &dyn Fn()| {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        work();
        let peak = (ALLOCATOR.peak_usage() - before) / MB;
        // Of each side a part, and the next one that is on its way.
        assert!(peak < 144, "{what}: {peak} MB of a tensor of 256");
    };
    peak("measured", &|| {
        let options = Options::default().with(|o| o.sha256 = true);
        let record = describe(&open(path).unwrap(), options, &|_| ());
        let stats = record.tensors[0].stats.as_ref().unwrap();
        assert_eq!((stats.count, stats.zeros), (64 << 20, 64 << 20));
        assert!(record.tensors[0].sha256.is_some() && record.tensors[0].structure.is_some());
    });
    peak("compared", &|| {
        let (a, b) = (open(path).unwrap(), open(path).unwrap());
        let found = diff(&a, &b, Default::default(), &|_| true).unwrap();
        assert_eq!(found.count(Status::Same), 1);
    });
}

/// A header of as many tensors as it can name: each takes a few hundred bytes as an entry and as a record together.
fn many_tensors_take_memory_in_proportion() {
    const COUNT: usize = 200_000;
    let entries: Vec<String> = (0..COUNT)
        .map(|i| format!(r#""{i:x}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    let bytes = safetensors::raw(&format!("{{{}}}", entries.join(",")), &vec![0; COUNT]);
    drop(entries);
    for options in [Options::default(), Options::default().with(|o| o.stats = false)] {
        let size = bytes.len();
        let bytes = bytes.clone();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let checkpoint = open_bytes("many.safetensors", bytes).unwrap();
        let opened = (ALLOCATOR.peak_usage() - before) / COUNT;
        let mut record = describe(&checkpoint, options, &|_| ());
        let described = (ALLOCATOR.peak_usage() - before) / COUNT;
        drop(checkpoint);
        judge(&mut record, &Default::default());
        let peak = ALLOCATOR.peak_usage() - before;
        println!("{opened}, {described}, {} bytes for each of {COUNT} tensors", peak / COUNT);
        assert!(peak < 16 * size, "{} bytes for each of {COUNT} tensors, {size} in all", peak / COUNT);
    }
}

/// What is scanned may be packed to a thousandth: neither it nor its values take more than 256 MB.
fn what_is_packed_takes_no_more_than_a_file_may() {
    let folder = tempfile::tempdir().unwrap();
    for (name, unit) in [("dicts.pkl.gz", &b"}"[..]), ("globals.pkl.gz", b"ca\nb\n")] {
        let path = folder.path().join(name);
        let mut packed = GzEncoder::new(std::fs::File::create(&path).unwrap(), Compression::fast());
        let units = repeat(unit, MB);
        packed.write_all(b"\x80\x02(").unwrap();
        (0..100).for_each(|_| packed.write_all(&units).unwrap());
        packed.write_all(b"l.").unwrap();
        packed.finish().unwrap();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        let report = scan(&path, &Default::default()).unwrap();
        let peak = (ALLOCATOR.peak_usage() - before) / MB;
        assert!(
            report.findings.iter().any(|f| f.rule == Rule::BrokenPickle),
            "{name}: {:?}",
            report.findings
        );
        println!("{name}: {peak} MB");
        assert!(peak < 256, "{name}: {peak} MB");
    }
}

#[test]
fn no_file_takes_memory_out_of_proportion_to_its_size() {
    one_megabyte_never_takes_hundreds();
    many_tensors_take_memory_in_proportion();
    what_is_packed_takes_no_more_than_a_file_may();
    a_tensor_elsewhere_is_looked_at_in_parts();
}

fn one_megabyte_never_takes_hundreds() {
    let expanded = r#"{"w":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}"#;
    let storages = vec![vec![0; 8]; 3];
    let announcing = |length: u64, header: &str| [&length.to_le_bytes()[..], header.as_bytes()].concat();
    let mut inputs: Vec<(&str, Vec<u8>)> = vec![
        ("nothing but None", pickle(4, &repeat(b"N", MB))),
        ("marks", pickle(4, &repeat(b"(", MB))),
        ("empty lists", pickle(4, &repeat(b"]", MB))),
        ("empty dicts", pickle(4, &repeat(b"}", MB))),
        ("memoized", pickle(4, &repeat(b"]\x94", MB))),
        ("duplicates", pickle(4, &[b"]".to_vec(), repeat(b"2", MB)].concat())),
        ("short strings", pickle(4, &repeat(b"\x8c\x01a", MB))),
        ("one-tuples", pickle(4, &[b"N".to_vec(), repeat(b"\x85", MB)].concat())),
        ("instances", pickle(4, &[b"N".to_vec(), repeat(b")\x81", MB)].concat())),
        ("appended to one list", pickle(4, &[b"]".to_vec(), repeat(b"Na", MB)].concat())),
        ("doubling", pickle(4, &doubling(MB / 16))),
        ("one string many times", pickle(4, &one_string_many_times())),
        ("one key many times", pickle(4, &one_key_many_times())),
        ("subclasses of subclasses", pickle(4, &subclasses(MB / 8))),
        ("a subclass of itself", pickle(4, &endless_subclass())),
        ("endless scales", zip_of(&pickle(4, &endless_scales()), &storages)),
        (
            "a string of 2^60 bytes",
            pickle(4, &[b"\x8d".to_vec(), (1u64 << 60).to_le_bytes().to_vec(), vec![0; MB]].concat()),
        ),
        (
            "a frame of 2^60 bytes",
            pickle(4, &[b"\x95".to_vec(), (1u64 << 60).to_le_bytes().to_vec(), vec![0; MB]].concat()),
        ),
        ("a GGUF of 2^60 tensors", gguf_with_counts(1 << 60, 0)),
        ("a GGUF of 2^60 keys", gguf_with_counts(0, 1 << 60)),
        ("a GGUF of keys", gguf_of(b"\x04\0\0\0\0\0\0\0####\0\0\0\0\x07", b"")),
        ("a GGUF of tensors", gguf_of(b"", &gguf_scalar())),
        (
            "a GGUF of tensors with long names",
            gguf_of(b"", &{
                let mut entry = gguf_scalar();
                entry.splice(8..8, [b'a'; 4096]);
                entry[..8].copy_from_slice(&4100u64.to_le_bytes());
                entry
            }),
        ),
        ("a GGUF of byte arrays", gguf_of(&gguf_array_key(0, &[7; 1000], 1), &gguf_scalar())),
        ("a GGUF of empty strings", gguf_of(&gguf_array_key(8, &[0; 8000], 8), b"")),
        ("a GGUF of empty arrays", gguf_of(&gguf_array_key(9, &[0; 12_000], 12), b"")),
        ("a GGUF of one vocabulary", gguf_of(&gguf_array_key(8, &[0; 400_000], 8), b"")),
        ("a SafeTensors header of 2^60 bytes", announcing(1 << 60, "{}")),
        ("a SafeTensors tensor of 2^82 bytes", safetensors::raw(expanded, &[])),
        ("deep JSON", safetensors::raw(&format!("{}{}", "[".repeat(MB / 2), "]".repeat(MB / 2)), &[])),
    ];
    let roles: Vec<&str> = strings_in_roles().iter().map(|(what, _)| *what).collect();
    for (what, body) in strings_in_roles() {
        inputs.push((what, zip_of(&pickle(4, &body), &storages)));
    }
    for (what, bytes) in inputs {
        let started = std::time::Instant::now();
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        match open_bytes("input", bytes) {
            Ok(checkpoint) => drop(describe(&checkpoint, Options::default(), &|_| ())),
            Err(error) if what == "globals of one module" => assert!(error.to_string().contains("repeat")),
            Err(error) if roles.contains(&what) => panic!("{what}: {error}"),
            Err(error) => assert!(!what.starts_with("a GGUF of") || what.contains("2^60"), "{what}: {error}"),
        }
        assert!(started.elapsed().as_secs() < 120, "{what}: {:?}", started.elapsed());
        let peak = (ALLOCATOR.peak_usage() - before) / MB;
        assert!(peak < 256, "{what}: {peak} MB for one");
    }
}
