// Clients that know nothing of sapwood upload to `sapwood serve --ingest`: unmodified Uppy in Chromium, tus-js-client in Node.
// With a real S3 server behind it: python3 tools/garage.py run node --test tools/web/clients/clients.test.mjs
import assert from "node:assert/strict";
import { spawn, execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PROGRAM = process.env.SAPWOOD_PROGRAM ?? path.resolve(HERE, "../../../target/debug/sapwood");
const CHROMIUM = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);
/** Waits are for states: only a hang lasts so long. */
const PATIENCE_MS = 120_000;
/** Where objects go instead of the served folder: a folder of a bucket. @type {string | undefined} */
const STORAGE = process.env.SAPWOOD_STORAGE;
const PART = 5 << 20;
const LENGTH = 50_000_000;

async function until(condition, what) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function folder(t) {
  const made = mkdtempSync(path.join(os.tmpdir(), "sapwood-clients-"));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** Of its server, and of what is fetched from there. */
function stateOf(site) {
  return path.join(os.tmpdir(), `${path.basename(site)}-state`);
}

/** A server for this folder. */
async function serve(t, site, more = [], port = 0) {
  const state = stateOf(site);
  t.after(() => rmSync(state, { recursive: true, force: true }));
  const storage = STORAGE ? ["--storage", `${STORAGE}/${path.basename(site)}`] : [];
  const args = ["--store", state, "serve", site, "--ingest", "--listen", `127.0.0.1:${port}`, ...storage, ...more];
  const child = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const [line] = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once("line", (...line) => resolve(line));
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  const url = line.trim().replace(/\/$/, "");
  return {
    url,
    port: new URL(url).port,
    kill: () =>
      new Promise((resolve) => {
        child.once("exit", resolve);
        child.kill("SIGKILL");
      }),
  };
}

/** How many bytes of parts came. */
async function received(server) {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return Number(/^sapwood_upload_received_bytes_total (\d+)$/m.exec(text)[1]);
}

/** The object is this content, and its manifest proves it. */
async function check(server, site, name, content) {
  let found = path.join(site, name);
  if (STORAGE) {
    found = path.join(stateOf(site), "object");
    for (const more of ["", ".sapwood"]) {
      const response = await fetch(`${server.url}/${encodeURI(name + more)}`);
      assert.ok(response.redirected && response.ok, `${name}${more}: status ${response.status}`);
      writeFileSync(found + more, Buffer.from(await response.arrayBuffer()));
    }
  }
  assert.ok(readFileSync(found).equals(content), `${name} has other bytes`);
  execFileSync(PROGRAM, ["--quiet", "verify", found, "--manifest", `${found}.sapwood`]);
}

function painted(length) {
  const words = new Uint32Array(length / 4);
  for (let at = 0; at < words.length; at += 1) words[at] = Math.imul(at + 1, 2654435761);
  return Buffer.from(words.buffer);
}

/** Chromium with the page, which another origin than the server has. */
async function open(t, site) {
  const made = await build({ entryPoints: [path.join(HERE, "page.mjs")], bundle: true, format: "esm", write: false });
  const script = made.outputFiles[0].text;
  const pages = http.createServer((request, response) => {
    const isScript = request.url === "/page.js";
    response.setHeader("Content-Type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : "<!doctype html><script type=module src=/page.js></script>");
  });
  await new Promise((resolve) => pages.listen(0, "127.0.0.1", resolve));
  t.after(() => pages.close());
  const origin = `http://127.0.0.1:${pages.address().port}`;
  const server = await serve(t, site, ["--cors", origin]);
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  t.after(() => browser.close());
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error));
  await page.goto(origin);
  await page.waitForFunction(() => window.make);
  return { server, page };
}

test("Uppy uploads in parts, pauses, and goes on after a reload", { timeout: 4 * PATIENCE_MS }, async (t) => {
  const site = folder(t);
  const { server, page } = await open(t, site);
  const options = { retriever: true, s3: { shouldUseMultipart: true } };
  const count = () => page.evaluate(() => window.seen.parts);
  await page.evaluate(([url, options]) => window.make(url, options), [server.url, options]);
  await page.evaluate(([length]) => window.add("a talk.bin", length, {}), [LENGTH]);
  await page.evaluate(() => {
    window.pauseAfter(2);
    void window.uppy.upload();
  });
  await until(async () => (await count()) === 2, "two parts were sent");
  await page.evaluate(() => {
    window.pauseAfter(4);
    window.uppy.resumeAll();
  });
  await until(async () => (await count()) === 4, "two more parts were sent");
  await until(() => page.evaluate(() => window.isKept()), "the plugin has kept the upload");
  const before = await received(server);
  assert.ok(!existsSync(path.join(site, "a talk.bin")));
  await page.reload();
  await page.waitForFunction(() => window.make);
  await page.evaluate(([url, options]) => window.make(url, options), [server.url, options]);
  await until(() => page.evaluate(() => window.seen.restored === 1), "the upload is restored");
  const state = await page.evaluate(() => window.uppy.getFiles().map(({ s3Multipart, isGhost }) => ({ s3Multipart, isGhost })));
  assert.ok(state[0].s3Multipart?.uploadId, JSON.stringify(state));
  await page.evaluate(() => window.uppy.emit("restore-confirmed"));
  await until(() => page.evaluate(() => window.seen.done.length === 1 || window.seen.error), "all is sent");
  assert.equal(await page.evaluate(() => window.seen.error), null);
  assert.deepEqual(await page.evaluate(() => window.seen.done), [`${server.url}/a%20talk.bin`]);
  await check(server, site, "a talk.bin", painted(LENGTH));
  assert.equal(await count(), Math.ceil(LENGTH / PART) - 4, "parts that were there are not sent again");
  // What was on its way at a pause is sent again.
  const all = await received(server);
  assert.ok(before >= 4 * PART && all <= LENGTH + 2 * PART, `${before}, ${all}`);
});

