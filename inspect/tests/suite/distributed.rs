//! What several ranks saved: `torch.distributed.checkpoint`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ckpt_inspect::salvage::{self, Fill};
use ckpt_inspect::scan::{self, Severity};
use ckpt_inspect::{
    Cache, Checkpoint, DamageKind, ErrorKind, Format, Group, NoticeKind, OpenOptions, Options, describe,
    find, identity, lookup, open,
};
use ckpt_kit::peers;
use ckpt_kit::safetensors::SafeTensors;

/// Two ranks' blocks of a few tensors, and the same state dict whole (`tests/data/distributed.py`).
fn saved() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/distributed/step-7")
}

fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Every tensor by its name: type, shape and bytes.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let tensor = |t: &ckpt_inspect::TensorInfo| {
        let bytes = t.bytes().unwrap_or_else(|e| panic!("{}: {e}", t.name)).into_owned();
        (t.name.clone(), (t.dtype.to_string(), t.shape.clone(), bytes))
    };
    checkpoint.tensors.iter().map(tensor).collect()
}

#[track_caller]
fn assert_same(folder: &Path, whole: &Path) {
    let mut checkpoint = open(folder).unwrap();
    assert_eq!(checkpoint.format, Format::TorchDistributed);
    assert_eq!(checkpoint.damage, None);
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    assert_eq!(checkpoint.verify_checksums(), [""; 0]);
    let (found, expected) = (tensors(&checkpoint), tensors(&open(whole).unwrap()));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in &expected {
        assert_eq!(&found[name], tensor, "{name}");
    }
}

#[test]
fn blocks_of_ranks_are_the_tensors_that_were_saved() {
    assert_same(&saved(), &saved().with_file_name("whole.pt"));
    let checkpoint = open(saved()).unwrap();
    assert_eq!(checkpoint.step, Some((7, "step".into())));
    let learning_rate = lookup(&checkpoint.metadata, "optimizer.param_groups.0.lr");
    assert_eq!(format!("{learning_rate:?}"), "Some(F64(0.001))");
    let files: BTreeSet<String> =
        checkpoint.files().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(files.iter().collect::<Vec<_>>(), [".metadata", "__0_0.distcp", "__1_0.distcp"]);
}

#[test]
fn any_file_of_the_folder_is_the_checkpoint() {
    for file in [".metadata", "__0_0.distcp", "__1_0.distcp"] {
        let file = saved().join(file);
        assert_eq!(open(&file).unwrap().tensors.len(), open(saved()).unwrap().tensors.len());
        assert_eq!(identity(&file), identity(&saved()));
    }
    assert_eq!(find(saved().parent().unwrap()).unwrap(), [saved().with_file_name("whole.pt"), saved()]);
}

