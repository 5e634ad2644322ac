//! Keys and signatures as minisign writes them: text in, a checked signature over a statement out.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    layout::STATEMENT_BYTES,
    signature::{Signature, SignatureArea, comment_is_allowed},
};

/// A public key whose signatures are trusted.
#[derive(Clone, Debug)]
pub struct PublicKey {
    key: minisign_verify::PublicKey,
    id: [u8; 8],
}

/// Why a key, or a signature as text, cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BadKey {
    #[error("it is not a minisign public key")]
    PublicKey,
    #[error("it is a secret key; the public key of the pair is in NAME.pub")]
    Secret,
    #[error(
        "the public key of this signature is not known, so that the signature cannot be checked"
    )]
    Unknown,
    #[error("it is not a minisign signature")]
    Signature,
    #[error("it is a signature of the legacy kind; sign again without -l")]
    Legacy,
    #[error("its trusted comment is too long for a manifest (372 bytes) or has control characters")]
    Comment,
}

/// Why a statement is not signed by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NotSigned {
    #[error("it is not signed")]
    Unsigned,
    #[error("it is signed in a way that this program does not know; a newer sapwood may")]
    UnknownKind,
    #[error("it is signed by another key")]
    OtherKey,
    #[error("its signature is not valid")]
    False,
}

impl PublicKey {
    /// From the text of a key file, or its second line alone.
    pub fn from_text(text: &str) -> Result<PublicKey, BadKey> {
        let line = text
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty())
            .ok_or(BadKey::PublicKey)?;
        if SecretText::parse(line).is_some() {
            return Err(BadKey::Secret);
        }
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|_| BadKey::PublicKey)?;
        let bytes = STANDARD.decode(line).map_err(|_| BadKey::PublicKey)?;
        let id = *bytes
            .get(2..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(BadKey::PublicKey)?;
        Ok(PublicKey { key, id })
    }

    /// The key id as minisign prints it.
    pub fn id_hex(&self) -> String {
        format!("{:016X}", u64::from_le_bytes(self.id))
    }

    /// Checks that a manifest, the exact bytes of its statement, is signed by this key.
    pub fn check(
        &self,
        statement: &[u8; STATEMENT_BYTES],
        area: &SignatureArea,
    ) -> Result<(), NotSigned> {
        match area {
            SignatureArea::Unsigned => Err(NotSigned::Unsigned),
            SignatureArea::Unknown { .. } => Err(NotSigned::UnknownKind),
            SignatureArea::Minisign(signature) => self.check_signature(statement, signature),
        }
    }

    /// Checks a signature over the exact bytes of a statement.
    pub fn check_signature(
        &self,
        statement: &[u8; STATEMENT_BYTES],
        signature: &Signature,
    ) -> Result<(), NotSigned> {
        if signature.key_id != self.id {
            return Err(NotSigned::OtherKey);
        }
        let decoded = minisign_verify::Signature::decode(&signature.to_minisig())
            .map_err(|_| NotSigned::False)?;
        self.key
            .verify(statement, &decoded, false)
            .map_err(|_| NotSigned::False)
    }
}

impl Signature {
    /// As a `.minisig` file.
    pub fn to_minisig(&self) -> String {
        let head = [&b"ED"[..], &self.key_id, &self.signature].concat();
        format!(
            "untrusted comment: signature of a Sapwood statement\n{}\ntrusted comment: {}\n{}\n",
            STANDARD.encode(head),
            self.trusted_comment,
            STANDARD.encode(self.global_signature)
        )
    }

    /// From a `.minisig` file.
    pub fn from_minisig(text: &str) -> Result<Signature, BadKey> {
        let mut lines = text.lines();
        let mut line = || lines.next().ok_or(BadKey::Signature);
        let _untrusted = line()?;
        let head = STANDARD
            .decode(line()?.trim())
            .map_err(|_| BadKey::Signature)?;
        let comment = line()?
            .strip_prefix("trusted comment: ")
            .ok_or(BadKey::Signature)?
            .to_owned();
        let global = STANDARD
            .decode(line()?.trim())
            .map_err(|_| BadKey::Signature)?;
        if head.len() != 74 {
            return Err(BadKey::Signature);
        }
        match &head[..2] {
            b"ED" => (),
            b"Ed" => return Err(BadKey::Legacy),
            _ => return Err(BadKey::Signature),
        }
        if !comment_is_allowed(&comment) {
            return Err(BadKey::Comment);
        }
        Ok(Signature {
            key_id: *head[2..].first_chunk().expect("its size was checked"),
            signature: *head[10..].first_chunk().expect("its size was checked"),
            global_signature: global.try_into().map_err(|_| BadKey::Signature)?,
            trusted_comment: comment,
        })
    }
}

/// A secret key as a file or a line of base64 has it.
pub struct SecretText {
    line: String,
    /// Algorithms, salt, limits, then the key and its checksum, encrypted if there is a password.
    bytes: Vec<u8>,
}

impl SecretText {
    const BYTES: usize = 158;

    /// From the text of a key file, or its second line alone; `None`: it is not one.
    pub fn parse(text: &str) -> Option<SecretText> {
        let line = text
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty())?
            .to_owned();
        let bytes = STANDARD.decode(&line).ok()?;
        let is_key = bytes.len() == SecretText::BYTES && bytes.starts_with(b"Ed");
        is_key.then_some(SecretText { line, bytes })
    }

    /// The decoded key.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it takes a password to use it.
    pub fn is_encrypted(&self) -> bool {
        self.bytes[2..4] != [0, 0]
    }

    /// Whether there is a checksum of the key.
    pub fn has_checksum(&self) -> bool {
        self.bytes[126..].iter().any(|byte| *byte != 0)
    }

    /// As the text of a key file.
    pub fn as_file(&self) -> String {
        format!("untrusted comment: secret key\n{}\n", self.line)
    }
}

/// Why a secret key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BadSecret {
    #[error("it is not a minisign secret key")]
    Malformed,
    #[error("it is a public key; the secret key of the pair is in NAME.key")]
    Public,
    #[error("there is no such file, and it is not the text of a minisign secret key")]
    Missing,
    #[error("the file cannot be read")]
    Unread,
    #[error("the password is wrong")]
    Password,
    #[error("there is no password; set SAPWOOD_KEY_PASSWORD or run in a terminal")]
    NoPassword,
    #[error("a signal ended the wait for its password")]
    Interrupted,
    #[error("the key could not be made")]
    Unmade,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_there_and_back() {
        let signature = Signature {
            key_id: [1; 8],
            signature: [2; 64],
            global_signature: [3; 64],
            trusted_comment: "timestamp:1\tfile:x\thashed".into(),
        };
        assert_eq!(
            Signature::from_minisig(&signature.to_minisig()),
            Ok(signature.clone())
        );
        assert_eq!(
            SignatureArea::read(&signature.to_area()),
            Ok(SignatureArea::Minisign(signature.clone()))
        );
        let legacy = signature.to_minisig().replace("RUQB", "RWQB");
        assert_eq!(Signature::from_minisig(&legacy), Err(BadKey::Legacy));
        let long = Signature {
            trusted_comment: "c".repeat(373),
            ..signature
        };
        assert_eq!(
            Signature::from_minisig(&long.to_minisig()),
            Err(BadKey::Comment)
        );
        assert_eq!(Signature::from_minisig("x\ny\n"), Err(BadKey::Signature));
        assert!(PublicKey::from_text("untrusted comment: x\nnonsense").is_err());
    }
}
