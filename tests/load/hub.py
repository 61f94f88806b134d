"""Learners on a real JupyterHub: each logs in, runs a notebook to its end, gets its answers.

    python tests/load/hub.py --learners 20 --notebook 07_shadow_versus_ept.ipynb --seconds 300

It starts JupyterHub with ``binder/jupyterhub_config.py`` in folders of its own, and
configurable-http-proxy from the PATH or ``KVMLAB_HUB_PROXY``; it must run in an environment that
has jupyterhub and kvmlab. Status 0 means that every stored output of the notebook came back to
every learner, in time.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

CONFIG = Path(__file__).parents[2] / "binder" / "jupyterhub_config.py"
LOGINS = 4  # at a time, as the hub's concurrent_spawn_limit
PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY = f"print(int(open('/proc/self/statm').read().split()[1]) * {PAGE} >> 20)"  # RSS, MiB


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="kvmlab-hub-") as folder:
        hub = Hub(Path(folder))
        try:
            report = asyncio.run(asyncio.wait_for(class_of(hub, options), options.seconds))
        except TimeoutError:
            sys.exit(f"not done after {options.seconds} s\n{hub.log()[-2000:]}")
        finally:
            hub.stop()
    print(json.dumps(report, indent=2))
    return 1 if report["wrong"] else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learners", type=int, default=20)
    parser.add_argument("--notebook", default="05_ept_and_the_24_references.ipynb")
    parser.add_argument("--seconds", type=float, default=300, help="all of them, at most")
    return parser.parse_args()


class Hub:
    """A JupyterHub process on free ports of this machine, with a token for its API."""

    def __init__(self, folder):
        self.folder, self.token = folder, secrets.token_hex(16)
        self.url, internal, proxy = (f"http://127.0.0.1:{port}" for port in free_ports(3))
        command = [sys.executable, "-m", "jupyterhub", "-f", str(CONFIG)]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "KVMLAB_HUB_URL": self.url,
            "KVMLAB_HUB_INTERNAL_URL": internal,
            "KVMLAB_HUB_PROXY_URL": proxy,
            "KVMLAB_HUB_TOKEN": self.token,
            "KVMLAB_HUB_HOMES": str(folder / "homes"),
        }
        with (folder / "hub.log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def log(self):
        return (self.folder / "hub.log").read_text()

    def stop(self):
        """End the hub and the servers that it started."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)

    async def ask(self, method, path, body=None):
        """The JSON of an answer; raises for an error status."""
        request = HTTPRequest(
            f"{self.url}{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=120,
        )
        answer = await AsyncHTTPClient().fetch(request)
        return json.loads(answer.body) if answer.body else None

    async def until_up(self):
        while True:
            try:
                return await self.ask("GET", "/hub/api/")
            except (OSError, HTTPClientError):
                if self.process.poll() is not None:
                    sys.exit(f"JupyterHub ended:\n{self.log()[-2000:]}")
                await asyncio.sleep(0.2)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


async def class_of(hub, options):
    """Everybody at once; what was seen."""
    AsyncHTTPClient.configure(None, max_clients=100)
    await hub.until_up()
    free, begun = available(), time.monotonic()
    gate = asyncio.Semaphore(LOGINS)
    names = [f"learner{n:02}" for n in range(options.learners)]
    seen = await asyncio.gather(*(learn(hub, name, options.notebook, gate) for name in names))
    return {
        "learners": len(names),
        "notebook": options.notebook,
        "checked_outputs_each": seen[0]["checked"],
        "wrong": [line for one in seen for line in one["wrong"]],
        "seconds": round(time.monotonic() - begun, 1),
        "login_seconds": spread([one["login"] for one in seen]),
        "notebook_seconds": spread([one["ran"] for one in seen]),
        "kernel_rss_mib": spread([one["kernel_mib"] for one in seen]),
        "server_pss_mib": spread(pss("jupyterhub-singleuser", hub.process.pid)),
        "kernel_pss_mib": spread(pss("ipykernel_launcher", hub.process.pid)),
        "available_mib_each": round((free - min(one["free"] for one in seen)) / len(names), 1),
    }


