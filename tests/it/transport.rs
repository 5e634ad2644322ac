//! What a server has besides its files: TLS, HTTP/2, the access log, metrics, and the end of each connection.

use std::{
    fs::{self, File},
    future::Future,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::process::Signal;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use sapwood::serve::{
    connections::{self, Limits, Options},
    metrics::Metrics,
    tls::Tls,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    nginx::program,
    program::{Ended, LONG_ENOUGH, Running, command, run, sapwood, start},
    tls::Authority,
};

const MIB: u64 = 1 << 20;

/// A running `sapwood serve`, and the folder that it serves.
struct Served {
    folder: TempDir,
    running: Running,
    url: String,
}

impl Served {
    /// `flags`: words after the command.
    fn start(flags: &[&str]) -> Served {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("f"), "0123456789").expect("a file");
        Served::of(folder, flags)
    }

    fn of(folder: TempDir, flags: &[&str]) -> Served {
        let mut command = sapwood(folder.path());
        command.args(["--json", "serve", ".", "--listen", "127.0.0.1:0"]);
        command.args(flags);
        let mut running = start(command);
        running.wait_for("a URL", |events| !events.is_empty());
        let url = running.events()[0]["url"]
            .as_str()
            .expect("a URL")
            .to_owned();
        Served {
            folder,
            running,
            url,
        }
    }

    fn with_tls(authority: &Authority, flags: &[&str]) -> Served {
        let (chain, key) = (authority.chain(), authority.key());
        let tls = ["--tls-cert", text(&chain), "--tls-key", text(&key)];
        Served::start(&[&tls, flags].concat())
    }

    fn address(&self) -> &str {
        let (_, address) = self.url.split_once("://").expect("a URL");
        address.trim_end_matches('/')
    }

    /// curl with these flags and the URL of this path.
    fn curl(&self, path: &str, flags: &[&str]) -> Ended {
        let mut command = command(program("curl"), self.folder.path());
        command.args(["-sS", "--max-time", "60"]).args(flags);
        run_with(command, &format!("{}{path}", self.url))
    }

    fn warnings(&self) -> Vec<String> {
        let events = self.running.events();
        let warnings = events.iter().filter(|event| event["event"] == "warning");
        warnings
            .map(|event| event["message"].as_str().expect("text").to_owned())
            .collect()
    }
}

fn run_with(mut command: std::process::Command, last: &str) -> Ended {
    command.arg(last);
    run(command)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Waits until it is so; fails if that takes too long.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG_ENOUGH;
    while !is_so() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn openssl(folder: &Path, words: &str) {
    let mut command = command(program("openssl"), folder);
    command.args(words.split(' '));
    run(command).must(0);
}

#[test]
fn tls_serves_every_client_over_both_versions() {
    let authority = Authority::new();
    let served = Served::with_tls(&authority, &[]);
    assert!(
        served.url.starts_with("https://127.0.0.1:"),
        "{}",
        served.url
    );
    let ca = authority.certificate();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let flags = [flag, "--cacert", &ca, "-r", "3-5", "-w", " %{http_version}"];
        let ended = served.curl("f", &flags).must(0);
        assert_eq!(ended.stdout, format!("345 {version}"));
    }
    let mut manifest = sapwood(served.folder.path());
    manifest.args(["manifest", "f"]);
    run(manifest).must(0);
    for version in ["1.1", "2"] {
        let out = TempDir::new().expect("a folder");
        let mut fetch = sapwood(out.path());
        fetch.args([
            "fetch",
            "--cacert",
            &ca,
            "--http",
            version,
            "--require",
            "manifest",
        ]);
        run_with(fetch, &format!("{}f", served.url)).must(0);
        assert_eq!(
            fs::read(out.path().join("f")).expect("a file"),
            b"0123456789"
        );
    }
}

