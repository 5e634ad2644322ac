//! What can be typed for all commands that use the network.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    cli::units,
    net::{proxies::Proxy, s3::service::Endpoint},
};

/// Of all commands that use the network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// The most connections at a time
    #[arg(long, value_name = "N", default_value = "16", env = "SAPWOOD_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub connections: u32,
    /// The most bytes a second, over all connections: 5MB (1000), 512KiB or 512K (1024); 0: no limit
    #[arg(long, value_name = "RATE", env = "SAPWOOD_LIMIT_RATE", value_parser = units::size)]
    pub limit_rate: Option<u64>,
    /// A header for the hosts in the command, 'Name: value', or @FILE with one a line
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    pub headers: Vec<String>,
    /// Use the logins in ~/.netrc, or in the file that NETRC names
    #[arg(long)]
    pub netrc: bool,
    /// The service of s3:// URLs (default: that of the AWS variables and files, else AWS)
    #[arg(long, value_name = "URL", env = "SAPWOOD_ENDPOINT")]
    pub endpoint: Option<Endpoint>,
    /// Trust the certificates in this file (PEM) too: those of authorities, or that of the server itself
    #[arg(long, value_name = "FILE", env = "SAPWOOD_CACERT")]
    pub cacert: Option<PathBuf>,
    /// Send all requests through this proxy, but those to hosts in the variable `no_proxy`: http, https, socks5, or socks5h, which
    /// resolves names at the proxy (default: the variables `http_proxy`, `https_proxy` and `all_proxy`)
    #[arg(
        long,
        value_name = "URL",
        env = "SAPWOOD_PROXY",
        hide_env_values = true
    )]
    pub proxy: Option<Proxy>,
    /// The longest time to a connection
    #[arg(long, value_name = "TIME", default_value = "10s", env = "SAPWOOD_CONNECT_TIMEOUT", value_parser = units::patience)]
    pub connect_timeout: Duration,
    /// The version of HTTP
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "auto",
        env = "SAPWOOD_HTTP"
    )]
    pub http: HttpVersion,
    /// Give up after this time without a newly proven byte: 90s, 5m, 7d; a bare number is seconds
    #[arg(long, value_name = "TIME", default_value = "5m", env = "SAPWOOD_PATIENCE", value_parser = units::patience)]
    pub patience: Duration,
    /// Give up after so many failures in a row of one request to a host that responds; with -i, after so many rounds
    #[arg(long, value_name = "N", default_value = "5", env = "SAPWOOD_TRIES", value_parser = clap::value_parser!(u32).range(1..))]
    pub tries: u32,
    /// Refuse objects larger than this: bytes, or a number with kB, MB, GB (1000), KiB, MiB, GiB, K, M or G (1024)
    #[arg(long, value_name = "SIZE", env = "SAPWOOD_MAX_SIZE", value_parser = units::size)]
    pub max_size: Option<u64>,
    /// Allow servers to redirect to private addresses
    #[arg(long, env = "SAPWOOD_ALLOW_PRIVATE", value_parser = clap::builder::FalseyValueParser::new())]
    pub allow_private: bool,
}

/// Versions of HTTP that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpVersion {
    /// HTTP/1.1; HTTP/2 where nothing else is offered
    Auto,
    #[value(name = "1.1")]
    One,
    #[value(name = "2")]
    Two,
    /// Over QUIC; only in builds with the feature http3
    #[value(name = "3")]
    Three,
}
