//! `sapwood serve`

use serde_json::json;
use tokio::net::TcpListener;

use crate::{disk::files::Folder, serve::origin};

use super::{args::ServeArgs, exit::Exit, hints, output::Output, signals};

pub async fn run(args: ServeArgs, output: &mut Output) -> Exit {
    let folder = match Folder::open(&args.folder) {
        Ok(folder) => folder,
        Err(cause) => {
            return output.error(
                Some(&args.folder.display().to_string()),
                None,
                &cause.into(),
            );
        }
    };
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
    origin::run(listener, folder, signals::stop()).await;
    Exit::Ok
}
