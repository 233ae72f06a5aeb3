"""A headless Chromium, driven by its DevTools protocol over two pipes; nothing needs to be installed besides it.

The browser is that of the environment variable CNNJAX_CHROMIUM, or one on the PATH; tests skip without.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
    "--remote-debugging-pipe",
)  # fmt: skip
SECONDS = 60
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Enter": 13, "/": 191}


def find() -> str:
    """The browser's path. Skips the test if there is none."""
    named = os.environ.get("CNNJAX_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium: put one on the PATH, or its path into CNNJAX_CHROMIUM")
    return found


class Browser:
    """A running browser, whose profile is in a folder. Close it by `with`."""

    def __init__(self, folder: Path) -> None:
        path = find()
        self._in, theirs_in = _pipe()
        theirs_out, self._out = _pipe()
        environment = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
        # Not subprocess: it would fork a process that has JAX's threads, or could not place the pipes at 3 and 4.
        self.pid = os.posix_spawn(
            path,
            [path, *FLAGS, f"--user-data-dir={folder}"],
            environment | {"HOME": str(folder)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs_out, 3),
                (os.POSIX_SPAWN_DUP2, theirs_in, 4),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self.events: list[dict] = []

    def send(self, method: str, session: str | None = None, **params) -> dict:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def receive(self, seconds: float = SECONDS) -> dict:
        """The next message; events are kept, too."""
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._in, 2**20)
            if not part:
                raise RuntimeError("the browser ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._in)
        os.close(self._out)


class Tab:
    """A page that was opened: what it loads and reports, and what a user does with it."""

    def __init__(self, browser: Browser, path: Path, fragment: str = "", size=(1280, 900), dark: bool = False) -> None:
        self.browser = browser
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri() + fragment)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def send(self, method: str, **params) -> dict:
        return self.browser.send(method, self.session, **params)

    def evaluate(self, script: str):
        """The value of an expression, which may be a promise. Raises if it throws."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", script))
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = SECONDS):
        """Wait until an expression is true, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        code = KEYS.get(key, ord(key[0].upper()))
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)
            text = {}

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def _own(self, method: str) -> list[dict]:
        return [e["params"] for e in self.browser.events if e["method"] == method and e["sessionId"] == self.session]

    def requests(self) -> list[str]:
        """The addresses of everything that the page asked for."""
        return [event["request"]["url"] for event in self._own("Network.requestWillBeSent")]

    def failures(self) -> list[str]:
        """Exceptions, console errors and warnings, and requests that failed."""
        found = [event["exceptionDetails"]["text"] for event in self._own("Runtime.exceptionThrown")]
        found += [str(e["args"]) for e in self._own("Runtime.consoleAPICalled") if e["type"] in ("error", "warning")]
        found += [
            e["entry"]["text"] for e in self._own("Log.entryAdded") if e["entry"]["level"] in ("error", "warning")
        ]
        return found + [e["errorText"] for e in self._own("Network.loadingFailed")]

    def check(self, folder: Path) -> None:
        """Nothing failed, and nothing was asked for outside of a folder."""
        self.evaluate("new Promise(done => setTimeout(done, 50))")
        assert self.failures() == []
        for address in self.requests():
            assert address.startswith(("data:", folder.as_uri())), address

    def load_images(self) -> int:
        """Scroll through the whole page; the number of images, all of which must have loaded by then."""
        return self.evaluate("""(async () => {
            const pause = ms => new Promise(done => setTimeout(done, ms));
            for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight / 2) {
                scrollTo(0, y);
                await pause(20);
            }
            const images = [...document.images];
            for (let i = 0; i < 500 && !images.every(image => image.complete); i++) await pause(20);
            const broken = images.filter(image => !image.naturalWidth || !image.alt);
            if (broken.length) throw new Error(broken.length + " broken: " + broken[0].outerHTML.slice(0, 200));
            return images.length;
        })()""")


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are neither 3 nor 4, which the browser's ends become."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
