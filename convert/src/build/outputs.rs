//! The tensors of the output and the bytes that they lie on.

use std::collections::HashMap;

use ckpt_inspect::{DType, Error as ReadError, Storage, TernaryPacking, contiguous_strides};

use super::kept::input_scale;
use super::{Builder, Chosen};
use crate::Result;
use crate::gguf::{self, Gguf};
use crate::note::Note;
use crate::plan::{Blob, Content, Elements, Held, Output, Pair};
use crate::quant::Quant;
use crate::sharing::{Place, shared_runs};
use crate::source::{has_scale_beside, held_transposed, rotary, shift};
use crate::target::Target;
use crate::ternary::Grid;

impl<'c> Builder<'c, '_> {
    pub(super) fn add(&mut self, chosen: Vec<Chosen>) -> Result<()> {
        let lost = chosen.iter().filter(|c| {
            let tensor = c.tensor(self.plan.source);
            c.grid.is_none() && matches!(tensor.dtype, DType::Ternary(_)) && tensor.scale.is_none()
        });
        let lost = lost.count();
        if lost > 0 {
            self.plan.notes.push(Note::BareCodes { count: lost });
        }
        let unpacked =
            chosen.iter().filter(|c| c.grid.is_none() && c.tensor.is_none()).map(|c| (c.index, c.dtype));
        let form = self.options.target.form();
        let shared = match form.shares {
            true => shared_runs(self.plan.source, unpacked),
            false => HashMap::new(),
        };
        let mut blobs_of_runs: HashMap<(Storage, u64, DType, DType), usize> = HashMap::new();
        let mut identical: HashMap<Place, String> = HashMap::new();
        let mut shapes = serde_json::Map::new();
        for c in chosen {
            let source = self.plan.source;
            let whole = c.tensor.clone();
            let tensor = whole.as_deref().unwrap_or(&source.tensors[c.index]);
            let held: Held<'_> = match whole.as_deref() {
                Some(whole) => whole.clone().into(),
                None => (&source.tensors[c.index]).into(),
            };
            let mut elements = Elements::new(held, rotary(source, tensor, self.style))
                .shifted(shift(source, tensor, self.style));
            if let Target::Gguf(settings) = self.options.target {
                elements.grid = c.grid;
                self.add_gguf(c, elements, settings, &mut identical)?;
                continue;
            }
            let elements = elements.transposed(held_transposed(tensor));
            self.plan.pairs.push(Pair { elements: elements.clone(), name: c.name.clone() });
            if let Some(grid) = c.grid {
                self.add_packed(c.name, elements, grid, &mut shapes)?;
                continue;
            }
            if let Some(run) = shared.get(&c.index).filter(|_| c.tensor.is_none()) {
                let size = c.dtype.element_size().unwrap_or(1);
                let source_size = tensor.dtype.element_size().unwrap_or(1) as u64;
                let blob = *blobs_of_runs
                    .entry((run.storage.clone(), run.start, tensor.dtype, c.dtype))
                    .or_insert_with(|| {
                        let mut whole = tensor.clone();
                        (whole.shape, whole.strides) = (vec![run.elements], vec![1]);
                        whole.byte_offset = run.start;
                        let bytes = (run.elements * size) as u64;
                        let content = Content::Elements(Elements::new(whole, None));
                        self.plan.blobs.push(Blob { dtype: c.dtype, bytes, content });
                        self.plan.blobs.len() - 1
                    });
                self.plan.tensors.push(Output {
                    name: c.name,
                    dtype: c.dtype,
                    shape: tensor.shape.clone(),
                    strides: tensor.strides.clone(),
                    blob,
                    offset: (tensor.byte_offset - run.start) / source_size * size as u64,
                });
                continue;
            }
            if let (true, Some(place)) = (form.ties, Place::of(tensor, c.dtype)) {
                if let Some(other) = identical.get(&place) {
                    self.plan.tied.push((c.name, other.clone()));
                    continue;
                }
                identical.insert(place, c.name.clone());
            }
            let bytes = c
                .dtype
                .bytes_for(&tensor.shape)
                .ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name))?;
            self.add_whole(c.name, c.dtype, elements.shape(), bytes, Content::Elements(elements));
        }
        if let Target::Gguf(_) = self.options.target {
            for (name, factors) in gguf::rope_factors(self.plan.source) {
                let bytes: Vec<u8> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
                let (shape, len) = (vec![factors.len()], bytes.len() as u64);
                self.add_whole(name.into(), DType::F32, shape, len, Content::Bytes(bytes));
            }
        }
        if self.options.target == Target::I2sSafeTensors {
            let text = serde_json::Value::Object(shapes).to_string().into_bytes();
            let shape = vec![text.len()];
            self.add_whole("__metadata__".into(), DType::U8, shape, text.len() as u64, Content::Bytes(text));
        }
        Ok(())
    }

    /// A tensor of a GGUF file, and its scale if that is a separate tensor.
    fn add_gguf(
        &mut self,
        c: Chosen,
        elements: Elements<'c>,
        settings: Gguf,
        identical: &mut HashMap<Place, String>,
    ) -> Result<()> {
        let (tensor, quant) = (&elements.tensor, Quant::of(c.dtype));
        self.plan.pairs.push(Pair { elements: elements.clone(), name: c.name.clone() });
        if let Some(place) = Place::of(tensor, c.dtype) {
            // Readers accept that one pair of names may share a tensor.
            match identical.get(&place) {
                Some(other) if gguf::is_tied_pair(&c.name, other) => {
                    self.plan.tied.push((c.name, other.clone()));
                    return Ok(());
                }
                Some(_) => {}
                None => {
                    identical.insert(place, c.name.clone());
                }
            }
        }
        let shape = tensor.shape.clone();
        let bytes = gguf::ggml_of(c.dtype)
            .and_then(|ggml| ggml.bytes_for(&shape))
            .ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name))?;
        let copied = tensor.dtype == c.dtype && quant != Some(Quant::I2S) && c.grid.is_none();
        let beside = settings.exact_scales || has_scale_beside(tensor);
        let unit_scale = beside && matches!(quant, Some(Quant::Tq1_0 | Quant::Tq2_0)) && c.grid.is_some();
        let scales = match (unit_scale, tensor.scale, &tensor.scales) {
            _ if c.kept.is_some() => {
                c.kept.as_ref().map(|kept| kept.factors.clone()).filter(|f| !f.is_empty())
            }
            (true, ..) => Some(vec![c.grid.and_then(|g| g.scale).unwrap_or(1.0).abs()]),
            (false, Some(scale), _) if copied => Some(vec![scale]),
            (false, None, Some(scales)) if copied => Some(scales.to_vec()),
            _ => None,
        };
        let content = match quant {
            _ if c.kept.is_some() => Content::Repacked(elements),
            Some(quant) if quant.is_packed() && !copied => Content::Blocks { elements, quant, unit_scale },
            _ => Content::Elements(elements),
        };
        let layer = c.name.strip_suffix(".weight").unwrap_or(&c.name).to_string();
        let source = self.plan.source;
        let of_inputs = c.kept.as_ref().and_then(|_| input_scale(source, &source.tensors[c.index]));
        let of_inputs = of_inputs.map(|scale| source.values(scale)).transpose()?;
        self.add_whole(c.name, c.dtype, shape, bytes, content);
        // Readers take 1 for one that is not there.
        if let Some(&[scale]) = of_inputs.as_deref()
            && scale != 1.0
        {
            let content = Content::Bytes(scale.to_le_bytes().to_vec());
            self.add_whole(format!("{layer}.input_scale"), DType::F32, vec![1], 4, content);
        }
        if let Some(scales) = scales {
            let name = format!("{layer}.scale");
            let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
            let (shape, len) = (vec![scales.len()], bytes.len() as u64);
            self.add_whole(name, DType::F32, shape, len, Content::Bytes(bytes));
        }
        Ok(())
    }

    fn add_whole(&mut self, name: String, dtype: DType, shape: Vec<usize>, bytes: u64, content: Content<'c>) {
        self.plan.blobs.push(Blob { dtype, bytes, content });
        let (blob, strides) = (self.plan.blobs.len() - 1, contiguous_strides(&shape));
        self.plan.tensors.push(Output { name, dtype, shape, strides, blob, offset: 0 });
    }

    /// A packed matrix and the tensors that go with it in this form.
    fn add_packed(
        &mut self,
        name: String,
        elements: Elements<'c>,
        grid: Grid,
        shapes: &mut serde_json::Map<String, serde_json::Value>,
    ) -> Result<()> {
        let shape = elements.tensor.shape.clone();
        // The scale is written separately.
        let elements = elements.unscaled();
        let layer = name.strip_suffix(".weight").unwrap_or(&name).to_string();
        let scale = grid.scale.unwrap_or(1.0).to_le_bytes().to_vec();
        let packing = self.options.target.packing().unwrap_or(TernaryPacking::I2s);
        let (Some(bytes), Some(stored)) = (packing.bytes_for(&shape), packing.stored(&shape)) else {
            return Err(ReadError::damaged("its size overflows").in_tensor(&elements.tensor.name).into());
        };
        let content = Content::Codes { elements, packing, grid };
        self.add_whole(name.clone(), DType::U8, stored, bytes, content);
        match packing {
            TernaryPacking::HfBitnet => {
                self.add_whole(
                    format!("{layer}.weight_scale"),
                    DType::F32,
                    vec![1],
                    4,
                    Content::Bytes(scale),
                );
            }
            TernaryPacking::I2sUnscaled => {
                shapes.insert(format!("{name}_shape"), serde_json::json!(shape));
            }
            _ => {
                let sizes: Vec<u8> = shape.iter().flat_map(|&d| (d as i64).to_le_bytes()).collect();
                let rank = vec![shape.len()];
                self.add_whole(
                    format!("{layer}_shape"),
                    DType::I64,
                    rank,
                    sizes.len() as u64,
                    Content::Bytes(sizes),
                );
                self.add_whole(format!("{layer}_scale"), DType::F32, Vec::new(), 4, Content::Bytes(scale));
            }
        }
        Ok(())
    }
}
