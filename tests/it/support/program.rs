//! The real program: run to its end, or watched, signalled and killed while it runs.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing in these tests takes so long, however slow the machine is.
pub const LONG_ENOUGH: Duration = Duration::from_secs(300);

/// The program in a folder, without anything of the environment that could change what it does.
pub fn sapwood(folder: &Path) -> Command {
    command(env!("CARGO_BIN_EXE_sapwood"), folder)
}

/// Any program, likewise.
pub fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_uppercase();
        let is_ours = text.starts_with("SAPWOOD_") || text.starts_with("AWS_");
        if is_ours || text.ends_with("_PROXY") {
            command.env_remove(&name);
        }
    }
    // What is remembered of an origin is not to meet that of another test with the same port.
    let of_folder = state().join(folder.file_name().unwrap_or_default());
    command.env("XDG_CONFIG_HOME", of_folder.join("config"));
    command.env("XDG_STATE_HOME", of_folder);
    command
}

/// Where the programs of one test run remember things: never in the folder of whoever runs the tests.
fn state() -> &'static Path {
    static STATE: OnceLock<TempDir> = OnceLock::new();
    STATE
        .get_or_init(|| TempDir::new().expect("a folder"))
        .path()
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// `None`: a signal ended it.
    pub exit: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs to the end.
pub fn run(mut command: Command) -> Ended {
    let output = command.output().expect("the program starts");
    Ended {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Starts what it is given, waits for it, and writes down what it used: only a parent can ask the kernel for that.
const MEASURED: &str = "import os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
print(used.ru_maxrss, int(1000 * (used.ru_utime + used.ru_stime)), file=open(sys.argv[1], 'w'))
sys.exit(os.waitstatus_to_exitcode(status))";

/// Runs to the end, and returns also the most memory that it had, in bytes; it is never less than that of a small Python.
pub fn run_measured(command: &Command) -> (Ended, u64) {
    let (ended, peak, _) = run_timed(command);
    (ended, peak)
}

/// The same, with the time that it used of all processors together.
pub fn run_timed(command: &Command) -> (Ended, u64, Duration) {
    let report = tempfile::NamedTempFile::new().expect("a file");
    let mut parent = Command::new("python3");
    parent
        .args(["-c", MEASURED])
        .args([report.path().as_os_str(), command.get_program()])
        .args(command.get_args())
        .stdin(Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        parent.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => parent.env(name, value),
            None => parent.env_remove(name),
        };
    }
    let ended = run(parent);
    let figures = std::fs::read_to_string(report.path()).expect("a file");
    let mut figures = figures.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(kib)), Some(Ok(ms))) = (figures.next(), figures.next()) else {
        panic!("no figures: {ended:?}");
    };
    (ended, kib * 1024, Duration::from_millis(ms))
}

/// Runs to the end with this on its standard input.
pub fn run_with_input(mut command: Command, input: &[u8]) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It may end without reading; that is for its exit code to tell.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Ended {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ended {
    /// Fails, with all that was printed, on any other exit code.
    #[track_caller]
    pub fn must(self, exit: i32) -> Ended {
        assert_eq!(
            self.exit,
            Some(exit),
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The events of a run with --json, with what is promised of all of them: every line is an object with `event` and
    /// `time_ms`, and `done` is the last one.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let events: Vec<Value> = self.stdout.lines().map(parse_event).collect();
        let last = events.last().expect("there are events");
        assert_eq!(last["event"], "done", "the last line is {last}");
        assert_eq!(last["exit"].as_i64(), self.exit.map(i64::from), "{last}");
        assert_eq!(
            events
                .iter()
                .filter(|event| event["event"] == "done")
                .count(),
            1
        );
        events
    }

    #[track_caller]
    pub fn all(&self, name: &str) -> Vec<Value> {
        self.events()
            .into_iter()
            .filter(|event| event["event"] == name)
            .collect()
    }

    /// The only event of this name.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        let all = self.all(name);
        assert_eq!(
            all.len(),
            1,
            "events named {name}: {all:?}\n{}\n{}",
            self.stdout,
            self.stderr
        );
        all.into_iter().next().expect("there is one")
    }
}

#[track_caller]
fn parse_event(line: &str) -> Value {
    let event: Value =
        serde_json::from_str(line).unwrap_or_else(|cause| panic!("{line:?} is no JSON: {cause}"));
    assert!(
        event["event"].is_string() && event["time_ms"].is_u64(),
        "{line:?} has no event or no time_ms"
    );
    event
}

type Lines = Arc<(Mutex<Vec<String>>, Condvar)>;

/// A run that is watched through its events.
pub struct Running {
    child: Child,
    lines: Lines,
    reader: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
    pub started: Instant,
}

pub fn start(mut command: Command) -> Running {
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = child.stdout.take().expect("it is piped");
    let mut stderr = child.stderr.take().expect("it is piped");
    let lines = Lines::default();
    let reader = std::thread::spawn({
        let lines = lines.clone();
        move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            // A line that a kill cut short was not told.
            while stdout.read_line(&mut line).is_ok_and(|count| count > 0) && line.ends_with('\n') {
                lines
                    .0
                    .lock()
                    .expect("no test panics with it")
                    .push(std::mem::take(&mut line));
                lines.1.notify_all();
            }
        }
    });
    let stderr = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    Running {
        child,
        lines,
        reader: Some(reader),
        stderr: Some(stderr),
        started,
    }
}

