//! The rules that decide on a cause. Each names the evidence that it rests on.

use super::decay::{SAME, accumulation_hint, decay};
use super::{Cause, Decay, Direction, Given, LayerCause, Occupancy, Pair, Push, Suspicion, last_healthy};
use crate::DamageKind;
use crate::optimizer::{DecayRule, FIRST, Kind, MOMENTUM, ParamGroup, SECOND};
use crate::record::{Stats, TensorRecord};
use crate::run::Run;
use crate::verdict::{Verdict, relative_std};

/// A decline is a straight line from this R² on.
const STRAIGHT: f64 = 0.99;
/// Median cosine from which on a weight counts as having kept its direction.
const KEPT: f64 = 0.99;
/// Share of the fall that the predicted rate must account for.
const ACCOUNTED: f64 = 0.8;
/// A matrix counts as trapped only if its share of zeros was once below this.
const FREE: f64 = 0.9;
/// Codes silenced for each one woken, where a bucket traps.
const TRAPPING: f64 = 2.0;
/// Share of non-finite values that a single damaged byte cannot cause.
const MANY: f64 = 0.1;

pub(super) fn decide(
    run: &Run,
    layer: usize,
    suspicion: Suspicion,
    pairs: &[Pair],
    given: &Given,
) -> LayerCause {
    let end = run.checkpoints.len() - 1;
    let facts = Facts { run, layer, end, pairs };
    let decay = match suspicion {
        Suspicion::Damaged | Suspicion::Unscaled | Suspicion::Unchanged => None,
        _ => decay(run, layer, given),
    };
    let direction = decay.as_ref().and_then(|d| facts.direction(d));
    let occupancy = facts.occupancy();
    let push = decay.as_ref().and_then(|d| facts.push(d));
    let (cause, reason) = match suspicion {
        Suspicion::Damaged => facts.damaged(),
        Suspicion::NonFinite => facts.exploding(),
        Suspicion::Grown => facts.grown(),
        Suspicion::Altered => facts.altered(),
        Suspicion::Unscaled => facts.unscaled(),
        Suspicion::Constant => facts.constant(decay.as_ref(), direction.as_ref()),
        Suspicion::Unchanged => facts.never_trained(),
        Suspicion::Fallen if facts.is_dead_by_zeros() => facts.zero_bucket(occupancy.as_ref()),
        Suspicion::Fallen | Suspicion::Shrinking => facts.shrunk(decay.as_ref(), direction.as_ref()),
    };
    LayerCause { layer, cause, reason, decay, direction, occupancy, push, survival: facts.survival() }
}

type Decision = (Cause, String);

fn unknown(reason: impl Into<String>) -> Decision {
    (Cause::Unknown, reason.into())
}

struct Facts<'a> {
    run: &'a Run,
    layer: usize,
    end: usize,
    pairs: &'a [Pair],
}

