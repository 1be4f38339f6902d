//! The panel on why a run died: one sentence, one plot, what to do; the numbers of every layer on demand.

use ckpt_inspect::Verdict;
use ckpt_inspect::cause::{Cause, Explanation, LayerCause};
use ckpt_inspect::run::Run;
use maud::{Markup, PreEscaped, html};

use super::{MOST_ROWS, name};
use crate::cause::{Finding, findings};
use crate::decline::{Drawing, decline};
use crate::text::plural;
use crate::{Error, printable};

/// The panel for `run`, the `i`th of the page; nothing for a run that is alive.
pub fn panel(i: usize, run: &Run, explanation: &Explanation) -> Result<Markup, Error> {
    let found = findings(run, explanation);
    if found.is_empty() {
        return Ok(html! {});
    }
    let charts: Vec<Option<Drawing>> = found
        .iter()
        .map(|f| {
            explanation.layers.iter().find(|l| l.layer == f.example).map_or(Ok(None), |l| decline(run, l))
        })
        .collect::<Result<_, _>>()?;
    let below = run.verdict().is_some_and(Verdict::is_below_healthy);
    Ok(html! {
        section.card.cause aria-labelledby={ "cause" (i) } {
            h3 id={ "cause" (i) } { @if below { "Cause of death" } @else { "What is happening" } }
            @for (finding, chart) in found.iter().zip(&charts) { (one(run, finding, chart.as_ref())) }
            (numbers(run, explanation))
        }
    })
}

/// The cause of a file that cannot be read, if it follows from the error.
pub fn of_unreadable(error: &ckpt_inspect::Error) -> Option<&'static str> {
    Some(Cause::of_unreadable(error)).filter(|c| *c != Cause::Unknown).map(Cause::name)
}

fn one(run: &Run, finding: &Finding, chart: Option<&Drawing>) -> Markup {
    html! {
        div.finding {
            h4 { (finding.title) }
            p.said { (printable(&finding.sentence)) }
            p.muted { (printable(&finding.those)) }
            div.beside {
                @if let Some(Drawing { svg, predicted }) = chart {
                    figure {
                        div.scroll tabindex="0" role="group" aria-label="Chart of the decline" { (PreEscaped(svg)) }
                        figcaption.muted {
                            (name(&run.layers[finding.example].name)) ": "
                            span.measured aria-hidden="true" { "●" } " measured"
                            @if *predicted { ", " span.alone aria-hidden="true" { "╌╌" } " weight decay alone" }
                        }
                    }
                }
                @if !finding.advice.is_empty() {
                    div.todo {
                        h5 { "What to do" }
                        ol { @for advice in &finding.advice { li { (printable(advice)) } } }
                    }
                }
            }
            h5 { "Evidence" }
            dl.shown-by { @for (heading, text) in &finding.evidence { dt { (heading) } dd { (printable(text)) } } }
        }
    }
}

/// Every layer's numbers, and those of layers of the same kind together.
fn numbers(run: &Run, explanation: &Explanation) -> Markup {
    let layers = explanation.layers.iter().take(MOST_ROWS);
    let more = explanation.layers.len().saturating_sub(MOST_ROWS);
    let rate = |rate: f64, interval: Option<f64>| match interval {
        Some(interval) => format!("{rate:.3e} ± {interval:.0e}"),
        None => format!("{rate:.3e}"),
    };
    html! {
        details {
            summary { "Numbers of each layer" }
            @if !explanation.groups.is_empty() {
                div.scroll tabindex="0" role="group" aria-label="Rates of layers of the same kind" {
                    table.data {
                        thead { tr {
                            th scope="col" { "layers of a kind" } th.num scope="col" { "shrinking" } th.num scope="col" { "from step" } th.num scope="col" { "to step" }
                            th.num scope="col" { "fall of ln std per step" } th.num scope="col" { "R²" } th.num scope="col" { "halves every" }
                        } }
                        tbody { @for g in explanation.groups.iter().take(MOST_ROWS) { tr {
                            th scope="row" { (name(&g.pattern)) } td.num { (g.layers) } td.num { (g.from) } td.num { (g.to) }
                            td.num { (rate(g.rate, g.interval)) } td.num { (format!("{:.4}", g.r2)) } td.num { (format!("{:.0} steps", g.half_life)) }
                        } } }
                    }
                }
            }
            div.scroll tabindex="0" role="group" aria-label="Causes by layer" {
                table.data {
                    thead { tr {
                        th scope="col" { "layer" } th scope="col" { "cause" } th.num scope="col" { "fall of ln std per step" } th.num scope="col" { "predicted" }
                        th.num scope="col" { "ratio" } th.num scope="col" { "R²" } th.num scope="col" { "slope changed at" } th.num scope="col" { "cosine" }
                        th.num scope="col" { "codes unchanged" } th scope="col" { "why" }
                    } }
                    tbody { @for l in layers { (row(run, l, &rate)) } }
                }
            }
            @if more > 0 { p.muted { "And " (plural(more, "layer")) " more; --format json lists all." } }
        }
    }
}

fn row(run: &Run, l: &LayerCause, rate: &dyn Fn(f64, Option<f64>) -> String) -> Markup {
    let layer = &run.layers[l.layer];
    let decay = l.decay.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or("–".into());
    let changes: Vec<String> = layer.segments.iter().skip(1).map(|s| s.from.to_string()).collect();
    html! {
        tr {
            th scope="row" { (name(&layer.name)) }
            td.cause-name { (l.cause.name()) }
            td.num { (or_dash(decay.map(|d| rate(d.rate, d.interval)))) }
            td.num { (or_dash(decay.and_then(|d| d.predicted).map(|p| format!("{p:.3e}")))) }
            td.num { (or_dash(decay.and_then(|d| d.ratio).map(|r| format!("{r:.3}")))) }
            td.num { (or_dash(decay.map(|d| format!("{:.4}", d.r2)))) }
            td.num { (if changes.is_empty() { "–".to_string() } else { changes.join(", ") }) }
            td.num { (or_dash(l.direction.map(|d| format!("{:.4}", d.median)))) }
            td.num { (or_dash(l.survival.map(|s| format!("{:.1} %", 100.0 * s)))) }
            td.why { (printable(&l.reason)) }
        }
    }
}
