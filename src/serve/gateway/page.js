"use strict";

// The page polls state.json: often while something changes, seldom while nothing does, never while it is hidden.
const POLL_MS = 500;
const IDLE_POLL_MS = 4000;
const TEXT_BYTES = 64 * 1024;

const element = (id) => document.getElementById(id);
const make = (name, text) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  return made;
};

// The path of the object that is shown, as it is below the token. null: the first one.
let chosen = null;
// The folder that is listed. library: its number, or null for the list of all objects and libraries.
const place = { library: null, folder: "", filter: "" };
let listed = null;
let shownRoot = null;
let state = null;
let lastText = "";
let wait = POLL_MS;
let timer = 0;

const bytesText = (bytes) => {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 99.95 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
};
const blockSizeText = (bytes) => (bytes >= 1 << 20 ? `${bytes / (1 << 20)} MiB` : `${bytes / 1024} KiB`);
const rangeText = (start, end) => (end > start ? `${start}-${end - 1}` : "none");
const percent = (part, all) => (all === 0 ? 100 : Math.floor((100 * part) / all));

const TRUST = {
  signed: "signed: the manifest has a valid signature of the key that was given",
  root: "root: the manifest has the root that was given",
  manifest: "manifest: proven against the manifest beside the object, which nobody vouched for",
};

// ---- Polling

async function poll() {
  clearTimeout(timer);
  try {
    const query = chosen === null ? "" : `?path=${encodeURIComponent(chosen)}`;
    const response = await fetch(`-/state.json${query}`, { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const text = await response.text();
    wait = text === lastText ? Math.min(wait * 1.5, IDLE_POLL_MS) : POLL_MS;
    if (text !== lastText) {
      const isFirst = state === null;
      lastText = text;
      state = JSON.parse(text);
      if (isFirst && state.libraries.length > 0) await follow();
      show();
    }
    problem("gateway", "");
  } catch {
    wait = IDLE_POLL_MS;
    problem("gateway", "The gateway does not respond. It ends with the command that started it.");
  }
  if (!document.hidden) timer = setTimeout(poll, wait);
}

document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : poll()));

const problems = new Map();

function problem(what, text) {
  if ((problems.get(what) ?? "") === text) return;
  problems.set(what, text);
  const all = [...problems.values()].filter((text) => text !== "").join(" ");
  const shown = element("problem");
  shown.hidden = all === "";
  shown.textContent = all;
}

// ---- The list of objects

const current = () => (state && state.shown ? state.shown.object : null);
// A file of a library that nobody has requested yet has no blocks to show.
const isOpen = () => Boolean(state && state.shown && state.shown.cells);

function show() {
  showList();
  const object = current();
  for (const id of ["player", "about"]) element(id).hidden = !object;
  element("blocks").hidden = !isOpen();
  if (!object) return showLibrary();
  if (shownRoot !== object.root + object.name) {
    shownRoot = object.root + object.name;
    document.title = `${object.name} - Sapwood`;
    element("name").textContent = object.name;
    showPlayer(object);
  }
  showFacts(object, state.shown);
  showWrong(state.shown.wrong ?? []);
  drawMap();
}

function showLibrary() {
  const library = state.libraries[place.library ?? 0];
  shownRoot = null;
  element("refused").hidden = true;
  if (!library) return;
  document.title = `${library.name} - Sapwood`;
  element("name").textContent = library.name;
}

// One row for each thing that can be chosen: { name, note, isCurrent, choose }.
function rows() {
  if (place.library === null) {
    const libraries = state.libraries.map((library) => ({
      name: `${library.name}/`,
      note: countText(library.files, library.bytes),
      choose: () => go(library.prefix),
    }));
    return [...state.objects.map(rowOfObject), ...libraries];
  }
  if (!listed) return [];
  const { prefix } = state.libraries[place.library];
  const folders = listed.folders.map((folder) => ({
    name: `${folder.name}/`,
    note: countText(folder.files, folder.bytes),
    choose: () => go(`${prefix}${place.folder}${folder.name}/`),
  }));
  const files = listed.files.map((file) => ({
    name: file.name,
    note: bytesText(file.length),
    isCurrent: file.path === chosen,
    choose: () => choose(file.path),
  }));
  return [...folders, ...files];
}

