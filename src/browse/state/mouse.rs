//! How the mouse changes the state.

use ckpt_inspect::health::measures::STD;
use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};

use super::{Cover, State, View};
use crate::browse::keys::Action;
use crate::browse::layout::{self, Column};
use crate::browse::state::Command;
use crate::browse::tree::{Kind, Sort};

impl State {
    pub(super) fn mouse(&mut self, mouse: MouseEvent, commands: &mut Vec<Command>) {
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
                if over_detail && matches!(self.cover, Cover::None | Cover::Detail) {
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
                Some(Column::Measure(measure)) => self.sort_by(Sort::Measure(measure)),
                Some(Column::Trend) => self.sort_by(Sort::Measure(&STD)),
                Some(Column::Verdict) => self.sort_by(Sort::Verdict),
                None => {}
            }
        } else if areas.heading.contains(place) && self.view == View::Files {
            if let Some(column) = layout::file_column_at(self, mouse.column) {
                self.sort_files_by(column);
            }
        } else if areas.list.contains(place) {
            self.focus_detail = false;
            let line = usize::from(mouse.row - areas.list.y);
            let (cursor, len) = match self.view {
                View::Tensors => (&mut self.list, self.rows.len()),
                View::Metadata => (&mut self.value_list, self.values.len()),
                View::Files => (&mut self.file_list, self.file_rows.len()),
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
