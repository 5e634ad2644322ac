//! `sapwood store`

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    disk::{
        state::{self, Holding},
        store::Store,
    },
    engine::{
        context::open_store,
        error::Error,
        store::{self, Status},
        verify::Verdict,
    },
    format::characters::printable,
};

use super::{
    args::{StoreArgs, StoreCommand},
    exit::Exit,
    hints,
    output::Output,
    signals,
    units::human_bytes,
};

pub fn run(args: &StoreArgs, folder: Option<PathBuf>, output: &mut Output) -> Exit {
    let Some(folder) = folder.or_else(state::default_folder) else {
        let exit = output.usage(hints::NO_STORE_FOLDER);
        return output.done(exit);
    };
    signals::stop_reading_on_signal();
    let opened = open_store(&folder);
    let done = opened.and_then(|mut store| match &args.command {
        StoreCommand::Status => status(&mut store, &folder, output),
        StoreCommand::List => list(&mut store, output),
        StoreCommand::Add { paths } => Ok(add(&mut store, paths, output)),
        StoreCommand::Forget { paths } => forget(&mut store, paths, output),
        StoreCommand::Verify => verify(&mut store, output),
        StoreCommand::Gc { max_size } => {
            store::collect(&mut store, *max_size, output)?;
            status(&mut store, &folder, output)
        }
    });
    let exit = done.unwrap_or_else(|error| output.error(None, None, &error));
    output.done(exit)
}

fn status(store: &mut Store, folder: &Path, output: &mut Output) -> Result<Exit, Error> {
    let Status {
        files,
        bytes_of_files,
        own_objects,
        bytes_own,
        bytes_own_max,
        bytes_index,
        samples,
    } = store::status(store)?;
    let bytes = human_bytes;
    output.result(&format!("folder  {}", folder.display()));
    output.result(&format!(
        "files   {files} of yours, {}",
        bytes(bytes_of_files)
    ));
    output.result(&format!(
        "own     {own_objects} object(s), {} of at most {}",
        bytes(bytes_own),
        bytes(bytes_own_max)
    ));
    output.result(&format!(
        "index   {}, {samples} sample(s)",
        bytes(bytes_index)
    ));
    output.json_event(
        "store",
        json!({
            "folder": folder.to_string_lossy(), "files": files, "bytes_of_files": bytes_of_files, "own_objects": own_objects,
            "bytes_own": bytes_own, "bytes_own_max": bytes_own_max, "bytes_index": bytes_index, "samples": samples,
        }),
    );
    Ok(output.printed())
}

fn list(store: &mut Store, output: &mut Output) -> Result<Exit, Error> {
    for holding in store.state().holdings()? {
        let Holding {
            path,
            own,
            root,
            geometry,
            bytes,
            used,
            provenance,
            ..
        } = &holding;
        let length = geometry.length();
        let held = match *bytes == length {
            true => human_bytes(length),
            false => format!("{} of {}", human_bytes(*bytes), human_bytes(length)),
        };
        let whose = if *own { "  (own)" } else { "" };
        output.result(&format!("{root}  {held}  {}{whose}", path.display()));
        output.json_event(
            "holding",
            json!({
                "path": path.to_string_lossy(), "root": root.to_string(), "own": own, "bytes_held": bytes, "bytes_total": length,
                "used": used, "url": provenance.url, "name": provenance.name,
            }),
        );
    }
    Ok(output.printed())
}

fn add(store: &mut Store, paths: &[PathBuf], output: &mut Output) -> Exit {
    let mut exits = Vec::new();
    for path in paths {
        match store::check_path(path).and_then(|()| store::files_of(path)) {
            Ok(files) => {
                let bytes = files.iter().filter_map(|file| file.metadata().ok());
                let bytes = bytes.map(|metadata| metadata.len()).sum();
                output.reads(&path.display().to_string(), bytes);
                exits.extend(files.iter().map(|file| add_one(store, file, output)));
                output.has_read();
            }
            Err(error) => exits.push(output.error(Some(&path.to_string_lossy()), None, &error)),
        }
    }
    Exit::of_all(exits)
}

fn add_one(store: &mut Store, path: &Path, output: &mut Output) -> Exit {
    match store::add(store, path, output) {
        Ok(()) => Exit::Ok,
        Err(error) => output.error(Some(&path.to_string_lossy()), None, &error),
    }
}

fn forget(store: &mut Store, paths: &[PathBuf], output: &mut Output) -> Result<Exit, Error> {
    let mut exits = Vec::new();
    for path in paths {
        exits.push(match store::forget(store, path, output)? {
            0 => {
                let path = path.display().to_string();
                let message = format!("{}: the store knows no file there", printable(&path));
                output.fail(Some(&path), None, Exit::Failed, &message)
            }
            _ => Exit::Ok,
        });
    }
    Ok(Exit::of_all(exits))
}

fn verify(store: &mut Store, output: &mut Output) -> Result<Exit, Error> {
    let mut exits = Vec::new();
    let holdings = store.state().holdings()?;
    let bytes = holdings.iter().map(|holding| holding.bytes).sum();
    output.reads("store", bytes);
    for holding in holdings {
        let path = holding.path.clone();
        let shown = path.to_string_lossy();
        exits.push(match store::verify(store, holding, output) {
            Ok(None | Some(Verdict::Verified)) => Exit::Ok,
            Ok(Some(Verdict::Damaged { blocks })) => {
                let shown = printable(&shown);
                let message = format!(
                    "{shown}: {blocks} block(s) are damaged, although nothing wrote to the file; the store no longer uses them"
                );
                output.fail(Some(&shown), None, Exit::NotVerified, &message)
            }
            Err(error) => output.error(Some(&shown), None, &error),
        });
    }
    output.has_read();
    Ok(Exit::of_all(exits))
}
