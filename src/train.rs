//! `ckpt train`: trains or resumes a bitnet-student model, and watches its layers meanwhile.

use std::path::{Path, PathBuf};

use ckpt_inspect::meaning::Given;
use ckpt_inspect::metadata::from_json;
use ckpt_inspect::{ModelConfig, OpenOptions};
use ckpt_train::distill::Teacher;
use ckpt_train::optim::{self, Target, Well};
use ckpt_train::{Error, Event, Outcome, PRESETS, ResumeOptions, RunFolder, Settings, Trainer, preset};

use crate::paths;
use crate::signal::Signal;
use crate::{Failure, exit, load, terminal};

/// Train or resume a BitNet code model, with optimizers that keep ternary weights alive.
///
/// The model is bitnet-student (docs/bitnet.md). Settings come from --config; flags override them. The run folder gets
/// config.toml, metrics.jsonl, a PyTorch checkpoint every --save-every steps, and best.pt by validation loss. Ctrl-C
/// and SIGTERM save a checkpoint before the run stops; resuming continues as if it had not stopped. Exit code 1 when
/// the run refuses to start, or stops, because of collapsed weights.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Checkpoint to continue from.
    #[arg(long, value_name = "CKPT", required_unless_present = "init", conflicts_with = "init")]
    resume: Option<PathBuf>,
    /// Start a new model: 50m, 125m, 300m, 500m, or a TOML or JSON file with a model configuration.
    #[arg(long, value_name = "PRESET|FILE")]
    init: Option<String>,
    /// TOML file with settings, such as the config.toml of another run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data: text, JSONL, Parquet, or token ids (.npy, .safetensors); glob patterns such as 'src/**/*.py' too.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Validation data; by default a part of --data is held out.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    validation: Vec<PathBuf>,
    /// The tokenizer.json for text data; by default the one next to the checkpoint, if there is one.
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Run folder.
    #[arg(short, long, value_name = "DIR", default_value = "run")]
    output: PathBuf,
    /// Write into the folder even if it contains another run.
    #[arg(long)]
    force: bool,
    /// Step to stop at, counted from the start of the model's training.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    #[arg(long, value_name = "NAME", help = optimizers())]
    optimizer: Option<String>,
    /// Learning rate.
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// Steps of linear warm-up from 0.
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,
    /// After the warm-up, decay the learning rate along a cosine that ends at --steps.
    #[arg(long)]
    cosine: bool,
    /// Decoupled weight decay of parameters outside BitLinear layers; with muon-adamw, of parameters that are not
    /// matrices.
    #[arg(long, value_name = "RATE")]
    weight_decay: Option<f64>,
    /// Decoupled weight decay of ternary weights; with muon-adamw, of every matrix. 0 by default, because it shrinks
    /// ternary weights to nothing.
    #[arg(long, value_name = "RATE")]
    ternary_weight_decay: Option<f64>,
    /// The polarizer's rule; constant and piecewise have a target of 0.01 by default.
    #[arg(long, value_name = "WELL")]
    well: Option<WellArg>,
    /// Absolute magnitude that the polarizer pushes weights to.
    #[arg(long, value_name = "SIZE", conflicts_with = "relative_target")]
    target_scale: Option<f64>,
    /// Magnitude that the polarizer pushes weights to, as a share of each layer's mean|w| at the start; 0.25 by default
    /// for one-sided and two-sided.
    #[arg(long, value_name = "SHARE")]
    relative_target: Option<f64>,
    /// How strongly the polarizer pushes; by default 0.05, for constant 0.01, for piecewise 0.1.
    #[arg(long, value_name = "STRENGTH")]
    polarization_strength: Option<f64>,
    /// Sequences per batch.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Positions per sequence.
    #[arg(long, value_name = "N")]
    length: Option<usize>,
    /// Gradient accumulation: batches per optimizer step.
    #[arg(long, value_name = "N")]
    accumulate: Option<u64>,
    /// Clip the global gradient norm to this; 0 for no limit.
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// Label smoothing of the loss.
    #[arg(long, value_name = "SHARE")]
    label_smoothing: Option<f64>,
    /// Focal loss: weight each token by (1 - p)^GAMMA, so that tokens already predicted well count less.
    #[arg(long, value_name = "GAMMA")]
    focal: Option<f64>,
    /// Checkpoint to distill from, optionally with its weight among several; any model that `ckpt infer` runs.
    #[arg(long = "teacher", value_name = "CKPT[=WEIGHT]")]
    teachers: Vec<String>,
    /// Stored logits to distill from: SafeTensors files with `logits` and `indices`, one for each file of --data.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    teacher_logits: Vec<PathBuf>,
    /// Weight of the teachers in the loss, from 0 to 1.
    #[arg(long, value_name = "SHARE")]
    alpha: Option<f64>,
    /// Distillation temperature.
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Treat the scales of BitLinear layers as constants in the backward pass.
    #[arg(long)]
    detached_scales: bool,
    /// Use sequences in the order of the data, and hold nothing out.
    #[arg(long)]
    no_shuffle: bool,
    /// Share of documents held out for validation.
    #[arg(long, value_name = "SHARE")]
    holdout: Option<f64>,
    /// Share of documents rearranged for fill-in-the-middle training (prefix, suffix, middle).
    #[arg(long, value_name = "SHARE")]
    fim_rate: Option<f64>,
    /// Do not cache tokenized text in the user's cache folder.
    #[arg(long)]
    no_token_cache: bool,
    /// Random seed; by default that of the resumed checkpoint, or 0.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Steps between checkpoints; 0 for only one at the end.
    #[arg(long, value_name = "N")]
    save_every: Option<u64>,
    /// Number of latest checkpoints to keep; 0 for all.
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Steps between validations; 0 for none.
    #[arg(long, value_name = "N")]
    validate_every: Option<u64>,
    /// Steps between health checks of the weights; 0 for none.
    #[arg(long, value_name = "N")]
    health_every: Option<u64>,
    /// Stop when a layer falls below healthy.
    #[arg(long)]
    stop_on_collapse: bool,
    /// Continue from a checkpoint even if its layers have collapsed.
    #[arg(long)]
    allow_collapsed: bool,
    /// Ignore the checkpoint's optimizer state.
    #[arg(long)]
    reset_optimizer: bool,
    /// Start the data from the beginning.
    #[arg(long)]
    restart_data: bool,
    /// Whether the checkpoint's projections are BitLinear, if its format does not record that (GGUF).
    #[arg(long, value_name = "BOOL", requires = "resume")]
    bitlinear: Option<bool>,
    /// Number of threads; all processors by default. Results do not depend on it.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
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

