// @ts-check
/**
 * Uploads from a web page to `sapwood serve --ingest`: parts that are proven one by one, and go on after a reload, a break of the
 * network, or a restart of the server. A module without dependencies, served at `/.sapwood/client.js`; the protocol is
 * manifest-spec/upload.md.
 *
 *     import { Upload } from "https://media.example/.sapwood/client.js";
 *     const upload = new Upload(file, { token });
 *     upload.addEventListener("progress", () => show(upload.bytes, upload.size));
 *     const { root, url } = await upload.start();
 *
 * Each function below makes one request and throws an UploadError; the class Upload repeats, waits and resumes.
 * @module
 */

/**
 * What an upload does now. `resumed`: finished parts of an earlier run are compared with the file. `waiting`: see `Upload.reason`.
 * `verifying`: the server proves what it has. `proven`: the server says `done`; nothing else is called so.
 * @typedef {"new" | "uploading" | "resumed" | "paused" | "waiting" | "verifying" | "proven" | "failed" | "aborted"} State
 */

/**
 * Why an upload waits: no network, no response, a server that is busy, or another tab that has the same upload.
 * @typedef {"offline" | "server_away" | "storage_away" | "server_busy" | "other_tab"} Reason
 */

/**
 * What can be done about an error: resume (again as it is, with `{ replace: true }`, or with another token), restart (a new session,
 * also with another name or file), abort.
 * @typedef {"resume" | "replace" | "token" | "restart" | "rename" | "choose" | "abort"} Choice
 */

/**
 * A token, or what gives one. The function is called before each request; `refused` is true after the server refused the last one.
 * Nothing of it is stored.
 * @typedef {string | null | ((refused: boolean) => string | null | Promise<string | null>)} Token
 */

/**
 * Where requests go, and on whose behalf.
 * @typedef {object} Where
 * @property {string | URL} [server] the URL of the server; default: whence this module came
 * @property {Token} [token]
 * @property {AbortSignal} [signal]
 */

/** @typedef {{ index: number, length: number, sha256: string, etag?: string | null }} Part a part that is finished */

/**
 * The status of a session (upload.md, 3.2).
 * @typedef {object} SessionStatus
 * @property {string} id
 * @property {string} name
 * @property {"open" | "finalizing" | "done" | "failed" | "expired" | "aborted"} state
 * @property {number | null} length
 * @property {number} part_size
 * @property {string | null} root
 * @property {string | null} sha256
 * @property {Part[]} [parts]
 * @property {string | null} url
 * @property {string} expires
 * @property {{ code: string, detail: string } | null} error
 */

/** @typedef {{ index: number, finished: true }} FinishedTarget */
/** @typedef {{ index: number, finished?: false, method: string, url: string, headers: Record<string, string>, from: number }} OpenTarget */
/** @typedef {FinishedTarget | OpenTarget} Target where the bytes of a part go (upload.md, 3.4) */

/** @typedef {{ root: string, length: number, url: string, name: string }} Proven what the server proved and published */

/**
 * An upload that this browser keeps in IndexedDB.
 * @typedef {object} Kept
 * @property {string} id the session
 * @property {string} server
 * @property {string} name where it is published
 * @property {string} fileName
 * @property {number} size
 * @property {number} lastModified
 * @property {number} started a time, as of Date.now()
 * @property {boolean} isOpen whether the server has said that it has the session
 * @property {boolean} replace
 * @property {number} sent bytes of parts that are finished
 * @property {number | null} done when the server proved it
 * @property {FileSystemFileHandle | null} handle
 */

/**
 * @typedef {object} UploadOptions
 * @property {string} [name] where the file is published; default: its name
 * @property {string | URL} [server]
 * @property {Token} [token]
 * @property {boolean} [replace] whether it may take the place of another object
 * @property {FileSystemFileHandle | null} [handle] kept, so that the file need not be chosen again
 * @property {number} [parallel] parts at a time, at most 6; without it the number adapts
 */

const API = "/.sapwood/uploads";
const SERVER = new URL(import.meta.url).origin;

/** Parts at a time. */
const PARALLEL_START = 4;
/** As many as a browser's HTTP/1.1 connections to one host. */
const PARALLEL_MAX = 6;
/** Targets in one request (upload.md, 3.4). */
const TARGETS_MAX = 100;
/** So long a request for targets waits for other parts. */
const BATCH_MS = 5;
const PAUSE_MS_FIRST = 500;
const PAUSE_MS_MAX = 30_000;
/** A request without a response, or a part of which no byte moves, is repeated after this. */
const SILENCE_MS = 60_000;
/** The same once the browser is online again: on another network, old connections are dead. */
const AFTER_OFFLINE_MS = 10_000;
/** The same for the response to a part that is sent: the server makes it durable. */
const RESPONSE_MS = 120_000;
/** How often one part may arrive damaged, or be refused by its target, one time after the other. */
const SAME_FAILURE_MAX = 5;
/** How often parts that were finished may turn out to be missing. */
const ROUNDS_MAX = 5;
/** Finished parts that are compared with the file at a time. */
const CHECKS = 2;
const RATE_WINDOW_MS = 6_000;
const PROGRESS_MS = 100;
/** So long an upload that is proven is remembered, for other tabs that wait for it. */
const DONE_MS = 3_600_000;

/** @typedef {{ message: string, advice: string, choices: Choice[] }} Explanation */

/** @type {(message: string, advice: string, ...choices: Choice[]) => Explanation} */
const explained = (message, advice, ...choices) => ({ message, advice, choices });

