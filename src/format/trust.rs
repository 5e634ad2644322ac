//! What a result was proven against.

use std::{fmt, str::FromStr};

/// From nothing to a signature by a known key; later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Trust {
    /// Nothing but the length, where it was known.
    #[default]
    None,
    /// A digest that the server offered.
    Digest,
    /// The manifest that was found beside the object.
    Manifest,
    /// A root, or a strong digest, that the user gave.
    Root,
    /// A manifest signed by a key that the user gave.
    Signed,
}

impl Trust {
    /// From the least to the most.
    pub const ALL: [Trust; 5] = [
        Trust::None,
        Trust::Digest,
        Trust::Manifest,
        Trust::Root,
        Trust::Signed,
    ];

    /// A signature by a key that the user gave.
    pub fn is_signed(self) -> bool {
        self == Trust::Signed
    }

    /// The manifest that was found beside the object.
    pub fn is_of_manifest(self) -> bool {
        self == Trust::Manifest
    }

    /// A description of it, for people.
    pub fn basis(self) -> &'static str {
        match self {
            Trust::None => "length only",
            Trust::Digest => "digest",
            Trust::Manifest => "manifest",
            Trust::Root => "root",
            Trust::Signed => "signed manifest",
        }
    }

    /// Its name in options and events.
    pub fn name(self) -> &'static str {
        match self {
            Trust::None => "none",
            Trust::Digest => "digest",
            Trust::Manifest => "manifest",
            Trust::Root => "root",
            Trust::Signed => "signed",
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The text is not one of the five words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trust is one of signed, root, manifest, digest, none")]
pub struct NotATrust;

impl FromStr for Trust {
    type Err = NotATrust;

    fn from_str(text: &str) -> Result<Trust, NotATrust> {
        Trust::ALL
            .into_iter()
            .find(|trust| trust.name() == text)
            .ok_or(NotATrust)
    }
}
