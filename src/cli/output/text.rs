//! Events as text for people.

use crate::{
    cli::{hints, units::human_bytes},
    engine::events::{Damaged, Event, Forgotten, Published},
    format::trust::Trust,
    policy::{
        recovery::{Class, Failure},
        schedule::DropReason,
    },
};

use super::words::human_seconds;

/// A search of fewer bytes is over before a line about it is read.
const SEARCHED_BYTES_TOLD: u64 = 2_000_000_000;

/// A longer wait of the whole run is told without `--verbose` too.
const WAIT_TOLD_MS: u64 = 2_000;

/// A line for people, and where it goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Results: on standard output.
    Result(String),
    /// Notes: on standard error.
    Notice(String),
    /// With `--verbose`: on standard error.
    Detail(String),
}

/// An event as text; `None`: nothing is printed for it.
pub fn line(event: &Event) -> Option<Line> {
    match event {
        Event::Planned(_)
        | Event::Progress(_)
        | Event::BlocksVerified { .. }
        | Event::Checkpoint { .. } => None,
        Event::BlockWrong {
            block,
            bytes,
            source,
            ..
        } => notice(format!(
            "block {block} (bytes {bytes}) from {source} is damaged; fetching it again"
        )),
        Event::Warning { message } => notice(format!("warning: {message}")),
        Event::Resumed { bytes_held } => notice(format!(
            "resuming: {} already here",
            human_bytes(*bytes_held)
        )),
        Event::Searching { bytes } if *bytes < SEARCHED_BYTES_TOLD => None,
        Event::Searching { bytes } => notice(format!(
            "searching {} of local files for matching blocks",
            human_bytes(*bytes)
        )),
        Event::PartReused { path, bytes } => notice(format!(
            "{} ({}) has no journal of this object; keeping the blocks that match, fetching the rest",
            path.display(),
            human_bytes(*bytes)
        )),
        Event::Replaced { url, .. } => notice(format!(
            "{url} was replaced while it was fetched; beginning again with the new version, keeping the blocks that match"
        )),
        Event::PartKept { path, bytes } => notice(hints::part_kept(path, *bytes)),
        Event::StartedOver { path, bytes, url } => notice(format!(
            "{}: {}; starting over ({} are fetched again)",
            path.display(),
            match url {
                Some(url) => format!("it is of another object, {url}"),
                None => "the object changed or cannot be resumed".to_owned(),
            },
            human_bytes(*bytes)
        )),
        Event::Retry {
            source,
            class,
            wait_ms,
            idle,
            ..
        } => Some(of_retry(source, *class, *wait_ms, *idle)),
        Event::HostSlowed {
            host,
            connections,
            wait_ms,
            serves,
            ..
        } => notice(of_slowed(host, *connections, *wait_ms, *serves)),
        Event::SourceDropped { source, why } => notice(format!(
            "{source} is no longer used: {}",
            reason_of_drop(*why)
        )),
        Event::Manifest { manifest, root, .. } => result(format!("{root}  {}", manifest.display())),
        Event::Damaged(damaged) => result(of_damaged(damaged)),
        Event::Verified {
            path,
            bytes_total,
            trust,
            ..
        } => result(format!(
            "{}: verified, {} proven against its {}",
            path.display(),
            human_bytes(*bytes_total),
            trust.basis()
        )),
        Event::Added {
            path,
            root,
            bytes_total,
            is_known,
        } => result(format!(
            "{root}  {} ({}{})",
            path.display(),
            human_bytes(*bytes_total),
            if *is_known { ", known already" } else { "" }
        )),
        Event::Forgotten { path, why, .. } => result(format!(
            "{} {} and is no longer used",
            path.display(),
            match why {
                Forgotten::Gone => "is gone",
                Forgotten::Changed => "changed",
            }
        )),
        Event::Evicted { path, bytes, .. } => result(format!(
            "{}: evicted {}",
            path.display(),
            human_bytes(*bytes)
        )),
        Event::Published(published) => result(of_published(published)),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "arms of one match")]
fn result(text: String) -> Option<Line> {
    Some(Line::Result(text))
}

