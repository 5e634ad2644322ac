//! TLS to a database, as the `sslmode` of its URL wants it.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, Error,
    client::{
        WebPkiServerVerifier,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
};
use rustls_platform_verifier::Verifier;

use super::{authorities::Authorities, judged::Judged};

/// What is compared with the certificate that the database shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Nothing: it may be anybody.
    Nothing,
    /// The authority.
    Authority,
    /// Authority and host.
    AuthorityAndHost,
}

/// TLS that compares this. `authorities`: `None`: those of the system.
pub fn tls(compared: Compared, authorities: Option<&Authorities>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let known = || -> Result<Arc<dyn ServerCertVerifier>, Error> {
        let Some(authorities) = authorities else {
            return Ok(Arc::new(Verifier::new(provider.clone())?));
        };
        let roots = authorities.roots()?.into();
        let builder = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let built = builder.build();
        Ok(built.map_err(|cause| Error::General(cause.to_string()))?)
    };
    let verifier: Arc<dyn ServerCertVerifier> = match compared {
        Compared::Nothing => Arc::new(Judged::by(|_| Ok(ServerCertVerified::assertion()))),
        Compared::Authority => {
            let known = known()?;
            Arc::new(Judged::by(move |shown| {
                any_host(shown.verified_by(&*known))
            }))
        }
        Compared::AuthorityAndHost => known()?,
    };
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Accepts a certificate of a known authority for any host: the host is compared last.
fn any_host(verdict: Result<ServerCertVerified, Error>) -> Result<ServerCertVerified, Error> {
    match verdict {
        Err(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Ok(ServerCertVerified::assertion()),
        verdict => verdict,
    }
}
