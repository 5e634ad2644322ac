//! `sapwood keygen` and `sapwood sign`, and how keys are given.

use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
};

use serde_json::json;

use crate::{
    engine::{
        error::Error,
        sign::{self, Signer},
    },
    format::{
        keys::{BadKey, BadSecret, PublicKey},
        signature::Signature,
    },
};

use super::{
    args::{KeygenArgs, SignArgs},
    exit::Exit,
    hints,
    output::Output,
    password,
};

pub fn keygen(args: &KeygenArgs, output: &mut Output) -> Exit {
    let password = match args.no_password {
        true => Ok(None),
        false => new_password().map(Some),
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

pub fn sign(args: &SignArgs, output: &mut Output) -> Exit {
    let shown = args.file.display().to_string();
    let exit = match signed(args) {
        Ok(key_id) => {
            output.result(&format!("{shown}: signed with key {key_id}"));
            output.json_event("signed", json!({ "path": shown, "key_id": key_id }));
            Exit::Ok
        }
        Err(error) => output.error_of_manifest(Some(&shown), None, &error),
    };
    output.done(exit)
}

fn signed(args: &SignArgs) -> Result<String, Error> {
    let signature = match (&args.key, &args.attach) {
        (_, Some(minisig)) => {
            let text = fs::read_to_string(minisig).map_err(|cause| {
                crate::disk::error::DiskError::io(
                    crate::disk::error::FileOperation::Read,
                    minisig,
                    cause,
                )
            })?;
            attached(&args.file, minisig, &text, args.key.as_deref())?
        }
        (Some(key), None) => sign::sign(&args.file, &signer(key)?)?,
        (None, None) => unreachable!("clap asks for one of them"),
    };
    Ok(signature.key_id_hex())
}

fn attached(
    file: &Path,
    minisig: &Path,
    text: &str,
    key: Option<&str>,
) -> Result<Signature, Error> {
    let place = minisig.display().to_string();
    let refuse = |cause: BadKey| Error::BadKey {
        place: place.clone(),
        cause,
    };
    let signature = Signature::from_minisig(text).map_err(refuse)?;
    let key = match key {
        Some(key) => file_or_text(key)
            .map_err(|_| BadKey::PublicKey)
            .and_then(|text| PublicKey::from_text(&text))
            .map_err(|cause| Error::BadKey {
                place: "the key".to_owned(),
                cause,
            })?,
        None => key_beside(minisig, &signature).ok_or_else(|| refuse(BadKey::Unknown))?,
    };
    sign::attach(file, &signature, &place, &key)?;
    Ok(signature)
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

/// A secret key from a file, or its text itself.
pub fn signer(key: &str) -> Result<Signer, Error> {
    let is_there = Path::new(key).exists();
    let refuse = |cause| Error::Key {
        // A text that is no path may be secret; one as short as this has no secret part of a key.
        place: match is_there || key.len() < KEY_TEXT_BYTES_MIN {
            true => key.to_owned(),
            false => "the key".to_owned(),
        },
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
    let text =
        file_or_text(key).map_err(|cause| format!("failed to read the key {key}: {cause}"))?;
    PublicKey::from_text(&text).map_err(|cause| format!("{key}: {cause}"))
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

/// A password for a new key, typed twice.
fn new_password() -> Result<String, NoPassword> {
    let typed = |prompt| {
        ask_password(prompt).map_err(|cause| match cause.kind() {
            io::ErrorKind::Interrupted => NoPassword::Interrupted,
            _ => NoPassword::Usage(hints::NO_PASSWORD),
        })
    };
    let password = typed("Password for the new key: ")?;
    match password.is_empty() {
        true => Err(NoPassword::Usage(hints::EMPTY_PASSWORD)),
        false if typed("The same password again: ")? != password => {
            Err(NoPassword::Usage(hints::OTHER_PASSWORD))
        }
        false => Ok(password),
    }
}

/// The password of the environment, or what is typed at the terminal.
fn ask_password(prompt: &str) -> io::Result<String> {
    if let Ok(password) = std::env::var("SAPWOOD_KEY_PASSWORD") {
        return Ok(password);
    }
    match io::stdin().is_terminal() {
        true => password::prompt(prompt),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}
