//! Everything that is printed: events in words or as JSON, results on stdout, everything else on stderr.

mod bar;
mod json;
mod live;
mod log;
mod progress;
mod screen;
mod text;
mod total;
mod words;

use std::{
    collections::HashSet,
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    disk::{lacking, streams},
    engine::{
        error::Error,
        event_fields,
        events::{Damaged, Event, Events},
    },
    format::characters::printable,
    policy::recovery::Class,
};

use super::{args::OutputArgs, exit::Exit, hints};

use progress::Bars;
use text::{DamagedRun, Line};
use total::Total;

/// Where output goes and how it looks.
#[allow(
    clippy::struct_excessive_bools,
    reason = "two flags that were typed and two facts of the run, each by itself"
)]
pub struct Output {
    json: bool,
    quiet: bool,
    verbose: u8,
    /// Standard output is taken by data, so events go to standard error.
    stdout_is_data: bool,
    /// With neither --json nor --quiet.
    bars: Option<Bars>,
    /// The file that events are about.
    path: Option<String>,
    /// There are several files, so that lines for people name theirs: the hosts that were told to be out of reach, and why.
    several: Option<HashSet<String>>,
    /// How far all files are, if there are several.
    total: Option<Total>,
    counts: Counts,
    /// Not printed yet: the next block may be damaged too.
    damaged: Option<DamagedRun>,
    /// The first failure to write to standard output, other than a closed pipe.
    stdout_lost: Option<io::Error>,
    /// See [`Output::never_waits`].
    never_waits: bool,
}

/// What the last line of a run says.
#[derive(Default)]
struct Counts {
    published: u64,
    failed: u64,
    bytes_fetched: u64,
    /// Of a command that sends.
    bytes_sent: Option<u64>,
}