/** What each code means, and what to do. @type {Record<string, Explanation>} */
const EXPLANATIONS = {
  insecure_context: explained("This page cannot hash files.", "Open it over https, or on localhost: browsers allow it only there.", "abort"),
  file_changed: explained("The file is not the one that this upload began with.",
    "Choose the right file, or start again with the file as it is now.", "choose", "restart", "abort"),
  file_unreadable: explained("The file cannot be read any more.",
    "It was changed, moved or deleted since it was chosen. Choose it again.", "choose", "abort"),
  unauthorized: explained("The server does not accept the token.", "Enter a valid token, and resume.", "token", "abort"),
  origin_refused: explained("The server takes no uploads from this page.",
    "Its operator must allow the origin of this page (sapwood serve --cors).", "resume", "abort"),
  bad_host: explained("The server is reached under a name that it does not trust.",
    "Open this page as localhost, or ask the operator for a token.", "abort"),
  no_session: explained("The server no longer has this upload.", "It was given up, or is another owner's. Start again: all is sent anew.",
    "restart", "token", "abort"),
  session_ended: explained("This upload has ended on the server.", "It expired or was given up. Start again: all is sent anew.", "restart", "abort"),
  session_differs: explained("The server has this upload with other values.", "Start again.", "restart", "abort"),
  name_exists: explained("A file with this name is on the server already.", "Replace it, or choose another name.",
    "replace", "rename", "abort"),
  bad_name: explained("The server does not take this name.", "Choose another name.", "rename", "abort"),
  bad_size: explained("The server does not take a file of this size.", "Ask the operator.", "abort"),
  quota: explained("There is not enough room in your quota.", "Abort unfinished uploads, or ask the operator; then resume.", "resume", "abort"),
  too_many_sessions: explained("You have too many unfinished uploads.", "Finish or abort some of them; then resume.", "resume", "abort"),
  body_too_large: explained("The server does not take this part.", "Start again.", "restart", "abort"),
  storage_full: explained("The storage of the server is full.", "Resume when there is room again.", "resume", "abort"),
  part_finished: explained("The server has other bytes of this file.", "The file changed, or somebody else sends to the same upload. Start again.",
    "restart", "abort"),
  damaged: explained("Bytes are changed on their way to the server.", "Use another network, and resume.", "resume", "abort"),
  target_refused: explained("The storage refuses parts.",
    "The clocks of server and storage may differ, or the rights of the server changed. Resume later.", "resume", "abort"),
  parts_missing: explained("The storage loses parts that it had.", "Ask the operator; then resume.", "resume", "abort"),
  root_differs: explained("The server has other bytes than were meant.", "Start again.", "restart", "abort"),
  sha256_differs: explained("The server has other bytes than were meant.", "Start again.", "restart", "abort"),
  length_differs: explained("The server has another length than was meant.", "Start again.", "restart", "abort"),
  finalizing: explained("The server is publishing this upload already.", "It cannot be given up any more.", "resume"),
  session_done: explained("The server has published this upload already.", "It cannot be given up any more.", "resume"),
  aborted: explained("The upload was cancelled.", "Choose the file again to upload it."),
  network: explained("The server does not answer.", "Check the network, and resume.", "resume", "abort"),
};

/** An error that says what to do. `code` is that of the server (upload.md, 3), or one of this module. */
export class UploadError extends Error {
  /**
   * @param {string} code
   * @param {{ status?: number, detail?: string, members?: Record<string, unknown>, retryAfterMs?: number | null, cause?: unknown }} [more]
   */
  constructor(code, { status = 0, detail = "", members = {}, retryAfterMs = null, cause } = {}) {
    const known = Object.hasOwn(EXPLANATIONS, code) ? EXPLANATIONS[code] : undefined;
    const what = status ? `The server answered with status ${status}.` : "The upload failed.";
    super(known?.message ?? what, { cause });
    this.name = "UploadError";
    this.code = code;
    /** Of HTTP; 0 without a response. */
    this.status = status;
    /** What the server said. */
    this.detail = detail;
    /** The members that came with the code. */
    this.members = members;
    /** @type {number | null} */
    this.retryAfterMs = retryAfterMs;
    /** What to do, for people. */
    this.advice = known?.advice ?? "Resume; if that does not help, ask the operator.";
    /** @type {Choice[]} */
    this.choices = known?.choices ?? ["resume", "abort"];
  }

  /** Whether the same request may succeed later (upload.md, 3.10). */
  get isTransient() {
    if (this.code === "network") return true;
    if (["too_many_sessions", "storage_full"].includes(this.code)) return false;
    return [408, 425, 429].includes(this.status) || (this.status >= 500 && ![501, 505, 507].includes(this.status));
  }
}

// ---- Requests -------------------------------------------------------------------------------------------------------

/** @param {unknown} value @returns {value is Record<string, unknown>} */
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {string | null} value @returns {number | null} */
function retryAfterMs(value) {
  if (!value) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), 3600) * 1000 : null;
}

/** The error of a response. @param {number} status @param {string} text @param {string | null} retryAfter */
function problem(status, text, retryAfter) {
  /** @type {Record<string, unknown>} */
  let members = {};
  try {
    const document = JSON.parse(text);
    if (isObject(document)) members = document;
  } catch {
    // Of a storage or a proxy: the status counts.
  }
  const code = typeof members.code === "string" ? members.code : "";
  const detail = typeof members.detail === "string" ? members.detail : "";
  return new UploadError(code, { status, detail, members, retryAfterMs: retryAfterMs(retryAfter) });
}

/** @param {Where} where */
const serverOf = (where) => new URL(where.server ?? SERVER).origin;

/** A UUID of version 4. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * One request of the API, and its document. After a 401 a token that is a function is called once more.
 * @param {Where} where @param {string} method @param {string} path @param {unknown} [body]
 * @returns {Promise<{ status: number, document: any, retryAfterMs: number | null }>}
 */
async function request(where, method, path, body) {
  for (let refused = false; ; refused = true) {
    const token = typeof where.token === "function" ? await where.token(refused) : where.token;
    where.signal?.throwIfAborted();
    /** @type {Record<string, string>} */
    const headers = {};
    if (token) headers["Authorization"] = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const ending = new AbortController();
    const end = () => ending.abort();
    const timer = setTimeout(end, SILENCE_MS);
    where.signal?.addEventListener("abort", end);
    try {
      const response = await fetch(new URL(path, serverOf(where)), {
        method, headers, body: body === undefined ? null : JSON.stringify(body), signal: ending.signal,
        cache: "no-store", redirect: "error", referrerPolicy: "no-referrer",
      });
      const text = await response.text();
      const after = response.headers.get("Retry-After");
      if (response.ok) {
        const document = text === "" ? null : JSON.parse(text);
        return { status: response.status, document, retryAfterMs: retryAfterMs(after) };
      }
      if (response.status === 401 && typeof where.token === "function" && !refused) continue;
      throw problem(response.status, text, after);
    } catch (cause) {
      where.signal?.throwIfAborted();
      // What is no JSON is not from the server: of a captive portal, for example.
      throw cause instanceof UploadError ? cause : new UploadError("network", { cause });
    } finally {
      clearTimeout(timer);
      where.signal?.removeEventListener("abort", end);
    }
  }
}

/** @param {Where & { id: string }} where @param {string} [rest] */
const pathOf = (where, rest = "") => `${API}/${encodeURIComponent(where.id)}${rest}`;

