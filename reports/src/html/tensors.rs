//! The table of a run's tensors. The worst are there before the script runs; it draws the others from data.

use std::cmp::Reverse;

use ckpt_inspect::Verdict;
use ckpt_inspect::health::measures::{Measure, Place, shown_in};
use ckpt_inspect::record::TensorRecord;
use ckpt_inspect::run::Run;
use maud::{Markup, html};

use super::{ROWS, badge, controls, crossing, name, pages};
use crate::text::{measured, shape};

/// The first and the last checkpoint that have the tensor of layer `l`.
pub fn ends(run: &Run, l: usize) -> Option<(&TensorRecord, &TensorRecord)> {
    let mut all = (0..run.checkpoints.len()).filter_map(|c| run.tensor(l, c));
    let first = all.next()?;
    Some((first, all.next_back().unwrap_or(first)))
}

/// The layers of `run` in the order of the table: the worst at its end first.
pub fn worst_first(run: &Run) -> Vec<usize> {
    let mut layers: Vec<usize> = (0..run.layers.len()).filter(|&l| ends(run, l).is_some()).collect();
    layers.sort_by_cached_key(|&l| Reverse(ends(run, l).and_then(|(_, last)| last.verdict)));
    layers
}

/// The table of `run` at this place of the page, with rows if it is `true`. Without a run, an empty one: that of place
/// 0 is for a single checkpoint, another one for several.
pub fn card(place: usize, run: Option<(&Run, bool)>) -> Markup {
    let over = run.map_or(place > 0, |(run, _)| run.is_series());
    let heading = |text: &str, is_number: bool, worst: bool| {
        html! { th scope="col" class=[is_number.then_some("num")] aria-sort=[worst.then_some("descending")] { (text) } }
    };
    let (run, layers) = match run {
        Some((run, true)) => (Some(run), worst_first(run)),
        other => (other.map(|(run, _)| run), Vec::new()),
    };
    let more = layers.len().saturating_sub(ROWS);
    html! {
        div.card.tensors data-place=[run.map(|_| place)] data-over=[over.then_some("")] {
            h3 id=[run.map(|_| format!("tensors{place}"))] { "Tensors" }
            (controls("Name contains", true))
            div.scroll tabindex="0" role="group" aria-label="Tensors" {
                table.data.sortable {
                    thead { tr {
                        (heading("name", false, false)) (heading("dtype", false, false)) (heading("shape", false, false))
                        @for m in shown_in(Place::Table) {
                            @if over && m.is_in(Place::Narrow) {
                                (heading(&format!("{}, first", m.heading), true, false)) (heading(&format!("{}, last", m.heading), true, false))
                            } @else { (heading(m.heading, true, false)) }
                        }
                        @if over { (heading("below healthy at", true, false)) }
                        (heading("verdict", false, true))
                    } }
                    tbody {
                        @if let Some(run) = run {
                            @for &l in layers.iter().take(ROWS) { @if let Some((first, last)) = ends(run, l) { (row(run, l, first, last, over)) } }
                        }
                    }
                }
            }
            (pages(more, "tensor"))
        }
    }
}

fn row(run: &Run, l: usize, first: &TensorRecord, last: &TensorRecord, over: bool) -> Markup {
    let layer = &run.layers[l];
    let num = |m: &Measure, t: &TensorRecord| {
        html! { td.num { @if m.real(t).is_some() { (measured(m, Some(t))) } @else { "–" } } }
    };
    html! {
        tr {
            th scope="row" { (name(&layer.name)) }
            td { (last.dtype.name()) }
            td { (shape(&last.shape)) }
            @for m in shown_in(Place::Table) {
                @if over && m.is_in(Place::Narrow) { (num(m, first)) }
                (num(m, last))
            }
            @if over { td.num { @match crossing(run, layer, Verdict::Weak) { Some(at) => (at.cell()), None => "–" } } }
            td {
                (badge(last.verdict))
                @if let Some(finding) = &last.finding { span.muted { " " (crate::printable(&finding.to_string())) } }
            }
        }
    }
}
