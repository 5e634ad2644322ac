// What goes wrong between a page and its server, and what the page makes of it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { mkdir, open, rm, utimes, writeFile } from "node:fs/promises";
import path from "node:path";

import { Browser, chooseBy, folder, PART, randomFile, ready, Relay, rootOf, Server, shownRoot, state, until } from "../harness.mjs";

let browser;
// A name that is no loopback address leads to this machine, as an attacker's may.
before(async () => (browser = await Browser.start(["--host-resolver-rules=MAP sapwood.test 127.0.0.1"])));
after(() => browser.stop());

const errorText = (page) => page.locator("#rows .error").textContent();
const click = (page, name) => page.getByRole("button", { name }).click();

/** A server, a relay, a page and a file of some parts. */
async function scene(t, { length = 4 * PART + 12345, name = "a.bin", server: options, ...page } = {}) {
  const file = await randomFile(path.join(await folder(t), name), length);
  const server = await Server.start(t, options);
  const relay = await Relay.start(t, server);
  return { file, server, relay, page: await browser.page(t, relay.url, page) };
}

/** Uploads up to some finished parts, and holds the rest. */
async function half({ page, relay, server, file }) {
  relay.hold(2.5 * PART);
  await page.setInputFiles("#files", file);
  await relay.isHolding();
  return until(async () => (await server.finished()).length > 0 && server.finished(), "a part is finished");
}

test("offline, and online again", async (t) => {
  const { file, relay, page, server } = await scene(t);
  await half({ page, relay, server, file });
  await page.context().setOffline(true);
  await page.getByText("Waiting for the network", { exact: true }).waitFor();
  relay.release();
  await page.context().setOffline(false);
  assert.equal(await shownRoot(page), await rootOf(file));
});

test("a file that changed between visits", async (t) => {
  const { file, relay, page, server } = await scene(t);
  await half({ page, relay, server, file });
  await page.reload();
  relay.release();
  await ready(page);
  const [session] = await server.sessions();
  // The same size, and even the same time.
  const changed = await open(file, "r+");
  const { mtime } = await changed.stat();
  await changed.write(Buffer.alloc(PART), 0, PART, session.parts[0].index * PART);
  await changed.close();
  await utimes(file, mtime, mtime);
  await chooseBy(page, "Resume: a.bin", file);
  await state(page, "failed");
  assert.match(await errorText(page), /The file is not the one that this upload began with/);
  assert.equal((await server.sessions())[0].state, "open");
  await click(page, "Start again: a.bin");
  assert.equal(await shownRoot(page), await rootOf(file));
  const states = (await server.sessions()).map(({ state }) => state);
  assert.deepEqual(states.sort(), ["aborted", "done"]);

  // Another size is seen at once.
  const other = await randomFile(path.join(path.dirname(file), "b.bin"), 3 * PART);
  relay.hold(1.5 * PART);
  await page.setInputFiles("#files", other);
  await relay.isHolding();
  await page.reload();
  relay.release();
  await ready(page);
  await writeFile(other, "short");
  await chooseBy(page, "Resume: b.bin", other);
  await state(page, "failed");
  assert.match(await errorText(page), /it had 25165824 bytes, and now has 5/);
});

test("a file that changes, and one that is removed, while it is uploaded", async (t) => {
  const { file, relay, page, server } = await scene(t, { length: 9 * PART });
  await half({ page, relay, server, file });
  const changed = await open(file, "r+");
  await changed.write(Buffer.from("changed"), 0, 7, 8 * PART);
  await changed.close();
  relay.release();
  await state(page, "failed");
  assert.match(await errorText(page), /The file cannot be read any more/);
  await chooseBy(page, "Choose the file: a.bin", file);
  assert.equal(await shownRoot(page), await rootOf(file));

  const other = await randomFile(path.join(path.dirname(file), "b.bin"), 9 * PART);
  relay.hold(2 * PART);
  await page.setInputFiles("#files", other);
  await relay.isHolding();
  await rm(other);
  relay.release();
  await state(page, "failed");
  assert.match(await errorText(page), /The file cannot be read any more/);
});

