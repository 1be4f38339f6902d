//! The training loop: steps, validation, health, checkpoints; stopped at any step and resumed as if it had not been.

mod average;
mod measure;
mod resume;
mod sample;
mod save;
mod signs;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ckpt_inspect::ModelConfig;
use serde_json::json;

use crate::data::{Stream, Validation};
use crate::distill::Teachers;
use crate::optim::{self, Optimizer};
use crate::run::RunFolder;
use crate::{
    Batch, Error, Estimator, Gradients, Health, Losses, Network, Parameters, Result, Settings, clip,
    global_norm,
};
use average::Average;
pub use sample::{Sample, Settings as SampleSettings};
use signs::Signs;

/// What happens during a run, for the caller to show.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step was taken.
    Step {
        /// Steps taken so far.
        step: u64,
        /// Its loss, a mean over its learnt tokens.
        loss: f64,
        /// The cross entropy in it, and what the teachers add; `None` without teachers.
        parts: Option<(f64, f64)>,
        /// Global norm of its gradients before clipping.
        norm: f64,
        /// Factor of the schedule.
        factor: f64,
        /// Learning rate: the optimizer's first one, times the factor.
        lr: f64,
        /// Tokens in the step.
        tokens: u64,
        /// How long it took.
        seconds: f64,
    },
    /// The held-out loss was measured.
    Validation {
        /// Steps taken so far.
        step: u64,
        /// Sum of the losses of all learnt tokens of the validation set, divided by their number.
        loss: f64,
        /// Whether it is the lowest so far, and `best.pt` written.
        best: bool,
        /// Whether it was measured before the run's first step.
        first: bool,
        /// The same of the moving average of the weights, if one is kept.
        averaged: Option<f64>,
    },
    /// Text was sampled after so many steps.
    Sample(u64, &'a Sample),
    /// The first sequence that is trained on, as pieces of text of which each is learnt or only context.
    Example(Vec<(bool, String)>),
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
    /// As many validations as the settings' patience gave no lower loss; a checkpoint was written.
    NoBetter,
}

/// A run.
pub struct Trainer {
    settings: Settings,
    seed: u64,
    config: ModelConfig,
    parameters: Parameters,
    network: Network,
    optimizer: Box<dyn Optimizer>,
    average: Option<Average>,
    teachers: Option<Teachers>,
    stream: Stream,
    /// Batches of the next step, drawn ahead.
    ready: Vec<Batch>,
    validation: Option<Validation>,
    /// The fingerprint of the set that `best_loss` was measured on.
    measured_on: Option<String>,
    /// Whether it continues from a checkpoint.
    is_resumed: bool,
    /// The checkpoint it continues from, if that was judged healthy.
    healthy_start: Option<PathBuf>,
    step: u64,
    tokens: u64,
    skipped: u64,
    best_loss: Option<f64>,
    /// The loss of the best.pt that lies in the run folder, if it was measured on the same set.
    kept_loss: Option<f64>,
    /// Validations since the lowest loss.
    since_best: u64,
    /// Invalid lines that an earlier part of the run has told.
    told_bad: u64,
    /// Whether it was told that documents have no end.
    told_end: bool,
    /// Whether it was told that weights with the lowest loss are not healthy.
    told_unfit: bool,
    /// Steps in which nothing was learnt.
    idle: u64,
    /// Validations after steps of this run.
    validations: u64,
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

