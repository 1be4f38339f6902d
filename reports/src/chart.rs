//! std of every judged matrix over steps, on a log axis over the bands of the levels, as SVG.
//!
//! plotters draws with colours and cannot label elements. So everything is drawn in a distinct colour that
//! encodes a CSS class and a title, and the colours are then replaced by these: the page's style sheet decides
//! how a line looks, in light, dark and print.

use ckpt_inspect::Verdict;
use ckpt_inspect::run::{Judged, Run};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::text::{number, plural};
use crate::{Error, printable, worst};

pub(crate) const WIDTH: u32 = 960;
/// Classes `k0` to `k7` of lines; patterns beyond share them.
pub const KINDS: usize = 8;
/// More points than this are drawn as lines without dots.
const MOST_DOTS: usize = 3000;
/// A line of more points keeps its lowest and highest in each slice.
const MOST_POINTS: usize = 800;
/// Points of all lines together.
const ALL_POINTS: usize = 40_000;
/// More lines could not be told apart: the worst are drawn.
pub(crate) const MOST_LINES: usize = 300;

/// Colours that encode classes and titles.
#[derive(Default)]
pub(crate) struct Keys(Vec<(String, String)>);

/// Colours from here on are keys.
const FIRST_KEY: u32 = 0x10_0000;

impl Keys {
    pub fn color(&mut self, class: impl Into<String>, title: impl Into<String>) -> RGBColor {
        let key = FIRST_KEY + self.0.len() as u32;
        self.0.push((class.into(), title.into()));
        let [_, r, g, b] = key.to_be_bytes();
        RGBColor(r, g, b)
    }

    /// The SVG of this size that was drawn with these keys, with classes and titles for key colours, and `label` for
    /// those who do not see it.
    pub fn finish(&self, svg: &str, size: (u32, u32), class: &str, label: &str) -> String {
        let drawn = format!("width=\"{}\" height=\"{}\"", size.0, size.1);
        let named = format!("class=\"{class}\" role=\"img\" aria-label=\"{}\"", escape(label));
        self.resolve(svg).replacen(&drawn, &named, 1)
    }

    /// `svg` with classes and titles for key colours.
    fn resolve(&self, svg: &str) -> String {
        let mut out = String::with_capacity(svg.len());
        for line in svg.lines() {
            let key = line.find("=\"#").and_then(|at| {
                let key = u32::from_str_radix(line.get(at + 3..at + 9)?, 16).ok()?;
                Some((at, self.0.get(key.checked_sub(FIRST_KEY)? as usize)?))
            });
            let Some((at, (class, title))) = key else {
                out.push_str(line);
                out.push('\n');
                continue;
            };
            let start = line[..at].rfind(' ').unwrap_or(at);
            let kept = format!("{} class=\"{class}\"{}", &line[..start], &line[at + 10..]);
            match kept.strip_suffix("/>").filter(|_| !title.is_empty()) {
                Some(open) => {
                    let tag = open[1..].split(' ').next().unwrap_or("g");
                    out.push_str(&format!("{open}><title>{}</title></{tag}>\n", escape(title)));
                }
                None => {
                    out.push_str(&kept);
                    out.push('\n');
                }
            }
        }
        out
    }
}

fn escape(text: &str) -> String {
    maud::html!((printable(text))).into_string()
}

