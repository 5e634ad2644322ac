//! The little XML that S3 sends: elements without attributes that matter, one below the other.

/// The text of the first element of this name, without references; `None`: there is none, or it does not end.
pub fn text_of(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).next().map(unescaped)
}

/// What is inside each element of this name.
pub fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (start, end) = (format!("<{name}"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        loop {
            let after = &rest[rest.find(&start)? + start.len()..];
            rest = after;
            // Another name that begins like this one.
            if !after.starts_with(|c: char| c == '>' || c.is_ascii_whitespace()) {
                continue;
            }
            let inside = &after[after.find('>')? + 1..];
            let (inside, after) = inside.split_once(&end)?;
            rest = after;
            return Some(inside);
        }
    })
}

/// A text as the content of an element.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A text without its references to characters; an unknown one stays as it is.
fn unescaped(text: &str) -> String {
    let mut unescaped = String::with_capacity(text.len());
    let mut rest = text.trim();
    while let Some((before, after)) = rest.split_once('&') {
        unescaped.push_str(before);
        let referred = after
            .split_once(';')
            .and_then(|(name, after)| Some((character(name)?, after)));
        match referred {
            Some((c, after)) => {
                unescaped.push(c);
                rest = after;
            }
            None => {
                unescaped.push('&');
                rest = after;
            }
        }
    }
    unescaped.push_str(rest);
    unescaped
}

/// The character of a reference.
fn character(name: &str) -> Option<char> {
    let code = match name.strip_prefix('#') {
        Some(digits) => match digits.strip_prefix('x') {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => digits.parse().ok()?,
        },
        None => {
            return match name {
                "lt" => Some('<'),
                "gt" => Some('>'),
                "amp" => Some('&'),
                "quot" => Some('"'),
                "apos" => Some('\''),
                _ => None,
            };
        }
    };
    char::from_u32(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_elements() {
        let xml = "<?xml version=\"1.0\"?>\n<Error xmlns=\"x\"><CodeName>no</CodeName><Code>NoSuchKey</Code>\
                   <Message>a &lt;b&gt; &amp; &#x27;c&#39; &what; &</Message><Part><N>1</N></Part><Part ><N>2</N></Part></Error>";
        assert_eq!(text_of(xml, "Code").as_deref(), Some("NoSuchKey"));
        let message = text_of(xml, "Message");
        assert_eq!(message.as_deref(), Some("a <b> & 'c' &what; &"));
        let parts: Vec<_> = elements(xml, "Part")
            .filter_map(|part| text_of(part, "N"))
            .collect();
        assert_eq!(parts, ["1", "2"]);
        for cut in (0..xml.len()).filter(|cut| xml.is_char_boundary(*cut)) {
            text_of(&xml[..cut], "Message");
        }
        assert_eq!(text_of("<Code", "Code"), None);
        assert_eq!(text_of("<Code>x", "Code"), None);
    }
}
