//! How keys change the state.

use ckpt_inspect::Group;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};

use super::cursor::{Cursor, scroll};
use super::{Command, Cover, Mark, State, View};
use crate::browse::files::FileSort;
use crate::browse::keys::{self, Action};
use crate::browse::layout;
use crate::browse::order::VerdictFilter;
use crate::browse::tree::{Kind, Row, Sort};

/// The most bytes in a query; more is an accidental paste.
const LONGEST_QUERY: usize = 256;

impl State {
    /// A key, the mouse, another size.
    pub(super) fn input(&mut self, event: Event, commands: &mut Vec<Command>) {
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
        let Some(order) = self.narrowed_mut() else { return };
        let query = order.query_mut();
        match key.code {
            KeyCode::Char('c') if control => return commands.push(Command::Quit),
            KeyCode::Char('u') if control => query.clear(),
            KeyCode::Char(c) if !control && query.len() < LONGEST_QUERY => query.push(c),
            KeyCode::Backspace if query.is_empty() => self.searching = false,
            KeyCode::Backspace => drop(query.pop()),
            KeyCode::Enter => self.searching = false,
            KeyCode::Esc => {
                query.clear();
                self.searching = false;
            }
            KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown => {
                return keys::action(&key).into_iter().for_each(|action| self.act(action, commands));
            }
            _ => return,
        }
        // The best match is wanted, not what was selected before.
        if !matches!(key.code, KeyCode::Enter | KeyCode::Esc) {
            if self.view == View::Files {
                (self.selected_file, self.file_list) = (None, Cursor::default());
            } else {
                (self.selected, self.list) = (None, Cursor::default());
            }
        }
        self.reordered();
    }

    /// The list that is shown is to be made again.
    fn reordered(&mut self) {
        if self.view == View::Files { self.files_dirty = true } else { self.dirty = true }
    }

    pub(super) fn act(&mut self, action: Action, commands: &mut Vec<Command>) {
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
                (self.focus_detail, self.searching) = (false, false);
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
            (Cover::Value, _) if matches!(action, Action::Enter | Action::Out) => self.cover = Cover::None,
            (Cover::Help | Cover::Diff | Cover::Value, _) => {
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

    pub(super) fn scroll_detail(&mut self, action: Action) {
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
        } else if self.widen() {
            self.reordered();
        } else if self.view != View::Tensors {
            self.view = View::Tensors;
        } else {
            self.marks.clear();
        }
    }

    /// Ends the search in the list that is shown, or else its filters; false if there are none.
    fn widen(&mut self) -> bool {
        let Some(order) = self.narrowed_mut() else { return false };
        if !order.query().is_empty() {
            order.query_mut().clear();
            return true;
        }
        let filtered = std::mem::take(order.verdict_mut()) != VerdictFilter::All;
        let grouped = self.view == View::Tensors && self.listing.group.take().is_some();
        filtered || grouped
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
                if let Some(network) = self.file().network {
                    self.foldings.fold_all(network);
                }
                self.dirty = true;
            }
            (Action::UnfoldAll, _) => {
                if let Some(network) = self.file().network {
                    self.foldings.unfold_all(network);
                }
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
        let Some(network) = self.file().network else { return };
        self.foldings.set(network, path, !open);
        self.dirty = true;
        self.selected = Some(format!("{path}."));
    }

    fn reorder(&mut self, action: Action) {
        let listing = &mut self.listing;
        match action {
            Action::Flat => listing.flat = !listing.flat,
            Action::Groups => {
                listing.group = match listing.group {
                    None => Group::ALL.first().copied(),
                    Some(group) => Group::ALL.iter().copied().skip_while(|g| *g != group).nth(1),
                };
                self.message = Some(format!("tensors: {}", listing.group.map_or("all", Group::name)));
            }
            action => return self.narrow(action),
        }
        self.dirty = true;
    }

    /// Searches, filters or sorts the list that is shown.
    fn narrow(&mut self, action: Action) {
        let Some(order) = self.narrowed_mut() else { return };
        match action {
            Action::Search => {
                self.searching = true;
                return;
            }
            Action::Sort => {
                let name = order.sort_by_next();
                self.message = Some(format!("sorted by {name}"));
            }
            Action::Reverse => order.reverse(),
            Action::Verdicts => {
                let next = order.verdict().next();
                *order.verdict_mut() = next;
                let name = if next == VerdictFilter::All { "all" } else { next.name() };
                self.message = Some(format!("verdicts: {name}"));
            }
            _ => return,
        }
        self.reordered();
    }

    pub(super) fn sort_by(&mut self, column: Sort) {
        self.listing.order.sort_by(column);
        self.dirty = true;
    }

    pub(super) fn sort_files_by(&mut self, column: FileSort) {
        self.file_order.sort_by(column);
        self.files_dirty = true;
    }

    fn mark(&mut self, mark: Mark) {
        if let Some(at) = self.marks.iter().position(|m| *m == mark) {
            self.marks.remove(at);
            return;
        }
        // Two are compared; a third one replaces the first.
        if self.marks.len() == 2 {
            self.marks.remove(0);
        }
        self.marks.push(mark);
    }

    fn compare(&mut self, commands: &mut Vec<Command>) {
        let here = match self.view {
            View::Files => self.file_at().map(Mark::File),
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
            View::Metadata => {
                let row = self.values.get(self.value_list.at);
                row.map(|v| if self.cover == Cover::Value { v.text.clone() } else { v.path.clone() })
            }
            View::Files => self.file_at().map(|file| self.files[file].path.display().to_string()),
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
            (Action::Enter, None) => {
                self.cover = Cover::Value;
                self.cover_scroll = 0;
            }
            (Action::Out, _) => {
                let parent = self.values[..self.value_list.at].iter().rposition(|v| v.depth < row.depth);
                self.value_list.at = parent.unwrap_or(self.value_list.at);
            }
            _ => {}
        }
    }

    fn act_on_files(&mut self, action: Action, commands: &mut Vec<Command>) {
        let page = usize::from(layout::areas(self).list.height);
        self.file_list.go(action, self.file_rows.len(), page);
        match (action, self.file_at()) {
            (Action::Enter | Action::In, Some(file)) => {
                self.show(file, commands);
                self.view = View::Tensors;
            }
            (Action::Mark, Some(file)) => {
                self.mark(Mark::File(file));
                self.file_list.at += 1;
            }
            (action, _) => self.narrow(action),
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
}