/// The chart of the layers of `run` that are judged by std itself, or with `relative` of those judged by
/// std * sqrt(fan_in). `kinds` gives each pattern's number. `None` when there is nothing to draw a line through.
///
/// # Errors
/// When plotters cannot draw.
pub fn std_over_steps(
    run: &Run,
    relative: bool,
    kinds: &dyn Fn(&str) -> usize,
) -> Result<Option<String>, Error> {
    if !run.is_series() {
        return Ok(None);
    }
    let judged = |l: &usize| run.layers[*l].judged.is_some_and(|j| j.relative == relative);
    let layers = worst::layers(run, (0..run.layers.len()).filter(judged).collect(), MOST_LINES);
    let Some(Judged { levels, .. }) = layers.first().and_then(|&l| run.layers[l].judged) else {
        return Ok(None);
    };
    let steps = run.has_steps();
    let x = |i: usize| if steps { run.checkpoints[i].step.unwrap_or(0) as f64 } else { i as f64 };
    let count = run.checkpoints.len();
    let lines: Vec<(usize, Vec<(usize, f64)>)> = layers
        .iter()
        .map(|&l| {
            let value = |i: usize| Some((i, run.layers[l].measure(run.tensor(l, i)?)?));
            (l, (0..count).filter_map(value).collect())
        })
        .collect();
    let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|p| p.1)).filter(|v| *v > 0.0);
    let lowest = values().fold(levels.healthy, f64::min);
    let highest = values().fold(levels.healthy, f64::max);
    if values().next().is_none() {
        return Ok(None);
    }
    let decade = |v: f64, up: bool| {
        let exponent = if up { v.log10().ceil() } else { v.log10().floor() };
        10f64.powf(exponent.clamp(-40.0, 40.0))
    };
    // Once something is below healthy, its distance from dead should be visible.
    let lowest = if lowest < levels.healthy { lowest.min(levels.dying) } else { lowest };
    let floor = decade(lowest * 0.7, false);
    let ceiling = decade(highest * 1.4, true).max(floor * 10.0);

    let size = (WIDTH, if relative { 260 } else { 420 });
    let mut keys = Keys::default();
    let mut svg = String::new();
    {
        let failed = |e: &dyn std::fmt::Display| Error::Chart(e.to_string());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .margin_right(30)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x(0)..x(count - 1), (floor..ceiling).log_scale())
            .map_err(|e| failed(&e))?;
        for (verdict, low, high) in [
            (Verdict::Healthy, levels.healthy, ceiling),
            (Verdict::Weak, levels.weak, levels.healthy),
            (Verdict::Dying, levels.dying, levels.weak),
            (Verdict::Dead, floor, levels.dying),
        ] {
            let (low, high) = (low.clamp(floor, ceiling), high.clamp(floor, ceiling));
            if low < high {
                let class = format!("band v-{verdict}");
                let title = format!("{verdict}: {} to {}", number(Some(low)), number(Some(high)));
                let style = keys.color(class, title).filled();
                let band = Rectangle::new([(x(0), low), (x(count - 1), high)], style);
                chart.draw_series([band]).map_err(|e| failed(&e))?;
                let style =
                    ("sans-serif", 15).into_font().color(&keys.color(format!("name v-{verdict}"), ""));
                let style = style.pos(Pos::new(HPos::Right, VPos::Bottom));
                let name = Text::new(verdict.name(), (x(count - 1), low), style);
                chart.draw_series([name]).map_err(|e| failed(&e))?;
            }
        }
        let text = ("sans-serif", 15).into_font().color(&keys.color("label", ""));
        let grid = keys.color("grid", "");
        let unit = if relative { "std × √fan_in" } else { "std" };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(grid)
            .axis_style(grid)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_labels(9)
            .x_desc(if steps { "step" } else { "checkpoint" })
            .y_desc(unit)
            .x_label_formatter(&|v| if v.fract() == 0.0 { format!("{v:.0}") } else { String::new() })
            .y_label_formatter(&|v| format!("{v:.0e}"))
            .draw()
            .map_err(|e| failed(&e))?;
        let dots = lines.iter().map(|(_, points)| points.len()).sum::<usize>() <= MOST_DOTS;
        let most = MOST_POINTS.min(ALL_POINTS / lines.len());
        for (layer, points) in &lines {
            let layer = &run.layers[*layer];
            let kind = kinds(&layer.pattern) % KINDS;
            // A tensor that is all zero is drawn on the lower edge.
            let place = |&(i, v): &(usize, f64)| (x(i), v.max(floor));
            let style = keys.color(format!("line k{kind}"), &layer.name).stroke_width(2);
            let line: Vec<(f64, f64)> = thinned(points, most).iter().map(place).collect();
            chart.draw_series(LineSeries::new(line, style)).map_err(|e| failed(&e))?;
            for point in points.iter().filter(|_| dots) {
                let at = match run.checkpoints[point.0].step {
                    Some(step) => format!("step {step}"),
                    None => run.checkpoints[point.0].path.clone(),
                };
                let title = format!("{}, {at}: {unit} {}", layer.name, number(Some(point.1)));
                let style = keys.color(format!("dot k{kind}"), title).filled();
                chart.draw_series([Circle::new(place(point), 3, style)]).map_err(|e| failed(&e))?;
            }
        }
        area.present().map_err(|e| failed(&e))?;
    }
    let what = if relative { "Relative standard deviation" } else { "Standard deviation" };
    let label = format!(
        "{what} of {} over steps. The table of tensors has the values.",
        plural(lines.len(), "matrix")
    );
    Ok(Some(keys.finish(&svg, size, "chart", &label)))
}

/// `points`, or if there are more than `most`, the lowest and highest of each slice.
fn thinned(points: &[(usize, f64)], most: usize) -> Vec<(usize, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let slice = points.len().div_ceil(most / 2);
    points
        .chunks(slice)
        .flat_map(|chunk| {
            let by_value = |a: &&(usize, f64), b: &&(usize, f64)| a.1.total_cmp(&b.1);
            let low = *chunk.iter().min_by(by_value).expect("chunks are not empty");
            let high = *chunk.iter().max_by(by_value).expect("chunks are not empty");
            if low.0 <= high.0 { [low, high] } else { [high, low] }
        })
        .collect()
}
