//! Opening a manifest at a URL, in a file or in memory: first its front, then its leaves and hints as they are needed.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::{
    engine::{
        blocking, context::Context, error::Error, manifest_file::CheckedFile, trust::ManifestFront,
    },
    format::{
        geometry::{BlockRange, ByteRange},
        layout::FRONT_BYTES,
        reader::{InOrder, LazyTree, Manifest, Page, PageReader},
        signature::SignatureArea,
        statement::{self, Header, MAGIC, Refused, Statement},
        tree::Root,
    },
    net::{error::NetError, location::Location, request::Refusals},
    policy::{
        recovery::{Changed, Failure},
        schedule::Limits,
    },
};

use super::{
    in_order::{ManifestBody, give_buffered},
    preflight::needs_plain_get,
    ranges::RangeReader,
    source::{Extent, Source, SourceRequest, SourceResponse},
};

/// Bytes of a local manifest that are read together.
const LOCAL_BYTES: u64 = 1 << 20;

/// The place of a manifest.
#[derive(Clone, Debug)]
pub enum ManifestPlace {
    /// Beside the object, where there may be none.
    Beside(Location),
    /// At a URL that the user gave.
    Url(Location),
    /// A local file.
    File(PathBuf),
    /// Already read, for example from a pipe.
    Bytes(bytes::Bytes),
    /// The object is to be fetched without one.
    Nowhere,
}

impl fmt::Display for ManifestPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestPlace::Beside(url) | ManifestPlace::Url(url) => url.fmt(f),
            ManifestPlace::File(path) => path.display().fmt(f),
            ManifestPlace::Bytes(_) => f.write_str("-"),
            ManifestPlace::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// A manifest whose front was read.
pub struct OpenManifest {
    pub statement: Statement,
    /// Well-formed; [`crate::engine::trust`] checks it.
    pub signature: SignatureArea,
    place: String,
    access: Access,
    bytes_read: u64,
}

/// How to read the bytes after the front.
enum Access {
    /// The manifest is local, and was checked completely.
    Local(Local),
    /// By range requests.
    Ranges(RangeReader),
    /// The server ignored the range: the body of its first response, until that was read; after that, range requests.
    Stream(Option<Box<ManifestBody>>, RangeReader),
}

/// A local manifest.
#[derive(Clone)]
enum Local {
    File(Arc<CheckedFile>),
    Bytes(bytes::Bytes),
}

impl Local {
    async fn read(&self, range: ByteRange) -> Result<Vec<u8>, Error> {
        match self.clone() {
            Local::File(file) => blocking::run(move || file.read(range)).await,
            Local::Bytes(bytes) => Ok(bytes[range.start as usize..range.end as usize].to_vec()),
        }
    }
}

impl OpenManifest {
    /// Reads and checks the front of a manifest.
    pub async fn open(
        context: &Context,
        place: &ManifestPlace,
        limits: &Limits,
    ) -> Result<OpenManifest, Error> {
        match place {
            ManifestPlace::Beside(url) => Self::get(context, url, limits, false).await,
            ManifestPlace::Url(url) => Self::get(context, url, limits, true).await,
            ManifestPlace::File(path) => {
                let path = path.clone();
                let file = Arc::new(blocking::run(move || CheckedFile::open(&path)).await?);
                let front = (file.statement.clone(), file.signature.clone());
                Ok(Self::of_local(place, front, Local::File(file)))
            }
            ManifestPlace::Bytes(bytes) => {
                let refuse = |cause| Error::Manifest {
                    place: place.to_string(),
                    cause,
                };
                let front = Manifest::check_bytes(bytes).map_err(refuse)?;
                Ok(Self::of_local(place, front, Local::Bytes(bytes.clone())))
            }
            ManifestPlace::Nowhere => Err(Error::NoManifest {
                place: place.to_string(),
                why: "none is to be used".to_owned(),
            }),
        }
    }

    fn of_local(
        place: &ManifestPlace,
        (statement, signature): (Statement, SignatureArea),
        local: Local,
    ) -> OpenManifest {
        OpenManifest {
            statement,
            signature,
            place: place.to_string(),
            access: Access::Local(local),
            bytes_read: 0,
        }
    }