function rowOfObject(object) {
  const here = percent(object.bytes_proven + object.bytes_cached, object.length);
  const wrong = object.bytes_wrong > 0 ? ", damaged" : "";
  return {
    name: object.name,
    note: `${bytesText(object.length)}, ${here} % here${wrong}`,
    isCurrent: object.name === (current() ?? {}).name,
    choose: () => choose(object.name),
  };
}

const countText = (files, bytes) => `${files} ${files === 1 ? "file" : "files"}, ${bytesText(bytes)}`;

let shownRows = [];

function showList() {
  const all = rows();
  shownRows = all;
  const list = element("list");
  element("objects").hidden = state.objects.length < 2 && state.libraries.length === 0;
  element("library").hidden = place.library === null;
  while (list.children.length > all.length) list.lastChild.remove();
  while (list.children.length < all.length) {
    const button = make("button");
    button.type = "button";
    button.append(make("b"), make("small"));
    const item = make("li");
    item.append(button);
    list.append(item);
  }
  const reachable = Math.max(0, all.findIndex((row) => row.isCurrent));
  all.forEach((row, index) => {
    const button = list.children[index].firstChild;
    if (button.children[0].textContent !== row.name) button.children[0].textContent = row.name;
    if (button.children[1].textContent !== row.note) button.children[1].textContent = row.note;
    button.tabIndex = index === reachable ? 0 : -1;
    if (row.isCurrent) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
}

function choose(path) {
  chosen = path;
  lastText = "";
  if (place.library !== null) rememberPlace(path);
  const scroll = poll();
  if (state.libraries.length > 0) scroll.then(() => element("name").scrollIntoView({ block: "nearest" }));
}

element("list").addEventListener("click", (event) => {
  const item = event.target.closest("li");
  const row = shownRows[[...element("list").children].indexOf(item)];
  if (row) row.choose();
});

element("list").addEventListener("keydown", (event) => {
  const buttons = [...element("list").querySelectorAll("button")];
  const at = buttons.indexOf(event.target);
  const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 };
  if (event.key === "ArrowLeft" && place.library !== null) return goUp();
  if (!(event.key in moves) || at < 0) return;
  event.preventDefault();
  const next = buttons[Math.max(0, Math.min(moves[event.key], buttons.length - 1))];
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
  // Of few objects each is shown at once; the files of a library are opened when they are chosen.
  if (place.library === null && state.libraries.length === 0) next.click();
});

// ---- Libraries

// The place is in the fragment of the URL, so that the browser goes back and forth between folders.
const fragmentOf = (path) => `#${path.split("/").map(encodeURIComponent).join("/")}`;

function rememberPlace(path) {
  history.replaceState(null, "", fragmentOf(path));
}

function go(path) {
  if (location.hash === fragmentOf(path)) follow();
  else location.hash = fragmentOf(path);
}

function goUp() {
  const { prefix } = state.libraries[place.library];
  const above = place.folder.replace(/[^/]*\/$/, "");
  if (place.folder !== "") go(prefix + above);
  else if (prefix !== "") go("");
}

// Lists what the fragment names: a folder, or the folder of a file, which is shown.
async function follow() {
  let path = "";
  try {
    path = location.hash.slice(1).split("/").map(decodeURIComponent).join("/");
  } catch {
    // It is no fragment of ours.
  }
  const library = state.libraries.findIndex(({ prefix }) => path.startsWith(prefix));
  place.library = library < 0 ? null : library;
  if (place.library !== null) {
    const below = path.slice(state.libraries[library].prefix.length);
    const end = below.lastIndexOf("/") + 1;
    place.folder = below.slice(0, end);
    if (end < below.length) chosen = path;
  }
  place.filter = "";
  element("filter").value = "";
  await list();
}

async function list() {
  if (place.library === null) {
    showList();
    return;
  }
  const { library, folder, filter } = place;
  const query = `library=${library}&folder=${encodeURIComponent(folder)}&filter=${encodeURIComponent(filter)}`;
  try {
    const response = await fetch(`-/folder.json?${query}`, { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const found = await response.json();
    // A later request may have been faster.
    if (library !== place.library || folder !== place.folder || filter !== place.filter) return;
    listed = found;
  } catch {
    problem("gateway", "The gateway does not respond. It ends with the command that started it.");
    return;
  }
  showCrumbs();
  const count = listed.folders.length + listed.files.length;
  const found = filter === "" ? "" : `${count === 0 ? "No file" : countText(count, listed.files.reduce((sum, file) => sum + file.length, 0))} found`;
  element("count").textContent = listed.truncated ? `The first ${count} are shown; filter for others.` : found;
  showList();
}

function showCrumbs() {
  const { name, prefix } = state.libraries[place.library];
  const crumb = (text, path, isLast) => {
    const button = make("button", text);
    button.type = "button";
    if (isLast) button.setAttribute("aria-current", "location");
    button.addEventListener("click", () => go(path));
    return button;
  };
  const names = place.folder.split("/").slice(0, -1);
  const crumbs = names.map((folder, index) =>
    crumb(`${folder}/`, `${prefix}${names.slice(0, index + 1).join("/")}/`, index === names.length - 1),
  );
  const all = prefix === "" ? [] : [crumb("all", "", false)];
  element("crumbs").replaceChildren(...all, crumb(`${name}/`, prefix, names.length === 0), ...crumbs);
}

window.addEventListener("hashchange", () => {
  if (state && state.libraries.length > 0) follow().then(poll);
});

let typing = 0;
element("filter").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    place.filter = event.target.value.trim();
    list();
  }, 150);
});

