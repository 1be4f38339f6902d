//! How large pages become, and what they keep when they would become too large.

use ckpt_inspect::record::{Histogram, Stats};
use ckpt_inspect::{CheckpointRecord, DType, Group, Role, TensorRecord, Verdict, judge};

use super::*;

/// A matrix of this std, with values of all other measures that do not repeat.
fn matrix(name: String, std: f64, seed: usize) -> TensorRecord {
    let mut stats = Stats::default();
    let odd = 1.0 + seed as f64 / 1e7;
    (stats.count, stats.zeros) = (65_536, seed as u64 % 300);
    (stats.mean, stats.std) = (Some(1e-4 * odd), Some(std * odd));
    (stats.min, stats.max) = (Some(-4.1 * std * odd), Some(4.2 * std * odd));
    (stats.abs_mean, stats.abs_max) = (Some(0.8 * std * odd), Some(4.2 * std * odd));
    let mut histogram = Histogram::default();
    (histogram.first, histogram.counts) =
        (-20, (0..18).map(|i| 1 + (seed as u64 * 31 + i * i * 97) % 20_000).collect());
    stats.histogram = Some(histogram);
    if std == 0.0 {
        (stats.zeros, stats.mean) = (stats.count, Some(0.0));
    }
    let mut tensor = TensorRecord::default();
    tensor.role = Role::Matrix;
    (tensor.name, tensor.dtype, tensor.shape) = (name, DType::F32, vec![256, 256]);
    (tensor.group, tensor.bytes, tensor.stats) = (Group::Weights, 262_144, Some(stats));
    tensor
}

fn checkpoint(path: String, step: Option<u64>, tensors: Vec<TensorRecord>) -> CheckpointRecord {
    let mut record = CheckpointRecord::default();
    (record.path, record.step, record.tensors) = (path, step, tensors);
    (record.file_bytes, record.parameters) = (1 << 22, 1 << 20);
    judge(&mut record, &Default::default());
    record
}

/// The page, and its runs.
fn page(records: Vec<CheckpointRecord>) -> (String, Vec<Run>) {
    let runs = Run::group(records, &Default::default());
    let explain = |run: &Run| ckpt_inspect::cause::explain(run, &[], &Default::default());
    let explanations = runs.iter().map(explain).collect();
    let report = Report::new("Size", runs, explanations);
    (html(&report).unwrap(), report.runs)
}

