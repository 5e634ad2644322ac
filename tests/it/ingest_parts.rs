//! Uploads in parts by clients that know nothing of this program (upload-clients.md, section 2): the requests of Uppy, by hand.

use std::{fs, io::Write, net::TcpStream, os::unix::fs::FileExt};

use sapwood::format::paint;
use serde_json::{Value, json};

use crate::{
    push_s3::Served,
    support::{
        program::LONG_ENOUGH,
        site::{Api, PART, Response, Site, check_manifest, part_of, parts, root, sha256},
    },
};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A client of these routes.
pub struct Uppy<'a> {
    pub api: &'a Api,
    /// Of each request.
    pub fields: Vec<(&'a str, &'a str)>,
}

/// An upload in parts.
pub struct Multipart {
    id: String,
    key: String,
}

impl Multipart {
    fn path(&self, more: &str) -> String {
        format!("/s3/multipart/{}{more}?key={}", self.id, self.key)
    }
}

impl<'a> Uppy<'a> {
    pub fn of(api: &'a Api) -> Uppy<'a> {
        let fields = Vec::new();
        Uppy { api, fields }
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, body: &Value) -> Response {
        let fields = [&self.fields[..], &[JSON]].concat();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.api.send(method, path, &fields, body.as_bytes())
    }

    #[track_caller]
    fn create(&self, name: &str, metadata: &Value) -> Multipart {
        let body = json!({ "filename": name, "type": "video/mp4", "metadata": metadata });
        let made = self.send("POST", "/s3/multipart", &body).must(200).json();
        Multipart {
            id: made["uploadId"].as_str().expect("an ID").to_owned(),
            key: made["key"].as_str().expect("a key").to_owned(),
        }
    }

    /// The path and query of the URL of a part.
    #[track_caller]
    fn sign(&self, upload: &Multipart, number: usize) -> String {
        let signed = self.send("GET", &upload.path(&format!("/{number}")), &Value::Null);
        self.path_of(&signed.must(200).json()["url"])
    }

    #[track_caller]
    fn path_of(&self, url: &Value) -> String {
        let url = url.as_str().expect("a URL");
        let base = format!("http://{}", self.api.address);
        url.strip_prefix(&base)
            .unwrap_or_else(|| panic!("{url}"))
            .to_owned()
    }

    #[track_caller]
    fn put(&self, upload: &Multipart, number: usize, part: &[u8]) -> String {
        let url = self.sign(upload, number);
        let sent = self.api.send("PUT", &url, &self.fields, part).must(200);
        sent.headers["etag"].trim_matches('"').to_owned()
    }

    #[track_caller]
    fn complete(&self, upload: &Multipart, etags: &[String]) -> Response {
        let parts: Vec<Value> = (1..)
            .zip(etags)
            .map(|(number, etag)| json!({ "PartNumber": number, "ETag": etag }))
            .collect();
        self.send(
            "POST",
            &upload.path("/complete"),
            &json!({ "parts": parts }),
        )
    }

    fn list(&self, upload: &Multipart) -> Value {
        self.send("GET", &upload.path(""), &Value::Null)
            .must(200)
            .json()
    }

    /// All of an upload in parts.
    #[track_caller]
    pub fn upload(&self, name: &str, object: &[u8]) -> Value {
        let upload = self.create(name, &json!({}));
        let sent = |index| self.put(&upload, index + 1, part_of(object, index));
        let etags: Vec<String> = (0..parts(object)).map(sent).collect();
        self.complete(&upload, &etags).must(200).json()
    }
}

/// The status line of a response, whose text is all that Uppy shows of a refusal.
fn reason(api: &Api, request: &str, body: &[u8]) -> String {
    let mut connection = TcpStream::connect(&api.address).expect("a connection");
    connection
        .set_read_timeout(Some(LONG_ENOUGH))
        .expect("a limit");
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        api.address,
        body.len()
    );
    connection.write_all(head.as_bytes()).expect("sent");
    let _ = connection.write_all(body);
    let mut bytes = Vec::new();
    let _ = std::io::Read::read_to_end(&mut connection, &mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn parts_in_any_order_become_an_object_that_is_proven_by_reading() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (api, uppy) = (&server.api, Uppy::of(&server.api));
    let object = paint::bytes(5, 2 * PART + 77);
    let upload = uppy.create(
        "a/b c.mp4",
        &json!({ "name": "b c.mp4", "relativePath": null }),
    );
    assert_eq!(upload.key, "a/b c.mp4");
    let upload = Multipart {
        key: "a%2Fb+c.mp4".to_owned(),
        ..upload
    };
    assert_eq!(uppy.list(&upload), json!([]));
    uppy.put(&upload, 3, part_of(&object, 2));
    // A part that is sent again takes the place of the first one.
    uppy.put(&upload, 1, &paint::bytes(9, PART));
    let mut etags = vec![uppy.put(&upload, 1, part_of(&object, 0))];
    assert_eq!(etags[0], sha256(part_of(&object, 0)));
    let listed = uppy.list(&upload);
    let numbers: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|part| &part["PartNumber"])
        .collect();
    assert_eq!(numbers, [&json!(1), &json!(3)]);
    assert_eq!(listed[1]["Size"], 77);
    assert_eq!(listed[0]["ETag"], format!("\"{}\"", etags[0]));
    etags.extend([String::new(), sha256(part_of(&object, 2))]);
    uppy.complete(&upload, &etags)
        .problem(409, "part_not_stored");
    let batch = upload.path("/batch") + "&partNumbers=2,3";
    let urls = uppy.send("GET", &batch, &Value::Null).must(200).json();
    let url = uppy.path_of(&urls["presignedUrls"]["2"]);
    // A part that was cut off is not there, and is sent again, also at once.
    let mut cut = TcpStream::connect(&api.address).expect("a connection");
    let head = format!(
        "PUT {url} HTTP/1.1\r\nHost: {}\r\nContent-Length: {PART}\r\n\r\n",
        api.address
    );
    cut.write_all(head.as_bytes()).expect("sent");
    cut.write_all(&object[..PART / 2]).expect("sent");
    etags[1] = uppy.put(&upload, 2, part_of(&object, 1));
    drop(cut);
    // The URL is for this part alone.
    let other = url.replace("/parts/1/", "/parts/0/");
    api.send("PUT", &other, &[], b"x")
        .problem(403, "bad_signature");
    let status = api.status(&upload.id);
    assert_eq!(
        (&status["proof"], &status["length"]),
        (&json!("read_back"), &Value::Null)
    );
    assert_eq!(
        (&status["part_size"], &status["grows"]),
        (&json!(PART), &json!(false))
    );
    assert!(!site.path("a/b c.mp4").exists());
    let done = uppy.complete(&upload, &etags).must(200).json();
    let location = format!("http://{}/a/b%20c.mp4", api.address);
    assert_eq!(
        (&done["location"], &done["key"]),
        (&json!(location), &json!("a/b c.mp4"))
    );
    assert!(api.get("/a/b%20c.mp4").must(200).body == object);
    check_manifest(&site, "a/b c.mp4", &object);
    // All may be repeated.
    assert_eq!(uppy.complete(&upload, &etags).must(200).json(), done);
    assert_eq!(uppy.list(&upload).as_array().map(Vec::len), Some(3));
    let done = api.status(&upload.id);
    assert_eq!(
        (&done["root"], &done["proof"]),
        (&json!(root(&object)), &json!("read_back"))
    );
    let log = fs::read_to_string(site.path("sapwood-staging/audit.jsonl")).expect("a log");
    let last: Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["action"], &last["proof"]),
        (&json!("publish"), &json!("read_back"))
    );
    site.check_nothing_is_staged();
}

