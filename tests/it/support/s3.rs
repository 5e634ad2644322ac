//! A service that speaks S3: an origin that checks the signature of every request, as the specification says ("Signature Calculations
//! for the Authorization Header: Transferring Payload in a Single Chunk" in the Amazon S3 API reference).

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};

use super::{
    lies::Answer,
    objects::Content,
    origin::{Asked, Object, Origin, Request},
    program::sapwood,
    secrets::SECRET,
};

/// The bucket of all objects.
pub const BUCKET: &str = "media";
pub const KEY_ID: &str = "AKIATEST";

/// Whom the service knows, and what it wants of a request.
#[derive(Clone, Debug)]
pub struct Rules {
    pub secret: String,
    pub token: Option<String>,
    pub region: &'static str,
    /// How far its clock is ahead.
    pub ahead: Duration,
    /// Every reader is welcome; no request may be signed.
    pub is_public: bool,
    /// It does not say which time it is.
    pub hides_time: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            secret: SECRET.to_owned(),
            token: None,
            region: "us-east-1",
            ahead: Duration::ZERO,
            is_public: false,
            hides_time: false,
        }
    }
}

/// An origin that refuses, as S3 does, what is not signed by these rules.
pub fn origin(rules: Rules) -> Origin {
    let origin = Origin::start();
    guard(&origin, rules);
    origin
}

pub fn guard(origin: &Origin, rules: Rules) {
    origin.guard(move |request| match judge(request, &rules) {
        Ok(()) => None,
        Err((status, code, more)) => {
            let xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>No, {code}.</Message>{more}\
                 <RequestId>1</RequestId></Error>"
            );
            let mut answer = Answer::plain(status, xml.as_bytes());
            let now = SystemTime::now() + rules.ahead;
            answer.headers = vec![("Content-Type".into(), "application/xml".into())];
            if !rules.hides_time {
                let date = httpdate::fmt_http_date(now);
                answer.headers.push(("Date".into(), date));
            }
            Some(answer)
        }
    });
}

/// An object at its path, and what lies beside it.
pub fn put(origin: &Origin, key: &str, object: impl Into<Object>) {
    origin.put(&path(key), object);
}

/// The path of a key in path style.
pub fn path(key: &str) -> String {
    format!("/{BUCKET}/{}", escaped(key.as_bytes(), true))
}

pub fn url(key: &str) -> String {
    format!("s3://{BUCKET}/{key}")
}

/// What was requested of a key.
pub fn log_of(origin: &Origin, key: &str) -> Vec<Asked> {
    origin.log_of(&path(key))
}

/// The program with credentials for this service in its environment.
pub fn command(folder: &Path, origin: &Origin, token: Option<&str>) -> Command {
    let mut command = anonymous(folder, origin);
    command
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
    if let Some(token) = token {
        command.env("AWS_SESSION_TOKEN", token);
    }
    command
}

/// The same without credentials.
pub fn anonymous(folder: &Path, origin: &Origin) -> Command {
    let mut command = sapwood(folder);
    command
        .env("HOME", folder)
        .env("AWS_ENDPOINT_URL", origin.url(""));
    command
}

/// The painted object with its manifest, under this key.
pub fn put_painted(origin: &Origin, key: &str, length: u64, block: u64) {
    let content = Content::Painted(length);
    let manifest = super::objects::manifest_of(&content, block);
    put(origin, &format!("{key}.sapwood"), manifest);
    put(origin, key, content);
}

pub type Refused = (u16, &'static str, String);

/// Where the signature of a request is: in its fields, or in its URL.
struct Signed {
    credential: String,
    names: String,
    signature: String,
    date: String,
    token: Option<String>,
    content: String,
    /// Seconds for which a URL is good.
    expires: Option<u64>,
}

/// The members of a query, decoded.
pub fn query(text: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let bytes: Vec<u8> = percent_encoding::percent_decode_str(text).collect();
        String::from_utf8(bytes).expect("UTF-8")
    };
    let members = text.split('&').filter(|member| !member.is_empty());
    let member = |member: &str| {
        let (name, value) = member.split_once('=').unwrap_or((member, ""));
        (decoded(name), decoded(value))
    };
    members.map(member).collect()
}

impl Signed {
    fn of(request: &Request) -> Result<Signed, Refused> {
        let refuse = |status, code| Err((status, code, String::new()));
        let field = |name: &str| request.header(name).map(str::to_owned);
        let members = query(request.query.as_deref().unwrap_or_default());
        let member = |name: &str| {
            let found = members.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone())
        };
        if let Some(signature) = member("X-Amz-Signature") {
            return Ok(Signed {
                credential: member("X-Amz-Credential").unwrap_or_default(),
                names: member("X-Amz-SignedHeaders").unwrap_or_default(),
                signature,
                date: member("X-Amz-Date").unwrap_or_default(),
                token: member("X-Amz-Security-Token"),
                content: "UNSIGNED-PAYLOAD".to_owned(),
                expires: member("X-Amz-Expires").and_then(|text| text.parse().ok()),
            });
        }
        let Some(typed) = request.header("authorization") else {
            return refuse(403, "AccessDenied");
        };
        let Some(fields) = typed.strip_prefix("AWS4-HMAC-SHA256 ") else {
            return refuse(400, "AuthorizationHeaderMalformed");
        };
        let fields: BTreeMap<&str, &str> = fields
            .split(',')
            .filter_map(|member| member.trim().split_once('='))
            .collect();
        let of = |name: &str| fields.get(name).copied().unwrap_or_default().to_owned();
        Ok(Signed {
            credential: of("Credential"),
            names: of("SignedHeaders"),
            signature: of("Signature"),
            date: field("x-amz-date").unwrap_or_default(),
            token: field("x-amz-security-token"),
            content: field("x-amz-content-sha256").unwrap_or_default(),
            expires: None,
        })
    }
}

