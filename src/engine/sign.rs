//! Making keys and signing manifests, as minisign does.

use std::{
    fs::File,
    io::{self, Cursor},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use minisign::{KeyPair, SecretKey, SecretKeyBox};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files,
        temporary::{Replaces, Temporary},
    },
    format::{
        keys::PublicKey, layout::FRONT_BYTES, manifest, signature::Signature, statement::Header,
    },
};

use super::{error::Error, manifest_file::CheckedFile};
use crate::format::keys::{BadSecret, SecretText};

/// Prompts for the password of an encrypted key.
pub type Password<'a> = &'a mut dyn FnMut() -> io::Result<String>;

/// Makes a key pair: NAME.key, readable by its owner only, and NAME.pub. Never replaces an existing file. Without a password the
/// key is not encrypted.
pub fn keygen(name: &Path, password: Option<String>) -> Result<(PathBuf, PathBuf), Error> {
    let (secret_path, public_path) = (with_suffix(name, ".key"), with_suffix(name, ".pub"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |_| Error::Key {
            place: path.display().to_string(),
            cause: BadSecret::Unmade,
        }
    };
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(failed(&secret_path))?;
    let secret = pair
        .sk
        .to_box(Some("Sapwood secret key"))
        .map_err(failed(&secret_path))?;
    let public = pair.pk.to_box().map_err(failed(&public_path))?;
    let (secret_file, public_file) = (
        Temporary::create(&secret_path, Replaces::Nothing)?,
        Temporary::create(&public_path, Replaces::Nothing)?,
    );
    secret_file.write_at(secret.into_string().as_bytes(), 0)?;
    public_file.write_at(public.into_string().as_bytes(), 0)?;
    secret_file.publish(Some(0o600))?;
    public_file.publish(Some(0o644))?;
    Ok((secret_path, public_path))
}

fn with_suffix(name: &Path, suffix: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A secret key that can sign.
pub struct Signer(SecretKey);

impl Signer {
    /// Parses a key file. Prompts for the password only if the key is encrypted.
    pub fn from_text(text: &str, password: Password) -> Result<Signer, BadSecret> {
        if PublicKey::from_text(text).is_ok() {
            return Err(BadSecret::Public);
        }
        let text = SecretText::parse(text).ok_or(BadSecret::Malformed)?;
        if let Some(key) = unencrypted(&text) {
            return Ok(Signer(key));
        }
        // What is not encrypted has no password.
        if !text.is_encrypted() {
            return Err(BadSecret::Malformed);
        }
        let password = password().map_err(|cause| match cause.kind() {
            io::ErrorKind::Interrupted => BadSecret::Interrupted,
            _ => BadSecret::NoPassword,
        })?;
        let boxed = SecretKeyBox::from_string(&text.as_file()).map_err(|_| BadSecret::Malformed)?;
        SecretKey::from_box(boxed, Some(password))
            .map(Signer)
            .map_err(|_| BadSecret::Password)
    }

    /// The key id as minisign prints it.
    pub fn key_id_hex(&self) -> String {
        let id = self.0.keynum().try_into().unwrap_or_default();
        format!("{:016X}", u64::from_le_bytes(id))
    }

    /// Signs the exact bytes of a statement.
    pub fn sign(&self, statement: &[u8]) -> Result<Signature, Error> {
        let place = || "the key".to_owned();
        let signed = minisign::sign(None, &self.0, Cursor::new(statement), None, None);
        let signed = signed.map_err(|_| Error::Key {
            place: place(),
            cause: BadSecret::Malformed,
        })?;
        Signature::from_minisig(&signed.to_string()).map_err(|cause| Error::BadKey {
            place: place(),
            cause,
        })
    }
}

/// A key without a password. `minisign -W` leaves its checksum zero; other programs write one.
fn unencrypted(text: &SecretText) -> Option<SecretKey> {
    match (text.is_encrypted(), text.has_checksum()) {
        (true, _) => None,
        (false, false) => SecretKey::from_bytes(text.bytes()).ok(),
        (false, true) => {
            let boxed = SecretKeyBox::from_string(&text.as_file());
            SecretKey::from_unencrypted_box(boxed.ok()?).ok()
        }
    }
}

/// Decides whether a manifest with this header may be signed.
pub type MaySign<'a> = &'a mut dyn FnMut(&Header) -> Result<(), Error>;

/// Signs a manifest in place: it is replaced by a signed copy.
pub fn sign(path: &Path, signer: &Signer, may_sign: MaySign) -> Result<Signature, Error> {
    let manifest = CheckedFile::open_of(path, |_| ())?;
    may_sign(manifest.statement.header())?;
    let signature = signer.sign(manifest.statement.bytes())?;
    replace_signature(&manifest, &signature)?;
    Ok(signature)
}

/// Puts a signature made by another program into a manifest. It must be a valid one of its statement, by this key. `place` names
/// the signature in errors.
pub fn attach(
    path: &Path,
    signature: &Signature,
    place: &str,
    key: &PublicKey,
    may_sign: MaySign,
) -> Result<(), Error> {
    let manifest = CheckedFile::open_of(path, |_| ())?;
    let checked = key.check_signature(manifest.statement.bytes(), signature);
    checked.map_err(|cause| Error::NotSigned {
        place: place.to_owned(),
        cause,
    })?;
    may_sign(manifest.statement.header())?;
    replace_signature(&manifest, signature)
}

fn replace_signature(manifest: &CheckedFile, signature: &Signature) -> Result<(), Error> {
    let front = manifest::front(&manifest.statement, Some(signature));
    let temporary = Temporary::create(&manifest.path, Replaces::Manifest)?;
    temporary.write_at(&front, 0)?;
    let original = files::open_for_reading(&manifest.path)?;
    // A trailer belongs to the signature that is replaced.
    copy_rest(
        &original,
        &manifest.path,
        manifest.statement.header().sections_end(),
        &temporary,
    )?;
    temporary.publish(None)?;
    Ok(())
}

fn copy_rest(original: &File, path: &Path, length: u64, to: &Temporary) -> Result<(), Error> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = FRONT_BYTES as u64;
    while at < length {
        let count = buffer.len().min((length - at) as usize);
        original
            .read_exact_at(&mut buffer[..count], at)
            .map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
        to.write_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}
