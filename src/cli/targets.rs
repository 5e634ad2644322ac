//! The URLs to fetch and the files to write, from arguments or from a list.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use crate::{
    disk::{
        error::DiskError,
        files::{MadeFolder, is_same_file},
    },
    engine::{fetch::ManifestPlace, manifest_file, read::growing},
    format::{digests::Digest, library, tree::Root},
    net::location::{self, Location},
};

use super::{
    args::{FetchArgs, GatewayArgs},
    exit::Exit,
    input::{self, name_of},
    list::{Entry, Line},
    names,
    network::{Refusal, location, manifest_place, object},
};

/// One object and its target.
pub struct Job {
    pub url: Location,
    pub target: PathBuf,
    /// The server chose the name: another file that has it is not replaced.
    pub is_suggested: bool,
    pub receipt: Option<PathBuf>,
    /// The list may say these of one object.
    pub root: Option<Root>,
    pub digests: Vec<Digest>,
    pub mirrors: Vec<Location>,
    pub manifest: Option<ManifestPlace>,
    /// Body bytes that arrived for it, in all rounds.
    pub fetched: Arc<AtomicU64>,
}

impl Job {
    pub fn path(&self) -> String {
        self.target.display().to_string()
    }
}

/// What was typed, or what the list has.
pub fn entries(args: &FetchArgs) -> Result<Vec<Line>, Refusal> {
    match &args.input {
        Some(place) => input::read(place),
        None => Ok(args.urls.iter().map(|url| Ok(Entry::of_url(url))).collect()),
    }
}

/// The jobs, and the entries that are none, each with its reason. An error: the command as a whole makes no sense.
pub fn jobs(args: &FetchArgs, entries: Vec<Line>) -> Result<(Vec<Job>, Vec<Refusal>), Refusal> {
    let several = entries.len() > 1;
    let folder = folder(args.output.as_deref());
    if several {
        check_several(args, folder.as_deref())?;
    }
    let mut jobs = Vec::new();
    let mut refusals = Vec::new();
    let mut targets = BTreeSet::new();
    for entry in entries {
        let (line, entry) = match entry {
            Ok(entry) => (entry.line, Ok(entry)),
            Err((line, wrong)) => (line, Err(wrong)),
        };
        let at_line = |Refusal(exit, message): Refusal| match (line, &args.input) {
            (Some(line), Some(list)) => {
                Refusal(exit, format!("{}, line {line}: {message}", name_of(list)))
            }
            _ => Refusal(exit, message),
        };
        match entry.and_then(|entry| job(entry, args, folder.as_deref())) {
            Ok(job) if targets.insert(job.target.clone()) => jobs.push(job),
            Ok(job) => {
                let message = format!(
                    "two URLs have the same file name {}; fetch them one by one with -o",
                    job.target.display()
                );
                return Err(at_line(Refusal::usage(message)));
            }
            Err(refusal) => refusals.push(at_line(refusal)),
        }
    }
    check_places(&jobs, args)?;
    Ok((jobs, refusals))
}

/// No job may replace the list, and no receipt or manifest the target of another job.
fn check_places(jobs: &[Job], args: &FetchArgs) -> Result<(), Refusal> {
    let list = args.input.as_deref();
    // As folders are typed, they may begin with a dot.
    let plain = |path: &Path| -> PathBuf {
        let segments = path.components();
        segments
            .filter(|segment| *segment != Component::CurDir)
            .collect()
    };
    let targets: BTreeSet<PathBuf> = jobs.iter().map(|job| plain(&job.target)).collect();
    let is_target = |receipt: &&PathBuf| jobs.len() > 1 && targets.contains(&plain(receipt));
    let refuse = |path: &Path, what: &str| {
        let message = format!("{} cannot be written: it is {what}", path.display());
        Err(Refusal::usage(message))
    };
    for job in jobs {
        if let Some(receipt) = job.receipt.as_ref().filter(is_target) {
            return refuse(receipt, "the target of another URL");
        }
        let manifest = args
            .save_manifest
            .then(|| manifest_file::beside(&job.target));
        if let Some(manifest) = manifest.filter(|manifest| is_target(&manifest)) {
            return refuse(&manifest, "the target of another URL");
        }
        if list.is_some_and(|list| is_same_file(list, &job.target)) {
            return refuse(&job.target, "the list of URLs");
        }
    }
    Ok(())
}

