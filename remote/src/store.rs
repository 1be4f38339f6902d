//! Files and folders at URLs: which requests answer what is asked of them, and what of the answers is kept.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ckpt_inspect::stored::{Kind, Stat, StoredFile};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::backend::{Backend, Piece, nothing_there};
use crate::spans::{Spans, holes};
use crate::{SCHEMES, Scheme, Settings};

/// Bytes that are fetched of what is read in small parts: the headers of most files.
const AHEAD: u64 = 128 << 10;
/// Reads of at most this many bytes are kept: headers, but not weights.
const KEPT: u64 = 4 << 20;
/// Bytes of one request.
const PART: u64 = 8 << 20;
/// Requests of one file, and of all, that are on their way at one time.
const BESIDE: usize = 8;
const BESIDE_IN_ALL: usize = 32;
/// Ranges that are expected together and closer to each other than this are fetched as one.
const NEAR: u64 = 32 << 10;
/// How long a place that did not answer, though it was asked several times, is not asked again.
const PAUSE: Duration = Duration::from_secs(10);

/// All that is read at URLs.
pub(crate) struct Remote {
    pub settings: Settings,
    pub client: reqwest::Client,
    runtime: Runtime,
    inner: Arc<Inner>,
    /// By the schemes' places.
    places: Mutex<HashMap<String, Arc<dyn Backend>>>,
    /// The places that did not answer: since when, and why.
    silent: Mutex<HashMap<String, (Instant, String)>>,
    folders: Mutex<HashMap<String, Option<Arc<Listing>>>>,
    /// Folders of which a file was asked for.
    asked: Mutex<HashSet<String>>,
    /// `None` where nothing is.
    files: Mutex<HashMap<String, Option<Arc<File>>>>,
    /// What proves that a URL may be read, by the rest of it.
    pub proofs: Arc<Mutex<HashMap<String, String>>>,
}

/// What the files share.
struct Inner {
    handle: tokio::runtime::Handle,
    spans: Spans,
    requests: Semaphore,
    numbers: AtomicU64,
}

/// What lies in a folder, by name.
type Listing = HashMap<String, Stat>;

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stores of URLs")
    }
}

/// The value, whatever a thread that panicked has left: each is put in whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder of a location, and its name there.
fn parent(location: &str) -> Option<(&str, &str)> {
    location.rsplit_once('/').filter(|(folder, _)| !folder.ends_with('/'))
}

/// The kind of URL that `location` is.
fn scheme(location: &str) -> io::Result<&'static Scheme> {
    let name = location.split("://").next().unwrap_or_default();
    let known = |scheme: &&Scheme| scheme.names.contains(&name);
    Ok(SCHEMES.iter().find(known).ok_or(io::ErrorKind::Unsupported)?)
}

/// The place that `location` is at, and its key there.
fn split(location: &str) -> io::Result<(&str, &str)> {
    Ok((scheme(location)?.split)(location))
}

impl Remote {
    pub fn new(settings: Settings) -> io::Result<Self> {
        // Another part of the program may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build()?;
        let client = reqwest::Client::builder()
            .user_agent(concat!("ckpt/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .build()
            .map_err(io::Error::other)?;
        let inner = Inner {
            handle: runtime.handle().clone(),
            spans: Spans::default(),
            requests: Semaphore::new(BESIDE_IN_ALL),
            numbers: AtomicU64::new(0),
        };
        Ok(Remote {
            settings,
            client,
            runtime,
            inner: Arc::new(inner),
            places: Mutex::default(),
            silent: Mutex::default(),
            folders: Mutex::default(),
            asked: Mutex::default(),
            files: Mutex::default(),
            proofs: Arc::default(),
        })
    }

    /// Waits for `answer`.
    pub fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }

    /// What `ask` makes of the place that `location` is at and of its key there.
    fn ask<T>(
        &self,
        location: &str,
        ask: impl FnOnce(&Arc<dyn Backend>, &str) -> io::Result<T>,
    ) -> io::Result<T> {
        let (place, key) = split(location)?;
        let silent = |(since, why): &(Instant, String)| (since.elapsed() < PAUSE).then(|| why.clone());
        if let Some(why) = locked(&self.silent).get(place).and_then(silent) {
            return Err(io::Error::other(why));
        }
        let answer = self.place(location).and_then(|(backend, _)| ask(&backend, key));
        if let Err(error) = &answer
            && error.kind() == io::ErrorKind::Other
        {
            locked(&self.silent).insert(place.to_string(), (Instant::now(), error.to_string()));
        }
        answer
    }

    /// The place that `location` is at, and its key there.
    fn place<'l>(&self, location: &'l str) -> io::Result<(Arc<dyn Backend>, &'l str)> {
        let (place, key) = split(location)?;
        if let Some(known) = locked(&self.places).get(place) {
            return Ok((known.clone(), key));
        }
        let connected = (scheme(location)?.connect)(self, place)?;
        // One that another thread has made meanwhile is as good.
        let backend = locked(&self.places).entry(place.to_string()).or_insert(connected).clone();
        Ok((backend, key))
    }