#[test]
fn certificates_and_keys_that_cannot_work_are_named() {
    let authority = Authority::new();
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (chain, key) = (
        authority.chain().display().to_string(),
        authority.key().display().to_string(),
    );
    fs::create_dir(folder.path().join("site")).expect("a folder");
    fs::write(
        path("garbage"),
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .expect("a file");
    fs::write(path("empty"), "").expect("a file");
    fs::copy(&key, path("site/key")).expect("a copy");
    openssl(
        folder.path(),
        &format!("pkey -in {key} -aes256 -passout pass:x -out encrypted8"),
    );
    openssl(
        folder.path(),
        &format!("ec -in {key} -aes256 -passout pass:x -out encrypted1"),
    );
    openssl(folder.path(), "genpkey -algorithm ed448 -out ed448");
    for (certificate, key, exit, expected) in [
        (path("missing"), key.clone(), 2, "missing: No such file"),
        (chain.clone(), path("missing"), 2, "missing: No such file"),
        (path("empty"), key.clone(), 2, "empty has no certificate"),
        (key.clone(), key.clone(), 2, "server.key has no certificate"),
        (path("garbage"), key.clone(), 2, "garbage cannot be used"),
        (
            chain.clone(),
            chain.clone(),
            2,
            "server.pem has no private key",
        ),
        (
            chain.clone(),
            path("encrypted8"),
            2,
            "encrypted8 is encrypted",
        ),
        (
            chain.clone(),
            path("encrypted1"),
            2,
            "encrypted1 is encrypted",
        ),
        (chain.clone(), path("ed448"), 2, "ed448 cannot be used"),
        (
            authority.certificate(),
            key.clone(),
            2,
            "does not belong to the certificate",
        ),
        (
            chain.clone(),
            path("site/key"),
            6,
            "everyone could read the key",
        ),
    ] {
        let mut command = sapwood(folder.path());
        command.args(["serve", "site", "--listen", "127.0.0.1:0"]);
        command.args(["--tls-cert", &certificate, "--tls-key", &key]);
        let ended = run(command).must(exit);
        assert!(
            ended.stderr.contains(expected),
            "{expected}: {}",
            ended.stderr
        );
        assert_eq!(ended.stdout, "");
    }
    for alone in ["--tls-cert", "--tls-key"] {
        let mut command = sapwood(folder.path());
        command.args(["serve", "site", alone, &chain]);
        run(command).must(2);
    }
}

#[test]
fn keys_of_every_kind_are_read() {
    let authority = Authority::new();
    let folder = TempDir::new().expect("a folder");
    let key = authority.key().display().to_string();
    // PKCS#8 comes from openssl by itself; SEC1 and PKCS#1 are the older ones.
    openssl(folder.path(), &format!("ec -in {key} -out sec1"));
    openssl(
        folder.path(),
        "req -x509 -newkey rsa:2048 -nodes -keyout rsa8 -out rsa.pem -days 2 -subj /CN=localhost",
    );
    openssl(folder.path(), "rsa -in rsa8 -traditional -out pkcs1");
    let (chain, rsa) = (authority.chain(), folder.path().join("rsa.pem"));
    for (certificate, key, begins) in [
        (&chain, authority.key(), "-----BEGIN PRIVATE KEY"),
        (
            &chain,
            folder.path().join("sec1"),
            "-----BEGIN EC PRIVATE KEY",
        ),
        (
            &rsa,
            folder.path().join("pkcs1"),
            "-----BEGIN RSA PRIVATE KEY",
        ),
    ] {
        assert!(fs::read_to_string(&key).expect("a key").starts_with(begins));
        let served = Served::start(&["--tls-cert", text(certificate), "--tls-key", text(&key)]);
        assert_eq!(served.curl("f", &["-k"]).must(0).stdout, "0123456789");
    }
}

#[test]
fn plain_http_to_a_tls_port_is_told_so() {
    let authority = Authority::new();
    let served = Served::with_tls(&authority, &[]);
    let mut command = command(program("curl"), served.folder.path());
    command.args(["-sS", "-w", "%{http_code}", "--max-time", "5"]);
    let ended = run_with(command, &format!("http://{}/f", served.address())).must(0);
    assert!(
        ended.stdout.contains("serves https") && ended.stdout.ends_with("\n400"),
        "{}",
        ended.stdout
    );
    // No HTTP, and nothing that is TLS.
    let mut odd = TcpStream::connect(served.address()).expect("it listens");
    odd.write_all(&[22, 3, 1, 0, 5, 1, 2, 3, 4, 5])
        .expect("sent");
    odd.set_read_timeout(Some(Duration::from_secs(9)))
        .expect("a timeout");
    let ended = odd.read_to_end(&mut Vec::new());
    assert!(
        ended.is_ok()
            || ended.is_err_and(|cause| cause.kind() == std::io::ErrorKind::ConnectionReset)
    );
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart() {
    let authority = Authority::new();
    let folder = TempDir::new().expect("a folder");
    let (chain, key) = (folder.path().join("chain"), folder.path().join("key"));
    fs::copy(authority.chain(), &chain).expect("a copy");
    fs::copy(authority.key(), &key).expect("a copy");
    let served = Served::start(&["--tls-cert", text(&chain), "--tls-key", text(&key)]);
    let ca = authority.certificate();
    let is_trusted = || served.curl("f", &["--cacert", &ca]).exit == Some(0);
    assert!(is_trusted());
    // Another pair, which that authority did not make.
    openssl(
        folder.path(),
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key2 -out chain2 -days 2 -subj /CN=localhost",
    );
    fs::rename(folder.path().join("chain2"), &chain).expect("renamed");
    fs::rename(folder.path().join("key2"), &key).expect("renamed");
    wait_until("the new certificate", || !is_trusted());
    assert_eq!(served.curl("f", &["-k"]).must(0).stdout, "0123456789");
    // A pair that does not belong together: the one before stays.
    fs::copy(authority.chain(), &chain).expect("a copy");
    wait_until("a warning", || {
        served.curl("f", &["-k"]).must(0);
        served
            .warnings()
            .iter()
            .any(|warning| warning.contains("does not belong"))
    });
    assert!(!is_trusted());
    fs::copy(authority.key(), &key).expect("a copy");
    wait_until("the first certificate", is_trusted);
}

/// The lines of a log, as soon as there are so many.
#[track_caller]
fn lines(log: &Path, count: usize) -> Vec<Value> {
    let read = || fs::read_to_string(log).unwrap_or_default();
    wait_until("lines of the log", || read().lines().count() >= count);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    read().lines().map(parse).collect()
}

#[test]
fn the_access_log_has_a_line_for_each_response() {
    let authority = Authority::new();
    let outside = TempDir::new().expect("a folder");
    let log = outside.path().join("log");
    let mut served = Served::with_tls(&authority, &["--access-log", text(&log)]);
    let large = File::create(served.folder.path().join("large")).expect("a file");
    large.set_len(64 * MIB).expect("a hole");
    served
        .curl("f?token=secret", &["-k", "--http1.1", "-r", "2-4"])
        .must(0);
    served.curl("f", &["-k", "--http2", "-I"]).must(0);
    served.curl("n%20o", &["-k", "--http2"]).must(0);
    served
        .curl("f", &["-k", "--http1.1", "-X", "DELETE"])
        .must(0);
    for (count, version) in [(5, "--http1.1"), (6, "--http2")] {
        served
            .curl(
                "large",
                &["-k", version, "--limit-rate", "1M", "--max-time", "1"],
            )
            .must(28);
        lines(&log, count);
    }
    let found = lines(&log, 6);
    let shown = |line: &Value| {
        let field = |name: &str| match (name, &line["status"]) {
            // The page of an error has any length.
            ("bytes", status) if status.as_u64() >= Some(400) => "?".to_owned(),
            _ => line[name].to_string(),
        };
        let fields = [
            "method", "path", "status", "bytes", "range", "version", "complete",
        ];
        fields.map(field).join(" ")
    };
    for (line, expected) in found.iter().zip([
        r#""GET" "/f" 206 3 "bytes=2-4" "HTTP/1.1" true"#,
        r#""HEAD" "/f" 200 0 null "HTTP/2.0" true"#,
        r#""GET" "/n%20o" 404 ? null "HTTP/2.0" true"#,
        r#""DELETE" "/f" 405 ? null "HTTP/1.1" true"#,
    ]) {
        assert_eq!(shown(line), expected);
    }
    for line in &found[4..] {
        assert_eq!(
            (&line["status"], &line["complete"]),
            (&200.into(), &false.into()),
            "{line}"
        );
        let bytes = line["bytes"].as_u64().expect("a number");
        assert!((1..64 * MIB).contains(&bytes), "{line}");
        assert!(line["duration_ms"].as_f64() > Some(500.0), "{line}");
    }
    assert_eq!(found[0]["client"], "127.0.0.1");
    let time = found[0]["time"].as_str().expect("text");
    assert!(
        time.starts_with("20") && time.ends_with('Z') && time.len() == 24,
        "{time}"
    );
    assert!(!fs::read_to_string(&log).expect("a log").contains("secret"));
    let mode = fs::metadata(&log).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Rotated.
    let old = outside.path().join("log.1");
    fs::rename(&log, &old).expect("renamed");
    served.running.signal(Signal::HUP);
    wait_until("a new log", || log.exists());
    served.curl("f", &["-k"]).must(0);
    assert_eq!(lines(&log, 1).len(), 1);
    assert_eq!(lines(&old, 6).len(), 6);
    served.running.signal(Signal::TERM);
    assert_eq!(served.running.finish().exit, Some(0));
}

/// They were answered below the application, which never saw them.
#[test]
fn a_request_that_cannot_be_read_is_logged() {
    let outside = TempDir::new().expect("a folder");
    let log = outside.path().join("log");
    let served = Served::start(&["--access-log", text(&log)]);
    let address = served
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1_000_000));
    for (count, (request, status)) in [("bad\r\n\r\n", 400), (large.as_str(), 431)]
        .iter()
        .enumerate()
    {
        let mut connection = TcpStream::connect(address).expect("it listens");
        // The server closes it before all of the large one is read.
        let _ = connection.write_all(request.as_bytes());
        let line = lines(&log, count + 1).pop().expect("a line");
        assert_eq!(
            (&line["status"], &line["client"]),
            (&(*status).into(), &"127.0.0.1".into()),
            "{line}"
        );
        assert_eq!(
            (&line["method"], &line["path"]),
            (&"".into(), &"".into()),
            "{line}"
        );
    }
}

