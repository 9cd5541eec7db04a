"""The peer of the bus: oslo.messaging with its threading executor.

    peer.py serve URL     answers echo
    peer.py call URL      calls it

Each reads one line after the other and answers each with one line of JSON:
`cpu` with the seconds of CPU that this process has used; `call CONCURRENCY
NUMBER SECONDS`, of the caller, with the times of so many calls, in seconds, or
of as many as there was time for. Ends with its standard input.
"""

import json
import sys
import threading
import time

import oslo_messaging
from oslo_config import cfg

TOPIC = "bench"
PAYLOAD = "7" * 200


class Echo:
    def echo(self, ctxt, payload):
        return payload


def transport(url):
    cfg.CONF([], project="bench", default_config_files=[], default_config_dirs=[])
    return oslo_messaging.get_rpc_transport(cfg.CONF, url=url)


def say(what):
    print(json.dumps(what), flush=True)


def serve(url):
    server = oslo_messaging.get_rpc_server(
        transport(url),
        oslo_messaging.Target(topic=TOPIC, server="server"),
        [Echo()],
        executor="threading",
    )
    server.start()
    say("ready")
    for line in sys.stdin:
        if line.split() == ["cpu"]:
            say(time.process_time())
    server.stop()
    server.wait()


def call(url):
    client = oslo_messaging.get_rpc_client(
        transport(url), oslo_messaging.Target(topic=TOPIC), timeout=30
    )
    client.call({}, "echo", payload=PAYLOAD)
    say("ready")
    for line in sys.stdin:
        words = line.split()
        if words == ["cpu"]:
            say(time.process_time())
        else:
            say(times(client, int(words[1]), int(words[2]), float(words[3])))


def times(client, concurrency, number, seconds):
    end = time.monotonic() + seconds
    share = number // concurrency
    took = [[] for _ in range(concurrency)]

    def worker(mine):
        while len(mine) < share and time.monotonic() < end:
            begun = time.monotonic()
            answer = client.call({}, "echo", payload=PAYLOAD)
            mine.append(time.monotonic() - begun)
            assert answer == PAYLOAD

    threads = [threading.Thread(target=worker, args=(mine,)) for mine in took]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for mine in took for one in mine]


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](sys.argv[2])
