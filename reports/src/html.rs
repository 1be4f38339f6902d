//! The report as one self-contained HTML page: no network, no external file, a strict content security policy.
//! Without JavaScript it shows the summary, the plots and the worst of each table. The rest is compact data
//! ([`data`]), from which the script draws the rows that are looked at. Names and metadata come from checkpoints and are
//! hostile text: [`printable`] makes control and invisible characters visible, `maud` escapes what it splices, the
//! script makes text nodes alone, and the data blocks escape `<`.

use base64::Engine;
use ckpt_inspect::Verdict;
use ckpt_inspect::health::measures::{Place, computed};
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::run::{Layer, Run};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::chart::{KINDS, MOST_LINES, std_over_steps};
use crate::headline::{extent, headline, judged_in_part};
use crate::text::{bytes, count, plural};
use crate::{Error, Exporter, Report, Training, printable, worst};

mod cause;
mod data;
mod overview;
mod tensors;
#[cfg(test)]
mod tests;

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
/// Rows of a table that are there before the script runs, and that are drawn at a time.
const ROWS: usize = 100;
/// Rows of a table that the script does not draw.
const MOST_ROWS: usize = 200;
/// Entries of a legend.
const MOST_KINDS: usize = 24;
/// Files that could not be read, before they are folded.
const MOST_UNREADABLE: usize = 20;
/// Of several runs, so many are shown one below the other; of more, each is shown when its row is opened.
const MOST_SECTIONS: usize = 6;
/// Bytes of the sections of runs, without those of the only run. Charts of further runs are left out.
const SECTION_BYTES: usize = 3_000_000;
const LEVELS: [Verdict; 3] = [Verdict::Weak, Verdict::Dying, Verdict::Dead];

/// Where the page shows a run, beside its row among the others.
enum Shown {
    /// In a section of its own.
    Section(String),
    /// In a section that its row unfolds.
    Folded(String),
    /// Below its row, from data alone.
    Data,
}

impl Shown {
    /// Bytes that are written out.
    fn written(&self) -> usize {
        match self {
            Shown::Section(text) | Shown::Folded(text) => text.len(),
            Shown::Data => 0,
        }
    }
}

