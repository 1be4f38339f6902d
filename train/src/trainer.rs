//! The training loop: steps, validation, health, checkpoints; stopped at any step and resumed as if it had not been.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ckpt_convert::{Object, save};
use ckpt_inspect::metadata::{Value, as_f64, as_u64, from_json};
use ckpt_inspect::{Checkpoint, Group, ModelConfig, Thresholds};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::{self, Stream};
use crate::distill::{self, Teachers};
use crate::layout;
use crate::optim::{self, Optimizer, Rate};
use crate::run::RunFolder;
use crate::start;
use crate::{
    Batch, Error, Estimator, Gradients, Health, Loss, Network, Parameters, Result, Schedule, clip,
    global_norm, plain,
};

/// All settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// The step to stop at, counted from the start of the model's training.
    pub steps: u64,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: u64,
    /// Largest global norm of the gradients; 0 for no limit.
    pub clip: f64,
    /// Whether scales are held constant in the backward pass of a BitLinear.
    pub detached_scales: bool,
    /// Random seed; by default that of the resumed checkpoint, or 0.
    pub seed: Option<u64>,
    /// Steps between checkpoints; 0 for one at the end.
    pub save_every: u64,
    /// Checkpoints to keep; 0 for all.
    pub keep_last: usize,
    /// Steps between validations; 0 for none.
    pub validate_every: u64,
    /// Steps between measurements of the weights; 0 for none.
    pub health_every: u64,
    /// Whether to stop when a layer falls below healthy.
    pub stop_on_collapse: bool,
    /// Steps in a row that may give NaN or infinity before the run stops.
    pub max_skipped: u64,
    /// The std below which a layer is unhealthy.
    pub thresholds: Thresholds,
    /// The learning rate over steps.
    pub schedule: Schedule,
    /// The loss.
    pub loss: Loss,
    /// The optimizer.
    pub optimizer: optim::Settings,
    /// The data.
    pub data: data::Settings,
    /// The teachers.
    pub distill: distill::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            steps: 1000,
            accumulate: 1,
            clip: 1.0,
            detached_scales: false,
            seed: None,
            save_every: 500,
            keep_last: 0,
            validate_every: 250,
            health_every: 50,
            stop_on_collapse: false,
            max_skipped: 5,
            thresholds: Thresholds::default(),
            schedule: Schedule::default(),
            loss: Loss::default(),
            optimizer: optim::Settings::default(),
            data: data::Settings::default(),
            distill: distill::Settings::default(),
        }
    }
}

/// How much of a checkpoint's own state to keep when resuming.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ResumeOptions {
    /// Start even if layers have collapsed.
    pub allow_collapsed: bool,
    /// Ignore the optimizer's state.
    pub reset_optimizer: bool,
    /// Start the data from the beginning.
    pub restart_data: bool,
    /// Whether projections are BitLinear; by default what the checkpoint says, or what its format implies.
    pub bitlinear: Option<bool>,
}

