//! Reading a manifest from where it is: a URL or a local file. First its front, then its leaves.

use std::{fmt, path::PathBuf};

use crate::{
    engine::{blocking::joined, error::Error, manifest_file::ManifestFile},
    format::{
        anchors::BlockAnchor,
        geometry::{BlockRange, ByteRange},
        layout::FRONT_BYTES,
        manifest::Tree,
        reader::{InOrder, LazyTree, TreeReader},
        statement::{self, MAGIC, Refused, Signature, Statement},
        tree::Cv,
    },
    net::{
        body::Body, client::Client, error::NetError, location::Location, request::Request,
        response::Content, validators::Validators,
    },
    policy::{
        recovery::{self, Failure},
        schedule::Limits,
    },
};

use super::{
    in_order::{RangeSource, RestOfManifest},
    ranges::Scattered,
    retry::retried,
};

/// Where a manifest is.
#[derive(Clone, Debug)]
pub enum ManifestPlace {
    /// Beside the object, where there may be none.
    Beside(Location),
    /// The user says that it is there.
    Url(Location),
    /// A local file.
    File(PathBuf),
    /// Read already, for example from a pipe.
    Bytes(bytes::Bytes),
}

impl fmt::Display for ManifestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestPlace::Beside(url) | ManifestPlace::Url(url) => url.fmt(f),
            ManifestPlace::File(path) => path.display().fmt(f),
            ManifestPlace::Bytes(_) => f.write_str("-"),
        }
    }
}

/// The first 1,536 bytes of a manifest, and where the rest comes from.
pub struct Front {
    pub statement: Statement,
    /// Well-formed; nobody has checked it yet.
    pub signature: Option<Signature>,
    rest: Rest,
    bytes_read: u64,
}

enum Rest {
    /// To be asked for by ranges, of this version.
    Ranges(Validators),
    /// The server sends everything at once; this is what follows the front, and the body it comes from.
    Stream {
        buffered: Vec<u8>,
        body: Box<Body>,
        validators: Validators,
    },
    /// All of it is here: the tree, and the bytes to read ranges of.
    Here(Box<Tree>, Local),
    /// It was read.
    Nothing,
}

/// A manifest on this machine.
enum Local {
    File(Box<ManifestFile>),
    Bytes(bytes::Bytes),
}

impl Local {
    fn read(&self, range: ByteRange) -> Result<Vec<u8>, Error> {
        match self {
            Local::File(file) => file.read(range),
            Local::Bytes(bytes) => Ok(bytes[range.start as usize..range.end as usize].to_vec()),
        }
    }
}

/// The proven leaves of a manifest, and their anchors if it has hints.
pub struct Pages {
    pub leaves: Vec<Cv>,
    pub anchors: Vec<BlockAnchor>,
}

impl Front {
    /// Reads and checks the front of a manifest.
    pub async fn read(
        client: &Client,
        place: &ManifestPlace,
        limits: &Limits,
    ) -> Result<Front, Error> {
        match place {
            ManifestPlace::Beside(url) => Front::get(client, url, limits, false).await,
            ManifestPlace::Url(url) => Front::get(client, url, limits, true).await,
            ManifestPlace::File(path) => {
                let path = path.clone();
                let file = tokio::task::spawn_blocking(move || ManifestFile::open(&path));
                let file = joined(file).await?;
                let manifest = file.manifest.clone();
                Ok(Front::of_whole(manifest, Local::File(Box::new(file))))
            }
            ManifestPlace::Bytes(bytes) => {
                let manifest = crate::format::reader::Manifest::from_bytes(bytes);
                let refuse = |cause| Error::Manifest {
                    place: place.to_string(),
                    cause,
                };
                let manifest = manifest.map_err(refuse)?;
                Ok(Front::of_whole(manifest, Local::Bytes(bytes.clone())))
            }
        }
    }

    fn of_whole(manifest: crate::format::reader::Manifest, here: Local) -> Front {
        Front {
            statement: manifest.statement,
            signature: manifest.signature,
            rest: Rest::Here(Box::new(manifest.tree), here),
            bytes_read: 0,
        }
    }

