//! Certificates that the user names: authorities, and servers that show exactly one of them.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use rustls_platform_verifier::Verifier;

/// Certificates that are trusted beside those of the system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Certificates in PEM. `None`: there is none, or one that is malformed.
    pub fn parse(pem: &[u8]) -> Option<Authorities> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .ok()?;
        let mut roots = RootCertStore::empty();
        let all_are_sound = (certificates.iter()).all(|one| roots.add(one.clone()).is_ok());
        (all_are_sound && !certificates.is_empty()).then_some(Authorities(certificates))
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// TLS with these authorities and those of the system, for these protocols (ALPN).
    pub(super) fn tls(&self, protocols: Vec<Vec<u8>>) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = NamedOrKnown {
            named: self.0.clone(),
            known: Verifier::new_with_extra_roots(self.0.iter().cloned(), provider.clone())?,
        };
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.alpn_protocols = protocols;
        Ok(tls)
    }
}

/// The verifier of the system, and certificates that the user named as that of the server. `openssl req -x509` makes one of an
/// authority, which the system does not accept as that of a server.
#[derive(Debug)]
struct NamedOrKnown {
    named: Vec<CertificateDer<'static>>,
    known: Verifier,
}

/// The TLS library's name for the certificate of an authority that a server shows as its own. Times were checked before.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

impl ServerCertVerifier for NamedOrKnown {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.known
                .verify_server_cert(shown, intermediates, server_name, ocsp_response, now);
        match verdict {
            Err(Error::InvalidCertificate(CertificateError::Other(cause)))
                if cause.to_string().contains(AUTHORITY_AS_SERVER)
                    && self.named.iter().any(|named| named == shown) =>
            {
                verify_server_name(&ParsedCertificate::try_from(shown)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.known
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.known
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_verify_schemes()
    }
}
