//! `.netrc`: logins by host, as ftp, curl and wget read them.

/// A login for one host.
#[derive(Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the file")]
pub struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(..)")
    }
}

/// The logins of a `.netrc` file.
#[derive(Clone, Debug, Default)]
pub struct Netrc(Vec<(Option<String>, Login)>);

impl Netrc {
    /// Parses the logins; `macdef` and `account` are ignored.
    pub fn parse(text: &str) -> Netrc {
        let mut entries: Vec<(Option<String>, Login)> = Vec::new();
        let mut tokens = tokens(text).into_iter();
        while let Some(token) = tokens.next() {
            let login = || Login {
                user: String::new(),
                password: String::new(),
            };
            match token.as_str() {
                "machine" => entries.extend(
                    tokens
                        .next()
                        .map(|host| (Some(host.to_ascii_lowercase()), login())),
                ),
                "default" => entries.push((None, login())),
                "login" | "password" | "account" => {
                    let (Some(value), Some((_, entry))) = (tokens.next(), entries.last_mut())
                    else {
                        break;
                    };
                    match token.as_str() {
                        "login" => entry.user = value,
                        "password" => entry.password = value,
                        _ => (),
                    }
                }
                _ => (),
            }
        }
        Netrc(entries)
    }

    /// The login for this host: the first that names it, else `default`.
    pub fn login(&self, host: &str) -> Option<&Login> {
        let host = host.to_ascii_lowercase();
        let named = self
            .0
            .iter()
            .find(|(machine, _)| machine.as_ref() == Some(&host));
        named
            .or_else(|| self.0.iter().find(|(machine, _)| machine.is_none()))
            .map(|(_, login)| login)
    }
}

/// Words between white space, or in double quotes, without comments and the bodies of macros.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        let mut rest = line.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (token, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
            };
            if token == "macdef" {
                in_macro = true;
                break;
            }
            tokens.push(token.to_owned());
            rest = after.trim_start();
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_by_host() {
        let netrc = Netrc::parse(
            "# mine\nmachine a.example login me password \"two words\"\nmacdef init\nmachine evil login x password y\n\n\
             machine B.example\n  login you\n  password pw # not a comment for curl either\ndefault login anonymous password guest\n",
        );
        let login = |host| {
            netrc
                .login(host)
                .map(|login| (login.user.as_str(), login.password.as_str()))
        };
        assert_eq!(login("A.EXAMPLE"), Some(("me", "two words")));
        assert_eq!(login("b.example"), Some(("you", "pw")));
        assert_eq!(login("evil"), Some(("anonymous", "guest")));
        assert_eq!(Netrc::parse("").login("a"), None);
        assert_eq!(
            Netrc::parse("machine a login")
                .login("a")
                .map(|login| login.user.clone()),
            Some(String::new())
        );
        assert_eq!(format!("{:?}", netrc.login("a.example")), "Some(Login(..))");
    }
}
