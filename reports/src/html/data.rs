//! What the page's script draws from, compactly: texts once each in a table and named by their number there, a column
//! for each measure, five digits of a number. Each run has a line of JSON, which is parsed when the run is opened.
//!
//! The page has a limit of size, which the worst runs use up first: where it is reached, histograms are left out first,
//! then measurements that no table shows, then tensors that are healthy.

use std::collections::HashMap;

use ckpt_inspect::Verdict;
use ckpt_inspect::health::measures::{Form, Measure, Place, Value as Measured, shown_in};
use ckpt_inspect::record::{CheckpointRecord, Histogram, TensorRecord};
use ckpt_inspect::run::Run;
use serde_json::{Map, Value, json};

use super::tensors::{ends, worst_first};
use super::{MOST_ROWS, ROWS, Shown, all_checkpoints, crossing, glyph, loss, overview, reasons, step};
use crate::cause::findings;
use crate::headline::headline;
use crate::text::plural;
use crate::{Report, printable};

/// Bytes of all data and of the sections that are written out. The rest of a page, such as the first rows of a table, takes
/// less than what 8 MB leave.
const MOST_BYTES: usize = 7_600_000;
/// Tensors times checkpoints whose histograms a run has.
const HISTOGRAMS: usize = 20_000;
/// As many tensors times checkpoints of the whole report have the exact counts of their histograms.
const EXACT: usize = 5_000;
/// Checkpoints of a run that are listed when its row is opened.
const LISTED: usize = 60;

/// The data blocks of the page, ready to stand in script elements.
pub struct Data {
    /// Of the page: its texts, its measures, and a row for each run.
    pub page: String,
    /// Of each run, a line.
    pub details: String,
    /// What is not in it, in sentences.
    pub left_out: Vec<String>,
}

/// The data of `report`, whose runs are in `order` and shown so.
pub fn data(report: &Report, order: &[usize], shown: &[Shown]) -> Data {
    let runs: Vec<&Run> = order.iter().map(|&i| &report.runs[i]).collect();
    let cells: usize = runs.iter().map(|r| r.checkpoints.len() * r.layers.len()).sum();
    let written: usize = shown.iter().map(Shown::written).sum();
    let mut block =
        Block { left: MOST_BYTES.saturating_sub(written), exact: cells <= EXACT, ..Block::default() };
    let rows = if runs.len() > 1 { block.rows(&runs, shown) } else { Value::Null };
    block.spend(&rows);
    let mut lines: Vec<Map<String, Value>> = Vec::with_capacity(runs.len());
    let (mut partial, mut without, mut fewer, mut unmeasured) = (0, 0, 0, 0);
    for (place, run) in runs.iter().enumerate() {
        let mut line = Map::new();
        block.add(&mut line, |block| block.words(report, order[place], run, &shown[place]));
        match block.tensors(run, &mut line) {
            0 if !run.layers.is_empty() => without += 1,
            kept => partial += usize::from(kept < run.layers.len()),
        }
        lines.push(line);
    }
    for (run, line) in runs.iter().zip(&mut lines) {
        match block.cells(run, line) {
            Kept::All => {}
            Kept::Fewer => fewer += 1,
            Kept::Nothing => unmeasured += 1,
        }
    }
    let details: Vec<String> = lines.into_iter().map(|line| embedded(&Value::Object(line))).collect();
    let page = json!({
        "verdicts": Verdict::ALL.map(Verdict::name),
        "glyphs": Verdict::ALL.map(|v| glyph(Some(v))),
        "measures": measures().map(|m| json!([m.heading, m.explanation, form(m), m.is_in(Place::Narrow)])).collect::<Vec<_>>(),
        "details": details_of().count(),
        "table": shown_in(Place::Table).map(|m| measures().position(|one| one == m)).collect::<Vec<_>>(),
        "rows": ROWS,
        "runs": rows,
        "texts": block.texts.coded(),
    });
    let told = |count: usize, what: &str| (count > 0).then(|| format!("Of {} {what}", plural(count, "row")));
    let one = runs.len() == 1;
    let left_out = [
        if one && fewer > 0 {
            Some("Measurements below each tensor are kept for a part of its checkpoints.".into())
        } else {
            told(fewer, "measurements below each tensor are kept for a part of the checkpoints.")
        },
        if one && unmeasured > 0 {
            Some("Measurements below each tensor are left out, to keep the page small.".into())
        } else {
            told(unmeasured, "measurements below each tensor are left out, to keep the page small.")
        },
        if one && partial > 0 {
            Some("Only the worst tensors are listed, to keep the page small.".into())
        } else {
            told(partial, "only the worst tensors are listed, to keep the page small.")
        },
        told(without, "tensors are left out, to keep the page small: report fewer at a time to see them."),
    ];
    Data {
        page: embedded(&page),
        details: details.join("\n"),
        left_out: left_out.into_iter().flatten().collect(),
    }
}