    /// What lies in the folder at `location`, as a listing says that was made once; `None` where there is none.
    fn listing(&self, location: &str) -> io::Result<Option<Arc<Listing>>> {
        if let Some(known) = locked(&self.folders).get(location) {
            return Ok(known.clone());
        }
        let listed = self.ask(location, |place, key| self.wait(place.list(key)))?;
        let listing = listed.map(|entries| Arc::new(entries.into_iter().collect::<Listing>()));
        locked(&self.folders).insert(location.to_string(), listing.clone());
        Ok(listing)
    }

    /// The folder at `location`, if something lies in it.
    fn folder(&self, location: &str) -> io::Result<Stat> {
        match self.listing(location)? {
            Some(listing) if !listing.is_empty() => {
                let mut entries: Vec<_> = listing.iter().collect();
                entries.sort_by_key(|(name, _)| *name);
                let mut digest = DefaultHasher::new();
                for (name, stat) in entries {
                    (name, stat.bytes, &stat.version).hash(&mut digest);
                }
                let mut folder = Stat::folder();
                folder.version = Some(format!("{:016x}", digest.finish()));
                Ok(folder)
            }
            _ => Err(nothing_there()),
        }
    }

    /// What the listing of its folder says of `location`; `None` where none has been made or can be.
    fn listed(&self, location: &str) -> io::Result<Option<io::Result<Stat>>> {
        let Some((folder, name)) = parent(location) else { return Ok(None) };
        let whole = self.ask(location, |place, _| Ok(place.lists_whole()))?;
        let again = !locked(&self.asked).insert(folder.to_string());
        if !whole && !again {
            return Ok(None);
        }
        let listing = match self.listing(folder) {
            Ok(listing) => listing,
            // Who may read files may not always list them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !whole => {
                locked(&self.folders).insert(folder.to_string(), None);
                None
            }
            Err(error) => return Err(error),
        };
        let Some(listing) = listing else { return Ok(None) };
        Ok(Some(match listing.get(name) {
            Some(stat) if stat.kind == Kind::Folder => self.folder(location),
            Some(stat) => Ok(stat.clone()),
            None => Err(nothing_there()),
        }))
    }

    /// The file at `location`, of which nothing is known yet but perhaps its `stat`.
    fn found(&self, location: &str, stat: Option<Stat>) -> io::Result<Arc<File>> {
        if let Some(known) = locked(&self.files).get(location) {
            return known.clone().ok_or_else(nothing_there);
        }
        let (place, key) = self.place(location)?;
        let number = self.inner.numbers.fetch_add(1, Ordering::Relaxed);
        let (len, version) = match stat {
            Some(stat) => (stat.bytes, stat.version),
            None => match self.ask(location, |place, key| self.inner.get(&**place, key, 0..AHEAD)) {
                Ok(Piece { bytes, total, version }) => {
                    self.inner.spans.keep(number, 0, bytes);
                    (total, version)
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::NotFound {
                        locked(&self.files).insert(location.to_string(), None);
                    }
                    return Err(error);
                }
            },
        };
        let file = File { inner: self.inner.clone(), place, key: key.to_string(), number, len, version };
        let file =
            locked(&self.files).entry(location.to_string()).or_default().insert(Arc::new(file)).clone();
        Ok(file)
    }
}

impl Remote {
    /// `location` as files and folders are known here.
    pub fn admit(&self, location: &str) -> String {
        let location = crate::web::admit(self, location);
        // A folder is the same one without it.
        location.trim_end_matches('/').to_string()
    }

