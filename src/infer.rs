//! `ckpt infer`: run a model on a prompt.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ckpt_infer::{
    Cache, Generator, Logits, Model, Outcome, Reason, Runner, SampleOptions, Specials, Stop, Token, Tokenizer,
};
use ckpt_reports::text::plural;
use serde_json::{Value, json};

use crate::generate::{Sampling, TokenizerArgs, Writer, prefill};
use crate::model::ModelArgs;
use crate::perplexity::{self, PerplexityArgs};
use crate::signal::Signal;
use crate::{Failure, exit, load, terminal};

/// The most bytes of a prompt that are read.
const LONGEST_PROMPT: u64 = 4 << 20;

/// Run a model: continue a prompt, or dump its logits.
///
/// The prompt is the text of -p, the tokens of --ids, or standard input. BitLinear layers run with ternary weights and
/// int8 activations, exactly as they were trained. Settings that the checkpoint does not record are assumed, with a
/// note; flags override them.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Text to continue; `-` reads standard input, without its last line break.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Text after the gap to fill, for models with fill-in-the-middle tokens.
    #[arg(long, value_name = "TEXT", conflicts_with = "ids")]
    suffix: Option<String>,
    /// Prompt as token ids; the output is token ids too.
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "tokenizer", "stop"])]
    ids: Option<Vec<u32>>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Read special tokens such as `<s>` in the prompt as tokens, not as text.
    #[arg(long, conflicts_with = "ids")]
    parse_special: bool,
    /// Show special tokens in the output.
    #[arg(long, conflicts_with = "ids")]
    show_special: bool,
    /// Maximum number of tokens to generate.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Stop before this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Stop after this token id; may be repeated.
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Do not stop at the tokens that end a text.
    #[arg(long)]
    ignore_eos: bool,
    /// Write the prompt's logits, [positions, vocabulary], to a SafeTensors file.
    #[arg(long, value_name = "FILE")]
    dump_logits: Option<PathBuf>,
    /// Save the prompt's KV cache to this file, and reuse what it already holds of the prompt.
    #[arg(long, value_name = "FILE", conflicts_with = "dump_logits")]
    prompt_cache: Option<PathBuf>,
    /// Replace an existing logits file.
    #[arg(long)]
    force: bool,
    /// Print one JSON object instead of text as it comes.
    #[arg(long)]
    json: bool,
    /// With --json, log probabilities of each token and of this many alternatives.
    #[arg(long, value_name = "N", requires = "json")]
    logprobs: Option<usize>,
    #[command(flatten, next_help_heading = "Choosing tokens")]
    sampling: Sampling,
    #[command(flatten, next_help_heading = "Perplexity")]
    perplexity: PerplexityArgs,
}