/** @param {any} document @returns {SessionStatus} */
function statusOf(document) {
  if (!isObject(document) || typeof document.state !== "string" || typeof document.id !== "string") throw new UploadError("network");
  return /** @type {any} */ (document);
}

/**
 * Opens a session, or finds it again: the same ID with the same values may be opened any number of times.
 * @param {Where & { id?: string, name: string, length: number | null, replace?: boolean, partSize?: number, root?: string, sha256?: string }} options
 * @returns {Promise<SessionStatus>}
 */
export async function initSession(options) {
  const { id = newId(), name, length, replace = false, partSize, root, sha256 } = options;
  const body = { name, length, replace, part_size: partSize, root, sha256 };
  return statusOf((await request(options, "PUT", pathOf({ id }), body)).document);
}

/**
 * @param {Where & { id: string }} options
 * @returns {Promise<SessionStatus>}
 */
export async function getSessionStatus(options) {
  return statusOf((await request(options, "GET", pathOf(options))).document);
}

/**
 * The sessions of the owner of the token, newest first, at most 1000; `parts` is left out.
 * @param {Where & { name?: string }} [options]
 * @returns {Promise<SessionStatus[]>}
 */
export async function listSessions(options = {}) {
  const query = options.name === undefined ? "" : `?name=${encodeURIComponent(options.name)}`;
  const { document } = await request(options, "GET", API + query);
  return document.sessions.map(statusOf);
}

/**
 * Where the bytes of parts go; at most 100 parts.
 * @param {Where & { id: string, parts: { index: number, length: number, sha256: string }[] }} options
 * @returns {Promise<Target[]>}
 */
export async function requestTargets(options) {
  const parts = options.parts.map(({ index, length, sha256 }) => ({ index, length, sha256 }));
  return (await request(options, "POST", pathOf(options, "/targets"), { parts })).document.targets;
}

/**
 * Sends the bytes of a part to its target, which is asked for if it is not given. A checkpoint must follow.
 * @param {Where & { id: string, index: number, body: Blob | ArrayBuffer, sha256?: string, target?: Target,
 *   onProgress?: (sent: number) => void }} options
 * @returns {Promise<Part & { finished: boolean }>} finished: the server had a checkpoint of it already
 */
export async function uploadPart(options) {
  const { index } = options;
  const bytes = options.body instanceof Blob ? await options.body.arrayBuffer() : options.body;
  const part = { index, length: bytes.byteLength, sha256: options.sha256 ?? (await sha256Of(bytes)) };
  const target = options.target ?? (await requestTargets({ ...options, parts: [part] }))[0];
  if (target.finished) return { ...part, finished: true };
  const url = new URL(target.url, serverOf(options));
  const body = target.from > 0 ? bytes.slice(target.from) : bytes;
  const sent = (/** @type {number} */ count) => options.onProgress?.(target.from + count);
  const etag = await send(target.method, url, target.headers, body, sent, options.signal);
  return { ...part, etag, finished: false };
}

/**
 * Makes a part that was sent count: the server proves that it is stored.
 * @param {Where & Part & { id: string, replace?: boolean }} options
 * @returns {Promise<Part>}
 */
export async function checkpointPart(options) {
  const { index, length, sha256, etag, replace = false } = options;
  const body = { length, sha256, etag: etag ?? undefined, replace };
  return (await request(options, "PUT", pathOf(options, `/parts/${index}`), body)).document;
}

/**
 * Has the server prove and publish what it has, and waits for that. The status is that of an object that is published: `state` is
 * `done`, and `root` is the BLAKE3 root that the server computed.
 * @param {Where & { id: string, length: number, root?: string, sha256?: string, replace?: boolean }} options
 * @returns {Promise<SessionStatus>}
 */
export async function finalize(options) {
  const { length, root, sha256, replace = false } = options;
  const { status, document, retryAfterMs } =
    await request(options, "POST", pathOf(options, "/finalize"), { length, root, sha256, replace });
  return status === 202 ? finalized(options, retryAfterMs ?? 1000) : isDone(statusOf(document));
}

/** Waits until a session is not `finalizing` any more. @param {Where & { id: string }} options @param {number} pauseMs */
async function finalized(options, pauseMs) {
  for (;;) {
    await sleep(pauseMs, options.signal);
    const status = await getSessionStatus(options);
    if (status.state !== "finalizing") return isDone(status);
  }
}

/** @param {SessionStatus} status */
function isDone(status) {
  if (status.state === "done" && status.root) return status;
  if (status.state === "open") {
    const { code, detail } = status.error ?? { code: "busy", detail: "" };
    const mayPass = ["busy", "storage_failed", "store_failed"].includes(code);
    throw new UploadError(code, { status: mayPass ? 503 : 409, detail });
  }
  throw new UploadError("session_ended", { status: 410, detail: `the session is ${status.state}` });
}

/** Gives a session up. @param {Where & { id: string }} options */
export async function abortSession(options) {
  await request(options, "DELETE", pathOf(options));
}

/** In hexadecimal. @param {ArrayBuffer} bytes @returns {Promise<string>} */
async function sha256Of(bytes) {
  if (!globalThis.crypto?.subtle) throw new UploadError("insecure_context");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Sends bytes with XMLHttpRequest, because fetch tells no progress. Returns the entity tag, if the page may see it.
 * @param {string} method @param {URL} url @param {Record<string, string>} headers @param {ArrayBuffer} body
 * @param {(sent: number) => void} onProgress @param {AbortSignal} [signal] @returns {Promise<string | null>}
 */
function send(method, url, headers, body, onProgress, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const xhr = new XMLHttpRequest();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const expect = (/** @type {number} */ ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => xhr.abort(), ms);
    };
    const abort = () => xhr.abort();
    const online = () => expect(AFTER_OFFLINE_MS);
    xhr.open(method, url);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => {
      expect(SILENCE_MS);
      onProgress(event.loaded);
    };
    xhr.upload.onload = () => {
      expect(RESPONSE_MS);
      onProgress(body.byteLength);
    };
    xhr.onload = () => {
      // To ask for a field that a page may not see is an error in its console.
      const field = (/** @type {string} */ name) =>
        new RegExp(`^${name}:`, "im").test(xhr.getAllResponseHeaders()) ? xhr.getResponseHeader(name) : null;
      if (xhr.status >= 200 && xhr.status < 300) resolve(field("ETag"));
      else reject(problem(xhr.status, xhr.responseText, field("Retry-After")));
    };
    xhr.onerror = () => reject(new UploadError("network"));
    xhr.onabort = () => reject(signal?.aborted ? signal.reason : new UploadError("network"));
    xhr.onloadend = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      globalThis.removeEventListener("online", online);
    };
    signal?.addEventListener("abort", abort);
    globalThis.addEventListener("online", online);
    expect(SILENCE_MS);
    xhr.send(body);
  });
}

