//! Lists: of the parts of an upload, and of what is below a prefix of a bucket.

use crate::{
    engine::storage::StorageError,
    net::{
        location::Location,
        request::{Body, Method},
        s3::uploads::{self, ListedObject, Page, PendingUpload, StoredPart},
    },
};

use super::{
    calls::{Calls, PAGES_MAX, accepted, is_missing, text},
    error::strange,
};

impl Calls {
    /// The parts of an upload after this number; at most one if `one`. `None`: there is no such upload.
    pub async fn parts(
        &self,
        key: &Location,
        id: &str,
        after: u32,
        one: bool,
    ) -> Result<Option<Vec<StoredPart>>, StorageError> {
        let (mut all, mut mark) = (Vec::new(), after);
        for _ in 0..PAGES_MAX {
            let after = mark.to_string();
            let mut query = vec![("uploadId", id)];
            if mark > 0 {
                query.push(("part-number-marker", &after));
            }
            if one {
                query.push(("max-parts", "1"));
            }
            let place = key.with_query(&query);
            let reply = self
                .request(Method::Get, &place, Vec::new(), Body::Empty)
                .await?;
            if is_missing(&reply) {
                return Ok(None);
            }
            let reply = accepted(reply)?;
            let page = uploads::parts(&text(&reply)).ok_or_else(|| strange(key))?;
            all.extend(page.items);
            match page.next {
                Some(next) if !one && next > mark => mark = next,
                _ => return Ok(Some(all)),
            }
        }
        Err(strange(key))
    }

    /// The uploads whose keys begin so.
    pub async fn pending(
        &self,
        bucket: &Location,
        prefix: &str,
    ) -> Result<Vec<PendingUpload>, StorageError> {
        let (mut all, mut mark) = (Vec::new(), None::<(String, String)>);
        for _ in 0..PAGES_MAX {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if let Some((key, id)) = &mark {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", id)]);
            }
            let place = bucket.with_query(&query);
            let Page { items, next } = self.list(&place, uploads::pending).await?;
            // Services were seen that list more than what begins so.
            all.extend(
                items
                    .into_iter()
                    .filter(|upload| upload.key.starts_with(prefix)),
            );
            match next {
                Some(next) if mark.as_ref() != Some(&next) => mark = Some(next),
                _ => return Ok(all),
            }
        }
        Err(strange(bucket))
    }

    /// The objects whose keys begin so.
    pub async fn objects(
        &self,
        bucket: &Location,
        prefix: &str,
    ) -> Result<Vec<ListedObject>, StorageError> {
        let (mut all, mut mark) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let mut query = vec![("list-type", "2"), ("prefix", prefix)];
            if let Some(token) = &mark {
                query.push(("continuation-token", token));
            }
            let place = bucket.with_query(&query);
            let Page { items, next } = self.list(&place, uploads::objects).await?;
            all.extend(
                items
                    .into_iter()
                    .filter(|object| object.key.starts_with(prefix)),
            );
            match next {
                Some(next) if mark.as_ref() != Some(&next) => mark = Some(next),
                _ => return Ok(all),
            }
        }
        Err(strange(bucket))
    }

    async fn list<T>(
        &self,
        place: &Location,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, StorageError> {
        let reply = self
            .request(Method::Get, place, Vec::new(), Body::Empty)
            .await?;
        let reply = accepted(reply)?;
        read(&text(&reply)).ok_or_else(|| strange(place))
    }
}
