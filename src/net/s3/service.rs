//! Where the objects of a bucket are requested, and what the responses of the service showed.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use reqwest::header::{DATE, HeaderMap};
use url::{Host, Url};

use crate::{
    net::{error::NetError, location::Location},
    policy::recovery::Failure,
};

use super::{
    name,
    refusal::{Refusal, is_region},
};

/// Clocks that differ by less are no reason to sign again: S3 allows 15 minutes.
const SKEW_S: i64 = 60;

/// A service: that of AWS, or one at an endpoint of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `None`: AWS.
    pub endpoint: Option<Endpoint>,
    /// For which requests are signed, until the service names another one.
    pub region: String,
    /// The bucket is a part of the host name: `BUCKET.HOST/KEY`; else of the path: `HOST/BUCKET/KEY`. `None`: of the host name at AWS only.
    pub bucket_in_host: Option<bool>,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket_in_host: None,
        }
    }
}

/// The URL of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

/// No service can be at this URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no endpoint of S3; that is an http or https URL without a login, query or fragment")]
pub struct BadEndpoint;

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        let url = Url::parse(text).map_err(|_| BadEndpoint)?;
        let is_plain = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        is_plain.then_some(Endpoint(url)).ok_or(BadEndpoint)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Service {
    /// The address of an object in this region.
    fn address(&self, bucket: &str, key: &str, region: &str) -> Option<Url> {
        let mut url = match &self.endpoint {
            Some(endpoint) => endpoint.0.clone(),
            None => Url::parse(&format!("https://s3.{region}.{}/", domain(region))).ok()?,
        };
        // A dot would make a name for which the certificate of the service is not valid; not all names are host names.
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let base = url.path().trim_end_matches('/').to_owned();
        let key = name::encoded(key);
        let in_host = self.bucket_in_host.unwrap_or(self.endpoint.is_none());
        match (in_host && bucket.chars().all(fits), url.host()) {
            (true, Some(Host::Domain(host))) => {
                let host = format!("{bucket}.{host}");
                url.set_host(Some(&host)).ok()?;
                url.set_path(&format!("{base}/{key}"));
            }
            _ => url.set_path(&format!("{base}/{}/{key}", name::encoded(bucket))),
        }
        Some(url)
    }

    /// The region of AWS to which this host name of a bucket belongs.
    fn region_of_host(&self, bucket: &str, host: &str) -> Option<String> {
        if self.endpoint.is_some() {
            return None;
        }
        let of_service = host.strip_prefix(bucket)?.strip_prefix(".s3")?;
        let region = of_service
            .strip_suffix(".amazonaws.com")
            .or_else(|| of_service.strip_suffix(".amazonaws.com.cn"))?;
        match region.strip_prefix(['.', '-']) {
            Some(region) => is_region(region).then(|| region.to_owned()),
            None => region.is_empty().then(|| "us-east-1".to_owned()),
        }
    }
}

/// The domain of AWS for a region.
fn domain(region: &str) -> &'static str {
    match region.starts_with("cn-") {
        true => "amazonaws.com.cn",
        false => "amazonaws.com",
    }
}

/// A service, and what its responses showed.
#[derive(Default)]
pub struct S3 {
    service: Service,
    /// By bucket.
    regions: Mutex<HashMap<String, String>>,
    /// Seconds by which the service's clock is ahead of ours.
    ahead_s: AtomicI64,
}

impl S3 {
    /// Of which nothing is known yet.
    pub fn new(service: Service) -> S3 {
        S3 {
            service,
            ..S3::default()
        }
    }

    /// Where an object in S3 is requested. `signed`: with credentials, which do not cross a network in the clear.
    pub fn address(&self, object: &Location, signed: bool) -> Result<Location, NetError> {
        let Some((bucket, key)) = object.bucket_and_key() else {
            return Ok(object.clone());
        };
        let error = |failure, detail: String| NetError::with_detail(object, failure, detail);
        if key.is_empty() && object.s3_query().is_none() {
            let detail = "it is a bucket, and no object: a key follows the slash";
            return Err(error(Failure::Refused { status: 400 }, detail.to_owned()));
        }
        let region = self.regions.lock().get(bucket).cloned();
        let region = region.unwrap_or_else(|| self.service.region.clone());
        let address = self.service.address(bucket, &key, &region);
        let mut address = address.ok_or_else(|| {
            let detail = "the bucket has no address at this service";
            error(Failure::Refused { status: 400 }, detail.to_owned())
        })?;
        address.set_query(object.s3_query());
        let address = object.at(address, &region);
        if signed && !address.is_https() && !is_loopback(address.url()) {
            let host = address.url().host_str().unwrap_or_default().to_owned();
            let detail = format!(
                "requests with AWS credentials are not sent to {host} over plain http: use an https endpoint, or no credentials"
            );
            return Err(error(Failure::Unsafe, detail));
        }
        Ok(address)
    }

