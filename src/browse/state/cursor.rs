//! The user's position in a list.

use crate::browse::keys::Action;

/// The line that keys act on, and the first one shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub at: usize,
    pub offset: usize,
}

impl Cursor {
    /// Keeps it within `len` lines, of which `height` are shown.
    pub fn settle(&mut self, len: usize, height: usize) {
        self.at = self.at.min(len.saturating_sub(1));
        let height = height.max(1);
        self.offset = self.offset.min(self.at).max((self.at + 1).saturating_sub(height));
        self.offset = self.offset.min(len.saturating_sub(height));
    }

    /// Moves as `action` says among `len` lines, `page` of them on a page.
    pub fn go(&mut self, action: Action, len: usize, page: usize) {
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

/// Moves `at`, the first line shown of a text of `lines`, as `action` says.
pub fn scroll(at: &mut usize, action: Action, lines: usize, page: usize) {
    let mut cursor = Cursor { at: *at, offset: 0 };
    cursor.go(action, lines.saturating_sub(page.saturating_sub(1)).max(1), page);
    *at = cursor.at;
}
