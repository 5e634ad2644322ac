//! Names in the bucket (upload.md, "Staging in S3").

use std::fmt;

use crate::{
    format::{geometry::BlockSize, library::LibraryPath, upload::SessionId},
    net::location::Location,
    policy::{
        parts::PartPlan,
        upload::{Protocol, STAGING_FOLDER, Session},
    },
};

/// Ends of the keys of what belongs to an upload, besides its object.
const ENDS: [&str; 4] = [MANIFEST, PUBLISHED, COPY, EMPTY];
/// What ends the name of an attested upload.
const ATTESTED: &str = "attested";
/// In the place of a length that was not known, of an upload whose parts have one size.
const EQUAL: &str = "_";
/// The manifest, until it has its name.
pub const MANIFEST: &str = ".manifest";
/// Says that the object has its name.
pub const PUBLISHED: &str = ".published";
/// Names the multipart upload to which a large object is copied.
pub const COPY: &str = ".copy";
/// Where a client sends the part of an object without bytes. It is not used.
pub const EMPTY: &str = ".empty";

/// What an upload is called: `ID/NONCE,LENGTH,PARTSIZE,BLOCKSIZE`, and `,attested` if it is. It is the beginning of all its keys below the folder with what is
/// staged, and says what its session declared, so that the bucket itself is the record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    pub session: SessionId,
    /// Of two uploads that two servers began for one session, one is removed.
    nonce: String,
    length: Option<u64>,
    part_size: u64,
    block_size: BlockSize,
    /// Its parts have one size, whatever the length.
    has_equal_parts: bool,
    /// Its parts are joined under the name of the object.
    pub attested: bool,
}

impl Handle {
    pub fn new(session: &Session, nonce: [u8; 8], attested: bool) -> Handle {
        let plan = session.declared.plan;
        Handle {
            session: session.id,
            nonce: hex::encode(nonce),
            length: plan.length().filter(|_| !plan.grows()),
            part_size: plan.part_size(),
            block_size: plan.block_size(),
            has_equal_parts: session.declared.protocol == Protocol::Parts
                && plan.length().is_none(),
            attested,
        }
    }

    pub fn parse(text: &str) -> Option<Handle> {
        let (session, declared) = text.split_once('/')?;
        let mut values = declared.split(',');
        let mut next = || values.next();
        let nonce = next()?.to_owned();
        let length = next()?;
        let handle = Handle {
            session: session.parse().ok()?,
            nonce,
            length: match length {
                "-" | EQUAL => None,
                length => Some(length.parse().ok()?),
            },
            has_equal_parts: length == EQUAL,
            part_size: next()?.parse().ok()?,
            block_size: BlockSize::new(next()?.parse().ok()?)?,
            attested: next().is_some_and(|attested| attested == ATTESTED),
        };
        // One upload has one name.
        (handle.to_string() == text && handle.plan().is_some()).then_some(handle)
    }

    /// `None`: these sizes are not allowed.
    pub fn plan(&self) -> Option<PartPlan> {
        let plan = PartPlan::new(self.length, self.part_size, self.block_size).ok()?;
        Some(match self.has_equal_parts {
            true => plan.of_equal_parts(),
            false => plan,
        })
    }

    /// What tells this upload from others of its session.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// The length that was declared.
    pub fn length(&self) -> Option<u64> {
        self.length
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{},", self.session, self.nonce)?;
        match self.length {
            Some(length) => write!(f, "{length}")?,
            None if self.has_equal_parts => f.write_str(EQUAL)?,
            None => f.write_str("-")?,
        }
        write!(f, ",{},{}", self.part_size, self.block_size.bytes())?;
        match self.attested {
            true => write!(f, ",{ATTESTED}"),
            false => Ok(()),
        }
    }
}

/// A bucket, or a folder of it, that takes uploads.
#[derive(Clone, Debug)]
pub struct Place {
    folder: Location,
    bucket: Location,
    /// The keys of all that is staged begin so.
    staging: String,
    /// The keys of all objects begin so.
    prefix: String,
}

impl Place {
    /// `None`: it is not in S3.
    pub fn new(folder: &Location) -> Option<Place> {
        let (bucket, prefix) = folder.bucket_and_key()?;
        let prefix = match prefix.is_empty() || prefix.ends_with('/') {
            true => prefix,
            false => format!("{prefix}/"),
        };
        Some(Place {
            folder: Location::parse(&format!("s3://{bucket}/{prefix}")).ok()?,
            bucket: Location::parse(&format!("s3://{bucket}")).ok()?,
            staging: format!("{prefix}{STAGING_FOLDER}/"),
            prefix,
        })
    }

    /// The bucket, or the folder of it.
    pub fn folder(&self) -> &Location {
        &self.folder
    }

    /// For requests that list.
    pub fn bucket(&self) -> &Location {
        &self.bucket
    }

    /// What has this path below the folder.
    pub fn below(&self, path: &str) -> Location {
        self.folder.below(path)
    }

    /// Where an object gets its name.
    pub fn object(&self, name: &LibraryPath) -> Location {
        self.below(name.as_str())
    }

    /// Where the manifest of an object gets its name.
    pub fn manifest(&self, name: &LibraryPath) -> Location {
        self.object(name).of_manifest()
    }