/// JSON in a script element, where only `<` could end or nest it.
fn embedded(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// The measures below a histogram: real numbers, then whole ones.
pub(super) fn details_of() -> impl Iterator<Item = &'static Measure> {
    let is_real = |m: &&Measure| matches!(m.form, Form::Real | Form::Scale);
    let reals = shown_in(Place::Details).filter(is_real);
    reals.chain(shown_in(Place::Details).filter(move |m| !is_real(m)))
}

/// Those, and behind them the ones that only the table shows.
fn measures() -> impl Iterator<Item = &'static Measure> {
    details_of().chain(shown_in(Place::Table).filter(|m| !m.is_in(Place::Details)))
}

/// How the script writes a number.
fn form(measure: &Measure) -> &'static str {
    match measure.form {
        Form::Real | Form::Scale => "real",
        Form::Share => "share",
        Form::Bits { .. } => "bits",
        _ => "count",
    }
}

fn value(measure: &Measure, tensor: &TensorRecord) -> Value {
    match measure.value(tensor) {
        Some(Measured::Real(value)) => rounded(value),
        Some(Measured::Count(count)) => json!(count),
        _ => Value::Null,
    }
}

/// Five digits.
fn rounded(value: f64) -> Value {
    format!("{value:.4e}").parse::<f64>().map_or(Value::Null, |v| json!(v))
}

fn number(verdict: Option<Verdict>) -> i32 {
    verdict.map_or(-1, |v| v as i32)
}

/// A column; where all its values are the same, that value.
fn column(values: Vec<Value>) -> Value {
    match values.first() {
        None => Value::Null,
        Some(first) if values.iter().all(|v| v == first) => first.clone(),
        Some(_) => Value::Array(values),
    }
}

/// Texts, each once.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, usize>,
    all: Vec<String>,
    /// Bytes that they take, nearly.
    bytes: usize,
}

impl Texts {
    /// The number of `text`, made printable.
    fn number(&mut self, text: &str) -> usize {
        let text = printable(text);
        if let Some(&number) = self.numbers.get(&text) {
            return number;
        }
        let number = self.all.len();
        let last = self.all.last().map_or("", String::as_str);
        // Quotes and backslashes take two bytes, `<` takes six, and so at most do all other characters.
        let longer =
            text.bytes().filter(|b| matches!(b, b'"' | b'\\')).count() + 5 * text.matches('<').count();
        self.bytes += text.len() - shared(last, &text) + longer + 8;
        self.numbers.insert(text.clone(), number);
        self.all.push(text);
        number
    }

    /// Forgets all but the first `len`, which took `bytes`.
    fn truncate(&mut self, len: usize, bytes: usize) {
        for text in self.all.drain(len..) {
            self.numbers.remove(&text);
        }
        self.bytes = bytes;
    }

    /// For each text, how many characters it shares with the one before, and the others.
    fn coded(&self) -> Vec<Value> {
        let mut coded = Vec::with_capacity(2 * self.all.len());
        let mut last = "";
        for text in &self.all {
            let shared = shared(last, text);
            coded.push(json!(shared));
            coded.push(json!(&text[shared..]));
            last = text;
        }
        coded
    }
}

