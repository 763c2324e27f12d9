/* The list of functions: drawn from what came with the page, then kept up to date by one small request a second. */
(function () {
  "use strict";

  const EVERY = 1000, SORT_EVERY = 5000, STEPS = 60;
  const STATES = ["busy", "idle", "starting", "draining"];
  const first = JSON.parse(document.getElementById("sp-first").textContent);
  const base = location.pathname.replace(/\/+$/, "");
  const $ = (id) => document.getElementById("sp-" + id);
  const functions = new Map(); // by name: the numbers, and what shows them
  let columns = [], number = 0, now = 0, leader = null, queues = [], step = 5, trendsAt = 0, waiting = false;
  const shownRows = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const f = functions.get(entry.target.dataset.name);
      if (!f) continue;
      f.visible = entry.isIntersecting;
      if (f.visible && f.behind) show(f);
      if (f.visible && f.stale) drawTrend(f);
    }
  });

  const figures = new Intl.NumberFormat("en");
  const count = (n) => figures.format(n);
  const many = (n, noun) => count(n) + " " + noun + (n === 1 ? "" : "s");
  function put(element, text) { if (element.textContent !== text) element.textContent = text; }
  function make(tag, kind, text) {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // -- what has come -------------------------------------------------------------------------------------------------

  function take(data) {
    if (data.columns) { columns = data.columns; }
    const whole = Boolean(data.columns), named = new Set();
    let fresh = false;
    for (const row of data.rows || []) {
      const values = {};
      columns.forEach((column, place) => { values[column] = row[place]; });
      named.add(values.name);
      let f = functions.get(values.name);
      if (!f) { f = newFunction(values.name); fresh = true; }
      f.values = values;
      f.containers = STATES.reduce((sum, state) => sum + values[state], 0);
      if (f.visible || !f.title.textContent) show(f);
      else f.behind = true; // until it is scrolled into view
      noteTrend(f);
    }
    for (const name of data.gone || []) { drop(name); fresh = true; }
    if (whole) { for (const name of [...functions.keys()]) { if (!named.has(name)) { drop(name); fresh = true; } } }
    number = data.number; now = data.now; leader = data.leader;
    if (data.queues) queues = data.queues;
    if (fresh) arrange();
    showSums();
    if (window.scaleplugDetail) window.scaleplugDetail.tick(functions, now);
  }

  function newFunction(name) {
    const row = make("a", "sp-row");
    row.href = "#" + encodeURIComponent(name);
    row.dataset.name = name;
    const f = { name, row, containers: 0, values: {}, trend: [new Array(STEPS).fill(0), new Array(STEPS).fill(0)], visible: false, stale: true };
    const title = make("span", "sp-name");
    f.dot = make("i", "sp-dot"); f.title = make("b"); f.tags = make("span");
    f.tags.style.display = "contents";
    title.append(f.dot, f.title, f.tags);
    f.canvas = make("canvas");
    f.canvas.setAttribute("aria-hidden", "true");
    f.pending = make("span", "n pending"); f.running = make("span", "n running");
    const cont = make("span", "sp-cont");
    f.total = make("span"); f.bar = make("span", "sp-bar");
    cont.append(f.total, f.bar);
    f.desired = make("span", "n desired"); f.ended = make("span", "n ended");
    row.append(title, f.canvas, f.pending, f.running, cont, f.desired, f.ended);
    functions.set(name, f);
    shownRows.observe(row);
    return f;
  }

  function drop(name) {
    const f = functions.get(name);
    if (f) { shownRows.unobserve(f.row); f.row.remove(); functions.delete(name); }
  }

  function show(f) {
    const v = f.values;
    f.behind = false;
    put(f.title, v.shown);
    f.title.title = v.shown;
    number_(f.pending, v.pending, v.delayed ? " +" + count(v.delayed) + " later" : "");
    number_(f.running, v.running, "");
    number_(f.total, f.containers, "");
    number_(f.desired, v.desired, "");
    bar(f.bar, v, Math.max(f.containers, v.desired));
    f.bar.title = STATES.filter((state) => v[state]).map((state) => count(v[state]) + " " + state).join(", ") || "none";
    const ended = count(v.finished) + "|" + v.failed;
    if (f.endedText !== ended) {
      f.endedText = ended;
      f.ended.textContent = count(v.finished);
      f.ended.classList.toggle("zero", !v.finished);
      if (v.failed) f.ended.append(make("em", "", count(v.failed) + " failed"));
    }
    const bad = v.unserved || v.trouble;
    f.dot.className = "sp-dot" + (bad ? " bad" : v.starting ? " warn" : f.containers ? " on" : "");
    const tags = [v.unserved && "no consumer", v.trouble && "start failed", v.changed && "changed", v.refused && "refused"].filter(Boolean).join();
    if (f.tagsText !== tags) {
      f.tagsText = tags;
      f.tags.replaceChildren(...tags.split(",").filter(Boolean).map((text) =>
        make("span", "sp-tag" + (text === "changed" ? " changed" : " bad"), text)));
    }
  }

  function number_(element, value, more) {
    put(element, count(value) + more);
    element.classList.toggle("zero", !value && !more);
  }

  function bar(element, values, most) {
    const text = STATES.map((state) => values[state]).join() + "/" + most;
    if (element.dataset.text === text) return;
    element.dataset.text = text;
    element.replaceChildren(...STATES.filter((state) => values[state]).map((state) => {
      const part = make("i", state);
      part.style.width = (100 * values[state] / Math.max(1, most)) + "%";
      return part;
    }));
  }

  // -- all of them ---------------------------------------------------------------------------------------------------

  function showSums() {
    const sums = { pending: 0, delayed: 0, running: 0, failed: 0, finished: 0 };
    const states = Object.fromEntries(STATES.map((state) => [state, 0]));
    let active = 0, containers = 0;
    const unserved = [];
    for (const f of functions.values()) {
      for (const name in sums) sums[name] += f.values[name];
      for (const state of STATES) states[state] += f.values[state];
      containers += f.containers;
      if (isActive(f)) active++;
      if (f.values.unserved) unserved.push(f);
    }
    put($("functions"), count(functions.size));
    put($("functions-more"), count(active) + " active");
    put($("pending"), count(sums.pending));
    put($("pending-more"), sums.delayed ? count(sums.delayed) + " later" : "\u00a0");
    put($("running"), count(sums.running));
    put($("running-more"), count(sums.finished) + " ended" + (sums.failed ? ", " + count(sums.failed) + " failed" : ""));
    put($("containers"), count(containers));
    bar($("bar"), states, containers);
    put($("leader"), leader ? "controller " + leader : "");
    notes(unserved);
  }

  let noted = null;
  function notes(unserved) {
    const found = [];
    if (first.error && !number) found.push(["bad", first.error, []]);
    if (number && !leader) found.push(["bad", "No controller acts, so no container starts: run “scaleplug controller”.", []]);
    const queued = unserved.map((f) => [f.values.shown + " (" + many(f.values.pending, "input") + ")", f.name]);
    for (const [name, length] of queues) queued.push([name + " (" + many(length, "message") + ", not registered)", null]);
    if (queued.length) found.push(["warn", "Queues without a consumer: ", queued]);
    if (first.whyNot && number) found.push(["", "Settings can be seen, not changed. " + first.whyNot, []]);
    const text = JSON.stringify(found);
    if (text === noted) return;
    noted = text;
    $("notes").replaceChildren(...found.map(([kind, words, links]) => {
      const note = make("p", "sp-note " + kind, words);
      links.slice(0, 12).forEach(([shown, name], place) => {
        if (place) note.append(", ");
        if (!name) { note.append(shown); return; }
        const link = make("a", "", shown);
        link.href = "#" + encodeURIComponent(name);
        note.append(link);
      });
      if (links.length > 12) note.append(" and " + many(links.length - 12, "other"));
      return note;
    }));
  }

  function isActive(f) { return f.containers > 0 || f.values.pending > 0 || f.values.running > 0 || f.values.delayed > 0; }
  const weight = (f) => (f.values.unserved || f.values.trouble ? 1e12 : 0) + f.containers * 1e6 + f.values.pending + f.values.running;
  const orders = {
    name: (a, b) => a.values.shown.localeCompare(b.values.shown),
    activity: (a, b) => weight(b) - weight(a) || orders.name(a, b),
    pending: (a, b) => b.values.pending - a.values.pending || orders.name(a, b),
    failed: (a, b) => b.values.failed - a.values.failed || orders.name(a, b),
  };

  function arrange() {
    const wanted = $("search").value.trim().toLowerCase(), only = $("active").checked;
    const order = [...functions.values()].sort(orders[$("sort").value]);
    const rows = order.filter((f) => (!wanted || f.values.shown.toLowerCase().includes(wanted)) && (!only || isActive(f))).map((f) => f.row);
    const list = $("rows");
    if (rows.length !== list.children.length || rows.some((row, place) => list.children[place] !== row)) {
      const focused = document.activeElement;
      list.replaceChildren(...rows);
      if (focused && focused.classList.contains("sp-row") && focused.isConnected) focused.focus({ preventScroll: true });
    }
    $("empty").hidden = rows.length > 0;
    put($("empty"), functions.size ? "No function fits." : number ? "No function is registered yet: callers register theirs with their first call." : "");
  }

  // -- the small charts ----------------------------------------------------------------------------------------------

  function noteTrend(f) {
    const [containers, inputs] = f.trend, last = STEPS - 1, load = f.values.pending + f.values.running;
    if (f.containers > containers[last]) { containers[last] = f.containers; f.stale = true; }
    if (load > inputs[last]) { inputs[last] = load; f.stale = true; } // drawn with the next step: drawing is what costs
  }

  function shiftTrends() {
    const steps = Math.floor((now - trendsAt) / step);
    if (!trendsAt || steps < 1) return;
    trendsAt += steps * step;
    for (const f of functions.values()) {
      const load = f.values.pending + f.values.running;
      const flat = !f.containers && !load && !f.trend[0].some(Boolean) && !f.trend[1].some(Boolean);
      if (flat) continue;
      for (let n = 0; n < Math.min(steps, STEPS); n++) {
        f.trend[0].shift(); f.trend[0].push(f.containers);
        f.trend[1].shift(); f.trend[1].push(load);
      }
      f.stale = true;
      if (f.visible) drawTrend(f);
    }
  }

  let palette = null;
  function colours() {
    if (!palette) {
      const style = getComputedStyle($("main"));
      palette = Object.fromEntries(["busy", "idle", "starting", "draining", "desired", "pending", "running", "line", "muted"]
        .map((name) => [name, style.getPropertyValue("--" + name).trim()]));
    }
    return palette;
  }

  function drawTrend(f) {
    f.stale = false;
    const canvas = f.canvas, width = canvas.clientWidth, height = canvas.clientHeight, dense = window.devicePixelRatio || 1;
    if (!width) { f.stale = true; return; }
    if (canvas.width !== Math.round(width * dense)) { canvas.width = Math.round(width * dense); canvas.height = Math.round(height * dense); }
    const pen = canvas.getContext("2d"), ink = colours();
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = ink.line;
    pen.fillRect(0, height - 1, width, 1);
    const x = (n) => n * width / STEPS;
    const steps = (values, most) => values.map((value) => height - 1 - (height - 4) * value / most);
    const most = Math.max(1, ...f.trend[0]), load = Math.max(1, ...f.trend[1]);
    pen.fillStyle = ink.busy;
    pen.globalAlpha = 0.35;
    pen.beginPath();
    pen.moveTo(0, height - 1);
    steps(f.trend[0], most).forEach((y, n) => { pen.lineTo(x(n), y); pen.lineTo(x(n + 1), y); });
    pen.lineTo(width, height - 1);
    pen.fill();
    pen.globalAlpha = 1;
    if (!f.trend[1].some(Boolean)) return;
    pen.strokeStyle = ink.pending;
    pen.lineWidth = 1.25;
    pen.beginPath();
    steps(f.trend[1], load).forEach((y, n) => { pen.lineTo(x(n), y); pen.lineTo(x(n + 1), y); });
    pen.stroke();
  }

  async function loadTrends() {
    const data = await ask("/trends");
    step = data.step; trendsAt = data.now;
    for (const name in data.rows) {
      const f = functions.get(name);
      if (f) { f.trend = data.rows[name]; f.stale = true; noteTrend(f); if (f.visible) drawTrend(f); }
    }
  }

  // -- the requests --------------------------------------------------------------------------------------------------

  async function ask(path, options) {
    const answer = await fetch(base + path, { credentials: "same-origin", ...options });
    const said = (answer.headers.get("Content-Type") || "").includes("json") ? await answer.json() : {};
    if (!answer.ok) throw Object.assign(new Error(said.error || "Flower answers with status " + answer.status), { status: answer.status });
    return said;
  }

  async function update() {
    if (document.hidden || waiting) return;
    waiting = true;
    try {
      take(await ask("/changes?since=" + number));
      shiftTrends();
      $("dot").className = "sp-dot on";
      put($("live"), "live");
    } catch (error) {
      $("dot").className = "sp-dot bad";
      put($("live"), error instanceof TypeError ? "Flower does not answer" : error.message);
    } finally {
      waiting = false;
    }
  }

  // The theme may change while it is shown.
  function repaint() {
    palette = null;
    for (const f of functions.values()) { f.stale = true; if (f.visible) drawTrend(f); }
    if (window.scaleplugDetail) window.scaleplugDetail.repaint();
  }

  for (const id of ["search", "active", "sort"]) $(id).addEventListener("input", arrange);
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  document.addEventListener("visibilitychange", update);
  window.addEventListener("resize", () => repaint());
  window.scaleplugDetail.start({ ask, make, put, count, many, colours, functions, token: first.token, readOnly: Boolean(first.whyNot) });
  if (first.data.columns) { take(first.data); } else { showSums(); arrange(); }
  window.dispatchEvent(new Event("hashchange"));
  update();
  setTimeout(() => loadTrends().catch(() => {}), 50);
  setInterval(update, EVERY);
  setInterval(() => { if (!document.hidden && !$("rows").matches(":hover")) arrange(); }, SORT_EVERY);
})();
