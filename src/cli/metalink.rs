//! Metalink 4 (RFC 5854) as a list of objects to fetch: names, mirrors and digests. Its digests of pieces are not used: one that does not
//! match would not tell which mirror sent it.

use roxmltree::{Document, Node};

use crate::{format::digests::Algorithm, net::location::Location};

use super::{
    list::{Entry, Line},
    network::Refusal,
};

const NAMESPACE: &str = "urn:ietf:params:xml:ns:metalink";
/// The priority of a URL that has none (RFC 5854, 4.1.2.5); 1 is the best.
const LAST: u32 = 999_999;

/// Whether a list is XML.
pub fn is_xml(text: &str) -> bool {
    text.trim_start().starts_with('<')
}

/// The files of a Metalink document, or why it is none.
pub fn lines(text: &str) -> Result<Vec<Line>, String> {
    let document = Document::parse(text).map_err(|cause| format!("it is no valid XML: {cause}"))?;
    let root = document.root_element();
    if !root.has_tag_name((NAMESPACE, "metalink")) {
        return Err(format!(
            "it is XML, and no Metalink 4 (its first element is {:?})",
            root.tag_name().name()
        ));
    }
    let files = root.children().filter(|node| is(node, "file"));
    let line = |file: Node| {
        let line = document.text_pos_at(file.range().start).row as usize;
        entry(file)
            .map(|entry| Entry {
                line: Some(line),
                ..entry
            })
            .map_err(|message| (Some(line), Refusal::usage(message)))
    };
    Ok(files.map(line).collect())
}

fn is(node: &Node, name: &str) -> bool {
    node.has_tag_name((NAMESPACE, name))
}

fn entry(file: Node) -> Result<Entry, String> {
    let name = file.attribute("name").ok_or("a file has no name")?;
    let mut entry = Entry {
        name: Some(name.to_owned()),
        ..Entry::default()
    };
    let (mut urls, mut others) = (Vec::new(), 0);
    for node in file.children().filter(Node::is_element) {
        let text = node.text().unwrap_or_default().trim();
        if is(&node, "url") {
            let priority = node.attribute("priority");
            let priority = priority.and_then(|text| text.parse().ok()).unwrap_or(LAST);
            match Location::parse(text) {
                Ok(_) => urls.push((priority, text.to_owned())),
                // FTP, for example.
                Err(_) => others += 1,
            }
        } else if is(&node, "metaurl") {
            others += 1;
        } else if is(&node, "hash") {
            add_digest(&mut entry, node.attribute("type").unwrap_or_default(), text)?;
        }
    }
    urls.sort_by_key(|(priority, _)| *priority);
    let mut urls = urls.into_iter().map(|(_, url)| url);
    entry.url = urls.next().ok_or_else(|| match others {
        0 => format!("{name:?} has no URL"),
        _ => format!("{name:?} has no http or https URL"),
    })?;
    entry.mirrors = urls.collect();
    Ok(entry)
}

/// Digests of algorithms that are unknown here are left out, if there is another one.
fn add_digest(entry: &mut Entry, algorithm: &str, hex: &str) -> Result<(), String> {
    let is_known = Algorithm::ALL.iter().any(|known| known.name() == algorithm);
    match is_known {
        true => entry.set("digest", &format!("{algorithm}={hex}")).map(drop),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &str) -> Vec<Line> {
        lines(&format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metalink xmlns=\"{NAMESPACE}\">\n{files}\n</metalink>"
        ))
        .unwrap()
    }

    #[test]
    fn files_with_their_mirrors_and_digests() {
        let sha256 = "ab".repeat(32);
        let lines = found(&format!(
            "<file name=\"a/x.iso\"><size>3</size>
             <hash type=\"sha-256\">{sha256}</hash><hash type=\"sha-384\">00</hash>
             <pieces length=\"1\" type=\"sha-256\"><hash>00</hash></pieces>
             <url>http://c.example/x</url><url priority=\"2\">https://b.example/x?a&amp;b</url>
             <url priority=\"1\" location=\"de\"> http://a.example/x </url>
             <url priority=\"1\">ftp://a.example/x</url></file>
             <file name=\"y\"><metaurl mediatype=\"torrent\">http://a.example/y.torrent</metaurl></file>
             <file name=\"z\"><hash type=\"md5\">12</hash><url>http://a.example/z</url></file>
             <file><url>http://a.example/z</url></file>"
        ));
        let [Ok(first), Err(no_url), Err(bad_digest), Err(no_name)] = &lines[..] else {
            panic!("{} lines", lines.len());
        };
        assert_eq!(first.name.as_deref(), Some("a/x.iso"));
        assert_eq!(first.url, "http://a.example/x");
        assert_eq!(
            first.mirrors,
            ["https://b.example/x?a&b", "http://c.example/x"]
        );
        assert_eq!(first.digests.len(), 1);
        assert_eq!(first.line, Some(3));
        for ((line, Refusal(_, message)), (expected, word)) in [
            (no_url, (9, "no http or https URL")),
            (bad_digest, (10, "digest=md5=12")),
            (no_name, (11, "no name")),
        ] {
            assert_eq!(*line, Some(expected), "{message}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn what_is_no_metalink() {
        let third = "<metalink version=\"3.0\" xmlns=\"http://www.metalinker.org/\"/>";
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bb\">]><a>&b;</a>";
        for (text, word) in [
            (third, "no Metalink 4"),
            ("<html><body/></html>", "no Metalink 4"),
            (bomb, "DTD"),
            ("<metalink", "no valid XML"),
        ] {
            assert!(is_xml(text));
            let message = lines(text).err().unwrap();
            assert!(message.contains(word), "{message}");
        }
        assert!(!is_xml("http://a.example/<x>"));
    }
}
