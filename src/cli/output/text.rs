//! Events as they are printed: as JSON, or for people.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::{
    cli::units,
    engine::events::{Damaged, Event, Events, Forgotten, Published},
    policy::{recovery::Failure, schedule::DropReason},
};

use super::{Output, basis, human_seconds, printable};

/// Who searches less than this is done before he is read.
const SEARCHED_BYTES_TOLD: u64 = 2_000_000_000;

impl Events for Output {
    #[allow(clippy::too_many_lines, reason = "one arm an event, each by itself")]
    fn event(&mut self, event: Event) {
        match event {
            Event::Planned(plan) => {
                if let Some(bars) = &mut self.bars {
                    bars.start(self.path.clone(), &plan);
                }
                self.json_event("planned", json!({
                    "path": plan.path.to_string_lossy(), "url": plan.url, "root": plan.root.map(|root| root.to_string()),
                    "bytes_total": plan.bytes_total, "bytes_held": plan.bytes_held, "bytes_local": plan.bytes_local,
                    "bytes_to_fetch": plan.bytes_to_fetch, "block_size": plan.block_size.map(|size| size.bytes()),
                    "trust": plan.trust.name(),
                }));
            }
            Event::Progress(progress) => {
                if let Some(bars) = &self.bars {
                    bars.update(self.path.as_deref(), &progress);
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
            Event::Searching { bytes } => {
                if bytes >= SEARCHED_BYTES_TOLD {
                    let bytes = units::human_bytes(bytes);
                    self.notice(&format!(
                        "looking through {bytes} on this machine for what need not be fetched"
                    ));
                }
                self.json_event("searching", json!({ "bytes": bytes }));
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
                    DropReason::WrongBlock { block } => ("it sent wrong blocks", Some(block.0)),
                    DropReason::Failed(Failure::Unreachable) => ("it cannot be reached", None),
                    DropReason::Failed(_) => ("it failed", None),
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
            Event::Added {
                path,
                root,
                bytes_total,
                is_known,
            } => {
                let shown = printable(&path.display().to_string());
                let known = if is_known { ", known already" } else { "" };
                let bytes = units::human_bytes(bytes_total);
                self.result(&format!("{root}  {shown} ({bytes}{known})"));
                self.json_event("added", json!({
                    "path": path.to_string_lossy(), "root": root.to_string(), "bytes_total": bytes_total, "known": is_known,
                }));
            }
            Event::Forgotten { path, root, why } => {
                let (reason, what) = match why {
                    Forgotten::Gone => ("gone", "is gone"),
                    Forgotten::Changed => ("changed", "is another version now"),
                };
                let shown = printable(&path.display().to_string());
                self.result(&format!("{shown}: {what}; it is not used any more"));
                self.json_event(
                    "forgotten",
                    json!({
                        "path": path.to_string_lossy(), "root": root.to_string(), "reason": reason,
                    }),
                );
            }
            Event::Evicted { path, root, bytes } => {
                let shown = printable(&path.display().to_string());
                self.result(&format!("{shown}: {} went", units::human_bytes(bytes)));
                self.json_event(
                    "evicted",
                    json!({
                        "path": path.to_string_lossy(), "root": root.to_string(), "bytes": bytes,
                    }),
                );
            }
            Event::Published(published) => self.published(&published),
        }
    }
}

impl Output {
    fn published(&mut self, published: &Published) {
        self.published += 1;
        if let Some(bars) = &mut self.bars {
            bars.finish(self.path.as_deref());
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