/**
 * @param {number} ms @param {AbortSignal} [signal] @param {EventTarget} [waker] whose `online` ends it early
 * @returns {Promise<void>}
 */
function sleep(ms, signal, waker) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      waker?.removeEventListener("online", wake);
    };
    const wake = () => (stop(), resolve());
    const abort = () => (stop(), reject(signal?.reason));
    const timer = setTimeout(wake, ms);
    signal?.addEventListener("abort", abort);
    waker?.addEventListener("online", wake);
  });
}

// ---- What the browser keeps -----------------------------------------------------------------------------------------

/** Uploads in IndexedDB. Where the browser refuses it, nothing is kept, and uploads work all the same. */
class Checkpoints {
  /** @type {Promise<IDBDatabase | null> | null} */
  #opening = null;

  /** @returns {Promise<IDBDatabase | null>} */
  #database() {
    this.#opening ??= new Promise((resolve) => {
      try {
        const opening = indexedDB.open("sapwood-uploads", 1);
        opening.onupgradeneeded = () => {
          opening.result.createObjectStore("uploads", { keyPath: "id" });
          opening.result.createObjectStore("parts", { keyPath: ["id", "index"] });
        };
        opening.onsuccess = () => {
          const database = opening.result;
          database.onversionchange = () => database.close();
          database.onclose = () => (this.#opening = null);
          resolve(database);
        };
        opening.onerror = opening.onblocked = () => resolve(null);
      } catch {
        resolve(null);
      }
    });
    return this.#opening;
  }

  /**
   * Does something in a transaction. `null`: nothing is kept here.
   * @template T @param {IDBTransactionMode} mode @param {(uploads: IDBObjectStore, parts: IDBObjectStore) => IDBRequest<T>} work
   * @returns {Promise<T | null>}
   */
  async #with(mode, work) {
    const database = await this.#database();
    if (!database) return null;
    try {
      return await new Promise((resolve, reject) => {
        const transaction = database.transaction(["uploads", "parts"], mode);
        const made = work(transaction.objectStore("uploads"), transaction.objectStore("parts"));
        transaction.oncomplete = () => resolve(made.result);
        transaction.onabort = transaction.onerror = () => reject(transaction.error);
      });
    } catch {
      return null;
    }
  }

  /** @returns {Promise<boolean>} */
  async works() {
    return (await this.#database()) !== null;
  }

  /** @returns {Promise<Kept[]>} */
  async all() {
    const found = /** @type {Kept[] | null} */ (await this.#with("readonly", (uploads) => uploads.getAll()));
    return found ?? [];
  }

  /** @param {Kept} kept */
  async put(kept) {
    // A handle that cannot be stored must not lose the rest.
    const isStored = await this.#with("readwrite", (uploads) => uploads.put(kept));
    if (isStored === null && kept.handle) await this.#with("readwrite", (uploads) => uploads.put({ ...kept, handle: null }));
  }

  /** Notes a finished part. @param {string} id @param {number} index @param {string} sha256 @param {number} length */
  async putPart(id, index, sha256, length) {
    await this.#with("readwrite", (uploads, parts) => {
      const read = uploads.get(id);
      // It may have been given up.
      read.onsuccess = () => {
        if (!read.result) return;
        uploads.put({ ...read.result, sent: read.result.sent + length });
        parts.put({ id, index, sha256 });
      };
      return read;
    });
  }

  /** The SHA-256 of parts that were finished. @param {string} id @returns {Promise<Map<number, string>>} */
  async parts(id) {
    const range = () => IDBKeyRange.bound([id, 0], [id, Infinity]);
    const found = /** @type {{ index: number, sha256: string }[] | null} */ (
      await this.#with("readonly", (_, parts) => parts.getAll(range())));
    return new Map((found ?? []).map(({ index, sha256 }) => [index, sha256]));
  }

  /** @param {string} id */
  async remove(id) {
    await this.#with("readwrite", (uploads, parts) => {
      parts.delete(IDBKeyRange.bound([id, 0], [id, Infinity]));
      return uploads.delete(id);
    });
  }
}

const checkpoints = new Checkpoints();

// ---- Parts at a time ------------------------------------------------------------------------------------------------

/** Parts that all uploads of this page send to one host at a time: more would only wait in the browser. */
class Slots {
  #free = PARALLEL_MAX;
  /** @type {(() => void)[]} */
  #queue = [];

  /** @template T @param {AbortSignal} signal @param {() => Promise<T>} work @returns {Promise<T>} */
  async with(signal, work) {
    if (this.#free > 0) this.#free -= 1;
    else {
      await new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
        const turn = () => (signal.removeEventListener("abort", leave), resolve());
        const leave = () => {
          this.#queue = this.#queue.filter((other) => other !== turn);
          reject(signal.reason);
        };
        signal.addEventListener("abort", leave, { once: true });
        this.#queue.push(turn);
      });
    }
    try {
      signal.throwIfAborted();
      return await work();
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#free += 1;
    }
  }

  /** @type {Map<string, Slots>} */
  static #of = new Map();

  /** @param {string} host */
  static of(host) {
    const slots = Slots.#of.get(host) ?? new Slots();
    Slots.#of.set(host, slots);
    return slots;
  }
}

/** How many parts one upload sends at a time: fewer after each failure, more after some successes. */
class Parallel {
  #successes = 0;

  /** @param {number | undefined} fixed */
  constructor(fixed) {
    this.isFixed = fixed !== undefined;
    this.value = Math.min(Math.max(Math.floor(fixed ?? PARALLEL_START), 1), PARALLEL_MAX);
  }

