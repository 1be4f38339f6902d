//! Files of web servers, by range requests (RFC 9110, section 14). What lies beside a file such a server does not tell.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ckpt_inspect::stored::Stat;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, LAST_MODIFIED, RANGE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use crate::Scheme;
use crate::backend::{Answer, Backend, Piece, entity_tag, nothing_there, root_cause};
use crate::store::{Remote, locked};

pub(crate) const SCHEME: Scheme = Scheme { names: &["https", "http"], split, connect };

/// How often a request is made before it counts as failed.
const TRIES: u32 = 5;
/// The longest wait that a server can ask for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server of a location, and the whole of it: where the path begins does not matter here.
fn split(location: &str) -> (&str, &str) {
    (crate::cloud::split(location).0, location)
}

/// A location without the query, in which presigned URLs have their signatures; it is remembered.
pub(crate) fn admit(remote: &Remote, location: &str) -> String {
    let is_web = location.starts_with("https://") || location.starts_with("http://");
    match location.split_once('?').filter(|_| is_web) {
        Some((plain, query)) => {
            let query = query.split('#').next().unwrap_or_default();
            locked(&remote.proofs).insert(plain.to_string(), query.to_string());
            plain.to_string()
        }
        None => location.to_string(),
    }
}

fn connect(remote: &Remote, _: &str) -> io::Result<Arc<dyn Backend>> {
    Ok(Arc::new(Server { client: remote.client.clone(), proofs: remote.proofs.clone() }))
}

/// A web server.
struct Server {
    client: Client,
    proofs: Arc<Mutex<HashMap<String, String>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a web server")
    }
}

impl Backend for Server {
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> Answer<'a, Piece> {
        Box::pin(async move {
            let proof = locked(&self.proofs).get(key).cloned();
            let url = match proof {
                Some(query) => format!("{key}?{query}"),
                None => key.to_string(),
            };
            let ask = || self.client.get(&url);
            let (piece, _) = piece(&ask, range).await.map_err(|failed| failed.explained(""))?;
            Ok(piece)
        })
    }

    fn list<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Vec<(String, Stat)>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// Why a request gave nothing.
pub(crate) enum Failed {
    /// The server's answer.
    Status(StatusCode),
    /// The server could not be reached, or the connection broke.
    Broken(reqwest::Error),
    /// The answer is not what was asked for.
    Other(&'static str),
}

impl Failed {
    /// The same in words, with what to do when access is denied.
    pub fn explained(self, hint: &str) -> io::Error {
        let hinted = |text: String| if hint.is_empty() { text } else { format!("{text}; {hint}") };
        match self {
            Failed::Status(StatusCode::NOT_FOUND | StatusCode::GONE) => nothing_there(),
            Failed::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                let text = format!("the server denies access ({})", status.as_u16());
                io::Error::new(io::ErrorKind::PermissionDenied, hinted(text))
            }
            Failed::Status(status) => io::Error::other(format!("the server answers {status}")),
            Failed::Broken(error) if distrusts(&error) => io::Error::other(format!(
                "its certificate is not trusted: {}; SSL_CERT_FILE names a file of authorities that are",
                root_cause(&error)
            )),
            Failed::Broken(error) => io::Error::other(format!(
                "the server does not answer: {}; is the network up, and does it need a proxy (HTTPS_PROXY)?",
                root_cause(&error)
            )),
            Failed::Other(what) => io::Error::other(what),
        }
    }

