//! The file of a form (`multipart/form-data`, RFC 7578), as S3 takes it by POST: fields, then the file, which is the last that counts.

use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::cut::Cut;

/// All that comes before the file.
const FIELDS_BYTES_MAX: usize = 64 << 10;
/// The longest boundary (RFC 2046, 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// The content of the file of a form, as it comes.
pub struct FormFile {
    chunks: BodyDataStream,
    /// What ends each part of the form.
    delimiter: Vec<u8>,
    /// What has come and was not handed on.
    buffer: Vec<u8>,
    is_over: bool,
}

impl FormFile {
    /// Reads up to the content of the file, which must not take longer than this. `content_type`: of the request.
    pub async fn begin(
        chunks: BodyDataStream,
        content_type: &str,
        time: Duration,
    ) -> Result<FormFile, Cut> {
        let begun = timeout(time, FormFile::find(chunks, content_type)).await;
        begun.map_err(|_| Cut::Stalled)?
    }

    async fn find(chunks: BodyDataStream, content_type: &str) -> Result<FormFile, Cut> {
        let boundary = boundary(content_type).ok_or(Cut::NoForm)?;
        let mut form = FormFile {
            chunks,
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter has no line before it.
            buffer: b"\r\n".to_vec(),
            is_over: false,
        };
        let mut left = FIELDS_BYTES_MAX;
        loop {
            let delimiter = form.delimiter.clone();
            form.skip_past(&delimiter, &mut left).await?;
            let head = form.skip_past(b"\r\n\r\n", &mut left).await?;
            if head.starts_with(b"--") {
                return Err(Cut::NoForm);
            }
            if is_file(&head) {
                return Ok(form);
            }
            // An empty value ends at once.
            form.buffer.splice(0..0, *b"\r\n");
        }
    }

    /// The bytes before this text, which is left out too. `left`: so many there may be; they are taken off it.
    async fn skip_past(&mut self, text: &[u8], left: &mut usize) -> Result<Vec<u8>, Cut> {
        loop {
            // One chunk may have more than all that is allowed.
            if let Some(at) = find(&self.buffer, text) {
                *left = left.checked_sub(at).ok_or(Cut::NoForm)?;
                let mut before: Vec<u8> = self.buffer.drain(..at + text.len()).collect();
                before.truncate(at);
                return Ok(before);
            }
            if self.buffer.len() > *left + text.len() {
                return Err(Cut::NoForm);
            }
            let more = self.more().await?;
            self.buffer.extend_from_slice(&more);
        }
    }

    async fn more(&mut self) -> Result<Bytes, Cut> {
        let next = self.chunks.next().await.ok_or(Cut::TooShort)?;
        next.map_err(|_| Cut::TooShort)
    }

    /// The next bytes of the file. A body that ends before the delimiter is too short.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            if self.is_over {
                return Ok(None);
            }
            if let Some(at) = find(&self.buffer, &self.delimiter) {
                self.is_over = true;
                self.buffer.truncate(at);
                let last = std::mem::take(&mut self.buffer);
                return Ok((!last.is_empty()).then(|| last.into()));
            }
            // What may be the beginning of the delimiter waits.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if sure > 0 {
                let rest = self.buffer.split_off(sure);
                let some = std::mem::replace(&mut self.buffer, rest);
                return Ok(Some(some.into()));
            }
            let more = self.more().await?;
            self.buffer.extend_from_slice(&more);
        }
    }

    /// What is left of the request.
    pub fn into_rest(self) -> BodyDataStream {
        self.chunks
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let (first, mut from) = (*text.first()?, 0);
    loop {
        let at = from + bytes.get(from..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(text) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn boundary(content_type: &str) -> Option<String> {
    let mut parameters = content_type.split(';');
    let media_type = parameters.next()?.trim();
    let boundary = parameters.find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary")
            .then(|| value.trim_matches('"'))
    })?;
    let is_form = media_type.eq_ignore_ascii_case("multipart/form-data");
    (is_form && (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())).then(|| boundary.to_owned())
}

/// Whether a part of the form is named `file`.
fn is_file(head: &[u8]) -> bool {
    String::from_utf8_lossy(head).lines().any(|line| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("content-disposition")
            && value
                .split(';')
                .any(|parameter| parameter.trim() == "name=\"file\"")
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures_util::stream;

    use super::*;

    const FORM: &str = "multipart/form-data; boundary=\"xyz\"";

    async fn read(form: &[u8], step: usize) -> Result<Vec<u8>, Cut> {
        let chunks: Vec<_> = form
            .chunks(step)
            .map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk)))
            .collect();
        let chunks = Body::from_stream(stream::iter(chunks)).into_data_stream();
        let mut file = FormFile::begin(chunks, FORM, Duration::from_secs(60)).await?;
        let mut content = Vec::new();
        while let Some(some) = file.next().await? {
            content.extend_from_slice(&some);
        }
        Ok(content)
    }

    /// In steps of every length, so that delimiters are cut at every place.
    #[tokio::test]
    async fn the_file_of_a_form_is_found_however_it_is_cut() {
        let begin = "--xyz\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na\r\n--xyz\r\n\
            Content-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--xyz\r\n\
            content-disposition: form-data; name=\"file\"; filename=\"a;b\"\r\nContent-Type: x/y\r\n\r\n";
        for content in [
            "",
            "a",
            "\r\n--xy",
            "\r\n--xy\r\n--x\r\n\r\nz",
            "\r\n\r\n--xy\r",
        ] {
            let form = format!("{begin}{content}\r\n--xyz--\r\n");
            for step in 1..form.len() {
                let found = read(form.as_bytes(), step).await.unwrap();
                assert_eq!(String::from_utf8(found).unwrap(), content, "{step}");
            }
            let cut = format!("{begin}{content}\r\n--xy");
            assert!(
                matches!(read(cut.as_bytes(), 7).await, Err(Cut::TooShort)),
                "{content:?}"
            );
        }
        for bad in [
            "--xyz\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\na\r\n--xyz--\r\n\r\n"
                .to_owned(),
            format!("--xyz\r\nx: {}", "y".repeat(2 * FIELDS_BYTES_MAX)),
        ] {
            for step in [1000, bad.len()] {
                assert!(matches!(read(bad.as_bytes(), step).await, Err(Cut::NoForm)));
            }
        }
    }

    /// In one chunk, as a fast client sends them.
    #[tokio::test]
    async fn fields_before_the_file_have_a_limit() {
        let form = |bytes: usize| {
            let field = "y".repeat(bytes);
            format!(
                "--xyz\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n{field}\r\n--xyz\r\n\
                Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\ncontent\r\n--xyz--\r\n"
            )
        };
        for step in [1000, usize::MAX] {
            let few = read(form(FIELDS_BYTES_MAX / 2).as_bytes(), step).await;
            assert_eq!(few.unwrap(), b"content");
            let many = read(form(FIELDS_BYTES_MAX + 1).as_bytes(), step).await;
            assert!(matches!(many, Err(Cut::NoForm)), "{many:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_form_that_does_not_come_to_its_file_ends() {
        let begun = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"--xyz\r\n"))]);
        let chunks = Body::from_stream(begun.chain(stream::pending())).into_data_stream();
        let stalled = FormFile::begin(chunks, FORM, Duration::from_secs(30)).await;
        assert!(matches!(stalled.err(), Some(Cut::Stalled)));
    }
}
