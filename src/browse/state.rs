//! All that the browser knows, and how messages change it. Nothing here draws, reads files or waits: what is to be
//! done outside is returned as commands.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use ckpt_inspect::diff::{Diff, TensorDiff};
use ckpt_inspect::run::Run;
use ckpt_inspect::survey::Survey;
use ckpt_inspect::{
    CheckpointRecord, Group, TensorRecord, Thresholds, judge, judge_tensor, without_state_dict,
};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use nucleo_matcher::Matcher;

use super::keys::{self, Action};
use super::layout::{self, Column};
use super::tree::{self, Kind, Order, Row, Sort};
use super::values::{self, ValueRow};

/// What happened.
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
    /// The terminal went away, or a signal asked to leave.
    Leave,
}

/// What is to be done.
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
    /// To the clipboard.
    Copy(String),
}

/// Something marked for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    File(usize),
    Tensor { file: usize, tensor: usize },
}

/// What a comparison found.
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
}

impl File {
    /// A file that was not looked at yet.
    pub fn new(path: PathBuf) -> Self {
        File { path, record: None, complete: false, done: 0, by_name: HashMap::new() }
    }

    /// Its record, once the header was read.
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

/// Which list fills the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Tensors,
    Metadata,
    Files,
}

/// What covers the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    None,
    /// The detail pane, over everything.
    Detail,
    Diff,
    Help,
}

/// The line that keys act on, and the first one shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub at: usize,
    pub offset: usize,
}

impl Cursor {
    /// Keeps it within `len` lines, of which `height` are shown.
    fn settle(&mut self, len: usize, height: usize) {
        self.at = self.at.min(len.saturating_sub(1));
        let height = height.max(1);
        self.offset = self.offset.min(self.at).max((self.at + 1).saturating_sub(height));
        self.offset = self.offset.min(len.saturating_sub(height));
    }

    fn go(&mut self, action: Action, len: usize, page: usize) {
        let page = page.saturating_sub(1).max(1);
        self.at = match action {
            Action::Up => self.at.saturating_sub(1),
            Action::Down => self.at + 1,
            Action::PageUp => self.at.saturating_sub(page),
            Action::PageDown => self.at + page,
            Action::Top => 0,
            Action::Bottom => len,
            _ => self.at,
        }
        .min(len.saturating_sub(1));
    }
}

/// The whole of it.
pub struct State {
    pub files: Vec<File>,
    /// Files of each run in the order of their steps.
    pub runs: Vec<Vec<usize>>,
    pub current: usize,
    pub view: View,
    pub cover: Cover,
    pub order: Order,
    pub searching: bool,
    pub rows: Vec<Row>,
    pub list: Cursor,
    pub values: Vec<ValueRow>,
    pub value_list: Cursor,
    pub file_list: Cursor,
    /// Whether keys scroll the detail pane.
    pub focus_detail: bool,
    pub detail_scroll: usize,
    pub cover_scroll: usize,
    pub marks: Vec<Mark>,
    /// Of the tensor whose detail is shown.
    pub survey: Option<(usize, usize, Result<Survey, String>)>,
    pub comparison: Option<Comparison>,
    pub comparing: bool,
    pub message: Option<String>,
    pub size: (u16, u16),
    pub colors: bool,
    unfolded: Option<HashSet<String>>,
    /// Every module of the files shown so far.
    seen_modules: HashSet<String>,
    toggled_values: HashSet<String>,
    selected: Option<String>,
    dirty: bool,
    wanted: Option<(usize, usize)>,
    thresholds: Thresholds,
    matcher: Matcher,
}

