//! `src/docs/operating.md`: what it says is typed is typed by `recipes::`; the compose file and the configuration of nginx beside it run
//! here, with real programs, on ports and folders of their own.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sapwood::format::paint;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    bucket::Bucket,
    nginx::{free_port, program as find},
    postgres::shared,
    program::{LONG_ENOUGH, Running, sapwood, start},
    programs::repository,
    s3::KEY_ID,
    secrets::SECRET,
    site::{Api, MIB, PART, Server, Site, root},
    tls::{Authority, Front},
};

const TOKEN: &str = "a-token-of-the-test";
const TUS: (&str, &str) = ("Tus-Resumable", "1.0.0");
const TUS_BYTES: (&str, &str) = ("Content-Type", "application/offset+octet-stream");

fn read(name: &str) -> String {
    fs::read_to_string(repository(&format!("tools/compose/{name}"))).expect("a file")
}

/// The words of the command of the servers in the compose file.
fn command_of_servers(compose: &str) -> Vec<String> {
    let (_, after) = compose.split_once("  command: >-\n").expect("a command");
    let lines = after.lines().take_while(|line| line.starts_with("    "));
    let words = lines.flat_map(|line| line.split_whitespace().map(str::to_owned));
    words.collect()
}

/// A variable of the servers in the compose file.
fn variable(compose: &str, name: &str) -> String {
    let start = format!("    {name}: ");
    let line = compose.lines().find(|line| line.starts_with(&start));
    line.expect("a variable")[start.len()..].to_owned()
}

struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Operated {
    folder: TempDir,
    bucket: Bucket,
    /// Clients that speak TLS with the servers send nothing to a bucket that does not.
    endpoint: Front,
    authority: Authority,
    ports: [u16; 2],
    database: String,
}

impl Operated {
    fn new() -> Operated {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("tokens"), TOKEN).expect("a file");
        let (bucket, authority) = (Bucket::start(), Authority::new());
        Operated {
            folder,
            endpoint: Front::only_one(bucket.port(), &authority),
            bucket,
            authority,
            ports: [free_port(), free_port()],
            database: shared().database(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// One of the two servers of the compose file.
    fn server(&self, number: usize) -> Running {
        let compose = read("compose.yaml");
        let own = self.path(&format!("own-{number}"));
        fs::create_dir_all(&own).expect("a folder");
        let chain = self.authority.chain().display().to_string();
        let key = self.authority.key().display().to_string();
        let here = |word: String| match word.as_str() {
            "/srv/own" => own.clone(),
            "0.0.0.0:8443" => format!("127.0.0.1:{}", self.ports[number]),
            "/run/tls/server.pem" => chain.clone(),
            "/run/tls/server.key" => key.clone(),
            "/run/tokens" => self.path("tokens"),
            "${S3_PREFIX}" => "s3://media/P".to_owned(),
            _ => word,
        };
        let sessions = variable(&compose, "SAPWOOD_SESSIONS").replace(
            "postgres://sapwood:${POSTGRES_PASSWORD}@postgres/sapwood",
            &self.database,
        );
        let mut command = sapwood(self.folder.path());
        command.arg("--json");
        command.args(command_of_servers(&compose).into_iter().map(here));
        command.env("SAPWOOD_SESSIONS", sessions);
        self.let_reach_s3(&mut command);
        let mut server = start(command);
        server.wait_for("a URL", |events| {
            events.iter().any(|event| event["event"] == "listening")
        });
        server
    }

    fn let_reach_s3(&self, command: &mut Command) {
        let endpoint = format!("https://{}", self.endpoint.address());
        command
            .env("HOME", self.folder.path())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", endpoint)
            .env("SSL_CERT_FILE", self.authority.certificate());
    }

    /// A server without TLS and tokens, on the same sessions and the same bucket.
    fn plain_server(&self, own: &str) -> Server {
        fs::create_dir_all(self.path(own)).expect("a folder");
        let mut command = sapwood(self.folder.path());
        command.args(["--json", "serve", &self.path(own), "--ingest"]);
        command.args(["--storage", "s3://media/P", "--listen", "127.0.0.1:0"]);
        command.env("SAPWOOD_SESSIONS", &self.database);
        self.let_reach_s3(&mut command);
        Site::started(command)
    }

    /// nginx with its configuration, which also listens without TLS.
    fn proxy(&self) -> (Proxy, u16, Api) {
        let (port, plain) = (free_port(), free_port());
        let folder = self.folder.path().join("nginx");
        fs::create_dir_all(&folder).expect("a folder");
        let mut own = format!(
            "daemon off;\npid {0}/pid;\nerror_log {0}/log;\n",
            folder.display()
        );
        own += &read("nginx.conf");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary =
            temporary.map(|name| format!("{name}_temp_path {}/{name};\n", folder.display()));
        let ours = [
            (
                "http {\n",
                format!("http {{\naccess_log off;\n{}", temporary.concat()),
            ),
            ("uploads-1:8443", format!("127.0.0.1:{}", self.ports[0])),
            ("uploads-2:8443", format!("127.0.0.1:{}", self.ports[1])),
            (
                "listen 443 ssl;",
                format!("listen 127.0.0.1:{port} ssl;\nlisten 127.0.0.1:{plain};"),
            ),
            (
                "/run/tls/fullchain.pem",
                self.authority.chain().display().to_string(),
            ),
            (
                "/run/tls/privkey.pem",
                self.authority.key().display().to_string(),
            ),
            ("/run/tls/ca.pem", self.authority.certificate()),
            (
                "proxy_ssl_name uploads-1",
                "proxy_ssl_name localhost".to_owned(),
            ),
        ];
        for (theirs, ours) in ours {
            assert!(own.contains(theirs), "nginx.conf has no {theirs}");
            own = own.replace(theirs, &ours);
        }
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, own).expect("a file");
        let mut command = Command::new(find("nginx"));
        command.arg("-p").arg(&folder).arg("-c").arg(&configuration);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let proxy = Proxy(command.spawn().expect("nginx starts"));
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < LONG_ENOUGH, "{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let api = Api {
            address: format!("127.0.0.1:{plain}"),
            token: Some(TOKEN),
        };
        (proxy, port, api)
    }

