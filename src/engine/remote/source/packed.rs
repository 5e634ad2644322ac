//! The pack of an object as a source of its plain bytes: whole frames, for the spans of a transfer (pack.md, 4).

pub mod pages;

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{
    engine::{context::Context, error::Error},
    format::{
        compression::Unpacker,
        geometry::ByteRange,
        pack::{FRAME, PackLayout},
    },
    net::{error::NetError, location::Location, request::Refusals},
    policy::{
        packing::{Choice, PackRates},
        recovery::{Class, Failure},
    },
};

use super::{Extent, Source, SourceRequest, SourceResponse};
use pages::PackPages;

/// After this many parts that were wrong, or requests that were refused, the pack is left alone.
const FAULTS_MAX: u32 = 2;
/// After this many failures that can pass, while no frame came whole, it is left alone for a while; then one more shows whether
/// they passed.
const FAILURES_MAX: u32 = 8;
const REST_TIME: Duration = Duration::from_secs(60);
/// A stall takes as long as many other failures.
const STALL_FAILURES: u32 = 4;
/// So many plain bytes are requested at most to learn their rate.
const PROBE_BYTES_MAX: u64 = 1 << 20;
/// A packed response is looked at after each of these times.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// A frame that broke so often is requested plain.
const BREAKS_MAX: u32 = 2;

/// A pack whose index was read, or can be.
#[derive(Clone)]
pub struct Pack(Arc<Shared>);

struct Shared {
    source: Source,
    pages: PackPages,
    faults: AtomicU32,
    failures: Mutex<Failures>,
    /// How often a response broke in each of these frames.
    breaks: Mutex<BTreeMap<u64, u32>>,
    rates: Mutex<PackRates>,
    /// When the first packed bytes came.
    began: OnceLock<Instant>,
    cores: usize,
}

/// Failures since a frame came whole.
#[derive(Default)]
struct Failures {
    count: u32,
    /// Until when the pack is left alone.
    rests_until: Option<Instant>,
}

/// The packed frames to request, and the bytes of the object that they give.
struct Frames {
    first: u64,
    packed: ByteRange,
    plain: ByteRange,
}

impl Pack {
    /// The pack at a URL, with this index.
    pub fn new(context: &Context, place: &Location, pages: PackPages) -> Pack {
        Pack(Arc::new(Shared {
            source: Source::http(&context.client, place),
            pages,
            faults: AtomicU32::new(0),
            failures: Mutex::default(),
            breaks: Mutex::default(),
            rates: Mutex::default(),
            began: OnceLock::new(),
            cores: available_parallelism().map_or(1, NonZero::get),
        }))
    }

