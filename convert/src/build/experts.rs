//! Matrices of experts, of which GGUF has those of a layer in one tensor, and other formats a tensor for each.

use std::collections::BTreeMap;
use std::ops::Range;

use ckpt_inspect::meaning::architecture::{Architecture, Role};
use ckpt_inspect::{Checkpoint, DType, Format, Result as ReadResult, TensorInfo};

use super::{Builder, Chosen};
use crate::edit::derived::{Derived, Make};
use crate::edit::input::{Input, Reader};
use crate::names::{self, Style};
use crate::{Error, Result};

/// The role of `tensor` in `source` and its expert's number, where it is one expert's matrix.
pub(crate) fn separate(source: &Checkpoint, tensor: &TensorInfo) -> Option<(Role, usize)> {
    let family = source.model.family()?;
    let role = role_of_stack(family, &tensor.name)?;
    names::expert(&tensor.name).map(|number| (role, number))
}

/// The experts' matrices of `tensor` in `source`, with their numbers, where it has those of all.
pub(crate) fn stacked(source: &Checkpoint, tensor: &TensorInfo) -> Option<Vec<(usize, TensorInfo)>> {
    let family = source.model.family()?;
    role_of_stack(family, &tensor.name).filter(|_| names::expert(&tensor.name).is_none())?;
    let count = *tensor.shape.first().filter(|_| tensor.shape.len() == 3)?;
    (0..count).map(|number| Some((number, tensor.part(number)?))).collect()
}

fn role_of_stack(family: &'static Architecture, name: &str) -> Option<Role> {
    let role = family.role(&names::canonical_in(Some(family), name))?;
    family.tensor(role).filter(|row| row.is_stack()).map(|_| role)
}

/// Matrices of one size, one after another.
#[derive(Debug)]
struct Together {
    matrices: Vec<Input>,
    /// Elements of each.
    each: usize,
}

impl Make for Together {
    fn make(&self, range: Range<usize>, take: &mut dyn FnMut(&[f64])) -> ReadResult<()> {
        let mut at = range.start;
        while at < range.end {
            let (nth, first) = (at / self.each, at % self.each);
            let count = (self.each - first).min(range.end - at);
            take(&self.matrices[nth].numbers(first..first + count)?);
            at += count;
        }
        Ok(())
    }
}

impl Builder<'_, '_> {
    /// Puts the experts' matrices together for GGUF, or apart for other formats.
    pub(super) fn arrange_experts(&self, chosen: Vec<Chosen>) -> Result<Vec<Chosen>> {
        let source = self.plan.source;
        let Some(family) = source.model.family() else { return Ok(chosen) };
        let from_gguf = matches!(source.format, Format::Gguf { .. });
        match self.style {
            Some(Style::Gguf) if !from_gguf => self.put_together(family, chosen),
            Some(Style::Gguf) => Ok(chosen),
            // mlx-lm has them in one too; where its names are kept, so are its tensors.
            Some(_) if !self.plan.keeps => self.put_apart(chosen),
            _ if from_gguf => self.put_apart(chosen),
            _ => Ok(chosen),
        }
    }

    fn put_together(&self, family: &'static Architecture, chosen: Vec<Chosen>) -> Result<Vec<Chosen>> {
        let source = self.plan.source;
        let (mut out, mut stacks) = (Vec::new(), BTreeMap::<String, (usize, BTreeMap<usize, Chosen>)>::new());
        for c in chosen {
            let tensor = &source.tensors[c.index];
            let name = separate(source, tensor)
                .and_then(|(role, number)| Some((family.name(role, Style::Gguf)?, number)));
            match name {
                Some((name, number)) => {
                    // Where the first one would be.
                    let at = out.len();
                    stacks.entry(name).or_insert((at, BTreeMap::new())).1.insert(number, c);
                }
                None => out.push(c),
            }
        }
        let mut stacks: Vec<_> = stacks.into_iter().collect();
        stacks.sort_by_key(|(_, (at, _))| std::cmp::Reverse(*at));
        for (name, (at, members)) in stacks {
            let refused = |why: String| Error::of_source(source, why);
            if members.keys().copied().ne(0..members.len()) {
                return Err(refused(format!(
                    "it lacks matrices of some experts that belong in `{name}`: there are {}, up to the {}th",
                    members.len(),
                    members.keys().last().map_or(0, |last| last + 1)
                )));
            }
            let tensors: Vec<&TensorInfo> = members.values().map(|c| &source.tensors[c.index]).collect();
            let stack = TensorInfo::stack(&tensors).map(Ok);
            let Some(stack) = stack.or_else(|| self.decoded(&tensors)) else {
                return Err(refused(format!(
                    "the matrices of its experts, such as `{}`, are quantized or of several types, and cannot be put together as they are: write it as hf or safetensors first",
                    tensors[0].name.escape_debug()
                )));
            };
            let mut stack = stack?;
            stack.name.clone_from(&name);
            let dtype = self.dtype(&stack, &name)?;
            let index = members[&0].index;
            let tensor = Some(Box::new(stack));
            out.insert(at, Chosen { index, name, dtype, tensor, grid: None, kept: None });
        }
        Ok(out)
    }

    /// The matrices of `tensors`, which are quantized, one after another as the numbers that they stand for; `None` where they differ
    /// in shape or kind, and where codes are kept.
    fn decoded(&self, tensors: &[&TensorInfo]) -> Option<Result<TensorInfo>> {
        let first = *tensors.first()?;
        let is_alike = |t: &&TensorInfo| {
            matches!(t.dtype, DType::Quantized(_)) && t.shape == first.shape && t.damage.is_none()
        };
        if self.options.keep_quantized || !tensors.iter().all(is_alike) {
            return None;
        }
        let reader = Reader::new(&self.plan.source.path);
        let matrices = tensors.iter().map(|tensor| Input::new(&reader, tensor)).collect();
        let mut like = first.clone();
        like.shape.insert(0, tensors.len());
        let each = usize::try_from(first.numel()).ok()?;
        let made = Derived::tensor(&like, DType::F32, Box::new(Together { matrices, each }));
        Some(made.map(|(tensor, _)| tensor).map_err(Error::from))
    }

    fn put_apart(&self, chosen: Vec<Chosen>) -> Result<Vec<Chosen>> {
        let source = self.plan.source;
        let mut out = Vec::new();
        for c in chosen {
            let whole = &source.tensors[c.index];
            let Some(parts) = stacked(source, whole).filter(|_| c.name != names::of_expert(&c.name, 0))
            else {
                out.push(c);
                continue;
            };
            for (number, part) in parts {
                let name = names::of_expert(&c.name, number);
                let dtype = self.dtype(&part, &name)?;
                let tensor = Some(Box::new(part));
                out.push(Chosen { index: c.index, name, dtype, tensor, grid: None, kept: None });
            }
        }
        Ok(out)
    }
}
