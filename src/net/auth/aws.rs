//! Credentials, region and endpoint of S3, as the variables and files of the AWS tools have them.

use std::collections::HashMap;

use crate::net::s3::{
    refusal::is_region,
    service::{BadEndpoint, Endpoint, Service},
};

use super::sigv4::Keys;

/// What the variables and files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `None`: requests are not signed.
    pub keys: Option<Keys>,
    /// Where requests go.
    pub service: Service,
}

/// The contents of the two files; a file that is missing is empty.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// `~/.aws/config`
    pub config: String,
    /// `~/.aws/credentials`
    pub credentials: String,
}

/// The variables and files make no sense, or ask for what is not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadAccess {
    #[error("the AWS profile {name:?}, which AWS_PROFILE names, is in no AWS file")]
    NoProfile { name: String },
    #[error("{place} has only one of the access key ID and the secret access key")]
    HalfOfKeys { place: String },
    #[error("the AWS profile {name:?} gets its credentials by {how}, which is not supported")]
    NoKeys { name: String, how: &'static str },
    #[error("{text:?} is no region of AWS; a region has small letters, digits and hyphens")]
    Region { text: String },
    #[error("the endpoint {text:?} of AWS cannot be used: {cause}")]
    Endpoint { text: String, cause: BadEndpoint },
}

/// Settings of a profile that name another source of credentials.
const OTHER_SOURCES: [(&str, &str); 7] = [
    ("role_arn", "a role"),
    ("credential_process", "a program"),
    ("sso_session", "single sign-on"),
    ("sso_start_url", "single sign-on"),
    ("sso_account_id", "single sign-on"),
    ("login_session", "a login in the browser"),
    ("web_identity_token_file", "a web identity"),
];

impl Access {
    /// Reads variables and files. `variable` returns the value of an environment variable.
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        files: &Files,
    ) -> Result<Access, BadAccess> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
        let profile = Profile::find(named.as_deref(), files)?;
        let region = variable("AWS_REGION")
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .or_else(|| profile.setting("region"))
            .unwrap_or_else(|| Service::default().region);
        if !is_region(&region) {
            return Err(BadAccess::Region { text: region });
        }
        let ignores = variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
            .or_else(|| profile.setting("ignore_configured_endpoint_urls"))
            .is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let endpoint = variable("AWS_ENDPOINT_URL_S3")
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .or_else(|| profile.endpoint(files))
            .filter(|_| !ignores);
        let endpoint = endpoint
            .map(|text| {
                let parsed = text.parse::<Endpoint>();
                parsed.map_err(|cause| BadAccess::Endpoint { text, cause })
            })
            .transpose()?;
        let style = profile.setting("s3.addressing_style");
        Ok(Access {
            keys: keys_in(&variable, &profile)?,
            service: Service {
                bucket_in_host: match style.as_deref() {
                    Some("virtual") => Some(true),
                    Some("path") => Some(false),
                    _ => None,
                },
                endpoint,
                region,
            },
        })
    }
}

/// The keys: of the variables, else of the profile.
fn keys_in(
    variable: &impl Fn(&str) -> Option<String>,
    profile: &Profile,
) -> Result<Option<Keys>, BadAccess> {
    let half = |place: &str| BadAccess::HalfOfKeys {
        place: place.to_owned(),
    };
    let pair = (
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
    );
    match pair {
        (Some(id), Some(secret)) => {
            let token = variable("AWS_SESSION_TOKEN");
            return Ok(Some(Keys { id, secret, token }));
        }
        (None, None) => (),
        _ => return Err(half("the environment")),
    }
    // Keys are of one file: those of the file of credentials count first.
    for settings in [&profile.credentials, &profile.config] {
        let setting = |name: &str| settings.get(name).filter(|value| !value.is_empty());
        let pair = (
            setting("aws_access_key_id"),
            setting("aws_secret_access_key"),
        );
        match pair {
            (Some(id), Some(secret)) => {
                return Ok(Some(Keys {
                    id: id.clone(),
                    secret: secret.clone(),
                    token: setting("aws_session_token").cloned(),
                }));
            }
            (None, None) => (),
            _ => return Err(half(&format!("the AWS profile {:?}", profile.name))),
        }
    }
    let other = OTHER_SOURCES
        .iter()
        .find(|(setting, _)| profile.setting(setting).is_some());
    match other {
        Some((_, how)) => Err(BadAccess::NoKeys {
            name: profile.name.clone(),
            how,
        }),
        None => Ok(None),
    }
}

