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
use tempfile::TempDir;

use crate::support::{
    bucket::Bucket,
    nginx::{free_port, program as find},
    postgres::shared,
    program::{Ended, LONG_ENOUGH, Running, run, sapwood, start},
    programs::repository,
    s3::KEY_ID,
    secrets::SECRET,
    tls::Authority,
};

const TOKEN: &str = "a-token-of-the-test";

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
    authority: Authority,
    ports: [u16; 2],
    database: String,
}

impl Operated {
    fn new() -> Operated {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("tokens"), TOKEN).expect("a file");
        Operated {
            folder,
            bucket: Bucket::start(),
            authority: Authority::new(),
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
        command
            .env("SAPWOOD_SESSIONS", sessions)
            .env("HOME", self.folder.path())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", self.bucket.url());
        let mut server = start(command);
        server.wait_for("a URL", |events| {
            events.iter().any(|event| event["event"] == "listening")
        });
        server
    }

    /// nginx with its configuration.
    fn proxy(&self) -> (Proxy, u16) {
        let port = free_port();
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
            ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
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
        (proxy, port)
    }

    fn client(&self, arguments: &[&str]) -> Ended {
        let mut command = sapwood(self.folder.path());
        command.args(["--json", "--store"]).arg(self.path("state"));
        command.args(arguments);
        command.args(["--cacert", &self.authority.certificate()]);
        command.env("SAPWOOD_TOKEN", TOKEN);
        run(command)
    }
}

/// Clients push through the proxy, whichever server is there.
#[test]
fn the_compose_file_takes_uploads_while_servers_come_and_go() {
    let operated = Operated::new();
    let (one, two) = (operated.server(0), operated.server(1));
    let (_proxy, port) = operated.proxy();
    let url = format!("https://localhost:{port}/");
    let push = |name: &str| {
        let object = paint::bytes(name.len() as u64, (11 << 20) + 7);
        fs::write(operated.folder.path().join(name), &object).expect("a file");
        let pushed = operated.client(&["push", name, &url, "--part-size", "5MiB"]);
        assert_eq!(
            pushed.must(0).event("published")["bytes_total"],
            object.len()
        );
        let stored = operated
            .bucket
            .object(&format!("P/{name}"))
            .expect("it is published");
        assert!(*stored.bytes == object);
    };
    push("both");
    // A server that is killed is passed over.
    one.kill();
    push("second");
    let mut again = operated.server(0);
    two.kill();
    push("first-again");
    // What is there is found through any of them; the whole set is in the sessions.
    let fetched = operated.client(&["fetch", &format!("{url}second"), "-o", "out"]);
    fetched.must(0);
    let out = fs::read(operated.folder.path().join("out")).expect("a file");
    assert!(out == fs::read(operated.folder.path().join("second")).expect("a file"));
    let states = "SELECT DISTINCT state FROM sapwood_sessions";
    assert_eq!(shared().ask(&operated.database, states).unwrap(), ["done"]);
    again.signal(Signal::TERM);
    // The log of responses goes to standard error; the password does not.
    let shown = format!("{:?}", again.finish());
    assert!(shown.contains("/.sapwood/uploads") && !shown.contains(SECRET));
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
