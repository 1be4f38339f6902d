//! The contents of the files of a set, joined.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::bytes::Source;
use crate::format::{Contents, Format};
use crate::metadata::Value;
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Error, ErrorKind, Notice, NoticeKind, Result};

/// A file of a set, or the error of opening it.
pub(crate) struct Opened {
    pub path: PathBuf,
    pub source: Result<Arc<Source>>,
    /// How a container is read.
    pub read: fn(&Arc<Source>) -> Result<Contents>,
}

impl Opened {
    /// The file, and what it holds as a container of its own.
    pub fn read(self) -> Result<(Arc<Source>, Contents)> {
        let source = self.source?;
        match (self.read)(&source) {
            Ok(contents) => Ok((source, contents)),
            Err(error) => Err(error.in_file(&self.path)),
        }
    }
}

/// What a checkpoint contains, joined from its files.
pub(crate) struct Whole {
    pub contents: Contents,
    /// The files that were read, in order.
    pub files: Vec<Arc<Source>>,
    /// Those that could not be.
    pub unread: Vec<PathBuf>,
}

/// Files of a set as they are read one after another. A set of which only some can be read is damaged, not unreadable.
#[derive(Default)]
pub(super) struct Reading {
    /// Those that could be read.
    pub files: Vec<Arc<Source>>,
    /// Those that could not, and why not the first.
    unread: Vec<PathBuf>,
    first: Option<Error>,
}

impl Reading {
    /// What `file` holds as a container of its own. Its faults, called after `label`, are added to `faults`, and so is why
    /// it cannot be read.
    pub fn read(&mut self, file: Opened, label: &str, faults: &mut Vec<Damage>) -> Result<Contents, Damage> {
        let path = file.path.clone();
        match file.read() {
            Ok((source, mut contents)) => {
                self.files.push(source);
                let mut own = Damage::joined(std::mem::take(&mut contents.faults));
                if let Some(damage) = own.as_mut().filter(|_| !label.is_empty()) {
                    damage.what = format!("{}: {damage}", label.escape_debug());
                }
                faults.extend(own);
                Ok(contents)
            }
            Err(error) => Err(self.failed(path, error, faults)),
        }
    }

    /// The bytes of `file`, whatever they hold.
    pub fn open(&mut self, file: Opened, faults: &mut Vec<Damage>) -> Result<Arc<Source>, Damage> {
        match file.source {
            Ok(source) => {
                self.files.push(source.clone());
                Ok(source)
            }
            Err(error) => Err(self.failed(file.path, error, faults)),
        }
    }

    fn failed(&mut self, path: PathBuf, error: Error, faults: &mut Vec<Damage>) -> Damage {
        let damage = Damage::new(error.fault.unwrap_or(DamageKind::UnreadableShard), error.to_string());
        faults.push(damage.clone());
        self.unread.push(path);
        self.first.get_or_insert(error);
        damage
    }

    /// Bytes of the files that could be read.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, source| sum.saturating_add(source.len()))
    }

    /// # Errors
    /// That of the first file, if none could be read.
    pub fn any(&mut self) -> Result<()> {
        let nothing = || Error::new(ErrorKind::Unrecognised, "holds no checkpoint");
        match self.files.is_empty() {
            true => Err(self.first.take().unwrap_or_else(nothing)),
            false => Ok(()),
        }
    }

    /// The checkpoint of these files, which is `contents`.
    pub fn whole(self, contents: Contents) -> Whole {
        Whole { contents, files: self.files, unread: self.unread }
    }
}