#[test]
fn parts_of_another_size_are_refused_in_words_that_help() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (api, uppy) = (&server.api, Uppy::of(&server.api));
    let object = paint::bytes(5, 3 * PART);
    let upload = uppy.create("x", &json!({}));
    let refused = |number, part: &[u8]| {
        let sent = api.send("PUT", &uppy.sign(&upload, number), &[], part);
        let told = sent.problem(422, "bad_part");
        let message = told["message"].as_str().expect("a text").to_owned();
        assert!(
            message.contains("getChunkSize") && message.contains("5242880"),
            "{message}"
        );
        assert_eq!(told["part_size"], PART);
    };
    refused(1, &object[..=PART]);
    uppy.put(&upload, 1, &object[..1000]);
    refused(2, &object[..PART]);
    uppy.put(&upload, 1, &object[..PART]);
    uppy.put(&upload, 3, &object[..PART]);
    refused(2, &object[..PART - 1]);
    let url = uppy.sign(&upload, 2);
    let line = reason(api, &format!("PUT {url}"), &object[..PART - 1]);
    assert!(
        line.starts_with("HTTP/1.1 422 part 2 has 5242879 bytes"),
        "{line}"
    );
    uppy.send("DELETE", &upload.path(""), &Value::Null)
        .must(200);
    uppy.send("DELETE", &upload.path(""), &Value::Null)
        .must(200);
    let ended = uppy.send("GET", &upload.path("/2"), &Value::Null);
    ended.problem(410, "session_ended");
    // The page may choose another size.
    let large = uppy.create("y", &json!({ "partSize": (2 * PART).to_string() }));
    let (first, last) = object.split_at(2 * PART);
    let etags = [uppy.put(&large, 1, first), uppy.put(&large, 2, last)];
    uppy.complete(&large, &etags).must(200);
    check_manifest(&site, "y", &object);
    uppy.send(
        "POST",
        "/s3/multipart",
        &json!({ "filename": "z", "metadata": { "partSize": 7 } }),
    )
    .problem(422, "bad_size");
    // Names and what has them: the text is in the status line.
    for (body, expected) in [
        (
            json!({ "filename": "y" }),
            "409 y exists; an object takes its place only if it was asked to",
        ),
        (
            json!({ "filename": "../é" }),
            "422 \"../?\" is no name under which an object can be published",
        ),
        (
            json!({ "filename": "s3/params" }),
            "422 \"s3/params\" is no name under which an object can be published",
        ),
    ] {
        let line = reason(api, "POST /s3/multipart", body.to_string().as_bytes());
        assert_eq!(line, format!("HTTP/1.1 {expected}"));
    }
    let upload = uppy.create("y", &json!({ "replace": true }));
    let etag = uppy.put(&upload, 1, b"new");
    uppy.complete(&upload, &[etag]).must(200);
    assert_eq!(api.get("/y").must(200).body, b"new");
    site.check_nothing_is_staged();
}

