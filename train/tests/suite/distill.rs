//! Teachers: models loaded along with the student and stored logits give the same results, and a student approaches
//! them.

use crate::trainer::write_ids;
use crate::truth;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ckpt_infer::{Cache, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, WhenFull};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_train::distill::{self, Teacher, Teachers};
use ckpt_train::{Batch, Estimator, Event, Loss, Network, Parameters, RunFolder, Settings, Trainer};

const HEALTHY: &str = "healthy-run/step-02000.pt";

fn student() -> (ckpt_inspect::ModelConfig, Parameters) {
    let checkpoint = ckpt_inspect::open(fixture(HEALTHY)).unwrap();
    let config = checkpoint.model.student.clone().unwrap();
    let parameters = Parameters::load(&config, &checkpoint).unwrap();
    (config, parameters)
}

fn beside(models: &[(&str, f64)]) -> distill::Settings {
    let teacher = |&(path, weight): &(&str, f64)| Teacher::new(fixture(path), weight);
    distill::Settings::default().with(|s| s.teachers = models.iter().map(teacher).collect())
}

fn stored(path: &Path) -> distill::Settings {
    distill::Settings::default().with(|s| s.logits = vec![path.to_path_buf()])
}

/// A batch of two ready-made sequences, and the first is of row 1 in its file.
fn batch() -> Batch {
    let mut batch = truth::truth().batches.swap_remove(0);
    let tokens = 2 * batch.len;
    (batch.rows, batch.sources) = (2, vec![Some((0, 1)), Some((0, 0))]);
    batch.ids.truncate(tokens);
    batch.targets.truncate(tokens);
    batch
}

/// The teachers' loss on a student of `parameters`, and the norm of its gradient.
fn taught(settings: &distill::Settings, loss: &Loss, parameters: &Parameters) -> (f64, f64) {
    let (config, _) = student();
    let data = settings.logits.first().map(|path| write_ids(path.parent().unwrap(), 2, 64));
    let files: Vec<&PathBuf> = data.iter().collect();
    let teachers = Teachers::load(settings, config.vocab_size, &files, loss.temperature).unwrap().unwrap();
    let batch = batch();
    let targets = teachers.targets(&batch).unwrap();
    let mut network = Network::new(&config, parameters, Estimator::default()).unwrap();
    network.refresh(parameters);
    let mut gradients = parameters.zeros();
    let value = network
        .accumulate_distilled(parameters, &batch, loss, Some(&targets), 1.0, &mut gradients)
        .unwrap()
        .total;
    network.finish(parameters, &mut gradients);
    (value, ckpt_train::global_norm(&gradients))
}

fn teacher_alone() -> Loss {
    Loss::default().with(|l| (l.alpha, l.temperature) = (1.0, 2.0))
}

/// Full logits of the rows of `batch()` in their file's order, `[2, len, vocab]`.
fn logits(model: &str) -> Vec<f32> {
    let pool = Pool::new(1);
    let model = Model::open(&fixture(model), &LoadOptions::default(), &pool).unwrap();
    let batch = batch();
    let run = |ids: &[u32]| {
        let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
        let sequence = Sequence::new(ids, &mut cache, Logits::All);
        Runner::new(&model, &pool).forward(&mut [sequence]).unwrap().to_vec()
    };
    [&batch.ids[batch.len..], &batch.ids[..batch.len]].into_iter().flat_map(run).collect()
}

/// The `k` highest of each position's logits, lowest first, as a file.
fn write_top(folder: &Path, logits: &[f32], vocab: usize, k: usize) -> PathBuf {
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in logits.chunks(vocab) {
        let mut order: Vec<usize> = (0..vocab).collect();
        order.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
        for &id in &order[vocab - k..] {
            values.extend(row[id].to_le_bytes());
            indices.extend((id as i32).to_le_bytes());
        }
    }
    write(folder, &values, Some(&indices), vec![2, logits.len() / vocab / 2, k])
}

fn write(folder: &Path, logits: &[u8], indices: Option<&[u8]>, shape: Vec<usize>) -> PathBuf {
    let path = folder.join(format!("top-{}.safetensors", shape[2]));
    let file = SafeTensors::new().tensor("logits", "F32", &shape, logits);
    let file = indices.into_iter().fold(file, |file, i| file.tensor("indices", "I32", &shape, i));
    file.write(&path);
    path
}

#[test]
fn a_student_that_is_its_teacher_has_nothing_to_learn() {
    let (config, parameters) = student();
    let (value, norm) = taught(&beside(&[(HEALTHY, 1.0)]), &teacher_alone(), &parameters);
    assert!(value < 1e-6 && norm < 1e-3, "{value} {norm}");
    let other = Parameters::init(&config, 1).unwrap();
    let (value, norm) = taught(&beside(&[(HEALTHY, 1.0)]), &teacher_alone(), &other);
    assert!(value > 1.0 && norm > 0.1, "{value} {norm}");
    // Without a share in the loss, teachers change nothing.
    let alone = teacher_alone().with(|l| l.alpha = 0.0);
    let mut network = Network::new(&config, &other, Estimator::default()).unwrap();
    let plain = network.loss(&other, &batch(), &Loss::default()).unwrap();
    assert!((taught(&beside(&[(HEALTHY, 1.0)]), &alone, &other).0 - plain).abs() < 1e-5);
}