#[test]
fn the_log_goes_to_standard_error_for_a_dash() {
    let mut served = Served::start(&["--access-log", "-"]);
    for _ in 0..20 {
        served.curl("f", &[]).must(0);
    }
    served.running.signal(Signal::INT);
    let ended = served.running.finish().must(0);
    assert_eq!(
        ended.stderr.matches("\"path\":\"/f\"").count(),
        20,
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stdout.lines().count(), 1);
}

#[test]
fn a_full_disk_under_the_log_ends_nothing() {
    let served = Served::start(&["--access-log", "/dev/full"]);
    for _ in 0..3 {
        assert_eq!(served.curl("f", &[]).must(0).stdout, "0123456789");
        std::thread::sleep(Duration::from_millis(50));
    }
    wait_until("a warning", || !served.warnings().is_empty());
    let warnings = served.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("/dev/full"),
        "{warnings:?}"
    );
}

/// Parses metrics as Prometheus does and prints each sample.
const PARSE: &str = "import sys
from prometheus_client.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    assert family.documentation and family.type != 'unknown', family
    for sample in family.samples:
        print(sample.name, *(f'{name}={value}' for name, value in sorted(sample.labels.items())), int(sample.value))";

/// The samples that Prometheus would see.
fn samples(served: &Served) -> String {
    let page = served.curl("metrics", &["-k"]).must(0).stdout;
    let mut parser = command("/usr/bin/python3", served.folder.path());
    parser.args(["-c", PARSE]);
    let ended = crate::support::program::run_with_input(parser, page.as_bytes());
    ended.must(0).stdout
}

