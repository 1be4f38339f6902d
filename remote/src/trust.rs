//! Which servers are trusted: those whose certificates the authorities of this machine have signed, and those that the user
//! names.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::Settings;

/// What to set when a certificate is not trusted.
const HINT: &str = "SSL_CERT_FILE names a file of certificates (PEM) that are";

/// How servers are connected to.
pub(crate) fn config(settings: &Settings) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let named = named(settings)?;
    let verifier = Verifier::new_with_extra_roots(named.iter().cloned(), provider.clone());
    let verifier = verifier.map_err(|error| {
        io::Error::other(format!(
            "no server can be trusted: {error}; install the certificates of authorities (ca-certificates), or name a file of \
             them in SSL_CERT_FILE"
        ))
    })?;
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let trust = Arc::new(Trust { authorities: verifier, named });
    let mut config = versions
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(trust)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates in the file and the folders that the user names.
fn named(settings: &Settings) -> io::Result<Vec<CertificateDer<'static>>> {
    let refused = |variable: &str, path: &Path, why: &str| {
        let what = format!("{variable} names {}: {why}; correct it or unset it", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, what)
    };
    let mut all = Vec::new();
    if let Some(file) = settings.variable("SSL_CERT_FILE").map(Path::new) {
        let wrong = |why: &str| refused("SSL_CERT_FILE", file, why);
        std::fs::File::open(file).map_err(|error| wrong(&error.to_string()))?;
        let found = rustls_native_certs::load_certs_from_paths(Some(file), None).certs;
        if found.is_empty() {
            return Err(wrong("it holds no certificate in PEM"));
        }
        all.extend(found);
    }
    if let Some(folders) = settings.variable("SSL_CERT_DIR") {
        for folder in std::env::split_paths(folders).filter(|folder| !folder.as_os_str().is_empty()) {
            let wrong = |error: io::Error| refused("SSL_CERT_DIR", &folder, &error.to_string());
            std::fs::read_dir(&folder).map_err(wrong)?;
            all.extend(rustls_native_certs::load_certs_from_paths(None, Some(&folder)).certs);
        }
    }
    Ok(all)
}

/// The judgement of this machine, but for servers whose own certificate is among the trusted ones: what
/// `openssl req -x509` makes is an authority's, and programs that use OpenSSL take it.
#[derive(Debug)]
struct Trust {
    authorities: Verifier,
    named: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn knows(&self, certificate: &CertificateDer<'_>) -> bool {
        let is_it = |known: &CertificateDer<'_>| known.as_ref() == certificate.as_ref();
        self.named.iter().any(is_it) || rustls_native_certs::load_native_certs().certs.iter().any(is_it)
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.authorities.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // Its dates have been checked by then; that it has the key, the signatures show.
            Err(error) if is_authority(&error) && self.knows(end_entity) => {
                let own = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&own, name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether `error` says that an authority's certificate is used by a server.
fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Why the connection was refused here, if what the server showed of itself is the cause of `error`.
pub(crate) fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    match of_tls(error)? {
        error if is_authority(error) => Some(format!(
            "its certificate is not trusted: it is an authority's own, as `openssl req -x509` makes them, and not among the \
             trusted ones; {HINT}"
        )),
        rustls::Error::InvalidCertificate(why) => {
            Some(format!("its certificate is not trusted: {why}; {HINT}"))
        }
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            Some("it does not answer with TLS; is it http:// instead of https://, or another port?".into())
        }
        _ => None,
    }
}

/// The error of TLS among the causes of `error`.
fn of_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    // Errors of input and output are not the causes of themselves.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn Error + 'static));
    error.downcast_ref().or_else(|| inner.and_then(of_tls)).or_else(|| error.source().and_then(of_tls))
}