    /// Whether any part of it can be read by itself.
    pub fn has_ranges(&self) -> bool {
        matches!(self.rest, Rest::Ranges(_) | Rest::Here(..))
    }

    /// Reads these ascending ranges, of the version that the front is of.
    pub async fn read_ranges(
        &self,
        client: &Client,
        place: &ManifestPlace,
        limits: &Limits,
        wants: &[ByteRange],
    ) -> Result<Vec<(ByteRange, Vec<u8>)>, Error> {
        let mut given = Vec::with_capacity(wants.len());
        match (&self.rest, place) {
            (Rest::Here(_, here), _) => {
                for want in wants {
                    given.push((*want, here.read(*want)?));
                }
            }
            (Rest::Ranges(validators), ManifestPlace::Beside(url) | ManifestPlace::Url(url)) => {
                let length = self.statement.header().file_length();
                let source = Scattered::new(client, url, Some(validators), limits, length);
                let take = |range, bytes| given.push((range, bytes));
                source.read(wants, take).await?;
            }
            _ => unreachable!("asked only where there are ranges"),
        }
        Ok(given)
    }

    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// `must`: something that is no manifest is an error of the manifest, not the absence of one.
    async fn get(
        client: &Client,
        url: &Location,
        limits: &Limits,
        must: bool,
    ) -> Result<Front, Error> {
        let none = |why: String| Error::NoManifest {
            place: url.to_string(),
            why,
        };
        let (bytes, rest, total) = match retried(limits, async || get_front(client, url).await)
            .await
        {
            Ok(front) => front,
            // An answer that is final and no object: there is none. 5xx and silence never mean that.
            Err(Error::Net { cause, .. }) if matches!(cause.failure, Failure::Refused { status } if must || status < 500) =>
            {
                return Err(none(cause.detail().to_owned()));
            }
            Err(other) => return Err(other),
        };
        let refuse = |cause| Error::Manifest {
            place: url.to_string(),
            cause,
        };
        match statement::read_front(&bytes) {
            Ok((statement, signature)) => {
                let expected = statement.header().file_length();
                match total.filter(|total| *total != expected) {
                    Some(found) => Err(refuse(Refused::Length { expected, found })),
                    None => Ok(Front {
                        statement,
                        signature,
                        rest,
                        bytes_read: bytes.len() as u64,
                    }),
                }
            }
            Err(Refused::NotAManifest) if !must => Err(none(Refused::NotAManifest.to_string())),
            Err(cause) => Err(refuse(cause)),
        }
    }

    /// Reads everything that follows into a reader, front to end, in ranges of the version that the front is of.
    pub async fn read_rest(
        &self,
        client: &Client,
        url: &Location,
        limits: &Limits,
        reader: &mut impl InOrder,
    ) -> Result<(), Error> {
        let (Rest::Ranges(validators) | Rest::Stream { validators, .. }) = &self.rest else {
            return Ok(());
        };
        let source = RangeSource {
            client,
            url,
            validators,
        };
        let end = self.statement.header().file_length();
        let given = retried(limits, async || source.give_rest(end, reader, &mut 0).await);
        given.await?.map_err(|cause| Error::Manifest {
            place: url.to_string(),
            cause,
        })
    }