impl Running {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn events(&self) -> Vec<Value> {
        self.lines
            .0
            .lock()
            .expect("no test panics with it")
            .iter()
            .map(|line| parse_event(line))
            .collect()
    }

    /// Waits until the events are as wanted; fails if the program ends before.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&[Value]) -> bool) {
        let deadline = Instant::now() + LONG_ENOUGH;
        loop {
            let events = self.events();
            if wanted(&events) {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!(
                    "the program ended ({status}) before {what}; its events: {:#?}",
                    self.finish()
                );
            }
            assert!(
                Instant::now() < deadline,
                "still waiting for {what}; events: {events:#?}"
            );
            let lines = self.lines.0.lock().expect("no test panics with it");
            let _ = self.lines.1.wait_timeout(lines, Duration::from_millis(20));
        }
    }

    /// Waits until the judge saw so many bytes in this run.
    #[track_caller]
    pub fn wait_until_verified(&mut self, bytes: u64, block: u64, length: u64) {
        self.wait_for(&format!("{bytes} verified bytes"), |events| {
            bytes_of(&verified(events), block, length) >= bytes
        });
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// SIGKILL; returns the events that were told before.
    pub fn kill(mut self) -> Vec<Value> {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
        self.reader.take().expect("once").join().expect("it reads");
        self.events()
    }

    /// Waits for the end.
    pub fn finish(&mut self) -> Ended {
        let status = self.child.wait().expect("it is our child");
        self.reader.take().expect("once").join().expect("it reads");
        let stderr = self.stderr.take().expect("once").join().expect("it reads");
        let stdout = self
            .lines
            .0
            .lock()
            .expect("no test panics with it")
            .concat();
        Ended {
            exit: status.code(),
            stdout,
            stderr,
        }
    }

    /// The most memory that it had so far, in bytes; `None` when it has ended.
    pub fn peak_memory(&self) -> Option<u64> {
        peak_memory_of(self.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The most memory that a process had so far, in bytes; `None` when it has ended.
pub fn peak_memory_of(process: u32) -> Option<u64> {
    status_of(process, "VmHWM:")
}

/// The memory that a process has now beside what it mapped of files, its own program among them; `None` when it has ended.
pub fn anonymous_memory_of(process: u32) -> Option<u64> {
    status_of(process, "RssAnon:")
}

fn status_of(process: u32, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// The blocks that a run reported as verified.
pub fn verified(events: &[Value]) -> std::collections::BTreeSet<u64> {
    events
        .iter()
        .filter(|event| event["event"] == "blocks_verified")
        .flat_map(|event| {
            let first = event["first"].as_u64().expect("a block");
            first..first + event["count"].as_u64().expect("a count")
        })
        .collect()
}

/// How many bytes these blocks have.
pub fn bytes_of(blocks: &std::collections::BTreeSet<u64>, block: u64, length: u64) -> u64 {
    blocks
        .iter()
        .map(|index| block.min(length - index * block))
        .sum()
}
