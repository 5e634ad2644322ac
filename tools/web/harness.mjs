// What the tests of this folder share: servers, a relay between browser and server, and Chromium.
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, createWriteStream, existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const PROGRAM = process.env.SAPWOOD_PROGRAM ?? path.join(ROOT, "target/debug/sapwood");
const CHROMIUM = process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
/** Waits are for states: only a hang lasts so long. */
export const PATIENCE_MS = 120_000;
export const PART = 8 << 20;

/** Polls until a condition holds, and returns what it gave. @template T @param {() => Promise<T> | T} condition @param {string} what */
export async function until(condition, what) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A folder that is removed after the test. */
export async function folder(t) {
  const made = await mkdtemp(path.join(os.tmpdir(), "sapwood-web-"));
  t.after(() => rm(made, { recursive: true, force: true }));
  return made;
}

/** A file of random bytes. */
export async function randomFile(place, length) {
  const out = createWriteStream(place);
  for (let left = length; left > 0; left -= 1 << 20) {
    if (!out.write(randomBytes(Math.min(left, 1 << 20)))) await new Promise((resolve) => out.once("drain", resolve));
  }
  await new Promise((resolve) => out.end(resolve));
  return place;
}

/** Runs a program to its end, and returns its output. */
export async function run(program, args, options = {}) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], ...options });
  let output = "";
  child.stdout.on("data", (data) => (output += data));
  const code = await new Promise((resolve, reject) => child.on("error", reject).on("exit", resolve));
  if (code !== 0) throw new Error(`${program} ${args.join(" ")}: exit code ${code}`);
  return output;
}

/** The root of a file, as b3sum has it. */
export async function rootOf(file) {
  return (await run("b3sum", ["--no-names", file])).trim();
}

/** In hexadecimal. */
export async function sha256Of(file) {
  const hash = createHash("sha256");
  for await (const piece of createReadStream(file)) hash.update(piece);
  return hash.digest("hex");
}

/** `sapwood serve --ingest` on a folder of its own. */
export class Server {
  /** @param {{ args?: string[], token?: string, env?: Record<string, string> }} [options] */
  static async start(t, { args = [], token, env = {} } = {}) {
    const server = new Server();
    server.folder = path.join(await folder(t), "site");
    await mkdir(server.folder);
    server.token = token;
    server.args = [...args];
    server.env = env;
    if (token) {
      const tokens = path.join(path.dirname(server.folder), "tokens");
      await writeFile(tokens, `ann ${token}\n`, { mode: 0o600 });
      server.args.push("--token-file", tokens);
    }
    t.after(() => server.kill());
    await server.run(0);
    return server;
  }