test("Uppy uploads in one request, by tus, and shows why not", { timeout: 4 * PATIENCE_MS }, async (t) => {
  const site = folder(t);
  const { server, page } = await open(t, site);
  const upload = async (name, length, options, meta = {}) => {
    await page.reload();
    await page.waitForFunction(() => window.make);
    await page.evaluate(([url, options]) => window.make(url, options), [server.url, options]);
    await page.evaluate(([name, length, meta]) => window.add(name, length, meta), [name, length, meta]);
    await page.evaluate(() => void window.uppy.upload());
    return until(() => page.evaluate(() => (window.seen.done.length === 1 || window.seen.error) && window.seen), name);
  };
  const one = await upload("one ü.bin", 20_000_000, {});
  assert.deepEqual([one.error, one.done], [null, [encodeURI(`${server.url}/one ü.bin`)]]);
  await check(server, site, "one ü.bin", painted(20_000_000));
  assert.equal((await fetch(one.done[0])).status, 200);
  const taken = await upload("one ü.bin", 1000, {});
  assert.match(taken.error, /one \?+\.bin exists/);
  const forced = await upload("one ü.bin", 1000, { s3: { shouldUseMultipart: true } });
  assert.match(forced.error, /one \?+\.bin exists/);
  const replaced = await upload("one ü.bin", 2000, {}, { replace: true });
  assert.equal(replaced.error, null);
  await check(server, site, "one ü.bin", painted(2000));
  const parts = await upload("x", 5 * PART, { s3: { shouldUseMultipart: true } }, { partSize: 2 * PART });
  assert.match(parts.error, /network|getChunkSize/);
  const tus = await upload("tus.bin", 20_000_000, { tus: true });
  assert.equal(tus.error, null);
  await check(server, site, "tus.bin", painted(20_000_000));
});

/** A process with tus-js-client. */
function tus(t, server, file, protocol, urls) {
  const args = [path.join(HERE, "tus-client.mjs"), `${server.url}/.sapwood/resumable/`, file, protocol, urls];
  const child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const lines = [];
  createInterface({ input: child.stdout }).on("line", (line) => lines.push(line));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  return {
    lines,
    ended,
    pause: () => child.stdin.write("pause\n"),
    kill: () => {
      child.kill("SIGKILL");
      return ended;
    },
    /** Waits for a chunk that ends at so many bytes or more. */
    at: (bytes) =>
      until(() => {
        assert.ok(!lines.some((line) => line.startsWith("error")), lines.join("\n"));
        return lines.some((line) => line.startsWith("chunk ") && Number(line.slice(6)) >= bytes);
      }, `${bytes} bytes were taken`),
  };
}

for (const protocol of ["tus-v1", "ietf-draft-03", "ietf-draft-05"]) {
  test(`tus-js-client pauses, and outlives itself and the server: ${protocol}`, { timeout: 4 * PATIENCE_MS }, async (t) => {
    const [site, own] = [folder(t), folder(t)];
    const content = randomBytes(LENGTH);
    const file = path.join(own, "talk.bin");
    writeFileSync(file, content);
    let server = await serve(t, site);
    const first = tus(t, server, file, protocol, path.join(own, "urls"));
    await first.at(6 << 20);
    first.pause();
    await first.at(15 << 20);
    assert.ok(first.lines.includes("paused"));
    await first.kill();
    const second = tus(t, server, file, protocol, path.join(own, "urls"));
    await second.at(27 << 20);
    await server.kill();
    await until(() => second.lines.includes("retry"), "the client sees that the server is gone");
    server = await serve(t, site, [], server.port);
    assert.equal(await second.ended, 0, second.lines.join("\n"));
    assert.equal(second.lines[0], "earlier 1");
    const chunks = second.lines.filter((line) => line.startsWith("chunk ")).map((line) => Number(line.slice(6)));
    assert.ok(chunks[0] >= 15 << 20, "it went on where the first one was");
    await check(server, site, "talk.bin", content);
  });
}
