//! Data: every form of it, packing, masks, order, and bad lines.

use crate::truth;

use std::path::Path;

use ckpt_convert::{Object, save};
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_kit::fixtures;
use ckpt_kit::npy::raw;
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_train::data::{Chat, Restored, Settings, Stream, Validation};
use truth::tokenizer;

pub(crate) fn in_order(folder: &Path, file: &str, contents: &[u8], length: usize) -> Settings {
    let path = folder.join(file);
    std::fs::write(&path, contents).unwrap();
    Settings::default().with(|s| {
        s.files = vec![path];
        s.tokenizer = Some(tokenizer(folder));
        s.length = length;
        s.batch = 1;
        s.shuffle = false;
        s.holdout = 0.0;
    })
}

/// Ids and targets of the first `n` batches as text, `_` for what is ignored and `$` for the end.
fn shown(settings: &Settings, n: usize) -> Vec<(String, String)> {
    let mut stream = Stream::new(settings, 0).unwrap();
    let text = |id: i64| match id {
        256 => '$',
        257 => '<',
        258 => '|',
        259 => '>',
        -100 => '_',
        id => char::from(id as u8),
    };
    (0..n)
        .map(|_| {
            let batch = stream.batch().unwrap();
            let ids = batch.ids.iter().map(|&id| text(id.into())).collect();
            (ids, batch.targets.iter().map(|&t| text(t.into())).collect())
        })
        .collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[test]
fn text_is_packed_and_every_token_predicted_once() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_order(folder.path(), "a.txt", b"hello there\nyou\n", 5);
    let got = shown(&settings, 4);
    assert_eq!(got[..3], pairs(&[("hello", "ello "), (" ther", "there"), ("e\nyou", "\nyou\n")]));
    // The text's end, and the next pass.
    assert_eq!(got[3], ("\n$hel".into(), "$hell".into()));
}

#[test]
fn prompts_are_masked() {
    let folder = tempfile::tempdir().unwrap();
    let lines = br#"{"prompt": "ab", "response": "cd"}
{"prompt": "p", "responses": {"one": "q", "two": {"response": "r"}}}
{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
{"text": "xyz"}
"#;
    let mut settings = in_order(folder.path(), "a.jsonl", lines, 19);
    settings.length = 38;
    let all = "abcd$pq$pr$User: hi\nAssistant: yo\n$xyz$";
    assert_eq!(shown(&settings, 1)[0].0, all[..38]);
    assert_eq!(shown(&settings, 1)[0].1, "_cd$_q$_r$___________________ yo\n$xyz$");
    settings.mask_prompts = false;
    assert_eq!(shown(&settings, 1)[0].1[..38], all[1..39]);
}

#[test]
fn bad_lines_are_counted_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let lines = b"{\"text\": \"good\"}\nnot json\n{\"other\": 1}\n\xff\xfe\n\n{\"text\": \"day\"}\n";
    let settings = in_order(folder.path(), "a.jsonl", lines, 6);
    let mut stream = Stream::new(&settings, 0).unwrap();
    assert_eq!(
        stream.batch().unwrap().ids,
        b"good\x00d"[..].iter().map(|&b| if b == 0 { 256 } else { b.into() }).collect::<Vec<u32>>()
    );
    assert_eq!(stream.bad(), 3);
    let shown = stream.take_shown();
    assert!(shown[0].contains("a.jsonl: line 2 is not valid JSON"), "{shown:?}");
    assert!(shown[2].contains("line 4 is not UTF-8"), "{shown:?}");
    // Later passes read the same lines.
    (0..9).for_each(|_| drop(stream.batch().unwrap()));
    assert!(stream.epoch() > 1 && stream.bad() == 3, "{} {}", stream.epoch(), stream.bad());
    let nothing = in_order(folder.path(), "b.jsonl", b"[]\n", 6);
    let error = Stream::new(&nothing, 0).unwrap().batch().unwrap_err().to_string();
    assert!(error.contains("no sequence"), "{error}");
}

