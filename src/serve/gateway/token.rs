//! The secret in the path: whoever does not have it gets nothing from the gateway.

use std::{fmt, io};

use constant_time_eq::constant_time_eq;

use crate::disk::machine;

/// 128 bits, which nobody guesses.
const TOKEN_BYTES: usize = 16;

/// A secret that is made for one run.
pub struct Token(String);

impl Token {
    /// A new one, from the system's source of randomness.
    pub fn random() -> io::Result<Token> {
        let mut bytes = [0; TOKEN_BYTES];
        machine::fill_random(&mut bytes)?;
        Ok(Token(hex::encode(bytes)))
    }

    /// Whether a text is the token. The time that this takes says nothing about where they differ.
    pub fn is(&self, text: &str) -> bool {
        constant_time_eq(self.0.as_bytes(), text.as_bytes())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_random_and_compared_whole() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        let text = one.to_string();
        assert_eq!(text.len(), 2 * TOKEN_BYTES);
        assert!(one.is(&text) && !one.is(&other.to_string()));
        for wrong in ["", &text[1..], &format!("{text}0"), &text.to_uppercase()] {
            // A token of decimal digits alone is the same in upper case.
            assert!(wrong == text || !one.is(wrong), "{wrong}");
        }
    }
}
