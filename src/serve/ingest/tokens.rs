//! The tokens of those who may upload.

use std::collections::HashSet;

use axum::http::{HeaderMap, header};
use constant_time_eq::constant_time_eq_32;

use crate::policy::upload::Owner;

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