    /// A part of it was wrong, or it is not there.
    pub fn note_wrong(&self) {
        self.0.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// A request failed: it is missing, replaced, or behind a server without ranges, unless that can pass.
    pub fn note_failure(&self, failure: Failure) {
        if !matches!(failure.class(), Class::Again | Class::Slower) {
            self.note_wrong();
            return;
        }
        let mut failures = self.0.failures.lock();
        failures.count += match failure {
            Failure::Stalled | Failure::Unreachable => STALL_FAILURES,
            _ => 1,
        };
        if failures.count >= FAILURES_MAX {
            failures.count = FAILURES_MAX - 1;
            failures.rests_until = Some(Instant::now() + REST_TIME);
        }
    }

    /// The same of what came of reading it.
    pub fn note_error(&self, error: &Error) {
        match error {
            Error::Net { cause, .. } => self.note_failure(cause.failure),
            _ => self.note_wrong(),
        }
    }

    fn is_used(&self) -> bool {
        let rests_until = self.0.failures.lock().rests_until;
        self.0.faults.load(Ordering::Relaxed) < FAULTS_MAX
            && rests_until.is_none_or(|until| Instant::now() >= until)
    }

    /// A response gave so many plain bytes after this time: one of the pack, or of the object itself.
    pub fn note_rate(&self, is_packed: bool, bytes: u64, time: Duration) {
        let (mut rates, ns) = (self.0.rates.lock(), time.as_nanos() as u64);
        match is_packed {
            true => rates.note_packed(bytes, ns),
            false => rates.note_plain(bytes, ns),
        }
    }

    /// Whether a response is to be given up that began then, and gave so many plain bytes.
    fn gives_up(&self, bytes: u64, began: Instant) -> bool {
        let time = began.elapsed();
        let gives_up = (self.0.rates.lock()).gives_up(bytes, time.as_nanos() as u64);
        if gives_up {
            self.note_rate(true, 0, time);
        }
        gives_up
    }

    fn choice(&self) -> Choice {
        let elapsed = self.0.began.get().map(|began| began.elapsed());
        let elapsed_ns = elapsed.unwrap_or_default().as_nanos() as u64;
        self.0.rates.lock().choice(elapsed_ns, self.0.cores)
    }

    /// A response broke in this frame.
    fn note_break(&self, frame: u64, failure: Failure) {
        self.note_failure(failure);
        *self.0.breaks.lock().entry(frame).or_default() += 1;
    }

    /// This frame came whole.
    fn note_whole(&self, frame: u64) {
        *self.0.failures.lock() = Failures::default();
        self.0.breaks.lock().remove(&frame);
    }

    fn breaks_often(&self, frame: u64) -> bool {
        let breaks = self.0.breaks.lock();
        breaks.get(&frame).is_some_and(|count| *count >= BREAKS_MAX)
    }

    /// The pack itself as a representation, and its length.
    pub fn representation(&self) -> (Source, u64) {
        (self.0.source.clone(), self.0.pages.length())
    }

    /// Whether nothing of it was wrong so far.
    pub fn is_trusted(&self) -> bool {
        self.is_used()
    }

    /// Where the parts of the pack lie.
    pub fn layout(&self) -> PackLayout {
        self.0.pages.layout()
    }

    /// Reads of the index what is not known of these bytes of the object, if it is worth it.
    pub async fn prepare(&self, wants: impl IntoIterator<Item = ByteRange>) {
        if let Err(error) = self.0.pages.load(wants).await {
            self.note_error(&error);
        }
    }

    /// The length of a packed frame; `None`: it is not packed.
    pub fn frame_bytes(&self, frame: u64) -> Option<u64> {
        let packed = self.frame(frame);
        (!packed.is_empty()).then(|| packed.length())
    }

    /// Where a packed frame lies in the pack; empty: it is not packed.
    pub fn frame(&self, frame: u64) -> ByteRange {
        self.0.pages.frame(frame)
    }

    /// Where the packed pieces of a cluster lie in the pack.
    pub fn cluster(&self, cluster: u64) -> ByteRange {
        self.0.pages.cluster(cluster)
    }

    /// Whether fewer bytes are moved if this frame is requested packed for what a range needs of it.
    fn pays(&self, frame: u64, range: ByteRange) -> bool {
        let plain = self.layout().frame(frame);
        let needed = plain
            .end
            .min(range.end)
            .saturating_sub(plain.start.max(range.start));
        let packed = self.frame(frame).length();
        packed > 0 && packed < needed && !self.breaks_often(frame)
    }

    /// The packed frames from the start of a range on. `None`: the first one does not pay.
    fn frames(&self, range: ByteRange) -> Option<Frames> {
        let first = range.start / FRAME;
        let mut packed = self.frame(first);
        let mut end = first;
        while end < range.end.div_ceil(FRAME) && self.pays(end, range) {
            let next = self.frame(end);
            // A page that was not proven may begin anywhere.
            if end > first && next.start != packed.end {
                break;
            }
            packed.end = next.end;
            end += 1;
        }
        (first < end).then(|| Frames {
            first,
            packed,
            plain: ByteRange::new(range.start, range.end.min(end * FRAME)),
        })
    }

    /// The part of a range, from its start on, that is to be requested plain: all of it, or up to a packed frame that pays.
    pub fn plain_part(&self, range: ByteRange) -> ByteRange {
        match self.choice() {
            Choice::Packed if self.is_used() => (),
            Choice::Probe => {
                return ByteRange::new(range.start, range.end.min(range.start + PROBE_BYTES_MAX));
            }
            Choice::Packed | Choice::Plain => return range,
        }
        let mut frames = range.start / FRAME..range.end.div_ceil(FRAME);
        let next = frames.find(|frame| self.pays(*frame, range));
        match next.map(|frame| frame * FRAME) {
            Some(end) if end > range.start => ByteRange::new(range.start, end),
            _ => range,
        }
    }

    /// Requests the first bytes of a range packed. `None`: they are to be requested plain.
    pub async fn request(&self, range: ByteRange) -> Option<PackedResponse> {
        if self.choice() != Choice::Packed || !self.is_used() {
            return None;
        }
        self.prepare([range]).await;
        let frames = self.frames(range).filter(|_| self.is_used())?;
        let request = SourceRequest {
            range: Some(frames.packed),
            length: Some(self.0.pages.length()),
            refusals: Refusals::OfTheTarget,
            ..SourceRequest::default()
        };
        let began = Instant::now();
        let mut opening = Box::pin(self.0.source.open(request));
        let opened = loop {
            match timeout(LOOK_TIME, &mut opening).await {
                Ok(opened) => break opened,
                Err(_) if self.gives_up(0, began) => return None,
                Err(_) => (),
            }
        };
        let part = Extent::Range {
            until: frames.packed.end,
        };
        match opened {
            Ok(response) if response.extent() == part => Some(PackedResponse {
                pack: self.clone(),
                response: Box::new(response),
                frame: frames.first,
                unpacker: None,
                packed_left: 0,
                packed: Bytes::new(),
                at: frames.first * FRAME,
                plain: frames.plain,
                began,
                given: 0,
            }),
            // The object itself is there.
            Err(error) => {
                self.note_failure(error.failure);
                None
            }
            Ok(_) => {
                self.note_wrong();
                None
            }
        }
    }
}

/// A response with packed frames, which gives plain bytes.
pub struct PackedResponse {
    pack: Pack,
    response: Box<SourceResponse>,
    /// The frame that is being decoded, or the next one.
    frame: u64,
    unpacker: Option<Unpacker<'static>>,
    /// Packed bytes of the current frame that did not arrive.
    packed_left: u64,
    /// Packed bytes that arrived and are not decoded.
    packed: Bytes,
    /// The offset of the next plain byte.
    at: u64,
    /// The plain bytes to give.
    plain: ByteRange,
    /// When it was requested.
    began: Instant,
    /// Plain bytes so far.
    given: u64,
}

impl PackedResponse {
    /// The end of the plain bytes.
    pub fn until(&self) -> u64 {
        self.plain.end
    }

