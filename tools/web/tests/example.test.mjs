// The example of src/docs/browser.md, in a page of another origin; and the functions of the module, one by one.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";

import { Browser, folder, PART, randomFile, ROOT, rootOf, Server } from "../harness.mjs";

let browser;
before(async () => (browser = await Browser.start()));
after(() => browser.stop());

/** A web server with one page and a token. */
async function site(t, html) {
  const server = createServer((request, response) => {
    response.setHeader("Content-Type", request.url === "/" ? "text/html" : "text/plain");
    response.end(request.url === "/" ? html() : "token-of-ann");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}`;
}

test("the example of the documents works in a page of another origin", async (t) => {
  const document = await readFile(path.join(ROOT, "src/docs/browser.md"), "utf8");
  const [, example] = /```html\n([^]*?)```/.exec(document);
  let html = "";
  const origin = await site(t, () => html);
  const server = await Server.start(t, { token: "token-of-ann", args: ["--cors", origin] });
  html = example.replace("https://media.example", server.url.origin);
  assert.notEqual(html, example);
  const page = await (await browser.context(t)).newPage();
  await page.goto(origin);
  const file = await randomFile(path.join(await folder(t), "film.mp4"), 2 * PART + 1);
  await page.setInputFiles("#film", file);
  await page.getByText(`proven: ${await rootOf(file)} ${server.url.origin}/films/film.mp4`).waitFor();

  // An origin that is not listed may read the module, and use nothing.
  const other = await site(t, () => html);
  await page.goto(other);
  await page.setInputFiles("#film", file);
  await page.getByText("server_away").waitFor();
});

test("each step by itself", async (t) => {
  const server = await Server.start(t);
  const page = await browser.page(t, server.url);
  const [status, empty, errors] = await page.evaluate(async (part) => {
    const { initSession, getSessionStatus, uploadPart, checkpointPart, finalize } = await import("/.sapwood/client.js");
    const code = (promise) => promise.then(() => null, (error) => [error.code, error.status, error.choices.length > 0]);
    const bytes = new Blob([new Uint8Array(part).fill(7), "end"]);
    const { id, part_size } = await initSession({ name: "steps", length: bytes.size });
    const errors = [await code(finalize({ id, length: bytes.size })), await code(getSessionStatus({ id: "none" }))];
    for (const index of [0, 1]) {
      const body = bytes.slice(index * part_size, (index + 1) * part_size);
      const sent = await uploadPart({ id, index, body });
      errors.push(sent.finished);
      await checkpointPart({ id, ...sent });
      errors.push((await uploadPart({ id, index, body })).finished);
    }
    errors.push((await getSessionStatus({ id })).parts.length);
    return [await finalize({ id, length: bytes.size }), (await getSessionStatus({ id })).state, errors];
  }, PART);
  assert.equal(status.state, "done");
  assert.equal(status.root, await rootOf(path.join(server.folder, "steps")));
  assert.equal(empty, "done");
  assert.deepEqual(errors, [["parts_missing", 409, true], ["no_session", 404, true], false, true, false, true, 2]);
});
