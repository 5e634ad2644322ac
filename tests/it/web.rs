//! Uploads of the page in Chromium into S3. What it does with a folder is tested in `tools/web`, in the same step of `tools/test`.

use std::process::Command;

use crate::support::{bucket::Bucket, s3::KEY_ID, secrets::SECRET};

#[test]
fn a_page_uploads_into_s3() {
    let bucket = Bucket::start();
    let ended = Command::new("node")
        .args(["--test", "s3.mjs"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/web"))
        .env("SAPWOOD_PROGRAM", env!("CARGO_BIN_EXE_sapwood"))
        .env("SAPWOOD_S3", bucket.url())
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_REGION", "us-east-1")
        .output()
        .expect("node");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    let object = bucket.object("P/f.bin").expect("it is there");
    assert_eq!(object.bytes.len(), (16 << 20) + 5);
}
