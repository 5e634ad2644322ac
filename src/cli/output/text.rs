//! Events as text for people.

use std::path::Path;

use crate::{
    cli::{
        hints,
        units::{self, human_bytes},
    },
    engine::{
        event_fields::{action, reason_of_drop},
        events::{
            Damaged, Event, FileCounts, Forgotten, Intended, Library, ManifestPart, Placed,
            Planned, Published, Pushed, Retry, Synced,
        },
    },
    format::{geometry::BlockIndex, trust::Trust},
    policy::recovery::Class,
};

use super::words::{self, WAIT_TOLD_MS, human_seconds};

/// A search of fewer bytes is over before a line about it is read.
const SEARCHED_BYTES_TOLD: u64 = 2_000_000_000;

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

fn of_part(part: &ManifestPart) -> String {
    let ManifestPart {
        path,
        bytes,
        bytes_total,
        ..
    } = part;
    format!("bytes {bytes} of {bytes_total}  {}", path.display())
}

fn of_library(library: &Library) -> String {
    let Library {
        root, files, path, ..
    } = library;
    let mut text = format!(
        "{root}  {}: {files} {}, {}; read {} ({})",
        path.display(),
        if *files == 1 { "file" } else { "files" },
        human_bytes(library.bytes_total),
        library.files_read,
        human_bytes(library.bytes_read)
    );
    if library.left_out > 0 {
        text += &format!("; left out {}", library.left_out);
    }
    text
}

/// An event as text; `None`: nothing is printed for it.
pub fn line(event: &Event) -> Option<Line> {
    match event {
        Event::Planned(plan) => Some(Line::Detail(of_planned(plan))),
        Event::Progress(_)
        | Event::BlocksVerified { .. }
        | Event::Checkpoint { .. }
        // A `DamagedRun` is one line for several.
        | Event::Damaged(_) => None,
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
        Event::Retry(retry) => Some(of_retry(retry)),
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
        Event::ManifestPart(part) => result(of_part(part)),
        Event::Library(library) => result(of_library(library)),
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
        Event::Added { .. } | Event::Forgotten { .. } | Event::Evicted { .. } => of_store(event),
        Event::Published(published) => result(of_published(published)),
        Event::Placed(_)
        | Event::Moved { .. }
        | Event::Deleted { .. }
        | Event::Intended(_)
        | Event::FileFailed { .. }
        | Event::Synced(_) => of_sync(event),
        Event::Awaited { .. }
        | Event::PushPlanned(_)
        | Event::PushProgress(_)
        | Event::PushResumed { .. }
        | Event::Pushed(_) => of_push(event),
    }
}

/// What is to be fetched, from where.
fn of_planned(plan: &Planned) -> String {
    let mut text = format!(
        "{}: {} of {} to fetch from {}",
        plan.path.display(),
        human_bytes(plan.bytes_to_fetch),
        human_bytes(plan.bytes_total),
        plan.url
    );
    if let Some(local) = words::local(plan.bytes_held + plan.bytes_local, plan.bytes_held) {
        text += &format!(", {local}");
    }
    match plan.block_size {
        Some(size) => {
            text + &format!(
                "; proven by blocks of {} KiB against its {}",
                size.bytes() >> 10,
                plan.trust.basis()
            )
        }
        None if plan.trust == Trust::default() => text + "; NOT verified",
        None => text + &format!("; compared with its {} at the end", plan.trust.basis()),
    }
}

/// An event of the store.
fn of_store(event: &Event) -> Option<Line> {
    match event {
        Event::Added {
            path,
            root,
            bytes_total,
            is_known,
        } => result(format!(
            "{root}  {}  {}{}",
            human_bytes(*bytes_total),
            path.display(),
            if *is_known { "  (known already)" } else { "" }
        )),
        Event::Forgotten { path, why, .. } => result(format!(
            "{} {} and is no longer used",
            path.display(),
            match why {
                Forgotten::Gone => "is gone",
                Forgotten::Changed => "changed",
                Forgotten::Told => "is forgotten",
            }
        )),
        Event::Evicted { path, bytes, .. } => result(format!(
            "{}: evicted {}",
            path.display(),
            human_bytes(*bytes)
        )),
        _ => None,
    }
}