def pss(program, hub):
    """The proportional share of memory, in MiB, of each process of a hub that runs ``program``.

    What several processes share is divided among them, so sums over learners are true; unlike
    MemAvailable it does not see what else the machine does.
    """
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
    for pid in parents:
        above = pid
        while above in parents and above != hub:
            above = parents[above]
        with contextlib.suppress(OSError):
            if above == hub and program in Path(f"/proc/{pid}/cmdline").read_text():
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                found.append(int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) / 1024)
    return found


def spread(values):
    if not values:
        return None  # a system that does not tell
    return {"median": round(statistics.median(values), 1), "max": round(max(values), 1)}


async def learn(hub, name, notebook, gate):
    """One learner from login to the last cell."""
    await hub.ask("POST", f"/hub/api/users/{name}")
    async with gate:
        begun = time.monotonic()
        await hub.ask("POST", f"/hub/api/users/{name}/server", {})
        while not (user := await hub.ask("GET", f"/hub/api/users/{name}"))["server"]:
            if not user["pending"]:
                sys.exit(f"the server of {name} did not start:\n{hub.log()[-2000:]}")
            await asyncio.sleep(0.2)
        login = time.monotonic() - begun
    contents = await hub.ask("GET", f"/user/{name}/api/contents/{notebook}")
    kernel = await hub.ask("POST", f"/user/{name}/api/kernels", {"name": "python3"})
    begun = time.monotonic()
    channels = f"{hub.url.replace('http', 'ws', 1)}/user/{name}/api/kernels/{kernel['id']}/channels"
    request = HTTPRequest(channels, headers={"Authorization": f"token {hub.token}"})
    socket_ = await websocket_connect(request)
    wrong, checked = [], 0
    for number, cell in enumerate(contents["content"]["cells"]):
        if cell["cell_type"] != "code":
            continue
        said = await run(socket_, cell["source"])
        wanted = texts(cell["outputs"])
        checked += len(wanted)
        if said != wanted:
            wrong.append(f"{name}, cell {number}: {said!r:.200} instead of {wanted!r:.200}")
    mib = await run(socket_, MEMORY)
    socket_.close()
    return {
        "login": login,
        "ran": time.monotonic() - begun,
        "checked": checked,
        "wrong": wrong,
        "kernel_mib": int(mib[0]),
        "free": available(),
    }


async def run(socket_, code):
    """Run one cell and return the texts that it put out, when the kernel is idle again."""
    message = str(uuid4())
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    header = {"msg_id": message, "msg_type": "execute_request", "version": "5.3"}
    header |= {"username": "", "session": "load", "date": ""}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    await socket_.write_message(json.dumps({**request, "channel": "shell", "buffers": []}))
    outputs = []
    while True:
        text = await socket_.read_message()
        if text is None:
            sys.exit("a kernel hung up")
        answer = json.loads(text) if isinstance(text, str) else {"parent_header": {}}
        if answer["parent_header"].get("msg_id") != message:
            continue
        kind, body = answer["msg_type"], answer["content"]
        if kind in ("stream", "execute_result", "display_data", "error"):
            outputs.append({"output_type": kind, **body})
        elif kind == "status" and body["execution_state"] == "idle":
            return texts(outputs)


def texts(outputs):
    """What a learner reads: printed text as one, then each value as text."""
    printed = "".join("".join(one["text"]) for one in outputs if one["output_type"] == "stream")
    values = ["".join(one["data"].get("text/plain", "")) for one in outputs if "data" in one]
    errors = [one["evalue"] for one in outputs if one["output_type"] == "error"]
    return [line for line in (printed.strip(), *values, *errors) if line]


def available():
    """MemAvailable of this machine, in MiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024


if __name__ == "__main__":
    sys.exit(main())
