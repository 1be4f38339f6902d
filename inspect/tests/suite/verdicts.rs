//! Every rule of the verdicts: the finding that it gives, the sentence made from it, and its form in JSON.

use ckpt_inspect::record::{Stats, Ternary};
use ckpt_inspect::{
    CheckpointRecord, DType, DamageKind, Error, Finding, Group, Role, TensorRecord, TernaryPacking,
    Thresholds, Verdict, judge,
};

/// What is said of one tensor by itself: the verdict, and the finding that decides.
fn judge_tensor(tensor: &TensorRecord, thresholds: &Thresholds) -> (Option<Verdict>, Option<Finding>) {
    let judgement = ckpt_inspect::judge_tensor(tensor, thresholds);
    (judgement.verdict, judgement.findings.into_iter().next())
}

/// A healthy 16 by 64 matrix that no BitLinear uses.
fn matrix() -> TensorRecord {
    let mut stats = Stats::default();
    (stats.count, stats.mean, stats.std) = (1024, Some(0.0), Some(0.125));
    (stats.min, stats.max) = (Some(-0.5), Some(0.5));
    (stats.abs_mean, stats.abs_max) = (Some(0.1), Some(0.5));
    let mut tensor = TensorRecord::default();
    tensor.name = "layers.0.mlp.gate_proj.weight".into();
    (tensor.dtype, tensor.shape, tensor.group) = (DType::F32, vec![16, 64], Group::Weights);
    tensor.stats = Some(stats);
    tensor.role = Role::Matrix;
    tensor
}

fn with(change: impl FnOnce(&mut TensorRecord)) -> TensorRecord {
    let mut tensor = matrix();
    change(&mut tensor);
    tensor
}

fn stats(change: impl FnOnce(&mut Stats)) -> TensorRecord {
    with(|t| change(t.stats.as_mut().unwrap()))
}

fn ternary(std: f64, zero: f64, scale: Option<f64>) -> TensorRecord {
    let half = (1.0 - zero) / 2.0;
    with(|t| {
        t.dtype = DType::Ternary(TernaryPacking::I2s);
        t.stats.as_mut().unwrap().std = Some(std);
        let mut ternary = Ternary::default();
        (ternary.neg, ternary.zero, ternary.pos, ternary.scale) = (half, zero, half, scale);
        t.ternary = Some(Box::new(ternary));
    })
}

#[test]
fn every_rule_gives_its_finding() {
    let not_finite = |nan, inf| Finding::NotFinite { nan, inf, count: 1024 };
    let small = |std, bound| Finding::SmallStd { std, bound: Some(bound) };
    let relative =
        |std: f64, bound| Finding::SmallRelativeStd { std, relative: 8.0 * std, bound: Some(bound) };
    let torn = Error::damaged("its end is gone").because(DamageKind::CutShort);
    let damaged = Finding::Damaged { fault: DamageKind::CutShort, what: "its end is gone".into() };
    use Verdict::*;
    for (tensor, verdict, finding, sentence) in [
        (with(|t| t.set_damage(torn)), Some(Corrupt), damaged, "its end is gone"),
        (stats(|s| s.nan = 3), Some(Corrupt), not_finite(3, 0), "3 of 1024 values NaN"),
        (stats(|s| s.inf = 1), Some(Corrupt), not_finite(0, 1), "1 of 1024 values infinite"),
        (
            stats(|s| (s.nan, s.inf) = (2, 1)),
            Some(Corrupt),
            not_finite(2, 1),
            "2 of 1024 values NaN, 1 infinite",
        ),
        (
            stats(|s| (s.min, s.max) = (Some(0.1), Some(0.1))),
            Some(Dead),
            Finding::Constant { value: 0.1 },
            "every value is 0.1",
        ),
        (
            ternary(0.02, 0.9995, Some(0.02)),
            Some(Dead),
            Finding::ZeroCodes { share: 0.9995, bound: 0.999 },
            "99.95 % of its ternary values are zero",
        ),
        (ternary(0.02, 0.3, None), None, Finding::ScaleLost, "its scale is lost"),
        (ternary(4.5e-5, 0.3, Some(1.0)), Some(Weak), small(4.5e-5, 1e-3), "std 4.5e-5"),
        (ternary(6.2e-6, 0.3, Some(1.0)), Some(Dying), small(6.2e-6, 1e-5), "std 6.2e-6"),
        (ternary(5.1e-7, 0.3, Some(1.0)), Some(Dead), small(5.1e-7, 1e-6), "std 5.1e-7"),
        (
            stats(|s| s.std = Some(1e-3)),
            Some(Weak),
            relative(1e-3, 3e-2),
            "std 1.0e-3, 8.0e-3 of 1/sqrt(fan_in)",
        ),
        (
            stats(|s| s.std = Some(1e-5)),
            Some(Dying),
            relative(1e-5, 3e-4),
            "std 1.0e-5, 8.0e-5 of 1/sqrt(fan_in)",
        ),
        (
            stats(|s| s.std = Some(1e-7)),
            Some(Dead),
            relative(1e-7, 3e-5),
            "std 1.0e-7, 8.0e-7 of 1/sqrt(fan_in)",
        ),
    ] {
        let found = judge_tensor(&tensor, &Thresholds::default());
        assert_eq!(found, (verdict, Some(finding.clone())), "{sentence}");
        assert_eq!(finding.to_string(), sentence);
    }
}