#[test]
fn shuffled_passes_hand_out_every_sequence_once() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<u8> = (0..40).flat_map(|i| [65 + i, 1, 2]).collect();
    for buffer in [1, 7, 1000] {
        let file = npy("|u1", "(40, 3)", &ids);
        let settings = in_order(folder.path(), "a.npy", &file, 2).with(|s| {
            s.shuffle = true;
            s.buffer = buffer;
        });
        let mut passes: Vec<Vec<u32>> = Vec::new();
        let mut stream = Stream::new(&settings, 9).unwrap();
        for _ in 0..2 {
            passes.push((0..40).map(|_| stream.batch().unwrap().ids[0]).collect());
        }
        let sorted = |pass: &[u32]| {
            let mut pass = pass.to_vec();
            pass.sort_unstable();
            pass
        };
        assert_eq!(sorted(&passes[0]), (65..105).collect::<Vec<_>>(), "buffer {buffer}");
        assert_eq!(sorted(&passes[1]), sorted(&passes[0]));
        // A buffer of one does not shuffle.
        assert_eq!(passes[0] != sorted(&passes[0]) && passes[0] != passes[1], buffer > 1);
    }
}

#[test]
fn held_out_documents_are_not_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..60).map(|i| format!("{{\"text\": \"{}\"}}\n", char::from(b'0' + i))).collect();
    let mut settings = in_order(folder.path(), "a.jsonl", lines.as_bytes(), 2);
    settings.holdout = 0.3;
    let ids = |batches: Vec<ckpt_train::Batch>| {
        batches
            .into_iter()
            .flat_map(|b| b.ids)
            .filter(|&id| id != 256)
            .collect::<std::collections::BTreeSet<u32>>()
    };
    let held_out = ids(Validation::read(&settings, 3).unwrap().batches);
    let mut stream = Stream::new(&settings, 3).unwrap();
    let trained = ids((0..120).map(|_| stream.batch().unwrap()).collect());
    assert!(held_out.len() >= 8 && trained.len() >= 30, "{held_out:?} {trained:?}");
    assert!(held_out.is_disjoint(&trained));
    let own = settings.clone().with(|s| s.validation.clone_from(&settings.files));
    assert!(ids(Validation::read(&own, 3).unwrap().batches).len() > 12);
}

#[test]
fn ready_made_ids_keep_their_order() {
    let truth = truth::truth();
    let settings = Settings::default().with(|s| {
        s.files = vec![fixtures::fixture("trajectories/truth.safetensors")];
        s.batch = 4;
        s.shuffle = false;
        s.holdout = 0.0;
    });
    // The fixture's only integer tensor is `batches`, 20 x 4 x 64.
    let mut stream = Stream::new(&settings, 0).unwrap();
    for (i, batch) in truth.batches.iter().chain(&truth.batches[..1]).enumerate() {
        let sources = (0..4).map(|row| Some((0, (4 * i + row) % 80))).collect();
        let mut wanted = batch.clone();
        wanted.sources = sources;
        assert_eq!(stream.batch().unwrap(), wanted);
    }
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    raw(2, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), data)
}

