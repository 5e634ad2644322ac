//! Whether the object that has the name is the source already: then nothing is to be done.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    engine::{
        error::Error,
        events::{Event, Pushed},
        remote::{self, OpenRequest, Opened, retry},
    },
    format::{
        ingest::RefusedUpload,
        tree::{self, Cv, Root},
    },
    net::location::Location,
    policy::parts::PartPlan,
};

use super::{Push, api::Api, reader::Reader, source::SourceFile};

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

impl Push<'_> {
    /// An object has the name. If it is the source, there is nothing to do.
    pub(super) async fn is_there(&self, taken: Error) -> Result<Pushed, Error> {
        let taken = match (taken, self.options.replace) {
            (Error::Upload { place, .. }, true) => Error::Upload {
                place,
                cause: Box::new(RefusedUpload::NotReplaced),
            },
            (taken, _) => taken,
        };
        let url = self.options.url();
        if self.is_stream() {
            return Err(taken);
        }
        let Some(root) = root_at(&self.api, &url).await else {
            return Err(taken);
        };
        let Some(file) = self.whole_file().await? else {
            return Err(taken);
        };
        let plan = self.plan.with_length(file.length());
        let plan = plan.map_err(|cause| Error::PartSize { cause })?;
        if root_of(&file, plan).await? != root {
            return Err(taken);
        }
        let sent = self.counters.run.load(Ordering::Relaxed);
        let pushed = Pushed {
            path: self.options.path.clone(),
            url: url.to_string(),
            root,
            bytes_total: file.length(),
            bytes_sent: sent,
            bytes_reused: file.length().saturating_sub(sent),
            bytes_copied: 0,
            elapsed_ms: self.began.elapsed().as_millis() as u64,
        };
        retry::tell(Event::Pushed(pushed.clone()));
        Ok(pushed)
    }
}
