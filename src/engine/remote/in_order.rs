//! Reading a manifest from front to end: in one response, or in parts on several connections.

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
    retry::retried,
    source::{Arriving, Ask, Extent},
};

impl RangeReader {
    /// Gives the reader all that it still wants, up to this end, as it comes. A long range comes in parts, on as many connections as
    /// are allowed: where packets get lost one connection is slow, and the transfer that follows finds the connections open.
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
            let arriving = parts.into_iter().map(|part| self.part(part, &limits));
            let mut arriving = stream::iter(arriving).buffered(connections as usize);
            let mut buffered = Vec::new();
            // A server that ignores ranges all of a sudden sends everything: once, below.
            while let Some(Some(part)) = arriving.next().await.transpose()? {
                buffered.extend_from_slice(&part);
                if let Err(refused) = give_buffered(reader, &mut buffered) {
                    return Ok(Err(refused));
                }
            }
        }
        self.give_rest(&limits, end, reader).await
    }

    /// Gives the reader all that it still wants, up to this end, in one response. What a broken response brought is not asked
    /// for again.
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
            let arriving = self.ask(ByteRange::new(first.start, end)).await?;
            ManifestBody::new(arriving, Vec::new(), first.start)
                .give(reader)
                .await
        })
    }

    /// `None`: the server sends everything.
    async fn part(&self, range: ByteRange, limits: &Limits) -> Result<Option<Vec<u8>>, Error> {
        let mut bytes = Vec::with_capacity(range.length() as usize);
        let whole = retried!(limits, self.read_on(range, &mut bytes));
        whole.map(|whole| (!whole).then_some(bytes))
    }

    /// Reads of a range what is not here yet. `true`: the server sends everything.
    async fn read_on(&self, range: ByteRange, bytes: &mut Vec<u8>) -> Result<bool, NetError> {
        let rest = ByteRange::new(range.start + bytes.len() as u64, range.end);
        if rest.is_empty() {
            return Ok(false);
        }
        let mut arriving = self.ask(rest).await?;
        let Extent::Asked { .. } = arriving.extent() else {
            return Ok(true);
        };
        while (bytes.len() as u64) < range.length() {
            let Some((_, chunk)) = arriving.next().await? else {
                return Err(NetError::new(arriving.location(), Failure::Broken));
            };
            bytes.extend_from_slice(&chunk);
        }
        Ok(false)
    }

    async fn ask(&self, range: ByteRange) -> Result<Arriving, NetError> {
        let ask = Ask {
            range: Some(range),
            version: self.version(),
            ..Ask::default()
        };
        self.source().open(ask).await
    }
}

/// Gives the reader what it wants of the front of the buffer.
fn give_buffered(reader: &mut impl InOrder, buffered: &mut Vec<u8>) -> Result<(), Refused> {
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

/// A response that brings what a reader wants, in order.
pub struct ManifestBody {
    arriving: Arriving,
    /// What came and was not given yet.
    buffered: Vec<u8>,
    /// It brings the manifest to its end.
    whole: bool,
}

impl ManifestBody {
    /// `buffered` came already, and begins at this offset; what a response of everything brings before it is read over.
    pub fn new(mut arriving: Arriving, buffered: Vec<u8>, from: u64) -> ManifestBody {
        arriving.skip_to(from);
        let whole = matches!(arriving.extent(), Extent::Whole { .. });
        ManifestBody {
            arriving,
            buffered,
            whole,
        }
    }

    /// Gives group by group, as it comes.
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
            let next: Option<(u64, Bytes)> = self.arriving.next().await?;
            let Some((_, chunk)) = next else {
                let found = want.start + self.buffered.len() as u64;
                return match self.whole {
                    true => Ok(Err(Refused::Length {
                        expected: want.end,
                        found,
                    })),
                    false => Err(NetError::new(self.arriving.location(), Failure::Broken)),
                };
            };
            self.buffered.extend_from_slice(&chunk);
        }
    }
}
