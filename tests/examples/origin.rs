//! The scripted origin of the tests, by hand: serves a folder and does one thing wrong.
//!
//!     cargo run --example origin -- --list
//!     cargo run --example origin -- FOLDER --fault S05a --at 1MB --times 2 --seed 7 [--listen ADDR] [--path /NAME] [--log FILE]
//!
//! Without `--times` the fault happens each time, without `--path` to every object that is no manifest, without `--fault` nothing
//! is wrong. The first line on stdout is the URL. Every request is a line of JSON on stderr, or in the file.

#![allow(
    dead_code,
    unused_qualifications,
    clippy::pedantic,
    reason = "it shares the files of the tests, and uses a part of them"
)]

use std::{
    env, fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    thread,
};

#[path = "../it/support/faults.rs"]
mod faults;
#[path = "../it/support/lies.rs"]
mod lies;
#[path = "../it/support/objects.rs"]
mod objects;
#[path = "../it/support/origin.rs"]
mod origin;

use faults::{Fault, Place};
use lies::Lie;
use origin::{Asked, Asks, Of, Origin};

const USAGE: &str = "usage: origin FOLDER [--fault ID] [--at BYTES] [--times N] [--seed N] [--listen ADDR] [--path /NAME] [--log FILE]\n       origin --list";

/// What was typed.
struct Typed {
    folder: PathBuf,
    fault: Option<Fault>,
    at: u64,
    of: Of,
    seed: u64,
    listen: SocketAddr,
    path: Option<String>,
    log: Option<PathBuf>,
}

fn typed(words: &[String]) -> Option<Typed> {
    let mut typed = Typed {
        folder: PathBuf::from(words.first()?),
        fault: None,
        at: 1_000_000,
        of: Of::All,
        seed: 0,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        path: None,
        log: None,
    };
    for pair in words[1..].chunks(2) {
        let [name, value] = pair else { return None };
        match name.as_str() {
            "--fault" => typed.fault = Some(Fault::named(value)?),
            "--at" => typed.at = bytes(value)?,
            "--times" => typed.of = Of::First(value.parse().ok()?),
            "--seed" => typed.seed = value.parse().ok()?,
            "--listen" => typed.listen = value.parse().ok()?,
            "--path" => typed.path = Some(value.clone()),
            "--log" => typed.log = Some(value.into()),
            _ => return None,
        }
    }
    typed.folder.is_dir().then_some(typed)
}

/// `300000`, `300kB`, `1MB`, `64KiB`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The files of a folder as paths of URLs, without manifests.
fn objects_below(folder: &Path, prefix: &str) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        let kind = entry.metadata()?;
        if kind.is_dir() {
            found.extend(objects_below(&entry.path(), &path)?);
        } else if !path.ends_with(".sapwood") {
            found.push((path, kind.len()));
        }
    }
    Ok(found)
}

fn line(asked: &Asked, fault: Option<&str>) -> String {
    let range = asked.range.as_ref().map(|range| match range.end {
        u64::MAX => format!("{}-", range.start),
        end => format!("{}-{}", range.start, end - 1),
    });
    let fault = fault.filter(|_| !asked.lies.is_empty());
    serde_json::json!({
        "method": asked.method, "path": asked.path, "range": range, "status": asked.status, "bytes_sent": asked.bytes_sent, "fault": fault,
    })
    .to_string()
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words == ["--list"] {
        for fault in faults::all() {
            println!("{:5} {}", fault.id, fault.does);
        }
        return ExitCode::SUCCESS;
    }
    let Some(typed) = typed(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match serve(typed) {
        Ok(never) => match never {},
        Err(cause) => {
            eprintln!("origin: {cause}");
            ExitCode::FAILURE
        }
    }
}

enum Never {}

fn serve(typed: Typed) -> io::Result<Never> {
    let log: Box<dyn Write + Send> = match &typed.log {
        Some(path) => Box::new(fs::File::create(path)?),
        None => Box::new(io::stderr()),
    };
    let (log, id) = (Mutex::new(log), typed.fault.as_ref().map(|fault| fault.id));
    let heard = move |asked: &Asked| {
        let mut log = log.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Nobody reads it any more: the origin goes on.
        let _ = writeln!(log, "{}", line(asked, id)).and_then(|()| log.flush());
    };
    let objects = objects_below(&typed.folder, "")?;
    let origin = Origin::start_on(typed.listen, Some(typed.folder), Some(Box::new(heard)))?;
    let wanted = |path: &String| typed.path.as_ref().is_none_or(|only| only == path);
    for (path, length) in objects.into_iter().filter(|(path, _)| wanted(path)) {
        let Some(fault) = &typed.fault else { break };
        let expired = format!("{path}.expired");
        origin.lie(&expired, Asks::Anything, Of::All, Lie::Status(403));
        let place = Place {
            path: path.clone(),
            length,
            at: typed.at,
            seed: typed.seed,
            secret: "secret",
        };
        for lie in fault.lies(&place) {
            origin.lie(&path, fault.asks, typed.of, lie);
        }
    }
    println!("{}", origin.url("/"));
    loop {
        thread::park();
    }
}
