//! 8-bit floats with a scale for each block of rows and columns (DeepSeek, Qwen), each row, or the whole matrix. The
//! scale multiplies, whatever it is called: <https://github.com/deepseek-ai/DeepSeek-V3/blob/main/inference/kernel.py>.

use super::geometry::{self, Asked, GUESSED, Sizes, shared};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::quantized::form::{Form, Numbers, Packed, Value};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

/// Blocks where nothing else is said.
const USUAL: (usize, usize) = (128, 128);
pub(super) const USUAL_BLOCK: Blocking = Blocking::Block(128, 128);

/// The codes of a type of 8-bit floats.
pub(super) fn code(dtype: DType) -> Option<Code> {
    Some(match dtype {
        DType::F8E4M3FN => Code::E4m3,
        DType::F8E4M3FNUZ => Code::E4m3Fnuz,
        DType::F8E5M2 => Code::E5m2,
        DType::F8E5M2FNUZ => Code::E5m2Fnuz,
        _ => return None,
    })
}

/// The scale of the codes called `name`: by Hugging Face's names, Mistral's and ComfyUI's, TensorRT-LLM's, and those of
/// DeepSeek's own files.
pub(super) fn scale(stored: &Stored<'_>, name: &str) -> Option<usize> {
    // Experts that lie in one tensor have no `.weight` in their name.
    let beside = stored.first_of([format!("{name}_scale_inv"), format!("{name}_scale")]);
    beside.or_else(|| {
        let layer = name.strip_suffix(".weight")?;
        let names = ["qscale_weight", "scale_weight", "weights_scaling_factor", "scale"]
            .map(|field| format!("{layer}.{field}"));
        stored.first_of(names)
    })
}

/// Whose layout it is, by the configuration.
pub(super) fn maker(stored: &Stored<'_>) -> Maker {
    match stored.config.method.as_deref() {
        Some("compressed-tensors") => Maker::CompressedTensors,
        Some("modelopt" | "modelopt_fp4") => Maker::ModelOpt,
        _ => Maker::None,
    }
}

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let code = code(codes.dtype)?;
    let name = codes.name.clone();
    let Some(scale) = scale(stored, &name) else {
        // Plain 8-bit floats are what they say, unless those beside them have scales.
        let is_weight = name.ends_with(".weight") && codes.shape.len() >= 2;
        let scaled = stored.float8_is_scaled || matches!(stored.config.method.as_deref(), Some("fp8"));
        let wanted = format!("{name}_scale");
        return (is_weight && scaled).then_some(Err(QuantFault::Missing { part: PartRole::Scale, wanted }));
    };
    Some(weight(stored, at, scale, name, code))
}

/// The rows and columns of the blocks of which the scale at `scale` has so many: those that the shapes of all such weights leave.
fn blocks(stored: &Stored<'_>, scale: usize, counts: (usize, usize)) -> Result<(usize, usize), QuantFault> {
    let found = *stored.float8_blocks.get_or_init(|| {
        let tensors = stored.checkpoint.tensors.iter();
        let own = tensors.filter(|tensor| code(tensor.dtype).is_some()).filter_map(|codes| {
            let scale = stored.tensor(self::scale(stored, &codes.name)?);
            let sizes = Sizes::flat(&codes.shape)?;
            Some((sizes, geometry::counts(sizes, &scale.shape)?))
        });
        geometry::common_blocks(own, USUAL)
    });
    // Where there is one block along a side, any size will do.
    let side = |found: Option<usize>, count: usize| found.or((count == 1).then_some(0));
    match (side(found.0, counts.0), side(found.1, counts.1)) {
        (Some(rows), Some(cols)) => Ok((rows, cols)),
        _ => {
            let tensor = stored.tensor(scale);
            let found = tensor.shape.iter().map(|&d| d as u64).collect();
            Err(QuantFault::Ambiguous { part: tensor.name.clone(), found })
        }
    }
}

fn weight(stored: &Stored<'_>, at: usize, scale: usize, name: String, code: Code) -> Found {
    let codes = stored.tensor(at);
    let sizes = Sizes::flat(&codes.shape).ok_or_else(|| QuantFault::shape(stored.tensor(scale), codes))?;
    let dtype = stored.tensor(scale).dtype;
    if !(dtype.is_float() || dtype == DType::U8) {
        let (part, found) = (stored.tensor(scale).name.clone(), dtype.to_string());
        return Err(QuantFault::Type { part, found });
    }
    let exponents = matches!(dtype, DType::U8 | DType::F8E8M0FNU);
    let mut said = stored.config.blockings();
    // Powers of two may be those of microscaling floats all the same.
    if exponents {
        if said.is_empty() {
            said.push(USUAL_BLOCK);
        }
        said.push(Blocking::Group(32));
    }
    let counts = geometry::counts(sizes, &stored.tensor(scale).shape).filter(|_| said.is_empty());
    let usual = match counts {
        Some(counts) => blocks(stored, scale, counts)?,
        None => USUAL,
    };
    let shared = shared(stored, (1, scale), Numbers::Plain(dtype), sizes, Asked::of(&said, usual), codes)?;
    let is_implied = counts.is_some() && usual != USUAL;
    let code = match shared.blocking {
        Blocking::Group(32) if exponents && code == Code::E4m3 => Code::Mxfp8,
        _ => code,
    };
    let form = Form {
        rows: sizes.rows,
        cols: sizes.cols,
        slices: sizes.slices,
        codes: Packed::Rows { bits: 8, stride: sizes.cols },
        value: Value::Float(codes.dtype),
        group: shared.group,
        scale: Some(shared.grid),
        ..Form::default()
    };
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    // How ComfyUI is to compute with it.
    let state = name.strip_suffix(".weight").and_then(|layer| stored.at(&format!("{layer}.comfy_quant")));
    parts.extend(state.map(|at| (PartRole::State, at)));
    Ok(Weight {
        name,
        shape: codes.shape.clone(),
        kind: QuantType::new(maker(stored), code, shared.blocking),
        parts,
        form,
        assumed: match shared.guessed {
            true => Some(GUESSED),
            false => is_implied.then_some(geometry::IMPLIED),
        },
    })
}