impl State {
    /// A browser of `paths`, none of which was opened yet.
    pub fn new(paths: Vec<PathBuf>, size: (u16, u16), colors: bool, thresholds: Thresholds) -> Self {
        let files: Vec<File> = paths.into_iter().map(File::new).collect();
        State {
            runs: vec![(0..files.len()).collect()],
            files,
            current: 0,
            view: View::Tensors,
            cover: Cover::None,
            order: Order::default(),
            searching: false,
            rows: Vec::new(),
            list: Cursor::default(),
            values: Vec::new(),
            value_list: Cursor::default(),
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
            unfolded: None,
            seen_modules: HashSet::new(),
            toggled_values: HashSet::new(),
            selected: None,
            dirty: true,
            wanted: None,
            thresholds,
            matcher: Matcher::default(),
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

    /// Takes a message in.
    pub fn update(&mut self, message: Message) -> Vec<Command> {
        let mut commands = Vec::new();
        match message {
            Message::Input(event) => self.input(event, &mut commands),
            Message::Opened { file, record, complete } => self.opened(file, record, complete),
            Message::Measured { file, tensor, record } => self.measured(file, tensor, *record),
            Message::Complete { file } => {
                self.files[file].complete = true;
                if let Some(Ok(record)) = &mut self.files[file].record {
                    judge(record, &self.thresholds);
                }
                self.dirty = true;
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

    /// Brings the lists up to date, once before drawing.
    pub fn settle(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        if std::mem::take(&mut self.dirty) {
            self.list_tensors();
            self.list_values();
        }
        let height = usize::from(layout::areas(self).list.height);
        self.list.settle(self.rows.len(), height);
        self.value_list.settle(self.values.len(), height);
        self.file_list.settle(self.files.len(), height);
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
        if let Ok(record) = record.as_ref()
            && at == self.current
        {
            self.unfold_new(tree::first_unfolded(record), tree::all_modules(record));
        }
        let file = &mut self.files[at];
        if let Ok(record) = &record {
            for (i, tensor) in record.tensors.iter().enumerate() {
                file.by_name.entry(without_state_dict(&tensor.name).to_string()).or_insert(i);
            }
        }
        file.complete = complete;
        file.record = Some(record.map(|r| *r));
        self.dirty = true;
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
        // Which run a checkpoint belongs to is told by names and shapes alone.
        let headers = self.files.iter().filter_map(File::known).cloned().collect();
        self.runs = Run::group(headers, &self.thresholds)
            .into_iter()
            .map(|run| run.checkpoints.iter().filter_map(|c| at.get_mut(&c.path)?.pop()).collect())
            .collect();
    }

    fn measured(&mut self, file: usize, tensor: usize, mut record: TensorRecord) {
        (record.verdict, record.reason) = judge_tensor(&record, &self.thresholds);
        let known = &mut self.files[file];
        known.done += record.bytes;
        if let Some(Ok(whole)) = &mut known.record {
            whole.verdict = whole.verdict.max(record.verdict);
            if let Some(slot) = whole.tensors.get_mut(tensor) {
                *slot = record;
            }
        }
        self.dirty |= file == self.current;
    }

    /// What tells a row from the others, also after the list was made again.
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
        let empty = HashSet::new();
        let unfolded = self.unfolded.as_ref().unwrap_or(&empty);
        let rows = match self.files[self.current].known() {
            Some(record) => tree::rows(record, &self.order, unfolded, &mut self.matcher),
            None => Vec::new(),
        };
        self.rows = rows;
        let again =
            self.selected.as_ref().and_then(|key| self.rows.iter().position(|r| self.key_of(r) == *key));
        if let Some(at) = again {
            self.list.at = at;
        }
    }

    fn list_values(&mut self) {
        self.values = match self.files[self.current].known() {
            Some(record) => values::rows(record, &self.toggled_values),
            None => Vec::new(),
        };
    }

    fn input(&mut self, event: Event, commands: &mut Vec<Command>) {
        match event {
            Event::Resize(width, height) => self.size = (width, height),
            Event::Key(key) if keys::is_press(&key) => {
                self.message = None;
                if self.searching {
                    self.type_query(key, commands);
                } else if let Some(action) = keys::action(&key) {
                    self.act(action, commands);
                }
            }
            Event::Mouse(mouse) => self.mouse(mouse, commands),
            _ => {}
        }
    }

    fn type_query(&mut self, key: KeyEvent, commands: &mut Vec<Command>) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return commands.push(Command::Quit),
            KeyCode::Char('u') if control => self.order.query.clear(),
            KeyCode::Char(c) if !control => self.order.query.push(c),
            KeyCode::Backspace if self.order.query.is_empty() => self.searching = false,
            KeyCode::Backspace => drop(self.order.query.pop()),
            KeyCode::Enter => self.searching = false,
            KeyCode::Esc => {
                self.order.query.clear();
                self.searching = false;
            }
            KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown => {
                return keys::action(&key).into_iter().for_each(|action| self.act(action, commands));
            }
            _ => return,
        }
        // The best match is wanted, not what was selected before.
        if !matches!(key.code, KeyCode::Enter | KeyCode::Esc) {
            self.selected = None;
            self.list = Cursor::default();
        }
        self.dirty = true;
    }

    fn act(&mut self, action: Action, commands: &mut Vec<Command>) {
        match action {
            Action::Quit => return commands.push(Command::Quit),
            Action::Suspend => return commands.push(Command::Suspend),
            Action::Help => {
                self.cover = if self.cover == Cover::Help { Cover::None } else { Cover::Help };
                self.cover_scroll = 0;
                return;
            }
            Action::Earlier => return self.step(-1, commands),
            Action::Later => return self.step(1, commands),
            Action::Escape => return self.escape(),
            Action::Tensors | Action::Metadata | Action::Files => {
                self.cover = Cover::None;
                self.focus_detail = false;
                self.view = match action {
                    Action::Tensors => View::Tensors,
                    Action::Metadata => View::Metadata,
                    _ => View::Files,
                };
                return;
            }
            Action::Copy => return self.copy(commands),
            Action::Diff => return self.compare(commands),
            _ => {}
        }
        match (self.cover, self.view) {
            (Cover::Help | Cover::Diff, _) => {
                let lines = layout::cover_lines(self);
                let page = usize::from(layout::areas(self).body.height);
                scroll(&mut self.cover_scroll, action, lines, page);
            }
            (Cover::Detail, _) => {
                if matches!(action, Action::Enter | Action::Out) {
                    self.cover = Cover::None;
                } else {
                    self.scroll_detail(action);
                }
            }
            (Cover::None, View::Tensors) if self.focus_detail => match action {
                Action::Focus | Action::Out => self.focus_detail = false,
                action => self.scroll_detail(action),
            },
            (Cover::None, View::Tensors) => self.act_on_tensors(action),
            (Cover::None, View::Metadata) => self.act_on_values(action),
            (Cover::None, View::Files) => self.act_on_files(action, commands),
        }
    }

    fn scroll_detail(&mut self, action: Action) {
        let lines = layout::detail_lines(self);
        let areas = layout::areas(self);
        let area = if self.cover == Cover::Detail { areas.body } else { areas.detail.unwrap_or(areas.body) };
        scroll(&mut self.detail_scroll, action, lines, usize::from(area.height));
    }

    fn escape(&mut self) {
        if self.cover != Cover::None {
            self.cover = Cover::None;
        } else if self.focus_detail {
            self.focus_detail = false;
        } else if self.view != View::Tensors {
            self.view = View::Tensors;
        } else if !self.order.query.is_empty() {
            self.order.query.clear();
            self.dirty = true;
        } else if self.order.group.is_some() || self.order.verdict != tree::VerdictFilter::All {
            self.order.group = None;
            self.order.verdict = tree::VerdictFilter::All;
            self.dirty = true;
        } else {
            self.marks.clear();
        }
    }

    fn act_on_tensors(&mut self, action: Action) {
        let page = usize::from(layout::areas(self).list.height);
        self.list.go(action, self.rows.len(), page);
        let row = self.rows.get(self.list.at).cloned();
        match (action, row) {
            (Action::In | Action::Enter, Some(Row { kind: Kind::Module { path, open }, .. })) => {
                if !open || action == Action::Enter {
                    self.fold(&path, open);
                } else {
                    self.list.at += 1;
                }
            }
            (Action::In, Some(_)) if layout::areas(self).detail.is_some() => self.focus_detail = true,
            (Action::In | Action::Enter, Some(_)) => {
                self.cover = Cover::Detail;
                self.detail_scroll = 0;
            }
            (Action::Focus, Some(Row { kind: Kind::Tensor(_), .. })) => {
                if layout::areas(self).detail.is_some() {
                    self.focus_detail = true;
                } else {
                    self.cover = Cover::Detail;
                }
            }
            (Action::Out, Some(Row { kind: Kind::Module { path, open: true }, .. })) => {
                self.fold(&path, true)
            }
            (Action::Out, Some(row)) => {
                let parent = self.rows[..self.list.at].iter().rposition(|r| r.depth < row.depth);
                self.list.at = parent.unwrap_or(self.list.at);
            }
            (Action::FoldAll, _) => {
                self.unfolded = Some(HashSet::new());
                self.dirty = true;
            }
            (Action::UnfoldAll, _) => {
                self.unfolded = self.file().known().map(tree::all_modules);
                self.dirty = true;
            }
            (Action::Mark, Some(Row { kind: Kind::Tensor(tensor), .. })) => {
                self.mark(Mark::Tensor { file: self.current, tensor });
                self.list.at = (self.list.at + 1).min(self.rows.len() - 1);
            }
            (Action::Mark, Some(_)) => self.message = Some("modules cannot be marked, tensors can".into()),
            _ => self.reorder(action),
        }
    }

    fn fold(&mut self, path: &str, open: bool) {
        let unfolded = self.unfolded.get_or_insert_default();
        if open {
            unfolded.remove(path);
        } else {
            unfolded.insert(path.to_string());
        }
        self.dirty = true;
        self.selected = Some(format!("{path}."));
    }

    fn reorder(&mut self, action: Action) {
        let order = &mut self.order;
        match action {
            Action::Search => {
                self.searching = true;
                return;
            }
            Action::Sort => {
                (order.sort, order.reversed) = (order.sort.next(), false);
                self.message = Some(format!("sorted by {}", order.sort.name()));
            }
            Action::Reverse => order.reversed = !order.reversed,
            Action::Flat => order.flat = !order.flat,
            Action::Verdicts => {
                order.verdict = order.verdict.next();
                let name = order.verdict.name();
                self.message = Some(format!("verdicts: {}", if name.is_empty() { "all" } else { name }));
            }
            Action::Groups => {
                order.group = match order.group {
                    None => Some(Group::Weights),
                    Some(Group::Weights) => Some(Group::Optimizer),
                    Some(Group::Optimizer) => Some(Group::Other),
                    Some(Group::Other) => None,
                };
                self.message = Some(format!("tensors: {}", group_name(order.group).unwrap_or("all")));
            }
            _ => return,
        }
        self.dirty = true;
    }

    fn sort_by(&mut self, column: Sort) {
        if self.order.sort == column {
            self.order.reversed = !self.order.reversed;
        } else {
            (self.order.sort, self.order.reversed) = (column, false);
        }
        self.dirty = true;
    }

    fn mark(&mut self, mark: Mark) {
        if let Some(at) = self.marks.iter().position(|m| *m == mark) {
            self.marks.remove(at);
            return;
        }
        // Two are compared; a third one takes the place of the first.
        if self.marks.len() == 2 {
            self.marks.remove(0);
        }
        self.marks.push(mark);
    }

    fn compare(&mut self, commands: &mut Vec<Command>) {
        let here = match self.view {
            View::Files => Some(Mark::File(self.file_list.at)),
            _ => self.tensor().map(|(tensor, _)| Mark::Tensor { file: self.current, tensor }),
        };
        let is_file = |mark: &Mark| matches!(mark, Mark::File(_));
        let (a, b) = match (self.marks.as_slice(), here) {
            ([a, b], _) if is_file(a) == is_file(b) => (a.clone(), b.clone()),
            ([.., a], Some(b)) if is_file(a) == is_file(&b) && *a != b => (a.clone(), b),
            ([], Some(Mark::File(b))) if b != self.current => (Mark::File(self.current), Mark::File(b)),
            _ => {
                self.message = Some("mark two tensors or two files with Space, then d compares them".into());
                return;
            }
        };
        self.comparison = None;
        self.comparing = true;
        self.cover = Cover::Diff;
        self.cover_scroll = 0;
        commands.push(Command::Compare(a, b));
    }

    fn copy(&mut self, commands: &mut Vec<Command>) {
        let text = match self.view {
            View::Tensors => match self.rows.get(self.list.at).map(|row| &row.kind) {
                Some(Kind::Module { path, .. }) => Some(path.clone()),
                _ => self.tensor().map(|(_, t)| t.name.clone()),
            },
            View::Metadata => self.values.get(self.value_list.at).map(|v| v.path.clone()),
            View::Files => self.files.get(self.file_list.at).map(|f| f.path.display().to_string()),
        };
        if let Some(text) = text {
            self.message = Some(format!("copied {text}"));
            commands.push(Command::Copy(text));
        }
    }

    fn act_on_values(&mut self, action: Action) {
        let page = usize::from(layout::areas(self).list.height);
        self.value_list.go(action, self.values.len(), page);
        let Some(row) = self.values.get(self.value_list.at).cloned() else { return };
        match (action, row.open) {
            (Action::Enter, Some(_)) | (Action::In, Some(false)) | (Action::Out, Some(true)) => {
                if !self.toggled_values.remove(&row.path) {
                    self.toggled_values.insert(row.path);
                }
                self.dirty = true;
            }
            (Action::In, Some(true)) => self.value_list.at += 1,
            (Action::Out, _) => {
                let parent = self.values[..self.value_list.at].iter().rposition(|v| v.depth < row.depth);
                self.value_list.at = parent.unwrap_or(self.value_list.at);
            }
            _ => {}
        }
    }

    fn act_on_files(&mut self, action: Action, commands: &mut Vec<Command>) {
        let page = usize::from(layout::areas(self).list.height);
        self.file_list.go(action, self.files.len(), page);
        match action {
            Action::Enter | Action::In => {
                self.show(self.file_list.at, commands);
                self.view = View::Tensors;
            }
            Action::Mark => {
                self.mark(Mark::File(self.file_list.at));
                self.file_list.at += 1;
            }
            _ => {}
        }
    }

    /// Goes to the checkpoint `by` places later in the run.
    fn step(&mut self, by: isize, commands: &mut Vec<Command>) {
        let run = self.run();
        let at = run.iter().position(|&f| f == self.current).unwrap_or(0);
        let Some(&next) = at.checked_add_signed(by).and_then(|at| run.get(at)) else {
            self.message = Some(
                if by < 0 { "this is the first checkpoint" } else { "this is the last checkpoint" }.into(),
            );
            return;
        };
        self.show(next, commands);
    }

    /// Another network has other modules; those of the same one stay as the user left them.
    fn unfold_new(&mut self, first: HashSet<String>, all: HashSet<String>) {
        let unfolded = self.unfolded.get_or_insert_default();
        unfolded.extend(first.into_iter().filter(|path| !self.seen_modules.contains(path)));
        self.seen_modules.extend(all);
    }

    fn show(&mut self, file: usize, commands: &mut Vec<Command>) {
        if file == self.current {
            return;
        }
        self.current = file;
        self.file_list.at = file;
        self.dirty = true;
        let new = self.file().known().map(|r| (tree::first_unfolded(r), tree::all_modules(r)));
        if let Some((first, all)) = new {
            self.unfold_new(first, all);
        }
        if !self.files[file].complete {
            commands.push(Command::Measure(file));
        }
    }

    fn mouse(&mut self, mouse: MouseEvent, commands: &mut Vec<Command>) {
        let areas = layout::areas(self);
        let place = ratatui::layout::Position::new(mouse.column, mouse.row);
        let over_detail = areas.detail.is_some_and(|d| d.contains(place)) || self.cover == Cover::Detail;
        let wheel = match mouse.kind {
            MouseEventKind::ScrollUp => Some(Action::Up),
            MouseEventKind::ScrollDown => Some(Action::Down),
            _ => None,
        };
        if let Some(action) = wheel {
            for _ in 0..3 {
                if over_detail && self.cover != Cover::Help && self.cover != Cover::Diff {
                    self.scroll_detail(action);
                } else {
                    let focus = std::mem::take(&mut self.focus_detail);
                    self.act(action, commands);
                    self.focus_detail = focus;
                }
            }
            return;
        }
        if mouse.kind != MouseEventKind::Down(MouseButton::Left) {
            return;
        }
        self.message = None;
        if areas.header.contains(place) {
            if let Some(action) = layout::tab_at(self, mouse.column) {
                self.act(action, commands);
            }
        } else if areas.slider.is_some_and(|s| s.contains(place)) {
            if let Some(file) = layout::slider_file(self, mouse.column) {
                self.show(file, commands);
            }
        } else if self.cover != Cover::None {
            self.cover = Cover::None;
        } else if areas.heading.contains(place) && self.view == View::Tensors {
            match layout::column_at(self, mouse.column) {
                Some(Column::Name) => self.sort_by(Sort::Name),
                Some(Column::Shape) => self.sort_by(Sort::Shape),
                Some(Column::Dtype) => self.sort_by(Sort::Dtype),
                Some(Column::Size) => self.sort_by(Sort::Size),
                Some(Column::Std | Column::Trend) => self.sort_by(Sort::Std),
                Some(Column::Verdict) => self.sort_by(Sort::Verdict),
                None => {}
            }
        } else if areas.list.contains(place) {
            self.focus_detail = false;
            let line = usize::from(mouse.row - areas.list.y);
            let (cursor, len) = match self.view {
                View::Tensors => (&mut self.list, self.rows.len()),
                View::Metadata => (&mut self.value_list, self.values.len()),
                View::Files => (&mut self.file_list, self.files.len()),
            };
            let at = cursor.offset + line;
            if at >= len {
                return;
            }
            let again = cursor.at == at;
            cursor.at = at;
            let is_module = self.view == View::Tensors && matches!(self.rows[at].kind, Kind::Module { .. });
            if again || is_module {
                self.act(Action::Enter, commands);
            }
        } else if over_detail {
            self.focus_detail = true;
        }
    }
}

/// A group in words; `None` for all.
pub fn group_name(group: Option<Group>) -> Option<&'static str> {
    Some(match group? {
        Group::Weights => "weights",
        Group::Optimizer => "optimizer",
        Group::Other => "other",
    })
}

fn scroll(at: &mut usize, action: Action, lines: usize, page: usize) {
    let mut cursor = Cursor { at: *at, offset: 0 };
    cursor.go(action, lines.saturating_sub(page.saturating_sub(1)).max(1), page);
    *at = cursor.at;
}
