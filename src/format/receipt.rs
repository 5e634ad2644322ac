//! Receipts: the record of a published file for a chain of custody, as one JSON object.
//!
//! Times are Unix seconds in the type and RFC 3339 in the text. A receipt never has the query of a URL, nor a login.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    digests::{Algorithm, Digest},
    tree::Root,
    trust::Trust,
};

/// The version of the form of receipts.
pub const VERSION: u32 = 1;
/// No honest receipt is longer: a URL and two validators are bounded by what HTTP carries in one head.
pub const BYTES_MAX: usize = 256 * 1024;

/// See the module. Fields may be added; readers pass over those that they do not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "fields are named after what they are; lengths are in bytes"
)]
pub struct Receipt {
    /// [`VERSION`].
    pub receipt: u32,
    /// Where it came from, without query and login.
    pub url: String,
    /// The final name, as it was given.
    pub path: String,
    /// The server's strong entity tag.
    pub etag: Option<String>,
    /// The server's date, where it can stand for one version.
    pub last_modified: Option<String>,
    pub bytes_total: u64,
    #[serde(with = "text")]
    pub root: Root,
    /// The digests that the user gave or the server offered, all of them verified.
    #[serde(with = "digests")]
    pub digests: Vec<Digest>,
    #[serde(with = "text")]
    pub trust: Trust,
    /// The key that signed the manifest, if the user required one.
    pub key_id: Option<String>,
    #[serde(with = "time")]
    pub started: u64,
    #[serde(with = "time")]
    pub ended: u64,
    /// The user that ran the program.
    pub user: String,
    /// On which machine.
    pub host: String,
    /// Of what: program and version.
    pub version: String,
    /// Body bytes that arrived in the run that finished it.
    pub bytes_fetched: u64,
    /// Left by earlier runs, and proven.
    pub bytes_resumed: u64,
    /// Found in other files here.
    pub bytes_reused: u64,
    /// It was there already.
    pub unchanged: bool,
}

/// Why something is no receipt.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum NotAReceipt {
    #[error("it is longer than any receipt")]
    TooLong,
    #[error("it is no receipt: {0}")]
    Form(#[from] serde_json::Error),
    #[error("it is a receipt of version {found}, which this program does not know")]
    Version { found: u32 },
}

impl Receipt {
    /// One object on lines of their own, with a line feed at the end.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("texts and numbers have a form");
        text + "\n"
    }

    /// Reads what [`Receipt::to_json`] wrote.
    pub fn from_json(bytes: &[u8]) -> Result<Receipt, NotAReceipt> {
        if bytes.len() > BYTES_MAX {
            return Err(NotAReceipt::TooLong);
        }
        let receipt: Receipt = serde_json::from_slice(bytes)?;
        match receipt.receipt {
            VERSION => Ok(receipt),
            found => Err(NotAReceipt::Version { found }),
        }
    }
}

/// What has a text that can be read back.
mod text {
    use super::{Deserialize, Deserializer, Display, FromStr, Serializer};

    pub fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

mod time {
    use super::{Deserialize, Deserializer, Serializer};

    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is that of serde"
    )]
    pub fn serialize<S: Serializer>(seconds: &u64, to: S) -> Result<S::Ok, S::Error> {
        let time = i64::try_from(*seconds)
            .ok()
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        to.collect_str(&time.unwrap_or(jiff::Timestamp::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let time: jiff::Timestamp = String::deserialize(from)?
            .parse()
            .map_err(serde::de::Error::custom)?;
        u64::try_from(time.as_second()).map_err(serde::de::Error::custom)
    }
}

/// An object with a field an algorithm.
mod digests {
    use super::{Algorithm, BTreeMap, Deserialize, Deserializer, Digest, Serialize, Serializer};

    pub fn serialize<S: Serializer>(digests: &[Digest], to: S) -> Result<S::Ok, S::Error> {
        let texts: BTreeMap<String, String> = digests
            .iter()
            .map(|digest| (digest.algorithm().to_string(), digest.hex()))
            .collect();
        texts.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Digest>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(from)?;
        texts
            .into_iter()
            .map(|(algorithm, hex)| {
                let algorithm: Algorithm = algorithm.parse().map_err(serde::de::Error::custom)?;
                format!("{algorithm}={hex}")
                    .parse()
                    .map_err(serde::de::Error::custom)
            })
            .collect()
    }
}
