//! Continuing from a checkpoint.

use ckpt_inspect::metadata::{Value, as_f64, as_u64};
use ckpt_inspect::optimizer::PARAM_GROUPS;
use ckpt_inspect::{Checkpoint, Group};

use super::Trainer;
use crate::data::{Restored, Stream};
use crate::optim::Rate;
use crate::start;
use crate::{Error, Parameters, Remedy, Result, ResumeOptions, Settings};

/// Where a checkpoint holds its position in the data.
const DATA: &str = "training_state.data";

impl Trainer {
    /// Continues from `checkpoint`: with its weights and, if it has them, the optimizer's state, the step, the seed
    /// unless the settings have one, and the position in the data.
    ///
    /// # Errors
    /// `Collapsed` when its layers have, unless allowed; `Settings` when it is not a student model or its state belongs
    /// to another optimizer; the checkpoint's own.
    pub fn resume(checkpoint: &Checkpoint, settings: &Settings, options: ResumeOptions) -> Result<Self> {
        settings.check()?;
        let path = checkpoint.path.display();
        let (config, assumed) = start::configuration(checkpoint, options.bitlinear)?;
        let parameters = Parameters::load(&config, checkpoint)?;
        if !options.allow_collapsed {
            start::refuse_collapsed(checkpoint, &config, &parameters, &settings.thresholds)?;
        }
        let is_alive = || start::refuse_collapsed(checkpoint, &config, &parameters, &settings.thresholds);
        let healthy =
            (!options.allow_collapsed || is_alive().is_ok()) && super::is_in_proportion(&parameters);
        let number = |name: &str| checkpoint.meta(&format!("training_state.{name}"));
        let saved_seed = number("seed").and_then(seed_of);
        let seed = settings.seed.or(saved_seed).unwrap_or(0);
        let mut trainer = Self::with(config, parameters, settings, seed)?;
        trainer.is_resumed = true;
        trainer.healthy_start = healthy.then(|| checkpoint.path.clone());
        if let Some(what) = start::lost_numbers(&trainer.parameters) {
            trainer.warnings.push(format!("{path}: {what}"));
        }
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
        if let Some(average) = &mut trainer.average
            && !average.restore(checkpoint, &trainer.parameters)?
            && trainer.step > 0
        {
            trainer.warnings.push(format!(
                "{path}: contains no moving average of the weights, so it begins with the next step"
            ));
        }
        const STATE: &str = "optimizer_state_dict";
        if options.reset_optimizer {
            trainer.warnings.push("the optimizer starts without its saved state, as requested".into());
        } else if checkpoint.meta(STATE).is_some() {
            let notes = trainer.optimizer.load(checkpoint, STATE, &trainer.parameters)?;
            trainer.warnings.extend(notes);
            trainer.note_rates(checkpoint, STATE);
        } else if let Some(state) = checkpoint.tensors.iter().find(|t| t.group == Group::Optimizer) {
            let what = format!(
                "{path}: its optimizer's state, such as `{}`, is kept as other trainers keep it, and cannot be continued from",
                state.name.escape_debug()
            );
            return Err(Error::resume(Remedy::ResetOptimizer, what));
        } else {
            trainer
                .warnings
                .push(format!("{path}: contains no optimizer state, so the moments start at zero"));
        }
        let restored = match options.restart_data {
            true => Restored::Nothing,
            false => trainer.stream.restore(checkpoint, DATA, saved_seed.unwrap_or(seed))?,
        };
        // By validation data of its own, nothing was held out.
        let (held_out, holdout) = (Stream::held_out(checkpoint, DATA), settings.data.holdout);
        if let Some(was) = held_out.filter(|was| *was != holdout && settings.data.validation.is_empty()) {
            trainer.warnings.push(format!(
                "{path}: a share of {was} of the documents was held out, and here {holdout} is: the validation loss is measured on other documents, some of which the model may have seen"
            ));
        }
        if restored == Restored::Position {
            trainer.told_bad = trainer.stream.bad();
            trainer.best_loss = number("best_loss").and_then(as_f64).filter(|l| l.is_finite());
            trainer.since_best = number("since_best").and_then(as_u64).unwrap_or(0);
            trainer.measured_on = match number("validated_on") {
                Some(Value::String(set)) => Some(set.clone()),
                _ => None,
            };
            return Ok(trainer);
        }
        // A loss on other data cannot be compared with this run's.
        trainer.stream.begin_at(number("epoch").and_then(as_u64).unwrap_or(0));
        if restored == Restored::OtherOrder {
            trainer.warnings.push(format!(
                "{path}: with random seed {seed} the files come in another order, so their pass starts from the beginning"
            ));
        } else if let Restored::OtherLength(was) = restored {
            trainer.warnings.push(format!(
                "{path}: was trained on sequences of {was} positions, and this run's have {}: the data starts from the beginning",
                settings.data.length
            ));
        } else if !options.restart_data && trainer.step > 0 {
            trainer.warnings.push(format!(
                "{path}: does not record its position in the data, so the data starts from the beginning"
            ));
        }
        Ok(trainer)
    }

    /// Warns of learning rates that differ from those of the checkpoint's optimizer.
    fn note_rates(&mut self, checkpoint: &Checkpoint, key: &str) {
        for Rate { part, lr: ours, .. } in self.settings.optimizer.rates() {
            let part = part.map_or(key.to_string(), |part| format!("{key}.{part}"));
            let groups = checkpoint.meta(&format!("{part}.{PARAM_GROUPS}"));
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
}

/// A seed as a checkpoint holds it: its 64 bits as a signed number.
fn seed_of(value: &Value) -> Option<u64> {
    match value {
        Value::I64(seed) => Some(*seed as u64),
        other => as_u64(other),
    }
}
