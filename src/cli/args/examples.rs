//! What people type, command by command: the first example begins the help of a command, all of them are in its manual page. And what
//! else such a page says.

/// A command line, and what it does.
pub type Example = (&'static str, &'static str);

/// Of a command; `sapwood` itself has its own.
pub fn of(command: &str) -> &'static [Example] {
    let found = EXAMPLES.iter().find(|(name, _)| *name == command);
    found.map_or(&[], |(_, examples)| examples)
}

/// The commands that have a page.
pub fn commands() -> impl Iterator<Item = &'static str> {
    let names = EXAMPLES.iter().map(|(name, _)| *name);
    names.filter(|name| *name != "sapwood")
}

/// Variables that no flag names.
pub const ENVIRONMENT: [Example; 6] = [
    (
        "http_proxy, https_proxy, all_proxy, no_proxy",
        "Proxies, and the hosts that are reached without one. --proxy stands above them.",
    ),
    (
        "NETRC",
        "The file of logins for --netrc, in place of ~/.netrc.",
    ),
    (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL",
        "Credentials and service of s3:// URLs, with ~/.aws/config and ~/.aws/credentials.",
    ),
    (
        "SAPWOOD_KEY_PASSWORD",
        "The password of a secret key, where no terminal asks for it.",
    ),
    (
        "XDG_CONFIG_HOME, XDG_STATE_HOME",
        "The folders above those of configuration and state, in place of ~/.config and ~/.local/state.",
    ),
    (
        "TMPDIR",
        "Where the parts of a stream wait until they are pushed.",
    ),
];

/// Files that the program reads and writes by itself.
pub const FILES: [Example; 5] = [
    (
        "~/.config/sapwood/config.toml",
        "Flags by their long names, such as connections = 8 or limit-rate = \"5M\"; in a table such as [fetch] those of one command. Variables and the command line stand above it.",
    ),
    (
        "~/.local/state/sapwood",
        "The store: what local files hold, hosts that limit requests, manifests of fetched files.",
    ),
    ("FILE.sapwood", "The manifest of FILE."),
    (
        "FILE.part, FILE.part.journal",
        "An unfinished download. The same command goes on with it.",
    ),
    ("FILE.quarantined", "Content that did not verify."),
];

/// The exit codes.
pub const EXIT_STATUS: [Example; 8] = [
    ("0", "All that was asked is proven, synced and published."),
    ("1", "Failed for good."),
    (
        "2",
        "A mistake in the command line, a variable or the configuration file.",
    ),
    ("3", "Content does not verify."),
    ("4", "The source changed."),
    (
        "5",
        "Interrupted, busy, or it must wait: run the same command again.",
    ),
    ("6", "Refused as unsafe."),
    ("7", "The disk is full or not writable."),
];

const EXAMPLES: [(&str, &[Example]); 16] = [
    (
        "sapwood",
        &[
            (
                "sapwood fetch https://example.org/image.iso",
                "fetch a file; the same command resumes it",
            ),
            (
                "sapwood manifest image.iso",
                "describe a file, so that fetches of it are proven block by block",
            ),
            ("sapwood serve site", "publish a folder"),
        ],
    ),
    (
        "manifest",
        &[
            (
                "sapwood manifest talk.mp4",
                "writes talk.mp4.sapwood, which belongs beside the file on the server",
            ),
            (
                "sapwood manifest app.tar --pack",
                "also a pack, so that a fetch moves fewer bytes",
            ),
            (
                "sapwood manifest media --sign studio.key --seq 12",
                "a folder as a library, signed; the second run reads only what changed",
            ),
            (
                "sapwood manifest --join *.part-of-manifest -o master.mov.sapwood",
                "join what many machines made with --range",
            ),
        ],
    ),
    (
        "inspect",
        &[
            ("sapwood inspect talk.mp4", "what its manifest says"),
            (
                "sapwood inspect https://a.example/talk.mp4 --json",
                "the same of a URL, for programs",
            ),
        ],
    ),
    (
        "verify",
        &[
            ("sapwood verify talk.mp4", "names every damaged block"),
            (
                "sapwood verify copy --key studio.pub",
                "a folder with a library, signed",
            ),
            (
                "sapwood verify talk.mp4 --root 1864df5e8c3831d15a2e053e71bf2dd936eb83c4d294c188bc48f02e35a4fc39",
                "against what b3sum printed",
            ),
        ],
    ),
    (
        "fetch",
        &[
            (
                "sapwood fetch https://example.org/image.iso",
                "the same command resumes it after a kill",
            ),
            (
                "sapwood fetch https://example.org/image.iso --sha256 15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
                "proven against a digest",
            ),
            (
                "sapwood fetch https://a.example/master.mov --mirror https://b.example/master.mov --key studio.pub",
                "from two mirrors, signed",
            ),
            (
                "sapwood fetch -i wanted.list -o inbox/ -j 4",
                "many files, four at a time",
            ),
        ],
    ),
    (
        "push",
        &[
            (
                "sapwood push talk.mp4 https://media.example/shows/",
                "the same command resumes it",
            ),
            (
                "ffmpeg -i camera -f mpegts - | sapwood push - https://media.example/ --name live.ts",
                "a stream",
            ),
        ],
    ),
    (
        "sync",
        &[
            (
                "sapwood sync https://media.example/films/ films",
                "make a folder what the library says",
            ),
            (
                "sapwood sync https://media.example/films/ films --delete --dry-run",
                "print what would be done, deletions too",
            ),
        ],
    ),
    (
        "cat",
        &[(
            "sapwood cat https://a.example/master.mov --range 1000000-1999999 | player -",
            "every byte proven first",
        )],
    ),
    (
        "gateway",
        &[
            (
                "sapwood gateway https://a.example/talk.mp4 -- mpv {}",
                "a player, and the gateway ends with it",
            ),
            (
                "sapwood gateway https://a.example/talk.mp4 --mirror https://b.example/talk.mp4 --open",
                "in the browser",
            ),
            (
                "sapwood gateway https://a.example/media/ --key studio.pub --open",
                "a whole library",
            ),
        ],
    ),
    (
        "keygen",
        &[(
            "sapwood keygen -o studio",
            "writes studio.key and studio.pub",
        )],
    ),
    (
        "sign",
        &[
            (
                "sapwood sign master.mov --key studio.key",
                "sign the manifest beside the file",
            ),
            (
                "sapwood sign master.mov --attach master.minisig",
                "put in a signature that minisign made elsewhere",
            ),
        ],
    ),
    (
        "store",
        &[
            (
                "sapwood store add ~/films",
                "files from other sources; read once, then known by their content",
            ),
            (
                "sapwood store forget ~/films/old",
                "use their blocks no more",
            ),
            (
                "sapwood store gc --max-size 5GB",
                "shrink the store's own files",
            ),
        ],
    ),
    (
        "hosts",
        &[("sapwood hosts list", "which hosts limit requests")],
    ),
    (
        "serve",
        &[
            (
                "sapwood serve site",
                "at http://127.0.0.1:8080/, with a manifest of each file",
            ),
            (
                "sapwood serve site --listen 0.0.0.0:8443 --tls-cert fullchain.pem --tls-key privkey.pem",
                "for other machines, with TLS",
            ),
            (
                "sapwood serve site --ingest",
                "take uploads of sapwood push",
            ),
        ],
    ),
    (
        "completions",
        &[(
            "sapwood completions bash > ~/.local/share/bash-completion/completions/sapwood",
            "for the next shell",
        )],
    ),
    (
        "man",
        &[("sapwood man fetch | man -l -", "read the page of a command")],
    ),
];
