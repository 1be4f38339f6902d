//! No tensor is called whole if its bytes differ from those of the undamaged file, for any truncated or overwritten
//! bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ckpt_inspect::salvage::{Fill, Salvage, salvage};
use ckpt_inspect::{Checkpoint, OpenOptions, TensorInfo, open};
use ckpt_kit::fixtures::{data, fixture};
use ckpt_kit::safetensors::{self, SafeTensors};
use proptest::prelude::*;

fn format(name: &str) -> PathBuf {
    fixture("formats").join(name)
}

/// What identifies a tensor: type, shape and bytes.
type Content = (String, Vec<usize>, Vec<u8>);

fn content(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Content {
    let bytes = checkpoint.tensor_bytes(tensor).unwrap().into_owned();
    (tensor.dtype.to_string(), tensor.shape.clone(), bytes)
}

/// Every tensor with data of the undamaged file.
fn truth(path: &Path) -> HashMap<String, Content> {
    let checkpoint = open(path).unwrap();
    let has_data = |t: &&TensorInfo| t.storage.is_some() || t.sparse.is_some();
    let tensors = checkpoint.tensors.iter().filter(has_data);
    tensors.map(|t| (t.name.clone(), content(&checkpoint, t))).collect()
}

/// Salvages `bytes`, compares the tensors called whole with `truth`, and returns how many there are.
/// A tensor without a checksum may differ if `excused`.
fn whole(folder: &Path, bytes: &[u8], truth: &HashMap<String, Content>, excused: bool, what: &str) -> usize {
    let path = folder.join("damaged");
    std::fs::write(&path, bytes).unwrap();
    let Ok(salvaged) = salvage(&path, &OpenOptions::default()) else { return 0 };
    let mut whole = 0;
    for tensor in &salvaged.checkpoint.tensors {
        if tensor.storage.is_none() && tensor.sparse.is_none() {
            continue;
        }
        if excused && salvaged.unverified.contains(&tensor.name) {
            continue;
        }
        let expected =
            truth.get(&tensor.name).unwrap_or_else(|| panic!("{what}: {} is made up", tensor.name));
        assert!(
            content(&salvaged.checkpoint, tensor) == *expected,
            "{what}: {} is said to be whole",
            tensor.name
        );
        whole += 1;
    }
    if !excused {
        assert!(whole + salvaged.losses.len() <= truth.len(), "{what}");
    }
    whole
}

/// Every point where a small file can end, and those around every boundary of a large one.
fn ends(bytes: &[u8]) -> Vec<usize> {
    if bytes.len() <= 4096 {
        return (0..=bytes.len()).collect();
    }
    let mut ends: Vec<usize> = (0..bytes.len()).step_by(911).collect();
    for at in 0..bytes.len() - 4 {
        if &bytes[at..at + 2] == b"PK" {
            ends.extend(at.saturating_sub(2)..(at + 34).min(bytes.len()));
        }
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn every_truncation(path: &Path) {
    let (bytes, truth) = (std::fs::read(path).unwrap(), truth(path));
    let folder = tempfile::tempdir().unwrap();
    let mut best = 0;
    for end in ends(&bytes) {
        let found =
            whole(folder.path(), &bytes[..end], &truth, false, &format!("{} cut at {end}", path.display()));
        // Existing tensors are found: a longer prefix never gives fewer.
        assert!(found >= best, "{} cut at {end}: {found} tensors, {best} before", path.display());
        best = found;
    }
    assert!(
        best == truth.len() || bytes.len() > 4096,
        "{}: {best} of {} at the end",
        path.display(),
        truth.len()
    );
}

#[test]
fn every_cut_of_a_zip_keeps_only_what_is_whole() {
    every_truncation(&format("whole.pt"));
    for name in ["views.pt", "tied.pt", "proto5.pt"] {
        every_truncation(&format(name));
    }
}

/// Without checksums a changed name stays one, but what is made by a function that does not exist is no tensor.
#[test]
fn storages_of_what_is_not_known_are_not_whole_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = format("legacy.pt");
    let (bytes, truth) = (std::fs::read(&path).unwrap(), truth(&path));
    let function = b"torch._utils\n_rebuild_tensor_v2";
    let at = bytes.windows(function.len()).position(|w| w == function).unwrap();
    let mut doubtful = 0;
    for (place, bit) in (at..at + function.len()).flat_map(|place| (0..7).map(move |bit| (place, bit))) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << bit;
        let damaged = folder.path().join("damaged.pt");
        std::fs::write(&damaged, flipped).unwrap();
        let Ok(salvaged) = salvage(&damaged, &OpenOptions::default()) else { continue };
        let made_up = salvaged.unverified.iter().find(|name| !truth.contains_key(*name));
        assert_eq!(made_up, None, "byte {place}, bit {bit}");
        doubtful += salvaged.doubtful.len();
    }
    assert!(doubtful > 100, "{doubtful}");
}

#[test]
fn every_cut_of_a_legacy_file_keeps_only_what_is_whole() {
    every_truncation(&format("legacy.pt"));
    every_truncation(&format("legacy_proto4.pt"));
}

fn small() -> SafeTensors {
    let bytes: Vec<u8> = (0..84u8).map(|i| i.wrapping_mul(37) & 0x3f).collect();
    SafeTensors::new()
        .tensor("a", "F32", &[5, 3], &bytes[..60])
        .tensor("b", "I16", &[4], &bytes[60..68])
        .tensor("c", "BF16", &[8], &bytes[68..])
}

#[test]
fn every_cut_of_safetensors_and_gguf_keeps_only_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    small().write(&path);
    every_truncation(&path);
    every_truncation(&data("inspect", "every_type.gguf"));
}

