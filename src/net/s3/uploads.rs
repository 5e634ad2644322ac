//! The XML of multipart uploads, copies and lists: what is sent, and what S3 answers.
//!
//! Numbers of parts begin with 1. Checksums of SHA-256 are in base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use sha2::Digest as _;

use crate::format::upload::Sha256;

use super::{refusal::Refusal, xml};

/// A part that S3 has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPart {
    /// From 1 on.
    pub number: u32,
    /// With its quotation marks, as it must be sent back.
    pub etag: String,
    /// In bytes.
    pub size: u64,
    /// `None`: the service keeps none.
    pub sha256: Option<Sha256>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, M> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// Where the next page begins; `None`: this is the last one.
    pub next: Option<M>,
}

/// An upload that was neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingUpload {
    /// Of the object.
    pub key: String,
    /// What S3 named it.
    pub upload_id: String,
    /// When it was created, in Unix seconds; 0: not known.
    pub begun_s: u64,
}

/// An object of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// All of it.
    pub key: String,
    /// In bytes.
    pub size: u64,
    /// When it was last written, in Unix seconds; 0: not known.
    pub modified_s: u64,
}

/// What became of a request to complete an upload or to copy, by the body of a 200: S3 sends the status before it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It was done.
    Done {
        /// Of the object or the part.
        etag: String,
    },
    /// It failed, in spite of the status.
    Refused(Refusal),
    /// The body says neither: what became of it must be found out.
    Unclear,
}

/// The ID of an upload that was created.
pub fn upload_id(xml: &str) -> Option<String> {
    let created = xml::elements(xml, "InitiateMultipartUploadResult").next()?;
    xml::text_of(created, "UploadId").filter(|id| !id.is_empty())
}

/// A page of the parts of an upload; the mark of the next one is the number of the last part of this one.
pub fn parts(xml: &str) -> Option<Page<StoredPart, u32>> {
    let list = xml::elements(xml, "ListPartsResult").next()?;
    let items = xml::elements(list, "Part").map(|part| {
        Some(StoredPart {
            number: xml::text_of(part, "PartNumber")?.parse().ok()?,
            etag: xml::text_of(part, "ETag")?,
            size: xml::text_of(part, "Size")?.parse().ok()?,
            sha256: xml::text_of(part, "ChecksumSHA256").and_then(|text| digest(&text)),
        })
    });
    Some(Page {
        items: items.collect::<Option<_>>()?,
        next: match is_truncated(list) {
            true => Some(xml::text_of(list, "NextPartNumberMarker")?.parse().ok()?),
            false => None,
        },
    })
}

/// A page of pending uploads; the marks of the next one are a key and the ID of an upload.
pub fn pending(xml: &str) -> Option<Page<PendingUpload, (String, String)>> {
    let list = xml::elements(xml, "ListMultipartUploadsResult").next()?;
    let items = xml::elements(list, "Upload").map(|upload| {
        Some(PendingUpload {
            key: xml::text_of(upload, "Key")?,
            upload_id: xml::text_of(upload, "UploadId")?,
            begun_s: unix_s(xml::text_of(upload, "Initiated")),
        })
    });
    Some(Page {
        items: items.collect::<Option<_>>()?,
        next: match is_truncated(list) {
            true => Some((
                xml::text_of(list, "NextKeyMarker")?,
                xml::text_of(list, "NextUploadIdMarker")?,
            )),
            false => None,
        },
    })
}

/// A page of objects; the mark of the next one is a token.
pub fn objects(xml: &str) -> Option<Page<ListedObject, String>> {
    let list = xml::elements(xml, "ListBucketResult").next()?;
    let items = xml::elements(list, "Contents").map(|object| {
        Some(ListedObject {
            key: xml::text_of(object, "Key")?,
            size: xml::text_of(object, "Size")?.parse().ok()?,
            modified_s: unix_s(xml::text_of(object, "LastModified")),
        })
    });
    Some(Page {
        items: items.collect::<Option<_>>()?,
        next: match is_truncated(list) {
            true => Some(xml::text_of(list, "NextContinuationToken")?),
            false => None,
        },
    })
}

fn is_truncated(list: &str) -> bool {
    xml::text_of(list, "IsTruncated").is_some_and(|text| text == "true")
}

fn unix_s(time: Option<String>) -> u64 {
    let time = time.and_then(|text| text.parse::<Timestamp>().ok());
    time.and_then(|time| time.as_second().try_into().ok())
        .unwrap_or_default()
}

/// The document that completes an upload of these parts, in order.
pub fn completing(parts: &[StoredPart]) -> String {
    let mut document =
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    for part in parts {
        let (number, etag) = (part.number, xml::escaped(&part.etag));
        document.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>"
        ));
        if let Some(sha256) = part.sha256 {
            let sha256 = base64(sha256);
            document.push_str(&format!("<ChecksumSHA256>{sha256}</ChecksumSHA256>"));
        }
        document.push_str("</Part>");
    }
    document.push_str("</CompleteMultipartUpload>");
    document
}

/// Reads the body of a 200 to a request to complete an upload.
pub fn completed(xml: &str) -> Completion {
    completion(xml, "CompleteMultipartUploadResult")
}

/// Reads the body of a 200 to a request to copy an object.
pub fn copied_object(xml: &str) -> Completion {
    completion(xml, "CopyObjectResult")
}

/// Reads the body of a 200 to a request to copy a part.
pub fn copied_part(xml: &str) -> Completion {
    completion(xml, "CopyPartResult")
}