/// The ASCII characters that two texts begin with.
fn shared(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b && a.is_ascii()).count()
}

/// What of a run's measurements is there.
enum Kept {
    All,
    Fewer,
    Nothing,
}

/// Data of which only so much may be added.
#[derive(Default)]
struct Block {
    texts: Texts,
    left: usize,
    exact: bool,
}

impl Block {
    fn spend(&mut self, value: &Value) {
        self.left = self.left.saturating_sub(value.to_string().len());
    }

    /// Adds to `line` what `make` gives, if there is room for it and its texts.
    fn add(
        &mut self,
        line: &mut Map<String, Value>,
        make: impl FnOnce(&mut Self) -> Map<String, Value>,
    ) -> bool {
        let (len, bytes) = (self.texts.all.len(), self.texts.bytes);
        let more = Value::Object(make(self));
        let size = embedded(&more).len() + self.texts.bytes - bytes;
        let (Some(left), Value::Object(more)) = (self.left.checked_sub(size), more) else {
            self.texts.truncate(len, bytes);
            return false;
        };
        self.left = left;
        line.extend(more);
        true
    }

    fn text(&mut self, text: &str) -> Value {
        json!(self.texts.number(text))
    }

    fn texts<'t>(&mut self, texts: impl IntoIterator<Item = &'t String>) -> Value {
        texts.into_iter().map(|text| self.text(text)).collect()
    }

    /// The rows of the table of runs, in columns.
    fn rows(&mut self, runs: &[&Run], shown: &[Shown]) -> Value {
        fn each(runs: &[&Run], value: impl FnMut(&&Run) -> Value) -> Value {
            column(runs.iter().map(value).collect())
        }
        let last = |run: &&Run, value: &dyn Fn(&CheckpointRecord) -> Value| {
            run.checkpoints.last().map_or(Value::Null, value)
        };
        json!({
            "count": runs.len(),
            "name": each(runs, |r| self.text(r.title())),
            "verdict": each(runs, |r| json!(number(r.standing()))),
            "why": each(runs, |r| overview::why(r).map_or(Value::Null, |why| self.text(&why))),
            "what": each(runs, |r| self.text(&overview::what(r))),
            "step": each(runs, |r| last(r, &|c| json!(c.step))),
            "parameters": each(runs, |r| last(r, &|c| json!(c.parameters))),
            "size": each(runs, |r| json!(overview::size(r))),
            "section": column(shown.iter().map(|s| json!(matches!(s, Shown::Section(_)))).collect()),
        })
    }

    /// What is said of a run and its checkpoints, without what a section of the page says.
    fn words(&mut self, report: &Report, i: usize, run: &Run, shown: &Shown) -> Map<String, Value> {
        let mut line = Map::new();
        let checkpoints = run.checkpoints.len() + run.aside.len();
        let (said, listed) = match shown {
            Shown::Data => (false, LISTED),
            _ if checkpoints > MOST_ROWS => (true, checkpoints),
            _ => (true, 0),
        };
        if !said {
            let words = headline(run, &report.explanations[i]);
            line.insert("title".into(), self.text(&words.title));
            line.insert("verdict".into(), json!(number(words.verdict)));
            line.insert("sentences".into(), self.texts(&words.sentences));
            let findings = findings(run, &report.explanations[i]);
            if !findings.is_empty() {
                let one = |f: &crate::cause::Finding| {
                    let evidence: Value =
                        f.evidence.iter().map(|(h, text)| json!([self.text(h), self.text(text)])).collect();
                    json!([
                        self.text(&f.title),
                        self.text(&f.sentence),
                        self.text(&f.those),
                        evidence,
                        self.texts(&f.advice)
                    ])
                };
                line.insert("findings".into(), findings.iter().map(one).collect());
            }
            let warnings = run.checkpoints.iter().flat_map(|c| &c.warnings).take(LISTED);
            let warnings: Vec<Value> = warnings.map(|text| self.text(text)).collect();
            if !warnings.is_empty() {
                line.insert("warnings".into(), warnings.into());
            }
        }
        if listed > 0 {
            let one = |(c, aside): (&CheckpointRecord, bool)| {
                let path = self.text(&c.path);
                let format = self.text(&c.format.to_string());
                let reasons = self.texts(&reasons(c));
                let marks = u8::from(c.damaged) + 2 * u8::from(aside);
                let loss = loss(c).map_or(Value::Null, rounded);
                json!([
                    c.step,
                    path,
                    format,
                    marks,
                    loss,
                    c.parameters,
                    c.file_bytes,
                    number(c.verdict),
                    reasons
                ])
            };
            let rows = all_checkpoints(run).skip(checkpoints.saturating_sub(listed)).map(one).collect();
            line.insert("checkpoints".into(), rows);
            line.insert("of".into(), json!(checkpoints));
        }
        line
    }

    /// The table of tensors: all of them, or as many of the worst as there is room for. How many that are.
    fn tensors(&mut self, run: &Run, line: &mut Map<String, Value>) -> usize {
        let layers = worst_first(run);
        let judged = |&l: &usize| {
            let verdict = ends(run, l).and_then(|(_, last)| last.verdict);
            verdict.is_some_and(Verdict::is_below_healthy)
        };
        // No row takes less, so that none is made in vain of very many.
        let mut kept = layers.len().min(self.left / 24);
        if kept < layers.len() {
            kept = kept.min(layers.iter().take_while(|l| judged(l)).count());
        }
        while kept > 0 {
            if self.add(line, |block| block.table(run, &layers[..kept])) {
                return kept;
            }
            let below = layers.iter().take_while(|l| judged(l)).count();
            kept = if kept > below { below } else { kept / 2 };
        }
        0
    }

    /// The rows of these layers, in columns; in the order of the file.
    fn table(&mut self, run: &Run, layers: &[usize]) -> Map<String, Value> {
        let over = run.is_series();
        let mut layers = layers.to_vec();
        layers.sort_unstable();
        let rows: Vec<(usize, &TensorRecord, &TensorRecord)> =
            layers.into_iter().filter_map(|l| ends(run, l).map(|(first, last)| (l, first, last))).collect();
        let names: Vec<usize> = rows.iter().map(|(l, ..)| self.texts.number(&run.layers[*l].name)).collect();
        let in_turn = names.windows(2).all(|w| w[0] + 1 == w[1]);
        let mut table = Map::new();
        let mut put = |key: &str, value: Value| drop(table.insert(key.into(), value));
        put("count", json!(rows.len()));
        put("all", json!(run.layers.len()));
        put("name", if in_turn { json!(names.first()) } else { json!(names) });
        put("dtype", column(rows.iter().map(|(.., last)| self.text(last.dtype.name())).collect()));
        put(
            "shape",
            column(rows.iter().map(|(.., last)| self.text(&crate::text::shape(&last.shape))).collect()),
        );
        put("verdict", column(rows.iter().map(|(.., last)| json!(number(last.verdict))).collect()));
        let why = |last: &TensorRecord| last.finding.as_ref().map(ToString::to_string);
        let why: Vec<Value> =
            rows.iter().map(|(.., last)| why(last).map_or(Value::Null, |text| self.text(&text))).collect();
        put("why", column(why));
        let measured = |measure: &Measure, first: bool| {
            column(rows.iter().map(|(_, a, b)| value(measure, if first { a } else { b })).collect())
        };
        put("last", shown_in(Place::Table).map(|m| measured(m, false)).collect());
        if over {
            let first = |m| if Measure::is_in(m, Place::Narrow) { measured(m, true) } else { Value::Null };
            put("first", shown_in(Place::Table).map(first).collect());
            let mut below = |l: usize| {
                let Some(at) = crossing(run, &run.layers[l], Verdict::Weak) else { return Value::Null };
                json!([at.at, self.text(&at.text), at.title.map(|title| self.text(&title))])
            };
            put("below", rows.iter().map(|(l, ..)| below(*l)).collect());
        }
        // Which of the run's layers they are, for measurements at each checkpoint.
        let places: Vec<usize> = rows.iter().map(|(l, ..)| *l).collect();
        if rows.len() < run.layers.len() {
            put("layers", json!(places));
        }
        let mut line = Map::new();
        line.insert("tensors".into(), Value::Object(table));
        line
    }

    /// What is shown below each tensor that is listed: measures and a histogram, for as many checkpoints as there is
    /// room for.
    fn cells(&mut self, run: &Run, line: &mut Map<String, Value>) -> Kept {
        let Some(table) = line.get("tensors") else { return Kept::All };
        let layers: Vec<usize> = match table.get("layers").and_then(Value::as_array) {
            Some(places) => places.iter().filter_map(|l| Some(l.as_u64()? as usize)).collect(),
            None => (0..run.layers.len()).filter(|&l| ends(run, l).is_some()).collect(),
        };
        let n = run.checkpoints.len();
        let stride = (n * layers.len()).div_ceil(HISTOGRAMS).max(1);
        let every =
            |stride: usize| -> Vec<usize> { (0..n).filter(|c| c % stride == 0 || c + 1 == n).collect() };
        let last = vec![n - 1];
        let tries = [(every(stride), true), (every(n), true), (last.clone(), true), (last, false)];
        for (at, (chosen, histograms)) in tries.into_iter().enumerate() {
            // Where a measure takes less, there are few of them.
            if chosen.len() * layers.len() * 8 > self.left {
                continue;
            }
            let whole = at == 0 && chosen.len() == n;
            if self.add(line, |block| block.measurements(run, &layers, &chosen, histograms)) {
                return if whole { Kept::All } else { Kept::Fewer };
            }
        }
        Kept::Nothing
    }

    fn measurements(
        &self,
        run: &Run,
        layers: &[usize],
        chosen: &[usize],
        histograms: bool,
    ) -> Map<String, Value> {
        let listed = |m: &Measure| !run.is_series() && m.is_in(Place::Table);
        let cells = |c: usize| -> Value {
            let one = |m: &Measure| {
                let measured = |&l: &usize| run.tensor(l, c).map_or(Value::Null, |t| value(m, t));
                // The table has it already.
                if listed(m) { json!("=") } else { column(layers.iter().map(measured).collect()) }
            };
            details_of().map(one).collect()
        };
        let histogram = |c: usize, l: usize| {
            let stats = run.tensor(l, c).and_then(|t| t.stats.as_ref());
            match stats.and_then(|s| s.histogram.as_ref()) {
                Some(histogram) if self.exact => exactly(histogram),
                Some(histogram) => coarsely(histogram),
                None => Value::Null,
            }
        };
        let mut line = Map::new();
        line.insert("steps".into(), chosen.iter().map(|&c| json!(step(&run.checkpoints[c]))).collect());
        line.insert("cells".into(), chosen.iter().map(|&c| cells(c)).collect());
        if histograms {
            let all = chosen.iter().map(|&c| layers.iter().map(|&l| histogram(c, l)).collect::<Value>());
            line.insert("histograms".into(), all.collect());
        }
        line
    }
}

/// The first exponent, and the counts.
fn exactly(histogram: &Histogram) -> Value {
    json!([histogram.first, histogram.counts])
}

/// The same as a text in which each count is a character: its share of the largest in 63 steps, and one where there is
/// any.
pub(super) fn coarsely(histogram: &Histogram) -> Value {
    const LEVELS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let level = |&count: &u64| {
        let level = (63.0 * count as f64 / most).round() as usize;
        char::from(LEVELS[level.max(usize::from(count > 0)).min(63)])
    };
    let levels: String = histogram.counts.iter().map(level).collect();
    json!(format!("{} {levels}", histogram.first))
}
