//! What to do about an error or a mistake, with the flags of this program. The library's messages name no flags: other programs show
//! them too.

use std::{io, net::IpAddr, path::Path};

use crate::{
    disk::error::{DiskError, FileOperation},
    engine::{error::Error, event_fields, library::verify::Checked},
    format::{ingest::RefusedUpload, keys::BadKey, trust::Trust, upload::SessionId},
    net::{
        auth::aws::BadAccess,
        proxies::{BadProxy, NotAProxy},
    },
    policy::recovery::Failure,
    serve::ingest::StartError,
};

use super::{aws::Unusable, units};

// Arguments that cannot work, with the flag that helps.
pub const NO_STORE_FOLDER: &str =
    "there is no home folder for the store; name a folder with --store";
pub const BAD_HEADER: &str = "-H takes 'Name: value', or @FILE with one a line";
pub const NOTHING_REMEMBERED: &str = "there is no home folder (HOME is not set), so that this run remembers nothing for the next one; name a folder with --store";
pub const VERIFY_ONE_FILE: &str = "--manifest and --root are for one file";
pub const VERIFY_AGAINST: &str = "give a manifest with --manifest, or a root with --root";
pub const QUARANTINE_PART: &str = "has a name of unfinished downloads, which --quarantine does not rename; verify it without --quarantine, or fetch it again";
pub const RECEIPT_TO_STDOUT: &str = "--receipt - is not possible: a receipt is a file, or one for each URL in a folder; --json prints events to standard output";
pub const NAME_MANIFEST: &str =
    "name the manifest itself, or make one of the file with sapwood manifest";
pub const MANIFEST_ONE_FILE: &str =
    "-o and --name are for one file; without them each manifest is written beside its file";
pub const VERIFY_FOLDER: &str = "is a folder; --manifest is for files";
pub const NO_REMOTE_LIBRARY: &str = "name the folder of a library; sapwood manifest FOLDER makes one, to be published with the folder";
pub const LIBRARY_NOT_WHOLE: &str =
    "its publisher must run sapwood manifest FOLDER again, and publish all of it";
pub const SYNC_TO_STDOUT: &str =
    "- is not possible: sync makes a folder; name it ./- if it is to have that name";
pub const SYNC_STOPPED: &str =
    "stopped; what was synced stays. Run the same command again to go on";
pub const NO_LIBRARY: &str =
    "is a folder without a library.sapwood.sapwood; sapwood manifest FOLDER makes its library";
pub const LIBRARY_PLACE: &str =
    "the index of a folder is written into it as library.sapwood; -o and --digest are for files";
pub const STDIN_NEEDS_OUTPUT: &str =
    "a manifest of standard input needs -o OUT (-o - for standard output)";
pub const PACK_TO_STDOUT: &str =
    "a pack is written beside the manifest, so that must be a file: -o FILE";
pub const PARTS_OF_FILES: &str =
    "parts are files, and have no digests: --digest and - cannot be used with --range and --join";
pub const PART_HAS_NO_NAME: &str =
    "--name, --seq, --expires and --sign are for --join, not for --range";
pub const PARTS_HAVE_FORM: &str =
    "--block-size and --no-hints are for --range; all parts of a file are made with the same";
pub const READ_ALL_FOLDER: &str = "--read-all is for a folder";
pub const NO_PASSWORD: &str =
    "a password is needed: set SAPWOOD_KEY_PASSWORD, run in a terminal, or use --no-password";
pub const EMPTY_PASSWORD: &str =
    "an empty password protects nothing; use --no-password for a key without one";
pub const OTHER_PASSWORD: &str = "the two passwords differ: no key was made";
pub const OTHER_ADDRESS: &str = "choose another address with --listen (port 0 finds a free one)";
#[cfg(not(feature = "postgres"))]
pub const NO_POSTGRES: &str = "--sessions takes a file: this program was built without the feature postgres; \
     build one with cargo build --release --features postgres";
pub const SESSIONS_IN_POSTGRES: &str = "--sessions: of databases with a URL only those of Postgres can be used \
     (postgres://USER:PASSWORD@HOST/DATABASE); without --sessions no database has to be set up";
pub const STORAGE_IN_S3: &str = "check --storage, and the AWS variables and files: AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL";
pub const SESSIONS_ELSEWHERE: &str = "Name another place with --sessions, or leave it out: then they are with what is staged, which is not served";
pub const TOKENS_ELSEWHERE: &str = "Move it away, and name its new place with --token-file";
pub const UPLOADS_NEED_TOKENS: &str = "without tokens anybody who reaches it could upload; name a file with them with --token-file, or listen on 127.0.0.1";
pub const UPLOADS_NEED_TLS: &str = "tokens would be sent in the clear; give a certificate with --tls-cert and --tls-key, or listen on 127.0.0.1";
pub const KEY_ELSEWHERE: &str = "Move it away, and name its new place with --tls-key";

