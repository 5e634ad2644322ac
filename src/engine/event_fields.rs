//! Events as names and fields: those of the JSON events of the program. Other programs that show events use the same. Names, fields and
//! their order are part of the contract with scripts.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    format::characters::printable,
    net::error::describe,
    policy::{recovery::Failure, schedule::DropReason},
};

use super::{
    error::Error,
    error_kind::ErrorKind,
    events::{
        Damaged, Event, FileCounts, Forgotten, Intent, Placed, Planned, Published, Retry, Synced,
    },
};

/// The name and the fields of an event.
#[rustfmt::skip] // One event a line, or a few.
pub fn of(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Planned(plan) => ("planned", of_planned(plan)),
        Event::Progress(progress) => ("progress", json!({
            "bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total, "bytes_fetched": progress.bytes_fetched,
            "rate_bps": progress.rate_bps, "bytes_proven": progress.bytes_proven,
            "files_done": progress.files.map(|(done, _)| done), "files_total": progress.files.map(|(_, total)| total),
        })),
        Event::BlocksVerified { first, count, source } => ("blocks_verified", json!({ "first": first.0, "count": count, "source": source })),
        Event::BlockWrong { block, bytes, expected, found, source } => ("block_wrong", json!({
            "block": block.0, "offset": bytes.start, "length": bytes.length(), "expected": hex::encode(expected),
            "found": hex::encode(found), "source": source,
        })),
        Event::Warning { message } => ("warning", json!({ "message": message })),
        Event::Checkpoint { bytes_done } => ("checkpoint", json!({ "bytes_done": bytes_done })),
        Event::Resumed { bytes_held } => ("resumed", json!({ "bytes_held": bytes_held })),
        Event::Searching { bytes } => ("searching", json!({ "bytes": bytes })),
        Event::PartReused { path, bytes } =>
            ("part_reused", json!({ "path": printable(&path.display().to_string()), "bytes": bytes })),
        Event::Replaced { url, root } => ("replaced", json!({ "url": url, "root": root.to_string() })),
        Event::PartKept { path, bytes } =>
            ("part_kept", json!({ "path": printable(&path.display().to_string()), "bytes": bytes })),
        Event::StartedOver { bytes, url, .. } => ("started_over", json!({ "bytes": bytes, "other_url": url })),
        Event::Retry(retry) => ("retry", of_retry(retry)),
        Event::HostSlowed { host, connections, cooldown_ms, wait_ms, .. } => ("host_slowed", json!({
            "host": host, "connections": connections, "until_ms": now_ms() + cooldown_ms, "wait_ms": wait_ms,
        })),
        Event::SourceDropped { source, why } => {
            let block = match why {
                DropReason::WrongBlock { block } => Some(block.0),
                DropReason::Failed(_) => None,
            };
            ("source_dropped", json!({ "source": source, "reason": reason_of_drop(*why), "block": block }))
        }
        Event::Manifest { manifest, root, bytes_total, block_size, blocks, pack_bytes } => ("manifest", json!({
            "manifest": lossy(manifest), "root": root.to_string(), "bytes_total": bytes_total, "block_size": block_size.bytes(),
            "blocks": blocks, "pack_bytes": pack_bytes,
        })),
        Event::ManifestPart(part) => ("part", json!({
            "part": lossy(&part.path), "offset": part.bytes.start, "length": part.bytes.length(), "bytes_total": part.bytes_total,
            "block_size": part.block_size.bytes(),
        })),
        Event::Library(library) => ("library", json!({
            "path": lossy(&library.path), "root": library.root.to_string(), "files": library.files, "bytes_total": library.bytes_total,
            "files_read": library.files_read, "bytes_read": library.bytes_read, "left_out": library.left_out,
        })),
        Event::Damaged(damaged) => ("damaged", of_damaged(damaged)),
        Event::Verified { path, root, bytes_total, trust } => ("verified", json!({
            "path": lossy(path), "root": root.to_string(), "bytes_total": bytes_total, "trust": trust.name(),
        })),
        Event::Added { path, root, bytes_total, is_known } => ("added", json!({
            "path": lossy(path), "root": root.to_string(), "bytes_total": bytes_total, "known": is_known,
        })),
        Event::Forgotten { path, root, why } => {
            let reason = forgotten(*why);
            ("forgotten", json!({ "path": lossy(path), "root": root.to_string(), "reason": reason }))
        }
        Event::Evicted { path, root, bytes } =>
            ("evicted", json!({ "path": lossy(path), "root": root.to_string(), "bytes": bytes })),
        Event::Published(published) => ("published", of_published(published)),
        Event::Placed(_) | Event::Moved { .. } | Event::Deleted { .. } | Event::Intended(_) | Event::FileFailed { .. }
        | Event::Synced(_) => of_sync(event),
        Event::Awaited { .. } | Event::PushPlanned(_) | Event::PushResumed { .. } | Event::PushProgress(_) | Event::Pushed(_) => of_push(event),
    }
}

