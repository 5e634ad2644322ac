//! The JSON documents of the API, as the server reads and writes them (upload.md).

use std::{collections::HashMap, path::Path};

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    engine::{
        ingest::{Copies, OpenRequest, session_store::Cursor},
        storage::{Base, CopyRange, OfferedPart},
    },
    format::{
        geometry::ByteRange,
        ingest::time,
        tree::Cv,
        upload::{SessionId, Sha256},
    },
    policy::upload::{FinishedPart, Goal, Protocol, Session, State},
    serve::origin::path::url_path,
};

use super::PATH;

/// The body that opens a session.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    name: String,
    length: Option<u64>,
    part_size: Option<u64>,
    block_size: Option<u64>,
    root: Option<String>,
    sha256: Option<String>,
    #[serde(default)]
    replace: bool,
    #[serde(default)]
    growing: bool,
}

/// The body of a request for targets.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offers {
    base: Option<String>,
    parts: Vec<Offer>,
}

/// Bytes of a part that the base has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    at: u64,
    from: u64,
    length: u64,
}

/// A part that is to be sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    index: u32,
    length: u64,
    sha256: String,
    leaves: Option<String>,
    #[serde(default)]
    copy: Vec<Copy>,
}

/// The body of a checkpoint.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    length: u64,
    sha256: String,
    etag: Option<String>,
    #[serde(default)]
    pub replace: bool,
}

/// The body of the request that publishes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finalize {
    length: u64,
    root: Option<String>,
    sha256: Option<String>,
    #[serde(default)]
    replace: bool,
}

