//! Where the database is, as the operator wrote it: a URL with a password, which is never shown.

use std::{fmt, net::IpAddr, path::PathBuf};

use tokio_postgres::config::{Config, Host, SslMode};

/// The beginnings of URLs of Postgres.
pub const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// How the database is told from others (`sslmode`), as the client library of Postgres means it. Without it: `prefer` on this machine,
/// where nobody listens, and `verify-full` on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// No TLS.
    Disable,
    /// TLS where the database has it, whoever it is.
    Prefer,
    /// TLS; whoever the database is. With authorities that the URL names as [`Tls::VerifyCa`].
    Require,
    /// TLS with a certificate of a known authority, of any host.
    VerifyCa,
    /// TLS with a certificate of a known authority, of this host.
    VerifyFull,
}

/// A URL that does not name a database. It is not shown, and neither is what is wrong in it: it may be a piece of the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BadPlace {
    #[error(
        "the URL of the database is malformed or has an unknown option: postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, \
         with %40 for @, %2F for / and %3F for ? in names and passwords"
    )]
    Malformed,
    #[error("sslmode is disable, prefer, require, verify-ca or verify-full")]
    Mode,
}

/// Where the database is.
#[derive(Clone)]
pub struct Place {
    /// All but TLS.
    pub config: Config,
    /// See [`Tls`].
    pub tls: Tls,
    /// The certificates of the authorities, in PEM (`sslrootcert`); `None`: those of the system.
    pub authorities: Option<PathBuf>,
}

impl Place {
    /// From a URL.
    pub fn parse(url: &str) -> Result<Place, BadPlace> {
        let (before, query) = url.split_once('?').unwrap_or((url, ""));
        let authority = before.split_once("//").map_or("", |(_, rest)| rest);
        // Of a password with such a character the rest would be taken for the host, and shown.
        if authority.matches('@').count() > 1 || query.contains('@') {
            return Err(BadPlace::Malformed);
        }
        let (mut mode, mut authorities, mut rest) = (None, None, Vec::new());
        for member in query.split('&').filter(|member| !member.is_empty()) {
            match member.split_once('=') {
                Some(("sslmode", value)) => mode = Some(mode_of(value)?),
                Some(("sslrootcert", "system")) => authorities = None,
                Some(("sslrootcert", path)) => authorities = Some(PathBuf::from(path)),
                _ => rest.push(member),
            }
        }
        let url = format!("{before}?{}", rest.join("&"));
        let mut config: Config = url.parse().map_err(|_| BadPlace::Malformed)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(BadPlace::Malformed);
        }
        let is_near = config.get_hosts().iter().all(is_of_this_machine)
            && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let tls = mode.unwrap_or(match is_near {
            true => Tls::Prefer,
            false => Tls::VerifyFull,
        });
        let tls = match (tls, &authorities) {
            (Tls::Require, Some(_)) => Tls::VerifyCa,
            (tls, _) => tls,
        };
        config.ssl_mode(match tls {
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyCa | Tls::VerifyFull => SslMode::Require,
        });
        Ok(Place {
            config,
            tls,
            authorities,
        })
    }
}

fn mode_of(text: &str) -> Result<Tls, BadPlace> {
    Ok(match text {
        "disable" => Tls::Disable,
        "allow" | "prefer" => Tls::Prefer,
        "require" => Tls::Require,
        "verify-ca" => Tls::VerifyCa,
        "verify-full" => Tls::VerifyFull,
        _ => return Err(BadPlace::Mode),
    })
}

fn is_of_this_machine(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

/// Hosts, ports and database.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate();
        let hosts = hosts.map(|(at, host)| {
            let port = ports.get(at).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => path.display().to_string(),
            }
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        write!(f, "{}{hosts}", SCHEMES[0])?;
        match self.config.get_dbname() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} {:?}", self.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_means_what_it_means_to_others() {
        for (url, tls, shown) in [
            (
                "postgres://u:p@127.0.0.1/d",
                Tls::Prefer,
                "127.0.0.1:5432/d",
            ),
            (
                "postgres://u:p@localhost:99/d",
                Tls::Prefer,
                "localhost:99/d",
            ),
            (
                "postgres://u:p@db.example/d",
                Tls::VerifyFull,
                "db.example:5432/d",
            ),
            (
                "postgresql://db.example/d?sslmode=disable",
                Tls::Disable,
                "db.example:5432/d",
            ),
            ("postgres://u@h/d?sslmode=require", Tls::Require, "h:5432/d"),
            (
                "postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem",
                Tls::VerifyCa,
                "h:5432/d",
            ),
            (
                "postgres://u@h/d?sslmode=verify-ca",
                Tls::VerifyCa,
                "h:5432/d",
            ),
            (
                "postgres://u@h/d?sslmode=verify-full&connect_timeout=3",
                Tls::VerifyFull,
                "h:5432/d",
            ),
            (
                "postgres://u@one,two:7/d",
                Tls::VerifyFull,
                "one:5432,two:7/d",
            ),
            ("postgres://u@%2Frun%2Fpg/d", Tls::Prefer, "/run/pg/d"),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!(place.tls, tls, "{url}");
            assert_eq!(place.to_string(), format!("postgres://{shown}"), "{url}");
            assert!(!format!("{place:?}").contains(":p@"));
        }
    }

    #[test]
    fn a_bad_url_shows_nothing_of_itself() {
        for url in [
            "postgres://u:s3cr@t@h/d",
            "postgres://u:s3cr?t=x@h/d",
            "postgres://h/d?s3cret=1",
            "postgres://h:port/d",
            "postgres:///d",
            "postgres://u@h/d?sslmode=on",
        ] {
            let error = Place::parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cr"), "{url}");
        }
    }
}
