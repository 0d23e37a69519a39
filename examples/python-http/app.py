"""A Tidegate app on Python's standard library.

    python3 app.py 9000
    tidegate worker --app http://127.0.0.1:9000/ --queue email

With WEBHOOK_SECRET (whsec_..., blanks between several) it takes only what the worker signed with one of them.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRETS = [
    base64.b64decode(secret.removeprefix("whsec_"))
    for secret in os.environ.get("WEBHOOK_SECRET", "").split()
]
TOLERANCE_S = 300  # Standard Webhooks: older deliveries may be replays


def is_signed(headers, body):
    """Standard Webhooks: HMAC-SHA256 over id.timestamp.body, one signature for each of the worker's secrets."""
    try:
        age = abs(time.time() - int(headers["webhook-timestamp"]))
    except (TypeError, ValueError):
        return False
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    given = [part[3:] for part in headers.get("webhook-signature", "").split() if part.startswith("v1,")]
    for secret in SECRETS:
        expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        if any(hmac.compare_digest(expected, signature) for signature in given):
            return age <= TOLERANCE_S
    return False


def finish_later(url, email):
    """Long work: the worker keeps the job meanwhile; its timeout still bounds it."""
    time.sleep(email.get("seconds", 1))
    outcome = {"outcome": "succeeded", "result": {"to": email["to"], "later": True}}
    request = urllib.request.Request(
        url, json.dumps(outcome).encode(), {"content-type": "application/json"}, method="POST"
    )
    # 204 = it counts; 409 and 410 = it does not any more, and another attempt may be on its way.
    with urllib.request.urlopen(request, timeout=10) as answer:
        print("completed", answer.status, flush=True)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # the worker keeps its connections

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if SECRETS and not is_signed(self.headers, body):
            return self.answer(401, {"error": "not signed by the worker"})
        attempt = int(self.headers["ce-tidegateattempt"])
        try:
            email = json.loads(body)
            to = email["to"]
        except (ValueError, TypeError, KeyError):
            return self.answer(422, {"error": "expected {\"to\": ...}"})  # other 4xx: failed for good
        if email.get("busy"):
            return self.answer(429, {}, {"retry-after": "1"})  # later, without using an attempt
        if attempt <= email.get("fail", 0):
            return self.answer(500, {})  # tried again by the queue's policy
        if email.get("seconds") and "tidegate-callback" in self.headers:
            later = threading.Thread(target=finish_later, args=(self.headers["tidegate-callback"], email))
            later.start()
            return self.answer(202, {})
        # The fence grows with every attempt: a database write can be guarded with it.
        self.answer(200, {"to": to, "attempt": attempt, "job": self.headers["ce-id"]})

    def answer(self, status, content, headers=()):
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9000), App)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
