//! Certificates for the loopback, made by openssl, and a TLS front for servers that speak none.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncWriteExt, copy, copy_bidirectional, split},
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

    /// Another certificate from this authority, with this name, for so many days from now; -1: it expired yesterday.
    pub fn certify(&self, name: &str, days: &str) -> Certificate {
        let path = |name: &str| self.path(name).display().to_string();
        fs::write(
            self.path("extensions"),
            format!("{name}\nbasicConstraints=CA:FALSE\n"),
        )
        .expect("a file");
        let (number, out) = (CERTIFICATES.fetch_add(1, Ordering::Relaxed), "certified");
        let chain = path(&format!("{out}-{number}.pem"));
        let arguments =
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions";
        let mut command = program::command(nginx::program("openssl"), self.folder.path());
        command
            .args(arguments.split(' '))
            .args(["-days", days, "-out", &chain]);
        program::run(command).must(0);
        Certificate {
            chain: chain.into(),
            key: self.key(),
        }
    }

    /// A certificate that signs itself, as `openssl req -x509` makes them, for so many days.
    pub fn self_signed(&self, names: &str, days: &str) -> Certificate {
        let extensions = self.path("extensions");
        fs::write(
            &extensions,
            format!("{names}\nbasicConstraints=critical,CA:TRUE\n"),
        )
        .expect("a file");
        let number = CERTIFICATES.fetch_add(1, Ordering::Relaxed);
        let chain = self.path(&format!("self-signed-{number}.pem"));
        let mut command = program::command(nginx::program("openssl"), self.folder.path());
        command
            .args(
                "x509 -req -in server.csr -signkey server.key -extfile extensions -days".split(' '),
            )
            .args([days, "-out"])
            .arg(&chain);
        program::run(command).must(0);
        let key = self.key();
        Certificate { chain, key }
    }

    /// The certificate of the authority, as that of a server.
    pub fn own(&self) -> Certificate {
        Certificate {
            chain: self.path("ca.pem"),
            key: self.path("ca.key"),
        }
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

static CERTIFICATES: AtomicU32 = AtomicU32::new(0);

/// What a server shows, and its key.
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// What --cacert takes.
    pub fn file(&self) -> String {
        self.chain.display().to_string()
    }
}

/// Speaks TLS for a server that does not.
pub struct Front {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Front {
    /// Before the server on this port of the loopback; agrees to no other protocol than HTTP/2.
    pub fn only_two(port: u16, authority: &Authority) -> Front {
        let certificate = Certificate {
            chain: authority.chain(),
            key: authority.key(),
        };
        Front::before(port, &certificate, &["h2"], false)
    }

    /// Before the server on this port of the loopback; agrees to no other protocol than HTTP/1.1.
    pub fn only_one(port: u16, authority: &Authority) -> Front {
        let certificate = Certificate {
            chain: authority.chain(),
            key: authority.key(),
        };
        Front::before(port, &certificate, &["http/1.1"], false)
    }

    /// Before the server on this port. `cuts`: when the server ends a connection, its TLS is not ended.
    pub fn before(port: u16, certificate: &Certificate, protocols: &[&str], cuts: bool) -> Front {
        let chain = CertificateDer::pem_file_iter(&certificate.chain).expect("a chain");
        let chain = chain.map(|certificate| certificate.expect("a certificate"));
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("a key");
        let mut tls = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .expect("they belong together");
        tls.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
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
                    if !cuts {
                        copy_bidirectional(&mut stream, &mut server).await?;
                        return Ok::<(), std::io::Error>(());
                    }
                    let (mut from_client, mut to_client) = split(stream);
                    let (mut from_server, mut to_server) = split(server);
                    tokio::select! {
                        ended = copy(&mut from_client, &mut to_server) => ended?,
                        ended = copy(&mut from_server, &mut to_client) => {
                            to_client.flush().await?;
                            ended?
                        }
                    };
                    Ok(())
                });
            }
        });
        Front {
            address,
            runtime: Some(runtime),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, name: &str) -> String {
        format!("https://{}/{name}", self.address)
    }
}

/// A server of openssl that speaks nothing newer than TLS 1.0, to whoever still does.
pub struct OnlyOldTls {
    server: Child,
    address: String,
}

/// What makes openssl speak it at all.
const OLD: [&str; 3] = ["-tls1", "-cipher", "ALL:@SECLEVEL=0"];

impl OnlyOldTls {
    pub fn start(authority: &Authority) -> OnlyOldTls {
        let mut command = program::command(nginx::program("openssl"), authority.folder.path());
        let mut server = command
            .args("s_server -accept 127.0.0.1:0 -cert server.pem -key server.key -www".split(' '))
            .args(OLD)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let said = BufReader::new(server.stdout.take().expect("it is piped"));
        let address = said.lines().find_map(|line| {
            let line = line.expect("text");
            line.strip_prefix("ACCEPT ").map(str::to_owned)
        });
        OnlyOldTls {
            server,
            address: address.expect("it listens"),
        }
    }

    pub fn url(&self, name: &str) -> String {
        format!("https://{}/{name}", self.address)
    }

    /// Whether who speaks TLS 1.0 gets through.
    pub fn serves_the_old(&self, authority: &Authority) -> bool {
        let mut command = program::command(nginx::program("openssl"), authority.folder.path());
        command
            .args(["s_client", "-connect", &self.address])
            .args(OLD);
        program::run(command).exit == Some(0)
    }
}

impl Drop for OnlyOldTls {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
