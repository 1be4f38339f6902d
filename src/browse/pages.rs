//! Pages of text: all details of a tensor, a comparison, help.

use ckpt_inspect::diff::{Diff, Status, TensorDiff};
use ckpt_inspect::health::measures::{Form, Measure, Part, Place, STD, Value, shown_in};
use ckpt_inspect::{Coverage, TensorRecord, Verdict};
use ratatui::text::{Line, Span};

use super::chart;
use super::keys;
use super::state::{Found, Mark, State};
use super::theme::Theme;
use super::tree::{Kind, Row};
use crate::terminal::{bytes, escape, number};

/// `text` after a label.
fn fact(theme: Theme, label: &str, text: impl Into<String>) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{label:<11} "), theme.dim()), Span::raw(text.into())])
}

/// `text` after a label, in lines of at most `width` characters.
fn long_fact(theme: Theme, label: &str, text: &str, width: usize) -> Vec<Line<'static>> {
    let pieces = wrapped(text, width.saturating_sub(12)).into_iter().enumerate();
    pieces.map(|(i, piece)| fact(theme, if i == 0 { label } else { "" }, piece)).collect()
}

fn title(theme: Theme, text: impl Into<String>) -> Line<'static> {
    Line::styled(text.into(), theme.bold())
}

/// `text` in lines of at most `width` characters, broken between words if words are shorter than that.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_inclusive(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + word.trim_end().chars().count() > width {
            lines.push(String::new());
            used = 0;
        }
        while used + rest.len() > width && rest.len() > 1 {
            let head: String = rest.drain(..(width - used).min(rest.len())).collect();
            lines.last_mut().expect("there is a line").push_str(&head);
            lines.push(String::new());
            used = 0;
        }
        used += rest.len();
        lines.last_mut().expect("there is a line").extend(rest);
    }
    lines.iter().map(|line| line.trim_end().to_string()).collect()
}

/// The content of the detail pane, `width` characters wide: the tensor under the cursor, or the file.
pub fn detail(state: &State, width: usize) -> Vec<Line<'static>> {
    match state.tensor() {
        Some((at, tensor)) => one_tensor(state, at, tensor, width),
        None => {
            let mut lines = module(state, width);
            lines.extend(file(state, width));
            lines
        }
    }
}

/// How the tensors of the module under the cursor were judged.
fn module(state: &State, width: usize) -> Vec<Line<'static>> {
    let theme = Theme { colors: state.colors };
    let Some(Row { kind: Kind::Module { path, .. }, count, bytes: size, .. }) = state.rows.get(state.list.at)
    else {
        return Vec::new();
    };
    let mut lines: Vec<Line> =
        wrapped(&escape(shown_name(path)), width).into_iter().map(|piece| title(theme, piece)).collect();
    lines.push(fact(theme, "tensors", format!("{count}, {}", bytes(*size))));
    let prefix = format!("{path}.");
    let tensors = state.file().known().map_or(&[][..], |r| &r.tensors);
    for verdict in Verdict::ALL {
        let inside = tensors.iter().filter(|t| t.verdict == Some(verdict) && t.name.starts_with(&prefix));
        let judged = inside.count();
        if judged > 0 {
            lines.push(Line::from(vec![
                Span::styled(format!("{:<11} ", verdict.name()), theme.verdict(Some(verdict))),
                Span::raw(judged.to_string()),
            ]));
        }
    }
    if state.file().complete {
        let inside = tensors.iter().filter(|t| t.name.starts_with(&prefix));
        let coverage = Coverage::over(inside.map(|t| (t, t.verdict)));
        if coverage.parameters > 0 {
            lines.extend(long_fact(theme, "judged", &escape(&coverage.to_string()), width));
        }
    }
    lines.push(Line::default());
    lines
}