    fn with(config: ModelConfig, parameters: Parameters, settings: &Settings, seed: u64) -> Result<Self> {
        settings.check()?;
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
            &settings.data.all_files().collect::<Vec<_>>(),
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
            network: Network::new(&config, &parameters, estimator)?,
            optimizer,
            average: Average::new(settings.ema)?,
            teachers,
            stream: Stream::new(&settings.data, seed)?,
            ready: Vec::new(),
            validation: None,
            measured_on: None,
            is_resumed: false,
            healthy_start: None,
            settings: Settings { seed: Some(seed), ..settings.clone() },
            seed,
            config,
            parameters,
            step: 0,
            tokens: 0,
            skipped: 0,
            best_loss: None,
            kept_loss: None,
            since_best: 0,
            told_bad: 0,
            validations: 0,
            told_end: false,
            told_unfit: false,
            idle: 0,
            last_loss: None,
            warnings,
        })
    }

    fn check_steps(&self) -> Result<()> {
        match self.step < self.settings.steps {
            true => Ok(()),
            false => Err(Error::NoStep(self.step)),
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
            let set = match self.settings.validate_every {
                0 => Validation::default(),
                _ => Validation::read(&self.settings.data, self.seed)?,
            };
            if set.tokens == 0
                && self.settings.validate_every > 0
                && (self.settings.data.holdout > 0.0 || !self.settings.data.validation.is_empty())
            {
                let what = match self.settings.data.validation.is_empty() {
                    true => {
                        "no document is held out that fills a sequence; name validation data, or hold out a larger share"
                    }
                    false => {
                        "the validation data does not fill a sequence with learnt tokens; name more, or use shorter sequences"
                    }
                };
                self.warnings.push(format!("there is nothing to validate on: {what}"));
            }
            if set.bad > 0 {
                self.warnings.push(skipped("of what is validated on", set.bad, &set.shown));
            }
            for path in self.settings.data.trained_and_validated() {
                self.warnings.push(format!(
                    "{}: is trained on and validated on, so the validation loss says less of other text",
                    path.display()
                ));
            }
            let fingerprint = (set.tokens > 0).then(|| set.fingerprint());
            if fingerprint.is_some() && self.measured_on != fingerprint {
                if let Some(best) = self.best_loss.take() {
                    self.warnings.push(format!(
                        "the best validation loss so far, {best:.4}, was measured on other tokens; the best is now determined from here on"
                    ));
                }
                self.measured_on = fingerprint;
                self.since_best = 0;
            }
            self.validation = Some(set);
        }
        if self.stream.lacks_end() && !self.told_end {
            self.told_end = true;
            self.warnings.push(
                "the tokenizer names no token that ends a text (`eos_token` in the tokenizer_config.json next to it does), so documents follow each other without a mark, and the model does not learn to stop"
                    .into(),
            );
        }
        self.sample_prompt()?;
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
        self.prepare()?;
        for warning in std::mem::take(&mut self.warnings) {
            watch(Event::Warning(warning));
        }
        let mut is_shown = false;
        if let Some(example) = self.stream.example() {
            is_shown = true;
            watch(Event::Example(example));
        }
        self.kept_loss = self.kept(folder, watch);
        let mut signs = Signs::new(self.config.vocab_size);
        self.validate_at_start(folder, &mut signs, stop, watch)?;
        let mut gradients = self.parameters.zeros();
        let (mut spoiled, mut saved_at) = (0, None);
        let mut report_at = self.told_bad + 1;
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
            if !is_shown && let Some(example) = self.stream.example() {
                is_shown = true;
                watch(Event::Example(example));
            }
            // Told when they have become twice as many.
            if self.stream.bad() >= report_at {
                report_at = self.stream.bad().saturating_mul(2);
                let shown = self.stream.take_shown();
                watch(Event::Warning(skipped("so far", self.stream.bad(), &shown)));
            }
            let taken = self.gradients(&batches, &mut gradients)?;
            let factor = self.settings.schedule.factor(self.step);
            let mut sign = None;
            match taken {
                Some((losses, norm)) if losses.total.is_finite() && norm.is_finite() => {
                    spoiled = 0;
                    if self.settings.clip > 0.0 {
                        clip(&mut gradients, norm, self.settings.clip);
                    }
                    self.optimizer.step(&mut self.parameters, &gradients, factor, self.step);
                    if let Some(average) = &mut self.average {
                        average.update(&self.parameters);
                    }
                    self.last_loss = Some(losses.total);
                    sign = signs.of_step(self.step, losses.cross_entropy, norm);
                }
                Some((losses, norm)) => {
                    spoiled += 1;
                    self.skipped += 1;
                    watch(Event::Warning(format!(
                        "step {}: loss {}, gradient norm {norm}; the step was skipped ({} so far)",
                        self.step + 1,
                        losses.total,
                        self.skipped
                    )));
                    if spoiled >= self.settings.max_skipped {
                        return Err(self.give_up(folder, &batches, spoiled, signs.sound_until(), watch));
                    }
                }
                None => {
                    self.idle += 1;
                    // Told when they have become twice as many.
                    if self.idle.is_power_of_two() {
                        let count = if self.idle == 1 {
                            String::new()
                        } else {
                            format!(" ({} such steps so far)", self.idle)
                        };
                        watch(Event::Warning(format!(
                            "step {}: its sequences have no learnt tokens (tokens that count in the loss), so nothing changes{count}",
                            self.step + 1
                        )));
                    }
                }
            }
            self.step += 1;
            let tokens: u64 = batches.iter().map(|b| b.ids.len() as u64).sum();
            self.tokens = self.tokens.saturating_add(tokens);
            self.report_step(folder, taken, factor, (tokens, started.elapsed().as_secs_f64()), watch)?;
            let validations = self.validations;
            saved_at = self.after_step(folder, &mut signs, sign, watch)?.then_some(self.step);
            // Judged by a validation of its own: a run that ended so is resumed to go on.
            let judged = self.validations > validations;
            if judged && self.settings.patience > 0 && self.since_best >= self.settings.patience {
                if saved_at != Some(self.step) {
                    self.save(folder, watch)?;
                }
                return Ok(Outcome::NoBetter);
            }
        }
        if saved_at != Some(self.step) {
            self.save(folder, watch)?;
        }
        // Those that came after it was told.
        if self.stream.bad() > report_at / 2 && report_at > self.told_bad + 1 {
            watch(Event::Warning(skipped("in all", self.stream.bad(), &[])));
        }
        Ok(Outcome::Finished)
    }

    /// Writes the numbers of a step that was taken, with its tokens and seconds.
    fn report_step(
        &self,
        folder: &mut RunFolder,
        taken: Option<(Losses, f64)>,
        factor: f64,
        (tokens, seconds): (u64, f64),
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let mut entry = json!({
            "step": self.step, "lr_factor": factor, "tokens": self.tokens,
            "tokens_per_second": tokens as f64 / seconds, "epoch": self.stream.epoch(),
        });
        let epochs = self.stream.epochs();
        if !epochs.is_empty() {
            entry["epochs"] = json!(epochs);
        }
        let rates = self.settings.optimizer.rates();
        for rate in &rates {
            let key = rate.part.map_or("lr".to_string(), |part| format!("lr_{part}"));
            entry[key] = json!(rate.lr * factor);
        }
        if let Some((losses, norm)) = taken {
            entry["loss"] = finite(losses.total);
            entry["grad_norm"] = finite(norm);
            let parts = self.teachers.is_some().then_some((losses.cross_entropy, losses.distillation));
            if let Some((cross_entropy, distillation)) = parts {
                entry["cross_entropy"] = finite(cross_entropy);
                entry["distillation"] = finite(distillation);
            }
            let (step, loss, lr) = (self.step, losses.total, rates.first().map_or(0.0, |r| r.lr * factor));
            watch(Event::Step { step, loss, parts, norm, factor, lr, tokens, seconds });
        }
        folder.metric(&entry)
    }

    /// The losses of `batches` per learnt token, with their gradients and the norm of these; `None` if no token is
    /// learnt.
    fn gradients(&mut self, batches: &[Batch], gradients: &mut Gradients) -> Result<Option<(Losses, f64)>> {
        gradients.iter_mut().for_each(|g| g.fill(0.0));
        let learnt: usize = batches.iter().map(Batch::counted).sum();
        if learnt == 0 {
            return Ok(None);
        }
        self.network.refresh(&self.parameters);
        let mut losses = Losses::default();
        for batch in batches.iter().filter(|batch| batch.counted() > 0) {
            let share = batch.counted() as f64 / learnt as f64;
            let targets = self.teachers.as_ref().map(|t| t.targets(batch)).transpose()?;
            let of_batch = self.network.accumulate_distilled(
                &self.parameters,
                batch,
                &self.settings.loss,
                targets.as_ref(),
                share as f32,
                gradients,
            )?;
            losses.add(of_batch, share);
        }
        self.network.finish(&self.parameters, gradients);
        Ok(Some((losses, global_norm(gradients))))
    }
}

/// Whether no matrix holds numbers out of all proportion.
pub(crate) fn is_in_proportion(parameters: &Parameters) -> bool {
    signs::size(parameters).is_none()
}

/// That invalid lines were skipped, and some of them.
fn skipped(when: &str, count: u64, shown: &[String]) -> String {
    let lines = if count == 1 { "1 invalid line was".into() } else { format!("{count} invalid lines were") };
    let shown = shown.iter().map(|line| format!("; {line}")).collect::<String>();
    format!("{lines} skipped {when}{shown}")
}

fn finite(x: f64) -> serde_json::Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}
