//! One source of sequences: files that are read one after another, packed, and shuffled in a buffer. Its position can be
//! saved, and restored as if it had not stopped.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::{Value, as_u64};

use super::documents::{self, Document, Documents, NOT_TEXT};
use super::encoder::Encoder;
use super::fill_in::FillIn;
use super::shard::Place;
use super::{Restored, Settings, Token, Window, decode, encode};
use crate::{Error, Random, Remedy, Result, plain};

/// Bad lines that are kept to be shown.
const SHOWN: u64 = 5;
fn counted(files: u64) -> String {
    if files == 1 { "1 file".into() } else { format!("{files} files") }
}

/// Documents in a row that yield no sequence before a source is given up.
const MAX_FRUITLESS: u64 = 1 << 22;

/// What all sources of a stream have in common.
pub(super) struct Shared {
    pub settings: Settings,
    /// The files of all sources.
    pub files: Vec<PathBuf>,
    pub encoder: Encoder,
    pub seed: u64,
    pub fill_in: Option<FillIn>,
    /// Whether the held-out documents are read.
    pub held_out: bool,
}

/// The sequences of some files, without end.
pub(super) struct Source {
    shared: Arc<Shared>,
    /// Its number among the sources.
    which: u64,
    /// Its files, by their places among all.
    files: Range<usize>,
    open: Option<Documents>,
    /// Place of the current file in this pass's order.
    file: usize,
    /// This pass's order of the files.
    order: Vec<usize>,
    /// How often all files have been read.
    pub epoch: u64,
    /// Sequences handed out, part of the key of random draws.
    pub drawn: u64,
    pending: Vec<Token>,
    pub buffer: Vec<Window>,
    /// Documents that were read for the next sequence, and those that were passed over, since they are held out or are not.
    passed: (u64, u64),
    /// Whether a pass is over and its last sequences are still to be handed out.
    emptying: bool,
    /// The pass that the stream began with.
    first_epoch: u64,
    /// Lines of that pass that were not documents.
    pub bad: u64,
    /// The first of them, and why.
    pub shown: Vec<String>,
}

impl Source {
    /// The source from its beginning.
    pub fn new(shared: Arc<Shared>, which: usize, files: Range<usize>) -> Self {
        let mut source = Source {
            shared,
            which: which as u64,
            files,
            open: None,
            file: 0,
            order: Vec::new(),
            epoch: 0,
            drawn: 0,
            pending: Vec::new(),
            buffer: Vec::new(),
            passed: (0, 0),
            emptying: false,
            first_epoch: 0,
            bad: 0,
            shown: Vec::new(),
        };
        source.begin_pass();
        source
    }

    /// Its random numbers of one purpose.
    fn random(&self, seed: u64, purpose: u64, count: u64) -> Random {
        let key = [seed, purpose, count, self.which];
        Random::new(if self.which == 0 { &key[..3] } else { &key })
    }

    /// Goes to the beginning of pass `epoch`.
    pub fn begin_at(&mut self, epoch: u64) {
        *self = Source::new(self.shared.clone(), self.which as usize, self.files.clone());
        (self.epoch, self.first_epoch) = (epoch, epoch);
        self.begin_pass();
    }

    /// Chooses the order of the files.
    fn begin_pass(&mut self) {
        self.order = self.order_of(self.shared.seed);
    }

    /// The order of the files in this pass with `seed`.
    fn order_of(&self, seed: u64) -> Vec<usize> {
        let mut order: Vec<usize> = self.files.clone().collect();
        if self.shared.settings.shuffle {
            let mut random = self.random(seed, 4, self.epoch);
            for i in (1..order.len()).rev() {
                order.swap(i, random.below(i + 1));
            }
        }
        order
    }

    fn open_at(&self, file: usize, offset: u64) -> Result<Documents> {
        let Shared { settings, files, encoder, held_out, .. } = &*self.shared;
        let path = &files[file];
        let shard = settings.token_cache.as_deref().zip(encoder.fingerprint());
        let place = shard.and_then(|(folder, fingerprint)| Place::of(folder, path, fingerprint));
        Documents::open(path, offset, place, !held_out, encoder)
    }

