// SPDX-License-Identifier: Apache-2.0
// The dashboard: reads the server's events, writes numbers into the page, draws a few lines.
"use strict";

const $ = (id) => document.getElementById(id);
const SPAN_MS = 120000;
const SVG = "http://www.w3.org/2000/svg";

/* ---- the key: in this tab, until it closes ---- */

const store = {
  get() { try { return sessionStorage.getItem("freehold.key") || ""; } catch { return store.kept || ""; } },
  set(key) {
    store.kept = key;
    try { if (key) sessionStorage.setItem("freehold.key", key); else sessionStorage.removeItem("freehold.key"); } catch { /* kept in memory alone */ }
  },
};

function ask(path, init = {}) {
  const headers = { ...init.headers };
  if (store.get()) headers.Authorization = "Bearer " + store.get();
  return fetch(path, { ...init, headers, cache: "no-store", credentials: "same-origin", redirect: "error" });
}

/* What an answer says is wrong. */
async function reason(r) {
  try { return (await r.json()).error.message; } catch { return "status " + r.status; }
}

/* The lines of an answer that begin with "data: ", as they come. */
async function* events(r) {
  const reader = r.body.getReader(), text = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + text.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/* ---- numbers for people ---- */

const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const count = (v) => (v < 100000 ? exact : short).format(v);
const rate = (v) => (v > 0 && v < 10 ? v.toFixed(1) : count(v));
const money = (v) => (v === 0 ? "0" : v >= 100 ? exact.format(v) : v >= 0.1 ? v.toFixed(2) : v.toPrecision(2));
const percent = (v) => (v > 0 && v < 9.95 ? v.toFixed(1) : v.toFixed(0));

function time(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1) return ms.toFixed(2) + " ms";
  if (ms < 10) return ms.toFixed(1) + " ms";
  return ms < 1000 ? ms.toFixed(0) + " ms" : (ms / 1000).toFixed(ms < 10000 ? 1 : 0) + " s";
}

function age(s) {
  if (s < 90) return s.toFixed(0) + " s";
  if (s < 5400) return (s / 60).toFixed(0) + " min";
  return s < 172800 ? (s / 3600).toFixed(1) + " h" : (s / 86400).toFixed(0) + " days";
}

/* A value whose unit is set smaller. */
function measure(el, text) {
  const [n, unit] = text.split(" ");
  el.replaceChildren(n, ...(unit ? [make("small", " " + unit)] : []));
}

function make(tag, text, name) {
  const el = document.createElement(tag);
  if (text !== undefined) el.textContent = text;
  if (name) el.className = name;
  return el;
}

/* ---- drawing ---- */

function draw(svg, shapes) {
  const w = svg.clientWidth, h = svg.clientHeight;
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.replaceChildren(...shapes.filter(Boolean).map(([tag, attrs, text]) => {
    const el = document.createElementNS(SVG, tag);
    for (const k in attrs) el.setAttribute(k, attrs[k]);
    if (text !== undefined) el.textContent = text;
    return el;
  }));
}

