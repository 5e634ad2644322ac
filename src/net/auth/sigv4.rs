//! Signatures of AWS, version 4, for S3.
//!
//! Specification: "Authenticating Requests (AWS Signature Version 4)" in the Amazon S3 API reference.

use std::{collections::BTreeMap, fmt};

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use percent_encoding::{percent_decode_str, percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::net::s3::name::ENCODED;

/// The SHA-256 of no content, as [`Request::payload`].
pub const NO_CONTENT: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// The content is not signed; as [`Request::payload`].
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Credentials of AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The access key ID: the name of the key.
    pub id: String,
    /// The secret access key.
    pub secret: String,
    /// The token of temporary credentials.
    pub token: Option<String>,
}

impl Keys {
    /// Texts that may not be shown.
    pub fn secrets(&self) -> Vec<&str> {
        let all = [self.secret.as_str(), self.id.as_str()];
        all.into_iter().chain(self.token.as_deref()).collect()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// In capitals.
    pub method: &'a str,
    /// Its path is encoded as [`ENCODED`] says.
    pub url: &'a Url,
    /// Of the service.
    pub region: &'a str,
    /// Fields that the request has, and that are signed; the host is signed anyway.
    pub fields: &'a HeaderMap,
    /// The SHA-256 of the content in hexadecimal, or [`UNSIGNED`].
    pub payload: &'a str,
}

/// The fields that sign a request at this time, in Unix seconds.
pub fn fields(keys: &Keys, request: Request<'_>, now: i64) -> HeaderMap {
    let time = Time::at(now);
    let mut added = HeaderMap::new();
    added.insert(DATE, value(&time.second));
    added.insert(CONTENT, value(request.payload));
    if let Some(token) = &keys.token {
        added.insert(TOKEN, secret(token));
    }
    let mut signed = canonical_fields(request);
    signed.extend(texts(&added));
    let signature = signature(keys, request, &time, &signed, &query_of(request.url));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{},SignedHeaders={},Signature={signature}",
        keys.id,
        time.scope(request.region),
        names(&signed),
    );
    added.insert(AUTHORIZATION, secret(&authorization));
    added
}

/// The URL of a request that whoever has it may send from this time on, in Unix seconds, for so many seconds, with the signed fields.
pub fn presigned(keys: &Keys, request: Request<'_>, now: i64, seconds: u32) -> Url {
    let time = Time::at(now);
    let signed = canonical_fields(request);
    let mut query = query_of(request.url);
    let credential = format!("{}/{}", keys.id, time.scope(request.region));
    for (name, value) in [
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", &credential),
        ("X-Amz-Date", &time.second),
        ("X-Amz-Expires", &seconds.to_string()),
        ("X-Amz-SignedHeaders", &names(&signed)),
    ] {
        query.push((encoded(name.as_bytes()), encoded(value.as_bytes())));
    }
    if let Some(token) = &keys.token {
        query.push(("X-Amz-Security-Token".to_owned(), encoded(token.as_bytes())));
    }
    query.sort();
    let signature = signature(keys, request, &time, &signed, &query);
    let mut url = request.url.clone();
    let text = format!("{}&X-Amz-Signature={signature}", joined(&query));
    url.set_query(Some(&text));
    url
}

/// The signature over a request with these fields and this query, both in order.
fn signature(
    keys: &Keys,
    request: Request<'_>,
    time: &Time,
    signed: &BTreeMap<String, String>,
    query: &[(String, String)],
) -> String {
    let mut lines = String::new();
    for (name, value) in signed {
        lines.push_str(&format!("{name}:{value}\n"));
    }
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{}\n{}",
        request.method,
        request.url.path(),
        joined(query),
        names(signed),
        request.payload,
    );
    let to_sign = format!(
        "{ALGORITHM}\n{}\n{}\n{}",
        time.second,
        time.scope(request.region),
        hex::encode(Sha256::digest(canonical)),
    );
    let first = format!("AWS4{}", keys.secret);
    let steps = [time.day.as_str(), request.region, "s3", "aws4_request"];
    let key = steps
        .iter()
        .fold(first.into_bytes(), |key, step| hmac(&key, step.as_bytes()));
    hex::encode(hmac(&key, to_sign.as_bytes()))
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key);
    let mut mac = mac.expect("the key of an HMAC may have any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// A time as signatures have it.
struct Time {
    second: String,
    day: String,
}

impl Time {
    fn at(unix_s: i64) -> Time {
        let time = Timestamp::from_second(unix_s).unwrap_or_default();
        let second = time.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = second.chars().take(8).collect();
        Time { second, day }
    }

    /// For what a key is that was made from a secret.
    fn scope(&self, region: &str) -> String {
        format!("{}/{region}/s3/aws4_request", self.day)
    }
}

/// The fields of a request by name, the host among them.
fn canonical_fields(request: Request<'_>) -> BTreeMap<String, String> {
    let host = request.url.host_str().unwrap_or_default();
    let host = match request.url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut fields = BTreeMap::from([("host".to_owned(), host)]);
    fields.extend(texts(request.fields));
    fields
}

/// Fields as they are signed: blanks become one blank, several values are joined.
fn texts(fields: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    fields.keys().map(|name| {
        let values = fields.get_all(name).iter().map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        let values = values.collect::<Vec<_>>().join(",");
        (name.as_str().to_owned(), values)
    })
}

fn names(fields: &BTreeMap<String, String>) -> String {
    fields
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(";")
}

/// The members of a query, encoded and in order.
fn query_of(url: &Url) -> Vec<(String, String)> {
    let again = |text: &str| encoded(&percent_decode_str(text).collect::<Vec<u8>>());
    let members = url.query().unwrap_or_default().split('&');
    let mut query: Vec<_> = members
        .filter(|member| !member.is_empty())
        .map(|member| {
            let (name, value) = member.split_once('=').unwrap_or((member, ""));
            (again(name), again(value))
        })
        .collect();
    query.sort();
    query
}

fn joined(query: &[(String, String)]) -> String {
    let members = query.iter().map(|(name, value)| format!("{name}={value}"));
    members.collect::<Vec<_>>().join("&")
}

fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, ENCODED).to_string()
}

