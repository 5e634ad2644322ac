// The page of the tests: unmodified Uppy, as a site would have it.
import AwsS3 from "@uppy/aws-s3";
import Uppy from "@uppy/core";
import GoldenRetriever from "@uppy/golden-retriever";
import Tus from "@uppy/tus";

const FILE_BYTES_MAX = 1 << 30;

/** Content of which every byte is a function of its place, in 4 bytes each. */
function painted(length) {
  const words = new Uint32Array(length / 4);
  for (let at = 0; at < words.length; at += 1) words[at] = Math.imul(at + 1, 2654435761);
  return new Blob([words]);
}

/** What the test looks at: `parts` in this page, `error` and `done` of the last upload. */
const seen = { parts: 0, restored: 0, done: [], error: null };

/** After so many parts in this page the upload pauses. */
let pauseAfter = 0;

function make(endpoint, options) {
  const uppy = new Uppy({ id: "test" });
  uppy.on("s3-multipart:part-uploaded", () => {
    seen.parts += 1;
    if (seen.parts === pauseAfter) uppy.pauseAll();
  });
  uppy.on("restored", () => (seen.restored += 1));
  uppy.on("upload-error", (_, error) => {
    seen.error = `${error.message} ${error.cause ?? ""}`;
  });
  uppy.on("upload-success", (file, response) => seen.done.push(response.uploadURL));
  if (options.tus) uppy.use(Tus, { endpoint: `${endpoint}/.sapwood/resumable/` });
  else uppy.use(AwsS3, { companionEndpoint: endpoint, ...options.s3 });
  if (options.retriever) uppy.use(GoldenRetriever, { indexedDB: { maxFileSize: FILE_BYTES_MAX } });
  window.uppy = uppy;
}

window.make = make;
window.seen = seen;
window.pauseAfter = (parts) => (pauseAfter = parts);
window.add = (name, length, meta) =>
  window.uppy.addFile({ name, type: "application/octet-stream", data: painted(length), meta });
/** Whether a page after this one will find the file, and the upload with its ID. */
window.isKept = async () => {
  const of = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const database = await of(indexedDB.open("uppy-blobs"));
  const names = [...database.objectStoreNames];
  const all = await Promise.all(names.map((name) => of(database.transaction(name).objectStore(name).getAll())));
  database.close();
  return all.length > 1 && all.every((entries) => entries.length > 0) && JSON.stringify(all).includes("uploadId");
};
