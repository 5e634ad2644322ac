//! Whole-object digests: those that users give, servers offer and manifests carry.

use std::{fmt, str::FromStr, sync::LazyLock};

use crc::{CRC_64_NVME, Crc, Table};
use sha2::Digest as _;

/// A digest algorithm, with its kind in manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is named after what it is")]
pub enum Algorithm {
    Sha256 = 1,
    Sha512 = 2,
    Sha1 = 3,
    Md5 = 4,
    Crc32c = 5,
    Crc64Nvme = 6,
    Blake3 = 7,
}

impl Algorithm {
    /// All of them, in the order in which a manifest lists them.
    pub const ALL: [Algorithm; 7] = [
        Algorithm::Sha256,
        Algorithm::Sha512,
        Algorithm::Sha1,
        Algorithm::Md5,
        Algorithm::Crc32c,
        Algorithm::Crc64Nvme,
        Algorithm::Blake3,
    ];

    /// The algorithm with this number in a manifest.
    pub fn from_kind(kind: u8) -> Option<Algorithm> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.kind() == kind)
    }

    /// Its number in a manifest.
    pub fn kind(self) -> u8 {
        self as u8
    }

    /// The size of a digest.
    pub fn bytes(self) -> usize {
        match self {
            Algorithm::Sha256 | Algorithm::Blake3 => 32,
            Algorithm::Sha512 => 64,
            Algorithm::Sha1 => 20,
            Algorithm::Md5 => 16,
            Algorithm::Crc32c => 4,
            Algorithm::Crc64Nvme => 8,
        }
    }

    /// Its name as users type it.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha-256",
            Algorithm::Sha512 => "sha-512",
            Algorithm::Sha1 => "sha-1",
            Algorithm::Md5 => "md5",
            Algorithm::Crc32c => "crc32c",
            Algorithm::Crc64Nvme => "crc64nvme",
            Algorithm::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was given names no algorithm or has the wrong number of hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum NotADigest {
    #[error(
        "{0:?} is no digest algorithm; there are sha-256, sha-512, sha-1, md5, crc32c, crc64nvme and blake3"
    )]
    Algorithm(String),
    #[error("a {algorithm} digest is {} hexadecimal digits", .algorithm.bytes() * 2)]
    Value { algorithm: Algorithm },
    #[error("a digest is given as ALG=HEX")]
    Form,
}

impl FromStr for Algorithm {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Algorithm, NotADigest> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| NotADigest::Algorithm(text.to_owned()))
    }
}

/// A digest of a whole object. Its value has as many bytes as its algorithm says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    algorithm: Algorithm,
    value: Vec<u8>,
}

impl Digest {
    /// A digest with this value, which must have the length that the algorithm gives.
    pub fn new(algorithm: Algorithm, value: Vec<u8>) -> Result<Digest, NotADigest> {
        match value.len() == algorithm.bytes() {
            true => Ok(Digest { algorithm, value }),
            false => Err(NotADigest::Value { algorithm }),
        }
    }

    /// How it was made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its bytes.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Its bytes as text.
    pub fn hex(&self) -> String {
        hex::encode(&self.value)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    /// `ALG=HEX`.
    fn from_str(text: &str) -> Result<Digest, NotADigest> {
        let (algorithm, value) = text.split_once('=').ok_or(NotADigest::Form)?;
        let algorithm: Algorithm = algorithm.parse()?;
        let value = hex::decode(value.trim()).map_err(|_| NotADigest::Value { algorithm })?;
        Digest::new(algorithm, value)
    }
}

/// Of the digest that only S3 offers. Its tables have 32 KiB, and are computed when they are needed.
static NVME: LazyLock<Crc<u64, Table<16>>> =
    LazyLock::new(|| Crc::<u64, Table<16>>::new(&CRC_64_NVME));

/// Computes one digest over bytes in order.
#[allow(missing_docs, reason = "each is the state of one algorithm")]
pub enum DigestHasher {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Crc32c(u32),
    Crc64Nvme(crc::Digest<'static, u64, Table<16>>),
    Blake3(Box<blake3::Hasher>),
}

impl DigestHasher {
    /// Begins a digest of a whole object.
    pub fn new(algorithm: Algorithm) -> DigestHasher {
        match algorithm {
            Algorithm::Sha256 => DigestHasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => DigestHasher::Sha512(sha2::Sha512::new()),
            Algorithm::Sha1 => DigestHasher::Sha1(sha1::Sha1::new()),
            Algorithm::Md5 => DigestHasher::Md5(md5::Md5::new()),
            Algorithm::Crc32c => DigestHasher::Crc32c(0),
            Algorithm::Crc64Nvme => DigestHasher::Crc64Nvme(NVME.digest()),
            Algorithm::Blake3 => DigestHasher::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    /// Takes the next bytes of the object.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            DigestHasher::Sha256(hasher) => hasher.update(bytes),
            DigestHasher::Sha512(hasher) => hasher.update(bytes),
            DigestHasher::Sha1(hasher) => hasher.update(bytes),
            DigestHasher::Md5(hasher) => hasher.update(bytes),
            DigestHasher::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            DigestHasher::Crc64Nvme(hasher) => hasher.update(bytes),
            DigestHasher::Blake3(hasher) => drop(hasher.update(bytes)),
        }
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        let (algorithm, value) = match self {
            DigestHasher::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            DigestHasher::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
            DigestHasher::Sha1(hasher) => (Algorithm::Sha1, hasher.finalize().to_vec()),
            DigestHasher::Md5(hasher) => (Algorithm::Md5, hasher.finalize().to_vec()),
            // As hexadecimal text is written: most significant byte first.
            DigestHasher::Crc32c(crc) => (Algorithm::Crc32c, crc.to_be_bytes().to_vec()),
            DigestHasher::Crc64Nvme(hasher) => (
                Algorithm::Crc64Nvme,
                hasher.finalize().to_be_bytes().to_vec(),
            ),
            DigestHasher::Blake3(hasher) => {
                (Algorithm::Blake3, hasher.finalize().as_bytes().to_vec())
            }
        };
        Digest { algorithm, value }
    }
}

/// A root as a digest.
pub fn root_as_digest(root: super::tree::Root) -> Digest {
    Digest::new(Algorithm::Blake3, root.0.to_vec()).expect("a root is a BLAKE3 digest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        for (algorithm, expected) in [
            (
                Algorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
            (
                Algorithm::Sha512,
                "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274ad27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85",
            ),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (Algorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (
                Algorithm::Blake3,
                "b7d65b48420d1033cb2595293263b6f72eabee20d55e699d0df1973b3c9deed1",
            ),
        ] {
            let mut hasher = DigestHasher::new(algorithm);
            hasher.update(b"1234");
            hasher.update(b"56789");
            assert_eq!(hasher.finish().hex(), expected, "{algorithm}");
            assert_eq!(Algorithm::from_kind(algorithm.kind()), Some(algorithm));
        }
    }

    #[test]
    fn digests_as_text() {
        assert!(
            "sha-256=15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
                .parse::<Digest>()
                .is_ok()
        );
        assert_eq!(
            "md5=12".parse::<Digest>(),
            Err(NotADigest::Value {
                algorithm: Algorithm::Md5
            })
        );
        assert_eq!("md5".parse::<Digest>(), Err(NotADigest::Form));
        assert!(matches!(
            "md6=12".parse::<Digest>(),
            Err(NotADigest::Algorithm(_))
        ));
    }
}