    /// The URL of the response.
    pub fn location(&self) -> &Location {
        self.response.location()
    }

    /// The pack that it is of.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The next plain bytes and their offset; `None` at the end. What cannot be decoded is a broken response.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, NetError> {
        loop {
            if self.at >= self.plain.end {
                return Ok(None);
            }
            if self.packed.is_empty() {
                // The frames of the request end where the plain bytes do.
                match self.next_packed().await {
                    Ok(Some((_, packed))) => self.packed = packed,
                    Ok(None) => return Err(self.bad()),
                    Err(error) => {
                        self.pack.note_break(self.frame, error.failure);
                        return Err(error);
                    }
                }
            }
            let place = self.at;
            let began = Instant::now();
            self.pack.0.began.get_or_init(|| began);
            let Some(mut plain) = self.decode() else {
                return Err(self.bad());
            };
            let ns = began.elapsed().as_nanos() as u64;
            self.pack.0.rates.lock().note_decoding(ns);
            self.at += plain.len() as u64;
            self.given += plain.len() as u64;
            let early = self
                .plain
                .start
                .saturating_sub(place)
                .min(plain.len() as u64);
            let late = self
                .at
                .saturating_sub(self.plain.end)
                .min(plain.len() as u64 - early);
            plain.truncate(plain.len() - late as usize);
            let plain = Bytes::from(plain).split_off(early as usize);
            if !plain.is_empty() {
                return Ok(Some((place + early, plain)));
            }
        }
    }

