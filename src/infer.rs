//! `ckpt infer`: run a model on a prompt.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ckpt_infer::{Cache, Generator, Logits, Outcome, Reason, Runner, SampleOptions, Sequence, Stop, Token};
use serde_json::json;

use crate::model::ModelArgs;
use crate::perplexity::{self, PerplexityArgs};
use crate::{Failure, exit, terminal};

/// Run a model: continue a prompt, or dump its logits.
///
/// The checkpoint's weights run as they are: BitLinear layers with ternary weights and int8 activations, exactly as
/// they were trained. What the checkpoint does not tell is assumed and said; flags override it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt as token ids.
    #[arg(long, value_name = "IDS", value_delimiter = ',', required_unless_present = "perplexity")]
    ids: Vec<u32>,
    /// Tokens to generate at most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// End after this token id; may be given several times.
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Write the prompt's logits, [positions, vocabulary], to a SafeTensors file.
    #[arg(long, value_name = "FILE")]
    dump_logits: Option<PathBuf>,
    /// Keep the prompt's KV cache in this file, and take from it what begins the prompt.
    #[arg(long, value_name = "FILE", conflicts_with = "dump_logits")]
    prompt_cache: Option<PathBuf>,
    /// Replace an existing file of logits.
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of ids as they come.
    #[arg(long)]
    json: bool,
    /// With --json, logarithmic probabilities of each token and of so many alternatives.
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    #[command(flatten, next_help_heading = "Choosing tokens")]
    sampling: Sampling,
    #[command(flatten, next_help_heading = "Perplexity")]
    perplexity: PerplexityArgs,
}

/// How tokens are chosen.
#[derive(clap::Args)]
struct Sampling {
    /// 0 takes the most likely token; above, tokens are drawn, the more freely the higher.
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = at_least_zero)]
    temperature: f32,
    /// Only the K most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Only the most likely tokens that reach probability P together.
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = at_least_zero)]
    top_p: f32,
    /// Only tokens at least P times as likely as the most likely one.
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = at_least_zero)]
    min_p: f32,
    /// Penalty of tokens that occurred already; 1 for none.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = above_zero)]
    repetition_penalty: f32,
    /// Repeats a draw; random by default, and told with --json.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|x| *x >= 0.0 && x.is_finite());
    number.ok_or_else(|| "a number not below 0 is needed".to_string())
}

fn above_zero(text: &str) -> Result<f32, String> {
    at_least_zero(text).ok().filter(|x| *x > 0.0).ok_or_else(|| "a number above 0 is needed".to_string())
}

impl Sampling {
    fn options(&self) -> SampleOptions {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        SampleOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed.unwrap_or_else(now),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(path) = args.dump_logits.as_ref().filter(|path| path.exists() && !args.force) {
        return Err(Failure::exists(path));
    }
    let pool = args.model.pool();
    let model = args.model.load(&pool)?;
    if let Some(path) = &args.perplexity.perplexity {
        return perplexity::run(&args.perplexity, path, &model, &pool, args.json);
    }
    let mut cache = match &args.prompt_cache {
        Some(path) if path.exists() => Cache::restore(path, &model, args.model.kv(), args.model.when_full())?,
        _ => args.model.cache(&model),
    };
    let reused = cache.keep_common_prefix(&args.ids)?;
    let mut runner = Runner::new(&model, &pool);

    let start = Instant::now();
    let wanted = if args.dump_logits.is_some() { Logits::All } else { Logits::Last };
    let sequence = Sequence { ids: &args.ids[reused..], cache: &mut cache, logits: wanted };
    let logits = runner.forward(&mut [sequence])?;
    let prefill = start.elapsed();
    let vocab_size = model.config().vocab_size;
    if let Some(path) = &args.dump_logits {
        terminal::write_file(path, &ckpt_infer::logits_file(logits, vocab_size), args.force)?;
    }
    let last = logits[logits.len() - vocab_size..].to_vec();
    if let Some(path) = args.prompt_cache.as_ref().filter(|_| reused + 1 < args.ids.len()) {
        cache.save(path, &model)?;
    }

    let options = args.sampling.options();
    let stop = Stop { max_tokens: args.max_tokens, ids: args.stop_id.clone(), logprobs: args.logprobs };
    let mut tokens: Vec<Token> = Vec::new();
    let mut printed = Ok(());
    let outcome = Generator::new(&mut runner, &mut cache, &options, stop).after(last, &mut |token| {
        if !args.json {
            let separator = if tokens.is_empty() { "" } else { "," };
            printed = terminal::print(&format!("{separator}{}", token.id));
        }
        tokens.push(token.clone());
        printed.is_ok()
    })?;
    printed?;
    if args.json {
        terminal::print(&format!("{:#}\n", record(args, &model, &options, &tokens, &outcome, prefill)))?;
    } else {
        terminal::print("\n")?;
        terminal::note(&summary(args.ids.len() - reused, prefill, &outcome));
    }
    Ok(exit::FINE)
}

fn record(
    args: &Args,
    model: &ckpt_infer::Model,
    options: &SampleOptions,
    tokens: &[Token],
    outcome: &Outcome,
    prefill: Duration,
) -> serde_json::Value {
    let mut record = json!({
        "prompt": args.ids,
        "ids": outcome.ids,
        "reason": reason(outcome.reason),
        "seed": options.seed,
        "prefill_seconds": prefill.as_secs_f64(),
        "decode_seconds": outcome.decode.as_secs_f64(),
        "kernel": model.kernel().name(),
        "assumed": model.assumed(),
    });
    if args.logprobs.is_some() {
        let of = |(id, logprob): &(u32, f32)| json!({ "id": id, "logprob": logprob });
        record["logprobs"] = tokens
            .iter()
            .map(|t| json!({ "id": t.id, "logprob": t.logprob, "top": t.top.iter().map(of).collect::<Vec<_>>() }))
            .collect();
    }
    record
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::MaxTokens => "max-tokens",
        Reason::StopToken => "stop-token",
        Reason::Callback => "interrupted",
        Reason::ContextFull => "context-full",
    }
}

/// Tokens a second, and why it ended where that is not obvious.
fn summary(prompt: usize, prefill: Duration, outcome: &Outcome) -> String {
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let mut line = format!("prompt {prompt} tokens, {:.0} tokens/s", rate(prompt, prefill));
    if outcome.ids.len() > 1 {
        // The first token came with the prompt.
        line += &format!(
            "; generated {}, {:.0} tokens/s",
            outcome.ids.len(),
            rate(outcome.ids.len() - 1, outcome.decode)
        );
    }
    if outcome.reason == Reason::ContextFull {
        line += "; the context is full (--slide goes on)";
    }
    line
}