/// The result.
struct Done<'r> {
    model: &'r Model,
    tokenizer: Option<&'r Tokenizer>,
    prompt: &'r [u32],
    options: &'r SampleOptions,
    tokens: Vec<Token>,
    text: String,
    outcome: Outcome,
    ending: Ending,
    prefill: Duration,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(path) = &args.dump_logits {
        terminal::may_write(path, args.force)?;
    }
    if let Some(path) = &args.prompt_cache {
        ckpt_inspect::staged::may_write(path, true)?;
    }
    if args.perplexity.are_idle() {
        return Err(Failure::usage("--context and --stride only work with --perplexity"));
    }
    let outputs = args.dump_logits.iter().chain(&args.prompt_cache).map(PathBuf::as_path);
    load::spare(outputs, std::slice::from_ref(&args.model.model))?;
    let perplexed = args.perplexity.perplexity.as_ref();
    let text = if args.ids.is_some() || perplexed.is_some() { String::new() } else { prompt(args)? };
    let pool = args.model.pool();
    let (checkpoint, model) = args.model.open(&pool)?;
    if let Some(path) = perplexed {
        let tokenizer = || args.tokenizer.open(&checkpoint, &model);
        return perplexity::run(&args.perplexity, path, &model, &pool, tokenizer, args.json);
    }
    let (tokenizer, ids) = match &args.ids {
        Some(ids) => (None, ids.clone()),
        None => {
            let tokenizer = args.tokenizer.open(&checkpoint, &model)?;
            let ids = tokens(args, &tokenizer, &text)?;
            (Some(tokenizer), ids)
        }
    };
    if ids.is_empty() {
        return Err(Failure::usage(
            "the prompt is empty; give text with -p or on standard input, or token ids with --ids",
        ));
    }
    let signal = Signal::listen()?;
    let mut cache = match &args.prompt_cache {
        Some(path) if path.exists() => Cache::restore(path, &model, args.model.kv(), args.model.when_full())?,
        _ => args.model.cache(&model),
    };
    let reused = cache.keep_common_prefix(&ids)?;
    let mut runner = Runner::new(&model, &pool);

    let start = Instant::now();
    let wanted = if args.dump_logits.is_some() { Logits::All } else { Logits::Last };
    let logits = prefill(&mut runner, &mut cache, &ids[reused..], wanted, &signal)?;
    let prefill = start.elapsed();
    let Some(logits) = logits else { return Ok(signal.code().unwrap_or(exit::FINE)) };
    let vocab_size = model.config().vocab_size;
    if let Some(path) = &args.dump_logits {
        let file = ckpt_infer::logits_file(&logits, vocab_size);
        terminal::write_file_until(path, &file, args.force, &signal.flag)
            .map_err(|failure| signal.explain(failure))?;
    }
    let last = logits[logits.len() - vocab_size..].to_vec();
    if let Some(path) = args.prompt_cache.as_ref().filter(|_| reused + 1 < ids.len()) {
        cache.save(path, &model)?;
    }

    let options = args.sampling.options(SampleOptions::default());
    let mut ends = args.stop_id.clone();
    if !args.ignore_eos {
        match &tokenizer {
            Some(tokenizer) => ends.extend(tokenizer.stops()),
            None => ends.extend(ckpt_inspect::vocabulary::end_ids(&checkpoint)),
        }
    }
    let mut stop = Stop::after(args.max_tokens);
    (stop.ids, stop.logprobs) = (ends, args.logprobs);
    let mut writer = tokenizer.as_ref().map(|t| Writer::new(t, &ids, args.show_special, &args.stop));
    let mut tokens: Vec<Token> = Vec::new();
    let mut printed = Ok(true);
    let outcome = Generator::new(&mut runner, &mut cache, &options, stop).after(last, &mut |token| {
        let piece = match &mut writer {
            Some(writer) => writer.push(token.id),
            None if tokens.is_empty() => token.id.to_string(),
            None => format!(",{}", token.id),
        };
        tokens.push(token.clone());
        if !args.json {
            printed = terminal::print_model_text(&piece);
        }
        matches!(printed, Ok(true)) && !writer.as_ref().is_some_and(|w| w.stopped) && !signal.arrived()
    })?;
    let mut more = printed?;
    let held = writer.as_mut().map_or(String::new(), Writer::finish);
    if more && !args.json {
        let ended = writer.as_ref().is_some_and(|w| w.text.ends_with('\n'));
        more = terminal::print_model_text(&(held + if ended { "" } else { "\n" }))?;
    }
    let stopped = writer.as_ref().is_some_and(|w| w.stopped);
    let done = Done {
        ending: if stopped { Ending::StopText } else { Ending::Outcome(outcome.reason) },
        text: writer.map_or(String::new(), |writer| writer.text),
        tokenizer: tokenizer.as_ref(),
        model: &model,
        prompt: &ids,
        options: &options,
        tokens,
        outcome,
        prefill,
    };
    if args.json {
        terminal::print(&terminal::json(&record(args, &done)))?;
    } else if more {
        terminal::note(&summary(ids.len() - reused, &done));
    }
    Ok(signal.code().unwrap_or(exit::FINE))
}

