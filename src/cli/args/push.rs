//! What can be typed for `sapwood push`.

use std::ffi::OsString;

use clap::Args;

use crate::{cli::units, format::upload::SessionId};

use super::NetworkArgs;

#[derive(Debug, Args)]
#[command(
    override_usage = "sapwood push [OPTIONS] <FILE>... <URL>\n       sapwood push [OPTIONS] - <URL> --name <N>\n       \
                      sapwood push --list <URL>\n       sapwood push --abort <ID> <URL>"
)]
pub struct PushArgs {
    /// Files to push, or - for standard input; the last one is the URL: that of the object, or of a folder, with a slash at its end
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
    /// Go on with this upload (default: with one of the same content, or a new one)
    #[arg(long, value_name = "ID")]
    pub session: Option<SessionId>,
    /// List the uploads of this user at the server
    #[arg(long, conflicts_with_all = ["abort", "name", "replace", "part_size", "session"])]
    pub list: bool,
    /// Give up an upload, with all that was sent
    #[arg(long, value_name = "ID", conflicts_with_all = ["name", "replace", "part_size", "session"])]
    pub abort: Option<SessionId>,
    /// Remember nothing between runs
    #[arg(long)]
    pub no_store: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}