type Settings = HashMap<String, String>;

/// A profile in both files.
struct Profile {
    name: String,
    credentials: Settings,
    config: Settings,
}

impl Profile {
    /// The profile of this name, else the default one, which need not be there.
    fn find(named: Option<&str>, files: &Files) -> Result<Profile, BadAccess> {
        let name = named.unwrap_or("default");
        let credentials = section(&files.credentials, &[name]);
        let long = format!("profile {name}");
        let config = match name {
            "default" => section(&files.config, &["profile default", "default"]),
            _ => section(&files.config, &[&long]),
        };
        if credentials.is_none() && config.is_none() && named.is_some_and(|name| name != "default")
        {
            return Err(BadAccess::NoProfile {
                name: name.to_owned(),
            });
        }
        Ok(Profile {
            name: name.to_owned(),
            credentials: credentials.unwrap_or_default(),
            config: config.unwrap_or_default(),
        })
    }

    fn setting(&self, name: &str) -> Option<String> {
        let found = self.config.get(name).or_else(|| self.credentials.get(name));
        found.filter(|value| !value.is_empty()).cloned()
    }

    /// The endpoint: that of S3 in the services of the profile, else that of the profile.
    fn endpoint(&self, files: &Files) -> Option<String> {
        let services = self.setting("services").and_then(|services| {
            let section = section(&files.config, &[&format!("services {services}")])?;
            section.get("s3.endpoint_url").cloned()
        });
        services.or_else(|| self.setting("endpoint_url"))
    }
}

/// The settings of the first of these sections that is there. A setting below another one, indented, has both names: `s3.endpoint_url`.
fn section(text: &str, names: &[&str]) -> Option<Settings> {
    let of = |wanted: &str| {
        let mut settings: Option<Settings> = None;
        let (mut is_inside, mut above) = (false, None::<String>);
        for line in text.trim_start_matches('\u{feff}').lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            if let Some(header) = trimmed.strip_prefix('[') {
                let name = header.split(']').next().unwrap_or_default();
                let words: Vec<&str> = name.split_whitespace().collect();
                is_inside = words.join(" ").replace(['"', '\''], "") == wanted;
                above = None;
                if is_inside {
                    settings.get_or_insert_default();
                }
                continue;
            }
            let Some((name, value)) = trimmed.split_once('=').filter(|_| is_inside) else {
                continue;
            };
            let (name, value) = (name.trim().to_ascii_lowercase(), without_comment(value));
            let name = match above.as_deref() {
                Some(above) if line.starts_with([' ', '\t']) => format!("{above}.{name}"),
                _ => name,
            };
            if !line.starts_with([' ', '\t']) {
                above = value.is_empty().then(|| name.clone());
            }
            if let Some(settings) = &mut settings {
                settings.insert(name, value.to_owned());
            }
        }
        settings
    };
    names.iter().find_map(|name| of(name))
}

