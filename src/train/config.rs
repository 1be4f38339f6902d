//! The settings of a run: a file's, with the flags over them, and what that changes.

use std::path::{Path, PathBuf};

use ckpt_inspect::ModelConfig;
use ckpt_inspect::vocabulary::FILE_NAMES;
use ckpt_train::Settings;
use ckpt_train::data::{Chat, Weighted};
use ckpt_train::distill::Teacher;
use ckpt_train::optim::{self, Target, Well};
use serde_json::Value;

use super::Args;
use super::folder::{CONFIG, around, run_of};
use crate::{Failure, exit, load, paths, terminal};

/// The largest configuration file that is read.
pub(super) const MAX_CONFIG: u64 = 1 << 20;

/// Keys that earlier versions wrote, and that mean nothing any more.
const FORMER: [(&str, &str); 1] = [("data", "validation_batches")];

/// The settings of a run.
pub(super) struct Given {
    /// What the run has.
    pub settings: Settings,
    /// The file that they come from, and what it has.
    source: Option<(PathBuf, Settings)>,
}

impl Given {
    /// Says where the settings come from, what the flags change in them, and which flags change nothing.
    pub fn tell(&self, args: &Args, model: &ModelConfig) -> Result<(), Failure> {
        if let Some((path, before)) = &self.source {
            let differ = differences(before, &self.settings);
            let differ = match differ.is_empty() {
                true => String::new(),
                false => format!("; here {}", differ.join(", ")),
            };
            terminal::note(&format!("settings of {}{}", terminal::path(path), terminal::escape(&differ)));
        }
        for advice in args.advice(&self.settings, model, self.settings.data.contents()?) {
            terminal::warning(&advice);
        }
        Ok(())
    }
}

/// The part of a settings file that flags override before it is parsed.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Part {
    optimizer: toml::Table,
}

/// The settings in the file at `path`, and its table of the optimizer. Paths and patterns in it are those of its own folder,
/// if there is such a file, else the working directory's; the tokenizer's is always that of its own folder.
pub(super) fn read(path: &Path) -> Result<(Settings, toml::Table), Failure> {
    let text = load::text(path, MAX_CONFIG)?;
    let wrong =
        |e: toml::de::Error| Failure::usage(format!("{}: {}", path.display(), e.to_string().trim_end()));
    // First of all: numbers that JSON does not have would be lost on the way.
    if let Some(key) = toml::from_str(&text).ok().and_then(|table| endless(&table, "")) {
        return Err(Failure::usage(format!("{}: `{key}` must be a finite number", path.display())));
    }
    let settings = toml::from_str(&text).or_else(|error| {
        let mut whole: toml::Table = toml::from_str(&text)?;
        for (table, key) in FORMER {
            if let Some(toml::Value::Table(table)) = whole.get_mut(table) {
                table.remove(key);
            }
        }
        // The text's error, which says where it is wrong.
        whole.try_into().map_err(|_| error)
    });
    let mut settings: Settings = settings.map_err(wrong)?;
    let Part { optimizer } = toml::from_str(&text).map_err(wrong)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let own_tokenizer = settings.data.tokenizer.as_deref().map(|tokenizer| folder.join(tokenizer));
    each_path(&mut settings, |path| {
        let beside = folder.join(&*path);
        let there = || beside.exists() || paths::matches(&beside).is_ok_and(|m| m.iter().any(|p| p.exists()));
        if path.is_relative() && there() {
            *path = beside;
        }
    });
    // Another one of the same name would not do.
    settings.data.tokenizer = own_tokenizer;
    let data = &mut settings.data;
    let sources = data.sources.iter_mut().map(|source| &mut source.files);
    for list in [&mut data.files, &mut data.validation].into_iter().chain(sources) {
        if list.iter().any(|path| paths::is_pattern(path)) {
            *list = files(list)?;
        }
    }
    Ok((settings, optimizer))
}

/// The key of a number in `table`, at `place`, that is NaN or infinite: no setting is.
pub(super) fn endless(table: &toml::Table, place: &str) -> Option<String> {
    fn within(value: &toml::Value, name: &str) -> Option<String> {
        match value {
            toml::Value::Float(number) if !number.is_finite() => Some(name.to_string()),
            toml::Value::Array(items) => items.iter().find_map(|item| within(item, name)),
            toml::Value::Table(table) => endless(table, &format!("{name}.")),
            _ => None,
        }
    }
    table.iter().find_map(|(key, value)| within(value, &format!("{place}{key}")))
}

