//! Draws the state: the same state and size always give the same characters.

use ckpt_inspect::Verdict;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;
use unicode_width::UnicodeWidthStr;

use super::chart;
use super::files::FileSort;
use super::glyphs;
use super::layout::{self, Areas, Column};
use super::order::{Sorting, VerdictFilter};
use super::pages;
use super::state::{Cover, Mark, State, View};
use super::theme::Theme;
use super::tree::{Kind, Row, Sort};
use crate::terminal::{bytes, count, escape, shorten};

/// Draws all of `state` into `screen`.
pub fn draw(state: &State, screen: &mut Buffer) {
    let areas = layout::areas(state);
    let theme = Theme { colors: state.colors };
    let mut view = Drawing { state, theme, screen };
    view.header(areas.header);
    if let Some(area) = areas.slider {
        view.slider(area);
    }
    match state.cover {
        Cover::Help => view.page(areas.body, &pages::help(state), state.cover_scroll),
        Cover::Diff => view.page(areas.body, &pages::comparison(state), state.cover_scroll),
        Cover::Value => view.page(areas.body, &pages::value(state), state.cover_scroll),
        Cover::Detail => {
            let lines = pages::detail(state, usize::from(areas.body.width));
            view.page(areas.body, &lines, state.detail_scroll);
        }
        Cover::None => view.lists(&areas),
    }
    view.footer(areas.footer);
    if state.console {
        glyphs::of_the_console(screen);
    }
}

struct Drawing<'s> {
    state: &'s State,
    theme: Theme,
    screen: &'s mut Buffer,
}

/// `text`, cut in the middle where it is wider than `width` columns of the terminal.
fn fitted(text: &str, width: u16) -> String {
    let width = usize::from(width);
    let mut chars = text.chars().count();
    let mut cut = text.to_string();
    // Wide characters take two columns.
    while cut.width() > width && chars > 0 {
        chars = chars.min(width + 1) - 1;
        cut = shorten(text, chars);
    }
    cut
}