fn value(text: &str) -> HeaderValue {
    // Tokens come from the environment and may be anything; a request with an empty one is refused.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn secret(text: &str) -> HeaderValue {
    let mut value = value(text);
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(token: Option<&str>) -> Keys {
        Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: token.map(str::to_owned),
        }
    }

    /// Friday, 24 May 2013, 00:00:00 GMT.
    const THEN: i64 = 1_369_353_600;

    fn sign(method: &str, url: &str, fields_: &[(&'static str, &str)], payload: &str) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in fields_ {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let url = Url::parse(&format!("https://examplebucket.s3.amazonaws.com{url}")).unwrap();
        let request = Request {
            method,
            url: &url,
            region: "us-east-1",
            fields: &map,
            payload,
        };
        let signed = fields(&keys(None), request, THEN);
        assert!(signed[AUTHORIZATION].is_sensitive());
        signed[AUTHORIZATION].to_str().unwrap().to_owned()
    }

    /// The examples of the specification: "Signature Calculations for the Authorization Header".
    #[test]
    fn examples_of_the_specification() {
        let get = sign("GET", "/test.txt", &[("range", "bytes=0-9")], NO_CONTENT);
        assert_eq!(
            get,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let content = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        assert_eq!(
            content,
            hex::encode(Sha256::digest("Welcome to Amazon S3."))
        );
        for (method, url, fields, payload, expected) in [
            (
                "PUT",
                "/test%24file.text",
                &[
                    ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ][..],
                content,
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                "GET",
                "/?lifecycle",
                &[],
                NO_CONTENT,
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "GET",
                "/?prefix=J&max-keys=2",
                &[],
                NO_CONTENT,
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let signed = sign(method, url, fields, payload);
            assert!(
                signed.ends_with(&format!("Signature={expected}")),
                "{signed}"
            );
        }
    }

    /// The example of "Authenticating Requests: Using Query Parameters".
    #[test]
    fn a_url_can_be_signed() {
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").unwrap();
        let none = HeaderMap::new();
        let request = Request {
            method: "GET",
            url: &url,
            region: "us-east-1",
            fields: &none,
            payload: UNSIGNED,
        };
        let signed = presigned(&keys(None), request, THEN, 86_400);
        assert_eq!(
            signed.as_str(),
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z\
             &X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
        let with_token = presigned(&keys(Some("a+b")), request, THEN, 1);
        assert!(
            with_token
                .as_str()
                .contains("&X-Amz-Security-Token=a%2Bb&X-Amz-SignedHeaders=")
        );
    }

    #[test]
    fn tokens_are_sent_and_signed_and_not_shown() {
        let url = Url::parse("http://127.0.0.1:3900/b/k").unwrap();
        let none = HeaderMap::new();
        let request = Request {
            method: "GET",
            url: &url,
            region: "garage",
            fields: &none,
            payload: NO_CONTENT,
        };
        let signed = fields(&keys(Some("token")), request, THEN);
        assert_eq!(signed[TOKEN], "token");
        assert!(signed[TOKEN].is_sensitive());
        let names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token,";
        let authorization = signed[AUTHORIZATION].to_str().unwrap();
        assert!(authorization.contains(names), "{authorization}");
        assert_eq!(format!("{:?}", keys(Some("token"))), "Keys(..)");
    }
}
