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

use crate::answers::Answers;
use crate::backend::{Backend, Piece, nothing_there};
use crate::folders::Folders;
use crate::spans::{Spans, holes};
use crate::{SCHEMES, Scheme, Settings};

/// Bytes that are fetched of what is read in small parts: the headers of most files.
const AHEAD: u64 = 128 << 10;
/// Reads of at most this many bytes are kept: headers, but not weights. Files of no more are fetched whole when their
/// beginning is not enough.
const KEPT: u64 = 4 << 20;
/// Bytes of one request.
const PART: u64 = 8 << 20;
/// Requests of one read, and of all, that are on their way at one time.
const BESIDE: usize = 8;
const BESIDE_IN_ALL: usize = 32;
/// Ranges that are expected together and closer to each other than this are fetched as one.
const NEAR: u64 = 128 << 10;
/// And no more than this becomes one.
const JOINED: u64 = 4 << 20;
/// Files that are known at one time.
const FILES: usize = 100_000;
/// How long a connection to a place holds.
const CONNECTED: Duration = Duration::from_secs(300);
/// How long a place that did not answer, though it was asked several times, is not asked again.
const PAUSE: Duration = Duration::from_secs(10);

/// All that is read at URLs.
pub(crate) struct Remote {
    pub settings: Settings,
    pub client: reqwest::Client,
    /// Its threads end with it.
    _runtime: Runtime,
    inner: Arc<Inner>,
    /// By the schemes' places.
    places: Dated<Arc<dyn Backend>>,
    connecting: Mutex<()>,
    /// The places that did not answer: since when, and why.
    silent: Dated<(io::ErrorKind, String)>,
    pub folders: Folders,
    /// Folders of which a file was asked for.
    asked: Mutex<HashSet<String>>,
    /// Or why there is none.
    files: Answers<Result<Arc<File>, (io::ErrorKind, String)>>,
    /// How servers are connected to.
    tls: rustls::ClientConfig,
    pub proofs: Proofs,
}

/// Whole URLs, with what proves that they may be read, by what is left without that.
pub(crate) type Proofs = Arc<Mutex<HashMap<String, String>>>;

/// What the files share.
struct Inner {
    /// The process whose threads wait for answers.
    process: u32,
    handle: tokio::runtime::Handle,
    spans: Spans,
    requests: Semaphore,
    numbers: AtomicU64,
}

/// What is known, by locations or places, each since when.
type Dated<T> = Mutex<HashMap<String, (Instant, T)>>;

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stores of URLs")
    }
}

/// The value, whatever a thread that panicked has left: each is put in whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `kept` has of `name`, if it is not older than `age`.
fn fresh<T: Clone>(kept: &Dated<T>, name: &str, age: Duration) -> Option<T> {
    locked(kept).get(name).filter(|(since, _)| since.elapsed() < age).map(|(_, value)| value.clone())
}

/// The folder of a location, and its name there.
pub(crate) fn parent(location: &str) -> Option<(&str, &str)> {
    location.rsplit_once('/').filter(|(folder, _)| !folder.ends_with('/'))
}

/// The kind of URL that `location` is.
fn scheme(location: &str) -> io::Result<&'static Scheme> {
    let name = location.split("://").next().unwrap_or_default();
    let known = |scheme: &&Scheme| scheme.names.contains(&name);
    Ok(SCHEMES.iter().find(known).ok_or(io::ErrorKind::Unsupported)?)
}

/// The place that `location` is at, and its key there.
pub(crate) fn split(location: &str) -> io::Result<(&str, &str)> {
    Ok((scheme(location)?.split)(location))
}

