//! What can be typed for the commands that serve.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::format::{tree::Root, trust::Trust};

use super::{NetworkArgs, units};

#[derive(Debug, Args)]
#[command(
    override_usage = "sapwood gateway [OPTIONS] <URL>... [-- <PLAYER>...]",
    after_help = "Each URL is served at http://127.0.0.1:PORT/TOKEN/NAME, with ranges; these URLs are printed first. What was read stays in the store. \
A URL that ends with a slash, or with library.sapwood, is a library: its files are at /TOKEN/PATH, or at /TOKEN/NAME/PATH beside other URLs, as they were \
when the gateway started. At http://127.0.0.1:PORT/TOKEN/ is a page with a player and a map of what is proven. The gateway ends with its player, with SIGINT or with SIGTERM."
)]
pub struct GatewayArgs {
    /// What to serve: http or https URLs of objects, or of libraries
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// A command to run on the URLs of the gateway, which take the place of {} or come last; the gateway ends with it
    #[arg(last = true, value_name = "PLAYER")]
    pub player: Vec<String>,
    /// Where to listen: HOST:PORT, or PORT on 127.0.0.1; a loopback address. Port 0 finds a free one
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:0",
        value_parser = units::listen_address
    )]
    pub listen: String,
    /// Open the page of the gateway in the browser of the desktop
    #[arg(long)]
    pub open: bool,
    /// The manifest: a file, a URL, or - (default: .sapwood added to the path of the URL)
    #[arg(long, value_name = "M")]
    pub manifest: Option<String>,
    /// Another URL of the same object or library; may be given several times
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
    /// The root that the object, or the index of the library, must have, as b3sum prints it
    #[arg(long, value_name = "HEX")]
    pub root: Option<Root>,
    /// The manifests must be signed by this key, for the names of the URLs: a file, or its text
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
pub struct ServeArgs {
    /// The folder to serve
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Where to listen: HOST:PORT, or PORT on 127.0.0.1; port 0 finds a free one
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:8080",
        env = "SAPWOOD_LISTEN",
        value_parser = units::listen_address
    )]
    pub listen: String,
    /// Make no manifests and no index: serve those that lie in the folder
    #[arg(long)]
    pub no_manifests: bool,
    /// Serve https with this certificate (PEM, with its chain); it is read again when it changes
    #[arg(long, value_name = "F", requires = "tls_key", env = "SAPWOOD_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM, without a password)
    #[arg(long, value_name = "F", requires = "tls_cert", env = "SAPWOOD_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Append a JSON object for each response to this file, or to standard error with -; SIGHUP opens the file anew
    #[arg(long, value_name = "FILE", env = "SAPWOOD_ACCESS_LOG")]
    pub access_log: Option<PathBuf>,
    /// Do not serve /metrics (for Prometheus) and /healthz
    #[arg(long, env = "SAPWOOD_NO_METRICS", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_metrics: bool,
    #[command(flatten)]
    pub uploads: UploadArgs,
}

/// Taking uploads.
#[derive(Debug, Args)]
#[command(next_help_heading = "Uploads")]
pub struct UploadArgs {
    /// Take uploads (sapwood push): staged below DIR/sapwood-staging, proven, then published in the folder with their manifests
    #[arg(long)]
    pub ingest: bool,
    /// Where uploads are staged and published: a folder, or a prefix in S3 (default: DIR); what is there is served where DIR has
    /// nothing, from S3 by redirects to signed URLs. Clients send to S3 directly; its access is that of the AWS variables and files
    #[arg(long, value_name = "DIR|s3://B/P", requires = "ingest")]
    pub storage: Option<String>,
    /// The database of the sessions (default: sapwood-staging/sessions.sqlite in the storage, or in DIR for S3): a file, or one of
    /// Postgres (`postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full`), which many servers with one storage in S3 share
    #[arg(
        long,
        value_name = "FILE|postgres://…",
        requires = "ingest",
        env = "SAPWOOD_SESSIONS",
        hide_env_values = true
    )]
    pub sessions: Option<String>,
    /// Who may upload: a file with a TOKEN, or an OWNER and a TOKEN, in each line; needed for addresses that other machines reach; it is read again when it changes
    #[arg(long, value_name = "F", requires = "ingest")]
    pub token_file: Option<PathBuf>,
    /// The most bytes that an owner may have in uploads that are not published yet
    #[arg(long, value_name = "SIZE", requires = "ingest", value_parser = units::size)]
    pub quota: Option<u64>,
    /// How long an upload that nobody goes on with is kept
    #[arg(
        long,
        value_name = "TIME",
        default_value = "7d",
        value_parser = units::patience
    )]
    pub session_ttl: Duration,
    /// A URL to be told of each published object by a POST of JSON, or a command to run (name, root, path, owner and session are in `SAPWOOD_UPLOAD_NAME`, `_ROOT`, `_PATH` (in S3 `_URL`), `_OWNER` and `_SESSION`, its status is on standard input)
    #[arg(long, value_name = "CMD|URL", requires = "ingest")]
    pub on_final: Option<String>,
    /// As `--on-final`, told also of each upload that expires soon, and of a recording when more of it can be played (`SAPWOOD_UPLOAD_EVENT` is `published`, `session_expiring` or `parts_proven`)
    #[arg(
        long,
        value_name = "CMD|URL",
        requires = "ingest",
        conflicts_with = "on_final"
    )]
    pub on_event: Option<String>,
    /// A web origin, such as `https://app.example`, whose pages may upload; may be given several times
    #[arg(long, value_name = "ORIGIN", requires = "ingest", value_parser = units::origin)]
    pub cors: Vec<String>,
}