    /// The next packed bytes, unless they come so slowly that they are better requested plain.
    async fn next_packed(&mut self) -> Result<Option<(u64, Bytes)>, NetError> {
        let (given, began) = (self.given, self.began);
        let next = {
            let mut next = Box::pin(self.response.next());
            loop {
                // Not begun again: it may hold bytes.
                match timeout(LOOK_TIME, &mut next).await {
                    Ok(next) => break Some(next),
                    Err(_) if self.pack.gives_up(given, began) => break None,
                    Err(_) => (),
                }
            }
        };
        match next {
            Some(next) if !self.pack.gives_up(given, began) => next,
            _ => Err(NetError::new(self.location(), Failure::Broken)),
        }
    }

    fn bad(&self) -> NetError {
        self.pack.note_wrong();
        NetError::new(self.location(), Failure::Broken)
    }

    /// Decodes what arrived, up to the end of a frame.
    fn decode(&mut self) -> Option<Vec<u8>> {
        let mut unpacker = match self.unpacker.take() {
            Some(unpacker) => unpacker,
            None => {
                let plain = self.pack.layout().frame(self.frame);
                self.packed_left = self.pack.frame(self.frame).length();
                Unpacker::new(&[], plain.length() as usize)?
            }
        };
        let count = self.packed_left.min(self.packed.len() as u64);
        let packed = self.packed.split_to(count as usize);
        self.packed_left -= count;
        let plain = unpacker.push(&packed)?;
        match self.packed_left {
            0 if !unpacker.is_complete() => None,
            0 => {
                self.pack.note_whole(self.frame);
                self.frame += 1;
                Some(plain)
            }
            _ => {
                self.unpacker = Some(unpacker);
                Some(plain)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures_util::FutureExt;

    use super::{pages::More, *};
    use crate::format::pack::{HEAD_BYTES, PackHead, PackLayout, PackedLengths};

    const PAGE: u64 = 64 * FRAME;

    /// A pack of two pages whose index is read by pages, the second of which says that it begins so many bytes later than it does.
    fn pack(moved: i64) -> Pack {
        let layout = PackLayout::new(2 * PAGE).unwrap();
        let lengths = PackedLengths {
            frames: vec![100; 128],
            clusters: vec![0; 2048],
        };
        let mut index = lengths.to_index(layout, [0; 32]);
        let start = layout.page(1).start as usize;
        let begins = u64::from_le_bytes(index[start..start + 8].try_into().unwrap());
        index[start..start + 8].copy_from_slice(&(begins.strict_add_signed(moved)).to_le_bytes());
        let mut head: [u8; HEAD_BYTES] = *index.first_chunk().unwrap();
        head[8..16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        let read = move |wants: Vec<ByteRange>| {
            let bytes = |want: &ByteRange| index[want.start as usize..want.end as usize].to_vec();
            let read: HashMap<_, _> = wants.iter().map(|want| (want.start, bytes(want))).collect();
            async move { (read, Ok(())) }.boxed()
        };
        let more = More {
            read: Box::new(read),
            place: String::new(),
            start: 0,
        };
        let pages = PackPages::some(PackHead::read(&head).unwrap(), layout, more);
        let place = Location::parse("http://media.example/f.sapwood.pack").unwrap();
        Pack::new(&Context::default(), &place, pages)
    }

    #[tokio::test]
    async fn frames_that_do_not_follow_each_other_are_requested_apart() {
        let across = ByteRange::new(PAGE - 2 * FRAME, PAGE + 2 * FRAME);
        for (moved, together) in [(0, 4), (1, 2), (1000, 2), (-1, 2)] {
            let pack = pack(moved);
            assert!(pack.frames(across).is_none(), "nothing was read");
            pack.prepare([across]).await;
            let frames = pack.frames(across).unwrap();
            assert_eq!(frames.packed.length(), 100 * together, "{moved}");
            let end = across.start + together * FRAME;
            assert_eq!(frames.plain, ByteRange::new(across.start, end));
        }
    }
}
