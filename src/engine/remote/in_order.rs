//! Reading a manifest from start to end: in one response, or in parts on several connections.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use crate::{
    engine::{context::Context, error::Error},
    format::{geometry::ByteRange, reader::InOrder, statement::Refused},
    net::error::NetError,
    policy::{recovery::Failure, requests, schedule::Limits},
};

use super::{
    ranges::RangeReader,
    source::{Extent, SourceResponse},
};

impl RangeReader {
    /// Gives the reader everything that it still wants, up to this end, as it arrives. A long range is split into parts on as
    /// many connections as allowed: one connection is slow where packets get lost, and the transfer that follows reuses the open
    /// connections.
    pub async fn give_in_parts(
        &self,
        context: &Context,
        end: u64,
        reader: &mut impl InOrder,
    ) -> Result<Result<(), Refused>, Error> {
        let limits = context.limits_now();
        let connections = self.connections(&limits);
        let first = reader.want().map_or(end, |want| want.start);
        let parts = requests::parts(ByteRange::new(first, end), connections);
        if connections > 1 && parts.len() > 1 {
            let response = parts.into_iter().map(|part| self.part(part, &limits));
            let mut response = stream::iter(response).buffered(connections as usize);
            let mut buffered = Vec::new();
            // A server that suddenly ignores ranges sends everything: read that once, below.
            while let Some(Some(part)) = response.next().await.transpose()? {
                buffered.extend_from_slice(&part);
                if let Err(refused) = give_buffered(reader, &mut buffered) {
                    return Ok(Err(refused));
                }
            }
        }
        self.give_rest(&limits, end, reader).await
    }

    /// Gives the reader everything that it still wants, up to this end, in one response. After a broken response only the missing
    /// bytes are requested.
    pub async fn give_rest(
        &self,
        limits: &Limits,
        end: u64,
        reader: &mut impl InOrder,
    ) -> Result<Result<(), Refused>, Error> {
        retried!(limits, async {
            let Some(first) = reader.want() else {
                return Ok(Ok(()));
            };
            let response = self.open(ByteRange::new(first.start, end)).await?;
            ManifestBody::new(response, Vec::new(), first.start)
                .give(reader)
                .await
        })
    }

    /// Reads one part of a manifest. `None`: the server ignores the range.
    async fn part(&self, range: ByteRange, limits: &Limits) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::with_capacity(range.length() as usize);
        let whole = retried!(limits, self.read_on(range, &mut bytes));
        whole.map(|whole| (!whole).then_some(bytes))
    }

    /// Reads the missing end of a range. `true`: the server ignores the range.
    async fn read_on(&self, range: ByteRange, bytes: &mut Vec<u8>) -> Result<bool, NetError> {
        let rest = ByteRange::new(range.start + bytes.len() as u64, range.end);
        if rest.is_empty() {
            return Ok(false);
        }
        let mut response = self.open(rest).await?;
        let Extent::Range { .. } = response.extent() else {
            return Ok(true);
        };
        while (bytes.len() as u64) < range.length() {
            let Some((_, chunk)) = response.next().await? else {
                return Err(NetError::new(response.location(), Failure::Broken));
            };
            bytes.extend_from_slice(&chunk);
        }
        Ok(false)
    }
}

/// Gives the reader the groups that the buffer holds completely, and removes them from the buffer.
pub fn give_buffered(reader: &mut impl InOrder, buffered: &mut Vec<u8>) -> Result<(), Refused> {
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

/// A response that delivers in order what a reader wants.
pub struct ManifestBody {
    response: SourceResponse,
    /// Received, and not given to the reader yet.
    buffered: Vec<u8>,
    /// The body reaches to the end of the manifest.
    whole: bool,
}

impl ManifestBody {
    /// `buffered` was received before, and begins at `from`; a body of everything is skipped to there.
    pub fn new(mut response: SourceResponse, buffered: Vec<u8>, from: u64) -> ManifestBody {
        response.skip_to(from);
        let whole = matches!(response.extent(), Extent::Whole { .. });
        ManifestBody {
            response,
            buffered,
            whole,
        }
    }

    /// Gives group by group, as they arrive.
    pub async fn give(
        &mut self,
        reader: &mut impl InOrder,
    ) -> Result<Result<(), Refused>, NetError> {
        loop {
            if let Err(refused) = give_buffered(reader, &mut self.buffered) {
                return Ok(Err(refused));
            }
            let Some(want) = reader.want() else {
                return Ok(Ok(()));
            };
            let next: Option<(u64, Bytes)> = self.response.next().await?;
            let Some((_, chunk)) = next else {
                let found = want.start + self.buffered.len() as u64;
                return match self.whole {
                    true => Ok(Err(Refused::Length {
                        expected: want.end,
                        found,
                    })),
                    false => Err(NetError::new(self.response.location(), Failure::Broken)),
                };
            };
            self.buffered.extend_from_slice(&chunk);
        }
    }
}