fn file(state: &State, width: usize) -> Vec<Line<'static>> {
    let theme = Theme { colors: state.colors };
    let file = state.file();
    let mut lines: Vec<Line> = wrapped(&escape(&file.path.display().to_string()), width)
        .into_iter()
        .map(|piece| title(theme, piece))
        .collect();
    let record = match &file.record {
        None => return vec![Line::raw("opening…")],
        Some(Err(error)) => {
            lines
                .extend(wrapped(&escape(error), width).into_iter().map(|p| Line::styled(p, theme.warning())));
            return lines;
        }
        Some(Ok(record)) => record,
    };
    let verdict = match record.verdict {
        Some(verdict) => Span::styled(verdict.name(), theme.verdict(Some(verdict))),
        None if file.complete && record.coverage.layers_unjudged => {
            Span::styled("not judged: its layers are not read", theme.dim())
        }
        None if file.complete => Span::styled("not judged: no weight matrices", theme.dim()),
        None => Span::styled("measuring…", theme.dim()),
    };
    lines.push(Line::from(vec![Span::styled(format!("{:<11} ", "verdict"), theme.dim()), verdict]));
    if file.complete && (record.verdict.is_some() || record.coverage.layers_unjudged) {
        lines.extend(long_fact(theme, "judged", &escape(&record.coverage.to_string()), width));
    }
    lines.push(fact(theme, "format", format!("{}, {}", record.format, bytes(record.file_bytes))));
    lines.push(fact(theme, "model", escape(&record.model.architecture)));
    if let Some(step) = record.step {
        lines.push(fact(theme, "step", step.to_string()));
    }
    lines.push(fact(theme, "parameters", crate::terminal::count(record.parameters)));
    lines.push(fact(theme, "tensors", record.tensors.len().to_string()));
    let mut section = |heading: &str, texts: &[String]| {
        if !texts.is_empty() {
            lines.push(Line::default());
            lines.push(title(theme, heading));
            lines.extend(texts.iter().flat_map(|t| wrapped(&escape(t), width)).map(Line::raw));
        }
    };
    section("why", &record.reasons);
    section("warnings", &record.warnings);
    lines
}

fn one_tensor(state: &State, at: usize, tensor: &TensorRecord, width: usize) -> Vec<Line<'static>> {
    let theme = Theme { colors: state.colors };
    let mut lines: Vec<Line> = wrapped(&escape(shown_name(&tensor.name)), width)
        .into_iter()
        .map(|piece| title(theme, piece))
        .collect();
    if let Some(damage) = &tensor.damage {
        let pieces = wrapped(&format!("damaged: {}", escape(damage)), width);
        lines.extend(pieces.into_iter().map(|p| Line::styled(p, theme.warning())));
    } else if let Some(verdict) = tensor.verdict {
        let reason =
            tensor.finding.as_ref().map(|f| format!(": {}", escape(&f.to_string()))).unwrap_or_default();
        lines.push(Line::from(vec![
            Span::styled(format!("{:<11} ", "verdict"), theme.dim()),
            Span::styled(verdict.name(), theme.verdict(Some(verdict))),
            Span::raw(reason),
        ]));
    }
    lines.push(fact(theme, "dtype", format!("{}, {}", tensor.dtype, bytes(tensor.bytes))));
    lines.push(fact(theme, "shape", ckpt_reports::text::shape(&tensor.shape)));
    lines.push(fact(theme, "strides", ckpt_reports::text::shape(&tensor.strides)));
    if !tensor.shared_with.is_empty() {
        lines.push(fact(theme, "shares with", escape(&tensor.shared_with.join(", "))));
    }
    for (i, part) in tensor.quantized.iter().flat_map(|quantized| &quantized.parts).enumerate() {
        let (name, dtype, shape) = (escape(&part.name), part.dtype, ckpt_reports::text::shape(&part.shape));
        let label = if i == 0 { "stored as" } else { "" };
        lines.extend(long_fact(theme, label, &format!("{name}: {dtype} {shape}, {}", part.role), width));
    }
    statistics(tensor, theme, &mut lines);
    over_steps(state, tensor, theme, &mut lines);
    if tensor.ternary.is_some() {
        occupancy(tensor, width, theme, &mut lines);
    }
    if let Some(histogram) = tensor.stats.as_ref().and_then(|s| s.histogram.as_ref()) {
        let chart = chart::histogram(histogram, width.saturating_sub(1), 4, theme.bars());
        if !chart.is_empty() {
            lines.push(Line::default());
            lines.push(title(theme, "|w| by powers of two"));
            lines.extend(chart);
        }
    }
    from_afar(state, at, tensor, width, theme, &mut lines);
    lines
}

