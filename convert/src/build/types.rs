//! Which matrices are made ternary, and in a GGUF file the type of each tensor.

use ckpt_inspect::meaning::architecture::Kind;
use ckpt_inspect::{DType, Group, TensorInfo, TernaryPacking};
use half::f16;

use super::choose::is_meant;
use super::{Builder, Chosen};
use crate::gguf::{self, Gguf};
use crate::names;
use crate::note::{Note, Remedy};
use crate::quant::Quant;
use crate::source::{grid, has_scale_beside};
use crate::target::Target;
use crate::{Error, Result};

impl Builder<'_, '_> {
    /// Decides which matrices are packed, and finds their scales.
    pub(super) fn settle_grids(&mut self, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let Some(packing) = options.target.packing() else { return Ok(()) };
        let student = source.model.student.as_ref();
        let floor = source.model.quantization_floor();
        let packable = |c: &Chosen| {
            let tensor = c.tensor(source);
            let wanted = match &options.ternary {
                Some(glob) => is_meant(glob, &c.name),
                None => source.model.is_ternary(tensor),
            };
            wanted && tensor.shape.len() == 2 && c.name.ends_with(".weight") && tensor.group == Group::Weights
        };
        let misfits = chosen.iter().filter(|c| packable(c) && !packing.tells_rows(&c.tensor(source).shape));
        let misfits = misfits.count();
        // A configuration says one thing of all of them.
        if misfits > 0 && options.target == (Target::Hf { packed: true }) {
            let what = format!(
                "{misfits} of its matrices cannot be packed, because their rows are not a multiple of 4: in such a folder all must be packed"
            );
            return Err(Error::of_source(source, what));
        }
        if misfits > 0 {
            self.plan.notes.push(Note::Unpacked { count: misfits });
        }
        for c in chosen.iter_mut() {
            let tensor = c.tensor(source);
            if !packable(c) || !packing.tells_rows(&tensor.shape) {
                continue;
            }
            let grid = grid(source, tensor, floor)?;
            if source.model.holds_codes() && source.model.is_ternary(tensor) && !grid.exact {
                let name = tensor.name.escape_debug();
                let what = format!(
                    "`{name}` should hold ternary codes times one scale, and {} has rounded them to several: packed, it would be another matrix",
                    tensor.dtype
                );
                return Err(Error::of_source(source, what));
            }
            c.grid = Some(grid);
        }
        let packed: Vec<&Chosen> = chosen.iter().filter(|c| c.grid.is_some()).collect();
        if packed.is_empty() {
            return Err(match &options.ternary {
                Some(glob) => Error::of_source(
                    source,
                    format!(
                        "none of its matrices, by their names in the output, matches '{}'",
                        glob.glob().glob().escape_debug()
                    ),
                ),
                None => Error::of_source(
                    source,
                    "none of its matrices is known to be ternary; choose them by a pattern",
                )
                .remedied_by(Remedy::Ternary("*_proj.weight")),
            });
        }
        let left_plain = |c: &&Chosen| {
            let is_layers =
                names::role(&c.name).is_some_and(|role| matches!(role.kind(), Kind::Attention | Kind::Mlp));
            c.grid.is_none() && is_layers && c.tensor(source).shape.len() == 2
        };
        let plain = chosen.iter().find(left_plain);
        if let Some(c) = plain.filter(|_| options.target == (Target::Hf { packed: true })) {
            let name = c.tensor(source).name.escape_debug();
            let what = format!("`{name}` is not ternary, and in a packed folder all matrices of layers are");
            return Err(Error::of_source(source, what));
        }
        let rounded = packed.iter().filter(|c| c.grid.is_some_and(|g| !g.exact)).count();
        if rounded > 0 {
            self.plan.notes.push(Note::Rounded { count: rounded, as_in_training: student.is_some() });
        }
        if student.is_some_and(|s| s.bitlinear_per_channel) {
            self.plan.notes.push(Note::RowScalesLost);
        }
        let unscaled = packed.iter().filter(|c| c.grid.is_some_and(|g| g.scale.is_none())).count();
        if unscaled > 0 {
            self.plan.notes.push(Note::Unscaled { count: unscaled });
        }
        if packing == TernaryPacking::I2sUnscaled {
            self.plan.notes.push(Note::ScalesLost);
        }
        Ok(())
    }

