//! The generation loop: prompt, then one token after another until a stop condition.

use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::model::{Logits, Runner, Sequence};
use crate::sample::{SampleOptions, Sampler, log_softmax};
use crate::{Error, Result};

/// When generation ends, apart from the end of the context.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stop {
    /// After this many tokens.
    pub max_tokens: usize,
    /// After one of these tokens, which is still reported.
    pub ids: Vec<u32>,
    /// With each token, report its log probability and this many alternatives; `None` for neither.
    pub logprobs: Option<usize>,
}

impl Stop {
    /// After this many tokens only.
    pub fn after(max_tokens: usize) -> Self {
        Stop { max_tokens, ..Stop::default() }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Natural logarithm of its probability under the model, before sampling options.
    pub logprob: Option<f32>,
    /// The most likely tokens with their logarithmic probabilities, best first.
    pub top: Vec<(u32, f32)>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The requested number of tokens was generated.
    MaxTokens,
    /// A stop token was generated.
    StopToken,
    /// The callback stopped it.
    Callback,
    /// No position is left.
    ContextFull,
}

impl Reason {
    /// A lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Reason::MaxTokens => "max-tokens",
            Reason::StopToken => "stop-token",
            Reason::Callback => "interrupted",
            Reason::ContextFull => "context-full",
        }
    }
}

/// The result of a generation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The generated tokens. The last one has not gone through the model: the cache ends before it.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub reason: Reason,
    /// Time until the prompt's logits were computed.
    pub prefill: Duration,
    /// Time for all tokens after the first.
    pub decode: Duration,
}

/// Generates tokens for one sequence.
#[derive(Debug)]
pub struct Generator<'g, 'm> {
    runner: &'g mut Runner<'m>,
    cache: &'g mut Cache,
    sampler: Sampler,
    stop: Stop,
}

impl<'g, 'm> Generator<'g, 'm> {
    /// A generator that continues what `cache` holds.
    pub fn new(
        runner: &'g mut Runner<'m>,
        cache: &'g mut Cache,
        options: &SampleOptions,
        stop: Stop,
    ) -> Self {
        let mut sampler = Sampler::new(options);
        cache.ids().iter().for_each(|&id| sampler.accept(id));
        Generator { runner, cache, sampler, stop }
    }

    /// Runs `prompt`, then generates. `on_token` sees each token as it comes, and ends the generation by returning
    /// false.
    ///
    /// # Errors
    /// `Usage` when the prompt is empty; `Token` and `ContextFull` of the prompt; `NotANumber` when all logits are NaN.
    /// A context that fills up later is [`Reason::ContextFull`].
    pub fn run(&mut self, prompt: &[u32], on_token: &mut dyn FnMut(&Token) -> bool) -> Result<Outcome> {
        if prompt.is_empty() {
            return Err(Error::Usage("the prompt is empty"));
        }
        let start = Instant::now();
        let sequence = Sequence { ids: prompt, cache: self.cache, logits: Logits::Last };
        let logits = self.runner.forward(&mut [sequence])?.to_vec();
        prompt.iter().for_each(|&id| self.sampler.accept(id));
        let mut outcome = self.after(logits, on_token)?;
        outcome.prefill = start.elapsed().saturating_sub(outcome.decode);
        Ok(outcome)
    }

    /// Generates from the logits of the cache's last token.
    ///
    /// # Errors
    /// `NotANumber` when all logits are NaN.
    pub fn after(
        &mut self,
        mut logits: Vec<f32>,
        on_token: &mut dyn FnMut(&Token) -> bool,
    ) -> Result<Outcome> {
        let mut outcome = Outcome {
            ids: Vec::new(),
            reason: Reason::MaxTokens,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let mut since = None;
        while outcome.ids.len() < self.stop.max_tokens {
            if let Some(&last) = outcome.ids.last() {
                if self.cache.room() == 0 {
                    outcome.reason = Reason::ContextFull;
                    break;
                }
                let sequence = Sequence { ids: &[last], cache: self.cache, logits: Logits::Last };
                logits.clear();
                logits.extend_from_slice(self.runner.forward(&mut [sequence])?);
            }
            if logits.iter().all(|logit| logit.is_nan()) {
                return Err(Error::NotANumber { position: self.cache.ids().len().saturating_sub(1) });
            }
            let id = self.sampler.sample(&logits);
            self.sampler.accept(id);
            outcome.ids.push(id);
            since.get_or_insert_with(Instant::now);
            let go_on = on_token(&self.token(id, &logits));
            if self.stop.ids.contains(&id) {
                outcome.reason = Reason::StopToken;
                break;
            }
            if !go_on {
                outcome.reason = Reason::Callback;
                break;
            }
        }
        outcome.decode = since.map_or(Duration::ZERO, |since| since.elapsed());
        Ok(outcome)
    }

    fn token(&self, id: u32, logits: &[f32]) -> Token {
        let Some(n) = self.stop.logprobs else { return Token { id, logprob: None, top: Vec::new() } };
        let logs = log_softmax(logits);
        let mut top: Vec<(u32, f32)> = (0..).zip(logs.iter().copied()).collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if n > 0 && n < top.len() {
            top.select_nth_unstable_by(n - 1, order);
        }
        top.truncate(n);
        top.sort_by(order);
        Token { id, logprob: logs.get(id as usize).copied(), top }
    }
}
