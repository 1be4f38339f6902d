//! `ckpt train`: trains or resumes a bitnet-student model, and watches its layers meanwhile.

mod advice;
mod config;
mod folder;
mod model;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ckpt_inspect::OpenOptions;
use ckpt_train::data::Chat;
use ckpt_train::optim::{self, Well};
use ckpt_train::{Error, Event, Outcome, Remedy, ResumeOptions, Sample, Trainer, keys};

use crate::signal::Signal;
use crate::{Failure, exit, load, terminal};
use config::Given;
use folder::Place;

/// Train or resume a BitNet code model, with optimizers that keep ternary weights alive.
///
/// The model is bitnet-student (docs/bitnet.md). Settings come from --config, or from the run folder of the resumed
/// checkpoint; flags override them. The run folder gets the tokenizer, config.toml, metrics.jsonl, a PyTorch checkpoint every --save-every steps, and best.pt by validation loss. Ctrl-C
/// and SIGTERM save a checkpoint before the run stops; resuming continues as if it had not stopped. Exit code 1 when
/// the run refuses to start, or stops, because of collapsed weights.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Checkpoint to continue from. Its run folder's config.toml holds the settings, unless --config or --fresh-settings
    /// says otherwise.
    #[arg(long, value_name = "CKPT", conflicts_with = "init")]
    resume: Option<PathBuf>,
    #[arg(long, value_name = "PRESET|FILE", help = model::help())]
    init: Option<String>,
    /// TOML file with settings, such as the config.toml of another run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Resume with the default settings, not those in the run folder's config.toml.
    #[arg(long, requires = "resume", conflicts_with = "config")]
    fresh_settings: bool,
    #[arg(long, value_name = "FILE[=WEIGHT]", num_args = 1.., help = data())]
    data: Vec<PathBuf>,
    #[arg(long, value_name = "FILE", num_args = 1.., help = of("data.validation"))]
    validation: Vec<PathBuf>,
    #[arg(long, value_name = "FILE", help = of("data.tokenizer"))]
    tokenizer: Option<PathBuf>,
    #[arg(long, value_name = "NAME", help = of("data.text_column"))]
    text_column: Option<String>,
    #[arg(long, value_name = "TEMPLATE", help = of("data.template"))]
    template: Option<ChatArg>,
    /// Run folder [default: the run folder of the resumed checkpoint, else run].
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Write into the folder even if it contains another run, or another tokenizer.
    #[arg(long)]
    force: bool,
    #[arg(long, value_name = "N", help = of("steps"))]
    steps: Option<u64>,
    #[arg(long, value_name = "NAME", help = optimizers())]
    optimizer: Option<String>,
    #[arg(long, value_name = "RATE", help = of("optimizer.lr"))]
    lr: Option<f64>,
    #[arg(long, value_name = "N", help = of("schedule.warmup"))]
    warmup: Option<u64>,
    /// After the warm-up, decay the learning rate along a cosine that ends at --steps.
    #[arg(long)]
    cosine: bool,
    #[arg(long, value_name = "RATE", help = of("optimizer.weight_decay"))]
    weight_decay: Option<f64>,
    #[arg(long, value_name = "RATE", help = of("optimizer.ternary_weight_decay"))]
    ternary_weight_decay: Option<f64>,
    #[arg(long, value_name = "WELL", help = of("optimizer.polarizer.well"))]
    well: Option<WellArg>,
    /// Absolute magnitude that the polarizer pushes weights to [default: 0.01 for constant and piecewise].
    #[arg(long, value_name = "SIZE", conflicts_with = "relative_target")]
    target_scale: Option<f64>,
    /// Magnitude that the polarizer pushes weights to, as a share of each layer's mean|w| at the start [default: 0.25
    /// for one-sided and two-sided].
    #[arg(long, value_name = "SHARE")]
    relative_target: Option<f64>,
    #[arg(long, value_name = "STRENGTH", help = of("optimizer.polarizer.strength"))]
    polarization_strength: Option<f64>,
    #[arg(long, value_name = "N", help = of("data.batch"))]
    batch: Option<usize>,
    #[arg(long, value_name = "N", help = of("data.length"))]
    length: Option<usize>,
    #[arg(long, value_name = "N", help = of("accumulate"))]
    accumulate: Option<u64>,
    #[arg(long, value_name = "NORM", help = of("clip"))]
    clip: Option<f64>,
    #[arg(long, value_name = "SHARE", help = of("loss.label_smoothing"))]
    label_smoothing: Option<f64>,
    #[arg(long, value_name = "GAMMA", help = of("loss.focal"))]
    focal: Option<f64>,
    /// Checkpoint to distill from, optionally with its weight among several [default: 1]; any model that `ckpt infer`
    /// runs.
    #[arg(long = "teacher", value_name = "CKPT[=WEIGHT]")]
    teachers: Vec<String>,
    #[arg(long, value_name = "FILE", num_args = 1.., help = of("distill.logits"))]
    teacher_logits: Vec<PathBuf>,
    #[arg(long, value_name = "SHARE", help = of("loss.alpha"))]
    alpha: Option<f64>,
    #[arg(long, value_name = "T", help = of("loss.temperature"))]
    temperature: Option<f64>,
    #[arg(long, help = of("detached_scales"))]
    detached_scales: bool,
    /// Use sequences in the order of the data, and hold nothing out.
    #[arg(long)]
    no_shuffle: bool,
    #[arg(long, value_name = "SHARE", help = of("data.holdout"))]
    holdout: Option<f64>,
    #[arg(long, value_name = "N", help = of("data.validation_tokens"))]
    validation_tokens: Option<usize>,
    #[arg(long, value_name = "SHARE", help = of("data.fill_in_rate"))]
    fim_rate: Option<f64>,
    /// Do not cache tokenized text in the user's cache folder.
    #[arg(long)]
    no_token_cache: bool,
    #[arg(long, value_name = "N", help = of("seed"))]
    seed: Option<u64>,
    #[arg(long, value_name = "N", help = of("save_every"))]
    save_every: Option<u64>,
    #[arg(long, value_name = "N", help = of("keep_last"))]
    keep_last: Option<usize>,
    #[arg(long, value_name = "N", help = of("validate_every"))]
    validate_every: Option<u64>,
    #[arg(long, value_name = "N", help = of("patience"))]
    patience: Option<u64>,
    #[arg(long, value_name = "DECAY", help = of("ema"))]
    ema: Option<f64>,
    #[arg(long, value_name = "N", help = of("sample.every"))]
    sample_every: Option<u64>,
    #[arg(long, value_name = "TEXT", help = of("sample.prompt"))]
    sample_prompt: Option<String>,
    #[arg(long, value_name = "N", help = of("sample.tokens"))]
    sample_tokens: Option<usize>,
    #[arg(long, value_name = "T", help = of("sample.temperature"))]
    sample_temperature: Option<f64>,
    #[arg(long, value_name = "N", help = of("health_every"))]
    health_every: Option<u64>,
    #[arg(long, help = of("stop_on_collapse"))]
    stop_on_collapse: bool,
    #[arg(long, help = of("best_any"))]
    best_any: bool,
    /// Continue from a checkpoint even if its layers have collapsed.
    #[arg(long)]
    allow_collapsed: bool,
    /// Ignore the checkpoint's optimizer state.
    #[arg(long)]
    reset_optimizer: bool,
    /// Start the data from the beginning.
    #[arg(long)]
    restart_data: bool,
    /// Whether projections are BitLinear [default: what the checkpoint or configuration says; GGUF does not record it].
    #[arg(long, value_name = "BOOL")]
    bitlinear: Option<bool>,
    /// Number of threads [default: all processors]. Results do not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// The help of the flag that sets a key of config.toml.
