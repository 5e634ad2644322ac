//! Paths and names of files.

use std::{
    ffi::{OsStr, OsString},
    fs::Metadata,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::policy::upload::STAGING_FOLDER;

/// Suffixes of files that a download makes beside its target.
const OWN_SUFFIXES: [&str; 3] = [".part", ".part.journal", ".quarantined"];

/// The folder of uploads that are not published yet, below the folder where they are published. It is no content of that folder.
pub const STAGED_UPLOADS: &str = STAGING_FOLDER;

/// Whether an entry of this name is the folder of staged uploads.
pub fn is_staged_uploads(name: &OsStr) -> bool {
    // Some file systems do not distinguish cases.
    name.as_bytes()
        .eq_ignore_ascii_case(STAGED_UPLOADS.as_bytes())
}

/// Splits a path into its folder and its last segment; `None` if it has none (`/`, `..`), or ends with a slash: only a folder can
/// be meant.
pub fn split(path: &Path) -> Option<(PathBuf, OsString)> {
    let name = path.file_name()?.to_owned();
    let is_folder = path.as_os_str().as_bytes().ends_with(b"/");
    (!is_folder).then(|| (path.parent().unwrap_or(Path::new("")).to_owned(), name))
}

/// The name with this suffix.
pub fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

/// Whether a download to another target may use this name for its part, its journal, or what does not verify.
pub fn is_own(name: &OsStr) -> bool {
    // Some file systems do not distinguish cases.
    let name = name.as_bytes().to_ascii_lowercase();
    OWN_SUFFIXES
        .iter()
        .any(|suffix| name.ends_with(suffix.as_bytes()))
}

/// The number of the process that writes, or wrote, a file of this name, which gets its final name when it is complete.
pub fn process_of_temporary(name: &OsStr) -> Option<u32> {
    let (process, number) = name.to_str()?.strip_prefix(".sapwood-")?.split_once('-')?;
    let number = number.strip_prefix('u').unwrap_or(number);
    number.parse::<u32>().ok()?;
    process.parse().ok()
}

/// Whether both paths name one file: one that exists, links included, or the same name in one folder.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    let id = |file: Metadata| (file.dev(), file.ino());
    if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
        return id(a) == id(b);
    }
    let place = |path: &Path| {
        let (folder, name) = split(path)?;
        let folder = Path::new(".").join(folder).metadata().ok()?;
        Some((id(folder), name))
    };
    place(a).is_some_and(|a| Some(a) == place(b))
}

/// The path under which a file can be recorded: absolute, and without links in its folder.
pub fn noted_path(path: &Path) -> Option<PathBuf> {
    let (folder, name) = split(path)?;
    let folder = match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder,
    };
    Some(folder.canonicalize().ok()?.join(name))
}

/// [`noted_path`] of many files: a folder of files that follow each other is looked up once.
#[derive(Debug, Default)]
pub struct NotedPaths {
    last: Option<(PathBuf, PathBuf)>,
}

impl NotedPaths {
    /// [`noted_path`], if the folder is what it was for the last file.
    pub fn of(&mut self, path: &Path) -> Option<PathBuf> {
        let (folder, name) = split(path)?;
        match &self.last {
            Some((last, noted)) if *last == folder => Some(noted.join(name)),
            _ => {
                let noted = noted_path(path)?;
                self.last = Some((folder, noted.parent()?.to_owned()));
                Some(noted)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_downloads() {
        for name in [
            "x.part",
            "x.PART",
            "x.part.journal",
            "x.2.quarantined",
            ".part",
        ] {
            assert!(is_own(OsStr::new(name)), "{name}");
        }
        for name in ["part", "x.part.1", "x.journal", "x.parts"] {
            assert!(!is_own(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn one_file_under_two_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), b"a").unwrap();
        std::fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink("a", path("soft")).unwrap();
        std::fs::write(path("b"), b"a").unwrap();
        for (other, same) in [
            ("a", true),
            ("./a", true),
            ("hard", true),
            ("soft", true),
            ("b", false),
        ] {
            assert_eq!(is_same_file(&path("a"), &path(other)), same, "{other}");
        }
        assert!(is_same_file(&path("new"), &path("./new")));
        assert!(!is_same_file(&path("new"), &path("newer")));
        assert!(!is_same_file(&path("new"), &path("a")));
        assert_eq!(split(Path::new("a/")), None);
    }
}