#[test]
fn a_save_that_did_not_finish_is_said_to_be_one_and_what_it_has_is_listed() {
    let folder = copy(&saved());
    let at = |name: &str| folder.path().join(name);
    std::fs::remove_file(at(".metadata")).unwrap();
    let unfinished = |path: &Path| {
        let checkpoint = open(path).unwrap();
        let damage = checkpoint.damage.clone().unwrap();
        assert!(damage.is(DamageKind::MissingShards), "{damage}");
        assert!(damage.what.starts_with("saving was not finished: .metadata"), "{damage}");
        checkpoint
    };
    let found = unfinished(folder.path());
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    assert_eq!(identity(&at("__1_0.distcp")), identity(folder.path()));
    let said: Vec<(NoticeKind, &str)> = found.warnings.iter().map(|n| (n.kind, n.text.as_str())).collect();
    let [(NoticeKind::OneRank, text)] = said[..] else { panic!("{said:?}") };
    assert!(text.contains("listed by file and number"), "{text}");
    let whole = open(saved()).unwrap();
    let own = whole.tensor("model.layers.0.mlp.up_proj.weight").unwrap();
    // The first rows are the first rank's.
    let parts = tensors(&found);
    let rows = |file: &str| {
        let mut parts =
            parts.iter().filter(|(name, part)| name.starts_with(file) && part.1.get(1..) == Some(&[6]));
        parts.find(|(_, part)| own.bytes().unwrap().windows(part.2.len()).any(|bytes| bytes == part.2))
    };
    assert_eq!(rows("__0_0.").unwrap().1.1, [5, 6]);
    assert_eq!(rows("__1_0.").unwrap().1.1, [4, 6]);
    assert_eq!(unfinished(&at("__1_0.distcp")).tensors.len(), found.tensors.len());
    // Values are by file and number, too.
    let values = format!("{:?}", found.metadata);
    assert!(values.contains("__1_0") && values.contains("I64(7)"), "{values}");
    // A rank that was still writing, and one that had just begun.
    let file = std::fs::read(at("__1_0.distcp")).unwrap();
    std::fs::write(at("__1_0.distcp"), &file[..file.len() - 300]).unwrap();
    std::fs::write(at("__2_0.distcp"), "").unwrap();
    let cut = unfinished(folder.path());
    assert_eq!(cut.tensors.len(), found.tensors.len());
    let text = cut.damage.as_ref().unwrap().to_string();
    assert!(text.contains("`__1_0.") && text.contains("central directory cannot be read"), "{text}");
    // One item in the middle without its end costs itself alone.
    let end = file.windows(4).position(|bytes| bytes == b"PK\x05\x06").unwrap();
    std::fs::write(at("__1_0.distcp"), [&file[..end], &[0; 4], &file[end + 4..]].concat()).unwrap();
    let hurt = unfinished(folder.path());
    let (hurt, parts) = (tensors(&hurt), tensors(&found));
    assert!(parts.iter().filter(|(name, part)| hurt.get(*name) == Some(part)).count() + 1 >= parts.len());
    // The listing that was not given its name yet, and one that is not all there.
    let listing = std::fs::read(saved().join(".metadata")).unwrap();
    std::fs::write(at("__1_0.distcp"), &file).unwrap();
    std::fs::remove_file(at("__2_0.distcp")).unwrap();
    std::fs::write(at(".metadata.tmp"), &listing).unwrap();
    let named = unfinished(folder.path());
    assert_eq!(tensors(&named), tensors(&whole));
    std::fs::write(at(".metadata.tmp"), &listing[..listing.len() / 2]).unwrap();
    assert_eq!(unfinished(folder.path()).tensors.len(), found.tensors.len());
    // Nothing that says anything.
    for file in ["__0_0.distcp", "__1_0.distcp"] {
        std::fs::write(at(file), [7; 100]).unwrap();
    }
    let error = open(folder.path()).unwrap_err();
    assert_eq!((error.kind, error.fault), (ErrorKind::Damaged, Some(DamageKind::MissingShards)));
    assert!(error.to_string().contains("not finished"), "{error}");
}

#[test]
fn what_a_missing_rank_had_is_damaged_and_the_rest_is_read() {
    let folder = copy(&saved());
    std::fs::remove_file(folder.path().join("__0_0.distcp")).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert_eq!(damage.kind, DamageKind::MissingShards);
    assert!(damage.what.starts_with("1 of 2 files missing: __0_0.distcp"), "{damage}");
    let (lost, whole): (Vec<_>, Vec<_>) = checkpoint.tensors.iter().partition(|t| t.damage.is_some());
    assert!(!lost.is_empty() && !whole.is_empty());
    for tensor in whole {
        tensor.bytes().unwrap();
    }
    for tensor in lost {
        assert!(tensor.damage.as_ref().unwrap().what.ends_with("__0_0.distcp is missing"), "{tensor:?}");
        assert!(tensor.bytes().is_err());
    }
}

