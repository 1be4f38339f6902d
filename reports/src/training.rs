//! The contents of a training run's `metrics.jsonl`, and its charts: loss, and below it over the same steps the health
//! of the weights.

use std::io::BufRead;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::Error;
use crate::chart::{Keys, WIDTH};
use crate::text::number;

/// A value over steps.
type Series = Vec<(u64, f64)>;

/// A training run's metrics.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Training {
    /// Training loss of each step.
    pub loss: Series,
    /// Loss on held-out data.
    pub validation: Series,
    /// Lowest standard deviation of any ternary matrix.
    pub lowest_std: Series,
    /// Largest share of zeros of any ternary matrix.
    pub most_zeros: Series,
}

/// Longer lines were not written by a trainer.
const MAX_LINE: u64 = 1 << 22;
/// Lines that are read.
const MAX_LINES: usize = 1 << 23;
/// Points in the line of the training loss, each the mean of a slice.
const POINTS: usize = 400;

impl Training {
    /// Reads metrics, one JSON object per line. Other lines are skipped; a step that occurs again, because the run was
    /// resumed from a checkpoint before it, replaces it and everything after it. `None` if nothing is left.
    ///
    /// # Errors
    /// The reader's.
    pub fn read(mut reader: impl BufRead) -> std::io::Result<Option<Training>> {
        let mut training = Training::default();
        let mut line = Vec::new();
        for _ in 0..MAX_LINES {
            line.clear();
            if std::io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let Ok(entry) = serde_json::from_slice::<serde_json::Value>(&line) else { continue };
            let Some(step) = entry["step"].as_u64() else { continue };
            // NaN and infinity are written as text, and cannot be drawn.
            if let Some(loss) = entry["loss"].as_f64() {
                for series in [&mut training.validation, &mut training.lowest_std, &mut training.most_zeros] {
                    series.truncate(series.partition_point(|p| p.0 < step));
                }
                push(&mut training.loss, step, loss);
            }
            if let Some(loss) = entry["validation_loss"].as_f64() {
                push(&mut training.validation, step, loss);
            }
            let layers = entry["health"].as_array().map_or(&[][..], Vec::as_slice);
            let values = |key: &str| layers.iter().filter_map(|l| l[key].as_f64()).collect::<Vec<_>>();
            if let Some(std) = values("std").into_iter().reduce(f64::min) {
                push(&mut training.lowest_std, step, std);
            }
            if let Some(zeros) = values("zero").into_iter().reduce(f64::max) {
                push(&mut training.most_zeros, step, zeros);
            }
        }
        Ok((!training.loss.is_empty() || !training.validation.is_empty()).then_some(training))
    }