#[allow(clippy::unnecessary_wraps, reason = "arms of one match")]
fn notice(text: String) -> Option<Line> {
    Some(Line::Notice(text))
}

fn of_retry(source: &str, class: Class, wait_ms: u64, idle: bool) -> Line {
    let why = match class {
        Class::Slower => "its host limits requests; ",
        _ => "",
    };
    let seconds = wait_ms as f64 / 1000.0;
    let line = format!("{source}: {why}retrying in {seconds:.1} s");
    match idle && wait_ms >= WAIT_TOLD_MS {
        true => Line::Notice(line),
        false => Line::Detail(line),
    }
}

fn of_slowed(host: &str, connections: u32, wait_ms: u64, serves: bool) -> String {
    let seconds = wait_ms as f64 / 1000.0;
    let what = match serves {
        true => "what it refused is requested again",
        false => "the next request follows",
    };
    format!("{host} limits requests: at most {connections} connection(s); {what} in {seconds:.1} s")
}

/// Why a source is not used any more; JSON has it too.
pub fn reason_of_drop(why: DropReason) -> &'static str {
    match why {
        DropReason::WrongBlock { .. } => "it sent wrong blocks",
        DropReason::Failed(Failure::Unreachable) => "it cannot be reached",
        DropReason::Failed(_) => "it failed",
    }
}

fn of_damaged(damaged: &Damaged) -> String {
    let bytes = damaged.bytes;
    let what = match (damaged.block, damaged.found) {
        (Some(block), Some(_)) => format!("block {block} is damaged (bytes {bytes})"),
        (Some(block), None) => format!("block {block} is missing (bytes {bytes})"),
        (None, Some(_)) => "the content differs".to_owned(),
        (None, None) => format!("there are extra bytes ({bytes})"),
    };
    format!("{}: {what}", damaged.path.display())
}

fn of_published(published: &Published) -> String {
    let unchanged = if published.unchanged {
        "unchanged, "
    } else {
        ""
    };
    let proven = match published.end_known {
        true if published.trust == Trust::default() => "NOT verified".to_owned(),
        true => match published.proven_by {
            Some(algorithm) => format!("proven against its {}", algorithm.name().to_uppercase()),
            None => format!("proven against its {}", published.trust.basis()),
        },
        false => "NOT verified, and perhaps not all".to_owned(),
    };
    let mut line = format!(
        "{}: {unchanged}{} {proven}; fetched {}",
        published.path.display(),
        human_bytes(published.bytes_total),
        human_bytes(published.bytes_fetched)
    );
    if published.unchanged {
        return line;
    }
    for (what, bytes) in [
        ("resumed", published.bytes_resumed),
        ("reused", published.bytes_reused),
    ] {
        if bytes > 0 {
            line += &format!(", {what} {}", human_bytes(bytes));
        }
    }
    line + &format!(" in {}", human_seconds(published.elapsed_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_a_host_that_limits_requests_and_how_long() {
        let retry = |wait_ms, idle| Event::Retry {
            source: "http://h/x".to_owned(),
            class: Class::Slower,
            attempt: 0,
            wait_ms,
            idle,
        };
        let text =
            |seconds| format!("http://h/x: its host limits requests; retrying in {seconds} s");
        let notice = |text: &str| Some(Line::Notice(text.to_owned()));
        assert_eq!(line(&retry(5_200, true)), notice(&text("5.2")));
        // Others go on meanwhile.
        assert_eq!(line(&retry(5_200, false)), Some(Line::Detail(text("5.2"))));
        let slowed = |serves| Event::HostSlowed {
            host: "h".to_owned(),
            connections: 2,
            cooldown_ms: 60_000,
            wait_ms: 800,
            serves,
        };
        let text = "h limits requests: at most 2 connection(s); what it refused is requested again in 0.8 s";
        assert_eq!(line(&slowed(true)), notice(text));
        let text = "h limits requests: at most 2 connection(s); the next request follows in 0.8 s";
        assert_eq!(line(&slowed(false)), notice(text));
    }
}
