//! Curves, bars and maps made of characters.

use ckpt_inspect::record::Histogram;
use ckpt_inspect::survey::{Cell, Survey};
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::theme::Theme;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// A curve of positive numbers on a log axis that spans at least a decade, the largest at the top; blank where there
/// is none.
pub fn trend(values: &[Option<f64>]) -> String {
    let known = || values.iter().flatten().filter(|v| **v > 0.0).map(|v| v.ln());
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    let low = known().fold(f64::INFINITY, f64::min).min(high - std::f64::consts::LN_10);
    values
        .iter()
        .map(|value| match value {
            None => ' ',
            Some(v) if *v > 0.0 && v.is_finite() => level((v.ln() - low) / (high - low)),
            Some(_) => LEVELS[0],
        })
        .collect()
}

/// `values` averaged to at most `width` characters, from 0 to the largest.
pub fn profile(values: &[f64], width: usize) -> String {
    let n = values.len().min(width);
    let means: Vec<f64> = (0..n)
        .map(|i| {
            let part = &values[values.len() * i / n..values.len() * (i + 1) / n];
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect();
    let most = means.iter().copied().fold(0.0, f64::max);
    means.iter().map(|&v| if v > 0.0 { level(v / most) } else { ' ' }).collect()
}

fn level(share: f64) -> char {
    LEVELS[((share * 8.0).ceil() as usize).clamp(1, 8) - 1]
}

/// Octaves of |w| as columns, `height` lines high, and the line below that names the first and last octave.
pub fn histogram(histogram: &Histogram, width: usize, height: usize, style: Style) -> Vec<Line<'static>> {
    let bins = &histogram.counts;
    if bins.is_empty() || width < 16 {
        return Vec::new();
    }
    // If octaves do not fit, the smallest ones are left out, which have the fewest elements.
    let each = (width / bins.len()).clamp(1, 3);
    let skipped = bins.len().saturating_sub(width / each);
    let bins = &bins[skipped..];
    let most = bins.iter().copied().max().unwrap_or(0).max(1) as f64;
    let mut lines: Vec<Line> = (0..height)
        .rev()
        .map(|line| {
            let text: String = bins
                .iter()
                .flat_map(|&count| {
                    let eighths = (count as f64 / most * (8 * height) as f64).ceil() as usize;
                    let here = eighths.saturating_sub(8 * line).min(8);
                    std::iter::repeat_n(if here == 0 { ' ' } else { LEVELS[here - 1] }, each)
                })
                .collect();
            Line::styled(text, style)
        })
        .collect();
    let power = |exponent: i32| format!("2^{exponent}");
    let (first, last) = (histogram.first + skipped as i32, histogram.first + (skipped + bins.len()) as i32);
    let gap = (bins.len() * each).saturating_sub(power(first).len() + power(last).len()).max(1);
    lines.push(Line::raw(format!("{}{}{}", power(first), " ".repeat(gap), power(last))));
    lines
}

/// The map of a matrix in at most `width` by `height` characters. A character that stands for one element is its
/// code; else its shade is the share of codes that are not 0, or mean|w| relative to the largest.
pub fn map(survey: &Survey, width: usize, height: usize, theme: Theme) -> Vec<Line<'static>> {
    let cols = survey.map_cols.min(width);
    // Characters are twice as high as wide.
    let square = (cols * survey.rows).div_ceil(2 * survey.cols.max(1));
    let rows = survey.map_rows.min(height).min(square.max(2));
    if rows == 0 || cols == 0 {
        return Vec::new();
    }
    let part = |i: usize, cells: usize, of: usize| cells * i / of..cells * (i + 1) / of;
    let cell = |row: usize, col: usize| {
        let mut all = Cell::default();
        for r in part(row, survey.map_rows, rows) {
            for c in part(col, survey.map_cols, cols) {
                all = all.join(survey.map[r * survey.map_cols + c]);
            }
        }
        all
    };
    let mean = |cell: &Cell| cell.abs / cell.count.max(1) as f64;
    let cells: Vec<Vec<Cell>> = (0..rows).map(|r| (0..cols).map(|c| cell(r, c)).collect()).collect();
    let most = cells.iter().flatten().map(mean).fold(0.0, f64::max);
    let shade = |share: f64| match (share * 4.0).ceil() as usize {
        _ if share <= 0.0 => SHADES[0],
        n => SHADES[n.clamp(1, 4)],
    };
    let glyph = |cell: &Cell| -> (char, Style) {
        if !survey.ternary {
            let share = if most > 0.0 { mean(cell) / most } else { 0.0 };
            return (shade(share), theme.bars());
        }
        let lively = cell.neg + cell.pos;
        let lean = cell.pos as f64 - cell.neg as f64;
        let style = match lean / lively.max(1) as f64 {
            l if l > 0.1 => theme.positive(),
            l if l < -0.1 => theme.negative(),
            _ => Style::new(),
        };
        match (cell.count, cell.neg, cell.pos) {
            (1, 1, _) => ('-', style),
            (1, _, 1) => ('+', style),
            (1, ..) => ('·', theme.dim()),
            _ => (shade(lively as f64 / cell.count.max(1) as f64), style),
        }
    };
    cells
        .iter()
        .map(|row| {
            let mut spans: Vec<Span> = Vec::new();
            for (char, style) in row.iter().map(glyph) {
                match spans.last_mut() {
                    Some(last) if last.style == style => last.content.to_mut().push(char),
                    _ => spans.push(Span::styled(char.to_string(), style)),
                }
            }
            Line::from(spans)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_falls_and_a_steady_one_stays_on_top() {
        assert_eq!(trend(&[Some(1e-1), Some(1e-2), Some(1e-3), None]), "█▄▁ ");
        assert_eq!(trend(&[Some(0.05), Some(0.051), Some(0.049)]), "███");
        assert_eq!(trend(&[Some(0.0), None]), "▁ ");
    }

    #[test]
    fn a_profile_keeps_silence_visible() {
        assert_eq!(profile(&[1.0, 0.0, 0.5], 10), "█ ▄");
        assert_eq!(profile(&[1.0, 1.0, 0.0, 0.0], 2), "█ ");
        assert_eq!(profile(&[], 10), "");
    }
}