  async run(port) {
    const args = ["serve", this.folder, "--ingest", "--listen", `127.0.0.1:${port}`, ...this.args];
    this.child = spawn(PROGRAM, args, { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, ...this.env } });
    const exit = new Promise((_, reject) => this.child.once("exit", (code) => reject(new Error(`the server ended with ${code}`))));
    exit.catch(() => {});
    let output = "";
    const line = new Promise((resolve) => this.child.stdout.on("data", (data) => {
      output += data;
      if (output.includes("\n")) resolve(output.split("\n")[0].trim());
    }));
    this.url = new URL(await Promise.race([line, exit]));
    this.port = Number(this.url.port);
  }

  /** As a loss of power, but for what the system has in its cache. */
  async kill() {
    if (this.child?.exitCode !== null || this.child?.signalCode) return;
    const ended = new Promise((resolve) => this.child.once("exit", resolve));
    this.child.kill("SIGKILL");
    await ended;
  }

  /** With the port that it had. */
  async restart() {
    await this.kill();
    await this.run(this.port);
  }

  async api(method, rest = "", body = undefined) {
    const headers = { ...(this.token ? { Authorization: `Bearer ${this.token}` } : {}), ...(body ? { "Content-Type": "application/json" } : {}) };
    const response = await fetch(new URL(`/.sapwood/uploads${rest}`, this.url), { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    return { status: response.status, body: text === "" ? null : JSON.parse(text) };
  }

  /** All sessions with their parts. */
  async sessions() {
    const { body } = await this.api("GET");
    return Promise.all(body.sessions.map(async ({ id }) => (await this.api("GET", `/${id}`)).body));
  }

  /** Indices of the finished parts of the only session. */
  async finished() {
    const [session] = await this.sessions();
    return session ? session.parts.map(({ index }) => index) : [];
  }
}

/** Between browser and server: counts and notes what is sent, holds it, changes it. */
export class Relay {
  static async start(t, to) {
    const relay = new Relay();
    relay.sent = 0;
    /** Indices of the parts of which a request began. @type {number[]} */
    relay.parts = [];
    relay.holdFrom = Infinity;
    relay.damageAt = Infinity;
    relay.damaged = 0;
    relay.sockets = new Set();
    relay.server = net.createServer((client) => relay.join(client, to));
    await new Promise((resolve) => relay.server.listen(0, "127.0.0.1", resolve));
    relay.url = new URL(`http://127.0.0.1:${relay.server.address().port}/`);
    t.after(() => relay.stop());
    return relay;
  }

  join(client, to) {
    const server = net.connect(to.port, "127.0.0.1");
    for (const socket of [client, server]) {
      this.sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        this.sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
    }
    client.on("data", (data) => this.pass(client, server, data));
    server.on("data", (data) => {
      if (!client.write(data)) server.pause();
    });
    client.on("drain", () => server.resume());
    server.on("drain", () => client.resume());
  }

  pass(client, server, data) {
    const head = data.subarray(0, 2000).toString("latin1");
    const part = /^PUT \/\.sapwood\/uploads\/[^/]+\/parts\/(\d+)\/bytes/.exec(head);
    // In S3 the first part is 1.
    const partInS3 = part ? null : /^PUT [^ ]*[?&]partNumber=(\d+)/.exec(head);
    if (part) this.parts.push(Number(part[1]));
    if (partInS3) this.parts.push(Number(partInS3[1]) - 1);
    this.sent += data.length;
    // The response to this request is lost, and it may be that the request is, too.
    if (this.cutAt?.test(head)) {
      const { isLost } = this;
      this.cutAt = null;
      this.cut = true;
      if (isLost) return client.destroy();
      server.write(data);
      server.removeAllListeners("data");
      server.once("data", () => client.destroy());
      return undefined;
    }
    // Never in a head: that would be another request.
    if (this.sent >= this.damageAt && !part && data.length > 10_000) {
      this.damageAt = Infinity;
      this.damaged += 1;
      data = Buffer.from(data);
      data[data.length >> 1] ^= 1;
    }
    const forward = () => {
      if (!server.destroyed && !server.write(data)) client.pause();
    };
    // Requests without a body go on: a page may look at the server.
    if (this.sent >= this.holdFrom && (part || data.length > 10_000)) {
      client.pause();
      this.held ??= [];
      this.held.push(() => (client.resume(), forward()));
    } else forward();
    return undefined;
  }

  /** Breaks the connection of the next request whose head is so: before the server has it, or before the client has the response. */
  breakAt(head, { isLost }) {
    Object.assign(this, { cutAt: head, isLost, cut: false });
  }

  /** Holds parts back once so many more bytes were sent. */
  hold(bytes) {
    this.holdFrom = this.sent + bytes;
  }

  async isHolding() {
    await until(() => this.held, "the relay holds parts back");
  }

  /** Lets go what is held. */
  release() {
    this.holdFrom = Infinity;
    const held = this.held ?? [];
    this.held = null;
    for (const go of held) go();
  }

  stop() {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }
}

/** One Chromium for all tests of a file; each test has a profile of its own. */
export class Browser {
  static async start(args = []) {
    const browser = new Browser();
    if (!CHROMIUM) throw new Error("chromium is missing");
    browser.chromium = await chromium.launch({ executablePath: CHROMIUM, headless: true, args: [...FLAGS, ...args] });
    return browser;
  }

  async stop() {
    await this.chromium.close();
  }

  async context(t, options = {}) {
    const context = await this.chromium.newContext(options);
    context.setDefaultTimeout(PATIENCE_MS);
    t.after(() => context.close());
    return context;
  }

  /** The page of a server, in a new profile. Errors in it are errors of the test. */
  async page(t, url, options = {}) {
    const context = options.context ?? (await this.context(t, options.profile));
    const page = await context.newPage();
    page.on("pageerror", (error) => {
      throw new Error(`an error in the page: ${error.stack}`);
    });
    if (options.before) await page.addInitScript(options.before);
    await page.goto(new URL("/.sapwood/upload", url).href);
    await ready(page);
    return page;
  }
}

/** The script of the page has looked for what there is. */
export async function ready(page) {
  await page.waitForSelector("html[data-ready]");
}

/** Waits for a state of the only file of a page. */
export async function state(page, wanted) {
  await page.waitForSelector(`#rows .row.${wanted}`);
}

/** Chooses a file again, by a button that asks for it. */
export async function chooseBy(page, button, file) {
  const choosing = page.waitForEvent("filechooser");
  await page.getByRole("button", { name: button }).click();
  await (await choosing).setFiles(file);
}

/** The root that the page shows. */
export async function shownRoot(page) {
  await state(page, "proven");
  return page.locator("#rows .root code").textContent();
}
