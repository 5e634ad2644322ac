//! `sapwood verify`

use std::path::Path;

use crate::{
    core::{tree::Root, trust::Trust},
    engine::{
        error::Error,
        manifest_file::{self, ManifestFile},
        verify::{self, Against, Verdict},
    },
};

use super::{args::VerifyArgs, exit::Exit, output::Output};

pub fn run(args: VerifyArgs, output: &mut Output) -> Exit {
    if args.paths.len() > 1 && (args.manifest.is_some() || args.root.is_some()) {
        let exit = output.usage("--manifest and --root go with one file");
        return output.done(exit);
    }
    let exits: Vec<Exit> =
        args.paths.iter().map(|path| one(path, args.manifest.as_deref(), args.root, output)).collect();
    let exit = Exit::of_all(exits);
    output.done(exit)
}

fn one(path: &Path, manifest: Option<&Path>, root: Option<Root>, output: &mut Output) -> Exit {
    let shown = path.display().to_string();
    if let Err(cause) = crate::disk::files::open_for_reading(path) {
        return output.error(Some(&shown), None, &cause.into());
    }
    let against = match against(path, manifest, root) {
        Ok(Some(against)) => against,
        Ok(None) => {
            let message = format!("{shown} has no manifest beside it; give one with --manifest, or a root with --root");
            return output.fail(Some(&shown), None, Exit::Usage, &message, serde_json::json!({}));
        }
        Err(error) => return output.error(Some(&shown), None, &error),
    };
    match verify::verify(path, &against, output) {
        Ok(Verdict::Verified) => Exit::Ok,
        Ok(Verdict::Damaged { blocks }) => {
            let message = format!("{shown} does not verify: {blocks} place(s) differ. Fetch it again to repair it");
            output.fail(Some(&shown), None, Exit::NotVerified, &message, serde_json::json!({}))
        }
        Err(error) => output.error(Some(&shown), None, &error),
    }
}

/// What to compare with; `None`: nothing is known.
fn against(path: &Path, manifest: Option<&Path>, root: Option<Root>) -> Result<Option<Against>, Error> {
    let beside = manifest_file::beside(path);
    let manifest = match manifest {
        Some(manifest) => Some(ManifestFile::open(manifest)?),
        None => match ManifestFile::open(&beside) {
            Ok(manifest) => Some(manifest),
            Err(Error::Disk(cause)) if cause.is_missing() => None,
            // With a root of the user's own, what lies beside the file is not needed.
            Err(_) if root.is_some() => None,
            Err(other) => return Err(other),
        },
    };
    Ok(match (manifest, root) {
        (Some(manifest), Some(asked)) if manifest.manifest.statement.header().root != asked => {
            let found = manifest.manifest.statement.header().root;
            return Err(Error::OtherRoot { place: manifest.path.display().to_string(), asked, found });
        }
        (Some(manifest), root) => {
            let trust = if root.is_some() { Trust::Root } else { Trust::Manifest };
            Some(Against::Manifest { manifest: Box::new(manifest), trust })
        }
        (None, root) => root.map(Against::Root),
    })
}
