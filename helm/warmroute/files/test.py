"""Sends one request, then the same again, and checks by the router's headers that the second one found its prefix.

Usage: [API_KEY=…] test.py BASE_URL TIMEOUT_S MODEL…

Run by `helm test` in the product's own image, with Python's library alone.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

# The router's certificate is for its public name, and nothing secret is sent.
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname = False
UNVERIFIED.verify_mode = ssl.CERT_NONE


def ask(url, model, prompt):
    """One completion of one token: the answer's headers."""
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}).encode()
    headers = {"Content-Type": "application/json"}
    if os.environ.get("API_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['API_KEY']}"
    request = urllib.request.Request(f"{url}/v1/completions", body, headers)
    with urllib.request.urlopen(request, timeout=120, context=UNVERIFIED) as answer:
        answer.read()
        return answer.headers


def patiently(url, model, prompt, deadline_s):
    """Like `ask`, until a replica is there."""
    while True:
        try:
            return ask(url, model, prompt)
        except (urllib.error.URLError, OSError) as error:
            said = (
                error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else error
            )
            if time.monotonic() > deadline_s:
                sys.exit(f"{model}: no answer from {url}: {error}: {said}")
            print(f"{model}: not yet: {error}", flush=True)
            time.sleep(2)


def check(url, model, deadline_s):
    """Raises SystemExit unless the second of two equal requests is warm."""
    # New at every run, so that nobody holds it yet, and longer than a few blocks of any engine.
    prompt = f"{model} {time.time_ns()}. " + "The same long system prompt, word by word. " * 100
    first = patiently(url, model, prompt, deadline_s)
    second = ask(url, model, prompt)
    for name, headers in (("first", first), ("second", second)):
        told = {key: value for key, value in headers.items() if key.lower().startswith("x-warmroute-")}
        print(f"{model}: {name}: {told}", flush=True)
    if "X-Warmroute-Decision" not in first:
        sys.exit(
            f"{model}: the answer has no X-Warmroute- headers (headers.explain is false, or this is no router)"
        )
    warm = second["X-Warmroute-Decision"] == "warm"
    if not warm or second["X-Warmroute-Replica"] != first["X-Warmroute-Replica"]:
        sys.exit(f"{model}: the second request did not go where its prefix is")
    if int(second["X-Warmroute-Predicted-Cached-Tokens"]) == 0:
        sys.exit(f"{model}: the second request's prefix was not known")


if __name__ == "__main__":
    _, base_url, timeout_s, *models = sys.argv
    for name in models:
        check(base_url, name, time.monotonic() + float(timeout_s))
    print("warm")
