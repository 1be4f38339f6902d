//! Giving tensors other names.

use std::collections::HashMap;
use std::fmt;

use serde_json::json;

use super::{Change, Draft, Edit, Pattern, Row, instances, tensors};
use crate::{Error, Result};

/// `--rename`.
pub(super) const ROW: Row = Row {
    flag: "rename",
    value: Some("FROM=TO"),
    repeats: true,
    about: "Give tensors other names: 'model.*=*' with a glob, where each * of TO stands for what a wildcard of FROM matched; '/h\\.(\\d+)/=layers.$1' with a regular expression. Several are applied in turn",
    settings: &[],
    make: |given| {
        let rules = given.values.iter().map(|text| rule(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Box::new(Rename { rules }))
    },
};

/// `FROM=TO`; a regular expression ends with the slash before the sign.
fn rule(text: &str) -> Result<(Pattern, String), String> {
    let split = match text.strip_prefix('/') {
        Some(_) => text.rfind("/=").map(|at| at + 1),
        None => text.find('='),
    };
    let shown = text.escape_debug();
    let at = split.ok_or_else(|| format!("`{shown}` is not FROM=TO, such as 'model.*=*'"))?;
    let (from, to) = (Pattern::new(&text[..at])?, &text[at + 1..]);
    let (wanted, there) = (to.matches('*').count(), from.wildcards());
    if let Some(there) = there.filter(|there| *there < wanted) {
        return Err(format!(
            "`{shown}` has {wanted} `*` on its right, and {there} on its left for them to come from"
        ));
    }
    if let Some(group) = from.unknown_group(to) {
        let group = group.escape_debug();
        return Err(format!(
            "`{shown}` refers to the group `{group}`, which its pattern does not have; ${{1}}_x is group 1 before `_x`"
        ));
    }
    Ok((from, to.to_string()))
}

/// Gives tensors other names, by rules that are carried out one after another.
#[derive(Clone, Debug)]
pub struct Rename {
    rules: Vec<(Pattern, String)>,
}

impl Rename {
    /// By the rules of the texts `FROM=TO`.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new<T: AsRef<str>>(rules: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let rules = rules.into_iter().map(|text| rule(text.as_ref())).collect::<Result<_, _>>()?;
        Ok(Rename { rules })
    }
}

impl Edit for Rename {
    fn apply(&self, draft: &mut Draft) -> Result<()> {
        let mut names: Vec<String> = draft.checkpoint.tensors.iter().map(|t| t.name.clone()).collect();
        for (from, to) in &self.rules {
            let mut any = false;
            for name in &mut names {
                if let Some(new) = from.renamed(name, to) {
                    (*name, any) = (new, true);
                }
            }
            if !any {
                return Err(draft.unmatched(from, ROW.flag));
            }
        }
        let metadata = instances::renamed(&draft.checkpoint, &names, &|key| {
            let apply =
                |name: String, (from, to): &(Pattern, String)| from.renamed(&name, to).unwrap_or(name);
            self.rules.iter().fold(key.to_string(), apply)
        })?;
        let source = &draft.checkpoint;
        let mut taken: HashMap<&str, &str> = HashMap::new();
        for (tensor, name) in source.tensors.iter().zip(&names) {
            let has_gap = |name: &str| name.split('.').any(str::is_empty);
            if name.contains('\0') || has_gap(name) && (name.is_empty() || !has_gap(&tensor.name)) {
                let why = format!(
                    "`{}` would be renamed to `{}`, which is not a valid name",
                    tensor.name.escape_debug(),
                    name.escape_debug()
                );
                return Err(Error::of_source(source, why));
            }
            if let Some(other) = taken.insert(name, &tensor.name) {
                let why = format!(
                    "`{}` and `{}` would both be named `{}`",
                    other.escape_debug(),
                    tensor.name.escape_debug(),
                    name.escape_debug()
                );
                return Err(Error::of_source(source, why));
            }
        }
        let changed: Vec<usize> = (0..names.len()).filter(|&i| names[i] != source.tensors[i].name).collect();
        let first = changed.first().map(|&i| (source.tensors[i].name.clone(), names[i].clone()));
        for &i in &changed {
            draft.checkpoint.tensors[i].name.clone_from(&names[i]);
        }
        draft.checkpoint.metadata = metadata;
        draft.changes.push(Box::new(Renamed { tensors: changed.len(), first }));
        draft.renamed = true;
        Ok(())
    }
}

/// Tensors that have other names.
#[derive(Clone, Debug)]
struct Renamed {
    tensors: usize,
    /// The old and the new name of the first.
    first: Option<(String, String)>,
}

impl fmt::Display for Renamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "renamed {}", tensors(self.tensors))?;
        match &self.first {
            Some((old, new)) => write!(f, ", such as `{}` to `{}`", old.escape_debug(), new.escape_debug()),
            None => Ok(()),
        }
    }
}

impl Change for Renamed {
    fn record(&self) -> serde_json::Value {
        let first = self.first.as_ref().map(|(old, new)| json!({"from": old, "to": new}));
        json!({"edit": ROW.flag, "tensors": self.tensors, "first": first})
    }
}
