//! What can be typed. What it means is in the options of the library; each command's file translates.

pub mod examples;
mod fetch;
mod network;
mod push;
mod servers;
mod sync;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, builder::PossibleValuesParser};

use crate::{
    engine::cat::Wanted,
    format::{digests::Algorithm, tree::Root, trust::Trust},
};

use super::units;

pub use fetch::FetchArgs;
pub use network::{HttpVersion, NetworkArgs};
pub use push::PushArgs;
pub use servers::{GatewayArgs, ServeArgs, UploadArgs};
pub use sync::SyncArgs;

/// Move files over plain HTTP so that they land whole and proven, or not at all
///
/// Sapwood describes a file by a BLAKE3 tree (a manifest) and fetches it over any web server: broken transfers resume where they
/// stopped, every block is proven before it counts, and a file appears under its name only when all of it is right.
#[derive(Debug, Parser)]
#[command(
    name = "sapwood",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 published, proven at least as --require says, 1 failed for good, 2 usage, 3 content does not verify, 4 the source changed, \
5 run the same command again, 6 refused as unsafe, 7 disk full or not writable."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The commands, whose helps begin with an example.
pub fn command() -> clap::Command {
    let with_example = |command: clap::Command, name: &str| match examples::of(name) {
        [(line, what), ..] => command.before_help(format!("Example: {line}\n  {what}")),
        [] => command,
    };
    let names = examples::commands();
    let program = with_example(Cli::command(), "sapwood");
    names.fold(program, |program, name| {
        program.mut_subcommand(name, |command| with_example(command, name))
    })
}

/// Of all commands.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print every event as one line of JSON
    #[arg(long, global = true, env = "SAPWOOD_JSON", value_parser = clap::builder::FalseyValueParser::new(), help_heading = "Output")]
    pub json: bool,
    /// Print nothing but errors (and JSON events, with --json)
    #[arg(long, short, global = true, env = "SAPWOOD_QUIET", value_parser = clap::builder::FalseyValueParser::new(), help_heading = "Output")]
    pub quiet: bool,
    /// The folder with what is remembered between runs (default: ~/.local/state/sapwood)
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "SAPWOOD_STORE",
        help_heading = "Output"
    )]
    pub store: Option<PathBuf>,
    /// Print a line for each request, response and wait; -vv more, -vvv what the libraries say too
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the manifest of a file: FILE -> FILE.sapwood
    Manifest(ManifestArgs),
    /// Show what a manifest says
    Inspect(Box<InspectArgs>),
    /// Check files against their manifests and name every damaged block
    Verify(Box<VerifyArgs>),
    /// Fetch a URL, resume where an earlier run stopped, publish only what is proven
    Fetch(Box<FetchArgs>),
    /// Push files to a server that takes uploads, resume where an earlier run stopped
    ///
    /// Each file is read once, and published under its name when the server has proven its root. What the server has of the same
    /// content is not sent again, whatever the path or the machine.
    Push(Box<PushArgs>),
    /// Make a folder what a library on a server says, for little more than what changed
    ///
    /// Files are moved, copied or fetched, each proven before it has its name. The server needs nothing but what sapwood manifest
    /// FOLDER writes there.
    Sync(Box<SyncArgs>),
    /// Write a range of a URL to standard output, every byte proven first
    Cat(Box<CatArgs>),
    /// Let players and browsers read URLs and libraries as local files, every byte proven first
    Gateway(Box<GatewayArgs>),
    /// Make a key pair for signing manifests
    Keygen(KeygenArgs),
    /// Sign a manifest, or put a signature into it that minisign made
    Sign(SignArgs),
    /// Manage the store of known local files, whose blocks are not fetched again
    Store(StoreArgs),
    /// Show or forget which hosts limit requests
    Hosts(HostsArgs),
    /// Publish a folder over HTTP, with a manifest of each file and an index of all
    ///
    /// A file changes its manifest when it changes. Manifests are made in the background and kept in the folder of --store, never in
    /// DIR. Names that begin with a dot, unfinished downloads and links that lead out of DIR are not served. DIR as a whole is a library:
    /// the one that was published there, or one that is made too, for sapwood sync and sapwood gateway.
    Serve(ServeArgs),
    /// Print a script that lets a shell complete the commands
    Completions(CompletionsArgs),
    /// Print a manual page: that of a command, or of the program
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Files to describe, folders to publish as libraries, or - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Where the manifest goes (default: beside the file, as FILE.sapwood); - for standard output
    #[arg(long, short, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Size of the blocks that are proven one by one: a power of two from 16KiB to 16MiB, or auto
    #[arg(long, value_name = "SIZE", default_value = "auto", env = "SAPWOOD_BLOCK_SIZE", value_parser = units::block_size)]
    pub block_size: units::AutoBlockSize,
    /// Add a digest of the whole file; may be given several times
    #[arg(long, value_name = "ALG", ignore_case = true, value_parser = units::algorithms())]
    pub digest: Vec<Algorithm>,
    /// Leave out the hints that make updates small (anchors and pieces)
    #[arg(long)]
    pub no_hints: bool,
    #[command(flatten)]
    pub pack: PackArgs,
    /// Describe only these bytes of a file, as in HTTP (A-B, A-, -N), as a part that --join puts together with others
    #[arg(long, value_name = "A-B", value_parser = units::range, allow_hyphen_values = true, requires = "output")]
    pub range: Option<Wanted>,
    /// Join parts of one file, made with --range on any machines, to its manifest
    #[arg(long, conflicts_with = "range", requires = "output")]
    pub join: bool,
    /// Read every file of a folder again, also those that did not change since its last index
    #[arg(long)]
    pub read_all: bool,
    /// The name of the file in the manifest (default: its own name)
    #[arg(long, value_name = "N", value_parser = units::manifest_name)]
    pub name: Option<String>,
    /// Sign the manifest with this secret key: a file, or its text
    #[arg(
        long,
        value_name = "KEY",
        env = "SAPWOOD_SIGN_KEY",
        hide_env_values = true
    )]
    pub sign: Option<String>,
    /// A number that grows with each version of the file: older versions are refused
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seq: Option<u64>,
    /// When the manifest expires: a time (RFC 3339) or a duration from now (7d)
    #[arg(long, value_name = "TIME", value_parser = units::unix_time)]
    pub expires: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Pack")]