/// The prompt's text, from the command line or standard input.
fn prompt(args: &Args) -> Result<String, Failure> {
    match args.prompt.as_deref() {
        Some("-") => {}
        Some(text) => return Ok(text.to_string()),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::usage(
                "there is no prompt; give text with -p, token ids with --ids, or pipe text in",
            ));
        }
        None => {}
    }
    let cannot = |what: String| Failure::usage(format!("standard input: {what}"));
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(LONGEST_PROMPT + 1).read_to_end(&mut bytes);
    read.map_err(|e| cannot(e.to_string()))?;
    if bytes.len() as u64 > LONGEST_PROMPT {
        return Err(cannot(format!("the prompt is longer than {}", terminal::bytes(LONGEST_PROMPT))));
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        cannot(format!(
            "is not UTF-8 at byte {}; convert it, for example with iconv",
            e.utf8_error().valid_up_to()
        ))
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// The prompt's tokens.
fn tokens(args: &Args, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, Failure> {
    let specials = if args.parse_special { Specials::Parsed } else { Specials::AsText };
    let Some(suffix) = &args.suffix else { return Ok(tokenizer.prompt(text, specials)?) };
    let fim = tokenizer.fim().ok_or_else(|| {
        Failure::usage(format!(
            "{}: has no fill-in-the-middle tokens, so --suffix cannot be used with this model",
            tokenizer.path().display()
        ))
    })?;
    let (before, after) = (tokenizer.encode(text, specials)?, tokenizer.encode(suffix, specials)?);
    let parts = [tokenizer.begin(), &[fim.prefix], &before, &[fim.suffix], &after, &[fim.middle]];
    Ok(parts.concat())
}

fn record(args: &Args, done: &Done<'_>) -> Value {
    let mut record = json!({
        "prompt": done.prompt,
        "ids": done.outcome.ids,
        "reason": done.ending.name(),
        "seed": done.options.seed,
        "prefill_seconds": done.prefill.as_secs_f64(),
        "decode_seconds": done.outcome.decode.as_secs_f64(),
        "kernel": done.model.kernel().name(),
        "assumed": done.model.assumed().iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    if let Some(tokenizer) = done.tokenizer {
        record["text"] = done.text.as_str().into();
        record["tokenizer"] = tokenizer.path().to_string_lossy().into();
    }
    if args.logprobs.is_some() {
        let of = |id: u32, logprob: Option<f32>| {
            let mut entry = json!({ "id": id, "logprob": logprob });
            if let Some(tokenizer) = done.tokenizer {
                entry["token"] = tokenizer.bytes(id).map_or_else(
                    || tokenizer.token(id).unwrap_or_default().into(),
                    |bytes| String::from_utf8_lossy(bytes).into(),
                );
            }
            entry
        };
        let token = |token: &Token| {
            let mut entry = of(token.id, token.logprob);
            entry["top"] = token.top.iter().map(|(id, logprob)| of(*id, Some(*logprob))).collect();
            entry
        };
        record["logprobs"] = done.tokens.iter().map(token).collect();
    }
    record
}

/// Why generation ended.
#[derive(Clone, Copy)]
enum Ending {
    /// A stop text was found.
    StopText,
    /// The generator's reason.
    Outcome(Reason),
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Ending::StopText => "stop-text",
            Ending::Outcome(reason) => reason.name(),
        }
    }
}

/// Tokens per second, and why it ended if that is not obvious.
fn summary(prompt: usize, done: &Done<'_>) -> String {
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    let outcome = &done.outcome;
    let mut line = format!("prompt {}, {:.0} tokens/s", plural(prompt, "token"), rate(prompt, done.prefill));
    if outcome.ids.len() > 1 {
        // The first token came with the prompt.
        line += &format!(
            "; generated {}, {:.0} tokens/s",
            outcome.ids.len(),
            rate(outcome.ids.len() - 1, outcome.decode)
        );
    }
    if outcome.reason == Reason::ContextFull {
        line += "; the context is full (--slide continues past it)";
    } else if matches!(done.ending, Ending::Outcome(Reason::Callback)) {
        line += "; interrupted";
    }
    line
}
