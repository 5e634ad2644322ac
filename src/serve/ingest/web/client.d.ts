/**
 * Opens a session, or finds it again: the same ID with the same values may be opened any number of times.
 * @param {Where & { id?: string, name: string, length: number | null, replace?: boolean, partSize?: number, root?: string, sha256?: string }} options
 * @returns {Promise<SessionStatus>}
 */
export function initSession(options: Where & {
    id?: string;
    name: string;
    length: number | null;
    replace?: boolean;
    partSize?: number;
    root?: string;
    sha256?: string;
}): Promise<SessionStatus>;
/**
 * @param {Where & { id: string }} options
 * @returns {Promise<SessionStatus>}
 */
export function getSessionStatus(options: Where & {
    id: string;
}): Promise<SessionStatus>;
/**
 * The sessions of the owner of the token, newest first, at most 1000; `parts` is left out.
 * @param {Where & { name?: string }} [options]
 * @returns {Promise<SessionStatus[]>}
 */
export function listSessions(options?: Where & {
    name?: string;
}): Promise<SessionStatus[]>;
/**
 * Where the bytes of parts go; at most 100 parts.
 * @param {Where & { id: string, parts: { index: number, length: number, sha256: string }[] }} options
 * @returns {Promise<Target[]>}
 */
export function requestTargets(options: Where & {
    id: string;
    parts: {
        index: number;
        length: number;
        sha256: string;
    }[];
}): Promise<Target[]>;
/**
 * Sends the bytes of a part to its target, which is asked for if it is not given. A checkpoint must follow.
 * @param {Where & { id: string, index: number, body: Blob | ArrayBuffer, sha256?: string, target?: Target,
 *   onProgress?: (sent: number) => void }} options
 * @returns {Promise<Part & { finished: boolean }>} finished: the server had a checkpoint of it already
 */
export function uploadPart(options: Where & {
    id: string;
    index: number;
    body: Blob | ArrayBuffer;
    sha256?: string;
    target?: Target;
    onProgress?: (sent: number) => void;
}): Promise<Part & {
    finished: boolean;
}>;
/**
 * Makes a part that was sent count: the server proves that it is stored.
 * @param {Where & Part & { id: string, replace?: boolean }} options
 * @returns {Promise<Part>}
 */
export function checkpointPart(options: Where & Part & {
    id: string;
    replace?: boolean;
}): Promise<Part>;
/**
 * Has the server prove and publish what it has, and waits for that. The status is that of an object that is published: `state` is
 * `done`, and `root` is the BLAKE3 root that the server computed.
 * @param {Where & { id: string, length: number, root?: string, sha256?: string, replace?: boolean }} options
 * @returns {Promise<SessionStatus>}
 */
export function finalize(options: Where & {
    id: string;
    length: number;
    root?: string;
    sha256?: string;
    replace?: boolean;
}): Promise<SessionStatus>;
/** Gives a session up. @param {Where & { id: string }} options */
export function abortSession(options: Where & {
    id: string;
}): Promise<void>;
/** An error that says what to do. `code` is that of the server (upload.md, 3), or one of this module. */
export class UploadError extends Error {
    /**
     * @param {string} code
     * @param {{ status?: number, detail?: string, members?: Record<string, unknown>, retryAfterMs?: number | null, cause?: unknown }} [more]
     */
    constructor(code: string, { status, detail, members, retryAfterMs, cause }?: {
        status?: number;
        detail?: string;
        members?: Record<string, unknown>;
        retryAfterMs?: number | null;
        cause?: unknown;
    });
    code: string;
    /** Of HTTP; 0 without a response. */
    status: number;
    /** What the server said. */
    detail: string;
    /** The members that came with the code. */
    members: Record<string, unknown>;
    /** @type {number | null} */
    retryAfterMs: number | null;
    /** What to do, for people. */
    advice: string;
    /** @type {Choice[]} */
    choices: Choice[];
    /** Whether the same request may succeed later (upload.md, 3.10). */
    get isTransient(): boolean;
}
/**
 * The upload of a file. Events: `state` when `state`, `reason` or `error` changed, `progress` when `bytes` or `rate` did.
 *
 * An upload of the same file to the same name that this browser began earlier is resumed.
 */