/// The lines of the data on each run, parsed.
fn details(page: &str) -> Vec<Value> {
    let text = page
        .split("<script type=\"text/plain\" id=\"details\">")
        .nth(1)
        .unwrap()
        .split("</script>")
        .next()
        .unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const MOST: usize = 8_000_000;

#[test]
fn two_thousand_models_take_8_mb_and_none_is_left_out() {
    let model = |i: usize| {
        let name = |t: usize| format!("encoder{}.layers.{}.block.{}.weight", i % 7, t / 6, t % 6);
        let std = |t: usize| if i % 40 == 39 && t == 3 { 0.0 } else { 0.06 };
        let tensors = (0..24).map(|t| matrix(name(t), std(t), 24 * i + t)).collect();
        checkpoint(format!("zoo/model-{i:04}.safetensors"), None, tensors)
    };
    let (page, runs) = page((0..2000).map(model).collect());
    assert_eq!(runs.len(), 2000);
    assert!(page.len() <= MOST, "{}", page.len());
    let details = details(&page);
    assert_eq!(details.len(), 2000);
    for line in &details {
        assert_eq!((&line["tensors"]["count"], &line["tensors"]["all"]), (&24.into(), &24.into()));
        assert!(line["sentences"].is_array() && line["cells"].is_array(), "{line}");
    }
    // The worst first, and rows of them are there without the script.
    let rows = page.split("<tbody>").nth(1).unwrap().split("</tbody>").next().unwrap();
    assert_eq!(rows.matches("<tr>").count(), ROWS);
    let verdicts: Vec<&str> =
        rows.split("badge v-").skip(1).map(|row| row.split('"').next().unwrap()).collect();
    assert_eq!(verdicts.iter().filter(|v| **v == "dead").count(), 50);
    assert!(verdicts[..50].iter().all(|v| *v == "dead"), "{verdicts:?}");
    assert!(page.contains("And 1900 rows, which the page"), "the others are counted");
    // Their histograms are the first to be there.
    assert!(details[..50].iter().all(|line| line["histograms"].is_array()));
}

#[test]
fn fifty_thousand_tensors_take_8_mb_and_none_is_left_out() {
    let name =
        |t: usize| format!("model.layers.{}.mlp.experts.{}.part{}.weight", t / 3000, t / 3 % 1000, t % 3);
    let std = |t: usize| if t % 1000 == 999 { 1e-4 } else { 0.06 };
    let tensors = (0..50_000).map(|t| matrix(name(t), std(t), t)).collect();
    let (page, runs) = page(vec![checkpoint("large/model.safetensors".into(), None, tensors)]);
    assert!(page.len() <= MOST, "{}", page.len());
    let line = details(&page).remove(0);
    assert_eq!(line["tensors"]["count"], 50_000);
    assert_eq!(line["cells"][0].as_array().unwrap().len(), data::details_of().count());
    assert!(line["histograms"][0].as_array().unwrap().len() == 50_000);
    let below =
        runs[0].checkpoints[0].tensors.iter().filter(|t| t.verdict.is_some_and(Verdict::is_below_healthy));
    assert_eq!(below.count(), 50);
}

#[test]
fn a_run_of_two_thousand_checkpoints_takes_8_mb() {
    let std = |step: u64, t: usize| if t < 4 { 0.06 * (-5e-5 * step as f64).exp() } else { 0.06 };
    let one = |c: u64| {
        let tensors =
            (0..24).map(|t| matrix(format!("layers.{t}.weight"), std(100 * c, t), c as usize + t)).collect();
        checkpoint(format!("run/step-{:06}.pt", 100 * c), Some(100 * c), tensors)
    };
    let (page, runs) = page((0..2000).map(one).collect());
    assert_eq!(runs.len(), 1);
    assert!(page.len() <= MOST, "{}", page.len());
    let line = details(&page).remove(0);
    assert_eq!(line["checkpoints"].as_array().unwrap().len(), 2000);
    assert_eq!(line["tensors"]["below"].as_array().unwrap().iter().filter(|b| !b.is_null()).count(), 4);
    assert!(page.contains("Measurements below each tensor are kept for a part of its checkpoints."));
}

/// Names of a thousand bytes, and one tensor in a hundred dead, or every other one.
#[test]
fn what_would_take_more_keeps_the_worst_and_says_so() {
    let name = |t: usize| format!("{t}{}", "é<\"\\".repeat(170));
    let tensors = |from: usize, count: usize, dead: usize| -> Vec<TensorRecord> {
        (from..from + count)
            .map(|t| matrix(name(t), if t % dead == dead - 1 { 0.0 } else { 0.06 }, t))
            .collect()
    };
    let (one, _) = page(vec![checkpoint("a/model.pt".into(), None, tensors(0, 10_000, 100))]);
    assert!(one.len() <= MOST, "{}", one.len());
    assert!(one.contains("Only the worst tensors are listed, to keep the page small."));
    let line = details(&one).remove(0);
    assert_eq!((&line["tensors"]["count"], &line["tensors"]["all"]), (&100.into(), &10_000.into()));
    let layers = line["tensors"]["layers"].as_array().unwrap();
    assert!(layers.iter().all(|l| l.as_u64().unwrap() % 100 == 99));

    let zoo =
        (0..12).map(|i| checkpoint(format!("zoo/{i}.pt"), None, tensors(10_000 * i, 6000, 2))).collect();
    let (page, _) = page(zoo);
    assert!(page.len() <= MOST, "{}", page.len());
    assert!(
        page.contains("tensors are left out, to keep the page small: report fewer at a time to see them.")
    );
    assert_eq!(details(&page).len(), 12);
}

/// The share of each count of the largest, and never nothing where there is something.
#[test]
fn a_histogram_is_a_character_for_each_count() {
    let mut histogram = Histogram::default();
    (histogram.first, histogram.counts) = (-3, vec![1, 0, 500_000, 1_000_000]);
    assert_eq!(data::coarsely(&histogram), "-3 10W_");
}
