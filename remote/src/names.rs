//! Keys in the listings of buckets that can be no paths. `object_store` refuses a whole listing for one of them, so they are
//! taken out of the answers before it reads these.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, Result};

use crate::store::locked;

/// What of a bucket was left out: each key up to where it can be no path. No more are remembered than are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeftOut(Arc<Mutex<BTreeSet<String>>>);

const REMEMBERED: usize = 10_000;

impl LeftOut {
    /// Those at or below the folder `key`.
    pub fn below(&self, key: &str) -> Vec<String> {
        let folder = if key.is_empty() { String::new() } else { format!("{key}/") };
        let kept = locked(&self.0);
        kept.iter().filter(|odd| odd.starts_with(&folder)).cloned().collect()
    }

    /// `listing`, in XML, without what can be no path.
    fn without(&self, listing: &str) -> String {
        let mut kept = String::with_capacity(listing.len());
        let mut done = 0;
        let mut next = ENTRIES.map(|[open, ..]| listing.find(open));
        while let Some((kind, at)) =
            next.iter().enumerate().filter_map(|(kind, at)| Some((kind, (*at)?))).min_by_key(|(_, at)| *at)
        {
            let [open, close, name] = ENTRIES[kind];
            let Some(end) = listing[at..].find(close).map(|len| at + len + close.len()) else { break };
            next[kind] = listing[end..].find(open).map(|len| end + len);
            let entry = &listing[at..end];
            kept.push_str(&listing[done..at]);
            done = end;
            match text(entry, name) {
                // An empty object of a folder's name marks the folder.
                Some(key) if key.ends_with('/') && close != PREFIX && close != BLOB_PREFIX => {}
                Some(key) => match odd_part(&key) {
                    None => kept.push_str(entry),
                    Some(odd) => {
                        let mut all = locked(&self.0);
                        if all.len() < REMEMBERED {
                            all.insert(odd.to_string());
                        }
                    }
                },
                None => kept.push_str(entry),
            }
        }
        kept.push_str(&listing[done..]);
        kept
    }
}

const PREFIX: &str = "</CommonPrefixes>";
const BLOB_PREFIX: &str = "</BlobPrefix>";
/// How an entry begins and ends in the listings of S3, Google Cloud Storage and Azure, and what its key is called.
const ENTRIES: [[&str; 3]; 4] = [
    ["<Contents>", "</Contents>", "Key"],
    ["<CommonPrefixes>", PREFIX, "Prefix"],
    ["<Blob>", "</Blob>", "Name"],
    ["<BlobPrefix>", BLOB_PREFIX, "Name"],
];

/// The text of the element `name` of `entry`.
fn text(entry: &str, name: &str) -> Option<String> {
    let (_, rest) = entry.split_once(&format!("<{name}>"))?;
    let (raw, _) = rest.split_once(&format!("</{name}>"))?;
    quick_xml::escape::unescape(raw).ok().map(|text| text.into_owned())
}

/// `key` up to where it can be no path, if it is none.
fn odd_part(key: &str) -> Option<&str> {
    let mut start = 0;
    for part in key.split_inclusive('/') {
        let end = start + part.len();
        let plain = part.trim_end_matches('/');
        if plain.is_empty() || Path::parse(plain).is_err() {
            return Some(&key[..end]);
        }
        start = end;
    }
    None
}

/// Connects to a bucket so that what can be no path is taken out of its listings.
#[derive(Debug)]
pub(crate) struct Connector {
    pub client: reqwest::Client,
    pub left_out: LeftOut,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        // Without encryption: emulators, and the services of machines that give credentials, which have times of their own.
        let plain =
            options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let client = match plain {
            true => ReqwestConnector::default().connect(options)?,
            false => HttpClient::new(self.client.clone()),
        };
        Ok(HttpClient::new(Service { client, left_out: self.left_out.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    client: HttpClient,
    left_out: LeftOut,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_listing = request
            .uri()
            .query()
            .is_some_and(|query| query.split('&').any(|part| matches!(part, "list-type=2" | "comp=list")));
        let answer = self.client.execute(request).await?;
        if !is_listing || !answer.status().is_success() {
            return Ok(answer);
        }
        let (mut head, body) = answer.into_parts();
        let bytes = body.bytes().await?;
        let bytes = match std::str::from_utf8(&bytes) {
            Ok(text) => self.left_out.without(text).into(),
            Err(_) => bytes,
        };
        head.headers.remove("content-length");
        Ok(HttpResponse::from_parts(head, bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{LeftOut, odd_part};

    #[test]
    fn keys_that_can_be_no_paths_are_taken_out() {
        let keys = ["a/x.pt", "a//x", "a/./x", "a/../x", "a/t\tx", "/x", "a/del&#x7f;", "a&amp;b/x", "a/"];
        let entry = |key: &&str| format!("<Contents><Key>{key}</Key><Size>0</Size></Contents>");
        let listing = format!(
            "<R>{}<CommonPrefixes><Prefix>a//</Prefix></CommonPrefixes><N>z</N></R>",
            keys.iter().map(entry).collect::<String>()
        );
        let left_out = LeftOut::default();
        let kept = left_out.without(&listing);
        assert_eq!(kept, format!("<R>{}{}<N>z</N></R>", entry(&"a/x.pt"), entry(&"a&amp;b/x")));
        assert_eq!(left_out.below("a"), ["a/../", "a/./", "a//", "a/del\u{7f}", "a/t\tx"]);
        assert_eq!(left_out.below("").len(), 6);
        assert_eq!(odd_part("a/b c/ü.pt"), None);
    }
}
