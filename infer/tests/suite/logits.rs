//! What a model computes, and how far that is from what it should.

use ckpt_infer::{Cache, KvType, Logits, Model, Pool, Runner, Sequence, WhenFull};

/// The logits of every position of `ids`.
pub fn logits(model: &Model, pool: &Pool, ids: &[u32]) -> Vec<f32> {
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let sequence = Sequence::new(ids, &mut cache, Logits::All);
    Runner::new(model, pool).forward(&mut [sequence]).unwrap().to_vec()
}

/// NaN where one of them is that.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}