fn shown_name(name: &str) -> &str {
    if name.is_empty() { "(the root)" } else { name }
}

/// The measures of the elements: real numbers two to a line, faults only where there are any.
fn statistics(tensor: &TensorRecord, theme: Theme, lines: &mut Vec<Line<'static>>) {
    if tensor.stats.is_none() {
        return;
    }
    let all: Vec<&Measure> = shown_in(Place::Page).filter(|m| m.part == Part::Elements).collect();
    for alike in all.chunk_by(|a, b| a.form == b.form) {
        match alike[0].form {
            Form::Real => lines.extend(alike.chunks(2).map(|pair| match pair {
                [a, b] => Line::from(vec![
                    Span::styled(format!("{:<11} ", a.label), theme.dim()),
                    Span::raw(format!("{:<10} ", number(a.real(tensor)))),
                    Span::styled(format!("{:<8} ", b.label), theme.dim()),
                    Span::raw(number(b.real(tensor))),
                ]),
                alone => fact(theme, alone[0].label, number(alone[0].real(tensor))),
            })),
            Form::Faults => {
                if alike.iter().any(|m| m.real(tensor) > Some(0.0)) {
                    let texts: Vec<String> =
                        alike.iter().map(|m| format!("{} {}", measured(m, tensor), m.heading)).collect();
                    lines.push(Line::styled(texts.join(", "), theme.warning()));
                }
            }
            _ => lines.extend(alike.iter().map(|m| fact(theme, m.label, measured(m, tensor)))),
        }
    }
}

fn measured(measure: &Measure, tensor: &TensorRecord) -> String {
    let shape = &tensor.shape;
    match (measure.form, measure.value(tensor)) {
        (Form::Part, Some(Value::Count(part))) => {
            let count = tensor.stats.as_ref().map_or(1, |s| s.count.max(1));
            format!("{part} ({:.1} %)", 100.0 * part as f64 / count as f64)
        }
        (Form::Rows, Some(Value::Count(n))) => format!("{n} of {} rows", shape.first().unwrap_or(&1)),
        (Form::Columns, Some(Value::Count(n))) => {
            format!("{n} of {} columns", shape.iter().skip(1).product::<u64>())
        }
        (Form::Bits { most }, Some(Value::Real(bits))) => format!("{bits:.3} of {most} bits"),
        (Form::Share, Some(Value::Real(share))) => format!("{:.1} %", 100.0 * share),
        (Form::Scale, value) => {
            format!("{} {}", measure.label, value.map_or("lost".into(), |v| number(Some(v.real()))))
        }
        (_, Some(Value::Count(count))) => count.to_string(),
        (_, value) => number(value.map(Value::real)),
    }
}

/// std of the tensor in every checkpoint of the run, where it is known.
pub fn stds(state: &State, tensor: &TensorRecord) -> Vec<Option<f64>> {
    let one = |&file: &usize| STD.real(state.files[file].tensor(&tensor.name)?);
    state.run().iter().map(one).collect()
}

fn over_steps(state: &State, tensor: &TensorRecord, theme: Theme, lines: &mut Vec<Line<'static>>) {
    let stds = stds(state, tensor);
    if stds.len() < 2 {
        return;
    }
    let ends = [stds.first(), stds.last()].map(|v| number(v.copied().flatten()));
    let here = state.run().iter().position(|&f| f == state.current).unwrap_or(0);
    lines.push(Line::from(vec![
        Span::styled(format!("{:<11} ", "std by step"), theme.dim()),
        Span::raw(format!("{} ", ends[0])),
        Span::styled(chart::trend(&stds), theme.bars()),
        Span::raw(format!(" {}", ends[1])),
    ]));
    let arrow = " ".repeat(12 + ends[0].chars().count() + 1 + here) + "^";
    lines.push(Line::styled(arrow, theme.dim()));
}

