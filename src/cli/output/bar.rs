//! The line of a bar: numbers in, text that fits the terminal out.

use unicode_width::UnicodeWidthChar;

use crate::cli::units::{human_bytes, human_time};

use super::words;

/// Where a name has been cut.
const CUT: &str = "...";
/// Of a long name at least so many columns stay, and so many before anything that can be left out is shown.
const NAME_COLUMNS_MIN: usize = 7;
const NAME_COLUMNS: usize = 16;
/// The bar itself, in its brackets.
const BAR_COLUMNS_MIN: usize = 12;
const BAR_COLUMNS_MAX: usize = 42;

/// What a bar shows. A number that is 0 is left out.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// A file, or how many of how many files. Printable.
    pub name: String,
    /// The same for a narrow terminal: cut in the middle if there is none.
    pub name_short: Option<String>,
    pub state: State,
    pub bytes_done: u64,
    /// 0: unknown.
    pub bytes_total: u64,
    /// The total is estimated.
    pub is_about: bool,
    pub rate_bps: u64,
    pub counts: Counts,
    /// Nothing proves what comes.
    pub is_not_verified: bool,
}

/// What a fetch counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Bytes that were here already, and those of them that an earlier run left.
    pub local: u64,
    pub resumed: u64,
    /// Bytes of this run.
    pub fetched: u64,
    pub verified: u64,
    /// Requests that were sent again.
    pub retried: u64,
}

/// What happens now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Bytes arrive, or are read.
    #[default]
    Moving,
    Connecting {
        host: String,
    },
    /// Local files are searched for bytes that need not be fetched.
    Searching,
    /// No byte came for so many seconds, while a response is awaited.
    Stalled {
        seconds: u64,
    },
    /// The next request follows at this time of the day.
    Waiting {
        until: String,
    },
    /// A host is tried again and again, until this time of the day.
    Trying {
        until: String,
    },
    /// A file is recorded, of which so many bytes are not sent.
    Recording {
        behind: u64,
    },
    /// All bytes are here; the file does not have its name yet.
    Finishing,
}

/// A piece of the line.
enum Piece {
    /// Columns of the name, in all.
    Name(usize),
    /// The longest of these texts that has room, at this place of the line.
    Text(Place, Vec<String>),
    /// Columns of the bar, in all.
    Bar(usize),
}

/// The order on the line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Percent,
    Total,
    State,
    Left,
    Local,
    Fetched,
    Verified,
    Retried,
    Trust,
}

impl Bar {
    /// The line for a terminal: never wider than these columns.
    pub fn line(&self, columns: usize) -> String {
        let all = width(&self.name);
        let least = match &self.name_short {
            Some(short) => width(short),
            None => all.min(NAME_COLUMNS_MIN),
        };
        let mut left = columns.saturating_sub(least);
        let (mut name, mut bar, mut texts) = (least, 0, Vec::new());
        for piece in self.pieces() {
            match piece {
                // A short form is one text, and not cut by columns.
                Piece::Name(_) if self.name_short.is_some() && all > name + left => (),
                Piece::Name(most) => {
                    let most = match &self.name_short {
                        Some(_) => all,
                        None => all.min(most),
                    };
                    let more = most.saturating_sub(name).min(left);
                    (name, left) = (name + more, left - more);
                }
                Piece::Text(place, forms) => {
                    let fits = |form: &&String| width(form) <= left;
                    if let Some(form) = forms.iter().find(fits) {
                        left -= width(form);
                        texts.push((place, form.clone()));
                    }
                }
                Piece::Bar(most) => {
                    // A blank is before it.
                    let more = (most - bar).min(left.saturating_sub(usize::from(bar == 0)));
                    if bar + more >= BAR_COLUMNS_MIN {
                        left -= more + usize::from(bar == 0);
                        bar += more;
                    }
                }
            }
        }
        texts.sort_by_key(|(place, _)| *place);
        let mut line = match &self.name_short {
            Some(short) if name < all => short.clone(),
            _ => shortened(&self.name, name),
        };
        if bar > 0 {
            line.push(' ');
            line += &self.drawn(bar);
        }
        for (_, text) in texts {
            line += &text;
        }
        cut(&line, columns).to_owned()
    }

