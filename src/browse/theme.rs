//! Styles, in the terminal's own 16 colours. Without colours, weight and inversion remain, and nothing is shown by
//! colour alone.

use ckpt_inspect::Verdict;
use ratatui::style::{Color, Modifier, Style};

/// The styles of a terminal with or without colours.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub colors: bool,
}

impl Theme {
    fn color(self, color: Color) -> Style {
        if self.colors { Style::new().fg(color) } else { Style::new() }
    }

    /// Titles.
    pub fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Less important text.
    pub fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The top line.
    pub fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The line that keys act on.
    pub fn cursor(self, focused: bool) -> Style {
        if focused { Style::new().add_modifier(Modifier::REVERSED) } else { self.bold() }
    }

    /// Headings of columns.
    pub fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::UNDERLINED)
    }

    /// Marked rows and search matches.
    pub fn accent(self) -> Style {
        self.color(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    /// Bars and curves.
    pub fn bars(self) -> Style {
        self.color(Color::Cyan)
    }

    /// More +1 than -1.
    pub fn positive(self) -> Style {
        self.color(Color::Yellow)
    }

    /// More -1 than +1.
    pub fn negative(self) -> Style {
        self.color(Color::Blue)
    }

    /// Errors and damage.
    pub fn warning(self) -> Style {
        self.color(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// A verdict, with the same colours as everywhere in ckpt.
    pub fn verdict(self, verdict: Option<Verdict>) -> Style {
        match verdict {
            Some(Verdict::Healthy) => self.color(Color::Green),
            Some(Verdict::Untrained) => self.color(Color::Cyan),
            Some(Verdict::Weak) => self.color(Color::Yellow),
            Some(Verdict::Dying) => self.color(Color::Magenta),
            Some(Verdict::Dead | Verdict::Corrupt) => self.color(Color::Red).add_modifier(Modifier::BOLD),
            Some(_) => Style::default(),
            None => self.dim(),
        }
    }
}
