//! Where things are on the screen, for drawing and for the mouse.

use ckpt_inspect::health::measures::{Measure, Place, shown_in};
use ratatui::layout::Rect;

use super::files::FileSort;
use super::keys::Action;
use super::pages;
use super::state::{Cover, State, View};

/// The parts of the screen.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    pub header: Rect,
    /// The steps of the run, when there is more than one.
    pub slider: Option<Rect>,
    /// Everything between header and footer.
    pub body: Rect,
    /// Headings of the list's columns.
    pub heading: Rect,
    pub list: Rect,
    /// Next to the list, if there is room.
    pub detail: Option<Rect>,
    pub footer: Rect,
}

/// Screens at least this wide show the details next to the list.
const SIDE_BY_SIDE: u16 = 100;

/// The parts of the screen for `state`.
pub fn areas(state: &State) -> Areas {
    let (width, height) = state.size;
    let line = |y: u16| Rect::new(0, y.min(height), width, u16::from(y < height));
    let slider = state.run().len() > 1;
    let top = 1 + u16::from(slider);
    let body = Rect::new(0, top.min(height), width, height.saturating_sub(top + 1));
    let detail_width = if state.view == View::Tensors && width >= SIDE_BY_SIDE { width * 2 / 5 } else { 0 };
    let left = width - detail_width;
    Areas {
        header: line(0),
        slider: slider.then(|| line(1)),
        body,
        heading: Rect::new(0, body.y, left, body.height.min(1)),
        list: Rect::new(0, body.y + 1, left, body.height.saturating_sub(1)),
        // One column stays free between the two.
        detail: (detail_width > 0).then(|| Rect::new(left + 1, body.y, detail_width - 1, body.height)),
        footer: line(height.saturating_sub(1)),
    }
}

/// A column of the tensor list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Name,
    Shape,
    Dtype,
    Size,
    Measure(&'static Measure),
    /// Curve of the std over the steps.
    Trend,
    Verdict,
}

/// The columns that fit, with first character and width.
pub fn columns(state: &State) -> Vec<(Column, u16, u16)> {
    let width = areas(state).list.width;
    let steps = state.run().len();
    let measures = || shown_in(Place::Narrow).map(Column::Measure);
    // In order of importance.
    let others = [
        (Column::Trend, if steps > 1 { steps.clamp(5, 12) as u16 } else { 0 }),
        (Column::Shape, 13),
        (Column::Size, 8),
        (Column::Dtype, 9),
    ];
    let wanted = [(Column::Verdict, 7)].into_iter().chain(measures().map(|m| (m, 8))).chain(others);
    let name_width = if width < 60 { 16 } else { 26 };
    let mut left = width.saturating_sub(name_width);
    let mut chosen = vec![];
    for (column, size) in wanted {
        if size > 0 && left > size {
            left -= size + 1;
            chosen.push((column, size));
        }
    }
    let order = [Column::Shape, Column::Dtype, Column::Size].into_iter().chain(measures());
    let order = order.chain([Column::Trend, Column::Verdict]);
    let mut x = left + name_width.min(width);
    let mut columns = vec![(Column::Name, 0, x)];
    for column in order {
        if let Some((_, size)) = chosen.iter().find(|(c, _)| *c == column) {
            columns.push((column, x + 1, *size));
            x += size + 1;
        }
    }
    columns
}

/// The column at character `x`.
pub fn column_at(state: &State, x: u16) -> Option<Column> {
    columns(state)
        .into_iter()
        .find(|(_, start, width)| (*start..=start + width).contains(&x))
        .map(|(c, ..)| c)
}

/// The columns of the list of files that fit, with first character and width.
pub fn file_columns(state: &State) -> Vec<(FileSort, u16, u16)> {
    let width = areas(state).list.width;
    let narrow = width < 60;
    let facts = if narrow { 17 } else { 38 };
    let name = width.saturating_sub(facts + 2);
    let mut columns = vec![
        (FileSort::Name, 2, name.saturating_sub(1)),
        (FileSort::Step, name + 2, 8),
        (FileSort::Verdict, name + 11, 8),
    ];
    if !narrow {
        columns.push((FileSort::Size, name + 19, 11));
    }
    columns
}

/// The column of the list of files at character `x`.
pub fn file_column_at(state: &State, x: u16) -> Option<FileSort> {
    let hit = file_columns(state).into_iter().find(|(_, start, width)| (*start..start + width).contains(&x));
    hit.map(|(column, ..)| column)
}

/// The words that lead to the views, with their first character on the header line. Empty if there is no room.
pub fn tabs(state: &State) -> Vec<(View, &'static str, u16)> {
    const WORDS: [(View, &str); 3] =
        [(View::Tensors, "1 tensors"), (View::Metadata, "2 metadata"), (View::Files, "3 files")];
    let total: u16 = WORDS.iter().map(|(_, word)| word.len() as u16 + 2).sum();
    if state.size.0 < 2 * total {
        return Vec::new();
    }
    let mut x = state.size.0 - total + 1;
    WORDS
        .iter()
        .map(|(view, word)| {
            let at = x;
            x += word.len() as u16 + 2;
            (*view, *word, at)
        })
        .collect()
}

/// The action of a click at character `x` of the header.
pub fn tab_at(state: &State, x: u16) -> Option<Action> {
    let hit = tabs(state).into_iter().find(|(_, word, at)| (*at..at + word.len() as u16).contains(&x));
    hit.map(|(view, ..)| match view {
        View::Tensors => Action::Tensors,
        View::Metadata => Action::Metadata,
        View::Files => Action::Files,
    })
}

/// First character and length of the slider's track.
pub fn track(state: &State) -> (u16, u16) {
    let width = state.size.0;
    let start = 2;
    (start, width.saturating_sub(start + 24).max(width / 3).min(60))
}

/// Where on the track checkpoint `at` of the run is. Checkpoints are evenly spread.
pub fn track_place(state: &State, at: usize) -> u16 {
    let (start, len) = track(state);
    let last = state.run().len().saturating_sub(1).max(1);
    start + (at * usize::from(len.saturating_sub(1)) / last) as u16
}

/// The file of the run nearest to character `x` of the slider.
pub fn slider_file(state: &State, x: u16) -> Option<usize> {
    let nearest = (0..state.run().len()).min_by_key(|&at| track_place(state, at).abs_diff(x))?;
    state.run().get(nearest).copied()
}

/// Lines of the page that covers the lists.
pub fn cover_lines(state: &State) -> usize {
    match state.cover {
        Cover::Help => pages::help(state).len(),
        Cover::Diff => pages::comparison(state).len(),
        Cover::Value => pages::value(state).len(),
        _ => 0,
    }
}

/// Lines of the detail pane.
pub fn detail_lines(state: &State) -> usize {
    let areas = areas(state);
    let area = if state.cover == Cover::Detail { areas.body } else { areas.detail.unwrap_or(areas.body) };
    pages::detail(state, usize::from(area.width)).len()
}