    /// The same without a bar, at any width, where none is drawn.
    pub fn sentence(&self) -> String {
        let pieces = self.pieces().into_iter();
        let mut texts: Vec<(Place, String)> = pieces
            .filter_map(|piece| match piece {
                Piece::Text(place, forms) => Some((place, forms.into_iter().next()?)),
                Piece::Name(_) | Piece::Bar(_) => None,
            })
            .collect();
        texts.sort_by_key(|(place, _)| *place);
        let texts = texts.into_iter().map(|(_, text)| text);
        self.name.clone() + &texts.collect::<String>()
    }

    /// What the line is made of, the most important first.
    fn pieces(&self) -> Vec<Piece> {
        let bytes = human_bytes;
        let text = |place, form: String| Piece::Text(place, vec![form]);
        let mut pieces = Vec::new();
        pieces.push(Piece::Text(Place::State, self.state()));
        let has_end = self.bytes_total > 0;
        match has_end {
            true => pieces.push(text(Place::Percent, format!("  {}%", self.percent()))),
            // A search says it by itself.
            false if self.bytes_done > 0 && self.state != State::Searching => {
                pieces.push(text(
                    Place::Percent,
                    format!("  {}", bytes(self.bytes_done)),
                ));
            }
            false => (),
        }
        if self.is_not_verified {
            pieces.push(text(Place::Trust, "  NOT verified".to_owned()));
        }
        let missing = self.bytes_total.saturating_sub(self.bytes_done);
        if missing > 0 && self.rate_bps > 0 && self.state == State::Moving {
            let time = human_time(missing.div_ceil(self.rate_bps));
            pieces.push(text(Place::Left, format!("  {time} left")));
        }
        pieces.push(Piece::Name(NAME_COLUMNS));
        if has_end {
            let about = if self.is_about { "about " } else { "" };
            let total = format!(" of {about}{}", bytes(self.bytes_total));
            pieces.push(text(Place::Total, total));
            pieces.push(Piece::Bar(BAR_COLUMNS_MIN));
        }
        if let Some(local) = words::local(self.counts.local, self.counts.resumed) {
            let short = format!("  local {}", bytes(self.counts.local));
            pieces.push(Piece::Text(Place::Local, vec![format!("  {local}"), short]));
        }
        if self.counts.retried > 0 {
            let retried = format!("  retried {}", self.counts.retried);
            pieces.push(text(Place::Retried, retried));
        }
        let counts = [
            (Place::Verified, "verified", self.counts.verified),
            (Place::Fetched, "fetched", self.counts.fetched),
        ];
        for (place, what, count) in counts {
            if count > 0 {
                pieces.push(text(place, format!("  {what} {}", bytes(count))));
            }
        }
        pieces.push(Piece::Name(usize::MAX));
        if has_end {
            pieces.push(Piece::Bar(BAR_COLUMNS_MAX));
        }
        pieces
    }

    /// The longest form first.
    fn state(&self) -> Vec<String> {
        let forms = |forms: &[String]| forms.iter().map(|form| format!("  {form}")).collect();
        match &self.state {
            State::Moving if self.rate_bps > 0 => {
                forms(&[format!("{}/s", human_bytes(self.rate_bps))])
            }
            State::Moving => Vec::new(),
            State::Connecting { host } => {
                forms(&[format!("connecting to {host}"), "connecting".to_owned()])
            }
            State::Searching if self.bytes_done == 0 => {
                forms(&["searching local files", "searching"].map(str::to_owned))
            }
            State::Searching => {
                let read = format!("{} read", human_bytes(self.bytes_done));
                forms(&[
                    format!("searching local files, {read}"),
                    format!("searching, {read}"),
                    "searching".to_owned(),
                ])
            }
            State::Stalled { seconds } => forms(&[
                format!("stalled {}", human_time(*seconds)),
                "stalled".to_owned(),
            ]),
            State::Waiting { until } => {
                forms(&[format!("waiting until {until}"), "waiting".to_owned()])
            }
            State::Trying { until } => forms(&[
                format!("waiting, trying until {until}"),
                "waiting".to_owned(),
            ]),
            State::Recording { behind } => forms(&[
                format!("recording, {} behind", human_bytes(*behind)),
                "recording".to_owned(),
            ]),
            State::Finishing => forms(&["finishing".to_owned()]),
        }
    }

