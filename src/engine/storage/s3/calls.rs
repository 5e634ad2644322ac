//! The requests to a bucket, each repeated by the recovery policy. All are idempotent, or what they did before is found out.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::{
    engine::{context::Context, error::Error, storage::StorageError},
    format::{
        geometry::ByteRange,
        tree::Root,
        upload::{SessionId, Sha256},
    },
    net::{
        client::{Refused, Reply},
        error::NetError,
        location::Location,
        request::{Body, Method, Request, RequiredFields},
        s3::uploads::{self, Completion, StoredPart},
    },
    policy::recovery::Failure,
};

use super::{
    Sse,
    error::{code, is_condition, strange},
    keys::Handle,
};

/// The longest document that S3 sends: 1000 entries.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// Requests of one kind at a time.
pub const AT_ONCE: usize = 4;
/// Pages of a list that are read.
pub const PAGES_MAX: u32 = 100_000;
/// Fields of objects.
const SESSION: &str = "x-amz-meta-sapwood-session";
const NONCE: &str = "x-amz-meta-sapwood-upload";
const ROOT: &str = "x-amz-meta-sapwood-root";
/// Of a part, or of the parts of an object.
const SHA256: &str = "x-amz-checksum-sha256";
/// Codes of a failure that passes, in a response whose status says success.
const PASSING: [&str; 5] = [
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "OperationAborted",
];

/// Fields of a request.
type Fields = Vec<(&'static str, String)>;

/// Sends requests.
#[derive(Clone)]
pub struct Calls {
    context: Context,
    sse: Option<Sse>,
}

/// What an object has, besides its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In bytes.
    pub length: u64,
    pub etag: String,
    /// See [`uploads::composite`].
    pub sha256: Option<Sha256>,
    /// Which session published it, and the nonce of its upload.
    pub session: Option<SessionId>,
    pub nonce: Option<String>,
    pub root: Option<Root>,
}

impl Found {
    /// Whether this upload published it.
    pub fn is_of(&self, handle: &Handle) -> bool {
        self.session == Some(handle.session) && self.nonce.as_deref() == Some(handle.nonce())
    }
}

/// What a new object has, besides its content.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    pub handle: &'a Handle,
    /// Of the object.
    pub root: Option<Root>,
}

/// What came of a request for which S3 does work.
#[derive(Debug)]
pub enum Answer {
    Done,
    Refused(Refused),
    /// The response does not say.
    Unclear,
}

/// An upload that was created.
pub struct Created {
    pub upload_id: String,
    /// The service says that it checks the SHA-256 of parts.
    pub has_checksums: bool,
}