/// An event of a push.
fn of_push(event: &Event) -> Option<Line> {
    match event {
        Event::Awaited { path } => notice(format!("waiting for {} to appear", path.display())),
        Event::PushPlanned(plan) => notice(format!(
            "it can be played while it grows: sapwood gateway {}",
            plan.growing_url.as_ref()?
        )),
        Event::PushResumed { bytes_held } => notice(format!(
            "resuming: {} arrived before",
            human_bytes(*bytes_held)
        )),
        Event::Pushed(pushed) => result(pushed.url.clone()),
        _ => None,
    }
}

/// An event of a sync.
fn of_sync(event: &Event) -> Option<Line> {
    match event {
        Event::Placed(placed) => Some(Line::Detail(of_placed(placed))),
        Event::Moved { from, path } => Some(Line::Detail(format!(
            "{} is now {}",
            from.display(),
            path.display()
        ))),
        Event::Deleted { path, trash } => Some(Line::Detail(of_deleted(path, trash.as_deref()))),
        Event::Intended(intended) => result(of_intended(intended)),
        Event::FileFailed { error, .. } => notice(error.to_string()),
        Event::Synced(synced) => result(of_synced(synced)),
        _ => None,
    }
}

/// What there is to say about a push, besides the URL.
pub fn of_pushed(pushed: &Pushed) -> String {
    let mut line = format!(
        "{} published, root {}; sent {}",
        human_bytes(pushed.bytes_total),
        pushed.root,
        human_bytes(pushed.bytes_sent)
    );
    if pushed.bytes_copied > 0 {
        let copied = human_bytes(pushed.bytes_copied);
        line += &format!(", {copied} were copied from the earlier object");
    }
    let were_there = pushed.bytes_reused.saturating_sub(pushed.bytes_copied);
    if were_there > 0 {
        line += &format!(", {} were there", human_bytes(were_there));
    }
    line + &format!(" in {}", human_seconds(pushed.elapsed_ms))
}

fn of_placed(placed: &Placed) -> String {
    let Placed {
        bytes_reused,
        bytes_resumed,
        ..
    } = placed;
    let local = words::local(bytes_reused + bytes_resumed, *bytes_resumed);
    let local = local.map_or_else(String::new, |local| format!(", {local}"));
    format!(
        "{}: {}, fetched {}{local}",
        placed.path.display(),
        human_bytes(placed.bytes_total),
        human_bytes(placed.bytes_fetched)
    )
}

fn of_deleted(path: &Path, trash: Option<&Path>) -> String {
    match trash {
        Some(trash) => format!(
            "{} is deleted, and kept as {}",
            path.display(),
            trash.display()
        ),
        None => format!("{} is deleted", path.display()),
    }
}

fn of_intended(intended: &Intended) -> String {
    let Intended {
        path,
        what,
        from,
        bytes,
    } = intended;
    let from = from.as_ref();
    let from = from.map_or_else(String::new, |from| format!("  from {}", from.display()));
    let path = path.display();
    format!("{:<7} {path}  {}{from}", action(*what), human_bytes(*bytes))
}