    fn client(&self, arguments: &[&str]) -> Running {
        let mut command = sapwood(self.folder.path());
        command.args(["--json", "--store"]).arg(self.path("state"));
        command.args(arguments);
        command.args(["--cacert", &self.authority.certificate()]);
        command.env("SAPWOOD_TOKEN", TOKEN);
        start(command)
    }
}

/// Clients push through the proxy, whichever server is there.
#[test]
fn the_compose_file_takes_uploads_while_servers_come_and_go() {
    let operated = Operated::new();
    let (one, two) = (operated.server(0), operated.server(1));
    let (_proxy, port, api) = operated.proxy();
    let url = format!("https://localhost:{port}/");
    let begin = |name: &str| {
        let object = paint::bytes(name.len() as u64, 4 * PART + 7);
        fs::write(operated.folder.path().join(name), &object).expect("a file");
        let begun = operated.client(&["push", name, &url, "--part-size", "5MiB"]);
        (begun, object)
    };
    let end = |(mut begun, object): (Running, Vec<u8>), name: &str| {
        let published = begun.finish().must(0).event("published");
        assert_eq!(published["bytes_total"], object.len());
        assert_eq!(published["root"], root(&object));
        let stored = operated.bucket.object(&format!("P/{name}"));
        assert!(*stored.expect("it is published").bytes == object);
    };
    // A server is killed while parts are on their way, and passed over then.
    operated.bucket.hold_at(5, false);
    let begun = begin("killed");
    let waiting = Instant::now();
    while !operated.bucket.holds() {
        assert!(waiting.elapsed() < LONG_ENOUGH);
        std::thread::sleep(Duration::from_millis(5));
    }
    one.kill();
    assert!(operated.bucket.object("P/killed").is_none());
    assert_eq!(operated.bucket.pending().len(), 1);
    operated.bucket.release();
    end(begun, "killed");
    let mut again = operated.server(0);
    // A stream in pieces that are no parts finds the server that has them, and Uppy any.
    let object = paint::bytes(5, 2 * PART + 7);
    tus(&mut || &api, "streamed", &object, 3 * MIB);
    uppy(&mut || &api, "https://127.0.0.1", "parted", &object);
    for name in ["streamed", "parted"] {
        let stored = operated.bucket.object(&format!("P/{name}"));
        assert!(*stored.expect("it is published").bytes == object);
    }
    two.kill();
    end(begin("first-again"), "first-again");
    // What is there is found through any of them; the whole set is in the sessions.
    let mut fetched = operated.client(&["fetch", &format!("{url}killed"), "-o", "out"]);
    fetched.finish().must(0);
    let out = fs::read(operated.folder.path().join("out")).expect("a file");
    assert!(out == fs::read(operated.folder.path().join("killed")).expect("a file"));
    let states = "SELECT DISTINCT state FROM sapwood_sessions";
    assert_eq!(shared().ask(&operated.database, states).unwrap(), ["done"]);
    again.signal(Signal::TERM);
    // The log of responses goes to standard error; the password does not.
    let shown = format!("{:?}", again.finish());
    assert!(shown.contains("/.sapwood/uploads") && !shown.contains(SECRET));
}

/// The requests of tus for an object, in pieces of this length, each sent where this says.
fn tus<'a>(api: &mut dyn FnMut() -> &'a Api, name: &str, object: &[u8], piece: usize) {
    let length = object.len().to_string();
    let fields = [TUS, ("Upload-Length", length.as_str())];
    let path = format!("/.sapwood/resumable/{name}");
    let made = api().send("POST", &path, &fields, b"").must(201);
    let url = &made.headers["location"];
    for (index, bytes) in object.chunks(piece).enumerate() {
        let at = (index * piece).to_string();
        let fields = [TUS, TUS_BYTES, ("Upload-Offset", &at)];
        let sent = api().send("PATCH", url, &fields, bytes).must(204);
        let end = index * piece + bytes.len();
        assert_eq!(sent.headers["upload-offset"], end.to_string());
    }
}