    /// The next sequence.
    ///
    /// # Errors
    /// `Read` and `Data` for files that cannot be read, `Settings` if a whole pass yields no sequence.
    pub fn draw(&mut self) -> Result<Window> {
        let settings = &self.shared.settings;
        let (shuffle, length) = (settings.shuffle, settings.length);
        let wanted = if shuffle { settings.buffer.max(1) } else { 1 };
        let (mut fruitless, start) = (0, self.epoch);
        self.passed = (0, 0);
        // At the end of a pass the buffer empties before the next one begins: a pass hands out each sequence once.
        while self.buffer.is_empty() || (self.buffer.len() < wanted && !self.emptying) {
            self.emptying = !self.read()?;
            fruitless = if self.buffer.is_empty() { fruitless + 1 } else { 0 };
            if self.epoch > start + 1 && self.buffer.is_empty() || fruitless > MAX_FRUITLESS {
                let bad = self.shown.first().map(|s| format!("; {s}")).unwrap_or_default();
                let called = self.called();
                return Err(Error::settings(match self.passed {
                    (0, held) if held > 0 => format!(
                        "all documents of {called} are held out for validation, a share of {}, and none is left to train on; hold out less, or name validation data",
                        self.shared.settings.holdout
                    ),
                    (_, held) if held > 0 => format!(
                        "{called} contains no sequence of {} tokens to train on beside what is held out for validation, a share of {}{bad}",
                        length + 1,
                        self.shared.settings.holdout
                    ),
                    _ => format!("{called} contains no sequence of {} tokens to train on{bad}", length + 1),
                }));
            }
        }
        let at = match shuffle {
            true => self.random(self.shared.seed, 1, self.drawn).below(self.buffer.len()),
            false => 0,
        };
        // The rest keeps its order, so that it does not depend on earlier draws.
        let mut window = self.buffer.remove(at);
        if let Some(fill_in) = &self.shared.fill_in {
            fill_in.apply(&mut window.tokens, &mut self.random(self.shared.seed, 3, self.drawn));
        }
        self.drawn += 1;
        Ok(window)
    }

    /// What it is called in messages.
    fn called(&self) -> String {
        let files = &self.shared.files;
        match files.len() == self.files.len() {
            true => "the data".into(),
            false => files[self.files.start].display().to_string(),
        }
    }

    /// Reads one document into the buffer; at the end of all files begins again. False when a pass is over.
    pub fn read(&mut self) -> Result<bool> {
        let file = self.order[self.file];
        let mut documents = match self.open.take() {
            Some(open) => open,
            None => self.open_at(file, 0)?,
        };
        let offset = documents.offset;
        let shared = self.shared.clone();
        let share = Random::new(&[shared.seed, 2, file as u64, offset]).uniform();
        let wanted = (share < shared.settings.holdout) == shared.held_out;
        let Some(document) = documents.next(&shared.encoder, wanted)? else {
            self.file += 1;
            if self.file < self.order.len() {
                return Ok(true);
            }
            self.file = 0;
            self.epoch += 1;
            self.begin_pass();
            return Ok(false);
        };
        self.open = Some(documents);
        if !wanted {
            self.passed.1 += 1;
            return Ok(true);
        }
        self.passed.0 += 1;
        let path = &shared.files[file];
        match document {
            Document::Bad(why) => self.note_bad(file, offset, &why),
            Document::Mended { tokens, bad } => {
                bad.iter().for_each(|at| self.note_bad(file, offset + u64::from(*at), NOT_TEXT));
                self.pack(&tokens);
            }
            Document::Window(tokens) if tokens.len() < 2 => {
                return Err(Error::data(path, "contains sequences of fewer than 2 tokens"));
            }
            Document::Window(tokens) => {
                self.buffer.push(Window { tokens, source: Some((file, offset as usize)) });
            }
            Document::Tokens(tokens) => self.pack(&tokens),
            Document::Skipped => {}
        }
        Ok(true)
    }

    /// Cuts the next sequences from what is pending and `tokens`.
    fn pack(&mut self, tokens: &[Token]) {
        self.pending.extend_from_slice(tokens);
        // The last token of a sequence is the first of the next: each is predicted once.
        let length = self.shared.settings.length;
        let mut start = 0;
        while self.pending.len() - start > length {
            let tokens = self.pending[start..=start + length].to_vec();
            self.buffer.push(Window { tokens, source: None });
            start += length;
        }
        self.pending.drain(..start);
    }

    /// Counts the line or row at `offset` of a file, which is no document: in the first pass, since others read the same.
    fn note_bad(&mut self, file: usize, offset: u64, why: &str) {
        if self.epoch != self.first_epoch {
            return;
        }
        self.bad += 1;
        if self.bad <= SHOWN {
            let path = &self.shared.files[file];
            let place = documents::place(path, offset);
            self.shown.push(format!("{}: {place} {why}", path.display()));
        }
    }