element("filter").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown") return;
  event.preventDefault();
  const first = element("list").querySelector("button");
  if (first) first.focus();
});

// A slash leads to the filter, as on many pages.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input") || element("library").hidden) return;
  event.preventDefault();
  element("filter").focus();
});

// ---- The player

function showPlayer(object) {
  const player = element("player");
  const type = object.type.split(";")[0];
  problem("player", "");
  player.replaceChildren();
  const isPlaylist = type === "application/vnd.apple.mpegurl" || type === "audio/mpegurl";
  const kind = isPlaylist ? "video" : type.split("/")[0];
  const native = !isPlaylist || make("video").canPlayType("application/vnd.apple.mpegurl") !== "";
  if ((kind === "video" || kind === "audio") && native) {
    const media = make(kind);
    media.controls = true;
    media.preload = "metadata";
    media.playsInline = true;
    media.setAttribute("aria-label", object.name);
    media.addEventListener("error", () => mediaFailed(media, type));
    media.src = object.href;
    player.append(media);
  } else if (kind === "image") {
    const image = make("img");
    image.alt = object.name;
    image.src = object.href;
    player.append(image);
  } else if (kind === "text" || type === "application/json") {
    const text = make("pre");
    text.tabIndex = 0;
    player.append(text);
    showText(object, text);
  }
  const link = make("a", isPlaylist ? "Open the playlist in a player of your choice" : "Open or save the object");
  link.href = object.href;
  const paragraph = make("p");
  paragraph.append(link);
  if (isPlaylist && !native) paragraph.append(". This browser does not play HLS by itself.");
  player.append(paragraph);
}

function mediaFailed(media, type) {
  const damaged = current().bytes_wrong > 0;
  const text = damaged
    ? "The player stopped: the next bytes are damaged at every source, and damaged bytes are sent to no player."
    : media.error && media.error.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED
      ? `This browser cannot play it (${type}), or its bytes could not be fetched.`
      : "The player stopped: the next bytes could not be fetched.";
  problem("player", text);
}