/// Those of Uppy: in parts, whose URLs begin so.
fn uppy<'a>(api: &mut dyn FnMut() -> &'a Api, base: &str, name: &str, object: &[u8]) {
    const JSON: (&str, &str) = ("Content-Type", "application/json");
    let body = json!({ "filename": name, "type": "", "metadata": {} }).to_string();
    let made = api().send("POST", "/s3/multipart", &[JSON], body.as_bytes());
    let id = made.must(200).json()["uploadId"].as_str().map(String::from);
    let path = |more: &str| {
        format!(
            "/s3/multipart/{}{more}?key={name}",
            id.as_ref().expect("an ID")
        )
    };
    let mut parts = Vec::new();
    for (number, part) in (1..).zip(object.chunks(PART)) {
        let signed = api().get(&path(&format!("/{number}"))).must(200).json();
        let url = signed["url"].as_str().expect("a URL");
        assert!(url.starts_with(base), "{url}");
        let (_, url) = url.split_once("/.sapwood").expect("a path");
        let sent = api().send("PUT", &format!("/.sapwood{url}"), &[], part);
        parts.push(json!({ "PartNumber": number, "ETag": sent.must(200).headers["etag"] }));
    }
    let body = json!({ "parts": parts }).to_string();
    let complete = path("/complete");
    api()
        .send("POST", &complete, &[JSON], body.as_bytes())
        .must(200);
}

/// A URL that one of the servers signed is good for all: the key is with the sessions.
#[test]
fn each_request_goes_to_another_server() {
    let operated = Operated::new();
    // The first server had a key when it was alone.
    let own_key = |own: &str| {
        operated
            .folder
            .path()
            .join(own)
            .join("sapwood-staging/url.key")
    };
    fs::create_dir_all(own_key("a").parent().expect("a folder")).expect("a folder");
    fs::write(own_key("a"), [7; 32]).expect("a file");
    let servers = [operated.plain_server("a"), operated.plain_server("b")];
    let key = "SELECT encode(url_key, 'hex') FROM sapwood_shared";
    let key = shared().ask(&operated.database, key).unwrap();
    assert_eq!(key, ["07".repeat(32)]);
    assert!(!own_key("b").exists(), "nothing else signs");
    let mut requests = 0;
    let mut api = || {
        requests += 1;
        &servers[requests % 2].api
    };
    let object = paint::bytes(5, 2 * (8 * MIB) + 7);
    uppy(&mut api, "http://127.0.0.1", "parted", &object);
    tus(&mut api, "streamed", &object, 8 * MIB);
    // A file that is sent by a form.
    let signed = api().get("/s3/params?filename=formed").must(200).json();
    let url = signed["url"].as_str().expect("a URL");
    let query = url.split_once('?').expect("a query").1;
    let mut form =
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n".to_vec();
    form.extend(&object);
    form.extend(b"\r\n--b--\r\n");
    let media_type = ("Content-Type", "multipart/form-data; boundary=b");
    let sent = api().send("POST", &format!("/?{query}"), &[media_type], &form);
    sent.must(204);
    for name in ["parted", "streamed", "formed"] {
        let stored = operated.bucket.object(&format!("P/{name}"));
        assert!(*stored.expect("it is published").bytes == object);
    }
    // Of no part that is not whole another server knows: the client learns where it goes on.
    let fields = [TUS, ("Upload-Length", "100")];
    let path = "/.sapwood/resumable/short";
    let made = servers[0].api.send("POST", path, &fields, b"").must(201);
    let url = &made.headers["location"];
    let patch = |server: usize, at: &str| {
        let fields = [TUS, TUS_BYTES, ("Upload-Offset", at)];
        servers[server].api.send("PATCH", url, &fields, &[7; 50])
    };
    patch(0, "0").must(204);
    let elsewhere = patch(1, "50");
    assert_eq!(elsewhere.headers["upload-offset"], "0");
    elsewhere.problem(409, "wrong_offset");
}

/// Every file that the compose file names, and every name that its servers have for each other.
#[test]
fn the_compose_file_is_whole() {
    let compose = read("compose.yaml");
    for line in compose.lines() {
        let indent = line.len() - line.trim_start().len();
        assert!(indent % 2 == 0 && !line.contains('\t'), "{line}");
    }
    let services = compose.split_once("\nservices:\n").expect("services").1;
    for name in ["uploads-1:", "uploads-2:", "postgres:", "proxy:"] {
        assert!(
            services.contains(&format!("\n  {name}")) || services.starts_with(&format!("  {name}"))
        );
    }
    for name in ["nginx.conf", "Dockerfile"] {
        assert!(
            compose.contains(name)
                && Path::new(&repository(&format!("tools/compose/{name}"))).exists()
        );
    }
    let command = command_of_servers(&compose);
    assert_eq!(command[0], "serve");
    assert!(command.contains(&"${S3_PREFIX}".to_owned()));
}