pub const STOPPED: &str = "stopped";
pub const PUSH_STOPPED: &str =
    "stopped; what has arrived stays there. Run the same command again to go on";
pub const PUSH_NEEDS_URL: &str = "name the file and the URL: sapwood push FILE URL";
pub const PUSH_TAKES_NO_FILE: &str = "--list and --abort take the URL alone";
pub const PUSH_WITHOUT_QUERY: &str = "the URL of a push has no query and no fragment";
pub const PUSH_URL_ENCODING: &str =
    "the path of the URL is not UTF-8, or has an encoded slash in a name";
pub const PUSH_SEVERAL: &str = "several files need a URL with a slash at its end, which each is put below by its own name; --name and --session are for one file";
pub const PUSH_FOLLOWS_FILES: &str =
    "--follow is for files; standard input is sent while it comes, without it";
pub const PUSH_ONE_PIPE: &str = "- cannot be pushed together with files";
pub const PUSH_PIPE_NAME: &str = "standard input has no name: give it one with --name";
pub const PUSH_NAME: &str = "is not safe as the name of an object: names have neither .. nor empty or hidden segments, nor endings of our own files; choose another with --name";
pub const PUSH_SAME_NAME: &str =
    "two files have this name; push them one by one with different --name";
pub const PUSH_NO_NAME: &str = "has no name in UTF-8; give it one with --name";
pub const PUSH_S3_ALONE: &str =
    "--sse and --attested are for s3:// URLs: what takes uploads at other URLs decides itself";
pub const PUSH_S3_NAME: &str =
    "--name needs an s3:// URL with a slash at its end: else the URL has the name already";
pub const PUSH_INTO_STAGING: &str =
    "sapwood-staging is the folder of uploads that are not finished; choose another key";
pub const BAD_TOKEN: &str = "--token (SAPWOOD_TOKEN) is no token: letters, digits and -._~+/= on one line, or a file with it";
pub const TOKEN_IN_THE_CLEAR: &str = "a token is not sent over plain http, except to this machine; give an https URL, or no --token (SAPWOOD_TOKEN)";

pub const EXPIRED: &str =
    "--expires is in the past: every reader with a key would refuse the manifest";

/// An address that other machines can reach.
pub fn not_loopback(address: IpAddr) -> String {
    format!(
        "{address} is not an address of the loopback interface: a gateway is for programs on this machine only. Choose 127.0.0.1, ::1 \
         or localhost with --listen"
    )
}

pub const WHOLE_PACK_FOLDER: &str = "--whole is for files: those of a library are there anyway";
/// A pack was wanted, and would not save enough.
pub fn no_pack(file: &Path) -> String {
    format!(
        "{} hardly compresses: it has no pack, and is fetched as it is",
        file.display()
    )
}

/// What is said of a library that is not sound.
pub fn library_differs(checked: &Checked) -> String {
    let Checked {
        files,
        damaged,
        without_manifest,
        misled,
    } = checked;
    let mut message = format!("does not verify: {damaged} of {files} files differ");
    for (count, what) in [
        (
            without_manifest,
            "the manifests of sound files that are missing or wrong",
        ),
        (misled, "the hints or packs of sound files that are wrong"),
    ] {
        if *count > 0 {
            message += &format!("; {what}: {count}");
        }
    }
    if without_manifest + misled > 0 {
        message += ". sapwood manifest FOLDER --read-all makes them again, packs with --pack";
    }
    message
}

/// A signed manifest was replaced by one without a signature.
pub fn no_longer_signed(manifest: &Path) -> String {
    format!(
        "{} was signed, and is not any more; sign it with sapwood sign --key KEY, or make it with --sign KEY",
        manifest.display()
    )
}

/// Not even a few files can be opened.
pub fn no_descriptors(cause: &io::Error) -> String {
    format!("failed to open files: {cause}; raise the limit on open files (ulimit -n)")
}

/// No thread could be started.
pub fn no_threads(cause: &io::Error) -> String {
    format!(
        "failed to start threads: {cause}; raise the limit on processes and threads (ulimit -u)"
    )
}

