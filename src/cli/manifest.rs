//! `sapwood manifest`

use std::{
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    disk::regions::StoppableStream,
    engine::{
        create::{self, CreateOptions, Input},
        error::Error,
        events::{Event, Events},
        manifest_file,
        sign::Signer,
    },
};

use super::{args::ManifestArgs, exit::Exit, hints, keys, output::Output, signals};

pub fn run(args: ManifestArgs, output: &mut Output) -> Exit {
    let is_stdio = |path: &Path| path == Path::new("-");
    if args.paths.len() > 1 && (args.output.is_some() || args.name.is_some()) {
        let exit = output.usage(hints::MANIFEST_ONE_FILE);
        return output.done(exit);
    }
    if args.paths.iter().any(|path| is_stdio(path)) && args.output.is_none() {
        let exit =
            output.usage("a manifest of standard input needs -o OUT (-o - for standard output)");
        return output.done(exit);
    }
    if args.output.as_deref().is_some_and(is_stdio) {
        output.stdout_is_data();
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    if args.expires.is_some_and(|expires| expires <= now) {
        let exit = output.usage(hints::EXPIRED);
        return output.done(exit);
    }
    // Only manifests that are meant to follow each other are dated, so that others are the same at any time.
    let dated = args.seq.is_some() || args.expires.is_some() || args.sign.is_some();
    let signer = match args.sign.as_deref().map(keys::signer).transpose() {
        Ok(signer) => signer,
        Err(error) => {
            let exit = output.error(None, None, &error);
            return output.done(exit);
        }
    };
    signals::stop_reading_on_signal();
    let options = CreateOptions {
        block_size: args.block_size.0,
        no_hints: args.no_hints,
        digests: args.digest,
        name: args.name,
        sequence: args.seq.unwrap_or(0),
        published: if dated { now } else { 0 },
        expires: args.expires.unwrap_or(0),
    };
    let exits: Vec<Exit> = args
        .paths
        .iter()
        .map(|path| {
            one(
                path,
                args.output.as_ref(),
                &options,
                signer.as_ref(),
                output,
            )
        })
        .collect();
    let exit = Exit::of_all(exits);
    output.done(exit)
}

fn one(
    path: &Path,
    target: Option<&PathBuf>,
    options: &CreateOptions,
    signer: Option<&Signer>,
    output: &mut Output,
) -> Exit {
    let input = match path == Path::new("-") {
        true => match StoppableStream::new(io::stdin()) {
            Ok(stream) => Input::Stream(Box::new(stream)),
            Err(cause) => return output.refuse(Exit::Failed, &hints::no_threads(&cause)),
        },
        false => Input::File(path.to_owned()),
    };
    let target = target
        .cloned()
        .unwrap_or_else(|| manifest_file::beside(path));
    let out = match target == Path::new("-") {
        true => create::Output::Stream(Box::new(io::stdout())),
        false => create::Output::File(target.clone()),
    };
    let is_file = matches!(out, create::Output::File(_));
    let was_signed = is_file && signer.is_none() && manifest_file::is_signed(&target);
    match create::create(input, out, options, signer) {
        Ok(tree) => {
            if was_signed {
                let message = hints::no_longer_signed(&target);
                output.event(Event::Warning { message });
            }
            let geometry = tree.geometry();
            output.event(Event::Manifest {
                manifest: target,
                root: tree.root(),
                bytes_total: geometry.length(),
                block_size: geometry.block_size(),
                blocks: geometry.blocks(),
            });
            Exit::Ok
        }
        Err(Error::Output(cause)) => output.data_written(Err(cause)),
        Err(error) => output.error(Some(&path.display().to_string()), None, &error),
    }
}
