//! One weight's decline: measured std as dots, and the line that weight decay alone draws, as SVG.

use ckpt_inspect::cause::LayerCause;
use ckpt_inspect::run::Run;
use plotters::prelude::*;

use crate::Error;
use crate::chart::Keys;
use crate::text::number;

const SIZE: (u32, u32) = (560, 260);
/// The most dots; more would not show more.
const MOST_DOTS: usize = 200;

/// A drawn decline.
pub struct Drawing {
    /// The chart.
    pub svg: String,
    /// Whether the line of weight decay alone is in it.
    pub predicted: bool,
}

/// The chart of `cause`'s weight; `None` where its std did not decline.
///
/// # Errors
/// When plotters cannot draw.
pub fn decline(run: &Run, cause: &LayerCause) -> Result<Option<Drawing>, Error> {
    let Some(decay) = &cause.decay else { return Ok(None) };
    let layer = &run.layers[cause.layer];
    let series: Vec<(u64, f64)> = run.series(cause.layer).into_iter().filter(|p| p.1 > 0.0).collect();
    let (Some(first), Some(last)) = (series.first(), series.last()) else { return Ok(None) };
    if first.0 >= last.0 {
        return Ok(None);
    }
    let values = || series.iter().chain(&decay.line).map(|p| p.1).filter(|v| *v > 0.0 && v.is_finite());
    let (low, high) = values().fold((f64::INFINITY, 0.0), |(l, h): (f64, f64), v| (l.min(v), h.max(v)));
    let predicted = decay.line.len() > 1;
    let mut keys = Keys::default();
    let mut svg = String::new();
    {
        let failed = |e: &dyn std::fmt::Display| Error::Chart(e.to_string());
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(40)
            .y_label_area_size(58)
            .build_cartesian_2d(first.0 as f64..last.0 as f64, (low * 0.6..high * 1.6).log_scale())
            .map_err(|e| failed(&e))?;
        let text = ("sans-serif", 14).into_font().color(&keys.color("label", ""));
        let grid = keys.color("grid", "");
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(grid)
            .axis_style(grid)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_labels(6)
            .y_labels(5)
            .x_desc("step")
            .y_desc(if layer.judged.is_some_and(|j| j.relative) { "std × √fan_in" } else { "std" })
            .x_label_formatter(&|v| format!("{v:.0}"))
            .y_label_formatter(&|v| format!("{v:.0e}"))
            .draw()
            .map_err(|e| failed(&e))?;
        if predicted {
            let style = keys.color("predicted", "weight decay alone").stroke_width(2);
            let line = decay.line.iter().map(|&(t, v)| (t as f64, v.max(f64::MIN_POSITIVE)));
            chart.draw_series(LineSeries::new(line, style)).map_err(|e| failed(&e))?;
        }
        let stride = series.len().div_ceil(MOST_DOTS);
        let shown = |i: &usize| i.is_multiple_of(stride) || i + 1 == series.len();
        for (step, std) in (0..series.len()).filter(shown).map(|i| series[i]) {
            let style = keys.color("dot measured", format!("step {step}: {}", number(Some(std)))).filled();
            let dot = Circle::new((step as f64, std), 4, style);
            chart.draw_series([dot]).map_err(|e| failed(&e))?;
        }
        area.present().map_err(|e| failed(&e))?;
    }
    let label = match predicted {
        false => format!("Measured std of {} over steps.", layer.name),
        true => {
            format!("Measured std of {} over steps, next to what weight decay alone predicts.", layer.name)
        }
    };
    Ok(Some(Drawing { svg: keys.finish(&svg, SIZE, "chart small", &label), predicted }))
}