    /// Decides the types of GGUF output, and which matrices are written in their ternary form.
    pub(super) fn settle_quants(&mut self, settings: Gguf, chosen: &mut [Chosen]) -> Result<()> {
        let (source, options) = (self.plan.source, self.options);
        let floor = source.model.quantization_floor();
        let is_ternary = |name: &str, tensor: &TensorInfo| {
            let wanted = match &options.ternary {
                Some(glob) => glob.is_match(name),
                None => source.model.is_ternary(tensor),
            };
            wanted && tensor.shape.len() == 2 && !gguf::is_outer(name)
        };
        let any = chosen.iter().any(|c| is_ternary(&c.name, c.tensor(source)));
        let mut rules = gguf::Rules::new(settings, source, any, options.ternary.as_ref())?;
        if options.keep_quantized && settings.quant.is_none() {
            rules.keep_types(any);
        }
        if let (Some(glob), false) = (&options.ternary, any) {
            let pattern = glob.glob().glob().to_string();
            self.plan.notes.push(Note::UnmatchedTernary { pattern });
        }
        let unknown = gguf::is_unknown(source);
        let (mut choices, mut reciprocals) = (gguf::Choices::default(), 0);
        for c in chosen.iter_mut() {
            let whole = c.tensor.clone();
            let tensor = whole.as_deref().unwrap_or(&source.tensors[c.index]);
            if options.keep_quantized && matches!(tensor.dtype, DType::Quantized(_)) {
                let kept = self.kept(tensor, &c.name, &mut reciprocals)?;
                c.dtype = kept.dtype;
                c.kept = Some(kept);
                continue;
            }
            let ternary = is_ternary(&c.name, tensor);
            let asked = options.dtypes.iter().find(|(glob, _)| glob.is_match(&c.name));
            let asked = asked.map(|(_, dtype)| *dtype).or(options.dtype);
            let plain = gguf::ggml_of(c.dtype).is_some() && c.dtype.element_size().is_some();
            let keeps = rules.keeps_types() && asked.is_none() && (unknown || c.dtype == DType::F64);
            if plain && (keeps || !c.dtype.is_float()) {
                continue;
            }
            let can_be = |quant: &Quant| quant.is_made() || quant.dtype() == tensor.dtype;
            let asked = asked
                .map(|dtype| Quant::of(dtype).filter(can_be).ok_or(dtype))
                .transpose()
                .map_err(|dtype| Error::target(format!("weights cannot be written to GGUF as {dtype}")))?;
            let mut quant = rules.quant(&c.name, tensor, ternary, asked, &mut choices);
            c.dtype = quant.dtype();
            let packed = matches!(tensor.dtype, DType::Ternary(_));
            // A matrix whose scale was stored next to it keeps it there.
            let beside = settings.exact_scales || has_scale_beside(tensor);
            let needs_scale = quant == Quant::I2S || (beside && quant.is_ternary());
            // Blocks that are already ternary keep their scales.
            let has_blocks = matches!(tensor.dtype, DType::Ggml(_)) && tensor.dtype.is_ternary();
            let rounds = ternary && !settings.latent && !has_blocks && !packed;
            if (quant.is_ternary() && (packed || needs_scale)) || rounds {
                let grid = grid(source, tensor, floor)?;
                // Codes that a coarser type has rounded already are written as they are, not rounded again.
                if !grid.exact && source.model.holds_codes() && !quant.is_ternary() {
                    continue;
                }
                if !quant.is_made() {
                    quant = rules.fallback();
                    c.dtype = quant.dtype();
                }
                let scale = grid.scale.unwrap_or(1.0);
                let in_half = matches!(quant, Quant::Tq1_0 | Quant::Tq2_0) && !beside;
                if in_half && f16::from_f32(scale).is_infinite() {
                    let name = tensor.name.escape_debug();
                    let what = format!(
                        "`{name}` has the scale {scale:e}, and {quant} has scales in f16, up to 65504, unless they are tensors of their own"
                    );
                    return Err(Error::target(what).remedied_by(Remedy::ExactScales(&[Quant::I2S])));
                }
                choices.grid(&c.name, quant, grid, beside);
                c.grid = Some(grid);
            }
        }
        self.plan.notes.extend(choices.notes(source));
        self.note_reciprocals(reciprocals);
        Ok(())
    }
}