    /// Whether the same request may succeed later.
    fn may_pass(&self) -> bool {
        match self {
            Failed::Status(status) => {
                status.is_server_error()
                    || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            // A certificate that is not trusted stays so.
            Failed::Broken(error) => !error.is_builder() && !error.is_redirect() && !distrusts(error),
            Failed::Other(_) => false,
        }
    }
}

/// Whether the connection was refused here, by what the server showed of itself.
fn distrusts(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // Errors of input and output are not the causes of themselves.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let own = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or(error.downcast_ref());
        if matches!(own, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The bytes of `range` of what `ask` asks for, or as many as there are, and where they came from in the end.
pub(crate) async fn piece(
    ask: &(dyn Fn() -> RequestBuilder + Sync),
    range: Range<u64>,
) -> Result<(Piece, reqwest::Url), Failed> {
    let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let (bytes, answer) = patiently(|| async {
        let answer = sent(ask().header(RANGE, &value)).await?;
        let most = range.end - range.start;
        let known = Known::of(&answer, &range)?;
        let bytes = match known.total {
            0 => Bytes::new(),
            _ => body(answer, most).await?,
        };
        Ok((bytes, known))
    })
    .await?;
    Ok((Piece { bytes, total: answer.total, version: answer.version }, answer.url))
}

/// What the head of an answer says.
struct Known {
    total: u64,
    version: Option<String>,
    url: reqwest::Url,
}

impl Known {
    fn of(answer: &Response, range: &Range<u64>) -> Result<Self, Failed> {
        let headers = answer.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let total = match answer.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                let total =
                    text(CONTENT_RANGE).and_then(|range| range.rsplit_once('/')?.1.trim().parse().ok());
                total.ok_or(Failed::Other(
                    "the server does not say how large the file is; download it first",
                ))?
            }
            // All of it, which is right for a file of no more than what was asked for.
            _ => match answer.content_length() {
                Some(len) if range.start == 0 && len <= range.end => len,
                _ => {
                    let what = "the server gives no ranges of files; download it first";
                    return Err(Failed::Other(what));
                }
            },
        };
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE && total > 0 {
            return Err(Failed::Other("the file is shorter than it was; start again"));
        }
        let version = text(ETAG).map(entity_tag).or_else(|| text(LAST_MODIFIED).map(String::from));
        Ok(Known { total, version, url: answer.url().clone() })
    }
}

/// The answer to `request`, if it is one of success.
async fn sent(request: RequestBuilder) -> Result<Response, Failed> {
    let answer = request.send().await.map_err(Failed::Broken)?;
    match answer.status() {
        status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => Ok(answer),
        status => {
            wait_as_told(status, answer.headers()).await;
            Err(Failed::Status(status))
        }
    }
}

/// Waits as long as an overloaded server asks for.
async fn wait_as_told(status: StatusCode, headers: &HeaderMap) {
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        && let Some(seconds) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok())
    {
        tokio::time::sleep(Duration::from_secs(seconds).min(PATIENCE)).await;
    }
}

/// The body of `answer`, of which at most `most` bytes are taken.
async fn body(mut answer: Response, most: u64) -> Result<Bytes, Failed> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(Failed::Broken)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > most {
            return Err(Failed::Other("the server sends more than was asked for; download it first"));
        }
    }
    Ok(bytes.freeze())
}

/// What `ask` gives, tried again while that may help, with growing pauses.
async fn patiently<T, F: Future<Output = Result<T, Failed>>>(ask: impl Fn() -> F) -> Result<T, Failed> {
    let mut tries = 1;
    loop {
        match ask().await {
            Err(failed) if failed.may_pass() && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                tries += 1;
            }
            answer => return answer,
        }
    }
}

/// The JSON that `ask` asks for, at most `most` bytes of it, and the address of the next page of it.
pub(crate) async fn json<T: serde::de::DeserializeOwned>(
    ask: &(dyn Fn() -> RequestBuilder + Sync),
    most: u64,
) -> Result<(T, Option<String>), Failed> {
    let (bytes, next) = patiently(|| async {
        let answer = sent(ask()).await?;
        let next = answer.headers().get("link").and_then(|link| next_page(link.to_str().ok()?));
        Ok((body(answer, most).await?, next))
    })
    .await?;
    let value = serde_json::from_slice(&bytes);
    Ok((value.map_err(|_| Failed::Other("the server's answer is not what was expected"))?, next))
}

/// The address of the next page in a `Link` header (RFC 8288): `<https://…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let links = link.split(',').filter_map(|link| link.trim().strip_prefix('<')?.split_once('>'));
    links.filter(|(_, rest)| rest.contains("rel=\"next\"")).map(|(url, _)| url.to_string()).next()
}
