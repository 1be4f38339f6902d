//! Distillation: teachers are models that run during training, or stored logits. Their probabilities at one temperature
//! are averaged by weight, and [`Loss`](crate::Loss) pulls the student towards them.

use std::path::{Path, PathBuf};

use ckpt_infer::{Cache, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, WhenFull};
use ckpt_inspect::{Checkpoint, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::data::sequences_of;
use crate::network::math;
use crate::{Batch, Error, Result};

/// The teachers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// Checkpoints that run during training.
    pub teachers: Vec<Teacher>,
    /// Stored logits of the data: one SafeTensors file for each data file, in their order. See [`Stored`].
    pub logits: Vec<PathBuf>,
    /// Weight of the stored logits relative to the teachers; 1 by default.
    pub logits_weight: Option<f64>,
}

/// A teacher's checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Teacher {
    /// Any model that `ckpt infer` runs.
    pub path: PathBuf,
    /// Its weight relative to the others.
    #[serde(default = "one")]
    pub weight: f64,
}

impl Teacher {
    /// The checkpoint at `path`, with this weight.
    pub fn new(path: impl Into<PathBuf>, weight: f64) -> Self {
        Teacher { path: path.into(), weight }
    }
}

/// Why stored logits cannot be told from the data that they are of.
const NOT_READY_MADE: &str =
    "stored logits need data of ready-made sequences (.npy or .safetensors, sequences x length)";

fn one() -> f64 {
    1.0
}

/// The loaded teachers of a run.
pub struct Teachers {
    models: Vec<(f32, Model)>,
    stored: Option<(f32, Vec<Stored>)>,
    pool: Pool,
    vocab: usize,
    temperature: f32,
}

/// Logits in a file: `logits` (sequences x positions x k) with `indices` of the same shape, the token of each,
/// or without `indices` and k the vocabulary. Row n belongs to sequence n of the data file; if a position's k logits
/// do not cover the vocabulary, their probabilities are normalized to 1.
pub struct Stored {
    path: PathBuf,
    file: Checkpoint,
    logits: TensorInfo,
    indices: Option<TensorInfo>,
    rows: usize,
    positions: usize,
    k: usize,
}

/// The teachers' targets for one batch.
pub struct Targets {
    parts: Vec<Part>,
    temperature: f32,
}

/// One teacher's logits of a batch, for each token `k` of them.
struct Part {
    weight: f32,
    logits: Vec<f32>,
    /// The token of each logit; if empty, logits are of all tokens in order.
    indices: Option<Vec<u32>>,
    k: usize,
}

impl Settings {
    /// Whether there are any teachers.
    pub fn is_empty(&self) -> bool {
        self.teachers.is_empty() && self.logits.is_empty()
    }
}

impl Teachers {
    /// Loads the teachers for a student of `vocab` tokens and these data files; `None` when there are none.
    ///
    /// # Errors
    /// `Settings` for another vocabulary or weights not above 0; `Teacher` and `Data` for files of the wrong kind, and for stored
    /// logits of fewer sequences or positions than the data has.
    pub fn load(
        settings: &Settings,
        vocab: usize,
        files: &[&PathBuf],
        temperature: f64,
    ) -> Result<Option<Self>> {
        if settings.is_empty() {
            return Ok(None);
        }
        let stored_weight = settings.logits_weight.unwrap_or(1.0);
        let mut weights: Vec<f64> = settings.teachers.iter().map(|t| t.weight).collect();
        if !settings.logits.is_empty() {
            weights.push(stored_weight);
            if settings.logits.len() != files.len() {
                return Err(Error::settings(format!(
                    "there are {} files of stored logits for {} data files; there must be one for each",
                    settings.logits.len(),
                    files.len()
                )));
            }
        }
        if weights.iter().any(|w| !(w.is_finite() && *w > 0.0)) {
            return Err(Error::settings("a teacher's weight must be a number above 0"));
        }
        let total: f64 = weights.iter().sum();
        let pool = Pool::new(rayon::current_num_threads());
        let mut models = Vec::new();
        for teacher in &settings.teachers {
            let model = Model::open(&teacher.path, &LoadOptions::default(), &pool)?;
            let theirs = model.config().vocab_size;
            if theirs != vocab {
                return Err(Error::settings(format!(
                    "{}: a teacher with a vocabulary of {theirs} tokens cannot teach a student with {vocab}; both need the same tokenizer",
                    teacher.path.display()
                )));
            }
            models.push(((teacher.weight / total) as f32, model));
        }
        let stored: Vec<Stored> =
            settings.logits.iter().map(|path| Stored::open(path, vocab)).collect::<Result<_>>()?;
        for (stored, file) in stored.iter().zip(files) {
            stored.check(file)?;
        }
        if let Some(other) = stored.iter().find(|other| other.k != stored[0].k) {
            return Err(Error::data(
                &other.path,
                format!(
                    "has {} logits per position, and {} has {}; all files of stored logits must have the same number",
                    other.k,
                    stored[0].path.display(),
                    stored[0].k
                ),
            ));
        }
        let stored = (!stored.is_empty()).then_some(((stored_weight / total) as f32, stored));
        Ok(Some(Teachers { models, stored, pool, vocab, temperature: temperature as f32 }))
    }

