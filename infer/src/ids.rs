//! Token ids from files: SafeTensors, or lists in text.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ckpt_inspect::{Checkpoint, DType, TensorInfo};

use crate::{Error, Result};

/// Largest file that is read: more tokens than a model processes in a day.
const LARGEST_FILE: u64 = 1 << 30;

/// Whether the file's name says that it holds token ids and not text: `.safetensors`, `.json`, `.jsonl` and `.ids`.
pub fn holds_ids(path: &Path) -> bool {
    matches!(extension(path).as_deref(), Some("safetensors" | "json" | "jsonl" | "ids"))
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// The sequences of a file of token ids: rows of the tensor `ids`, or of the only tensor of integers, in SafeTensors;
/// in text a line each, as a JSON list or as numbers with commas or spaces between them.
///
/// # Errors
/// `Input` if the file cannot be read, is too large, or contains anything but ids.
pub fn read_ids(path: &Path) -> Result<Vec<Vec<u32>>> {
    let wrong = |what: String| Error::Input { path: path.to_path_buf(), what };
    let cannot = |e: std::io::Error| wrong(format!("cannot be read: {e}"));
    let sequences = match extension(path).as_deref() {
        Some("safetensors") => of_tensors(&ckpt_inspect::open(path)?).map_err(wrong)?,
        _ => {
            let mut text = String::new();
            let file = File::open(path).map_err(cannot)?;
            file.take(LARGEST_FILE + 1).read_to_string(&mut text).map_err(cannot)?;
            if text.len() as u64 > LARGEST_FILE {
                return Err(wrong("is larger than 1 GiB; use a part of it".into()));
            }
            of_text(&text).map_err(wrong)?
        }
    };
    match sequences.is_empty() {
        true => Err(wrong("contains no token ids".into())),
        false => Ok(sequences),
    }
}

fn of_text(text: &str) -> Result<Vec<Vec<u32>>, String> {
    let mut sequences = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let inner = line.trim();
        let inner = inner.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(inner);
        let words = inner.split([',', ' ', '\t']).filter(|word| !word.is_empty());
        let ids = words.map(|word| {
            word.parse::<u32>()
                .map_err(|_| format!("line {}: `{}` is not a token id", number + 1, word.escape_debug()))
        });
        sequences.push(ids.collect::<Result<Vec<u32>, String>>()?);
    }
    Ok(sequences)
}

fn of_tensors(file: &Checkpoint) -> Result<Vec<Vec<u32>>, String> {
    let integers = |t: &&TensorInfo| matches!(t.dtype, DType::I32 | DType::I64 | DType::U16 | DType::U32);
    let tensor = file.tensors.iter().find(|t| t.name == "ids").filter(integers);
    let tensor = match tensor {
        Some(tensor) => tensor,
        None => match &file.tensors.iter().filter(integers).collect::<Vec<_>>()[..] {
            [only] => *only,
            _ => {
                return Err(
                    "needs a tensor `ids` of i32, i64, u16 or u32, or exactly one tensor of integers".into(),
                );
            }
        },
    };
    let (1 | 2) = tensor.shape.len() else {
        return Err(format!(
            "has ids of shape {:?}; the shape must be [tokens] or [sequences, tokens]",
            tensor.shape
        ));
    };
    let bytes = file.tensor_bytes(tensor).map_err(|e| e.to_string())?;
    let ids = match tensor.dtype {
        DType::U16 => bytes.as_chunks().0.iter().map(|&b| Some(u16::from_le_bytes(b).into())).collect(),
        DType::U32 => bytes.as_chunks().0.iter().map(|&b| Some(u32::from_le_bytes(b))).collect(),
        DType::I32 => bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).try_into().ok()).collect(),
        _ => bytes
            .as_chunks()
            .0
            .iter()
            .map(|&b| i64::from_le_bytes(b).try_into().ok())
            .collect::<Option<Vec<u32>>>(),
    };
    let ids = ids
        .ok_or_else(|| format!("`{}` contains numbers that are not token ids", tensor.name.escape_debug()))?;
    let width = tensor.shape.last().copied().unwrap_or(0).max(1);
    Ok(ids.chunks(width).map(<[u32]>::to_vec).collect())
}