async function showText(object, shown) {
  try {
    const response = await fetch(object.href, { headers: { Range: `bytes=0-${TEXT_BYTES - 1}` } });
    if (!response.ok && response.status !== 416) throw new Error(await response.text());
    shown.textContent = response.status === 416 ? "" : await response.text();
    if (object.length > TEXT_BYTES) shown.append(`\n... the first ${bytesText(TEXT_BYTES)} of ${bytesText(object.length)}`);
  } catch (cause) {
    shown.remove();
    problem("player", `The text could not be fetched: ${cause.message}`);
  }
}

// Space plays and pauses, wherever the focus is, unless it does something there already.
document.addEventListener("keydown", (event) => {
  const media = document.querySelector("#player video, #player audio");
  const isTaken = event.target.closest("button, a, input, video, audio, pre");
  if (event.key !== " " || !media || isTaken || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (media.paused) media.play().catch(() => {});
  else media.pause();
});

// ---- Facts

function showFacts(object, shown) {
  const length = object.length_proven ? "" : " (declared, not proven yet)";
  const facts = [
    ["Length", `${object.length} bytes, ${bytesText(object.length)}${length}`],
    ...(isOpen() ? [["Blocks", `${object.blocks} of ${blockSizeText(object.block_size)}`]] : []),
    ["Trust", TRUST[object.trust] ?? object.trust],
    ["Root", copyable(object.root, object.root)],
    ...(isOpen() ? factsOfOpen(shown) : []),
    ["Type", object.type],
  ];
  const list = element("facts");
  const key = JSON.stringify([object, shown.sources, shown.bytes_fetched, shown.readers]);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...facts.flatMap(([name, value]) => {
      const description = make("dd");
      description.append(value);
      return [make("dt", name), description];
    }),
  );
}

function factsOfOpen(shown) {
  const readers = shown.readers.map((at) => `bytes ${rangeText(at.start, at.end)}`);
  return [
    [shown.sources.length === 1 ? "Source" : "Sources", lines(shown.sources)],
    ["Fetched", `${bytesText(shown.bytes_fetched)} in this run, manifest included`],
    ["Readers", readers.length === 0 ? "none" : lines(readers)],
  ];
}

function lines(texts) {
  const all = document.createDocumentFragment();
  texts.slice(0, 8).forEach((text, index) => {
    if (index > 0) all.append(make("br"));
    all.append(text);
  });
  if (texts.length > 8) all.append(make("br"), `and ${texts.length - 8} more`);
  return all;
}

function copyable(text, shown) {
  const button = make("button", shown);
  button.type = "button";
  button.className = "copy";
  button.title = `Copy ${text}`;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      return;
    }
    button.classList.add("copied");
    element("said").textContent = "copied";
    setTimeout(() => {
      button.classList.remove("copied");
      element("said").textContent = "";
    }, 1500);
  });
  return button;
}

function showWrong(wrong) {
  element("refused").hidden = wrong.length === 0;
  const body = element("wrong");
  const key = JSON.stringify(wrong);
  if (body.dataset.key === key) return;
  body.dataset.key = key;
  body.replaceChildren(
    ...wrong.toReversed().map((block) => {
      const row = make("tr");
      const cell = (content, name) => {
        const made = make("td");
        if (name) made.className = name;
        made.append(content);
        row.append(made);
      };
      cell(String(block.block));
      cell(rangeText(block.start, block.end));
      cell(block.source, "source");
      cell(copyable(block.expected, `${block.expected.slice(0, 12)}\u2026`));
      cell(copyable(block.found, `${block.found.slice(0, 12)}\u2026`));
      cell(block.is_here ? "proven" : "missing");
      return row;
    }),
  );
}

// ---- The map of blocks

const canvas = element("map");
const WORDS = { p: "proven in this run", c: "cached", h: "partly here", m: "missing", w: "wrong" };
let grid = { columns: 1, size: 1 };