test("a wrong token, and the right one, which is stored nowhere", async (t) => {
  const { file, page, server } = await scene(t, { length: 1000, server: { token: "right-token-of-ann" } });
  await page.setInputFiles("#files", file);
  await state(page, "failed");
  await page.fill("#token", "wrong");
  await click(page, "Continue");
  await page.locator("#problem").getByText("The server does not accept the token.").waitFor();
  await page.fill("#token", "right-token-of-ann");
  await click(page, "Continue");
  assert.equal(await shownRoot(page), await rootOf(file));
  assert.equal((await server.sessions())[0].owner, "ann");
  const stored = await page.evaluate(async () => {
    const database = await new Promise((resolve) => {
      const opening = indexedDB.open("sapwood-uploads");
      opening.onsuccess = () => resolve(opening.result);
    });
    const all = await Promise.all([...database.objectStoreNames].map((name) => new Promise((resolve) => {
      const read = database.transaction(name).objectStore(name).getAll();
      read.onsuccess = () => resolve(read.result);
    })));
    return JSON.stringify([all, { ...localStorage }, { ...sessionStorage }, document.cookie]);
  });
  assert.match(stored, /a\.bin/);
  assert.doesNotMatch(stored, /right-token/);
});

test("a name that is taken: replaced, and renamed", async (t) => {
  const { file, page, server } = await scene(t, { length: 1000 });
  await page.setInputFiles("#files", file);
  await state(page, "proven");
  await click(page, "Clear finished");
  await randomFile(file, 2000);
  await page.setInputFiles("#files", file);
  await state(page, "failed");
  assert.match(await errorText(page), /A file with this name is on the server already/);
  await click(page, "Rename: a.bin");
  await page.getByRole("textbox", { name: "New name" }).fill("b.bin");
  await page.locator(".rename button").click();
  assert.equal(await shownRoot(page), await rootOf(file));
  await click(page, "Clear finished");
  await page.setInputFiles("#files", file);
  await state(page, "failed");
  await click(page, "Replace it: a.bin");
  assert.equal(await shownRoot(page), await rootOf(file));
  for (const name of ["a.bin", "b.bin"]) assert.equal(await rootOf(path.join(server.folder, name)), await rootOf(file));
});

test("two tabs with one file", async (t) => {
  const { file, relay, page, server } = await scene(t);
  await half({ page, relay, server, file });
  const other = await browser.page(t, relay.url, { context: page.context() });
  assert.ok(await other.locator("#earlier").isHidden(), "it is under way, not unfinished");
  await other.setInputFiles("#files", file);
  await other.getByText("In another tab", { exact: true }).waitFor();
  relay.release();
  assert.equal(await shownRoot(page), await rootOf(file));
  assert.equal(await shownRoot(other), await rootOf(file));
  assert.equal(new Set(relay.parts).size, 5);
  assert.equal(relay.parts.length, 5, "each part is sent once");
  assert.equal((await server.sessions()).length, 1);
});

test("a tab that is closed leaves its upload to the other one", async (t) => {
  const { file, relay, page, server } = await scene(t);
  await half({ page, relay, server, file });
  const other = await browser.page(t, relay.url, { context: page.context() });
  await other.setInputFiles("#files", file);
  await other.getByText("In another tab", { exact: true }).waitFor();
  await page.close();
  relay.release();
  assert.equal(await shownRoot(other), await rootOf(file));
});

test("a part that is damaged on its way is sent again", async (t) => {
  const { file, relay, page, server } = await scene(t);
  relay.damageAt = 2 * PART;
  await page.setInputFiles("#files", file);
  assert.equal(await shownRoot(page), await rootOf(file));
  assert.equal(await rootOf(path.join(server.folder, "a.bin")), await rootOf(file));
  assert.equal(relay.damaged, 1);
  assert.equal(relay.parts.length, 6, "one of five parts twice");
});

