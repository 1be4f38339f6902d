//! The report for pull requests: headline, checkpoints, and the layers below healthy, in GitHub's Markdown.

use ckpt_inspect::Verdict;
use ckpt_inspect::cause::Explanation;
use ckpt_inspect::health::measures::{Measure, Place, shown_in};
use ckpt_inspect::run::{Aside, Run};

use crate::cause::findings;
use crate::headline::{extent, headline, reason};
use crate::text::{measured, plural};
use crate::{Exporter, Report, printable, worst};

pub(crate) const REPORT: Exporter<Report> = Exporter {
    name: "md",
    summary: None,
    extensions: &["md", "markdown"],
    page: false,
    write: |report, _| Ok(markdown(report)),
};

/// Of more runs, only the worst have a section.
const SECTIONS: usize = 6;
/// Rows of a table; a comment on a pull request has room for 65 536 characters.
const ROWS: usize = 60;

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("# {}\n", escape(&report.title));
    for (_, why) in &report.unreadable {
        out += &format!("\n> **Unreadable:** {}\n", escape(&why.to_string()));
    }
    if report.runs.len() <= SECTIONS {
        for (run, explanation) in report.runs.iter().zip(&report.explanations) {
            section(run, explanation, &mut out);
        }
        return out;
    }
    let order = worst::runs(&report.runs);
    overview(report, &order, &mut out);
    let is_sick = |i: &usize| report.runs[*i].standing().is_some_and(Verdict::is_below_healthy);
    for &i in order.iter().take(SECTIONS).filter(|i| is_sick(i)) {
        section(&report.runs[i], &report.explanations[i], &mut out);
    }
    out
}

/// One table of very many runs and models, the worst first.
fn overview(report: &Report, order: &[usize], out: &mut String) {
    let count = |(verdict, count): &(Option<Verdict>, usize)| format!("{count} {}", mark(*verdict));
    let counts: Vec<String> =
        worst::counts(report.runs.iter().map(Run::standing)).iter().map(count).collect();
    *out += &format!("\n{}: {}\n", extent(&report.runs), counts.join(", "));
    *out += "\n| run or model | verdict | why |\n| --- | --- | --- |\n";
    for run in order.iter().take(ROWS).map(|&i| &report.runs[i]) {
        let why = run.checkpoints.last().and_then(reason).map_or(String::new(), |r| escape(&r));
        *out += &format!("| {} | {} | {why} |\n", code(run.title()), mark(run.standing()));
    }
    if order.len() > ROWS {
        *out += &format!("\n{} more are not listed; none of them is worse.\n", order.len() - ROWS);
    }
}

fn mark(verdict: Option<Verdict>) -> String {
    let Some(verdict) = verdict else { return "not judged".into() };
    let sign = match verdict {
        Verdict::Healthy => "🟢",
        Verdict::Untrained => "⚪",
        Verdict::Weak => "🟡",
        Verdict::Dying => "🟠",
        Verdict::Dead => "🔴",
        Verdict::Corrupt => "❌",
        _ => "❔",
    };
    format!("{sign} {verdict}")
}

fn section(run: &Run, explanation: &Explanation, out: &mut String) {
    let words = headline(run, explanation);
    *out += &format!("\n## {}: {}\n\n", code(&run.name), words.title);
    for sentence in &words.sentences {
        *out += &format!("{}\n", escape(sentence));
    }
    for finding in findings(run, explanation) {
        let (sentence, those) = (escape(&finding.sentence), escape(&finding.those));
        *out += &format!("\n### {}\n\n{sentence}\n{those}.\n\n", finding.title);
        for (heading, text) in &finding.evidence {
            *out += &format!("- {heading}: {}\n", escape(text));
        }
        if !finding.advice.is_empty() {
            *out += "\nWhat to do:\n\n";
            for (i, advice) in finding.advice.iter().enumerate() {
                *out += &format!("{}. {}\n", i + 1, escape(advice));
            }
        }
    }
    *out += "\n| step | checkpoint | verdict | below healthy |\n| ---: | --- | --- | ---: |\n";
    // The last ones matter most.
    let skipped = run.checkpoints.len().saturating_sub(ROWS);
    for checkpoint in &run.checkpoints[skipped..] {
        let step = checkpoint.step.map_or("?".into(), |s| s.to_string());
        let below =
            checkpoint.tensors.iter().filter(|t| t.verdict.is_some_and(Verdict::is_below_healthy)).count();
        *out +=
            &format!("| {step} | {} | {} | {below} |\n", code(&checkpoint.path), mark(checkpoint.verdict));
    }
    for Aside { record, .. } in run.aside.iter().take(ROWS) {
        let step = record.step.map_or("?".into(), |s| s.to_string());
        let name = code(&record.path);
        *out += &format!("| {step} | {name} (not in the series) | {} | |\n", mark(record.verdict));
    }
    if skipped > 0 {
        *out += &format!("\n{skipped} earlier checkpoints are not listed.\n");
    }
    let end = run.checkpoints.len() - 1;
    let below: Vec<usize> = (0..run.layers.len())
        .filter(|&l| run.tensor(l, end).is_some_and(|t| t.verdict.is_some_and(Verdict::is_below_healthy)))
        .collect();
    if below.is_empty() {
        return;
    }
    let each = |text: &dyn Fn(&Measure) -> String| -> String { shown_in(Place::Narrow).map(text).collect() };
    *out += &format!(
        "\n| layer |{} verdict | below healthy at | halves every |\n| --- |{} --- | ---: | ---: |\n",
        each(&|m| format!(" {} |", m.heading)),
        each(&|_| " ---: |".into()),
    );
    for &l in below.iter().take(ROWS) {
        let (layer, tensor) = (&run.layers[l], run.tensor(l, end));
        let measured = each(&|m| format!(" {} |", measured(m, tensor)));
        let since = layer.crossings.first().and_then(|c| c.step).map_or("-".into(), |s| format!("step {s}"));
        let half = layer.decline.map_or("-".into(), |d| format!("{:.0} steps", d.half_life()));
        let verdict = mark(tensor.and_then(|t| t.verdict));
        *out += &format!("| {} |{measured} {verdict} | {since} | {half} |\n", code(&layer.name));
    }
    if below.len() > ROWS {
        *out += &format!("\nBelow healthy, too: {} more.\n", plural(below.len() - ROWS, "layer"));
    }
}

/// `text` as a code span, which a table cell ends at `|` and a backtick would end.
fn code(text: &str) -> String {
    let text = printable(text);
    format!("`{}`", text.replace('`', "'").replace('|', "\\|"))
}

/// `text` with everything that Markdown or HTML would act on escaped.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            // GitHub would notify a user named after @.
            '@' => out += "@\u{200b}",
            c => out.push(c),
        }
    }
    // At the beginning of a line, a CI log would run it as a command.
    out.replace("::", "\\::")
}