/// Makes the folders that were named with a slash at the end, or in names of a list, and are not there. The innermost come first.
pub fn make_folders(args: &FetchArgs, jobs: &[Job]) -> Result<Vec<MadeFolder>, DiskError> {
    let named = [&args.output, &args.receipt].into_iter().flatten();
    let mut made = Vec::new();
    for folder in named.filter_map(|place| folder(Some(place))) {
        made.extend(MadeFolder::make(&folder)?);
    }
    if args.input.is_some() {
        let parents: BTreeSet<&Path> = jobs.iter().filter_map(|job| job.target.parent()).collect();
        for parent in parents {
            made.splice(0..0, MadeFolder::make_all(parent)?);
        }
    }
    Ok(made)
}

/// Options that make sense for one URL only.
fn check_several(args: &FetchArgs, folder: Option<&Path>) -> Result<(), Refusal> {
    let usage = |message: &str| Err(Refusal::usage(message));
    for_one_url(&[
        ("--root", args.root.is_some()),
        ("--manifest", args.manifest.is_some()),
        ("--digest", !args.digest.is_empty()),
        ("--sha256", args.sha256.is_some()),
        ("--mirror", !args.mirror.is_empty()),
    ])?;
    if args.output.is_some() && folder.is_none() {
        return usage(
            "several URLs need a folder as -o (an existing one, or with a slash at its end)",
        );
    }
    if args.receipt.is_some() && self::folder(args.receipt.as_deref()).is_none() {
        return usage(
            "several URLs need a folder as --receipt (an existing one, or with a slash at its end)",
        );
    }
    Ok(())
}

/// `given`: flags, and whether each was given beside several URLs.
fn for_one_url(given: &[(&str, bool)]) -> Result<(), Refusal> {
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Refusal::usage(format!(
            "{flag} is for one URL, and several are given"
        ))),
        None => Ok(()),
    }
}

/// An object or a library of a gateway, and its name there: the last segment of its URL.
pub struct Served {
    pub url: Location,
    pub name: String,
    pub is_library: bool,
}

/// Whether a URL is that of a library: its folder, or its index.
fn is_library(url: &Location) -> bool {
    let last = url.last_segment();
    matches!(last.as_deref(), Some("" | library::NAME))
}

/// The objects and libraries of a gateway. Their names differ.
pub fn served(args: &GatewayArgs) -> Result<Vec<Served>, Refusal> {
    if args.urls.len() > 1 {
        for_one_url(&[
            ("--root", args.root.is_some()),
            ("--manifest", args.manifest.is_some()),
            ("--mirror", !args.mirror.is_empty()),
        ])?;
    }
    let mut names = BTreeSet::new();
    let served = args.urls.iter().map(|text| {
        let url = location(text)?;
        let is_library = is_library(&url);
        if is_library && args.manifest.is_some() {
            let message = format!("--manifest is for an object, and {url} is a library");
            return Err(Refusal::usage(message));
        }
        if growing::session_of(&url).is_some()
            && (args.manifest.is_some() || !args.mirror.is_empty())
        {
            let message = format!(
                "{url} is still uploaded: it has no manifest and no mirror yet, which --manifest and --mirror could name"
            );
            return Err(Refusal::usage(message));
        }
        let name = match is_library {
            // The top of a host has no name.
            true => (url.of_library().folder_name())
                .filter(|name| location::unsafe_name(name).is_none())
                .unwrap_or_else(|| url.host()),
            false => own_name(&url, "")?,
        };
        if !names.insert(name.clone()) {
            let message = format!(
                "two URLs have the same name {name}, and a gateway serves each under its name; start another gateway for one of them"
            );
            return Err(Refusal::usage(message));
        }
        Ok(Served {
            url,
            name,
            is_library,
        })
    });
    served.collect()
}

