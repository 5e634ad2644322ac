//! What -v shows: a line on standard error for each request, response and wait. With -vv more of this program, with -vvv what the
//! libraries below it say, with -vvvv all of that.

use std::{
    fmt::{Debug, Write as _},
    io::{self, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
};

use crate::disk::streams;

use super::{printable, screen::Screen};

/// See [`super::Output::never_waits`].
static NEVER_WAITS: AtomicBool = AtomicBool::new(false);

/// From now on a line is dropped if it would wait for its reader.
pub fn never_waits() {
    NEVER_WAITS.store(true, Ordering::Relaxed);
}

/// Prints what was logged with as much detail as was asked for. `screen`: what draws the bar, above which lines belong.
pub fn init(verbose: u8, screen: Option<Screen>) {
    let (own, of_libraries) = match verbose {
        0 => return,
        1 => (LevelFilter::INFO, LevelFilter::OFF),
        2 => (LevelFilter::TRACE, LevelFilter::OFF),
        3 => (LevelFilter::TRACE, LevelFilter::DEBUG),
        _ => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    let log = Log {
        own,
        of_libraries,
        screen,
    };
    // Set once, at the start of the program; there is no other.
    let _ = tracing::subscriber::set_global_default(log);
}

struct Log {
    own: LevelFilter,
    of_libraries: LevelFilter,
    screen: Option<Screen>,
}

fn is_own(metadata: &Metadata) -> bool {
    metadata.target().split(':').next() == Some(env!("CARGO_PKG_NAME"))
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata) -> bool {
        let most = match is_own(metadata) {
            true => self.own,
            false => self.of_libraries,
        };
        metadata.is_event() && *metadata.level() <= most
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.own.max(self.of_libraries))
    }

    fn event(&self, event: &Event) {
        let mut line = Line::default();
        event.record(&mut line);
        let metadata = event.metadata();
        let from = match is_own(metadata) {
            true => String::new(),
            false => format!("[{}] ", metadata.target()),
        };
        let warning = match *metadata.level() <= Level::WARN {
            true => "warning: ",
            false => "",
        };
        let text = printable(&format!("{from}{warning}{}{}", line.message, line.fields));
        let text = format!("sapwood: {text}\n");
        let write = || {
            let mut stderr = io::stderr();
            if !NEVER_WAITS.load(Ordering::Relaxed) || streams::has_room(&stderr, text.len()) {
                // Nobody reads it, and nothing ends because of that.
                let _ = stderr.write_all(text.as_bytes());
            }
        };
        match &self.screen {
            Some(screen) => screen.above(write),
            None => write(),
        }
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The text of an event.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
