//! Flags that change nothing beside the others.

use ckpt_inspect::ModelConfig;
use ckpt_train::Settings;
use ckpt_train::data::Contents;
use ckpt_train::optim::Method;

use super::Args;

impl Args {
    /// Which of the given flags have no effect, and why.
    pub(super) fn advice(&self, settings: &Settings, model: &ModelConfig, data: Contents) -> Vec<String> {
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
        let all = all.chain(self.of_bitlinear(settings, model)).chain(self.of_data(settings, data));
        let ends = ends.map(|end| {
            format!("the cosine ends at step {end}, so the learning rate stays at its lowest until step {}; --cosine makes it end there", settings.steps)
        });
        all.chain(ends).collect()
    }

    /// Flags for BitLinear layers, where no layer is one.
    fn of_bitlinear(&self, settings: &Settings, model: &ModelConfig) -> Vec<String> {
        if model.use_bitlinear_attn || model.use_bitlinear_ffn {
            return Vec::new();
        }
        let optimizer = &settings.optimizer;
        let polarizer = optimizer.polarizer.as_ref().filter(|polarizer| polarizer.needs_bitlinear());
        let decays_all = matches!(optimizer.method, Method::MuonAdamW(_));
        let of_polarizer = [
            (self.optimizer.is_some(), "the prefix polarized- of --optimizer"),
            (self.well.is_some(), "--well"),
            (self.target_scale.is_some(), "--target-scale"),
            (self.relative_target.is_some(), "--relative-target"),
            (self.polarization_strength.is_some(), "--polarization-strength"),
        ];
        let of_polarizer = of_polarizer.into_iter().map(|(given, flag)| (given && polarizer.is_some(), flag));
        let others = [
            (self.ternary_weight_decay.is_some() && !decays_all, "--ternary-weight-decay"),
            (self.detached_scales, "--detached-scales"),
        ];
        let given = of_polarizer.chain(others).filter(|(given, _)| *given);
        given.map(|(_, flag)| format!("{flag} has no effect on a model without BitLinear layers")).collect()
    }

    /// Flags for other kinds of data.
    fn of_data(&self, settings: &Settings, data: Contents) -> Vec<String> {
        let one_column = settings.data.text_column.is_some();
        let all = [
            (
                self.text_column.is_some() && !data.tables,
                "--text-column has no effect: no file of the data is JSONL or Parquet",
            ),
            (
                self.template.is_some() && one_column,
                "--template has no effect with --text-column, of which the text is read alone",
            ),
            (
                self.template.is_some() && !one_column && !data.conversations,
                "--template has no effect: the data begins with no conversations (`messages`)",
            ),
            (
                self.length.is_some() && !data.cut,
                "--length has no effect: sequences of token ids (sequences x length) keep their own length",
            ),
        ];
        let all = all.into_iter().filter(|(useless, _)| *useless);
        all.map(|(_, why)| why.to_string()).collect()
    }
}
