//! Certificates and keys, read from PEM files.
//!
//! TLS 1.3 and 1.2, with ring as the only provider of cryptography. Sessions are not resumed: each connection proves
//! again who it is, so that a certificate that was replaced counts from the next connection on.

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Longest file of certificates or keys that is read, in bytes: a bundle of all public authorities has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where certificates and keys are, each in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Our certificate, and behind it those between it and the authority, in this order.
    pub certificate: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, without a passphrase.
    pub key: PathBuf,
    /// The authorities whose certificates the other side must have. `None`: it need not have one.
    pub authorities: Option<PathBuf>,
}

/// Why files of certificates and keys cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The system failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is no PEM, or has not in it what is wanted.
    #[error("{}: no {wanted} in PEM can be read from it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// The key belongs to another certificate, or one of them is of a kind that we do not know.
    #[error("{} and {} do not go together", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate of an authority cannot be used as one.
    #[error("{}: a certificate in it cannot be an authority's", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// Nobody can be checked against these authorities.
    #[error("{}: nobody can be checked against it", path.display())]
    Verifier {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
}

/// Who we are, and whom we trust.
#[derive(Debug)]
pub struct Identity {
    files: Files,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Option<Arc<RootCertStore>>,
}

impl Identity {
    /// Reads the files. Warns in the log when others may read the key.
    ///
    /// # Errors
    /// With the file that cannot be read, or has not in it what it should.
    pub fn load(files: Files) -> Result<Self, IdentityError> {
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read_secret(&files.key)?)
            .map_err(unusable(&files.key, "private key without a passphrase"))?;
        let authorities = files.authorities.as_deref().map(authorities).transpose()?;
        Ok(Self { files, chain, key, authorities: authorities.map(Arc::new) })
    }

    /// How we accept connections. With authorities, a client without a certificate of theirs is turned away.
    ///
    /// # Errors
    /// When certificate and key do not go together.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
        let builder = builder.expect("ring knows these versions");
        let builder = match (&self.authorities, &self.files.authorities) {
            (Some(authorities), Some(path)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), provider()).build();
                let unusable = |source| IdentityError::Verifier { path: path.clone(), source };
                builder.with_client_cert_verifier(verifier.map_err(unusable)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.map_err(|source| self.odd_pair(source))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// How we connect to others: they must have a certificate of the authorities, and are shown ours when they ask.
    /// Without authorities nobody is trusted.
    ///
    /// # Errors
    /// When certificate and key do not go together.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let authorities = self.authorities.clone().unwrap_or_else(|| Arc::new(RootCertStore::empty()));
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS);
        let builder = builder.expect("ring knows these versions").with_root_certificates(authorities);
        let config = builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.map_err(|source| self.odd_pair(source))?;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn odd_pair(&self, source: rustls::Error) -> IdentityError {
        let Files { certificate, key, .. } = self.files.clone();
        IdentityError::Pair { certificate, key, source }
    }
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(path)?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let found = found.and_then(|found| if found.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(found) });
    found.map_err(unusable(path, "certificate"))
}

fn authorities(path: &Path) -> Result<RootCertStore, IdentityError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        let unusable = |source| IdentityError::Authority { path: path.to_owned(), source };
        store.add(certificate).map_err(unusable)?;
    }
    Ok(store)
}

fn unusable(path: &Path, wanted: &'static str) -> impl FnOnce(pem::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Content { path, wanted, source }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

/// Reads what only we should be able to read.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let bytes = read(path)?;
    let mode = path.metadata().map_or(0, |metadata| metadata.mode());
    if mode & 0o077 != 0 {
        let mode = format!("{:o}", mode & 0o777);
        tracing::warn!(path = %path.display(), mode, "others may read this secret; `chmod 600` hides it");
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