/// Why the store forgot a file.
fn forgotten(why: Forgotten) -> &'static str {
    match why {
        Forgotten::Gone => "gone",
        Forgotten::Changed => "changed",
        Forgotten::Told => "told",
    }
}

/// The same of an event of a sync.
#[rustfmt::skip] // One event a line, or a few.
fn of_sync(event: &Event) -> (&'static str, Value) {
    match event {
        Event::Placed(placed) => ("published", of_placed(placed)),
        Event::Moved { from, path } => ("moved", json!({ "from": lossy(from), "path": lossy(path) })),
        Event::Deleted { path, trash } =>
            ("deleted", json!({ "path": lossy(path), "trash": trash.as_deref().map(lossy) })),
        Event::Intended(intended) => ("intended", json!({
            "path": lossy(&intended.path), "action": action(intended.what), "bytes": intended.bytes,
            "from": intended.from.as_deref().map(lossy),
        })),
        Event::FileFailed { path, url, error } => {
            let kind = ErrorKind::of(error);
            let mut fields = json!({
                "path": lossy(path), "url": url, "exit": kind as u8, "class": kind.name(), "message": error.to_string(),
            });
            if let (Value::Object(fields), Value::Object(more)) = (&mut fields, fields_of_error(error)) {
                fields.extend(more);
            }
            ("failed", fields)
        }
        Event::Synced(synced) => ("synced", of_synced(synced)),
        // The caller knows the others.
        _ => ("event", json!({})),
    }
}

/// The same of an event of a push.
#[rustfmt::skip] // One event a line, or a few.
fn of_push(event: &Event) -> (&'static str, Value) {
    match event {
        Event::PushPlanned(plan) => ("planned", json!({
            "path": lossy(&plan.path), "url": plan.url, "session": plan.session.to_string(), "bytes_total": plan.bytes_total,
            "bytes_held": plan.bytes_held, "bytes_to_send": plan.bytes_to_send, "part_size": plan.part_size,
            "block_size": plan.block_size.bytes(), "growing_url": plan.growing_url,
        })),
        Event::PushResumed { bytes_held } => ("resumed", json!({ "bytes_held": bytes_held })),
        Event::PushProgress(progress) => ("progress", json!({
            "bytes_done": progress.bytes_done, "bytes_total": progress.bytes_total, "bytes_sent": progress.bytes_sent,
            "bytes_recorded": progress.bytes_recorded, "rate_bps": progress.rate_bps,
        })),
        Event::Awaited { path } => ("awaited", json!({ "path": lossy(path) })),
        Event::Pushed(pushed) => ("published", json!({
            "path": lossy(&pushed.path), "url": pushed.url, "root": pushed.root.to_string(), "bytes_total": pushed.bytes_total,
            "bytes_sent": pushed.bytes_sent, "bytes_reused": pushed.bytes_reused, "bytes_copied": pushed.bytes_copied,
            "elapsed_ms": pushed.elapsed_ms,
        })),
        // The caller knows the others.
        _ => ("event", json!({})),
    }
}

/// The fields of `failed`, besides its kind and its message.
pub fn fields_of_error(error: &Error) -> Value {
    match error {
        Error::Wrong {
            block,
            bytes,
            expected,
            found,
            ..
        } => json!({
            "block": block.0, "offset": bytes.start, "length": bytes.length(), "expected": hex::encode(**expected),
            "found": hex::encode(**found),
        }),
        Error::MustWait { wait_s, .. } => {
            json!({ "retry_at": rfc3339(now().as_secs() + wait_s) })
        }
        _ => json!({}),
    }
}