#[test]
fn arrays_of_ids_are_read_and_others_refused() {
    let folder = tempfile::tempdir().unwrap();
    let read = |bytes: &[u8], length: usize| {
        let mut settings = in_order(folder.path(), "a.npy", bytes, length);
        settings.tokenizer = None;
        Stream::new(&settings, 0).unwrap().batch().map(|b| b.ids).map_err(|e| e.to_string())
    };
    let words = |values: &[i64]| le(values);
    assert_eq!(read(&npy("<i8", "(2, 3)", &words(&[1, 2, 3, 4, 5, 6])), 9).unwrap(), [1, 2]);
    assert_eq!(read(&npy("|u1", "(5,)", &[9, 8, 7, 6, 5]), 4).unwrap(), [9, 8, 7, 6]);
    for (bytes, what) in [
        (npy("<f4", "(2,)", &[0; 8]), "integers"),
        (npy("<i8", "(2, 3)", &[0; 40]), "shorter"),
        (npy("<i8", "(99999999999, 99999999999)", &[0; 40]), "shorter"),
        (npy("<i8", "()", &[0; 8]), "scalar"),
        (npy("<i8", "(1, 3)", &words(&[1, -2, 3])), "not a token id"),
        (b"\x93NUMPY\x01\x00\xff".to_vec(), "read"),
        (b"PK".to_vec(), "read"),
    ] {
        let error = read(&bytes, 2).unwrap_err();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn text_without_a_tokenizer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_order(folder.path(), "a.txt", b"text", 2).with(|s| s.tokenizer = None);
    let error = Stream::new(&settings, 0).unwrap().batch().unwrap_err().to_string();
    assert!(error.contains("give a tokenizer.json"), "{error}");
    assert!(Stream::new(&Settings::default(), 0).is_err());
    #[cfg(unix)]
    {
        let endless = settings.with(|s| s.tokenizer = Some("/dev/zero".into()));
        let error = Stream::new(&endless, 0).err().unwrap().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

/// The text of the first `n` batches.
fn read(settings: &Settings, n: usize) -> String {
    shown(settings, n).into_iter().map(|(ids, _)| ids).collect()
}

#[test]
fn parquet_rows_are_records() {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str, length: usize| {
        in_order(folder.path(), "unused.txt", b"", length)
            .with(|s| s.files = vec![fixtures::data("train", file)])
    };
    let good: String = (0..20).filter(|i| i % 7 != 3).map(|i| format!("row{i:02}$")).collect();
    assert_eq!(read(&at("text.parquet", 101), 1), good[..101]);
    assert_eq!(
        read(&at("chat.parquet", 40), 1),
        "User: hi\nAssistant: yo0\n$User: hi\nAssistant: yo1\n$"[..40]
    );
    // The row without an answer is bad.
    assert_eq!(read(&at("answers.parquet", 8), 1), "ab$ac$bd");
    let mut stream = Stream::new(&at("answers.parquet", 12), 0).unwrap();
    stream.batch().unwrap();
    assert_eq!(stream.bad(), 1);
    let shown = stream.take_shown();
    assert!(shown[0].contains("answers.parquet: row 3 "), "{shown:?}");
}

#[test]
fn damaged_parquet_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixtures::data("train", "text.parquet")).unwrap();
    let (mut refused, mut random) = (0, ckpt_train::Random::new(&[7]));
    for round in 0..300 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(random.below(whole.len())),
            _ => (0..1 + round % 4).for_each(|_| {
                let at = random.below(whole.len());
                bytes[at] = random.next_u64() as u8;
            }),
        }
        let settings = in_order(folder.path(), "a.parquet", &bytes, 40);
        let mut stream = Stream::new(&settings, 0).unwrap();
        refused += i32::from((0..8).any(|_| stream.batch().is_err()));
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn tokens_are_kept_and_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..50)
        .map(|i| match i % 9 {
            4 => "no json\n".to_string(),
            5 => format!("{{\"prompt\": \"p{i}\", \"response\": \"r{i}\"}}\n"),
            _ => format!("{{\"text\": \"number {i}\"}}\n"),
        })
        .collect();
    let plain = in_order(folder.path(), "a.jsonl", lines.as_bytes(), 10).with(|s| s.holdout = 0.2);
    let cache = folder.path().join("cache");
    let cached = plain.clone().with(|s| s.token_cache = Some(cache.clone()));
    let kept = || std::fs::read_dir(&cache).map_or(Vec::new(), |d| d.map(|e| e.unwrap().path()).collect());
    let batches = |settings: &Settings| {
        let mut stream = Stream::new(settings, 1).unwrap();
        ((0..60).map(|_| stream.batch().unwrap()).collect::<Vec<_>>(), stream.bad(), stream.take_shown())
    };
    let (truth, held_out) = (batches(&plain), Validation::read(&plain, 1).unwrap());
    assert!(held_out.tokens > 20);
    assert!(truth.1 > 0);
    assert_eq!(batches(&cached), truth);
    let [shard] = &kept()[..] else { panic!("{:?}", kept()) };
    // A file is read from its cached tokens alone: here from those of another text.
    let bytes = std::fs::read(shard).unwrap();
    let other = in_order(folder.path(), "b.jsonl", lines.replace("number", "NUMBER").as_bytes(), 10);
    let other = other.with(|s| (s.holdout, s.token_cache) = (0.2, Some(cache.clone())));
    let of_other = batches(&other).0;
    let of_b = kept().into_iter().find(|path| path != shard).unwrap();
    std::fs::write(shard, [&bytes[..40], &std::fs::read(of_b).unwrap()[40..]].concat()).unwrap();
    let (again, bad, _) = batches(&cached);
    assert!(again == of_other && again != truth.0 && bad == truth.1);
    std::fs::write(shard, &bytes).unwrap();
    assert_eq!(batches(&cached), truth);
    assert_eq!(Validation::read(&cached, 1).unwrap(), held_out);
    // A damaged shard is ignored, and so is one of an earlier version of the file.
    let data = &plain.files[0];
    for cut in [0, 20, 41, 300, bytes.len() - 13] {
        std::fs::write(shard, &bytes[..cut]).unwrap();
        assert_eq!(batches(&cached), truth, "cut at {cut}");
    }
    std::fs::write(data, b"{\"text\": \"other\"}\n").unwrap();
    let other = cached.clone().with(|s| {
        s.holdout = 0.0;
        s.length = 4;
    });
    assert_eq!(read(&other, 2), "other$ot");
    let unmasked = other.with(|s| s.mask_prompts = false);
    assert_eq!(read(&unmasked, 2), "other$ot");
    // The damaged one is gone.
    assert_eq!(kept().len(), 3, "a pass that ends keeps its tokens: {:?}", kept());
}

