//! Numbers as the bytes that files hold.

/// A number of a fixed size.
pub trait Number: Copy {
    /// Its bytes, the lowest first.
    fn low_first(self) -> Vec<u8>;
}

macro_rules! numbers {
    ($($number:ty)*) => {
        $(impl Number for $number {
            fn low_first(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
        })*
    };
}

numbers! { u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 }

/// Little-endian.
pub fn le<N: Number>(values: &[N]) -> Vec<u8> {
    values.iter().flat_map(|value| value.low_first()).collect()
}

/// Big-endian.
pub fn be<N: Number>(values: &[N]) -> Vec<u8> {
    values.iter().flat_map(|value| value.low_first().into_iter().rev()).collect()
}
