//! Decides whether to trust a manifest: looks up the sequence number of earlier runs, applies [`crate::policy::conditions`], and
//! remembers the sequence number of an accepted manifest. All of this happens before the first request for bytes of the object.

use crate::{
    disk::machine::unix_time,
    format::{
        statement::{Signature, Statement},
        trust::Trust,
    },
    policy::conditions::{Conditions, Distrust, Seen},
};

use super::{
    context::StoreHandle,
    error::Error,
    events::{Event, Events},
};

/// The front of a manifest and its place.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "fields are named after their types")]
pub struct ManifestFront<'a> {
    pub statement: &'a Statement,
    pub signature: Option<&'a Signature>,
    /// For messages.
    pub place: &'a str,
}

/// The trust that a manifest gives, or the error that refuses it.
pub async fn check(
    store: &StoreHandle,
    conditions: &Conditions,
    front: ManifestFront<'_>,
    events: &mut dyn Events,
) -> Result<Trust, Error> {
    let header = front.statement.header();
    // A sequence number counts only if it is signed.
    let signed_as = conditions
        .key
        .as_ref()
        .filter(|key| key.check(front.statement.bytes(), front.signature).is_ok())
        .map(|key| (key.id_hex(), header.name.clone()));
    let seen = Seen {
        now: unix_time(),
        sequence: match signed_as.clone() {
            Some((key, name)) => {
                let seen = store.with(move |store| Ok(store.state().sequence(&key, &name)?));
                warned(seen.await, events).flatten()
            }
            None => None,
        },
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

/// The result of the store. Its failure is a warning and never an error of the use case.
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

/// Adds the place of the manifest to the reason for its refusal.
pub fn refused(place: &str, cause: Distrust) -> Error {
    let place = place.to_owned();
    match cause {
        Distrust::OtherRoot { asked, found } => Error::OtherRoot {
            place,
            asked,
            found,
        },
        Distrust::OtherDigest { asked, found } => Error::OtherDigest {
            place,
            algorithm: asked.algorithm(),
            expected: asked.hex(),
            found: found.hex(),
            quarantined: None,
        },
        Distrust::NotSigned(cause) => Error::NotSigned { place, cause },
        Distrust::OtherName { signed, asked } => Error::OtherName {
            place,
            signed,
            asked,
        },
        Distrust::Expired { at } => Error::Expired { place, at },
        Distrust::Older { found, seen } => Error::Older { place, found, seen },
        Distrust::BelowRequired { asked, found } => Error::BelowRequired { asked, found },
    }
}
