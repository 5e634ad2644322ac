//! Header fields that may be secret: those that the user typed, and `Authorization`.
//!
//! INVARIANT: one origin gets them, the origin that the user typed. A redirect to another origin carries none of them. For an object in
//! S3 that is the service. A [`Token`] is never sent over plain HTTP, except to this machine.

pub mod aws;
pub mod netrc;
pub mod sigv4;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::location::Location;
use netrc::{Login, Netrc};
use sigv4::Keys;

/// Fields and logins of the user.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Logins by host.
    pub netrc: Netrc,
    /// Sent as they were typed.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// Requests to S3 are signed with them.
    pub keys: Option<Keys>,
}

/// The content of a request, as far as its signature needs it.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// It is signed.
    Bytes(&'a [u8]),
    /// It is not signed: TLS protects it on its way, or it stays on this machine.
    Unsigned,
}

impl Payload<'_> {
    fn signed(self) -> String {
        match self {
            Payload::Bytes([]) => sigv4::NO_CONTENT.to_owned(),
            Payload::Bytes(bytes) => hex::encode(Sha256::digest(bytes)),
            Payload::Unsigned => sigv4::UNSIGNED.to_owned(),
        }
    }
}

/// Fields of requests to S3 that are signed: those that change what the request means. Proxies may change others.
fn is_signed(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-amz-")
        || matches!(name, "range" | "if-match" | "if-none-match" | "if-range")
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
        let has_login = !target.url().username().is_empty()
            || fields.contains_key(AUTHORIZATION)
            || target.is_in_s3();
        let host = target.url().host_str().filter(|_| !has_login);
        if let Some(login) = host.and_then(|host| self.netrc.login(host)) {
            fields.insert(AUTHORIZATION, basic(login));
        }
        fields
    }

    /// The fields that sign a request that has these fields; none, unless `target` is an address in S3. `now`: Unix seconds, by the
    /// clock of the service.
    pub fn signature(
        &self,
        method: &str,
        target: &Location,
        fields: &HeaderMap,
        payload: Payload<'_>,
        now: i64,
    ) -> HeaderMap {
        let is_typed = fields.contains_key(AUTHORIZATION);
        let keys = self.keys.as_ref().filter(|_| !is_typed);
        let (Some(keys), Some(region)) = (keys, target.s3_region()) else {
            return HeaderMap::new();
        };
        let signed = fields.iter().filter(|(name, _)| is_signed(name));
        let signed = signed.map(|(name, value)| (name.clone(), value.clone()));
        let request = sigv4::Request {
            method,
            url: target.url(),
            region,
            fields: &signed.collect(),
            payload: &payload.signed(),
        };
        sigv4::fields(keys, request, now)
    }

    /// The URL of a request to an address in S3 that whoever has it may send with exactly these fields and any content, from `now` on
    /// for so many seconds. Without keys it is the address.
    pub fn presigned(
        &self,
        method: &str,
        target: &Location,
        fields: &HeaderMap,
        now: i64,
        seconds: u32,
    ) -> Url {
        match (&self.keys, target.s3_region()) {
            (Some(keys), Some(region)) => {
                let request = sigv4::Request {
                    method,
                    url: target.url(),
                    region,
                    fields,
                    payload: sigv4::UNSIGNED,
                };
                sigv4::presigned(keys, request, now, seconds)
            }
            _ => target.url().clone(),
        }
    }
}

/// A bearer token (RFC 6750).
#[derive(Clone)]
pub struct Token(HeaderValue);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// `None`: it is no token (RFC 6750, 2.1).
    pub fn parse(text: &str) -> Option<Token> {
        let is_of_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
        if text.is_empty() || !text.chars().all(is_of_token) {
            return None;
        }
        let mut value = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Token(value))
    }

    /// Whether nobody else on the network can read it on the way there, if no proxy is between.
    pub fn is_safe_for(target: &Location) -> bool {
        target.is_https() || target.is_loopback()
    }

    /// Adds it to the fields of a request to `target`, to which the URL `typed` led.
    pub fn add_to(&self, fields: &mut HeaderMap, typed: &Location, target: &Location) {
        if target.same_origin(typed) && Token::is_safe_for(target) {
            fields.insert(AUTHORIZATION, self.0.clone());
        }
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
            keys: Some(Keys {
                id: "id".to_owned(),
                secret: "secret".to_owned(),
                token: None,
            }),
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
        // What is signed is for S3, and at S3 the signature counts.
        let signature = |target: &Location, fields: &HeaderMap| {
            let signature = credentials.signature("GET", target, fields, Payload::Bytes(&[]), 0);
            signature.contains_key(AUTHORIZATION)
        };
        let (plain, object) = (place("https://h/a"), place("s3://bucket/a"));
        let address = object.at(plain.url().clone(), "r");
        let own = credentials.fields_for(&object, &address);
        assert!(own.contains_key("x-key") && !own.contains_key(AUTHORIZATION));
        assert!(signature(&address, &own) && !signature(&plain, &own));
        let hashed = |payload| {
            let signed = credentials.signature("PUT", &address, &own, payload, 0);
            signed["x-amz-content-sha256"].to_str().unwrap().to_owned()
        };
        let welcome = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        assert_eq!(hashed(Payload::Bytes(b"Welcome to Amazon S3.")), welcome);
        assert_eq!(hashed(Payload::Bytes(&[])), sigv4::NO_CONTENT);
        assert_eq!(hashed(Payload::Unsigned), "UNSIGNED-PAYLOAD");
        let url = credentials.presigned("PUT", &address, &own, 0, 60);
        assert!(
            url.as_str().contains("X-Amz-SignedHeaders=host%3Bx-key&"),
            "{url}"
        );
        assert!(
            !signature(&address, &fields),
            "an Authorization that was typed"
        );
    }

    #[test]
    fn tokens_go_to_the_typed_origin_and_over_nothing_that_others_read() {
        let place = |url: &str| Location::parse(url).unwrap();
        let token = Token::parse("abc.DEF-1~+/==").unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)");
        for bad in ["", "a b", "a\nb", "Bearer x", "\u{e9}"] {
            assert!(Token::parse(bad).is_none(), "{bad:?}");
        }
        for (typed, target, sent) in [
            ("https://h/", "https://h/a", true),
            ("http://127.0.0.1:7/", "http://127.0.0.1:7/a", true),
            ("http://127.9.9.9/", "http://127.9.9.9/a", true),
            ("http://[::1]:7/", "http://[::1]:7/a", true),
            ("http://localhost/", "http://localhost/a", true),
            ("http://h/", "http://h/a", false),
            ("http://10.0.0.1/", "http://10.0.0.1/a", false),
            ("http://localhost.h/", "http://localhost.h/", false),
            ("https://h/", "https://other/a", false),
            ("http://127.0.0.1:7/", "http://127.0.0.1:8/a", false),
        ] {
            let mut fields = HeaderMap::new();
            token.add_to(&mut fields, &place(typed), &place(target));
            assert_eq!(fields.contains_key(AUTHORIZATION), sent, "{target}");
        }
    }
}
