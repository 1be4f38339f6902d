//! The report as one self-contained HTML page: no network, no external file, a strict content security policy.
//! Everything but sorting, filtering and histograms works without JavaScript. Names and metadata come from
//! checkpoints and are hostile text: [`printable`] makes control and invisible characters visible, and `maud` escapes
//! what it splices. The data block holds numbers and words of our own, and escapes `<`.

use base64::Engine;
use ckpt_inspect::Verdict;
use ckpt_inspect::health::measures::{Form, Measure, Place, computed, shown_in};
use ckpt_inspect::record::{CheckpointRecord, TensorRecord};
use ckpt_inspect::run::{Layer, Run};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::chart::{KINDS, std_over_steps};
use crate::headline::headline;
use crate::text::{bytes, count, measured, plural, shape};
use crate::{Error, Exporter, Report, Training, printable};

mod cause;

pub(crate) const REPORT: Exporter<Report> = Exporter {
    name: "html",
    summary: None,
    extensions: &["html", "htm"],
    page: true,
    write: |report, _| html(report),
};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");
/// Columns of a heatmap; more checkpoints share columns, which then show the worst.
const HEATMAP_COLUMNS: usize = 48;
/// Tensors times checkpoints whose histograms are embedded.
const HISTOGRAMS: usize = 20_000;
const LEVELS: [Verdict; 3] = [Verdict::Weak, Verdict::Dying, Verdict::Dead];