/* The least of 1, 2, 5 times a power of ten that is no less. */
function ceiling(v) {
  if (!(v > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 5, 10].find((f) => f * unit >= v * 0.999) * unit;
}

const past = []; /* of the last two minutes: {at, ...numbers} */

/* Lines over time: @series of [name, class], the first with the area under it. */
function plot(svg, series, small) {
  const w = svg.clientWidth, h = svg.clientHeight, left = 40, top = 8, bottom = 18;
  if (!w) return;
  const now = past.length ? past[past.length - 1].at : Date.now();
  const most = ceiling(Math.max(0, ...past.flatMap((p) => series.map(([name]) => p[name] ?? 0))));
  const steps = small ? 1 : String(most).replace(/[0.]/g, "")[0] === "2" ? 4 : 5;
  /* As much as there is, from half a minute to two. */
  const span = Math.min(SPAN_MS, Math.max(30000, past.length ? (now - past[0].at) * 1.02 : 0));
  const x = (at) => left + (w - left - 2) * (1 - (now - at) / span);
  const y = (v) => top + (h - top - bottom) * (1 - v / most);
  const shapes = [];
  for (let i = 0; i <= steps; i++) {
    const v = most * i / steps;
    shapes.push(["line", { class: "grid", x1: left, x2: w, y1: y(v), y2: y(v) }]);
    shapes.push(["text", { x: left - 7, y: y(v) + 4, "text-anchor": "end" }, v < 10 && v % 1 ? v.toFixed(1) : short.format(v)]);
  }
  shapes.push(["text", { x: left, y: h - 3 }, age(span / 1000) + " ago"], ["text", { x: w - 2, y: h - 3, "text-anchor": "end" }, "now"]);
  series.forEach(([name, kind], i) => {
    const at = past.filter((p) => p[name] !== null && p[name] !== undefined).map((p) => `${x(p.at).toFixed(1)},${y(p[name]).toFixed(1)}`);
    if (!at.length) return;
    if (!i) {
      const first = at[0].split(",")[0], last = at[at.length - 1].split(",")[0];
      shapes.push(["path", { class: "area", d: `M${first},${y(0)} L${at.join(" L")} L${last},${y(0)} Z` }]);
    }
    shapes.push(["path", { class: "line " + kind, d: "M" + (at.length > 1 ? at : [at[0], at[0]]).join(" L") }]);
  });
  draw(svg, shapes);
}

/* Percentiles and deadlines on one line, of which each step is ten times the one before. */
function scale(svg, l) {
  const w = svg.clientWidth, h = svg.clientHeight, side = 20, mid = h - 28;
  if (!w) return;
  const due = Object.entries(l.deadline_ms).filter(([, ms]) => ms !== null);
  const all = [l.p50_ms, l.p95_ms, l.p99_ms, ...due.map(([, ms]) => ms)].filter((v) => v > 0).map(Math.log10);
  let from = Math.floor(Math.min(...all, 1) - 0.15), to = Math.ceil(Math.max(...all, from + 3) + 0.15);
  if (!all.length) [from, to] = [0, 4];
  const x = (ms) => side + (w - 2 * side) * (Math.log10(ms) - from) / (to - from);
  const shapes = [["line", { class: "grid", x1: side, x2: w - side, y1: mid, y2: mid }]];
  for (let d = from; d <= to; d++) {
    const ms = 10 ** d;
    const name = ms >= 1000 ? ms / 1000 + " s" : ms >= 1 ? ms + " ms" : ms * 1000 + " µs";
    shapes.push(["line", { class: "grid", x1: x(ms), x2: x(ms), y1: mid - 5, y2: mid + 5 }]);
    shapes.push(["text", { x: x(ms), y: h - 2, "text-anchor": "middle" }, name]);
  }
  if (l.count) {
    shapes.push(["line", { class: "span", x1: x(l.p50_ms), x2: x(l.p99_ms), y1: mid, y2: mid }]);
    for (const [v, r] of [[l.p99_ms, 3.5], [l.p95_ms, 4.5], [l.p50_ms, 6]]) shapes.push(["circle", { class: "mark", cx: x(v), cy: mid, r }]);
  }
  let taken = -Infinity;
  for (const ms of [...new Set(due.map(([, v]) => v))].sort((p, q) => p - q)) {
    const name = due.filter(([, v]) => v === ms).map(([n]) => n).join(", "), wide = 6.4 * name.length, at = x(ms);
    const after = at + 5 + wide < w, begin = after ? at + 5 : at - 5 - wide, row = begin < taken ? 22 : 10;
    shapes.push(["line", { class: "due", x1: at, x2: at, y1: row - 9, y2: mid + 7 }]);
    shapes.push(["text", { class: "due-name", x: after ? at + 5 : at - 5, y: row, "text-anchor": after ? "start" : "end" }, name]);
    taken = begin + wide + 6;
  }
  draw(svg, shapes);
}

/* ---- from an event to the page ---- */

let last = null, model = "", heard = 0, keysAt = 0, answering = null;
const talk = []; /* messages of the playground */

function latency(name, l) {
  for (const p of ["p50", "p95", "p99"]) measure($(`${name}-${p}`), time(l[p + "_ms"]));
  scale($("scale-" + name), l);
  const note = $(name + "-note"), judged = l.kept + l.missed;
  const due = Object.entries(l.deadline_ms).filter(([, ms]) => ms !== null).map(([n, ms]) => `${n} ${time(ms)}`);
  if (judged) {
    const share = make("b", percent(100 * l.kept / judged) + " %", l.missed ? (l.missed / judged > 0.01 ? "bad" : "") : "good");
    note.replaceChildren(share, ` of ${count(judged)} deadlines kept`, due.length ? "; " + due.join(", ") : "");
  } else {
    note.replaceChildren(make("span", due.length ? "No deadline fell due; " + due.join(", ") : "No deadline is set.", "quiet"));
  }
  $("scale-" + name).setAttribute("aria-label", l.count
    ? `p50 ${time(l.p50_ms)}, p95 ${time(l.p95_ms)}, p99 ${time(l.p99_ms)}${due.length ? "; deadlines: " + due.join(", ") : ""}`
    : "Nothing was measured in this time");
}

function showCost(s) {
  const c = s.cost, t = s.tenants;
  $("cost-rows").hidden = !c;
  $("cost").textContent = c ? money(c.since_start) : "none";
  $("cost-unit").textContent = c ? " since the start" : "";
  if (!c) {
    $("cost-note").textContent = "No prices are set (serve --price).";
    return;
  }
  const sum = (span) => (t ? money(t.reduce((n, x) => n + x[span].money.used, 0)) : "–");
  measure($("cost-rate"), s.rates ? money(s.rates.cost_per_hour) + " /h" : "–");
  $("cost-day").textContent = sum("day");
  $("cost-month").textContent = sum("month");
  const p = c.price_per_million;
  $("cost-note").textContent = `A million tokens: read ${money(p.prompt)}, cached ${money(p.cached)}, generated ${money(p.completion)}` +
    (p.reasoning === p.completion ? "." : `, thought ${money(p.reasoning)}.`) +
    (t && !s.you.admin ? ` Today and month: ${s.you.tenant} alone.` : "");
}

const known = (v) => v !== null && v !== undefined;

function joules(j) {
  if (j < 1000) return (j < 10 ? j.toFixed(j < 1 ? 3 : 1) : j.toFixed(0)) + " J";
  return j < 3.6e6 ? short.format(j / 1000) + " kJ" : (j / 3.6e6).toFixed(2) + " kWh";
}

/* What the host takes and what it costs: where it is measured, and where the settings tell. */
function showHost(e, h) {
  $("host-card").hidden = !e && !h;
  if (!e && !h) return;
  $("host-big").textContent = h ? money(h.per_hour) : joules(e.joules).split(" ")[0];
  $("host-unit").textContent = h ? "an hour" : joules(e.joules).split(" ")[1] + " since the start";
  measure($("host-watts"), e && known(e.watts) ? e.watts.toFixed(e.watts < 10 ? 1 : 0) + " W" : "–");
  measure($("host-token"), e && known(e.joules_per_token) ? joules(e.joules_per_token) : "–");
  $("host-million").textContent = h && known(h.per_million) ? money(h.per_million) : "–";
  const notes = [];
  if (h) notes.push(`${money(h.since_start)} since the start` + (known(h.per_million_lately) ? `; a million tokens cost ${money(h.per_million_lately)} at the load of the last minute` : ""));
  if (e) notes.push(`${joules(e.joules)} measured, ${percent(e.joules ? 100 * e.idle / e.joules : 0)} % of it idle`);
  else notes.push("Power is the settings', not measured");
  $("host-note").textContent = notes.join(". ") + ".";
}

function showAudit(a) {
  $("audit-rows").hidden = !a;
  $("audit-size").textContent = a ? count(a.published) : "off";
  $("audit-unit").textContent = a ? " entries under the signed head" : "";
  $("audit-hash").hidden = !(a && a.root);
  $("audit-root").textContent = a && a.root ? a.root : "";
  if (!a) {
    $("audit-note").textContent = "Nothing is logged (serve --audit).";
    return;
  }
  $("audit-mode").textContent = a.mode;
  $("audit-state").textContent = a.error ? "failing" : "writing";
  $("audit-state").className = a.error ? "bad" : "good";
  $("audit-durable").textContent = count(a.durable);
  $("audit-note").replaceChildren(a.error ? make("b", a.error, "bad") : "",
    a.lost ? make("b", `${a.error ? "; " : ""}${count(a.lost)} events were lost`, "bad") : "");
}

function used(u, asMoney) {
  const td = make("td"), show = asMoney ? money : count;
  td.append(make("b", show(u.used)), u.limit !== null ? " of " + show(u.limit) : "");
  if (u.limit !== null) {
    const bar = make("div", undefined, "bar"), fill = make("i"), share = u.used / u.limit;
    fill.style.width = Math.min(100, 100 * share) + "%";
    fill.className = share >= 1 ? "over" : share >= 0.8 ? "near" : "";
    bar.append(fill);
    td.append(bar);
  }
  return td;
}

function showTenants(t) {
  $("tenants-card").hidden = !t || !t.length;
  $("tenants").replaceChildren(...(t || []).map((x) => {
    const tr = make("tr"), th = make("td");
    th.append(make("b", x.tenant));
    tr.append(th, used(x.day.tokens), used(x.month.tokens), used(x.month.money, true), used(x.minute.requests),
      make("td", last && last.energy ? joules(x.joules) : "–"));
    return tr;
  }));
}

function bar(id, n, most) {
  $(id).textContent = exact.format(n);
  $(id + "-max").textContent = " of " + exact.format(most);
  $(id + "-bar").style.width = (most ? Math.min(100, 100 * n / most) : 0) + "%";
}

function showRequests(r, rates) {
  bar("running", r.running, r.max_running);
  bar("waiting", r.waiting, r.max_waiting);
  measure($("finished"), count(r.finished.total) + (rates && rates.finished ? ` ${rate(rates.finished)}/s` : ""));
  measure($("refused"), count(r.refused.total) + (rates && rates.refused ? ` ${rate(rates.refused)}/s` : ""));
  const names = { queue_full: "queue full", budget: "budget", ttft: "first token would be late", tpot: "tokens would be late", others: "others would be late" };
  $("refused-why").textContent = Object.keys(names).filter((k) => r.refused[k])
    .map((k) => `${names[k]} ${count(r.refused[k])}`).join(", ");
}

function showKv(kv) {
  const share = kv.blocks ? 100 / kv.blocks : 0;
  $("kv").textContent = percent(kv.held * share);
  $("kv-held").style.width = kv.held * share + "%";
  $("kv-cached").style.width = kv.cached * share + "%";
  for (const k of ["held", "cached", "free"]) $("kv-n-" + k).textContent = count(kv[k]);
  $("kv-bar").setAttribute("aria-label", `KV blocks: ${kv.held} held, ${kv.cached} cached, ${kv.free} free of ${kv.blocks}`);
}

function show(s) {
  last = s;
  model = s.model;
  heard = Date.now();
  $("model").textContent = s.model;
  $("served").hidden = false;
  health(s.health === "ok" ? "good" : "bad", s.health.replace("_", " "));
  $("facts").textContent = `version ${s.version} · up ${age(s.uptime_s)} · ${s.viewers} ${s.viewers === 1 ? "viewer" : "viewers"}` +
    (s.you.tenant ? ` · ${s.you.tenant}${s.you.admin ? ", admin" : ""}` : "");
  const r = s.rates;
  $("rate").textContent = r ? rate(r.generation_tokens) : "–";
  $("rate-prompt").textContent = r ? rate(r.prompt_tokens) : "–";
  $("rate-cached").textContent = r ? rate(r.cached_tokens) : "–";
  $("tok-gen").textContent = count(s.tokens.generated);
  $("tok-prompt").textContent = count(s.tokens.prompt);
  $("tok-cached").textContent = count(s.tokens.cached);
  $("spec").textContent = s.speculation.guesses ? percent(100 * s.speculation.right / s.speculation.guesses) + " %" : "–";
  past.push({ at: s.time_ms, gen: r && r.generation_tokens, prompt: r && r.prompt_tokens, running: s.requests.running, waiting: s.requests.waiting });
  while (past.length && past[0].at < s.time_ms - SPAN_MS) past.shift();
  showRequests(s.requests, r);
  latency("ttft", s.ttft);
  latency("itl", s.itl);
  showKv(s.kv);
  showCost(s);
  showHost(s.energy, s.host);
  showAudit(s.audit);
  showTenants(s.tenants);
  $("foot").textContent = `Percentiles and deadlines are those of the last ${age(s.window_s)}. Counters are since the start.`;
  redraw();
  if (s.you.admin) listKeys(false);
}

function redraw() {
  if (!last) return;
  plot($("plot-rate"), [["gen", ""], ["prompt", "b"]], false);
  plot($("plot-req"), [["running", ""], ["waiting", "b"]], true);
}

function health(kind, text) {
  const el = $("health");
  if (el.textContent !== text) el.textContent = text;
  el.className = "pill " + kind;
}

/* ---- watching ---- */

let watching = null;

/* Whoever comes next sees nothing of what the last one saw, and says nothing that he said. */
function openDoor(note) {
  last = null;
  past.length = keysAt = 0;
  forgetTalk();
  for (const what of ["keys", "tenants"]) {
    $(what).replaceChildren();
    $(what + "-card").hidden = true;
  }
  $("keys-note").textContent = "";
  $("door").hidden = false;
  $("main").hidden = true;
  $("leave").hidden = true;
  $("served").hidden = true;
  $("facts").textContent = $("foot").textContent = "";
  $("door-note").textContent = note;
  health("", "locked");
  $("key").focus();
}

async function watch() {
  if (watching) watching.abort();
  const mine = watching = new AbortController();
  for (let wait = 500; !mine.signal.aborted; wait = Math.min(wait * 2, 8000)) {
    try {
      const r = await ask("v1/freehold/events", { signal: mine.signal });
      if (r.status === 401 || r.status === 403) {
        const why = store.get() ? await reason(r) : "";
        if (r.status === 401) store.set("");
        openDoor(why);
        return;
      }
      if (!r.ok) throw new Error(await reason(r));
      $("door").hidden = true;
      $("main").hidden = false;
      $("leave").hidden = !store.get();
      for await (const data of events(r)) {
        show(JSON.parse(data));
        wait = 500;
      }
    } catch (e) {
      if (mine.signal.aborted) return;
      health("bad", e instanceof TypeError ? "not reachable" : String(e.message).slice(0, 80));
    }
    await sleep(wait);
  }
}

$("login").addEventListener("submit", (e) => {
  e.preventDefault();
  store.set($("key").value.trim());
  $("key").value = "";
  $("door-note").textContent = "";
  watch();
});

$("leave").addEventListener("click", () => {
  store.set("");
  if (watching) watching.abort();
  openDoor("");
});

setInterval(() => {
  if (last && !$("main").hidden && Date.now() - heard > 4000) health("bad", "no news for " + age((Date.now() - heard) / 1000));
}, 1000);

let resized = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(resized);
  resized = requestAnimationFrame(() => {
    redraw();
    if (last) for (const n of ["ttft", "itl"]) scale($("scale-" + n), last[n]);
  });
}).observe($("main"));

