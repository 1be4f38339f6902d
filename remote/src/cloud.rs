//! Buckets and containers of S3, Google Cloud Storage and Azure, by `object_store`.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ckpt_inspect::stored::Stat;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    ClientOptions, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use url::Url;

use crate::Scheme;
use crate::backend::{
    Answer, Backend, Below, Piece, entity_tag, nothing_there, root_cause, site, unreachable,
};
use crate::names::{Connector, LeftOut};
use crate::profile::{self, Owner, is_machine_of};
use crate::store::Remote;
use crate::trust;

pub(crate) const SCHEME: Scheme = Scheme {
    names: &["s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss"],
    admit: |_| None,
    split: site,
    connect,
};

/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);

/// One of the clouds.
#[derive(Debug)]
struct Cloud {
    name: &'static str,
    /// What its variables begin with.
    variables: &'static str,
    owner: Owner,
    /// Variables of which one is set where a service of the cloud gives credentials.
    services: &'static [&'static str],
    /// Variables of which one is set where there are credentials.
    credentials: &'static [&'static str],
    /// The variable that asks without credentials.
    anonymous: &'static str,
    /// What to set.
    hint: &'static str,
}

static AMAZON: Cloud = Cloud {
    name: "S3",
    variables: "aws_",
    owner: Owner::Amazon,
    services: &[
        "aws_web_identity_token_file",
        "aws_container_credentials_relative_uri",
        "aws_container_credentials_full_uri",
    ],
    credentials: &["aws_access_key_id"],
    anonymous: "aws_skip_signature",
    hint: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile with keys (`aws configure export-credentials --format env` prints those of any other); AWS_REGION; for another server AWS_ENDPOINT_URL",
};

static GOOGLE: Cloud = Cloud {
    name: "Google Cloud Storage",
    variables: "google_",
    owner: Owner::Google,
    services: &[],
    credentials: &[
        "google_service_account",
        "google_service_account_path",
        "google_service_account_key",
        "google_application_credentials",
    ],
    anonymous: "google_skip_signature",
    hint: "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or run `gcloud auth application-default login`",
};

static MICROSOFT: Cloud = Cloud {
    name: "Azure",
    variables: "azure_",
    owner: Owner::Microsoft,
    services: &["azure_federated_token_file", "azure_identity_endpoint", "azure_msi_endpoint"],
    credentials: &[
        "azure_storage_account_key",
        "azure_storage_access_key",
        "azure_storage_sas_key",
        "azure_storage_sas_token",
        "azure_storage_token",
        "azure_storage_client_secret",
        "azure_client_secret",
        "azure_use_azure_cli",
        "azure_storage_use_emulator",
    ],
    anonymous: "azure_skip_signature",
    hint: "set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or AZURE_STORAGE_CONNECTION_STRING; AZURE_USE_AZURE_CLI=true takes the login of `az`",
};

/// A bucket or container.
struct Bucket {
    cloud: &'static Cloud,
    store: Box<dyn ObjectStore>,
    left_out: LeftOut,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a bucket of {}", self.cloud.name)
    }
}

fn connect(remote: &Remote, bucket: &str) -> io::Result<Arc<dyn Backend>> {
    let url =
        Url::parse(bucket).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
    let scheme = ObjectStoreScheme::parse(&url).map(|(scheme, _)| scheme);
    let cloud = match scheme {
        Ok(ObjectStoreScheme::AmazonS3) => &AMAZON,
        Ok(ObjectStoreScheme::GoogleCloudStorage) => &GOOGLE,
        Ok(ObjectStoreScheme::MicrosoftAzure) => &MICROSOFT,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it names no bucket: s3://BUCKET/FILE, gs://BUCKET/FILE, az://CONTAINER/FILE",
            ));
        }
    };
    let options = options(remote, cloud, &url)?;
    let retry =
        RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
    let left_out = LeftOut::default();
    let client = remote.http().http1_only().read_timeout(SILENCE).https_only(true).build();
    let connector = || Connector {
        client: client.as_ref().map_or_else(|_| remote.client.clone(), Clone::clone),
        left_out: left_out.clone(),
    };
    let built = build(cloud, &url, &options, retry, connector);
    let store = built.map_err(|error| cloud.explained(error))?;
    Ok(Arc::new(Bucket { cloud, store, left_out }))
}