    /// The target of a redirect. It stays an address in S3, where requests are signed, at the same host, and at another one of AWS for
    /// the same bucket.
    pub fn redirected(&self, from: &Location, to: Location) -> Location {
        let Some((bucket, _)) = from.bucket_and_key() else {
            return to;
        };
        let region = match (from.s3_region(), from.url().origin() == to.url().origin()) {
            (Some(region), true) => Some(region.to_owned()),
            (Some(_), false) if to.is_https() => {
                let host = to.url().host_str().unwrap_or_default();
                self.service.region_of_host(bucket, host)
            }
            _ => None,
        };
        match region {
            Some(region) => from.at(to.url().clone(), &region),
            None => to,
        }
    }

    /// Learns from a refusal for which region and time a request must be signed. Whether it was signed for others: at this location,
    /// with a clock this far ahead.
    pub fn learn(
        &self,
        at: &Location,
        ahead_s: i64,
        headers: &HeaderMap,
        refusal: &Refusal,
    ) -> bool {
        let (Some((bucket, _)), Some(used)) = (at.bucket_and_key(), at.s3_region()) else {
            return false;
        };
        if refusal.is_of_the_clock() {
            return self.learn_time(ahead_s, headers);
        }
        match &refusal.region {
            Some(region) if region != used => {
                let mut regions = self.regions.lock();
                regions.insert(bucket.to_owned(), region.clone());
                true
            }
            _ => false,
        }
    }

    fn learn_time(&self, before_s: i64, headers: &HeaderMap) -> bool {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok());
        let Some(date) = date.and_then(|text| httpdate::parse_http_date(text).ok()) else {
            return false;
        };
        let ahead = unix_s(date) - unix_s(SystemTime::now());
        self.ahead_s.store(ahead, Ordering::Relaxed);
        (ahead - before_s).abs() >= SKEW_S
    }

    /// By how many seconds the clock of the service is ahead of ours.
    pub fn ahead_s(&self) -> i64 {
        self.ahead_s.load(Ordering::Relaxed)
    }

    /// The time by the clock of the service, in Unix seconds.
    pub fn now(&self) -> i64 {
        unix_s(SystemTime::now()) + self.ahead_s()
    }
}

fn unix_s(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_secs().try_into().unwrap_or(i64::MAX / 2),
        Err(_) => 0,
    }
}