#[test]
fn of_a_tensor_that_lost_a_rank_the_blocks_of_the_others_are_kept() {
    let folder = copy(&saved());
    let whole = open(saved()).unwrap();
    std::fs::remove_file(folder.path().join("__1_0.distcp")).unwrap();
    let mut salvage = salvage::salvage(folder.path(), &OpenOptions::default()).unwrap();
    // Cut by rows and by columns: 9 rows of 6 as 5 and 4, 9 columns in 6 rows likewise.
    let rows = ("model.layers.0.mlp.up_proj.weight", 5 * 6 * 4, vec![(120, 216)]);
    let columns = (
        "model.layers.0.mlp.down_proj.weight",
        6 * 5 * 4,
        (0..6).map(|i| (36 * i + 20, 36 * i + 36)).collect(),
    );
    for (name, present, holes) in [&rows, &columns] {
        let loss = salvage.losses.iter().find(|loss| loss.name == *name).unwrap();
        assert_eq!((loss.present, &loss.holes), (*present, holes), "{name}");
        assert!(loss.why.ends_with("is not there: __1_0.distcp is missing"), "{}", loss.why);
    }
    salvage.fill(Fill::Nan);
    for (name, _, holes) in [rows, columns] {
        let (filled, own) = (salvage.checkpoint.tensor(name).unwrap(), whole.tensor(name).unwrap());
        let (filled, own) = (filled.bytes().unwrap(), own.bytes().unwrap());
        for (at, (found, expected)) in filled.chunks(4).zip(own.chunks(4)).enumerate() {
            let lost = holes.iter().any(|(start, end)| (*start..*end).contains(&(4 * at as u64)));
            let expected = if lost { f32::NAN.to_le_bytes() } else { expected.try_into().unwrap() };
            assert_eq!(found, expected, "{name}, element {at}");
        }
    }
}

/// Every cut of a rank's file: what was saved before it is read, and the blocks of the other rank always are.
#[test]
fn a_cut_file_costs_the_blocks_after_the_cut() {
    let folder = copy(&saved());
    let file = folder.path().join("__1_0.distcp");
    let whole = std::fs::read(&file).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut lost = Vec::new();
    for cut in (0..whole.len()).step_by(whole.len() / 40) {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let checkpoint = open(folder.path()).unwrap();
        assert!(checkpoint.is_damaged(), "{cut}");
        lost.push(checkpoint.tensors.iter().filter(|tensor| tensor.damage.is_some()).count());
        let salvage = salvage::salvage(folder.path(), &OpenOptions::default()).unwrap();
        if let Some(loss) = salvage.losses.iter().find(|loss| loss.name == name) {
            assert_eq!((loss.present, &loss.holes[..]), (120, &[(120, 216)][..]), "{cut}");
        }
    }
    assert!(lost.is_sorted_by(|a, b| a >= b) && lost[0] > *lost.last().unwrap(), "{lost:?}");
}

/// Any byte of a block's header changed: something that is told, or what was saved.
#[test]
fn headers_of_blocks_that_lie_are_errors_or_damage() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &[(1, &[0, 0], &[2, 3], 1.0), (2, &[2, 0], &[2, 3], 2.0)]);
    let file = folder.path().join("shard-00002-model-00001-of-00001.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let saved = tensors(&open(folder.path()).unwrap());
    let elements = 2 * 3 * 4;
    for i in 0..whole.len() {
        for bit in [0, 3, 6] {
            let mut bytes = whole.clone();
            bytes[i] ^= 1 << bit;
            std::fs::write(&file, &bytes).unwrap();
            let checkpoint = open(folder.path()).unwrap();
            checkpoint.tensors.iter().for_each(|tensor| drop(tensor.bytes().map(|bytes| bytes.len())));
            // Nothing speaks for or against the elements.
            let told = checkpoint.is_damaged() || !checkpoint.warnings.is_empty();
            let is_header = i < whole.len() - elements;
            assert!(told || !is_header || tensors(&checkpoint) == saved, "byte {i}, bit {bit}");
        }
    }
}

/// A block that begins where bytes can no longer be counted.
#[test]
fn blocks_beyond_what_can_be_counted_are_damage() {
    for start in [(1 << 62) - 4, (1 << 62) - 2, (1 << 61) - 2, usize::MAX - 2] {
        let folder = tempfile::tempdir().unwrap();
        shards(folder.path(), &[(1, &[start], &[4], 1.0)]);
        let found =
            open(folder.path()).map(|checkpoint| checkpoint.tensors.iter().all(|t| t.damage.is_some()));
        assert!(found.unwrap_or(true), "from {start}");
    }
}

