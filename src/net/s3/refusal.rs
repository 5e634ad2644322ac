//! Why S3 refused a request: the XML of its errors.

use std::time::Duration;

use tokio::time::timeout;

use crate::{format::characters, net::STALL_MS, policy::recovery::Failure};

use super::xml;

/// More of the body of an error is not read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// More of a message is not shown.
const MESSAGE_CHARS_MAX: usize = 300;
/// The field with the region of a bucket.
const REGION_FIELD: &str = "x-amz-bucket-region";
/// Codes of a service that limits requests, whatever the status.
const TOO_MANY: [&str; 5] = [
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
];

/// A refusal of S3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// As in the list of its errors: `NoSuchKey`.
    pub code: Option<String>,
    /// For people, in the words of the service.
    pub message: Option<String>,
    /// The region for which a request must be signed.
    pub region: Option<String>,
}

impl Refusal {
    /// Reads the body of an error. One that breaks, or takes too long, says as much as came.
    pub async fn read(response: &mut reqwest::Response) -> Refusal {
        let mut body = Vec::new();
        let reading = async {
            while body.len() < BODY_BYTES_MAX {
                let Ok(Some(chunk)) = response.chunk().await else {
                    break;
                };
                let room = BODY_BYTES_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
        };
        // Elapsed or not: what came is used.
        let _ = timeout(Duration::from_millis(STALL_MS), reading).await;
        let mut refusal = Refusal::parse(&String::from_utf8_lossy(&body));
        let of_bucket = response.headers().get(REGION_FIELD);
        let of_bucket = of_bucket.and_then(|value| value.to_str().ok());
        if let Some(region) = of_bucket.filter(|region| is_region(region)) {
            refusal.region = Some(region.to_owned());
        }
        refusal
    }

    /// Reads the XML of an error.
    pub fn parse(xml: &str) -> Refusal {
        let Some(error) = xml::elements(xml, "Error").next() else {
            return Refusal::default();
        };
        let is_code =
            |code: &String| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
        Refusal {
            code: xml::text_of(error, "Code").filter(|code| !code.is_empty() && is_code(code)),
            message: xml::text_of(error, "Message").map(|message| shortened(&message)),
            region: xml::text_of(error, "Region").filter(|region| is_region(region)),
        }
    }

    /// Whether the clocks of this machine and of the service differ by too much.
    pub fn is_of_the_clock(&self) -> bool {
        self.code.as_deref() == Some("RequestTimeTooSkewed")
    }

    /// The failure: that of the status, unless the code says more.
    pub fn failure(
        &self,
        status: u16,
        by_status: Failure,
        retry_after_ms: Option<u64>,
        serves: bool,
    ) -> Failure {
        let limits = self
            .code
            .as_deref()
            .is_some_and(|code| TOO_MANY.contains(&code));
        match status {
            _ if limits => Failure::TooMany {
                status,
                retry_after_ms,
                serves,
            },
            300..=399 => Failure::Refused { status },
            _ => by_status,
        }
    }

    /// Code and message, for people. A message that repeats one of these texts is left out.
    pub fn told(&self, secrets: &[&str]) -> Option<String> {
        let code = self.code.as_deref()?;
        let is_discreet = |text: &&String| !secrets.iter().any(|secret| text.contains(secret));
        match self.message.as_ref().filter(is_discreet) {
            Some(message) if !message.is_empty() => Some(format!("{code}: {message}")),
            _ => Some(code.to_owned()),
        }
    }
}

/// Whether this can be the name of a region: it becomes a part of a host name.
pub fn is_region(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A message on one line, without characters that change how the text around it looks.
fn shortened(message: &str) -> String {
    let plain = message
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(
            |c| characters::turns_text(c) || characters::is_invisible(c),
            "",
        );
    plain
        .trim_end_matches('.')
        .chars()
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_why() {
        let refusal = Refusal::parse(
            "<?xml version=\"1.0\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>The region\n\u{1b}[31m is\u{202e} wrong.\
             </Message><Region>eu-west-1</Region></Error>",
        );
        assert_eq!(refusal.region.as_deref(), Some("eu-west-1"));
        let told = refusal.told(&[]);
        assert_eq!(
            told.as_deref(),
            Some("AuthorizationHeaderMalformed: The region [31m is wrong")
        );
        let discreet = refusal.told(&["region"]);
        assert_eq!(discreet.as_deref(), Some("AuthorizationHeaderMalformed"));
        let long = format!(
            "<Error><Code>x</Code><Message>{}</Message></Error>",
            "m".repeat(5000)
        );
        let told = Refusal::parse(&long).told(&[]).unwrap();
        assert_eq!(told.len(), 3 + MESSAGE_CHARS_MAX);
        for nothing in [
            "",
            "<html>",
            "<Code>x</Code>",
            "<Error><Code>a b</Code></Error>",
        ] {
            assert_eq!(Refusal::parse(nothing), Refusal::default(), "{nothing}");
        }
        for bad in ["evil.example/", "a.b", "", "-a", "A"] {
            assert!(!is_region(bad), "{bad}");
        }
    }

    #[test]
    fn codes_that_limit_count_more_than_the_status() {
        let code = |code: &str| Refusal {
            code: Some(code.to_owned()),
            ..Refusal::default()
        };
        let failure = |code_is: &str, status| {
            let by_status = Failure::of_status(status, None, false).unwrap();
            code(code_is).failure(status, by_status, None, false)
        };
        let limits = |status| Failure::TooMany {
            status,
            retry_after_ms: None,
            serves: false,
        };
        assert_eq!(failure("SlowDown", 503), limits(503));
        assert_eq!(failure("SlowDown", 400), limits(400));
        assert_eq!(failure("NoSuchKey", 404), Failure::Refused { status: 404 });
        let server = Failure::of_status(503, None, false).unwrap();
        assert_eq!(failure("ServiceUnavailable", 503), server);
        let elsewhere = failure("PermanentRedirect", 301);
        assert_eq!(elsewhere, Failure::Refused { status: 301 });
    }
}
