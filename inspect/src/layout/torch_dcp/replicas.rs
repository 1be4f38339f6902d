//! Blocks and values that several ranks have: compared, and one of them chosen.

use super::metadata::{Place, Where};
use super::{Folder, MAX_VALUE, lost};
use crate::format::Contents;
use crate::layout::copies::{difference, disagreement};
use crate::tensor::TensorInfo;
use crate::{DType, Damage, Notice, NoticeKind};

impl Folder {
    /// The tensor of `bytes` bytes that was saved at each of `places`, of replicas the first that can be read; and how
    /// another differs from it.
    pub(super) fn block(
        &self,
        name: &str,
        places: &[Where],
        bytes: u64,
    ) -> (std::result::Result<TensorInfo, Damage>, Option<Notice>) {
        let mut part: std::result::Result<(TensorInfo, &Place), Damage> =
            Err(lost("the listing does not say where".into()));
        let mut differ = None;
        for place in places {
            let place = match place {
                Ok(place) => place,
                Err(damage) => {
                    part = part.map_err(|_| damage.clone());
                    continue;
                }
            };
            let found = self.tensor_at(name, place, bytes);
            match (&part, found) {
                (Ok((first, at)), Ok(other)) => {
                    if let (None, Some(how)) = (&differ, difference(first, &other)) {
                        let text = format!(
                            "differs between {} and {}{how}; the first is used",
                            at.file.escape_debug(),
                            place.file.escape_debug()
                        );
                        differ = Some(Notice::new(NoticeKind::Contradiction, text));
                    }
                }
                (Ok(_), Err(_)) => self.keep_spare(name, place),
                (Err(_), found) => part = found.map(|tensor| (tensor, place)),
            }
        }
        if let Ok((_, used)) = &part {
            let before = places.iter().flatten().take_while(|place| !std::ptr::eq(*place, *used));
            before.for_each(|place| self.keep_spare(name, place));
        }
        (part.map(|(tensor, _)| tensor), differ)
    }

    /// The value that was saved at each of `places`, of copies the first that can be read; and how another differs from it.
    pub(super) fn value(
        &self,
        name: &str,
        places: &[Where],
    ) -> (std::result::Result<Contents, Damage>, Option<Notice>) {
        let mut value: std::result::Result<(Contents, &Place), Damage> =
            Err(lost("the listing does not say where".into()));
        let (mut known, mut differ) = (false, None);
        for place in places {
            let found = place.as_ref().map_err(Damage::clone).and_then(|place| {
                let saved = self.saved(place, MAX_VALUE)?;
                self.claims.borrow_mut().add(name, place);
                Ok((saved, place))
            });
            match (&value, found) {
                (Ok((first, at)), Ok((other, place))) if differ.is_none() => {
                    let of = |place: &Place| place.file.escape_debug().to_string();
                    let (one, two) = (of(at), of(place));
                    differ = disagreement(name, (&one, &first.metadata), (&two, &other.metadata));
                }
                (Ok(_), Ok(_)) => {}
                (Ok(_), Err(_)) => place.iter().for_each(|place| self.keep_spare(name, place)),
                // What is wrong with the first is told.
                (Err(_), Err(damage)) => {
                    value = value.map_err(|before| if known { before } else { damage });
                    known = true;
                }
                (Err(_), found) => value = found,
            }
        }
        if let Ok((_, used)) = &value {
            let before = places.iter().flatten().take_while(|place| !std::ptr::eq(*place, *used));
            before.for_each(|place| self.keep_spare(name, place));
        }
        (value.map(|(saved, _)| saved), differ)
    }

    /// Keeps that what `place` should hold of `name`, and another file has too, is not there. Of files that are not there
    /// at all it is told.
    fn keep_spare(&self, name: &str, place: &Place) {
        if matches!(self.parts.get(&place.file), Some(Ok(_))) {
            self.spare.borrow_mut().entry(place.file.clone()).or_default().push(name.to_string());
        }
    }

    /// Tells of files that lack what others have, too.
    pub(super) fn spoilt_copies(&self) -> Vec<Notice> {
        let told = |(file, names): (String, Vec<String>)| {
            let (file, first) = (file.escape_debug(), names[0].escape_debug());
            let more = match names.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            let text = format!(
                "{file} is cut short or damaged: its copies of `{first}`{more} cannot be read, and those of other ranks are used"
            );
            Notice::new(NoticeKind::Contradiction, text).about(names)
        };
        self.spare.take().into_iter().map(told).collect()
    }
}

/// `part` as the listing has it: SafeTensors counts elements of four bits, and PyTorch pairs of them.
pub(super) fn in_pairs(part: TensorInfo, listed: Option<DType>, sizes: &[usize]) -> TensorInfo {
    let pairs = || {
        let (last, before) = part.shape.split_last()?;
        Some([before, &[last / 2]].concat())
    };
    let is_other = listed == Some(DType::F4E2M1X2) && part.dtype == DType::F4E2M1;
    if is_other && pairs().as_deref() == Some(sizes) {
        return TensorInfo::contiguous(
            part.name,
            DType::F4E2M1X2,
            sizes.to_vec(),
            part.storage,
            part.byte_offset,
        );
    }
    part
}
