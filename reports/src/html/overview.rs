//! The table of several runs and models, the worst first.

use ckpt_inspect::Verdict;
use ckpt_inspect::run::Run;
use maud::{Markup, html};

use super::{ROWS, Shown, badge, controls, name, pages};
use crate::headline::reason;
use crate::text::{bytes, count, plural};
use crate::{Report, printable, worst};

/// What `run` is: its checkpoints, or the format of a single one.
pub fn what(run: &Run) -> String {
    match run.checkpoints.as_slice() {
        [one] => one.format.to_string() + if one.damaged { " (damaged)" } else { "" },
        all => plural(all.len() + run.aside.len(), "checkpoint"),
    }
}

/// Why it is not healthy, or how much of it was judged.
pub fn why(run: &Run) -> Option<String> {
    reason(run.checkpoints.last()?)
}

pub fn overview(report: &Report, order: &[usize], shown: &[Shown]) -> Markup {
    let counts = worst::counts(report.runs.iter().map(Run::standing));
    let heading = |text: &str, class: &str, worst: bool| {
        html! { th scope="col" class=(class) aria-sort=[worst.then_some("descending")] { (text) } }
    };
    let more = order.len().saturating_sub(ROWS);
    html! {
        section.card.overview aria-labelledby="all" {
            h2 #all { "The worst first" }
            ul.counts aria-label="Verdicts" {
                @for (verdict, count) in &counts {
                    li data-verdict=(verdict.map_or("none", Verdict::name)) { (badge(*verdict)) " " b { (count) } }
                }
            }
            (controls("Name contains", true))
            table.data.sortable.fixed {
                thead { tr {
                    (heading("name", "c-name", false)) (heading("verdict", "c-verdict", true)) (heading("why", "c-why", false))
                    (heading("what", "c-what", false)) (heading("step", "num c-step", false))
                    (heading("parameters", "num c-count", false)) (heading("size", "num c-size", false))
                } }
                tbody {
                    @for (place, &i) in order.iter().enumerate().take(ROWS) { (row(place, &report.runs[i], &shown[place])) }
                }
            }
            (pages(more, "row"))
        }
    }
}

fn row(place: usize, run: &Run, shown: &Shown) -> Markup {
    let last = run.checkpoints.last();
    let title = name(run.title());
    html! {
        tr {
            th.c-name scope="row" { @match shown { Shown::Section(_) => a href={ "#run" (place) } { (title) }, _ => (title) } }
            td.c-verdict { (badge(run.standing())) }
            td.c-why { (why(run).map(|why| printable(&why)).unwrap_or_default()) }
            td.c-what { (what(run)) }
            td.num.c-step { (last.and_then(|c| c.step).map_or("–".into(), |s| s.to_string())) }
            td.num.c-count { (last.map_or("–".into(), |c| count(c.parameters))) }
            td.num.c-size { (bytes(size(run))) }
        }
    }
}

/// Bytes of all its checkpoints.
pub fn size(run: &Run) -> u64 {
    super::all_checkpoints(run).fold(0, |sum, (c, _)| sum.saturating_add(c.file_bytes))
}
