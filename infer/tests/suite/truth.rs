//! Logits and greedy continuations against those of an independent PyTorch implementation, which has no KV cache.

use ckpt_infer::{
    Cache, Generator, Kernel, KvType, LoadOptions, Logits, Model, Pool, Runner, SampleOptions, Sequence,
    Settings, Stop, TableType, WhenFull,
};
use ckpt_kit::fixtures::fixture;

use crate::logits::largest_difference;

/// Largest difference of a logit.
const BOUND: f32 = 2e-4;

/// One case: ids [2, 48], logits [2, positions, vocabulary] at some positions, and 16 ids with 24 greedy ones.
struct Truth {
    ids: Vec<Vec<u32>>,
    positions: Vec<usize>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn truth(name: &str) -> Truth {
    let file = ckpt_inspect::open(fixture(&format!("logits/{name}.safetensors"))).unwrap();
    let integers = |name: &str| -> Vec<i32> {
        file.view::<i32>(file.tensor(name).unwrap()).unwrap().iter().copied().collect()
    };
    let ids: Vec<u32> = integers("ids").into_iter().map(|id| id as u32).collect();
    Truth {
        ids: ids.chunks(ids.len() / 2).map(<[u32]>::to_vec).collect(),
        positions: integers("positions").into_iter().map(|p| p as usize).collect(),
        logits: file.values(file.tensor("logits").unwrap()).unwrap(),
        greedy: integers("greedy").into_iter().map(|id| id as u32).collect(),
    }
}

fn float_settings() -> Settings {
    Settings::default().with(|s| {
        s.use_bitlinear_attn = Some(false);
        s.use_bitlinear_ffn = Some(false);
        s.attn_logit_soft_cap = Some(None);
        s.final_logit_soft_cap = Some(None);
    })
}

/// Checkpoint, truth and settings of every case.
fn cases() -> [(&'static str, &'static str, Settings); 4] {
    [
        ("healthy-run/step-02000.pt", "healthy-2000", Settings::default()),
        ("collapse-run/step-04000.pt", "collapse-4000", Settings::default()),
        ("healthy-run/step-02000.pt", "healthy-2000-fp32-nocap", float_settings()),
        ("packed/nano-healthy-2000-i2s.pt", "healthy-2000", Settings::default()),
    ]
}

fn load(file: &str, settings: &Settings, kernel: Kernel, pool: &Pool) -> Model {
    let options = LoadOptions::default().with(|o| {
        o.settings = settings.clone();
        o.kernel = Some(kernel);
    });
    Model::open(&fixture(file), &options, pool).unwrap()
}

fn cache(model: &Model) -> Cache {
    Cache::new(model.config(), KvType::F32, WhenFull::Stop)
}

fn prefill(model: &Model, pool: &Pool, ids: &[u32]) -> Vec<f32> {
    let mut cache = cache(model);
    let sequence = Sequence::new(ids, &mut cache, Logits::All);
    Runner::new(model, pool).forward(&mut [sequence]).unwrap().to_vec()
}

#[test]
fn logits_agree_with_pytorch() {
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        for kernel in Kernel::available() {
            for (file, name, settings) in cases() {
                let (model, truth) = (load(file, &settings, kernel, &pool), truth(name));
                let vocab = model.config().vocab_size;
                for (s, ids) in truth.ids.iter().enumerate() {
                    let logits = prefill(&model, &pool, ids);
                    for (i, &position) in truth.positions.iter().enumerate() {
                        let want = &truth.logits[(s * truth.positions.len() + i) * vocab..][..vocab];
                        let off = largest_difference(&logits[position * vocab..][..vocab], want);
                        let kernel = kernel.name();
                        assert!(
                            off <= BOUND,
                            "{kernel} {file} as {name}, sequence {s}, position {position}: {off}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn greedy_continuations_agree_with_pytorch() {
    let pool = Pool::new(2);
    for kernel in Kernel::available() {
        for (file, name, settings) in cases() {
            let (model, truth) = (load(file, &settings, kernel, &pool), truth(name));
            let (mut runner, mut cache) = (Runner::new(&model, &pool), cache(&model));
            let stop = Stop::after(24);
            let mut generator = Generator::new(&mut runner, &mut cache, &SampleOptions::default(), stop);
            let mut seen = Vec::new();
            let outcome = generator.run(&truth.greedy[..16], &mut |token| {
                seen.push(token.id);
                true
            });
            assert_eq!(outcome.unwrap().ids, truth.greedy[16..], "{} {file} as {name}", kernel.name());
            assert_eq!(seen, truth.greedy[16..]);
        }
    }
}

/// Exactly: every sum has the same order, however many tokens go together.
#[test]
fn token_by_token_is_prefill_is_batch() {
    let pool = Pool::new(2);
    for kernel in Kernel::available() {
        for (file, name, settings) in cases() {
            let (model, truth) = (load(file, &settings, kernel, &pool), truth(name));
            let whole: Vec<Vec<f32>> = truth.ids.iter().map(|ids| prefill(&model, &pool, ids)).collect();
            let mut runner = Runner::new(&model, &pool);
            for (ids, whole) in truth.ids.iter().zip(&whole) {
                for step in [1, 5] {
                    let mut cache = cache(&model);
                    let mut stepped = Vec::new();
                    for ids in ids.chunks(step) {
                        let sequence = Sequence::new(ids, &mut cache, Logits::All);
                        stepped.extend_from_slice(runner.forward(&mut [sequence]).unwrap());
                    }
                    assert!(stepped == *whole, "{} {file} as {name}, {step} at a time", kernel.name());
                }
            }
            let (mut first, mut second) = (cache(&model), cache(&model));
            let mut batch = [
                Sequence::new(&truth.ids[0], &mut first, Logits::All),
                Sequence::new(&truth.ids[1], &mut second, Logits::All),
            ];
            assert!(
                runner.forward(&mut batch).unwrap() == whole.concat(),
                "{} {file} as {name}",
                kernel.name()
            );
        }
    }
}

/// Rounding of keys and values, or of the tables, moves logits a little and not much.
#[test]
fn narrower_storage_stays_close() {
    let pool = Pool::new(1);
    let path = fixture("healthy-run/step-02000.pt");
    let truth = truth("healthy-2000-fp32-nocap");
    let exact = LoadOptions::default().with(|o| o.settings = float_settings());
    let model = Model::open(&path, &exact, &pool).unwrap();
    let want = prefill(&model, &pool, &truth.ids[0]);
    let mut cache = Cache::new(model.config(), KvType::F16, WhenFull::Stop);
    let sequence = Sequence::new(&truth.ids[0], &mut cache, Logits::All);
    let off = largest_difference(Runner::new(&model, &pool).forward(&mut [sequence]).unwrap(), &want);
    assert!(off > 0.0 && off < 0.02, "f16 keys and values: {off}");
    for (tables, bound) in
        [(TableType::F32, 0.0), (TableType::F16, 0.02), (TableType::Int8, 0.3), (TableType::Q6, 1.0)]
    {
        let model = Model::open(&path, &exact.clone().with(|o| o.tables = Some(tables)), &pool).unwrap();
        let off = largest_difference(&prefill(&model, &pool, &truth.ids[0]), &want);
        assert!(off <= bound, "{tables:?}: {off}");
    }
}
