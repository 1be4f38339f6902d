//! Repositories of the Hugging Face Hub: `hf://ORGANISATION/MODEL[@REVISION]/FILE`, as its own library writes them
//! (<https://huggingface.co/docs/huggingface_hub/guides/hf_file_system>), by the Hub's API
//! (<https://huggingface.co/docs/hub/api>).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ckpt_inspect::stored::Stat;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use crate::Scheme;
use crate::backend::{Answer, Backend, Piece, nothing_there};
use crate::profile::hub_token;
use crate::store::{Remote, locked};
use crate::web::{Failed, json, piece};

pub(crate) const SCHEME: Scheme = Scheme { names: &["hf"], admit: |_| None, split, connect };

const ENDPOINT: &str = "https://huggingface.co";
/// Bytes of one page of a listing.
const MOST: u64 = 8 << 20;
/// Pages of one listing.
const PAGES: usize = 1000;
/// How long the address is used that the Hub gave for a file: its signature holds for an hour.
const FRESH: Duration = Duration::from_secs(600);
const HINT: &str = "set HF_TOKEN, or log in with `hf auth login`; HF_ENDPOINT names another server";

/// The repository of a location with its revision, and the file's path in it.
fn split(location: &str) -> (&str, &str) {
    let start = location.find("://").map_or(0, |at| at + 3);
    let rest = &location[start..];
    let parts = if ["datasets/", "spaces/"].iter().any(|kind| rest.starts_with(kind)) { 3 } else { 2 };
    let end = rest.match_indices('/').nth(parts - 1).map_or(rest.len(), |(at, _)| at);
    let (repository, file) = rest.split_at(end);
    // Names of branches may have a slash: refs/pr/1, and others when it is written as %2F.
    if let Some(at) = repository.rfind("@refs")
        && at + 5 == repository.len()
    {
        let more = file.match_indices('/').nth(2).map_or(file.len(), |(at, _)| at);
        let end = start + end + more;
        return (&location[..end], location[end..].trim_start_matches('/'));
    }
    (&location[..start + end], file.trim_start_matches('/'))
}

fn connect(remote: &Remote, repository: &str) -> io::Result<Arc<dyn Backend>> {
    let settings = &remote.settings;
    if settings
        .variable("HF_HUB_OFFLINE")
        .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
    {
        return Err(io::Error::other("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it"));
    }
    let (_, name) = repository.split_once("://").unwrap_or_default();
    let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
    let (kind, id) = match name.split_once('/') {
        Some((kind @ ("datasets" | "spaces"), id)) => (kind, id),
        _ => ("models", name),
    };
    if !id.contains('/') || revision.is_empty() {
        let what = "a repository is named by its organisation and its own name: hf://openai-community/gpt2/model.safetensors";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let endpoint = settings.variable("HF_ENDPOINT").unwrap_or(ENDPOINT).trim_end_matches('/').to_string();
    let prefix = if kind == "models" { String::new() } else { format!("{kind}/") };
    let mut hub = Hub {
        client: remote.client.clone(),
        token: hub_token(settings),
        api: format!("{endpoint}/api/{kind}/{id}"),
        files: format!("{endpoint}/{prefix}{id}/resolve"),
        host: Url::parse(&endpoint)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("HF_ENDPOINT: {error}")))?,
        commit: String::new(),
        folders: HashMap::new(),
        addresses: Mutex::default(),
    };
    remote.wait(hub.load(&revision.replace("%2F", "/"))).map_err(|failed| match failed {
        // Which is what the Hub says of what it does not show to everyone, too.
        Failed::Status(status) if matches!(status.as_u16(), 401 | 404) => {
            let what =
                format!("the Hub has no such repository or revision, or does not show it to you; {HINT}");
            io::Error::new(io::ErrorKind::NotFound, what)
        }
        Failed::Status(status) if status.as_u16() == 403 => {
            let what = format!(
                "the Hub denies access (403): the repository may be one that access has to be asked for on its page, by the \
                 account whose token this is; {HINT}"
            );
            io::Error::new(io::ErrorKind::PermissionDenied, what)
        }
        failed => failed.explained(HINT),
    })?;
    Ok(Arc::new(hub))
}

/// A repository at one commit.
struct Hub {
    client: Client,
    token: Option<String>,
    /// The address of what the Hub says about it, and of its files.
    api: String,
    files: String,
    host: Url,
    commit: String,
    /// What lies in each folder.
    folders: HashMap<String, Vec<(String, Stat)>>,
    /// Where files were found lately, by their paths.
    addresses: Mutex<HashMap<String, (Url, Instant)>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.api, self.commit)
    }
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// An entry of a listing.
#[derive(Deserialize)]
struct Entry {
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// The file that is stored outside of Git.
#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Hub {
    /// A request for `url`, with the token if that is the Hub's own.
    fn ask(&self, url: Url) -> RequestBuilder {
        let own = url.origin() == self.host.origin();
        let request = self.client.get(url);
        match &self.token {
            Some(token) if own => request.bearer_auth(token),
            _ => request,
        }
    }

