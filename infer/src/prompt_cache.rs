//! A KV cache in a file, so that a long prompt need not be run again: SafeTensors with the token ids (`ids`), keys and
//! values of each layer (`layers.N.key` and `.value`, [heads, positions, head_dim]), the model's fingerprint, and at
//! the end (`checksum`) the CRC-32 of all bytes before it, little-endian: a damaged one would give gibberish.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use ckpt_inspect::metadata::Value;
use ckpt_inspect::staged::StagedFile;
use ckpt_inspect::{Checkpoint, DType, TensorInfo, staged};
use crc32fast::Hasher;
use serde_json::{Map, json};

use crate::cache::{Cache, KvType, Paged, Pages, WhenFull, with_pages};
use crate::kernel::float::Element;
use crate::model::Model;
use crate::{Error, Result};

/// The kind of the file, before its version.
const KIND: &str = "ckpt-infer prompt cache ";
/// Incremented whenever the format changes. The first one had no checksum.
const VERSION: &str = "2";
/// What a file says whose keys have the rotary frequencies of long texts.
const LONG: &str = "long";
/// Bytes of the checksum.
const CHECKSUM: u64 = 4;

impl Cache {
    /// Writes the cache to `path`, completely or not at all. An existing file is replaced.
    ///
    /// # Errors
    /// `Usage` when positions have been forgotten by sliding, or when it was made for a model of other layers or heads;
    /// `Output`.
    pub fn save(&self, path: &Path, model: &Model) -> Result<()> {
        self.check_model(model.config())?;
        if self.start() > 0 {
            return Err(Error::Usage(
                "the cache cannot be saved after its window has slid: the prompt is no longer in it",
            ));
        }
        let config = model.config();
        let shape = [config.num_kv_heads, self.len(), config.head_dim];
        let (dtype, size) = match self.kv_type() {
            KvType::F32 => ("F32", 4),
            KvType::F16 => ("F16", 2),
        };
        let mut metadata = json!({"kind": format!("{KIND}{VERSION}"), "model": model.fingerprint()});
        if self.is_long() {
            metadata["frequencies"] = json!(LONG);
        }
        let mut entries = Map::from_iter([("__metadata__".to_string(), metadata)]);
        let mut end = 0;
        let mut entry = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
            let start = end;
            end += bytes;
            let place = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
            entries.insert(name, place);
        };
        entry("ids".into(), "U32", &[self.len()], 4 * self.len());
        for layer in 0..config.num_layers {
            for name in ["key", "value"] {
                let bytes = size * shape.iter().product::<usize>();
                entry(format!("layers.{layer}.{name}"), dtype, &shape, bytes);
            }
        }
        entry("checksum".into(), "U8", &[CHECKSUM as usize], CHECKSUM as usize);
        let mut header = serde_json::Value::Object(entries).to_string().into_bytes();
        // The data after this is aligned.
        header.resize(header.len().next_multiple_of(8), b' ');

