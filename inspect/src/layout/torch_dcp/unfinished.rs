//! A save that was not finished, so that nothing lists its parts. SafeTensors name their tensors themselves, and say where
//! in these they begin. Archives of `torch.save` do not: what each holds is listed by its file and its number in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::metadata::{Listing, Place};
use super::{FREE_RATIO, MAX_RATIO, name};
use crate::bytes::Source;
use crate::bytes::zstd::{self, Recent};
use crate::format::{Contents, safetensors, torch_zip};
use crate::layout::hf_shards;
use crate::metadata::{HashableValue, Value, merge};
use crate::zip::{self, LOCAL_HEADER};
use crate::{Damage, DamageKind, Error, ErrorKind, Notice, NoticeKind, Result};

/// What is wrong with a save that ended before its listing had its name.
const UNFINISHED: &str = "saving was not finished: .metadata, which is written last and says what the .distcp files hold, is not there";

/// What is wrong with a save whose listing was written and not given its name.
pub(super) fn draft() -> Damage {
    let what = format!("{UNFINISHED}; what the listing says that would have become it is shown");
    Damage::new(DamageKind::MissingShards, what)
}

/// What was found in parts that no listing names.
pub(super) struct Parts {
    /// Plain values, by file and number.
    values: BTreeMap<HashableValue, Value>,
    /// How many tensors have no name.
    nameless: usize,
    /// Bytes that compressed ones may still decompress to,
    left: u64,
    /// and those that did last.
    recent: Arc<Recent>,
}

impl Parts {
    pub fn new() -> Self {
        Parts { values: BTreeMap::new(), nameless: 0, left: FREE_RATIO, recent: Arc::default() }
    }

    /// Adds what the file at `path` holds: to `listing` what it names, else to `contents`. Tells of bytes after the last
    /// thing that can be read.
    ///
    /// # Errors
    /// When the bytes cannot be read.
    pub fn add(
        &mut self,
        path: &Path,
        source: &Arc<Source>,
        listing: &mut Listing,
        contents: &mut Contents,
    ) -> Result<()> {
        let file = name(path);
        self.left = self.left.saturating_add(source.len().saturating_mul(MAX_RATIO));
        let archives = zip::archives(source.data())?;
        let (mut at, mut number) = (0, 0);
        while at < source.len() {
            if let Some(len) = safetensors::extent(source.data(), at) {
                let part = Source::section(source, at, len).and_then(|part| safetensors::read(&part).ok());
                let Some(own) = part else { break };
                for tensor in own.tensors {
                    let Some(offsets) = hf_shards::begins_at(&own.metadata, &tensor) else { continue };
                    let place = Place { file: file.clone(), offset: at, len, transforms: Vec::new() };
                    listing.found(&tensor, offsets, place);
                }
                at = at.saturating_add(len);
                continue;
            }
            let Some(end) = self.item(source, at, &archives)? else { break };
            let place = Place { file: file.clone(), offset: at, len: end - at, transforms: Vec::new() };
            if self.add_item(source, &place, number, contents) {
                number += 1;
            }
            at = end;
        }
        if at < source.len() {
            let text = format!(
                "{} bytes of {} name no tensor: nothing says what they are",
                source.len() - at,
                file.escape_debug()
            );
            contents.notices.push(Notice::new(NoticeKind::NotShown, text));
        }
        Ok(())
    }

    /// Where the archive, compressed or not, ends that begins at `at`; one without an end reaches to the next of `archives`.
    fn item(&self, source: &Arc<Source>, at: u64, archives: &[Range<u64>]) -> Result<Option<u64>> {
        let data = source.data();
        let from = archives.partition_point(|archive| archive.start < at);
        match archives.get(from) {
            Some(next) if next.start == at => return Ok(Some(next.end)),
            next if data.window(at, 4)?.starts_with(LOCAL_HEADER) => {
                return Ok(Some(next.map_or(source.len(), |next| next.start)));
            }
            _ => {}
        }
        zstd::frame_end(data, at)
    }

