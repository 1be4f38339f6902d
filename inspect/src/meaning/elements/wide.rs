//! Elements that f32 cannot hold exactly: f64 and integers.

use crate::DType;

/// Fills a slice with the elements of some bytes from an index on.
pub(super) type Decode = fn(&[u8], usize, &mut [f64]);

macro_rules! words {
    ($type:ty) => {
        |bytes, start, out| {
            const SIZE: usize = size_of::<$type>();
            for (slot, word) in out.iter_mut().zip(bytes[SIZE * start..].as_chunks::<SIZE>().0) {
                *slot = <$type>::from_le_bytes(*word) as f64;
            }
        }
    };
}

/// How elements of `dtype` are decoded; `None` for all other types.
pub(super) fn decoder(dtype: DType) -> Option<Decode> {
    Some(match dtype {
        DType::F64 => words!(f64),
        DType::I64 => words!(i64),
        DType::I32 => words!(i32),
        DType::I16 => words!(i16),
        DType::I8 => words!(i8),
        DType::U64 => words!(u64),
        DType::U32 => words!(u32),
        DType::U16 => words!(u16),
        DType::U8 => words!(u8),
        DType::Bool => |bytes, start, out| {
            for (slot, &byte) in out.iter_mut().zip(&bytes[start..]) {
                *slot = f64::from(byte != 0);
            }
        },
        _ => return None,
    })
}