/// What happens during a run, for the caller to show.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step was taken.
    Step {
        /// Steps taken so far.
        step: u64,
        /// Mean loss of its batches.
        loss: f64,
        /// Global norm of its gradients before clipping.
        norm: f64,
        /// Factor of the schedule.
        factor: f64,
        /// Tokens in the step.
        tokens: u64,
        /// How long it took.
        seconds: f64,
    },
    /// The held-out loss was measured.
    Validation {
        /// Steps taken so far.
        step: u64,
        /// Mean loss.
        loss: f64,
        /// Whether it is the lowest so far.
        best: bool,
    },
    /// The weights were measured.
    Health(u64, &'a Health),
    /// A checkpoint was written.
    Saved(&'a Path),
    /// Something the user should know.
    Warning(String),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// All steps were taken.
    Finished,
    /// The caller asked to stop; a checkpoint was written.
    Interrupted,
}

/// A run.
pub struct Trainer {
    settings: Settings,
    seed: u64,
    config: ModelConfig,
    parameters: Parameters,
    network: Network,
    optimizer: Box<dyn Optimizer>,
    teachers: Option<Teachers>,
    stream: Stream,
    /// Batches of the next step, drawn ahead.
    ready: Vec<Batch>,
    validation: Option<Vec<Batch>>,
    step: u64,
    tokens: u64,
    skipped: u64,
    best_loss: Option<f64>,
    last_loss: Option<f64>,
    warnings: Vec<String>,
}

impl Trainer {
    /// A new model's run.
    ///
    /// # Errors
    /// `Settings`; `Read` and `Data` for the data.
    pub fn new(config: &ModelConfig, settings: &Settings) -> Result<Self> {
        let seed = settings.seed.unwrap_or(0);
        let parameters = Parameters::init(config, seed)?;
        Self::with(config.clone(), parameters, settings, seed)
    }

    /// Continues from `checkpoint`: with its weights and, if it has them, the optimizer's state, the step, the seed
    /// unless the settings have one, and the position in the data.
    ///
    /// # Errors
    /// `Collapsed` when its layers have, unless allowed; `Settings` when it is not a student model or its state belongs
    /// to another optimizer; the checkpoint's own.
    pub fn resume(checkpoint: &Checkpoint, settings: &Settings, options: ResumeOptions) -> Result<Self> {
        let path = checkpoint.path.display();
        let (config, assumed) = start::configuration(checkpoint, options.bitlinear)?;
        let parameters = Parameters::load(&config, checkpoint)?;
        if !options.allow_collapsed {
            start::refuse_collapsed(checkpoint, &config, &parameters, &settings.thresholds)?;
        }
        let number = |name: &str| checkpoint.meta(&format!("training_state.{name}"));
        let saved_seed = number("seed").and_then(seed_of);
        let seed = settings.seed.or(saved_seed).unwrap_or(0);
        let mut trainer = Self::with(config, parameters, settings, seed)?;
        trainer.warnings.extend(assumed.iter().map(|a| format!("{path}: {a}")));
        if let Some(saved) = saved_seed.filter(|&saved| saved != seed) {
            trainer.warnings.push(format!(
                "{path}: was trained with random seed {saved}, but this run continues with {seed}: other documents are held out from here on, and the data comes in another order"
            ));
        }
        let state_step = number("step").and_then(as_u64);
        trainer.step = state_step.or(checkpoint.step.as_ref().map(|s| s.0)).unwrap_or(0);
        trainer.check_steps()?;
        trainer.tokens = number("total_tokens").and_then(as_u64).unwrap_or(0);
        trainer.skipped = number("skipped").and_then(as_u64).unwrap_or(0);
        const STATE: &str = "optimizer_state_dict";
        if options.reset_optimizer {
            trainer.warnings.push("the optimizer starts without its saved state, as requested".into());
        } else if checkpoint.meta(STATE).is_some() {
            let notes = trainer.optimizer.load(checkpoint, STATE, &trainer.parameters)?;
            trainer.warnings.extend(notes);
            trainer.note_rates(checkpoint, STATE);
        } else if let Some(state) = checkpoint.tensors.iter().find(|t| t.group == Group::Optimizer) {
            return Err(Error::Settings(format!(
                "{path}: its optimizer's state, such as `{}`, is kept as other trainers keep it, and cannot be continued from; resume without it (`reset_optimizer`)",
                state.name.escape_debug()
            )));
        } else {
            trainer
                .warnings
                .push(format!("{path}: contains no optimizer state, so the moments start at zero"));
        }
        let restored = !options.restart_data && trainer.stream.restore(checkpoint, "training_state.data")?;
        if restored {
            trainer.best_loss = number("best_loss").and_then(as_f64).filter(|l| l.is_finite());
        } else {
            // A loss on other data cannot be compared with this run's.
            trainer.stream.begin_at(number("epoch").and_then(as_u64).unwrap_or(0));
            if !options.restart_data && trainer.step > 0 {
                trainer.warnings.push(format!(
                    "{path}: does not record its position in the data, so the data starts from the beginning"
                ));
            }
        }
        Ok(trainer)
    }

    /// Warns of learning rates that differ from those of the checkpoint's optimizer.
    fn note_rates(&mut self, checkpoint: &Checkpoint, key: &str) {
        for Rate { part, lr: ours, .. } in self.settings.optimizer.rates() {
            let part = part.map_or(key.to_string(), |part| format!("{key}.{part}"));
            let groups = checkpoint.meta(&format!("{part}.param_groups"));
            let Some(Value::List(groups)) = groups else { continue };
            let rate = |group: &Value| {
                ckpt_inspect::lookup(group, "initial_lr")
                    .or_else(|| ckpt_inspect::lookup(group, "lr"))
                    .and_then(as_f64)
            };
            let Some(theirs) = groups.first().and_then(rate) else { continue };
            if (theirs - ours).abs() > 1e-6 * ours.abs() {
                self.warnings.push(format!(
                    "{}: was trained at a learning rate of {theirs}, but this run continues at {ours}",
                    checkpoint.path.display()
                ));
            }
        }
    }

    fn with(config: ModelConfig, parameters: Parameters, settings: &Settings, seed: u64) -> Result<Self> {
        let loss_is = "temperature must be from 0.001 to 1000, label smoothing and alpha from 0 to 1, focal from 0 to 100";
        for (sound, what) in [
            (settings.accumulate > 0, "accumulate must be above 0"),
            (settings.clip >= 0.0, "clip must be at least 0"),
            (settings.loss.is_sound(), loss_is),
        ] {
            if !sound {
                return Err(Error::settings(what));
            }
        }
        let length = settings.data.length;
        if length > config.max_seq_len {
            return Err(Error::settings(format!(
                "sequences of {length} positions are longer than the {} that the model was made for",
                config.max_seq_len
            )));
        }
        let estimator = if settings.detached_scales { Estimator::Detached } else { Estimator::ThroughScales };
        let optimizer = settings.optimizer.build(&parameters, seed)?;
        let teachers = Teachers::load(
            &settings.distill,
            config.vocab_size,
            settings.data.files.len(),
            settings.loss.temperature,
        )?;
        let mut warnings: Vec<String> = settings.optimizer.warning().into_iter().collect();
        for (lr, weight_decay) in optimizer.ternary_decay(&parameters) {
            warnings.push(format!(
                "weight decay {weight_decay} at learning rate {lr} shrinks ternary weights: by itself it halves them every {:.0} steps (ln 2 / (lr * weight decay)), and absmean quantization hides that from the loss",
                optim::half_life(lr, weight_decay)
            ));
        }
        Ok(Trainer {
            network: Network::new(&config, &parameters, estimator),
            optimizer,
            teachers,
            stream: Stream::new(&settings.data, seed)?,
            ready: Vec::new(),
            validation: None,
            settings: Settings { seed: Some(seed), ..settings.clone() },
            seed,
            config,
            parameters,
            step: 0,
            tokens: 0,
            skipped: 0,
            best_loss: None,
            last_loss: None,
            warnings,
        })
    }

    fn check_steps(&self) -> Result<()> {
        match self.step < self.settings.steps {
            true => Ok(()),
            false => Err(Error::settings(format!(
                "the model is at step {} already, and `steps` is the step to stop at",
                self.step
            ))),
        }
    }

    /// Steps taken so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The settings, with the seed that the run has.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The current weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Reads the data of the first step and of validation, so that a run that cannot start fails before its folder is
    /// created. [`Trainer::run`] does so by itself, too.
    ///
    /// # Errors
    /// Those of data, and `Settings` when there is no step to take.
    pub fn prepare(&mut self) -> Result<()> {
        self.check_steps()?;
        if self.validation.is_none() {
            self.validation = Some(match self.settings.validate_every {
                0 => Vec::new(),
                _ => Stream::validation(&self.settings.data, self.seed)?,
            });
        }
        if self.ready.is_empty() {
            self.ready = self.batches()?;
        }
        Ok(())
    }

    /// The batches of one step.
    fn batches(&mut self) -> Result<Vec<Batch>> {
        (0..self.settings.accumulate).map(|_| self.stream.batch()).collect()
    }

    /// Trains to the last step, or until `stop` is set: then the current step is finished and saved; one whose data is
    /// [prepared](Trainer::prepare) is the current one. Everything that happens is passed to `watch` and written to
    /// `folder`.
    ///
    /// # Errors
    /// `Stopped` if several steps in a row give NaN (the batch is saved) or a layer collapses and the settings say to
    /// stop; errors of data and of writing.
    pub fn run(
        &mut self,
        folder: &mut RunFolder,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        for warning in std::mem::take(&mut self.warnings) {
            watch(Event::Warning(warning));
        }
        self.prepare()?;
        let validation = self.validation.clone().unwrap_or_default();
        let mut gradients = self.parameters.zeros();
        let (mut spoiled, mut reported_bad, mut saved_at) = (0, 0, None);
        while self.step < self.settings.steps {
            if stop.load(Ordering::Relaxed) && self.ready.is_empty() {
                if saved_at != Some(self.step) {
                    self.save(folder, watch)?;
                }
                return Ok(Outcome::Interrupted);
            }
            let started = Instant::now();
            let batches = match self.ready.is_empty() {
                true => self.batches()?,
                false => std::mem::take(&mut self.ready),
            };
            if self.stream.bad > reported_bad {
                reported_bad = self.stream.bad;
                let shown = std::mem::take(&mut self.stream.shown);
                watch(Event::Warning(format!(
                    "{reported_bad} invalid lines were skipped so far; {}",
                    shown.join("; ")
                )));
            }
            let (loss, norm) = self.gradients(&batches, &mut gradients)?;
            let factor = self.settings.schedule.factor(self.step);
            if loss.is_finite() && norm.is_finite() {
                spoiled = 0;
                if self.settings.clip > 0.0 {
                    clip(&mut gradients, norm, self.settings.clip);
                }
                self.optimizer.step(&mut self.parameters, &gradients, factor, self.step);
                self.last_loss = Some(loss);
            } else {
                spoiled += 1;
                self.skipped += 1;
                watch(Event::Warning(format!(
                    "step {}: loss {loss}, gradient norm {norm}; the step was skipped ({} so far)",
                    self.step + 1,
                    self.skipped
                )));
                if spoiled >= self.settings.max_skipped {
                    return Err(self.give_up(folder, &batches, spoiled));
                }
            }
            self.step += 1;
            let tokens: u64 = batches.iter().map(|b| b.ids.len() as u64).sum();
            self.tokens = self.tokens.saturating_add(tokens);
            let seconds = started.elapsed().as_secs_f64();
            folder.metric(&json!({
                "step": self.step, "loss": finite(loss), "grad_norm": finite(norm), "lr_factor": factor,
                "tokens": self.tokens, "tokens_per_second": tokens as f64 / seconds, "epoch": self.stream.epoch,
            }))?;
            watch(Event::Step { step: self.step, loss, norm, factor, tokens, seconds });
            saved_at = self.after_step(folder, &validation, watch)?.then_some(self.step);
        }
        if saved_at != Some(self.step) {
            self.save(folder, watch)?;
        }
        Ok(Outcome::Finished)
    }

    /// Mean loss of `batches`, its gradients, and their norm.
    fn gradients(&mut self, batches: &[Batch], gradients: &mut Gradients) -> Result<(f64, f64)> {
        gradients.iter_mut().for_each(|g| g.fill(0.0));
        self.network.refresh(&self.parameters);
        let weight = 1.0 / batches.len() as f32;
        let mut total = 0.0;
        for batch in batches {
            let targets = self.teachers.as_ref().map(|t| t.targets(batch)).transpose()?;
            total += self.network.accumulate_distilled(
                &self.parameters,
                batch,
                &self.settings.loss,
                targets.as_ref(),
                weight,
                gradients,
            )?;
        }
        self.network.finish(&self.parameters, gradients);
        Ok((total / batches.len() as f64, global_norm(gradients)))
    }

    /// Validates, measures and saves when it is time to. Returns whether it saved.
    fn after_step(
        &mut self,
        folder: &mut RunFolder,
        validation: &[Batch],
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool> {
        let (step, last) = (self.step, self.step == self.settings.steps);
        let due = |every: u64| every > 0 && (step.is_multiple_of(every) || last);
        if due(self.settings.validate_every) && !validation.is_empty() {
            let mut total = 0.0;
            for batch in validation {
                total += self.network.loss(&self.parameters, batch, &Loss::default())?;
            }
            let loss = total / validation.len() as f64;
            let best = loss.is_finite() && self.best_loss.is_none_or(|b| loss < b);
            folder.metric(&json!({ "step": step, "validation_loss": finite(loss) }))?;
            watch(Event::Validation { step, loss, best });
            if best {
                self.best_loss = Some(loss);
                save(&self.object(), &folder.best(), true)?;
            }
        }
        let mut collapsed = None;
        if due(self.settings.health_every) {
            let health = Health::of(&self.parameters, &self.config, &self.settings.thresholds);
            folder.metric(&json!({ "step": step, "health": health.layers }))?;
            watch(Event::Health(step, &health));
            let unhealthy = health.unhealthy();
            if let Some(worst) = unhealthy.first() {
                let std = worst.std.map_or("none".into(), |s| format!("{s:.1e}"));
                let what = format!(
                    "step {step}: {} of {} ternary matrices are unhealthy; {} is {} (std {std}, {:.1} % zeros)",
                    unhealthy.len(),
                    health.layers.len(),
                    worst.name,
                    worst.verdict,
                    100.0 * worst.zero
                );
                watch(Event::Warning(what.clone()));
                collapsed = Some(what);
            }
        }
        let save_now = due(self.settings.save_every) || last;
        if save_now {
            self.save(folder, watch)?;
        }
        match collapsed.filter(|_| self.settings.stop_on_collapse) {
            Some(what) => {
                if !save_now {
                    self.save(folder, watch)?;
                }
                Err(Error::Stopped(what))
            }
            None => Ok(save_now),
        }
    }

    fn save(&self, folder: &RunFolder, watch: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let path = folder.checkpoint(self.step);
        save(&self.object(), &path, true)?;
        if self.settings.keep_last > 0 {
            folder.prune(self.settings.keep_last, self.step)?;
        }
        watch(Event::Saved(&path));
        Ok(())
    }

    fn give_up(&self, folder: &RunFolder, batches: &[Batch], spoiled: u64) -> Error {
        let path: PathBuf = folder.bad_batch(self.step + 1);
        let ids: Vec<i32> = batches.iter().flat_map(|b| b.ids.iter().map(|&id| id as i32)).collect();
        let targets: Vec<i32> = batches.iter().flat_map(|b| b.targets.iter().copied()).collect();
        let (rows, len) = (batches.iter().map(|b| b.rows).sum(), batches[0].len);
        let integers = |values: Vec<i32>| Object::Integers { shape: vec![rows, len], values: values.into() };
        let object = Object::dict([("ids", integers(ids)), ("targets", integers(targets))]);
        match save(&object, &path, true) {
            Ok(()) => Error::Stopped(format!(
                "{spoiled} steps in a row gave NaN or infinity; the last batch is in {}. Lower the learning rate, or look for NaN in the weights with `ckpt inspect`",
                path.display()
            )),
            Err(error) => error.into(),
        }
    }

    /// The checkpoint: the layout of bitnet-student's original trainer, with the position in the data next to the step.
    fn object(&self) -> Object<'_> {
        let named = self.parameters.0.iter().map(|p| (p.name.as_str(), Object::floats(&p.shape, &p.values)));
        let factor = self.settings.schedule.factor(self.step);
        let number = |n: u64| Value::I64(n as i64);
        let state = [
            ("step", number(self.step)),
            ("epoch", number(self.stream.epoch)),
            ("best_loss", Value::F64(self.best_loss.unwrap_or(f64::INFINITY))),
            ("total_tokens", number(self.tokens)),
            ("skipped", number(self.skipped)),
            ("seed", number(self.seed)),
        ];
        let state = state.into_iter().map(|(name, value)| (name, Object::Plain(value)));
        let config = plain([
            ("model", from_json(serde_json::Value::Object(self.config.to_trainer()))),
            ("training", layout::training_config(&self.settings)),
        ]);
        Object::dict([
            ("model_state_dict", Object::dict(named)),
            ("optimizer_state_dict", self.optimizer.state(&self.parameters, factor)),
            ("scheduler_state_dict", Object::Plain(plain([("last_epoch", number(self.step))]))),
            ("training_state", Object::dict(state.chain([("data", self.stream.state())]))),
            ("step", Object::Plain(number(self.step))),
            ("loss", Object::Plain(self.last_loss.map_or(Value::None, Value::F64))),
            ("config", Object::Plain(config)),
        ])
    }
}

/// A seed as a checkpoint holds it: its 64 bits as a signed number.
fn seed_of(value: &Value) -> Option<u64> {
    match value {
        Value::I64(seed) => Some(*seed as u64),
        other => as_u64(other),
    }
}

fn finite(x: f64) -> serde_json::Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}