/* ---- keys ---- */

/* A page of the list at a time, up to 1,000 keys. */
async function fetchKeys() {
  const list = [];
  let more = true;
  while (more && list.length < 1000) {
    const r = await ask("v1/freehold/keys?limit=250" + (list.length ? "&after=" + list[list.length - 1].id : ""));
    if (!r.ok) throw new Error(await reason(r));
    const page = await r.json();
    list.push(...page.data);
    more = page.has_more;
  }
  return { list, more };
}

async function listKeys(now) {
  if (!now && (Date.now() - keysAt < 15000 || document.querySelector("#keys .danger"))) return;
  keysAt = Date.now();
  const mine = store.get();
  try {
    const { list, more } = await fetchKeys();
    list.sort((a, b) => (a.state === "good") === (b.state === "good") ? b.created - a.created : a.state === "good" ? -1 : 1);
    if (store.get() !== mine || $("main").hidden) return;
    if (more) $("keys-note").textContent = `The first ${list.length} keys are shown; 'freehold key list' has them all.`;
    $("keys").replaceChildren(...list.map(keyRow));
    $("keys-card").hidden = false;
  } catch (e) {
    $("keys-note").textContent = "The keys cannot be listed: " + e.message;
  }
}

function keyRow(k) {
  const tr = make("tr"), who = make("td"), id = make("td"), act = make("td", undefined, "act");
  who.append(make("b", k.tenant), k.user ? "/" + k.user : "");
  id.append(make("code", k.id));
  const scopes = [k.endpoints || "all", k.models].filter(Boolean).join("; ").replaceAll(",", ", ");
  const state = k.state === "good" && k.expires ? "good until " + new Date(k.expires * 1000).toISOString().slice(0, 10) : k.state;
  if (k.state === "good" || k.state === "locked") act.append(revokeButton(k));
  tr.append(who, id, make("td", k.label || "–"), make("td", scopes), make("td", state), act);
  return tr;
}