  succeeded() {
    this.#successes += 1;
    if (this.isFixed || this.#successes < 2 * this.value) return;
    this.#successes = 0;
    this.value = Math.min(this.value + 1, PARALLEL_MAX);
  }

  failed() {
    this.#successes = 0;
    if (!this.isFixed) this.value = Math.max(this.value >> 1, 1);
  }
}

// ---- The upload -----------------------------------------------------------------------------------------------------

/** Why a run ends that did not fail. */
const PAUSED = new DOMException("paused", "AbortError");
const ABORTED = new DOMException("aborted", "AbortError");

/**
 * The upload of a file. Events: `state` when `state`, `reason` or `error` changed, `progress` when `bytes` or `rate` did.
 *
 * An upload of the same file to the same name that this browser began earlier is resumed.
 */
export class Upload extends EventTarget {
  /** @type {File} */
  #file;
  /** @type {UploadOptions} */
  #options;
  #server;
  #name;
  /** @type {State} */
  #state = "new";
  /** @type {Reason | null} */
  #reason = null;
  /** @type {UploadError | null} */
  #error = null;
  /** @type {Proven | null} */
  #proven = null;
  /** @type {Kept | null} */
  #kept = null;
  /** What to do with another object of the name. */
  #replace = false;
  /** The SHA-256 of parts of this file, computed on this page. @type {Map<number, string>} */
  #own = new Map();
  /** What a run does when it does not wait. @type {State} */
  #phase = "uploading";
  /** @type {AbortController | null} */
  #controller = null;
  /** Ends when the run has. @type {Promise<void>} */
  #running = Promise.resolve();
  /** @type {{ resolve: (proven: Proven) => void, reject: (error: unknown) => void, promise: Promise<Proven> } | null} */
  #result = null;

  /** Parts and bytes that the server has for sure. */
  #finishedBytes = 0;
  /** Of parts under way. @type {Map<number, number>} */
  #sent = new Map();
  /** What was shown: a part that is sent again takes nothing away. */
  #shown = 0;
  #moved = 0;
  /** @type {{ at: number, moved: number }[]} */
  #samples = [];
  /** @type {ReturnType<typeof setTimeout> | null} */
  #progressTimer = null;
  /** @type {Parallel} */
  #parallel;
  /** Flows of a run, and those of them that wait to repeat a request. */
  #flows = 1;
  #waits = 0;
  #failures = 0;
  /** @type {{ part: { index: number, length: number, sha256: string }, resolve: (target: Target) => void,
   *   reject: (error: unknown) => void }[]} */
  #wanted = [];

  /**
   * @param {File} file
   * @param {UploadOptions} [options]
   */
  constructor(file, options = {}) {
    super();
    this.#file = file;
    this.#options = options;
    this.#server = serverOf(options);
    this.#name = options.name ?? file.name;
    this.#replace = options.replace ?? false;
    this.#parallel = new Parallel(options.parallel);
  }