/// An error as it is printed: what happened, then what to do.
pub fn message(error: &Error) -> String {
    let what = match error {
        Error::Expired { place, at } => {
            format!("{place} expired at {}", event_fields::rfc3339(*at))
        }
        Error::MustWait { place, wait_s } => {
            let now = std::time::UNIX_EPOCH
                .elapsed()
                .unwrap_or_default()
                .as_secs();
            format!(
                "{place}: the host limits requests; the next one may follow at {}, in {}",
                units::time_of_day(now + wait_s),
                units::human_time(*wait_s)
            )
        }
        other => other.to_string(),
    };
    match hint(error) {
        Some(hint) => format!("{what}; {hint}"),
        None => what,
    }
}

/// How to go on with a stream of which not all was sent.
pub fn stream_goes_on(id: SessionId, url: &str) -> String {
    format!(
        "what the server has of this stream stays there for some time. If it can be read again from its start, the same command with --session {id} sends the rest; \
         else push --abort {id} {url} gives it up"
    )
}

/// Why a server cannot take uploads, and what to do.
pub fn of_start(cause: &StartError) -> String {
    let hint = match cause {
        StartError::Disk(cause) => of_disk(cause),
        StartError::OtherStorage(_) => Some(
            "name the storage that they belong to with --storage, or another file or database with --sessions",
        ),
        #[cfg(feature = "postgres")]
        StartError::Postgres(_) => Some("check --sessions, and that the database runs"),
        StartError::Sessions(cause) if cause.is_busy() => Some(SESSIONS_BUSY),
        StartError::Sessions(cause) if cause.is_of_disk() => {
            Some("make room, or name a place that can be written to with --sessions")
        }
        StartError::Sessions(_) | StartError::Store(_) | StartError::Key(_) => None,
    };
    match hint {
        Some(hint) => format!("{cause}; {hint}"),
        None => cause.to_string(),
    }
}

/// What is wrong with the URL of a database, which is not shown.
#[cfg(feature = "postgres")]
pub fn of_sessions(cause: crate::engine::ingest::postgres::BadPlace) -> String {
    format!("--sessions: {cause}")
}

/// Why the AWS variables and files cannot be used, and what to do.
pub fn of_aws(cause: &Unusable) -> String {
    match cause {
        Unusable::Access(BadAccess::NoKeys { name, .. }) => format!(
            "{cause}; run eval \"$(aws configure export-credentials --profile {name} --format env)\""
        ),
        other => other.to_string(),
    }
}

/// A public key that cannot be used.
pub fn of_key(key: &str, why: &str) -> String {
    format!("--key {key}: {why}")
}

/// A proxy that cannot be used, and what to do.
pub fn of_proxy(cause: &BadProxy) -> String {
    match cause {
        BadProxy::Malformed(variable) => {
            format!(
                "{cause}; {NotAProxy}. Correct it, choose another with --proxy, or run without it: env -u {variable} sapwood ..."
            )
        }
        BadProxy::Scheme { .. } => format!("{cause}; {NotAProxy}"),
    }
}

/// How to go on with the part of a fetch that failed for good.
pub fn part_kept(path: &Path, bytes: u64) -> String {
    format!(
        "{} ({}) is kept; to resume, fetch the file again to the same place, with a fresh link if this one expired (--discard deletes \
         the part)",
        path.display(),
        units::human_bytes(bytes)
    )
}

