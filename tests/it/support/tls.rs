//! Certificates for the loopback, made by openssl, and a TLS front that offers nothing but HTTP/2.

use std::{
    fs,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use super::{nginx, program};

/// A certificate authority of one test, and a server's certificate from it for 127.0.0.1 and localhost.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = TempDir::new().expect("a folder");
        let extensions = "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        fs::write(folder.path().join("extensions"), extensions).expect("a file");
        for arguments in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 2 \
             -subj /CN=Sapwood-tests -addext basicConstraints=critical,CA:TRUE",
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem",
        ] {
            let mut command = program::command(nginx::program("openssl"), folder.path());
            command.args(arguments.split_whitespace());
            program::run(command).must(0);
        }
        Authority { folder }
    }

    /// What --cacert takes.
    pub fn certificate(&self) -> String {
        self.path("ca.pem").display().to_string()
    }

    pub fn chain(&self) -> PathBuf {
        self.path("server.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.path("server.key")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Speaks TLS for a server that does not, and agrees to no other protocol than HTTP/2.
pub struct OnlyTwo {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl OnlyTwo {
    /// Before the server on this port of the loopback.
    pub fn before(port: u16, authority: &Authority) -> OnlyTwo {
        let chain = CertificateDer::pem_file_iter(authority.chain()).expect("a chain");
        let chain = chain.map(|certificate| certificate.expect("a certificate"));
        let key = PrivateKeyDer::from_pem_file(authority.key()).expect("a key");
        let mut tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .expect("they belong together");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let runtime = Runtime::new().expect("threads");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that offers another version is refused here.
                    let mut stream = acceptor.accept(stream).await?;
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                    copy_bidirectional(&mut stream, &mut server).await
                });
            }
        });
        OnlyTwo {
            address,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self, name: &str) -> String {
        format!("https://{}/{name}", self.address)
    }
}

impl Drop for OnlyTwo {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