/// Calls `change` with every path in `settings`.
pub(super) fn each_path(settings: &mut Settings, mut change: impl FnMut(&mut PathBuf)) {
    let data = &mut settings.data;
    let distill = &mut settings.distill;
    let teachers = distill.teachers.iter_mut().map(|teacher| &mut teacher.path);
    let of_sources = data.sources.iter_mut().flat_map(|source| &mut source.files);
    let files =
        data.files.iter_mut().chain(of_sources).chain(&mut data.validation).chain(&mut data.tokenizer);
    files.chain(teachers).chain(&mut distill.logits).for_each(&mut change);
}

/// What differs between two settings, by key: `data.batch 4 -> 16`.
pub(super) fn differences(before: &Settings, after: &Settings) -> Vec<String> {
    fn flat(value: &Value, name: String, all: &mut Vec<(String, String)>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    flat(value, name, all);
                }
            }
            Value::Null => {}
            value => all.push((name, value.to_string())),
        }
    }
    let list = |settings: &Settings| {
        let mut settings = settings.clone();
        each_path(&mut settings, |path| {
            if let Ok(whole) = paths::absolute(path) {
                *path = whole;
            }
        });
        let mut all = Vec::new();
        if let Ok(value) = serde_json::to_value(&settings) {
            flat(&value, String::new(), &mut all);
        }
        all
    };
    let (before, after) = (list(before), list(after));
    let of = |all: &[(String, String)], name: &str| {
        all.iter().find(|(key, _)| key == name).map_or("none".to_string(), |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = before.iter().chain(&after).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let differ = names.into_iter().filter(|name| of(&before, name) != of(&after, name));
    // The seed of a run is the checkpoint's, where the file has none.
    let differ = differ.filter(|name| *name != "seed" || of(&after, name) != "none");
    differ.map(|name| format!("{name} {} -> {}", of(&before, name), of(&after, name))).collect()
}

/// A path, or a path, `=` and a weight.
fn weighted(text: &str) -> (&str, Option<f64>) {
    let weighted = text.rsplit_once('=').and_then(|(path, weight)| Some((path, weight.parse().ok()?)));
    weighted.map_or((text, None), |(path, weight)| (path, Some(weight)))
}

/// The tokenizer by its flag: a file, or the one in a folder.
fn tokenizer(path: &Path) -> Result<PathBuf, Failure> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    FILE_NAMES.map(|name| path.join(name)).into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::new(
            exit::UNREADABLE,
            format!("{}: contains neither {}", path.display(), FILE_NAMES.join(" nor ")),
        )
    })
}

/// A teacher by its flag.
fn teacher(text: &str) -> Teacher {
    let (path, weight) = weighted(text);
    Teacher::new(path, weight.unwrap_or(1.0))
}