/// A member that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the member {0} has a value that is not allowed")]
pub struct BadMember(&'static str);

fn parsed<T: std::str::FromStr>(
    text: Option<&str>,
    member: &'static str,
) -> Result<Option<T>, BadMember> {
    let value = text.map(str::parse).transpose();
    value.map_err(|_| BadMember(member))
}

fn sha256(text: &str) -> Result<Sha256, BadMember> {
    text.parse().map_err(|_| BadMember("sha256"))
}

impl Open {
    pub fn request(self) -> Result<OpenRequest, BadMember> {
        Ok(OpenRequest {
            root: parsed(self.root.as_deref(), "root")?,
            sha256: parsed(self.sha256.as_deref(), "sha256")?,
            name: self.name,
            length: self.length,
            part_size: self.part_size,
            block_size: self.block_size,
            replace: self.replace,
            growing: self.growing,
            protocol: Protocol::Sapwood,
        })
    }
}

impl Offers {
    /// The parts, and what the base has of them.
    pub fn parts(self) -> Result<(Vec<OfferedPart>, Option<Copies>), BadMember> {
        let root = parsed(self.base.as_deref(), "base")?;
        let copy = |copy: &Copy| CopyRange {
            at: copy.at,
            from: copy.from,
            length: copy.length,
        };
        let mut parts = HashMap::new();
        for offer in &self.parts {
            if !offer.copy.is_empty() {
                parts.insert(offer.index, offer.copy.iter().map(copy).collect());
            }
        }
        let copies = root.map(|root| Copies { root, parts });
        let parts = self
            .parts
            .into_iter()
            .map(Offer::part)
            .collect::<Result<_, _>>()?;
        Ok((parts, copies))
    }
}

impl Offer {
    fn part(self) -> Result<OfferedPart, BadMember> {
        Ok(OfferedPart {
            index: self.index,
            length: self.length,
            sha256: sha256(&self.sha256)?,
            leaves: self.leaves.as_deref().map(leaves).transpose()?,
        })
    }
}

fn leaves(text: &str) -> Result<Vec<Cv>, BadMember> {
    let bytes = hex::decode(text).map_err(|_| BadMember("leaves"))?;
    match bytes.as_chunks::<32>() {
        (leaves, []) => Ok(leaves.to_vec()),
        _ => Err(BadMember("leaves")),
    }
}

impl Checkpoint {
    pub fn part(self, index: u32) -> Result<FinishedPart, BadMember> {
        Ok(FinishedPart {
            index,
            length: self.length,
            sha256: sha256(&self.sha256)?,
            etag: self.etag,
        })
    }
}

impl Finalize {
    pub fn goal(&self) -> Result<Goal, BadMember> {
        Ok(Goal {
            length: self.length,
            root: parsed(self.root.as_deref(), "root")?,
            sha256: parsed(self.sha256.as_deref(), "sha256")?,
            replace: self.replace,
        })
    }
}

/// What is in a status of an object that can be copied.
pub fn base(base: &Base) -> Value {
    json!({ "root": base.root.to_string(), "length": base.length })
}

/// Where a part goes, besides what of it.
pub fn target(
    index: u32,
    url: Option<String>,
    headers: &[(String, String)],
    expires_s: u64,
) -> Value {
    let headers = headers.iter().cloned();
    let headers: Map<String, Value> = headers.map(|(name, value)| (name, value.into())).collect();
    json!({
        "index": index,
        "method": "PUT",
        "url": url,
        "headers": headers,
        "expires": time(expires_s),
    })
}

/// Ranges of a part.
pub fn ranges(ranges: &[ByteRange]) -> Value {
    let range = |range: &ByteRange| json!({ "at": range.start, "length": range.length() });
    ranges.iter().map(range).collect()
}

/// The status of a session, with its finished parts or without. `expires_s`: in Unix seconds.
pub fn status(session: &Session, parts: Option<&[FinishedPart]>, expires_s: u64) -> Value {
    let declared = &session.declared;
    let (root, url) = match &session.state {
        State::Done(published) => {
            let path = Path::new(declared.name.as_str());
            (Some(published.root), Some(url_path(path)))
        }
        _ => (declared.root, None),
    };
    let error = session.problem.as_ref();
    let error = error.map(|cause| json!({ "code": cause.code, "detail": cause.detail }));
    let mut status = json!({
        "id": session.id.to_string(),
        "name": declared.name.as_str(),
        "owner": session.owner.0,
        "state": session.state.name(),
        "length": length(session),
        "part_size": declared.plan.part_size(),
        "block_size": declared.plan.block_size().bytes(),
        "grows": declared.plan.grows(),
        "root": root.map(|root| root.to_string()),
        "sha256": declared.sha256.map(|sha256| sha256.to_string()),
        "replace": declared.replace,
        "growing": declared.growing,
        "proof": declared.protocol.proof(),
        "created": time(session.created_s),
        "last_alive": time(session.last_alive_s),
        "expires": session.state.is_live().then(|| time(expires_s)),
        "version": session.version,
        "url": url,
        "error": error,
    });
    if let Some(parts) = parts {
        status["parts"] = parts.iter().map(part).collect();
    }
    status
}

fn length(session: &Session) -> Option<u64> {
    match &session.state {
        State::Done(published) => Some(published.length),
        _ => session.declared.plan.length(),
    }
}

/// A finished part.
pub fn part(part: &FinishedPart) -> Value {
    let mut document = Map::new();
    document.insert("index".to_owned(), part.index.into());
    document.insert("length".to_owned(), part.length.into());
    document.insert("sha256".to_owned(), part.sha256.to_string().into());
    if let Some(etag) = &part.etag {
        document.insert("etag".to_owned(), etag.clone().into());
    }
    Value::Object(document)
}

/// The URL of a page of a list, below that of the server.
pub fn page_url(name: Option<&str>, after: Cursor) -> String {
    let name = name.map(|name| {
        let encoded =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        format!("name={encoded}&")
    });
    let (name, Cursor { created_s, id }) = (name.unwrap_or_default(), after);
    format!("{PATH}?{name}after={created_s}-{id}")
}

/// Where a page begins.
pub fn cursor(text: &str) -> Option<Cursor> {
    let (created_s, id) = text.split_once('-')?;
    let id: SessionId = id.parse().ok()?;
    Some(Cursor {
        created_s: created_s.parse().ok()?,
        id,
    })
}

/// A value in a query, decoded.
pub fn in_query(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&');
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(value).decode_utf8().ok()?.into_owned())
}
