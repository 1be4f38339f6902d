//! What the model writes while it is trained.

use ckpt_infer::{SampleOptions, Sampler};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Event, Trainer};
use crate::{Error, Random, Result, RunFolder};

/// When text is sampled, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Settings {
    /// Steps between samples; 0 for none.
    pub every: u64,
    /// The text to continue; by default the token that ends a document, after which another begins.
    pub prompt: String,
    /// The most tokens of a sample.
    pub tokens: usize,
    /// Temperature of the sample beside the greedy one.
    pub temperature: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { every: 0, prompt: String::new(), tokens: 64, temperature: 0.8 }
    }
}

/// What the model makes of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// Its continuation by the most likely tokens.
    pub greedy: String,
    /// One that is drawn at the settings' temperature.
    pub drawn: String,
}

impl Trainer {
    /// The prompt's tokens, if text is to be sampled.
    pub(super) fn sample_prompt(&self) -> Result<Option<Vec<u32>>> {
        let settings = &self.settings.sample;
        if settings.every == 0 {
            return Ok(None);
        }
        if !(settings.temperature.is_finite() && settings.temperature > 0.0 && settings.tokens > 0) {
            return Err(Error::settings("a sample's temperature and number of tokens must be above 0"));
        }
        let ids = self.stream.prompt(&settings.prompt).map_err(Error::settings)?;
        let most = self.config.max_seq_len;
        match ids.len() < most {
            true => Ok(Some(ids)),
            false => Err(Error::settings(format!(
                "the sample's prompt has {} tokens, and the model was made for {most} positions",
                ids.len()
            ))),
        }
    }

    /// Continues the prompt, tells it, and writes it to the metrics.
    pub(super) fn sample(&mut self, folder: &mut RunFolder, watch: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let Some(prompt) = self.sample_prompt()? else { return Ok(()) };
        let temperature = self.settings.sample.temperature as f32;
        let seed = Random::new(&[self.seed, 6, self.step]).next_u64();
        let greedy = self.continuation(&prompt, &SampleOptions::default())?;
        let drawn = SampleOptions::default().with(|o| (o.temperature, o.seed) = (temperature, seed));
        let drawn = self.continuation(&prompt, &drawn)?;
        let sample = Sample { prompt: self.settings.sample.prompt.clone(), greedy, drawn };
        folder.metric(&json!({ "step": self.step, "sample": &sample }))?;
        watch(Event::Sample(self.step, &sample));
        Ok(())
    }

    fn continuation(&mut self, prompt: &[u32], options: &SampleOptions) -> Result<String> {
        let (mut sampler, mut ids) = (Sampler::new(options), prompt.to_vec());
        let end = self.stream.end_token();
        let most = self.config.max_seq_len.min(prompt.len().saturating_add(self.settings.sample.tokens));
        self.network.refresh(&self.parameters);
        while ids.len() < most {
            let next = sampler.sample(&self.network.next_logits(&self.parameters, &ids)?);
            if Some(next) == end {
                break;
            }
            ids.push(next);
        }
        Ok(self.stream.text(&ids[prompt.len()..]).unwrap_or_default())
    }
}
