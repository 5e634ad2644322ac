//! What the blocks of a page say is typed, and is run in a folder of its own: hosts, buckets and other programs are here.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use sapwood::format::paint;
use tempfile::TempDir;

use super::{
    bucket::Bucket,
    program::{self, LONG_ENOUGH, command, run},
    s3::KEY_ID,
    secrets::SECRET,
};

/// Of most files: several blocks, and more than the ranges that are shown.
const LENGTH: usize = 3 << 20;
/// Long enough to be killed in the middle, at [`RATE`].
const LONG_LENGTH: usize = 8 << 20;
const RATE: &str = "2MB";

/// Programs that are shown, and do little here.
const PROGRAMS: [(&str, &str); 7] = [
    ("player", "cat > player.out"),
    ("mpv", "exec curl --silent --fail --output mpv.out \"$1\""),
    (
        "ffplay",
        "exec curl --silent --fail --output ffplay.out \"$1\"",
    ),
    ("ffmpeg", "exec head -c 3000000 /dev/zero"),
    ("rsync", "exec cp -- \"$1\" \"$2\""),
    ("logger", ":"),
    ("xdg-open", ":"),
];

/// A block of a page, with the last heading above it.
#[derive(Clone, Debug)]
pub struct Block {
    pub heading: String,
    pub language: String,
    pub text: String,
}

impl Block {
    pub fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

/// The blocks of a page, in their order.
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut found, mut heading) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(language), None) => {
                open = Some(Block {
                    heading: heading.clone(),
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) if line.starts_with('#') => {
                line.trim_start_matches('#').trim().clone_into(&mut heading);
            }
            (None, None) => (),
        }
    }
    found
}

/// A command, and what is shown after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub typed: String,
    pub shown: String,
}

/// What is typed in a block; `None`: nobody types in such a block.
pub fn steps(block: &Block) -> Option<Vec<Step>> {
    let without_output = |typed: String| Step {
        typed,
        shown: String::new(),
    };
    match block.language.as_str() {
        "console" => Some(of_console(&block.text)),
        "sh" => Some(vec![without_output(block.text.clone())]),
        // Five fields are the time.
        "crontab" => {
            let words = block.text.split_whitespace().skip(5).collect::<Vec<_>>();
            Some(vec![without_output(words.join(" "))])
        }
        "ini" => {
            let lines = block.text.lines();
            let started = lines.filter_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/"));
            Some(
                started
                    .map(|line| without_output(line.to_owned()))
                    .collect(),
            )
        }
        _ => None,
    }
}

fn of_console(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(typed), _) => steps.push(Step {
                typed: typed.to_owned(),
                shown: String::new(),
            }),
            (None, Some(step)) if goes_on => {
                step.typed.push('\n');
                step.typed.push_str(line);
            }
            (None, Some(step)) => {
                step.shown.push_str(line);
                step.shown.push('\n');
            }
            (None, None) => panic!("{line:?} is shown before anything is typed"),
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

/// Output without sizes, times, ports, hashes and tokens.
pub fn normalized(output: &str) -> String {
    const UNITS: [&str; 9] = ["B", "kB", "MB", "GB", "KiB", "MiB", "GiB", "s", "ms"];
    let mut words = String::new();
    let mut rest = output.trim_end();
    while let Some(first) = rest.chars().next() {
        let is_number = first.is_ascii_digit();
        let end = |is_inside: &dyn Fn(char) -> bool| {
            rest.find(|c: char| !is_inside(c)).unwrap_or(rest.len())
        };
        let word = &rest[..end(&|c| c.is_alphanumeric()).max(first.len_utf8())];
        if word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            words.push_str("HEX");
            rest = &rest[word.len()..];
        } else if is_number {
            let number = rest[..end(&|c| c.is_alphanumeric() || c == '.' || c == ',')]
                .trim_end_matches(['.', ',']);
            rest = &rest[number.len()..];
            words.push('N');
            if let Some(unit) = rest.strip_prefix(' ') {
                let unit_end = unit
                    .find(|c: char| !c.is_alphabetic())
                    .unwrap_or(unit.len());
                if UNITS.contains(&&unit[..unit_end]) {
                    rest = &unit[unit_end..];
                }
            }
        } else {
            words.push_str(word);
            rest = &rest[word.len()..];
        }
    }
    words
}