/// The page for `report`.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn html(report: &Report) -> Result<String, Error> {
    let sections: Vec<Markup> =
        (0..report.runs.len()).map(|i| section(i, report)).collect::<Result<_, _>>()?;
    let several = report.runs.len() > 1;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                title { (printable(&report.title)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#main" { "Skip to the report" }
                header {
                    h1 { (printable(&report.title)) }
                    p.muted {
                        (plural(report.runs.len(), "run")) ", "
                        (plural(report.runs.iter().map(|r| r.checkpoints.len()).sum(), "checkpoint"))
                    }
                    @if histogram_stride(report) > 1 {
                        p.muted { "Histograms are kept for one in " (histogram_stride(report)) " checkpoints of each tensor." }
                    }
                    @if several { (contents(report)) }
                }
                main #main {
                    @if !report.unreadable.is_empty() { (unreadable(report)) }
                    @for section in sections { (section) }
                    (explained())
                }
                footer.muted { "Made by ckpt " (env!("CARGO_PKG_VERSION")) " from measurements of the files; nothing in them was executed." }
                script type="application/json" id="data" { (PreEscaped(embedded(report))) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

fn policy() -> String {
    let hash = |text: &str| base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

/// A word and a shape show every verdict as well as a colour.
fn badge(verdict: Option<Verdict>) -> Markup {
    let word = verdict.map_or("not judged", Verdict::name);
    html! { span class={ "badge v-" (verdict.map_or("none", Verdict::name)) } { span aria-hidden="true" { (glyph(verdict)) } " " (word) } }
}

fn glyph(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        None => "–",
        Some(Verdict::Healthy) => "●",
        Some(Verdict::Untrained) => "○",
        Some(Verdict::Weak) => "◐",
        Some(Verdict::Dying) => "▼",
        Some(Verdict::Dead) => "✕",
        Some(Verdict::Corrupt) => "!",
        Some(_) => "?",
    }
}

/// A name that may break after its dots and underscores, and nowhere else.
fn name(text: &str) -> Markup {
    html! { @for part in printable(text).split_inclusive(['.', '_', '/']) { (part) wbr; } }
}

fn contents(report: &Report) -> Markup {
    html! {
        nav aria-label="Runs" {
            ul {
                @for (i, run) in report.runs.iter().enumerate() {
                    li { a href={ "#run" (i) } { (printable(&run.name)) } " " (badge(run.verdict())) }
                }
            }
        }
    }
}

fn unreadable(report: &Report) -> Markup {
    html! {
        section.card.alert aria-labelledby="unreadable" {
            h2 #unreadable { (plural(report.unreadable.len(), "checkpoint")) " could not be read" }
            ul { @for (_, why) in &report.unreadable { li { (why.to_string()) @if let Some(cause) = cause::of_unreadable(why) { " (cause: " (cause) ")" } } } }
        }
    }
}

fn section(i: usize, report: &Report) -> Result<Markup, Error> {
    let run = &report.runs[i];
    let training = report.training.get(&i).map(trained).transpose()?;
    let words = headline(run);
    let patterns = patterns(run);
    let kinds = |pattern: &str| patterns.iter().position(|p| *p == pattern).unwrap_or(0);
    let chart = std_over_steps(run, false, &kinds)?;
    let relative = std_over_steps(run, true, &kinds)?;
    let verdict = words.verdict.map_or("none", Verdict::name);
    let causes = cause::panel(i, run, &report.explanations[i])?;
    Ok(html! {
        section.run id={ "run" (i) } aria-labelledby={ "title" (i) } {
            div class={ "headline v-" (verdict) } {
                p.path { (printable(&run.name)) }
                h2 id={ "title" (i) } { span aria-hidden="true" { (glyph(words.verdict)) } " " (words.title) }
                @for sentence in &words.sentences { p { (printable(sentence)) } }
            }
            (causes)
            @if let Some(training) = training { (training) }
            @if chart.is_some() || relative.is_some() {
                div.card {
                    h3 { "Standard deviation over steps" }
                    (legend(run, &patterns))
                    @if let Some(svg) = &chart { div.scroll tabindex="0" role="group" aria-label="Chart" { (PreEscaped(svg)) } }
                    @if let Some(svg) = &relative {
                        h4 { "Matrices that no ternary layer uses, relative to 1/√fan_in" }
                        div.scroll tabindex="0" role="group" aria-label="Chart of other matrices" { (PreEscaped(svg)) }
                    }
                }
            }
            (heatmap(i, run))
            (crossings(run))
            (checkpoints(run))
            (tensors(i, run))
        }
    })
}

/// Loss and health over the steps of a run's training.
fn trained(training: &Training) -> Result<Markup, Error> {
    let charts = [training.loss_chart()?, training.health_chart()?];
    let kinds = ["training loss", "validation loss", "lowest std of any ternary matrix"];
    let (last, best) = (training.loss.last(), training.best());
    Ok(html! {
        div.card {
            h3 { "Training" }
            p {
                @if let Some((step, loss)) = last { "Loss " (number(Some(*loss))) " at step " (step) ". " }
                @if let Some((step, loss)) = best { "Lowest validation loss " (number(Some(loss))) ", at step " (step) ". " }
                @if let Some((step, std)) = training.lowest_std.last() { "Lowest std of any ternary matrix " (number(Some(*std))) " at step " (step) "." }
            }
            ul.legend aria-label="Lines" {
                @for (k, kind) in kinds.iter().enumerate() {
                    li { svg.swatch aria-hidden="true" viewBox="0 0 28 8" { line class={ "line k" (k) } x1="0" y1="4" x2="28" y2="4"; } " " (kind) }
                }
            }
            @for svg in charts.iter().flatten() { div.scroll tabindex="0" role="group" aria-label="Chart of training" { (PreEscaped(svg)) } }
        }
    })
}

/// Patterns of judged layers, in order of appearance: lines and the legend are coloured by them.
fn patterns(run: &Run) -> Vec<&str> {
    let mut patterns: Vec<&str> = Vec::new();
    for layer in run.layers.iter().filter(|l| l.judged.is_some()) {
        if !patterns.contains(&layer.pattern.as_str()) {
            patterns.push(&layer.pattern);
        }
    }
    patterns
}

fn legend(run: &Run, patterns: &[&str]) -> Markup {
    html! {
        ul.legend aria-label="Lines" {
            @for (k, pattern) in patterns.iter().enumerate() {
                @let layers = run.layers.iter().filter(|l| l.pattern == *pattern).count();
                li {
                    svg.swatch aria-hidden="true" viewBox="0 0 28 8" { line class={ "line k" (k % KINDS) } x1="0" y1="4" x2="28" y2="4"; }
                    " " (printable(pattern)) @if layers > 1 { span.muted { " ×" (layers) } }
                }
            }
        }
    }
}

/// Checkpoints that share a column of the heatmap.
fn columns(run: &Run) -> Vec<std::ops::Range<usize>> {
    let n = run.checkpoints.len();
    let columns = n.min(HEATMAP_COLUMNS);
    (0..columns).map(|c| c * n / columns..(c + 1) * n / columns).collect()
}

fn number(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| crate::text::number(Some(v)))
}

fn step(checkpoint: &CheckpointRecord) -> String {
    checkpoint.step.map_or("?".into(), |s| s.to_string())
}

fn heatmap(i: usize, run: &Run) -> Markup {
    let columns = columns(run);
    let judged: Vec<usize> = (0..run.layers.len())
        .filter(|&l| {
            run.layers[l].judged.is_some()
                || (0..run.checkpoints.len()).any(|c| run.tensor(l, c).is_some_and(|t| t.verdict.is_some()))
        })
        .collect();
    if judged.is_empty() {
        return html! {};
    }
    let cell = |l: usize, range: &std::ops::Range<usize>| {
        let worst = range.clone().filter_map(|c| Some((c, run.tensor(l, c)?))).max_by_key(|(_, t)| t.verdict);
        let verdict = worst.and_then(|(_, t)| t.verdict);
        let title = worst.map(|(c, t)| {
            let measure = run.layers[l].measure(t);
            format!(
                "step {}: {}, {}",
                step(&run.checkpoints[c]),
                verdict.map_or("not judged", Verdict::name),
                number(measure)
            )
        });
        html! {
            td class={ "v-" (verdict.map_or("none", Verdict::name)) } title=[title] {
                span aria-hidden="true" { (glyph(verdict)) }
                span.sr { (verdict.map_or("not judged", Verdict::name)) }
            }
        }
    };
    let shared = columns.iter().map(|c| c.len()).max().unwrap_or(1);
    html! {
        div.card {
            h3 id={ "heat" (i) } { "Health of each layer at each step" }
            ul.legend aria-label="Marks" { @for verdict in Verdict::ALL { li { (badge(Some(verdict))) } } }
            @if shared > 1 { p.muted { "Each column stands for up to " (shared) " checkpoints and shows the worst of them." } }
            div.scroll tabindex="0" role="group" aria-labelledby={ "heat" (i) } {
                table.heat {
                    thead { tr { th scope="col" { "layer" } @for range in &columns { th scope="col" { span { (step(&run.checkpoints[range.start])) } } } } }
                    tbody {
                        @for &l in &judged {
                            tr { th scope="row" { (name(&run.layers[l].name)) } @for range in &columns { (cell(l, range)) } }
                        }
                    }
                }
            }
        }
    }
}

/// Where the layer crossed into `verdict`: interpolated between checkpoints if possible, else the first one there.
fn crossing(run: &Run, layer: &Layer, verdict: Verdict) -> Option<(u64, Markup)> {
    let crossing = layer.crossings.iter().find(|c| c.verdict == verdict)?;
    let at = crossing.step.unwrap_or(crossing.checkpoint as u64);
    let first = step(&run.checkpoints[crossing.checkpoint]);
    let (text, title) = match (crossing.at, crossing.after) {
        (Some(at), Some(after)) => {
            (format!("≈ {at:.0}"), Some(format!("first seen at step {first}; step {after} was above")))
        }
        (_, Some(after)) => (first, Some(format!("the checkpoint before, step {after}, was above"))),
        (_, None) => (first, None),
    };
    Some((at, html! { span title=[title] { (text) } }))
}

/// Where the layer will cross into `verdict` at the rate of its last segment.
fn expected(run: &Run, layer: &Layer, verdict: Verdict) -> Option<Markup> {
    let decline = layer.decline.filter(|d| Some(d.to) == run.checkpoints.last().and_then(|c| c.step))?;
    let step = decline.reaches(layer.judged?.levels.bound(verdict)?);
    (step > decline.to as f64).then(
        || html! { span.muted title="not yet crossed: where its present rate leads" { "→ " (format!("{step:.0}")) } },
    )
}

/// The layers that crossed a threshold, and when.
fn crossings(run: &Run) -> Markup {
    let crossed: Vec<&Layer> = run.layers.iter().filter(|l| !l.crossings.is_empty()).collect();
    if crossed.is_empty() {
        return html! {};
    }
    html! {
        div.card {
            h3 { "When each threshold was crossed" }
            div.scroll tabindex="0" role="group" aria-label="Thresholds" {
                table.data {
                    thead { tr {
                        th scope="col" { "layer" }
                        @for level in LEVELS { th.num scope="col" { (level) } }
                        th.num scope="col" { "halves every" }
                    } }
                    tbody {
                        @for layer in crossed {
                            tr {
                                th scope="row" { (name(&layer.name)) }
                                @for level in LEVELS { td.num { @match crossing(run, layer, level).map(|c| c.1).or_else(|| expected(run, layer, level)) { Some(cell) => (cell), None => "–" } } }
                                td.num { @match layer.decline { Some(d) => { (format!("{:.0} steps", d.half_life())) } None => "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn checkpoints(run: &Run) -> Markup {
    let warnings: Vec<(&CheckpointRecord, &String)> =
        run.checkpoints.iter().flat_map(|c| c.warnings.iter().map(move |w| (c, w))).take(50).collect();
    html! {
        div.card {
            h3 { "Checkpoints" }
            div.scroll tabindex="0" role="group" aria-label="Checkpoints" {
                table.data {
                    thead { tr {
                        th.num scope="col" { "step" } th scope="col" { "file" } th scope="col" { "format" }
                        th.num scope="col" { "loss" } th.num scope="col" { "parameters" } th.num scope="col" { "size" }
                        th scope="col" { "verdict" } th scope="col" { "why" }
                    } }
                    tbody {
                        @for (c, aside) in run.checkpoints.iter().map(|c| (c, false)).chain(run.aside.iter().map(|a| (&a.record, true))) {
                            tr {
                                td.num { (step(c)) }
                                th scope="row" { (name(&c.path)) @if aside { " (not in the series)" } }
                                td { (c.format) @if c.damaged { " (damaged)" } }
                                td.num { (number(c.metadata.get("loss").and_then(Value::as_f64))) }
                                td.num { (count(c.parameters)) }
                                td.num { (bytes(c.file_bytes)) }
                                td { (badge(c.verdict)) }
                                td { @match c.reasons.as_slice() {
                                    [] => "",
                                    [one] => (printable(one)),
                                    [first, ..] => { details { summary { (printable(first)) } ul { @for why in &c.reasons[1..] { li { (printable(why)) } } } } }
                                } }
                            }
                        }
                    }
                }
            }
            @if !warnings.is_empty() {
                h4 { "Warnings" }
                ul { @for (c, warning) in warnings { li { (printable(&c.path)) ": " (printable(warning)) } } }
            }
        }
    }
}

/// The first and the last checkpoint that have the tensor.
fn ends(run: &Run, l: usize) -> Option<(&TensorRecord, &TensorRecord)> {
    let mut all = (0..run.checkpoints.len()).filter_map(|c| run.tensor(l, c));
    let first = all.next()?;
    Some((first, all.next_back().unwrap_or(first)))
}

fn tensors(i: usize, run: &Run) -> Markup {
    let heading = |text: &str, kind: &str| {
        html! { th scope="col" class=[(kind == "num").then_some("num")] data-kind=(kind) { (text) } }
    };
    let over = run.checkpoints.len() > 1;
    html! {
        div.card.tensors data-run=(i) {
            h3 id={ "tensors" (i) } { "Tensors" }
            div.controls hidden {
                label { "Name contains " input type="search" class="filter"; }
                label { "Verdict " select.verdict {
                    option value="" { "any" }
                    option value="below" { "below healthy" }
                    @for v in Verdict::ALL { option value=(v) { (v) } }
                } }
                span.shown role="status" { }
            }
            div.scroll tabindex="0" role="group" aria-labelledby={ "tensors" (i) } {
                table.data.sortable {
                    thead { tr {
                        (heading("name", "text")) (heading("dtype", "text")) (heading("shape", "text"))
                        @for m in shown_in(Place::Table) {
                            @if over && m.is_in(Place::Narrow) {
                                (heading(&format!("{}, first", m.heading), "num")) (heading(&format!("{}, last", m.heading), "num"))
                            } @else { (heading(m.heading, "num")) }
                        }
                        @if over { (heading("below healthy at", "num")) }
                        (heading("verdict", "num"))
                    } }
                    tbody {
                        @for l in 0..run.layers.len() { @if let Some((first, last)) = ends(run, l) { (row(run, l, first, last, over)) } }
                    }
                }
            }
        }
    }
}

fn row(run: &Run, l: usize, first: &TensorRecord, last: &TensorRecord, over: bool) -> Markup {
    let layer = &run.layers[l];
    let num = |m: &Measure, t: &TensorRecord| {
        let value = m.real(t);
        html! { td.num data-v=[value] { @if value.is_some() { (measured(m, Some(t))) } @else { "–" } } }
    };
    let below = crossing(run, layer, Verdict::Weak);
    let verdict = last.verdict;
    html! {
        tr data-verdict=(verdict.map_or("none", Verdict::name)) data-layer=(l) {
            th scope="row" { (name(&layer.name)) }
            td { (last.dtype) }
            td { (shape(&last.shape)) }
            @for m in shown_in(Place::Table) {
                @if over && m.is_in(Place::Narrow) { (num(m, first)) }
                (num(m, last))
            }
            @if over { td.num data-v=[below.as_ref().map(|b| b.0)] { @match &below { Some((_, cell)) => (cell), None => "–" } } }
            td data-v=(verdict.map_or(-1, |v| v as i32)) {
                (badge(verdict))
                @if let Some(finding) = &last.finding { span.muted { " " (finding.to_string()) } }
            }
        }
    }
}

fn explained() -> Markup {
    html! {
        section.card {
            h2 { "What the words mean" }
            dl {
                dt { "std" } dd { "Unbiased standard deviation of the elements. Matrices of ternary layers are judged by it; other matrices by std × √fan_in, since a trained matrix has about 1/√fan_in." }
                dt { "healthy, weak, dying, dead" } dd { "Levels of that measure; the chart's bands show where they begin. A constant matrix, or a ternary one that is almost all zero, is dead whatever its std." }
                dt { "corrupt" } dd { "NaN or infinite elements, or bytes that are missing or damaged." }
                dt { "zero, entropy, dead rows, dead columns" } dd { "After ternary (absmean) quantization: the share of zeros, Shannon entropy of the shares of −1, 0 and +1 (at most 1.585 bits), and rows and columns that are all zero. For other tensors, zero is the share of elements that are 0." }
                @for m in computed().filter(|m| m.is_in(Place::Details)) { dt { (m.heading) } dd { (m.explanation) } }
                dt { "halves every" } dd { "From a least-squares line through ln std of the last checkpoints, as far back as the decline is steady. Decoupled weight decay alone makes such a line." }
                dt { "≈ and →" } dd { "≈: the step at which a threshold was crossed, interpolated between checkpoints. →: the step at which it will be crossed at the present rate." }
            }
        }
    }
}

/// Histograms are embedded for every nth checkpoint; this is n.
fn histogram_stride(report: &Report) -> usize {
    let cells: usize = report.runs.iter().map(|r| r.checkpoints.len() * r.layers.len()).sum();
    cells.div_ceil(HISTOGRAMS).max(1)
}

/// The measures that the script shows: real numbers, which it rounds, and whole ones.
fn details() -> [Vec<&'static Measure>; 2] {
    let (reals, wholes) = shown_in(Place::Details).partition(|m| matches!(m.form, Form::Real | Form::Scale));
    [reals, wholes]
}

/// Measurements that the script shows on demand.
fn embedded(report: &Report) -> String {
    let stride = histogram_stride(report);
    let runs: Vec<Value> = report
        .runs
        .iter()
        .map(|run| {
            let n = run.checkpoints.len();
            let chosen: Vec<usize> = (0..n).filter(|c| c % stride == 0 || c + 1 == n).collect();
            let tensor = |l: usize, c: usize| {
                let Some(tensor) = run.tensor(l, c) else { return Value::Null };
                let Some(stats) = &tensor.stats else { return Value::Null };
                let measured = |m: &&Measure| m.value(tensor);
                let [reals, wholes] = details().map(|d| d.iter().map(measured).collect::<Vec<_>>());
                let (first, counts) = stats.histogram.as_ref().map_or((0, &[][..]), |h| (h.first, &h.counts));
                json!([reals, wholes, first, counts])
            };
            let layers: Vec<Value> =
                (0..run.layers.len()).map(|l| chosen.iter().map(|&c| tensor(l, c)).collect()).collect();
            json!({
                "steps": chosen.iter().map(|&c| step(&run.checkpoints[c])).collect::<Vec<_>>(),
                "layers": layers,
            })
        })
        .collect();
    let name = |m: &&Measure| json!([m.heading, m.explanation]);
    let names = details().map(|d| d.iter().map(name).collect::<Vec<_>>());
    // Inside a script element only `<` could end or nest it.
    json!({"measures": names, "runs": runs}).to_string().replace('<', "\\u003c")
}
