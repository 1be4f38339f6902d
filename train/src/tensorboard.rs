//! TensorBoard's event files: TFRecords (<https://www.tensorflow.org/tutorials/load_data/tfrecord>) of
//! `tensorflow.Event` messages (tensorflow/core/util/event.proto) with scalars, and with texts in the form of
//! TensorBoard's text plugin.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The file version in the first event of a file.
const VERSION: &str = "brain.Event:2";

/// An event file being written.
#[derive(Debug)]
pub(crate) struct Events(File);

impl Events {
    /// Begins a file in `folder`, named after the time as TensorBoard expects.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{}.{}", now.as_secs(), now.subsec_nanos());
        let mut file = File::create_new(folder.join(name))?;
        file.write_all(&record(&version(now.as_secs_f64())))?;
        Ok(Events(file))
    }

    /// Adds `values` (tag and value) of a step.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.write_all(&record(&event(now.as_secs_f64(), step, values.iter().map(|v| scalar(*v)))))
    }

    /// Adds `texts` (tag and text) of a step.
    pub fn texts(&mut self, step: u64, texts: &[(&str, &str)]) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.write_all(&record(&event(now.as_secs_f64(), step, texts.iter().map(|t| text(*t)))))
    }
}

/// Length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

/// CRC-32C, rotated and shifted so that a checksum of data that holds checksums is sound
/// (tensorflow/core/lib/hash/crc32c.h).
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The first event: `wall_time` (1, double), `file_version` (3, string).
fn version(time: f64) -> Vec<u8> {
    let mut out = double(1, time);
    out.extend(bytes(3, VERSION.as_bytes()));
    out
}

/// `wall_time` (1), `step` (2, int64), `summary` (5) with `values` (1).
fn event(time: f64, step: u64, values: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let summary: Vec<u8> = values.flat_map(|value| bytes(1, &value)).collect();
    let mut out = double(1, time);
    out.push(2 << 3);
    varint(step, &mut out);
    out.extend(bytes(5, &summary));
    out
}

/// A summary's value: `tag` (1) and `simple_value` (2, float).
fn scalar((tag, value): (&str, f64)) -> Vec<u8> {
    let mut out = bytes(1, tag.as_bytes());
    out.push(2 << 3 | 5);
    out.extend((value as f32).to_le_bytes());
    out
}

/// A summary's value: `tag` (1); `tensor` (8) of `dtype` (1) string and of `tensor_shape` (2) 1, with `string_val` (8);
/// `metadata` (9) that names the plugin.
fn text((tag, text): (&str, &str)) -> Vec<u8> {
    const STRINGS_OF_SHAPE_1: [u8; 8] = [1 << 3, 7, 2 << 3 | 2, 4, 2 << 3 | 2, 2, 1 << 3, 1];
    let mut tensor = STRINGS_OF_SHAPE_1.to_vec();
    tensor.extend(bytes(8, text.as_bytes()));
    let mut out = bytes(1, tag.as_bytes());
    out.extend(bytes(8, &tensor));
    out.extend(bytes(9, &bytes(1, &bytes(1, b"text"))));
    out
}

fn double(field: u8, value: f64) -> Vec<u8> {
    std::iter::once(field << 3 | 1).chain(value.to_le_bytes()).collect()
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    varint(value.len() as u64, &mut out);
    out.extend(value);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What tensorboard 2.21 writes for the same two events.
    const TRUTH: &str = "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110\
                         2100000000000000017becf60900005040fc54d94110ac022a130a110a0a747261696e2f6c6f7373\
                         1500002040862426a8";

    #[test]
    fn scalars_are_written_as_tensorboard_writes_them() {
        let mut all = record(&version(1_700_000_000.5));
        all.extend(record(&event(1_700_000_001.25, 300, [scalar(("train/loss", 2.5))].into_iter())));
        let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, TRUTH);
    }

    /// What tensorboard 2.21 makes of the same text.
    const TEXT: &str = "0900005040fc54d94110ac022a310a2f0a0d73616d706c652f67726565647942140807120412020801420a\
                        64656620662878293a0a4a080a060a0474657874";

    #[test]
    fn texts_are_written_as_tensorboard_writes_them() {
        let event = event(1_700_000_001.25, 300, [text(("sample/greedy", "def f(x):\n"))].into_iter());
        let hex: String = event.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, TEXT);
    }
}