    /// What lies at `location`, which is an admitted one here and below.
    pub fn stat(&self, location: &str) -> io::Result<Stat> {
        if let Some(Some(file)) = locked(&self.files).get(location) {
            return Ok(Stat::file(file.len, file.version.clone()));
        }
        // A file is no folder.
        if parent(location)
            .is_some_and(|(folder, _)| matches!(locked(&self.files).get(folder), Some(Some(_))))
        {
            return Err(nothing_there());
        }
        if split(location)?.1.is_empty() {
            return self.folder(location);
        }
        if let Some(stat) = self.listed(location)? {
            return stat;
        }
        // Names of folders seldom have a dot.
        let named_so = parent(location).is_some_and(|(_, name)| !name.contains('.'));
        if named_so && let Ok(folder) = self.folder(location) {
            return Ok(folder);
        }
        match self.found(location, None) {
            Ok(file) => Ok(Stat::file(file.len, file.version.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.folder(location),
            Err(error) => {
                // Servers that keep files in folders may fail to read one as a file.
                locked(&self.silent).remove(split(location)?.0);
                self.folder(location).map_err(|_| error)
            }
        }
    }

    pub fn list(&self, location: &str) -> io::Result<Vec<(String, Stat)>> {
        let listing = self.listing(location)?;
        Ok(listing.iter().flat_map(|l| l.iter()).map(|(name, stat)| (name.clone(), stat.clone())).collect())
    }

    pub fn open(&self, location: &str) -> io::Result<Arc<dyn StoredFile>> {
        let listed = match locked(&self.files).contains_key(location) {
            true => None,
            false => self.listed(location)?.transpose()?,
        };
        if listed.as_ref().is_some_and(|stat| stat.kind != Kind::File) {
            return Err(io::Error::other("is a folder"));
        }
        Ok(self.found(location, listed)?)
    }
}

impl Inner {
    fn get(&self, place: &dyn Backend, key: &str, range: Range<u64>) -> io::Result<Piece> {
        self.handle.block_on(self.fetch(place, key, range))
    }

    async fn fetch(&self, place: &dyn Backend, key: &str, range: Range<u64>) -> io::Result<Piece> {
        let _turn = self.requests.acquire().await.map_err(io::Error::other)?;
        place.get(key, range).await
    }
}

/// A file at a URL.
struct File {
    inner: Arc<Inner>,
    place: Arc<dyn Backend>,
    key: String,
    /// Its number among the spans.
    number: u64,
    len: u64,
    version: Option<String>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.key, self.len)
    }
}

impl File {
    /// The bytes of `part`, exactly, of the file that it was at first.
    async fn part(&self, part: Range<u64>) -> io::Result<(u64, bytes::Bytes)> {
        let piece = self.inner.fetch(&*self.place, &self.key, part.clone()).await?;
        let other = self.version.is_some() && piece.version.is_some() && self.version != piece.version;
        if other || piece.total != self.len {
            return Err(io::Error::other("it has changed while it was read; start again"));
        }
        if piece.bytes.len() as u64 != part.end - part.start {
            return Err(io::Error::other(format!(
                "the server sent {} bytes instead of the {} from byte {} on",
                piece.bytes.len(),
                part.end - part.start,
                part.start
            )));
        }
        Ok((part.start, piece.bytes))
    }

    /// Fetches `ranges`, several at a time, and calls `take` with each part of them.
    fn fetch(&self, ranges: &[Range<u64>], mut take: impl FnMut(u64, bytes::Bytes)) -> io::Result<()> {
        let parts = ranges.iter().flat_map(|range| {
            (range.start..range.end)
                .step_by(PART as usize)
                .map(|start| start..start.saturating_add(PART).min(range.end))
        });
        let answers = stream::iter(parts.map(|part| self.part(part))).buffer_unordered(BESIDE);
        self.inner.handle.block_on(answers.try_for_each(|(start, bytes)| {
            take(start, bytes);
            std::future::ready(Ok(()))
        }))
    }
}

impl StoredFile for File {
    fn len(&self) -> u64 {
        self.len
    }

    fn version(&self) -> Option<String> {
        self.version.clone()
    }

    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut out = vec![0; (range.end - range.start) as usize];
        let put = |out: &mut [u8], start: u64, bytes: &[u8]| {
            let at = (start - range.start) as usize;
            let end = (at + bytes.len()).min(out.len());
            out[at..end].copy_from_slice(&bytes[..end - at]);
        };
        let found = self.inner.spans.within(self.number, &range);
        let mut open = holes(&range, &found);
        for (start, bytes) in found {
            put(&mut out, start, &bytes);
        }
        let keep = range.end - range.start <= KEPT;
        if keep
            && let Some(last) = open.last_mut()
            && last.end == range.end
        {
            last.end = last.end.max(last.start.saturating_add(AHEAD)).min(self.len);
        }
        self.fetch(&open, |start, bytes| {
            if start < range.end {
                put(&mut out, start, &bytes);
            }
            if keep {
                self.inner.spans.keep(self.number, start, bytes);
            }
        })?;
        Ok(out)
    }

    fn expect(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
        sorted.sort_by_key(|range| range.start);
        let mut near: Vec<Range<u64>> = Vec::new();
        for range in sorted {
            match near.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(NEAR) => {
                    last.end = last.end.max(range.end)
                }
                _ => near.push(range),
            }
        }
        let open: Vec<Range<u64>> = near
            .iter()
            .flat_map(|range| holes(range, &self.inner.spans.within(self.number, range)))
            .collect();
        self.fetch(&open, |start, bytes| self.inner.spans.keep(self.number, start, bytes))
    }
}