/// The data by its flag: files, or sources, each a path or pattern, where one has a weight.
fn data(given: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<Weighted>), Failure> {
    let part = |path: &PathBuf| match path.to_str().filter(|_| !path.exists()).map(weighted) {
        Some((path, Some(weight))) => (PathBuf::from(path), Some(weight)),
        _ => (path.clone(), None),
    };
    let parts: Vec<(PathBuf, Option<f64>)> = given.iter().map(part).collect();
    if parts.iter().all(|(_, weight)| weight.is_none()) {
        return Ok((files(given)?, Vec::new()));
    }
    let source = |(path, weight): (PathBuf, Option<f64>)| {
        Ok(Weighted::new(files(std::slice::from_ref(&path))?, weight.unwrap_or(1.0)))
    };
    let sources: Vec<Weighted> = parts.into_iter().map(source).collect::<Result<_, Failure>>()?;
    let mut seen = std::collections::HashSet::new();
    match sources.iter().flat_map(|source| &source.files).find(|file| !seen.insert(*file)) {
        Some(twice) => Err(Failure::usage(format!("{}: is in two sources of --data", twice.display()))),
        None => Ok((Vec::new(), sources)),
    }
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
        // A file has what the optimizer had where nothing else was asked for, and that is not for another one.
        let named = |table: &toml::Table| table.get("name").and_then(|name| name.as_str().map(String::from));
        if let (Some(other), Some(former)) = (&self.optimizer, named(&table)) {
            optim::Settings::leave_defaults(&mut table, &former, other);
        }
        if let (Some(well), Some(toml::Value::Table(polarizer))) = (self.well, table.get_mut("polarizer")) {
            optim::Polarizer::leave_defaults(polarizer, well.into());
        }
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

    /// The config.toml that settings come from: the named one, or the one next to the resumed checkpoint.
    fn source(&self) -> Option<PathBuf> {
        let beside = |resumed| around(resumed).map(|folder| folder.join(CONFIG)).find(|path| path.is_file());
        let resumed = self.resume.as_deref().filter(|_| !self.fresh_settings);
        self.config.clone().or_else(|| resumed.and_then(beside))
    }

    /// The settings of the file, with the flags over them.
    pub(super) fn settings(&self) -> Result<Given, Failure> {
        let mut source = self.source();
        // Beside a checkpoint that is in no run folder, another program's may lie.
        let in_run = self.resume.as_deref().and_then(run_of).is_some();
        if let Some(path) = source.take_if(|path| self.config.is_none() && !in_run && read(path).is_err()) {
            terminal::note(&format!("{} is not the settings of a run, and not read", terminal::path(&path)));
        }
        let (before, table) = match &source {
            None => (Settings::default(), toml::Table::default()),
            Some(path) => read(path).map_err(|failure| match &self.config {
                Some(_) => failure,
                None => {
                    let hint = "--config names another file, and --fresh-settings begins with the defaults";
                    Failure { message: format!("{}; {hint}", failure.message), ..failure }
                }
            })?,
        };
        let mut s = before.clone();
        if let Some(table) = self.optimizer(table)? {
            s.optimizer = optim::Settings::from_table(table)?;
        }
        fn set<T>(slot: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *slot = value;
            }
        }
        if !self.data.is_empty() {
            (s.data.files, s.data.sources) = data(&self.data)?;
        }
        if !self.validation.is_empty() {
            s.data.validation = files(&self.validation)?;
        }
        s.data.token_cache = (!self.no_token_cache).then(|| load::cache_folder("tokens")).flatten();
        set(&mut s.data.template, self.template.map(Chat::from));
        if self.text_column.is_some() {
            s.data.text_column.clone_from(&self.text_column);
        }
        set(&mut s.data.fill_in_rate, self.fim_rate);
        let folders = self.resume.as_deref().map(around).into_iter().flatten();
        let beside =
            folders.flat_map(|folder| FILE_NAMES.map(|name| folder.join(name))).find(|path| path.is_file());
        if let (None, Some(path)) = (&self.tokenizer, s.data.tokenizer.as_ref().filter(|path| !path.exists()))
        {
            return Err(Failure::new(
                exit::UNREADABLE,
                format!(
                    "{}: the tokenizer that {} names is not there; put it back, or name it with --tokenizer",
                    path.display(),
                    source.as_deref().unwrap_or(Path::new(CONFIG)).display()
                ),
            ));
        }
        let given = self.tokenizer.clone().or(s.data.tokenizer).or(beside);
        s.data.tokenizer = given.map(|path| tokenizer(&path)).transpose()?;
        set(&mut s.steps, self.steps);
        set(&mut s.schedule.warmup, self.warmup);
        if self.cosine {
            s.schedule.cosine_steps = Some(s.steps);
        }
        set(&mut s.data.batch, self.batch);
        set(&mut s.data.length, self.length);
        set(&mut s.data.holdout, self.holdout);
        set(&mut s.data.validation_tokens, self.validation_tokens);
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
        set(&mut s.patience, self.patience);
        set(&mut s.ema, self.ema);
        set(&mut s.sample.every, self.sample_every);
        set(&mut s.sample.prompt, self.sample_prompt.clone());
        set(&mut s.sample.tokens, self.sample_tokens);
        set(&mut s.sample.temperature, self.sample_temperature);
        set(&mut s.health_every, self.health_every);
        s.stop_on_collapse |= self.stop_on_collapse;
        s.best_any |= self.best_any;
        Ok(Given { settings: s, source: source.map(|path| (path, before)) })
    }
}