#[test]
fn middles_are_to_be_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..400).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let mut settings = in_order(folder.path(), "a.txt", text.as_bytes(), 39);
    settings.fill_in_rate = 0.5;
    let mut stream = Stream::new(&settings, 5).unwrap();
    let (mut rearranged, mut suffix_first) = (0, 0);
    for n in 0..10 {
        let batch = stream.batch().unwrap();
        assert_eq!((batch.len, batch.targets.len()), (39, 39));
        let original: Vec<i32> = (0..40).map(|i| text.as_bytes()[39 * n + i].into()).collect();
        let mut ids: Vec<i32> = batch.ids.iter().map(|&id| id as i32).collect();
        ids.push(*batch.targets.last().unwrap());
        if ids == original {
            continue;
        }
        rearranged += 1;
        assert_eq!(ids[0], 257);
        let mark = |id: i32| ids.iter().position(|&i| i == id);
        // What is cut off at the end is of the middle; put together again, the rest is the original's beginning and
        // end.
        let (suf, mid) = (mark(259).unwrap(), mark(258).unwrap_or(ids.len()));
        assert!(suf < mid);
        let suffix = &ids[suf + 1..mid];
        let begin = if suf == 1 {
            suffix_first += 1;
            ids[(mid + 1).min(ids.len())..].to_vec()
        } else {
            [&ids[1..suf], &ids[(mid + 1).min(ids.len())..]].concat()
        };
        assert!(original.starts_with(&begin), "{ids:?}");
        if mid < ids.len() {
            assert!(original.ends_with(suffix), "{ids:?}");
        }
    }
    assert!(
        (2..9).contains(&rearranged) && (1..rearranged).contains(&suffix_first),
        "{rearranged} {suffix_first}"
    );
    let validation = settings.clone().with(|s| s.validation = settings.files.clone());
    assert!(
        Validation::read(&validation, 5).unwrap().batches.iter().all(|b| b.ids.iter().all(|&id| id < 256))
    );
    let tokenizer = settings.tokenizer.clone().unwrap();
    let known = std::fs::read_to_string(&tokenizer).unwrap();
    for [prefix, suffix, middle] in ckpt_infer::FIM_TEXTS {
        let named = known.replace("<|fim_prefix|>", prefix).replace("<|fim_suffix|>", suffix);
        std::fs::write(&tokenizer, named.replace("<|fim_middle|>", middle)).unwrap();
        assert!(Stream::new(&settings, 5).is_ok(), "{prefix}");
    }
    std::fs::write(&tokenizer, known.replace("fim_", "f")).unwrap();
    let error = Stream::new(&settings, 5).err().unwrap().to_string();
    assert!(error.contains("fim_prefix"), "{error}");
}

