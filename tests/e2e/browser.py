# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium over the DevTools protocol, through two pipes: no port, no library.

    with Browser() as b:
        page = b.page("http://127.0.0.1:8080/", 1280, 900)
        page.eval("document.title")
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
import unittest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find():
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise unittest.SkipTest("no Chromium is installed (package chromium)")


class Browser:
    def __init__(self):
        path = find()
        self.dir = tempfile.TemporaryDirectory(prefix="freehold-chromium-", ignore_cleanup_errors=True)
        # It reads from its descriptor 3 and writes to 4, which may be others' here: ours are above these.
        low = (*os.pipe(), *os.pipe())
        theirs_in, self.out, self.inp, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low)
        for fd in low:
            os.close(fd)
        self.log = open(os.path.join(self.dir.name, "log"), "wb")
        # The pages are our own, and it may run as root in a container: its sandbox is of no use here.
        self.proc = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', path, "--headless=new", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--mute-audio", "--force-color-profile=srgb", "--user-data-dir=" + self.dir.name,
             "--remote-debugging-pipe", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": self.dir.name})
        os.close(theirs_in)
        os.close(theirs_out)
        self.next_id = 0
        self.rest = b""
        self.events = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        try:
            self.send("Browser.close")
        except OSError:
            pass
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        os.close(self.out)
        os.close(self.inp)
        self.log.close()
        self.dir.cleanup()

    def send(self, method, session=None, **params):
        self.next_id += 1
        m = {"id": self.next_id, "method": method, "params": params}
        if session:
            m["sessionId"] = session
        os.write(self.out, json.dumps(m).encode() + b"\0")
        return self.next_id

    def receive(self, timeout):
        """The next message, or None."""
        deadline = time.monotonic() + timeout
        while b"\0" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.inp], [], [], left)[0]:
                return None
            data = os.read(self.inp, 1 << 20)
            if not data:
                raise AssertionError("the browser has ended")
            self.rest += data
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, session=None, timeout=30, **params):
        nr = self.send(method, session, **params)
        deadline = time.monotonic() + timeout
        while True:
            m = self.receive(deadline - time.monotonic())
            if m is None:
                raise AssertionError(f"{method}: no answer in {timeout} s")
            if m.get("id") == nr:
                if "error" in m:
                    raise AssertionError(f"{method}: {m['error']}")
                return m["result"]
            self.events.append(m)

    def page(self, url, width, height, scale=1, phone=False, dark=False):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        p = Page(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            p.call(domain + ".enable")
        p.size(width, height, scale, phone)
        p.scheme(dark)
        p.call("Page.navigate", url=url)
        return p


class Page:
    KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, "")}

    def __init__(self, browser, target, session):
        self.browser, self.target, self.session = browser, target, session

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def size(self, width, height, scale=1, phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)

    def scheme(self, dark):
        self.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def eval(self, code):
        r = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in r:
            raise AssertionError(f"{code}: {r['exceptionDetails']}")
        return r["result"].get("value")

    def until(self, code, seconds=10):
        """Until @code is true; its value."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                value = self.eval(code)
            except AssertionError:
                value = None
            if value:
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"not true after {seconds} s: {code}; the page says:\n" + self.eval("document.body.innerText")[:3000])
            time.sleep(0.03)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, name, shift=False):
        code, text = self.KEYS[name]
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                      modifiers=8 if shift else 0, **more)

    def screenshot(self, path=None, full=False):
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"])
        if path:
            with open(path, "wb") as f:
                f.write(data)
        return data

    def complaints(self):
        """What the page's console says that is wrong, policies that were broken among it."""
        out = []
        for m in self.browser.events:
            p = m.get("params", {})
            if m.get("sessionId") != self.session:
                continue
            if m.get("method") == "Runtime.exceptionThrown":
                out.append(p["exceptionDetails"])
            elif m.get("method") == "Log.entryAdded" and p["entry"]["level"] == "error":
                out.append(p["entry"])
        return out

    def fetched(self):
        """The addresses that it asked for."""
        return [m["params"]["request"]["url"] for m in self.browser.events
                if m.get("method") == "Network.requestWillBeSent" and m.get("sessionId") == self.session]

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