/// Two ranks' blocks of one matrix, as the Hugging Face writer names and describes them.
fn shards(folder: &Path, ranks: &[(usize, &[usize], &[usize], f32)]) {
    for (rank, offsets, shape, value) in ranks {
        let info = serde_json::json!({"w": {"saved_offsets": offsets}}).to_string();
        let metadata = serde_json::json!({"DCP_SHARDING_INFO": info, "DCP_VERSION": "1.0"});
        let values = vec![*value; shape.iter().product()];
        let file = SafeTensors::new().metadata(metadata).f32s("w", shape, &values);
        let name = format!("shard-{rank:05}-model-00001-of-00001.safetensors");
        std::fs::write(folder.join(name), file.bytes()).unwrap();
    }
}

#[test]
fn blocks_of_the_hugging_face_writer_are_joined_and_holes_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let all: [(usize, &[usize], &[usize], f32); 3] =
        [(1, &[0, 0], &[2, 2], 1.0), (2, &[0, 2], &[2, 1], 2.0), (3, &[2, 0], &[1, 3], 3.0)];
    shards(folder.path(), &all);
    let file = folder.path().join("shard-00002-model-00001-of-00001.safetensors");
    for path in [folder.path(), &file] {
        let checkpoint = open(path).unwrap();
        assert_eq!((checkpoint.damage.clone(), checkpoint.warnings.len()), (None, 0));
        assert_eq!(checkpoint.metadata, ckpt_inspect::metadata::Value::Dict(Default::default()));
        let w = checkpoint.tensor("w").unwrap();
        assert_eq!(w.shape, [3, 3]);
        assert_eq!(checkpoint.values(w).unwrap(), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0]);
        assert_eq!(identity(path), identity(folder.path()));
    }
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    std::fs::remove_file(&file).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.tensor("w").unwrap().damage.clone().unwrap();
    assert_eq!(damage.what, "its elements 2 to 3 are in no block");
    let notices: Vec<&str> = checkpoint.warnings.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(
        notices,
        ["no file of rank 2, of 3 or more: it had nothing to save, or its tensors are missing"]
    );
    // A block that would reach beyond any size, and one of other dimensions.
    shards(folder.path(), &[(2, &[usize::MAX, 0], &[2, 1], 2.0), (4, &[0], &[1, 1], 2.0)]);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.damage.unwrap().kind, DamageKind::UnreadableEntry);
}

#[test]
fn files_of_the_hugging_face_writer_that_no_rank_has_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &[(1, &[0, 0], &[2, 2], 1.0), (2, &[0, 2], &[2, 1], 2.0)]);
    for rank in [1, 2] {
        let name = |count: usize| {
            folder.path().join(format!("shard-{rank:05}-model-00001-of-{count:05}.safetensors"))
        };
        std::fs::rename(name(1), name(2)).unwrap();
    }
    let damage = open(folder.path()).unwrap().damage.unwrap();
    assert_eq!(damage.kind, DamageKind::MissingShards);
    assert_eq!(
        damage.what,
        "1 of the 2 files that tensors are divided over missing: no rank's is called model-00002-of-00002"
    );
    // A rank that is skipped may have had nothing to save: who trusts the others should know.
    let folder = tempfile::tempdir().unwrap();
    shards(folder.path(), &[(1, &[0, 0], &[2, 2], 1.0), (3, &[0, 2], &[2, 1], 2.0)]);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!((checkpoint.damage.clone(), checkpoint.warnings[0].kind), (None, NoticeKind::Skipped));
    assert!(checkpoint.warnings[0].is_finding());
}

#[test]
fn a_listing_whose_parts_are_all_gone_is_a_checkpoint_without_bytes() {
    let run = tempfile::tempdir().unwrap();
    let step = run.path().join("step-8");
    std::fs::create_dir(&step).unwrap();
    std::fs::copy(saved().join(".metadata"), step.join(".metadata")).unwrap();
    assert_eq!(find(run.path()).unwrap(), std::slice::from_ref(&step));
    let checkpoint = open(&step).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert!(damage.what.starts_with("2 of 2 files missing: __0_0.distcp, __1_0.distcp"), "{damage}");
    assert!(checkpoint.tensors.iter().all(|tensor| tensor.damage.is_some()));
    // Other programs have files of this name.
    std::fs::write(step.join(".metadata"), "version: 1\n").unwrap();
    assert!(find(run.path()).unwrap().is_empty());
}