#[test]
fn files_are_shuffled_anew_each_pass() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = in_order(folder.path(), "unused.txt", b"", 2);
    settings.files = (0..20)
        .map(|i| {
            let path = folder.path().join(format!("{i}.npy"));
            std::fs::write(&path, npy("|u1", "(1, 3)", &[i, i, i])).unwrap();
            path
        })
        .collect();
    (settings.shuffle, settings.buffer) = (true, 1);
    let mut stream = Stream::new(&settings, 0).unwrap();
    let mut pass = || (0..20).map(|_| stream.batch().unwrap().ids[0]).collect::<Vec<_>>();
    let (first, second) = (pass(), pass());
    let sorted = |mut pass: Vec<u32>| {
        pass.sort_unstable();
        pass
    };
    assert_ne!(first, second);
    assert_eq!(sorted(first.clone()), (0..20).collect::<Vec<_>>());
    assert_eq!(sorted(second), sorted(first));
}

/// A SafeTensors file of `rows` sequences of four ids.
fn sequences(rows: usize) -> Vec<u8> {
    let ids: Vec<u16> = (0..rows * 4).map(|i| i as u16 % 200).collect();
    SafeTensors::new().tensor("ids", "U16", &[rows, 4], &le(&ids)).bytes()
}

/// A saved position is continued from if the file still has it, and refused if the file is shorter or the position is
/// invalid.
#[test]
fn places_beyond_the_end_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("place.pt");
    let rows = |n: usize| npy("|u1", &format!("({n}, 4)"), &vec![7; 4 * n]);
    let flat = |n: usize| npy("|u1", &format!("({n},)"), &vec![7; n]);
    let lines = |n: usize| "{\"text\": \"line\"}\n".repeat(n).into_bytes();
    let parquet = std::fs::read(fixtures::data("train", "text.parquet")).unwrap();
    let forms = [
        ("a.npy", rows(100), Some(rows(3))),
        ("flat.npy", flat(9000), Some(flat(400))),
        ("a.safetensors", sequences(100), Some(sequences(3))),
        ("a.jsonl", lines(100), Some(lines(3))),
        ("a.txt", lines(3000), Some(lines(3))),
        ("a.parquet", parquet, None),
    ];
    for (name, whole, short) in forms {
        let settings = in_order(folder.path(), name, &whole, 3);
        let mut stream = Stream::new(&settings, 0).unwrap();
        (0..12).for_each(|_| drop(stream.batch().unwrap()));
        // Saves the position unchanged, or with another offset.
        let keep = |stream: &Stream, offset: Option<i64>| {
            let mut state = stream.state();
            if let (Object::Dict(entries), Some(offset)) = (&mut state, offset)
                && let Object::Plain(Value::Dict(place)) = &mut entries[0].1
            {
                let old = place.insert(HashableValue::String("offset".into()), Value::I64(offset));
                assert!(old.is_some());
            }
            save(&Object::dict([("data", state)]), &path, true).unwrap();
        };
        let restored = || {
            let mut stream = Stream::new(&settings, 0).unwrap();
            let taken = stream.restore(&ckpt_inspect::open(&path).unwrap(), "data", 0);
            taken.map(|taken| (taken, stream)).map_err(|e| e.to_string())
        };
        keep(&stream, None);
        let (taken, mut other) = restored().unwrap();
        assert_eq!(taken, Restored::Position);
        assert_eq!(other.batch().unwrap(), stream.batch().unwrap(), "{name}");
        for offset in [1 << 62, i64::MAX, 1 << 40] {
            keep(&stream, Some(offset));
            let error = restored().err().unwrap();
            assert!(error.contains("`restart_data`"), "{name} at {offset}: {error}");
        }
        keep(&stream, None);
        if let Some(short) = short {
            std::fs::write(&settings.files[0], short).unwrap();
            let error = restored().err().unwrap();
            assert!(error.contains("does not exist in these files"), "{name}: {error}");
        }
    }
}