fn of_planned(plan: &Planned) -> Value {
    json!({
        "path": lossy(&plan.path), "url": plan.url, "root": plan.root.map(|root| root.to_string()),
        "bytes_total": plan.bytes_total, "bytes_held": plan.bytes_held, "bytes_local": plan.bytes_local,
        "bytes_to_fetch": plan.bytes_to_fetch, "block_size": plan.block_size.map(|size| size.bytes()), "trust": plan.trust.name(),
    })
}

fn of_retry(retry: &Retry) -> Value {
    json!({
        "source": retry.source, "class": retry.class.name(), "attempt": retry.attempt, "wait_ms": retry.wait_ms,
        "reason": retry.reason, "until": rfc3339(retry.until_ms / 1000),
    })
}

fn of_damaged(damaged: &Damaged) -> Value {
    json!({
        "path": lossy(&damaged.path), "block": damaged.block.map(|block| block.0), "offset": damaged.bytes.start,
        "length": damaged.bytes.length(), "expected": damaged.expected.map(hex::encode), "found": damaged.found.map(hex::encode),
    })
}

fn of_published(published: &Published) -> Value {
    json!({
        "path": lossy(&published.path), "url": published.url, "root": published.root.to_string(), "sha256": published.sha256,
        "trust": published.trust.name(), "bytes_total": published.bytes_total, "bytes_fetched": published.bytes_fetched,
        "bytes_manifest": published.bytes_manifest, "bytes_reused": published.bytes_reused,
        "bytes_resumed": published.bytes_resumed, "unchanged": published.unchanged, "end_known": published.end_known,
        "elapsed_ms": published.elapsed_ms,
    })
}

fn of_placed(placed: &Placed) -> Value {
    json!({
        "path": lossy(&placed.path), "url": placed.url, "root": placed.root.to_string(), "trust": placed.trust.name(),
        "bytes_total": placed.bytes_total, "bytes_fetched": placed.bytes_fetched, "bytes_reused": placed.bytes_reused,
        "bytes_resumed": placed.bytes_resumed, "unchanged": false,
    })
}

fn of_synced(synced: &Synced) -> Value {
    let FileCounts {
        fetched,
        moved,
        copied,
        deleted,
        unchanged,
        failed,
    } = synced.files;
    json!({
        "path": lossy(&synced.path), "url": synced.url, "root": synced.root.to_string(), "trust": synced.trust.name(),
        "dry_run": synced.is_dry_run, "files_total": synced.files_total, "fetched": fetched, "moved": moved, "copied": copied,
        "deleted": deleted, "unchanged": unchanged, "failed": failed, "bytes_total": synced.bytes_total,
        "bytes_to_fetch": synced.bytes_to_fetch, "bytes_fetched": synced.bytes_fetched, "elapsed_ms": synced.elapsed_ms,
        "stopped": synced.is_stopped,
    })
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn now_ms() -> u64 {
    now().as_millis() as u64
}

/// What a sync would do, in one word.
pub fn action(intent: Intent) -> &'static str {
    match intent {
        Intent::Fetch => "fetch",
        Intent::Update => "update",
        Intent::Copy => "copy",
        Intent::Move => "move",
        Intent::SetAttributes => "touch",
        Intent::Delete => "delete",
    }
}

/// Why a source is not used any more.
pub fn reason_of_drop(why: DropReason) -> String {
    match why {
        DropReason::WrongBlock { .. } => "it sent wrong blocks".to_owned(),
        DropReason::Failed(Failure::Unreachable) => "it cannot be reached".to_owned(),
        DropReason::Failed(Failure::Changed(how)) => format!("it has another object: {how}"),
        DropReason::Failed(failure) => describe(failure),
    }
}

/// A Unix time as RFC 3339.
pub fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_source_is_no_longer_used() {
        use crate::policy::recovery::Changed;
        for (failure, reason) in [
            (Failure::Unreachable, "it cannot be reached"),
            (
                Failure::Refused { status: 404 },
                "nothing is there (status 404)",
            ),
            (
                Failure::Changed(Changed::Length),
                "it has another object: its length differs",
            ),
        ] {
            assert_eq!(reason_of_drop(DropReason::Failed(failure)), reason);
        }
    }
}
