//! The rest of a manifest in its order, in one answer or in parts on several connections: all leaves at once, or whatever else a
//! reader wants.

use futures_util::stream::{self, StreamExt};

use crate::{
    engine::{connections, error::Error},
    format::{geometry::ByteRange, reader::InOrder, statement::Refused},
    net::{
        body::Body,
        client::{Answer, Client, Content, Request, Validators},
        error::NetError,
        location::Location,
    },
    policy::{
        recovery::{self, Failure},
        requests,
        schedule::Limits,
    },
};

use super::{EARLY_BYTES_MAX, retry::retried};

/// Ranges of one version of one manifest.
pub struct RangeSource<'a> {
    pub client: &'a Client,
    pub url: &'a Location,
    pub validators: &'a Validators,
}

impl RangeSource<'_> {
    /// Gives all that the reader still wants, up to this end, as it comes. Long ones come in parts, on as many connections as are
    /// allowed: where packets get lost one connection is slow, and the transfer that follows finds those open that it needs.
    pub async fn give_in_parts(
        &self,
        end: u64,
        limits: &Limits,
        reader: &mut impl InOrder,
        bytes_manifest: &mut u64,
    ) -> Result<Result<(), Refused>, Error> {
        let connections = connections::of_single_requests(self.client, self.url, limits);
        let first = reader.want().map_or(end, |want| want.start);
        let parts = requests::parts(ByteRange::new(first, end), connections);
        if connections > 1 && parts.len() > 1 {
            let arriving = parts.into_iter().map(|part| self.part(part, limits));
            let mut arriving = stream::iter(arriving).buffered(connections as usize);
            let mut buffered = Vec::new();
            // A server that ignores ranges all of a sudden sends everything: once, below.
            while let Some(Some(part)) = arriving.next().await.transpose()? {
                *bytes_manifest += part.len() as u64;
                buffered.extend_from_slice(&part);
                if let Err(refused) = give_what_is_here(reader, &mut buffered) {
                    return Ok(Err(refused));
                }
            }
        }
        retried(limits, async || {
            self.give_rest(end, reader, bytes_manifest).await
        })
        .await
    }

    /// `None`: the server sends everything.
    async fn part(&self, range: ByteRange, limits: &Limits) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::with_capacity(range.length() as usize);
        retried(limits, async || self.read_on(range, &mut bytes).await)
            .await
            .map(|whole| (!whole).then_some(bytes))
    }

    /// Reads of a range what is not here yet. `true`: the server sends everything.
    async fn read_on(&self, range: ByteRange, bytes: &mut Vec<u8>) -> Result<bool, NetError> {
        let rest = ByteRange::new(range.start + bytes.len() as u64, range.end);
        if rest.is_empty() {
            return Ok(false);
        }
        let mut answer = self.ask(rest).await?;
        let Content::Part { bytes: came, .. } = answer.content else {
            return Ok(true);
        };
        let mut over = rest.start - came.start;
        while (bytes.len() as u64) < range.length() {
            let Some(mut chunk) = answer.body.next().await? else {
                return Err(NetError::new(self.url, Failure::Broken));
            };
            let skipped = over.min(chunk.len() as u64);
            over -= skipped;
            let mut chunk = chunk.split_off(skipped as usize);
            chunk.truncate(range.length() as usize - bytes.len());
            bytes.extend_from_slice(&chunk);
        }
        Ok(false)
    }

    /// An answer that does not begin behind the range, nor long before it.
    async fn ask(&self, range: ByteRange) -> Result<Answer, NetError> {
        let request = Request {
            location: self.url,
            range: Some(range),
            more: &[],
            version: Some(self.validators),
        };
        let answer = self.client.get(request).await?;
        let bad = |how| Err(NetError::new(self.url, Failure::BadAnswer(how)));
        match answer.content {
            Content::Part { bytes, .. } if bytes.start > range.start => {
                bad(recovery::BadAnswer::LaterPart)
            }
            Content::Part { bytes, .. } if range.start - bytes.start > EARLY_BYTES_MAX => {
                bad(recovery::BadAnswer::EarlierPart)
            }
            Content::Part { .. } | Content::Whole { .. } => Ok(answer),
        }
    }

    /// Asks for all that the reader still wants, in one request, and gives it group by group, as it comes. What a broken
    /// request brought is not asked for again.
    pub async fn give_rest(
        &self,
        end: u64,
        reader: &mut impl InOrder,
        bytes_manifest: &mut u64,
    ) -> Result<Result<(), Refused>, NetError> {
        let Some(first) = reader.want() else {
            return Ok(Ok(()));
        };
        let range = ByteRange::new(first.start, end);
        let answer = self.ask(range).await?;
        let (skip, whole) = match answer.content {
            Content::Part { bytes, .. } => (range.start - bytes.start, false),
            // Never taken for the part that was asked for: what comes before that is read over.
            Content::Whole { .. } => (range.start, true),
        };
        RestOfManifest {
            body: answer.body,
            buffered: Vec::new(),
            skip,
            whole,
        }
        .give(reader, bytes_manifest)
        .await
    }
}

/// Gives group by group what follows in the buffer.
fn give_what_is_here(reader: &mut impl InOrder, buffered: &mut Vec<u8>) -> Result<(), Refused> {
    let mut given = 0;
    while let Some(want) = reader.want() {
        let Some(bytes) = buffered[given..].get(..want.length() as usize) else {
            break;
        };
        reader.give(bytes)?;
        given += bytes.len();
    }
    buffered.drain(..given);
    Ok(())
}

/// A body that brings what a reader wants, in order.
pub struct RestOfManifest {
    pub body: Body,
    /// Of it, what is here already.
    pub buffered: Vec<u8>,
    /// Bytes at its front that nobody wants.
    pub skip: u64,
    /// Its end is that of the manifest.
    pub whole: bool,
}

impl RestOfManifest {
    /// Gives group by group, as it comes. What a body that breaks has brought is not asked for again.
    pub async fn give(
        &mut self,
        reader: &mut impl InOrder,
        bytes_manifest: &mut u64,
    ) -> Result<Result<(), Refused>, NetError> {
        loop {
            if let Err(refused) = give_what_is_here(reader, &mut self.buffered) {
                return Ok(Err(refused));
            }
            let Some(want) = reader.want() else {
                return Ok(Ok(()));
            };
            let Some(mut chunk) = self.body.next().await? else {
                let found = want.start + self.buffered.len() as u64;
                return match self.whole {
                    true => Ok(Err(Refused::Length {
                        expected: want.end,
                        found,
                    })),
                    false => Err(NetError::new(self.body.location(), Failure::Broken)),
                };
            };
            *bytes_manifest += chunk.len() as u64;
            let over = self.skip.min(chunk.len() as u64);
            self.skip -= over;
            self.buffered
                .extend_from_slice(&chunk.split_off(over as usize));
        }
    }
}
