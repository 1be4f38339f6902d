//! Whether files are of the ranks that their names say, and of one save.

use std::collections::BTreeMap;

use super::{Kind, Saved};
use crate::layout::copies;
use crate::metadata::{HashableValue, Value, as_u64, lookup};
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Notice, NoticeKind};

/// Tells of the file `name` if it was saved under that of another rank: `root` is what the archive calls its own folder,
/// which PyTorch takes from the file's name.
pub(super) fn renamed(name: &str, root: Option<&str>) -> Option<Damage> {
    let saved_as = format!("{}.pt", root?);
    let (own, saved) = (Kind::of(name)?.place(), Kind::of(&saved_as)?.place());
    let what = || {
        let (name, saved_as) = (name.escape_debug(), saved_as.escape_debug());
        format!("{name} was saved as {saved_as}: it is another rank's file under this one's name")
    };
    (own != saved).then(|| Damage::new(DamageKind::Inconsistent, what()))
}

/// The step that model states were saved at.
pub(super) fn step(saved: &Saved) -> Option<u64> {
    as_u64(lookup(&saved.metadata, "global_steps")?)
}

/// Tells of model states, by the names of their files, that were not saved at the same step.
pub(super) fn other_steps(steps: &[(String, u64)]) -> Option<Damage> {
    let ((one, first), others) = steps.split_first()?;
    // Most of them are of one save.
    let common = |step: u64| steps.iter().filter(|(_, other)| *other == step).count();
    let (other, second) = others.iter().find(|(_, step)| step != first)?;
    let (odd, right) = match common(*first) < common(*second) {
        true => ((one, first), (other, second)),
        false => ((other, second), (one, first)),
    };
    let what = format!(
        "{} is of step {}, and {} of step {}: the files come from different saves",
        odd.0.escape_debug(),
        odd.1,
        right.0.escape_debug(),
        right.1
    );
    Some(Damage::new(DamageKind::Inconsistent, what))
}

/// Tells of an optimizer that counted other steps than model states did, which also count those that were skipped.
/// `vectors` is how many vectors of parameters the optimizer steps through.
pub(super) fn miscounted(counted: f64, vectors: usize, saved: &Saved) -> Option<Notice> {
    let number = |key: &str| lookup(&saved.metadata, key).and_then(as_u64);
    let global = number("global_steps")?;
    let skipped = number("skipped_steps").unwrap_or(0).min(global);
    let most = global as f64 + 1.0;
    // Versions made a step before the first one, and some counted each vector's.
    let fits = |counted: f64| counted >= (global - skipped) as f64 && counted <= most;
    if fits(counted) || fits(counted / vectors.max(1) as f64) {
        return None;
    }
    let text = format!(
        "the optimizer counted {counted} steps, and the model states {global}, {skipped} of them skipped: the files come from different saves, or the optimizer was restarted"
    );
    Some(Notice::new(NoticeKind::Contradiction, text))
}

/// The numbers and texts that all of `values` have the same.
pub(super) fn common<'v>(mut values: impl Iterator<Item = &'v Value>) -> Value {
    let Some(Value::Dict(first)) = values.next() else { return Value::Dict(BTreeMap::new()) };
    let plain =
        |value: &Value| matches!(value, Value::Bool(_) | Value::I64(_) | Value::F64(_) | Value::String(_));
    let mut all: BTreeMap<HashableValue, Value> =
        first.iter().filter(|(_, value)| plain(value)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for value in values {
        let Value::Dict(entries) = value else { continue };
        all.retain(|key, value| entries.get(key) == Some(value));
    }
    Value::Dict(all)
}

/// Tells of what each rank has whole in its model states, as buffers are, and that is not the same in all.
pub(super) fn unlike(models: &BTreeMap<usize, Saved>) -> Vec<Notice> {
    let mut notices = Vec::new();
    let Some((&first, saved)) = models.first_key_value() else { return notices };
    let whole = |tensor: &&TensorInfo| tensor.numel() > 0 && tensor.name.starts_with("module.");
    for tensor in saved.tensors.iter().filter(whole) {
        let others = models.iter().skip(1);
        let others = others.filter_map(|(&dp, saved)| Some((dp, saved.tensor(&tensor.name)?)));
        let copies: Vec<(usize, &TensorInfo)> =
            [(first, tensor)].into_iter().chain(others.filter(|(_, other)| other.numel() > 0)).collect();
        if copies.len() > 1 {
            copies::agreed(&tensor.name["module.".len()..], &copies, &mut notices);
        }
    }
    notices.extend(models.iter().skip(1).find_map(|(dp, other)| {
        let (one, two) = (format!("rank {first}"), format!("rank {dp}"));
        copies::disagreement("", (&one, &saved.metadata), (&two, &other.metadata))
    }));
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_ranks_are_told_and_other_names_are_not() {
        let name = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt";
        let told = |root: &str| renamed(name, Some(root)).map(|damage| damage.what);
        for root in [
            "archive",
            "bf16_zero_pp_rank_0_mp_rank_00_optim_states",
            "zero_pp_rank_0_mp_rank_00_optim_states",
            "optimizer_of_rank_1",
        ] {
            assert_eq!(told(root), None, "{root}");
        }
        assert_eq!(renamed(name, None), None);
        for root in [
            "bf16_zero_pp_rank_1_mp_rank_00_optim_states",
            "bf16_zero_pp_rank_0_mp_rank_01_optim_states",
            "zero_pp_rank_0_mp_rank_00_model_states",
        ] {
            assert!(told(root).unwrap().contains(root), "{root}");
        }
        let model = |name: &str, root: &str| renamed(name, Some(root)).is_some();
        assert!(model("mp_rank_00_model_states.pt", "mp_rank_01_model_states"));
        assert!(!model("mp_rank_00_model_states.pt", "mp_rank_00_model_states"));
    }

    #[test]
    fn steps_of_the_optimizer_are_those_that_were_not_skipped() {
        let count = |n: i64| Value::I64(n);
        let told = |counted: f64, vectors: usize| {
            let entries = [("global_steps", count(10)), ("skipped_steps", count(2))];
            let metadata = super::super::dict(entries);
            let saved =
                Saved { tensors: Vec::new(), numbers: Default::default(), metadata, sizes: Vec::new() };
            miscounted(counted, vectors, &saved).is_some()
        };
        // One more in versions that begin with a step of nothing.
        for (counted, vectors) in [(8.0, 1), (10.0, 1), (11.0, 1), (32.0, 4), (40.0, 4)] {
            assert!(!told(counted, vectors), "{counted} of {vectors}");
        }
        for (counted, vectors) in [(7.0, 1), (12.0, 1), (0.0, 1), (13.0, 2)] {
            assert!(told(counted, vectors), "{counted} of {vectors}");
        }
    }

    #[test]
    fn the_step_that_most_files_have_is_the_right_one() {
        let steps = |steps: [u64; 3]| {
            let named: Vec<(String, u64)> =
                steps.iter().enumerate().map(|(i, step)| (format!("rank {i}"), *step)).collect();
            other_steps(&named).map(|damage| damage.what)
        };
        assert_eq!(steps([10, 10, 10]), None);
        for (which, expected) in [
            ([20, 10, 10], "rank 0 is of step 20, and rank 1 of step 10"),
            ([10, 10, 20], "rank 2 is of step 20, and rank 0 of step 10"),
        ] {
            assert!(steps(which).unwrap().starts_with(expected));
        }
    }
}