/// What to do; `None`: the message says all there is to say.
fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Disk(cause) => of_disk(cause),
        Error::Net { cause, .. } if cause.location.is_in_s3() => of_s3(cause.failure),
        Error::Net { cause, .. } => of_failure(cause.failure),
        Error::NoManifest { .. } => Some("give its place with --manifest"),
        Error::OtherRoot { .. } => Some("check --root"),
        Error::BelowRequired { required, .. } => of_required(*required),
        Error::Changed { .. } => Some("run the same command again to fetch the new version"),
        Error::OtherLength { .. } => Some(
            "its publisher must make the manifest of this object with sapwood manifest FILE, and publish both; until then give another \
             with --manifest, or fetch with --no-manifest (NOT verified)",
        ),
        Error::Wrong { .. } => Some(
            "try another source or another network; if that does not help, its publisher must make the manifest of this object \
             with sapwood manifest FILE, and publish both",
        ),
        Error::SignsOlder { .. } => Some("give a --seq at least as high"),
        Error::Patience { .. } => Some("run the same command again to resume"),
        Error::MustWait { .. } => Some(
            "run the same command again after that, or forget the host's limit with sapwood hosts forget HOST",
        ),
        Error::TooLarge { .. } => Some(LARGER),
        Error::TooManyDeletions { .. } => {
            Some("check the URL; --delete-max 100% allows all of them, --dry-run shows them")
        }
        Error::NoPlace { .. } => Some("move it away"),
        Error::TooManyBlocks { .. } => {
            Some("choose a larger --block-size, up to 16MiB: a file may have 2^24 blocks, 256 TiB")
        }
        Error::Expired { .. } => Some("its publisher must sign a newer one"),
        // A library at the root of a server.
        Error::OtherName { required, .. } if required.is_empty() => {
            Some("the URL must end with a folder of that name: serve the folder above it")
        }
        Error::Manifest { .. } => Some("name another manifest with --manifest"),
        Error::Upload { cause, .. } => of_upload(cause),
        Error::OtherUpload { .. } => {
            Some("see push --list URL; without --session a push finds the upload that fits")
        }
        Error::PartSize { .. } => Some("choose another --part-size"),
        Error::BadKey {
            cause: BadKey::Unknown,
            ..
        } => Some("give the public key with --key"),
        Error::State(_)
        | Error::Index { .. }
        | Error::Part { .. }
        | Error::Pack { .. }
        | Error::PartRange { .. }
        | Error::PartsApart { .. }
        | Error::NoSuchRange { .. }
        | Error::Output(_)
        | Error::BadKey { .. }
        | Error::NotSigned { .. }
        | Error::OtherName { .. }
        | Error::Older { .. }
        | Error::Key { .. }
        | Error::OtherDigest { .. } => None,
    }
}

fn of_upload(cause: &RefusedUpload) -> Option<&'static str> {
    match cause {
        RefusedUpload::NameExists => {
            Some("--replace puts the new one in its place, --name chooses another name")
        }
        RefusedUpload::NotReplaced => Some(
            "a folder, a link or another thing that is no file has it, or a file has the name of one of its folders; --name chooses another name",
        ),
        RefusedUpload::Name(_) => Some("choose another name with --name"),
        RefusedUpload::Size(_) => Some("choose another --part-size"),
        RefusedUpload::Quota(_) | RefusedUpload::TooManySessions(_) => Some(
            "push --list URL shows the unfinished ones, push --abort ID URL gives one up with all that was sent",
        ),
        RefusedUpload::StorageFull(_) => {
            Some("run the same command again when there is room: what arrived is kept")
        }
        RefusedUpload::Access { .. } => {
            Some("give a token with --token, or check the one that was given")
        }
        RefusedUpload::NoUploads { .. } => {
            Some("check the URL; the server must take uploads, as sapwood serve DIR --ingest does")
        }
        RefusedUpload::NoSession { .. } => Some("push --list URL shows all there are"),
        RefusedUpload::Root { .. } => Some(
            "run the same command again; if that does not help, the server, the storage or something in transit damages bytes",
        ),
        RefusedUpload::Ended(_) => Some("run the same command again"),
        // A server of TLS that was asked in the clear.
        RefusedUpload::Other {
            status: 400, code, ..
        } if code.is_empty() => Some("check the scheme and the port of the URL"),
        RefusedUpload::Storage(_) | RefusedUpload::Other { .. } | RefusedUpload::Document(_) => {
            None
        }
    }
}

const SESSIONS_BUSY: &str =
    "another process holds them: wait for it, then run the same command again";
const MAKE_ROOM: &str = "make room, then run the same command again";
const LARGER: &str = "raise --max-size to allow it";

/// How to get at least this trust.
fn of_required(trust: Trust) -> Option<&'static str> {
    match trust {
        Trust::Signed => {
            Some("give a manifest that is signed, and the key of its publisher with --key")
        }
        Trust::Root => Some("give the root with --root, or lower --require"),
        Trust::Manifest => Some("give the place of a manifest with --manifest, or lower --require"),
        Trust::Digest => Some("give a digest with --digest, or lower --require"),
        Trust::None => None,
    }
}