pub struct PackArgs {
    /// Also make a pack, the file compressed in parts, as FILE.sapwood.pack: fetch then moves fewer bytes. None is made of what
    /// does not compress
    #[arg(long = "pack", conflicts_with_all = ["range", "join"])]
    pub wanted: bool,
    /// How much time the pack may take: from 1 to 22 (default: 9)
    #[arg(long, value_name = "N", requires = "wanted", value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: Option<i32>,
    /// The pack has all of the file, also what does not compress: serve then needs the manifest and the pack alone
    #[arg(long, requires = "wanted")]
    pub whole: bool,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A manifest, or an object with its manifest beside it: a path, or a URL
    #[arg(value_name = "FILE|URL")]
    pub place: String,
    /// Print the leaves instead: INDEX OFFSET LENGTH HEX a line
    #[arg(long)]
    pub leaves: bool,
    /// Write the statement, the 1,024 bytes that are signed, to standard output
    #[arg(long, conflicts_with_all = ["leaves", "json", "signature"])]
    pub statement: bool,
    /// Write the signature as a .minisig file to standard output
    #[arg(long, conflicts_with_all = ["leaves", "json"])]
    pub signature: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Files to check, or folders with a library
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The manifest: a file, a URL, or - for standard input (default: beside the file, as FILE.sapwood)
    #[arg(long, value_name = "M")]
    pub manifest: Option<String>,
    /// The root that the file must have, as b3sum prints it
    #[arg(long, value_name = "HEX")]
    pub root: Option<Root>,
    /// The manifest must be signed by this key: a file, or its text
    #[arg(long, value_name = "PUB", env = "SAPWOOD_KEY")]
    pub key: Option<String>,
    /// Check the hints in manifests, which updates use, and the packs beside them too: they prove nothing, and take longer than
    /// the files
    #[arg(long)]
    pub hints: bool,
    /// Rename what does not verify to FILE.quarantined
    #[arg(long)]
    pub quarantine: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}

