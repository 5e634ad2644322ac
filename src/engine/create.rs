//! Making manifests of files and pipes.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use crate::{
    disk::{
        error::DiskError,
        files,
        regions::{self, FileRegions, REGION, StreamRegions},
        temporary::{self, Replaces, Temporary},
    },
    format::{
        compression::{PackOptions, PackedFrame},
        digests::{Algorithm, Digest},
        geometry::{BlockSize, ByteRange, Geometry},
        layout::FRONT_BYTES,
        manifest::{self, Particulars, Tree},
        pack::FRAME,
        statement::{self, Known, Refused, Section},
    },
};

use super::{
    error::Error,
    hashing::{Digests, Packing, Sinks, TreeHasher},
    pack::{self, PackParts},
    sign::Signer,
};

/// Where the bytes come from.
pub enum Input {
    /// A regular file, read by several threads. The path must name it until it is read.
    File(PathBuf),
    /// One that is open already; the path gives the name in messages and in the manifest.
    Open(File, PathBuf),
    /// A stream, read once from start to end.
    Stream(Box<dyn Read + Send>),
}

/// Where the manifest goes.
pub enum Output {
    /// This file. It appears, or is replaced, when the manifest is complete.
    File(PathBuf),
    /// A stream, written once from start to end.
    Stream(Box<dyn Write + Send>),
}

/// The options of a manifest.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// `None`: chosen by the length.
    pub block_size: Option<BlockSize>,
    /// Leave out anchors and pieces.
    pub no_hints: bool,
    /// Digests of the whole object that the manifest lists.
    pub digests: Vec<Algorithm>,
    /// `None`: the last segment of the path of the file, or no name if a manifest may not carry that.
    pub name: Option<String>,
    /// Grows with each version; 0: not given.
    pub sequence: u64,
    /// Unix seconds; 0: not given.
    pub published: u64,
    /// Unix seconds; 0: not given.
    pub expires: u64,
    /// Pack the object. The manifest must be a file.
    pub pack: Option<PackOptions>,
}

/// A manifest that was made.
pub struct Made {
    /// Of the object.
    pub tree: Tree,
    /// The length of the pack; `None`: there is none, because it would not save enough, or none was wanted.
    pub pack_bytes: Option<u64>,
}

/// Makes the manifest of `input`, signs it if there is a signer, and returns its tree. The output appears complete or not at all.
pub fn create(
    input: Input,
    output: Output,
    options: &CreateOptions,
    signer: Option<&Signer>,
) -> Result<Made, Error> {
    let place = match &input {
        Input::File(path) | Input::Open(_, path) => path.display().to_string(),
        Input::Stream(_) => "-".to_owned(),
    };
    let name = options.name.clone().unwrap_or_else(|| default_name(&input));
    if !statement::name_is_allowed(&name) {
        let cause = Refused::Name;
        return Err(Error::Manifest { place, cause });
    }
    check_places(&input, &output, options.pack.is_some())?;
    let folder = match &output {
        Output::File(path) => path.parent().unwrap_or(Path::new("")).join("."),
        Output::Stream(_) => std::env::temp_dir(),
    };
    let mut described = Described::of(input, &place, options, &folder)?;
    let particulars = Particulars {
        name,
        sequence: options.sequence,
        published: options.published,
        expires: options.expires,
        digests: described.digests.clone(),
    };
    let mut pack_bytes = None;
    match output {
        Output::File(path) => {
            if let Some(parts) = &mut described.pack {
                pack_bytes = Some(parts.publish(&pack::beside(&path), &described.tree)?);
            }
            described.publish(&path, particulars, signer)?;
            if options.pack.is_some() && pack_bytes.is_none() {
                // One of an earlier version.
                Temporary::remove(&pack::beside(&path), Replaces::Pack)?;
            }
        }
        Output::Stream(mut stream) => {
            let (file, path) = temporary::spool()?;
            let length = described.write(particulars, signer, &file, &path)?;
            regions::copy(&file, &path, ByteRange::new(0, length), |bytes| {
                stream.write_all(bytes).map_err(Error::Output)
            })?;
            stream.flush().map_err(Error::Output)?;
        }
    }
    Ok(Made {
        tree: described.tree,
        pack_bytes,
    })
}

/// An object that was read whole: all that its manifest needs of it.
pub(in crate::engine) struct Described {
    pub tree: Tree,
    pub digests: Vec<Digest>,
    /// The bytes of the pieces section, if there are hints, outside of memory.
    pub pieces: Option<(File, PathBuf, u64)>,
    /// The parts of its pack, if one is to be made.
    pub pack: Option<PackParts>,
}

impl Described {
    /// Reads the input once. `place` names it in errors; the parts of a pack are kept in `folder`.
    pub fn of(
        input: Input,
        place: &str,
        options: &CreateOptions,
        folder: &Path,
    ) -> Result<Described, Error> {
        let (spool, path) = temporary::spool()?;
        let mut spooled = 0;
        let mut sink = |bytes: &[u8]| {
            files::write_at(&spool, &path, bytes, spooled)?;
            spooled += bytes.len() as u64;
            Ok(())
        };
        let mut pack = (options.pack).map(|_| PackParts::new(folder)).transpose()?;
        let mut pack_sink = |packed: PackedFrame| match &mut pack {
            Some(parts) => parts.push(&packed),
            None => Ok(()),
        };
        let sinks = Sinks {
            pieces: &mut sink,
            packing: options.pack.map(|options| Packing {
                options,
                sink: &mut pack_sink,
            }),
        };
        let (tree, digests) = hash_input(input, place, options, sinks)?;
        Ok(Described {
            tree,
            digests,
            pieces: (!options.no_hints).then_some((spool, path, spooled)),
            pack: pack.filter(|parts| parts.is_wanted(options.pack.unwrap_or_default())),
        })
    }

