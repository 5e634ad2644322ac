// Uploads of the page straight into S3. Run by tests/it/web.rs, which starts a service: SAPWOOD_S3 is its URL.
import assert from "node:assert/strict";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";

import { Browser, folder, PART, randomFile, rootOf, Server, shownRoot } from "./harness.mjs";

/** Adds to a service what it has once the CORS rules of src/docs/browser.md are set for its bucket. */
async function withCors(t, service) {
  const rules = { origin: null, puts: [] };
  const proxy = http.createServer((request, response) => {
    const isAllowed = request.headers.origin !== undefined && request.headers.origin === rules.origin;
    if (isAllowed) {
      response.setHeader("Access-Control-Allow-Origin", rules.origin);
    }
    if (request.method === "OPTIONS") {
      if (isAllowed) {
        response.setHeader("Access-Control-Allow-Methods", "PUT");
        response.setHeader("Access-Control-Allow-Headers", request.headers["access-control-request-headers"] ?? "");
      }
      response.writeHead(isAllowed ? 200 : 403).end();
      return;
    }
    if (request.headers.origin) rules.puts.push(`${request.method} ${request.url.replace(/\?.*partNumber=(\d+).*/, " $1")}`);
    const options = { method: request.method, headers: request.headers, path: request.url, agent: false };
    const passed = http.request(service, options, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    passed.on("error", () => response.destroy());
    request.pipe(passed);
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  t.after(() => (proxy.closeAllConnections(), proxy.close()));
  rules.url = `http://127.0.0.1:${proxy.address().port}`;
  return rules;
}

test("a page sends parts to S3 itself, once the bucket allows it", async (t) => {
  const cors = await withCors(t, process.env.SAPWOOD_S3);
  const server = await Server.start(t, { args: ["--storage", "s3://media/P"], env: { AWS_ENDPOINT_URL: cors.url } });
  const browser = await Browser.start();
  t.after(() => browser.stop());
  const page = await browser.page(t, server.url);
  const policy = (await fetch(new URL("/.sapwood/upload", server.url))).headers.get("content-security-policy");
  assert.ok(policy.includes(`connect-src 'self' ${cors.url};`), policy);
  const file = await randomFile(path.join(await folder(t), "f.bin"), 2 * PART + 5);
  await page.setInputFiles("#files", file);
  await page.getByText("Waiting for the storage", { exact: true }).waitFor();
  assert.deepEqual(cors.puts, []);
  cors.origin = server.url.origin;
  assert.equal(await shownRoot(page), await rootOf(file));
  const numbers = cors.puts.map((put) => put.split(" ").at(-1));
  assert.deepEqual(numbers.sort(), ["1", "2", "3"]);
});
