//! `sapwood serve`

use std::path::PathBuf;

use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    disk::{regions, state},
    engine::events::{Event, Events},
    serve::origin::{self, Origin},
};

use super::{args::ServeArgs, exit::Exit, hints, output::Output, signals};

pub async fn run(args: ServeArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let mut origin = match Origin::open(&args.folder) {
        Ok(origin) => origin,
        Err(cause) => {
            return output.error(
                Some(&args.folder.display().to_string()),
                None,
                &cause.into(),
            );
        }
    };
    if !args.no_manifests {
        let store = store.or_else(state::default_folder);
        if let Err(cause) = origin.make_manifests(store.as_deref()) {
            let message =
                format!("no manifests are made, because there is no folder for them: {cause}");
            output.event(Event::Warning { message });
        }
    }
    let bound = async {
        let listener = TcpListener::bind(&*args.listen).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = match bound.await {
        Ok(bound) => bound,
        Err(cause) => {
            let message = format!(
                "failed to listen on {}: {cause}; {}",
                args.listen,
                hints::OTHER_ADDRESS
            );
            return output.refuse(Exit::Failed, &message);
        }
    };
    let url = format!("http://{address}/");
    match output.is_json() {
        true => output.json_event("listening", json!({ "url": url })),
        false => output.line(&url),
    }
    output.flush();
    origin::run(listener, origin, signals::stop()).await;
    // Ends the hashing that is under way.
    regions::stop();
    Exit::Ok
}
