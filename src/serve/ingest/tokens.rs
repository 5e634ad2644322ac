//! The tokens of those who may upload, read again when their file changes.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use constant_time_eq::constant_time_eq_32;
use parking_lot::Mutex;

use crate::{
    engine::blocking,
    policy::upload::Owner,
    serve::tls::{FileVersion, Warn, version_of},
};

/// How often the file is looked at, at most.
const CHECK_TIME: Duration = Duration::from_secs(1);

/// The owner of what is uploaded without a token, on the loopback interface.
const LOCAL: &str = "local";

/// Tokens, each with its owner. Of a token only its hash is kept.
#[derive(Debug)]
pub struct Tokens(Vec<([u8; 32], Owner)>);

/// A file that has no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum NoTokens {
    #[error("it has no token")]
    Empty,
    #[error("line {line} is neither TOKEN nor OWNER TOKEN")]
    Line { line: usize },
    #[error("line {line} has a token of an earlier line")]
    Twice { line: usize },
}

/// A file whose tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadTokens {
    #[error("failed to read {}: {cause}", path.display())]
    Unread { path: PathBuf, cause: io::Error },
    #[error("{} has no tokens: {cause}", path.display())]
    None { path: PathBuf, cause: NoTokens },
}

/// The tokens of a file, as it is now.
pub struct TokenFile {
    path: PathBuf,
    current: Mutex<Current>,
    warn: Warn,
}

struct Current {
    tokens: Tokens,
    version: FileVersion,
    checked: Instant,
}

impl TokenFile {
    /// Reads the file.
    pub fn load(path: &Path, warn: Warn) -> Result<TokenFile, BadTokens> {
        // Before it is read: a later change shows.
        let version = version_of(path);
        Ok(TokenFile {
            path: path.to_owned(),
            current: Mutex::new(Current {
                tokens: read(path)?,
                version,
                checked: Instant::now(),
            }),
            warn,
        })
    }

    /// Whose token a request has. A changed file that cannot be used is one warning, and the tokens before stay.
    pub async fn owner(&self, headers: &HeaderMap) -> Option<Owner> {
        let due = {
            let mut current = self.current.lock();
            let is_due = current.checked.elapsed() >= CHECK_TIME;
            if is_due {
                current.checked = Instant::now();
            }
            is_due.then_some(current.version)
        };
        if let Some(old) = due {
            let path = self.path.clone();
            let look = move || {
                let version = version_of(&path);
                (version != old).then(|| (version, read(&path)))
            };
            if let Some((version, read)) = blocking::run(look).await {
                let mut current = self.current.lock();
                current.version = version;
                match read {
                    Ok(tokens) => current.tokens = tokens,
                    Err(cause) => {
                        (self.warn)(format!(
                            "{cause}; the server goes on with the tokens that it has"
                        ));
                    }
                }
            }
        }
        self.current.lock().tokens.owner(headers)
    }
}

fn read(path: &Path) -> Result<Tokens, BadTokens> {
    let text = fs::read_to_string(path).map_err(|cause| BadTokens::Unread {
        path: path.to_owned(),
        cause,
    })?;
    Tokens::read(&text).map_err(|cause| BadTokens::None {
        path: path.to_owned(),
        cause,
    })
}

impl Tokens {
    /// The tokens of a file: a line is `TOKEN` or `OWNER TOKEN`. Empty lines, and those that begin with `#`, say nothing. Several
    /// tokens may have one owner. One without a name has an owner of its own, named after its hash.
    pub fn read(text: &str) -> Result<Tokens, NoTokens> {
        let (mut tokens, mut seen) = (Vec::new(), HashSet::new());
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let mut words = text.split_whitespace();
            let (owner, token) = match (words.next(), words.next(), words.next()) {
                (Some(token), None, None) => (None, token),
                (Some(owner), Some(token), None) => (Some(owner), token),
                _ => return Err(NoTokens::Line { line }),
            };
            let hash = hash(token);
            let owner = match owner {
                Some(owner) => owner.to_owned(),
                None => format!("token-{}", &hex::encode(hash)[..12]),
            };
            if !seen.insert(hash) {
                return Err(NoTokens::Twice { line });
            }
            tokens.push((hash, Owner(owner)));
        }
        match tokens.is_empty() {
            true => Err(NoTokens::Empty),
            false => Ok(Tokens(tokens)),
        }
    }

    /// Whose token a request has. The time that this takes says nothing about the tokens.
    pub fn owner(&self, headers: &HeaderMap) -> Option<Owner> {
        let field = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = field.split_once(' ')?;
        let hash = hash(token.trim());
        let mut found = None;
        for (known, owner) in &self.0 {
            if constant_time_eq_32(known, &hash) {
                found = Some(owner);
            }
        }
        found
            .filter(|_| scheme.eq_ignore_ascii_case("bearer"))
            .cloned()
    }
}

/// Who uploads without a token.
pub fn local() -> Owner {
    Owner(LOCAL.to_owned())
}

fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn owner(tokens: &Tokens, field: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        tokens.owner(&headers).map(|owner| owner.0)
    }

    #[test]
    fn files_of_tokens() {
        let tokens = Tokens::read("# ours\n\n  secret-1 \nann secret-2\nann secret-3\n").unwrap();
        assert_eq!(owner(&tokens, "Bearer secret-2").as_deref(), Some("ann"));
        assert_eq!(owner(&tokens, "bearer secret-3").as_deref(), Some("ann"));
        let unnamed = owner(&tokens, "Bearer secret-1").unwrap();
        assert!(unnamed.starts_with("token-") && unnamed.len() == 18);
        for wrong in [
            "Bearer ",
            "Bearer secret",
            "Bearer secret-12",
            "Basic secret-1",
            "secret-1",
            "Bearer ann secret-2",
        ] {
            assert_eq!(owner(&tokens, wrong), None, "{wrong}");
        }
        for (text, wrong) in [
            ("", NoTokens::Empty),
            ("# none\n", NoTokens::Empty),
            ("a b c", NoTokens::Line { line: 1 }),
            ("x\n\nann x", NoTokens::Twice { line: 3 }),
        ] {
            assert_eq!(Tokens::read(text).unwrap_err(), wrong, "{text}");
        }
    }
}