test("requests and responses that are lost, at each step", async (t) => {
  const { relay, page, server } = await scene(t, { length: 5 });
  const steps = [/^PUT \/\.sapwood\/uploads\/[^/]+ /, /^POST [^ ]+\/targets /, /^PUT [^ ]+\/parts\/0 /, /^POST [^ ]+\/finalize /];
  let number = 0;
  for (const isLost of [true, false]) {
    for (const step of steps) {
      const name = `${(number += 1)}.bin`;
      relay.breakAt(step, { isLost });
      await page.setInputFiles("#files", { name, mimeType: "", buffer: Buffer.alloc(1000, number) });
      await until(async () => (await page.locator("#rows .row.proven").count()) === number, `${name} is proven`);
      assert.ok(relay.cut, `${step} was cut`);
    }
  }
  assert.equal((await server.sessions()).length, number);
  for (const { state } of await server.sessions()) assert.equal(state, "done");
});

test("the server is killed while it publishes", async (t) => {
  const { file, relay, page, server } = await scene(t);
  // The response is lost: the server publishes, and is killed then.
  relay.breakAt(/^POST [^ ]+\/finalize /, { isLost: true });
  const cut = until(() => relay.cut, "the request is lost").then(() => server.kill());
  await page.setInputFiles("#files", file);
  // Its next request may come before the kill, and be answered.
  await cut;
  await server.restart();
  assert.equal(await shownRoot(page), await rootOf(file));
  assert.equal(relay.parts.length, 5);
});

test("a session that has ended", async (t) => {
  const { file, relay, page, server } = await scene(t);
  await half({ page, relay, server, file });
  const [{ id }] = await server.sessions();
  assert.equal((await server.api("DELETE", `/${id}`)).status, 204);
  relay.release();
  await state(page, "failed");
  assert.match(await errorText(page), /This upload has ended on the server/);
  await click(page, "Start again: a.bin");
  assert.equal(await shownRoot(page), await rootOf(file));
});

test("an upload is cancelled, here and on the server", async (t) => {
  const { file, relay, page, server } = await scene(t);
  await half({ page, relay, server, file });
  await click(page, "Cancel: a.bin");
  await page.locator("#rows .row").waitFor({ state: "detached" });
  assert.deepEqual((await server.sessions()).map(({ state }) => state), ["aborted"]);
  relay.release();
  await page.reload();
  await ready(page);
  assert.ok(await page.locator("#earlier").isHidden());
});

test("a browser that keeps nothing", async (t) => {
  const before = () => {
    IDBFactory.prototype.open = () => { throw new DOMException("refused", "SecurityError"); };
  };
  const { file, page } = await scene(t, { before });
  await page.setInputFiles("#files", file);
  assert.equal(await shownRoot(page), await rootOf(file));
});

test("names, lengths and folders", async (t) => {
  const server = await Server.start(t);
  const page = await browser.page(t, server.url);
  const place = await folder(t);
  const hostile = "<img src=x onerror=alert(1)>\u202e4pm' \"&.exe";
  const files = [["empty", ""], ["one", "x"], ["caf\u00e9 %41?#.txt", "a name"], ["<b>&amp;'\".txt", "markup"], [".hidden", "dot"], [hostile, "turned"]];
  for (const [name, text] of files) await writeFile(path.join(place, name), text);
  await page.fill("#into", "/in//folder/");
  await page.setInputFiles("#files", files.map(([name]) => path.join(place, name)));
  await until(async () => (await page.locator("#rows .row.proven").count()) === 4, "four are proven");
  await until(async () => (await page.locator("#rows .row.failed").count()) === 2, "two are refused");
  for (const [name] of files.slice(0, 4)) {
    assert.equal(await rootOf(path.join(server.folder, "in/folder", name)), await rootOf(path.join(place, name)));
  }
  for (const text of await page.locator("#rows .error").allTextContents()) assert.match(text, /The server does not take this name/);
  assert.equal(await page.locator("#rows img, #rows b").count(), 0);
  const names = await page.locator("#rows .name").allTextContents();
  assert.ok(names.some((name) => name.includes("\\u{202e}4pm")), names.join());
  const links = await page.locator("#rows .name a").evaluateAll((all) => all.map((link) => link.href));
  for (const link of links) assert.equal((await fetch(link)).status, 200, link);
});