/// A value without the comment behind it, which begins after a blank.
fn without_comment(value: &str) -> &str {
    let comment = [" #", " ;", "\t#", "\t;"]
        .iter()
        .filter_map(|mark| value.find(mark))
        .min();
    value[..comment.unwrap_or(value.len())].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\u{feff}# mine\n[default]\nregion = eu-west-1 # near\n\n[profile garage]\nservices = local\nregion=garage\n\
        endpoint_url = http://not.this.example\n[profile own]\nendpoint_url = https://h.example\ns3 =\n  addressing_style = virtual\n  \
        max_concurrent_requests = 2\naws_access_key_id = CONFIG\naws_secret_access_key = c\n[services local]\ns3 =\n    endpoint_url = \
        http://127.0.0.1:3900\nsqs =\n    endpoint_url = http://other\n[profile sso]\nsso_session = x\n[profile half]\naws_access_key_id = A\n";
    const CREDENTIALS: &str = "[default]\naws_access_key_id=DEFAULT\naws_secret_access_key = d/+=\n[own]\naws_access_key_id = OWN\n\
        aws_secret_access_key = o\naws_session_token = t==\n";

    fn read(variables: &[(&str, &str)]) -> Result<Access, BadAccess> {
        let files = Files {
            config: CONFIG.to_owned(),
            credentials: CREDENTIALS.to_owned(),
        };
        let variable = |name: &str| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Access::read(variable, &files)
    }

    fn told(variables: &[(&str, &str)]) -> String {
        match read(variables) {
            Err(error) => format!("error: {error}"),
            Ok(Access { keys, service }) => {
                let keys = keys.map_or("none".to_owned(), |keys| {
                    let token = keys.token.unwrap_or_default();
                    format!("{}:{}:{token}", keys.id, keys.secret)
                });
                let endpoint = service.endpoint.map(|url| url.to_string());
                let style = match service.bucket_in_host {
                    Some(true) => "host ",
                    Some(false) => "path ",
                    None => "",
                };
                let endpoint = endpoint.unwrap_or("aws".to_owned());
                format!("{keys} {} {style}{endpoint}", service.region)
            }
        }
    }

    #[test]
    fn variables_count_before_files() {
        let none = Access::read(|_| None, &Files::default());
        assert_eq!(none, Ok(Access::default()));
        let keys = [("AWS_ACCESS_KEY_ID", "ENV"), ("AWS_SECRET_ACCESS_KEY", "e")];
        let with = |more: &[(&'static str, &'static str)]| [&keys[..], more].concat();
        for (variables, expected) in [
            (vec![], "DEFAULT:d/+=: eu-west-1 aws"),
            (with(&[]), "ENV:e: eu-west-1 aws"),
            (
                with(&[
                    ("AWS_SESSION_TOKEN", "s"),
                    ("AWS_DEFAULT_REGION", "us-west-2"),
                ]),
                "ENV:e:s us-west-2 aws",
            ),
            (
                vec![("AWS_REGION", "r"), ("AWS_DEFAULT_REGION", "no")],
                "DEFAULT:d/+=: r aws",
            ),
            (
                vec![("AWS_PROFILE", "garage")],
                "none garage http://127.0.0.1:3900/",
            ),
            (
                vec![("AWS_PROFILE", "own")],
                "OWN:o:t== us-east-1 host https://h.example/",
            ),
            (
                vec![
                    ("AWS_PROFILE", "own"),
                    ("AWS_ENDPOINT_URL", "http://localhost:1"),
                    ("AWS_PROFILE", "x"),
                ],
                "OWN:o:t== us-east-1 host http://localhost:1/",
            ),
            (
                vec![
                    ("AWS_ENDPOINT_URL", "http://no"),
                    ("AWS_ENDPOINT_URL_S3", "http://localhost:2/x"),
                ],
                "DEFAULT:d/+=: eu-west-1 http://localhost:2/x",
            ),
            (
                vec![
                    ("AWS_PROFILE", "garage"),
                    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"),
                ],
                "none garage aws",
            ),
            (
                vec![("AWS_ACCESS_KEY_ID", ""), ("AWS_PROFILE", " ")],
                "DEFAULT:d/+=: eu-west-1 aws",
            ),
        ] {
            assert_eq!(told(&variables), expected, "{variables:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (variables, expected) in [
            (("AWS_PROFILE", "missing"), "the AWS profile \"missing\""),
            (
                ("AWS_PROFILE", "sso"),
                "\"sso\" gets its credentials by single sign-on",
            ),
            (("AWS_PROFILE", "half"), "has only one of"),
            (
                ("AWS_SECRET_ACCESS_KEY", "SECRET"),
                "the environment has only one of",
            ),
            (("AWS_REGION", "a/b"), "\"a/b\" is no region"),
            (("AWS_ENDPOINT_URL", "127.0.0.1:3900"), "\"127.0.0.1:3900\""),
        ] {
            let message = told(&[variables]);
            assert!(
                message.starts_with("error: ") && message.contains(expected),
                "{message}"
            );
            assert!(!message.contains("SECRET"), "{message}");
        }
    }
}