/// The measures of the codes: shares as bars, entropy and scale on a line, rows and columns on another.
fn occupancy(tensor: &TensorRecord, width: usize, theme: Theme, lines: &mut Vec<Line<'static>>) {
    lines.push(Line::default());
    lines.push(title(theme, "ternary"));
    let room = width.saturating_sub(14).min(40);
    let mut bars = [theme.negative(), theme.dim(), theme.positive()].into_iter().cycle();
    let all: Vec<&Measure> = shown_in(Place::Page).filter(|m| m.part == Part::Codes).collect();
    let join = |a: &&Measure, b: &&Measure| {
        matches!((a.form, b.form), (Form::Bits { .. }, Form::Scale) | (Form::Rows, Form::Columns))
    };
    for those in all.chunk_by(join) {
        let first = those[0];
        if first.form == Form::Share {
            let share = first.real(tensor).unwrap_or(0.0);
            lines.push(Line::from(vec![
                Span::raw(format!("{:>3} {:5.1} % ", first.label, 100.0 * share)),
                Span::styled(
                    "█".repeat((share * room as f64).round() as usize),
                    bars.next().unwrap_or_default(),
                ),
            ]));
            continue;
        }
        let texts: Vec<String> = those.iter().map(|m| measured(m, tensor)).collect();
        let label = first.label.strip_suffix(" rows").unwrap_or(first.label);
        lines.push(fact(theme, label, texts.join(", ")));
    }
}

/// The map, norms of rows and columns, and values.
fn from_afar(
    state: &State,
    at: usize,
    tensor: &TensorRecord,
    width: usize,
    theme: Theme,
    lines: &mut Vec<Line<'static>>,
) {
    let survey = match &state.survey {
        Some((file, tensor, survey)) if (*file, *tensor) == (state.current, at) => survey,
        _ => return lines.push(Line::styled("reading…", theme.dim())),
    };
    let survey = match survey {
        Ok(survey) => survey,
        Err(error) if tensor.damage.is_none() => {
            return lines
                .extend(wrapped(&escape(error), width).into_iter().map(|p| Line::styled(p, theme.dim())));
        }
        Err(_) => return,
    };
    let width = width.saturating_sub(1);
    if survey.rows > 1 && survey.cols > 1 {
        lines.push(Line::default());
        let legend = if survey.ternary { "ternary map: share of ±1" } else { "map: mean |w|" };
        lines.push(title(theme, format!("{legend}, {} x {}", survey.rows, survey.cols)));
        lines.extend(chart::map(survey, width, 16, theme));
    }
    for (label, norms) in [("row norms", &survey.row_norms), ("column norms", &survey.col_norms)] {
        if norms.len() > 1 {
            let low = norms.iter().copied().fold(f64::INFINITY, f64::min);
            let high = norms.iter().copied().fold(0.0, f64::max);
            lines.push(Line::default());
            lines.push(title(theme, format!("{label}, {} to {}", number(Some(low)), number(Some(high)))));
            lines.push(Line::styled(chart::profile(norms, width), theme.bars()));
        }
    }
    let cell = 10;
    let cols = (width / cell).max(1);
    if !survey.corner.is_empty() {
        lines.push(Line::default());
        lines.push(title(theme, "values"));
    }
    for row in &survey.corner {
        let cells: String = row.iter().take(cols).map(|&v| format!("{:>9} ", number(Some(v)))).collect();
        lines.push(Line::raw(cells));
    }
}

