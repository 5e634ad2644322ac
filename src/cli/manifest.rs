//! `sapwood manifest`

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{
    disk::regions::StoppableStream,
    engine::{
        cat::Wanted,
        create::{self, CreateOptions, Input},
        error::Error,
        events::{Event, Events, ManifestPart, Progress},
        library::create::{self as create_library, LibraryOptions},
        manifest_file, parts,
        sign::Signer,
        trust::ToSign,
    },
    format::{compression::PackOptions, library, manifest::Tree},
};

use super::{
    args::ManifestArgs,
    exit::Exit,
    hints,
    keys::{self, Sequences},
    output::Output,
    signals,
};

/// Between two reports of progress.
const PROGRESS_TIME: Duration = Duration::from_secs(1);

pub fn run(args: ManifestArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let is_stdio = |path: &Path| path == Path::new("-");
    let checked = check_files(&args).and_then(|()| check_parts(&args));
    if let Err(hint) = checked.and_then(|()| check_folders(&args)) {
        let exit = output.usage(hint);
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
        Ok(signer) => signer.map(|signer| Signing {
            signer,
            sequences: Sequences::new(store, output),
        }),
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
        pack: args.pack.wanted.then(|| PackOptions {
            level: args.pack.level.unwrap_or(PackOptions::default().level),
            whole: args.pack.whole,
        }),
    };
    if let (true, Some(out)) = (args.join, &args.output) {
        let exit = join(&args.paths, out, &options, signer.as_ref(), output);
        return output.done(exit);
    }
    if let (Some(range), Some(out)) = (args.range, &args.output) {
        let exit = part(&args.paths[0], range, out, &options, output);
        return output.done(exit);
    }
    let one = |path: &PathBuf| match path.is_dir() {
        true => folder(path, &options, args.read_all, signer.as_ref(), output),
        false => one(
            path,
            args.output.as_ref(),
            &options,
            signer.as_ref(),
            output,
        ),
    };
    let exits: Vec<Exit> = args.paths.iter().map(one).collect();
    let exit = output.results(Exit::of_all(exits));
    output.done(exit)
}

/// How manifests are signed.
struct Signing {
    signer: Signer,
    sequences: Sequences,
}

impl Signing {
    /// Refuses a sequence number that is lower than one of before. `named`: the name of the user, `default`: the other one.
    fn check(
        signing: Option<&Signing>,
        place: &Path,
        (named, default): (Option<&String>, impl FnOnce() -> String),
        sequence: u64,
        output: &mut Output,
    ) -> Result<(), Error> {
        let Some(signing) = signing else {
            return Ok(());
        };
        let to_sign = ToSign {
            key_id: signing.signer.key_id_hex(),
            name: named.cloned().unwrap_or_else(default),
            sequence,
            place: place.display().to_string(),
        };
        signing.sequences.may_sign(to_sign, output)
    }

    fn signer(signing: Option<&Signing>) -> Option<&Signer> {
        signing.map(|signing| &signing.signer)
    }
}

/// Joins parts to a manifest.
fn join(
    parts: &[PathBuf],
    out: &Path,
    options: &CreateOptions,
    signing: Option<&Signing>,
    output: &mut Output,
) -> Exit {
    let name = (options.name.as_ref(), || parts::default_name(out));
    let may_sign = Signing::check(signing, out, name, options.sequence, output);
    let joined = may_sign.and_then(|()| parts::join(parts, out, options, Signing::signer(signing)));
    match joined {
        Ok(tree) => {
            output.event(of_manifest(out.to_owned(), &tree, None));
            Exit::Ok
        }
        Err(error) => output.error(Some(&out.display().to_string()), None, &error),
    }
}

/// Describes a range of a file.
fn part(
    path: &Path,
    range: Wanted,
    out: &Path,
    options: &CreateOptions,
    output: &mut Output,
) -> Exit {
    output.reads_file(path);
    let described = parts::describe(path, |length| range.within(length), out, options);
    output.has_read();
    match described {
        Ok(header) => {
            output.event(Event::ManifestPart(ManifestPart {
                path: out.to_owned(),
                bytes: header.bytes(),
                bytes_total: header.geometry.length(),
                block_size: header.geometry.block_size(),
            }));
            Exit::Ok
        }
        Err(error) => output.error(Some(&path.display().to_string()), None, &error),
    }
}

fn of_manifest(manifest: PathBuf, tree: &Tree, pack_bytes: Option<u64>) -> Event {
    let geometry = tree.geometry();
    Event::Manifest {
        manifest,
        root: tree.root(),
        bytes_total: geometry.length(),
        block_size: geometry.block_size(),
        blocks: geometry.blocks(),
        pack_bytes,
    }
}

/// Refuses options that have no meaning for a folder, or for anything else.
fn check_folders(args: &ManifestArgs) -> Result<(), &'static str> {
    let is_part = args.range.is_some() || args.join;
    let has_folder = !is_part && args.paths.iter().any(|path| path.is_dir());
    if has_folder && args.pack.whole {
        return Err(hints::WHOLE_PACK_FOLDER);
    }
    if has_folder && (args.output.is_some() || !args.digest.is_empty()) {
        return Err(hints::LIBRARY_PLACE);
    }
    match args.read_all && !has_folder {
        true => Err(hints::READ_ALL_FOLDER),
        false => Ok(()),
    }
}