#[test]
fn the_truncated_fixture_gives_what_its_truth_says() {
    let salvaged = salvage(&format("truncated.pt"), &OpenOptions::default()).unwrap();
    let names = |range: std::ops::Range<usize>| range.map(|i| format!("model_state_dict.layers.{i}.w"));
    let whole: Vec<&str> = salvaged.checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(whole, names(0..3).collect::<Vec<_>>());
    assert_eq!(salvaged.verified, 3);
    let lost: Vec<&str> = salvaged.losses.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(lost, names(3..6).collect::<Vec<_>>());
    // The fourth was being written: its beginning exists.
    let (start, end) = salvaged.losses[0].range.unwrap();
    assert_eq!(end - start, 64 * 64 * 4);
    assert_eq!(salvaged.losses[0].present, std::fs::metadata(format("truncated.pt")).unwrap().len() - start);
}

#[test]
fn the_flipped_bit_costs_one_tensor() {
    let salvaged = salvage(&format("bitflip.pt"), &OpenOptions::default()).unwrap();
    let [loss] = salvaged.losses.as_slice() else { panic!("{:?}", salvaged.losses) };
    assert_eq!(loss.name, "model_state_dict.layers.2.w");
    assert!(loss.why.contains("checksum"), "{}", loss.why);
    let (start, end) = loss.range.unwrap();
    let (flipped, whole) =
        (std::fs::read(format("bitflip.pt")).unwrap(), std::fs::read(format("whole.pt")).unwrap());
    let at = flipped.iter().zip(&whole).position(|(a, b)| a != b).unwrap() as u64;
    assert!((start..end).contains(&at), "the flipped byte {at} is in {start}..{end}");
    assert_eq!((salvaged.verified, salvaged.unverified.len()), (5, 0));
}

/// Overwrites `range` of whole.pt with `byte`, and salvages it.
fn overwritten(range: std::ops::Range<usize>, byte: u8) -> Salvage {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.pt");
    let mut bytes = std::fs::read(format("whole.pt")).unwrap();
    bytes[range].fill(byte);
    std::fs::write(&path, bytes).unwrap();
    salvage(&path, &OpenOptions::default()).unwrap()
}

#[test]
fn headers_that_were_overwritten_are_made_up_for() {
    let bytes = std::fs::read(format("whole.pt")).unwrap();
    let find = |name: &str| {
        let at = bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
        at - 30
    };
    // The local header of one storage: the directory and the data around it tell where the storage is.
    let header = find("whole/data/2");
    for range in [header..header + 4, header..header + 46, header + 30..header + 42] {
        let salvaged = overwritten(range.clone(), 0);
        assert_eq!((salvaged.verified, salvaged.losses.len()), (6, 0), "{range:?}");
    }
    // The directory's end, one of its entries, all of it.
    let directory = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    for range in [bytes.len() - 22..bytes.len(), directory..directory + 46, directory..bytes.len()] {
        let salvaged = overwritten(range.clone(), 0xff);
        assert_eq!((salvaged.verified, salvaged.losses.len()), (6, 0), "{range:?}");
        assert!(!salvaged.is_whole());
    }
    // A page within two storages.
    let second = find("whole/data/3");
    let salvaged = overwritten(second - 2048..second + 2048, 0);
    let lost: Vec<&str> = salvaged.losses.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(lost, ["model_state_dict.layers.2.w", "model_state_dict.layers.3.w"]);
    assert_eq!(salvaged.verified, 4);
}

#[test]
fn a_first_page_that_was_overwritten_costs_the_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.pt");
    let mut bytes = std::fs::read(format("whole.pt")).unwrap();
    bytes[..512].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let error = salvage(&path, &OpenOptions::default()).unwrap_err().to_string();
    assert!(error.contains("data.pkl"), "{error}");
    // With its data whole the header alone costs nothing.
    let mut bytes = std::fs::read(format("whole.pt")).unwrap();
    bytes[..30].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let salvaged = salvage(&path, &OpenOptions::default()).unwrap();
    assert_eq!((salvaged.verified, salvaged.losses.len()), (6, 0));
}

