//! SafeTensors and GGUF, of which the header is scanned.

use std::sync::Arc;

use super::Rule;
use super::calls::cut;
use super::content::{Place, Scanner};
use crate::bytes::{ByteSource, Source};
use crate::{DamageKind, ErrorKind, NoticeKind, Result, gguf, safetensors};

impl Scanner<'_> {
    pub(super) fn safetensors(&mut self, source: &Arc<Source>, place: &Place) -> Result<()> {
        let contents = match safetensors::read(source) {
            Ok(contents) => contents,
            Err(error) if error.kind == ErrorKind::Io => return Err(error),
            Err(error) => {
                self.damaged(place, error.to_string());
                return Ok(());
            }
        };
        for fault in contents.faults {
            match fault.kind {
                DamageKind::CutShort => self.damaged(place, fault.what),
                _ => self.find(Rule::MalformedTensors, place, None, fault.what),
            }
        }
        for (name, damage) in contents.tensors.iter().filter_map(|t| Some((&t.name, t.damage.as_ref()?))) {
            if damage.kind != DamageKind::CutShort {
                let message = format!("tensor `{}`: {damage}", cut(name));
                self.find(Rule::MalformedTensors, place, None, message);
            }
        }
        for notice in contents.notices {
            let rule = match notice.kind {
                NoticeKind::Surplus => Rule::AppendedBytes,
                _ => Rule::Hole,
            };
            self.find(rule, place, None, notice.text);
        }
        Ok(())
    }

    pub(super) fn gguf(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        match gguf::read::header_of(data, false, |header| self.header(header, place)) {
            Err(error) if error.kind == ErrorKind::Io => return Err(error),
            Err(error) => self.damaged(place, error.to_string()),
            Ok(()) => {}
        }
        Ok(())
    }

    fn header(&mut self, header: gguf::Header<'_>, place: &Place) {
        for (key, value) in header.keys.iter().filter(|(key, _)| key.contains("chat_template")) {
            if let Some(text) = value.to_text() {
                self.template(&text, key, place);
            }
        }
        if let Some(damage) = &header.damage {
            self.damaged(place, damage.what.clone());
        }
        for (name, damage) in header.tensors.iter().filter_map(|t| Some((&t.name, t.damage.as_ref()?))) {
            if damage.kind == DamageKind::CutShort {
                self.damaged(place, damage.what.clone());
            } else if header.damage.is_none() {
                let message = format!("tensor `{}`: {damage}", cut(name));
                self.find(Rule::MalformedTensors, place, None, message);
            }
        }
        for notice in header.warnings {
            let rule = match notice.kind {
                NoticeKind::Surplus => Rule::AppendedBytes,
                // Sizes in another order are an error of the writer.
                NoticeKind::ForeignOrder => Rule::Hole,
                _ => Rule::MalformedTensors,
            };
            self.find(rule, place, None, notice.text);
        }
    }
}