/// Refuses options of one file for several, and standard input without an output.
fn check_files(args: &ManifestArgs) -> Result<(), &'static str> {
    let is_of_one = args.output.is_some() || args.name.is_some();
    if args.paths.len() > 1 && is_of_one && !args.join {
        return Err(hints::MANIFEST_ONE_FILE);
    }
    if args.pack.wanted && args.output.as_deref() == Some(Path::new("-")) {
        return Err(hints::PACK_TO_STDOUT);
    }
    let has_stdin = args.paths.iter().any(|path| path == Path::new("-"));
    match has_stdin && args.output.is_none() {
        true => Err(hints::STDIN_NEEDS_OUTPUT),
        false => Ok(()),
    }
}

/// Refuses options that have no meaning for parts, and standard streams: a part is written in no order.
fn check_parts(args: &ManifestArgs) -> Result<(), &'static str> {
    let is_stdio = |path: &Path| path == Path::new("-");
    let has_stdio = args
        .paths
        .iter()
        .map(PathBuf::as_path)
        .chain(args.output.as_deref())
        .any(is_stdio);
    let is_signed = args.sign.is_some() || args.seq.is_some() || args.expires.is_some();
    let has_particulars = is_signed || args.name.is_some();
    let has_form = args.block_size.0.is_some() || args.no_hints;
    match (args.range.is_some(), args.join) {
        (false, false) => Ok(()),
        _ if has_stdio || !args.digest.is_empty() => Err(hints::PARTS_OF_FILES),
        (true, _) if has_particulars => Err(hints::PART_HAS_NO_NAME),
        (_, true) if has_form => Err(hints::PARTS_HAVE_FORM),
        _ => Ok(()),
    }
}

/// Publishes a folder as a library.
fn folder(
    path: &Path,
    options: &CreateOptions,
    reads_all: bool,
    signing: Option<&Signing>,
    output: &mut Output,
) -> Exit {
    let options = LibraryOptions {
        name: options.name.clone(),
        block_size: options.block_size,
        no_hints: options.no_hints,
        reads_all,
        sequence: options.sequence,
        published: options.published,
        expires: options.expires,
        pack: options.pack,
    };
    let manifest = path.join(library::MANIFEST);
    let was_signed = signing.is_none() && manifest_file::is_signed(&manifest);
    let name = (options.name.as_ref(), || create_library::name_of(path));
    let may_sign = Signing::check(signing, path, name, options.sequence, output);
    output.about(Some(path.display().to_string()));
    let shown = path.display().to_string();
    let told = Mutex::new((Instant::now(), &mut *output));
    let progress = |bytes_done: u64, bytes_total: u64| {
        let mut told = told.lock();
        let now = Instant::now();
        if bytes_done == 0 {
            told.1.reads(&shown, bytes_total);
        }
        if now >= told.0 + PROGRESS_TIME {
            told.0 = now;
            told.1.event(Event::Progress(Progress {
                bytes_done,
                bytes_total,
                ..Progress::default()
            }));
        }
    };
    let signer = Signing::signer(signing);
    let made = may_sign.and_then(|()| create_library::create(path, &options, signer, &progress));
    output.has_read();
    match made {
        Ok(made) => {
            if was_signed {
                let message = hints::no_longer_signed(&manifest);
                output.event(Event::Warning { message });
            }
            output.event(Event::Library(made));
            Exit::Ok
        }
        Err(error) => output.error(Some(&path.display().to_string()), None, &error),
    }
}

fn one(
    path: &Path,
    target: Option<&PathBuf>,
    options: &CreateOptions,
    signing: Option<&Signing>,
    output: &mut Output,
) -> Exit {
    let is_stdin = path == Path::new("-");
    let default = || match is_stdin {
        true => String::new(),
        false => create::name_of(path),
    };
    let name = (options.name.as_ref(), default);
    if let Err(error) = Signing::check(signing, path, name, options.sequence, output) {
        return output.error(Some(&path.display().to_string()), None, &error);
    }
    let input = match is_stdin {
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
    let was_signed = is_file && signing.is_none() && manifest_file::is_signed(&target);
    match is_stdin {
        true => output.reads("standard input", 0),
        false => output.reads_file(path),
    }
    let made = create::create(input, out, options, Signing::signer(signing));
    output.has_read();
    match made {
        Ok(made) => {
            if was_signed {
                let message = hints::no_longer_signed(&target);
                output.event(Event::Warning { message });
            }
            output.event(of_manifest(target, &made.tree, made.pack_bytes));
            if options.pack.is_some() && made.pack_bytes.is_none() {
                let message = hints::no_pack(path);
                output.event(Event::Warning { message });
            }
            Exit::Ok
        }
        Err(Error::Output(cause)) => output.data_written(Err(cause)),
        Err(error) => output.error(Some(&path.display().to_string()), None, &error),
    }
}
