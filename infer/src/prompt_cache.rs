//! A KV cache in a file, so that a long prompt need not be run again: SafeTensors with the token ids (`ids`), keys and
//! values of each layer (`layers.N.key` and `.value`, [heads, positions, head_dim]) and the model's fingerprint.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use ckpt_inspect::{Checkpoint, DType, TensorInfo};
use safetensors::{Dtype, View};
use serde_pickle::Value;

use crate::cache::{Cache, KvType, Paged, Pages, WhenFull, with_pages};
use crate::kernel::float::Element;
use crate::model::Model;
use crate::{Error, Result};

/// What the file says it is.
const KIND: &str = "ckpt-infer prompt cache 1";

impl Cache {
    /// Writes the cache to `path`, whole or not at all. An existing file is replaced.
    ///
    /// # Errors
    /// `Usage` when positions have been forgotten by sliding; `Write`.
    pub fn save(&self, path: &Path, model: &Model) -> Result<()> {
        if self.start() > 0 {
            return Err(Error::Usage(
                "a window that has slid cannot be saved: its prompt is no longer there",
            ));
        }
        let cannot = |error| Error::Write { path: path.to_path_buf(), error };
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".ckpt-");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(folder).map_err(cannot)?;
        let shape = [model.config().num_kv_heads, self.len(), model.config().head_dim];
        let ids = Saved::Ids { ids: self.ids(), shape: [self.len()] };
        let mut tensors = vec![("ids".to_string(), ids)];
        for layer in 0..model.config().num_layers {
            for (name, value) in [("key", false), ("value", true)] {
                let saved = Saved::Cached { cache: self, layer, value, shape };
                tensors.push((format!("layers.{layer}.{name}"), saved));
            }
        }
        let info = [("kind", KIND.to_string()), ("model", model.fingerprint())];
        let info: HashMap<String, String> = info.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        safetensors::serialize_to_file(tensors, Some(info), file.path())
            .map_err(|e| cannot(std::io::Error::other(e.to_string())))?;
        file.as_file().sync_all().map_err(cannot)?;
        file.persist(path).map_err(|e| cannot(e.error))?;
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
        if text("kind") != Some(KIND) {
            return Err(wrong("is not a prompt cache".into()));
        }
        if text("model") != Some(&model.fingerprint()) {
            return Err(wrong("was made by another model, or by this one with other flags".into()));
        }
        let config = model.config();
        let ids = file.tensor("ids")?;
        if ids.dtype != DType::U32 || ids.shape.len() != 1 || ids.shape[0] > config.max_seq_len {
            return Err(wrong(format!("has ids of {} {:?}", ids.dtype, ids.shape)));
        }
        let ids: Vec<u32> = file.view::<u32>(ids)?.iter().copied().collect();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
            return Err(wrong(format!("has token id {id}, and the vocabulary is {}", config.vocab_size)));
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
                        "keeps keys and values in {}, and {dtype} is asked for; ask for the same (--kv), or name another file",
                        tensor.dtype
                    )));
                }
                if tensor.dtype != dtype || tensor.shape != shape {
                    let (name, found) = (&tensor.name, tensor.dtype);
                    return Err(wrong(format!(
                        "has `{name}` as {found} {:?} where {dtype} {shape:?} is needed",
                        tensor.shape
                    )));
                }
            }
            pairs.push((key, value));
        }
        let mut cache = Cache::new(config, kv, when_full);
        cache.extend(&ids)?;
        for (layer, (key, value)) in pairs.into_iter().enumerate() {
            with_pages!(&mut cache.pages, pages => fill(pages, layer, &file, key, value))?;
        }
        Ok(cache)
    }

    /// Forgets what does not begin `ids`, and of what does, as much as to leave a token to run: prompts and caches of
    /// one beginning share it. Returns how many tokens are kept.
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

/// A tensor of the file, its bytes made when it is written.
enum Saved<'a> {
    Ids { ids: &'a [u32], shape: [usize; 1] },
    Cached { cache: &'a Cache, layer: usize, value: bool, shape: [usize; 3] },
}

impl View for Saved<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Saved::Ids { .. } => Dtype::U32,
            Saved::Cached { cache, .. } if cache.kv_type() == KvType::F16 => Dtype::F16,
            Saved::Cached { .. } => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Saved::Ids { shape, .. } => shape,
            Saved::Cached { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Saved::Ids { ids, .. } => Cow::Borrowed(bytemuck::cast_slice(ids)),
            Saved::Cached { cache, layer, value, shape } => {
                Cow::Owned(with_pages!(&cache.pages, pages => stored(pages, *layer, *value, *shape)))
            }
        }
    }

    fn data_len(&self) -> usize {
        let size = if self.dtype() == Dtype::F16 { 2 } else { 4 };
        self.shape().iter().product::<usize>() * size
    }
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
