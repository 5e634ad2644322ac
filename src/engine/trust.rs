//! What a user asks of a manifest: root, digests, signature, name, age. All of it is checked before any byte of the object.

use std::path::Path;

use crate::{
    disk::{machine, state::State},
    format::{
        digests::Digest,
        keys::PublicKey,
        statement::{Header, Signature, Statement},
        tree::Root,
        trust::Trust,
    },
    net::location::Location,
};

use super::{
    error::Error,
    events::{Event, Events},
};
use crate::policy::conditions::trust_of_user;

/// See the module.
pub struct Asked<'a> {
    /// Of the object; with a key, its last segment is the name that must be signed.
    pub url: &'a Location,
    /// The manifest must name this one.
    pub root: Option<Root>,
    /// The manifest must be signed by it.
    pub key: Option<&'a PublicKey>,
    /// The manifest must not contradict them.
    pub digests: &'a [Digest],
    /// The least trust.
    pub require: Trust,
    /// The folder where the highest sequences are remembered; `None`: nowhere.
    pub state: Option<&'a Path>,
}

impl Asked<'_> {
    /// What a manifest proves, or why it is refused. `place` is where it was found.
    pub fn of_manifest(
        &self,
        statement: &Statement,
        signature: Option<&Signature>,
        place: &str,
        events: &mut dyn Events,
    ) -> Result<Trust, Error> {
        let header = statement.header();
        let of_root = self.of_root(header, place)?;
        self.compare_digests(header, place)?;
        let trust = of_root
            .max(trust_of_user(self.digests))
            .max(self.of_signature(statement, signature, place, events)?);
        self.at_least(trust)
    }

    /// This trust, if it is enough. With a key nothing less than its signature is, whatever else is there or missing.
    pub fn at_least(&self, trust: Trust) -> Result<Trust, Error> {
        let asked = match self.key {
            Some(_) => Trust::Signed,
            None => self.require,
        };
        match trust < asked {
            true => Err(Error::BelowRequired {
                asked,
                found: trust,
            }),
            false => Ok(trust),
        }
    }

    fn of_root(&self, header: &Header, place: &str) -> Result<Trust, Error> {
        match self.root {
            Some(asked) if asked != header.root => Err(Error::OtherRoot {
                place: place.to_owned(),
                asked,
                found: header.root,
            }),
            Some(_) => Ok(Trust::Root),
            None => Ok(Trust::Manifest),
        }
    }

    fn compare_digests(&self, header: &Header, place: &str) -> Result<(), Error> {
        for asked in self.digests {
            let said = header
                .digests
                .iter()
                .find(|digest| digest.algorithm() == asked.algorithm() && *digest != asked);
            if let Some(said) = said {
                return Err(Error::OtherDigest {
                    place: place.to_owned(),
                    algorithm: asked.algorithm(),
                    expected: asked.hex(),
                    found: said.hex(),
                    kept: None,
                });
            }
        }
        Ok(())
    }

    /// With a key, the manifest must be signed by it, for the asked name, and must be neither expired nor older than one seen
    /// before.
    fn of_signature(
        &self,
        statement: &Statement,
        signature: Option<&Signature>,
        place: &str,
        events: &mut dyn Events,
    ) -> Result<Trust, Error> {
        let Some(key) = self.key else {
            return Ok(Trust::None);
        };
        let place = place.to_owned();
        if let Err(cause) = key.check(statement.bytes(), signature) {
            return Err(Error::NotSigned { place, cause });
        }
        let header = statement.header();
        let asked = self.url.last_segment().unwrap_or_default();
        if header.name != asked {
            return Err(Error::OtherName {
                place,
                signed: header.name.clone(),
                asked,
            });
        }
        if header.expires != 0 && header.expires <= machine::unix_time() {
            return Err(Error::Expired {
                place,
                at: header.expires,
            });
        }
        match self.seen_sequence(key, header, events) {
            Some(seen) if seen > header.sequence => Err(Error::Older {
                place,
                found: header.sequence,
                seen,
            }),
            _ => Ok(Trust::Signed),
        }
    }

    /// The highest sequence of earlier runs; the one at hand is remembered.
    fn seen_sequence(
        &self,
        key: &PublicKey,
        header: &Header,
        events: &mut dyn Events,
    ) -> Option<u64> {
        let remembered = State::open(self.state?).and_then(|state| {
            let seen = state.sequence(&key.id_hex(), &header.name)?;
            state.remember_sequence(&key.id_hex(), &header.name, header.sequence)?;
            Ok(seen)
        });
        remembered.unwrap_or_else(|error| {
            events.event(Event::Warning {
                message: error.to_string(),
            });
            None
        })
    }
}
