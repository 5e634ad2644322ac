
// @ts-check
import { listSessions, Upload, UploadError } from "/.sapwood/client.js";

/** Files that are sent at a time; the others are in line. */
const FILES_AT_ONCE = 2;

/** @typedef {import("/.sapwood/client.js").Choice} Choice */
/** @typedef {import("/.sapwood/client.js").Kept} Kept */
/** @typedef {{ file: File, path: string, handle: FileSystemFileHandle | null }} Chosen */

/** @template {HTMLElement} T @param {string} id @param {new () => T} type @returns {T} */
function element(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`#${id} is missing`);
  return found;
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {string} [className] @param {string} [text] @returns {HTMLElementTagNameMap[K]}
 */
function made(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

const problem = element("problem", HTMLElement);
const access = element("access", HTMLFormElement);
const tokenField = element("token", HTMLInputElement);
const earlier = element("earlier", HTMLElement);
const keptRows = element("kept", HTMLElement);
const drop = element("drop", HTMLElement);
const filesInput = element("files", HTMLInputElement);
const folderInput = element("folder", HTMLInputElement);
const againInput = element("again", HTMLInputElement);
const into = element("into", HTMLInputElement);
const uploads = element("uploads", HTMLElement);
const rows = element("rows", HTMLElement);
const total = element("total", HTMLElement);
const live = element("live", HTMLElement);
const pauseAll = element("pause-all", HTMLButtonElement);
const clear = element("clear", HTMLButtonElement);

/** It is never stored. @type {string | null} */
let token = null;
const giveToken = () => token;

// ---- Words ----------------------------------------------------------------------------------------------------------

/** Characters that cannot be seen, or that turn the text around them, are shown as their numbers, but for parts of emoji. @param {string} text */
const visible = (text) => text.replace(/(?![\u200d\ufe0f])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\p{Default_Ignorable_Code_Point}]/gu, (character) =>
  `\\u{${character.codePointAt(0)?.toString(16)}}`);