    fn percent(&self) -> u64 {
        let done = u128::from(self.bytes_done.min(self.bytes_total));
        (done * 100 / u128::from(self.bytes_total)) as u64
    }

    /// `[====>    ]` in so many columns.
    fn drawn(&self, columns: usize) -> String {
        let inner = columns - 2;
        let done = u128::from(self.bytes_done.min(self.bytes_total));
        let filled = (done * inner as u128 / u128::from(self.bytes_total)) as usize;
        let tip = usize::from(filled < inner);
        let (filled, empty) = ("=".repeat(filled), " ".repeat(inner - filled - tip));
        format!("[{filled}{}{empty}]", ">".repeat(tip))
    }
}

/// The columns of a character, at most.
fn columns_of(c: char) -> usize {
    match c {
        // Makes an emoji of a symbol, which is wider.
        '\u{FE0F}' => 1,
        c => c.width().unwrap_or(0),
    }
}

/// The columns of a text, at most: some terminals join characters.
fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// As much of the start of a text as these columns have room for.
fn cut(text: &str, columns: usize) -> &str {
    let mut left = columns;
    let end = text.char_indices().find(|(_, c)| {
        let fits = columns_of(*c) <= left;
        left = left.saturating_sub(columns_of(*c));
        !fits
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// The end of a text, likewise. It does not begin with what belongs to the character before it.
fn cut_start(text: &str, columns: usize) -> &str {
    let (mut left, mut start) = (columns, text.len());
    for (at, c) in text.char_indices().rev() {
        match left.checked_sub(columns_of(c)) {
            None => break,
            Some(rest) => left = rest,
        }
        if c.width() > Some(0) {
            start = at;
        }
    }
    &text[start..]
}

/// A name in so many columns, with blanks after it if it does not fill them: cut in the middle, since names begin and end with what
/// tells them apart.
fn shortened(name: &str, columns: usize) -> String {
    if width(name) <= columns {
        return name.to_owned();
    }
    let Some(room) = columns.checked_sub(CUT.len()) else {
        return cut(name, columns).to_owned();
    };
    let (start, end) = (cut(name, room.div_ceil(2)), cut_start(name, room / 2));
    format!("{start}{CUT}{end}")
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    const LONG: &str = "debian-13.1.0-amd64-netinst-and-a-name-that-goes-on-for-quite-a-while.iso";
    /// Wide characters, combining ones, an emoji that is a symbol with a selector, a family of three joined ones.
    const WIDE: &str = "東京の夜景と富士山の写真集 e\u{301}te\u{301} ❤\u{fe0f} 👨\u{200d}👩\u{200d}👧 第十二巻.zip";

    fn fetch(name: &str) -> Bar {
        Bar {
            name: name.to_owned(),
            bytes_done: 181_000_000,
            bytes_total: 291_307_396,
            rate_bps: 25_000_000,
            counts: Counts {
                local: 146_000_000,
                resumed: 146_000_000,
                fetched: 35_000_000,
                verified: 34_000_000,
                retried: 3,
            },
            ..Bar::default()
        }
    }

    fn states() -> Vec<State> {
        let (host, until) = ("download.example.org".to_owned(), "14:05:10".to_owned());
        vec![
            State::Moving,
            State::Connecting { host },
            State::Searching,
            State::Stalled { seconds: 4 },
            State::Waiting {
                until: until.clone(),
            },
            State::Trying { until },
            State::Finishing,
        ]
    }

    #[test]
    fn a_line_of_any_width() {
        assert_eq!(
            fetch("talk.mp4").line(39),
            "talk.mp4  62%  25 MB/s  0:05 left"
        );
        assert_eq!(
            fetch(LONG).line(39),
            "debian...e.iso  62%  25 MB/s  0:05 left"
        );
        assert_eq!(
            fetch("talk.mp4").line(79),
            "talk.mp4 [===========>       ]  62% of 291 MB  25 MB/s  0:05 left  local 146 MB"
        );
        assert_eq!(
            fetch("talk.mp4").line(199),
            "talk.mp4 [========================>               ]  62% of 291 MB  25 MB/s  0:05 left  local 146 MB (resumed)  \
             fetched 35 MB  verified 34 MB  retried 3"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let names = [
            LONG,
            WIDE,
            "x",
            "",
            "\u{301}\u{301}",
            &WIDE.repeat(9),
            &LONG.repeat(9),
        ];
        for name in names {
            for state in states() {
                for (is_not_verified, name_short) in [
                    (false, None),
                    (true, None),
                    (true, Some("1999/2000".to_owned())),
                ] {
                    for (bytes_done, bytes_total) in
                        [(0, 0), (5, 0), (0, 7), (7, 7), (9, 7), (u64::MAX, u64::MAX)]
                    {
                        let bar = Bar {
                            state: state.clone(),
                            is_not_verified,
                            name_short: name_short.clone(),
                            bytes_done,
                            bytes_total,
                            ..fetch(name)
                        };
                        for columns in [0, 1, 2, 9, 20, 39, 40, 41, 79, 80, 199, 200, 1000] {
                            let line = bar.line(columns);
                            assert!(
                                UnicodeWidthStr::width(&*line) <= columns,
                                "{columns}: {line}"
                            );
                            assert!(width(&line) <= columns, "{columns}: {line}");
                            assert!(!line.chars().any(char::is_control), "{line:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_counts_is_shown_in_40_columns() {
        for (state, shown) in [
            (State::Stalled { seconds: 4 }, "stalled 0:04"),
            (states()[4].clone(), "waiting until 14:05:10"),
            (states()[5].clone(), "waiting, trying until 14:05:10"),
            (State::Searching, "searching, 181 MB read"),
        ] {
            for name in [LONG, WIDE] {
                let bar = Bar {
                    state: state.clone(),
                    ..fetch(name)
                };
                assert!(bar.line(39).contains(shown), "{}", bar.line(39));
            }
        }
        let bar = Bar {
            is_not_verified: true,
            ..fetch(LONG)
        };
        assert_eq!(bar.line(39), "debi....iso  62%  25 MB/s  NOT verified");
        let many = Bar {
            name: "190 of 200 files done, 10 failed".to_owned(),
            name_short: Some("190/200 done, 10 failed".to_owned()),
            ..fetch("")
        };
        assert_eq!(many.line(39), "190/200 done, 10 failed  62%  25 MB/s");
        assert!(
            many.line(79)
                .starts_with("190 of 200 files done, 10 failed ")
        );
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(shortened("talk.mp4", 8), "talk.mp4");
        assert_eq!(shortened("talks.mp4", 8), "tal...p4");
        assert_eq!(shortened("talks.mp4", 2), "ta");
        // Half a wide character has no room.
        assert_eq!(shortened("東京の夜景", 8), "東...景");
        assert_eq!(shortened("ae\u{301}bcde\u{301}f", 6), "ae\u{301}...f");
        assert_eq!(cut_start("e\u{301}f", 1), "f");
        assert_eq!(cut_start("e\u{301}f", 2), "e\u{301}f");
    }

    #[test]
    fn a_line_without_a_bar_says_all() {
        assert_eq!(
            fetch("talk.mp4").sentence(),
            "talk.mp4  62% of 291 MB  25 MB/s  0:05 left  local 146 MB (resumed)  fetched 35 MB  verified 34 MB  retried 3"
        );
    }
}
