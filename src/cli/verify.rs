//! `sapwood verify`

use std::path::Path;

use crate::{
    disk::{destination::quarantine, files},
    engine::{
        error::Error,
        manifest_file::{self, ManifestFile},
        verify::{self, Against, Verdict},
    },
    format::{
        keys::{NotSigned, PublicKey},
        tree::Root,
    },
};

use super::{args::VerifyArgs, exit::Exit, hints, keys, output::Output};

pub fn run(args: VerifyArgs, output: &mut Output) -> Exit {
    if args.paths.len() > 1 && (args.manifest.is_some() || args.root.is_some()) {
        let exit = output.usage(hints::VERIFY_ONE_FILE);
        return output.done(exit);
    }
    let key = match args.key.as_deref().map(keys::public_key).transpose() {
        Ok(key) => key,
        Err(message) => {
            let exit = output.usage(&message);
            return output.done(exit);
        }
    };
    let exits: Vec<Exit> = args
        .paths
        .iter()
        .map(|path| one(path, &args, key.as_ref(), output))
        .collect();
    let exit = Exit::of_all(exits);
    output.done(exit)
}

fn one(path: &Path, args: &VerifyArgs, key: Option<&PublicKey>, output: &mut Output) -> Exit {
    let shown = path.display().to_string();
    match check(path, args, key, output) {
        Ok(None) => Exit::Ok,
        Ok(Some((exit, message))) => {
            output.fail(Some(&shown), None, exit, &format!("{shown} {message}"))
        }
        Err(error) => output.error(Some(&shown), None, &error),
    }
}

/// `None`: it verifies.
fn check(
    path: &Path,
    args: &VerifyArgs,
    key: Option<&PublicKey>,
    output: &mut Output,
) -> Result<Option<(Exit, String)>, Error> {
    files::open_for_reading(path)?;
    let Some(against) = against(path, args.manifest.as_deref(), args.root, key)? else {
        let message = format!("has no manifest beside it; {}", hints::VERIFY_AGAINST);
        return Ok(Some((Exit::Usage, message)));
    };
    let Verdict::Damaged { blocks } = verify::verify(path, &against, output)? else {
        return Ok(None);
    };
    let next = match args.quarantine {
        true => format!("It is kept as {}", quarantine(path)?.display()),
        false => "Fetch it again to repair it".to_owned(),
    };
    let message = format!("does not verify: {blocks} place(s) differ. {next}");
    Ok(Some((Exit::NotVerified, message)))
}

/// What to compare with; `None`: nothing is known.
fn against(
    path: &Path,
    manifest: Option<&Path>,
    root: Option<Root>,
    key: Option<&PublicKey>,
) -> Result<Option<Against>, Error> {
    let beside = manifest_file::beside(path);
    let manifest = match manifest {
        Some(manifest) => Some(ManifestFile::open(manifest)?),
        None => match ManifestFile::open(&beside) {
            Ok(manifest) => Some(manifest),
            Err(Error::Disk(cause)) if cause.is_missing() => None,
            // With a root of the user's own, what lies beside the file is not needed; unless it must be signed.
            Err(_) if root.is_some() && key.is_none() => None,
            Err(other) => return Err(other),
        },
    };
    if manifest.is_none() && key.is_some() && root.is_some() {
        return Err(Error::NotSigned {
            place: beside.display().to_string(),
            cause: NotSigned::Unsigned,
        });
    }
    if let (Some(manifest), Some(key)) = (&manifest, key) {
        let checked = key.check(
            manifest.manifest.statement.bytes(),
            manifest.manifest.signature.as_ref(),
        );
        checked.map_err(|cause| Error::NotSigned {
            place: manifest.path.display().to_string(),
            cause,
        })?;
    }
    Ok(match manifest {
        Some(manifest) => Some(Against::Manifest {
            trust: verify::trust_of(&manifest, root, key)?,
            manifest: Box::new(manifest),
        }),
        None => root.map(Against::Root),
    })
}
