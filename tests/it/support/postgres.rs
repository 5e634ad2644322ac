//! Postgres, on a port of its own with a data folder of its own. One server is shared by all tests of a run.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use super::{nginx::free_port, program::LONG_ENOUGH, secrets::SECRET, tls::Authority};

/// The super user of the database.
pub const USER: &str = "tester";

/// A database server. It ends with this process, however that ends.
pub struct Postgres {
    folder: TempDir,
    port: u16,
    is_durable: bool,
    shell: Option<Child>,
    pub authority: Authority,
}

static SHARED: OnceLock<Postgres> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server of all tests that do not stop it.
pub fn shared() -> &'static Postgres {
    SHARED.get_or_init(|| Postgres::start(false))
}

/// A program of Postgres. Debian has them in no folder of the PATH.
fn program(name: &str) -> PathBuf {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|entry| entry.path().join("bin")));
        folders.sort();
        folders.reverse();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let mut found = folders.iter().map(|folder| folder.join(name));
    let found = found.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("this test needs {name}: install postgresql"))
}

/// As another user, if we are root: Postgres does not run as root.
fn command(words: &[&Path], folder: &Path) -> Command {
    let mut command = match rustix::process::getuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            let id = user().to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
            command
        }
        false => Command::new("env"),
    };
    // Its own locale and time zone.
    command.args(words).current_dir(folder).env_clear();
    command.envs([("LC_ALL", "C"), ("PATH", "/usr/bin:/bin")]);
    command
}

/// The ID of the user as who Postgres runs, if we are root.
fn user() -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("users");
    let id = |name: &str| {
        let prefix = format!("{name}:");
        let line = users.lines().find(|line| line.starts_with(&prefix))?;
        line.split(':').nth(2)?.parse().ok()
    };
    id("postgres").or(id("nobody")).expect("a user")
}

impl Postgres {
    /// A server of its own. `is_durable`: what was committed survives a crash of the machine.
    pub fn start(is_durable: bool) -> Postgres {
        let folder = tempfile::Builder::new()
            .prefix("postgres")
            .tempdir()
            .expect("a folder");
        let authority = Authority::new();
        let own = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
            if rustix::process::getuid().is_root() {
                chown(path, Some(user()), Some(user())).expect("an owner");
            }
        };
        let path = |name: &str| folder.path().join(name);
        fs::write(path("password"), SECRET).expect("a file");
        fs::copy(authority.chain(), path("server.pem")).expect("a copy");
        fs::copy(authority.key(), path("server.key")).expect("a copy");
        for name in ["password", "server.pem", "server.key"] {
            own(&path(name), 0o600);
        }
        own(folder.path(), 0o700);
        let made = command(
            &[
                &program("initdb"),
                "--pgdata=data".as_ref(),
                "--no-sync".as_ref(),
                "--auth=scram-sha-256".as_ref(),
                "--pwfile=password".as_ref(),
                format!("--username={USER}").as_ref(),
                "--encoding=UTF8".as_ref(),
            ],
            folder.path(),
        )
        .output()
        .expect("initdb runs");
        assert!(made.status.success(), "{made:?}");
        let mut postgres = Postgres {
            folder,
            port: free_port(),
            is_durable,
            shell: None,
            authority,
        };
        postgres.start_again();
        postgres
    }

    pub fn start_again(&mut self) {
        let durable = match self.is_durable {
            true => "",
            false => "-c fsync=off -c synchronous_commit=off -c full_page_writes=off",
        };
        // The shell ends it, and removes its folder, when this process ends: then its standard input does.
        let script = format!(
            "'{}' -D data -p {} -k '{}' -c listen_addresses=127.0.0.1 -c ssl=on -c ssl_cert_file=../server.pem \
             -c ssl_key_file=../server.key -c max_connections=200 -c logging_collector=off {durable} >>log 2>&1 &
            server=$!
            read -r signal
            kill -\"${{signal:-QUIT}}\" $server
            wait $server
            test -n \"$signal\" || rm -rf '{}'",
            program("postgres").display(),
            self.port,
            self.folder.path().display(),
            self.folder.path().display(),
        );
        let mut shell = command(
            &["sh".as_ref(), "-c".as_ref(), script.as_ref()],
            self.folder.path(),
        );
        shell.stdin(Stdio::piped());
        self.shell = Some(shell.spawn().expect("a shell"));
        let began = std::time::Instant::now();
        while self.ask(&self.url_of("postgres"), "SELECT 1").is_err() {
            assert!(began.elapsed() < LONG_ENOUGH, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it: `INT` closes its connections, `QUIT` is as a crash.
    pub fn stop(&mut self, signal: &str) {
        use std::io::Write;
        let mut shell = self.shell.take().expect("it runs");
        let mut stdin = shell.stdin.take().expect("it is piped");
        writeln!(stdin, "{signal}").expect("the shell reads");
        drop(stdin);
        shell.wait().expect("it ends");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{SECRET}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// The URL of a new database.
    pub fn database(&self) -> String {
        let name = format!("d{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let make = format!("CREATE DATABASE {name}");
        self.ask(&self.url_of("postgres"), &make)
            .expect("it is made");
        self.url_of(&name)
    }

    /// Runs a statement on the database of a URL; returns the first values of the rows.
    pub fn ask(&self, url: &str, statement: &str) -> Result<Vec<String>, String> {
        let url = url.to_owned();
        let statement = statement.to_owned();
        let asked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
                let (client, connection) = connected.map_err(|cause| cause.to_string())?;
                let running = tokio::spawn(connection);
                let asked = client.simple_query(&statement).await;
                drop(client);
                let _ = running.await;
                asked.map_err(|cause| format!("{cause:?}"))
            })
        });
        let messages = asked.join().expect("no panic")?;
        let rows = messages.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(rows.collect())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.shell.is_some() {
            self.stop("QUIT");
        }
    }
}
