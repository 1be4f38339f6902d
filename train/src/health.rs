//! The measurements of `inspect` on weights that are being trained.

use ckpt_inspect::measure::{Plan, TernaryRule, measure};
use ckpt_inspect::{Elements, Group, ModelConfig, Role, TensorRecord, Thresholds, Verdict, judge_tensor};
use rayon::prelude::*;
use serde::Serialize;

use crate::{Parameter, Parameters};

/// One ternary matrix, measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Unbiased standard deviation; `None` when not finite.
    pub std: Option<f64>,
    /// Share of zeros after quantization.
    pub zero: f64,
    /// The verdict of `ckpt inspect`.
    pub verdict: Verdict,
}

/// All ternary matrices of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// In model order.
    pub layers: Vec<Measured>,
}

impl Health {
    /// Measures and judges every ternary matrix.
    pub fn of(parameters: &Parameters, config: &ModelConfig, thresholds: &Thresholds) -> Health {
        let layers = parameters.0.par_iter().filter(|p| p.ternary);
        Health { layers: layers.map(|p| measured(p, config, thresholds)).collect() }
    }

    /// The matrix with the lowest std.
    pub fn lowest(&self) -> Option<&Measured> {
        self.layers.iter().min_by(|a, b| a.std.unwrap_or(0.0).total_cmp(&b.std.unwrap_or(0.0)))
    }

    /// The largest share of zeros of any matrix.
    pub fn most_zeros(&self) -> f64 {
        self.layers.iter().fold(0.0, |most, l| most.max(l.zero))
    }

    /// Matrices that are not healthy, worst first.
    pub fn unhealthy(&self) -> Vec<&Measured> {
        let mut all: Vec<&Measured> = self.layers.iter().filter(|l| l.verdict.is_below_healthy()).collect();
        all.sort_by_key(|l| std::cmp::Reverse(l.verdict));
        all
    }
}

fn measured(parameter: &Parameter, config: &ModelConfig, thresholds: &Thresholds) -> Measured {
    let rule =
        TernaryRule::Absmean { floor: config.quantization_floor, per_row: config.bitlinear_per_channel };
    let mut plan = Plan::default();
    (plan.cols, plan.ternary) = (parameter.shape.get(1).copied(), Some(rule));
    let measured = measure(&Elements::from(&parameter.values[..]), &plan);
    let mut record = TensorRecord::default();
    (record.name, record.group) = (parameter.name.clone(), Group::Weights);
    record.role = Role::Matrix;
    record.shape = parameter.shape.iter().map(|&d| d as u64).collect();
    (record.stats, record.ternary) = (Some(measured.stats), measured.ternary.map(Box::new));
    Measured {
        std: record.stats.as_ref().and_then(|s| s.std),
        zero: record.ternary.as_ref().map_or(0.0, |t| t.zero),
        verdict: judge_tensor(&record, thresholds).verdict.unwrap_or(Verdict::Healthy),
        name: record.name,
    }
}
