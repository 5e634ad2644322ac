//! Decides whether to trust a manifest: looks up the sequence number of earlier runs, applies [`crate::policy::conditions`], and
//! remembers the sequence number of an accepted manifest. All of this happens before the transfer of the object.

use crate::{
    disk::machine::unix_time,
    format::{signature::SignatureArea, statement::Statement, trust::Trust},
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