/// Whether a service with these rules takes the request.
pub fn judge(request: &Request, rules: &Rules) -> Result<(), Refused> {
    let refuse = |status, code| Err((status, code, String::new()));
    let typed = request.header("authorization");
    let of_aws = request
        .headers
        .iter()
        .any(|(name, _)| name.to_ascii_lowercase().starts_with("x-amz-"));
    if rules.is_public {
        return match typed.is_some() || of_aws {
            true => refuse(400, "SignedForNothing"),
            false => Ok(()),
        };
    }
    let by = Signed::of(request)?;
    let credential: Vec<&str> = by.credential.split('/').collect();
    let [id, day, region, "s3", "aws4_request"] = credential[..] else {
        return refuse(400, "AuthorizationHeaderMalformed");
    };
    if id != KEY_ID {
        return refuse(403, "InvalidAccessKeyId");
    }
    if region != rules.region {
        let more = format!("<Region>{}</Region>", rules.region);
        return Err((400, "AuthorizationHeaderMalformed", more));
    }
    if by.token != rules.token {
        return refuse(400, "ExpiredToken");
    }
    let date = by.date.as_str();
    let now = unix(SystemTime::now() + rules.ahead);
    match (unix_time(date), by.expires) {
        (Some(sent), Some(expires)) if now > sent + expires => {
            return refuse(403, "AccessDenied");
        }
        (Some(sent), Some(_)) if sent > now + 900 => return refuse(403, "AccessDenied"),
        (Some(sent), None) if sent.abs_diff(now) > 900 => {
            return refuse(403, "RequestTimeTooSkewed");
        }
        (Some(_), _) if date.starts_with(day) => (),
        _ => return refuse(403, "AccessDenied"),
    }
    let signed: Vec<&str> = by.names.split(';').collect();
    let must_be_signed = |name: &str| {
        let of_condition = ["range", "if-match", "if-none-match"].contains(&name);
        name == "host" || of_condition || name.starts_with("x-amz-")
    };
    let all_are = request.headers.iter().all(|(name, _)| {
        let name = name.to_ascii_lowercase();
        !must_be_signed(&name) || signed.contains(&name.as_str())
    });
    let all_came = signed.iter().all(|name| request.header(name).is_some());
    if !all_are || !all_came || !signed.contains(&"host") || !signed.is_sorted() {
        return refuse(403, "HeadersNotSigned");
    }
    match signature(request, rules, &by, (day, region)) == by.signature {
        true => Ok(()),
        false => refuse(403, "SignatureDoesNotMatch"),
    }
}

fn signature(request: &Request, rules: &Rules, by: &Signed, (day, region): (&str, &str)) -> String {
    // S3 decodes the path, and encodes it anew for the signature.
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(&request.path).collect();
    let mut canonical = format!("{}\n{}\n", request.method, escaped(&decoded, true));
    let members = query(request.query.as_deref().unwrap_or_default());
    let mut members: Vec<String> = members
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| {
            let again = |text: &str| escaped(text.as_bytes(), false);
            format!("{}={}", again(name), again(value))
        })
        .collect();
    members.sort();
    canonical += &format!("{}\n", members.join("&"));
    for name in by.names.split(';') {
        let value = request.header(name).unwrap_or_default().trim();
        canonical += &format!("{name}:{value}\n");
    }
    canonical += &format!("\n{}\n{}", by.names, by.content);
    let hashed = hex::encode(Sha256::digest(canonical.as_bytes()));
    let scope = format!("{day}/{region}/s3/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{hashed}", by.date);
    let date_key = hmac(format!("AWS4{}", rules.secret).as_bytes(), day);
    let date_region_key = hmac(&date_key, region);
    let date_region_service_key = hmac(&date_region_key, "s3");
    let signing_key = hmac(&date_region_service_key, "aws4_request");
    hex::encode(hmac(&signing_key, &to_sign))
}

/// RFC 2104, by hand.
fn hmac(key: &[u8], message: &str) -> [u8; 32] {
    let mut block = [0; 64];
    match key.len() > 64 {
        true => block[..32].copy_from_slice(&Sha256::digest(key)),
        false => block[..key.len()].copy_from_slice(key),
    }
    let inner = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    let outer = Sha256::new()
        .chain_update(block.map(|byte| byte ^ 0x5C))
        .chain_update(inner)
        .finalize();
    outer.into()
}

/// As `UriEncode` of the specification.
fn escaped(bytes: &[u8], keeps_slash: bool) -> String {
    let each = bytes.iter().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(*byte).to_string()
        }
        b'/' if keeps_slash => "/".to_owned(),
        byte => format!("%{byte:02X}"),
    });
    each.collect()
}

/// `20130524T000000Z` in Unix seconds.
fn unix_time(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let seconds = number(9..11)? * 3600 + number(11..13)? * 60 + number(13..15)?;
    // Days since 1970 by the civil calendar; March is the first month.
    let (y, m) = match month > 2 {
        true => (year, month - 3),
        false => (year - 1, month + 9),
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    (text.len() == 16).then_some(days * 86_400 + seconds)
}

pub fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .expect("it is later")
        .as_secs()
}

#[test]
fn the_check_knows_the_example_of_the_specification() {
    assert_eq!(unix_time("20130524T000000Z"), Some(1_369_353_600));
    let key = hmac(b"key", "The quick brown fox jumps over the lazy dog");
    let expected = "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
    assert_eq!(hex::encode(key), expected);
    assert_eq!(path("a b+c/é~?"), "/media/a%20b%2Bc/%C3%A9~%3F");
}
