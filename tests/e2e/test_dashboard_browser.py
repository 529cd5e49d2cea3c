# SPDX-License-Identifier: Apache-2.0
"""The dashboard in headless Chromium, by keyboard: open the door with a key, watch numbers move under load, chat, revoke a
key, on a desk and on a phone, light and dark. FREEHOLD_SCREENSHOTS=DIR keeps the pictures, after a while of load."""

import json
import os
import struct
import tempfile
import threading
import time
import unittest
import zlib

import browser
from server import DEMO_MODEL, Server
from identity import Database, bearer, freehold, status

# Of every text that shows: its contrast to what lies behind it (WCAG 2.2, 1.4.3), where that is too little.
CONTRAST = """(() => {
  const rgb = (s) => { const m = s.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const lum = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (el) => { const layers = [];
    for (let e = el; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); layers.push(c); if (c[3] === 1) break; }
    return layers.reverse().reduce((a, c) => a.map((v, i) => v * (1 - c[3]) + c[i] * c[3]), [255, 255, 255]); };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let nr = 0;
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const el = n.parentElement;
    if (!n.data.trim() || !el.checkVisibility() || el.closest(".hide, script, noscript")) continue;
    nr++;
    const style = getComputedStyle(el), c = rgb(el.closest("svg") ? style.fill : style.color);
    const [a, b] = [lum(c.slice(0, 3)), lum(behind(el))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) bad.push([n.data.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return { nr, bad };
})()"""

NUMBERS = """Object.fromEntries(["rate", "running", "finished", "refused", "ttft-p50", "itl-p50", "kv-n-cached", "tok-gen",
  "cost", "audit-size", "rate-prompt"].map((id) => [id, document.getElementById(id).textContent]))"""


def pixels(png):
    """Width, height and how many colours its bytes have, roughly: an empty page has few."""
    width, height = struct.unpack(">II", png[16:24])
    data, at = b"", 8
    while at < len(png):
        n, kind = struct.unpack(">I4s", png[at:at + 8])
        if kind == b"IDAT":
            data += png[at + 8:at + 8 + n]
        at += 12 + n
    raw = zlib.decompress(data)
    return width, height, len({raw[i:i + 3] for i in range(0, len(raw) - 3, 3)})


class Load:
    """Requests of two tenants until the end."""

    def __init__(self, server, keys):
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(server, keys[i % len(keys)], i)) for i in range(4)]
        for t in self.threads:
            t.start()

    def run(self, server, key, i):
        nr = 0
        while not self.stop.is_set():
            nr += 1
            body = {"prompt": f"Once upon a time, in town number {i}, " * 3, "max_tokens": 40 + 20 * i, "seed": nr,
                    "priority": "interactive" if i % 2 else "standard", "ignore_eos": True}
            if server.request("POST", "/v1/completions", body, bearer(key), timeout=60)[0] != 200:
                time.sleep(0.1)
            time.sleep(0.05)

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join()


