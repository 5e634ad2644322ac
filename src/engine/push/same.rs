//! Whether the object that has the name is the source already: then nothing is to be done.

use std::sync::Arc;

use crate::{
    engine::{
        error::Error,
        remote::{self, OpenRequest, Opened},
    },
    format::{
        ingest::RefusedUpload,
        tree::{self, Cv, Root},
    },
    net::location::Location,
    policy::parts::PartPlan,
};

use super::{
    api::Api,
    source::{Reader, SourceFile},
};

/// Whether a push failed because an object has the name.
pub fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Upload { cause, .. } if **cause == RefusedUpload::NameExists)
}

/// The root of what has the name, if the manifest beside it is of this object.
pub async fn root_at(api: &Api<'_>, url: &Location) -> Option<Root> {
    let request = OpenRequest {
        url,
        mirrors: &[],
        manifest: None,
        keeps_first: false,
        needs_manifest: false,
    };
    match Box::pin(remote::open(api.context(), &request)).await {
        Ok(Opened::WithManifest(object)) => Some(object.manifest.header().root),
        Ok(Opened::WithoutManifest { .. }) | Err(_) => None,
    }
}

/// The root of the source, which is read.
pub async fn root_of(file: &Arc<SourceFile>, plan: PartPlan) -> Result<Root, Error> {
    let parts = (0..plan.count().unwrap_or(0)).collect();
    let mut reader = Reader::of_file(file.clone(), plan, parts);
    let mut leaves: Vec<Cv> = Vec::new();
    while let Some(part) = reader.next().await? {
        leaves.extend(part.leaves.iter());
    }
    file.check_unchanged().await?;
    Ok(tree::root_of(&leaves))
}
