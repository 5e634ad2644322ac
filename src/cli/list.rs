//! The lines of a list of objects to fetch.

use serde_json::Value;

use crate::format::{digests::Digest, tree::Root};

use super::{network::Refusal, units};

/// One entry of a list or an argument, with what is said of this object alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub url: String,
    /// May have folders.
    pub name: Option<String>,
    /// The server chose the name.
    pub is_suggested: bool,
    pub root: Option<Root>,
    pub digests: Vec<Digest>,
    pub mirrors: Vec<String>,
    pub manifest: Option<String>,
    /// In a list, counted from 1.
    pub line: Option<usize>,
}

impl Entry {
    pub fn of_url(url: &str) -> Entry {
        Entry {
            url: url.to_owned(),
            ..Entry::default()
        }
    }

    /// Takes a field; `false`: there is none of this name.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "root" => {
                let root = value
                    .parse()
                    .map_err(|cause| format!("root={value}: {cause}"));
                self.root = Some(root?);
            }
            "digest" => {
                let digest = units::digest(value);
                let digest = digest.map_err(|cause| format!("digest={value}: {cause}"));
                self.digests.push(digest?);
            }
            "mirror" => self.mirrors.push(value.to_owned()),
            "manifest" if value == "-" => {
                return Err("manifest=- is not possible: it is a file or a URL".to_owned());
            }
            "manifest" => self.manifest = Some(value.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// An entry, or why it is none, with its line.
pub type Line = Result<Entry, (Option<usize>, Refusal)>;

/// The lines of a list. Empty lines and lines that begin with # are skipped.
pub fn lines(text: &str) -> Vec<Line> {
    text.lines()
        .map(|text| text.trim_matches([' ', '\r', '\n']))
        .zip(1..)
        .filter(|(text, _)| !text.trim().is_empty() && !text.starts_with('#'))
        .map(|(text, line)| {
            let entry = match text.starts_with('{') {
                true => of_json(text),
                false => of_fields(text),
            };
            let line = Some(line);
            let wrong = |message| (line, Refusal::usage(message));
            entry.map(|entry| Entry { line, ..entry }).map_err(wrong)
        })
        .collect()
}

/// A URL; then perhaps its name, and fields like `root=HEX`, each after a tab.
fn of_fields(text: &str) -> Result<Entry, String> {
    let mut fields = text.split('\t').map(str::trim);
    let mut entry = Entry::of_url(fields.next().unwrap_or_default());
    for (index, field) in fields.enumerate() {
        let is_known = match field.split_once('=') {
            Some((name, value)) => entry.set(name, value)?,
            None => field.is_empty(),
        };
        match (is_known, index) {
            (true, _) => (),
            (false, 0) => entry.name = Some(field.to_owned()),
            (false, _) => {
                return Err(format!(
                    "{field:?} is no field of a list: after the name there are root=HEX, digest=ALG=HEX, mirror=URL and manifest=M"
                ));
            }
        }
    }
    Ok(entry)
}

/// An object with the same fields; those that may be there several times are strings or lists of strings.
fn of_json(text: &str) -> Result<Entry, String> {
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(text).map_err(|cause| format!("it is no JSON object: {cause}"))?;
    let mut entry = Entry::default();
    for (name, value) in &object {
        let wrong = || format!("the value of {name:?} is no string");
        let values = match value {
            Value::Null => continue,
            Value::Array(all) if ["digest", "mirror"].contains(&name.as_str()) => all.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = value.as_str().ok_or_else(wrong)?;
            match name.as_str() {
                "url" => value.clone_into(&mut entry.url),
                "name" => entry.name = Some(value.to_owned()),
                _ if entry.set(name, value)? => (),
                _ => {
                    return Err(format!(
                        "{name:?} is no field of a list: there are url, name, root, digest, mirror and manifest"
                    ));
                }
            }
        }
    }
    match entry.url.is_empty() {
        true => Err("it has no url".to_owned()),
        false => Ok(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        let mut lines = lines(text);
        assert_eq!(lines.len(), 1, "{text}");
        lines
            .remove(0)
            .map_err(|(_, Refusal(_, message))| message)
            .unwrap()
    }

    #[test]
    fn lines_of_a_list() {
        let text = "# films\n\nhttps://a.example/1\n  https://a.example/2\tfolder/second.mov \r\n\
                    https://a.example/3\t\troot=00\nhttps://a.example/4\tx\ty\n";
        let found: Vec<_> = lines(text)
            .into_iter()
            .map(|line| match line {
                Ok(entry) => (entry.line, entry.url, entry.name),
                Err((line, _)) => (line, "wrong".to_owned(), None),
            })
            .collect();
        let name = Some("folder/second.mov".to_owned());
        assert_eq!(
            found,
            [
                (Some(3), "https://a.example/1".to_owned(), None),
                (Some(4), "https://a.example/2".to_owned(), name),
                (Some(5), "wrong".to_owned(), None),
                (Some(6), "wrong".to_owned(), None),
            ]
        );
    }

    #[test]
    fn fields_of_a_line_and_of_an_object_are_the_same() {
        let (root, sha) = (format!("{:064x}", 7), format!("{:064x}", 8));
        let typed = format!(
            "http://a/x\ta/b.bin\troot={root}\tdigest=sha256={sha}\tmirror=http://b/x\tmirror=http://c/x?a=b\tmanifest=m.sapwood"
        );
        let object = format!(
            r#"{{"url":"http://a/x","name":"a/b.bin","root":"{root}","digest":"sha-256={sha}","mirror":["http://b/x","http://c/x?a=b"],"manifest":"m.sapwood"}}"#
        );
        let entry_of = entry(&typed);
        assert_eq!(entry_of, entry(&object));
        assert_eq!(entry_of.mirrors.len(), 2);
        assert_eq!(entry_of.digests.len(), 1);
        // A field in place of a name.
        let bare = entry(&format!("http://a/x\troot={root}"));
        assert_eq!(
            (bare.name, bare.root.map(|root| root.to_string())),
            (None, Some(root))
        );
        let named = entry("http://a/x\tv=2.mp4");
        assert_eq!(named.name.as_deref(), Some("v=2.mp4"));
        for bad in [
            r#"{"url":1}"#,
            r#"{"name":"x"}"#,
            r#"{"url":"u","path":"x"}"#,
            "{",
            r#"{"url":"u","root":["x"]}"#,
        ] {
            assert!(lines(bad)[0].is_err(), "{bad}");
        }
    }
}