#[test]
fn bytes_that_no_listing_names_are_told() {
    let folder = copy(&saved());
    let file = folder.path().join("__1_0.distcp");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, [&whole[..], b"surplus"].concat()).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert_eq!((notice.kind, notice.is_doubt()), (NoticeKind::Hole, true));
    let record = describe(&checkpoint, Options::default().with(|o| o.stats = false), &|_| ());
    assert_eq!(record.notices, std::slice::from_ref(notice));
}

/// PyTorch reads only what .metadata names.
#[test]
fn a_file_of_another_save_is_told_and_not_read() {
    let folder = copy(&saved());
    for (name, bytes) in [("__2_0.distcp", &b"of another step"[..]), ("__3_0.distcp", b"")] {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        let checkpoint = open(folder.path()).unwrap();
        let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
        assert!(
            notice.is_doubt() && !notice.is_finding() && notice.text.contains("__2_0.distcp"),
            "{notice}"
        );
        assert_eq!(
            (checkpoint.damage.clone(), checkpoint.tensors.len()),
            (None, open(saved()).unwrap().tensors.len())
        );
    }
}

#[test]
fn parts_of_one_rank_in_the_place_of_anothers_are_told() {
    let folder = copy(&saved());
    let at = |rank: usize| folder.path().join(format!("__{rank}_0.distcp"));
    let first = std::fs::read(at(0)).unwrap();
    let mut second = std::fs::read(at(1)).unwrap();
    // Where the four divided tensors are in both, by the listing.
    for (from, to, len) in [(0, 5044, 1641), (1641, 6685, 1641), (3282, 11480, 1577)] {
        second[to..to + len].copy_from_slice(&first[from..from + len]);
    }
    std::fs::write(at(1), &second).unwrap();
    // One of them is another still.
    assert!(open(folder.path()).unwrap().warnings.is_empty());
    second[13057..13057 + 1641].copy_from_slice(&first[4859..4859 + 1641]);
    std::fs::write(at(1), &second).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert_eq!((notice.kind, notice.is_finding()), (NoticeKind::Contradiction, true));
    assert!(notice.text.starts_with("__0_0.distcp and __1_0.distcp hold the same"), "{notice}");
}

#[test]
fn a_rank_that_is_added_makes_a_record_obsolete() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    shards(folder.path(), &[(1, &[0, 0], &[2, 3], 1.0)]);
    let checkpoint = open(folder.path()).unwrap();
    let record = describe(&checkpoint, Options::default().with(|o| o.stats = false), &|_| ());
    let cache = Cache::new(cache.path().join("records"));
    cache.put(folder.path(), "", &checkpoint, &record).unwrap();
    assert!(cache.get(folder.path(), "").is_some());
    // Some file systems count time in hundredths of seconds.
    std::thread::sleep(std::time::Duration::from_millis(20));
    shards(folder.path(), &[(2, &[2, 0], &[2, 3], 2.0)]);
    assert!(cache.get(folder.path(), "").is_none());
}

#[test]
fn a_flipped_byte_shows_in_the_checksums() {
    let folder = copy(&saved());
    let file = folder.path().join("__0_0.distcp");
    let whole = std::fs::read(&file).unwrap();
    let data: Vec<u8> = open(saved().with_file_name("whole.pt"))
        .unwrap()
        .tensors
        .iter()
        .find(|t| t.name == "model.layers.0.mlp.up_proj.weight")
        .map(|t| t.bytes().unwrap()[..16].to_vec())
        .unwrap();
    let at = whole.windows(16).position(|bytes| bytes == data).unwrap();
    let mut flipped = whole;
    flipped[at + 2] ^= 1;
    std::fs::write(&file, flipped).unwrap();
    assert_eq!(open(folder.path()).unwrap().verify_checksums(), ["model.layers.0.mlp.up_proj.weight"]);
}

/// A name may count no files at all.
#[test]
fn shards_of_no_files_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shard-00001-model-00001-of-00000.safetensors");
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    std::fs::write(&path, ckpt_kit::safetensors::raw(header, &[0; 4])).unwrap();
    let checkpoint = open(&path).unwrap();
    assert_eq!(checkpoint.tensors.len(), 1);
}