fn of(name: &str) -> String {
    keys::find(name).map(keys::Key::help).unwrap_or_default()
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ChatArg {
    Auto,
    Model,
    Tags,
    Plain,
}

impl From<ChatArg> for Chat {
    fn from(chat: ChatArg) -> Self {
        match chat {
            ChatArg::Auto => Chat::Auto,
            ChatArg::Model => Chat::Model,
            ChatArg::Tags => Chat::Tags,
            ChatArg::Plain => Chat::Plain,
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum WellArg {
    OneSided,
    TwoSided,
    #[value(alias = "seed-step")]
    Constant,
    #[value(alias = "seed-optimizer")]
    Piecewise,
}

impl From<WellArg> for Well {
    fn from(well: WellArg) -> Self {
        match well {
            WellArg::OneSided => Well::OneSided,
            WellArg::TwoSided => Well::TwoSided,
            WellArg::Constant => Well::Constant,
            WellArg::Piecewise => Well::Piecewise,
        }
    }
}

/// Between lines on steps, where there is no terminal for a bar.
const BETWEEN_LINES: Duration = Duration::from_secs(10);
/// The most bytes of tokens in the cache folder; the oldest are removed first.
const TOKEN_CACHE: u64 = 4 << 30;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Checkpoint(error) => error.into(),
            Error::Collapsed(_) => {
                Failure::new(exit::REFUSED, format!("{error}; --allow-collapsed continues regardless"))
            }
            Error::Resume { what, remedy } => {
                let flag = match remedy {
                    Remedy::RestartData => "--restart-data starts the data from the beginning".to_string(),
                    Remedy::ResetOptimizer => {
                        "--reset-optimizer continues without its optimizer's state".into()
                    }
                    other => other.to_string(),
                };
                Failure::usage(format!("{what}; {flag}"))
            }
            Error::NoStep(step) => Failure::usage(format!(
                "the model is at step {step} already; --steps is the step to stop at, so give a larger one"
            )),
            Error::Teacher(error) => error.into(),
            Error::Output(error) | Error::Save(ckpt_convert::Error::Output(error)) => error.into(),
            other => {
                let code = match &other {
                    Error::Settings(_) => exit::USAGE,
                    Error::Data { .. } | Error::Read { .. } => exit::UNREADABLE,
                    Error::Save(_) | Error::Write { .. } => exit::UNWRITABLE,
                    _ => exit::REFUSED,
                };
                Failure::new(code, other.to_string())
            }
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if args.resume.is_none() && args.init.is_none() {
        return Err(Failure::usage(
            "there is no model to train: give --resume CKPT to continue a run, or --init 100m to start one",
        ));
    }
    let given = args.settings()?;
    if given.settings.data.all_files().next().is_none() {
        return Err(Failure::usage("there is no data to train on: give at least one file with --data"));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.unwrap_or(0))
        .build()
        .map_err(|e| Failure::usage(format!("cannot start threads: {e}")))?;
    let signal = Signal::listen()?;
    pool.install(|| train(args, &given, &signal))
}

fn train(args: &Args, given: &Given, signal: &Signal) -> Result<u8, Failure> {
    let settings = &given.settings;
    let place = Place::new(args, settings)?;
    let mut trainer = match (&args.resume, &args.init) {
        (Some(path), _) => {
            let options = ResumeOptions::default().with(|o| {
                o.allow_collapsed = args.allow_collapsed;
                o.reset_optimizer = args.reset_optimizer;
                o.restart_data = args.restart_data;
                o.bitlinear = args.bitlinear;
            });
            // What a trainer keeps beside a model is its state, too.
            let mut whole = OpenOptions::default();
            whole.companions = true;
            Trainer::resume(&ckpt_inspect::open_with(path, &whole)?, settings, options)?
        }
        (None, init) => {
            let init = init.as_deref().unwrap_or_default();
            Trainer::new(&model::read(init, settings.data.tokenizer.as_deref(), args.bitlinear)?, settings)?
        }
    };
    trainer.prepare()?;
    given.tell(args, trainer.config())?;
    let mut folder = place.open(trainer.settings(), trainer.step())?;
    terminal::note(&format!(
        "{} parameters from step {} to {} with {}, into {}",
        terminal::count(trainer.parameters().count() as u64),
        trainer.step(),
        settings.steps,
        settings.optimizer.name(),
        terminal::path(place.path())
    ));
    let bar = terminal::steps(trainer.step(), settings.steps);
    let (mut health, mut told) = (String::new(), None);
    let outcome = trainer.run(&mut folder, &signal.flag, &mut |event| match event {
        Event::Step { step, loss, parts, lr, tokens, seconds, .. } => {
            let speed = terminal::count((tokens as f64 / seconds) as u64);
            let parts = parts.map_or(String::new(), |(entropy, teachers)| {
                format!(" (cross entropy {entropy:.3}, distillation {teachers:.3})")
            });
            let state = format!("loss {loss:.3}{parts}, {speed} tokens/s, lr {lr:.1e}{health}");
            let due = told.is_none_or(|told: Instant| told.elapsed() >= BETWEEN_LINES);
            if bar.is_hidden() && (due || step == settings.steps) {
                terminal::note(&format!("step {step}: {state}"));
                told = Some(Instant::now());
            }
            bar.at(step, state);
        }
        Event::Validation { step, loss, best, first, averaged } => {
            let more = match (first, best) {
                (true, _) => " at the start",
                (_, true) => ", the best so far",
                _ => "",
            };
            let averaged = averaged.map_or(String::new(), |loss| format!(" (moving average {loss:.4})"));
            bar.note(&format!("step {step}: validation loss {loss:.4}{averaged}{more}"));
        }
        Event::Health(_, measured) => {
            if let Some(lowest) = measured.lowest() {
                let std = lowest.std.unwrap_or(f64::NAN);
                health = format!(", std >= {std:.1e}, zeros <= {:.0} %", 100.0 * measured.most_zeros());
            }
        }
        Event::Example(pieces) => bar.note(&example(&pieces)),
        Event::Sample(step, sample) => {
            let shown = |text: &str| text.escape_debug().to_string();
            let Sample { prompt, greedy, drawn, .. } = sample;
            bar.note(&format!("step {step}: sample, greedy: [[{}]]{}", shown(prompt), shown(greedy)));
            bar.note(&format!("step {step}: sample, drawn: [[{}]]{}", shown(prompt), shown(drawn)));
        }
        Event::Saved(path) => bar.note(&format!("wrote {}", terminal::path(path))),
        Event::Warning(text) => bar.note(&format!("warning: {}", terminal::escape(&text))),
        _ => {}
    });
    bar.clear();
    load::prune("tokens", TOKEN_CACHE);
    match outcome? {
        Outcome::Finished => Ok(exit::FINE),
        Outcome::NoBetter => {
            let patience = settings.patience;
            terminal::note(&format!(
                "stopped at step {}: no lower validation loss in {patience} validations in a row",
                trainer.step()
            ));
            Ok(exit::FINE)
        }
        _ => {
            terminal::note(&format!("stopped at step {}; --resume continues from there", trainer.step()));
            Ok(signal.code().unwrap_or(exit::FINE))
        }
    }
}

/// The beginning of the first sequence, with what is only context in brackets.
fn example(pieces: &[(bool, String)]) -> String {
    const SHOWN: usize = 300;
    let piece = |(learnt, text): &(bool, String)| match learnt {
        true => text.clone(),
        false => format!("[[{text}]]"),
    };
    let text: String = pieces.iter().map(piece).collect();
    let shown: String = text.chars().take(SHOWN).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    let context = if pieces.iter().any(|(learnt, _)| !learnt) { ", [[context]] is not learnt" } else { "" };
    format!("the first sequence{context}: {}{more}", shown.escape_debug())
}

/// What `--data` takes.
fn data() -> String {
    let source =
        "With =WEIGHT, sequences are drawn from the arguments in these proportions: a.jsonl=3 b.jsonl=1";
    format!("{} {source}", of("data.files"))
}

/// What `--optimizer` may be.
fn optimizers() -> String {
    format!("One of {}. {}", optim::NAMES.join(", "), of("optimizer.name"))
}