impl Calls {
    pub fn new(context: &Context, sse: Option<Sse>) -> Calls {
        Calls {
            context: context.clone(),
            sse,
        }
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Creates a multipart upload, whose parts have checked SHA-256.
    pub async fn create(
        &self,
        key: &Location,
        meta: Option<Meta<'_>>,
    ) -> Result<Created, StorageError> {
        let checked = vec![
            ("x-amz-checksum-algorithm", "SHA256".to_owned()),
            ("x-amz-checksum-type", "COMPOSITE".to_owned()),
        ];
        self.create_with(key, meta, checked).await
    }

    /// Creates a multipart upload for copies of bytes that are proven: to compute their SHA-256 once more would only take time.
    pub async fn create_for_copies(
        &self,
        key: &Location,
        meta: Meta<'_>,
    ) -> Result<Created, StorageError> {
        self.create_with(key, Some(meta), Vec::new()).await
    }

    async fn create_with(
        &self,
        key: &Location,
        meta: Option<Meta<'_>>,
        more: Fields,
    ) -> Result<Created, StorageError> {
        let place = key.with_query(&[("uploads", "")]);
        let mut fields = self.of_new(meta);
        fields.extend(more);
        let reply = self
            .request(Method::Post, &place, fields, Body::Empty)
            .await?;
        let reply = accepted(reply)?;
        Ok(Created {
            upload_id: uploads::upload_id(&text(&reply)).ok_or_else(|| strange(key))?,
            has_checksums: reply.field("x-amz-checksum-algorithm") == Some("SHA256"),
        })
    }

    /// Where whoever has the URL may send a part with this SHA-256, and with which fields.
    pub fn part_url(
        &self,
        key: &Location,
        upload: Option<(&str, u32)>,
        sha256: Sha256,
        seconds: u32,
    ) -> Result<(String, Vec<(String, String)>), StorageError> {
        let place = match upload {
            Some((id, number)) => part_of(key, id, number),
            None => key.clone(),
        };
        let field = (SHA256, uploads::base64(sha256));
        let fields = RequiredFields::from_iter([field.clone()]);
        let client = &self.context.client;
        let url = client.presigned(Method::Put, &place, &fields, seconds);
        let url = url.map_err(Error::from)?.url().to_string();
        Ok((url, vec![(field.0.to_owned(), field.1)]))
    }

    /// Sends a part.
    pub async fn put_part(
        &self,
        key: &Location,
        (id, number): (&str, u32),
        body: Body,
        sha256: Sha256,
    ) -> Result<(), StorageError> {
        let place = part_of(key, id, number);
        let fields = vec![(SHA256, uploads::base64(sha256))];
        let reply = self.request(Method::Put, &place, fields, body).await?;
        accepted(reply).map(drop)
    }

    /// Joins parts. `Refused` with `NoSuchUpload`: perhaps it was done before.
    pub async fn complete(
        &self,
        key: &Location,
        id: &str,
        parts: &[StoredPart],
        is_new: bool,
    ) -> Result<Answer, StorageError> {
        let place = key.with_query(&[("uploadId", id)]);
        let body = Body::Bytes {
            bytes: uploads::completing(parts).into(),
            media_type: "application/xml",
        };
        let fields = match is_new {
            true => vec![("if-none-match", "*".to_owned())],
            false => Vec::new(),
        };
        self.work(Method::Post, &place, (fields, body), uploads::completed)
            .await
    }

    /// Gives an upload up. One that is not there is none.
    pub async fn abort(&self, key: &Location, id: &str) -> Result<(), StorageError> {
        self.delete(&key.with_query(&[("uploadId", id)])).await
    }

    /// What is at a key.
    pub async fn head(&self, key: &Location) -> Result<Option<Found>, StorageError> {
        let fields = vec![("x-amz-checksum-mode", "ENABLED".to_owned())];
        let reply = self.request(Method::Head, key, fields, Body::Empty).await?;
        if is_missing(&reply) {
            return Ok(None);
        }
        let reply = accepted(reply)?;
        let length = reply
            .field("content-length")
            .and_then(|text| text.parse().ok());
        Ok(Some(Found {
            length: length.ok_or_else(|| strange(key))?,
            etag: reply.etag.clone().ok_or_else(|| strange(key))?,
            sha256: reply.field(SHA256).and_then(uploads::digest),
            session: reply.field(SESSION).and_then(|text| text.parse().ok()),
            nonce: reply.field(NONCE).map(str::to_owned),
            root: reply.field(ROOT).and_then(|text| text.parse().ok()),
        }))
    }

    /// Puts an object. `is_new`: only if there is none. `Refused`: there is one.
    pub async fn put(
        &self,
        key: &Location,
        meta: Meta<'_>,
        (body, sha256): (Body, Sha256),
        is_new: bool,
    ) -> Result<Answer, StorageError> {
        let mut fields = self.of_new(Some(meta));
        fields.push((SHA256, uploads::base64(sha256)));
        if is_new {
            fields.push(("if-none-match", "*".to_owned()));
        }
        let mut reply = self.request(Method::Put, key, fields, body).await?;
        if let Some(refused) = reply
            .refusal
            .take_if(|refused| is_new && is_condition(refused))
        {
            return Ok(Answer::Refused(refused));
        }
        accepted(reply)?;
        Ok(Answer::Done)
    }

    /// Copies an object of this version.
    pub async fn copy(
        &self,
        (from, etag): (&Location, &str),
        to: &Location,
        meta: Meta<'_>,
        is_new: bool,
    ) -> Result<Answer, StorageError> {
        let mut fields = self.of_new(Some(meta));
        fields.extend(source(from, etag));
        fields.push(("x-amz-metadata-directive", "REPLACE".to_owned()));
        if is_new {
            fields.push(("if-none-match", "*".to_owned()));
        }
        self.work(
            Method::Put,
            to,
            (fields, Body::Empty),
            uploads::copied_object,
        )
        .await
    }

    /// Copies bytes of an object of this version to a part.
    pub async fn copy_part(
        &self,
        (from, etag): (&Location, &str),
        bytes: ByteRange,
        to: &Location,
        (id, number): (&str, u32),
    ) -> Result<Answer, StorageError> {
        let place = part_of(to, id, number);
        let mut fields = source(from, etag);
        fields.push(("x-amz-copy-source-range", format!("bytes={bytes}")));
        self.work(
            Method::Put,
            &place,
            (fields, Body::Empty),
            uploads::copied_part,
        )
        .await
    }

    /// Copies pieces of an object of this version to parts with these numbers, some at a time.
    pub async fn copy_parts(
        &self,
        from: (&Location, &str),
        to: &Location,
        id: &str,
        pieces: impl Iterator<Item = (u32, ByteRange)>,
    ) -> Result<(), StorageError> {
        let copy = |(number, bytes)| async move {
            match self.copy_part(from, bytes, to, (id, number)).await? {
                Answer::Refused(refused) => Err(refused.into()),
                // What came of it is seen in the list of the parts.
                Answer::Done | Answer::Unclear => Ok(()),
            }
        };
        // Collected: the compiler does not see that the stream of a closure is `Send`.
        let copies: Vec<_> = pieces.map(copy).collect();
        let copies = stream::iter(copies).buffer_unordered(AT_ONCE);
        copies.try_collect().await
    }

    /// A small object.
    pub async fn get(&self, key: &Location) -> Result<Option<Vec<u8>>, StorageError> {
        let reply = self
            .request(Method::Get, key, Vec::new(), Body::Empty)
            .await?;
        match is_missing(&reply) {
            true => Ok(None),
            false => Ok(Some(accepted(reply)?.bytes)),
        }
    }

    /// Removes what is at a key. What is not there is removed.
    pub async fn delete(&self, key: &Location) -> Result<(), StorageError> {
        self.delete_if(key, Vec::new()).await
    }

    /// Removes this version of an object; services that know no such condition remove what is there.
    pub async fn delete_version(&self, key: &Location, etag: &str) -> Result<(), StorageError> {
        let fields = vec![("if-match", etag.to_owned())];
        self.delete_if(key, fields).await
    }

    async fn delete_if(&self, key: &Location, fields: Fields) -> Result<(), StorageError> {
        let reply = self
            .request(Method::Delete, key, fields, Body::Empty)
            .await?;
        match is_missing(&reply) || reply.refusal.as_ref().is_some_and(is_condition) {
            true => Ok(()),
            false => accepted(reply).map(drop),
        }
    }

    /// Fields of what becomes an object.
    fn of_new(&self, meta: Option<Meta<'_>>) -> Fields {
        let mut fields = Vec::new();
        if let Some(Meta { handle, root }) = meta {
            fields.push((SESSION, handle.session.to_string()));
            fields.push((NONCE, handle.nonce().to_owned()));
            fields.extend(root.map(|root| (ROOT, root.to_string())));
        }
        if let Some(sse) = &self.sse {
            fields.push(("x-amz-server-side-encryption", sse.algorithm().to_owned()));
            let key = sse.key().map(str::to_owned);
            fields.extend(key.map(|key| ("x-amz-server-side-encryption-aws-kms-key-id", key)));
        }
        fields
    }

    /// A request that S3 may answer with success before it has failed.
    async fn work(
        &self,
        method: Method,
        place: &Location,
        (fields, body): (Fields, Body),
        read: fn(&str) -> Completion,
    ) -> Result<Answer, StorageError> {
        let fields = RequiredFields::from_iter(fields);
        let request = Request {
            required: Some(&fields),
            ..Request::new(method, place, body)
        };
        let limits = self.context.limits_now();
        let done: Result<Answer, Error> = retried!(&limits, self.work_once(request.clone(), read));
        Ok(done?)
    }

    async fn work_once(
        &self,
        request: Request<'_>,
        read: fn(&str) -> Completion,
    ) -> Result<Answer, NetError> {
        let reply = self
            .context
            .client
            .call(request, DOCUMENT_BYTES_MAX)
            .await?;
        if let Some(refused) = reply.refusal {
            return Ok(Answer::Refused(refused));
        }
        match read(&text(&reply)) {
            Completion::Done { .. } => Ok(Answer::Done),
            Completion::Unclear => Ok(Answer::Unclear),
            Completion::Refused(refusal) => {
                let code = refusal.code.unwrap_or_default();
                let failure = match PASSING.contains(&code.as_str()) {
                    true => Failure::Server {
                        status: 500,
                        retry_after_ms: None,
                    },
                    false => Failure::Refused { status: 400 },
                };
                let detail = format!("the service reported {code} after it had said success");
                let error = NetError::with_detail(&reply.location, failure, detail);
                match failure {
                    Failure::Refused { .. } => Ok(Answer::Refused(Refused {
                        code: Some(code),
                        error,
                    })),
                    _ => Err(error),
                }
            }
        }
    }

    pub async fn request(
        &self,
        method: Method,
        place: &Location,
        fields: Fields,
        body: Body,
    ) -> Result<Reply, StorageError> {
        let fields = RequiredFields::from_iter(fields);
        let request = Request {
            required: Some(&fields),
            ..Request::new(method, place, body)
        };
        let limits = self.context.limits_now();
        let client = &self.context.client;
        let reply: Result<Reply, Error> =
            retried!(&limits, client.call(request.clone(), DOCUMENT_BYTES_MAX));
        Ok(reply?)
    }
}

/// Content in memory.
pub fn plain(bytes: Bytes) -> Body {
    Body::Bytes {
        bytes,
        media_type: "application/octet-stream",
    }
}

fn part_of(key: &Location, id: &str, number: u32) -> Location {
    let number = number.to_string();
    key.with_query(&[("partNumber", &number), ("uploadId", id)])
}

/// Fields that name what is copied.
fn source(from: &Location, etag: &str) -> Fields {
    let path = from.s3_source().unwrap_or_default();
    vec![
        ("x-amz-copy-source", path),
        ("x-amz-copy-source-if-match", etag.to_owned()),
    ]
}

pub fn is_missing(reply: &Reply) -> bool {
    reply.status == 404
        && reply
            .refusal
            .as_ref()
            .is_none_or(|refused| code(refused) != "NoSuchBucket")
}

pub fn accepted(mut reply: Reply) -> Result<Reply, StorageError> {
    match reply.refusal.take() {
        Some(refused) => Err(refused.into()),
        None if (200..300).contains(&reply.status) => Ok(reply),
        None => Err(strange(&reply.location)),
    }
}

pub fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.bytes).into_owned()
}
