//! What a local file is verified against: the manifest that the user names, the one beside it, the one that the store keeps of its
//! fetch, or a root.

use std::path::Path;

use crate::{disk::files, format::keys::NotSigned, policy::conditions::Conditions};

use super::{
    blocking,
    context::{Context, StoreHandle},
    error::Error,
    events::Events,
    inspect,
    manifest_file::{self, ManifestFile},
    remote::manifest::ManifestPlace,
    store::{Kept, kept_manifest},
    trust::{self, ManifestFront},
    verify::Against,
};

/// The manifest that the user names, and what it takes to read one that is no file.
#[allow(missing_docs, reason = "fields are named after their types")]
pub struct Named {
    pub place: ManifestPlace,
    pub context: Option<Context>,
}

/// Of which file, and under which conditions.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "fields are named after what they are")]
pub struct Sought<'a> {
    pub path: &'a Path,
    pub named: Option<&'a Named>,
    pub conditions: &'a Conditions,
    pub store: &'a StoreHandle,
}

/// The named manifest, or the one beside the file; `None`: there is none, or none that can be read and it is not needed.
async fn manifest(
    sought: &Sought<'_>,
    events: &mut dyn Events,
) -> Result<Option<ManifestFile>, Error> {
    let object = sought.path.to_owned();
    let named = match sought.named {
        Some(Named {
            place,
            context: Some(context),
        }) => {
            // What is not there needs no manifest.
            blocking::run(move || files::open_for_reading(&object)).await?;
            return inspect::read(context, place, events).await.map(Some);
        }
        Some(Named {
            place: ManifestPlace::File(path),
            ..
        }) => Some(path.clone()),
        Some(_) | None => None,
    };
    // With a root of the user's own, what lies beside the file is not needed; unless it must be signed.
    let needed = sought.conditions.root.is_none() || sought.conditions.key.is_some();
    blocking::run(move || {
        files::open_for_reading(&object)?;
        open_manifest(&object, named.as_deref(), needed)
    })
    .await
}

fn open_manifest(
    path: &Path,
    named: Option<&Path>,
    needed: bool,
) -> Result<Option<ManifestFile>, Error> {
    let Some(named) = named else {
        return match ManifestFile::open(&manifest_file::beside(path)) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::Disk(cause)) if cause.is_missing() => Ok(None),
            Err(_) if !needed => Ok(None),
            Err(other) => Err(other),
        };
    };
    ManifestFile::open(named).map(Some)
}

/// What to compare with; `None`: there is neither a manifest nor a root.
pub async fn find(sought: &Sought<'_>, events: &mut dyn Events) -> Result<Option<Against>, Error> {
    let Sought {
        path,
        conditions,
        store,
        ..
    } = *sought;
    if let Some(manifest) = manifest(sought, events).await? {
        let front = ManifestFront {
            statement: &manifest.manifest.statement,
            signature: &manifest.manifest.signature,
            place: &manifest.path.display().to_string(),
        };
        let trust = trust::check(store, conditions, front, events).await?;
        let manifest = Box::new(manifest);
        return Ok(Some(Against::Manifest {
            manifest,
            trust,
            hints: false,
        }));
    }
    if let Some(against) = of_store(path, conditions, store, events).await? {
        return Ok(Some(against));
    }
    let Some(root) = conditions.root else {
        return Ok(None);
    };
    match conditions.without_manifest(&[]) {
        Ok(_) => Ok(Some(Against::Root(root))),
        // A root is less than the signature that the key asks for.
        Err(_) => Err(Error::NotSigned {
            place: manifest_file::beside(path).display().to_string(),
            cause: NotSigned::Unsigned,
        }),
    }
}

/// The manifest that the file was fetched with, if the store keeps it.
async fn of_store(
    path: &Path,
    conditions: &Conditions,
    store: &StoreHandle,
    events: &mut dyn Events,
) -> Result<Option<Against>, Error> {
    let file = path.to_owned();
    let kept = store.with(move |store| kept_manifest(store, &file)).await;
    // With a root of the user's own, the file may be another one by now.
    let is_meant = |kept: &Kept| conditions.root.is_none_or(|root| root == kept.tree.root());
    let Some(kept) = trust::warned(kept, events).flatten().filter(is_meant) else {
        return Ok(None);
    };
    let front = ManifestFront {
        statement: &kept.statement,
        signature: &kept.signature,
        place: &format!("{} (its manifest in the store)", path.display()),
    };
    let trust = trust::check(store, conditions, front, events).await?;
    let tree = Box::new(kept.tree);
    Ok(Some(Against::Tree { tree, trust }))
}