/// The store of `bucket`, with `options` by the names of environment variables.
fn build(
    cloud: &Cloud,
    bucket: &Url,
    options: &HashMap<String, String>,
    retry: RetryConfig,
    connector: impl Fn() -> Connector,
) -> object_store::Result<Box<dyn ObjectStore>> {
    let client = || {
        let plain = options.get("aws_endpoint_url").or(options.get("azure_storage_endpoint"));
        let plain = plain.is_some_and(|url| url.starts_with("http://"))
            || options.get("azure_storage_use_emulator").is_some_and(|value| value == "true");
        ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(Duration::from_secs(10))
            .with_read_timeout(SILENCE)
            .with_allow_http(plain)
    };
    macro_rules! built {
        ($builder:ty) => {{
            let new = <$builder>::new()
                .with_url(bucket.as_str())
                .with_client_options(client())
                .with_retry(retry)
                .with_http_connector(connector());
            let builder = options.iter().fold(new, |builder, (name, value)| match name.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Ok(Box::new(builder.build()?) as Box<dyn ObjectStore>)
        }};
    }
    match cloud.owner {
        Owner::Amazon => built!(object_store::aws::AmazonS3Builder),
        Owner::Google => built!(object_store::gcp::GoogleCloudStorageBuilder),
        Owner::Microsoft => built!(object_store::azure::MicrosoftAzureBuilder),
    }
}

/// What is known of how to reach `bucket`, by the names of environment variables in lower case.
fn options(remote: &Remote, cloud: &Cloud, bucket: &Url) -> io::Result<HashMap<String, String>> {
    let settings = &remote.settings;
    let own = settings.variables.iter().filter(|(_, value)| !value.is_empty());
    let own = own.map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
    let mut own: HashMap<String, String> =
        own.filter(|(name, _)| name.starts_with(cloud.variables)).collect();
    if let Some(text) = own.remove("azure_storage_connection_string") {
        for (name, value) in connection(&text) {
            own.entry(name.to_string()).or_insert(value.to_string());
        }
    }
    let mut options = if cloud.owner == Owner::Amazon { profile::aws(settings) } else { HashMap::new() };
    if let Some(profile) = settings.variable("AWS_PROFILE")
        && cloud.owner == Owner::Amazon
        && !options.contains_key("aws_access_key_id")
        && !own.contains_key("aws_access_key_id")
    {
        let what =
            format!("the profile {profile} (AWS_PROFILE) has no keys in the files of AWS; {}", cloud.hint);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    // Keys of two sources do not belong together.
    if own.contains_key("aws_access_key_id") {
        options.retain(|name, _| matches!(name.as_str(), "aws_region" | "aws_endpoint_url"));
    }
    options.extend(own);
    // The variable for one service has precedence.
    if let Some(endpoint) = options.remove("aws_endpoint_url_s3").or(options.remove("aws_endpoint")) {
        options.insert("aws_endpoint_url".into(), endpoint);
    }
    let has = |names: &[&str]| names.iter().any(|name| options.contains_key(*name));
    let file = || {
        settings
            .home
            .as_ref()
            .is_some_and(|home| home.join(".config/gcloud/application_default_credentials.json").is_file())
    };
    let known = has(cloud.credentials)
        || has(cloud.services)
        || has(&[cloud.anonymous])
        || cloud.owner == Owner::Google && file()
        || is_machine_of(cloud.owner);
    if !known {
        options.insert(cloud.anonymous.into(), "true".into());
    }
    // A profile's region is where its owner works; a bucket may lie elsewhere.
    let placed = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| settings.variable(name).is_some());
    if cloud.owner == Owner::Amazon && !placed && !options.contains_key("aws_endpoint_url") {
        let name = bucket.host_str().unwrap_or_default().to_string();
        let client = ClientOptions::new().with_connect_timeout(Duration::from_secs(10));
        let region = remote.wait(object_store::aws::resolve_bucket_region(&name, &client));
        options.insert("aws_region".into(), region.map_err(|error| cloud.explained(error))?);
    }
    Ok(options)
}

/// The parts of a connection string of Azure Storage, under the names of environment variables:
/// <https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string>.
fn connection(text: &str) -> impl Iterator<Item = (&'static str, &str)> {
    const PARTS: [(&str, &str); 4] = [
        ("AccountName", "azure_storage_account_name"),
        ("AccountKey", "azure_storage_account_key"),
        ("SharedAccessSignature", "azure_storage_sas_token"),
        ("BlobEndpoint", "azure_storage_endpoint"),
    ];
    text.split(';').filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        let (_, variable) = PARTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim()))?;
        Some((*variable, value.trim()))
    })
}