#[derive(Debug, Args)]
pub struct CatArgs {
    /// What to read: an http, https or s3 URL
    #[arg(value_name = "URL")]
    pub url: String,
    /// The bytes, as in HTTP: A-B (both ends inclusive), A- or -N
    #[arg(long, value_name = "A-B", default_value = "0-", hide_default_value = true, value_parser = units::range, allow_hyphen_values = true)]
    pub range: Wanted,
    /// The manifest: a file, a URL, or - (default: .sapwood added to the path of the URL)
    #[arg(long, value_name = "M")]
    pub manifest: Option<String>,
    /// The root that the object must have, as b3sum prints it
    #[arg(long, value_name = "HEX")]
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL: a file, or its text
    #[arg(long, value_name = "PUB", env = "SAPWOOD_KEY")]
    pub key: Option<String>,
    /// The least that every byte must be proven against
    #[arg(
        long,
        value_name = "TRUST",
        default_value = "none",
        env = "SAPWOOD_REQUIRE",
        value_parser = units::trust()
    )]
    pub require: Trust,
    /// Remember nothing between runs
    #[arg(long)]
    pub no_store: bool,
    #[command(flatten)]
    pub network: NetworkArgs,
}

#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// The name of the pair: NAME.key and NAME.pub
    #[arg(long, short, value_name = "NAME")]
    pub output: PathBuf,
    /// Do not protect the secret key with a password
    #[arg(long)]
    pub no_password: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("with").required(true).multiple(true).args(["key", "attach"]))]
pub struct SignArgs {
    /// The secret key: a file, or its text; with --attach the public key (default: the .pub file beside F.minisig)
    #[arg(
        long,
        value_name = "KEY",
        env = "SAPWOOD_SIGN_KEY",
        hide_env_values = true
    )]
    pub key: Option<String>,
    /// A signature over the statement (inspect --statement) that was made elsewhere; it must be valid
    #[arg(long, value_name = "F.minisig")]
    pub attach: Option<PathBuf>,
    /// A manifest, or a file with its manifest beside it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct HostsArgs {
    #[command(subcommand)]
    pub command: HostsCommand,
}

#[derive(Debug, Subcommand)]
pub enum HostsCommand {
    /// Print the hosts that limit requests, the connections that each accepts, and the time until the next request
    List,
    /// Forget what is known of a host, so that the next run treats it like any other
    #[command(group = clap::ArgGroup::new("which").required(true).args(["host", "all"]))]
    Forget {
        /// The host as `hosts list` prints it, with or without the port, or a URL of it
        #[arg(value_name = "HOST")]
        host: Option<String>,
        /// Forget all of them
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    pub command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Print how many files the store knows and how much space it takes
    Status,
    /// Print the files of which the store knows what they hold
    List,
    /// Add files, or all files in folders, so that later versions of them, and similar files, are not fetched as a whole
    ///
    /// They are read once and stay where they are; one that is known in this very version is not read again. They are used for URLs of
    /// which the store knows that they came from there, and for others with fetch --seed-store.
    Add {
        /// Files and folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Forget files, or all files below folders: their blocks are not used any more, until they are added or fetched again
    ///
    /// The files themselves stay as they are.
    Forget {
        /// Files and folders, also those that are gone
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Read all that the store knows of and compare
    ///
    /// What was removed or written to since is forgotten, and that is all: exit code 0. Damage in a file that
    /// was not written to, yours or the store's own, is named block by block; these blocks are no longer used: exit code 3.
    Verify,
    /// Forget what is gone, and keep the store's own files within their limit
    ///
    /// The blocks unused for longest are evicted first. Your files are never touched.
    Gc {
        /// The most that the store's own files may take (default: 20 GiB, and at most a tenth of the disk)
        #[arg(long, value_name = "SIZE", value_parser = units::size)]
        max_size: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command
    #[arg(value_parser = PossibleValuesParser::new(examples::commands()))]
    pub command: Option<String>,
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}
