//! A secret in every place where a user may have one, and the places where it must not turn up.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use super::{
    program::{Ended, sapwood},
    scene::OBJECT,
};

/// Nowhere but on the wire.
pub const SECRET: &str = "PLANTED-4711";
/// The same as a login in base64: `u:PLANTED-4711`.
pub const SECRET_AS_LOGIN: &str = "dTpQTEFOVEVELTQ3MTE";

/// The object on this host, with a secret in the query, behind it, and in the login.
pub fn url(scheme: &str, host: &dyn Display, login: bool) -> String {
    let login = match login {
        true => format!("u:{SECRET}@"),
        false => String::new(),
    };
    format!("{scheme}://{login}{host}{OBJECT}?sig={SECRET}#{SECRET}")
}

/// The fetch of a URL that says all that there is to say, with secrets in headers and in a file of logins.
pub fn fetch(folder: &Path, url: &str, more: &[&str]) -> Command {
    let mut command = sapwood(folder);
    command
        .args(["-vvvv", "--store", "store"])
        .args(more)
        .args(["fetch", url, "-o", "out"])
        .args(["-H", &format!("X-Key: {SECRET}")])
        .args(["-H", &format!("Cookie: session={SECRET}")])
        .args(["--netrc", "--receipt", "receipt.json"])
        .env("NETRC", netrc());
    command
}

/// A login for the loopback, where no scene looks for secrets.
fn netrc() -> &'static Path {
    static NETRC: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = NETRC.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("netrc");
        let login = format!("machine 127.0.0.1 login u password {SECRET}\n");
        fs::write(&path, login).expect("a file");
        (folder, path)
    });
    path
}

fn holds(bytes: &[u8], text: &str) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == text.as_bytes()[0]) {
        if rest[at..].starts_with(text.as_bytes()) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Nothing of a secret is printed or kept.
pub fn must_be_clean(folder: &Path, ended: &Ended) {
    let has = |bytes: &[u8]| holds(bytes, SECRET) || holds(bytes, SECRET_AS_LOGIN);
    for (what, text) in [("stdout", &ended.stdout), ("stderr", &ended.stderr)] {
        assert!(!has(text.as_bytes()), "{what} shows the secret: {text}");
    }
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let bytes = fs::read(&path).expect("a file");
                    assert!(!has(&bytes), "{} keeps the secret", path.display());
                }
            }
        }
    }
}
