//! The names of files, before they are fetched.

use futures_util::{StreamExt, stream};

use crate::{
    engine::{
        context::Context,
        error::Error,
        events::Events,
        remote::{preflight::retried_preflight, retry::reported},
    },
    net::location::Location,
};

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