#[test]
fn stored_logits_say_what_their_model_says() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _) = student();
    let parameters = Parameters::init(&config, 1).unwrap();
    let model = taught(&beside(&[(HEALTHY, 1.0)]), &teacher_alone(), &parameters);
    let logits = logits(HEALTHY);
    let close = |path: &Path, tolerance: f64| {
        let file = taught(&stored(path), &teacher_alone(), &parameters);
        let near = |a: f64, b: f64| (a - b).abs() < tolerance * b;
        assert!(near(file.0, model.0) && near(file.1, model.1), "{file:?} {model:?}");
    };
    let vocab = config.vocab_size;
    close(&write_top(folder.path(), &logits, vocab, vocab), 1e-5);
    let bytes = le(&logits);
    close(&write(folder.path(), &bytes, None, vec![2, logits.len() / vocab / 2, vocab]), 1e-5);
    // Few logits leave little out.
    let top = write_top(folder.path(), &logits, vocab, vocab - 24);
    close(&top, 0.05);
    assert_ne!(taught(&stored(&top), &teacher_alone(), &parameters), model);
}

#[test]
fn several_teachers_count_by_weight() {
    const OTHER: &str = "collapse-run/step-04000.pt";
    let (config, _) = student();
    let parameters = Parameters::init(&config, 1).unwrap();
    let loss = |models: &[(&str, f64)]| taught(&beside(models), &teacher_alone(), &parameters);
    let (a, b) = (loss(&[(HEALTHY, 1.0)]), loss(&[(OTHER, 1.0)]));
    let heavy = loss(&[(HEALTHY, 1e7), (OTHER, 1.0)]);
    assert!((heavy.0 - a.0).abs() < 1e-4 && (a.0 - b.0).abs() > 1e-2, "{heavy:?} {a:?} {b:?}");
    let one_way = loss(&[(HEALTHY, 3.0), (OTHER, 1.0)]);
    let other_way = loss(&[(OTHER, 0.5), (HEALTHY, 1.5)]);
    assert!((one_way.0 - other_way.0).abs() < 1e-5 * one_way.0);
    // KL is convex in the teachers' probabilities: the mean of both is easier than both in the mean.
    assert!(one_way.0 < 0.75 * a.0 + 0.25 * b.0);
}

#[test]
fn a_new_student_draws_near_to_its_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let (config, _) = student();
    let mut settings = Settings::default().with(|s| {
        s.steps = 40;
        s.validate_every = 0;
        s.health_every = 0;
        s.loss = teacher_alone();
        s.distill = beside(&[(HEALTHY, 1.0)]);
        s.data.files = vec![fixture("trajectories/truth.safetensors")];
        s.data.batch = 4;
        s.data.holdout = 0.0;
        s.data.length = 63;
    });
    settings.optimizer = toml::from_str("lr = 3e-3").unwrap();
    let mut trainer = Trainer::new(&config, &settings).unwrap();
    let mut losses = Vec::new();
    let mut place = RunFolder::open(folder.path()).unwrap();
    trainer
        .run(&mut place, &AtomicBool::new(false), &mut |event| {
            if let Event::Step { loss, .. } = event {
                losses.push(loss);
            }
        })
        .unwrap();
    assert!(losses[39] < 0.75 * losses[0], "{losses:?}");
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vocab = student().0.vocab_size;
    let data = write_ids(folder.path(), 2, 64);
    let refused = |settings: &distill::Settings, vocab: usize, files: usize, word: &str| {
        let error = Teachers::load(settings, vocab, &vec![&data; files], 2.0).err().expect(word).to_string();
        assert!(error.contains(word), "{word}: {error}");
    };
    refused(&beside(&[(HEALTHY, 1.0)]), 1000, 1, "a student with 1000");
    refused(&beside(&[(HEALTHY, 0.0)]), vocab, 1, "weight");
    refused(&beside(&[("trajectories/truth.safetensors", 1.0)]), vocab, 1, "truth.safetensors");
    let all: Vec<f32> = vec![0.0; 2 * 63 * 4];
    let bytes = le(&all);
    let few = write(folder.path(), &bytes, None, vec![2, 63, 4]);
    refused(&stored(&few), vocab, 1, "indices");
    refused(&stored(&few), vocab, 2, "one for each");

    let ids: Vec<u8> = (0..2 * 63 * 4).flat_map(|i| (i * 9i32).to_le_bytes()).collect();
    let path = write(folder.path(), &bytes, Some(&ids), vec![2, 63, 4]);
    let teachers = Teachers::load(&stored(&path), vocab, &[&data], 2.0).unwrap().unwrap();
    let error = |batch: &Batch| teachers.targets(batch).err().unwrap().to_string();
    assert!(error(&batch()).contains("the vocabulary has"), "{}", error(&batch()));
    let (mut far, mut packed) = (batch(), batch());
    (far.sources, packed.sources) = (vec![Some((0, 2)), Some((0, 0))], vec![None, None]);
    assert!(error(&far).contains("sequence 2 of the data has 63"), "{}", error(&far));
    assert!(error(&packed).contains("ready-made"), "{}", error(&packed));
    // What the headers say is found before the first step.
    let refused = |data: &PathBuf, words: &[&str]| {
        let error = Teachers::load(&stored(&path), vocab, &[data], 2.0).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    };
    let other = tempfile::tempdir().unwrap();
    refused(&write_ids(other.path(), 3, 64), &["2 sequences of 63 positions", "has 3 of 63"]);
    refused(&write_ids(other.path(), 2, 65), &["2 sequences of 63 positions", "has 2 of 64"]);
    let text = other.path().join("a.txt");
    std::fs::write(&text, "text").unwrap();
    refused(&text, &["a.txt", "ready-made"]);
}