    /// Where the object of an upload is staged; of an attested one, the note that names its multipart upload.
    pub fn staged(&self, handle: &Handle, name: &LibraryPath) -> Location {
        self.folder
            .below(&format!("{STAGING_FOLDER}/{handle}/{name}"))
    }

    /// Where the parts of an upload are joined.
    pub fn joined(&self, handle: &Handle, name: &LibraryPath) -> Location {
        match handle.attested {
            true => self.object(name),
            false => self.staged(handle, name),
        }
    }

    /// What belongs to an upload besides its object; see [`MANIFEST`].
    pub fn beside(&self, handle: &Handle, end: &str) -> Location {
        self.folder
            .below(&format!("{STAGING_FOLDER}/{handle}{end}"))
    }

    /// With what keys begin: of an upload, or of all that is staged.
    pub fn staging(&self, handle: Option<&Handle>) -> String {
        let handle = handle.map_or_else(String::new, Handle::to_string);
        format!("{}{handle}", self.staging)
    }

    /// The key of an object that has its name.
    pub fn key(&self, name: &LibraryPath) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The object with a listed key.
    pub fn at(&self, key: &str) -> Option<Location> {
        let (bucket, _) = self.bucket.bucket_and_key()?;
        Location::parse(&format!("s3://{bucket}/{key}")).ok()
    }

    /// The upload to which a listed key belongs, and the name of its object if the key is that of the object.
    pub fn parse(&self, key: &str) -> Option<(Handle, Option<LibraryPath>)> {
        let below = key.strip_prefix(&self.staging)?;
        let slash = below.find('/')? + 1;
        let end = below[slash..].find('/').map(|end| slash + end);
        match end {
            Some(end) => {
                let handle = Handle::parse(&below[..end])?;
                Some((handle, Some(LibraryPath::new(&below[end + 1..])?)))
            }
            None => {
                let handle = ENDS.iter().find_map(|end| below.strip_suffix(end));
                Some((Handle::parse(handle?)?, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        parts::PART_BYTES_MIN,
        upload::{Declared, Now, Owner},
    };

    fn session(length: Option<u64>) -> Session {
        let block = BlockSize::DEFAULT;
        let declared = Declared {
            name: LibraryPath::new("shows/talk é.mp4").unwrap(),
            plan: PartPlan::new(length, PART_BYTES_MIN, block).unwrap(),
            root: None,
            sha256: None,
            replace: false,
            growing: false,
            protocol: Protocol::default(),
        };
        let now = Now {
            unix_s: 1,
            served_s: 0,
        };
        Session::open(
            SessionId::from_random([1; 16]),
            Owner(String::new()),
            declared,
            now,
        )
    }

    #[test]
    fn keys_say_what_a_session_declared() {
        for (url, prefix) in [
            ("s3://media", ""),
            ("s3://media/", ""),
            ("s3://media/a b/c", "a b/c/"),
            ("s3://media/a b/c/", "a b/c/"),
        ] {
            let place = Place::new(&Location::parse(url).unwrap()).unwrap();
            for length in [None, Some(0), Some(PART_BYTES_MIN + 1)] {
                let session = session(length);
                let attested = length.is_none();
                let handle = Handle::new(&session, [7; 8], attested);
                assert_eq!(Handle::parse(&handle.to_string()), Some(handle.clone()));
                assert_eq!(handle.plan(), Some(session.declared.plan));
                let name = &session.declared.name;
                let staged = place.staged(&handle, name);
                let (bucket, key) = staged.bucket_and_key().unwrap();
                assert_eq!(bucket, "media");
                assert_eq!(key, format!("{prefix}sapwood-staging/{handle}/{name}"));
                assert_eq!(
                    place.parse(&key),
                    Some((handle.clone(), Some(name.clone())))
                );
                let listed = place.at(&key).unwrap();
                assert_eq!(listed.bucket_and_key(), staged.bucket_and_key());
                for end in ENDS {
                    let (_, key) = place.beside(&handle, end).bucket_and_key().unwrap();
                    assert!(key.starts_with(&place.staging(Some(&handle))));
                    assert_eq!(place.parse(&key), Some((handle.clone(), None)), "{key}");
                }
                let (_, key) = place.object(name).bucket_and_key().unwrap();
                assert_eq!(key, place.key(name));
                assert_eq!(place.parse(&key), None);
            }
        }
        let place = Place::new(&Location::parse("s3://media").unwrap()).unwrap();
        let id = SessionId::from_random([1; 16]);
        for bad in [
            format!("sapwood-staging/{id}"),
            format!("sapwood-staging/{id}/x"),
            format!("sapwood-staging/{id}/n,1,5242880,65536"),
            format!("sapwood-staging/{id}/n,01,5242880,65536/a"),
            format!("sapwood-staging/{id}/n,1,5242880,65537/a"),
            format!("sapwood-staging/{id}/n,1,5242880,65536,1/a"),
            format!("sapwood-staging/{id}/n,1,5242880,65536,attested,attested/a"),
            format!("sapwood-staging/{id}/n,1,5242880,65536/../a"),
            "sapwood-staging/x/n,1,5242880,65536/a".to_owned(),
            "other/a".to_owned(),
        ] {
            assert_eq!(place.parse(&bad), None, "{bad}");
        }
        assert!(Place::new(&Location::parse("https://h/media").unwrap()).is_none());
    }
}