#[test]
fn what_is_not_judged_has_no_finding() {
    let judged = |tensor: TensorRecord| judge_tensor(&tensor, &Thresholds::default());
    assert_eq!(judged(matrix()), (Some(Verdict::Healthy), None));
    assert_eq!(judged(ternary(0.02, 0.3, Some(0.02))), (Some(Verdict::Healthy), None));
    for dtype in [DType::I8, DType::I64, DType::U8, DType::U32, DType::Bool] {
        assert_eq!(judged(with(|t| t.dtype = dtype)), (None, None), "{dtype}");
    }
    for dtype in [DType::F16, DType::BF16, DType::F64, DType::QI8] {
        assert_eq!(judged(with(|t| t.dtype = dtype)), (Some(Verdict::Healthy), None), "{dtype}");
    }
    assert_eq!(judged(with(|t| t.group = Group::Optimizer)), (None, None));
    assert_eq!(judged(with(|t| t.shape = vec![1024])), (None, None));
    assert_eq!(judged(with(|t| t.stats = None)), (None, None));
}

/// A record is as good as the file wherever it comes from.
#[test]
fn records_come_back_from_json_as_they_were() {
    let torn = Error::damaged("its end is gone").because(DamageKind::CutShort);
    let tensors = vec![
        matrix(),
        with(|t| t.set_damage(torn)),
        stats(|s| s.nan = 3),
        stats(|s| (s.min, s.max) = (Some(0.1), Some(0.1))),
        ternary(0.02, 0.9995, Some(0.02)),
        ternary(0.02, 0.3, None),
        ternary(4.5e-5, 0.3, Some(1.0)),
        stats(|s| s.std = Some(1e-3)),
        with(|t| t.dtype = DType::Ggml(ckpt_inspect::ggml::GgmlType::Q4_K)),
    ];
    let mut record = CheckpointRecord::default();
    record.tensors = tensors;
    for (i, tensor) in record.tensors.iter_mut().enumerate() {
        tensor.name = format!("weight_{i}");
    }
    judge(&mut record, &Thresholds::default());
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!(serde_json::from_value::<CheckpointRecord>(json.clone()).unwrap(), record);
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<CheckpointRecord>(&text).unwrap(), record);
    let tensors = &json["tensors"];
    assert!(tensors[0].get("reason").is_none() && tensors[0].get("finding").is_none(), "{}", tensors[0]);
    assert_eq!(tensors[2]["reason"], "3 of 1024 values NaN");
    assert_eq!(tensors[4]["finding"], serde_json::json!({"zero-codes": {"share": 0.9995, "bound": 0.999}}));
    assert_eq!((&tensors[5]["dtype"], &tensors[8]["dtype"]), (&"i2s".into(), &"Q4_K".into()));
    assert_eq!(record.reasons.len(), 6, "{:?}", record.reasons);
    // What an earlier version wrote has the sentence alone; judging makes the finding again.
    let mut earlier = json;
    for tensor in earlier["tensors"].as_array_mut().unwrap() {
        tensor.as_object_mut().unwrap().remove("finding");
        tensor.as_object_mut().unwrap().remove("also");
    }
    let mut read: CheckpointRecord = serde_json::from_value(earlier).unwrap();
    assert_eq!(read.tensors[2].finding, None);
    judge(&mut read, &Thresholds::default());
    assert_eq!(read, record);
}
