//! The KV cache: growth, the end of the context, sliding, and its file.

use std::path::PathBuf;

use ckpt_infer::{
    Cache, Error, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, Settings, WhenFull,
};
use proptest::prelude::*;

fn healthy() -> PathBuf {
    ckpt_kit::fixtures::fixture("healthy-run/step-02000.pt")
}

fn model(max_seq_len: Option<usize>, pool: &Pool) -> Model {
    let settings = Settings::default().with(|s| s.max_seq_len = max_seq_len);
    Model::open(&healthy(), &LoadOptions::default().with(|o| o.settings = settings), pool).unwrap()
}

fn ids(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i * 31 + 7 * i) % 1024).collect()
}

fn run(runner: &mut Runner<'_>, cache: &mut Cache, ids: &[u32]) -> Vec<f32> {
    runner.forward(&mut [Sequence::new(ids, cache, Logits::All)]).unwrap().to_vec()
}

#[test]
fn pages_grow_with_the_context() {
    let pool = Pool::new(1);
    let model = model(None, &pool);
    let mut runner = Runner::new(&model, &pool);
    for (kv, size) in [(KvType::F32, 4), (KvType::F16, 2)] {
        let mut cache = Cache::new(model.config(), kv, WhenFull::Stop);
        assert_eq!(cache.bytes(), 0);
        for (n, pages) in [(1, 1), (63, 1), (1, 2)] {
            run(&mut runner, &mut cache, &ids(n));
            // Two layers, one KV head of 32, keys and values, 64 positions a page.
            assert_eq!(cache.bytes(), pages * 2 * 2 * 32 * 64 * size);
        }
    }
}

#[test]
fn the_end_of_the_context_is_reported_before_anything_runs() {
    let pool = Pool::new(1);
    let model = model(Some(20), &pool);
    let mut runner = Runner::new(&model, &pool);
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    run(&mut runner, &mut cache, &ids(15));
    let six = ids(6);
    let outcome = runner.forward(&mut [Sequence::new(&six, &mut cache, Logits::Last)]);
    assert!(matches!(outcome, Err(Error::ContextFull { wanted: 21, limit: 20 })), "{outcome:?}");
    assert_eq!((cache.len(), cache.room()), (15, 5));
    let outcome = runner.forward(&mut [Sequence::new(&[5, 1024], &mut cache, Logits::Last)]);
    assert!(matches!(outcome, Err(Error::Token { id: 1024, vocab_size: 1024 })), "{outcome:?}");
    assert_eq!(cache.len(), 15);
    run(&mut runner, &mut cache, &six[..5]);
}

#[test]
fn a_cache_of_another_model_is_refused() {
    let pool = Pool::new(1);
    let model = model(None, &pool);
    let mut runner = Runner::new(&model, &pool);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.cache");
    let changes: [fn(&mut ckpt_infer::Config); 4] = [
        |c| c.num_layers -= 1,
        |c| c.num_kv_heads += 1,
        |c| c.head_dim /= 2,
        // As many vectors a position, in other places.
        |c| (c.num_layers, c.num_kv_heads) = (c.num_layers / 2, c.num_kv_heads * 2),
    ];
    for (case, change) in changes.into_iter().enumerate() {
        let mut other = model.config().clone();
        change(&mut other);
        for kv in [KvType::F32, KvType::F16] {
            let mut cache = Cache::new(&other, kv, WhenFull::Stop);
            let outcome = runner.forward(&mut [Sequence::new(&[1, 2], &mut cache, Logits::Last)]);
            assert!(matches!(outcome, Err(Error::Usage(_))), "{case}: {outcome:?}");
            assert_eq!(cache.len(), 0);
            let saved = cache.save(&path, &model);
            assert!(matches!(saved, Err(Error::Usage(_))) && !path.exists(), "{case}: {saved:?}");
        }
    }
}

/// A prompt longer than one step of the forward pass, in every division.
#[test]
fn long_prompts_are_run_in_steps() {
    let pool = Pool::new(2);
    let model = model(Some(1000), &pool);
    let mut runner = Runner::new(&model, &pool);
    let cache = || Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let ids = ids(600);
    let whole = run(&mut runner, &mut cache(), &ids);
    let (mut first, mut second) = (cache(), cache());
    let mut batch =
        [Sequence::new(&ids[..350], &mut first, Logits::All), Sequence::new(&ids, &mut second, Logits::Last)];
    let both = runner.forward(&mut batch).unwrap().to_vec();
    assert!(both[..350 * 1024] == whole[..350 * 1024]);
    assert!(both[350 * 1024..] == whole[599 * 1024..]);
    assert!(run(&mut runner, &mut first, &ids[350..]) == whole[350 * 1024..]);
}

