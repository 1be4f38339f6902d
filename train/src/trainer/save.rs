//! Checkpoints of a run, and what is left of one that cannot continue.

use std::path::PathBuf;

use ckpt_convert::{Object, save};
use ckpt_inspect::MODEL_STATE;
use ckpt_inspect::metadata::{Value, from_json};

use super::average::{self, Average};
use super::{Event, Trainer};
use crate::layout;
use crate::start;
use crate::{Batch, Error, Health, Result, RunFolder, plain};

impl Trainer {
    pub(super) fn save(&self, folder: &RunFolder, watch: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let path = folder.checkpoint(self.step);
        save(&self.object(), &path, true)?;
        if self.settings.keep_last > 0 {
            folder.prune(self.settings.keep_last, self.step)?;
        }
        watch(Event::Saved(&path));
        Ok(())
    }

    /// Why a run ends whose last steps gave NaN: the batch is saved, and a checkpoint from before is named, which is
    /// written if there is none.
    pub(super) fn give_up(
        &self,
        folder: &RunFolder,
        batches: &[Batch],
        spoiled: u64,
        sound_until: Option<u64>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Error {
        let path: PathBuf = folder.bad_batch(self.step + 1);
        let ids: Vec<i32> = batches.iter().flat_map(|b| b.ids.iter().map(|&id| id as i32)).collect();
        let targets: Vec<i32> = batches.iter().flat_map(|b| b.targets.iter().copied()).collect();
        let (rows, len) = (batches.iter().map(|b| b.rows).sum(), batches[0].len);
        let integers = |values: Vec<i32>| Object::Integers { shape: vec![rows, len], values: values.into() };
        let object = Object::dict([("ids", integers(ids)), ("targets", integers(targets))]);
        let saved = save(&object, &path, true).map_err(Error::from);
        let what =
            format!("{spoiled} steps in a row gave NaN or infinity; the last batch is in {}", path.display());
        match saved.and_then(|()| self.before(folder, sound_until, watch)) {
            Ok(Some(before)) => Error::Stopped(format!(
                "{what}. Continue from {} with a lower learning rate, or look for NaN in the weights with `ckpt inspect`",
                before.display()
            )),
            Ok(None) => Error::Stopped(format!(
                "{what}. No healthy checkpoint from before is known: look for NaN in that which the run continued from with `ckpt inspect`"
            )),
            Err(error) => error,
        }
    }

    /// A healthy checkpoint from before steps that were skipped: of the weights at hand, which these steps left as they
    /// were, else an earlier one, else the start of a new model. Nothing, if the run continued from what is not healthy.
    fn before(
        &self,
        folder: &RunFolder,
        sound_until: Option<u64>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<PathBuf>> {
        let health = Health::of(&self.parameters, &self.config, &self.settings.thresholds);
        if self.faults(&health).is_empty() {
            self.save(folder, watch)?;
            return Ok(Some(folder.checkpoint(self.step)));
        }
        if let Some(path) = self.healthy_before(folder, sound_until) {
            return Ok(Some(path));
        }
        if self.is_resumed {
            return Ok(None);
        }
        let settings = self.settings.clone().with(|s| s.distill = Default::default());
        let start = Trainer::new(&self.config, &settings)?;
        start.save(folder, watch)?;
        Ok(Some(folder.checkpoint(start.step)))
    }

    /// The last healthy checkpoint in `folder` up to the current step, and to that until which the loss says the same, else the
    /// one that the run continues from.
    pub(super) fn healthy_before(&self, folder: &RunFolder, sound_until: Option<u64>) -> Option<PathBuf> {
        let thresholds = &self.settings.thresholds;
        let until = sound_until.map_or(self.step, |sound| sound.min(self.step));
        start::last_healthy_in(folder.path(), until, None, &self.config, thresholds)
            .or_else(|| self.healthy_start.clone())
    }

    /// The checkpoint: the layout of bitnet-student's original trainer, with the position in the data next to the step.
    pub(super) fn object(&self) -> Object<'_> {
        let named = self.parameters.0.iter().map(|p| (p.name.as_str(), Object::floats(&p.shape, &p.values)));
        let factor = self.settings.schedule.factor(self.step);
        let number = |n: u64| Value::I64(n as i64);
        let state = [
            ("step", number(self.step)),
            ("epoch", number(self.stream.epoch())),
            ("best_loss", Value::F64(self.best_loss.unwrap_or(f64::INFINITY))),
            ("since_best", number(self.since_best)),
            ("total_tokens", number(self.tokens)),
            ("skipped", number(self.skipped)),
            ("seed", number(self.seed)),
            ("validated_on", self.measured_on.clone().map_or(Value::None, Value::String)),
        ];
        let state = state.into_iter().map(|(name, value)| (name, Object::Plain(value)));
        let config = plain([
            ("model", from_json(serde_json::Value::Object(self.config.to_trainer()))),
            ("training", layout::training_config(&self.settings)),
        ]);
        let average = self.average.as_ref().and_then(Average::object);
        let whole = [
            (MODEL_STATE, Object::dict(named)),
            ("optimizer_state_dict", self.optimizer.state(&self.parameters, factor)),
            ("scheduler_state_dict", Object::Plain(plain([("last_epoch", number(self.step))]))),
            ("training_state", Object::dict(state.chain([("data", self.stream.state())]))),
            ("step", Object::Plain(number(self.step))),
            ("loss", Object::Plain(self.last_loss.map_or(Value::None, Value::F64))),
            ("config", Object::Plain(config)),
        ];
        Object::dict(whole.into_iter().chain(average.map(|average| (average::KEY, average))))
    }
}
