// The picture of the upload page for src/docs/browser.md, of a real upload: node tools/web/picture.mjs [FILE.png]
// With --states FOLDER instead, a picture of each state, in both themes, at two widths, to look at.
import { statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";

import { Browser, folder, PART, randomFile, ready, Relay, ROOT, Server, until } from "./harness.mjs";

const BYTES_MAX = 150_000;
/** @type {(() => unknown)[]} */
const ends = [];
const scope = { after: (/** @type {() => unknown} */ end) => ends.push(end) };

async function show(browser, server, place, options, states) {
  const relay = await Relay.start(scope, server);
  const page = await browser.page(scope, relay.url, { profile: options });
  const shoot = async (name) => {
    await page.evaluate(() => document.activeElement instanceof HTMLElement && document.activeElement.blur());
    await page.screenshot({ path: name, fullPage: true });
  };
  if (states) await shoot(`${states}-empty.png`);
  await page.setInputFiles("#files", await randomFile(path.join(place, "notes.md"), 31_400));
  await until(async () => (await page.locator(".row.proven").count()) === 1, "one is proven");
  relay.hold(3.6 * PART);
  const talk = await randomFile(path.join(place, "conference-talk.mp4"), 7.4 * PART);
  await page.setInputFiles("#files", talk);
  await relay.isHolding();
  const second = await randomFile(path.join(place, "interview.wav"), 3 * PART);
  await page.setInputFiles("#files", second);
  await page.getByRole("button", { name: "Pause: interview.wav" }).click();
  await page.getByText("left", { exact: false }).first().waitFor();
  await shoot(states ? `${states}-busy.png` : options.output);
  if (states) {
    await page.setInputFiles("#files", await randomFile(path.join(place, "notes.md"), 5000));
    await page.getByRole("button", { name: "Clear finished" }).click();
    await page.setInputFiles("#files", path.join(place, "notes.md"));
    await page.locator(".row.failed").waitFor();
    await page.getByRole("button", { name: "Rename: notes.md" }).click();
    await page.context().setOffline(true);
    await page.locator(".row.waiting").waitFor();
    await page.evaluate(() => { document.querySelector("#access").hidden = false; });
    await shoot(`${states}-failed.png`);
    await page.context().setOffline(false);
    await page.reload();
    await ready(page);
    await shoot(`${states}-earlier.png`);
  }
  await page.context().close();
  relay.release();
  relay.stop();
}

const browser = await Browser.start();
try {
  if (process.argv[2] === "--states") {
    const to = path.resolve(process.argv[3] ?? "states");
    await mkdir(to, { recursive: true });
    for (const colorScheme of ["light", "dark"]) {
      for (const width of [360, 1280]) {
        const server = await Server.start(scope);
        const profile = { colorScheme, viewport: { width, height: 800 } };
        await show(browser, server, await folder(scope), profile, path.join(to, `${width}-${colorScheme}`));
      }
    }
  } else {
    const output = path.resolve(process.argv[2] ?? path.join(ROOT, "src/docs/upload.png"));
    const server = await Server.start(scope);
    const profile = { colorScheme: "light", viewport: { width: 760, height: 400 }, output };
    await show(browser, server, await folder(scope), profile, null);
    if (statSync(output).size > BYTES_MAX) throw new Error(`${output} has more than ${BYTES_MAX} bytes`);
  }
} finally {
  for (const end of ends.reverse()) await end();
  await browser.stop();
}