    /// Reads tree and pages and proves them against the root.
    pub async fn read_leaves(
        &mut self,
        client: &Client,
        place: &ManifestPlace,
        limits: &Limits,
        bytes_manifest: &mut u64,
    ) -> Result<Pages, Error> {
        let header = self.statement.header();
        let refuse = |cause| Error::Manifest {
            place: place.to_string(),
            cause,
        };
        let mut reader = TreeReader::new(header.layout(), header.root);
        let end = header.layout().pages().end;
        let (validators, streamed) = match std::mem::replace(&mut self.rest, Rest::Nothing) {
            Rest::Here(tree, _) => {
                let (leaves, anchors) = (tree.leaves().to_vec(), tree.anchors().to_vec());
                return Ok(Pages { leaves, anchors });
            }
            Rest::Nothing => unreachable!("leaves are read once"),
            Rest::Ranges(validators) => (validators, None),
            Rest::Stream {
                buffered,
                body,
                validators,
            } => {
                let mut rest = RestOfManifest {
                    body: *body,
                    buffered,
                    skip: 0,
                    whole: true,
                };
                (
                    validators,
                    Some(rest.give(&mut reader, bytes_manifest).await),
                )
            }
        };
        match (streamed, place) {
            (Some(Ok(given)), _) => given.map_err(refuse)?,
            // What a broken stream did not bring is asked for like anything else.
            (None | Some(Err(_)), ManifestPlace::Beside(url) | ManifestPlace::Url(url)) => {
                let source = RangeSource {
                    client,
                    url,
                    validators: &validators,
                };
                source
                    .give_in_parts(end, limits, &mut reader, bytes_manifest)
                    .await?
                    .map_err(refuse)?;
            }
            (None | Some(Err(_)), _) => unreachable!("only URLs are read piecewise"),
        }
        let (leaves, anchors) = reader.into_pages();
        Ok(Pages { leaves, anchors })
    }
}

impl Front {
    /// Reads the groups that some blocks need, and no others where the server has ranges.
    pub async fn read_groups(
        &mut self,
        client: &Client,
        place: &ManifestPlace,
        limits: &Limits,
        tree: &mut LazyTree,
        blocks: BlockRange,
    ) -> Result<(), Error> {
        let refuse = |cause| Error::Manifest {
            place: place.to_string(),
            cause,
        };
        while let Some(group) = tree.want(blocks) {
            if matches!(self.rest, Rest::Ranges(_)) {
                let given = self
                    .read_ranges(client, place, limits, &[group.bytes])
                    .await?;
                for (_, bytes) in given {
                    tree.give(group, &bytes).map_err(refuse)?;
                }
            } else {
                // Everything comes at once, or is here.
                let pages = self.read_leaves(client, place, limits, &mut 0).await?;
                tree.fill(&pages.leaves);
            }
        }
        Ok(())
    }
}

/// The first bytes at a URL, how the rest can be had, and the length of it all if the server tells it.
async fn get_front(
    client: &Client,
    url: &Location,
) -> Result<(Vec<u8>, Rest, Option<u64>), NetError> {
    let front = Request::range(url, ByteRange::new(0, FRONT_BYTES as u64));
    let mut answer = match client.send(front).await {
        // An empty file has no first byte, and some servers say so in strange ways; it is no manifest, but it is there.
        Err(error)
            if matches!(
                error.failure,
                Failure::Refused { status: 416 }
                    | Failure::BadAnswer(recovery::BadAnswer::ContentRange)
            ) =>
        {
            client.send(Request::whole(url)).await?
        }
        other => other?,
    };
    match answer.content {
        Content::Part { bytes, total } if bytes.start == 0 => {
            let front = answer.body.read_up_to(FRONT_BYTES).await?;
            match total.is_some_and(|total| (front.len() as u64) < total.min(FRONT_BYTES as u64)) {
                // It ended before the front did, although there is more.
                true => Err(NetError::new(url, Failure::Broken)),
                false => Ok((front, Rest::Ranges(answer.validators), total)),
            }
        }
        Content::Part { .. } => Err(NetError::new(
            url,
            Failure::BadAnswer(recovery::BadAnswer::LaterPart),
        )),
        Content::Whole { length } => {
            let mut buffered = Vec::new();
            while buffered.len() < FRONT_BYTES {
                let Some(chunk) = answer.body.next().await? else {
                    break;
                };
                buffered.extend_from_slice(&chunk);
                // Whatever else this is, it need not be read to the end.
                let seen = buffered.len().min(MAGIC.len());
                if buffered[..seen] != MAGIC[..seen] {
                    break;
                }
            }
            let rest = buffered.split_off(buffered.len().min(FRONT_BYTES));
            let rest = Rest::Stream {
                buffered: rest,
                body: Box::new(answer.body),
                validators: answer.validators,
            };
            Ok((buffered, rest, length))
        }
    }
}
