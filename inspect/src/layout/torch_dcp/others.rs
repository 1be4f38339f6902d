//! Files beside those that the listing names.

use crate::{Damage, DamageKind, Notice, NoticeKind};

/// Takes the files of ranks without a listing from `others`, where each rank that saved has one among `lists`.
pub(super) fn unlisted(lists: &[String], others: &mut Vec<String>) -> Option<Damage> {
    let of_rank = |file: &str| file.strip_prefix("__")?.split_once('_')?.0.parse::<usize>().ok();
    let is_without =
        |file: &String| of_rank(file).is_some_and(|rank| !lists.contains(&format!("__{rank}.metadata")));
    if lists.is_empty() || lists.iter().any(|list| list == ".metadata") {
        return None;
    }
    let found: Vec<String> = others.extract_if(.., |file| is_without(file)).collect();
    let first = found.first()?;
    let rank = of_rank(first)?;
    let what = format!(
        "__{rank}.metadata, which rank {rank} writes last and which says what {} holds, is missing: its save was not finished",
        first.escape_debug()
    );
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of the files `others`, which no listing names: of another save into the same folder, or of ranks whose values,
/// which the listing has once, hold `parts` of tensors.
pub(super) fn of_other_saves(others: &[String], parts: bool) -> Option<Notice> {
    let first = others.first()?.escape_debug();
    let of = if parts { "of other ranks, or of another save" } else { "of another save" };
    let text = match others.len() {
        1 => format!(
            "{first} is there, and .metadata does not name it: it is {of}, and is not read, as PyTorch does not"
        ),
        n => format!(
            "{n} files are there that .metadata does not name, such as {first}: they are {of}, and are not read, as PyTorch does not"
        ),
    };
    Some(Notice::new(NoticeKind::Surplus, text))
}
