//! The media type of a file, by the suffix of its name. The content is never examined: a player, a page and a download of one name
//! get one type, whatever the bytes are.

use axum::http::HeaderValue;

/// Types that the table of the crate lacks, or has under older names.
const OURS: [(&str, &str); 7] = [
    ("cjs", "text/javascript"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4s", "video/iso.segment"),
    ("mjs", "text/javascript"),
    // A segment of HLS. TypeScript has the same suffix, and no registered type.
    ("ts", "video/mp2t"),
    ("yaml", "application/yaml"),
    ("zst", "application/zstd"),
];
const UNKNOWN: &str = "application/octet-stream";

/// `Content-Type` of a file of this name. Text is UTF-8; XML names its own encoding.
pub fn of(name: &str) -> HeaderValue {
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    let ours = OURS
        .iter()
        .find(|(ours, _)| suffix.eq_ignore_ascii_case(ours));
    let media_type = ours.map_or_else(
        || {
            let guess = mime_guess::from_ext(suffix);
            guess.first_raw().unwrap_or(UNKNOWN)
        },
        |(_, media_type)| media_type,
    );
    match media_type.starts_with("text/") && media_type != "text/xml" {
        true => HeaderValue::from_str(&format!("{media_type}; charset=utf-8"))
            .unwrap_or(HeaderValue::from_static(UNKNOWN)),
        false => HeaderValue::from_static(media_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_names() {
        for (name, media_type) in [
            ("talk.mp4", "video/mp4"),
            ("talk.MP4", "video/mp4"),
            ("talk.webm", "video/webm"),
            ("list.m3u8", "application/vnd.apple.mpegurl"),
            ("part1.ts", "video/mp2t"),
            ("init.m4s", "video/iso.segment"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("page.html", "text/html; charset=utf-8"),
            ("code.js", "text/javascript; charset=utf-8"),
            ("code.mjs", "text/javascript; charset=utf-8"),
            ("feed.xml", "text/xml"),
            ("data.json", "application/json"),
            ("a.tar.zst", "application/zstd"),
            ("talk.mp4.sapwood", UNKNOWN),
            ("README", UNKNOWN),
            (".mp4", "video/mp4"),
            ("talk.", UNKNOWN),
            ("", UNKNOWN),
            ("a.t\u{fc}r", UNKNOWN),
        ] {
            assert_eq!(of(name), media_type, "{name}");
        }
    }
}
