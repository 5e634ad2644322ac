//! What a server counts, in the text format of Prometheus (version 0.0.4).

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::disk::machine;

/// Why a connection ended, or was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By agreement: the client closed it, or the server stopped.
    Done,
    /// It broke while a request or a response was under way.
    Broken,
    /// No byte moved for too long.
    Silence,
    /// The header section of a request took too long.
    Headers,
    /// There was no TLS handshake that we agree to.
    Handshake,
    /// What came was no HTTP, or too much of it.
    Invalid,
    /// It made room for another connection.
    Full,
    /// It was not accepted: its client has too many.
    Share,
}

const ENDS: [(End, &str); 8] = [
    (End::Done, "done"),
    (End::Broken, "broken"),
    (End::Silence, "silence"),
    (End::Headers, "headers"),
    (End::Handshake, "handshake"),
    (End::Invalid, "invalid"),
    (End::Full, "full"),
    (End::Share, "share"),
];
const METHODS: [&str; 3] = ["GET", "HEAD", "other"];
/// "none": the client left before there was a response.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds of the buckets for durations, in milliseconds: from a small range on a local network to a large file on a bad one.
const BOUNDS_MS: [u64; 11] = [
    1, 5, 10, 50, 100, 500, 1_000, 5_000, 30_000, 300_000, 3_600_000,
];

/// A number that another part of the server counts.
pub struct Family {
    /// With the prefix `sapwood_`; a counter's ends with `_total`.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// The number now.
    pub value: Box<dyn Fn() -> f64 + Send + Sync>,
}

/// The numbers of one server.
#[derive(Default)]
pub struct Metrics {
    started: Started,
    requests: [[AtomicU64; STATUSES.len()]; METHODS.len()],
    bytes: AtomicU64,
    cut_off: AtomicU64,
    /// One for each bound, and one for what took longer.
    durations: [AtomicU64; BOUNDS_MS.len() + 1],
    duration_us: AtomicU64,
    accepted: AtomicU64,
    open: AtomicU64,
    ends: [AtomicU64; ENDS.len()],
    lost_lines: AtomicU64,
    others: Mutex<Vec<Family>>,
}

/// Seconds since 1970.
struct Started(u64);