fn http(tls: &rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("ckpt/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(10))
        .tls_backend_preconfigured(tls.clone())
}

impl Remote {
    pub fn new(settings: Settings, proofs: Proofs) -> io::Result<Self> {
        // Another part of the program may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build()?;
        let tls = crate::trust::config(&settings)?;
        let client = http(&tls).read_timeout(crate::web::SILENCE).build().map_err(io::Error::other)?;
        let inner = Inner {
            process: std::process::id(),
            handle: runtime.handle().clone(),
            spans: Spans::default(),
            requests: Semaphore::new(BESIDE_IN_ALL),
            numbers: AtomicU64::new(0),
        };
        Ok(Remote {
            settings,
            client,
            _runtime: runtime,
            inner: Arc::new(inner),
            places: Mutex::default(),
            connecting: Mutex::default(),
            silent: Mutex::default(),
            folders: Folders::default(),
            asked: Mutex::default(),
            files: Answers::new(FILES, |_| 1),
            tls,
            proofs,
        })
    }

    /// A client of HTTP.
    pub fn http(&self) -> reqwest::ClientBuilder {
        http(&self.tls)
    }

    /// Waits for `answer`.
    pub fn wait<T: Send>(&self, answer: impl Future<Output = T> + Send) -> T {
        self.inner.wait(answer)
    }

    /// What `ask` makes of the place that `location` is at and of its key there.
    pub fn ask<T>(
        &self,
        location: &str,
        ask: impl FnOnce(&Arc<dyn Backend>, &str) -> io::Result<T>,
    ) -> io::Result<T> {
        let (place, key) = split(location)?;
        if let Some((kind, why)) = fresh(&self.silent, place, PAUSE) {
            return Err(io::Error::new(kind, why));
        }
        let note = |error: io::Error| {
            let kept = (error.kind(), error.to_string());
            locked(&self.silent).insert(place.to_string(), (Instant::now(), kept));
            error
        };
        // One that cannot be connected to, or is not known, is so for all of its files.
        let (backend, _) = self.place(location).map_err(note)?;
        ask(&backend, key).map_err(|error| match error.kind() {
            io::ErrorKind::HostUnreachable => note(error),
            _ => error,
        })
    }

    /// The place that `location` is at, and its key there.
    fn place<'l>(&self, location: &'l str) -> io::Result<(Arc<dyn Backend>, &'l str)> {
        let (place, key) = split(location)?;
        if let Some(known) = fresh(&self.places, place, CONNECTED) {
            return Ok((known, key));
        }
        // One thread connects, and the others wait for it.
        let _connecting = locked(&self.connecting);
        if let Some(known) = fresh(&self.places, place, CONNECTED) {
            return Ok((known, key));
        }
        let connected = (scheme(location)?.connect)(self, place)?;
        locked(&self.places).insert(place.to_string(), (Instant::now(), connected.clone()));
        Ok((connected, key))
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
            // All that is in it was left out, or it was made to be empty.
            _ if self.is_known(location, Kind::Folder) => Ok(Stat::folder()),
            _ => Err(nothing_there()),
        }
    }

    /// What the listing of its folder says of `location`; `None` where none has been made or can be.
    fn listed(&self, location: &str) -> io::Result<Option<io::Result<Stat>>> {
        let Some((folder, name)) = parent(location) else { return Ok(None) };
        if self.is_ruled_out(location) {
            return Ok(Some(Err(nothing_there())));
        }
        let again = !locked(&self.asked).insert(folder.to_string());
        // What is listed already needs no answer.
        if self.folders.known(folder).is_none() {
            let whole = self.ask(location, |place, _| Ok(place.lists_whole()))?;
            if !whole && !again {
                return Ok(None);
            }
        }
        let listing = match self.listing(folder) {
            Ok(listing) => listing,
            // Who may read files may not always list them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.folders.keep(folder, None);
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
        if let Some(known) = self.files.get(location) {
            return known.map_err(|(kind, why)| io::Error::new(kind, why));
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
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) {
                        self.files.put(location, Err((error.kind(), error.to_string())));
                    }
                    return Err(error);
                }
            },
        };
        let file =
            Arc::new(File { inner: self.inner.clone(), place, key: key.to_string(), number, len, version });
        self.files.put(location, Ok(file.clone()));
        Ok(file)
    }
}

impl Remote {
    /// What lies at `location`, which is an admitted one here and below.
    pub fn stat(&self, location: &str) -> io::Result<Stat> {
        if let Some(Ok(file)) = self.files.get(location) {
            return Ok(Stat::file(file.len, file.version.clone()));
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
            Err(error) if error.kind() == io::ErrorKind::HostUnreachable => Err(error),
            // Servers that keep files in folders may fail to read one as a file.
            Err(error) => self.folder(location).map_err(|_| error),
        }
    }

    /// Whether a file is known to be at `location`, without asking.
    pub fn is_file(&self, location: &str) -> bool {
        if let Some(Ok(_)) = self.files.get(location) {
            return true;
        }
        self.is_known(location, Kind::File)
    }

    /// Whether a listing is known that has a `kind` at `location`.
    fn is_known(&self, location: &str, kind: Kind) -> bool {
        let Some((folder, name)) = parent(location) else { return false };
        let listing = self.folders.known(folder).flatten();
        listing.is_some_and(|listing| listing.get(name).is_some_and(|stat| stat.kind == kind))
    }

    pub fn list(&self, location: &str) -> io::Result<Vec<(String, Stat)>> {
        if self.is_file(location) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let listing = self.listing(location)?;
        Ok(listing.iter().flat_map(|l| l.iter()).map(|(name, stat)| (name.clone(), stat.clone())).collect())
    }

    /// What was found at or below the folder `location` and can be no path.
    pub fn left_out(&self, location: &str) -> Vec<String> {
        let Ok((place, key)) = split(location) else { return Vec::new() };
        let known = fresh(&self.places, place, Duration::MAX);
        let keys = known.map(|known| known.left_out(key)).unwrap_or_default();
        keys.iter().map(|key| format!("{place}/{key}")).collect()
    }