    /// The step of the lowest loss on held-out data, and that loss.
    pub fn best(&self) -> Option<(u64, f64)> {
        self.validation.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn steps(&self) -> Option<(u64, u64)> {
        let all = [&self.loss, &self.validation, &self.lowest_std];
        let first = all.iter().filter_map(|s| s.first()).map(|p| p.0).min()?;
        let last = all.iter().filter_map(|s| s.last()).map(|p| p.0).max()?;
        (first < last).then_some((first, last))
    }

    /// Loss over steps as SVG; `None` for less than two steps.
    ///
    /// # Errors
    /// When plotters cannot draw.
    pub fn loss_chart(&self) -> Result<Option<String>, Error> {
        let Some(steps) = self.steps() else { return Ok(None) };
        let trained = means(&self.loss);
        let title = match self.loss.len().div_ceil(POINTS) {
            1 => "training loss".to_string(),
            n => format!("training loss, means of {n} steps"),
        };
        let lines = [(0, title, &trained, false), (1, "validation loss".into(), &self.validation, true)];
        let values = || trained.iter().chain(&self.validation).map(|p| p.1);
        let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        let margin = 0.05 * (high - low).max(1e-3);
        draw(steps, (low - margin)..(high + margin), 300, "loss", &lines).map(Some)
    }

    /// Lowest std over steps as SVG, on a log axis; `None` when it was not measured twice.
    ///
    /// # Errors
    /// When plotters cannot draw.
    pub fn health_chart(&self) -> Result<Option<String>, Error> {
        let positive: Series = self.lowest_std.iter().copied().filter(|p| p.1 > 0.0).collect();
        let Some(steps) = self.steps().filter(|_| positive.len() > 1) else { return Ok(None) };
        let low = positive.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let high = positive.iter().map(|p| p.1).fold(0.0, f64::max);
        let range = (low / 2.0)..(high * 2.0);
        let line = [(2, "lowest std of any ternary matrix".to_string(), &positive, false)];
        draw(steps, range.log_scale(), 200, "lowest std", &line).map(Some)
    }
}

/// Adds a point, and removes those at the same step and later.
fn push(series: &mut Series, step: u64, value: f64) {
    series.truncate(series.partition_point(|p| p.0 < step));
    series.push((step, value));
}

fn means(series: &Series) -> Series {
    let slice = series.len().div_ceil(POINTS).max(1);
    let mean = |points: &[(u64, f64)]| {
        let sum: f64 = points.iter().map(|p| p.1).sum();
        (points[points.len() / 2].0, sum / points.len() as f64)
    };
    series.chunks(slice).map(mean).collect()
}

/// Lines (number of the style, title, points, whether with dots) over steps.
fn draw<Y>(
    (first, last): (u64, u64),
    range: impl AsRangedCoord<Value = f64, CoordDescType = Y>,
    height: u32,
    unit: &str,
    lines: &[(usize, String, &Series, bool)],
) -> Result<String, Error>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let failed = |e: &dyn std::fmt::Display| Error::Chart(e.to_string());
    let mut keys = Keys::default();
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .margin_right(30)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(first as f64..last as f64, range)
            .map_err(|e| failed(&e))?;
        let text = ("sans-serif", 15).into_font().color(&keys.color("label", ""));
        let grid = keys.color("grid", "");
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(grid)
            .axis_style(grid)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_labels(9)
            .y_labels(6)
            .x_desc("step")
            .y_desc(unit)
            .x_label_formatter(&|v| if v.fract() == 0.0 { format!("{v:.0}") } else { String::new() })
            .y_label_formatter(&|v| number(Some(*v)))
            .draw()
            .map_err(|e| failed(&e))?;
        for (kind, title, points, dots) in lines {
            let style = keys.color(format!("line k{kind}"), title).stroke_width(2);
            let line = points.iter().map(|&(step, value)| (step as f64, value));
            chart.draw_series(LineSeries::new(line, style)).map_err(|e| failed(&e))?;
            for &(step, value) in points.iter().filter(|_| *dots) {
                let title = format!("{title}, step {step}: {}", number(Some(value)));
                let style = keys.color(format!("dot k{kind}"), title).filled();
                let dot = Circle::new((step as f64, value), 3, style);
                chart.draw_series([dot]).map_err(|e| failed(&e))?;
            }
        }
        area.present().map_err(|e| failed(&e))?;
    }
    let names: Vec<&str> = lines.iter().map(|l| l.1.as_str()).collect();
    Ok(keys.finish(&svg, (WIDTH, height), "chart", &format!("{} over steps", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_trained_again_counts_once() {
        let text = r#"{"step":1,"loss":3.0}
{"step":2,"loss":2.5}
{"step":2,"validation_loss":2.6}
{"step":2,"health":[{"std":0.04,"zero":0.3},{"std":0.01,"zero":0.4}]}
{"step":3,"loss":9.0}
{"step":3,"validation_loss":9.0}
not json
{"step":3,"loss":"NaN"}
{"step":3,"loss":2.0}
{"step":4,"loss":1.5}
"#;
        let training = Training::read(text.as_bytes()).unwrap().unwrap();
        assert_eq!(training.loss, [(1, 3.0), (2, 2.5), (3, 2.0), (4, 1.5)]);
        assert_eq!(training.best(), Some((2, 2.6)));
        assert_eq!((training.lowest_std[0], training.most_zeros[0]), ((2, 0.01), (2, 0.4)));
        assert_eq!(training.validation.len(), 1);
        assert!(Training::read(&b"{}\n"[..]).unwrap().is_none());
        let svg = training.loss_chart().unwrap().unwrap();
        assert!(svg.contains("validation loss, step 2: 2.6"), "{svg}");
        assert!(training.health_chart().unwrap().is_none());
    }

    #[test]
    fn long_runs_are_drawn_as_means() {
        let series: Series = (0..4000).map(|step| (step, (step % 10) as f64)).collect();
        let drawn = means(&series);
        assert_eq!(drawn.len(), POINTS);
        assert!(drawn.iter().all(|p| (p.1 - 4.5).abs() < 1e-12));
    }
}
