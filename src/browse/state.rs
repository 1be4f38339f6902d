//! The whole state of the browser, and how messages change it. Nothing here draws, reads files or waits: work to be
//! done outside is returned as commands.

mod actions;
mod cursor;
mod folding;
mod mouse;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use ckpt_inspect::diff::{Diff, TensorDiff};
use ckpt_inspect::run::Run;
use ckpt_inspect::survey::Survey;
use ckpt_inspect::{CheckpointRecord, TensorRecord, Thresholds, judge, judge_tensor, without_state_dict};
use crossterm::event::Event;

use super::files::{self, FileRow, FileSort};
use super::layout;
use super::order::{Narrow, Order};
use super::tree::{self, Kind, Listing, Row};
use super::values::{self, ValueRow};
use cursor::Cursor;
use folding::Foldings;

/// A message: something that happened.
pub enum Message {
    /// A key, the mouse, another size.
    Input(Event),
    /// The header of a file was read, or all of it was in the cache.
    Opened { file: usize, record: Result<Box<CheckpointRecord>, String>, complete: bool },
    /// A tensor was measured.
    Measured { file: usize, tensor: usize, record: Box<TensorRecord> },
    /// Every tensor of a file was measured.
    Complete { file: usize },
    /// A tensor was surveyed.
    Looked { file: usize, tensor: usize, survey: Result<Box<Survey>, String> },
    /// Two tensors or files were compared.
    Compared(Box<Comparison>),
    /// The terminal was closed, or a signal asked to leave.
    Leave,
}

/// A command: something that the browser asks the program to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Quit,
    Suspend,
    /// Measure this file before the others.
    Measure(usize),
    /// Survey a tensor of a file.
    Look {
        file: usize,
        tensor: usize,
    },
    Compare(Mark, Mark),
    /// Copy to the clipboard.
    Copy(String),
}

/// Something marked for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    File(usize),
    Tensor { file: usize, tensor: usize },
}

/// The result of a comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub a: Mark,
    pub b: Mark,
    pub found: Result<Found, String>,
}

#[derive(Clone, Debug)]
pub enum Found {
    Tensors(TensorDiff),
    Files(Diff),
}

/// One of the checkpoints.
pub struct File {
    pub path: PathBuf,
    /// `None` until its header was read.
    pub record: Option<Result<CheckpointRecord, String>>,
    /// Whether every tensor was measured.
    pub complete: bool,
    /// Bytes measured.
    pub done: u64,
    /// Tensors by name without the state dict's key.
    by_name: HashMap<String, usize>,
    /// The number of its network, once the header has been read.
    network: Option<usize>,
}

impl File {
    /// A file that has not been opened yet.
    pub fn new(path: PathBuf) -> Self {
        File { path, record: None, complete: false, done: 0, by_name: HashMap::new(), network: None }
    }

    /// Its record, once the header has been read.
    pub fn known(&self) -> Option<&CheckpointRecord> {
        self.record.as_ref()?.as_ref().ok()
    }

    /// The tensor called `name`, without the state dict's key.
    pub fn tensor(&self, name: &str) -> Option<&TensorRecord> {
        self.known()?.tensors.get(*self.by_name.get(without_state_dict(name))?)
    }

    /// Bytes to measure.
    pub fn total(&self) -> u64 {
        self.known().map_or(0, |r| r.tensors.iter().map(|t| t.bytes).sum())
    }
}

/// The list on the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Tensors,
    Metadata,
    Files,
}

/// A page that covers the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    None,
    /// The detail pane, over the whole screen.
    Detail,
    Diff,
    Help,
    /// A plain value, whole.
    Value,
}

/// The state of the browser.
pub struct State {
    pub files: Vec<File>,
    /// Files of each run in the order of their steps.
    pub runs: Vec<Vec<usize>>,
    pub current: usize,
    pub view: View,
    pub cover: Cover,
    pub listing: Listing,
    pub file_order: Order<FileSort>,
    pub searching: bool,
    pub rows: Vec<Row>,
    pub list: Cursor,
    pub values: Vec<ValueRow>,
    pub value_list: Cursor,
    pub file_rows: Vec<FileRow>,
    pub file_list: Cursor,
    /// Whether keys scroll the detail pane.
    pub focus_detail: bool,
    pub detail_scroll: usize,
    pub cover_scroll: usize,
    pub marks: Vec<Mark>,
    /// The survey of the tensor whose details are shown.
    pub survey: Option<(usize, usize, Result<Survey, String>)>,
    pub comparison: Option<Comparison>,
    pub comparing: bool,
    pub message: Option<String>,
    pub size: (u16, u16),
    pub colors: bool,
    /// Whether the terminal is the Linux console, whose font has few characters.
    pub console: bool,
    foldings: Foldings,
    toggled_values: HashSet<String>,
    selected: Option<String>,
    selected_file: Option<usize>,
    dirty: bool,
    files_dirty: bool,
    wanted: Option<(usize, usize)>,
    thresholds: Thresholds,
}