/// The parts of a settings file that flags override before it is parsed.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct File {
    optimizer: toml::Table,
}

/// The most bytes of tokens in the cache folder; the oldest are removed first.
const TOKEN_CACHE: u64 = 4 << 30;
/// The largest configuration file that is read.
const MAX_CONFIG: u64 = 1 << 20;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Checkpoint(error) => error.into(),
            Error::Collapsed(_) => {
                Failure::new(exit::REFUSED, format!("{error}; --allow-collapsed continues regardless"))
            }
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
    let settings = args.settings()?;
    if settings.data.files.is_empty() {
        return Err(Failure::usage("there is no data to train on: give at least one file with --data"));
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.unwrap_or(0))
        .build()
        .map_err(|e| Failure::usage(format!("cannot start threads: {e}")))?;
    let signal = Signal::listen()?;
    pool.install(|| train(args, &settings, &signal))
}

fn train(args: &Args, settings: &Settings, signal: &Signal) -> Result<u8, Failure> {
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
        (None, init) => Trainer::new(&model(init.as_deref().unwrap_or_default())?, settings)?,
    };
    args.may_go_into_folder()?;
    trainer.prepare()?;
    let mut folder = RunFolder::open(&args.output)?;
    let text = toml::to_string(trainer.settings()).map_err(|e| Failure::usage(format!("settings: {e}")))?;
    folder.config(&text)?;
    terminal::note(&format!(
        "{} parameters from step {} to {} with {}, into {}",
        terminal::count(trainer.parameters().count() as u64),
        trainer.step(),
        settings.steps,
        settings.optimizer.name(),
        terminal::path(&args.output)
    ));
    let bar = terminal::steps(trainer.step(), settings.steps);
    let mut health = String::new();
    let outcome = trainer.run(&mut folder, &signal.flag, &mut |event| match event {
        Event::Step { step, loss, factor, tokens, seconds, .. } => {
            let speed = terminal::count((tokens as f64 / seconds) as u64);
            bar.at(step, format!("loss {loss:.3}, {speed} tokens/s, lr x {factor:.3}{health}"));
        }
        Event::Validation { step, loss, best } => {
            let best = if best { ", the best so far" } else { "" };
            bar.note(&format!("step {step}: validation loss {loss:.4}{best}"));
        }
        Event::Health(_, measured) => {
            if let Some(lowest) = measured.lowest() {
                let std = lowest.std.unwrap_or(f64::NAN);
                health = format!(", std >= {std:.1e}, zeros <= {:.0} %", 100.0 * measured.most_zeros());
            }
        }
        Event::Saved(path) => bar.note(&format!("wrote {}", terminal::path(path))),
        Event::Warning(text) => bar.note(&format!("warning: {}", terminal::escape(&text))),
        _ => {}
    });
    bar.clear();
    load::prune("tokens", TOKEN_CACHE);
    match outcome? {
        Outcome::Finished => Ok(exit::FINE),
        _ => {
            terminal::note(&format!("stopped at step {}; --resume continues from there", trainer.step()));
            Ok(signal.code().unwrap_or(exit::FINE))
        }
    }
}

