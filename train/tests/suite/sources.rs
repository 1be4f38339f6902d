//! Sources of data: compressed files, and several sources by weight.

use crate::data::in_order;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ckpt_convert::{Object, save};
use ckpt_kit::peers;
use ckpt_train::data::{Restored, Settings, Stream, Validation, Weighted};

/// Writes `text` to files that Python's gzip and zstandard compress: whole, and in two parts one after the other.
fn compressed(folder: &Path, extension: &str, text: &str) -> Option<Vec<PathBuf>> {
    const MAKE: &str = "
import gzip, sys, zstandard
folder, extension, text = sys.argv[1:]
text = text.encode()
half = len(text) // 2
for name, pack in [('gz', gzip.compress), ('zst', zstandard.ZstdCompressor().compress)]:
    open(f'{folder}/whole.{extension}.{name}', 'wb').write(pack(text))
    open(f'{folder}/parts.{extension}.{name}', 'wb').write(pack(text[:half]) + pack(text[half:]))
    open(f'{folder}/cut.{extension}.{name}', 'wb').write(pack(text)[:-9])
";
    peers::python(&["zstandard"])?.code(MAKE, &[folder.to_str().unwrap(), extension, text]);
    let name = |of: &str, packed: &str| folder.join(format!("{of}.{extension}.{packed}"));
    Some(["gz", "zst"].iter().flat_map(|packed| [name("whole", packed), name("parts", packed)]).collect())
}

fn ids(settings: &Settings, batches: usize) -> Vec<u32> {
    let mut stream = Stream::new(settings, 0).unwrap();
    (0..batches).flat_map(|_| stream.batch().unwrap().ids).collect()
}

/// The stream's batches after its position was saved and restored.
fn restored(settings: &Settings, stream: &Stream, folder: &Path) -> Stream {
    let file = folder.join("state.pt");
    save(&Object::dict([("data", stream.state())]), &file, true).unwrap();
    let mut again = Stream::new(settings, 0).unwrap();
    let found = again.restore(&ckpt_inspect::open(&file).unwrap(), "data", 0).unwrap();
    assert_eq!(found, Restored::Position);
    again
}

#[test]
fn compressed_text_is_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..900).map(|i| format!("{{\"text\": \"line {i}\"}}\n")).collect();
    let lines = format!("{lines}{{\"text\": 7}}\n");
    for (extension, text) in [("jsonl", lines.as_str()), ("txt", &lines), ("", "no extension at all\n")] {
        let name = if extension.is_empty() { "plain".to_string() } else { format!("plain.{extension}") };
        let plain = in_order(folder.path(), &name, text.as_bytes(), 11);
        let wanted = ids(&plain, 700);
        let Some(files) = compressed(folder.path(), extension, text) else { return };
        for file in files {
            let packed = plain.clone().with(|s| s.files = vec![file.clone()]);
            assert_eq!(ids(&packed, 700), wanted, "{}", file.display());
            // From the middle.
            let mut stream = Stream::new(&packed, 0).unwrap();
            (0..300).for_each(|_| drop(stream.batch().unwrap()));
            let mut stream = restored(&packed, &stream, folder.path());
            let rest: Vec<u32> = (300..700).flat_map(|_| stream.batch().unwrap().ids).collect();
            assert_eq!(rest, wanted[300 * 11..], "{}", file.display());
            if extension == "jsonl" {
                assert!(
                    stream.bad() == 0 || stream.take_shown()[0].contains("line 901 "),
                    "{}",
                    stream.bad()
                );
            }
        }
    }
}

#[test]
fn damaged_and_unread_compression_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..900).map(|i| format!("{{\"text\": \"line {i}\"}}\n")).collect();
    let plain = in_order(folder.path(), "plain.jsonl", lines.as_bytes(), 11);
    let Some(_) = compressed(folder.path(), "jsonl", &lines) else { return };
    let error = |name: &str| {
        let settings = plain.clone().with(|s| s.files = vec![folder.path().join(name)]);
        let mut stream = Stream::new(&settings, 0).unwrap();
        (0..2000).find_map(|_| stream.batch().err()).unwrap_or_else(|| panic!("{name}")).to_string()
    };
    for name in ["cut.jsonl.gz", "cut.jsonl.zst"] {
        assert!(error(name).contains(name), "{}", error(name));
    }
    for name in ["ids.npy.gz", "table.parquet.zst", "code.tar.gz", "code.tgz", "text.txt.xz"] {
        std::fs::write(folder.path().join(name), lines.as_bytes()).unwrap();
        assert!(error(name).contains("decompress it first"), "{}", error(name));
    }
    std::fs::write(folder.path().join("no.jsonl.gz"), lines.as_bytes()).unwrap();
    assert!(error("no.jsonl.gz").contains("no.jsonl.gz"), "{}", error("no.jsonl.gz"));
}