/// The differences between the marked tensors or files.
pub fn comparison(state: &State) -> Vec<Line<'static>> {
    let theme = Theme { colors: state.colors };
    let Some(comparison) = &state.comparison else { return vec![Line::raw("comparing…")] };
    let path = |file: usize| state.files[file].path.display().to_string();
    let words = |mark: &Mark| match mark {
        Mark::File(file) => escape(&path(*file)),
        Mark::Tensor { file, tensor } => {
            let record = state.files[*file].known();
            let name = record.and_then(|r| Some(r.own_name(&r.tensors.get(*tensor)?.name)));
            let name = escape(name.unwrap_or_default());
            format!("{name}  in {}", escape(&path(*file)))
        }
    };
    let width = usize::from(state.size.0).saturating_sub(2);
    let mut lines = long_fact(theme, "A", &words(&comparison.a), width);
    lines.extend(long_fact(theme, "B", &words(&comparison.b), width));
    lines.push(Line::default());
    match &comparison.found {
        Err(error) => {
            lines
                .extend(wrapped(&escape(error), width).into_iter().map(|p| Line::styled(p, theme.warning())));
        }
        Ok(Found::Tensors(diff)) => two_tensors(diff, theme, &mut lines),
        Ok(Found::Files(diff)) => two_files(diff, theme, &mut lines),
    }
    lines
}

/// The whole plain value under the cursor.
pub fn value(state: &State) -> Vec<Line<'static>> {
    let theme = Theme { colors: state.colors };
    let Some(row) = state.values.get(state.value_list.at) else { return Vec::new() };
    let width = usize::from(state.size.0).saturating_sub(2);
    let mut lines: Vec<Line> =
        wrapped(&escape(&row.path), width).into_iter().map(|piece| title(theme, piece)).collect();
    lines.push(Line::default());
    // Line breaks in the value are kept.
    let texts = row.text.split('\n').flat_map(|line| wrapped(&escape(line), width));
    lines.extend(texts.map(Line::raw));
    lines
}

fn status_words(status: Status) -> &'static str {
    match status {
        Status::Same => "the same",
        Status::Retyped => "retyped, values the same",
        Status::Changed => "changed",
        Status::Reshaped => "of another shape",
        Status::Added => "only in B",
        Status::Removed => "only in A",
        Status::Unreadable => "not comparable",
        _ => "different in another way",
    }
}

fn two_tensors(diff: &TensorDiff, theme: Theme, lines: &mut Vec<Line<'static>>) {
    lines.push(title(theme, status_words(diff.status)));
    if let (Some(a), Some(b)) = (&diff.a, &diff.b) {
        let form = |side: &ckpt_inspect::diff::TensorSide| {
            format!("{} {}", side.dtype, ckpt_reports::text::shape(&side.shape))
        };
        lines.push(fact(
            theme,
            "form",
            if form(a) == form(b) { form(a) } else { format!("{} → {}", form(a), form(b)) },
        ));
    }
    if let Some(values) = &diff.values {
        let percent = 100.0 * values.equal_share();
        lines.push(fact(theme, "|A|, |B|", format!("{}, {}", number(values.norm_a), number(values.norm_b))));
        lines.push(fact(
            theme,
            "|B - A|",
            format!("{}, relative {}", number(values.norm_change), number(values.relative_change)),
        ));
        lines.push(fact(theme, "cosine", values.cosine.map_or("-".into(), |c| format!("{c:.6}"))));
        let place = format!("{} at {:?}", number(values.max_difference), values.max_at);
        lines.push(fact(theme, "largest", place));
        lines.push(fact(theme, "equal", format!("{} of {} ({percent:.2} %)", values.equal, values.count)));
        if values.nonfinite > 0 {
            lines.push(Line::styled(format!("{} not finite", values.nonfinite), theme.warning()));
        }
    }
    if let Some(codes) = &diff.ternary {
        lines.push(Line::default());
        lines.push(title(theme, "ternary codes"));
        lines.push(fact(theme, "agree", format!("{:.2} %", 100.0 * codes.agreement())));
        lines.push(fact(theme, "to 0", codes.silenced.to_string()));
        lines.push(fact(theme, "from 0", codes.woken.to_string()));
        lines.push(fact(theme, "reversed", codes.reversed.to_string()));
    }
    if let Some(note) = &diff.note {
        lines.push(Line::styled(escape(note), theme.warning()));
    }
}

