//! What is measured between steps: validation and health, and what follows from them.

use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_convert::save;
use ckpt_inspect::Verdict;
use ckpt_inspect::metadata::{Value, as_f64};
use serde_json::json;

use super::average::Average;
use super::signs::{self, Fault, Kind, Sign, Signs};
use super::{Event, Trainer, finite};
use crate::data::Validation;
use crate::{Error, Health, Loss, Network, Parameters, Result, RunFolder};

impl Trainer {
    /// The validation loss per learnt token; `None` if there is nothing to validate on, or `stop` was set meanwhile.
    fn validation_loss(&mut self, stop: &AtomicBool) -> Result<Option<f64>> {
        let Some(set) = self.validation.as_ref().filter(|set| set.tokens > 0) else { return Ok(None) };
        loss_on(set, &mut self.network, &self.parameters, stop)
    }

    /// The same of the moving average of the weights.
    fn averaged_loss(&mut self) -> Result<Option<f64>> {
        let average = self.average.as_ref().and_then(Average::parameters);
        match (&self.validation, average) {
            (Some(set), Some(average)) => loss_on(set, &mut self.network, average, &AtomicBool::new(false)),
            _ => Ok(None),
        }
    }

    /// The loss of the best.pt in `folder`, if it is this run's and was measured on the same set: only a better one
    /// replaces it, though the run goes on from an earlier step.
    pub(super) fn kept(&self, folder: &RunFolder, watch: &mut dyn FnMut(Event<'_>)) -> Option<f64> {
        let path = folder.best();
        if folder.is_taken_over() || !path.is_file() {
            return None;
        }
        let best = ckpt_inspect::open(&path).ok()?;
        let state = |name: &str| best.meta(&format!("training_state.{name}"));
        let set = match state("validated_on") {
            Some(Value::String(set)) => Some(set),
            _ => None,
        };
        let loss = state("best_loss").and_then(as_f64).filter(|loss| loss.is_finite())?;
        if set.is_none() || set != self.measured_on.as_ref() {
            return None;
        }
        if self.best_loss.is_none_or(|own| loss < own) {
            let step = best.step.as_ref().map_or(String::new(), |(step, _)| format!(" of step {step}"));
            watch(Event::Warning(format!(
                "best.pt{step} has a validation loss of {loss:.4}, and is replaced only by a lower one"
            )));
        }
        Some(loss)
    }

    /// Validates before the first step: what is best is better than that.
    pub(super) fn validate_at_start(
        &mut self,
        folder: &mut RunFolder,
        signs: &mut Signs,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        if let Some(best) = self.best_loss {
            signs.note(best);
        }
        let Some(loss) = self.validation_loss(stop)? else { return Ok(()) };
        signs.note(loss);
        folder.metric(&json!({ "step": self.step, "validation_loss": finite(loss) }))?;
        watch(Event::Validation { step: self.step, loss, best: false, first: true, averaged: None });
        if self.best_loss.is_none() && loss.is_finite() {
            self.best_loss = Some(loss);
        }
        Ok(())
    }

    /// Validates, measures and saves when it is time to; `sign` is one that the step gave. Returns whether it saved.
    pub(super) fn after_step(
        &mut self,
        folder: &mut RunFolder,
        signs: &mut Signs,
        sign: Option<Sign>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool> {
        let (step, last) = (self.step, self.step == self.settings.steps);
        let due = |every: u64| every > 0 && (step.is_multiple_of(every) || last);
        let mut sign = sign;
        if due(self.settings.validate_every)
            && let Some(loss) = self.validation_loss(&AtomicBool::new(false))?
        {
            sign = sign.or(signs.of_validation(step, loss));
            self.judge_validation(folder, loss, watch)?;
        }
        let mut wrong = sign.map(|sign| format!("step {step}: the run diverges: {sign}"));
        if let Some(what) = &wrong {
            watch(Event::Warning(what.clone()));
        }
        if due(self.settings.health_every) {
            let health = Health::of(&self.parameters, &self.config, &self.settings.thresholds);
            folder.metric(&json!({ "step": step, "health": health.layers }))?;
            watch(Event::Health(step, &health));
            let faults = self.faults(&health);
            let told = |fault: &Fault| format!("step {step}: {}", fault.what);
            signs.news(&faults).into_iter().for_each(|fault| watch(Event::Warning(told(fault))));
            wrong = wrong.or(faults.first().map(told));
        }
        if due(self.settings.sample.every) {
            self.sample(folder, watch)?;
        }
        let save_now = due(self.settings.save_every) || last;
        if save_now {
            self.save(folder, watch)?;
        }
        match wrong.filter(|_| self.settings.stop_on_collapse) {
            Some(what) => {
                if !save_now {
                    self.save(folder, watch)?;
                }
                let healthy = self.healthy_before(folder, signs.sound_until());
                Err(Error::Stopped(match healthy {
                    Some(path) => format!("{what}. The last healthy checkpoint is {}", path.display()),
                    None => what,
                }))
            }
            None => Ok(save_now),
        }
    }

    /// Writes `best.pt` if `loss` is the lowest so far, and the weights are healthy or need not be.
    fn judge_validation(
        &mut self,
        folder: &mut RunFolder,
        loss: f64,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let step = self.step;
        let averaged = self.averaged_loss()?;
        let mut entry = json!({ "step": step, "validation_loss": finite(loss) });
        if let Some(averaged) = averaged {
            entry["ema_validation_loss"] = finite(averaged);
        }
        folder.metric(&entry)?;
        let lowest = loss.is_finite() && self.best_loss.is_none_or(|best| loss < best);
        let fault = match lowest && !self.settings.best_any {
            true => {
                let health = Health::of(&self.parameters, &self.config, &self.settings.thresholds);
                self.faults(&health).into_iter().next()
            }
            false => None,
        };
        let news = lowest && !std::mem::replace(&mut self.told_unfit, fault.is_some());
        let improves = lowest && fault.is_none();
        let best = improves && self.kept_loss.is_none_or(|kept| loss < kept);
        watch(Event::Validation { step, loss, best, first: false, averaged });
        if let Some(Fault { what, .. }) = fault.filter(|_| news) {
            watch(Event::Warning(format!(
                "step {step}: its validation loss is the lowest so far, but best.pt is of healthy weights only, and {what}"
            )));
        }
        self.validations += 1;
        self.since_best += 1;
        if improves {
            self.best_loss = Some(loss);
            self.since_best = 0;
        }
        if best {
            self.kept_loss = Some(loss);
            save(&self.object(), &folder.best(), true)?;
        }
        Ok(())
    }

    /// What is wrong with the weights: matrices below healthy, and those out of proportion.
    pub(super) fn faults(&self, health: &Health) -> Vec<Fault> {
        let unhealthy = health.unhealthy();
        let collapsed = unhealthy.first().map(|worst| {
            let std = worst.std.map_or("none".into(), |s| format!("{s:.1e}"));
            let what = format!(
                "{} of {} ternary matrices are unhealthy; {} is {} (std {std}, {:.1} % zeros)",
                unhealthy.len(),
                health.layers.len(),
                worst.name,
                worst.verdict,
                100.0 * worst.zero
            );
            Fault { kind: Kind::Collapsed, extent: (worst.verdict, unhealthy.len()), what }
        });
        let exploded = signs::size(&self.parameters).map(|sign| {
            let count = if let Sign::Size { others, .. } = &sign { others + 1 } else { 1 };
            let what = format!("the run diverges: {sign}");
            Fault { kind: Kind::Exploded, extent: (Verdict::Healthy, count), what }
        });
        collapsed.into_iter().chain(exploded).collect()
    }
}

/// The loss of `parameters` per learnt token of `set`; `None` if `stop` was set meanwhile.
fn loss_on(
    set: &Validation,
    network: &mut Network,
    parameters: &Parameters,
    stop: &AtomicBool,
) -> Result<Option<f64>> {
    let mut total = 0.0;
    for batch in &set.batches {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        total += network.loss(parameters, batch, &Loss::default())? * batch.counted() as f64;
    }
    Ok(Some(total / set.tokens as f64))
}
