//! The URLs of parts: whoever has one may send that part, and nothing else, until it expires. The key is kept with what is staged, or in
//! the database that servers share, so that they outlive the server that signed them.

use std::{ffi::OsStr, fs::File, os::unix::fs::FileExt, path::Path};

use axum::http::request::Parts;
use constant_time_eq::constant_time_eq;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Folder},
        machine,
    },
    engine::storage::OfferedPart,
    format::{geometry::ByteRange, upload::SessionId},
    policy::upload::Owner,
};

use super::{PATH, StartError, documents::in_query};

/// How long after it was signed a request may begin.
pub const VALID_S: u64 = 15 * 60;
const KEY_FILE: &str = "url.key";
const KEY_BYTES: usize = 32;
/// The purpose of the key: another use of it would make other hashes.
const CONTEXT: &str = "sapwood upload part url 1";

/// The query of a URL for a part of any content begins so.
const ANY: &str = "any&expires=";
/// What a form is signed for, in the place of a path.
const FORM: &str = "form";

/// Signs the URLs of parts.
pub struct Signer([u8; KEY_BYTES]);

/// From which the key is made that signs.
pub type UrlKey = [u8; KEY_BYTES];

/// What a URL allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub part: OfferedPart,
    pub rest: Rest,
}

/// The bytes of a part that are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rest {
    /// From there to its end.
    From(u64),
    /// These.
    Ranges(Vec<ByteRange>),
}

impl Rest {
    /// How many; `None`: the part is shorter.
    pub fn length(&self, part: &OfferedPart) -> Option<u64> {
        match self {
            Rest::From(from) => part.length.checked_sub(*from),
            Rest::Ranges(ranges) => Some(ranges.iter().map(|range| range.length()).sum()),
        }
    }

    fn query(&self) -> String {
        match self {
            Rest::From(from) => format!("from={from}"),
            Rest::Ranges(ranges) => {
                let range = |range: &ByteRange| format!("{}-{}", range.start, range.end);
                let ranges: Vec<String> = ranges.iter().map(range).collect();
                format!("send={}", ranges.join(","))
            }
        }
    }

    /// Of a query that this server signed.
    fn read(query: &str) -> Option<Rest> {
        if let Some(from) = in_query(query, "from") {
            return Some(Rest::From(from.parse().ok()?));
        }
        let send = in_query(query, "send")?;
        let range = |text: &str| {
            let (start, end) = text.split_once('-')?;
            let (start, end) = (start.parse().ok()?, end.parse().ok()?);
            (start < end).then(|| ByteRange::new(start, end))
        };
        let texts = send.split(',').filter(|text| !text.is_empty());
        Some(Rest::Ranges(texts.map(range).collect::<Option<_>>()?))
    }
}

/// One file that is sent by a form, in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormUpload {
    /// The session that the form opens.
    pub id: SessionId,
    pub owner: Owner,
    pub name: String,
    pub replace: bool,
    pub expires_s: u64,
}

/// Why a URL allows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    Signature,
    Expired,
}

/// The key of a folder; `None`: it has none.
#[cfg(feature = "postgres")]
pub fn key_of(folder: &Folder) -> Result<Option<UrlKey>, StartError> {
    let name = OsStr::new(KEY_FILE);
    match folder.open_own(name)? {
        Some(file) => read_key(&file, &folder.path_of(name)),
        None => Ok(None),
    }
}

pub fn new_key() -> Result<UrlKey, StartError> {
    let mut key = [0; KEY_BYTES];
    machine::fill_random(&mut key).map_err(StartError::Key)?;
    Ok(key)
}

fn read_key(file: &File, path: &Path) -> Result<Option<UrlKey>, StartError> {
    let mut key = [0; KEY_BYTES];
    let read = file.read_at(&mut key, 0);
    let read = read.map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
    Ok((read == KEY_BYTES).then_some(key))
}

impl Signer {
    pub fn new(key: UrlKey) -> Signer {
        Signer(blake3::derive_key(CONTEXT, &key))
    }

    /// With the key of this folder; it is made if it is missing.
    pub fn open(folder: &Folder) -> Result<Signer, StartError> {
        let name = OsStr::new(KEY_FILE);
        let path = folder.path_of(name);
        let file = folder.open_own_or_create(name)?;
        if let Some(key) = read_key(&file, &path)? {
            return Ok(Signer::new(key));
        }
        // A new one, or one whose writing a crash ended: no URL was signed with it.
        let key = new_key()?;
        files::write_at(&file, &path, &key, 0)?;
        files::sync_all(&file, &path)?;
        folder.sync()?;
        Ok(Signer::new(key))
    }

    /// The URL, below that of the server, that allows to send this of a part until a moment in Unix seconds.
    pub fn url(&self, id: SessionId, part: &OfferedPart, rest: &Rest, expires_s: u64) -> String {
        let OfferedPart {
            index,
            length,
            sha256,
            ..
        } = part;
        let path = format!("{PATH}/{id}/parts/{index}/bytes");
        let rest = rest.query();
        let query = format!("length={length}&{rest}&sha256={sha256}&expires={expires_s}");
        let signature = self.signature(&path, &query);
        format!("{path}?{query}&signature={signature}")
    }

    /// What the URL of a request allows.
    pub fn check(&self, request: &Parts, index: u32, now_s: u64) -> Result<Allowed, Denied> {
        let query = request.uri.query().unwrap_or_default();
        let signed = self.checked(request.uri.path(), query, now_s)?;
        let value = |name| in_query(signed, name).ok_or(Denied::Signature);
        let number = |name| value(name)?.parse::<u64>().map_err(|_| Denied::Signature);
        Ok(Allowed {
            part: OfferedPart {
                index,
                length: number("length")?,
                sha256: value("sha256")?.parse().map_err(|_| Denied::Signature)?,
                leaves: None,
            },
            rest: Rest::read(signed).ok_or(Denied::Signature)?,
        })
    }