    /// Writes the manifest as a file, which appears, or is replaced, when it is complete.
    pub fn publish(
        &self,
        path: &Path,
        particulars: Particulars,
        signer: Option<&Signer>,
    ) -> Result<(), Error> {
        let temporary = Temporary::create(path, Replaces::Manifest)?;
        self.write(particulars, signer, temporary.file(), &temporary.path())?;
        Ok(temporary.publish(None)?)
    }

    /// Writes a complete manifest into a new file and returns its length.
    pub(in crate::engine) fn write(
        &self,
        particulars: Particulars,
        signer: Option<&Signer>,
        file: &File,
        path: &Path,
    ) -> Result<u64, Error> {
        let mut at = FRONT_BYTES as u64;
        let mut append = |bytes: &[u8]| -> Result<(), Error> {
            files::write_at(file, path, bytes, at)?;
            at += bytes.len() as u64;
            Ok(())
        };
        let mut sections = self.tree.write_sections(&mut append)?;
        if let Some((spool, spool_path, length)) = &self.pieces {
            let mut hasher = blake3::Hasher::new();
            regions::copy(spool, spool_path, ByteRange::new(0, *length), |bytes| {
                hasher.update(bytes);
                append(bytes)
            })?;
            let place = self.tree.layout().pieces();
            let hash = *hasher.finalize().as_bytes();
            sections.push(Section::known(Known::Pieces, place, hash));
        }
        if let Some(index) = self.pack.as_ref().and_then(PackParts::index) {
            append(index)?;
            let start = sections.last().map_or(0, |last| last.bytes.end);
            let place = ByteRange::new(start, start + index.len() as u64);
            let hash = *blake3::hash(index).as_bytes();
            sections.push(Section::known(Known::Pack, place, hash));
        }
        let statement = particulars.statement(&self.tree, sections);
        let signature = signer
            .map(|signer| signer.sign(statement.bytes()))
            .transpose()?;
        let front = manifest::front(&statement, signature.as_ref());
        files::write_at(file, path, &front, 0)?;
        Ok(at)
    }
}

/// Fails before any work if the input cannot be read, or if the manifest would replace it, or anything that is not a manifest.
fn check_places(input: &Input, output: &Output, has_pack: bool) -> Result<(), DiskError> {
    let Output::File(path) = output else {
        return Ok(());
    };
    if let Input::File(input) = input {
        files::open_for_reading(input)?;
        let pack = pack::beside(path);
        for made in [path, &pack].into_iter().take(1 + usize::from(has_pack)) {
            if files::is_same_file(input, made) {
                return Err(DiskError::Conflict {
                    path: made.clone(),
                    what: "the file that the manifest describes",
                });
            }
        }
    }
    if has_pack {
        Temporary::check(&pack::beside(path), Replaces::Pack)?;
    }
    Temporary::check(path, Replaces::Manifest)
}

fn default_name(input: &Input) -> String {
    match input {
        Input::File(path) | Input::Open(_, path) => name_of(path),
        Input::Stream(_) => String::new(),
    }
}

/// The name that the manifest of a file has by default.
pub fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(statement::default_name).unwrap_or_default()
}

/// Reads the input once: returns the tree and the digests, and writes the pieces to the sink.
fn hash_input(
    input: Input,
    place: &str,
    options: &CreateOptions,
    sinks: Sinks,
) -> Result<(Tree, Vec<Digest>), Error> {
    let mut digests = Digests::new(options.digests.iter().copied());
    let mut hasher = TreeHasher {
        block_size: options.block_size.unwrap_or(BlockSize::DEFAULT),
        may_grow: options.block_size.is_none(),
        hints: !options.no_hints,
    };
    // What is packed together is read together.
    let region = match options.pack {
        Some(_) => FRAME as usize,
        None => REGION,
    };
    let is_named = matches!(input, Input::File(_));
    let regions = match input {
        Input::File(path) => FileRegions::open(&path)?,
        Input::Open(file, path) => FileRegions::of(file, &path)?,
        Input::Stream(stream) => {
            let witness = |bytes: &[u8]| digests.update(bytes);
            let regions = StreamRegions::new(stream, Path::new(place), witness);
            let regions = regions.in_regions_of(region);
            let tree = hasher.run_to(&regions, place, sinks)?;
            drop(regions);
            return Ok((tree, digests.finish()));
        }
    }
    .in_regions_of(region);
    hasher.block_size = options
        .block_size
        .unwrap_or_else(|| BlockSize::auto(regions.length()));
    hasher.may_grow = false;
    if Geometry::new(regions.length(), hasher.block_size).is_none() {
        return Err(Error::TooManyBlocks {
            place: place.to_owned(),
        });
    }
    let tree = hasher.run_file_to(&regions, place, &mut digests, sinks)?;
    if is_named {
        regions.check_in_place()?;
    }
    Ok((tree, digests.finish()))
}