#[test]
fn small_files_come_in_one_form() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (api, uppy) = (&server.api, Uppy::of(&server.api));
    for (name, length) in [("empty", 0), ("a+b", 1), ("ü/x y", PART + 3)] {
        let object = paint::bytes(7, length);
        let encoded =
            percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        let encoded = encoded.to_string().replace("%20", "+");
        let params = format!("/s3/params?filename={encoded}&type=x%2Fy&metadata%5Bname%5D=x");
        let params = uppy.send("GET", &params, &Value::Null).must(200).json();
        assert_eq!(
            (&params["fields"]["key"], &params["method"]),
            (&json!(name), &json!("POST"))
        );
        let path = uppy.path_of(&params["url"]);
        assert!(
            path.starts_with("/?"),
            "{path}: the client puts the key there"
        );
        let form = |content: &[u8]| {
            let head = "--b0\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--b0\r\n\
                Content-Disposition: form-data; name=\"file\"; filename=\"blob\"\r\n\r\n";
            [head.as_bytes(), content, b"\r\n--b0--\r\n"].concat()
        };
        let media_type = ("Content-Type", "multipart/form-data; boundary=b0");
        // One that is cut off publishes nothing; the same URL then takes all of it.
        let mut cut = form(&object);
        cut.truncate(cut.len() - 9);
        api.send("POST", &path, &[media_type], &cut).must(400);
        assert!(!site.path(name).exists());
        let sent = api
            .send("POST", &path, &[media_type], &form(&object))
            .must(204);
        assert!(sent.headers["location"].starts_with(&format!("http://{}/", api.address)));
        assert!(
            fs::read(site.path(name)).expect("a file") == object,
            "{name}"
        );
        check_manifest(&site, name, &object);
        // The response was lost.
        api.send("POST", &path, &[media_type], &form(&object))
            .must(204);
        api.send(
            "POST",
            &path.replace("name=", "name=x"),
            &[media_type],
            &form(b"x"),
        )
        .problem(403, "bad_signature");
    }
    let taken = uppy.send("GET", "/s3/params?filename=empty", &Value::Null);
    taken.problem(409, "name_exists");
    site.check_nothing_is_staged();
    // These paths are those of objects too.
    fs::create_dir(site.path("s3")).expect("a folder");
    fs::write(site.path("s3/params"), b"an object").expect("a file");
    assert_eq!(api.get("/s3/params").must(200).body, b"an object");
    api.get("/s3/multipart").must(404);
    api.get("/s3/multipart/x").must(404);
}

/// What lies on the disk when it is published is what the records say, or it is sent again.
#[test]
fn bytes_that_rot_before_they_are_published_are_found() {
    let site = Site::new();
    let server = site.serve(&[]);
    let uppy = Uppy::of(&server.api);
    let object = paint::bytes(5, 2 * PART);
    let upload = uppy.create("x", &json!({}));
    let sent = |index| uppy.put(&upload, index + 1, part_of(&object, index));
    let etags: Vec<String> = (0..2).map(sent).collect();
    let staged = site.path(&format!("sapwood-staging/{}/object", upload.id));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(staged)
        .expect("a file");
    file.write_all_at(b"rot", (PART + 1000) as u64)
        .expect("written");
    let missing = uppy.complete(&upload, &etags).problem(409, "parts_missing");
    assert_eq!(missing["missing"], json!([1]));
    assert!(!site.path("x").exists());
    assert_eq!(uppy.list(&upload).as_array().map(Vec::len), Some(1));
    uppy.put(&upload, 2, part_of(&object, 1));
    uppy.complete(&upload, &etags).must(200);
    check_manifest(&site, "x", &object);
}

