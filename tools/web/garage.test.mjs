// The page with a real S3 server, Garage, by hand: python3 tools/garage.py run node --test tools/web/garage.test.mjs
import assert from "node:assert/strict";
import { createWriteStream } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";

import { Browser, chooseBy, folder, PART, randomFile, ready, Relay, ROOT, rootOf, run, Server, shownRoot, until } from "./harness.mjs";

const LENGTH = 200_000_000;
const NAME = "talk.mp4";

/** Gives the bucket the rules of src/docs/browser.md for this origin. */
async function allow(t, origin) {
  const page = await readFile(path.join(ROOT, "src/docs/browser.md"), "utf8");
  const rules = JSON.parse(/```json\n(\{"CORSRules"[^`]*)```/.exec(page)[1]);
  assert.deepEqual(rules.CORSRules[0].AllowedOrigins, ["https://media.example"]);
  rules.CORSRules[0].AllowedOrigins = [origin];
  const file = path.join(await folder(t), "cors.json");
  await writeFile(file, JSON.stringify(rules));
  await run("python3", [path.join(ROOT, "tools/garage.py"), "cors", file]);
}

test("200 MB straight into Garage, once the bucket allows it, through a reload", async (t) => {
  const { AWS_ENDPOINT_URL, SAPWOOD_STORAGE } = process.env;
  assert.ok(AWS_ENDPOINT_URL && SAPWOOD_STORAGE, "run it by tools/garage.py");
  const file = await randomFile(path.join(await folder(t), NAME), LENGTH);
  const relay = await Relay.start(t, new URL(AWS_ENDPOINT_URL));
  const options = { args: ["--storage", `${SAPWOOD_STORAGE}/page`], env: { AWS_ENDPOINT_URL: relay.url.origin } };
  const server = await Server.start(t, options);
  const browser = await Browser.start();
  t.after(() => browser.stop());
  const page = await browser.page(t, server.url);
  relay.hold(50_000_000);
  await page.setInputFiles("#files", file);
  await page.getByText("Waiting for the storage", { exact: true }).waitFor();
  assert.deepEqual(await server.finished(), []);
  await allow(t, server.url.origin);
  await relay.isHolding();
  const atReload = await until(async () => (await server.finished()).length >= 2 && server.finished(), "parts are finished");
  await page.reload();
  relay.release();
  await ready(page);
  const begun = relay.parts.length;
  await chooseBy(page, `Resume: ${NAME}`, file);
  assert.equal(await shownRoot(page), await rootOf(file));
  const again = relay.parts.slice(begun);
  assert.ok(again.length > 0);
  for (const index of again) assert.ok(!atReload.includes(index), `part ${index} was finished before the reload`);
  assert.ok(relay.sent < LENGTH + 6 * PART + 2_000_000, `${relay.sent} bytes`);

  const stored = path.join(await folder(t), "stored");
  const response = await fetch(new URL(NAME, server.url));
  assert.ok(response.redirected && response.ok, `status ${response.status}`);
  await pipeline(response.body, createWriteStream(stored));
  assert.equal(await rootOf(stored), await rootOf(file));
  t.diagnostic(`${relay.sent} bytes sent to S3, ${atReload.length} parts before the reload, ${again.length} after it`);
});
