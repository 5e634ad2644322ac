//! Whether a storage takes uploads at all.

use crate::{
    disk::machine,
    format::upload::SessionId,
    policy::{
        parts::PartPlan,
        upload::{self, Declared, Now, Owner, Protocol, Session},
    },
};

use super::{Staged, Storage, StorageError};

/// What an upload is for of which no part is ever sent.
const NAME: &str = "sapwood-probe";

/// Begins an upload, and removes it.
pub async fn probe(storage: &dyn Storage) -> Result<(), StorageError> {
    let declared = Declared {
        name: upload::name(NAME).expect("an allowed name"),
        plan: PartPlan::choose(Some(0), None, None).expect("an empty object has a plan"),
        root: None,
        sha256: None,
        replace: false,
        growing: false,
        protocol: Protocol::default(),
    };
    let now = Now {
        unix_s: machine::unix_time(),
        served_s: 0,
    };
    let id = SessionId::from_random(machine::random()?);
    let session = Session::open(id, Owner(String::new()), declared, now);
    let handle = storage.begin(&session).await?;
    let staged = Staged {
        session: Some(id),
        handle,
        bytes: 0,
    };
    storage.remove(&staged).await
}
