//! What can be typed for `sapwood fetch`.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::units,
    format::{digests::Digest, tree::Root, trust::Trust},
};

use super::NetworkArgs;

#[derive(Debug, Args)]
#[command(
    override_usage = "sapwood fetch [OPTIONS] <URL>...\n       sapwood fetch [OPTIONS] -i <LIST>"
)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct FetchArgs {
    /// What to fetch: http, https or s3 URLs
    #[arg(required_unless_present = "input", value_name = "URL")]
    pub urls: Vec<String>,
    /// Where to: a file, or a folder (an existing one, or with a slash at its end)
    #[arg(long, short, value_name = "FILE|DIR")]
    pub output: Option<PathBuf>,
    /// A list of what to fetch, or - for standard input: one URL a line
    ///
    /// After a tab there may be the name of the file, which may have folders; then, each after a tab, root=HEX, digest=ALG=HEX,
    /// mirror=URL and manifest=M. A line that begins with a brace is a JSON object with url, name, root, digest, mirror and manifest.
    /// Or it is a Metalink 4 document: its names, mirrors and digests are used.
    #[arg(long, short, value_name = "LIST", conflicts_with = "urls")]
    pub input: Option<PathBuf>,
    /// Short for --digest sha-256=HEX
    #[arg(long, value_name = "HEX", value_parser = units::sha256)]
    pub sha256: Option<Digest>,
    /// The root that the object must have, as b3sum prints it
    #[arg(long, value_name = "HEX")]
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL: a file, or its text
    #[arg(long, value_name = "PUB", env = "SAPWOOD_KEY")]
    pub key: Option<String>,
    /// The least that the result must be proven against
    #[arg(
        long,
        value_name = "TRUST",
        default_value = "none",
        env = "SAPWOOD_REQUIRE",
        value_parser = units::trust()
    )]
    pub require: Trust,
    /// Another URL of the same object; may be given several times
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
    /// Name the file as the server suggests in Content-Disposition, if that name is safe and you name none: one more request
    ///
    /// A file of that name that was not fetched from this URL is not replaced: exit code 6.
    #[arg(long)]
    pub content_disposition: bool,
    /// Write the manifest beside the file, as FILE.sapwood (it is kept in the store anyway, where `sapwood verify` finds it)
    #[arg(long, conflicts_with = "no_manifest")]
    pub save_manifest: bool,
    /// Do not replace an existing file: exit with 6
    #[arg(long)]
    pub no_clobber: bool,
    /// Fetch at most N files at a time (default: 8 at first; more while they are small, up to --connections)
    #[arg(long, short, value_name = "N", env = "SAPWOOD_JOBS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// The manifest: a file, a URL, or - (default: .sapwood added to the path of the URL)
    #[arg(long, value_name = "M", help_heading = "Manifests and digests")]
    pub manifest: Option<String>,
    /// Request no manifest: the result is proven against digests, or NOT verified
    #[arg(
        long,
        conflicts_with = "manifest",
        help_heading = "Manifests and digests"
    )]
    pub no_manifest: bool,
    /// A digest that the object must have, ALG=HEX; may be given several times
    #[arg(long, value_name = "ALG=HEX", value_parser = units::digest, help_heading = "Manifests and digests")]
    pub digest: Vec<Digest>,
    /// A local file that may hold bytes of the object, or a folder of such files; may be given several times. The file that is
    /// replaced is always one. At most 256 files are searched: of a larger folder the first ones, by their paths
    #[arg(long, value_name = "PATH", help_heading = "Bytes that are here")]
    pub seed: Vec<PathBuf>,
    /// Look for bytes in all files that the store knows of, not only in those that came from the same server or under the same key
    #[arg(long, help_heading = "Bytes that are here")]
    pub seed_store: bool,
    /// Remember nothing between runs
    #[arg(long, help_heading = "Bytes that are here")]
    pub no_store: bool,
    /// With several files, stop at the first one that fails
    #[arg(long, help_heading = "Results")]
    pub fail_fast: bool,
    /// Write what was fetched, from where and what it was proven against, as JSON: to a file, or to a folder
    #[arg(long, value_name = "FILE|DIR", help_heading = "Results")]
    pub receipt: Option<PathBuf>,
    /// Delete what does not verify instead of keeping it as FILE.quarantined, and the part of a file that the server refuses
    #[arg(long, help_heading = "Results")]
    pub discard: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}