/** @param {number} bytes */
function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (bytes >= 999.95 && unit + 1 < units.length) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(bytes) : bytes.toFixed(1)}\u00a0${units[unit]}`;
}

/** @param {number} seconds */
function time(seconds) {
  const whole = Math.max(Math.ceil(seconds), 1);
  if (whole < 60) return `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.ceil(whole / 60)}\u00a0min`;
  const hours = Math.floor(whole / 3600);
  return hours < 48 ? `${hours}\u00a0h ${Math.floor((whole % 3600) / 60)}\u00a0min` : `${Math.round(hours / 24)}\u00a0days`;
}

const REASONS = {
  offline: "Waiting for the network",
  server_away: "Waiting for the server",
  storage_away: "Waiting for the storage",
  server_busy: "The server is busy",
  other_tab: "In another tab",
};

/** @param {Upload} upload @param {boolean} isQueued */
function stateText(upload, isQueued) {
  switch (upload.state) {
    case "new": return isQueued ? "In line" : "Starting";
    case "uploading": return "Uploading";
    case "resumed": return "Resuming";
    case "paused": return "Paused";
    case "waiting": return upload.reason ? REASONS[upload.reason] : "Waiting";
    case "verifying": return "Verifying";
    case "proven": return "Proven";
    case "failed": return "Stopped";
    default: return "Cancelled";
  }
}

/** @param {Upload} upload */
function detailText(upload) {
  const of = `${size(upload.bytes)} of ${size(upload.size)}`;
  switch (upload.state) {
    case "proven": return size(upload.size);
    case "resumed": return `${of} \u00b7 comparing what the server has`;
    case "verifying": return `${size(upload.size)} \u00b7 the server computes the root`;
    case "new": return size(upload.size);
    case "waiting": return upload.reason === "storage_away"
      ? `${of} \u00b7 if it stays so, the storage may not allow this page (CORS)` : `${of} \u00b7 goes on by itself`;
    case "uploading": {
      const { rate, secondsLeft } = upload;
      if (rate < 1 || secondsLeft === null) return of;
      return `${of} \u00b7 ${size(rate)}/s \u00b7 ${time(secondsLeft)} left`;
    }
    default: return of;
  }
}

/** Tells people who do not see the page. @param {string} text */
function say(text) {
  live.textContent = text;
}

// ---- One file -------------------------------------------------------------------------------------------------------

class Row {
  /** @type {Row[]} */
  static all = [];

  #state = made("span", "state");
  #bar = made("progress");
  #detail = made("span", "detail");
  #actions = made("span", "actions");
  #name = made("span", "name");
  /** What is below the line: an error, a root, a form. @type {HTMLElement[]} */
  #more = [];
  #shown = "";
  isQueued = true;

  /** @param {Chosen} chosen @param {string} name */
  constructor({ file, handle }, name) {
    this.upload = new Upload(file, { name, handle, token: giveToken });
    this.node = made("li", "row");
    this.node.tabIndex = -1;
    this.#name.dir = "auto";
    this.#bar.max = 1;
    this.node.append(this.#name, this.#state, this.#bar, this.#detail, this.#actions);
    this.upload.addEventListener("state", () => this.#changed());
    this.upload.addEventListener("progress", () => this.#progress());
    rows.append(this.node);
    Row.all.push(this);
    this.#changed();
  }

  /** It takes one of the places of files that are sent. */
  get isActive() {
    return !this.isQueued && ["new", "uploading", "resumed", "waiting", "verifying"].includes(this.upload.state)
      && this.upload.reason !== "other_tab";
  }

  get isOver() {
    return ["proven", "aborted"].includes(this.upload.state);
  }

  start() {
    this.isQueued = false;
    void this.upload.start();
    this.#changed();
  }

  /** Rates fall while nothing moves. */
  tick() {
    if (this.upload.state === "uploading") this.#progress();
  }

  #progress() {
    const { bytes, size: all } = this.upload;
    this.#bar.value = all > 0 ? bytes / all : 0;
    this.#detail.textContent = detailText(this.upload);
    summary();
  }

  #changed() {
    const { upload } = this;
    const isQueued = this.isQueued && upload.state === "new";
    this.node.className = `row ${upload.state}`;
    this.#name.textContent = visible(upload.name);
    this.#state.textContent = stateText(upload, isQueued);
    this.#bar.hidden = upload.state === "proven" || isQueued || (upload.state === "failed" && upload.bytes === 0);
    this.#bar.setAttribute("aria-label", `Progress of ${visible(upload.name)}`);
    this.#progress();
    const key = `${upload.state} ${isQueued} ${upload.error?.code}`;
    if (key !== this.#shown) {
      this.#shown = key;
      this.#build(isQueued);
      this.#tell();
    }
    advance();
  }

  #tell() {
    const { state, name, error, reason } = this.upload;
    if (state === "proven") say(`${visible(name)} is proven and published.`);
    if (state === "failed" && error) say(`${visible(name)}: ${error.message} ${error.advice}`);
    if (state === "waiting") say(`${visible(name)}: ${reason ? REASONS[reason] : "waiting"}.`);
    if (state === "paused") say(`${visible(name)} is paused.`);
    if (state === "failed" && error?.code === "unauthorized") askToken();
  }

  /** @param {boolean} isQueued */
  #build(isQueued) {
    const hadFocus = this.node.contains(document.activeElement);
    for (const node of this.#more) node.remove();
    this.#more = [];
    this.#actions.replaceChildren();
    const { upload } = this;
    switch (upload.state) {
      case "uploading": case "resumed": case "waiting": case "verifying":
        this.#button("Pause", () => upload.pause());
        this.#button("Cancel", () => this.#cancel());
        break;
      case "paused":
        this.#button("Resume", () => void upload.resume(), true);
        this.#button("Cancel", () => this.#cancel());
        break;
      case "new":
        if (isQueued) this.#button("Cancel", () => this.#cancel());
        break;
      case "failed":
        this.#failed();
        break;
      case "proven":
        this.#proven();
        break;
    }
    if (hadFocus && !this.node.contains(document.activeElement)) (this.#actions.querySelector("button") ?? this.node).focus();
  }

  /** @param {string} text @param {() => void} action @param {boolean} [isMain] */
  #button(text, action, isMain = false) {
    const button = made("button", isMain ? "small main" : "small", text);
    button.type = "button";
    button.setAttribute("aria-label", `${text}: ${visible(this.upload.name)}`);
    button.addEventListener("click", action);
    this.#actions.append(button);
  }

  #failed() {
    const { error } = this.upload;
    if (!error) return;
    const text = made("div", "error");
    text.append(made("strong", "", error.message), ` ${error.advice}`);
    if (error.detail) text.append(made("div", "hint", visible(error.detail)));
    this.#actions.before(text);
    this.#more.push(text);
    /** @type {Record<Choice, [string, () => void]>} */
    const actions = {
      resume: ["Resume", () => void this.upload.resume()],
      token: ["Enter a token", askToken],
      replace: ["Replace it", () => void this.upload.resume({ replace: true })],
      rename: ["Rename", () => this.#rename()],
      choose: ["Choose the file", () => chooseAgain((file) => void this.upload.resume({ file }))],
      restart: ["Start again", () => this.#try(this.upload.restart())],
      abort: ["Cancel", () => this.#cancel()],
    };
    error.choices.forEach((choice, place) => {
      const [name, action] = actions[choice];
      this.#button(name, action, place === 0 && choice !== "abort");
    });
  }

  #proven() {
    const { proven } = this.upload;
    if (!proven) return;
    const link = made("a", "", visible(this.upload.name));
    link.href = proven.url;
    this.#name.replaceChildren(link);
    const root = made("div", "root");
    const code = made("code", "", proven.root);
    const copy = made("button", "small", "Copy");
    copy.type = "button";
    copy.setAttribute("aria-label", `Copy the root of ${visible(this.upload.name)}`);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(proven.root);
        copy.textContent = "Copied";
        say("The root is copied.");
      } catch {
        getSelection()?.selectAllChildren(code);
      }
      setTimeout(() => (copy.textContent = "Copy"), 2000);
    });
    root.append(made("span", "", "Root"), code, copy);
    this.node.append(root);
    this.#more.push(root);
  }

  #rename() {
    if (this.node.querySelector(".rename")) return;
    const form = made("form", "rename");
    const field = made("input");
    field.type = "text";
    field.required = true;
    field.value = this.upload.name;
    field.setAttribute("aria-label", "New name");
    const button = made("button", "main", "Upload");
    form.append(field, button);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value !== this.upload.name) this.#try(this.upload.restart({ name: field.value }));
    });
    this.node.append(form);
    this.#more.push(form);
    field.focus();
    field.setSelectionRange(0, Math.max(field.value.lastIndexOf("."), 0) || field.value.length);
  }

  async #cancel() {
    try {
      await this.upload.abort();
    } catch (error) {
      if (error instanceof UploadError && error.code === "unauthorized") return askToken();
      return say(error instanceof Error ? error.message : String(error));
    }
    say(`${visible(this.upload.name)} is cancelled.`);
    this.remove();
  }

  /** What fails is shown by the state; what failed before, here. @param {Promise<unknown>} promise */
  #try(promise) {
    promise.catch((error) => {
      if (this.upload.state !== "failed" && error instanceof Error) say(error.message);
      if (error instanceof UploadError && error.code === "unauthorized") askToken();
    });
  }

  remove() {
    const next = this.node.nextElementSibling ?? this.node.previousElementSibling;
    const hadFocus = this.node.contains(document.activeElement);
    this.node.remove();
    Row.all = Row.all.filter((row) => row !== this);
    if (hadFocus) (next instanceof HTMLElement ? next : element("choose-files", HTMLButtonElement)).focus();
    summary();
    advance();
  }
}

setInterval(() => Row.all.forEach((row) => row.tick()), 1000);

/** Starts what is next in line. */
function advance() {
  let free = FILES_AT_ONCE - Row.all.filter((row) => row.isActive).length;
  for (const row of Row.all) {
    if (free <= 0) break;
    if (row.isQueued && row.upload.state === "new") {
      free -= 1;
      row.isQueued = false;
      queueMicrotask(() => row.start());
    }
  }
}

function summary() {
  uploads.hidden = Row.all.length === 0;
  const counted = Row.all.map(({ upload }) => upload);
  const [bytes, all] = counted.reduce(([bytes, all], upload) => [bytes + upload.bytes, all + upload.size], [0, 0]);
  const proven = counted.filter(({ state }) => state === "proven").length;
  const rate = counted.reduce((sum, upload) => sum + upload.rate, 0);
  const texts = [`${proven} of ${counted.length} proven`, `${size(bytes)} of ${size(all)}`];
  if (rate >= 1) texts.push(`${size(rate)}/s`);
  total.textContent = texts.join(" \u00b7 ");
  const isGoing = Row.all.some((row) => row.isActive || (row.isQueued && row.upload.state === "new"));
  const isPaused = counted.some(({ state }) => state === "paused");
  pauseAll.hidden = !isGoing && !isPaused;
  pauseAll.textContent = isGoing ? "Pause all" : "Resume all";
  clear.hidden = !Row.all.some((row) => row.isOver);
  const percent = all > 0 ? Math.floor((100 * bytes) / all) : 0;
  document.title = isGoing ? `${percent}\u00a0% \u00b7 Upload` : "Upload";
}

pauseAll.addEventListener("click", () => {
  const isGoing = pauseAll.textContent === "Pause all";
  for (const { upload } of Row.all) {
    if (isGoing) upload.pause();
    else if (upload.state === "paused") void upload.resume();
  }
  summary();
});
clear.addEventListener("click", () => {
  for (const row of Row.all.slice()) if (row.isOver) row.remove();
  element("choose-files", HTMLButtonElement).focus();
});

// ---- The token, and whether the server is there ---------------------------------------------------------------------

function askToken() {
  const wasHidden = access.hidden;
  access.hidden = false;
  if (wasHidden || token !== null) tokenField.focus();
}

access.addEventListener("submit", (event) => {
  event.preventDefault();
  token = tokenField.value.trim();
  access.hidden = true;
  for (const { upload } of Row.all) if (upload.error?.code === "unauthorized") void upload.resume();
  void look();
});

/** @param {UploadError} error */
function showProblem(error) {
  problem.replaceChildren(made("strong", "", error.message), ` ${error.advice}`);
  problem.hidden = false;
}

/** Whether uploads will be taken. */
async function look() {
  problem.hidden = true;
  if (!globalThis.crypto?.subtle) return showProblem(new UploadError("insecure_context"));
  try {
    await listSessions({ token });
  } catch (error) {
    if (!(error instanceof UploadError)) throw error;
    if (error.code === "unauthorized") {
      if (token !== null) showProblem(error);
      askToken();
    } else showProblem(error);
  }
}

// ---- Choosing -------------------------------------------------------------------------------------------------------

/** @param {string} path */
const isHidden = (path) => path.split("/").some((segment) => segment.startsWith("."));

/** @param {Chosen[]} chosen */
function add(chosen) {
  // Systems put files of their own into folders.
  const wanted = chosen.filter(({ path }) => !path.includes("/") || !isHidden(path));
  const folder = into.value.split("/").filter((segment) => segment !== "").join("/");
  for (const one of wanted) {
    const name = (folder ? `${folder}/` : "") + one.path;
    if (Row.all.some(({ upload, isOver }) => upload.name === name && !isOver)) continue;
    new Row(one, name);
    removeKept(name);
  }
  const left = chosen.length - wanted.length;
  say(left > 0 ? `${wanted.length} files are added; ${left} hidden ones are left out.` : `${wanted.length} files are added.`);
  summary();
}

/** @param {FileList | null} files @returns {Chosen[]} */
const listed = (files) => Array.from(files ?? [], (file) => ({ file, path: file.webkitRelativePath || file.name, handle: null }));

for (const input of [filesInput, folderInput]) {
  input.addEventListener("change", () => {
    add(listed(input.files));
    input.value = "";
  });
}
element("choose-folder", HTMLButtonElement).addEventListener("click", () => folderInput.click());
element("choose-files", HTMLButtonElement).addEventListener("click", async () => {
  /** @type {{ showOpenFilePicker?: (options: object) => Promise<FileSystemFileHandle[]> }} */
  const picker = /** @type {any} */ (window);
  // With a handle, the file need not be chosen again after a reload.
  if (!picker.showOpenFilePicker) return filesInput.click();
  try {
    const handles = await picker.showOpenFilePicker({ multiple: true });
    add(await Promise.all(handles.map(async (handle) => ({ file: await handle.getFile(), path: handle.name, handle }))));
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) filesInput.click();
  }
});

/** @type {((file: File) => void) | null} */
let onChosen = null;
/** @param {(file: File) => void} then */
function chooseAgain(then) {
  onChosen = then;
  againInput.click();
}
againInput.addEventListener("change", () => {
  const file = againInput.files?.[0];
  againInput.value = "";
  if (file) onChosen?.(file);
});

/**
 * What an entry of a drop has: its files, with handles where the browser gives any. The handle of a folder leaves out what has a
 * name that some system does not allow, such as one with a colon; its entry does not.
 * @param {FileSystemEntry} entry @param {string} path @param {FileSystemHandle | null} handle @param {string[]} unread
 * @returns {AsyncGenerator<Chosen>}
 */
async function* below(entry, path, handle, unread) {
  try {
    if (entry.isFile) {
      const one = /** @type {FileSystemFileEntry} */ (entry);
      const known = handle?.kind === "file" ? /** @type {FileSystemFileHandle} */ (handle) : null;
      yield { file: await new Promise((resolve, reject) => one.file(resolve, reject)), path, handle: known };
      return;
    }
    const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
    for (;;) {
      /** @type {FileSystemEntry[]} */
      const children = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (children.length === 0) return;
      for (const child of children) yield* below(child, `${path}/${child.name}`, await handleOf(handle, child), unread);
    }
  } catch {
    // The others are there all the same.
    unread.push(path);
  }
}

/** @param {FileSystemHandle | null} handle @param {FileSystemEntry} child @returns {Promise<FileSystemHandle | null>} */
async function handleOf(handle, { isFile, name }) {
  if (handle?.kind !== "directory") return null;
  const folder = /** @type {FileSystemDirectoryHandle} */ (handle);
  try {
    return await (isFile ? folder.getFileHandle(name) : folder.getDirectoryHandle(name));
  } catch {
    return null;
  }
}

/** @param {DataTransferItem} item @param {string[]} unread @returns {Promise<Chosen[]>} */
function dropped(item, unread) {
  // All of it must be asked for before the event ends.
  const getHandle = /** @type {{ getAsFileSystemHandle?: () => Promise<FileSystemHandle | null> }} */ (item);
  const handle = getHandle.getAsFileSystemHandle?.().catch(() => null) ?? Promise.resolve(null);
  const entry = item.webkitGetAsEntry();
  const file = item.getAsFile();
  return (async () => {
    /** @type {Chosen[]} */
    const chosen = [];
    if (entry) for await (const one of below(entry, entry.name, await handle, unread)) chosen.push(one);
    else if (file) chosen.push({ file, path: file.name, handle: null });
    return chosen;
  })();
}

let depth = 0;
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth += 1;
  drop.classList.add("over");
});
addEventListener("dragleave", () => {
  depth = Math.max(depth - 1, 0);
  drop.classList.toggle("over", depth > 0);
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  depth = 0;
  drop.classList.remove("over");
  const items = Array.from(event.dataTransfer?.items ?? []).filter(({ kind }) => kind === "file");
  /** @type {string[]} */
  const unread = [];
  const found = await Promise.all(items.map((item) => dropped(item, unread)));
  add(found.flat());
  if (unread.length > 0) say(`${unread.length} of what was dropped cannot be read: ${visible(unread.join(", "))}`);
});

// ---- Earlier visits -------------------------------------------------------------------------------------------------

/** @param {string} name */
function removeKept(name) {
  for (const row of Array.from(keptRows.children)) if (row instanceof HTMLElement && row.dataset.name === name) row.remove();
  earlier.hidden = keptRows.children.length === 0;
}

/** The file of an earlier visit, if the browser still knows where it is. @param {Kept} kept @returns {Promise<File | null>} */
async function remembered({ handle }) {
  if (!handle) return null;
  /** @type {{ requestPermission?: (options: object) => Promise<string> }} */
  const asking = /** @type {any} */ (handle);
  try {
    if ((await asking.requestPermission?.({ mode: "read" })) !== "granted") return null;
    return await handle.getFile();
  } catch {
    return null;
  }
}

/** @param {Kept} kept */
function showKept(kept) {
  const row = made("li", "row paused");
  row.tabIndex = -1;
  row.dataset.name = kept.name;
  const name = made("span", "name", visible(kept.name));
  name.dir = "auto";
  const bar = made("progress");
  const sent = Math.min(kept.sent, kept.size);
  bar.max = 1;
  bar.value = kept.size > 0 ? sent / kept.size : 0;
  bar.setAttribute("aria-label", `Progress of ${visible(kept.name)}`);
  const detail = made("span", "detail", `${size(sent)} of ${size(kept.size)}`);
  const actions = made("span", "actions");
  const resume = made("button", "small main", kept.handle ? "Resume" : "Choose the file");
  const discard = made("button", "small", "Discard");
  for (const [button, verb] of /** @type {[HTMLButtonElement, string][]} */ ([[resume, "Resume"], [discard, "Discard"]])) {
    button.type = "button";
    button.setAttribute("aria-label", `${verb}: ${visible(kept.name)}`);
  }
  /** @param {File} file @param {FileSystemFileHandle | null} handle */
  const go = (file, handle) => {
    const added = new Row({ file, path: kept.name, handle }, kept.name);
    removeKept(kept.name);
    summary();
    added.node.focus();
  };
  resume.addEventListener("click", async () => {
    const file = await remembered(kept);
    if (file) go(file, kept.handle);
    else chooseAgain((file) => go(file, null));
  });
  discard.addEventListener("click", async () => {
    discard.disabled = true;
    try {
      await Upload.discard(kept, { token: giveToken });
      removeKept(kept.name);
      say(`${visible(kept.name)} is discarded.`);
      element("choose-files", HTMLButtonElement).focus();
    } catch (error) {
      discard.disabled = false;
      if (error instanceof UploadError && error.code === "unauthorized") askToken();
      else if (error instanceof Error) say(error.message);
    }
  });
  actions.append(resume, discard);
  row.append(name, made("span", "state", `begun ${new Date(kept.started).toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`), bar, detail, actions);
  keptRows.append(row);
  earlier.hidden = false;
}

element("host", HTMLElement).textContent = `to ${location.host}`;
void look();
for (const kept of await Upload.unfinished()) if (!(await Upload.isElsewhere(kept))) showKept(kept);
document.documentElement.dataset.ready = "true";
