//! Decides whether to trust a manifest: looks up the sequence number of earlier runs, applies [`crate::policy::conditions`], and
//! remembers the sequence number of an accepted manifest. All of this happens before the transfer of the object.

use crate::{
    disk::{machine::unix_time, store::Store},
    format::{
        signature::{AREA_BYTES, SignatureArea},
        statement::Statement,
        trust::Trust,
    },
    policy::conditions::{Conditions, Distrust, Seen},
};

use super::{
    context::StoreHandle,
    error::Error,
    events::{Event, Events},
};

/// The statement and the signature of a manifest, which are its first bytes.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub struct ManifestFront<'a> {
    pub statement: &'a Statement,
    pub signature: &'a SignatureArea,
    /// Its URL or path, for messages.
    pub place: &'a str,
}

impl ManifestFront<'_> {
    /// The bytes, to be read by [`crate::format::statement::read_front`]. `None`: the signature is of a kind that this version does not
    /// know.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let area = match self.signature {
            SignatureArea::Unsigned => [0; AREA_BYTES],
            SignatureArea::Minisign(signature) => signature.to_area(),
            SignatureArea::Unknown { .. } => return None,
        };
        Some([&self.statement.bytes()[..], &area].concat())
    }
}

/// Returns the trust of a manifest, or the condition that it does not meet as an error.
pub async fn check(
    store: &StoreHandle,
    conditions: &Conditions,
    front: ManifestFront<'_>,
    events: &mut dyn Events,
) -> Result<Trust, Error> {
    check_with_kept(store, conditions, front, &[], events).await
}

/// The same for the next version of something of which earlier runs kept manifests: it is not older than these, even if nothing else
/// was remembered.
pub async fn check_with_kept(
    store: &StoreHandle,
    conditions: &Conditions,
    front: ManifestFront<'_>,
    kept: &[ManifestFront<'_>],
    events: &mut dyn Events,
) -> Result<Trust, Error> {
    let header = front.statement.header();
    // Key ID and object name, if the required key signed the statement: an unsigned sequence number does not count.
    let signed_as = conditions
        .key
        .as_ref()
        .filter(|key| key.check(front.statement.bytes(), front.signature).is_ok())
        .map(|key| (key.id_hex(), header.name.clone()));
    let seen_before = match signed_as.clone() {
        Some((key, name)) => {
            let seen = store.with(move |store| Ok(store.state().sequence(&key, &name)?));
            warned(seen.await, events).flatten()
        }
        None => None,
    };
    let is_signed = |kept: &&ManifestFront<'_>| {
        let key = conditions.key.as_ref();
        key.is_some_and(|key| key.check(kept.statement.bytes(), kept.signature).is_ok())
            && kept.statement.header().name == header.name
    };
    let kept = kept.iter().filter(is_signed);
    let kept = kept.map(|kept| kept.statement.header().sequence).max();
    let seen = Seen {
        now: unix_time(),
        sequence: seen_before.max(kept),
    };
    let trust = conditions
        .of_manifest(front.statement, front.signature, seen)
        .map_err(|cause| refused(front.place, cause))?;
    if let Some((key, name)) = signed_as {
        let sequence = header.sequence;
        let remembered = store.with(move |store| {
            store.state().remember_sequence(&key, &name, sequence)?;
            Ok(())
        });
        warned(remembered.await, events);
    }
    Ok(trust)
}

/// What is to be signed: a name under a key, and its sequence number (0: none).
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub struct ToSign {
    pub key_id: String,
    pub name: String,
    pub sequence: u64,
    /// For messages.
    pub place: String,
}

/// Refuses to sign what every reader refuses who accepted a later manifest of that name under that key, as far as it is remembered
/// here. What may be signed is remembered.
pub async fn may_sign(
    store: &StoreHandle,
    to_sign: ToSign,
    events: &mut dyn Events,
) -> Result<(), Error> {
    let ToSign {
        key_id,
        name,
        sequence,
        place,
    } = to_sign;
    if name.is_empty() {
        // Different objects may have no name.
        return Ok(());
    }
    let work = move |store: &mut Store| {
        let seen = store.state().sequence(&key_id, &name)?.unwrap_or(0);
        if seen < sequence {
            store.state().remember_sequence(&key_id, &name, sequence)?;
        }
        Ok(seen)
    };
    match warned(store.with(work).await, events) {
        Some(seen) if seen > sequence => Err(Error::SignsOlder {
            place,
            sequence,
            seen,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Turns an error of the store into a warning event: it never fails the use case.
pub fn warned<T>(
    outcome: Result<Option<T>, crate::disk::store::StoreError>,
    events: &mut dyn Events,
) -> Option<T> {
    outcome.unwrap_or_else(|cause| {
        events.event(Event::Warning {
            message: cause.to_string(),
        });
        None
    })
}

/// The error of a manifest that does not meet a condition.
pub fn refused(place: &str, cause: Distrust) -> Error {
    let place = place.to_owned();
    match cause {
        Distrust::OtherRoot { required, found } => Error::OtherRoot {
            place,
            required,
            found,
        },
        Distrust::OtherDigest { required, found } => Error::OtherDigest {
            place,
            algorithm: required.algorithm(),
            expected: required.hex(),
            found: found.hex(),
            quarantined: None,
        },
        Distrust::NotSigned(cause) => Error::NotSigned { place, cause },
        Distrust::OtherName { signed, required } => Error::OtherName {
            place,
            signed,
            required,
        },
        Distrust::Expired { at } => Error::Expired { place, at },
        Distrust::Older { found, seen } => Error::Older { place, found, seen },
        Distrust::BelowRequired { required, found } => Error::BelowRequired { required, found },
    }
}