/// The page for `report`.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn html(report: &Report) -> Result<String, Error> {
    let order = worst::runs(&report.runs);
    let shown = shown(report, &order)?;
    let data = data::data(report, &order, &shown);
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
                    p.muted { (extent(&report.runs)) }
                    @for note in &data.left_out { p.muted { (note) } }
                }
                main #main {
                    @if !report.unreadable.is_empty() { (unreadable(report)) }
                    @if order.len() > 1 { (overview::overview(report, &order, &shown)) }
                    @for shown in &shown { @if let Shown::Section(section) = shown { (PreEscaped(section)) } }
                    @if !order.is_empty() { (explained()) }
                }
                footer.muted { "Made by ckpt " (env!("CARGO_PKG_VERSION")) " from measurements of the files; nothing in them was executed." }
                @if order.len() > 1 {
                    @for (place, shown) in shown.iter().enumerate() {
                        @if let Shown::Folded(section) = shown { template id={ "section" (place) } { (PreEscaped(section)) } }
                    }
                    template #tensors-once { (tensors::card(0, None)) }
                    template #tensors-over { (tensors::card(1, None)) }
                }
                script type="application/json" id="data" { (PreEscaped(data.page)) }
                script type="text/plain" id="details" { (PreEscaped(data.details)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

/// How each run of `order` is shown.
fn shown(report: &Report, order: &[usize]) -> Result<Vec<Shown>, Error> {
    let series = order.iter().filter(|&&i| report.runs[i].is_series()).count();
    let mut left = SECTION_BYTES;
    let mut all = Vec::with_capacity(order.len());
    for (place, &i) in order.iter().enumerate() {
        let alone = order.len() == 1;
        let is_series = report.runs[i].is_series();
        // A drawing takes some thousand bytes at least.
        if !alone && (!is_series || left < 1 << 13) {
            all.push(Shown::Data);
            continue;
        }
        let in_place = alone || series <= MOST_SECTIONS;
        let section = section(place, i, report, in_place)?.into_string();
        all.push(match left.checked_sub(section.len()) {
            Some(rest) if !alone => {
                left = rest;
                if in_place { Shown::Section(section) } else { Shown::Folded(section) }
            }
            None if !alone => Shown::Data,
            _ => Shown::Section(section),
        });
    }
    Ok(all)
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

fn unreadable(report: &Report) -> Markup {
    let item = |why: &ckpt_inspect::Error| {
        html! { li { (printable(&why.to_string())) @if let Some(cause) = cause::of_unreadable(why) { " (cause: " (cause) ")" } } }
    };
    let (first, rest) = report.unreadable.split_at(report.unreadable.len().min(MOST_UNREADABLE));
    html! {
        section.card.alert aria-labelledby="unreadable" {
            h2 #unreadable { (plural(report.unreadable.len(), "checkpoint")) " could not be read" }
            ul { @for (_, why) in first { (item(why)) } }
            @if !rest.is_empty() {
                details { summary { "And " (rest.len()) " more" } ul { @for (_, why) in rest { (item(why)) } } }
            }
        }
    }
}

/// What is shown of run `i`, at `place` of the page; with `in_place` also the rows of its tensors.
fn section(place: usize, i: usize, report: &Report, in_place: bool) -> Result<Markup, Error> {
    let run = &report.runs[i];
    let training = report.training.get(&i).map(trained).transpose()?;
    let words = headline(run, &report.explanations[i]);
    let patterns = patterns(run);
    let kinds = |pattern: &str| patterns.iter().position(|p| *p == pattern).unwrap_or(0);
    let chart = std_over_steps(run, false, &kinds)?;
    let relative = std_over_steps(run, true, &kinds)?;
    let verdict = words.verdict.map_or("none", Verdict::name);
    let causes = cause::panel(place, run, &report.explanations[i])?;
    let judged = run.layers.iter().filter(|l| l.judged.is_some()).count();
    Ok(html! {
        section.run id={ "run" (place) } aria-labelledby={ "title" (place) } {
            div class={ "headline v-" (verdict) } {
                p.path { (printable(run.title())) }
                h2 id={ "title" (place) } { span aria-hidden="true" { (glyph(words.verdict)) } " " (words.title) }
                @for sentence in &words.sentences { p { (printable(sentence)) } }
            }
            (causes)
            @if let Some(training) = training { (training) }
            @if chart.is_some() || relative.is_some() {
                div.card {
                    h3 { "Standard deviation over steps" }
                    (legend(run, &patterns))
                    @if judged > MOST_LINES { p.muted { "Of " (judged) " matrices, the worst " (MOST_LINES) " of each chart are drawn." } }
                    @if let Some(svg) = &chart { div.scroll tabindex="0" role="group" aria-label="Chart" { (PreEscaped(svg)) } }
                    @if let Some(svg) = &relative {
                        h4 { "Matrices that no ternary layer uses, relative to 1/√fan_in" }
                        div.scroll tabindex="0" role="group" aria-label="Chart of other matrices" { (PreEscaped(svg)) }
                    }
                }
            }
            (heatmap(place, run))
            (crossings(run))
            (checkpoints(place, run))
            (tensors::card(place, Some((run, in_place))))
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
            @for (k, pattern) in patterns.iter().enumerate().take(MOST_KINDS) {
                @let layers = run.layers.iter().filter(|l| l.pattern == *pattern).count();
                li {
                    svg.swatch aria-hidden="true" viewBox="0 0 28 8" { line class={ "line k" (k % KINDS) } x1="0" y1="4" x2="28" y2="4"; }
                    " " (printable(pattern)) @if layers > 1 { span.muted { " ×" (layers) } }
                }
            }
            @if patterns.len() > MOST_KINDS { li.muted { "and " (patterns.len() - MOST_KINDS) " more" } }
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
    let all = judged.len();
    let judged = worst::layers(run, judged, MOST_ROWS);
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
            @if all > judged.len() { p.muted { "The worst " (judged.len()) " of " (all) " layers." } }
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

/// Where a layer crossed into a verdict.
struct Crossed {
    /// To sort by.
    at: u64,
    text: String,
    title: Option<String>,
}

impl Crossed {
    fn cell(&self) -> Markup {
        html! { span title=[self.title.as_deref()] { (self.text) } }
    }
}

/// Where the layer crossed into `verdict`: interpolated between checkpoints if possible, else the first one there.
fn crossing(run: &Run, layer: &Layer, verdict: Verdict) -> Option<Crossed> {
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
    Some(Crossed { at, text, title })
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
    let crossed: Vec<usize> =
        (0..run.layers.len()).filter(|&l| !run.layers[l].crossings.is_empty()).collect();
    if crossed.is_empty() {
        return html! {};
    }
    let all = crossed.len();
    let crossed = worst::layers(run, crossed, MOST_ROWS);
    html! {
        div.card {
            h3 { "When each threshold was crossed" }
            @if all > crossed.len() { p.muted { "The worst " (crossed.len()) " of " (all) " layers." } }
            div.scroll tabindex="0" role="group" aria-label="Thresholds" {
                table.data {
                    thead { tr {
                        th scope="col" { "layer" }
                        @for level in LEVELS { th.num scope="col" { (level) } }
                        th.num scope="col" { "halves every" }
                    } }
                    tbody {
                        @for layer in crossed.iter().map(|&l| &run.layers[l]) {
                            tr {
                                th scope="row" { (name(&layer.name)) }
                                @for level in LEVELS { td.num { @match crossing(run, layer, level).map(|c| c.cell()).or_else(|| expected(run, layer, level)) { Some(cell) => (cell), None => "–" } } }
                                td.num { @match layer.decline { Some(d) => { (format!("{:.0} steps", d.half_life())) } None => "–" } }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A checkpoint, and whether it stays out of the series.
fn all_checkpoints(run: &Run) -> impl DoubleEndedIterator<Item = (&CheckpointRecord, bool)> {
    let aside = run.aside.iter().map(|a| (&a.record, true));
    run.checkpoints.iter().map(|c| (c, false)).chain(aside)
}

/// Why a checkpoint is not healthy, and how much of it was judged if that is not all.
fn reasons(checkpoint: &CheckpointRecord) -> Vec<String> {
    checkpoint.reasons.iter().cloned().chain(judged_in_part(checkpoint)).collect()
}

fn loss(checkpoint: &CheckpointRecord) -> Option<f64> {
    checkpoint.metadata.get("loss").and_then(Value::as_f64)
}

/// The checkpoints of a run; where there are very many, the last ones until the script draws them all.
fn checkpoints(place: usize, run: &Run) -> Markup {
    let warnings: Vec<(&CheckpointRecord, &String)> =
        run.checkpoints.iter().flat_map(|c| c.warnings.iter().map(move |w| (c, w))).take(50).collect();
    let all = run.checkpoints.len() + run.aside.len();
    let skipped = if all > MOST_ROWS { all - ROWS } else { 0 };
    let heading = |text: &str, is_number: bool| {
        html! { th scope="col" class=[is_number.then_some("num")] { (text) } }
    };
    html! {
        div.card.checkpoints data-place=(place) {
            h3 id={ "checkpoints" (place) } { "Checkpoints" }
            (controls("File contains", skipped > 0))
            div.scroll tabindex="0" role="group" aria-labelledby={ "checkpoints" (place) } {
                table.data {
                    thead { tr {
                        (heading("step", true)) (heading("file", false)) (heading("format", false))
                        (heading("loss", true)) (heading("parameters", true)) (heading("size", true))
                        (heading("verdict", false)) (heading("why", false))
                    } }
                    tbody {
                        @for (c, aside) in all_checkpoints(run).skip(skipped) {
                            tr {
                                td.num { (step(c)) }
                                th scope="row" { (name(&c.path)) @if aside { " (not in the series)" } }
                                td { (c.format) @if c.damaged { " (damaged)" } }
                                td.num { (number(loss(c))) }
                                td.num { (count(c.parameters)) }
                                td.num { (bytes(c.file_bytes)) }
                                td { (badge(c.verdict)) }
                                td { @match reasons(c).as_slice() {
                                    [] => "",
                                    [one] => (printable(one)),
                                    [first, others @ ..] => { details { summary { (printable(first)) } ul { @for why in others { li { (printable(why)) } } } } }
                                } }
                            }
                        }
                    }
                }
            }
            (pages(skipped, "earlier checkpoint"))
            @if !warnings.is_empty() {
                h4 { "Warnings" }
                ul { @for (c, warning) in warnings { li { (printable(&c.path)) ": " (printable(warning)) } } }
            }
        }
    }
}

/// What a table is searched and filtered by, for the script to show.
fn controls(search: &str, filters: bool) -> Markup {
    html! {
        @if filters {
            div.controls hidden {
                label { (search) " " input type="search" class="filter"; }
                label { "Verdict " select.verdict {
                    option value="" { "any" }
                    option value="below" { "below healthy" }
                    @for v in Verdict::ALL { option value=(v) { (v) } }
                    option value="none" { "not judged" }
                } }
                span.shown role="status" { }
            }
        }
    }
}

/// How many rows are not there without the script, and the buttons by which it turns pages.
fn pages(more: usize, noun: &str) -> Markup {
    html! {
        @if more > 0 { p.more.muted { "And " (plural(more, noun)) ", which the page's script lists." } }
        div.pages role="group" aria-label="Pages" hidden {
            button.previous type="button" { "Previous" }
            span.range { }
            button.next type="button" { "Next" }
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