impl Default for Started {
    fn default() -> Started {
        Started(machine::unix_time())
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Metrics {
    /// For one server.
    pub fn new() -> Arc<Metrics> {
        Arc::default()
    }

    /// Shows a number of another part of the server too.
    pub fn show(&self, family: Family) {
        self.others.lock().push(family);
    }

    pub(super) fn accepted(&self) {
        add(&self.accepted, 1);
    }

    pub(super) fn opened(&self) {
        add(&self.open, 1);
    }

    pub(super) fn left(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self, why: End) {
        if let Some(index) = ENDS.iter().position(|(end, _)| *end == why) {
            add(&self.ends[index], 1);
        }
    }

    /// `status`: 0 if there was none.
    pub(super) fn responded(&self, method: &str, status: u16, bytes: u64, took: Duration) {
        let method = METHODS.iter().position(|name| *name == method);
        let class = usize::from(status / 100).min(STATUSES.len() - 1);
        add(
            &self.requests[method.unwrap_or(METHODS.len() - 1)][class],
            1,
        );
        add(&self.bytes, bytes);
        let ms = took.as_micros().div_ceil(1000) as u64;
        add(
            &self.durations[BOUNDS_MS.partition_point(|bound| *bound < ms)],
            1,
        );
        add(&self.duration_us, took.as_micros() as u64);
    }

    pub(super) fn cut_off(&self) {
        add(&self.cut_off, 1);
    }

    pub(super) fn line_lost(&self) {
        add(&self.lost_lines, 1);
    }

    /// Lines of the access log that were lost so far.
    pub fn lines_lost(&self) -> u64 {
        self.lost_lines.load(Ordering::Relaxed)
    }

    /// All of it, as `/metrics` shows it.
    pub fn text(&self) -> String {
        let mut text = Text(String::new());
        let build = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        text.family("sapwood_build_info", "gauge", "The version that runs.");
        text.sample("sapwood_build_info", &build, 1);
        let start = "process_start_time_seconds";
        text.family(start, "gauge", "When the server started, since 1970.");
        text.sample(start, "", self.started.0);
        self.requests_to(&mut text);
        self.connections_to(&mut text);
        let lost = "sapwood_access_log_lost_lines_total";
        text.family(
            lost,
            "counter",
            "Lines that the access log could not take in time.",
        );
        text.sample(lost, "", &self.lost_lines);
        for other in self.others.lock().iter() {
            let kind = match other.is_counter {
                true => "counter",
                false => "gauge",
            };
            text.family(other.name, kind, other.help);
            text.sample(other.name, "", (other.value)());
        }
        text.0
    }

    fn requests_to(&self, text: &mut Text) {
        let requests = "sapwood_http_requests_total";
        text.family(
            requests,
            "counter",
            "Requests, when their response is over.",
        );
        for (method, counts) in METHODS.iter().zip(&self.requests) {
            for (status, count) in STATUSES.iter().zip(counts) {
                // Informational responses are no final ones.
                if *status != "1xx" {
                    let labels = format!("{{method=\"{method}\",status=\"{status}\"}}");
                    text.sample(requests, &labels, count);
                }
            }
        }
        let bytes = "sapwood_http_response_bytes_total";
        text.family(bytes, "counter", "Bytes of the bodies of responses.");
        text.sample(bytes, "", &self.bytes);
        let cut_off = "sapwood_http_responses_cut_off_total";
        text.family(
            cut_off,
            "counter",
            "Responses whose body was not sent whole.",
        );
        text.sample(cut_off, "", &self.cut_off);

        let duration = "sapwood_http_request_duration_seconds";
        text.family(
            duration,
            "histogram",
            "From the request to the end of its response.",
        );
        let mut count = 0;
        for (bound, within) in BOUNDS_MS.iter().zip(&self.durations) {
            count += within.load(Ordering::Relaxed);
            let labels = format!("{{le=\"{}\"}}", *bound as f64 / 1000.0);
            text.sample(&format!("{duration}_bucket"), &labels, count);
        }
        count += self.durations[BOUNDS_MS.len()].load(Ordering::Relaxed);
        text.sample(&format!("{duration}_bucket"), "{le=\"+Inf\"}", count);
        let seconds = self.duration_us.load(Ordering::Relaxed) as f64 / 1e6;
        text.sample(&format!("{duration}_sum"), "", seconds);
        text.sample(&format!("{duration}_count"), "", count);
    }

    fn connections_to(&self, text: &mut Text) {
        let open = "sapwood_connections_open";
        text.family(open, "gauge", "Connections that are open now.");
        text.sample(open, "", &self.open);
        let accepted = "sapwood_connections_accepted_total";
        text.family(accepted, "counter", "Connections that came in.");
        text.sample(accepted, "", &self.accepted);
        let closed = "sapwood_connections_closed_total";
        text.family(closed, "counter", "Connections that ended, by reason.");
        for ((_, reason), count) in ENDS.iter().zip(&self.ends) {
            text.sample(closed, &format!("{{reason=\"{reason}\"}}"), count);
        }
    }
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Value) {
        let _ = writeln!(self.0, "{name}{labels} {}", value.number());
    }
}

trait Value {
    fn number(self) -> f64;
}

impl Value for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Value for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Value for &AtomicU64 {
    fn number(self) -> f64 {
        self.load(Ordering::Relaxed) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_their_buckets() {
        let metrics = Metrics::default();
        for ms in [0, 1, 2, 5, 3_600_000, 3_600_001] {
            metrics.responded("GET", 206, 10, Duration::from_millis(ms));
        }
        let text = metrics.text();
        for line in [
            "sapwood_http_request_duration_seconds_bucket{le=\"0.001\"} 2",
            "sapwood_http_request_duration_seconds_bucket{le=\"0.005\"} 4",
            "sapwood_http_request_duration_seconds_bucket{le=\"300\"} 4",
            "sapwood_http_request_duration_seconds_bucket{le=\"3600\"} 5",
            "sapwood_http_request_duration_seconds_bucket{le=\"+Inf\"} 6",
            "sapwood_http_request_duration_seconds_count 6",
            "sapwood_http_requests_total{method=\"GET\",status=\"2xx\"} 6",
            "sapwood_http_response_bytes_total 60",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