/// What `--optimizer` may be.
fn optimizers() -> String {
    let names = optim::NAMES.join(", ");
    format!(
        "One of {names}; prefix with polarized- to add the polarizer. muon-adamw is the Muon variant of the trainer whose checkpoints ckpt reads natively (docs/bitnet.md)"
    )
}

/// The configuration that `--init` names: a preset's, or a file's over the 125m preset's.
fn model(init: &str) -> Result<ModelConfig, Failure> {
    if let Some(config) = preset(init) {
        return Ok(config);
    }
    let path = Path::new(init);
    if !path.is_file() {
        return Err(Failure::usage(format!(
            "--init {}: neither a file nor one of {}",
            terminal::escape(init),
            PRESETS.join(", ")
        )));
    }
    let cannot = |what: String| Failure::usage(format!("{}: {}", path.display(), terminal::escape(&what)));
    let text = load::text(path, MAX_CONFIG)?;
    let given: serde_json::Value = match path.extension().is_some_and(|e| e == "toml") {
        true => toml::from_str(&text).map_err(|e| cannot(e.to_string()))?,
        false => serde_json::from_str(&text).map_err(|e| cannot(e.to_string()))?,
    };
    let serde_json::Value::Object(given) = given else {
        return Err(cannot("not a table of settings".into()));
    };
    let mut all = preset("125m").map(|usual| usual.to_record()).unwrap_or_default();
    for (key, value) in given {
        match all.get_mut(&key) {
            Some(slot) => *slot = value,
            None => return Err(cannot(format!("unknown model setting `{key}`"))),
        }
    }
    let given = Given::of_trainer(&from_json(serde_json::Value::Object(all)));
    given.and_then(|given| given.complete()).map_err(|e| cannot(e.to_string()))
}

/// A teacher by its flag: a path, or a path, `=` and a weight.
fn teacher(text: &str) -> Teacher {
    let weighted = text.rsplit_once('=').and_then(|(path, weight)| Some((path, weight.parse().ok()?)));
    let (path, weight) = weighted.unwrap_or((text, 1.0));
    Teacher::new(path, weight)
}