/// A server, until it is dropped.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    #[track_caller]
    pub fn start(mut command: Command) -> Server {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut url = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        stdout.read_line(&mut url).expect("a line");
        if url.is_empty() {
            let output = child.wait_with_output().expect("it ends");
            panic!("no URL: {}", String::from_utf8_lossy(&output.stderr));
        }
        Server {
            child,
            url: url.trim_end().to_owned(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The machine that a page is typed on, and the hosts that it names.
pub struct Machine {
    folder: TempDir,
    pub bucket: Bucket,
    hosts: Vec<Server>,
    /// The last server that a page starts: it ends when the next one begins.
    server: Option<Server>,
    /// What stands in pages, and what it is here.
    places: Vec<(String, String)>,
}

impl Machine {
    /// `talk.mp4`, `master.mov` and a library `media` are here and at all hosts, signed by `studio.key`; files of other names only here or
    /// only there, as pages use them.
    pub fn new() -> Machine {
        let mut machine = Machine {
            folder: TempDir::new().expect("a folder"),
            bucket: Bucket::start(),
            hosts: Vec::new(),
            server: None,
            places: Vec::new(),
        };
        machine.install();
        machine.fill();
        machine.serve();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn install(&self) {
        for folder in [
            "bin",
            "etc",
            "var/log",
            "srv/inbox",
            "srv/library",
            "srv/www",
        ] {
            fs::create_dir_all(self.path(folder)).expect("a folder");
        }
        symlink(env!("CARGO_BIN_EXE_sapwood"), self.path("bin/sapwood")).expect("a link");
        for (name, does) in PROGRAMS {
            let path = self.path("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{does}\n")).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|cause| panic!("{name}: {cause}"))
    }

    fn fill(&mut self) {
        let film = |seed: u64| paint::bytes(seed << 32, LENGTH);
        for (seed, name) in (1..).zip(["talk.mp4", "master.mov", "image.iso", "rushes.mov"]) {
            self.write(name, &film(seed));
            self.write(&format!("www/{name}"), &film(seed));
        }
        self.write("site/talk.mp4", &paint::bytes(1 << 40, LONG_LENGTH));
        for name in ["a.mp4", "b.mp4", "more/c.mp4", "d.txt"] {
            self.write(
                &format!("www/media/{name}"),
                &film(name.len() as u64)[..200_000],
            );
        }
        symlink("www/media", self.path("media")).expect("a link");
        self.write("films/old/a.mp4", &film(10));
        self.write("films/b.mp4", &film(11));
        self.write(".aws/config", b"[profile studio]\nregion = us-east-1\n");
        self.write(".token", b"a-token-of-many-characters\n");
        self.write("etc/sapwood/tokens", b"studio a-token-of-many-characters\n");
        self.must("sapwood keygen -o studio --no-password");
        self.must("sapwood manifest www/master.mov www/talk.mp4 www/rushes.mov --sign studio.key");
        self.must("cp www/talk.mp4.sapwood www/master.mov.sapwood .");
        self.must("sapwood manifest media --sign studio.key --seq 1");
        self.must("mkdir inbox && cp rushes.mov www/rushes.mov.sapwood srv/inbox/");
        for name in ["talk.mp4", "master.mov"] {
            for name in [name.to_owned(), format!("{name}.sapwood")] {
                self.bucket.put(&name, &self.read(&format!("www/{name}")));
            }
        }
        let digest = self.must("sha256sum image.iso");
        let digest = digest.split(' ').next().expect("a digest").to_owned();
        let shown = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
        self.places.push((shown.to_owned(), digest));
    }

    fn serve(&mut self) {
        let start = |folder: &str, more: &[&str]| {
            let mut serve = self.command("sapwood");
            serve.args(["serve", folder, "--listen", "127.0.0.1:0", "--store"]);
            serve
                .arg(self.path(&format!("state-of-{folder}")))
                .args(more);
            Server::start(serve)
        };
        fs::create_dir(self.path("taken")).expect("a folder");
        let (origin, ingest) = (start("www", &[]), start("taken", &["--ingest"]));
        let folder = self.folder.path().display();
        for name in [
            "https://example.org/",
            "https://a.example/",
            "https://b.example/",
        ] {
            self.places.push((name.to_owned(), origin.url.clone()));
        }
        self.places.extend(
            [
                ("https://media.example/", ingest.url.clone()),
                ("s3://bucket/", "s3://media/".to_owned()),
                ("http://127.0.0.1:3900", self.bucket.url()),
                ("server:/srv/", format!("{folder}/srv/")),
                (" /srv/", format!(" {folder}/srv/")),
                ("/var/log/", format!("{folder}/var/log/")),
                ("/etc/sapwood/", format!("{folder}/etc/sapwood/")),
                ("--limit-rate 25MB", format!("--limit-rate {RATE}")),
                ("--follow-idle 10s", "--follow-idle 1s".to_owned()),
                ("seek=200000000", "seek=2000000".to_owned()),
                ("549755813887", (LENGTH / 2 - 1).to_string()),
                ("549755813888", (LENGTH / 2).to_string()),
            ]
            .map(|(shown, here)| (shown.to_owned(), here)),
        );
        let list = format!("{0}talk.mp4\n{0}master.mov\tfilms/master.mov\n", origin.url);
        self.write("wanted.list", list.as_bytes());
        self.write("srv/inbox/wanted.list", list.as_bytes());
        let metalink = format!(
            "<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\"><file name=\"rushes.mov\"><url>{}rushes.mov</url></file></metalink>",
            origin.url
        );
        self.write("release.meta4", metalink.as_bytes());
        self.hosts.extend([origin, ingest]);
    }

    /// What stands in a page from now on means this.
    pub fn place(&mut self, shown: &str, here: &str) {
        self.places.insert(0, (shown.to_owned(), here.to_owned()));
    }

    fn here(&self, text: &str) -> String {
        let places = self.places.iter();
        places.fold(text.to_owned(), |text, (shown, here)| {
            text.replace(shown, here)
        })
    }

    /// A program of the machine.
    fn command(&self, program: &str) -> Command {
        let mut command = command(program, self.folder.path());
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("HOME", self.folder.path())
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("LC_ALL", "C")
            .env("SAPWOOD_KEY_PASSWORD", "a password")
            .env("AWS_ENDPOINT_URL", self.bucket.url())
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    }

    fn shell(&self, typed: &str) -> Command {
        let mut shell = self.command("bash");
        shell.args([
            "-o",
            "pipefail",
            "-c",
            &format!("exec 2>&1\n{}", self.here(typed)),
        ]);
        shell
    }

    /// Runs a line: what it shows, and its exit code.
    pub fn run(&self, typed: &str) -> (String, i32) {
        let ended = run(self.shell(typed));
        (ended.stdout, ended.exit.unwrap_or(-1))
    }

    /// Runs a line that must succeed, and returns what it shows.
    #[track_caller]
    pub fn must(&self, typed: &str) -> String {
        let (output, exit) = self.run(typed);
        assert_eq!(exit, 0, "$ {typed}\n{output}");
        output
    }

    /// Runs what a page says, and compares what it shows.
    #[track_caller]
    pub fn follow(&mut self, step: &Step, exit: i32) {
        let Step { typed, shown } = step;
        let is_server = ["sapwood serve", "sapwood gateway"]
            .iter()
            .any(|server| typed.starts_with(server))
            && !typed.contains(" -- ");
        if is_server {
            return self.follow_server(step);
        }
        if shown.trim_end() == "Killed" {
            return self.follow_killed(typed);
        }
        // Keys are never written over.
        if typed.starts_with("sapwood keygen -o studio") {
            let _ = fs::remove_file(self.path("studio.key"));
            let _ = fs::remove_file(self.path("studio.pub"));
        }
        let (output, ended) = self.run(typed);
        assert_eq!(ended, exit, "$ {typed}\n{output}");
        self.compare(step, &output);
        self.publish();
    }

    #[track_caller]
    fn compare(&self, step: &Step, output: &str) {
        let Step { typed, shown } = step;
        assert!(
            shown.is_empty() || normalized(shown) == normalized(output),
            "$ {typed}\n--- the page shows\n{shown}--- here\n{output}"
        );
    }

    /// What was described here is at the hosts too.
    fn publish(&self) {
        for name in ["talk.mp4.sapwood", "master.mov.sapwood"] {
            let _ = fs::copy(self.path(name), self.path("www").join(name));
        }
    }

    #[track_caller]
    fn follow_server(&mut self, step: &Step) {
        let typed = &step.typed;
        let listen = typed.split_once("--listen ").map(|(_, rest)| {
            rest.split_whitespace()
                .next()
                .expect("an address")
                .to_owned()
        });
        let line = match &listen {
            Some(address) => typed.replace(address, "127.0.0.1:0"),
            None => typed.replace("sapwood serve ", "sapwood serve --listen 127.0.0.1:0 "),
        };
        // Standard error is not the shell's own output here: the first line is the URL.
        let mut shell = self.command("bash");
        shell.args(["-c", &format!("exec {}", self.here(&line))]);
        self.server = None;
        let server = Server::start(shell);
        self.compare(step, &format!("{}\n", server.url));
        let url = server.url.trim_end_matches('/').to_owned();
        if let Some(address) = listen {
            self.place(&format!("http://{address}"), &url);
            if url.starts_with("https:") {
                self.place("https://media.example:8443", &url);
            }
        }
        self.server = Some(server);
    }

    /// SIGKILL, when half of the file is there.
    #[track_caller]
    fn follow_killed(&self, typed: &str) {
        let part = self.path("talk.mp4.part");
        let mut shell = self.command("bash");
        shell.args(["-c", &format!("exec {}", self.here(typed))]);
        let mut running = program::start(shell);
        let began = Instant::now();
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |found| found.blocks() * 512);
        while bytes(&part) < LONG_LENGTH as u64 / 2 {
            assert!(began.elapsed() < LONG_ENOUGH, "{:?}", running.finish());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        running.kill();
        assert!(
            !self.path("talk.mp4").exists(),
            "it ended before it was killed"
        );
    }
}
