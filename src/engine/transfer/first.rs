//! A response that came before the transfer, and the spans that read it.

use crate::{
    engine::remote::source::{Extent, SourceResponse},
    format::{
        blockset::BlockSet,
        geometry::{BlockIndex, BlockRange, Geometry},
    },
};

/// Gives each of the first bytes to one span: what comes wrong is requested again.
pub struct FirstBytes {
    geometry: Geometry,
    response: Option<Box<SourceResponse>>,
    /// The blocks of the spans that began in them.
    given: BlockSet,
}

impl FirstBytes {
    /// The response begins with the first byte of the object.
    pub fn new(geometry: &Geometry, response: Box<SourceResponse>) -> FirstBytes {
        FirstBytes {
            geometry: *geometry,
            response: Some(response),
            given: BlockSet::empty(geometry.blocks()),
        }
    }

    /// What a span can use of it. `whole`: the span is to read all of the object.
    pub fn of_span(&mut self, blocks: BlockRange, whole: bool) -> Option<Box<SourceResponse>> {
        let length = self.geometry.length();
        let until = match self.response.as_ref()?.extent() {
            Extent::Range { until } => until,
            _ => length,
        };
        if whole {
            return self.response.take().filter(|_| until == length);
        }
        let first = BlockIndex(blocks.start);
        let offset = self.geometry.bytes_of(first).start;
        let begins = |open: &mut Box<SourceResponse>| !open.is_received() && offset < until;
        if let Some(mut open) = self.response.take_if(begins) {
            open.skip_to(offset);
            return Some(open);
        }
        let is_new = !self.given.contains(first);
        self.given.insert_range(blocks);
        let received = self.response.as_ref()?.received_from(offset);
        received.filter(|_| is_new).map(Box::new)
    }
}
