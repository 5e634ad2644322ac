//! `sapwood keygen` and `sapwood sign`, and how keys are given.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    engine::{
        context::StoreHandle,
        error::Error,
        sign::{self, Signer},
        trust::{self, ToSign},
    },
    format::{
        keys::{BadKey, BadSecret, PublicKey},
        signature::Signature,
        statement::Header,
    },
};

use super::{
    args::{KeygenArgs, SignArgs},
    exit::Exit,
    hints, network,
    output::Output,
    password, signals,
};

pub fn keygen(args: &KeygenArgs, output: &mut Output) -> Exit {
    let password = match args.no_password {
        true => Ok(None),
        false => new_password(),
    };
    let made = match password {
        Ok(password) => sign::keygen(&args.output, password),
        Err(NoPassword::Usage(hint)) => {
            let exit = output.usage(hint);
            return output.done(exit);
        }
        Err(NoPassword::Interrupted) => Err(Error::Key {
            place: "the key".to_owned(),
            cause: BadSecret::Interrupted,
        }),
    };
    match made {
        Ok((secret, public)) => {
            let (secret, public) = (secret.display().to_string(), public.display().to_string());
            output.result(&format!(
                "{secret} (keep it secret) and {public} (give it to those who fetch)"
            ));
            output.json_event("keygen", json!({ "secret": secret, "public": public }));
            output.done(Exit::Ok)
        }
        Err(error) => {
            let exit = output.error(Some(&args.output.display().to_string()), None, &error);
            output.done(exit)
        }
    }
}

pub fn sign(args: &SignArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let shown = args.file.display().to_string();
    let exit = match signed(args, store, output) {
        Ok(key_id) => {
            output.result(&format!("{shown}: signed with key {key_id}"));
            output.json_event("signed", json!({ "path": shown, "key_id": key_id }));
            Exit::Ok
        }
        Err(error) => output.error_of_manifest(Some(&shown), None, &error),
    };
    output.done(exit)
}

fn signed(args: &SignArgs, store: Option<PathBuf>, output: &mut Output) -> Result<String, Error> {
    let sequences = Sequences::new(store, output);
    let signature = match (&args.key, &args.attach) {
        (_, Some(minisig)) => {
            let text = fs::read_to_string(minisig).map_err(|cause| {
                crate::disk::error::DiskError::io(
                    crate::disk::error::FileOperation::Read,
                    minisig,
                    cause,
                )
            })?;
            attached(args, minisig, &text, &sequences, output)?
        }
        (Some(key), None) => {
            let signer = signer(key)?;
            let mut may_sign = |header: &Header| {
                let to_sign = to_sign(header, signer.key_id_hex(), &args.file);
                sequences.may_sign(to_sign, output)
            };
            sign::sign(&args.file, &signer, &mut may_sign)?
        }
        (None, None) => unreachable!("clap asks for one of them"),
    };
    Ok(signature.key_id_hex())
}

fn attached(
    args: &SignArgs,
    minisig: &Path,
    text: &str,
    sequences: &Sequences,
    output: &mut Output,
) -> Result<Signature, Error> {
    let place = minisig.display().to_string();
    let refuse = |cause: BadKey| Error::BadKey {
        place: place.clone(),
        cause,
    };
    let signature = Signature::from_minisig(text).map_err(refuse)?;
    let key = match args.key.as_deref() {
        Some(key) => file_or_text(key)
            .map_err(|_| BadKey::PublicKey)
            .and_then(|text| PublicKey::from_text(&text))
            .map_err(|cause| Error::BadKey {
                place: place_of_key(key),
                cause,
            })?,
        None => key_beside(minisig, &signature).ok_or_else(|| refuse(BadKey::Unknown))?,
    };
    let mut may_sign = |header: &Header| {
        let to_sign = to_sign(header, key.id_hex(), &args.file);
        sequences.may_sign(to_sign, output)
    };
    sign::attach(&args.file, &signature, &place, &key, &mut may_sign)?;
    Ok(signature)
}

fn to_sign(header: &Header, key_id: String, file: &Path) -> ToSign {
    ToSign {
        key_id,
        name: header.name.clone(),
        sequence: header.sequence,
        place: file.display().to_string(),
    }
}

/// The sequence numbers that were signed or accepted before.
pub struct Sequences(StoreHandle);