    /// `must`: a file that is not a manifest is an invalid manifest, not a missing one.
    async fn get(
        context: &Context,
        url: &Location,
        limits: &Limits,
        must: bool,
    ) -> Result<OpenManifest, Error> {
        let none = |why: String| Error::NoManifest {
            place: url.to_string(),
            why,
        };
        let source = Source::http(&context.client, url);
        let front = match retried!(limits, Front::get(&source)) {
            Ok(front) => front,
            // A final error status means that there is no manifest. 5xx and timeouts never mean that.
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
        let (statement, signature) = match statement::read_front(&front.bytes) {
            Ok(front) => front,
            Err(Refused::NotAManifest) if !must => {
                return Err(none(Refused::NotAManifest.to_string()));
            }
            Err(cause) => return Err(refuse(cause)),
        };
        let expected = statement.header().sections_end() + signature.trailer_bytes();
        if let Some(found) = front.response.total.filter(|total| *total != expected) {
            return Err(refuse(Refused::Length { expected, found }));
        }
        let version = Some(front.response.validators.of_proven_bytes());
        let ranges = RangeReader::new(source, version, expected);
        let access = match front.response.extent() {
            Extent::Whole { .. } => {
                let from = front.bytes.len() as u64;
                let body = ManifestBody::new(front.response, front.rest, from);
                Access::Stream(Some(Box::new(body)), ranges)
            }
            _ => Access::Ranges(ranges),
        };
        Ok(OpenManifest {
            statement,
            signature,
            place: url.to_string(),
            access,
            bytes_read: front.bytes.len() as u64,
        })
    }

    /// The description of the object.
    pub fn header(&self) -> &Header {
        self.statement.header()
    }

    /// Its place, for events and errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The input of [`crate::engine::trust::check`].
    pub fn front(&self) -> ManifestFront<'_> {
        ManifestFront {
            statement: &self.statement,
            signature: &self.signature,
            place: &self.place,
        }
    }

    /// Bytes that were fetched for the front.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Whether a range can be read without reading everything before it.
    pub fn has_ranges(&self) -> bool {
        !matches!(self.access, Access::Stream(..))
    }

    /// Reads these ascending ranges of the version of the front.
    pub async fn read_ranges(
        &self,
        context: &Context,
        wants: &[ByteRange],
    ) -> Result<Vec<(ByteRange, Vec<u8>)>, Error> {
        let mut given = Vec::with_capacity(wants.len());
        match &self.access {
            Access::Local(local) => {
                for want in wants {
                    given.push((*want, local.read(*want).await?));
                }
            }
            Access::Ranges(ranges) | Access::Stream(_, ranges) => {
                let take = |range, bytes| given.push((range, bytes));
                ranges.read(context, wants, take).await?;
            }
        }
        Ok(given)
    }

    /// Reads all of it, of the version of the front.
    pub async fn whole(&self, context: &Context) -> Result<bytes::Bytes, Error> {
        let end = self.header().sections_end() + self.signature.trailer_bytes();
        let all = ByteRange::new(0, end);
        let given = self.read_ranges(context, &[all]).await?;
        let bytes = given.into_iter().next().map(|(_, bytes)| bytes);
        let bytes = bytes.unwrap_or_default();
        match statement::read_front(&bytes) {
            Ok((found, signature))
                if found.bytes() == self.statement.bytes() && signature == self.signature =>
            {
                Ok(bytes.into())
            }
            // No validator showed that it was replaced.
            _ => Err(Error::Changed {
                place: self.place.clone(),
                how: Changed::Content,
            }),
        }
    }

    fn refuse(&self, cause: Refused) -> Error {
        Error::Manifest {
            place: self.place.clone(),
            cause,
        }
    }

    /// Reads tree and pages, proves them against the root, and hands on each page in order.
    pub async fn each_page(
        &mut self,
        context: &Context,
        take: impl FnMut(Page) + Send,
    ) -> Result<(), Error> {
        let (layout, root) = (self.header().layout(), self.header().root);
        let end = layout.pages().end;
        let mut reader = PageReader::new(layout, root, take);
        let ranges = match &mut self.access {
            Access::Local(local) => {
                let local = local.clone();
                return self.read_local(&local, end, &mut reader).await;
            }
            Access::Ranges(ranges) => ranges,
            Access::Stream(body, ranges) => {
                // The missing bytes of a broken body are requested by ranges.
                if let Some(mut body) = body.take()
                    && let Ok(given) = body.give(&mut reader).await
                {
                    given.map_err(|cause| Error::Manifest {
                        place: self.place.clone(),
                        cause,
                    })?;
                }
                ranges
            }
        };
        let given = ranges.give_in_parts(context, end, &mut reader).await?;
        given.map_err(|cause| self.refuse(cause))
    }

