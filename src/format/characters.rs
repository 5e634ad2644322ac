//! Characters that make a name or a message look like another one.

/// A control character, or one that changes the direction of the text around it.
pub fn turns_text(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A character without a width that joins nothing: the soft hyphen, zero-width and word-joining spaces.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{AD}' | '\u{200B}' | '\u{2060}'..='\u{2064}' | '\u{206A}'..='\u{206F}' | '\u{FEFF}')
}

/// A text with its control, bidirectional and invisible characters escaped: names come from outside, a terminal acts on some, and
/// others deceive its reader.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match turns_text(c) || is_invisible(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        let shown = printable("a\u{1b}[2J\nb\té");
        assert_eq!(shown, "a\\u{1b}[2J\\nb\\té");
        assert_eq!(printable(&shown), shown, "once more");
        assert_eq!(printable("a\u{202e}gpj.exe"), "a\\u{202e}gpj.exe");
        assert_eq!(printable("a\u{200b}b"), "a\\u{200b}b");
    }
}
