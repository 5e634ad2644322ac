//! The names of files that servers suggest, before the files are fetched.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};

use crate::{
    disk::store::{Store, StoreError},
    engine::{
        context::Context,
        error::Error,
        events::Events,
        remote::{preflight::retried_preflight, retry::reported},
    },
    net::location::Location,
};

use super::remembered::url_hash;

/// Names that are requested at a time.
const AT_ONCE: usize = 8;

/// The names that servers suggest for the files of objects, by `Content-Disposition`, in the order of the URLs. As they were sent: they
/// may be unsafe.
pub async fn suggested_names(
    context: &Context,
    urls: &[Location],
    events: &mut dyn Events,
) -> Vec<Result<Option<String>, Error>> {
    let names = stream::iter(urls).map(|url| suggested_name(context, url));
    reported(events, names.buffered(AT_ONCE).collect()).await
}

async fn suggested_name(context: &Context, url: &Location) -> Result<Option<String>, Error> {
    let limits = context.limits_now();
    let admitted = context.connections.admit(&context.client, url).await;
    let preflight = retried_preflight(&context.client, url, &limits).await;
    drop(admitted);
    Ok(preflight?.file_name)
}

/// Whether the file at a path is there because it was fetched from this URL, as far as the store knows. A server that chooses a name
/// must not replace another file by it.
pub async fn came_from(context: &Context, url: &Location, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let url = url.clone();
    let known = context.store.with(move |store| is_from(store, &url, path));
    known.await.ok().flatten().unwrap_or(false)
}

fn is_from(store: &mut Store, url: &Location, path: PathBuf) -> Result<bool, StoreError> {
    let hash = url_hash(store, url)?;
    let arrived = store.state().last_arrival(&hash)?;
    let holding = store.state().holding_at(&path)?;
    Ok(matches!((arrived, holding), (Some(arrived), Some(holding)) if arrived.root == holding.root))
}
