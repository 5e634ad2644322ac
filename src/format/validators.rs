//! Validators: which version of a resource a response or a part is of (RFC 9110, 8.8).
//!
//! All of them are compared. One that stayed proves nothing: servers were seen that keep the entity tag of a file that was
//! replaced, while `Last-Modified` moved.

/// The validators of one version. Those of two resources are not comparable, even if they are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// The entity tag as it was received, with its quotes.
    pub etag: Option<String>,
    /// `Last-Modified` as it was received.
    pub last_modified: Option<String>,
}

impl Validators {
    /// `date_is_strong`: as RFC 9110, 8.8.2.2 requires. Without a strong validator there is none at all, so that a weak one is
    /// never taken for one.
    pub fn new(
        etag: Option<String>,
        last_modified: Option<String>,
        date_is_strong: bool,
    ) -> Validators {
        let all = Validators {
            etag,
            last_modified,
        };
        match all.strong_etag().is_some() || (date_is_strong && all.last_modified.is_some()) {
            true => all,
            false => Validators::default(),
        }
    }

    /// The entity tag, if it is strong.
    pub fn strong_etag(&self) -> Option<&str> {
        let strong = |etag: &&str| etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"');
        self.etag.as_deref().filter(strong)
    }

    /// Whether two parts with these validators, from one resource, are certainly of one version.
    pub fn are_strong(&self) -> bool {
        self.strong_etag().is_some() || self.last_modified.is_some()
    }

    /// Whether a response with these validators is of another version: one of them moved, or the strong one is missing.
    pub fn differ(&self, response: &Validators) -> bool {
        let tag_moved = match (&self.etag, &response.etag) {
            (mine, theirs) if self.strong_etag().is_some() => mine != theirs,
            (Some(mine), Some(theirs)) => opaque(mine) != opaque(theirs),
            _ => false,
        };
        let date_moved = match (&self.last_modified, &response.last_modified) {
            (Some(mine), Some(theirs)) => mine != theirs,
            (Some(_), None) => self.strong_etag().is_none(),
            (None, _) => false,
        };
        tag_moved || date_moved
    }

    /// Whether both are of one version, as far as they tell.
    pub fn agree(&self, other: &Validators) -> bool {
        !self.differ(other) && !other.differ(self)
    }

    /// What identifies the version where all bytes are proven anyway: the strong entity tag alone, if there is one. The date may
    /// then differ among the nodes of a server.
    #[must_use]
    pub fn of_proven_bytes(&self) -> Validators {
        match self.strong_etag() {
            Some(etag) => Validators {
                etag: Some(etag.to_owned()),
                last_modified: None,
            },
            None => self.clone(),
        }
    }
}

/// An entity tag without the mark of a weak one.
fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(etag: &str, date: &str) -> Validators {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Validators::new(text(etag), text(date), true)
    }

    #[test]
    fn any_validator_that_moved_is_another_version() {
        for (wanted, response, differ) in [
            (("\"a\"", "d"), ("\"a\"", "d"), false),
            (("\"a\"", "d"), ("\"b\"", "d"), true),
            // Tornado keeps the tag.
            (("\"a\"", "d"), ("\"a\"", "e"), true),
            // A 206 to a conditional request may leave out the date (RFC 9110, 15.3.7).
            (("\"a\"", "d"), ("\"a\"", ""), false),
            (("\"a\"", ""), ("\"a\"", "d"), false),
            (("\"a\"", "d"), ("", "d"), true),
            (("\"a\"", ""), ("W/\"a\"", "d"), true),
            (("", "d"), ("", "d"), false),
            (("", "d"), ("", "e"), true),
            (("", "d"), ("\"a\"", ""), true),
            (("", "d"), ("\"a\"", "d"), false),
            (("W/\"a\"", "d"), ("W/\"a\"", "d"), false),
            (("W/\"a\"", "d"), ("\"a\"", "d"), false),
            (("W/\"a\"", "d"), ("W/\"b\"", "d"), true),
            (("W/\"a\"", "d"), ("", "d"), false),
            (("", ""), ("\"a\"", "d"), false),
        ] {
            let (mine, theirs) = (
                validators(wanted.0, wanted.1),
                validators(response.0, response.1),
            );
            assert_eq!(mine.differ(&theirs), differ, "{mine:?}, {theirs:?}");
        }
        let (one, other) = (validators("\"a\"", "d"), validators("", "d"));
        assert!(!other.differ(&one) && !other.agree(&one) && one.agree(&one));
    }

    #[test]
    fn without_a_strong_validator_there_is_none() {
        let text = |text: &str| Some(text.to_owned());
        for etag in [None, text("W/\"a\""), text("\""), text("a")] {
            let found = Validators::new(etag, text("d"), false);
            assert_eq!(found, Validators::default());
            assert!(!found.are_strong());
        }
        // The date of a young file beside a strong tag still shows that it moved.
        let young = Validators::new(text("\"a\""), text("d"), false);
        assert!(young.are_strong() && young.differ(&validators("\"a\"", "e")));
        assert!(!young.of_proven_bytes().differ(&validators("\"a\"", "e")));
        assert_eq!(validators("", "d").of_proven_bytes(), validators("", "d"));
    }
}
