//! Weights that are stored as codes with scales beside them: the tensors that make one up, and where in their bytes
//! each element's code, scale and zero point are. Which tensors belong together is decided in `meaning/scheme`.

pub(crate) mod form;
mod kind;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tensor::TensorInfo;
pub(crate) use form::Form;
pub use kind::{Blocking, Code, Maker, QuantType};

/// The stored tensors of one quantized weight.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// Its codes first, then what belongs to them.
    parts: Vec<Part>,
    pub(crate) form: Form,
}

/// A stored tensor that a quantized weight is made of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Part {
    /// What it is for.
    pub role: PartRole,
    /// The tensor as its file has it.
    pub tensor: TensorInfo,
}

/// What a stored tensor is for in a quantized weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PartRole {
    /// The codes of its elements.
    Codes,
    /// What codes are multiplied by.
    Scale,
    /// A further factor, of the whole weight or of each expert.
    GlobalScale,
    /// What is subtracted from codes before they are multiplied.
    ZeroPoint,
    /// What is added to the products.
    Offset,
    /// Which group of scales each column belongs to.
    Index,
    /// What each column is multiplied by, besides.
    ColumnScale,
    /// The values that codes stand for.
    Codebook,
    /// Its shape, or how it was quantized.
    State,
}

impl PartRole {
    /// The word that it has in JSON.
    pub fn name(self) -> &'static str {
        match self {
            PartRole::Codes => "codes",
            PartRole::Scale => "scale",
            PartRole::GlobalScale => "global-scale",
            PartRole::ZeroPoint => "zero-point",
            PartRole::Offset => "offset",
            PartRole::Index => "index",
            PartRole::ColumnScale => "column-scale",
            PartRole::Codebook => "codebook",
            PartRole::State => "state",
        }
    }
}

impl fmt::Display for PartRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Quantized {
    /// A weight made of `parts`, codes first, as `form` says; `None` without parts.
    pub(crate) fn new(parts: Vec<Part>, form: Form) -> Option<Self> {
        (!parts.is_empty()).then_some(Quantized { parts, form })
    }

    /// Its stored tensors, codes first.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The tensor of its codes.
    pub fn codes(&self) -> &TensorInfo {
        &self.parts[0].tensor
    }

    /// The stored tensors for `role`.
    pub fn of(&self, role: PartRole) -> impl Iterator<Item = &TensorInfo> {
        self.parts.iter().filter(move |part| part.role == role).map(|part| &part.tensor)
    }

    /// The slice `number`, such as one expert's matrix; `None` where some part is not stored by slices.
    pub(crate) fn slice(&self, number: usize) -> Option<Self> {
        let slices = self.form.slices;
        let of_slice = |part: &Part| {
            let whole = part.tensor.shape.first() == Some(&slices);
            Some(Part { role: part.role, tensor: part.tensor.part(number).filter(|_| whole)? })
        };
        let parts = self.parts.iter().map(of_slice).collect::<Option<_>>()?;
        let form = Form { slices: 1, ..self.form.clone() };
        (number < slices).then_some(Quantized { parts, form })
    }

    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut TensorInfo> {
        self.parts.iter_mut().map(|part| &mut part.tensor)
    }
}

/// Why stored tensors of a quantized weight cannot be read as one. As text it is a phrase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum QuantFault {
    /// Codes lack a tensor that says what they stand for.
    Missing {
        /// What it would be for.
        part: PartRole,
        /// Its name.
        wanted: String,
    },
    /// A scale, a zero point or an index belongs to no codes.
    Orphaned,
    /// A tensor of the weight has a shape that does not fit its codes.
    Shape {
        /// The tensor.
        part: String,
        /// Its shape.
        found: Vec<u64>,
        /// The shape of the codes as stored.
        codes: Vec<u64>,
    },
    /// A tensor of the weight has elements of a type that is not used for it.
    Type {
        /// The tensor.
        part: String,
        /// The type's name.
        found: String,
    },
    /// A tensor of the weight cannot be read.
    Unreadable {
        /// The tensor.
        part: String,
    },
    /// A tensor of the weight has another shape than the configuration, or the format, asks for.
    Configured {
        /// The tensor.
        part: String,
        /// Its shape.
        found: Vec<u64>,
        /// What is asked for, in words.
        asked: String,
    },
    /// A tensor that says what the codes' sizes are says others than they have.
    Said {
        /// The tensor.
        part: String,
        /// What it says.
        said: Vec<u64>,
        /// The shape of the codes as stored.
        codes: Vec<u64>,
    },
    /// A factor that elements are multiplied by is negative.
    Negative {
        /// The tensor that has it.
        part: String,
    },
    /// A table of what codes stand for holds other values than such codes have.
    Codebook {
        /// The tensor.
        part: String,
        /// What they are codes of.
        of: String,
    },
    /// It is quantized in a way that is known by name, and not read.
    Unread {
        /// The name.
        scheme: String,
    },
    /// It holds codes that no scheme explains, in a model that is quantized.
    Unexplained,
    /// It holds codes: a scale or the like is beside it, by a name that no scheme knows.
    Beside {
        /// The tensor beside it.
        part: String,
    },
    /// Something is subtracted from its codes, or added, of which what reads such codes does not know.
    Unused {
        /// The tensor that has it.
        part: String,
    },
    /// A tensor of the weight has another shape than those of the other weights of the model have for theirs.
    Unlike {
        /// The tensor.
        part: String,
        /// Its shape.
        found: Vec<u64>,
        /// What the others have, in words.
        others: String,
    },
    /// Blocks of several sizes fit its scales and those of the others, and nothing says which.
    Ambiguous {
        /// The tensor.
        part: String,
        /// Its shape.
        found: Vec<u64>,
    },
    /// Every code of its scales is the same, which no quantizer makes of scales that differ.
    Uniform {
        /// The tensor.
        part: String,
    },
    /// What says how it was quantized is not understood.
    State {
        /// The tensor or the key that says it.
        part: String,
    },
    /// What says how it was quantized is in another form than the one that is known, perhaps of another version.
    Foreign {
        /// The tensor that says it.
        part: String,
    },
    /// It is an instance of a class that is not read.
    Class {
        /// The class.
        class: String,
    },
    /// Another tensor has the name of the weight.
    Twice {
        /// That name.
        name: String,
    },
}

