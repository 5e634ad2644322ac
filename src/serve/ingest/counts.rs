//! What happens to uploads, for the metrics of the server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    engine::ingest::{Collected, IngestEvent, NoticeEnd},
    serve::metrics::{Family, Metrics},
};

/// The numbers.
#[derive(Default)]
pub struct Counts {
    opened: AtomicU64,
    published: AtomicU64,
    disproved: AtomicU64,
    interrupted: AtomicU64,
    told: AtomicU64,
    untold: AtomicU64,
    aborted: AtomicU64,
    expired: AtomicU64,
    failed: AtomicU64,
    part: PartCounts,
    collected: CollectedCounts,
}

/// Of requests that send a part.
#[derive(Default)]
struct PartCounts {
    stored: AtomicU64,
    errors: AtomicU64,
    mismatches: AtomicU64,
    bytes: AtomicU64,
    copied: AtomicU64,
    us: AtomicU64,
}

/// As the last collection found it.
#[derive(Default)]
struct CollectedCounts {
    live: AtomicU64,
    staged_bytes: AtomicU64,
    orphans: AtomicU64,
    orphan_bytes: AtomicU64,
}

/// How a request that sends a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartEnd {
    Stored,
    /// Its bytes are not those that were declared.
    Mismatch,
    Error,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counts {
    pub fn note(&self, event: &IngestEvent) {
        let counter = match event {
            IngestEvent::Opened { .. } => &self.opened,
            IngestEvent::Published { .. } => &self.published,
            IngestEvent::Disproved { .. } => &self.disproved,
            IngestEvent::Interrupted { .. } => &self.interrupted,
            IngestEvent::Aborted { .. } => &self.aborted,
            IngestEvent::Expired { .. } => &self.expired,
            IngestEvent::Failed { .. } => &self.failed,
            IngestEvent::Noticed {
                end: NoticeEnd::Told,
                ..
            } => &self.told,
            IngestEvent::Noticed { .. } => &self.untold,
            IngestEvent::PartFinished { .. }
            | IngestEvent::Finalizing { .. }
            | IngestEvent::ExpiresSoon { .. }
            | IngestEvent::OrphanRemoved { .. } => return,
        };
        add(counter, 1);
    }

    pub fn note_part(&self, end: PartEnd, bytes: u64, took: Duration) {
        add(&self.part.bytes, bytes);
        add(&self.part.us, took.as_micros() as u64);
        match end {
            PartEnd::Stored => add(&self.part.stored, 1),
            PartEnd::Error => add(&self.part.errors, 1),
            PartEnd::Mismatch => {
                add(&self.part.errors, 1);
                add(&self.part.mismatches, 1);
            }
        }
    }

    /// Bytes of parts were copied of an earlier object.
    pub fn note_copied(&self, bytes: u64) {
        add(&self.part.copied, bytes);
    }

    pub fn note_collected(&self, collected: &Collected) {
        for (gauge, value) in [
            (&self.collected.live, collected.live),
            (&self.collected.staged_bytes, collected.staged_bytes),
            (&self.collected.orphans, collected.orphans),
            (&self.collected.orphan_bytes, collected.orphan_bytes),
        ] {
            gauge.store(value, Ordering::Relaxed);
        }
    }

    /// Shows them among the metrics.
    pub fn show(self: &Arc<Self>, metrics: &Metrics) {
        type Of = fn(&Counts) -> &AtomicU64;
        #[rustfmt::skip] // One number a line.
        let counters: [(&str, &str, Of); 14] = [
            ("sapwood_uploads_opened_total", "Sessions that were opened.", |c| &c.opened),
            ("sapwood_uploads_published_total", "Objects that were proven and published.", |c| &c.published),
            ("sapwood_uploads_disproved_total", "Attempts to publish whose parts were not what the client said.", |c| &c.disproved),
            ("sapwood_uploads_interrupted_total", "Attempts to publish at which the storage failed.", |c| &c.interrupted),
            ("sapwood_uploads_aborted_total", "Sessions that their clients gave up.", |c| &c.aborted),
            ("sapwood_uploads_expired_total", "Sessions that no client used for too long.", |c| &c.expired),
            ("sapwood_uploads_failed_total", "Sessions whose staged bytes were lost.", |c| &c.failed),
            ("sapwood_upload_notices_total", "Notices to the command or URL of the operator that were told.", |c| &c.told),
            ("sapwood_upload_notice_errors_total", "Attempts to tell one that failed.", |c| &c.untold),
            ("sapwood_upload_parts_total", "Requests that stored a part.", |c| &c.part.stored),
            ("sapwood_upload_part_errors_total", "Requests that sent a part and did not store it.", |c| &c.part.errors),
            ("sapwood_upload_part_mismatches_total", "Of these, those whose bytes were not those declared.", |c| &c.part.mismatches),
            ("sapwood_upload_received_bytes_total", "Bytes of parts that arrived.", |c| &c.part.bytes),
            ("sapwood_upload_copied_bytes_total", "Bytes of parts that were copied of earlier objects.", |c| &c.part.copied),
        ];
        #[rustfmt::skip] // One number a line.
        let gauges: [(&str, &str, Of); 4] = [
            ("sapwood_uploads_unfinished", "Sessions that may still publish something.", |c| &c.collected.live),
            ("sapwood_upload_staged_bytes", "Bytes of the disk for what is not published yet.", |c| &c.collected.staged_bytes),
            ("sapwood_upload_orphans", "Staged uploads that no session knows.", |c| &c.collected.orphans),
            ("sapwood_upload_orphan_bytes", "Their bytes.", |c| &c.collected.orphan_bytes),
        ];
        let all = counters.map(|counter| (counter, true)).into_iter();
        for ((name, help, of), is_counter) in all.chain(gauges.map(|gauge| (gauge, false))) {
            let counts = self.clone();
            metrics.show(Family {
                name,
                help,
                is_counter,
                value: Box::new(move || of(&counts).load(Ordering::Relaxed) as f64),
            });
        }
        let counts = self.clone();
        metrics.show(Family {
            name: "sapwood_upload_part_seconds_total",
            help: "How long the requests that send parts took together.",
            is_counter: true,
            value: Box::new(move || counts.part.us.load(Ordering::Relaxed) as f64 / 1e6),
        });
    }
}