impl State {
    /// A browser of `paths`, none of which has been opened yet.
    pub fn new(paths: Vec<PathBuf>, size: (u16, u16), colors: bool, thresholds: Thresholds) -> Self {
        let files: Vec<File> = paths.into_iter().map(File::new).collect();
        State {
            runs: vec![(0..files.len()).collect()],
            files,
            current: 0,
            view: View::Tensors,
            cover: Cover::None,
            listing: Listing::default(),
            file_order: Order::default(),
            searching: false,
            rows: Vec::new(),
            list: Cursor::default(),
            values: Vec::new(),
            value_list: Cursor::default(),
            file_rows: Vec::new(),
            file_list: Cursor::default(),
            focus_detail: false,
            detail_scroll: 0,
            cover_scroll: 0,
            marks: Vec::new(),
            survey: None,
            comparison: None,
            comparing: false,
            message: None,
            size,
            colors,
            console: false,
            foldings: Foldings::default(),
            toggled_values: HashSet::new(),
            selected: None,
            selected_file: None,
            dirty: true,
            files_dirty: true,
            wanted: None,
            thresholds,
        }
    }

    /// The file shown.
    pub fn file(&self) -> &File {
        &self.files[self.current]
    }

    /// The files of the run of the file shown, in order.
    pub fn run(&self) -> &[usize] {
        self.runs.iter().find(|run| run.contains(&self.current)).map_or(&[], Vec::as_slice)
    }

    /// The tensor under the cursor, and its index.
    pub fn tensor(&self) -> Option<(usize, &TensorRecord)> {
        let Kind::Tensor(i) = self.rows.get(self.list.at)?.kind else { return None };
        Some((i, self.file().known()?.tensors.get(i)?))
    }

    /// Measured share of everything, 0 to 1; `None` when nothing is left to measure.
    pub fn progress(&self) -> Option<f64> {
        if self.files.iter().all(|f| f.complete || matches!(f.record, Some(Err(_)))) {
            return None;
        }
        let total: u64 = self.files.iter().map(File::total).sum();
        let done: u64 = self.files.iter().map(|f| if f.complete { f.total() } else { f.done }).sum();
        Some(if total == 0 { 0.0 } else { done as f64 / total as f64 })
    }

    /// Handles a message.
    pub fn update(&mut self, message: Message) -> Vec<Command> {
        let mut commands = Vec::new();
        match message {
            Message::Input(event) => {
                // A key moves the cursor of the list as it is now; what is measured afterwards lists everything anew
                // and puts the cursor where it was when the lists were last settled.
                commands.extend(self.settle());
                self.input(event, &mut commands);
                commands.extend(self.settle());
            }
            Message::Opened { file, record, complete } => self.opened(file, record, complete),
            Message::Measured { file, tensor, record } => self.measured(file, tensor, *record),
            Message::Complete { file } => {
                self.files[file].complete = true;
                if let Some(Ok(record)) = &mut self.files[file].record {
                    judge(record, &self.thresholds);
                }
                (self.dirty, self.files_dirty) = (true, true);
            }
            Message::Looked { file, tensor, survey } => {
                self.survey = Some((file, tensor, survey.map(|s| *s)));
            }
            Message::Compared(comparison) => {
                self.comparison = Some(*comparison);
                self.comparing = false;
            }
            Message::Leave => commands.push(Command::Quit),
        }
        commands
    }

    /// Updates the lists: around each key, and before drawing.
    pub fn settle(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        if std::mem::take(&mut self.dirty) {
            self.list_tensors();
            self.list_values();
        }
        if std::mem::take(&mut self.files_dirty) {
            self.list_files();
        }
        let height = usize::from(layout::areas(self).list.height);
        self.list.settle(self.rows.len(), height);
        self.value_list.settle(self.values.len(), height);
        self.file_list.settle(self.file_rows.len(), height);
        self.selected_file = self.file_at();
        self.selected = self.rows.get(self.list.at).map(|row| self.key_of(row));
        let shown = layout::areas(self).detail.is_some() || self.cover == Cover::Detail;
        if let (true, Some((tensor, _))) = (shown, self.tensor())
            && self.wanted != Some((self.current, tensor))
        {
            self.wanted = Some((self.current, tensor));
            self.detail_scroll = 0;
            commands.push(Command::Look { file: self.current, tensor });
        }
        commands
    }