impl Sequences {
    pub fn new(store: Option<PathBuf>, output: &mut Output) -> Sequences {
        Sequences(signals::block_on_here(network::store(false, store, output)))
    }

    /// See [`trust::may_sign`].
    pub fn may_sign(&self, to_sign: ToSign, output: &mut Output) -> Result<(), Error> {
        signals::block_on_here(trust::may_sign(&self.0, to_sign, output))
    }
}

/// The public key of a signature, if a `.pub` file in the same folder has it.
fn key_beside(minisig: &Path, signature: &Signature) -> Option<PublicKey> {
    let folder = Path::new(".").join(minisig.parent()?);
    let paths = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "pub"))
        .filter_map(|path| PublicKey::from_text(&fs::read_to_string(path).ok()?).ok())
        .find(|key| key.id_hex() == signature.key_id_hex())
}

/// A key as messages name it. A text that is no path may be secret; one as short as this has no secret part of a key.
fn place_of_key(key: &str) -> String {
    match Path::new(key).exists() || key.len() < KEY_TEXT_BYTES_MIN {
        true => key.to_owned(),
        false => "the key".to_owned(),
    }
}

/// A secret key from a file, or its text itself.
pub fn signer(key: &str) -> Result<Signer, Error> {
    let is_there = Path::new(key).exists();
    let refuse = |cause| Error::Key {
        place: place_of_key(key),
        cause,
    };
    let text = file_or_text(key).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => refuse(BadSecret::Missing),
        _ => refuse(BadSecret::Unread),
    })?;
    let signer = Signer::from_text(&text, &mut || ask_password("Password of the key: "));
    signer.map_err(|cause| match cause {
        BadSecret::Malformed if !is_there => refuse(BadSecret::Missing),
        cause => refuse(cause),
    })
}

/// The length of the shortest text of a key, a public one: 42 bytes in base64.
const KEY_TEXT_BYTES_MIN: usize = 56;

/// A public key from a file, or its text itself.
pub fn public_key(key: &str) -> Result<PublicKey, String> {
    let text = file_or_text(key)
        .map_err(|cause| hints::of_key(key, &format!("failed to read it: {cause}")))?;
    PublicKey::from_text(&text)
        .map_err(|cause| hints::of_key(&place_of_key(key), &cause.to_string()))
}

fn file_or_text(key: &str) -> io::Result<String> {
    // The text of a key is one line of base64, or a comment and that line; a path to a file that is there comes first.
    match fs::read_to_string(Path::new(key)) {
        Err(_) if !Path::new(key).exists() && key.trim().len() >= KEY_TEXT_BYTES_MIN => {
            Ok(key.to_owned())
        }
        other => other,
    }
}

/// Why a new key gets no password.
enum NoPassword {
    Usage(&'static str),
    Interrupted,
}

/// A password for a new key, typed twice; `None`: the user wants none.
fn new_password() -> Result<Option<String>, NoPassword> {
    let refuse = |cause: io::Error| match cause.kind() {
        io::ErrorKind::Interrupted => NoPassword::Interrupted,
        _ => NoPassword::Usage(hints::NO_PASSWORD),
    };
    let typed = |prompt| ask_password(prompt).map_err(refuse);
    let password = typed("Password for the new key: ")?;
    let is_typed = std::env::var_os(PASSWORD_VARIABLE).is_none();
    if password.is_empty() {
        let confirmed = is_typed && password::confirm(WITHOUT_PASSWORD).map_err(refuse)?;
        return match confirmed {
            true => Ok(None),
            false => Err(NoPassword::Usage(hints::EMPTY_PASSWORD)),
        };
    }
    match typed("The same password again: ")? == password {
        true => Ok(Some(password)),
        false => Err(NoPassword::Usage(hints::OTHER_PASSWORD)),
    }
}

const WITHOUT_PASSWORD: &str =
    "Without a password, anybody who has the file can sign. Make the key without one? (y/n) ";
const PASSWORD_VARIABLE: &str = "SAPWOOD_KEY_PASSWORD";

/// The password of the environment, or what is typed at the terminal.
fn ask_password(prompt: &str) -> io::Result<String> {
    if let Ok(password) = std::env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    match io::stdin().is_terminal() {
        true => password::prompt(prompt),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}