fn of_synced(synced: &Synced) -> String {
    let FileCounts {
        fetched,
        moved,
        copied,
        deleted,
        unchanged,
        failed,
    } = synced.files;
    let mut line = format!(
        "{}: {} {}, {}, proven against its {}",
        synced.path.display(),
        synced.files_total,
        if synced.files_total == 1 {
            "file"
        } else {
            "files"
        },
        human_bytes(synced.bytes_total),
        synced.trust.basis()
    );
    let counts = [
        ("fetched", fetched),
        ("moved", moved),
        ("copied", copied),
        ("deleted", deleted),
        ("unchanged", unchanged),
        ("failed", failed),
    ];
    let (before, would) = match synced.is_dry_run {
        true => ("; would be: ", true),
        false => ("; ", false),
    };
    let counted = counts.iter().filter(|(_, count)| *count > 0);
    let counted: Vec<String> = counted
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    if !counted.is_empty() {
        line += before;
        line += &counted.join(", ");
    }
    match would {
        true => line + &format!(", at most {}", human_bytes(synced.bytes_to_fetch)),
        false => {
            line + &format!(
                "; received {} in {}",
                human_bytes(synced.bytes_fetched),
                human_seconds(synced.elapsed_ms)
            )
        }
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

fn of_retry(retry: &Retry) -> Line {
    let Retry {
        source,
        class,
        wait_ms,
        idle,
        reason,
        ..
    } = retry;
    if retry.is_first {
        let until = units::time_of_day(retry.until_ms / 1000);
        return Line::Notice(format!("{reason}, trying until {until}"));
    }
    let seconds = *wait_ms as f64 / 1000.0;
    let line = match class {
        Class::Slower => format!("{source}: its host limits requests; retrying in {seconds:.1} s"),
        _ => format!("{reason}; retrying in {seconds:.1} s"),
    };
    match *idle && *wait_ms >= WAIT_TOLD_MS {
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

/// What is damaged: one place, or blocks that follow each other and are all wrong, or all missing.
pub struct DamagedRun {
    /// The first block, with the bytes of all.
    all: Damaged,
    last: Option<BlockIndex>,
}

impl DamagedRun {
    pub fn new(first: &Damaged) -> DamagedRun {
        DamagedRun {
            all: first.clone(),
            last: first.block,
        }
    }

    /// Adds the next block; `false`: it does not follow, or is damaged in another way.
    pub fn extend(&mut self, next: &Damaged) -> bool {
        let following = self.last.map(|last| BlockIndex(last.0 + 1));
        let follows = next.block.is_some()
            && next.block == following
            && next.path == self.all.path
            && next.found.is_some() == self.all.found.is_some();
        if follows {
            self.last = next.block;
            self.all.bytes.end = next.bytes.end;
        }
        follows
    }

    pub fn line(&self) -> String {
        let bytes = self.all.bytes;
        let how = match self.all.found {
            Some(_) => "damaged",
            None => "missing",
        };
        let what = match (self.all.block, self.last) {
            (Some(first), Some(last)) if first != last => {
                format!("blocks {first}-{last} are {how} (bytes {bytes})")
            }
            (Some(block), _) => format!("block {block} is {how} (bytes {bytes})"),
            (None, _) if self.all.found.is_some() => "the content differs".to_owned(),
            (None, _) => format!("there are extra bytes ({bytes})"),
        };
        format!("{}: {what}", self.all.path.display())
    }
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
    let resumed = published.bytes_resumed;
    if let Some(local) = words::local(published.bytes_reused + resumed, resumed) {
        line += &format!(", {local}");
    }
    line + &format!(" in {}", human_seconds(published.elapsed_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `store add` and `store list` had the columns in different orders.
    #[test]
    fn a_file_that_was_added_is_shown_as_in_the_list() {
        let root = crate::format::tree::Root([1; 32]);
        let added = Event::Added {
            path: "x".into(),
            root,
            bytes_total: 5,
            is_known: true,
        };
        let text = format!("{root}  5 B  x  (known already)");
        assert_eq!(line(&added), Some(Line::Result(text)));
    }

    #[test]
    fn what_waits_for_a_host_that_limits_requests_and_how_long() {
        let retry = |wait_ms, idle| {
            Event::Retry(Retry {
                source: "http://h/x".to_owned(),
                class: Class::Slower,
                attempt: 0,
                wait_ms,
                idle,
                reason: "http://h/x: status 429".to_owned(),
                is_first: false,
                until_ms: 0,
            })
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