test("files are dropped", async (t) => {
  const server = await Server.start(t);
  const page = await browser.page(t, server.url);
  const data = await page.evaluateHandle(() => {
    const data = new DataTransfer();
    for (const name of ["a.txt", "b.txt"]) data.items.add(new File([name], name));
    return data;
  });
  for (const event of ["dragenter", "dragover", "drop"]) await page.dispatchEvent("#drop", event, { dataTransfer: data });
  await until(async () => (await page.locator("#rows .row.proven").count()) === 2, "both are proven");
});

test("a folder is dropped, with names that some systems do not allow", async (t) => {
  const server = await Server.start(t);
  const page = await browser.page(t, server.url);
  const place = path.join(await folder(t), "film");
  await mkdir(path.join(place, "deep", "er"), { recursive: true });
  await mkdir(path.join(place, "empty"));
  const files = ["one.txt", "deep/10:30.ts", "deep/er/<b>?.txt", "deep/link.url"];
  for (const name of [...files, ".hidden", "deep/.DS_Store"]) await writeFile(path.join(place, name), name);
  const browserOf = await page.context().newCDPSession(page);
  const box = await page.locator("#drop").boundingBox();
  const at = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  const data = { items: [], files: [place], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) await browserOf.send("Input.dispatchDragEvent", { type, ...at, data });
  await page.locator("#live").getByText("4 files are added; 2 hidden ones are left out.").waitFor();
  await until(async () => (await page.locator("#rows .row.proven").count()) === 4, "all are proven");
  for (const name of files) assert.equal(await rootOf(path.join(server.folder, "film", name)), await rootOf(path.join(place, name)));
});

test("a file that the browser remembers need not be chosen again", async (t) => {
  const server = await Server.start(t);
  const relay = await Relay.start(t, server);
  // The file is one of the browser's own, and so is its handle: that of the system asks a person.
  const before = () => Object.assign(window, {
    showOpenFilePicker: async () => [await (await navigator.storage.getDirectory()).getFileHandle("a.bin", { create: true })],
  });
  const page = await browser.page(t, relay.url, { before });
  await page.evaluate(async (length) => {
    const [handle] = await window.showOpenFilePicker();
    const to = await handle.createWritable();
    await to.write(new Uint8Array(length).fill(7));
    await to.close();
  }, 4 * PART + 5);
  relay.hold(2.5 * PART);
  await page.click("#choose-files");
  await relay.isHolding();
  await until(async () => (await server.finished()).length > 0, "a part is finished");
  await page.reload();
  await ready(page);
  const finished = await server.finished();
  relay.parts = [];
  relay.release();
  await page.locator("#kept").getByRole("button", { name: "Resume" }).click();
  await shownRoot(page);
  assert.ok(relay.parts.every((part) => !finished.includes(part)), `${relay.parts} after ${finished}`);
});

test("a page that is not secure says so, and the server does not trust its name", async (t) => {
  const server = await Server.start(t);
  const context = await browser.context(t);
  const page = await context.newPage();
  await page.goto(`http://sapwood.test:${server.port}/.sapwood/upload`);
  await page.locator("#problem").getByText("Open it over https, or on localhost").waitFor();
  const status = await page.evaluate(async () => (await fetch("/.sapwood/uploads", { method: "GET" })).status);
  assert.equal(status, 403);
});

test("only what the policy allows", async (t) => {
  const server = await Server.start(t);
  const response = await fetch(new URL("/.sapwood/upload", server.url));
  const policy = response.headers.get("content-security-policy");
  assert.match(policy, /default-src 'none'.*frame-ancestors 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*/);
  for (const file of ["upload", "client.js", "client.d.ts"]) {
    const first = await fetch(new URL(`/.sapwood/${file}`, server.url));
    const etag = first.headers.get("etag");
    assert.ok(etag && first.headers.get("cache-control") === "no-cache");
    const again = await fetch(new URL(`/.sapwood/${file}`, server.url), { headers: { "If-None-Match": etag } });
    assert.equal(again.status, 304);
  }
  // A page of another origin gets nothing, as before.
  const refused = await fetch(new URL("/.sapwood/uploads", server.url), { headers: { Origin: "http://evil.example" } });
  assert.equal(refused.status, 403);
});
