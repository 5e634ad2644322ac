//! Events as JSON. Names, fields and their order are part of the contract with scripts.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::{
    cli::hints,
    engine::{event_fields, events::Event},
};

/// One line: the name of the event, the time, the file it is about, then its own fields.
pub fn line(name: &str, path: Option<&str>, fields: &Value) -> String {
    let mut line = String::with_capacity(512);
    line.push_str("{\"event\":");
    push(&mut line, &name);
    line.push_str(",\"time_ms\":");
    push(&mut line, &now_ms());
    // Its own path counts more.
    let own = fields.get("path");
    match (own, path) {
        (Some(own), _) => push_field(&mut line, "path", own),
        (None, Some(path)) => push_field(&mut line, "path", &path),
        (None, None) => (),
    }
    for (name, value) in fields.as_object().into_iter().flatten() {
        if name != "path" {
            push_field(&mut line, name, value);
        }
    }
    line.push('}');
    line
}

fn push_field(line: &mut String, name: &str, value: &impl Serialize) {
    line.push(',');
    push(line, &name);
    line.push(':');
    push(line, value);
}

fn push(line: &mut String, value: &impl Serialize) {
    line.push_str(&serde_json::to_string(value).expect("names and values are JSON"));
}

/// The name and the fields of an event. The message of a failure names flags.
pub fn fields(event: &Event) -> (&'static str, Value) {
    let (name, mut fields) = event_fields::of(event);
    if let Event::FileFailed { error, .. } = event {
        fields["message"] = hints::message(error).into();
    }
    (name, fields)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_millis() as u64
}
