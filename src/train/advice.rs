//! Flags that change nothing beside the others.

use ckpt_train::Settings;

use super::Args;

impl Args {
    /// Which of the given flags have no effect, and why.
    pub(super) fn advice(&self, settings: &Settings) -> Vec<String> {
        let taught = !settings.distill.is_empty();
        let polarized = settings.optimizer.polarizer.is_some();
        let new = self.resume.is_none();
        let validates = settings.validate_every > 0;
        let ends = settings.schedule.cosine_steps.filter(|end| *end < settings.steps);
        let all = [
            (self.alpha.is_some() && !taught, "--alpha has no effect without --teacher or --teacher-logits"),
            (
                self.temperature.is_some() && !taught,
                "--temperature has no effect without --teacher or --teacher-logits",
            ),
            (self.well.is_some() && !polarized, "--well has no effect on an optimizer that is not polarized"),
            (
                self.target_scale.is_some() && !polarized,
                "--target-scale has no effect on an optimizer that is not polarized",
            ),
            (
                self.relative_target.is_some() && !polarized,
                "--relative-target has no effect on an optimizer that is not polarized",
            ),
            (
                self.polarization_strength.is_some() && !polarized,
                "--polarization-strength has no effect on an optimizer that is not polarized",
            ),
            (self.reset_optimizer && new, "--reset-optimizer has no effect on a new model"),
            (self.restart_data && new, "--restart-data has no effect on a new model"),
            (self.allow_collapsed && new, "--allow-collapsed has no effect on a new model"),
            (
                self.holdout.is_some() && !settings.data.validation.is_empty(),
                "--holdout has no effect with --validation: nothing of the data is held out then",
            ),
            (!self.validation.is_empty() && !validates, "--validation has no effect with --validate-every 0"),
            (
                self.validation_tokens.is_some() && !validates,
                "--validation-tokens has no effect with --validate-every 0",
            ),
            (self.patience.is_some() && !validates, "--patience has no effect with --validate-every 0"),
            (
                self.sample_prompt.is_some() && settings.sample.every == 0,
                "--sample-prompt has no effect without --sample-every",
            ),
            (
                (self.sample_tokens.is_some() || self.sample_temperature.is_some())
                    && settings.sample.every == 0,
                "--sample-tokens and --sample-temperature have no effect without --sample-every",
            ),
            (self.best_any && !validates, "--best-any has no effect with --validate-every 0"),
            (
                self.keep_last.is_some() && settings.save_every == 0,
                "--keep-last has no effect with --save-every 0",
            ),
            (
                self.stop_on_collapse && settings.health_every == 0,
                "--stop-on-collapse sees the loss and the gradient alone with --health-every 0, and no layer",
            ),
            (
                self.warmup.is_some_and(|warmup| warmup >= settings.steps),
                "--warmup ends at or after --steps, so the full learning rate is never reached",
            ),
        ];
        let all = all.into_iter().filter(|(useless, _)| *useless).map(|(_, why)| why.to_string());
        let ends = ends.map(|end| {
            format!("the cosine ends at step {end}, so the learning rate stays at its lowest until step {}; --cosine makes it end there", settings.steps)
        });
        all.chain(ends).collect()
    }
}
