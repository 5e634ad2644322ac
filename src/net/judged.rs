//! A verifier of the certificates of servers whose verdict a function gives. Signatures are checked as by any other.

use std::fmt;

use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// What a server shows.
pub(super) struct Shown<'a> {
    pub certificate: &'a CertificateDer<'a>,
    pub intermediates: &'a [CertificateDer<'a>],
    pub name: &'a ServerName<'a>,
    pub ocsp_response: &'a [u8],
    pub now: UnixTime,
}

impl Shown<'_> {
    /// The verdict of another verifier.
    pub fn verified_by(&self, other: &dyn ServerCertVerifier) -> Result<ServerCertVerified, Error> {
        let Shown {
            certificate,
            intermediates,
            name,
            ocsp_response,
            now,
        } = *self;
        other.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
    }
}

/// A verifier with this verdict.
pub(super) struct Judged<F> {
    judge: F,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<F> Judged<F>
where
    F: Fn(&Shown<'_>) -> Result<ServerCertVerified, Error> + Send + Sync,
{
    pub fn by(judge: F) -> Judged<F> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Judged { judge, algorithms }
    }
}

impl<F> fmt::Debug for Judged<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judged")
    }
}

impl<F> ServerCertVerifier for Judged<F>
where
    F: Fn(&Shown<'_>) -> Result<ServerCertVerified, Error> + Send + Sync,
{
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        (self.judge)(&Shown {
            certificate,
            intermediates,
            name,
            ocsp_response,
            now,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
