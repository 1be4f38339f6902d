//! What can be written: for each target a line in [`Target`]'s table, and a [`Form`] in the file of its writer.

use std::path::Path;

use ckpt_inspect::staged::Control;
use ckpt_inspect::{Checkpoint, DType, Format, TernaryPacking};

use crate::encode::Written;
use crate::gguf::Gguf;
use crate::names::Style;
use crate::note::Remedy;
use crate::plan::{Options, Plan};
use crate::source::gguf_student;
use crate::{Result, dcp, gguf, hf, npz, safetensors, torch};

/// What planning, writing and the command line need to know about a container or packing.
pub struct Form {
    /// Its name on the command line; empty if it is chosen by the output's extension.
    pub name: &'static str,
    /// Its description in a line of help.
    pub about: &'static str,
    /// The extension of its files; empty for a folder.
    pub extension: &'static str,
    /// Whether it can be a folder of several files of limited size.
    pub splits: bool,
    /// The programs that read it, for messages.
    pub(crate) reader: &'static str,
    /// Whether it has this element type.
    pub(crate) holds: fn(DType) -> bool,
    /// The remedy for an element type that it does not have.
    pub(crate) instead: fn(DType) -> Remedy,
    /// The naming scheme of tensors; by default that of the source.
    pub(crate) style: Option<Style>,
    /// Whether tensors are in a nested PyTorch object.
    pub(crate) nests: bool,
    /// Whether tensors may be views of one storage.
    pub(crate) shares: bool,
    /// Whether a tensor that is the same as another may be left out.
    pub(crate) ties: bool,
    /// Whether it has plain values: config, step.
    pub(crate) tells_values: bool,
    /// Whether it is a model that other programs load.
    pub(crate) is_model: bool,
    /// How ternary matrices are packed.
    pub(crate) packing: fn(Target) -> Option<TernaryPacking>,
    /// Refuses planned tensors that this form cannot represent.
    pub(crate) check: fn(&Plan<'_>) -> Result<()>,
    /// Writes it: the bytes of all files, and the outcome of each blob.
    pub(crate) write: Write,
}

type Write = fn(&mut Plan<'_>, &Options, &Path, Control<'_>) -> Result<(u64, Vec<Written>)>;

macro_rules! targets {
    ($($(#[$doc:meta])* $target:ident $(($settings:ty))? $({ $(#[$field_doc:meta])* $field:ident: $of:ty })? => $form:expr;)*) => {
        /// Containers and packings that are written.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Target {
            $($(#[$doc])* $target $(($settings))? $({ $(#[$field_doc])* $field: $of })?,)*
        }

        impl Target {
            /// Every target, with its settings' defaults.
            pub fn all() -> impl Iterator<Item = Target> {
                [$(Target::$target $((<$settings>::default()))? $({ $field: <$of>::default() })?),*].into_iter()
            }

            /// Its row in the table.
            pub fn form(self) -> &'static Form {
                match self {
                    $(Target::$target { .. } => &$form,)*
                }
            }
        }
    };
}

targets! {
    /// The i2s form in PyTorch's zip: `L.weight`, `L_shape`, `L_scale`.
    I2s => torch::I2S;
    /// The ternary packer's SafeTensors form: `L.weight`, shapes in a `__metadata__` tensor, no scale.
    I2sSafeTensors => safetensors::I2S;
    /// SafeTensors, one file or a folder of shards.
    SafeTensors => safetensors::FORM;
    /// A Hugging Face model folder.
    Hf {
        /// Whether BitLinear matrices are packed as Hugging Face's BitNet integration does.
        packed: bool
    } => hf::FORM;
    /// PyTorch's zip.
    Torch => torch::FORM;
    /// A folder of `torch.distributed.checkpoint`.
    Dcp => dcp::FORM;
    /// GGUF, one file or a split set.
    Gguf(Gguf) => gguf::FORM;
    /// NumPy's archive of arrays.
    Npz => npz::FORM;
}

impl Target {
    pub(crate) fn packing(self) -> Option<TernaryPacking> {
        (self.form().packing)(self)
    }

    pub(crate) fn style(self, source: &Checkpoint) -> Option<Style> {
        self.form().style.or(match source.format {
            // Only GGUF readers know GGUF's names.
            Format::Gguf { .. } if gguf_student(source).is_some() => Some(Style::Student),
            Format::Gguf { .. } => Some(Style::Hf),
            _ => None,
        })
    }
}
