//! A drawn screen as a picture or as text, for pages that show what the program looks like.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use unicode_width::UnicodeWidthStr;

/// Pixels of a character.
const WIDTH: f64 = 8.0;
const HEIGHT: f64 = 17.0;
/// Pixels around the screen.
const MARGIN: f64 = 10.0;
const GROUND: &str = "#1b1d23";
const INK: &str = "#d5d8df";

/// The screen as plain text, lines without trailing blanks.
pub fn text(screen: &Buffer) -> String {
    let mut out = String::new();
    for row in rows(screen) {
        let line: String = row.iter().map(|(_, cell)| cell.symbol()).collect();
        out += line.trim_end();
        out.push('\n');
    }
    out
}

/// The screen as an SVG that needs no font file and contains only shapes and text.
pub fn svg(screen: &Buffer) -> String {
    let (columns, lines) = (f64::from(screen.area.width), f64::from(screen.area.height));
    let (width, height) = (columns * WIDTH + 2.0 * MARGIN, lines * HEIGHT + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"13.3\">\n<rect width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{GROUND}\"/>\n"
    );
    for (y, row) in rows(screen).into_iter().enumerate() {
        let top = MARGIN + y as f64 * HEIGHT;
        for run in runs(&row) {
            let (first, cell) = run[0];
            let look = Look::of(cell);
            let symbols: String = run.iter().map(|(_, cell)| cell.symbol()).collect();
            let left = MARGIN + first as f64 * WIDTH;
            let long = symbols.width() as f64 * WIDTH;
            if let Some(ground) = look.ground {
                let _ = writeln!(
                    out,
                    "<rect x=\"{left}\" y=\"{top}\" width=\"{long}\" height=\"{HEIGHT}\" fill=\"{ground}\"/>"
                );
            }
            if symbols.trim().is_empty() && !look.underlined {
                continue;
            }
            let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
            let line = if look.underlined { " text-decoration=\"underline\"" } else { "" };
            let faint = if look.dim { " opacity=\"0.6\"" } else { "" };
            let base = top + 0.76 * HEIGHT;
            let _ = writeln!(
                out,
                "<text x=\"{left}\" y=\"{base:.1}\" textLength=\"{long}\" lengthAdjust=\"spacingAndGlyphs\" \
                 fill=\"{}\"{weight}{line}{faint} xml:space=\"preserve\">{}</text>",
                look.ink,
                escaped(&symbols)
            );
        }
    }
    out + "</svg>\n"
}

/// Cells of each line with their column; those that a wide character covers are left out.
fn rows(screen: &Buffer) -> Vec<Vec<(u16, &Cell)>> {
    let line = |y: u16| {
        let mut row = Vec::new();
        let mut x = 0;
        while x < screen.area.width {
            let cell = &screen[(x, y)];
            row.push((x, cell));
            x += cell.symbol().width().max(1) as u16;
        }
        row
    };
    (0..screen.area.height).map(line).collect()
}

/// Neighbouring cells with the same style.
fn runs<'r, 'c>(row: &'r [(u16, &'c Cell)]) -> impl Iterator<Item = &'r [(u16, &'c Cell)]> {
    row.chunk_by(|(_, a), (_, b)| a.style() == b.style())
}

struct Look {
    ink: &'static str,
    ground: Option<&'static str>,
    bold: bool,
    dim: bool,
    underlined: bool,
}

impl Look {
    fn of(cell: &Cell) -> Look {
        let has = |modifier| cell.modifier.contains(modifier);
        let ink = color(cell.fg).unwrap_or(INK);
        let (ink, ground) = if has(Modifier::REVERSED) { (GROUND, Some(ink)) } else { (ink, color(cell.bg)) };
        Look {
            ink,
            ground,
            bold: has(Modifier::BOLD),
            dim: has(Modifier::DIM),
            underlined: has(Modifier::UNDERLINED),
        }
    }
}

fn color(color: Color) -> Option<&'static str> {
    Some(match color {
        Color::Red => "#ef6b73",
        Color::Green => "#8cc570",
        Color::Yellow => "#e0b465",
        Color::Blue => "#6ea8fe",
        Color::Magenta => "#c58af9",
        Color::Cyan => "#5fc3c9",
        _ => return None,
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