#[test]
fn bytes_that_were_removed_or_inserted_are_not_taken_for_tensors() {
    let (bytes, truth) = (std::fs::read(format("whole.pt")).unwrap(), truth(&format("whole.pt")));
    let folder = tempfile::tempdir().unwrap();
    for (at, len) in
        [(20_000, 1), (20_000, 512), (20_000, 4096), (20_000, 40_000), (600, 64), (1_200, 20_000)]
    {
        let mut removed = bytes.clone();
        removed.drain(at..at + len);
        let found = whole(folder.path(), &removed, &truth, false, &format!("{len} bytes removed at {at}"));
        assert!(found >= 2 || at == 600, "{found} found with {len} bytes removed at {at}");
        let mut inserted = bytes.clone();
        inserted.splice(at..at, std::iter::repeat_n(7, len));
        let found = whole(folder.path(), &inserted, &truth, false, &format!("{len} bytes inserted at {at}"));
        assert!(found >= 5 || at == 600, "{found} found with {len} bytes inserted at {at}");
    }
}

#[test]
fn holes_are_filled() {
    let truncated = || salvage(&format("truncated.pt"), &OpenOptions::default()).unwrap();
    let whole = open(format("whole.pt")).unwrap();
    let value = |c: &Checkpoint, layer: usize| {
        let tensor = c.tensor(&format!("model_state_dict.layers.{layer}.w")).unwrap().clone();
        c.values(&tensor).unwrap()
    };

    let mut salvaged = truncated();
    assert_eq!(salvaged.fill(Fill::Nan), 3);
    assert_eq!(salvaged.holes().count(), 0);
    assert_eq!(salvaged.checkpoint.tensors.len(), 6);
    // The beginning of the fourth is unchanged, the rest is NaN.
    let there = salvaged.losses[0].present as usize / 4;
    let (filled, original) = (value(&salvaged.checkpoint, 3), value(&whole, 3));
    assert!(there > 100 && there < 4096);
    assert_eq!(filled[..there], original[..there]);
    assert!(filled[there + 1..].iter().all(|x| x.is_nan()));
    assert!(value(&salvaged.checkpoint, 5).iter().all(|x| x.is_nan()));

    let mut salvaged = truncated();
    assert_eq!(salvaged.fill(Fill::Zeros), 3);
    assert!(value(&salvaged.checkpoint, 4).iter().all(|&x| x == 0.0));
    assert_eq!(value(&salvaged.checkpoint, 1), value(&whole, 1));

    let mut salvaged = truncated();
    assert_eq!(salvaged.fill_from(open(format("bitflip.pt")).unwrap()), 3);
    for layer in 0..6 {
        assert_eq!(value(&salvaged.checkpoint, layer), value(&whole, layer), "{layer}");
    }
    let order: Vec<&str> = salvaged.checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    assert!(order.is_sorted(), "{order:?}");

    // A damaged tensor in the other checkpoint is not used.
    let mut salvaged = salvage(&format("bitflip.pt"), &OpenOptions::default()).unwrap();
    assert_eq!(salvaged.fill_from(open(format("bitflip.pt")).unwrap()), 0);
    assert_eq!(salvaged.fill_from(open(format("whole.pt")).unwrap()), 1);
    assert_eq!(value(&salvaged.checkpoint, 2), value(&whole, 2));
}

#[test]
fn a_size_that_only_a_header_claims_is_not_filled() {
    let header = r#"{"a":{"dtype":"F32","shape":[1048576,1048576],"data_offsets":[0,4398046511104]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4398046511104,4398046511108]}}"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("claims.safetensors");
    std::fs::write(&path, safetensors::raw(header, &[1, 2, 3])).unwrap();
    let mut salvaged = salvage(&path, &OpenOptions::default()).unwrap();
    assert_eq!(salvaged.fill(Fill::Zeros), 1);
    assert_eq!(salvaged.fill(Fill::Nan), 0);
    let holes: Vec<&str> = salvaged.holes().map(|loss| loss.name.as_str()).collect();
    assert_eq!(holes, ["a"]);
}

#[test]
fn tied_weights_are_filled_once() {
    let path = format("tied.pt");
    let bytes = std::fs::read(&path).unwrap();
    let name = b"tied/data/0";
    let data = bytes.windows(name.len()).position(|w| w == name).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("tied.pt");
    std::fs::write(&cut, &bytes[..data + name.len()]).unwrap();
    let mut salvaged = salvage(&cut, &OpenOptions::default()).unwrap();
    let lost = salvaged.losses.len();
    assert!(lost >= 2, "{lost}");
    assert_eq!(salvaged.fill(Fill::Zeros), lost);
    assert!(salvaged.checkpoint.sharing(4).iter().any(|others| !others.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Zips have a checksum for every storage; with any bytes overwritten, tensors that are called whole and verified
    /// are unchanged.
    #[test]
    fn nothing_overwritten_is_called_whole(
        file in 0..5usize,
        holes in prop::collection::vec((any::<prop::sample::Index>(), 1..3000usize, any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let name = ["whole.pt", "views.pt", "deflated.pt", "module.pt", "quantized.pt"][file];
        let (mut bytes, truth) = (std::fs::read(format(name)).unwrap(), truth(&format(name)));
        for (at, len, value) in holes {
            let at = at.index(bytes.len());
            let end = (at + len).min(bytes.len());
            bytes[at..end].fill(value);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let folder = tempfile::tempdir().unwrap();
        whole(folder.path(), &bytes, &truth, true, name);
    }
}
