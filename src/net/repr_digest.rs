//! Digests of a whole object as servers offer them: in header fields, or in a small file beside the object.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::format::digests::{Algorithm, Digest};

/// The digests in one header field; none for a field without a digest, or with one that does not cover the whole object.
pub fn in_header(name: &str, value: &str) -> Vec<Digest> {
    let base64 = |algorithm, text: &str| {
        let value = STANDARD.decode(text.trim()).ok()?;
        Digest::new(algorithm, value).ok()
    };
    match name {
        // RFC 9530: a dictionary of byte sequences, `sha-256=:BASE64:`.
        "repr-digest" => members(value)
            .filter_map(|(algorithm, text)| {
                base64(
                    repr_algorithm(algorithm)?,
                    text.trim().strip_prefix(':')?.strip_suffix(':')?,
                )
            })
            .collect(),
        "x-goog-hash" => members(value)
            .filter_map(|(algorithm, text)| base64(algorithm.parse().ok()?, text))
            .collect(),
        "content-md5" => base64(Algorithm::Md5, value).into_iter().collect(),
        _ => match name.strip_prefix("x-amz-checksum-") {
            // A digest of digests of parts ends with the number of parts; it is not of the object.
            Some(_) if value.contains('-') => Vec::new(),
            Some(algorithm) => amz_algorithm(algorithm)
                .and_then(|algorithm| base64(algorithm, value))
                .into_iter()
                .collect(),
            None => Vec::new(),
        },
    }
}

/// `key=value` members of a list.
fn members(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value
        .split(',')
        .filter_map(|member| member.trim().split_once('='))
}

fn repr_algorithm(name: &str) -> Option<Algorithm> {
    match name.trim().to_ascii_lowercase().as_str() {
        "sha" => Some(Algorithm::Sha1),
        name => name.parse().ok(),
    }
}

fn amz_algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "sha256" => Some(Algorithm::Sha256),
        "sha512" => Some(Algorithm::Sha512),
        "sha1" => Some(Algorithm::Sha1),
        "md5" => Some(Algorithm::Md5),
        "crc32c" => Some(Algorithm::Crc32c),
        "crc64nvme" => Some(Algorithm::Crc64Nvme),
        _ => None,
    }
}

/// The digest in a `.sha256` file, as `sha256sum` writes it: the hexadecimal digits alone, or before the name of this
/// file; or as BSD's `sha256` does: `SHA256 (NAME) = DIGITS`. A file that lists several needs the name to match.
pub fn in_sidecar(text: &str, name: &str) -> Option<Digest> {
    let digest = |hex_digits: &str| {
        let value = hex::decode(hex_digits.trim_start_matches('\\')).ok()?;
        Digest::new(Algorithm::Sha256, value).ok()
    };
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let tagged = |line: &&str| {
        let (listed, hex_digits) = line.strip_prefix("SHA256 (")?.rsplit_once(") = ")?;
        Some((hex_digits.to_owned(), listed.to_owned()))
    };
    let plain = |line: &&str| {
        let (hex_digits, rest) = line.split_once(char::is_whitespace)?;
        let listed = rest.trim_start().trim_start_matches('*');
        Some((hex_digits.to_owned(), listed.to_owned()))
    };
    let named = lines.iter().find_map(|line| {
        let (hex_digits, listed) = tagged(line).or_else(|| plain(line))?;
        (listed.rsplit('/').next() == Some(name)).then(|| digest(&hex_digits))?
    });
    match lines.as_slice() {
        [only] => named.or_else(|| digest(only.split_whitespace().next()?)),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";

    #[test]
    fn headers() {
        let found = |name, value: &str| {
            in_header(name, value)
                .iter()
                .map(|d| format!("{}={}", d.algorithm(), d.hex()))
                .collect::<Vec<_>>()
        };
        let sha256 = STANDARD.encode(hex::decode(SHA256).unwrap());
        assert_eq!(
            found(
                "repr-digest",
                &format!("sha-256=:{sha256}:, unixsum=:AA==:")
            ),
            [format!("sha-256={SHA256}")]
        );
        assert_eq!(
            found(
                "x-goog-hash",
                "crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw=="
            ),
            ["crc32c=e3069283", "md5=25f9e794323b453885f5181f1b624d0b"]
        );
        assert_eq!(
            found("x-amz-checksum-crc32c", "4waSgw=="),
            ["crc32c=e3069283"]
        );
        assert_eq!(
            found("x-amz-checksum-sha256", &format!("{sha256}-12")),
            [""; 0]
        );
        assert_eq!(
            found("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
            ["md5=25f9e794323b453885f5181f1b624d0b"]
        );
        for (name, value) in [
            ("repr-digest", "sha-256=:AAAA:"),
            ("repr-digest", "junk"),
            ("content-md5", "!"),
            ("etag", "x"),
        ] {
            assert_eq!(found(name, value), [""; 0], "{name}");
        }
    }

    #[test]
    fn sidecars() {
        let hex_of = |text: &str| in_sidecar(text, "f.bin").map(|digest| digest.hex());
        assert_eq!(hex_of(SHA256).as_deref(), Some(SHA256));
        assert_eq!(
            hex_of(&format!("{SHA256}  f.bin\n")).as_deref(),
            Some(SHA256)
        );
        assert_eq!(
            hex_of(&format!("{SHA256} *out/f.bin\n")).as_deref(),
            Some(SHA256)
        );
        assert_eq!(
            hex_of(&format!("{}  g.bin\n{SHA256}  f.bin\n", "0".repeat(64))).as_deref(),
            Some(SHA256)
        );
        assert_eq!(
            hex_of(&format!("{SHA256}  other.bin")).as_deref(),
            Some(SHA256)
        );
        assert_eq!(hex_of(&format!("{SHA256}  x\n{SHA256}  y\n")), None);
        assert_eq!(hex_of("<html>"), None);
        assert_eq!(hex_of(""), None);
    }
}