    /// Finds out which commit `revision` is, and what files it has.
    async fn load(&mut self, revision: &str) -> Result<(), Failed> {
        let url = |tail: &str, name: &str| {
            let mut url = Url::parse(&self.api).map_err(|_| Failed::Other("HF_ENDPOINT is not a URL"))?;
            url.path_segments_mut()
                .map_err(|()| Failed::Other("HF_ENDPOINT is not a URL"))?
                .extend([tail, name]);
            Ok(url)
        };
        let named = url("revision", revision)?;
        let (Revision { sha }, _) = json(&|| self.ask(named.clone()), MOST).await?;
        let mut next = Some(url("tree", &sha)?);
        if let Some(url) = &mut next {
            url.set_query(Some("recursive=true"));
        }
        let (mut folders, mut pages): (HashMap<String, Vec<(String, Stat)>>, usize) = (HashMap::new(), 0);
        while let Some(url) = next.take() {
            let (entries, more): (Vec<Entry>, _) = json(&|| self.ask(url.clone()), MOST).await?;
            for entry in entries {
                let (folder, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
                let stat = match (entry.kind.as_str(), entry.lfs) {
                    ("directory", _) => Stat::folder(),
                    (_, Some(Lfs { oid, size })) => Stat::file(size, Some(oid)),
                    _ => Stat::file(entry.size, entry.oid),
                };
                folders.entry(folder.to_string()).or_default().push((name.to_string(), stat));
            }
            pages += 1;
            if let Some(more) = more {
                let joined = url.join(&more).ok().filter(|_| pages < PAGES);
                next = Some(joined.ok_or(Failed::Other("the list of the repository's files does not end"))?);
            }
        }
        (self.commit, self.folders) = (sha, folders);
        Ok(())
    }

    /// Where the file at `key` of the repository is.
    fn address(&self, key: &str) -> Result<Url, Failed> {
        let wrong = || Failed::Other("is not a path in a repository");
        let mut url = Url::parse(&self.files).map_err(|_| wrong())?;
        url.path_segments_mut().map_err(|()| wrong())?.push(&self.commit).extend(key.split('/'));
        Ok(url)
    }

    async fn piece(&self, key: &str, range: Range<u64>) -> Result<Piece, Failed> {
        let known = locked(&self.addresses).get(key).filter(|(_, since)| since.elapsed() < FRESH).cloned();
        if let Some((url, _)) = known {
            match piece(&|| self.ask(url.clone()), range.clone()).await {
                Ok((found, _)) => return Ok(Piece { version: None, ..found }),
                // The address held for a shorter time.
                Err(Failed::Status(status)) if status.is_client_error() => {}
                Err(failed) => return Err(failed),
            }
        }
        let url = self.address(key)?;
        let (found, place) = piece(&|| self.ask(url.clone()), range).await?;
        locked(&self.addresses).insert(key.to_string(), (place, Instant::now()));
        // The commit says which file it is; the servers that keep it have tags of their own.
        Ok(Piece { version: None, ..found })
    }
}

impl Backend for Hub {
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> Answer<'a, Piece> {
        Box::pin(async move { self.piece(key, range).await.map_err(|failed| failed.explained(HINT)) })
    }

    fn list<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<(String, Stat)>>> {
        let listed = self.folders.get(key).cloned().ok_or_else(nothing_there);
        Box::pin(std::future::ready(listed.map(Some)))
    }

    fn lists_whole(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_location_is_a_repository_and_a_path() {
        let cases = [
            ("hf://org/model", "hf://org/model", ""),
            ("hf://org/model/a/b.safetensors", "hf://org/model", "a/b.safetensors"),
            ("hf://org/model@v1.0/b", "hf://org/model@v1.0", "b"),
            ("hf://org/model@refs/pr/7/b/c", "hf://org/model@refs/pr/7", "b/c"),
            ("hf://org/model@refs/pr/7", "hf://org/model@refs/pr/7", ""),
            ("hf://datasets/org/set/x", "hf://datasets/org/set", "x"),
            ("hf://gpt2", "hf://gpt2", ""),
        ];
        for (location, repository, file) in cases {
            assert_eq!(split(location), (repository, file), "{location}");
        }
    }
}