/// Whole sequences from the first on until they hold enough learnt tokens, however they are batched in training.
#[test]
fn the_validation_set_is_counted_in_learnt_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let line = |i: usize| format!("{{\"prompt\": \"{}\", \"response\": \"ok\"}}\n", "p".repeat(1 + i % 40));
    let lines: String = (0..200).map(line).collect();
    let all = in_order(folder.path(), "a.jsonl", lines.as_bytes(), 9).with(|s| s.holdout = 0.5);
    let read = |tokens: usize, batch: usize| {
        let settings = all.clone().with(|s| (s.validation_tokens, s.batch) = (tokens, batch));
        Validation::read(&settings, 3).unwrap()
    };
    for tokens in [1, 40, 150] {
        let set = read(tokens, 1);
        let learnt: usize = set.batches.iter().map(ckpt_train::Batch::counted).sum();
        // Of ten tokens of a sequence at most nine are learnt.
        assert_eq!(set.tokens, learnt);
        assert!((tokens..tokens + 9).contains(&learnt), "{tokens}: {learnt}");
        assert!(set.batches.iter().all(|b| b.targets.chunks(b.len).all(|t| t.iter().any(|&t| t >= 0))));
        assert_eq!(set, read(tokens, 64));
        assert_eq!(set.fingerprint(), read(tokens, 7).fingerprint());
    }
    assert_ne!(read(40, 1).fingerprint(), read(150, 1).fingerprint());
    let whole = read(usize::MAX, 1);
    assert!(whole.tokens > 200 && whole.batches.iter().all(|b| b.rows * b.len <= 2048), "{}", whole.tokens);
    let none = all.with(|s| s.validation_tokens = 0);
    assert!(Validation::read(&none, 3).unwrap_err().to_string().contains("validation_tokens"));
}

/// With validation data of its own, all of the data is trained on.
#[test]
fn nothing_is_held_out_beside_validation_data() {
    let folder = tempfile::tempdir().unwrap();
    let ids: Vec<u8> = (0..40).flat_map(|i| [65 + i, 1, 2]).collect();
    let file = npy("|u1", "(40, 3)", &ids);
    let own = in_order(folder.path(), "a.npy", &file, 2).with(|s| s.holdout = 0.4);
    let first = |settings: &Settings| {
        let mut stream = Stream::new(settings, 9).unwrap();
        let ids: Vec<u32> = (0..40).map(|_| stream.batch().unwrap().ids[0]).collect();
        ids.into_iter().collect::<std::collections::BTreeSet<_>>().len()
    };
    assert!(first(&own) < 35);
    assert_eq!(first(&own.clone().with(|s| s.validation.clone_from(&s.files))), 40);
}

/// A line that is not UTF-8 costs itself, not the file; from the cache too.
#[test]
fn invalid_text_costs_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = [&b"one line\n"[..], b"caf\xe9\n", b"two\n", b"\xff\xfe\x00\n", b"end\n"].concat();
    let plain = in_order(folder.path(), "a.txt", &text, 16);
    let cached = plain.clone().with(|s| s.token_cache = Some(folder.path().join("cache")));
    for settings in [&plain, &cached, &cached] {
        let mut stream = Stream::new(settings, 0).unwrap();
        let ids: Vec<u8> = stream.batch().unwrap().ids.iter().map(|&id| id as u8).collect();
        assert_eq!(ids, b"one line\ntwo\nend");
        assert_eq!(stream.bad(), 2);
        // To the end, where what is read is kept.
        stream.batch().unwrap();
        let shown = stream.take_shown();
        let lines: Vec<&str> = shown.iter().map(|s| s.split("a.txt: ").nth(1).unwrap()).collect();
        assert_eq!(lines, ["line 2 is not UTF-8", "line 4 is not UTF-8"]);
    }
    assert_eq!(std::fs::read_dir(folder.path().join("cache")).unwrap().count(), 1);
}

