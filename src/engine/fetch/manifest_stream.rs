//! The rest of a manifest in its order, in one answer: all leaves at once, or whatever else a reader wants.

use crate::{
    core::{
        geometry::ByteRange,
        reader::InOrder,
        recovery::{self, Failure},
        statement::Refused,
    },
    net::{
        body::Body,
        client::{Client, Content, Request, Validators},
        error::NetError,
        location::Location,
    },
};

/// Ranges of one version of one manifest.
pub struct RangeSource<'a> {
    pub client: &'a Client,
    pub url: &'a Location,
    pub validators: &'a Validators,
}

impl RangeSource<'_> {
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
        let request = Request {
            location: self.url,
            range: Some(range),
            more: &[],
            version: Some(self.validators),
        };
        let answer = self.client.get(request).await?;
        let (skip, whole) = match answer.content {
            Content::Part { bytes, .. } if bytes.start <= range.start => {
                (range.start - bytes.start, false)
            }
            Content::Part { .. } => {
                return Err(NetError::new(
                    self.url,
                    Failure::BadAnswer(recovery::BadAnswer::LaterPart),
                ));
            }
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
        while let Some(want) = reader.want() {
            let needed = want.length() as usize;
            while self.buffered.len() < needed {
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
            if let Err(refused) = reader.give(&self.buffered[..needed]) {
                return Ok(Err(refused));
            }
            self.buffered.drain(..needed);
        }
        Ok(Ok(()))
    }
}