#[test]
fn the_listing_and_every_part_are_scanned() {
    let scanned = |folder: &Path| -> Vec<(String, Option<Severity>)> {
        let files = scan::files(folder).unwrap();
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        let severity = |file: &PathBuf| scan::scan(file, &scan::Options::default()).unwrap().severity();
        let mut all: Vec<_> = files.iter().map(|file| (name(file), severity(file))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let clean = scanned(&saved());
    assert_eq!(
        clean.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [".metadata", "__0_0.distcp", "__1_0.distcp"]
    );
    assert!(
        clean.iter().all(|(_, severity)| severity.is_none_or(|severity| severity == Severity::Note)),
        "{clean:?}"
    );
    // torch unpickles the listing without any restriction.
    let folder = copy(&saved());
    let file = folder.path().join(".metadata");
    let listing = std::fs::read(&file).unwrap();
    let call = b"cos\nsystem\n(X\x02\0\0\0idtR0";
    std::fs::write(&file, [&listing[..2], call, &listing[2..]].concat()).unwrap();
    assert_eq!(scanned(folder.path())[0], (".metadata".into(), Some(Severity::Dangerous)));
}

#[test]
fn what_is_no_part_is_not_scanned_and_not_passed_over() {
    let folder = copy(&saved());
    let part = folder.path().join("__1_0.distcp");
    for (bytes, what) in [
        (&b""[..], "is empty"),
        (&[0; 300], "is neither a pickle, nor an archive, nor a tensor file"),
        (b"words\n", "is neither a pickle, nor an archive, nor a tensor file"),
    ] {
        std::fs::write(&part, bytes).unwrap();
        assert!(scan::files(folder.path()).unwrap().contains(&part));
        let error = scan::scan(&part, &scan::Options::default()).unwrap_err();
        assert!(error.to_string().ends_with(what), "{error}");
    }
    let listing = folder.path().join(".metadata");
    std::fs::write(&listing, "").unwrap();
    assert!(scan::files(folder.path()).unwrap().contains(&listing));
}

/// Any byte of the listing changed, and any end cut off: an error or a checkpoint, in little time.
#[test]
fn a_listing_that_lies_is_an_error_or_damage() {
    let folder = copy(&saved());
    let file = folder.path().join(".metadata");
    let whole = std::fs::read(&file).unwrap();
    let mut read = 0;
    let mut try_out = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        if let Ok(checkpoint) = open(folder.path()) {
            read += 1;
            for tensor in &checkpoint.tensors {
                let _ = tensor.bytes();
            }
        }
    };
    for i in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[i] ^= 1 << (i % 8);
        try_out(&bytes);
        try_out(&whole[..i]);
    }
    assert!(read > 0);
}

/// What PyTorch reads of each item of a distributed checkpoint, called by its file and its number there.
const ITEMS: &str = r#"
import io, pickle, sys, torch, zstandard
from pathlib import Path
folder = Path(sys.argv[1])
places, tensors, values = [], {}, {}
for listing in folder.glob("*.metadata"):
    places += pickle.loads(listing.read_bytes()).storage_data.values()
    listing.unlink()
for file in {place.relative_path for place in places}:
    own = sorted((p for p in places if p.relative_path == file), key=lambda p: p.offset)
    for number, place in enumerate(own):
        data = (folder / file).read_bytes()[place.offset:place.offset + place.length]
        if getattr(place, "transform_descriptors", None):
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        item = torch.load(io.BytesIO(data), weights_only=False)
        (tensors if torch.is_tensor(item) else values)[f"{file.removesuffix('.distcp')}.{number}"] = item
torch.save(tensors, folder.with_suffix(".items"))
"#;

/// Without their listings, parts are as PyTorch reads each by itself.
fn assert_unfinished(python: &peers::Python, folder: &Path) {
    python.code(ITEMS, &[folder]);
    let found = open(folder).unwrap();
    let damage = found.damage.clone().unwrap();
    assert_eq!(damage.kind, DamageKind::MissingShards);
    assert!(damage.what.starts_with("saving was not finished"), "{damage}");
    assert!(found.warnings.iter().all(|n| n.kind == NoticeKind::OneRank), "{:?}", found.warnings);
    let (found, items) = (tensors(&found), tensors(&open(folder.with_extension("items")).unwrap()));
    assert_eq!(found.keys().collect::<Vec<_>>(), items.keys().collect::<Vec<_>>());
    for (name, item) in &items {
        assert_eq!(&found[name], item, "{}: {name}", folder.display());
    }
}