    /// Its position.
    pub fn state(&self) -> Object<'static> {
        let number = |n: u64| Value::I64(n as i64);
        let offset = self.open.as_ref().map_or(0, |d| d.offset);
        let lengths: Vec<i32> = self.buffer.iter().map(|w| w.tokens.len() as i32).collect();
        // Two numbers per sequence; -1 for packed ones.
        let source = |w: &Window| w.source.map_or([-1, -1], |(file, row)| [file as i32, row as i32]);
        let sources: Vec<i32> = self.buffer.iter().flat_map(source).collect();
        let integers =
            |values: Vec<i32>| Object::Integers { shape: vec![values.len()], values: Cow::Owned(values) };
        let place = plain([
            ("epoch", number(self.epoch)),
            ("file", number(self.file as u64)),
            ("open", Value::Bool(self.open.is_some())),
            ("emptying", Value::Bool(self.emptying)),
            ("offset", number(offset)),
            ("drawn", number(self.drawn)),
            ("length", number(self.shared.settings.length as u64)),
            ("first_epoch", number(self.first_epoch)),
            ("bad", number(self.bad)),
            ("files", number(self.order.len() as u64)),
            ("holdout", Value::F64(self.shared.settings.holdout)),
            ("name", Value::String(self.file_name(self.order[self.file]))),
        ]);
        Object::dict([
            ("place", Object::Plain(place)),
            ("pending", integers(encode(&self.pending))),
            ("buffer", integers(self.buffer.iter().flat_map(|w| encode(&w.tokens)).collect())),
            ("buffer_lengths", integers(lengths)),
            ("buffer_sources", integers(sources)),
        ])
    }

    /// What identifies a file in a saved position: its name, since folders may be renamed before a run is resumed.
    fn file_name(&self, file: usize) -> String {
        let name = self.shared.files[file].file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Moves to the position that `checkpoint`, of a run with `seed`, has under `key`, unless it has none, or of sequences of
    /// another length.
    ///
    /// # Errors
    /// `Resume` when the position does not exist in these files; the checkpoint's and the files' own.
    pub fn restore(&mut self, checkpoint: &Checkpoint, key: &str, seed: u64) -> Result<Restored> {
        if checkpoint.meta(&format!("{key}.place")).is_none() {
            return Ok(Restored::Nothing);
        }
        let path = checkpoint.path.display();
        let foreign = || {
            let what = format!("{path}: its position in the data does not exist in these files");
            Error::resume(Remedy::RestartData, what)
        };
        let number =
            |name: &str| checkpoint.meta(&format!("{key}.place.{name}")).and_then(as_u64).ok_or_else(foreign);
        let tokens = |name: &str| -> Result<Vec<i32>> {
            let tensor = checkpoint.tensor(&format!("{key}.{name}"))?;
            Ok(checkpoint.view::<i32>(tensor)?.iter().copied().collect())
        };
        let (lengths, sources) = (tokens("buffer_lengths")?, tokens("buffer_sources")?);
        if sources.len() != 2 * lengths.len() {
            return Err(foreign());
        }
        // Ready-made sequences have a source, and their own length.
        let packed = lengths.iter().zip(sources.chunks(2)).find(|(_, source)| source[0] < 0);
        let packed = packed.map(|(&tokens, _)| usize::try_from(tokens).unwrap_or(0).saturating_sub(1));
        let pending = decode(&tokens("pending")?);
        let recorded = || number("length").ok().filter(|_| !pending.is_empty()).map(|n| n as usize);
        if let Some(length) = packed.or_else(recorded).filter(|length| *length != self.shared.settings.length)
        {
            return Ok(Restored::OtherLength(length));
        }
        self.epoch = number("epoch")?;
        self.file = number("file")? as usize;
        self.drawn = number("drawn")?;
        self.bad = number("bad")?;
        self.first_epoch = number("first_epoch").unwrap_or(0);
        self.begin_pass();
        let saved = self.order_of(seed);
        let name = match checkpoint.meta(&format!("{key}.place.name")) {
            Some(Value::String(name)) => name.clone(),
            _ => return Err(foreign()),
        };
        let files = number("files")?;
        if files != saved.len() as u64 {
            let (there, here) = (counted(files), counted(saved.len() as u64));
            let what =
                format!("{path}: its position in the data is one in {there}, at {name}, and here are {here}");
            return Err(Error::resume(Remedy::RestartData, what));
        }
        let file = *saved.get(self.file).ok_or_else(foreign)?;
        if name != self.file_name(file) {
            let what = format!(
                "{path}: its position in the data is in {name}, and in its place among these files is {}",
                self.file_name(file)
            );
            return Err(Error::resume(Remedy::RestartData, what));
        }
        // What was read is then not what comes before it.
        if saved[..=self.file] != self.order[..=self.file] {
            return Ok(Restored::OtherOrder);
        }
        let flag =
            |name: &str| matches!(checkpoint.meta(&format!("{key}.place.{name}")), Some(Value::Bool(true)));
        self.emptying = flag("emptying");
        let offset = number("offset")?;
        self.open = flag("open").then(|| self.open_at(file, offset)).transpose()?;
        if self.open.as_ref().is_some_and(|d| d.end.is_some_and(|end| offset > end)) {
            return Err(foreign());
        }
        self.pending = pending;
        let all = decode(&tokens("buffer")?);
        let mut rest = all.as_slice();
        self.buffer.clear();
        for (&length, source) in lengths.iter().zip(sources.chunks(2)) {
            let (tokens, next) = rest.split_at_checked(length.max(0) as usize).ok_or_else(foreign)?;
            let source = usize::try_from(source[0]).ok().zip(usize::try_from(source[1]).ok());
            if tokens.len() < 2 || source.is_some_and(|(file, _)| file >= self.shared.files.len()) {
                return Err(foreign());
            }
            self.buffer.push(Window { tokens: tokens.to_vec(), source });
            rest = next;
        }
        Ok(Restored::Position)
    }
}
