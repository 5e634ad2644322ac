//! The certificate of a server and its key, read again when their files change.

use std::{
    fmt::Display,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::engine::blocking;

/// How often the files are looked at, at most.
const CHECK_TIME: Duration = Duration::from_secs(1);
/// Of a file with a chain or a key; real ones have a few thousand.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// The file cannot be read.
    #[error("failed to read {}: {cause}", path.display())]
    Unread {
        /// Of the file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Not the file that it should be.
    #[error("{} has no {what} in PEM", path.display())]
    Nothing {
        /// Of the file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// The key needs a password.
    #[error("the key in {} is encrypted; decrypt it into a file that only the server can read (openssl pkey)", .0.display())]
    Encrypted(PathBuf),
    /// A certificate or key that does not parse, or of a kind that TLS here does not have.
    #[error("{} cannot be used: {cause}", path.display())]
    Malformed {
        /// Of the file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Each is right for itself.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
}

/// Takes a warning for the operator of the server.
pub type Warn = Box<dyn Fn(String) + Send + Sync>;

/// The certificate of a server, with its chain and key, as they are in their files now.
pub struct Tls {
    files: Files,
    current: Mutex<Current>,
    warn: Warn,
}

#[derive(Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

struct Current {
    config: Arc<ServerConfig>,
    versions: Versions,
    checked: Instant,
}

/// Device, inode, length and time of a file; `None`: it is missing.
pub type FileVersion = Option<(u64, u64, u64, i64, i64)>;
/// Of both files.
type Versions = [FileVersion; 2];

/// The version that a file has now.
pub fn version_of(path: &Path) -> FileVersion {
    let file = fs::metadata(path).ok()?;
    Some((
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
    ))
}

impl Tls {
    /// Reads a chain, the server's own certificate first, and its key: PKCS#8, PKCS#1 or SEC1.
    pub fn load(certificate: &Path, key: &Path, warn: Warn) -> Result<Tls, BadTls> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        // Before they are read: a later change shows.
        let versions = files.versions();
        let config = Arc::new(files.read()?);
        let current = Mutex::new(Current {
            config,
            versions,
            checked: Instant::now(),
        });
        Ok(Tls {
            files,
            current,
            warn,
        })
    }

    /// For the next connection. A changed pair that cannot be used is one warning, and the one before stays.
    pub async fn acceptor(&self) -> TlsAcceptor {
        let old = {
            let mut current = self.current.lock();
            let is_due = current.checked.elapsed() >= CHECK_TIME;
            if is_due {
                current.checked = Instant::now();
            }
            is_due.then_some(current.versions)
        };
        if let Some(old) = old {
            let files = self.files.clone();
            let read = move || {
                let versions = files.versions();
                (versions != old).then(|| (versions, files.read()))
            };
            match blocking::run(read).await {
                Some((versions, Ok(config))) => {
                    let mut current = self.current.lock();
                    (current.config, current.versions) = (Arc::new(config), versions);
                }
                Some((versions, Err(cause))) => {
                    self.current.lock().versions = versions;
                    (self.warn)(format!(
                        "{cause}; the server goes on with the certificate that it has"
                    ));
                }
                None => (),
            }
        }
        TlsAcceptor::from(self.current.lock().config.clone())
    }
}

impl Files {
    fn versions(&self) -> Versions {
        [&self.certificate, &self.key].map(|path| version_of(path))
    }

    fn read(&self) -> Result<ServerConfig, BadTls> {
        let chain = read(&self.certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
        let chain = chain.map_err(|cause| malformed(&self.certificate, cause))?;
        if chain.is_empty() {
            return Err(nothing(
                &self.certificate,
                "certificate (BEGIN CERTIFICATE)",
            ));
        }
        let key = key(&self.key, &read(&self.key)?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| malformed(&self.certificate, cause))?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|cause| match cause {
            rustls::Error::InconsistentKeys(_) => BadTls::Mismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            },
            rustls::Error::InvalidCertificate(_) => malformed(&self.certificate, cause),
            cause => malformed(&self.key, cause),
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, BadTls> {
    let text = String::from_utf8_lossy(pem);
    // PKCS#8 has a name of its own for it, the older formats a field.
    if text.contains("ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(BadTls::Encrypted(path.to_owned()));
    }
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            Err(nothing(path, "private key (BEGIN PRIVATE KEY)"))
        }
        Err(cause) => Err(malformed(path, cause)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BadTls> {
    let mut bytes = Vec::new();
    let read =
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(cause) => Err(BadTls::Unread {
            path: path.to_owned(),
            cause,
        }),
    }
}

fn nothing(path: &Path, what: &'static str) -> BadTls {
    let path = path.to_owned();
    BadTls::Nothing { path, what }
}

fn malformed(path: &Path, cause: impl Display) -> BadTls {
    BadTls::Malformed {
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}