impl Drawing<'_> {
    /// Writes `text` from character `x` of line `y`, at most `width` columns.
    fn put(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        let area = self.screen.area;
        if x < area.right() && y < area.bottom() && width > 0 {
            self.screen.set_stringn(x, y, text, usize::from(width), style);
        }
    }

    fn fill(&mut self, area: Rect, style: Style) {
        self.screen.set_style(area.intersection(self.screen.area), style);
    }

    fn header(&mut self, area: Rect) {
        let state = self.state;
        self.fill(area, self.theme.bar());
        let tabs = layout::tabs(state);
        let end = tabs.first().map_or(area.width, |(_, _, x)| x.saturating_sub(2));
        let file = state.file();
        let path = escape(&file.path.display().to_string());
        let mut facts = Vec::new();
        match &file.record {
            None => facts.push("opening…".to_string()),
            Some(Err(_)) => facts.push("cannot be read".to_string()),
            Some(Ok(record)) => {
                let verdict = match record.verdict {
                    Some(verdict) if file.complete && record.coverage.is_whole() => {
                        Some(verdict.name().to_string())
                    }
                    Some(verdict) if file.complete => {
                        Some(format!("{verdict}, judged {}", escape(&record.coverage.to_string())))
                    }
                    // What is not measured yet may be worse.
                    Some(verdict) if verdict.is_below_healthy() => {
                        Some(format!("{} or worse", verdict.name()))
                    }
                    _ => None,
                };
                facts.extend(verdict);
                if record.damaged {
                    facts.push("damaged".into());
                }
                facts.extend(record.step.map(|step| format!("step {step}")));
                facts.push(escape(&record.model.architecture));
                facts.push(format!("{} parameters", count(record.parameters)));
                facts.push(record.format.to_string());
                facts.push(bytes(record.file_bytes));
            }
        }
        let mut text = String::new();
        let room = usize::from(end.saturating_sub(1));
        for fact in &facts {
            // The path keeps a third of the line.
            if text.width() + fact.width() + 3 + (room / 3).min(path.width()) <= room {
                text += &format!(" · {fact}");
            }
        }
        let path = fitted(&path, (room - text.width().min(room)) as u16);
        self.put(1, area.y, end.saturating_sub(1), &(path + &text), self.theme.bar());
        for (view, word, x) in tabs {
            let style =
                if view == state.view { self.theme.bar().patch(self.theme.bold()) } else { self.theme.bar() };
            let marker = if view == state.view { "›" } else { " " };
            self.put(x - 1, area.y, word.len() as u16 + 1, &format!("{marker}{word}"), style);
        }
    }

    fn slider(&mut self, area: Rect) {
        let state = self.state;
        let run = state.run();
        let (start, len) = layout::track(state);
        self.put(start, area.y, len, &"─".repeat(usize::from(len)), self.theme.dim());
        for (at, &file) in run.iter().enumerate() {
            let record = state.files[file].known();
            let style = self.theme.verdict(record.and_then(|r| r.verdict));
            let (glyph, style) =
                if file == state.current { ("●", style.patch(self.theme.bold())) } else { ("┼", style) };
            if file == state.current || run.len() <= usize::from(len) {
                self.put(layout::track_place(state, at), area.y, 1, glyph, style);
            }
        }
        if let Some(at) = run.iter().position(|&f| f == state.current) {
            self.put(layout::track_place(state, at), area.y, 1, "●", self.theme.bold());
            let step = state.file().known().and_then(|r| r.step).map_or("?".into(), |s| s.to_string());
            let text = format!("step {step} ({} of {})", at + 1, run.len());
            let x = start + len + 1;
            self.put(x, area.y, area.width.saturating_sub(x), &text, Style::new());
        }
    }

    /// `lines` from the `from`th one on.
    fn page(&mut self, area: Rect, lines: &[Line<'_>], from: usize) {
        let shown = usize::from(area.height);
        let from = from.min(lines.len().saturating_sub(1));
        for (y, line) in (area.y..area.bottom()).zip(&lines[from..]) {
            if y < self.screen.area.bottom() {
                self.screen.set_line(area.x + 1, y, line, area.width.saturating_sub(1));
            }
        }
        if lines.len() > shown + from && area.height > 0 {
            let more = format!(" ↓ {} more ", lines.len() - shown - from);
            let width = more.width() as u16;
            let x = area.right().saturating_sub(width);
            self.put(x, area.bottom() - 1, width, &more, Style::reset().patch(self.theme.bar()));
        }
    }

    fn lists(&mut self, areas: &Areas) {
        match self.state.view {
            View::Tensors => self.tensors(areas),
            View::Metadata => self.values(areas),
            View::Files => self.files(areas),
        }
        if let Some(area) = areas.detail {
            for y in area.y..area.bottom() {
                self.put(area.x - 1, y, 1, "│", self.theme.dim());
            }
            let lines = pages::detail(self.state, usize::from(area.width) - 1);
            self.page(area, &lines, self.state.detail_scroll);
            if self.state.focus_detail && area.height > 0 {
                for y in area.y..area.bottom() {
                    self.put(area.x - 1, y, 1, "┃", self.theme.accent());
                }
            }
        }
    }

    fn tensors(&mut self, areas: &Areas) {
        let state = self.state;
        let columns = layout::columns(state);
        self.fill(areas.heading, self.theme.heading());
        for (column, x, width) in &columns {
            let (title, sort) = match column {
                Column::Name => ("tensor", Sort::Name),
                Column::Shape => ("shape", Sort::Shape),
                Column::Dtype => ("dtype", Sort::Dtype),
                Column::Size => ("size", Sort::Size),
                Column::Measure(measure) => (measure.heading, Sort::Measure(measure)),
                Column::Trend => ("steps", Sort::File),
                Column::Verdict => ("verdict", Sort::Verdict),
            };
            let arrow = state.listing.order.arrow(sort);
            let sorted = !arrow.is_empty();
            let text = format!("{title}{arrow}");
            let inset = if right_aligned(*column) { width.saturating_sub(text.width() as u16) } else { 0 };
            let style =
                if sorted { self.theme.heading().patch(self.theme.bold()) } else { self.theme.heading() };
            let margin = u16::from(*column == Column::Name);
            self.put(areas.heading.x + x + inset + margin, areas.heading.y, *width, &text, style);
        }
        if state.rows.is_empty() {
            let text = match &state.file().record {
                None => "opening…".to_string(),
                Some(Err(error)) => escape(error),
                Some(Ok(record)) if record.tensors.is_empty() => {
                    "no tensors in this file; 2 shows its values".into()
                }
                Some(Ok(_)) => "nothing matches; Esc ends search and filters".into(),
            };
            let width = areas.list.width.saturating_sub(2);
            let lines = pages::wrapped(&text, usize::from(width));
            for (y, line) in (areas.list.y..areas.list.bottom()).zip(lines) {
                self.put(1, y, width, &line, self.theme.dim());
            }
            return;
        }
        let rows = state.rows.iter().enumerate().skip(state.list.offset);
        for (y, (at, row)) in (areas.list.y..areas.list.bottom()).zip(rows) {
            self.row(row, y, &columns);
            if at == state.list.at {
                let line = Rect::new(areas.list.x, y, areas.list.width, 1);
                self.fill(line, self.theme.cursor(!state.focus_detail));
            }
        }
    }

    fn row(&mut self, row: &Row, y: u16, columns: &[(Column, u16, u16)]) {
        let state = self.state;
        let record = match row.kind {
            Kind::Tensor(i) => state.file().known().and_then(|r| r.tensors.get(i)),
            Kind::Module { .. } => None,
        };
        for &(column, x, width) in columns {
            let (text, style) = match column {
                Column::Name => {
                    self.name(row, y, width);
                    continue;
                }
                Column::Shape => match record {
                    Some(tensor) => (ckpt_reports::text::shape(&tensor.shape), Style::new()),
                    None => (ckpt_reports::text::plural(row.count, "tensor"), self.theme.dim()),
                },
                Column::Dtype => (record.map(|t| t.dtype.to_string()).unwrap_or_default(), Style::new()),
                Column::Size => {
                    (bytes(row.bytes), if record.is_some() { Style::new() } else { self.theme.dim() })
                }
                Column::Measure(measure) => match record {
                    Some(tensor) if tensor.stats.is_some() => {
                        (ckpt_reports::text::measured(measure, Some(tensor)), Style::new())
                    }
                    _ => (String::new(), Style::new()),
                },
                Column::Trend => match record {
                    Some(tensor) => {
                        let stds = pages::stds(state, tensor);
                        // If there are more steps than room, only some are shown.
                        let n = usize::from(width).min(stds.len());
                        let some: Vec<Option<f64>> = (0..n).map(|i| stds[i * stds.len() / n]).collect();
                        (chart::trend(&some), self.theme.bars())
                    }
                    None => (String::new(), Style::new()),
                },
                Column::Verdict => {
                    let waiting = !state.file().complete && record.is_some_and(|t| t.stats.is_none());
                    let text = match row.verdict {
                        Some(verdict) => verdict.name().to_string(),
                        None if waiting => "…".into(),
                        None => String::new(),
                    };
                    (text, self.theme.verdict(row.verdict))
                }
            };
            let text = fitted(&text, width);
            let inset = if right_aligned(column) { width.saturating_sub(text.width() as u16) } else { 0 };
            self.put(x + inset, y, width - inset, &text, style);
        }
    }

    fn name(&mut self, row: &Row, y: u16, width: u16) {
        let state = self.state;
        let marked = matches!(row.kind, Kind::Tensor(tensor)
            if state.marks.contains(&Mark::Tensor { file: state.current, tensor }));
        if marked {
            self.put(0, y, 1, "●", self.theme.accent());
        }
        // At any depth, half of the column is left for the name.
        let indent = (2 * row.depth as u16).min(width / 2);
        let arrow = match &row.kind {
            Kind::Module { open: true, .. } => "▾ ",
            Kind::Module { open: false, .. } => "▸ ",
            Kind::Tensor(_) => "  ",
        };
        let flat = row.depth == 0 && (state.listing.flat || !state.listing.order.query.is_empty());
        let arrow = if flat { "" } else { arrow };
        let x = 1 + indent;
        self.put(x, y, width.saturating_sub(x), arrow, self.theme.dim());
        let x = x + arrow.width() as u16;
        let room = width.saturating_sub(x);
        let style = if matches!(row.kind, Kind::Module { .. }) { self.theme.bold() } else { Style::new() };
        let label = if row.label.is_empty() { "(the root)" } else { &row.label };
        self.matched(x, y, room, label, &row.hits, style);
    }

    fn values(&mut self, areas: &Areas) {
        let state = self.state;
        self.fill(areas.heading, self.theme.heading());
        self.put(1, areas.heading.y, areas.heading.width, "plain values", self.theme.heading());
        let rows = state.values.iter().enumerate().skip(state.value_list.offset);
        for (y, (at, row)) in (areas.list.y..areas.list.bottom()).zip(rows) {
            let arrow = match row.open {
                Some(true) => "▾",
                Some(false) => "▸",
                None => " ",
            };
            let indent = (1 + 2 * row.depth as u16).min(areas.list.width / 2);
            let room = areas.list.width.saturating_sub(indent + 2);
            self.put(indent, y, 1, arrow, self.theme.dim());
            let key = fitted(&escape(&row.key), room);
            let style = if row.open.is_some() { self.theme.bold() } else { Style::new() };
            self.put(indent + 2, y, room, &key, style);
            let x = (indent + 2 + key.width() as u16 + 2).max(areas.list.width.min(36) / 2 + 4);
            let room = areas.list.width.saturating_sub(x);
            let style = if row.open.is_some() { self.theme.dim() } else { self.theme.bars() };
            self.put(x, y, room, &fitted(&escape(&row.text), room), style);
            if at == state.value_list.at {
                self.fill(Rect::new(areas.list.x, y, areas.list.width, 1), self.theme.cursor(true));
            }
        }
    }

    fn files(&mut self, areas: &Areas) {
        let state = self.state;
        self.fill(areas.heading, self.theme.heading());
        let width = areas.list.width;
        let columns = layout::file_columns(state);
        for &(column, x, width) in &columns {
            let arrow = state.file_order.arrow(column);
            let text = format!("{}{arrow}", column.name());
            let style = if arrow.is_empty() {
                self.theme.heading()
            } else {
                self.theme.heading().patch(self.theme.bold())
            };
            let inset = match column {
                FileSort::Step | FileSort::Size => width.saturating_sub(text.width() as u16),
                _ => 0,
            };
            self.put(x + inset, areas.heading.y, width, &text, style);
        }
        let at_column =
            |wanted| columns.iter().find(|(column, ..)| *column == wanted).map(|(_, x, width)| (*x, *width));
        let (Some(name), Some(step), Some(verdict)) =
            (at_column(FileSort::Name), at_column(FileSort::Step), at_column(FileSort::Verdict))
        else {
            return;
        };
        let size = at_column(FileSort::Size);
        // Behind the size is what was measured.
        if let Some((x, width)) = size {
            self.put(x + width, areas.heading.y, 10, "  measured", self.theme.heading());
        }
        if state.file_rows.is_empty() {
            let text = "nothing matches; Esc ends search and filters";
            self.put(1, areas.list.y, width.saturating_sub(2), text, self.theme.dim());
        }
        let rows = state.file_rows.iter().enumerate().skip(state.file_list.offset);
        for (y, (at, row)) in (areas.list.y..areas.list.bottom()).zip(rows) {
            let file = &state.files[row.file];
            let marked = state.marks.contains(&Mark::File(row.file));
            let glyph = if marked {
                "●"
            } else if row.file == state.current {
                "›"
            } else {
                " "
            };
            self.put(0, y, 1, glyph, self.theme.accent());
            self.matched(name.0, y, name.1, &file.path.display().to_string(), &row.hits, Style::new());
            match &file.record {
                None => self.put(step.0, y, width, "        …", self.theme.dim()),
                Some(Err(_)) => self.put(step.0, y, width, "         cannot be read", self.theme.warning()),
                Some(Ok(record)) => {
                    let known = record.step.map_or("-".into(), |s| s.to_string());
                    self.put(step.0, y, step.1, &format!("{known:>8}"), Style::new());
                    let standing = record.standing();
                    let word = standing.map_or("-", Verdict::name);
                    self.put(verdict.0, y, verdict.1, word, self.theme.verdict(standing));
                    if let Some((x, width)) = size {
                        self.put(x, y, width, &format!("{:>11}", bytes(record.file_bytes)), Style::new());
                        let share = match file.total() {
                            _ if file.complete => "100 %".to_string(),
                            0 => "0 %".into(),
                            total => format!("{} %", 100 * file.done / total),
                        };
                        self.put(x + width, y, 10, &format!("{share:>10}"), self.theme.dim());
                    }
                }
            }
            if at == state.file_list.at {
                self.fill(Rect::new(areas.list.x, y, width, 1), self.theme.cursor(true));
            }
        }
    }

    /// Writes the name `text` from a file, cut to `room`, with the characters that a search matched.
    fn matched(&mut self, x: u16, y: u16, room: u16, text: &str, hits: &[usize], style: Style) {
        let cut = fitted(&escape(text), room);
        self.put(x, y, room, &cut, style);
        // Positions of matches are characters of the name: they are shown if the name is uncut and has no escapes.
        if cut == text {
            for &hit in hits {
                let before: String = cut.chars().take(hit).collect();
                let place = Rect::new(x + before.width() as u16, y, 1, 1);
                self.fill(place.intersection(Rect::new(x, y, room, 1)), self.theme.accent());
            }
        }
    }

    fn footer(&mut self, area: Rect) {
        let state = self.state;
        if area.height == 0 {
            return;
        }
        let progress = state.progress().map(|p| format!("measuring {:.0} %", 100.0 * p)).unwrap_or_default();
        let room = area.width.saturating_sub(progress.width() as u16 + 2);
        self.put(
            area.right().saturating_sub(progress.width() as u16 + 1),
            area.y,
            area.width,
            &progress,
            self.theme.dim(),
        );
        if state.searching {
            let query = state.narrowed().map_or("", |order| order.query());
            let rows = if state.view == View::Files { state.file_rows.len() } else { state.rows.len() };
            let found = format!("  {rows} found");
            let text = format!("/{}", escape(query));
            self.put(1, area.y, room, &text, self.theme.accent());
            let x = (1 + text.width() as u16).min(room);
            self.put(x, area.y, room.saturating_sub(x), "▏", self.theme.accent());
            if !query.is_empty() {
                self.put(x + 1, area.y, room.saturating_sub(x + 1), &found, self.theme.dim());
            }
            return;
        }
        if let Some(message) = &state.message {
            return self.put(1, area.y, room, &fitted(&escape(message), room), self.theme.accent());
        }
        let mut parts = Vec::new();
        if let Some(order) = state.narrowed() {
            if !order.query().is_empty() {
                parts.push(format!("/{}", escape(order.query())));
            }
            if order.verdict() != VerdictFilter::All {
                parts.push(order.verdict().name().to_string());
            }
        }
        match state.view {
            View::Tensors => parts.extend(state.listing.group.map(|group| group.name().to_string())),
            View::Files if !parts.is_empty() => {
                parts.push(format!("{} of {}", state.file_rows.len(), state.files.len()));
            }
            _ => {}
        }
        if !parts.is_empty() && state.cover == Cover::None {
            let text = format!("only {}  (Esc: all)", parts.join(", "));
            return self.put(1, area.y, room, &text, self.theme.accent());
        }
        if state.marks.len() == 2 && state.cover == Cover::None {
            return self.put(
                1,
                area.y,
                room,
                "two marked: d compares them, Esc forgets them",
                self.theme.accent(),
            );
        }
        let hints: &[&str] = match (state.cover, state.view) {
            (Cover::Help | Cover::Diff, _) => &["Esc back", "↑↓ scroll", "q quit"],
            (Cover::Value, _) => &["Esc back", "↑↓ scroll", "y copy the value", "q quit"],
            (Cover::Detail, _) => &["Esc back", "↑↓ scroll", "[ ] step", "q quit"],
            (_, View::Tensors) if state.focus_detail => &["↑↓ scroll", "Tab back", "q quit"],
            (_, View::Tensors) => {
                &["? help", "/ search", "Enter open", "s sort", "v verdict", "Space mark", "d diff", "q quit"]
            }
            (_, View::Metadata) => &["Esc back", "Enter fold, read", "y copy the key", "q quit"],
            (_, View::Files) => &[
                "Esc back",
                "/ search",
                "Enter open",
                "s sort",
                "v verdict",
                "Space mark",
                "d diff",
                "q quit",
            ],
        };
        let mut text = String::new();
        for hint in hints {
            if text.width() + hint.width() + 2 < usize::from(room) {
                text += if text.is_empty() { "" } else { "  " };
                text += hint;
            }
        }
        self.put(1, area.y, room, &text, self.theme.dim());
    }
}

fn right_aligned(column: Column) -> bool {
    matches!(column, Column::Size | Column::Measure(_))
}