class Dashboard(unittest.TestCase):
    def test_in_chromium(self):
        browser.find()
        with Database() as db, tempfile.TemporaryDirectory(prefix="freehold-audit-") as log:
            _, acme = db.add("--tenant", "acme", "--user", "alice", "--label", "laptop")
            _, north = db.add("--tenant", "northwind", "--label", "batch jobs", "--endpoints", "/v1/completions")
            victim_id, victim = db.add("--tenant", "acme", "--user", "bob", "--label", "lost phone")
            _, ops = db.add("--tenant", "ops", "--label", "dashboard", "--endpoints", "all,admin")
            for who, what in (("tenant:acme", "tokens/day=100000"), ("tenant:acme", "money/month=0.5"),
                              ("tenant:northwind", "tokens/month=2M"), ("tenant:northwind", "requests/minute=300")):
                self.assertEqual(freehold("budget", "set", who, what, "--keys", db.path).returncode, 0)
            with Server(DEMO_MODEL, "--threads", "1", "--ctx", "512", "--max-seqs", "4", "--max-queue", "16", "--keys", db.path,
                        "--audit", log, "--price", "* 0.50/0.05/1.50", "--deadline-interactive", "500/50",
                        "--deadline-standard", "2000/none") as s, browser.Browser() as b:
                load = Load(s, [acme, north])
                try:
                    page = self.look(s, b, ops, victim_id, victim)
                    self.next_one(page, acme)
                finally:
                    load.end()

    def look(self, s, b, ops, victim_id, victim):
        page = b.page(s.url + "/", 1280, 1000)
        self.log_in(page, ops)
        first = page.eval(NUMBERS)
        page.until("document.querySelectorAll('#tenants tr').length >= 3")
        moved = page.until(f"""(() => {{ const was = {json.dumps(first)}, now = {NUMBERS};
            return Object.keys(was).every((k) => ["running", "refused", "kv-n-cached"].includes(k) || now[k] !== was[k]) && now.running > 0 && now; }})()""")
        self.assertGreater(int(moved["running"]), 0)
        self.assertNotIn("–", "".join(moved.values()))
        self.assertIn(b"acme", page.eval("document.getElementById('tenants').textContent").encode())
        self.assertEqual(page.eval("document.getElementById('health').textContent"), "ok")
        self.chat(page)
        self.revoke(s, page, victim_id, victim)
        self.judge(page, "desktop", 1280)
        self.assertEqual(page.complaints(), [])
        hosts = {u for u in page.fetched() if not u.startswith((s.url + "/", "data:", "about:"))}
        self.assertEqual(hosts, set())
        # The key is kept for this tab, through a reload; and forgotten when it is told to.
        page.call("Page.reload")
        page.until("document.getElementById('rate').textContent !== '–' && !document.getElementById('keys-card').hidden")
        self.chat(page)
        page.eval("document.getElementById('leave').click()")
        page.until("!document.getElementById('door').hidden && document.getElementById('main').hidden")
        self.assertIsNone(page.eval("sessionStorage.getItem('freehold.key')"))
        return page

    def next_one(self, page, key):
        """Who comes after an administrator, in the same tab, sees neither his keys nor what he said."""
        page.eval("document.getElementById('key').focus()")
        page.type(key)
        page.key("Enter")
        page.until("!document.getElementById('main').hidden && document.querySelectorAll('#tenants tr').length === 1")
        self.chat(page)
        self.assertEqual(page.eval("[document.getElementById('keys-card').hidden, document.querySelectorAll('#keys tr').length,"
                                   "document.querySelectorAll('#talk .me').length]"), [True, 0, 1])

    def log_in(self, page, key):
        page.until("document.activeElement && document.activeElement.id === 'key'")
        page.type("fh-wrong")
        page.key("Enter")
        page.until("document.getElementById('door-note').textContent.includes('not known')")
        self.assertTrue(page.eval("document.getElementById('main').hidden"))
        # The refusal is an answer that the browser notes in its console; nothing else may stand there.
        self.assertEqual([e["text"] for e in page.complaints() if "401" not in e.get("text", "")], [])
        page.browser.events.clear()
        page.type(key)
        page.key("Enter")
        page.until("!document.getElementById('main').hidden && document.getElementById('tok-gen').textContent !== '–'")

    def chat(self, page):
        page.eval("document.getElementById('max').value = 24; document.getElementById('say').focus()")
        page.type("Tell me of a")
        page.key("Enter", shift=True)
        page.type("little fox.")
        page.key("Enter")
        page.until("!!document.querySelector('#talk .it small, #talk .bad')")
        self.assertEqual(page.eval("document.querySelector('#talk .me').textContent"), "Tell me of a\nlittle fox.")
        answer = page.eval("document.querySelector('#talk .it').textContent")
        self.assertFalse(page.eval("document.querySelector('#talk .it').classList.contains('bad')"), answer)
        self.assertIn("first token after", answer)
        self.assertRegex(answer, r"\d+ tokens")

    def revoke(self, s, page, victim_id, victim):
        page.until("document.querySelectorAll('#keys tr').length === 4")
        button = f"document.querySelector('#keys button[aria-label$=\"{victim_id} of acme\"]')"
        page.eval(button + ".focus()")
        page.key("Enter")
        self.assertEqual(page.eval(button + ".textContent"), "Really revoke")
        self.assertEqual(status(s, victim), 200, "one press is none")
        page.key("Enter")
        page.until(f"document.getElementById('keys-note').textContent === 'Key {victim_id} is revoked.'")
        self.assertEqual(status(s, victim), 401)
        page.until("[...document.querySelectorAll('#keys td')].some((td) => td.textContent === 'revoked')")

    def judge(self, page, name, width):
        """Light and dark, on a desk and on a phone: nothing is cut off, all of it can be read."""
        folder = os.environ.get("FREEHOLD_SCREENSHOTS")
        time.sleep(100 if folder else 0)
        for name, width, height, scale in (("desktop", 1280, 1010, 1), ("phone", 390, 844, 2)):
            for dark in (False, True):
                page.size(width, height, scale, name == "phone")
                page.scheme(dark)
                page.eval("scrollTo(0, 0)")
                time.sleep(0.1)
                seen = page.eval(CONTRAST)
                self.assertGreater(seen["nr"], 80)
                self.assertEqual(seen["bad"], [], (name, dark))
                self.assertLessEqual(page.eval("document.documentElement.scrollWidth"), width, "sideways scrolling")
                columns = page.eval("getComputedStyle(document.getElementById('main')).gridTemplateColumns.split(' ').length")
                self.assertEqual(columns, 1 if name == "phone" else 3)
                if folder or not dark:
                    path = folder and os.path.join(folder, f"dashboard-{name}{'-dark' if dark else ''}.png")
                    got = pixels(page.screenshot(path))
                    self.assertEqual(got[:2], (width * scale, height * scale))
                    self.assertGreater(got[2], 100)
