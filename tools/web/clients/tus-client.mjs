// A program that uploads a file with tus-js-client: node tus-client.mjs ENDPOINT FILE PROTOCOL URLS. A line for each event.
// `pause` on the standard input aborts the upload and begins it again; the file URLS is what a later process goes on with.
import { openSync, fstatSync, createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const tus = createRequire(import.meta.url)("tus-js-client");
const [endpoint, path, protocol, urls] = process.argv.slice(2);
const CHUNK = 3 << 20;

const file = createReadStream(path, { highWaterMark: 1 << 20 });
const upload = new tus.Upload(file, {
  endpoint,
  protocol,
  chunkSize: CHUNK,
  uploadSize: fstatSync(openSync(path)).size,
  metadata: { filename: "talk.bin" },
  retryDelays: Array(100).fill(100),
  urlStorage: new tus.FileUrlStorage(urls),
  storeFingerprintForResuming: true,
  onChunkComplete: (_, accepted) => console.log(`chunk ${accepted}`),
  onShouldRetry: () => {
    console.log("retry");
    return true;
  },
  onError: (error) => {
    console.log(`error ${error.message}`);
    process.exit(1);
  },
  onSuccess: () => {
    console.log("done");
    process.exit(0);
  },
});

const begin = async () => {
  const earlier = await upload.findPreviousUploads();
  console.log(`earlier ${earlier.length}`);
  if (earlier.length > 0) upload.resumeFromPreviousUpload(earlier[0]);
  upload.start();
};
createInterface({ input: process.stdin }).on("line", async () => {
  await upload.abort();
  console.log("paused");
  upload.start();
});
await begin();
