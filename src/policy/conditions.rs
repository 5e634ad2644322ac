//! The conditions that an object must meet before any byte of it is requested, and the trust that it then has.
//!
//! INVARIANT: nothing else turns a manifest, or digests that a server offers, into a [`Trust`].

use crate::format::{
    digests::{Algorithm, Digest},
    keys::{NotSigned, PublicKey},
    signature::SignatureArea,
    statement::{Header, Statement},
    tree::Root,
    trust::Trust,
};

/// The trust of bytes whose tree has the required root.
pub const BY_ROOT: Trust = Trust::Root;

/// What the user requires of an object.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// The manifest must have this root.
    pub root: Option<Root>,
    /// The manifest must not have another digest of the same algorithm.
    pub digests: Vec<Digest>,
    /// The manifest must be signed by this key.
    pub key: Option<PublicKey>,
    /// The name that the key must have signed; `None`: any.
    pub name: Option<String>,
    /// The least trust that is accepted.
    pub require: Trust,
}

/// The time and the earlier runs, which a signed manifest is compared with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Unix seconds.
    pub now: u64,
    /// The highest sequence that earlier runs saw under the same key and name.
    pub sequence: Option<u64>,
}

/// The condition that a manifest does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are named after what differs")]
pub enum Distrust {
    /// It describes another object.
    OtherRoot { required: Root, found: Root },
    /// It has another digest of the same algorithm.
    OtherDigest { required: Digest, found: Digest },
    /// It has no signature, or none by the key.
    NotSigned(NotSigned),
    /// It is signed for another name.
    OtherName { signed: String, required: String },
    /// It has expired.
    Expired { at: u64 },
    /// A higher sequence was seen under the same key and name.
    Older { found: u64, seen: u64 },
    /// It proves less than required.
    BelowRequired { required: Trust, found: Trust },
}

impl Conditions {
    /// The trust that a manifest gives, or the first condition that it does not meet.
    pub fn of_manifest(
        &self,
        statement: &Statement,
        signature: &SignatureArea,
        seen: Seen,
    ) -> Result<Trust, Distrust> {
        let header = statement.header();
        let of_root = self.of_root(header)?;
        self.compare_digests(header)?;
        let of_signature = self.of_signature(statement, signature, seen)?;
        self.at_least(of_root.max(of_digests(&self.digests)).max(of_signature))
    }

    /// The trust of an object without a manifest: by the user's own root and digests, or by digests that its server offers.
    pub fn without_manifest(&self, offered: &[Digest]) -> Result<Trust, Distrust> {
        let of_root = self.root.map_or(Trust::None, |_| Trust::Root);
        let of_server = match offered {
            [] => Trust::None,
            _ => Trust::Digest,
        };
        self.at_least(of_root.max(of_digests(&self.digests)).max(of_server))
    }

    /// The trust of an object that is still uploaded: that of an unsigned manifest, since its leaves are the word of its server and it
    /// has no root yet.
    pub fn of_growing(&self) -> Result<Trust, Distrust> {
        let found = Trust::Manifest;
        match self.root {
            Some(_) => Err(Distrust::BelowRequired {
                required: Trust::Root,
                found,
            }),
            None => self.at_least(found),
        }
    }

    /// The user's own strong digest, if this trust comes from it and not from a root.
    pub fn digest_behind(&self, trust: Trust) -> Option<&Digest> {
        let by_digest = trust == Trust::Root && self.root.is_none();
        self.digests
            .iter()
            .find(|digest| by_digest && is_strong(digest))
    }

    /// Fails below the required trust. A key always requires its signature, whatever `require` is.
    fn at_least(&self, found: Trust) -> Result<Trust, Distrust> {
        let required = match self.key {
            Some(_) => Trust::Signed,
            None => self.require,
        };
        match found < required {
            true => Err(Distrust::BelowRequired { required, found }),
            false => Ok(found),
        }
    }

    fn of_root(&self, header: &Header) -> Result<Trust, Distrust> {
        match self.root {
            Some(required) if required != header.root => Err(Distrust::OtherRoot {
                required,
                found: header.root,
            }),
            Some(_) => Ok(Trust::Root),
            None => Ok(Trust::Manifest),
        }
    }

    fn compare_digests(&self, header: &Header) -> Result<(), Distrust> {
        for required in &self.digests {
            let other =
                |found: &&Digest| found.algorithm() == required.algorithm() && *found != required;
            if let Some(found) = header.digests.iter().find(other) {
                return Err(Distrust::OtherDigest {
                    required: required.clone(),
                    found: found.clone(),
                });
            }
        }
        Ok(())
    }

    /// With a key, the manifest must be signed by it, for the required name, and must be neither expired nor older than one that
    /// was seen before. Without a key nothing is checked: name, expiry and sequence prove nothing when unsigned.
    fn of_signature(
        &self,
        statement: &Statement,
        signature: &SignatureArea,
        seen: Seen,
    ) -> Result<Trust, Distrust> {
        let Some(key) = &self.key else {
            return Ok(Trust::None);
        };
        key.check(statement.bytes(), signature)
            .map_err(Distrust::NotSigned)?;
        let header = statement.header();
        match &self.name {
            Some(required) if *required != header.name => {
                return Err(Distrust::OtherName {
                    signed: header.name.clone(),
                    required: required.clone(),
                });
            }
            _ => (),
        }
        if header.expires != 0 && header.expires <= seen.now {
            return Err(Distrust::Expired { at: header.expires });
        }
        match seen.sequence {
            Some(seen) if seen > header.sequence => Err(Distrust::Older {
                found: header.sequence,
                seen,
            }),
            _ => Ok(Trust::Signed),
        }
    }
}

/// The trust that the user's own digests give: a strong one as much as a root.
pub fn of_digests(digests: &[Digest]) -> Trust {
    match digests {
        [] => Trust::None,
        digests if digests.iter().any(is_strong) => Trust::Root,
        _ => Trust::Digest,
    }
}

/// Whether its algorithm resists collisions: nobody can make two objects with the same digest.
pub fn is_strong(digest: &Digest) -> bool {
    matches!(
        digest.algorithm(),
        Algorithm::Sha256 | Algorithm::Sha512 | Algorithm::Blake3
    )
}
