//! The name that a server suggests for a file: `Content-Disposition` (RFC 6266, with the extended values of RFC 8187).

use percent_encoding::percent_decode_str;
use reqwest::header::{self, HeaderMap};

/// The suggested name, as it was sent: it may be unsafe. `filename*` counts before `filename`.
pub fn file_name(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_DISPOSITION)?.as_bytes();
    // Not ASCII: servers send UTF-8, or ISO 8859-1 as HTTP once had it.
    let value = match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().copied().map(char::from).collect(),
    };
    let (_, mut rest) = value.split_once(';')?;
    let (mut plain, mut extended) = (None, None);
    while let Some((name, value, after)) = parameter(rest) {
        match name.to_ascii_lowercase().as_str() {
            "filename" if plain.is_none() => plain = Some(value),
            "filename*" if extended.is_none() => extended = decoded(&value),
            _ => (),
        }
        rest = after;
    }
    extended.or(plain).filter(|name| !name.is_empty())
}

/// The first parameter, its value without quotes, and what comes after it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ';']);
    let (name, value) = text.split_once('=')?;
    let (name, value) = (name.trim(), value.trim_start());
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find(';').unwrap_or(value.len());
        return Some((name, value[..end].trim_end().to_owned(), &value[end..]));
    };
    let mut unquoted = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((name, unquoted, &quoted[at + 1..])),
            '\\' => unquoted.extend(characters.next().map(|(_, escaped)| escaped)),
            other => unquoted.push(other),
        }
    }
    // The quote does not end.
    None
}

/// An extended value: charset, language, and percent-encoded bytes, with quotes between them.
fn decoded(value: &str) -> Option<String> {
    let mut fields = value.splitn(3, '\'');
    let (charset, _language, text) = (fields.next()?, fields.next()?, fields.next()?);
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => String::from_utf8(bytes).ok(),
        "iso-8859-1" => Some(bytes.into_iter().map(char::from).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_servers_suggest() {
        for (value, name) in [
            (r#"attachment; filename="talk.mp4""#, Some("talk.mp4")),
            ("attachment; filename=talk.mp4", Some("talk.mp4")),
            (
                "ATTACHMENT ; size=3; FileName = talk.mp4 ; x=y",
                Some("talk.mp4"),
            ),
            (
                r#"inline; filename="a \"b\"; c.txt""#,
                Some(r#"a "b"; c.txt"#),
            ),
            (
                "attachment; filename=\"n.txt\"; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt",
                Some("naïve €.txt"),
            ),
            (
                "attachment; filename*=iso-8859-1'en'%A3.txt; filename=x",
                Some("£.txt"),
            ),
            ("attachment; filename*=koi8-r''%C1; filename=x", Some("x")),
            ("attachment; filename*=UTF-8''%FF; filename=x", Some("x")),
            // As it was sent; whether it is safe is decided elsewhere.
            (r#"attachment; filename="../../x""#, Some("../../x")),
            ("attachment", None),
            (r#"attachment; filename="""#, None),
            (r#"attachment; filename="a"#, None),
            ("attachment; filename", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_DISPOSITION, value.parse().unwrap());
            assert_eq!(file_name(&headers).as_deref(), name, "{value}");
        }
        assert_eq!(file_name(&HeaderMap::new()), None);
    }

    #[test]
    fn bytes_that_are_not_ascii() {
        for (value, name) in [
            (&b"attachment; filename=\"na\xC3\xAFve\""[..], "naïve"),
            (b"attachment; filename=\"na\xEFve\"", "naïve"),
        ] {
            let mut headers = HeaderMap::new();
            let value = header::HeaderValue::from_bytes(value).unwrap();
            headers.insert(header::CONTENT_DISPOSITION, value);
            assert_eq!(file_name(&headers).as_deref(), Some(name));
        }
    }
}
