//! What a pickle is to readers that read it otherwise than most.

use std::sync::Arc;

use super::Rule;
use super::content::{Place, Scanner};
use super::globals::BUILTINS;
use super::judged::is_judged;
use super::pickles::{MOST_KEPT, Stream, begins_plausibly, is_exhausted, names};
use super::uses::JUDGED_BY_ARGUMENTS;
use crate::Result;
use crate::bytes::ByteSource;
use crate::pickle::{Id, Node, Reader, Stored, Trace};

impl Scanner<'_> {
    /// Reports that a reading was not followed to its end.
    fn exhausted(&mut self, trace: &Trace<'_>, at: u64, place: &Place) {
        if is_exhausted(trace) {
            let message = "some readers find too many values here to follow them all".to_string();
            self.find(Rule::OpaqueContent, place, Some(at), message);
        }
    }

    /// Reports what readers do that know nothing of joblib, to whom the arrays of the pickle at `at` are opcodes; the
    /// first array is `skipped` bytes after it. Elements may look like anything, so names that Python could not import
    /// do not count.
    pub(super) fn as_others_read(
        &mut self,
        data: &dyn ByteSource,
        at: u64,
        skipped: u64,
        place: &Place,
    ) -> Result<()> {
        Trace::read_at(data, at, Reader::Plain, self.memory, |mut trace| {
            self.spend(trace.pickle.len as u64);
            self.exhausted(&trace, at, place);
            trace.seen.imports.retain(|(offset, _)| *offset >= skipped);
            trace.seen.builds.retain(|(offset, _)| *offset >= skipped);
            let plausible = begins_plausibly(&trace);
            if !plausible {
                trace.seen.imports.clear();
                trace.seen.builds.clear();
            }
            let pickle = &trace.pickle;
            trace.seen.calls.retain(|&(offset, id)| {
                let named = match pickle.node(id) {
                    Node::Object(object) => pickle.global(object.callable).is_some(),
                    _ => false,
                };
                offset >= skipped && (plausible || named)
            });
            match trace.seen.imports.is_empty() && trace.seen.calls.is_empty() {
                true => Ok(()),
                false => self.imports(&trace, place, at),
            }
        })?
    }

    /// Reports what an unpickler does that has read other pickles and keeps their `memo`, where the pickle at `at` imports
    /// something else than those `named`. Returns the memo afterwards.
    pub(super) fn as_one_unpickler_reads(
        &mut self,
        data: &dyn ByteSource,
        at: u64,
        memo: &[Stored],
        named: &[(Arc<str>, Arc<str>)],
        place: &Place,
    ) -> Result<Option<Vec<Stored>>> {
        Trace::read_after(data, at, self.memory, memo, |trace| {
            self.spend((trace.pickle.len + memo.len()) as u64);
            self.exhausted(&trace, at, place);
            let judged = |(module, name): &(Arc<str>, Arc<str>)| {
                JUDGED_BY_ARGUMENTS.contains(&(module, name))
                    || is_judged((module, name))
                    || BUILTINS.contains(&&**module)
            };
            let calls = |&(_, id): &(u64, Id)| match trace.pickle.node(id) {
                Node::Object(object) => trace.pickle.global(object.callable).is_none(),
                _ => false,
            };
            let imported = names(&trace);
            if imported != named
                || !trace.seen.inherited.is_empty()
                    && (imported.iter().any(judged) || trace.seen.calls.iter().any(calls))
            {
                self.imports(&trace, place, at)?;
            }
            Ok(trace.stored(MOST_KEPT))
        })?
    }

    /// Reports what readers do that read frame by frame, to whom the pickle at `at` is another one from the opcode at `torn`.
    pub(super) fn as_frames_are_read(
        &mut self,
        data: &dyn ByteSource,
        at: u64,
        torn: u64,
        place: &Place,
        stream: Stream,
    ) -> Result<()> {
        Trace::read_at(data, at, Reader::Framed, self.memory, |mut trace| {
            self.spend(trace.pickle.len as u64);
            self.exhausted(&trace, at, place);
            if stream == Stream::Chance && !begins_plausibly(&trace) {
                return Ok(());
            }
            let message = "an opcode reaches beyond its frame, where readers differ in what comes next";
            self.find(Rule::TornFrame, place, Some(at + torn), message.to_string());
            trace.seen.imports.retain(|(offset, _)| *offset >= torn);
            trace.seen.builds.retain(|(offset, _)| *offset >= torn);
            trace.seen.calls.retain(|(offset, _)| *offset >= torn);
            self.imports(&trace, place, at)
        })?
    }
}
