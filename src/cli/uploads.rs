//! What the flags of `sapwood serve --ingest` mean.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::sync::mpsc::Sender;

use crate::{
    disk::staging::Staging,
    engine::{
        error::Error,
        ingest::{IngestLimits, session_store::OwnerLimits},
        storage::{
            self, StorageError,
            folder::FolderStorage,
            s3::{S3Options, S3Storage},
        },
    },
    net::{error::NetError, location::Location},
    policy::upload::notices::KeptNotices,
    serve::ingest::{Kept, Pace, StartError, Stored, Uploads, UploadsOptions, tokens::TokenFile},
};

use super::{
    args::{ServeArgs, UploadArgs},
    exit::Exit,
    finals::{Finals, PublishedAt, Told},
    hints,
    network::{self, Refusal},
};

/// Sessions that are not finished an owner may have.
const SESSIONS_MAX: u64 = 1000;

/// Uploads as the flags want them.
pub struct Meant {
    pub uploads: Arc<Uploads>,
    /// `None`: nothing is done for a published object.
    pub finals: Option<Finals>,
}

/// The beginnings of URLs of Postgres.
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];

/// Where the sessions are kept. A URL of a database is not shown: it has a password.
fn kept(args: &UploadArgs) -> Result<Kept, Refusal> {
    match args.sessions.as_deref() {
        None => Ok(Kept::Staged),
        Some(url) if is_database(url) => in_database(url),
        // It may have a password.
        Some(other) if other.contains("://") => Err(Refusal::usage(hints::SESSIONS_IN_POSTGRES)),
        Some(file) => Ok(Kept::File(PathBuf::from(file))),
    }
}

/// Whether sessions are kept in a database that other servers share.
pub fn is_database(sessions: &str) -> bool {
    POSTGRES.iter().any(|scheme| sessions.starts_with(scheme))
}

#[cfg(feature = "postgres")]
fn in_database(url: &str) -> Result<Kept, Refusal> {
    let place = crate::engine::ingest::postgres::Place::parse(url);
    let place = place.map_err(|cause| Refusal::usage(hints::of_sessions(cause)))?;
    Ok(Kept::Postgres(Box::new(place)))
}

#[cfg(not(feature = "postgres"))]
fn in_database(_url: &str) -> Result<Kept, Refusal> {
    Err(Refusal::usage(hints::NO_POSTGRES))
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

/// Opens storage and sessions. `None`: no uploads are taken. `url`: of the server.
pub async fn open(
    args: &ServeArgs,
    tokens: Option<TokenFile>,
    url: &str,
    warnings: &Sender<String>,
) -> Result<Option<Meant>, Refusal> {
    let of = &args.uploads;
    if !of.ingest {
        return Ok(None);
    }
    let sessions = kept(of)?;
    let (told, kept_notices) = match (&of.on_final, &of.on_event) {
        (None, None) => (None, KeptNotices::None),
        (Some(told), _) => (Some(told), KeptNotices::Published),
        (None, Some(told)) => (Some(told), KeptNotices::All),
    };
    let told = told.map(|told| Told::parse(told)).transpose()?;
    let (storage, published_at) = match of.storage.as_deref() {
        Some(text) if text.starts_with("s3://") => in_s3(args, text).await?,
        path => {
            let path = path.map_or(args.folder.clone(), PathBuf::from);
            let storage = FolderStorage::open(&path);
            let storage = storage.map_err(|cause| failed(&cause.into()))?;
            let root = storage.root().clone();
            (Stored::Folder(storage), PublishedAt::Folder(root))
        }
    };
    let warn = warnings.clone();
    let uploads = Uploads::open(UploadsOptions {
        storage,
        sessions,
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
        kept_notices,
        is_tls: args.tls_cert.is_some(),
    });
    let uploads = uploads.await.map_err(|cause| failed(&cause))?;
    let finals = told.map(|told| Finals {
        told,
        kept: kept_notices,
        uploads: uploads.clone(),
        published_at,
        url: url.to_owned(),
        warnings: warnings.clone(),
    });
    Ok(Some(Meant { uploads, finals }))
}

fn failed(cause: &StartError) -> Refusal {
    let what = hints::of_start(cause);
    Refusal(
        Exit::of_start(cause),
        format!("no uploads can be taken: {what}"),
    )
}

/// A storage in S3, once it has taken an upload and removed it.
async fn in_s3(args: &ServeArgs, url: &str) -> Result<(Stored, PublishedAt), Refusal> {
    let url = url.trim_start_matches("s3://").trim_end_matches('/');
    let folder = network::location(&format!("s3://{url}/"))?;
    let refused = |cause| {
        let message = message(&folder, cause);
        Refusal(Exit::Failed, format!("no uploads can be taken: {message}"))
    };
    let storage = S3Storage::new(&network::for_servers(), &folder, S3Options::default());
    let storage = storage.map_err(refused)?;
    // What is this server's own lies in its folder, and is locked there.
    let own = Staging::open(&args.folder).map_err(|cause| failed(&cause.into()))?;
    let spool = own
        .folder()
        .again()
        .map_err(|cause| failed(&cause.into()))?;
    storage.spool_to(spool);
    storage::probe(&storage).await.map_err(refused)?;
    let storage = Arc::new(storage);
    Ok((Stored::S3 { storage, own }, PublishedAt::S3(folder)))
}

/// Why a storage in S3 cannot be used, and what to do.
fn message(folder: &Location, cause: StorageError) -> String {
    let StorageError::Failed(cause) = cause else {
        return format!("{folder}: {cause}");
    };
    // The place of the request is of no use here.
    let in_s3 = |cause: &NetError| {
        let advice = hints::STORAGE_IN_S3;
        format!("{folder}: {}; {advice}", cause.detail())
    };
    match cause.downcast::<Error>() {
        Ok(error) => match *error {
            Error::Net { cause, .. } => in_s3(&cause),
            Error::Patience {
                last: Some(cause), ..
            } => in_s3(&cause),
            other => hints::message(&other),
        },
        Err(cause) => cause.to_string(),
    }
}
