// Compares client.d.ts with what TypeScript makes of client.js; with --write, writes it.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";

import ts from "typescript";

const web = path.resolve(path.dirname(process.argv[1]), "../../src/serve/ingest/web");
const folder = mkdtempSync(path.join(os.tmpdir(), "sapwood-types-"));
try {
  const options = {
    allowJs: true, declaration: true, emitDeclarationOnly: true, outDir: folder, target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ES2022, types: [],
  };
  ts.createProgram([path.join(web, "client.js")], options).emit();
  const made = readFileSync(path.join(folder, "client.d.ts"), "utf8");
  const place = path.join(web, "client.d.ts");
  if (process.argv.includes("--write")) writeFileSync(place, made);
  else if (readFileSync(place, "utf8") !== made) {
    console.error("client.d.ts is not that of client.js: node tools/web/types.mjs --write");
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true });
}