fn completion(xml: &str, name: &str) -> Completion {
    let refusal = Refusal::parse(xml);
    if refusal.code.is_some() {
        return Completion::Refused(refusal);
    }
    let done = xml::elements(xml, name).next();
    match done.and_then(|done| xml::text_of(done, "ETag")) {
        Some(etag) => Completion::Done { etag },
        None => Completion::Unclear,
    }
}

/// The SHA-256 of an object in parts as S3 has it: that of the SHA-256 of the parts.
pub fn composite(parts: impl IntoIterator<Item = Sha256>) -> Sha256 {
    let mut all = sha2::Sha256::new();
    for part in parts {
        all.update(part.0);
    }
    Sha256(all.finalize().into())
}

/// A SHA-256 in base64; after it there may be a hyphen and the number of parts.
pub fn digest(text: &str) -> Option<Sha256> {
    let base64 = text.split('-').next().unwrap_or_default();
    let bytes = STANDARD.decode(base64).ok()?;
    Some(Sha256(bytes.try_into().ok()?))
}

/// The SHA-256 of a small content.
pub fn sha256_of(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// A SHA-256 as fields and documents have it.
pub fn base64(sha256: Sha256) -> String {
    STANDARD.encode(sha256.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(text: &str) -> Sha256 {
        sha256_of(text.as_bytes())
    }

    #[test]
    fn lists_have_pages() {
        let page = |parts: &str, more: &str| {
            format!(
                "<?xml version=\"1.0\"?><ListPartsResult xmlns=\"x\"><UploadId>u</UploadId>{parts}{more}</ListPartsResult>"
            )
        };
        let part = "<Part><PartNumber>7</PartNumber><ETag>&quot;e&quot;</ETag><Size>5242880</Size>\
                    <ChecksumSHA256>LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=</ChecksumSHA256></Part>";
        let more = "<IsTruncated>true</IsTruncated><NextPartNumberMarker>7</NextPartNumberMarker>";
        let found = parts(&page(part, more)).unwrap();
        assert_eq!((found.items.len(), found.next), (1, Some(7)));
        let first = &found.items[0];
        assert_eq!((first.number, first.size), (7, 5_242_880));
        assert_eq!(
            (first.etag.as_str(), first.sha256),
            ("\"e\"", Some(sum("hello")))
        );
        assert!(completing(&found.items).contains(
            "<Part><PartNumber>7</PartNumber><ETag>&quot;e&quot;</ETag><ChecksumSHA256>LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=<"
        ));
        let last = parts(&page("", "<IsTruncated>false</IsTruncated>"));
        let (items, next) = (Vec::new(), None);
        assert_eq!(last, Some(Page { items, next }));
        // Half of a list is none.
        for bad in [
            page("<Part><Size>1</Size></Part>", ""),
            page("", "<IsTruncated>true</IsTruncated>"),
            String::new(),
        ] {
            assert_eq!(parts(&bad), None, "{bad}");
        }
        let uploads = "<ListMultipartUploadsResult><Upload><Key>a&amp;b</Key><UploadId>1</UploadId>\
                       <Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload></ListMultipartUploadsResult>";
        let expected = PendingUpload {
            key: "a&b".to_owned(),
            upload_id: "1".to_owned(),
            begun_s: 1_289_422_113,
        };
        assert_eq!(pending(uploads).unwrap().items, [expected]);
        let listed = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>\
                      <Contents><Key>a/b</Key><Size>3</Size></Contents></ListBucketResult>";
        let expected = ListedObject {
            key: "a/b".to_owned(),
            size: 3,
            modified_s: 0,
        };
        let listed = objects(listed).unwrap();
        assert_eq!(
            (listed.items, listed.next),
            (vec![expected], Some("t".to_owned()))
        );
        let created = "<InitiateMultipartUploadResult><Bucket>b</Bucket><UploadId>x/y</UploadId></InitiateMultipartUploadResult>";
        assert_eq!(upload_id(created).as_deref(), Some("x/y"));
    }

    #[test]
    fn a_200_may_be_an_error() {
        let done = "<CompleteMultipartUploadResult><ETag>\"e-2\"</ETag><ChecksumSHA256>x-2</ChecksumSHA256></CompleteMultipartUploadResult>";
        let etag = "\"e-2\"".to_owned();
        assert_eq!(completed(done), Completion::Done { etag });
        assert_eq!(copied_object(done), Completion::Unclear);
        let failed = "<?xml version=\"1.0\"?>\n\n <Error><Code>InternalError</Code><Message>Again.</Message></Error>";
        for read in [completed, copied_object, copied_part] {
            let read = read(failed);
            assert!(
                matches!(&read, Completion::Refused(refusal) if refusal.code.as_deref() == Some("InternalError")),
                "{read:?}"
            );
        }
        let unclear = ["", "   \n", "<CompleteMultipartUploadResult>", &done[..40]];
        for unclear in unclear {
            assert_eq!(completed(unclear), Completion::Unclear, "{unclear}");
        }
    }

    #[test]
    fn composites_are_digests_of_digests() {
        let parts = [sum("a"), sum("b")];
        let all = [parts[0].0, parts[1].0].concat();
        let expected = sha256_of(&all);
        assert_eq!(composite(parts), expected);
        let text = base64(expected);
        assert_eq!(digest(&text), Some(expected));
        assert_eq!(digest(&format!("{text}-2")), Some(expected));
        assert_eq!(digest("x"), None);
    }
}