#[test]
fn torch_saves_it_in_every_form_and_joins_it_to_the_same_bytes() {
    let Some(python) = peers::python(&["torch", "zstandard"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "distributed.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    for form in ["plain", "threads", "by-rank", "async"] {
        assert_same(&at(form), &at("whole.pt"));
    }
    assert_same(&at("safetensors"), &at("weights.pt"));
    // The Hugging Face writer's blocks, and the files that it makes of them.
    for form in ["hugging-face", "consolidated", "consolidated/sharded"] {
        let checkpoint = open(at(form)).unwrap();
        assert_eq!((checkpoint.format, checkpoint.damage.clone()), (Format::SafeTensors, None));
        assert!(checkpoint.warnings.is_empty(), "{form}: {:?}", checkpoint.warnings);
        assert_eq!(tensors(&checkpoint), tensors(&open(at("flat.pt")).unwrap()), "{form}");
    }
    assert_eq!(find(&at("consolidated")).unwrap(), [at("consolidated")]);
    std::fs::remove_file(at("consolidated").join("model.safetensors.index.json")).unwrap();
    assert_eq!(find(&at("consolidated")).unwrap().len(), 1);
    // What every rank has is the same in all, unless one of them was changed.
    let file = at("by-rank").join("__2_0.distcp");
    let name = "model.layers.0.input_layernorm.weight";
    let norm = open(at("whole.pt")).unwrap().tensor(name).unwrap().bytes().unwrap().into_owned();
    let whole = std::fs::read(&file).unwrap();
    let place = whole.windows(norm.len()).position(|bytes| bytes == norm).unwrap();
    let crc = crc32fast::hash(&norm).to_le_bytes();
    let mut changed = whole.clone();
    changed[place] ^= 1;
    let other = crc32fast::hash(&changed[place..place + norm.len()]).to_le_bytes();
    for at in 0..whole.len() - 4 {
        if whole[at..at + 4] == crc {
            changed[at..at + 4].copy_from_slice(&other);
        }
    }
    std::fs::write(&file, changed).unwrap();
    let notices: Vec<String> =
        open(at("by-rank")).unwrap().warnings.into_iter().map(|notice| notice.text).collect();
    assert_eq!(
        notices,
        [format!(
            "`{name}` differs between __0_0.distcp and __2_0.distcp from element 0 on; the first is used"
        )]
    );
    assert_same(&at("alone"), &at("alone.pt"));
    for form in ["plain", "threads", "by-rank", "async"] {
        assert_unfinished(&python, &at(form));
    }
}

#[test]
fn what_one_process_of_torch_saves_in_other_layouts_is_read() {
    let Some(python) = peers::python(&["torch", "zstandard"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "layouts.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    // Compressed parts.
    assert_same(&at("zstd"), &at("whole.pt"));
    let parts = scan::scan(&at("zstd/__0_0.distcp"), &scan::Options::default()).unwrap();
    assert_eq!(parts.severity(), Some(Severity::Note), "{parts:?}");
    // An exported program: its weights by their names, and the constants.
    let program = open(at("program.pt2")).unwrap();
    assert_eq!(program.damage, None);
    let mut found = tensors(&program);
    let constants: Vec<String> =
        found.keys().filter(|name| name.starts_with("constants.")).cloned().collect();
    assert_eq!(constants, ["constants.lifted_tensor_0", "constants.mask"]);
    constants.iter().for_each(|name| drop(found.remove(name)));
    assert_eq!(found, tensors(&open(at("program.pt")).unwrap()));
    assert_eq!(program.sharing(1).iter().filter(|others| !others.is_empty()).count(), 2);
    // Megatron-Core's: blocks, what all ranks have in common, and objects that are told.
    let megatron = open(at("megatron/iter_0000300")).unwrap();
    assert_eq!((megatron.damage.clone(), megatron.step.clone()), (None, Some((300, "iteration".into()))));
    let notices: Vec<&str> = megatron.warnings.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(notices, ["1 object of a layer's own is bytes of a form that is not read"]);
    let mut found = tensors(&megatron);
    let own: Vec<String> = found.keys().filter(|name| name.contains("/shard_")).cloned().collect();
    assert_eq!(own, ["decoder.layers.mlp._extra_state/shard_0_2.scale", "rng_state/shard_0.0_1.1.0"]);
    for name in &own {
        assert_eq!(megatron.tensor(name).unwrap().group, Group::Other);
        found.remove(name);
    }
    assert_eq!(found, tensors(&open(at("megatron.pt")).unwrap()));
    // An object that was an archive and is spoilt is none of another form.
    let file = at("megatron/iter_0000300/__0_0.distcp");
    let whole_file = std::fs::read(&file).unwrap();
    for spoilt in [
        [&[b'x'; 40][..], &whole_file[40..]].concat(),
        [&whole_file[..0], &vec![0; whole_file.len()]].concat(),
    ] {
        std::fs::write(&file, spoilt).unwrap();
        let damage = open(at("megatron/iter_0000300")).unwrap().damage.unwrap();
        assert!(damage.what.contains("the value `decoder.layers.mlp._extra_state/shard_0_2`"), "{damage}");
    }
    std::fs::write(&file, whole_file).unwrap();
    let told = |path: &str| lookup(&megatron.metadata, path).map(|value| format!("{value:?}"));
    assert_eq!(told("optimizer.param_groups.0.lr").unwrap(), "F64(0.001)");
    let backend = megatron.metadata.clone();
    assert!(format!("{backend:?}").contains("torch_dist"));
    assert_unfinished(&python, &at("zstd"));
}

#[test]
fn state_that_a_program_keeps_under_one_key_is_a_model_and_its_moments() {
    let Some(python) = peers::python(&["torch", "zstandard"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "layouts.py", &[folder.path()]);
    for (name, key) in [("app", "app.model."), ("titan", "model.")] {
        let checkpoint = open(folder.path().join(name)).unwrap();
        assert_eq!((checkpoint.damage.clone(), checkpoint.warnings.len()), (None, 0));
        let record = describe(&checkpoint, Options::default().with(|o| o.stats = false), &|_| ());
        let training = record.training.as_ref().unwrap();
        assert_eq!(training.optimizer_steps, Some(1), "{name}");
        for weight in ["0.weight", "0.bias", "1.weight", "1.bias"] {
            let at = record.tensors.iter().position(|t| t.name == format!("{key}{weight}")).unwrap();
            assert_eq!(record.tensors[at].group, Group::Weights);
            let of_weight = training.moments_of(at).iter();
            let moments: BTreeSet<&str> =
                of_weight.map(|&i| record.tensors[i as usize].name.rsplit_once('.').unwrap().1).collect();
            assert_eq!(moments, ["exp_avg", "exp_avg_sq"].into(), "{name}: {weight}");
            assert_eq!(training.group_of(at).unwrap().lr, Some(0.001));
        }
    }
    // Both of torch's options: written, and refused by torch itself.
    let both = open(folder.path().join("both")).unwrap();
    let whole = open(folder.path().join("flat.pt")).unwrap();
    assert_eq!((both.damage.clone(), tensors(&both)), (None, tensors(&whole)));
    let [notice] = &both.warnings[..] else { panic!("{:?}", both.warnings) };
    assert!(notice.refused, "{notice}");
}

/// Changed and cut compressed parts: an error or damage, and never more memory than was announced.
#[test]
fn compressed_parts_that_lie_are_damage() {
    let Some(python) = peers::python(&["torch", "zstandard"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "layouts.py", &[folder.path()]);
    let file = folder.path().join("zstd/__0_0.distcp");
    let whole = std::fs::read(&file).unwrap();
    for i in (0..whole.len()).step_by(whole.len() / 60) {
        let mut bytes = whole.clone();
        bytes[i] ^= 1 << (i % 8);
        std::fs::write(&file, &bytes).unwrap();
        let checkpoint = open(folder.path().join("zstd")).unwrap();
        checkpoint.tensors.iter().for_each(|tensor| drop(tensor.bytes().map(|bytes| bytes.len())));
        std::fs::write(&file, &whole[..i]).unwrap();
        assert!(open(folder.path().join("zstd")).unwrap().is_damaged());
    }
}