#[test]
fn a_sliding_window_forgets_what_is_too_old() {
    const WINDOW: usize = 40;
    let pool = Pool::new(1);
    let model = model(Some(WINDOW), &pool);
    let mut runner = Runner::new(&model, &pool);
    let cache = || Cache::new(model.config(), KvType::F32, WhenFull::Slide);
    let ids = ids(300);
    let whole = run(&mut runner, &mut cache(), &ids);
    let mut stepped = cache();
    let mut by_token = Vec::new();
    for id in &ids {
        by_token.extend(run(&mut runner, &mut stepped, &[*id]));
        // Two pages hold 40 positions wherever they begin.
        assert!(stepped.bytes() <= 2 * 2 * 2 * 32 * 64 * 4);
    }
    assert!(whole == by_token);
    assert_eq!(stepped.start(), 260);
    // Each of two layers sees 39 positions further back, and nothing beyond.
    let mut last = |changed: usize| {
        let mut other = ids.clone();
        other[changed] ^= 1;
        run(&mut runner, &mut cache(), &other)[299 * 1024..] != whole[299 * 1024..]
    };
    let reach = 299 - 2 * (WINDOW - 1);
    assert_eq!([reach - 1, 0].map(&mut last), [false; 2]);
    assert_eq!([reach + WINDOW, 299].map(&mut last), [true; 2]);
    assert!(stepped.truncate(280).is_err());
}

#[test]
fn a_rewound_cache_runs_as_if_nothing_had_been() {
    let pool = Pool::new(1);
    let model = model(None, &pool);
    let mut runner = Runner::new(&model, &pool);
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let ids = ids(100);
    let whole = run(&mut runner, &mut cache, &ids);
    let mut other = ids[..70].to_vec();
    other.extend([5, 6, 7]);
    assert_eq!(cache.keep_common_prefix(&other).unwrap(), 70);
    run(&mut runner, &mut cache, &other[70..]);
    assert_eq!(cache.keep_common_prefix(&ids).unwrap(), 70);
    assert!(run(&mut runner, &mut cache, &ids[70..]) == whole[70 * 1024..]);
    // If the whole prompt is cached, the last token is still run.
    assert_eq!(cache.keep_common_prefix(&ids).unwrap(), 99);
}

#[test]
fn a_saved_cache_goes_on_where_it_was() {
    let pool = Pool::new(2);
    let model = model(None, &pool);
    let mut runner = Runner::new(&model, &pool);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.safetensors");
    let ids = ids(90);
    for kv in [KvType::F32, KvType::F16] {
        let mut cache = Cache::new(model.config(), kv, WhenFull::Stop);
        run(&mut runner, &mut cache, &ids[..70]);
        cache.save(&path, &model).unwrap();
        let mut restored = Cache::restore(&path, &model, kv, WhenFull::Stop).unwrap();
        assert_eq!(restored.ids(), &ids[..70]);
        let (a, b) = (run(&mut runner, &mut cache, &ids[70..]), run(&mut runner, &mut restored, &ids[70..]));
        assert!(a == b, "{kv:?}");
    }
    // The file holds f16 now.
    let refused = |outcome: Result<Cache, Error>| match outcome {
        Err(Error::PromptCache { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert!(refused(Cache::restore(&path, &model, KvType::F32, WhenFull::Stop)).contains("float16"));
    let settings = Settings::default().with(|s| s.rope_base = Some(5e5));
    let other =
        Model::open(&healthy(), &LoadOptions::default().with(|o| o.settings = settings), &pool).unwrap();
    assert!(refused(Cache::restore(&path, &other, KvType::F16, WhenFull::Stop)).contains("another model"));
    assert!(
        refused(Cache::restore(&healthy(), &model, KvType::F32, WhenFull::Stop)).contains("is not a prompt")
    );
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "temporary files are gone");
}

/// A flipped bit anywhere, and a cut anywhere, are detected; so is the form without a checksum.
#[test]
fn a_prompt_cache_that_is_not_what_was_written_is_refused() {
    let pool = Pool::new(1);
    let model = model(None, &pool);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompt.cache");
    let mut cache = Cache::new(model.config(), KvType::F16, WhenFull::Stop);
    run(&mut Runner::new(&model, &pool), &mut cache, &ids(9));
    cache.save(&path, &model).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let restore = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Cache::restore(&path, &model, KvType::F16, WhenFull::Stop)
    };
    restore(&whole).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in (0..whole.len()).step_by(37).chain([header, whole.len() - 1]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = restore(&bytes).unwrap_err();
        if at >= header {
            assert!(error.to_string().contains("is damaged: its checksum"), "{at}: {error}");
        }
        assert!(restore(&whole[..at]).is_err(), "cut at {at}");
    }
    let longer = [&whole[..], b"more"].concat();
    assert!(restore(&longer).is_err());
    let old = String::from_utf8_lossy(&whole[8..header]).replace("prompt cache 2", "prompt cache 1");
    let old = [&whole[..8], old.as_bytes(), &whole[header..]].concat();
    let error = restore(&old).unwrap_err().to_string();
    assert!(error.contains("another version"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Restoring any modified file gives a cache or an error that says what is wrong.
    #[test]
    fn damaged_files_are_refused(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let pool = Pool::new(1);
        let model = model(None, &pool);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.safetensors");
        let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
        run(&mut Runner::new(&model, &pool), &mut cache, &ids(9));
        cache.save(&path, &model).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        // Half of the changes are in the header.
        let range = if byte & 1 == 0 { 600.min(bytes.len()) } else { bytes.len() };
        let at = at.index(range);
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        std::fs::write(&path, &bytes).unwrap();
        // Only the exact bytes that were written are accepted.
        let restored = Cache::restore(&path, &model, KvType::F32, WhenFull::Stop);
        prop_assert_eq!(restored.is_ok(), bytes == whole);
    }
}
