//! Header fields that may be secret: those that the user typed, and `Authorization`.
//!
//! INVARIANT: one origin gets them, the origin that the user typed. A redirect to another origin carries none of them.

pub mod netrc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::location::Location;
use netrc::{Login, Netrc};

/// Fields and logins of the user.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Logins by host.
    pub netrc: Netrc,
    /// Sent as they were typed.
    pub fields: Vec<(HeaderName, HeaderValue)>,
}

impl Credentials {
    /// The fields of a request to `target`, to which the URL `typed` led. A login in the URL itself needs none: the HTTP library
    /// sends it.
    pub fn fields_for(&self, typed: &Location, target: &Location) -> HeaderMap {
        let mut fields = HeaderMap::new();
        if !target.same_origin(typed) {
            return fields;
        }
        fields.extend(self.fields.iter().cloned());
        let has_login = !target.url().username().is_empty() || fields.contains_key(AUTHORIZATION);
        let host = target.url().host_str().filter(|_| !has_login);
        if let Some(login) = host.and_then(|host| self.netrc.login(host)) {
            fields.insert(AUTHORIZATION, basic(login));
        }
        fields
    }
}

/// A login as RFC 7617 sends it.
fn basic(login: &Login) -> HeaderValue {
    let encoded = STANDARD.encode(format!("{}:{}", login.user, login.password));
    let value = HeaderValue::try_from(format!("Basic {encoded}"));
    let mut value = value.expect("base64 is visible ASCII");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_origin_gets_them() {
        let place = |url: &str| Location::parse(url).unwrap();
        let (name, value) = (HeaderName::from_static("x-key"), "typed");
        let credentials = Credentials {
            netrc: Netrc::parse("default login user password word"),
            fields: vec![
                (name.clone(), HeaderValue::from_static(value)),
                (name, HeaderValue::from_static("twice")),
            ],
        };
        let sent = |credentials: &Credentials, typed: &str, target: &str| {
            let fields = credentials.fields_for(&place(typed), &place(target));
            let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            fields.values().map(text).collect::<Vec<_>>()
        };
        let login = "Basic dXNlcjp3b3Jk";
        let all = [value, "twice", login];
        assert_eq!(sent(&credentials, "http://h/a", "http://h/a"), all);
        assert_eq!(sent(&credentials, "http://h/a", "http://h:80/b?c"), all);
        for other in ["https://h/a", "http://h:81/a", "http://other/a"] {
            assert_eq!(sent(&credentials, "http://h/a", other), [""; 0], "{other}");
        }
        // A login in the URL counts before one in the file.
        let url = "http://me:pw@h/a";
        assert_eq!(sent(&credentials, url, url), [value, "twice"]);
        // And so does a typed field.
        let mut typed = credentials.clone();
        typed.fields = vec![(AUTHORIZATION, HeaderValue::from_static("Bearer x"))];
        assert_eq!(sent(&typed, "http://h/a", "http://h/a"), ["Bearer x"]);
        let fields = credentials.fields_for(&place("http://h/a"), &place("http://h/a"));
        assert!(fields[AUTHORIZATION].is_sensitive());
    }
}
