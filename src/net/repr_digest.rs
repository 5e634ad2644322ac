//! Digests of a whole object as servers offer them: in header fields, or in a small file beside the object.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::format::digests::{Algorithm, Digest};

use super::location::Location;

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
        // RFC 3230, before it, where an algorithm may be in capitals: `SHA-256=BASE64`. Servers that name mirrors have it (RFC 6249).
        "digest" => members(value)
            .filter_map(|(algorithm, text)| base64(repr_algorithm(algorithm)?, text))
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

/// A file with digests beside an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// `NAME.sha256`
    Sha256,
    /// `NAME.sha512`
    Sha512,
    /// `SHA256SUMS`, of all files of the folder.
    Sums,
    /// `NAME.md5`
    Md5,
}

impl Sidecar {
    /// What it adds to the name of the object, or its own name.
    pub fn name(self) -> &'static str {
        match self {
            Sidecar::Sha256 => ".sha256",
            Sidecar::Sha512 => ".sha512",
            Sidecar::Sums => "SHA256SUMS",
            Sidecar::Md5 => ".md5",
        }
    }

    /// Its URL.
    pub fn of(self, object: &Location) -> Location {
        match self {
            Sidecar::Sums => object.beside(self.name()),
            _ => object.with_suffix(self.name()),
        }
    }

    /// The algorithm, and what BSD calls it.
    fn algorithm(self) -> (Algorithm, &'static str) {
        match self {
            Sidecar::Sha256 | Sidecar::Sums => (Algorithm::Sha256, "SHA256 ("),
            Sidecar::Sha512 => (Algorithm::Sha512, "SHA512 ("),
            Sidecar::Md5 => (Algorithm::Md5, "MD5 ("),
        }
    }
}

/// The digest in a sidecar, as `sha256sum` writes it: the hexadecimal digits alone, or before the name of this file; or as BSD's
/// `sha256` does: `SHA256 (NAME) = DIGITS`. A file that lists several, or may do so, needs the name to match.
pub fn in_sidecar(sidecar: Sidecar, text: &str, name: &str) -> Option<Digest> {
    let (algorithm, tag) = sidecar.algorithm();
    let digest = |hex_digits: &str| {
        let value = hex::decode(hex_digits.trim_start_matches('\\')).ok()?;
        Digest::new(algorithm, value).ok()
    };
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let tagged = |line: &&str| {
        let (listed, hex_digits) = line.strip_prefix(tag)?.rsplit_once(") = ")?;
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
        [only] if sidecar != Sidecar::Sums => {
            named.or_else(|| digest(only.split_whitespace().next()?))
        }
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
            found("digest", &format!("SHA-256={sha256},UNIXsum=30637")),
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
        let hex_of =
            |text: &str| in_sidecar(Sidecar::Sha256, text, "f.bin").map(|digest| digest.hex());
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

    #[test]
    fn sidecars_of_all_kinds() {
        let (sha512, md5) = ("ab".repeat(64), "cd".repeat(16));
        for (sidecar, text, wanted) in [
            (Sidecar::Sha512, format!("{sha512}  f.bin\n"), Some(&sha512)),
            (
                Sidecar::Sha512,
                format!("SHA512 (f.bin) = {sha512}\n"),
                Some(&sha512),
            ),
            (Sidecar::Sha512, format!("{SHA256}  f.bin\n"), None),
            (Sidecar::Md5, format!("{md5} *f.bin\n"), Some(&md5)),
            (Sidecar::Md5, md5.clone(), Some(&md5)),
            (Sidecar::Md5, format!("MD5 (f.bin) = {md5}"), Some(&md5)),
            // Of a folder: the one line may be that of another file.
            (Sidecar::Sums, SHA256.to_owned(), None),
            (Sidecar::Sums, format!("{SHA256}  other.bin\n"), None),
            (
                Sidecar::Sums,
                format!("{SHA256}  ./f.bin\n"),
                Some(&SHA256.to_owned()),
            ),
        ] {
            let found = in_sidecar(sidecar, &text, "f.bin").map(|digest| digest.hex());
            assert_eq!(found.as_ref(), wanted, "{sidecar:?}: {text}");
        }
        let object = Location::parse("https://h/a/f.bin?q=1").unwrap();
        let shown = |sidecar: Sidecar| sidecar.of(&object).url().to_string();
        assert_eq!(shown(Sidecar::Md5), "https://h/a/f.bin.md5?q=1");
        assert_eq!(shown(Sidecar::Sums), "https://h/a/SHA256SUMS?q=1");
    }
}