/* Two presses: the second one within some seconds. */
function revokeButton(k) {
  const b = make("button", "Revoke", "plain");
  b.type = "button";
  b.setAttribute("aria-label", `Revoke key ${k.id} of ${k.tenant}`);
  b.addEventListener("click", async () => {
    if (!b.classList.contains("danger")) {
      b.classList.add("danger");
      b.textContent = "Really revoke";
      b.setAttribute("aria-label", `Really revoke key ${k.id} of ${k.tenant}`);
      setTimeout(() => { if (b.isConnected && !b.disabled) b.replaceWith(revokeButton(k)); }, 5000);
      return;
    }
    b.disabled = true;
    b.classList.remove("danger");
    const r = await ask("v1/freehold/keys/" + k.id, { method: "DELETE" }).catch((e) => e);
    $("keys-note").textContent = r.ok ? `Key ${k.id} is revoked.` : `Key ${k.id} could not be revoked: ` + (r.status ? await reason(r) : r.message);
    listKeys(true);
  });
  return b;
}

/* ---- the playground ---- */

function forgetTalk() {
  if (answering) answering.abort();
  talk.length = 0;
  $("talk").replaceChildren();
}

function bubble(text, name) {
  const p = make("p", text, name);
  $("talk").append(p);
  $("talk").scrollTop = $("talk").scrollHeight;
  return p;
}

