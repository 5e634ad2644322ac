//! Writing the manifest of a published file beside it.

use crate::{
    disk::temporary::{Replaces, Temporary},
    engine::{
        blocking,
        error::Error,
        events::{Event, Published},
        manifest_file::beside,
        remote::manifest::{ManifestPlace, OpenManifest},
    },
    format::reader::Manifest,
    policy::recovery::Changed,
};

use super::run::Run;

/// Reads the whole manifest, checks it, and writes it. A file that was proven without one gets a warning.
pub async fn save(run: &mut Run<'_>, published: &Published) -> Result<(), Error> {
    if run.front.is_none() {
        let message = format!(
            "{} came without a manifest, so none is saved; sapwood manifest {} makes one",
            published.path.display(),
            published.path.display()
        );
        run.events.event(Event::Warning { message });
        return Ok(());
    }
    let beside_url = || ManifestPlace::Beside(run.options.url.of_manifest());
    let place = run.options.manifest.clone().unwrap_or_else(beside_url);
    let opened = OpenManifest::open(&run.context, &place, &run.context.limits_now()).await?;
    let header = opened.header().clone();
    if header.root != published.root {
        return Err(Error::Changed {
            place: place.to_string(),
            how: Changed::Root,
        });
    }
    let bytes = opened.whole(&run.context).await?;
    Manifest::check_bytes(&bytes).map_err(|cause| Error::Manifest {
        place: place.to_string(),
        cause,
    })?;
    let path = beside(&published.path);
    let target = path.clone();
    blocking::on_disk(move || {
        let file = Temporary::create(&target, Replaces::Manifest)?;
        file.write_at(&bytes, 0)?;
        file.publish(None)
    })
    .await?;
    run.events.event(Event::Manifest {
        manifest: path,
        root: header.root,
        bytes_total: header.geometry.length(),
        block_size: header.geometry.block_size(),
        blocks: header.geometry.blocks(),
        pack_bytes: None,
    });
    Ok(())
}