/// Whether a URL leads to this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Location {
        Location::parse(text).unwrap()
    }

    fn at(service: &Service, object: &str) -> String {
        let s3 = S3::new(service.clone());
        let address = s3.address(&place(object), true);
        address.map_or_else(|error| error.to_string(), |at| at.url().to_string())
    }

    #[test]
    fn addresses() {
        let aws = Service::default();
        for (object, address) in [
            (
                "s3://media/a b/é+.mp4",
                "https://media.s3.us-east-1.amazonaws.com/a%20b/%C3%A9%2B.mp4",
            ),
            (
                "s3://my.media/k",
                "https://s3.us-east-1.amazonaws.com/my.media/k",
            ),
            (
                "s3://My_Media/k",
                "https://s3.us-east-1.amazonaws.com/My_Media/k",
            ),
            (
                "s3://media//k",
                "https://media.s3.us-east-1.amazonaws.com//k",
            ),
        ] {
            assert_eq!(at(&aws, object), address);
        }
        let china = Service {
            region: "cn-north-1".to_owned(),
            ..aws.clone()
        };
        assert_eq!(
            at(&china, "s3://media/k"),
            "https://media.s3.cn-north-1.amazonaws.com.cn/k"
        );
        let own = |url: &str, in_host: bool| Service {
            endpoint: Some(url.parse().unwrap()),
            bucket_in_host: in_host.then_some(true),
            ..aws.clone()
        };
        let path = own("http://127.0.0.1:3900/", false);
        assert_eq!(
            at(&path, "s3://media/a?b"),
            "http://127.0.0.1:3900/media/a%3Fb"
        );
        let below = own("https://h.example/s3", false);
        assert_eq!(at(&below, "s3://media/k"), "https://h.example/s3/media/k");
        let in_host = own("https://h.example", true);
        assert_eq!(at(&in_host, "s3://media/k"), "https://media.h.example/k");
        // An address has no names below it.
        let literal = own("http://[::1]:1", true);
        assert_eq!(at(&literal, "s3://media/k"), "http://[::1]:1/media/k");
        assert_eq!(
            at(&own("http://localhost:1", false), "s3://media/k"),
            "http://localhost:1/media/k"
        );
        let clear = own("http://minio.example", false);
        assert!(at(&clear, "s3://media/k").contains("not sent to minio.example"));
        assert!(
            S3::new(clear)
                .address(&place("s3://media/k"), false)
                .is_ok()
        );
        assert!(at(&aws, "s3://media").contains("it is a bucket"));
        let view = |object: &str, members: &[(&str, &str)]| {
            let s3 = S3::new(path.clone());
            let at = s3.address(&place(object).with_query(members), true);
            at.map(|at| (at.url().to_string(), at.to_string())).unwrap()
        };
        let parts = view(
            "s3://media/a?b",
            &[("uploadId", "x/y+z="), ("partNumber", "1")],
        );
        let url = "http://127.0.0.1:3900/media/a%3Fb?uploadId=x%2Fy%2Bz%3D&partNumber=1";
        assert_eq!(parts, (url.to_owned(), "s3://media/a?b".to_owned()));
        let uploads = view("s3://media", &[("uploads", ""), ("prefix", "a/")]);
        assert_eq!(
            uploads.0,
            "http://127.0.0.1:3900/media/?uploads&prefix=a%2F"
        );
        for bad in [
            "ftp://h/",
            "https://u:p@h/",
            "https://h/?x",
            "https://h/#x",
            "h:3900",
            "",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(BadEndpoint), "{bad}");
        }
    }

    #[test]
    fn one_service_is_signed_for() {
        let s3 = S3::default();
        let from = s3.address(&place("s3://media/k"), true).unwrap();
        let region = |s3: &S3, from: &Location, to: &str| {
            s3.redirected(from, place(to))
                .s3_region()
                .map(str::to_owned)
        };
        for (to, expected) in [
            (
                "https://media.s3.us-east-1.amazonaws.com/other",
                Some("us-east-1"),
            ),
            (
                "https://media.s3.eu-west-1.amazonaws.com/k",
                Some("eu-west-1"),
            ),
            (
                "https://media.s3-us-west-2.amazonaws.com/k",
                Some("us-west-2"),
            ),
            ("https://media.s3.amazonaws.com/k", Some("us-east-1")),
            ("http://media.s3.eu-west-1.amazonaws.com/k", None),
            ("https://other.s3.eu-west-1.amazonaws.com/k", None),
            ("https://media.s3.evil.amazonaws.com.example/k", None),
            ("https://media.s3.eu-west-1.evil.amazonaws.com/k", None),
            ("https://media.s3evil.amazonaws.com/k", None),
            ("https://cdn.example/k", None),
        ] {
            assert_eq!(region(&s3, &from, to).as_deref(), expected, "{to}");
        }
        let own = S3::new(Service {
            endpoint: Some("https://h.example".parse().unwrap()),
            ..Service::default()
        });
        let from = own.address(&place("s3://media/k"), true).unwrap();
        assert!(region(&own, &from, "https://h.example/x").is_some());
        for other in [
            "https://h.example:444/x",
            "https://media.s3.eu-west-1.amazonaws.com/k",
        ] {
            assert_eq!(region(&own, &from, other), None, "{other}");
        }
        // What is no address in S3 does not become one.
        let plain = place("https://h.example/k");
        assert_eq!(region(&own, &plain, "https://h.example/x"), None);
    }

    #[test]
    fn what_a_refusal_says_is_kept() {
        let s3 = S3::default();
        let object = place("s3://media/k");
        let first = s3.address(&object, true).unwrap();
        let region = Refusal {
            region: Some("eu-west-1".to_owned()),
            ..Refusal::default()
        };
        let none = HeaderMap::new();
        assert!(s3.learn(&first, 0, &none, &region));
        assert!(s3.learn(&first, 0, &none, &region), "two at a time");
        let second = s3.address(&object, true).unwrap();
        let address = "https://media.s3.eu-west-1.amazonaws.com/k";
        assert_eq!(
            (second.url().as_str(), second.s3_region()),
            (address, Some("eu-west-1"))
        );
        assert!(!s3.learn(&second, 0, &none, &region), "once");
        let skewed = Refusal {
            code: Some("RequestTimeTooSkewed".to_owned()),
            ..Refusal::default()
        };
        assert!(!s3.learn(&second, 0, &none, &skewed), "without a date");
        let mut headers = HeaderMap::new();
        let later = SystemTime::now() + std::time::Duration::from_secs(7200);
        headers.insert(DATE, httpdate::fmt_http_date(later).try_into().unwrap());
        assert!(s3.learn(&second, 0, &headers, &skewed));
        assert!(s3.learn(&second, 0, &headers, &skewed), "two at a time");
        assert!((7190..=7210).contains(&(s3.now() - unix_s(SystemTime::now()))));
        assert!(!s3.learn(&second, s3.ahead_s(), &headers, &skewed), "once");
    }
}