impl Facts<'_> {
    fn at(&self, checkpoint: usize) -> Option<&TensorRecord> {
        self.run.tensor(self.layer, checkpoint)
    }

    fn last(&self) -> &TensorRecord {
        self.at(self.end).expect("suspects are in the last checkpoint")
    }

    fn place(&self, checkpoint: usize) -> String {
        match self.run.checkpoints[checkpoint].step {
            Some(step) => format!("step {step}"),
            None => self.run.checkpoints[checkpoint].path.clone(),
        }
    }

    fn damaged(&self) -> Decision {
        let last = self.last();
        let damage = last.damage.as_deref().unwrap_or_default();
        let cut = last.damage_kind.is_some_and(DamageKind::is_truncation);
        let file = self.run.checkpoints[self.end].damage.as_ref().filter(|file| file.is_truncation());
        match (cut, file) {
            (true, Some(file)) => (Cause::Truncated, format!("{damage}; damaged: {file}")),
            (true, None) => (Cause::Truncated, damage.to_string()),
            (false, _) => {
                unknown(format!("{damage}: its bytes are inconsistent, and the file is not truncated"))
            }
        }
    }

    fn unscaled(&self) -> Decision {
        let last = self.last();
        let what = match last.ternary.as_ref().and_then(|t| t.scale) {
            None => "stores no scale".to_string(),
            Some(0.0) => "has a scale of 0".to_string(),
            Some(scale) => format!("has a scale of {scale}"),
        };
        (Cause::ScaleLost, format!("its packed form ({}) has nonzero codes and {what}", last.dtype))
    }

    fn never_trained(&self) -> Decision {
        let measured: Vec<usize> = (0..=self.end).filter(|&c| self.at(c).is_some()).collect();
        let (first, last) = (measured[0], measured[measured.len() - 1]);
        let name = &self.run.layers[self.layer].name;
        let compared =
            self.pairs.iter().find(|p| p.from == first && p.to == last).and_then(|p| p.tensor(name));
        let span = format!("from {} to {}", self.place(first), self.place(last));
        match compared {
            Some(tensor) if tensor.unchanged => (
                Cause::NeverTrained,
                format!("every value is the same {span}: cosine 1, std as at the beginning"),
            ),
            Some(_) => unknown(format!("its measurements are the same {span}, but its values are not")),
            None => {
                unknown(format!("its measurements are the same {span}, but the values could not be compared"))
            }
        }
    }

    fn group(&self, checkpoint: usize) -> Option<&ParamGroup> {
        let training = self.run.checkpoints[checkpoint].training.as_ref()?;
        training.group_of(self.run.index(self.layer, checkpoint)?)
    }

    /// Moments of this weight at `checkpoint`.
    fn moments(&self, checkpoint: usize) -> Vec<&TensorRecord> {
        let record = &self.run.checkpoints[checkpoint];
        let Some(index) = self.run.index(self.layer, checkpoint) else { return Vec::new() };
        let Some(training) = &record.training else { return Vec::new() };
        training.moments_of(index).iter().filter_map(|&m| record.tensors.get(m as usize)).collect()
    }

    /// The least and the largest std over the run, as multiples of 1 / sqrt(fan_in), and whether that is an explosion.
    fn sizes(&self) -> (f64, f64, bool) {
        let sizes = (0..=self.end).filter_map(|c| relative_std(self.at(c)?)).filter(|s| *s > 0.0);
        let (least, most) = sizes.fold((f64::INFINITY, 0.0), |(a, b), s| (s.min(a), s.max(b)));
        (least, most, most >= super::GROWN * least && most >= crate::verdict::EXPLODED)
    }

    fn grown(&self) -> Decision {
        let (least, most, grown) = self.sizes();
        let reason = match grown {
            true => format!("its std grew {:.1e} times and is {most:.1e} of 1/sqrt(fan_in)", most / least),
            false => format!(
                "its std is {most:.1e} of 1/sqrt(fan_in), a size that no training leaves; {}",
                self.finding()
            ),
        };
        (Cause::Exploding, reason)
    }

    fn altered(&self) -> Decision {
        unknown(format!("{}: training does not make this, damaged bytes do", self.finding()))
    }

    /// What was found of it, in words.
    fn finding(&self) -> String {
        self.last().finding.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    fn exploding(&self) -> Decision {
        let bad = |t: &TensorRecord| t.stats.as_ref().is_some_and(|s| s.nan + s.inf > 0);
        let last = self.last();
        let stats = last.stats.clone().unwrap_or_default();
        let (least, most, grown) = self.sizes();
        let first = (0..=self.end).find(|&c| self.at(c).is_some_and(bad)).unwrap_or(self.end);
        let share = (stats.nan + stats.inf) as f64 / stats.count.max(1) as f64;
        let record = &self.run.checkpoints[self.end];
        let judged: Vec<&TensorRecord> = record.tensors.iter().filter(|t| t.verdict.is_some()).collect();
        let others = judged.iter().filter(|t| bad(t)).count();
        let moments = self.moments(self.end);
        let moments_bad = moments.iter().any(|m| bad(m));
        let what = format!(
            "{} of {} values are not finite, first at {}",
            stats.nan + stats.inf,
            stats.count,
            self.place(first)
        );
        if share >= MANY || grown || moments_bad {
            let mut why = what;
            if grown {
                why += &format!("; its std had grown {:.1e} times", most / least);
            }
            if moments_bad {
                why += "; the optimizer's moments are not finite either";
            }
            if others > 1 {
                why += &format!("; so are {others} of {} weights", judged.len());
            }
            return (Cause::Exploding, why);
        }
        unknown(format!(
            "{what}, but neither its size nor the optimizer's moments show an explosion: a few such values can also come from damaged bytes, which the file's checksums would reveal"
        ))
    }

    fn is_dead_by_zeros(&self) -> bool {
        let last = self.last();
        let dying = self.run.layers[self.layer].judged.map(|j| j.levels.dying);
        let std = self.run.layers[self.layer].measure(last);
        last.verdict == Some(Verdict::Dead) && std.zip(dying).is_some_and(|(std, dying)| std >= dying)
    }

    fn zero_bucket(&self, occupancy: Option<&Occupancy>) -> Decision {
        let zero = self.last().ternary.as_ref().map_or(0.0, |t| t.zero);
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let Some(o) = occupancy else {
            return unknown(format!(
                "{} of its codes are zero; one checkpoint does not show how they got there",
                percent(zero)
            ));
        };
        let drift = format!("zeros went from {} of its codes to {}", percent(o.least), percent(zero));
        if o.least > FREE {
            return unknown(format!(
                "{drift}: they were high from the first checkpoint on, so the files do not show what caused them"
            ));
        }
        match self.flow() {
            Some((silenced, woken)) if silenced < TRAPPING * woken => unknown(format!(
                "{drift}, but codes moved both ways ({} to zero, {} from zero), so weights are not trapped there",
                percent(silenced),
                percent(woken)
            )),
            Some((silenced, woken)) => (
                Cause::ZeroBucket,
                format!(
                    "{drift}, while its std hardly changed: {} of its codes became zero and {} became nonzero",
                    percent(silenced),
                    percent(woken)
                ),
            ),
            None => unknown(format!(
                "{drift}; whether codes also came back from zero is not known, because the weights could not be compared"
            )),
        }
    }

    /// Codes silenced and woken along the chain of pairs, as shares.
    fn flow(&self) -> Option<(f64, f64)> {
        let name = &self.run.layers[self.layer].name;
        let mut seen = false;
        let sum =
            self.pairs.iter().filter(|p| p.link).filter_map(|p| p.tensor(name)).fold((0.0, 0.0), |sum, t| {
                let Some(codes) = t.codes.as_ref().filter(|c| c.count > 0) else { return sum };
                seen = true;
                let share = |n: u64| n as f64 / codes.count as f64;
                (sum.0 + share(codes.silenced), sum.1 + share(codes.woken))
            });
        seen.then_some(sum)
    }

    fn constant(&self, decay: Option<&Decay>, direction: Option<&Direction>) -> Decision {
        let last = self.last();
        let value = last.stats.as_ref().and_then(|s| s.min).unwrap_or(0.0);
        let varied = |s: &Stats| s.min != s.max;
        let before =
            (0..self.end).rev().find(|&c| self.at(c).and_then(|t| t.stats.as_ref()).is_some_and(varied));
        let packed_zero = super::is_packed(last) && last.ternary.as_ref().is_some_and(|t| t.neg == 1.0);
        if packed_zero {
            return (
                Cause::Overwritten,
                "every packed byte is zero, which decodes to -1 everywhere: packing a trained matrix never gives that".into(),
            );
        }
        let zeros = if value == 0.0 { ": its bytes are zeros" } else { "" };
        if let Some(before) = before {
            let was = self.at(before).and_then(|t| t.verdict);
            let std = self.at(before).and_then(|t| t.stats.as_ref()?.std).unwrap_or(0.0);
            let change = format!(
                "std {std:.1e} at {}, every value {value} at {}",
                self.place(before),
                self.place(self.end)
            );
            if was <= Some(Verdict::Weak) {
                return (Cause::Overwritten, format!("{change}{zeros}"));
            }
            let (cause, why) = self.shrunk(decay, direction);
            return match cause {
                Cause::WeightDecay => (cause, format!("{why}; then every value became {value}")),
                _ => unknown(format!(
                    "{change}; it was nearly zero before that, and the cause of that is not known: {why}"
                )),
            };
        }
        let moments = self.moments(self.end);
        let still = |m: &&TensorRecord| m.stats.as_ref().is_some_and(|s| s.count > 0 && s.zeros == s.count);
        if moments.iter().any(|m| m.stats.as_ref().is_some_and(|s| s.zeros < s.count)) {
            return (
                Cause::Overwritten,
                format!(
                    "every value is {value}, although the optimizer's moments show gradients that would have made them differ{zeros}"
                ),
            );
        }
        if !moments.is_empty() && moments.iter().all(still) {
            return (
                Cause::NeverTrained,
                format!("every value is {value}, and no gradient ever reached the optimizer's moments"),
            );
        }
        if self.run.has_steps() && (0..=self.end).filter(|&c| self.at(c).is_some()).count() > 1 {
            return (Cause::NeverTrained, format!("every value is {value} in all checkpoints"));
        }
        unknown(format!(
            "every value is {value}: either initialised so and never trained, or overwritten; an earlier checkpoint or the optimizer's moments would show which"
        ))
    }

    fn shrunk(&self, decay: Option<&Decay>, direction: Option<&Direction>) -> Decision {
        let Some(decay) = decay else {
            return unknown(match self.run.series(self.layer).len() {
                0 | 1 => "one checkpoint of known step does not show how it got there; give the run's other checkpoints".to_string(),
                _ if self.run.has_steps() => "its std does not decline over these checkpoints: it was small from the first one on".to_string(),
                _ => "the checkpoints' steps are not known, so no rate can be given".to_string(),
            });
        };
        let course =
            format!("std fell by {:.3e} per step from step {} to step {}", decay.rate, decay.from, decay.to);
        let line = decay.points >= 3 && decay.r2 >= STRAIGHT;
        let turned = direction.filter(|d| d.median < KEPT);
        let kept = direction.filter(|d| d.median >= KEPT);
        let shape = match (line, kept) {
            (true, Some(d)) => {
                format!("in a straight line without changing direction (cosine {:.4})", d.median)
            }
            (true, None) => "in a straight line".to_string(),
            (false, Some(d)) => format!("without changing direction (cosine {:.4})", d.median),
            (false, None) => format!("not in a straight line (R² {:.3})", decay.r2),
        };
        let Some(predicted) = decay.predicted else {
            return unknown(match decay.optimizer.decay() {
                DecayRule::DividedOut => format!(
                    "{course}, {shape}; Adam adds its weight decay to the gradient, so lr × weight decay does not predict its rate"
                ),
                _ if decay.lr_to.is_some() && decay.weight_decay.is_some() => {
                    format!(
                        "{course}, {shape}; with this learning rate and weight decay its optimizer has no steady rate"
                    )
                }
                _ => format!(
                    "{course}, {shape}; whether weight decay caused it cannot be decided without the learning rate and the weight decay, which the files do not contain"
                ),
            });
        };
        if predicted == 0.0 {
            return unknown(format!("{course}, {shape}; but learning rate × weight decay was 0 throughout"));
        }
        let ratio = decay.ratio.unwrap_or(0.0);
        let share = decay.share.unwrap_or(0.0);
        if (ratio - 1.0).abs() > SAME {
            let hint = match accumulation_hint(decay) {
                Some(n) => format!(
                    "; the rates would agree if one optimizer step were {n} checkpoint steps (gradient accumulation)"
                ),
                None => String::new(),
            };
            return unknown(format!(
                "{course}, {ratio:.3} times the {predicted:.3e} that weight decay alone predicts{hint}"
            ));
        }
        let agrees =
            format!("{course}, {ratio:.3} times the {predicted:.3e} that weight decay alone predicts");
        if let Some(turned) = turned {
            return unknown(format!(
                "{agrees}, but it changed direction while it fell (median cosine {:.3}): gradients moved it as well",
                turned.median
            ));
        }
        if kept.is_none() && !line {
            return unknown(format!(
                "{agrees}, but over only {} points, and its direction could not be compared",
                decay.points
            ));
        }
        if share < ACCOUNTED {
            return unknown(format!(
                "{agrees}, but that accounts for only {:.0} % of its decline",
                100.0 * share
            ));
        }
        (Cause::WeightDecay, format!("{agrees}, {shape}"))
    }

    fn direction(&self, decay: &Decay) -> Option<Direction> {
        let name = &self.run.layers[self.layer].name;
        let inside = |p: &&Pair| {
            let step = |c: usize| self.run.checkpoints[c].step;
            step(p.from) >= Some(decay.from) && step(p.to) <= Some(decay.to)
        };
        let links = self.pairs.iter().filter(|p| p.link).filter(inside);
        let mut cosines: Vec<f64> = links.filter_map(|p| p.tensor(name)?.cosine).collect();
        cosines.sort_by(f64::total_cmp);
        Some(Direction {
            median: *cosines.get(cosines.len() / 2)?,
            least: *cosines.first()?,
            pairs: cosines.len(),
        })
    }

    fn occupancy(&self) -> Option<Occupancy> {
        let shares: Vec<f64> =
            (0..=self.end).filter_map(|c| Some(self.at(c)?.ternary.as_ref()?.zero)).collect();
        if shares.len() < 2 {
            return None;
        }
        let (silenced, woken) = self.flow().unwrap_or_default();
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        Some(Occupancy { first: shares[0], least, last: shares[shares.len() - 1], silenced, woken })
    }

    /// Length of the optimizer's step over the decay's, from moments: Adam's lr·|m| / (sqrt(mean v) + eps), SGD's
    /// lr·|buf|, and for Muon in the form that keeps the size of what it orthogonalises at most sqrt(rank)·lr·|buf|;
    /// against lr·wd·|W|.
    fn push(&self, decay: &Decay) -> Option<Push> {
        let checkpoint = (0..=self.end).rev().find(|&c| !self.moments(c).is_empty())?;
        let step = self.run.checkpoints[checkpoint].step;
        let rms = |stats: &Stats| {
            let n = stats.count as f64;
            Some((stats.mean?.powi(2) + stats.std?.powi(2) * (n - 1.0) / n).sqrt())
        };
        let weight = rms(self.at(checkpoint)?.stats.as_ref()?)?;
        let moments = self.moments(checkpoint);
        let named = |name: &str| {
            moments.iter().find(|m| m.name.rsplit('.').next() == Some(name)).and_then(|m| m.stats.as_ref())
        };
        let weight_decay = decay.weight_decay.filter(|wd| *wd > 0.0)?;
        let (update, at_most) = match decay.optimizer {
            Kind::AdamW | Kind::AdamEither => {
                let second = named(SECOND)?.mean?.max(0.0).sqrt() + 1e-8;
                (rms(named(FIRST)?)? / second, false)
            }
            Kind::Sgd | Kind::Sgdw => (rms(named(MOMENTUM)?)?, false),
            Kind::Muon if self.group(checkpoint).is_some_and(|g| g.keeps_size) => {
                let shape = &self.at(checkpoint)?.shape;
                let rank = shape.first()?.min(shape.get(1)?);
                (rms(named(MOMENTUM)?)? * (*rank as f64).sqrt(), true)
            }
            _ => return None,
        };
        let ratio = update / (weight_decay * weight);
        ratio.is_finite().then_some(Push { ratio, at_most, step })
    }

    fn survival(&self) -> Option<f64> {
        let healthy = last_healthy(self.run)?;
        let name = &self.run.layers[self.layer].name;
        let pair =
            self.pairs.iter().find(|p| p.from == healthy && p.to == self.end && p.tensor(name).is_some())?;
        Some(pair.tensor(name)?.codes.as_ref()?.agreement())
    }
}