#[test]
fn web_pages_and_tokens() {
    let site = Site::new();
    let tokens = site.state.path().join("tokens");
    fs::write(&tokens, "ann secret-of-ann\nbob secret-of-bob\n").expect("a file");
    let tokens = tokens.to_str().expect("a path").to_owned();
    let app = ("Origin", "https://app.example");
    {
        // Without a token only pages that are listed may use the loopback interface, and not even this server's own.
        let server = site.serve(&["--cors", app.1]);
        let api = &server.api;
        let own = format!("http://{}", api.address);
        let id = "9b2f6c1e-5d0a-4c3b-8f7e-2a1b3c4d5e6f";
        for (method, path) in [
            ("GET", "/s3/params?filename=x".to_owned()),
            ("POST", "/s3/multipart".to_owned()),
            ("GET", format!("/s3/multipart/{id}?key=x")),
            ("POST", format!("/s3/multipart/{id}/complete?key=x")),
            ("DELETE", format!("/s3/multipart/{id}?key=x")),
            ("POST", "/?sapwood-upload=x".to_owned()),
            ("POST", "/.sapwood/resumable/x".to_owned()),
            ("HEAD", format!("/.sapwood/uploads/{id}/stream")),
            ("PATCH", format!("/.sapwood/uploads/{id}/stream")),
        ] {
            for origin in ["https://evil.example", "null", own.as_str()] {
                let refused = api
                    .send(method, &path, &[("Origin", origin)], b"")
                    .must(403);
                assert!(
                    !refused.headers.contains_key("access-control-allow-origin"),
                    "{path}"
                );
            }
            let rebound = api.send(method, &path, &[("Host", "evil.example")], b"");
            assert!(
                matches!(rebound.status, 400 | 403),
                "{path}: {}",
                rebound.status
            );
            let asked = api.send("OPTIONS", &path, &[app], b"").must(204);
            assert_eq!(asked.headers["access-control-allow-origin"], app.1);
            let allowed = &asked.headers["access-control-allow-headers"];
            assert!(
                ["Upload-Offset", "Tus-Resumable", "Upload-Complete"]
                    .iter()
                    .all(|name| allowed.contains(name))
            );
            assert!(asked.headers["access-control-allow-methods"].contains("PATCH"));
        }
        let found = Uppy {
            api,
            fields: vec![app],
        }
        .create("x", &json!({}));
        let exposed = api.send("GET", &found.path(""), &[app], b"").must(200);
        assert!(exposed.headers["access-control-expose-headers"].contains("ETag"));
        api.json("DELETE", &found.id, &json!({})).must(204);
    }
    let server = site.serve(&["--token-file", &tokens, "--quota", "6MiB"]);
    let own = format!("http://{}", server.api.address);
    let (ann, bob) = (
        server.api.with_token("secret-of-ann"),
        server.api.with_token("secret-of-bob"),
    );
    let (ann, bob) = (
        Uppy {
            api: &ann,
            fields: vec![("Origin", &own)],
        },
        Uppy::of(&bob),
    );
    Uppy::of(&server.api)
        .send("POST", "/s3/multipart", &json!({ "filename": "x" }))
        .problem(401, "unauthorized");
    let upload = ann.create("x", &json!({}));
    bob.send("GET", &upload.path(""), &Value::Null)
        .problem(404, "no_session");
    ann.send(
        "GET",
        &format!("/s3/multipart/{}?key=y", upload.id),
        &Value::Null,
    )
    .problem(404, "no_session");
    // The URL is the credential.
    let url = ann.sign(&upload, 1);
    let object = paint::bytes(5, 2 * PART);
    server.api.send("PUT", &url, &[], &object[..PART]).must(200);
    let url = ann.sign(&upload, 2);
    server
        .api
        .send("PUT", &url, &[], &object[PART..])
        .problem(413, "quota");
    let etags = [sha256(&object[..PART])];
    ann.complete(&upload, &etags).must(200);
    assert!(ann.api.get("/x").must(200).body == object[..PART]);
}

#[test]
fn parts_for_s3_go_through_the_server() {
    let served = Served::new();
    let api = Api {
        address: served
            .url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned(),
        token: None,
    };
    let uppy = Uppy::of(&api);
    let object = paint::bytes(5, 2 * PART + 9);
    uppy.upload("shows/f.bin", &object);
    let stored = served
        .bucket()
        .object("P/shows/f.bin")
        .expect("it is there");
    assert!(*stored.bytes == object);
    assert_eq!(
        served.bucket().keys(),
        ["P/shows/f.bin", "P/shows/f.bin.sapwood"]
    );
    assert_eq!(served.bucket().pending(), Vec::<String>::new());
}