function drawMap() {
  if (!isOpen()) return;
  const { cells, readers, object } = state.shown;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const width = canvas.clientWidth;
  const scale = window.devicePixelRatio || 1;
  // Cells are about 12 pixels wide; few of them are wider, so that they fill the row.
  const columns = Math.max(1, Math.min(cells.length, Math.floor(width / (cells.length > 512 ? 11 : 14))));
  const size = width / columns;
  const height = Math.min(size, 22);
  const rows = Math.ceil(cells.length / columns);
  grid = { columns, size, height };
  canvas.style.height = `${rows * height}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(rows * height * scale);
  const paint = canvas.getContext("2d");
  paint.scale(scale, scale);
  for (let index = 0; index < cells.length; index += 1) {
    const x = (index % columns) * size;
    const y = Math.floor(index / columns) * height;
    drawCell(paint, cells[index], x + 0.75, y + 0.75, size - 1.5, height - 1.5, colour);
  }
  for (const reader of readers) drawReader(paint, reader, object, cells.length, colour);
  describeMap(object, cells, readers);
}

// Each state has a lightness or a pattern of its own, so that colours alone need not tell them apart.
function drawCell(paint, kind, x, y, width, height, colour) {
  paint.fillStyle = { p: colour("--accent"), c: colour("--cached"), w: colour("--wrong") }[kind] ?? colour("--missing");
  paint.beginPath();
  paint.roundRect(x, y, width, height, 2);
  paint.fill();
  if (kind === "h") {
    paint.fillStyle = colour("--cached");
    paint.fillRect(x, y + height / 2, width, height / 2);
  }
  if (kind === "w") {
    paint.save();
    paint.clip();
    paint.strokeStyle = colour("--ground");
    paint.lineWidth = 1.5;
    paint.beginPath();
    for (let at = -height; at < width; at += 5) {
      paint.moveTo(x + at, y + height);
      paint.lineTo(x + at + height, y);
    }
    paint.stroke();
    paint.restore();
  }
}

function drawReader(paint, reader, object, count, colour) {
  const cell = cellOf(reader.start, object, count);
  const x = (cell % grid.columns) * grid.size + grid.size / 2;
  const y = Math.floor(cell / grid.columns) * grid.height;
  paint.fillStyle = colour("--ground");
  paint.fillRect(x - 2.5, y, 5, grid.height);
  paint.fillStyle = colour("--reader");
  paint.fillRect(x - 1.25, y, 2.5, grid.height);
}

function cellOf(byte, object, count) {
  const block = Math.min(object.blocks - 1, Math.floor(byte / object.block_size));
  return Math.min(count - 1, Math.floor(((block + 1) * count - 1) / object.blocks));
}

function describeMap(object, cells, readers) {
  const missing = object.length - object.bytes_proven - object.bytes_cached - object.bytes_wrong;
  const counts = { proven: object.bytes_proven, cached: object.bytes_cached, missing, wrong: object.bytes_wrong };
  for (const [name, bytes] of Object.entries(counts)) element(`count-${name}`).textContent = bytesText(bytes);
  const perCell = object.blocks > cells.length ? `, about ${Math.ceil(object.blocks / cells.length)} a cell` : "";
  canvas.setAttribute("aria-label", `Map of ${object.blocks} blocks${perCell}`);
  element("map-text").textContent =
    Object.entries(counts).map(([name, bytes]) => `${name}: ${bytesText(bytes)}`).join(", ") +
    `; readers: ${readers.length}`;
}

canvas.addEventListener("mousemove", (event) => {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / grid.size);
  const cell = Math.floor((event.clientY - box.top) / grid.height) * grid.columns + column;
  const cells = isOpen() ? state.shown.cells : "";
  if (column >= grid.columns || cell < 0 || cell >= cells.length) return;
  const object = current();
  const first = Math.floor((cell * object.blocks) / cells.length);
  const last = Math.floor(((cell + 1) * object.blocks) / cells.length) - 1;
  const blocks = first === last ? `block ${first}` : `blocks ${first}-${last}`;
  element("cell").textContent = `${blocks}: ${WORDS[cells[cell]]}`;
});
canvas.addEventListener("mouseleave", () => (element("cell").textContent = ""));
new ResizeObserver(drawMap).observe(element("map-title").parentElement);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);

poll();