    fn opened(&mut self, at: usize, record: Result<Box<CheckpointRecord>, String>, complete: bool) {
        let file = &mut self.files[at];
        if let Ok(record) = &record {
            file.network = Some(self.foldings.meet(record));
            for (i, tensor) in record.tensors.iter().enumerate() {
                file.by_name.entry(without_state_dict(&tensor.name).to_string()).or_insert(i);
            }
        }
        file.complete = complete;
        file.record = Some(record.map(|r| *r));
        (self.dirty, self.files_dirty) = (true, true);
        if self.files.iter().all(|f| f.record.is_some()) {
            self.tell_runs_apart();
        }
    }

    fn tell_runs_apart(&mut self) {
        let mut at: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, file) in self.files.iter().enumerate() {
            if let Some(record) = file.known() {
                at.entry(record.path.clone()).or_default().push(i);
            }
        }
        // Which run a checkpoint belongs to follows from names and shapes alone.
        let headers = self.files.iter().filter_map(File::known).cloned().collect();
        self.runs = Run::group(headers, &self.thresholds)
            .into_iter()
            .map(|run| run.checkpoints.iter().filter_map(|c| at.get_mut(&c.path)?.pop()).collect())
            .collect();
    }

    fn measured(&mut self, file: usize, tensor: usize, mut record: TensorRecord) {
        let judgement = judge_tensor(&record, &self.thresholds);
        let mut findings = judgement.findings.into_iter();
        (record.verdict, record.finding) = (judgement.verdict, findings.next().map(Box::new));
        record.also = findings.collect();
        let known = &mut self.files[file];
        known.done += record.bytes;
        if let Some(Ok(whole)) = &mut known.record {
            whole.verdict = whole.verdict.max(record.verdict);
            if let Some(slot) = whole.tensors.get_mut(tensor) {
                *slot = record;
            }
        }
        self.dirty |= file == self.current;
        self.files_dirty = true;
    }

    /// The identity of a row, which stays when the list is rebuilt.
    fn key_of(&self, row: &Row) -> String {
        match &row.kind {
            Kind::Module { path, .. } => format!("{path}."),
            Kind::Tensor(i) => {
                let name = self.file().known().and_then(|r| r.tensors.get(*i)).map(|t| t.name.as_str());
                format!("={}", name.unwrap_or_default())
            }
        }
    }

    fn list_tensors(&mut self) {
        let file = &self.files[self.current];
        self.rows = match (file.known(), file.network) {
            (Some(record), Some(network)) => {
                tree::rows(record, &self.listing, self.foldings.unfolded(network))
            }
            _ => Vec::new(),
        };
        let again =
            self.selected.as_ref().and_then(|key| self.rows.iter().position(|r| self.key_of(r) == *key));
        if let Some(at) = again {
            self.list.at = at;
        }
    }

    fn list_files(&mut self) {
        self.file_rows = files::rows(&self.files, &self.file_order);
        let again =
            self.selected_file.and_then(|file| self.file_rows.iter().position(|row| row.file == file));
        if let Some(at) = again {
            self.file_list.at = at;
        }
    }

    /// The file under the cursor of the list of files.
    pub fn file_at(&self) -> Option<usize> {
        Some(self.file_rows.get(self.file_list.at)?.file)
    }

    /// How the list that is shown is searched and filtered; `None` for metadata.
    pub fn narrowed(&self) -> Option<&dyn Narrow> {
        match self.view {
            View::Tensors => Some(&self.listing.order),
            View::Files => Some(&self.file_order),
            View::Metadata => None,
        }
    }

    fn narrowed_mut(&mut self) -> Option<&mut dyn Narrow> {
        match self.view {
            View::Tensors => Some(&mut self.listing.order),
            View::Files => Some(&mut self.file_order),
            View::Metadata => None,
        }
    }

    fn list_values(&mut self) {
        self.values = match self.files[self.current].known() {
            Some(record) => values::rows(record, &self.toggled_values),
            None => Vec::new(),
        };
    }

    fn show(&mut self, file: usize, commands: &mut Vec<Command>) {
        if file == self.current {
            return;
        }
        self.current = file;
        self.selected_file = Some(file);
        self.files_dirty = true;
        self.dirty = true;
        if !self.files[file].complete {
            commands.push(Command::Measure(file));
        }
    }
}