/// Sources of which each repeats one letter, so that a sequence tells which it is of.
fn letters(folder: &Path, weights: &[(char, f64)]) -> Settings {
    let settings = in_order(folder, "none.txt", b"", 7);
    settings.with(|s| {
        s.files.clear();
        s.shuffle = true;
        s.buffer = 4;
        for (letter, weight) in weights {
            let file = folder.join(format!("{letter}.txt"));
            std::fs::write(&file, letter.to_string().repeat(97)).unwrap();
            s.sources.push(Weighted::new(vec![file], *weight));
        }
    })
}

fn counts(stream: &mut Stream, batches: usize) -> HashMap<u32, usize> {
    let mut counts = HashMap::new();
    for _ in 0..batches {
        let batch = stream.batch().unwrap();
        let letter = batch.ids.iter().copied().find(|id| *id < 256).unwrap();
        *counts.entry(letter).or_default() += 1;
    }
    counts
}

#[test]
fn sequences_are_drawn_by_the_weights_of_their_sources() {
    let folder = tempfile::tempdir().unwrap();
    let settings = letters(folder.path(), &[('a', 3.0), ('b', 1.0), ('c', 0.5)]);
    let mut stream = Stream::new(&settings, 0).unwrap();
    let drawn = counts(&mut stream, 4500);
    // Each count is binomial: five standard deviations are below 170 of 3000, 150 of 1000 and 105 of 500.
    for (letter, wanted, most) in [('a', 3000, 170), ('b', 1000, 150), ('c', 500, 105)] {
        let count = drawn[&u32::from(letter)];
        assert!(count.abs_diff(wanted) < most, "{letter}: {count} instead of {wanted}");
    }
    let epochs = stream.epochs();
    assert!(epochs[0] > epochs[1] && epochs[1] > epochs[2] && stream.epoch() == epochs[2], "{epochs:?}");
    // The same again, and from the middle on.
    let mut straight = Stream::new(&settings, 0).unwrap();
    (0..100).for_each(|_| drop(straight.batch().unwrap()));
    let mut again = restored(&settings, &straight, folder.path());
    for n in 0..200 {
        assert_eq!(straight.batch().unwrap(), again.batch().unwrap(), "batch {n}");
    }
}

#[test]
fn each_source_is_validated_on_by_its_weight() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = letters(folder.path(), &[('a', 3.0), ('b', 1.0)]);
    settings.files = std::mem::take(&mut settings.sources).remove(0).files;
    settings.files.clear();
    for letter in ['a', 'b'] {
        let file = folder.path().join(format!("{letter}.jsonl"));
        std::fs::write(&file, format!("{{\"text\": \"{}\"}}\n", letter.to_string().repeat(20)).repeat(400))
            .unwrap();
        let weight = if letter == 'a' { 3.0 } else { 1.0 };
        settings.sources.push(Weighted::new(vec![file], weight));
    }
    settings.holdout = 0.5;
    settings.validation_tokens = 400;
    let validation = Validation::read(&settings, 0).unwrap();
    let of = |letter: char| {
        validation.batches.iter().flat_map(|b| &b.ids).filter(|id| **id == u32::from(letter)).count()
    };
    assert!(of('a').abs_diff(3 * of('b')) < 40, "{} {}", of('a'), of('b'));
    assert!((400..420).contains(&validation.tokens), "{}", validation.tokens);
}

#[test]
fn wrong_sources_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let settings = letters(folder.path(), &[('a', 1.0), ('b', 1.0)]);
    let error = |change: &dyn Fn(&mut Settings)| {
        let changed = settings.clone().with(|s| change(s));
        match Stream::new(&changed, 0) {
            Ok(mut stream) => stream.batch().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        }
    };
    assert!(error(&|s| s.sources[1].weight = 0.0).contains("b.txt: the weight"));
    assert!(error(&|s| s.sources[1].weight = f64::NAN).contains("b.txt: the weight"));
    assert!(error(&|s| s.sources[0].files.clear()).contains("no files"));
    assert!(error(&|s| s.files = s.sources[0].files.clone()).contains("not both"));
    std::fs::write(folder.path().join("b.txt"), "").unwrap();
    let empty = settings.clone().with(|s| s.batch = 40);
    let error = Stream::new(&empty, 0).unwrap().batch().unwrap_err().to_string();
    assert!(error.contains("b.txt contains no sequence"), "{error}");
    // A position among other sources.
    let one = settings.clone().with(|s| s.sources.truncate(1));
    let file = folder.path().join("state.pt");
    let stream = Stream::new(&one, 0).unwrap();
    save(&Object::dict([("data", stream.state())]), &file, true).unwrap();
    let found = Stream::new(&settings, 0).unwrap().restore(&ckpt_inspect::open(&file).unwrap(), "data", 0);
    assert!(found.unwrap_err().to_string().contains("restart the data"));
}