        let staged = StagedFile::create(path, (8 + header.len() + end) as u64, true)?;
        let mut file = Summed { file: BufWriter::new(staged), sum: Hasher::new() };
        let written = file
            .put(&(header.len() as u64).to_le_bytes())
            .and_then(|()| file.put(&header))
            .and_then(|()| file.put(bytemuck::cast_slice(self.ids())))
            .and_then(|()| {
                (0..2 * config.num_layers).try_for_each(|i| {
                    let (layer, value) = (i / 2, i % 2 == 1);
                    file.put(&with_pages!(&self.pages, pages => stored(pages, layer, value, shape)))
                })
            })
            .and_then(|()| file.end());
        written.map_err(|source| staged::Error::Write { path: path.to_path_buf(), source })?.commit()?;
        Ok(())
    }

    /// Reads the cache that [`Cache::save`] wrote for `model`.
    ///
    /// # Errors
    /// Those of [`ckpt_inspect::open`]; `PromptCache` when the file is something else, another model's, or does not
    /// fit the model.
    pub fn restore(path: &Path, model: &Model, kv: KvType, when_full: WhenFull) -> Result<Cache> {
        let wrong = |what: String| Error::PromptCache { path: path.to_path_buf(), what };
        let file = ckpt_inspect::open(path)?;
        let text = |key: &str| match file.meta(key) {
            Some(Value::String(text)) => Some(text.as_str()),
            _ => None,
        };
        match text("kind").and_then(|kind| kind.strip_prefix(KIND)) {
            Some(VERSION) => {}
            Some(_) => {
                return Err(wrong(
                    "is a prompt cache of another version of this program; delete it, and it will be recreated"
                        .into(),
                ));
            }
            None => return Err(wrong("is not a prompt cache".into())),
        }
        if !is_sound(path).map_err(|e| ckpt_inspect::Error::io(path, &e))? {
            return Err(wrong(
                "is damaged: its checksum is wrong; delete it, and it will be recreated".into(),
            ));
        }
        if text("model") != Some(&model.fingerprint()) {
            return Err(wrong("was made by another model, or by this one with other settings".into()));
        }
        let config = model.config();
        let ids = file.tensor("ids")?;
        if ids.dtype != DType::U32 || ids.shape.len() != 1 || ids.shape[0] > config.max_seq_len {
            return Err(wrong(format!("has ids of {} {:?}", ids.dtype, ids.shape)));
        }
        let ids: Vec<u32> = file.view::<u32>(ids)?.iter().copied().collect();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(wrong(format!(
                "contains token id {id}, but the vocabulary has {} tokens",
                config.vocab_size
            )));
        }
        let shape = [config.num_kv_heads, ids.len(), config.head_dim];
        let dtype = match kv {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
        };
        let mut pairs = Vec::with_capacity(config.num_layers);
        for layer in 0..config.num_layers {
            let [key, value] = ["key", "value"].map(|name| file.tensor(&format!("layers.{layer}.{name}")));
            let (key, value) = (key?, value?);
            for tensor in [key, value] {
                if tensor.shape == shape
                    && matches!(tensor.dtype, DType::F32 | DType::F16)
                    && tensor.dtype != dtype
                {
                    return Err(wrong(format!(
                        "has keys and values in {}, not in {dtype}; use the same type, or another file",
                        tensor.dtype
                    )));
                }
                if tensor.dtype != dtype || tensor.shape != shape {
                    let (name, found) = (&tensor.name, tensor.dtype);
                    return Err(wrong(format!(
                        "has `{name}` as {found} {:?} instead of {dtype} {shape:?}",
                        tensor.shape
                    )));
                }
            }
            pairs.push((key, value));
        }
        let mut cache = Cache::new(config, kv, when_full);
        cache.extend(&ids)?;
        cache.set_long(text("frequencies") == Some(LONG));
        for (layer, (key, value)) in pairs.into_iter().enumerate() {
            with_pages!(&mut cache.pages, pages => fill(pages, layer, &file, key, value))?;
        }
        Ok(cache)
    }

    /// Drops everything after the longest common prefix with `ids`, and leaves at least one token to run, so that
    /// prompts with the same beginning share it. Returns how many tokens are kept.
    ///
    /// # Errors
    /// `Usage` when the window has slid.
    pub fn keep_common_prefix(&mut self, ids: &[u32]) -> Result<usize> {
        let common = self.ids().iter().zip(ids).take_while(|(a, b)| a == b).count();
        let kept = common.min(ids.len().saturating_sub(1));
        self.truncate(kept)?;
        Ok(kept)
    }
}

/// Whether the last bytes of the file are the checksum of those before.
fn is_sound(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let Some(summed) = file.metadata()?.len().checked_sub(CHECKSUM) else { return Ok(false) };
    let (mut sum, mut piece) = (Hasher::new(), vec![0; 1 << 20]);
    let mut rest = (&file).take(summed);
    loop {
        match rest.read(&mut piece)? {
            0 => break,
            n => sum.update(&piece[..n]),
        }
    }
    let mut recorded = Vec::new();
    file.read_to_end(&mut recorded)?;
    Ok(recorded == sum.finalize().to_le_bytes())
}

/// A file, and the checksum of everything written to it.
struct Summed {
    file: BufWriter<StagedFile>,
    sum: Hasher,
}

impl Summed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.file.write_all(bytes)
    }

    /// Adds the checksum.
    fn end(self) -> io::Result<StagedFile> {
        let Summed { mut file, sum } = self;
        file.write_all(&sum.finalize().to_le_bytes())?;
        file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

fn fill<E: Element>(
    pages: &mut Paged<E>,
    layer: usize,
    file: &Checkpoint,
    key: &TensorInfo,
    value: &TensorInfo,
) -> Result<()> {
    let (keys, values) = (file.tensor_bytes(key)?, file.tensor_bytes(value)?);
    let (positions, dim) = (key.shape[1], key.shape[2]);
    let vector = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(size_of::<E>()).map(|x| bytemuck::pod_read_unaligned::<E>(x).widen()).collect()
    };
    let vectors = keys.chunks_exact(dim * size_of::<E>()).zip(values.chunks_exact(dim * size_of::<E>()));
    for (i, (key, value)) in vectors.enumerate() {
        pages.put(i % positions, layer, i / positions, &vector(key), &vector(value));
    }
    Ok(())
}

/// Keys or values of one layer as [heads, positions, head_dim].
fn stored<E: Element>(
    pages: &Paged<E>,
    layer: usize,
    value: bool,
    [heads, positions, dim]: [usize; 3],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(heads * positions * dim * size_of::<E>());
    for head in 0..heads {
        for position in 0..positions {
            let (key, values) = pages.get(position, layer, head);
            let vector = if value { values } else { &key };
            bytes.extend_from_slice(bytemuck::cast_slice(vector));
        }
    }
    bytes
}
