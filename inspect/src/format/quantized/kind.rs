//! What a quantized weight is called: `fp8_e4m3 128x128`, `gptq 4-bit g128`.

use std::fmt;
use std::str::FromStr;

/// How the elements of a quantized weight are stored. As text it is its maker, its codes and what shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct QuantType {
    /// Whose layout it is.
    pub maker: Maker,
    /// What the codes are.
    pub code: Code,
    /// What shares a scale.
    pub blocking: Blocking,
}

impl QuantType {
    pub(crate) fn new(maker: Maker, code: Code, blocking: Blocking) -> Self {
        QuantType { maker, code, blocking }
    }

    /// The maker's name, or else the codes'.
    pub fn family(self) -> &'static str {
        match self.maker {
            Maker::None => self.code.name().unwrap_or("quantized"),
            maker => maker.name(),
        }
    }
}

macro_rules! makers {
    ($($(#[$doc:meta])* $maker:ident = $name:literal;)*) => {
        /// Whose layout a quantized weight has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Maker {
            /// Of many: a weight beside its scale.
            None,
            $($(#[$doc])* $maker,)*
        }

        impl Maker {
            const ALL: &[Maker] = &[$(Maker::$maker),*];

            /// Its name; empty for the layout of many.
            pub fn name(self) -> &'static str {
                match self {
                    Maker::None => "",
                    $(Maker::$maker => $name,)*
                }
            }
        }
    };
}

makers! {
    /// compressed-tensors, of llm-compressor and vLLM.
    CompressedTensors = "compressed-tensors";
    /// NVIDIA's ModelOpt.
    ModelOpt = "modelopt";
    /// GPTQ: AutoGPTQ, GPTQModel.
    Gptq = "gptq";
    /// AutoAWQ.
    Awq = "awq";
    /// bitsandbytes.
    BitsAndBytes = "bitsandbytes";
    /// MLX.
    Mlx = "mlx";
    /// PyTorch's torchao.
    Torchao = "torchao";
}

macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $name:literal;)*) => {
        /// What the codes of a quantized weight are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            /// Whole numbers of so many bits.
            Bits(u8),
            $($(#[$doc])* $code,)*
        }

        impl Code {
            const NAMED: &[Code] = &[$(Code::$code),*];

            /// Its name; `None` for whole numbers of some bits.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    Code::Bits(_) => None,
                    $(Code::$code => Some($name),)*
                }
            }
        }
    };
}

codes! {
    /// Whole numbers from -128 to 127.
    Int8 = "int8";
    /// 8-bit floats with 4 bits of exponent.
    E4m3 = "fp8_e4m3";
    /// The same without negative zero and infinities.
    E4m3Fnuz = "fp8_e4m3fnuz";
    /// 8-bit floats with 5 bits of exponent.
    E5m2 = "fp8_e5m2";
    /// The same without negative zero and infinities.
    E5m2Fnuz = "fp8_e5m2fnuz";
    /// Quantiles of a normal distribution.
    Nf4 = "nf4";
    /// bitsandbytes' 4-bit floats.
    Fp4 = "fp4";
    /// 4-bit floats (E2M1) with a power of two for each 32.
    Mxfp4 = "mxfp4";
    /// 8-bit floats (E4M3) with a power of two for each 32.
    Mxfp8 = "mxfp8";
    /// 4-bit floats (E2M1) with an 8-bit float for each 16.
    Nvfp4 = "nvfp4";
}

/// Which elements of a quantized weight share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blocking {
    /// All of them, or all of an expert.
    Tensor,
    /// Those of a row.
    Channel,
    /// So many in a row.
    Group(u32),
    /// Those of so many rows and columns.
    Block(u32, u32),
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let maker = self.maker.name();
        let gap = if maker.is_empty() { "" } else { " " };
        f.pad(&format!("{maker}{gap}{} {}", self.code, self.blocking))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.name()) {
            (Code::Bits(bits), _) => write!(f, "{bits}-bit"),
            (_, name) => f.write_str(name.unwrap_or_default()),
        }
    }
}

impl fmt::Display for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blocking::Tensor => f.write_str("tensor"),
            Blocking::Channel => f.write_str("channel"),
            Blocking::Group(n) => write!(f, "g{n}"),
            Blocking::Block(rows, cols) => write!(f, "{rows}x{cols}"),
        }
    }
}

/// The type that this is the text of.
impl FromStr for QuantType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a quantized type", text.escape_debug());
        let mut words = text.rsplitn(3, ' ');
        let (blocking, code) = words.next().zip(words.next()).ok_or_else(wrong)?;
        let maker = match words.next() {
            None => Some(Maker::None),
            Some(name) => Maker::ALL.iter().copied().find(|maker| maker.name() == name),
        };
        let code = match code.strip_suffix("-bit") {
            Some(bits) => bits.parse().ok().map(Code::Bits),
            None => Code::NAMED.iter().copied().find(|named| named.name() == Some(code)),
        };
        let blocking = match blocking {
            "tensor" => Some(Blocking::Tensor),
            "channel" => Some(Blocking::Channel),
            other => match (other.strip_prefix('g'), other.split_once('x')) {
                (Some(n), _) => n.parse().ok().map(Blocking::Group),
                (None, Some((rows, cols))) => {
                    rows.parse().ok().zip(cols.parse().ok()).map(|(rows, cols)| Blocking::Block(rows, cols))
                }
                _ => None,
            },
        };
        match (maker, code, blocking) {
            (Some(maker), Some(code), Some(blocking)) => Ok(QuantType { maker, code, blocking }),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_by_its_text() {
        let blockings =
            [Blocking::Tensor, Blocking::Channel, Blocking::Group(u32::MAX), Blocking::Block(128, 1)];
        let makers = Maker::ALL.iter().chain(&[Maker::None]);
        for &maker in makers {
            for &code in Code::NAMED.iter().chain(&[Code::Bits(4)]) {
                for blocking in blockings {
                    let kind = QuantType { maker, code, blocking };
                    assert_eq!(kind.to_string().parse(), Ok(kind));
                }
            }
        }
        for wrong in ["", "gptq", "gptq 4-bit", "4-bit", "gptq  g1", "x 4-bit g1", "4-bit gx", "4-bit 1x"] {
            assert!(wrong.parse::<QuantType>().is_err(), "{wrong}");
        }
    }
}