/// The data files that the `given` paths and patterns match, each once.
fn files(given: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all: Vec<PathBuf> = Vec::new();
    for path in given {
        if path.is_dir() {
            return Err(Failure::usage(format!(
                "{0}: is a folder; give the files in it, such as '{0}/**/*.py'",
                path.display()
            )));
        }
        let matches = paths::matches(path)?;
        let before = all.len();
        all.extend(matches.into_iter().filter(|p| p.is_file() || p == path));
        if all.len() == before {
            return Err(Failure::usage(format!("{}: no file matches", path.display())));
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|path| seen.insert(path.clone()));
    Ok(all)
}

impl Args {
    /// A run has its own folder, or continues in the one of its checkpoint.
    fn may_go_into_folder(&self) -> Result<(), Failure> {
        let whole = |path: &Path| std::fs::canonicalize(path).ok();
        let from = self.resume.as_deref().and_then(whole);
        let same = from.is_some_and(|from| from.parent().map(Path::to_path_buf) == whole(&self.output));
        // Without a step there is no run to describe.
        let run = std::fs::metadata(self.output.join("metrics.jsonl")).is_ok_and(|m| m.len() > 0);
        match self.force || same || !run {
            true => Ok(()),
            false => Err(Failure::unwritable(format!(
                "{}: contains another run; choose another folder with -o, or use --force to write into it",
                self.output.display()
            ))),
        }
    }

    /// The optimizer's settings of the file with the flags over them; `None` without any of these flags. Which keys an
    /// optimizer has is decided by its name, which may come from either.
    fn optimizer(&self, mut table: toml::Table) -> Result<Option<toml::Table>, Failure> {
        let float = |flag: Option<f64>| flag.map(toml::Value::Float);
        let flags = [
            ("name", self.optimizer.clone().map(toml::Value::String)),
            ("lr", float(self.lr)),
            ("weight_decay", float(self.weight_decay)),
            ("ternary_weight_decay", float(self.ternary_weight_decay)),
        ];
        let target = self.target_scale.map(Target::Absolute);
        let target = target.or(self.relative_target.map(Target::Relative));
        let plain = |value: Result<toml::Value, toml::ser::Error>| {
            value.map_err(|e| Failure::usage(format!("optimizer: {e}")))
        };
        let polarizer = [
            ("well", self.well.map(|well| toml::Value::try_from(Well::from(well)))),
            ("target", target.map(toml::Value::try_from)),
            ("strength", self.polarization_strength.map(|strength| Ok(strength.into()))),
        ];
        let mut given = false;
        for (key, value) in flags {
            if let Some(value) = value {
                table.insert(key.into(), value);
                given = true;
            }
        }
        for (key, value) in polarizer {
            let Some(value) = value else { continue };
            let inner = table.entry("polarizer").or_insert_with(|| toml::Table::new().into());
            if let toml::Value::Table(inner) = inner {
                inner.insert(key.into(), plain(value)?);
            }
            given = true;
        }
        Ok(given.then_some(table))
    }

    /// The settings of the file, with the flags over them.
    fn settings(&self) -> Result<Settings, Failure> {
        let (mut s, file) = match &self.config {
            None => (Settings::default(), File::default()),
            Some(path) => {
                let text = load::text(path, MAX_CONFIG)?;
                let wrong = |e: toml::de::Error| {
                    Failure::usage(format!("{}: {}", path.display(), e.to_string().trim_end()))
                };
                (toml::from_str(&text).map_err(wrong)?, toml::from_str(&text).map_err(wrong)?)
            }
        };
        if let Some(table) = self.optimizer(file.optimizer)? {
            s.optimizer = optim::Settings::from_table(table)?;
        }
        fn set<T>(slot: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *slot = value;
            }
        }
        if !self.data.is_empty() {
            s.data.files = files(&self.data)?;
        }
        if !self.validation.is_empty() {
            s.data.validation = files(&self.validation)?;
        }
        s.data.token_cache = (!self.no_token_cache).then(|| load::cache_folder("tokens")).flatten();
        set(&mut s.data.fill_in_rate, self.fim_rate);
        let resumed = self.resume.as_deref();
        let folders = [resumed.filter(|path| path.is_dir()), resumed.and_then(Path::parent)];
        let mut beside = folders.into_iter().flatten().map(|folder| folder.join("tokenizer.json"));
        let beside = beside.find(|path| path.is_file());
        s.data.tokenizer = self.tokenizer.clone().or(s.data.tokenizer).or(beside);
        set(&mut s.steps, self.steps);
        set(&mut s.schedule.warmup, self.warmup);
        if self.cosine {
            s.schedule.cosine_steps = Some(s.steps);
        }
        set(&mut s.data.batch, self.batch);
        set(&mut s.data.length, self.length);
        set(&mut s.data.holdout, self.holdout);
        if self.no_shuffle {
            s.data.shuffle = false;
            s.data.holdout = self.holdout.unwrap_or(0.0);
        }
        set(&mut s.accumulate, self.accumulate);
        set(&mut s.clip, self.clip);
        set(&mut s.loss.label_smoothing, self.label_smoothing);
        set(&mut s.loss.focal, self.focal);
        set(&mut s.loss.alpha, self.alpha);
        set(&mut s.loss.temperature, self.temperature);
        if !self.teachers.is_empty() {
            s.distill.teachers = self.teachers.iter().map(|text| teacher(text)).collect();
        }
        if !self.teacher_logits.is_empty() {
            s.distill.logits.clone_from(&self.teacher_logits);
        }
        s.detached_scales |= self.detached_scales;
        s.seed = self.seed.or(s.seed);
        set(&mut s.save_every, self.save_every);
        set(&mut s.keep_last, self.keep_last);
        set(&mut s.validate_every, self.validate_every);
        set(&mut s.health_every, self.health_every);
        s.stop_on_collapse |= self.stop_on_collapse;
        Ok(s)
    }
}