fn of_disk(cause: &DiskError) -> Option<&'static str> {
    match cause {
        DiskError::Io { .. } if cause.is_out_of_descriptors() => {
            Some("raise the limit on open files (ulimit -n), or fetch over fewer --connections")
        }
        DiskError::Io {
            operation, source, ..
        } => match (operation, source.kind()) {
            (_, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Some(MAKE_ROOM),
            (_, io::ErrorKind::ReadOnlyFilesystem) => {
                Some("choose a folder on a disk that can be written to")
            }
            (_, io::ErrorKind::FileTooLarge) => Some(
                "its file system, or the limit on the size of files (ulimit -f), is too small for it",
            ),
            (FileOperation::Create, io::ErrorKind::NotFound) => {
                Some("its folder does not exist, or takes no files")
            }
            (FileOperation::Create, io::ErrorKind::PermissionDenied) => {
                Some("choose a folder that you may write to")
            }
            (_, io::ErrorKind::NotFound) => Some("check the path"),
            _ => None,
        },
        DiskError::Busy { .. } => Some("wait for it, then run the same command again"),
        DiskError::Unsafe { .. } => Some("move it away, or name another file (a target with -o)"),
        DiskError::IsFolder { .. } => Some("name a file in it"),
        DiskError::NotRegular { .. } => Some("name a regular file"),
        DiskError::Exists { .. } => Some("nothing was written; choose another name"),
        DiskError::Conflict { .. } => None,
        DiskError::Stopped { .. } | DiskError::Gone { .. } | DiskError::ChangedSince { .. } => {
            Some("run the same command again")
        }
        DiskError::ChangedAfterProof { .. } => {
            Some("run the same command again: it is judged again, and what is wrong is fetched")
        }
        DiskError::ChangedWhileRead { .. } => {
            Some("run the same command again when no program writes to it")
        }
        DiskError::Shrunk { .. } | DiskError::Supplanted { .. } => Some(
            "push the file that is to be published; what was sent is not lost if it has the same bytes",
        ),
        DiskError::LeavesLost => Some("check the disk, then run the same command again"),
        DiskError::NoRoom { .. } => Some(MAKE_ROOM),
    }
}

fn of_s3(failure: Failure) -> Option<&'static str> {
    match failure {
        Failure::Refused { status: 401 | 403 } => {
            Some("check the URL, and the credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID")
        }
        Failure::Refused { status: 404 } => Some("check the URL and --endpoint"),
        // The message says it.
        Failure::Unsafe => None,
        other => of_failure(other),
    }
}

fn of_failure(failure: Failure) -> Option<&'static str> {
    match failure {
        Failure::Refused { status: 401 | 403 } => {
            Some("check the URL, or give credentials with -H or --netrc")
        }
        Failure::Refused { status: 404 | 410 } => Some("check the URL"),
        Failure::Refused { status: 407 } => Some("check http_proxy, https_proxy and all_proxy"),
        Failure::Refused { .. } | Failure::BadResponse(_) | Failure::Redirects => None,
        Failure::NoTls => Some("check the scheme and the port of the URL"),
        Failure::NoHttp2 => Some("leave out --http 2"),
        Failure::Tls => Some("--cacert FILE adds certificate authorities to trust"),
        Failure::Unsafe => Some("--allow-private allows private addresses"),
        Failure::TooLarge => Some(LARGER),
        Failure::Changed(_) => Some("run the same command again to fetch the new version"),
        Failure::Unreachable
        | Failure::Broken
        | Failure::Stalled
        | Failure::Server { .. }
        | Failure::TooMany { .. }
        | Failure::RetryAfter { .. } => Some("run the same command again to resume"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_happened_then_what_to_do() {
        let place = || "p".to_owned();
        let path = || PathBuf::from("f");
        let no_space = || io::Error::from_raw_os_error(28);
        let (required, found) = (Trust::Root, Trust::None);
        for (error, expected) in [
            (
                Error::TooManyBlocks { place: place() },
                "p has too many blocks of this size; choose a larger --block-size, up to 16MiB: a file may have 2^24 blocks, 256 TiB",
            ),
            (
                Error::BelowRequired { required, found },
                "the bytes can be proven only with the trust \"none\", but \"root\" is required; give the root with --root, or lower --require",
            ),
            (
                Error::Disk(DiskError::Exists { path: path() }),
                "f exists; nothing was written; choose another name",
            ),
            (
                Error::Disk(DiskError::io(FileOperation::Write, &path(), no_space())),
                "failed to write f: No space left on device (os error 28); make room, then run the same command again",
            ),
            (
                Error::Expired {
                    place: place(),
                    at: 0,
                },
                "p expired at 1970-01-01T00:00:00Z; its publisher must sign a newer one",
            ),
            (
                Error::OtherName {
                    place: place(),
                    signed: "a".to_owned(),
                    required: "b".to_owned(),
                },
                "p is signed for the name \"a\", not for \"b\"",
            ),
            (
                Error::OtherName {
                    place: place(),
                    signed: "a".to_owned(),
                    required: String::new(),
                },
                "p is signed for the name \"a\", not for \"\"; the URL must end with a folder of that name: serve the folder above it",
            ),
        ] {
            assert_eq!(message(&error), expected);
        }
    }
}
