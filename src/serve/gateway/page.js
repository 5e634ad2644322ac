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

let chosen = 0;
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
    const response = await fetch(`-/state.json?object=${chosen}`, { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const text = await response.text();
    wait = text === lastText ? Math.min(wait * 1.5, IDLE_POLL_MS) : POLL_MS;
    if (text !== lastText) {
      lastText = text;
      state = JSON.parse(text);
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

function show() {
  const object = state.objects[chosen];
  if (!object || !state.shown) return;
  showList();
  if (shownRoot !== object.root + object.name) {
    shownRoot = object.root + object.name;
    document.title = `${object.name} - Sapwood`;
    element("name").textContent = object.name;
    showPlayer(object);
  }
  showFacts(object, state.shown);
  showWrong(state.shown.wrong);
  drawMap();
}

function showList() {
  const list = element("list");
  element("objects").hidden = state.objects.length < 2;
  while (list.children.length < state.objects.length) {
    const button = make("button");
    button.type = "button";
    button.append(make("b"), make("small"));
    const index = list.children.length;
    button.addEventListener("click", () => choose(index));
    const item = make("li");
    item.append(button);
    list.append(item);
  }
  state.objects.forEach((object, index) => {
    const button = list.children[index].firstChild;
    const here = percent(object.bytes_proven + object.bytes_cached, object.length);
    const wrong = object.bytes_wrong > 0 ? ", damaged" : "";
    button.children[0].textContent = object.name;
    button.children[1].textContent = `${bytesText(object.length)}, ${here} % here${wrong}`;
    button.tabIndex = index === chosen ? 0 : -1;
    if (index === chosen) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  });
}

function choose(index) {
  chosen = Math.max(0, Math.min(index, state.objects.length - 1));
  element("list").children[chosen].firstChild.focus();
  lastText = "";
  poll();
}

element("list").addEventListener("keydown", (event) => {
  const moves = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, Home: 0, End: state.objects.length - 1 };
  if (!(event.key in moves)) return;
  event.preventDefault();
  choose(moves[event.key]);
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
  const damaged = state.objects[chosen].bytes_wrong > 0;
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
    ["Blocks", `${object.blocks} of ${blockSizeText(object.block_size)}`],
    ["Trust", TRUST[object.trust] ?? object.trust],
    ["Root", copyable(object.root, object.root)],
    [shown.sources.length === 1 ? "Source" : "Sources", lines(shown.sources)],
    ["Fetched", `${bytesText(shown.bytes_fetched)} in this run, manifest included`],
    ["Readers", shown.readers.length === 0 ? "none" : lines(shown.readers.map((at) => `bytes ${rangeText(at.start, at.end)}`))],
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
  if (!state || !state.shown) return;
  const { cells, readers } = state.shown;
  const object = state.objects[chosen];
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
  const cells = state && state.shown ? state.shown.cells : "";
  if (column >= grid.columns || cell < 0 || cell >= cells.length) return;
  const object = state.objects[chosen];
  const first = Math.floor((cell * object.blocks) / cells.length);
  const last = Math.floor(((cell + 1) * object.blocks) / cells.length) - 1;
  const blocks = first === last ? `block ${first}` : `blocks ${first}-${last}`;
  element("cell").textContent = `${blocks}: ${WORDS[cells[cell]]}`;
});
canvas.addEventListener("mouseleave", () => (element("cell").textContent = ""));
new ResizeObserver(drawMap).observe(element("map-title").parentElement);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);

poll();
