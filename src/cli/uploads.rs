//! What the flags of `sapwood serve --ingest` mean.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::mpsc::{self, Sender, UnboundedReceiver};

use crate::{
    disk::files::Folder,
    engine::{
        ingest::{IngestLimits, session_store::OwnerLimits},
        storage::folder::FolderStorage,
    },
    serve::ingest::{Pace, Uploads, UploadsOptions, tokens::Tokens},
};

use super::{
    args::{ServeArgs, UploadArgs},
    exit::Exit,
    hints,
    network::Refusal,
    player,
};

/// Sessions that are not finished an owner may have.
const SESSIONS_MAX: u64 = 1000;
/// How long a command for a published object may take.
const FINAL_TIME: Duration = Duration::from_secs(600);

/// Uploads as the flags want them.
pub struct Meant {
    pub uploads: Arc<Uploads>,
    /// Where objects are published.
    pub root: Arc<Folder>,
    /// `None`: nothing is done for a published object.
    pub finals: Option<Finals>,
}

/// Does for published objects what the operator wants.
pub struct Finals {
    command: String,
    root: Arc<Folder>,
    published: UnboundedReceiver<Value>,
    warnings: Sender<String>,
}

/// Refuses what cannot work, before anything is made.
fn check(args: &UploadArgs) -> Result<(), Refusal> {
    let is = |value: &Option<String>, prefixes: &[&str]| {
        let value = value.as_deref().unwrap_or_default();
        prefixes.iter().any(|prefix| value.starts_with(prefix))
    };
    for (is_wrong, why) in [
        (is(&args.storage, &["s3://"]), hints::NO_S3_STORAGE),
        (
            is(&args.sessions, &["postgres://", "postgresql://"]),
            hints::NO_POSTGRES,
        ),
        (
            is(&args.on_final, &["http://", "https://"]),
            hints::NO_FINAL_URL,
        ),
    ] {
        if is_wrong {
            return Err(Refusal::usage(why));
        }
    }
    Ok(())
}

/// Refuses to take uploads where others could send or read what they may not.
pub fn check_address(args: &ServeArgs, address: SocketAddr) -> Result<(), Refusal> {
    if !args.uploads.ingest || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let why = match (&args.uploads.token_file, &args.tls_cert) {
        (None, _) => hints::UPLOADS_NEED_TOKENS,
        (Some(_), None) => hints::UPLOADS_NEED_TLS,
        (Some(_), Some(_)) => return Ok(()),
    };
    let message = format!("other machines reach {address}: {why}");
    Err(Refusal(Exit::Unsafe, message))
}

/// Opens storage and sessions. `None`: no uploads are taken.
pub async fn open(
    args: &ServeArgs,
    tokens: Option<Tokens>,
    warnings: &Sender<String>,
) -> Result<Option<Meant>, Refusal> {
    let of = &args.uploads;
    if !of.ingest {
        return Ok(None);
    }
    check(of)?;
    let path = of
        .storage
        .as_ref()
        .map_or(args.folder.clone(), PathBuf::from);
    let storage = FolderStorage::open(&path);
    let storage = storage.map_err(|cause| failed(&cause.to_string()))?;
    let root = storage.root().clone();
    let (sender, published) = mpsc::unbounded_channel();
    let finals = of.on_final.clone().map(|command| Finals {
        command,
        root: root.clone(),
        published,
        warnings: warnings.clone(),
    });
    let warn = warnings.clone();
    let uploads = Uploads::open(UploadsOptions {
        storage,
        sessions: of.sessions.as_ref().map(PathBuf::from),
        tokens,
        origins: of.cors.clone(),
        limits: IngestLimits {
            owner: OwnerLimits {
                sessions: SESSIONS_MAX,
                bytes: of.quota.unwrap_or(u64::MAX),
            },
            ttl_s: of.session_ttl.as_secs().max(1),
        },
        pace: Pace::default(),
        warn: Arc::new(move |message| drop(warn.try_send(message))),
        on_final: finals.is_some().then_some(sender),
    });
    Ok(Some(Meant {
        uploads: uploads.await.map_err(|cause| failed(&cause.to_string()))?,
        root,
        finals,
    }))
}

fn failed(cause: &str) -> Refusal {
    Refusal(Exit::Failed, format!("no uploads can be taken: {cause}"))
}

impl Finals {
    /// Runs the command for each published object, one after the other.
    pub async fn run(mut self) {
        while let Some(status) = self.published.recv().await {
            let text = |member: &str| status[member].as_str().unwrap_or_default().to_owned();
            let path = self.root.path_of(text("name").as_ref());
            let variables = [
                ("SAPWOOD_UPLOAD_NAME", text("name")),
                ("SAPWOOD_UPLOAD_ROOT", text("root")),
                ("SAPWOOD_UPLOAD_OWNER", text("owner")),
                ("SAPWOOD_UPLOAD_SESSION", text("id")),
                ("SAPWOOD_UPLOAD_PATH", path.display().to_string()),
            ];
            let input = format!("{status}\n");
            let ran = player::run_in_shell(&self.command, &variables, &input, FINAL_TIME);
            if let Err(message) = ran.await {
                let name = text("name");
                let _ = self
                    .warnings
                    .try_send(format!("{name} was published, but {message}"));
            }
        }
        // Its server has ended.
        std::future::pending::<()>().await;
    }
}