/// The tensors of all files, each a container of its own, one after another.
pub(super) fn one_after_another(files: Vec<Opened>) -> Result<Whole> {
    let mut all: Option<Joined> = None;
    let (mut reading, mut faults) = (Reading::default(), Vec::new());
    for (number, file) in files.into_iter().enumerate() {
        let label = if all.is_some() { format!("shard {}", number + 1) } else { String::new() };
        match (reading.read(file, &label, &mut faults), &mut all) {
            (Ok(contents), None) => all = Some(Joined::of(contents)),
            (Ok(contents), Some(all)) => all.add(contents),
            (Err(_), _) => {}
        }
    }
    reading.any()?;
    let mut contents = all.map_or_else(|| Contents::new(Format::default()), |all| all.contents);
    contents.faults = faults;
    contents.notices.extend(shares(&contents.tensors, "the files of the other ranks are not next to it"));
    Ok(reading.whole(contents))
}

/// Tells of tensors that are one rank's parts of larger ones, and of the others' `whereabouts`.
pub(super) fn shares(tensors: &[TensorInfo], whereabouts: &str) -> Option<Notice> {
    let mut parts = tensors.iter().filter_map(|tensor| Some((tensor, tensor.share.as_ref()?)));
    let (first, share) = parts.next()?;
    let text = format!(
        "{} of its tensors are one rank's parts of larger ones, such as `{}`: {:?} of {:?}; {whereabouts}",
        1 + parts.count(),
        first.name.escape_debug(),
        first.shape,
        share.whole
    );
    Some(Notice::new(NoticeKind::OneRank, text))
}

/// What was read so far.
struct Joined {
    contents: Contents,
    /// Names of all tensors except those of the last file,
    names: HashSet<String>,
    named: usize,
    /// and of all globals except those.
    globals: HashSet<String>,
}

impl Joined {
    fn of(contents: Contents) -> Self {
        Joined { contents, names: HashSet::new(), named: 0, globals: HashSet::new() }
    }