impl Output {
    pub fn new(args: &OutputArgs) -> Output {
        let bars = (!args.json && !args.quiet).then(Bars::new);
        log::init(args.verbose, bars.as_ref().map(Bars::screen));
        Output {
            json: args.json,
            quiet: args.quiet,
            verbose: args.verbose,
            stdout_is_data: false,
            bars,
            path: None,
            several: None,
            counts: Counts::default(),
            total: None,
            damaged: None,
            stdout_lost: None,
            never_waits: false,
        }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The following events are about this file.
    pub fn about(&mut self, path: Option<String>) {
        self.path = path;
    }

    /// A bar shows that nothing of this file came yet.
    pub fn connects(&mut self, path: &str, host: &str) {
        if let Some(bars) = &mut self.bars {
            bars.connect(path, host);
        }
    }

    /// Whether there is more than one file.
    pub fn is_about_several(&mut self, several: bool) {
        self.several = several.then(HashSet::new);
    }

    /// From now on this many files are shown as one.
    pub fn begin_total(&mut self, files: usize) {
        self.total = Some(Total::new(files, Instant::now()));
    }

    /// A bar shows how much of these bytes of local files is read, until [`Output::has_read`]. 0: unknown.
    pub fn reads(&mut self, what: &str, bytes: u64) {
        if let Some(bars) = &mut self.bars {
            bars.read(what, bytes);
        }
    }

    /// The same of one file.
    pub fn reads_file(&mut self, path: &Path) {
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        self.reads(&path.display().to_string(), bytes);
    }

    pub fn has_read(&mut self) {
        if let Some(bars) = &mut self.bars {
            bars.finish_all();
        }
    }

    /// The last line about all files.
    pub fn end_total(&mut self) {
        if let Some(total) = self.total.take() {
            if let Some(bars) = &mut self.bars {
                bars.finish_all();
            }
            self.several = None;
            self.notice(&total.end(Instant::now()));
        }
    }

    /// From now on standard output is reserved for data.
    pub fn stdout_is_data(&mut self) {
        self.stdout_is_data = true;
    }

    /// From now on a line is dropped if it would wait until somebody reads the lines before it: a server does not stop for them.
    pub fn never_waits(&mut self) {
        self.never_waits = true;
        // Nor does it show the progress of anything.
        self.bars = None;
        log::never_waits();
    }

    /// One line on standard output, or on standard error while the former is reserved for data.
    pub fn line(&mut self, text: impl Into<String>) {
        let mut text: String = text.into();
        text.push('\n');
        match self.stdout_is_data {
            true => self.tell(&text),
            false if self.never_waits && !streams::has_room(io::stdout(), text.len()) => (),
            false => {
                let written = io::stdout().write_all(text.as_bytes());
                self.note_lost(written);
            }
        }
    }

    /// Writes data to standard output, all of it. Returns the exit code.
    pub fn data(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Exit {
        let mut stdout = BufWriter::new(io::stdout().lock());
        let written = write(&mut stdout).and_then(|()| stdout.flush());
        self.data_written(written)
    }

    /// The exit code after data was written to standard output. A closed pipe is a normal end: its reader has enough.
    pub fn data_written(&mut self, written: io::Result<()>) -> Exit {
        self.note_lost(written);
        self.printed()
    }

    /// The exit code of a command whose result is what it printed.
    pub fn printed(&mut self) -> Exit {
        match self.stdout_lost.take() {
            None => Exit::Ok,
            Some(cause) => {
                self.stdout_is_data = true;
                let message = format!("failed to write to standard output: {cause}");
                self.fail(None, None, Exit::Disk, &message)
            }
        }
    }

    /// The same for lines for people that are results, beside the exit code of the work itself. Events are only told.
    pub fn results(&mut self, exit: Exit) -> Exit {
        self.print_damaged();
        match self.json {
            true => exit,
            false => Exit::of_all(
                [exit, self.printed()]
                    .into_iter()
                    .filter(|exit| *exit != Exit::Ok),
            ),
        }
    }

    fn note_lost(&mut self, written: io::Result<()>) {
        if let Err(cause) = written
            && cause.kind() != io::ErrorKind::BrokenPipe
        {
            self.stdout_lost.get_or_insert(cause);
        }
    }

    /// A result for people.
    pub fn result(&mut self, text: &str) {
        if !self.json && !self.quiet {
            let text = printable(text);
            self.without_bars(|output| output.line(&text));
        }
    }

    /// A note for people, on standard error.
    pub fn notice(&mut self, text: &str) {
        if !self.json && !self.quiet {
            let text = match (&self.path, self.several.is_some()) {
                (Some(path), true) => printable(&format!("{path}: {text}")),
                _ => printable(text),
            };
            self.without_bars(|output| output.tell(&format!("sapwood: {text}\n")));
        }
    }

    /// Writes to standard error. A failure is ignored: no run ends because nobody reads its messages.
    fn tell(&self, text: &str) {
        if !self.never_waits || streams::has_room(io::stderr(), text.len()) {
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }

    fn without_bars(&mut self, print: impl FnOnce(&mut Output)) {
        match self.bars.as_ref().map(Bars::screen) {
            Some(screen) => screen.above(|| print(self)),
            None => print(self),
        }
    }

    pub fn json_event(&mut self, name: &str, fields: Value) {
        if self.json {
            let line = json::line(name, self.path.as_deref(), &fields);
            self.line(line);
        }
    }

    fn update_bars(&mut self, event: &Event) {
        if let Some(total) = &mut self.total {
            total.note(self.path.as_deref(), event, Instant::now());
        }
        match (&mut self.bars, &self.total) {
            (Some(bars), Some(total)) => bars.show_total(total, event),
            (Some(bars), None) => bars.note(self.path.as_deref(), event),
            (None, _) => (),
        }
    }

    /// Whether a line about another file said the same: many may wait for one host.
    fn is_told(&mut self, event: &Event) -> bool {
        match (event, &mut self.several) {
            (Event::Retry(retry), Some(told)) if retry.is_first => {
                !told.insert(retry.reason.clone())
            }
            _ => false,
        }
    }

    /// Damaged blocks that follow each other are one line for people.
    fn add_damaged(&mut self, damaged: &Damaged) {
        let run = self.damaged.as_mut();
        if !run.is_some_and(|run| run.extend(damaged)) {
            self.print_damaged();
            self.damaged = Some(DamagedRun::new(damaged));
        }
    }

    fn print_damaged(&mut self) {
        if let Some(run) = self.damaged.take() {
            self.result(&run.line());
        }
    }

    /// A mistake in the arguments that clap cannot see.
    pub fn usage(&mut self, message: &str) -> Exit {
        self.refuse(Exit::Usage, message)
    }

    /// The command, or one of its arguments, cannot be done.
    pub fn refuse(&mut self, exit: Exit, message: &str) -> Exit {
        self.fail(None, None, exit, message)
    }

    /// One file failed. `url` without its secrets.
    pub fn error(&mut self, path: Option<&str>, url: Option<&str>, error: &Error) -> Exit {
        let more = event_fields::fields_of_error(error);
        self.fail_with(path, url, Exit::of(error), &hints::message(error), more)
    }

    /// As [`Output::error`], for a command that takes a manifest or a file with its manifest beside it, and no --manifest.
    pub fn error_of_manifest(
        &mut self,
        path: Option<&str>,
        url: Option<&str>,
        error: &Error,
    ) -> Exit {
        let message = match error {
            Error::NoManifest { .. } => format!("{error}; {}", hints::NAME_MANIFEST),
            Error::Manifest { .. } => error.to_string(),
            other => return self.error(path, url, other),
        };
        self.fail(path, url, Exit::of(error), &message)
    }

    /// A file failed and is tried again later.
    pub fn queued_again(&mut self, url: &str, error: &Error, attempt: u32, wait: Duration) {
        if let Some(bars) = &mut self.bars {
            bars.finish(self.path.as_deref());
        }
        let wait_ms = wait.as_millis() as u64;
        // Without the hint: the program itself tries again.
        let text = printable(&error.to_string());
        self.notice(&format!("{text}; retrying in {} s", wait_ms.div_ceil(1000)));
        self.json_event(
            "retry",
            json!({ "source": url, "class": Class::Again.name(), "attempt": attempt, "wait_ms": wait_ms, "reason": text }),
        );
    }

    /// Prints a failure, in JSON and for people, and returns its exit code.
    pub fn fail(
        &mut self,
        path: Option<&str>,
        url: Option<&str>,
        exit: Exit,
        message: &str,
    ) -> Exit {
        self.fail_with(path, url, exit, message, json!({}))
    }

    /// `more`: fields of its own.
    fn fail_with(
        &mut self,
        path: Option<&str>,
        url: Option<&str>,
        exit: Exit,
        message: &str,
        more: Value,
    ) -> Exit {
        self.print_damaged();
        self.counts.failed += 1;
        if let Some(total) = &mut self.total {
            total.note_failed();
        }
        if let Some(bars) = &mut self.bars {
            bars.finish(path);
        }
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
        self.without_bars(|output| output.tell(&format!("sapwood: {}\n", printable(message))));
        exit
    }

    /// The last line of a run.
    pub fn done(&mut self, exit: Exit) -> Exit {
        self.print_damaged();
        for message in lacking::take() {
            self.event(Event::Warning { message });
        }
        let Counts {
            published,
            failed,
            bytes_fetched,
            bytes_sent,
        } = self.counts;
        let mut fields = json!({ "exit": exit as u8, "published": published, "failed": failed, "bytes_fetched": bytes_fetched });
        if let Some(bytes_sent) = bytes_sent {
            fields["bytes_sent"] = bytes_sent.into();
        }
        self.json_event("done", fields);
        exit
    }

    /// Adds body bytes that arrived for one URL, whether it succeeded or not.
    pub fn count_fetched(&mut self, bytes: u64) {
        self.counts.bytes_fetched += bytes;
    }

    /// Adds body bytes that were sent for one URL, whether it succeeded or not.
    pub fn count_sent(&mut self, bytes: u64) {
        *self.counts.bytes_sent.get_or_insert(0) += bytes;
    }

    pub fn flush(&mut self) {
        if let Some(mut bars) = self.bars.take() {
            bars.finish_all();
        }
        let _ = io::stdout().flush();
    }
}

impl Events for Output {
    fn event(&mut self, event: Event) {
        if let (Event::Damaged(damaged), false) = (&event, self.json) {
            return self.add_damaged(damaged);
        }
        self.print_damaged();
        self.update_bars(&event);
        if matches!(
            event,
            Event::Published(_) | Event::Placed(_) | Event::Pushed(_)
        ) {
            self.counts.published += 1;
        }
        let is_for_people = !self.json && !self.quiet && !self.is_told(&event);
        match is_for_people.then(|| text::line(&event)).flatten() {
            Some(Line::Result(text)) => self.result(&text),
            Some(Line::Notice(text)) => self.notice(&text),
            Some(Line::Detail(text)) if self.verbose > 0 => self.notice(&text),
            Some(Line::Detail(_)) | None => (),
        }
        if let Event::Pushed(pushed) = &event {
            self.notice(&text::of_pushed(pushed));
        }
        if self.json {
            let (name, fields) = json::fields(&event);
            self.json_event(name, fields);
        }
    }
}