    /// The URL, below that of the server, that allows to send a part of any content.
    pub fn any_url(&self, id: SessionId, index: u32, expires_s: u64) -> String {
        let path = format!("{PATH}/{id}/parts/{index}/bytes");
        let query = format!("{ANY}{expires_s}");
        let signature = self.signature(&path, &query);
        format!("{path}?{query}&signature={signature}")
    }

    /// Whether a request has such a URL, or one that looks so.
    pub fn is_for_any(request: &Parts) -> bool {
        request
            .uri
            .query()
            .is_some_and(|query| query.starts_with(ANY))
    }

    /// Whether the URL of a request allows to send any content.
    pub fn check_any(&self, request: &Parts, now_s: u64) -> Result<(), Denied> {
        let query = request.uri.query().unwrap_or_default();
        self.checked(request.uri.path(), query, now_s).map(drop)
    }

    /// The query of the URL to which a form with a file is sent.
    pub fn form_query(&self, form: &FormUpload) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let FormUpload {
            id,
            owner,
            name,
            replace,
            expires_s,
        } = form;
        let (owner, name) = (encoded(&owner.0), encoded(name));
        let query = format!(
            "sapwood-upload={id}&owner={owner}&name={name}&replace={replace}&expires={expires_s}"
        );
        let signature = self.signature(FORM, &query);
        format!("{query}&signature={signature}")
    }

    /// What such a query allows.
    pub fn check_form(&self, query: &str, now_s: u64) -> Result<FormUpload, Denied> {
        let signed = self.checked(FORM, query, now_s)?;
        let value = |name| in_query(signed, name).ok_or(Denied::Signature);
        let id = value("sapwood-upload")?.parse();
        let expires_s = value("expires")?.parse();
        Ok(FormUpload {
            id: id.map_err(|_| Denied::Signature)?,
            owner: Owner(value("owner")?),
            name: value("name")?,
            replace: value("replace")? == "true",
            expires_s: expires_s.map_err(|_| Denied::Signature)?,
        })
    }

    /// The query before the signature, if that is ours and the time is not over.
    fn checked<'a>(&self, path: &str, query: &'a str, now_s: u64) -> Result<&'a str, Denied> {
        let (signed, signature) = query.rsplit_once("&signature=").ok_or(Denied::Signature)?;
        let expected = self.signature(path, signed);
        if !constant_time_eq(expected.as_bytes(), signature.as_bytes()) {
            return Err(Denied::Signature);
        }
        let expires = in_query(signed, "expires").and_then(|text| text.parse::<u64>().ok());
        match expires.ok_or(Denied::Signature)? < now_s {
            true => Err(Denied::Expired),
            false => Ok(signed),
        }
    }

    /// Over the method, the path, and the query before the signature.
    fn signature(&self, path: &str, query: &str) -> String {
        let text = format!("PUT\n{path}\n{query}\n");
        blake3::keyed_hash(&self.0, text.as_bytes()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::format::upload::Sha256;

    fn check(signer: &Signer, url: &str, now_s: u64) -> Result<Allowed, Denied> {
        let (parts, ()) = Request::put(url).body(()).unwrap().into_parts();
        signer.check(&parts, 3, now_s)
    }

    #[test]
    fn only_the_url_that_was_signed_is_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Folder::open(folder.path()).unwrap();
        let signer = Signer::open(&opened).unwrap();
        let part = OfferedPart {
            index: 3,
            length: 1000,
            sha256: Sha256([7; 32]),
            leaves: None,
        };
        let id = SessionId::from_random([1; 16]);
        let url = signer.url(id, &part, &Rest::From(64), 100);
        for ranges in [
            vec![],
            vec![ByteRange::new(0, 64)],
            vec![ByteRange::new(5, 6), ByteRange::new(900, 1000)],
        ] {
            let rest = Rest::Ranges(ranges);
            let url = signer.url(id, &part, &rest, 100);
            assert_eq!(
                check(&signer, &url, 100).map(|allowed| allowed.rest),
                Ok(rest)
            );
        }
        let rest = Rest::From(64);
        let allowed = Allowed { part, rest };
        assert_eq!(check(&signer, &url, 100), Ok(allowed.clone()));
        assert_eq!(check(&signer, &url, 101), Err(Denied::Expired));
        // After a restart too.
        let again = Signer::open(&opened).unwrap();
        assert_eq!(check(&again, &url, 100), Ok(allowed));
        let other = tempfile::tempdir().unwrap();
        let other = Signer::open(&Folder::open(other.path()).unwrap()).unwrap();
        assert_eq!(check(&other, &url, 100), Err(Denied::Signature));
        let id = id.to_string();
        for (from, to) in [
            ("parts/3", "parts/4"),
            (id.as_str(), "01010101-0101-4101-8101-010101010102"),
            ("length=1000", "length=1001"),
            ("from=64", "from=0"),
            ("sha256=07", "sha256=08"),
            ("expires=100", "expires=999"),
            ("signature=", "signature=0"),
            ("&signature=", "&x="),
            ("&signature=", "&length=5&signature="),
        ] {
            let changed = url.replacen(from, to, 1);
            assert_ne!(changed, url, "{from}");
            assert_eq!(
                check(&signer, &changed, 100),
                Err(Denied::Signature),
                "{to}"
            );
        }
    }
}