#[test]
fn another_column_holds_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let lines = b"{\"text\": \"no\", \"code\": \"abc\"}\n{\"text\": \"no\"}\n{\"code\": \"de\"}\n";
    let settings = in_order(folder.path(), "a.jsonl", lines, 6).with(|s| s.text_column = Some("code".into()));
    assert_eq!(shown(&settings, 1)[0].0, "abc$de");
    let mut stream = Stream::new(&settings, 0).unwrap();
    stream.batch().unwrap();
    let shown = stream.take_shown();
    assert!(shown[0].contains("line 2 has no text in `code`"), "{shown:?}");
    // In a table it is the only column that is read.
    let data = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/text.parquet")).unwrap();
    let table = |column: &str| {
        in_order(folder.path(), "a.parquet", &data, 4).with(|s| s.text_column = Some(column.into()))
    };
    let error = Stream::new(&table("none"), 0).unwrap().batch().unwrap_err().to_string();
    assert!(error.contains("none of the columns none"), "{error}");
}

/// Conversations are written with the tokenizer's own template, as `ckpt chat` writes them; what it answers is learnt.
#[test]
fn messages_are_written_with_the_chat_template() {
    let folder = tempfile::tempdir().unwrap();
    let turn = |role: &str, text: &str| format!("{{\"role\": \"{role}\", \"content\": \"{text}\"}}");
    let talk = [
        turn("system", "be"),
        turn("user", "hi"),
        turn("assistant", "yo"),
        turn("user", "on"),
        turn("assistant", "ok"),
        turn("user", "x"),
    ];
    let line = format!("{{\"messages\": [{}]}}\n", talk.join(", "));
    let template = "{% for m in messages %}({{ m.role[0] }}:{{ m.content }}){% endfor %}{% if add_generation_prompt %}(a:{% endif %}";
    let settings = in_order(folder.path(), "a.jsonl", line.as_bytes(), 20);
    let config = serde_json::json!({ "chat_template": template, "eos_token": "</s>" });
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let settings = settings.with(|s| s.length = 29);
    let (ids, targets) = shown(&settings, 1).remove(0);
    assert_eq!(ids, "(s:be)(u:hi)(a:yo)(u:on)(a:ok");
    assert_eq!(targets, "______________yo)_________ok)");
    let mut stream = Stream::new(&settings, 0).unwrap();
    assert!(stream.example().is_none());
    stream.batch().unwrap();
    // By name, another one.
    let plain = settings.clone().with(|s| s.template = Chat::Plain);
    assert_eq!(shown(&plain, 1)[0].0, "be\n\nUser: hi\nAssistant: yo\nUs");
    let tags = settings.clone().with(|s| s.template = Chat::Tags);
    assert_eq!(shown(&tags, 1)[0].0, "<|system|>\nbe$\n<|user|>\nhi$\n<");
    // What no template can write is a bad line.
    let none = in_order(folder.path(), "b.jsonl", b"{\"messages\": []}\n{\"text\": \"abcdefgh\"}\n", 4);
    let mut stream = Stream::new(&none, 0).unwrap();
    stream.batch().unwrap();
    let shown = stream.take_shown();
    assert!(shown[0].contains("line 1 has no message of the assistant"), "{shown:?}");
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    let error = Stream::new(&settings.with(|s| s.template = Chat::Model), 0).err().unwrap().to_string();
    assert!(error.contains("no chat template"), "{error}");
}
