//! Sizes, durations and times as users type and read them.

use std::{
    net::Ipv4Addr,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::{
    engine::{cat::Wanted, event_fields::rfc3339},
    format::{
        digests::{Algorithm, Digest, NotADigest},
        geometry::BlockSize,
        statement,
        trust::Trust,
    },
    policy::sync::DeleteMax,
};

const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Bytes: a number, or one with B, kB, MB, GB (1000), KiB, MiB, GiB (1024), or K, M, G (1024, as in curl and wget). The case of a
/// prefix is ignored; `b` is refused, because it means bits.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    if unit.ends_with('b') {
        return Err("b means bits, and sizes are in bytes: write B".to_owned());
    }
    let factor = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .map(|(_, factor)| *factor);
    let number = decimal(digits);
    match (number, factor) {
        (Some((number, scale)), Some(factor)) => {
            let bytes = u128::from(number) * u128::from(factor) / u128::from(scale);
            u64::try_from(bytes).map_err(|_| "that is too large".to_owned())
        }
        _ => Err("sizes are bytes, or numbers with B, kB, MB, GB (1000), KiB, MiB, GiB, K, M or G (1024)".to_owned()),
    }
}

/// A decimal number as digits and the power of ten below them.
fn decimal(text: &str) -> Option<(u64, u64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || fraction.len() > 9 {
        return None;
    }
    let number: u64 = format!("{whole}{fraction}").parse().ok()?;
    Some((number, 10u64.pow(fraction.len() as u32)))
}

/// 90s, 5m, 12h, 7d, 500ms; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor_ms = match text[digits.len()..].trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(DURATIONS.to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| DURATIONS.to_owned())?;
    number
        .checked_mul(factor_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| "that is too long".to_owned())
}

const DURATIONS: &str =
    "durations are numbers with ms, s, m, h or d: 90s, 5m, 7d; a bare number is seconds";

/// A duration that is longer than nothing.
pub fn patience(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| match time.is_zero() {
        true => Err("it must be longer than 0".to_owned()),
        false => Ok(time),
    })
}

/// A web origin, as browsers send it.
pub fn origin(text: &str) -> Result<String, String> {
    let origin = text.strip_suffix('/').unwrap_or(text);
    let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
        let is_odd = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@' | '*');
        !scheme.is_empty() && !host.is_empty() && !host.contains(is_odd)
    });
    match is_origin {
        true => Ok(origin.to_owned()),
        false => Err("an origin is SCHEME://HOST, or SCHEME://HOST:PORT, without a path or a *, such as https://app.example".to_owned()),
    }
}

/// HOST:PORT; or :PORT or PORT, which is that of 127.0.0.1.
pub fn listen_address(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .or(Some(("", text)))
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .ok_or("addresses are HOST:PORT, :PORT or PORT, such as 127.0.0.1:8080")?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_numeric = host.split('.').count() == 4 && host.split('.').all(is_number);
    if is_numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(format!(
            "{host} is no IPv4 address: each of its four numbers is at most 255"
        ));
    }
    Ok(match host {
        "" => format!("127.0.0.1:{port}"),
        _ => text.to_owned(),
    })
}

/// A time (RFC 3339), or a duration from now; Unix seconds.
pub fn unix_time(text: &str) -> Result<u64, String> {
    if let Ok(from_now) = duration(text) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        return Ok((now + from_now).as_secs());
    }
    let wrong = || "times are like 2030-01-31T12:00:00Z, or a duration from now like 7d".to_owned();
    let time = jiff::Timestamp::from_str(text).map_err(|_| wrong())?;
    u64::try_from(time.as_second())
        .ok()
        .filter(|seconds| *seconds > 0)
        .ok_or_else(wrong)
}

pub fn block_size(text: &str) -> Result<AutoBlockSize, String> {
    if text == "auto" {
        return Ok(AutoBlockSize(None));
    }
    let wrong = || "block sizes are powers of two from 16KiB to 16MiB, or auto".to_owned();
    let bytes = size(text).map_err(|_| wrong())?;
    BlockSize::new(bytes)
        .map(|size| AutoBlockSize(Some(size)))
        .ok_or_else(wrong)
}

/// The algorithms, so that completions know them.
pub fn algorithms() -> impl TypedValueParser<Value = Algorithm> {
    let named = |algorithm: Algorithm| {
        let name = algorithm.name();
        let value = PossibleValue::new(name);
        match name.strip_prefix("sha-") {
            Some(bits) => value.alias(format!("sha{bits}")),
            None => value,
        }
    };
    let values = PossibleValuesParser::new(Algorithm::ALL.map(named));
    values.try_map(|name| algorithm(&name))
}

/// The degrees of trust, the least first, so that completions know them.
pub fn trust() -> impl TypedValueParser<Value = Trust> {
    let names = PossibleValuesParser::new(["none", "digest", "manifest", "root", "signed"]);
    names.try_map(|name| name.parse::<Trust>())
}

pub fn algorithm(text: &str) -> Result<Algorithm, String> {
    let named: Result<Algorithm, NotADigest> = algorithm_name(text).parse();
    named.map_err(|cause| cause.to_string())
}

/// The name of an algorithm: `sha256` and `SHA-256` are sha-256.
fn algorithm_name(typed: &str) -> String {
    let name = typed.to_ascii_lowercase();
    match name.strip_prefix("sha") {
        Some(bits) if bits.starts_with(|c: char| c.is_ascii_digit()) => format!("sha-{bits}"),
        _ => name,
    }
}