impl Cloud {
    /// `error` in words for who has to do something about it.
    fn explained(&self, error: Error) -> io::Error {
        let Cloud { name, hint, .. } = self;
        if let Some(why) = trust::refusal(&error) {
            return unreachable(format!("{name} cannot be asked: {why}"));
        }
        match &error {
            Error::NotFound { .. } => nothing_there(),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                io::Error::new(io::ErrorKind::PermissionDenied, format!("{name} denies access; {hint}"))
            }
            Error::InvalidPath { .. } => io::Error::new(io::ErrorKind::InvalidInput, root_cause(&error)),
            _ => {
                // What a server sends beside its status is XML.
                let cause = root_cause(&error);
                let (status, body) = cause.split_once(": <").unwrap_or((&cause, ""));
                let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
                let code = code.map(|(code, _)| code);
                if code.is_some_and(|code| NO_BUCKET.contains(&code)) {
                    let what = "the bucket or container does not exist; is its name right, and the server or account?";
                    return io::Error::new(io::ErrorKind::NotFound, what);
                }
                let code = code.map_or_else(String::new, |code| format!(" ({code})"));
                let text = format!("{name} gives no answer: {status}{code}; {hint}");
                if is_of_the_network(&error) { unreachable(text) } else { io::Error::other(text) }
            }
        }
    }
}

/// What a server calls it when there is no such bucket or container.
const NO_BUCKET: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// Whether no answer came at all.
fn is_of_the_network(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<object_store::client::HttpError>() || error.source().is_some_and(is_of_the_network)
}

impl Bucket {
    async fn piece(&self, key: &str, range: Range<u64>) -> object_store::Result<Piece> {
        let path = Path::parse(key)?;
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let found = match self.store.get_opts(&path, options).await {
            Ok(found) => found,
            // No range of an empty file can be given.
            Err(error @ Error::Generic { .. }) if range.start == 0 => {
                let whole = GetOptions { head: true, ..GetOptions::default() };
                let meta = self.store.get_opts(&path, whole).await?.meta;
                if meta.size > 0 {
                    return Err(error);
                }
                return Ok(Piece {
                    bytes: Bytes::new(),
                    total: 0,
                    version: meta.e_tag.as_deref().map(entity_tag),
                });
            }
            Err(error) => return Err(error),
        };
        let (total, version) = (found.meta.size, found.meta.e_tag.as_deref().map(entity_tag));
        Ok(Piece { bytes: found.bytes().await?, total, version })
    }

    async fn entries(&self, key: &str) -> object_store::Result<Vec<(String, Stat)>> {
        let folder = Path::parse(key)?;
        let prefix = (!key.is_empty()).then_some(&folder);
        let found = self.store.list_with_delimiter(prefix).await?;
        let folders = found
            .common_prefixes
            .iter()
            .filter_map(|path| Some((path.filename()?.to_string(), Stat::folder())));
        let files = found
            .objects
            .iter()
            .filter_map(|object| Some((object.location.filename()?.to_string(), stat(object))));
        Ok(files.chain(folders).collect())
    }

    async fn below(&self, key: &str, most: usize) -> object_store::Result<Below> {
        let folder = Path::parse(key)?;
        let prefix = (!key.is_empty()).then_some(&folder);
        let start = if key.is_empty() { 0 } else { key.len() + 1 };
        let mut found = self.store.list(prefix);
        let mut files = Vec::new();
        while let Some(object) = found.try_next().await? {
            if files.len() == most {
                return Ok(Below { files, whole: false });
            }
            if let Some(path) = object.location.as_ref().get(start..) {
                files.push((path.to_string(), stat(&object)));
            }
        }
        Ok(Below { files, whole: true })
    }
}

fn stat(object: &ObjectMeta) -> Stat {
    Stat::file(object.size, object.e_tag.as_deref().map(entity_tag))
}

impl Backend for Bucket {
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> Answer<'a, Piece> {
        Box::pin(async move { self.piece(key, range).await.map_err(|error| self.cloud.explained(error)) })
    }

    fn list<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<(String, Stat)>>> {
        Box::pin(
            async move { self.entries(key).await.map(Some).map_err(|error| self.cloud.explained(error)) },
        )
    }

    fn list_below<'a>(&'a self, key: &'a str, most: usize) -> Answer<'a, Option<Below>> {
        Box::pin(
            async move { self.below(key, most).await.map(Some).map_err(|error| self.cloud.explained(error)) },
        )
    }

    fn left_out(&self, key: &str) -> Vec<String> {
        self.left_out.below(key)
    }
}