    fn add(&mut self, more: Contents) {
        let all = &mut self.contents;
        self.names.extend(all.tensors[self.named..].iter().map(|t| t.name.clone()));
        self.named = all.tensors.len();
        for tensor in more.tensors {
            if self.names.contains(&tensor.name) {
                let text = format!(
                    "`{}` is in more than one shard; the first one is used",
                    tensor.name.escape_debug()
                );
                all.notices.push(Notice::new(NoticeKind::Contradiction, text));
            } else {
                all.tensors.push(tensor);
            }
        }
        if self.globals.is_empty() {
            self.globals.extend(all.globals.iter().cloned());
        }
        all.globals.extend(more.globals.into_iter().filter(|name| self.globals.insert(name.clone())));
        if let (Value::Dict(all), Value::Dict(more)) = (&mut all.metadata, more.metadata) {
            for (key, value) in more {
                all.entry(key).or_insert(value);
            }
        }
        all.notices.extend(more.notices);
        all.listing_damaged |= more.listing_damaged;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::diff::{Status, diff};
    use crate::layout::{Layout, Set, single};
    use crate::open::assemble;
    use crate::{Checkpoint, OpenOptions, Options, Storage, describe, judge};

    /// A SafeTensors file of these tensors.
    fn file(name: &str, tensors: &[(&str, &[usize], &[f32])]) -> Opened {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, values) in tensors {
            let start = data.len();
            data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            let entry =
                serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name.to_string(), entry);
        }
        let header = serde_json::Value::Object(header).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        let path = PathBuf::from(name);
        Opened { source: Ok(Source::in_memory(&path, bytes.into())), path, read: crate::format::read }
    }

    fn open(files: Vec<Opened>, layout: Option<&'static Layout>) -> Result<Checkpoint> {
        let set = Set { layout, ..Set::default() };
        assemble(Path::new("checkpoint"), files, &set, &OpenOptions::default())
    }

    /// Ranks, each with some rows of every tensor.
    static RANKS: Layout = Layout { join: rows_of_ranks, ..single::LAYOUT };

    fn rows_of_ranks(files: Vec<Opened>) -> Result<Whole> {
        let read: Vec<_> = files.into_iter().map(Opened::read).collect::<Result<_>>()?;
        let (files, mut ranks): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        let mut contents = ranks.remove(0);
        for tensor in &mut contents.tensors {
            let theirs = ranks.iter().filter_map(|rank| rank.tensors.iter().find(|t| t.name == tensor.name));
            let parts: Vec<_> = std::iter::once(tensor.clone()).chain(theirs.cloned()).collect();
            tensor.shape[0] = parts.iter().map(|part| part.shape[0]).sum();
            let ranges = parts.iter().filter_map(|part| {
                let end = part.byte_offset + part.byte_len()?;
                Some((part.storage.as_ref()?, part.byte_offset..end))
            });
            tensor.storage = Some(Storage::pieced(ranges)?);
            tensor.byte_offset = 0;
        }
        Ok(Whole { contents, files, unread: Vec::new() })
    }

    #[test]
    fn a_tensor_in_ranges_of_two_files_is_measured_and_compared_like_any_other() {
        let value = |i: usize| ((i * 37 + 11) % 101) as f32 / 64.0 - 0.7;
        let up: Vec<f32> = (0..96 * 40).map(value).collect();
        let norm: Vec<f32> = (0..7).map(value).collect();
        let (up_name, norm_name) = ("layers.0.mlp.up_proj.weight", "norm.weight");
        let plain = |up: &[f32]| {
            open(vec![file("plain", &[(up_name, &[96, 40], up), (norm_name, &[7], &norm)])], None).unwrap()
        };
        let ranks = vec![
            file("rank 0", &[(norm_name, &[3], &norm[..3]), (up_name, &[61, 40], &up[..61 * 40])]),
            file("rank 1", &[(norm_name, &[4], &norm[3..]), (up_name, &[35, 40], &up[61 * 40..])]),
        ];
        let pieced = open(ranks, Some(&RANKS)).unwrap();
        assert_eq!(
            pieced.files().map(Path::to_path_buf).collect::<Vec<_>>(),
            ["rank 0", "rank 1"].map(PathBuf::from)
        );
        assert_eq!((pieced.is_damaged(), pieced.parameters()), (false, 96 * 40 + 7));

        let whole = plain(&up);
        let records = [&pieced, &whole].map(|checkpoint| {
            let options = Options { sha256: true, ..Options::default() };
            let mut record = describe(checkpoint, options, &|_| ());
            judge(&mut record, &Default::default());
            record.tensors.sort_by(|a, b| a.name.cmp(&b.name));
            serde_json::to_value(&record.tensors).unwrap()
        });
        assert_eq!(records[0], records[1]);
        assert_eq!(records[0][0]["stats"]["count"], 96 * 40);

        let compared = |other: &Checkpoint| diff(&pieced, other, Default::default(), &|_| true).unwrap();
        assert_eq!(compared(&whole).count(Status::Same), 2);
        let mut changed = up.clone();
        changed[61 * 40] += 1.0;
        let found = compared(&plain(&changed));
        let tensor = found.tensors.iter().find(|t| t.name == up_name).unwrap();
        let values = tensor.values.as_ref().unwrap();
        assert_eq!(
            (tensor.status, values.equal, &values.max_at[..]),
            (Status::Changed, 96 * 40 - 1, &[61, 0][..])
        );
    }

    /// Comparing every file's names with all before it would take minutes.
    #[test]
    fn a_large_file_and_thousands_of_small_ones_are_joined() {
        let names: Vec<String> = (0..100_000).map(|i| format!("model.layers.{i}.weight")).collect();
        let large: Vec<(&str, &[usize], &[f32])> =
            names.iter().map(|name| (name.as_str(), &[0][..], &[][..])).collect();
        let small = (0..8000).map(|i| file("small", &[(&format!("other.{i}"), &[0], &[])]));
        let files = std::iter::once(file("large", &large)).chain(small).collect();
        let whole = one_after_another(files).unwrap();
        assert_eq!((whole.contents.tensors.len(), whole.files.len()), (108_000, 8001));
    }
}
