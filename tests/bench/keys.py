"""CPU time of looking a key up among many: `python -m tests.bench.keys [--keys 10000]`.

Not a test: timings depend on the machine. What a request costs whose head is known is `request_path --tenants`.
"""

from __future__ import annotations

import argparse
import os
import random
import time

from warmroute.tenants.keys import KeyRecord, Keyring, digest_of, new_key
from warmroute.tenants.tenant import Tenants


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keys", type=int, default=10_000)
    count = parser.parse_args().keys
    texts, records = [], []
    for number in range(count):
        key_id, text = new_key(os.urandom(6), os.urandom(32))
        texts.append(text.encode())
        records.append(KeyRecord(id=key_id, tenant=f"t{number % 100}", sha256=digest_of(text.encode()).hex()))
    ring = Keyring()
    started = time.process_time()
    ring.use(records, Tenants({}))
    made_s = time.process_time() - started
    random.Random(1).shuffle(texts)
    wrong = [text[:-1] + b"!" for text in texts]
    for name, asked, known in (("known", texts, True), ("unknown", wrong, False)):
        best_s = 1e9
        for _ in range(20):
            started = time.process_time()
            for text in asked:
                found = ring.find(text)
            best_s = min(best_s, time.process_time() - started)
            assert (found is not None) is known
        print(f"{name:8} {best_s / count * 1e6:.2f} us a key, of {count:,} keys")
    print(f"taking all of them over: {made_s * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
