//! What can be typed for `sapwood sync`.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::units,
    policy::{filters::Pattern, sync::DeleteMax},
};

use super::NetworkArgs;

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct SyncArgs {
    /// The folder of the library, or its library.sapwood: an http, https or s3 URL
    #[arg(value_name = "URL")]
    pub url: String,
    /// The folder that becomes like it; it is made, with all above it, if it is missing
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Delete what the library does not list: into library.sapwood.trash, and only if everything else was synced
    #[arg(long)]
    pub delete: bool,
    /// Refuse to delete more files than this: a number, or a part of those in DIR (moved ones do not count)
    #[arg(long, value_name = "N|P%", default_value = "50%", env = "SAPWOOD_DELETE_MAX", value_parser = units::delete_max)]
    pub delete_max: DeleteMax,
    /// Delete for good
    #[arg(long, requires = "delete")]
    pub no_trash: bool,
    /// Print what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Only files that match, or are below a folder that matches; may be given several times. A pattern without a slash matches any
    /// name on the path
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<Pattern>,
    /// Not these files: they are neither fetched, nor replaced, nor deleted; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<Pattern>,
    /// The library must be signed by this key, for the name of its folder in the URL: a file, or its text
    #[arg(long, value_name = "PUB", env = "SAPWOOD_KEY")]
    pub key: Option<String>,
    /// Remember nothing between runs but what is in DIR
    #[arg(long)]
    pub no_store: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}