  /** The file. */
  get file() { return this.#file; }
  /** Where it is published. */
  get name() { return this.#name; }
  /** The ID of the session, once there is one. */
  get session() { return this.#kept?.id ?? null; }
  get state() { return this.#state; }
  /** Why it waits, in the state `waiting`. */
  get reason() { return this.#reason; }
  /** Why it failed, in the state `failed`. */
  get error() { return this.#error; }
  /** What the server proved, in the state `proven`. */
  get proven() { return this.#proven; }
  /** Of the file. */
  get size() { return this.#file.size; }
  /** So many bytes were sent; it falls only when the server lost parts. */
  get bytes() { return this.#shown; }

  /** Bytes a second in the last seconds. */
  get rate() {
    const now = performance.now();
    const first = this.#samples.find(({ at }) => at >= now - RATE_WINDOW_MS);
    if (!first || this.#state !== "uploading") return 0;
    return ((this.#moved - first.moved) * 1000) / Math.max(now - first.at, 1000);
  }

  /** Seconds that are left; `null`: not known. */
  get secondsLeft() {
    return this.rate > 0 ? Math.max(this.size - this.bytes, 0) / this.rate : null;
  }

  /** Whether this browser keeps what is needed to resume after a reload. */
  static keeps() {
    return checkpoints.works();
  }

  /**
   * Uploads to a server that this browser began and that are not proven, the latest first.
   * @param {{ server?: string | URL }} [where]
   * @returns {Promise<Kept[]>}
   */
  static async unfinished(where = {}) {
    const all = await checkpoints.all();
    for (const kept of all) if (kept.done && Math.abs(Date.now() - kept.done) > DONE_MS) await checkpoints.remove(kept.id);
    const unfinished = all.filter((kept) => kept.server === serverOf(where) && !kept.done);
    return unfinished.sort((a, b) => b.started - a.started);
  }

  /**
   * Gives up an upload of an earlier visit, here and on the server.
   * @param {Kept} kept @param {{ token?: Token }} [options]
   */
  static async discard(kept, options = {}) {
    try {
      await abortSession({ server: kept.server, id: kept.id, ...options });
    } catch (error) {
      // What has ended needs no end. Else it expires, if it cannot be told; but who may tell it should have the chance.
      if (error instanceof UploadError && ["unauthorized", "finalizing"].includes(error.code)) throw error;
    }
    await checkpoints.remove(kept.id);
  }

  /** Whether an upload of an earlier visit is under way in another tab. @param {Kept} kept @returns {Promise<boolean>} */
  static async isElsewhere(kept) {
    const held = (await navigator.locks?.query())?.held ?? [];
    return held.some(({ name }) => name === lockName(kept.server, kept.name));
  }

  /**
   * Starts. The promise is kept when the server has proven and published the file, and broken with an UploadError when the upload
   * failed or was aborted; it waits while the upload is paused.
   * @returns {Promise<Proven>}
   */
  start() {
    if (this.#state === "proven" && this.#proven) return Promise.resolve(this.#proven);
    if (!this.#result) {
      /** @type {any} */
      const result = {};
      result.promise = new Promise((resolve, reject) => Object.assign(result, { resolve, reject }));
      // Whoever follows the events need not look at the promise.
      result.promise.catch(() => {});
      this.#result = result;
    }
    if (!this.#controller) {
      const controller = new AbortController();
      this.#controller = controller;
      const before = this.#running;
      this.#running = before.then(() => this.#go(controller));
    }
    return /** @type {any} */ (this.#result).promise;
  }

  /** Stops, and keeps what the server has. */
  pause() {
    if (["proven", "failed", "aborted", "paused"].includes(this.#state)) return;
    this.#controller?.abort(PAUSED);
    this.#controller = null;
    this.#turn("paused");
  }

  /**
   * Goes on after a pause or an error.
   * @param {{ replace?: boolean, token?: Token, file?: File }} [options] `replace`: in the place of the object that has the name;
   *   `file`: the file, chosen again
   * @returns {Promise<Proven>}
   */
  resume({ replace, token, file } = {}) {
    if (replace !== undefined) this.#replace = replace;
    if (token !== undefined) this.#options = { ...this.#options, token };
    if (file) this.#take(file);
    if (this.#state === "paused" || this.#state === "failed") this.#turn(this.#phase === "verifying" ? "verifying" : "uploading");
    return this.start();
  }

  /**
   * Gives the session up, if there is one, and begins a new one.
   * @param {{ name?: string, replace?: boolean, file?: File }} [options]
   * @returns {Promise<Proven>}
   */
  async restart({ name, replace, file } = {}) {
    await this.#stop(PAUSED);
    if (this.#kept) await Upload.discard(this.#kept, this.#options);
    // What another run of this browser began under the name, if that is why it is begun again.
    else for (const kept of await Upload.unfinished({ server: this.#server })) {
      if (kept.name === this.#name && !(await Upload.isElsewhere(kept))) await Upload.discard(kept, this.#options);
    }
    this.#kept = null;
    if (name !== undefined) this.#name = name;
    if (replace !== undefined) this.#replace = replace;
    this.#take(file ?? this.#file);
    this.#finishedBytes = this.#shown = 0;
    this.#phase = "uploading";
    this.#turn("uploading");
    return this.start();
  }

  /** Gives the upload up, here and on the server. Throws if the server publishes it already; it then goes on. */
  async abort() {
    if (this.#state === "proven") throw new UploadError("session_done", { status: 409 });
    if (this.#state === "aborted") return;
    await this.#stop(ABORTED);
    if (this.#kept) {
      try {
        await Upload.discard(this.#kept, this.#options);
      } catch (error) {
        void this.resume();
        throw error;
      }
    }
    this.#turn("aborted");
    this.#result?.reject(new UploadError("aborted"));
    this.#result = null;
  }

  /** @param {File} file */
  #take(file) {
    if (file !== this.#file) this.#own = new Map();
    this.#file = file;
  }

  /** @param {DOMException} why */
  async #stop(why) {
    this.#controller?.abort(why);
    this.#controller = null;
    await this.#running;
  }

  // ---- States

  /** @param {State} state @param {Reason | null} [reason] */
  #turn(state, reason = null) {
    if (state !== "failed") this.#error = null;
    if (state === this.#state && reason === this.#reason) return;
    if (state !== "uploading") this.#samples = [];
    this.#state = state;
    this.#reason = reason;
    this.dispatchEvent(new Event("state"));
  }

  /** @param {AbortSignal} signal @param {State} phase */
  #enter(signal, phase) {
    signal.throwIfAborted();
    this.#phase = phase;
    // A response that was on its way may still arrive: the event `online` ends this wait.
    if (phase === "uploading" && this.#reason === "offline" && navigator.onLine === false) return;
    if (this.#waits < this.#flows) this.#turn(phase);
  }

  #progress() {
    let sent = this.#finishedBytes;
    for (const count of this.#sent.values()) sent += count;
    this.#shown = Math.max(this.#shown, Math.min(sent, this.size));
    this.#progressTimer ??= setTimeout(() => {
      this.#progressTimer = null;
      const at = performance.now();
      this.#samples.push({ at, moved: this.#moved });
      while (this.#samples.length > 1 && this.#samples[0].at < at - RATE_WINDOW_MS) this.#samples.shift();
      this.dispatchEvent(new Event("progress"));
    }, PROGRESS_MS);
  }

  // ---- A run: from start, or from what is there, to the end, a pause or an error

  /** @param {AbortController} controller */
  async #go(controller) {
    const { signal } = controller;
    /** @type {UploadError | null} */
    let failure = null;
    this.#flows = 1;
    this.#waits = this.#failures = 0;
    this.#sent.clear();
    this.#wanted = [];
    const noted = () => {
      if (signal.aborted || this.#reason === "other_tab") return;
      if (navigator.onLine === false) this.#turn("waiting", "offline");
      else if (this.#reason === "offline") this.#turn(this.#phase);
    };
    for (const event of ["online", "offline"]) globalThis.addEventListener(event, noted);
    try {
      signal.throwIfAborted();
      if (!globalThis.crypto?.subtle) throw new UploadError("insecure_context");
      this.#proven = await this.#locked(signal, (waited) => this.#run(signal, waited));
    } catch (error) {
      // One flow failed: the others end too.
      if (!signal.aborted) {
        failure = error instanceof UploadError ? error : new UploadError("unexpected", { detail: String(error), cause: error });
        controller.abort(failure);
      }
    }
    for (const event of ["online", "offline"]) globalThis.removeEventListener(event, noted);
    if (this.#controller === controller) this.#controller = null;
    if (failure) {
      this.#error = failure;
      this.#turn("failed");
      this.#result?.reject(failure);
      this.#result = null;
    } else if (this.#proven && !signal.aborted) {
      this.#shown = this.size;
      this.#progress();
      this.#turn("proven");
      this.#result?.resolve(this.#proven);
      this.#result = null;
    }
  }

  /**
   * Only one tab at a time sends to a name.
   * @template T @param {AbortSignal} signal @param {(waited: boolean) => Promise<T>} work @returns {Promise<T>}
   */
  async #locked(signal, work) {
    if (!navigator.locks) return work(false);
    const name = lockName(this.#server, this.#name);
    /** @type {{ result: T } | null} */
    const first = await navigator.locks.request(name, { ifAvailable: true }, async (lock) => lock && { result: await work(false) });
    if (first) return first.result;
    signal.throwIfAborted();
    this.#turn("waiting", "other_tab");
    return navigator.locks.request(name, { signal }, () => work(true));
  }

  /** @param {AbortSignal} signal @param {boolean} waited @returns {Promise<Proven>} */
  async #run(signal, waited) {
    let status = await this.#session(signal, waited);
    for (let round = 0; ; round += 1) {
      if (["failed", "expired", "aborted"].includes(status.state)) throw new UploadError("session_ended", { status: 410 });
      await this.#check(signal, status);
      // Published, but of what is not known: it is not called proven for this file.
      if (status.state === "done" && this.#finishedBytes !== this.size) throw new UploadError("name_exists", { status: 409 });
      if (status.state === "open") await this.#send(signal, status);
      this.#enter(signal, "verifying");
      try {
        return await this.#finish(signal, status);
      } catch (error) {
        const isMissing = error instanceof UploadError && error.code === "parts_missing";
        if (!isMissing || round === ROUNDS_MAX) throw error;
        status = await this.#again(signal, () => getSessionStatus(this.#where(signal)));
        // The server lost parts: that is a reason.
        this.#shown = 0;
      }
    }
  }

  /** @param {AbortSignal} signal */
  #where(signal) {
    return { server: this.#server, token: this.#options.token, id: this.#kept?.id ?? "", signal };
  }

  /** The session of an earlier run, or a new one. @param {AbortSignal} signal @param {boolean} waited */
  async #session(signal, waited) {
    if (!this.#kept) this.#kept = await this.#found(waited);
    if (this.#kept) {
      const { size, isOpen } = this.#kept;
      if (size !== this.size) throw new UploadError("file_changed", { detail: `it had ${size} bytes, and now has ${this.size}` });
      if (this.#kept.isOpen) this.#enter(signal, this.#phase === "verifying" ? "verifying" : "resumed");
      try {
        return await this.#again(signal, () => getSessionStatus(this.#where(signal)));
      } catch (error) {
        if (!(error instanceof UploadError) || error.code !== "no_session" || isOpen) throw error;
        // It was never opened, as far as is known.
      }
    } else {
      const { name, size, lastModified } = this.#file;
      this.#kept = {
        id: newId(), server: this.#server, name: this.#name, fileName: name, size, lastModified, started: Date.now(), isOpen: false,
        replace: this.#replace, sent: 0, done: null, handle: this.#options.handle ?? null,
      };
      // Before the server has it: a page that is reloaded now finds it again.
      await checkpoints.put(this.#kept);
    }
    this.#enter(signal, "uploading");
    const kept = this.#kept;
    kept.replace = this.#replace;
    try {
      const options = { name: kept.name, length: kept.size, replace: kept.replace };
      const status = await this.#again(signal, () => initSession({ ...this.#where(signal), ...options }));
      kept.isOpen = true;
      await checkpoints.put(kept);
      return status;
    } catch (error) {
      // Nothing was opened that would be worth keeping.
      if (error instanceof UploadError && !error.isTransient) {
        await checkpoints.remove(kept.id);
        this.#kept = null;
      }
      throw error;
    }
  }

  /** What an earlier run, or another tab, left of this upload. @param {boolean} waited @returns {Promise<Kept | null>} */
  async #found(waited) {
    const same = (await checkpoints.all()).filter((kept) => kept.server === this.#server && kept.name === this.#name);
    // The name is free for a new upload as soon as one is proven, but for a tab that waited for the same file.
    const { size, lastModified } = this.#file;
    const isSame = (/** @type {Kept} */ kept) => kept.size === size && kept.lastModified === lastModified;
    for (const kept of same) if (kept.done && !(waited && isSame(kept))) await checkpoints.remove(kept.id);
    const useful = same.filter((kept) => !kept.done || (waited && isSame(kept)));
    const kept = useful.find(isSame) ?? useful[0] ?? null;
    if (kept && !this.#replace) this.#replace = kept.replace;
    return kept;
  }

  /** Compares the finished parts of the server with the file. @param {AbortSignal} signal @param {SessionStatus} status */
  async #check(signal, status) {
    if (status.length !== this.size) throw new UploadError("session_differs", { status: 409 });
    const finished = status.parts ?? [];
    this.#finishedBytes = 0;
    const unchecked = finished.filter(({ index }) => !this.#own.has(index));
    if (unchecked.length > 0) this.#enter(signal, "resumed");
    const noted = unchecked.length > 0 ? await checkpoints.parts(status.id) : new Map();
    const check = async (/** @type {Part} */ part) => {
      // A part that an earlier visit sent has the SHA-256 that it noted, or is another client's.
      const own = this.#own.get(part.index) ?? (await sha256Of(await this.#read(signal, status, part.index)));
      signal.throwIfAborted();
      if (own !== part.sha256) {
        const wasOurs = (noted.get(part.index) ?? part.sha256) === part.sha256;
        throw new UploadError(wasOurs ? "file_changed" : "part_finished", { status: 409, detail: `part ${part.index} differs` });
      }
      this.#own.set(part.index, own);
      this.#finishedBytes += part.length;
      this.#progress();
    };
    await this.#each(signal, finished, () => CHECKS, check);
    this.#progress();
  }

  /**
   * Does something for each of a list, so many at a time.
   * @template T @param {AbortSignal} signal @param {T[]} items @param {() => number} parallel @param {(item: T) => Promise<void>} work
   */
  async #each(signal, items, parallel, work) {
    const queue = items.slice().reverse();
    let active = 0;
    await new Promise((/** @type {(value: void) => void} */ resolve, reject) => {
      let failed = false;
      const next = () => {
        if (failed) return;
        while (active < parallel() && queue.length > 0) {
          active += 1;
          this.#flows = active;
          work(/** @type {T} */ (queue.pop())).then(ended, (error) => {
            failed = true;
            reject(error);
          });
        }
        if (active === 0) resolve();
      };
      const ended = () => {
        active -= 1;
        next();
      };
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      next();
    });
    this.#flows = 1;
  }

  /** Sends what the server does not have. @param {AbortSignal} signal @param {SessionStatus} status */
  async #send(signal, status) {
    const count = Math.max(Math.ceil(this.size / status.part_size), 1);
    const finished = new Set((status.parts ?? []).map(({ index }) => index));
    const missing = Array.from({ length: count }, (_, index) => index).filter((index) => !finished.has(index));
    if (missing.length === 0) return;
    this.#enter(signal, "uploading");
    await this.#each(signal, missing, () => this.#parallel.value, (index) => this.#part(signal, status, index));
  }

  /** The bytes of a part of the file. @param {AbortSignal} signal @param {SessionStatus} status @param {number} index */
  async #read(signal, status, index) {
    const from = index * status.part_size;
    const length = Math.min(status.part_size, this.size - from);
    try {
      const bytes = await this.#file.slice(from, from + length).arrayBuffer();
      if (bytes.byteLength !== length) throw new Error(`the file ends at ${from + bytes.byteLength}`);
      signal.throwIfAborted();
      return bytes;
    } catch (cause) {
      signal.throwIfAborted();
      throw new UploadError("file_unreadable", { detail: String(cause), cause });
    }
  }

  /** Sends a part until the server has it. @param {AbortSignal} signal @param {SessionStatus} status @param {number} index */
  async #part(signal, status, index) {
    const bytes = await this.#read(signal, status, index);
    const sha256 = await sha256Of(bytes);
    const part = { index, length: bytes.byteLength, sha256 };
    const where = this.#where(signal);
    /** The part may be stored: only a checkpoint can tell. */
    let isSent = false;
    /** The target has said so. */
    let isSure = false;
    let [damaged, refused] = [0, 0];
    /** @type {string | null} */
    let etag = null;
    const noted = (/** @type {number} */ sent) => {
      const before = this.#sent.get(index) ?? 0;
      this.#moved += Math.max(sent - before, 0);
      this.#sent.set(index, sent);
      isSent = sent === bytes.byteLength;
      this.#progress();
    };
    for (;;) {
      let isStorage = false;
      try {
        if (!isSent) {
          const target = await this.#target(signal, part);
          if (!target.finished) {
            const url = new URL(target.url, this.#server);
            isStorage = url.origin !== this.#server;
            const sending = () => uploadPart({ ...where, index, body: bytes, sha256, target, onProgress: noted });
            etag = (await Slots.of(url.host).with(signal, sending)).etag ?? null;
            isStorage = false;
            isSure = true;
          }
        }
        await checkpointPart({ ...where, ...part, etag });
        break;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof UploadError)) throw error;
        this.#sent.delete(index);
        const { code } = error;
        /** @type {boolean} */
        const wasSent = isSent;
        isSent = wasSent && error.isTransient && code === "network";
        if (error.isTransient) {
          this.#parallel.failed();
          await this.#pause(signal, error, isStorage);
        } else if (code === "part_in_flight") await sleep(1000, signal);
        else if (code === "part_differs_from_url" || code === "part_not_stored" || (isStorage && error.status === 400)) {
          // A response that was lost says nothing about the bytes.
          if (code === "part_not_stored" && !isSure) continue;
          isSure = false;
          if ((damaged += 1) > SAME_FAILURE_MAX) throw new UploadError("damaged", { status: error.status, cause: error });
        } else if (isStorage && error.status === 404) isSent = true;
        else if (code === "expired_url" || code === "bad_signature" || (isStorage && error.status === 403)) {
          if ((refused += 1) > SAME_FAILURE_MAX) throw new UploadError("target_refused", { status: error.status, cause: error });
          await this.#pause(signal, error, isStorage);
        } else if (code === "part_finished" && this.#own.has(index)) throw new UploadError("file_changed", { status: 409 });
        else throw error;
      }
    }
    this.#sent.delete(index);
    this.#own.set(index, sha256);
    this.#finishedBytes += part.length;
    this.#succeeded(signal);
    this.#parallel.succeeded();
    this.#progress();
    await checkpoints.putPart(status.id, index, sha256, part.length);
  }

  /** The target of a part: those that are wanted at a time are asked for together. @param {AbortSignal} signal @param {Part} part */
  #target(signal, part) {
    return new Promise((/** @type {(target: Target) => void} */ resolve, reject) => {
      // Each run has a list of its own.
      const list = this.#wanted;
      list.push({ part, resolve, reject });
      if (list.length > 1) return;
      setTimeout(async () => {
        const wanted = list.splice(0);
        for (let at = 0; at < wanted.length; at += TARGETS_MAX) {
          const batch = wanted.slice(at, at + TARGETS_MAX);
          try {
            const targets = await requestTargets({ ...this.#where(signal), parts: batch.map(({ part }) => part) });
            batch.forEach(({ resolve, reject, part }, place) => {
              const target = targets[place];
              if (target?.index === part.index) resolve(target);
              else reject(new UploadError("unexpected", { detail: "the targets are of other parts" }));
            });
          } catch (error) {
            for (const { reject } of batch) reject(error);
          }
        }
      }, BATCH_MS);
    });
  }

  /** Has the server prove it. @param {AbortSignal} signal @param {SessionStatus} found @returns {Promise<Proven>} */
  async #finish(signal, found) {
    const where = this.#where(signal);
    let isWorking = found.state === "finalizing";
    const status = found.state === "done" ? found : await this.#again(signal, async () => {
      try {
        return isWorking ? await finalized(where, 1000) : await finalize({ ...where, length: this.size, replace: this.#replace });
      } catch (error) {
        // What an earlier attempt ended with is no answer to this one.
        if (isWorking && error instanceof UploadError && error.status === 409) {
          isWorking = false;
          return finalize({ ...where, length: this.size, replace: this.#replace });
        }
        if (error instanceof UploadError && error.code === "finalizing") return finalized(where, 1000);
        throw error;
      }
    });
    const done = isDone(status);
    const kept = this.#kept;
    if (kept) await checkpoints.put({ ...kept, done: Date.now(), handle: null });
    const url = new URL(done.url ?? "/", this.#server).href;
    return { root: done.root ?? "", length: done.length ?? this.size, url, name: done.name };
  }

  // ---- Waiting

  /** Repeats a request while its failure may pass. @template T @param {AbortSignal} signal @param {() => Promise<T>} work */
  async #again(signal, work) {
    for (;;) {
      try {
        const value = await work();
        this.#succeeded(signal);
        return value;
      } catch (error) {
        signal.throwIfAborted();
        if (!(error instanceof UploadError) || !error.isTransient) throw error;
        await this.#pause(signal, error, false);
      }
    }
  }

  /** @param {AbortSignal} signal */
  #succeeded(signal) {
    this.#failures = 0;
    this.#enter(signal, this.#phase);
  }

  /** Waits until a request may be repeated. @param {AbortSignal} signal @param {UploadError} error @param {boolean} isStorage */
  async #pause(signal, error, isStorage) {
    const isNetwork = error.code === "network";
    this.#waits += 1;
    this.#failures += 1;
    // One failure of a flow that goes on alone is no news.
    const growing = PAUSE_MS_FIRST * 2 ** Math.min(Math.floor(this.#failures / this.#flows), 10);
    const pause = Math.min(growing, PAUSE_MS_MAX) * (0.5 + Math.random() / 2);
    if (this.#waits >= this.#flows) {
      const away = isStorage ? "storage_away" : "server_away";
      this.#turn("waiting", navigator.onLine === false ? "offline" : isNetwork ? away : "server_busy");
    }
    try {
      const ms = Math.max(error.retryAfterMs ?? 0, navigator.onLine === false ? PAUSE_MS_MAX : pause);
      await sleep(ms, signal, isNetwork ? globalThis : undefined);
    } finally {
      this.#waits -= 1;
    }
  }
}

/** @param {string} server @param {string} name */
function lockName(server, name) {
  return `sapwood-upload ${server} ${name}`;
}
