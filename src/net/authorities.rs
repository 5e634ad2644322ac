//! Certificates that the user names: authorities, and servers that show exactly one of them.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore,
    client::{danger::ServerCertVerified, verify_server_name},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_platform_verifier::Verifier;

use super::judged::{Judged, Shown};

/// Certificates that are trusted beside those of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Certificates in PEM. `None`: there is none, or one that is malformed.
    pub fn parse(pem: &[u8]) -> Option<Authorities> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .ok()?;
        let authorities = Authorities(certificates);
        (authorities.roots().is_ok() && !authorities.is_empty()).then_some(authorities)
    }

    /// These alone.
    pub(super) fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.0 {
            roots.add(certificate.clone())?;
        }
        Ok(roots)
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// TLS with these authorities and those of the system, for these protocols (ALPN).
    pub(super) fn tls(&self, protocols: Vec<Vec<u8>>) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let named = self.0.clone();
        let known = Verifier::new_with_extra_roots(self.0.iter().cloned(), provider.clone())?;
        let verifier = Judged::by(move |shown| named_or_known(&named, &known, shown));
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.alpn_protocols = protocols;
        Ok(tls)
    }
}

/// The TLS library's name for the certificate of an authority that a server shows as its own. Times were checked before.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

/// The verdict of the system, and certificates that the user named as that of the server. `openssl req -x509` makes one of an
/// authority, which the system does not accept as that of a server.
fn named_or_known(
    named: &[CertificateDer<'static>],
    known: &Verifier,
    shown: &Shown<'_>,
) -> Result<ServerCertVerified, Error> {
    match shown.verified_by(known) {
        Err(Error::InvalidCertificate(CertificateError::Other(cause)))
            if cause.to_string().contains(AUTHORITY_AS_SERVER)
                && named.contains(shown.certificate) =>
        {
            verify_server_name(&ParsedCertificate::try_from(shown.certificate)?, shown.name)?;
            Ok(ServerCertVerified::assertion())
        }
        verdict => verdict,
    }
}