#[test]
fn metrics_count_what_was_served() {
    let served = Served::start(&[]);
    served.curl("f", &[]).must(0);
    served.curl("f", &["-r", "0-3"]).must(0);
    served.curl("f", &["-I"]).must(0);
    served.curl("missing", &["-o", "/dev/null"]).must(0);
    let found = samples(&served);
    let value = |sample: &str| {
        let line = found
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample}: {found}"))
            .parse::<u64>()
            .expect("a number")
    };
    assert_eq!(
        value("sapwood_http_requests_total method=GET status=2xx"),
        2
    );
    assert_eq!(
        value("sapwood_http_requests_total method=GET status=4xx"),
        1
    );
    assert_eq!(
        value("sapwood_http_requests_total method=HEAD status=2xx"),
        1
    );
    assert_eq!(value("sapwood_http_request_duration_seconds_count"), 4);
    assert_eq!(
        value("sapwood_http_request_duration_seconds_bucket le=+Inf"),
        4
    );
    assert_eq!(value("sapwood_connections_accepted_total"), 5);
    assert_eq!(value("sapwood_connections_open"), 1);
    assert_eq!(value("sapwood_connections_closed_total reason=done"), 4);
    assert!(value("sapwood_http_response_bytes_total") >= 14);
    assert!(value("process_start_time_seconds") > 1_700_000_000);
    assert!(found.contains("sapwood_build_info version="), "{found}");
    wait_until("the manifest of the file", || {
        let found = samples(&served);
        found.contains("sapwood_manifests_made_total 1\n")
            && found.contains("sapwood_manifests_pending 0\n")
    });
    let health = served
        .curl("healthz", &["-w", "%{http_code}"])
        .must(0)
        .stdout;
    assert_eq!(health, "ok\n200");
    let head = served.curl("metrics", &["-I"]).must(0).stdout;
    assert!(
        head.contains("version=0.0.4") && head.contains("content-length"),
        "{head}"
    );
}

