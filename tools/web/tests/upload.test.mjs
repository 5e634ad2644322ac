// The page, in a real browser: what is finished is not sent again, whatever happens.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import path from "node:path";

import { Browser, chooseBy, folder, PART, randomFile, ready, Relay, rootOf, Server, shownRoot, state, until } from "../harness.mjs";

let browser;
before(async () => (browser = await Browser.start()));
after(() => browser.stop());

test("200 MB through a reload, a pause and a server that is killed", async (t) => {
  const length = 200_000_000;
  const file = await randomFile(path.join(await folder(t), "talk.mp4"), length);
  const server = await Server.start(t);
  const relay = await Relay.start(t, server);
  const page = await browser.page(t, relay.url);
  relay.hold(50_000_000);
  await page.setInputFiles("#files", file);
  await relay.isHolding();
  const atReload = await until(async () => (await server.finished()).length >= 2 && server.finished(), "parts are finished");

  await page.reload();
  relay.release();
  await ready(page);
  const begun = relay.parts.length;
  relay.hold(40_000_000);
  await chooseBy(page, "Resume: talk.mp4", file);
  await relay.isHolding();
  for (const index of relay.parts.slice(begun)) assert.ok(!atReload.includes(index), `part ${index} was finished before the reload`);

  const shown = () => page.locator("#rows progress").evaluate((bar) => bar.value);
  const before = await shown();
  await page.getByRole("button", { name: "Pause: talk.mp4" }).click();
  await state(page, "paused");
  relay.release();
  const atPause = await server.finished();
  const paused = relay.parts.length;
  assert.ok(atPause.length > atReload.length);
  relay.hold(40_000_000);
  await page.getByRole("button", { name: "Resume: talk.mp4" }).click();
  await relay.isHolding();
  for (const index of relay.parts.slice(paused)) assert.ok(!atPause.includes(index), `part ${index} was finished before the pause`);
  assert.ok((await shown()) >= before, "progress does not go back");

  const atKill = await server.finished();
  await server.kill();
  relay.release();
  await state(page, "waiting");
  const killed = relay.parts.length;
  await server.restart();
  assert.equal(await shownRoot(page), await rootOf(file));
  assert.equal(await rootOf(path.join(server.folder, "talk.mp4")), await rootOf(file));
  for (const index of relay.parts.slice(killed)) assert.ok(!atKill.includes(index), `part ${index} was finished before the kill`);
  // At each of the three no more than the parts under way.
  assert.ok(relay.sent < length + 3 * 6 * PART + 1_000_000, `${relay.sent} bytes`);
  const kept = await page.evaluate(async () => (await import("/.sapwood/client.js")).Upload.unfinished());
  assert.deepEqual(kept, []);
});
