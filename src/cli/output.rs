//! Everything that is printed: events as JSON or for people, results on stdout, complaints on stderr.

use std::{
    io::{self, IsTerminal, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use crate::{
    core::{recovery::Failure, schedule::Why},
    engine::{
        error::Error,
        events::{Damaged, Event, Events, Published},
    },
};

use super::{args::OutputArgs, exit::Exit, progress::Bar, units};

/// Where output goes and how it looks.
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: u8,
    /// Standard output is taken by data, so events go to standard error.
    stdout_is_data: bool,
    bar: Option<Bar>,
    /// The file that events are about.
    path: Option<String>,
    published: u64,
    failed: u64,
    bytes_fetched: u64,
}

impl Output {
    pub fn new(args: &OutputArgs) -> Output {
        let bar = (!args.json && !args.quiet && io::stderr().is_terminal()).then(Bar::new);
        Output {
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
            stdout_is_data: false,
            bar,
            path: None,
            published: 0,
            failed: 0,
            bytes_fetched: 0,
        }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// What follows is about this file.
    pub fn about(&mut self, path: Option<String>) {
        self.path = path;
    }

    /// From now on standard output belongs to the data.
    pub fn stdout_is_data(&mut self) {
        self.stdout_is_data = true;
    }

    /// One line on standard output, or on standard error where the former belongs to data.
    pub fn line(&mut self, text: &str) {
        let text = format!("{text}\n");
        // A reader that went away is no error of ours.
        let _ = match self.stdout_is_data {
            true => io::stderr().write_all(text.as_bytes()),
            false => io::stdout().write_all(text.as_bytes()),
        };
    }

    /// A result for people.
    pub fn result(&mut self, text: &str) {
        if !self.json && !self.quiet {
            self.without_bar(|output| output.line(text));
        }
    }

    /// Something that a person should know, on standard error.
    fn notice(&mut self, text: &str) {
        if !self.json && !self.quiet {
            self.without_bar(|_| eprintln!("sapwood: {text}"));
        }
    }

    fn without_bar(&mut self, print: impl FnOnce(&mut Output)) {
        if let Some(bar) = &self.bar {
            bar.hide();
        }
        print(self);
        if let Some(bar) = &self.bar {
            bar.show();
        }
    }

    pub fn json_event(&mut self, name: &str, fields: Value) {
        if !self.json {
            return;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut object = Map::from_iter([
            ("event".to_owned(), name.into()),
            ("time_ms".to_owned(), (now.as_millis() as u64).into()),
        ]);
        if let Some(path) = &self.path {
            object.insert("path".to_owned(), path.as_str().into());
        }
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        self.line(&Value::Object(object).to_string());
    }

    /// A mistake in the arguments that clap cannot see.
    pub fn usage(&mut self, message: &str) -> Exit {
        self.fail(None, None, Exit::Usage, message, json!({}))
    }

    /// One file failed. `url` without its secrets.
    pub fn error(&mut self, path: Option<&str>, url: Option<&str>, error: &Error) -> Exit {
        let exit = Exit::of(error);
        let mut more = json!({});
        match error {
            Error::Wrong {
                block,
                bytes,
                expected,
                found,
                ..
            } => {
                more = json!({
                    "block": block.0, "offset": bytes.start, "length": bytes.length(),
                    "expected": hex::encode(**expected), "found": hex::encode(**found),
                });
            }
            Error::MustWait { wait_s, .. } => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs();
                more = json!({ "retry_at": units::rfc3339(now + wait_s) });
            }
            _ => (),
        }
        self.fail(path, url, exit, &error.to_string(), more)
    }

    /// Tells a failure, in JSON and to people, and returns its exit code.
    pub fn fail(
        &mut self,
        path: Option<&str>,
        url: Option<&str>,
        exit: Exit,
        message: &str,
        more: Value,
    ) -> Exit {
        self.failed += 1;
        let mut fields = json!({ "exit": exit as u8, "class": exit.class(), "message": message });
        for (name, value) in [("path", path), ("url", url)] {
            if let Some(value) = value {
                fields[name] = value.into();
            }
        }
        if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
            fields.extend(more);
        }
        self.json_event("failed", fields);
        self.without_bar(|_| eprintln!("sapwood: {}", printable(message)));
        exit
    }

    /// The last line of a run.
    pub fn done(&mut self, exit: Exit) -> Exit {
        let (published, failed, bytes_fetched) = (self.published, self.failed, self.bytes_fetched);
        let fields = json!({ "exit": exit as u8, "published": published, "failed": failed, "bytes_fetched": bytes_fetched });
        self.json_event("done", fields);
        exit
    }

    /// So many body bytes arrived for one URL, however it ended.
    pub fn count_fetched(&mut self, bytes: u64) {
        self.bytes_fetched += bytes;
    }

    pub fn flush(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        let _ = io::stdout().flush();
    }

    fn published(&mut self, published: &Published) {
        self.published += 1;
        if let Some(bar) = &self.bar {
            bar.finish();
        }
        let Published {
            path,
            root,
            trust,
            bytes_total,
            bytes_fetched,
            bytes_resumed,
            bytes_reused,
            unchanged,
            elapsed_ms,
            ..
        } = published;
        let bytes = units::human_bytes;
        let path = printable(&path.display().to_string());
        self.result(&match unchanged {
            true => format!(
                "{path}: unchanged, {} proven against its {}; fetched {}",
                bytes(*bytes_total),
                basis(*trust),
                bytes(*bytes_fetched)
            ),
            false => {
                let mut line = format!(
                    "{path}: {} proven against its {}; fetched {}",
                    bytes(*bytes_total),
                    basis(*trust),
                    bytes(*bytes_fetched)
                );
                if *bytes_resumed > 0 {
                    line += &format!(", resumed {}", bytes(*bytes_resumed));
                }
                if *bytes_reused > 0 {
                    line += &format!(", reused {}", bytes(*bytes_reused));
                }
                line + &format!(" in {}", human_seconds(*elapsed_ms))
            }
        });
        self.json_event("published", json!({
            "path": published.path.to_string_lossy(), "url": published.url, "root": root.to_string(),
            "sha256": published.sha256, "trust": trust.name(),
            "bytes_total": bytes_total, "bytes_fetched": bytes_fetched, "bytes_manifest": published.bytes_manifest,
            "bytes_reused": bytes_reused, "bytes_resumed": bytes_resumed, "unchanged": unchanged, "elapsed_ms": elapsed_ms,
        }));
    }

    fn damaged(&mut self, damaged: &Damaged) {
        let Damaged {
            path,
            block,
            bytes,
            expected,
            found,
        } = damaged;
        let what = match (block, found) {
            (Some(block), Some(_)) => format!("block {block} is damaged (bytes {bytes})"),
            (Some(block), None) => format!("block {block} is missing (bytes {bytes})"),
            (None, Some(_)) => "the content is another one".to_owned(),
            (None, None) => format!("there are extra bytes ({bytes})"),
        };
        let shown = printable(&path.display().to_string());
        self.result(&format!("{shown}: {what}"));
        self.json_event("damaged", json!({
            "path": path.to_string_lossy(), "block": block.map(|block| block.0), "offset": bytes.start, "length": bytes.length(),
            "expected": expected.map(hex::encode), "found": found.map(hex::encode),
        }));
    }
}

impl Events for Output {
    #[allow(clippy::too_many_lines, reason = "one arm an event, each by itself")]
    fn event(&mut self, event: Event) {
        match event {
            Event::Planned(plan) => {
                if let Some(bar) = &self.bar {
                    bar.start(&plan);
                }
                self.json_event("planned", json!({
                    "path": plan.path.to_string_lossy(), "url": plan.url, "root": plan.root.map(|root| root.to_string()),
                    "bytes_total": plan.bytes_total, "bytes_held": plan.bytes_held, "bytes_local": plan.bytes_local,
                    "bytes_to_fetch": plan.bytes_to_fetch, "block_size": plan.block_size.map(|size| size.bytes()),
                    "trust": plan.trust.name(),
                }));
            }
            Event::Progress(progress) => {
                if let Some(bar) = &self.bar {
                    bar.update(&progress);
                }
                self.json_event("progress", json!({
                    "bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total,
                    "bytes_fetched": progress.bytes_fetched, "rate_bps": progress.rate_bps, "bytes_proven": progress.bytes_proven,
                }));
            }
            Event::BlocksVerified {
                first,
                count,
                source,
            } => {
                self.json_event(
                    "blocks_verified",
                    json!({ "first": first.0, "count": count, "source": source }),
                );
            }
            Event::BlockWrong {
                block,
                bytes,
                expected,
                found,
                source,
            } => {
                self.notice(&format!(
                    "block {block} (bytes {bytes}) came damaged from {source}; it is fetched again"
                ));
                self.json_event("block_wrong", json!({
                    "block": block.0, "offset": bytes.start, "length": bytes.length(), "expected": hex::encode(expected),
                    "found": hex::encode(found), "source": source,
                }));
            }
            Event::Warning { message } => {
                self.notice(&format!("warning: {}", printable(&message)));
                self.json_event("warning", json!({ "message": message }));
            }
            Event::Checkpoint { bytes_done } => {
                self.json_event("checkpoint", json!({ "bytes_done": bytes_done }));
            }
            Event::Resumed { bytes_held } => {
                self.notice(&format!(
                    "going on from an earlier run: {} are here",
                    units::human_bytes(bytes_held)
                ));
                self.json_event("resumed", json!({ "bytes_held": bytes_held }));
            }
            Event::PartReused { path, bytes } => {
                let path = printable(&path.display().to_string());
                self.notice(&format!(
                    "{path} ({}) is not a part of this object with its journal; what it holds is tried, the rest is fetched again",
                    units::human_bytes(bytes)
                ));
                self.json_event("part_reused", json!({ "path": path, "bytes": bytes }));
            }
            Event::StartedOver { path, bytes } => {
                let path = printable(&path.display().to_string());
                let lost = units::human_bytes(bytes);
                self.notice(&format!("{path}: the object changed or cannot be resumed; starting over, {lost} are fetched again"));
                self.json_event("started_over", json!({ "bytes": bytes }));
            }
            Event::Retry {
                source,
                class,
                attempt,
                wait_ms,
            } => {
                if self.verbose > 0 {
                    self.notice(&format!(
                        "{source}: asking again in {:.1} s",
                        wait_ms as f64 / 1000.0
                    ));
                }
                let class = class.name();
                self.json_event("retry", json!({ "source": source, "class": class, "attempt": attempt, "wait_ms": wait_ms }));
            }
            Event::HostSlowed {
                host,
                connections,
                wait_ms,
            } => {
                self.notice(&format!(
                    "{host} wants fewer requests: {connections} connections, in {} s",
                    wait_ms.div_ceil(1000)
                ));
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_millis() as u64;
                self.json_event(
                    "host_slowed",
                    json!({ "host": host, "connections": connections, "until_ms": now + wait_ms }),
                );
            }
            Event::SourceDropped { source, why } => {
                let (reason, block) = match why {
                    Why::Lied { block } => ("it sent wrong blocks", Some(block.0)),
                    Why::Failed(Failure::Unreachable) => ("it cannot be reached", None),
                    Why::Failed(_) => ("it failed", None),
                };
                self.notice(&format!("{source} is not asked any more: {reason}"));
                self.json_event(
                    "source_dropped",
                    json!({ "source": source, "reason": reason, "block": block }),
                );
            }
            Event::Manifest {
                manifest,
                root,
                bytes_total,
                block_size,
                blocks,
            } => {
                let shown = printable(&manifest.display().to_string());
                self.result(&format!("{root}  {shown}"));
                self.json_event("manifest", json!({
                    "manifest": manifest.to_string_lossy(), "root": root.to_string(), "bytes_total": bytes_total,
                    "block_size": block_size.bytes(), "blocks": blocks,
                }));
            }
            Event::Damaged(damaged) => self.damaged(&damaged),
            Event::Verified {
                path,
                root,
                bytes_total,
                trust,
            } => {
                let shown = printable(&path.display().to_string());
                self.result(&format!(
                    "{shown}: verified, {} proven against its {}",
                    units::human_bytes(bytes_total),
                    basis(trust)
                ));
                self.json_event("verified", json!({
                    "path": path.to_string_lossy(), "root": root.to_string(), "bytes_total": bytes_total, "trust": trust.name(),
                }));
            }
            Event::Published(published) => self.published(&published),
        }
    }
}

/// What trust rests on, in a sentence.
fn basis(trust: crate::core::trust::Trust) -> &'static str {
    use crate::core::trust::Trust;
    match trust {
        Trust::Signed => "signed manifest",
        Trust::Root => "root",
        Trust::Manifest => "manifest",
        Trust::Digest => "digest",
        Trust::None => "length only",
    }
}

fn human_seconds(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.1} s", ms as f64 / 1000.0),
        _ => units::human_time(ms / 1000),
    }
}

/// A text without anything that a terminal would obey.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// What -v shows: warnings, then what is done, then everything.
pub fn init_log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .without_time()
        .finish();
    // Set once, at the start of the program; there is no other.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