#[test]
fn a_file_named_metrics_is_served_in_place_of_the_metrics() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("metrics"), "mine").expect("a file");
    let mut served = Served::of(folder, &[]);
    served
        .running
        .wait_for("a warning", |events| events.len() > 1);
    let warnings = served.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("metrics"),
        "{warnings:?}"
    );
    assert_eq!(served.curl("metrics", &[]).must(0).stdout, "mine");
    assert_eq!(served.curl("healthz", &[]).must(0).stdout, "ok\n");
    let without = Served::start(&["--no-metrics"]);
    for name in ["metrics", "healthz"] {
        let status = without.curl(name, &["-o", "/dev/null", "-w", "%{http_code}"]);
        assert_eq!(status.must(0).stdout, "404");
    }
}

/// A server in this process, with limits of its own.
struct InProcess {
    runtime: Runtime,
    address: std::net::SocketAddr,
    metrics: Arc<Metrics>,
    authority: Option<Authority>,
}

impl InProcess {
    /// `with_tls`: serves https, else http. Bodies are endless.
    fn start(limits: Limits, with_tls: bool) -> InProcess {
        let runtime = Runtime::new().expect("threads");
        let authority = with_tls.then(Authority::new);
        let tls = authority.as_ref().map(|authority| {
            let warn = Box::new(|warning| panic!("{warning}"));
            Arc::new(Tls::load(&authority.chain(), &authority.key(), warn).expect("a pair"))
        });
        let metrics = Metrics::new();
        let options = Options {
            limits,
            tls,
            metrics: metrics.clone(),
            ..Options::default()
        };
        let endless = || async {
            let chunk = Bytes::from_static(&[7; 16 * 1024]);
            let chunks =
                futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            axum::body::Body::from_stream(chunks)
        };
        let app = axum::Router::new().fallback(endless);
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        runtime.spawn(connections::serve(
            listener,
            app,
            options,
            std::future::pending(),
        ));
        InProcess {
            runtime,
            address,
            metrics,
            authority,
        }
    }

    async fn connect_tls(&self) -> TlsStream<tokio::net::TcpStream> {
        connect_tls(self.authority.as_ref().expect("TLS"), self.address).await
    }

    /// Runs a client; fails if that takes too long.
    fn run<T>(&self, client: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), client)
                .await
                .expect("it ends")
        })
    }

    fn has_closed(&self, reason: &str) -> bool {
        let closed = format!("sapwood_connections_closed_total{{reason=\"{reason}\"}} 1");
        self.metrics.text().lines().any(|line| line == closed)
    }
}

/// Agrees to HTTP/2.
async fn connect_tls(
    authority: &Authority,
    address: impl tokio::net::ToSocketAddrs,
) -> TlsStream<tokio::net::TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(PathBuf::from(authority.certificate()));
    roots.add(ca.expect("a certificate")).expect("an authority");
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, socket).await.expect("a handshake")
}

fn get() -> http::Request<()> {
    http::Request::get("https://localhost/f")
        .body(())
        .expect("a request")
}

