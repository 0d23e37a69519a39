// A Tidegate app on Node's standard library.
//
//   node app.mjs 9000
//   tidegate worker --app http://127.0.0.1:9000/ --queue thumbnails
//
// With WEBHOOK_SECRET (whsec_..., blanks between several) it takes only what the worker signed with one of them.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secrets = (process.env.WEBHOOK_SECRET ?? "")
  .split(/\s+/)
  .filter(Boolean)
  .map((secret) => Buffer.from(secret.replace(/^whsec_/, ""), "base64"));
const TOLERANCE_S = 300; // Standard Webhooks: older deliveries may be replays

function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures = "" } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= TOLERANCE_S)) return false;
  const given = signatures.split(" ").filter((part) => part.startsWith("v1,"));
  return secrets.some((secret) => {
    const hmac = createHmac("sha256", secret).update(`${id}.${timestamp}.`).update(body);
    const expected = Buffer.from(`v1,${hmac.digest("base64")}`);
    return given.some((signature) => {
      const bytes = Buffer.from(signature);
      return bytes.length === expected.length && timingSafeEqual(bytes, expected);
    });
  });
}

// What an answer says: 2xx done (the body is the result), 429 and 503 later, other 4xx failed for good, 5xx try again.
async function handle(headers, body) {
  if (secrets.length > 0 && !isSigned(headers, body)) return [401, { error: "not signed by the worker" }];
  let image;
  try {
    image = JSON.parse(body);
  } catch {
    return [422, { error: "not JSON" }];
  }
  if (!Number.isInteger(image.width)) return [422, { error: "expected a width" }];
  return [200, { width: image.width, height: image.width * 2, attempt: Number(headers["ce-tidegateattempt"]) }];
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const [status, content] = await handle(request.headers, Buffer.concat(chunks));
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(content));
});
// Longer than the worker keeps an idle connection (4 s), so that none dies under a request.
server.keepAliveTimeout = 10_000;
server.listen(Number(process.argv[2] ?? 9000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}/`);
});