    /// Gives a reader what it wants, up to this end.
    async fn read_local(
        &self,
        local: &Local,
        end: u64,
        reader: &mut impl InOrder,
    ) -> Result<(), Error> {
        let mut buffered = Vec::new();
        while let Some(want) = reader.want() {
            let start = want.start + buffered.len() as u64;
            let some = end.min(start + LOCAL_BYTES).max(want.end);
            buffered.extend(local.read(ByteRange::new(start, some)).await?);
            give_buffered(reader, &mut buffered).map_err(|cause| self.refuse(cause))?;
        }
        Ok(())
    }

    /// Reads everything after the front into a reader, in order.
    pub async fn read_rest(
        &mut self,
        context: &Context,
        reader: &mut impl InOrder,
    ) -> Result<(), Error> {
        let end = self.header().sections_end();
        let given = match &self.access {
            Access::Ranges(ranges) | Access::Stream(_, ranges) => {
                let limits = context.limits_now();
                ranges.give_rest(&limits, end, reader).await?
            }
            Access::Local(local) => return self.read_local(local, end, reader).await,
        };
        given.map_err(|cause| self.refuse(cause))
    }

    /// Reads the groups that some blocks need; all groups if the server does not support ranges.
    pub async fn read_groups(
        &mut self,
        context: &Context,
        tree: &mut LazyTree,
        blocks: BlockRange,
    ) -> Result<(), Error> {
        while let Some(group) = tree.want(blocks) {
            if self.has_ranges() {
                for (_, bytes) in self.read_ranges(context, &[group.bytes]).await? {
                    tree.give(group, &bytes)
                        .map_err(|cause| self.refuse(cause))?;
                }
            } else {
                // Everything arrives at once.
                let mut leaves = Vec::new();
                self.each_page(context, |page| leaves.extend(page.leaves))
                    .await?;
                tree.fill(&leaves);
            }
        }
        Ok(())
    }
}

/// The first bytes of a remote manifest.
struct Front {
    bytes: Vec<u8>,
    /// Bytes received after the front, if the server sends everything.
    rest: Vec<u8>,
    response: SourceResponse,
}

impl Front {
    async fn get(source: &Source) -> Result<Front, NetError> {
        let front = SourceRequest {
            range: Some(ByteRange::new(0, FRONT_BYTES as u64)),
            refusals: Refusals::NotReady,
            ..SourceRequest::default()
        };
        let mut response = match source.open(front).await {
            Err(error) if needs_plain_get(error.failure) => {
                let whole = SourceRequest {
                    refusals: Refusals::NotReady,
                    ..SourceRequest::default()
                };
                source.open(whole).await?
            }
            other => other?,
        };
        let mut bytes = Vec::new();
        while bytes.len() < FRONT_BYTES
            && let Some((_, chunk)) = response.next().await?
        {
            bytes.extend_from_slice(&chunk);
            // Not a manifest: stop reading.
            let seen = bytes.len().min(MAGIC.len());
            if bytes[..seen] != MAGIC[..seen] {
                break;
            }
        }
        let rest = bytes.split_off(bytes.len().min(FRONT_BYTES));
        let enough = response
            .total
            .is_none_or(|total| bytes.len() as u64 >= total.min(FRONT_BYTES as u64));
        let is_part = matches!(response.extent(), Extent::Range { .. });
        if is_part && !enough && bytes.starts_with(&MAGIC) {
            // The part ended before the front did, although the file is longer.
            return Err(NetError::new(response.location(), Failure::Broken));
        }
        Ok(Front {
            bytes,
            rest,
            response,
        })
    }
}

/// If a block is wrong from every source, reads the manifest again. A manifest that now names another root shows that the object
/// changed.
pub async fn explain(
    context: &Context,
    error: Error,
    root: Root,
    place: &ManifestPlace,
    url: &Location,
) -> Error {
    if !matches!(error, Error::Wrong { .. }) {
        return error;
    }
    match OpenManifest::open(context, place, &context.limits_now()).await {
        Ok(now) if now.header().root != root => Error::Changed {
            place: url.to_string(),
            how: Changed::Root,
        },
        Ok(_) | Err(_) => error,
    }
}