impl QuantFault {
    /// `tensor` has another shape than is `asked` for, in words.
    pub(crate) fn configured(tensor: &TensorInfo, asked: String) -> Self {
        let found = tensor.shape.iter().map(|&d| d as u64).collect();
        QuantFault::Configured { part: tensor.name.clone(), found, asked }
    }

    /// Whether it may be a healthy weight all the same, of which only the reading is not known.
    pub(crate) fn is_of_reader(&self) -> bool {
        matches!(
            self,
            QuantFault::Foreign { .. }
                | QuantFault::Class { .. }
                | QuantFault::Unread { .. }
                | QuantFault::Unexplained
                | QuantFault::Beside { .. }
                | QuantFault::Unused { .. }
                | QuantFault::Ambiguous { .. }
        )
    }

    /// `tensor` says that the codes have other sizes than they do.
    pub(crate) fn said(tensor: &TensorInfo, said: &[usize], codes: &TensorInfo) -> Self {
        let sizes = |shape: &[usize]| shape.iter().map(|&d| d as u64).collect();
        QuantFault::Said { part: tensor.name.clone(), said: sizes(said), codes: sizes(&codes.shape) }
    }

    /// `tensor` has another shape than `codes` need.
    pub(crate) fn shape(tensor: &TensorInfo, codes: &TensorInfo) -> Self {
        let sizes = |shape: &[usize]| shape.iter().map(|&d| d as u64).collect();
        QuantFault::Shape {
            part: tensor.name.clone(),
            found: sizes(&tensor.shape),
            codes: sizes(&codes.shape),
        }
    }
}

impl fmt::Display for QuantFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuantFault::Missing { part, wanted } => {
                write!(f, "codes without their {part}: there is no {}", wanted.escape_debug())
            }
            QuantFault::Orphaned => f.write_str("it belongs to no codes"),
            QuantFault::Shape { part, found, codes } if found == codes => {
                write!(f, "{} has shape {found:?}, which is not that of such codes", part.escape_debug())
            }
            QuantFault::Said { part, said, codes } => {
                let part = part.escape_debug();
                write!(f, "{part} says {said:?}, which does not fit codes of {codes:?}")
            }
            QuantFault::Codebook { part, of } => {
                write!(f, "{} does not hold the values that codes of {of} have", part.escape_debug())
            }
            QuantFault::Negative { part } => write!(f, "{} is negative", part.escape_debug()),
            QuantFault::Shape { part, found, codes } => {
                write!(
                    f,
                    "{} has shape {found:?}, which does not fit codes of {codes:?}",
                    part.escape_debug()
                )
            }
            QuantFault::Configured { part, found, asked } => {
                let part = part.escape_debug();
                write!(f, "{part} has shape {found:?}, which is not that of {asked}, as it is configured")
            }
            QuantFault::Unread { scheme } => {
                write!(f, "it is quantized by {}, which is not read", scheme.escape_debug())
            }
            QuantFault::Unexplained => f.write_str("it holds codes of a quantization that is not understood"),
            QuantFault::Beside { part } => {
                write!(f, "it holds codes of an unknown quantization: {} is next to it", part.escape_debug())
            }
            QuantFault::Unused { part } => {
                write!(f, "its codes are shifted by {}, which is not read", part.escape_debug())
            }
            QuantFault::Unlike { part, found, others } => {
                write!(
                    f,
                    "{} has shape {found:?}, where the other weights have {others}",
                    part.escape_debug()
                )
            }
            QuantFault::Ambiguous { part, found } => {
                write!(
                    f,
                    "{} has shape {found:?}, which several sizes of blocks have, and no configuration says which it is",
                    part.escape_debug()
                )
            }
            QuantFault::Uniform { part } => {
                write!(f, "{} has the same code for every block", part.escape_debug())
            }
            QuantFault::Type { part, found } => {
                write!(f, "{} has elements of {found}, which are not used so", part.escape_debug())
            }
            QuantFault::Unreadable { part } => write!(f, "{} cannot be read", part.escape_debug()),
            QuantFault::State { part } => {
                write!(f, "{} does not say how it was quantized", part.escape_debug())
            }
            QuantFault::Foreign { part } => {
                write!(f, "{} says how it was quantized in a form that is not known", part.escape_debug())
            }
            QuantFault::Class { class } => {
                write!(f, "it is of the class {}, which is not read", class.escape_debug())
            }
            QuantFault::Twice { name } => {
                write!(f, "another tensor is called {}", name.escape_debug())
            }
        }
    }
}