fn job(entry: Entry, args: &FetchArgs, folder: Option<&Path>) -> Result<Job, Refusal> {
    let url = object(&entry.url)?;
    // A key may have blanks.
    if entry.line.is_some() && !url.is_in_s3() && entry.url.contains(char::is_whitespace) {
        let message = "the URL has a blank in it; put a tab between a URL and the name of its file, and write %20 for a blank in a URL";
        return Err(Refusal::usage(message));
    }
    let target = match (&args.output, folder, &entry.name) {
        (Some(file), None, _) => file.clone(),
        (_, folder, name) => {
            let name = match name {
                Some(name) => safe(name)?,
                None => match names::in_query(&url) {
                    Some(name) => name,
                    None => own_name(&url, name_advice(args))?,
                },
            };
            folder.unwrap_or(Path::new("")).join(name)
        }
    };
    let receipt = args
        .receipt
        .as_ref()
        .map(|place| match self::folder(Some(place)) {
            Some(folder) => {
                let mut name = target.file_name().unwrap_or_default().to_owned();
                name.push(".receipt.json");
                folder.join(name)
            }
            None => place.clone(),
        });
    Ok(Job {
        url,
        target,
        is_suggested: entry.is_suggested,
        receipt,
        root: entry.root,
        digests: entry.digests,
        mirrors: (entry.mirrors.iter().map(|text| location(text))).collect::<Result<_, _>>()?,
        manifest: entry.manifest.as_deref().map(manifest_place).transpose()?,
        fetched: Arc::default(),
    })
}

/// How to choose a name: -o names the file of a single URL, else a folder.
fn name_advice(args: &FetchArgs) -> &'static str {
    match &args.input {
        Some(_) => "; put one after the URL, with a tab between",
        None if args.urls.len() > 1 => "; fetch it by itself, with -o FILE",
        None => "; choose one with -o FILE",
    }
}

/// `advice`: what to do if there is none.
fn own_name(url: &Location, advice: &str) -> Result<String, Refusal> {
    let refuse = |why: &str| {
        let message = format!("{url} has no name that is safe for a file: {why}{advice}");
        Refusal(Exit::Unsafe, message)
    };
    let name = url
        .last_segment()
        .ok_or_else(|| refuse("it is not UTF-8"))?;
    match location::unsafe_name(&name) {
        None => Ok(name),
        Some(_) if name.is_empty() => Err(refuse("its path ends with a slash")),
        Some(why) => Err(refuse(why)),
    }
}

/// A list may come from elsewhere, so a name in it stays below the folder: each of its segments is a safe name.
fn safe(name: &str) -> Result<String, Refusal> {
    let refuse = |why: &str| {
        let message =
            format!("{name:?} is not safe as the name of a file: {why}; choose another name");
        Err(Refusal(Exit::Unsafe, message))
    };
    let wrong = |segment| Some((segment, location::unsafe_name(segment)?));
    match name.split('/').find_map(wrong) {
        None => Ok(name.to_owned()),
        Some(("", _)) => refuse("it has a slash without a name before or after it"),
        Some((_, why)) if !name.contains('/') => refuse(why),
        Some((segment, why)) => refuse(&format!("{why}: {segment:?}")),
    }
}

/// The folder that -o names, if it names one: it exists, or ends with a slash.
pub fn folder(output: Option<&Path>) -> Option<PathBuf> {
    let output = output?;
    let slash = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    (slash || output.is_dir()).then(|| output.to_owned())
}