#[test]
fn http2_clients_that_do_not_read_are_silent_although_they_ping() {
    let limits = Limits {
        silence: Duration::from_secs(2),
        ..Limits::default()
    };
    let server = InProcess::start(limits, true);
    server.run(async {
        let (mut requests, mut connection) = h2::client::handshake(server.connect_tls().await)
            .await
            .expect("HTTP/2");
        let mut pings = connection.ping_pong().expect("once");
        let connection = tokio::spawn(connection);
        let (response, _) = requests.send_request(get(), true).expect("sent");
        let response = response.await.expect("a response");
        let pinging = async {
            while pings.ping(h2::Ping::opaque()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let began = Instant::now();
        pinging.await;
        assert!(
            began.elapsed() > Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        let _ = connection.await;
        drop(response);
    });
    wait_until("the end", || server.has_closed("silence"));
}

#[test]
fn a_flood_of_resets_ends_its_connection() {
    let server = InProcess::start(Limits::default(), true);
    server.run(async {
        let (mut requests, connection) = h2::client::handshake(server.connect_tls().await)
            .await
            .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        for _ in 0..10_000 {
            let Ok(mut ready) = requests.clone().ready().await else {
                break;
            };
            let Ok((_, mut stream)) = ready.send_request(get(), true) else {
                break;
            };
            stream.send_reset(h2::Reason::CANCEL);
            requests = ready;
        }
        drop(requests);
        // The reason does not always arrive: the server does not read what is left.
        let ended = connection.await.expect("no panic");
        ended.expect_err("the server ended it");
    });
    wait_until("the end", || server.has_closed("broken"));
}

#[test]
fn many_http2_streams_share_what_is_allowed() {
    // One connection has its own, and two streams beside it.
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = InProcess::start(limits, true);
    server.run(async {
        let (mut requests, connection) = h2::client::handshake(server.connect_tls().await)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        let mut responses = Vec::new();
        for _ in 0..5 {
            requests = requests.ready().await.expect("it is open");
            let (response, _) = requests.send_request(get(), true).expect("sent");
            responses.push(tokio::spawn(response));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = responses
            .iter()
            .filter(|response| response.is_finished())
            .count();
        assert_eq!(begun, 3);
        // The end of one is the beginning of the next.
        let first = responses
            .remove(0)
            .await
            .expect("no panic")
            .expect("a response");
        drop(first);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = responses
            .iter()
            .filter(|response| response.is_finished())
            .count();
        assert!(begun >= 2, "{begun}");
    });
}

#[test]
fn a_handshake_that_does_not_go_on_is_given_up() {
    let limits = Limits {
        headers: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = InProcess::start(limits, true);
    for begun in [&b""[..], &[22, 3, 1, 0, 200]] {
        let mut connection = TcpStream::connect(server.address).expect("it listens");
        connection.write_all(begun).expect("sent");
        let began = Instant::now();
        let _ = connection.read_to_end(&mut Vec::new());
        assert!(
            began.elapsed() < Duration::from_secs(9),
            "{:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_response_under_way_keeps_its_place() {
    let limits = Limits {
        connections: 4,
        ..Limits::default()
    };
    let server = InProcess::start(limits, false);
    let mut reading = TcpStream::connect(server.address).expect("it listens");
    reading
        .write_all(b"GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let mut bytes = vec![0; 1 << 16];
    reading.read_exact(&mut bytes).expect("a response");
    let began = Instant::now();
    let idle: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(server.address).expect("it listens"))
        .collect();
    let mut new = TcpStream::connect(server.address).expect("it listens");
    new.write_all(b"GET /f HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    new.read_exact(&mut bytes).expect("a response");
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
    for _ in 0..100 {
        reading.read_exact(&mut bytes).expect("it goes on");
    }
    drop(idle);
}

#[test]
fn slow_http2_readers_take_little_memory() {
    const CONNECTIONS: u64 = 8;
    const STREAMS_EACH: u64 = 64;
    const BYTES_EACH: u64 = 112 * 1024;
    let authority = Authority::new();
    let served = Served::with_tls(&authority, &[]);
    let file = File::create(served.folder.path().join("f")).expect("a file");
    file.set_len(64 * MIB).expect("a hole");
    let runtime = Runtime::new().expect("threads");
    let peak = runtime.block_on(async {
        let mut responses = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = connect_tls(&authority, served.address()).await;
            let mut client = h2::client::Builder::new();
            client.initial_connection_window_size(1 << 30);
            let (mut requests, connection) =
                client.handshake::<_, Bytes>(stream).await.expect("HTTP/2");
            tokio::spawn(connection);
            for _ in 0..STREAMS_EACH {
                requests = requests.ready().await.expect("it is open");
                let (response, _) = requests.send_request(get(), true).expect("sent");
                responses.push(response.await.expect("a response"));
            }
        }
        // Each has begun, and as much waits as the server keeps for it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        served.running.peak_memory().expect("it runs")
    });
    let streams = CONNECTIONS * STREAMS_EACH;
    assert!(
        peak < 32 * MIB + streams * BYTES_EACH,
        "{} KiB",
        peak / 1024
    );
}