fn two_files(diff: &Diff, theme: Theme, lines: &mut Vec<Line<'static>>) {
    let all = [
        Status::Unreadable,
        Status::Removed,
        Status::Added,
        Status::Reshaped,
        Status::Retyped,
        Status::Changed,
        Status::Same,
    ];
    let counts: Vec<String> = all
        .into_iter()
        .filter(|s| diff.count(*s) > 0)
        .map(|s| format!("{} {}", diff.count(s), status_words(s)))
        .collect();
    lines.push(title(theme, format!("tensors: {}", counts.join(", "))));
    for change in diff.settings.iter().chain(&diff.metadata) {
        let value = |v: &Option<serde_json::Value>| match v {
            None => "-".to_string(),
            Some(serde_json::Value::Object(entries)) => format!("{{{} entries}}", entries.len()),
            Some(v) => crate::terminal::shorten(&escape(&v.to_string()), 30),
        };
        lines.push(Line::raw(format!(
            "{}: {} → {}",
            escape(&change.path),
            value(&change.a),
            value(&change.b)
        )));
    }
    lines.push(Line::default());
    lines.push(Line::styled(
        format!("{:>8} {:>8} {:>8}  tensor", "relative", "cosine", "flipped"),
        theme.heading(),
    ));
    let mut changed: Vec<&TensorDiff> = diff.tensors.iter().filter(|t| t.status != Status::Same).collect();
    let relative =
        |t: &TensorDiff| t.values.as_ref().and_then(|v| v.relative_change).unwrap_or(f64::INFINITY);
    // Weights first, and the largest changes first.
    let group = |t: &TensorDiff| t.a.as_ref().or(t.b.as_ref()).map(|side| side.group);
    changed.sort_by(|a, b| group(a).cmp(&group(b)).then(relative(b).total_cmp(&relative(a))));
    for tensor in changed {
        let values = tensor.values.as_ref();
        let cosine = values.and_then(|v| v.cosine).map_or("-".into(), |c| format!("{c:.4}"));
        let flipped =
            tensor.ternary.as_ref().map_or("-".into(), |t| format!("{:.1} %", 100.0 * (1.0 - t.agreement())));
        let note = match tensor.status {
            Status::Changed => String::new(),
            other => format!("  ({})", status_words(other)),
        };
        lines.push(Line::raw(format!(
            "{:>8} {cosine:>8} {flipped:>8}  {}{note}",
            number(values.and_then(|v| v.relative_change)),
            escape(&tensor.name)
        )));
    }
}

/// The help page.
pub fn help(state: &State) -> Vec<Line<'static>> {
    let theme = Theme { colors: state.colors };
    let mut lines = vec![title(theme, "keys")];
    let room = usize::from(state.size.0).saturating_sub(17);
    for (keys, words) in keys::help() {
        for (i, piece) in wrapped(words, room).into_iter().enumerate() {
            let keys = if i == 0 { keys } else { "" };
            lines.push(Line::from(vec![
                Span::styled(format!("{keys:<14} "), theme.accent()),
                Span::raw(piece),
            ]));
        }
    }
    lines.push(Line::default());
    lines.push(title(theme, "mouse"));
    lines.extend(
        wrapped("click a row, a column to sort, a step; the wheel scrolls", room + 15)
            .into_iter()
            .map(Line::raw),
    );
    lines.push(Line::default());
    lines.push(title(theme, "ternary map"));
    for words in [
        "one character an element: + for 1, - for -1, · for 0",
        "one for many: ░ ▒ ▓ █ up to a quarter, … all are not 0; blank: all are 0",
        "yellow: more +1 than -1; blue: more -1",
    ] {
        lines.extend(wrapped(words, room + 15).into_iter().map(Line::raw));
    }
    lines
}