export class Upload extends EventTarget {
    /** Whether this browser keeps what is needed to resume after a reload. */
    static keeps(): Promise<boolean>;
    /**
     * Uploads to a server that this browser began and that are not proven, the latest first.
     * @param {{ server?: string | URL }} [where]
     * @returns {Promise<Kept[]>}
     */
    static unfinished(where?: {
        server?: string | URL;
    }): Promise<Kept[]>;
    /**
     * Gives up an upload of an earlier visit, here and on the server.
     * @param {Kept} kept @param {{ token?: Token }} [options]
     */
    static discard(kept: Kept, options?: {
        token?: Token;
    }): Promise<void>;
    /** Whether an upload of an earlier visit is under way in another tab. @param {Kept} kept @returns {Promise<boolean>} */
    static isElsewhere(kept: Kept): Promise<boolean>;
    /**
     * @param {File} file
     * @param {UploadOptions} [options]
     */
    constructor(file: File, options?: UploadOptions);
    /** The file. */
    get file(): File;
    /** Where it is published. */
    get name(): string;
    /** The ID of the session, once there is one. */
    get session(): string;
    get state(): State;
    /** Why it waits, in the state `waiting`. */
    get reason(): Reason;
    /** Why it failed, in the state `failed`. */
    get error(): UploadError;
    /** What the server proved, in the state `proven`. */
    get proven(): Proven;
    /** Of the file. */
    get size(): number;
    /** So many bytes were sent; it falls only when the server lost parts. */
    get bytes(): number;
    /** Bytes a second in the last seconds. */
    get rate(): number;
    /** Seconds that are left; `null`: not known. */
    get secondsLeft(): number;
    /**
     * Starts. The promise is kept when the server has proven and published the file, and broken with an UploadError when the upload
     * failed or was aborted; it waits while the upload is paused.
     * @returns {Promise<Proven>}
     */
    start(): Promise<Proven>;
    /** Stops, and keeps what the server has. */
    pause(): void;
    /**
     * Goes on after a pause or an error.
     * @param {{ replace?: boolean, token?: Token, file?: File }} [options] `replace`: in the place of the object that has the name;
     *   `file`: the file, chosen again
     * @returns {Promise<Proven>}
     */
    resume({ replace, token, file }?: {
        replace?: boolean;
        token?: Token;
        file?: File;
    }): Promise<Proven>;
    /**
     * Gives the session up, if there is one, and begins a new one.
     * @param {{ name?: string, replace?: boolean, file?: File }} [options]
     * @returns {Promise<Proven>}
     */
    restart({ name, replace, file }?: {
        name?: string;
        replace?: boolean;
        file?: File;
    }): Promise<Proven>;
    /** Gives the upload up, here and on the server. Throws if the server publishes it already; it then goes on. */
    abort(): Promise<void>;
    #private;
}
/**
 * What an upload does now. `resumed`: finished parts of an earlier run are compared with the file. `waiting`: see `Upload.reason`.
 * `verifying`: the server proves what it has. `proven`: the server says `done`; nothing else is called so.
 */
export type State = "new" | "uploading" | "resumed" | "paused" | "waiting" | "verifying" | "proven" | "failed" | "aborted";
/**
 * Why an upload waits: no network, no response, a server that is busy, or another tab that has the same upload.
 */
export type Reason = "offline" | "server_away" | "storage_away" | "server_busy" | "other_tab";
/**
 * What can be done about an error: resume (again as it is, with `{ replace: true }`, or with another token), restart (a new session,
 * also with another name or file), abort.
 */
export type Choice = "resume" | "replace" | "token" | "restart" | "rename" | "choose" | "abort";
/**
 * A token, or what gives one. The function is called before each request; `refused` is true after the server refused the last one.
 * Nothing of it is stored.
 */
export type Token = string | null | ((refused: boolean) => string | null | Promise<string | null>);
/**
 * Where requests go, and on whose behalf.
 */
export type Where = {
    /**
     * the URL of the server; default: whence this module came
     */
    server?: string | URL;
    token?: Token;
    signal?: AbortSignal;
};
/**
 * a part that is finished
 */
export type Part = {
    index: number;
    length: number;
    sha256: string;
    etag?: string | null;
};
/**
 * The status of a session (upload.md, 3.2).
 */
export type SessionStatus = {
    id: string;
    name: string;
    state: "open" | "finalizing" | "done" | "failed" | "expired" | "aborted";
    length: number | null;
    part_size: number;
    root: string | null;
    sha256: string | null;
    parts?: Part[];
    url: string | null;
    expires: string;
    error: {
        code: string;
        detail: string;
    } | null;
};
export type FinishedTarget = {
    index: number;
    finished: true;
};
export type OpenTarget = {
    index: number;
    finished?: false;
    method: string;
    url: string;
    headers: Record<string, string>;
    from: number;
};
/**
 * where the bytes of a part go (upload.md, 3.4)
 */
export type Target = FinishedTarget | OpenTarget;
/**
 * what the server proved and published
 */
export type Proven = {
    root: string;
    length: number;
    url: string;
    name: string;
};
/**
 * An upload that this browser keeps in IndexedDB.
 */
export type Kept = {
    /**
     * the session
     */
    id: string;
    server: string;
    /**
     * where it is published
     */
    name: string;
    fileName: string;
    size: number;
    lastModified: number;
    /**
     * a time, as of Date.now()
     */
    started: number;
    /**
     * whether the server has said that it has the session
     */
    isOpen: boolean;
    replace: boolean;
    /**
     * bytes of parts that are finished
     */
    sent: number;
    /**
     * when the server proved it
     */
    done: number | null;
    handle: FileSystemFileHandle | null;
};
export type UploadOptions = {
    /**
     * where the file is published; default: its name
     */
    name?: string;
    server?: string | URL;
    token?: Token;
    /**
     * whether it may take the place of another object
     */
    replace?: boolean;
    /**
     * kept, so that the file need not be chosen again
     */
    handle?: FileSystemFileHandle | null;
    /**
     * parts at a time, at most 6; without it the number adapts
     */
    parallel?: number;
};
export type Explanation = {
    message: string;
    advice: string;
    choices: Choice[];
};
