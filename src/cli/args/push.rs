//! What can be typed for `sapwood push`.

use std::{ffi::OsString, time::Duration};

use clap::Args;

use crate::{cli::units, engine::storage::s3::Sse, format::upload::SessionId};

use super::NetworkArgs;

#[derive(Debug, Args)]
#[command(
    override_usage = "sapwood push [OPTIONS] <FILE>... <URL>\n       sapwood push [OPTIONS] - <URL> --name <N>\n       \
                      sapwood push --list <URL>\n       sapwood push --abort <ID> <URL>",
    after_help = "The URL is that of a server that takes uploads (sapwood serve DIR --ingest), or s3://BUCKET/KEY. Into S3 no server is needed: what has \
arrived is kept there, below sapwood-staging/ beside the key, until it is whole; the object then appears under its key with its manifest. \
Credentials and region come from the AWS variables and files.\n\n\
Examples:\n  sapwood push talk.mp4 https://media.example/shows/\n  sapwood push talk.mp4 s3://media/shows/talk.mp4\n  \
ffmpeg ... | sapwood push - s3://media/live/talk.ts\n  sapwood push --list s3://media/shows/"
)]
pub struct PushArgs {
    /// Files to push, or - for standard input; the last one is the URL (http, https, s3): that of the object, or of a folder, with a slash at its end
    #[arg(required = true, value_name = "FILE|URL")]
    pub places: Vec<OsString>,
    /// The name of the object below the URL (default: that of the file); it may have folders
    #[arg(long, value_name = "N")]
    pub name: Option<String>,
    /// Replace an object of this name
    #[arg(long)]
    pub replace: bool,
    /// The token for the server: a file, or its text. It is sent over https, or to this machine
    #[arg(
        long,
        value_name = "TOKEN",
        env = "SAPWOOD_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// The size of the parts: at least 5MiB, and a multiple of the block size (default: 8MiB; larger for files over 78 GiB)
    #[arg(long, value_name = "SIZE", env = "SAPWOOD_PART_SIZE", value_parser = units::size)]
    pub part_size: Option<u64>,
    #[command(flatten)]
    pub follow: PushFollowArgs,
    #[command(flatten)]
    pub s3: PushS3Args,
    /// Go on with this upload (default: with one of the same content, or a new one)
    #[arg(long, value_name = "ID")]
    pub session: Option<SessionId>,
    /// List the uploads of this user at the server
    #[arg(long, conflicts_with_all = ["abort", "name", "replace", "part_size", "attested", "session", "follow"])]
    pub list: bool,
    /// Give up an upload, with all that was sent
    #[arg(long, value_name = "ID", conflicts_with_all = ["name", "replace", "part_size", "attested", "session", "follow"])]
    pub abort: Option<SessionId>,
    /// Remember nothing between runs
    #[arg(long)]
    pub no_store: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}

/// Recordings.
#[derive(Debug, Args)]
pub struct PushFollowArgs {
    /// Send a file while another program records it: each part as soon as it is full, the rest when the recording has ended. The file
    /// may appear later
    ///
    /// A recording has ended when its writer closed the file, or is a process that was seen and is gone, and the file did not change
    /// for a second. Where the writer cannot be seen (another machine or user, a network file system): see --follow-idle. The file is
    /// then read once more, since recorders rewrite their headers, and what differs is sent again.
    #[arg(long)]
    pub follow: bool,
    /// A recording whose writer cannot be seen has ended when the file did not change for so long
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        requires = "follow",
        value_parser = units::patience
    )]
    pub follow_idle: Duration,
}

/// What storages are told.
#[derive(Debug, Args)]
pub struct PushS3Args {
    /// s3 only: do not read the object back to prove it, but rely on the SHA-256 that the storage computed of its parts; nothing is
    /// copied either
    ///
    /// Root and manifest are then the word of this client alone: the storage only checked that the parts came as they were sent.
    #[arg(long)]
    pub attested: bool,
    /// s3 only: have the storage encrypt what it keeps: AES256, aws:kms or aws:kms:ID
    #[arg(long, value_name = "SSE")]
    pub sse: Option<Sse>,
}
