//! The rest of a manifest in its order, in one answer or in parts on several connections: all leaves at once, or whatever else a
//! reader wants.

use futures_util::stream::{self, StreamExt};

use crate::{
    engine::{connections, error::Error},
    format::{geometry::ByteRange, reader::InOrder, statement::Refused},
    net::{
        body::Body,
        client::Client,
        error::NetError,
        location::Location,
        request::Request,
        response::{Content, Response},
        validators::Validators,
    },
    policy::{
        recovery::{self, Failure},
        schedule::Limits,
    },
};

use super::{EARLY_BYTES_MAX, retry::retried};

/// A new connection brings so much in about five round trips. Of many short parts one loses a packet, and all wait for that one: on
/// a line with 40 ms and 0.5 % loss, parts of 16 and 64 KiB were slower than one answer of 120.
const PART_BYTES_MIN: u64 = 256 << 10;
/// Parts wait in memory until those before them are there: at most so much of each connection.
const PART_BYTES_MAX: u64 = 1 << 20;

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
        let parts = parts(ByteRange::new(first, end), connections);
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
    async fn ask(&self, range: ByteRange) -> Result<Response, NetError> {
        let request = Request {
            range: Some(range),
            version: Some(self.validators),
            ..Request::whole(self.url)
        };
        let answer = self.client.send(request).await?;
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

/// Cuts a range for so many connections.
fn parts(range: ByteRange, connections: u32) -> Vec<ByteRange> {
    let even = range.length().div_ceil(u64::from(connections.max(1)));
    let most = even.clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    let starts = (range.start..range.end).step_by(most as usize);
    starts
        .map(|start| ByteRange::new(start, range.end.min(start + most)))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_for_connections() {
        let cut = |length, connections| -> Vec<u64> {
            let parts = parts(ByteRange::new(1536, 1536 + length), connections);
            let mut next = 1536;
            for part in &parts {
                assert_eq!(part.start, next);
                next = part.end;
            }
            assert_eq!(next, 1536 + length);
            parts.iter().map(|part| part.length()).collect()
        };
        let (least, most) = (PART_BYTES_MIN, PART_BYTES_MAX);
        assert!(cut(0, 8).is_empty());
        assert_eq!(cut(1, 8), [1]);
        assert_eq!(cut(least + 1, 8), [least, 1]);
        assert_eq!(cut(8 * least + 8, 8), [least + 1; 8]);
        assert_eq!(cut(3 * most, 1), [most; 3]);
        assert_eq!(cut(9 * most, 8), [most; 9]);
        assert_eq!(cut(2 * most, 4), [most / 2; 4]);
    }
}