/// A range as in HTTP: A-B, A- or -N. `0-` is everything, also of an empty object.
pub fn range(text: &str) -> Result<Wanted, String> {
    let wrong = || "ranges are A-B (both ends inclusive), A- or -N".to_owned();
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    match text.trim().split_once('-').ok_or_else(wrong)? {
        ("0", "") => Ok(Wanted::All),
        ("", count) => number(count).map(Wanted::Last),
        (first, "") => Ok(Wanted::From(number(first)?, None)),
        (first, last) => match (number(first)?, number(last)?) {
            (first, last) if first <= last => Ok(Wanted::From(first, Some(last))),
            _ => Err(wrong()),
        },
    }
}

pub fn delete_max(text: &str) -> Result<DeleteMax, String> {
    let wrong = || "it is a number of files, or a part of them from 0% to 100%".to_owned();
    match text.strip_suffix('%') {
        None => text.parse().map(DeleteMax::Files).map_err(|_| wrong()),
        Some(percent) => match percent.parse() {
            Ok(percent @ 0..=100) => Ok(DeleteMax::Percent(percent)),
            _ => Err(wrong()),
        },
    }
}

pub fn digest(text: &str) -> Result<Digest, String> {
    let named: Result<Digest, NotADigest> = match text.split_once('=') {
        Some((name, value)) => format!("{}={value}", algorithm_name(name)).parse(),
        None => text.parse(),
    };
    named.map_err(|cause| cause.to_string())
}

pub fn sha256(text: &str) -> Result<Digest, String> {
    digest(&format!("sha-256={text}"))
}

pub fn manifest_name(text: &str) -> Result<String, String> {
    match statement::name_is_allowed(text) {
        true => Ok(text.to_owned()),
        false => Err("a name is not . or .., has at most 255 bytes, and neither slashes, backslashes, control characters nor ones that change the direction of text".to_owned()),
    }
}

/// Bytes for people: 1.4 GB.
pub fn human_bytes(bytes: u64) -> String {
    const NAMES: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit < NAMES.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, value) if value < 9.95 => format!("{value:.1} {}", NAMES[unit]),
        _ => format!("{value:.0} {}", NAMES[unit]),
    }
}

/// A time for people: 1:02:03 or 2:03.
pub fn human_time(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A Unix time as a clock on the wall shows it: 14:05, with seconds if that is soon, with the day if it is not today.
pub fn time_of_day(seconds: u64) -> String {
    let zone = jiff::tz::TimeZone::system();
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let Some(time) = time.map(|time| time.to_zoned(zone.clone())) else {
        return rfc3339(seconds);
    };
    let now = jiff::Timestamp::now().to_zoned(zone);
    let is_soon = time.timestamp().as_second() - now.timestamp().as_second() < 120;
    let format = match time.date() == now.date() {
        true if is_soon => "%H:%M:%S",
        true => "%H:%M",
        false => "%F %H:%M",
    };
    time.strftime(format).to_string()
}

/// `auto`, or a block size.
#[derive(Clone, Copy, Debug)]
pub struct AutoBlockSize(pub Option<BlockSize>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1B", 1),
            ("1kB", 1000),
            ("1 KiB", 1024),
            ("1.5MB", 1_500_000),
            ("64kiB", 65536),
            ("64K", 65536),
            ("64k", 65536),
            ("1.5M", 3 << 19),
            ("2g", 2 << 30),
            ("1KB", 1000),
            ("2GiB", 2 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "B",
            "-1",
            "1.B",
            "1 XB",
            "1e3",
            "1K B",
            // Bits, as line rates are given.
            "100Mb",
            "100mb",
            "64kib",
            "8b",
            "1Ki",
            "18446744073709551616",
            "99999999999GB",
            "0x10",
            "1.0000000001MB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_and_times() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert!(duration("").is_err() && duration("5 weeks").is_err() && duration("-5s").is_err());
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(patience("1ms"), Ok(Duration::from_millis(1)));
        assert!(patience("0").is_err() && patience("0s").is_err());
        assert_eq!(unix_time("1970-01-01T00:01:00Z"), Ok(60));
        assert!(unix_time("yesterday").is_err() && unix_time("1960-01-01T00:00:00Z").is_err());
        assert_eq!(rfc3339(60), "1970-01-01T00:01:00Z");
    }

    #[test]
    fn names_of_algorithms() {
        for (typed, meant) in [
            ("sha256", "sha-256"),
            ("SHA-256", "sha-256"),
            ("sha512", "sha-512"),
            ("Sha1", "sha-1"),
            ("MD5", "md5"),
            ("blake3", "blake3"),
        ] {
            assert_eq!(algorithm(typed).unwrap().to_string(), meant, "{typed}");
        }
        assert!(algorithm("sha").is_err() && algorithm("sha3").is_err());
        let (one, other) = (format!("sha256={:064}", 1), format!("sha-256={:064}", 1));
        assert_eq!(digest(&one), digest(&other));
    }

    #[test]
    fn addresses_to_listen_on() {
        for (typed, meant) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:8099", "localhost:8099"),
            (":8099", "127.0.0.1:8099"),
            ("8099", "127.0.0.1:8099"),
            ("localhost:0", "localhost:0"),
        ] {
            assert_eq!(listen_address(typed), Ok(meant.to_owned()), "{typed}");
        }
        for bad in [
            "",
            "99999",
            "localhost",
            "h:",
            "h:x",
            "h:99999",
            "999.1.1.1:1",
            "1.2.3.256:80",
        ] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn for_people() {
        let shown: Vec<String> = [0, 999, 1000, 9949, 999_499, 999_500, 2 << 30]
            .map(human_bytes)
            .to_vec();
        assert_eq!(
            shown,
            [
                "0 B", "999 B", "1.0 kB", "9.9 kB", "999 kB", "1.0 MB", "2.1 GB"
            ]
        );
        assert_eq!(human_time(3723), "1:02:03");
        assert_eq!(human_time(63), "1:03");
    }
}
