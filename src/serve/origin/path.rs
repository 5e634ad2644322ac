//! The path of a request, as a path below the served folder.
//!
//! It is decoded once. Names are bytes, as in the file system. What would make one name another (`..`, empty segments, an encoded
//! slash) names nothing here: there is one URL for each file.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::{disk::files, format::library};

/// What is not encoded in the paths of our URLs (RFC 3986, unreserved).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The one folder with a dot that is served: standards put files there for others (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// What a path names. Relative to the served folder, which is `.` itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, or a folder without its slash.
    File(PathBuf),
    /// It ends with a slash.
    Folder(PathBuf),
}

/// What the path of a request names; `None`: nothing that is served.
pub fn target(path: &str) -> Option<Target> {
    let path = path.strip_prefix('/')?;
    let encoded_slash = |bytes: &[u8]| bytes.eq_ignore_ascii_case(b"%2f");
    if path.as_bytes().windows(3).any(encoded_slash) {
        return None;
    }
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    if bytes.is_empty() {
        return Some(Target::Folder(PathBuf::from(".")));
    }
    let (name, is_folder) = match bytes.strip_suffix(b"/") {
        Some(name) => (name, true),
        None => (bytes.as_slice(), false),
    };
    let mut segments = name.split(|byte| *byte == b'/').enumerate();
    let is_served = |(index, segment): (usize, &[u8])| {
        !segment.is_empty()
            && !segment.contains(&0)
            && (is_served(OsStr::from_bytes(segment)) || (index == 0 && segment == WELL_KNOWN))
    };
    if !segments.all(is_served) {
        return None;
    }
    let path = PathBuf::from(OsString::from_vec(name.to_vec()));
    Some(match is_folder {
        true => Target::Folder(path),
        false => Target::File(path),
    })
}

/// Whether an entry of this name is served and listed. Those that begin with a dot are often there by accident (`.git`, `.env`), and
/// unfinished or refused downloads are nothing to publish, nor are uploads that are not proven.
pub fn is_served(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b".") && !files::is_own(name) && !files::is_staged_uploads(name)
}

/// Whether manifests are made of a file of this name: not of manifests and packs, and not of the files of a library.
pub fn is_described(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let is_made = name.ends_with(b".sapwood") || name.ends_with(b".sapwood.pack");
    !is_made && !is_of_library(path)
}

fn is_of_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.starts_with(library::NAME.as_bytes())
}

/// The path without this suffix, if it is that of a file of which manifests are made.
pub fn without_suffix(path: &Path, suffix: &str) -> Option<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let object = Path::new(OsStr::from_bytes(bytes.strip_suffix(suffix.as_bytes())?));
    let is_name =
        object.file_name().is_some_and(is_served) && !object.as_os_str().as_bytes().ends_with(b"/");
    // The index of a library is not the manifest of a file named `library`.
    let is_manifest = is_name && is_described(object) && !is_of_library(path);
    is_manifest.then(|| object.to_owned())
}

/// A name as a segment of a URL.
pub fn encoded(name: &OsStr) -> String {
    percent_encode(name.as_bytes(), ENCODED).to_string()
}

/// The path of a URL of this file; `/` for the served folder itself. No slash at the end.
pub fn url_path(path: &Path) -> String {
    let segments = path.components().map(|segment| segment.as_os_str());
    let segments = segments.filter(|segment| *segment != ".");
    segments.fold(String::new(), |url, segment| {
        format!("{url}/{}", encoded(segment))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_requests() {
        let file = |path: &[u8]| {
            let path = OsString::from_vec(path.to_vec());
            Some(Target::File(path.into()))
        };
        let folder = |path: &str| Some(Target::Folder(path.into()));
        let long = format!("/{}", "a/".repeat(2500));
        for (path, wanted) in [
            ("/", folder(".")),
            ("/a", file(b"a")),
            ("/a/", folder("a")),
            ("/a/b", file(b"a/b")),
            ("/a%20b", file(b"a b")),
            ("/%ff%FE", file(b"\xff\xfe")),
            ("/a%5C..%5Cb", file(b"a\\..\\b")),
            ("/100%", file(b"100%")),
            // Decoded once.
            ("/%252e%252e", file(b"%2e%2e")),
            ("/C:/x", file(b"C:/x")),
            ("/-rf", file(b"-rf")),
            ("/~", file(b"~")),
            ("/.well-known/x", file(b".well-known/x")),
            (&*long, folder(long[1..].trim_end_matches('/'))),
            ("", None),
            ("a", None),
            ("*", None),
            ("//", None),
            ("//a", None),
            ("/a//b", None),
            ("/a//", None),
            ("/..", None),
            ("/../a", None),
            ("/a/../../b", None),
            ("/%2e%2e/a", None),
            ("/.", None),
            ("/a/./b", None),
            ("/a%2fb", None),
            ("/a%2Fb", None),
            ("/a%00", None),
            ("/.git/config", None),
            ("/a/.env", None),
            ("/a/.well-known/x", None),
            ("/a.part", None),
            ("/a.PART", None),
            ("/a.part.journal", None),
            ("/a.2.quarantined", None),
            ("/sapwood-staging/x", None),
            ("/Sapwood-Staging", None),
        ] {
            assert_eq!(target(path), wanted, "{path}");
        }
    }

    #[test]
    fn files_of_which_manifests_are_made() {
        let object = |path: &str| without_suffix(Path::new(path), ".sapwood");
        assert_eq!(object("a/b.sapwood"), Some("a/b".into()));
        for none in [
            "a",
            ".sapwood",
            "a/.sapwood",
            "a.sapwood.sapwood",
            "a.sapwood.pack.sapwood",
            "library.sapwood",
            "library.sapwood.sapwood",
            "x.part.sapwood",
        ] {
            assert_eq!(object(none), None, "{none}");
        }
    }

    #[test]
    fn urls_of_files() {
        let name = OsString::from_vec(b"a <\"\\\xff#?%".to_vec());
        assert_eq!(
            url_path(&Path::new("./b").join(name)),
            "/b/a%20%3C%22%5C%FF%23%3F%25"
        );
        assert_eq!(url_path(Path::new(".")), "");
    }
}