async function converse(text) {
  const begin = performance.now(), stop = answering = new AbortController();
  let first = 0, answer = "", usage = null, end = "";
  talk.push({ role: "user", content: text });
  bubble(text, "me");
  const p = bubble("", "it"), said = p.appendChild(document.createTextNode(""));
  $("talk").setAttribute("aria-busy", "true");
  try {
    const r = await ask("v1/chat/completions", {
      method: "POST", signal: stop.signal, headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ model, messages: talk, stream: true, stream_options: { include_usage: true },
        max_tokens: Number($("max").value) || 128, temperature: Number($("temp").value) }),
    });
    if (!r.ok) throw new Error(await reason(r));
    for await (const data of events(r)) {
      if (data === "[DONE]") break;
      const e = JSON.parse(data);
      if (e.error) throw new Error(e.error.message);
      usage = e.usage || usage;
      const c = e.choices[0];
      if (!c) continue;
      end = c.finish_reason || end;
      if (!c.delta || !c.delta.content) continue;
      first = first || performance.now();
      answer += c.delta.content;
      said.data = answer.trimStart();
      $("talk").scrollTop = $("talk").scrollHeight;
    }
    const took = performance.now() - first, n = usage ? usage.completion_tokens : 0;
    const words = [first ? "first token after " + time(first - begin) : "", n ? count(n) + " tokens" : "",
      n > 1 && took > 0 ? rate((n - 1) / took * 1000) + " tokens/s" : "", end];
    p.append(make("small", words.filter(Boolean).join(" · ")));
    if (p.isConnected) talk.push({ role: "assistant", content: answer });
  } catch (e) {
    if (stop.signal.aborted) {
      p.append(make("small", "stopped"));
      if (p.isConnected) talk.push({ role: "assistant", content: answer });
    } else {
      p.classList.add("bad");
      said.data = answer || String(e.message);
      if (answer) p.append(make("small", String(e.message)));
      if (p.isConnected) talk.pop();
    }
  }
  $("talk").setAttribute("aria-busy", "false");
  $("talk").scrollTop = $("talk").scrollHeight;
  answering = null;
}

$("ask").addEventListener("submit", async (e) => {
  e.preventDefault();
  if (answering) {
    answering.abort();
    return;
  }
  const text = $("say").value.trim();
  if (!text) return;
  $("say").value = "";
  $("say").required = false;
  $("send").textContent = "Stop";
  await converse(text);
  $("send").textContent = "Send";
  $("say").required = true;
});

$("say").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
    e.preventDefault();
    if (!answering) $("ask").requestSubmit();
  }
});

$("clear").addEventListener("click", () => {
  forgetTalk();
  $("say").focus();
});

watch();