    pub fn open(&self, location: &str) -> io::Result<Arc<dyn StoredFile>> {
        let listed = match self.files.get(location).is_some() {
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
    /// Waits for `answer`, also on a thread on which other futures are run, where waiting is not allowed.
    fn wait<T: Send>(&self, answer: impl Future<Output = T> + Send) -> T {
        match tokio::runtime::Handle::try_current() {
            Err(_) => self.handle.block_on(answer),
            Ok(_) => std::thread::scope(|scope| {
                let waiting = scope.spawn(|| self.handle.block_on(answer));
                waiting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }),
        }
    }

    fn get(&self, place: &dyn Backend, key: &str, range: Range<u64>) -> io::Result<Piece> {
        self.wait(self.fetch(place, key, range))
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

    /// The bytes of `ranges` in order, several requests at a time, each part passed to `take` with where it begins.
    fn fetch(&self, ranges: &[Range<u64>], mut take: impl FnMut(u64, bytes::Bytes) + Send) -> io::Result<()> {
        if self.inner.process != std::process::id() {
            return Err(io::Error::other(
                "it was opened before this process was forked; open it again in this process",
            ));
        }
        let parts = ranges.iter().flat_map(|range| {
            (range.start..range.end)
                .step_by(PART as usize)
                .map(|start| start..start.saturating_add(PART).min(range.end))
        });
        let answers = stream::iter(parts.map(|part| self.part(part))).buffered(BESIDE);
        self.inner.wait(answers.try_for_each(|(start, bytes)| {
            take(start, bytes);
            std::future::ready(Ok(()))
        }))
    }
}

impl File {
    /// Fetches what is not yet there of a small file.
    fn fetch_whole(&self) -> io::Result<()> {
        let (spans, whole) = (&self.inner.spans, 0..self.len);
        let open = holes(&whole, &spans.within(self.number, &whole));
        self.fetch(&open, |start, bytes| spans.keep(self.number, start, bytes))
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
        let len = range.end - range.start;
        let mut out = Vec::new();
        // It fills up as bytes arrive, whatever the server has announced.
        usize::try_from(len)
            .ok()
            .and_then(|len| out.try_reserve_exact(len).ok())
            .ok_or_else(|| io::Error::other(format!("{len} bytes are more than there is memory for")))?;
        let mut found = self.inner.spans.within(self.number, &range);
        let mut open = holes(&range, &found);
        if !open.is_empty() && self.len <= KEPT {
            self.fetch_whole()?;
            found = self.inner.spans.within(self.number, &range);
            open = holes(&range, &found);
        }
        let keep = len <= KEPT;
        if keep
            && let Some(last) = open.last_mut()
            && last.end == range.end
        {
            last.end = last.end.max(last.start.saturating_add(AHEAD)).min(self.len);
        }
        let mut found = found.into_iter().peekable();
        self.fetch(&open, |start, bytes| {
            while let Some((_, kept)) = found.next_if(|(at, _)| *at < start) {
                out.extend_from_slice(&kept);
            }
            let wanted = range.end.saturating_sub(start).min(bytes.len() as u64) as usize;
            out.extend_from_slice(&bytes[..wanted]);
            if keep {
                self.inner.spans.keep(self.number, start, bytes);
            }
        })?;
        found.for_each(|(_, kept)| out.extend_from_slice(&kept));
        Ok(out)
    }

    fn expect(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        let spans = &self.inner.spans;
        let mut wanted: Vec<Range<u64>> = ranges
            .iter()
            .filter(|range| !range.is_empty() && !holes(range, &spans.within(self.number, range)).is_empty())
            .cloned()
            .collect();
        if !wanted.is_empty() && self.len <= KEPT {
            return self.fetch_whole();
        }
        wanted.sort_by_key(|range| range.start);
        let mut near: Vec<Range<u64>> = Vec::new();
        for range in &wanted {
            match near.last_mut() {
                Some(last)
                    if range.start <= last.end.saturating_add(NEAR)
                        && range.end.saturating_sub(last.start) <= JOINED =>
                {
                    last.end = last.end.max(range.end);
                }
                _ => near.push(range.clone()),
            }
        }
        self.fetch(&near, |start, bytes| {
            // What lies between is not kept: it may be most of the file.
            let end = start + bytes.len() as u64;
            let from = wanted.partition_point(|range| range.start < start);
            for range in wanted[from..].iter().take_while(|range| range.end <= end) {
                let part = &bytes[(range.start - start) as usize..(range.end - start) as usize];
                spans.keep(self.number, range.start, bytes::Bytes::copy_from_slice(part));
            }
        })
    }
}