    /// Their targets for `batch`.
    ///
    /// # Errors
    /// `Teacher` for ids or lengths that a teacher does not know; `Data` and `Settings` where stored logits do not fit
    /// the batch.
    pub fn targets(&self, batch: &Batch) -> Result<Targets> {
        let mut parts = Vec::new();
        for (weight, model) in &self.models {
            let mut runner = Runner::new(model, &self.pool);
            let mut logits = Vec::with_capacity(batch.ids.len() * self.vocab);
            for ids in batch.ids.chunks(batch.len) {
                let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
                let sequence = Sequence::new(ids, &mut cache, Logits::All);
                logits.extend_from_slice(runner.forward(&mut [sequence])?);
            }
            parts.push(Part { weight: *weight, logits, indices: None, k: self.vocab });
        }
        if let Some((weight, files)) = &self.stored {
            parts.push(stored_part(*weight, files, batch, self.vocab)?);
        }
        Ok(Targets { parts, temperature: self.temperature })
    }
}

fn stored_part(weight: f32, files: &[Stored], batch: &Batch, vocab: usize) -> Result<Part> {
    let (mut logits, mut indices, mut k) = (Vec::new(), Vec::new(), None);
    for source in &batch.sources {
        let Some((file, row)) = *source else {
            return Err(Error::settings(NOT_READY_MADE));
        };
        let stored = &files[file];
        k = Some(stored.k);
        stored.read(row, batch.len, vocab, &mut logits, &mut indices)?;
    }
    Ok(Part { weight, logits, indices: (!indices.is_empty()).then_some(indices), k: k.unwrap_or(vocab) })
}

impl Stored {
    fn open(path: &Path, vocab: usize) -> Result<Self> {
        let bad = |what: String| Error::data(path, what);
        let file = ckpt_inspect::open(path)?;
        let find = |name: &str| file.tensors.iter().find(|t| t.name == name).cloned();
        let logits = find("logits").ok_or_else(|| bad("has no tensor `logits`".into()))?;
        let [rows @ .., positions, k] = logits.shape.as_slice() else {
            return Err(bad(format!("`logits` has shape {:?}, not sequences x positions x k", logits.shape)));
        };
        let rows = rows.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let (rows, positions, k) = (rows.unwrap_or(usize::MAX), *positions, *k);
        let indices = find("indices");
        match &indices {
            None if k != vocab => Err(bad(format!(
                "has {k} logits per position for a vocabulary of {vocab}, and no `indices` to say of which tokens"
            ))),
            Some(indices) if indices.shape != logits.shape || k == 0 => {
                Err(bad("`indices` and `logits` differ in shape, or are empty".into()))
            }
            _ => Ok(Stored { path: path.to_path_buf(), file, logits, indices, rows, positions, k }),
        }
    }

    /// Refuses logits that are not of all sequences of the data file `of`.
    fn check(&self, of: &Path) -> Result<()> {
        let sequences = sequences_of(of)?
            .ok_or_else(|| Error::data(of, format!("is not what stored logits are of: {NOT_READY_MADE}")))?;
        let positions = sequences.tokens.saturating_sub(1);
        if (self.rows as u64) < sequences.count || self.positions < positions {
            return Err(Error::data(
                &self.path,
                format!(
                    "has logits for {} sequences of {} positions, and {} has {} of {positions}",
                    self.rows,
                    self.positions,
                    of.display(),
                    sequences.count
                ),
            ));
        }
        Ok(())
    }

    /// Adds the logits of the first `positions` of `row`, and the tokens that they are of.
    fn read(
        &self,
        row: usize,
        positions: usize,
        vocab: usize,
        logits: &mut Vec<f32>,
        indices: &mut Vec<u32>,
    ) -> Result<()> {
        if row >= self.rows || positions > self.positions {
            return Err(Error::data(
                &self.path,
                format!(
                    "has logits for {} sequences of {} positions, but sequence {row} of the data has {positions}",
                    self.rows, self.positions
                ),
            ));
        }
        logits.extend(self.row(&self.logits, row, positions)?);
        let Some(tensor) = &self.indices else { return Ok(()) };
        // Ids above 2^24 would not survive f32, and no vocabulary has them.
        for value in self.row(tensor, row, positions)? {
            if !(0.0..vocab as f32).contains(&value) {
                return Err(Error::data(
                    &self.path,
                    format!(
                        "`indices` of sequence {row} contain {value}, but the vocabulary has {vocab} tokens"
                    ),
                ));
            }
            indices.push(value as u32);
        }
        Ok(())
    }

    /// The first `positions` of a sequence in `tensor`.
    fn row(&self, tensor: &TensorInfo, row: usize, positions: usize) -> Result<Vec<f32>> {
        let size = tensor.dtype.element_size().unwrap_or(1);
        let mut part = tensor.clone();
        (part.shape, part.strides) = (vec![positions, self.k], vec![self.k, 1]);
        part.byte_offset += (row * self.positions * self.k * size) as u64;
        Ok(self.file.values(&part)?)
    }
}

impl Targets {
    /// The averaged probabilities of token `at` of the batch, into `out` (`[vocab]`).
    pub(crate) fn probabilities(&self, at: usize, out: &mut [f32]) {
        out.fill(0.0);
        let inverse = 1.0 / self.temperature;
        math::simd(|| {
            for part in &self.parts {
                let logits = &part.logits[at * part.k..][..part.k];
                let highest = math::max(logits);
                let scaled = |z: f32| math::exp((z - highest) * inverse);
                let factor = part.weight / math::sum_of(logits, scaled);
                match &part.indices {
                    None => out.iter_mut().zip(logits).for_each(|(q, &z)| *q += factor * scaled(z)),
                    Some(indices) => {
                        let indices = &indices[at * part.k..][..part.k];
                        for (&id, &z) in indices.iter().zip(logits) {
                            out[id as usize] += factor * scaled(z);
                        }
                    }
                }
            }
        });
    }
}