    /// Adds what the archive at `place` of `source` holds under the name of its file and its `number` in that. Whether it
    /// is one: empty streams stand before SafeTensors.
    fn add_item(
        &mut self,
        source: &Arc<Source>,
        Place { file, offset, len, .. }: &Place,
        number: usize,
        contents: &mut Contents,
    ) -> bool {
        let is_packed = |bytes: &[u8]| !bytes.starts_with(LOCAL_HEADER);
        let packed = source.data().window(*offset, 4).is_ok_and(|bytes| is_packed(&bytes));
        let section = match packed {
            true => zstd::source(source, (*offset, *len), self.left, &self.recent).map(Some),
            false => Ok(Source::section(source, *offset, *len)),
        };
        if let (true, Ok(Some(section))) = (packed, &section) {
            self.left = self.left.saturating_sub(section.len());
            if section.len() == 0 {
                return false;
            }
        }
        let file = file.strip_suffix(".distcp").unwrap_or(file);
        let read = section.and_then(|section| section.map(|section| torch_zip::read(&section)).transpose());
        let mut saved = match read {
            Ok(Some(saved)) => saved,
            Ok(None) => return false,
            Err(error) => {
                let kind = error.fault.unwrap_or_default();
                contents.faults.push(Damage::new(kind, format!("`{file}.{number}`: {error}")));
                return true;
            }
        };
        if let Some(damage) = Damage::joined(std::mem::take(&mut saved.faults)) {
            let what = format!("`{}.{number}`: {damage}", file.escape_debug());
            contents.faults.push(Damage { what, ..damage });
        }
        self.nameless += saved.tensors.len();
        let is_value = saved.tensors.iter().all(|tensor| !tensor.name.is_empty());
        for mut tensor in saved.tensors {
            let dot = if tensor.name.is_empty() { "" } else { "." };
            tensor.name = format!("{file}.{number}{dot}{}", tensor.name);
            contents.tensors.push(tensor);
        }
        crate::format::add_new(&mut contents.globals, saved.globals);
        contents.notices.extend(saved.notices);
        if is_value {
            let key = HashableValue::String(number.to_string());
            let own = self.values.entry(HashableValue::String(file.into()));
            if let Value::Dict(own) = own.or_insert_with(|| Value::Dict(BTreeMap::new())) {
                own.insert(key, saved.metadata);
            }
        }
        true
    }

    /// Adds the plain values, and tells what is not known without a listing; `named` is what the parts name themselves.
    ///
    /// # Errors
    /// `Damaged` if nothing in the parts can be read.
    pub fn finish(self, named: &Listing, contents: &mut Contents) -> Result<()> {
        if named.items.is_empty() && self.nameless == 0 && self.values.is_empty() {
            let what =
                format!("is a distributed checkpoint whose {UNFINISHED}, and nothing in those can be read");
            let error = Error::new(ErrorKind::Damaged, what).because(DamageKind::MissingShards);
            return Err(error.hint("use the checkpoint of an earlier step"));
        }
        merge(&mut contents.metadata, Value::Dict(self.values));
        let rest = match named.items.is_empty() {
            true => {
                "neither the names of tensors nor which parts form one are known without it: use the checkpoint of an earlier step"
            }
            false => {
                "what the headers of the parts tell is shown, and what other ranks would have saved is not known"
            }
        };
        let damage = Damage::new(DamageKind::MissingShards, format!("{UNFINISHED}; {rest}"));
        contents.faults.insert(0, damage);
        if self.nameless > 0 {
            let text = format!(
                "{} of its tensors are parts as the ranks saved them, listed by file and number: neither their names nor what they are parts of are known",
                self.nameless
            );
            contents.notices.push(Notice::new(NoticeKind::OneRank, text));
        }
        Ok(())
    }
}
