//! Files of web servers, by range requests (RFC 9110, section 14). What lies beside a file such a server does not tell.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ckpt_inspect::stored::Stat;
use reqwest::header::{CONTENT_RANGE, ETAG, LAST_MODIFIED, RANGE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use crate::Scheme;
use crate::backend::{Answer, Backend, Piece, entity_tag, nothing_there, root_cause, unreachable};
use crate::store::{Proofs, Remote, locked};
use crate::trust;

pub(crate) const SCHEME: Scheme = Scheme { names: &["https", "http"], admit, split, connect };

/// What to try when access is denied.
const HINT: &str =
    "sign in by USER:PASSWORD@ before the host, or use a URL with a signature that still holds";

/// How often a request is made before it counts as failed.
const TRIES: u32 = 5;
/// How long nothing may come.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// The longest wait that a server can ask for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server of a location, and the whole of it: where the path begins does not matter here.
fn split(location: &str) -> (&str, &str) {
    (crate::backend::site(location).0, location)
}

/// Parameters of a query that prove that the rest may be read, or say until when: those of S3, Google Cloud Storage, Azure,
/// CloudFront, and of others that give tokens. Others may say which file is meant.
const PROOFS: [&str; 29] = [
    "access_token",
    "auth",
    "authorization",
    "awsaccesskeyid",
    "expires",
    "googleaccessid",
    "hmac",
    "key-pair-id",
    "policy",
    "se",
    "sig",
    "signature",
    "signed",
    "skd",
    "ske",
    "skoid",
    "sks",
    "skt",
    "sktid",
    "skv",
    "sp",
    "spr",
    "sr",
    "st",
    "sv",
    "token",
    "verify",
    "x-cos-security-token",
    "x-oss-signature",
];

/// `location` without who asks and what proves that it may be read; none if that is nothing.
fn admit(location: &str) -> Option<String> {
    let (scheme, rest) = location.split_once("://")?;
    let (plain, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = plain.split_at(plain.find('/').unwrap_or(plain.len()));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let query = query.split('#').next().unwrap_or_default();
    let is_proof = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default().to_ascii_lowercase();
        PROOFS.contains(&name.as_str()) || name.starts_with("x-amz-") || name.starts_with("x-goog-")
    };
    let kept: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !is_proof(part)).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    let admitted = format!("{scheme}://{host}{path}{mark}{}", kept.join("&"));
    (admitted != location).then_some(admitted)
}

fn connect(remote: &Remote, server: &str) -> io::Result<Arc<dyn Backend>> {
    if server.ends_with('/') {
        let what = "is no URL of a server and a file: it names no host";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(Arc::new(Server { client: remote.client.clone(), proofs: remote.proofs.clone() }))
}

/// A web server.
struct Server {
    client: Client,
    proofs: Proofs,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a web server")
    }
}

impl Backend for Server {
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> Answer<'a, Piece> {
        Box::pin(async move {
            let url = locked(&self.proofs).get(key).cloned().unwrap_or_else(|| key.to_string());
            let ask = || self.client.get(&url);
            let (piece, _) = piece(&ask, range).await.map_err(|failed| failed.explained(HINT))?;
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
    /// It sent nothing for as long as it was waited for.
    Slow,
    /// It asks to come back after so many seconds.
    Overloaded(u64),
    /// The answer is not what was asked for.
    Other(&'static str),
}

impl Failed {
    /// The same in words, with what to do when access is denied.
    pub fn explained(self, hint: &str) -> io::Error {
        if let Failed::Broken(error) = &self
            && let Some(why) = trust::refusal(error)
        {
            return unreachable(why);
        }
        let hinted = |text: String| if hint.is_empty() { text } else { format!("{text}; {hint}") };
        match self {
            Failed::Status(StatusCode::NOT_FOUND | StatusCode::GONE) => nothing_there(),
            Failed::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                let text = format!("the server denies access ({})", status.as_u16());
                io::Error::new(io::ErrorKind::PermissionDenied, hinted(text))
            }
            Failed::Status(status) => io::Error::other(format!("the server answers {status}")),
            Failed::Broken(error) if error.is_builder() => {
                let what = format!("is no URL of a server and a file: {}", root_cause(&error));
                io::Error::new(io::ErrorKind::InvalidInput, what)
            }
            // It answered, to this request.
            Failed::Broken(error) if error.is_redirect() => {
                io::Error::other(format!("the server leads nowhere: {}", root_cause(&error)))
            }
            Failed::Broken(error) if error.is_body() || error.is_decode() => {
                io::Error::other(format!("the connection broke off: {}", root_cause(&error)))
            }
            Failed::Broken(error) => unreachable(format!(
                "the server does not answer: {}; is the network up, and does it need a proxy (HTTPS_PROXY)?",
                root_cause(&error)
            )),
            Failed::Slow => {
                unreachable(format!("the server sends nothing for {} seconds", SILENCE.as_secs()))
            }
            Failed::Overloaded(seconds) => {
                unreachable(format!("the server is overloaded, and asks to wait for {seconds} seconds"))
            }
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
            Failed::Broken(error) => {
                !error.is_builder() && !error.is_redirect() && trust::refusal(error).is_none()
            }
            Failed::Slow | Failed::Overloaded(_) => false,
            Failed::Other(_) => false,
        }
    }
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
                // `bytes 0-99/1234`, or `bytes */1234`.
                let (part, total) =
                    text(CONTENT_RANGE).and_then(|range| range.rsplit_once('/')).unwrap_or_default();
                let total: Option<u64> = total.trim().parse().ok();
                let what = "the server does not say how large the file is; download it first";
                let total = total.ok_or(Failed::Other(what))?;
                let wanted = format!("bytes {}-{}", range.start, range.end.min(total).saturating_sub(1));
                if answer.status() == StatusCode::PARTIAL_CONTENT && part.trim() != wanted {
                    let what = "the server sends another range than the requested one; download it first";
                    return Err(Failed::Other(what));
                }
                total
            }
            // All of it, which is right for a file of no more than what was asked for.
            _ => match answer.content_length() {
                Some(len) if range.start == 0 && len <= range.end => len,
                _ => {
                    let what = "the server does not serve parts of files; download it first";
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
    let answer = request.send().await.map_err(broken)?;
    match answer.status() {
        status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => Ok(answer),
        status => {
            let wait = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            match wait.map(Duration::from_secs).filter(|_| is_overloaded(status)) {
                Some(wait) if wait > PATIENCE => return Err(Failed::Overloaded(wait.as_secs())),
                Some(wait) => tokio::time::sleep(wait).await,
                None => {}
            }
            Err(Failed::Status(status))
        }
    }
}

/// Whether the server may ask to come back.
fn is_overloaded(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// What `error` says of the server.
fn broken(error: reqwest::Error) -> Failed {
    if error.is_timeout() && !error.is_connect() { Failed::Slow } else { Failed::Broken(error) }
}

/// The body of `answer`, of which at most `most` bytes are taken.
async fn body(mut answer: Response, most: u64) -> Result<Bytes, Failed> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > most {
            return Err(Failed::Other("the server sends more than requested; download it first"));
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
