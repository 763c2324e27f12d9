/* One function: its charts, settings and decisions. */
window.scaleplugDetail = (function () {
  "use strict";

  const STATES = ["busy", "idle", "starting", "draining"];
  const EVERY = 3; // seconds between looks at settings and decisions
  const WORDS = {
    min_containers: ["Minimum", "containers kept while nothing is to do"],
    max_containers: ["Maximum", "never more containers; empty for no bound of its own"],
    buffer_containers: ["Buffer", "containers beyond the need while inputs are under way"],
    scaledown_window: ["Scale-down window", "the longest that a container may idle, in seconds"],
  };
  const ORIGINS = { default: "default", code: "from the code", changed: "changed while running" };
  const FACTS = { timeout: "Timeout", startup_timeout: "Time to start", max_inputs: "Inputs at once, most", target_inputs: "Inputs at once, target", retries: "Retries" };
  const $ = (id) => document.getElementById("sp-" + id);
  let use = null, open = null, seconds = 300, charts = null;

  // -- which one -----------------------------------------------------------------------------------------------------

  function start(tools) {
    use = tools;
    window.addEventListener("hashchange", () => choose(decodeURIComponent(location.hash.slice(1))));
    document.querySelector(".sp-close").addEventListener("click", (event) => {
      event.preventDefault();
      history.pushState(null, "", location.pathname);
      choose("");
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && open) document.querySelector(".sp-close").click();
    });
    for (const button of document.querySelectorAll(".sp-ranges button")) {
      button.addEventListener("click", () => {
        seconds = Number(button.dataset.seconds);
        for (const each of button.parentNode.children) each.setAttribute("aria-pressed", String(each === button));
        plot();
      });
    }
    $("form").addEventListener("submit", (event) => { event.preventDefault(); save(); });
    $("reset").addEventListener("click", () => change({ reset: true }, "Back to what the code says."));
    $("buttons").hidden = use.readOnly;
    window.addEventListener("resize", resize);
  }

  async function choose(name) {
    if (open) { const before = use.functions.get(open.name); if (before) before.row.removeAttribute("aria-current"); }
    if (charts) { for (const chart of Object.values(charts)) chart.destroy(); charts = null; }
    $("main").classList.toggle("open", Boolean(name));
    $("detail").hidden = !name;
    open = name ? { name, points: [], asked: 0 } : null;
    if (!name) return;
    const f = use.functions.get(name), mine = open;
    if (f) f.row.setAttribute("aria-current", "true");
    use.put($("d-name"), f ? f.values.shown : name);
    for (const id of ["d-about", "d-trouble", "settings", "facts", "decisions", "said"]) $(id).replaceChildren();
    $("save").disabled = true;
    if (matchMedia("(max-width: 72rem)").matches) window.scrollTo(0, 0);
    try {
      const data = await use.ask("/function/" + encodeURIComponent(name));
      if (open !== mine) return;
      open.points = data.points;
      describe(data);
      follow(use.functions, Math.max(Date.now() / 1000, data.points.length ? data.points[data.points.length - 1][0] : 0));
      plot();
    } catch (error) {
      if (open === mine) trouble(error.message, []);
    }
  }

  function tick(functions, now) {
    if (!open) return;
    follow(functions, now);
    if (charts) plot();
    if (now - open.asked >= EVERY) refresh(now);
  }

  function follow(functions, now) {
    const f = functions.get(open.name);
    open.now = now;
    if (!f) return;
    const v = f.values, point = [now, v.pending, v.running, v.starting, v.idle, v.busy, v.draining, v.desired];
    const last = open.points[open.points.length - 1];
    if (!last || point.some((value, place) => place && value !== last[place])) open.points.push(point);
    if (open.points.length > 4000) open.points.splice(0, 1000);
  }

  async function refresh(now) {
    const mine = open;
    open.asked = now;
    try {
      const data = await use.ask("/function/" + encodeURIComponent(open.name) + "?points=0");
      if (open === mine) describe(data);
    } catch (error) { // else the list tells that nothing comes
      if (open === mine && error.status === 404) { open.text = null; trouble(error.message, []); }
    }
  }

  // -- what it is ----------------------------------------------------------------------------------------------------

  function time(value) { return value < 1 ? Number((value * 1000).toPrecision(3)) + " ms" : Number(value.toPrecision(3)) + " s"; }

  function describe(data) {
    const text = JSON.stringify({ ...data, points: 0 });
    if (open.text === text) return;
    open.text = text;
    use.put($("d-name"), data.shown);
    const version = data.version ? (data.deployed ? "version " + data.version : "code " + data.version.slice(0, 8)) : "not deployed";
    use.put($("d-about"), data.unreadable || (data.source === undefined ? "" : version + " · " + data.source));
    if (data.trouble) trouble("The last container did not start: " + (data.trouble.reason || ""), data.trouble.lines || []);
    else $("d-trouble").replaceChildren();
    if (!$("form").contains(document.activeElement) || use.readOnly) settings(data.settings);
    facts(data);
    decisions(data.decisions);
  }

  function trouble(reason, lines) {
    const box = use.make("div", "sp-trouble", reason);
    if (lines.length) box.append(use.make("pre", "", lines.join("\n")));
    $("d-trouble").replaceChildren(box);
  }

  function settings(rows) {
    const shown = (value) => (value === null ? "" : String(value));
    $("settings").replaceChildren(...rows.map((row) => {
      const [title, text] = WORDS[row.name], box = use.make("div", "sp-set"), label = use.make("label", "", title);
      label.htmlFor = "sp-i-" + row.name;
      label.append(use.make("span", "sp-tag" + (row.origin === "changed" ? " changed" : ""), ORIGINS[row.origin]));
      let note = text;
      if (row.origin === "changed") note += " (the code says " + (row.code === null ? "no bound" : row.code) + ")";
      const field = use.make(use.readOnly ? "output" : "input");
      field.id = label.htmlFor;
      if (use.readOnly) field.textContent = shown(row.value) || "–";
      else {
        Object.assign(field, { type: "text", inputMode: "decimal", value: shown(row.value), placeholder: row.name === "max_containers" ? "none" : "" });
        field.dataset.name = row.name;
        field.dataset.was = shown(row.value);
        field.addEventListener("input", () => { $("save").disabled = !Object.keys(edited()).length; });
      }
      box.append(label, field, use.make("small", "", note));
      return box;
    }));
    $("save").disabled = true;
    $("reset").disabled = !rows.some((row) => row.origin === "changed");
    if (!rows.length) $("settings").append(use.make("small", "", "They can't be read here: they were signed with another SCALEPLUG_SECRET, or none is set."));
  }

  function facts(data) {
    const rows = [];
    for (const name in data.others || {}) rows.push([FACTS[name], name.includes("time") ? time(data.others[name]) : use.count(data.others[name])]);
    if (data.learned.service_time !== undefined) rows.push(["An input takes", time(data.learned.service_time)]);
    if (data.learned.start_time !== undefined) rows.push(["A container starts in", time(data.learned.start_time)]);
    for (const refused of data.refused || []) rows.push(["Set aside", String(refused.reason || "")]);
    $("facts").replaceChildren(...rows.flatMap(([name, value]) => [use.make("dt", "", name), use.make("dd", "", value)]));
    $("facts").hidden = !rows.length;
  }

  function decisions(rows) {
    const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
    $("decisions").replaceChildren(...rows.map((row) => {
      const item = use.make("li"), at = new Date(row.at * 1000), when = use.make("time", "", clock.format(at));
      when.dateTime = at.toISOString();
      when.title = at.toLocaleString();
      const acts = [["start", row.start], ["stop", row.stop], ["give up", row.give_up]].filter(([, n]) => n).map(([word, n]) => word + " " + use.count(n));
      item.append(when, use.make("span", "", "desired " + use.count(row.desired) + (acts.length ? ": " + acts.join(", ") : "")), use.make("code", "", row.reason));
      return item;
    }));
    if (!rows.length) $("decisions").append(use.make("li", "", "None has been made yet."));
  }

  // -- changing it ---------------------------------------------------------------------------------------------------

  function edited() {
    const changes = {};
    for (const field of $("settings").querySelectorAll("input")) {
      const text = field.value.trim();
      if (text !== field.dataset.was) changes[field.dataset.name] = text === "" ? null : Number.isFinite(Number(text)) ? Number(text) : text;
    }
    return changes;
  }

  function save() {
    const changes = edited();
    if (Object.keys(changes).length) change({ changes }, "Saved.");
  }

  async function change(body, done) {
    const mine = open;
    $("save").disabled = true;
    say("…", "");
    try {
      const data = await use.ask("/function/" + encodeURIComponent(open.name), {
        method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-XSRFToken": use.token },
      });
      if (open !== mine) return;
      if (document.activeElement) document.activeElement.blur();
      open.text = null;
      describe(data);
      say(done, "good");
    } catch (error) {
      if (open === mine) { say(error.message, "bad"); $("save").disabled = !Object.keys(edited()).length; }
    }
  }

  function say(text, kind) { $("said").className = "sp-said " + kind; use.put($("said"), text); }

  // -- the charts ----------------------------------------------------------------------------------------------------

  // A point holds until the next one. Only the last line of each chart knows what is now.
  function shownPoints() {
    const from = seconds ? open.now - seconds : -Infinity;
    let begin = 0;
    while (begin < open.points.length - 1 && open.points[begin + 1][0] <= from) begin++;
    const points = open.points.slice(begin).map((point) => [Math.max(point[0], from), ...point.slice(1)]);
    if (points.length) points.push([Math.max(open.now, points[points.length - 1][0]), ...points[points.length - 1].slice(1)]);
    return points;
  }

  function plot() {
    if (!open) return;
    const points = shownPoints(), x = points.map((p) => p[0]);
    const [pending, running, starting, idle, busy, draining, desired] = [1, 2, 3, 4, 5, 6, 7].map((place) => points.map((p) => p[place]));
    const stacked = [draining, starting, idle, busy].reduceRight((sums, values) => {
      const below = sums.length ? sums[0] : values.map(() => 0);
      return [values.map((value, place) => value + below[place]), ...sums];
    }, []);
    const data = { inputs: [x, pending, running], containers: [x, ...stacked, desired] };
    if (!charts) charts = build(data);
    const until = open.now || 1, range = { min: seconds ? until - seconds : Math.min(x[0] || until - 300, until - 60), max: until };
    for (const name in charts) {
      charts[name].setData(data[name], false);
      charts[name].setScale("x", range);
    }
    const last = points[points.length - 1] || new Array(8).fill(0);
    key("k-inputs", [["pending", last[1]], ["running", last[2]]]);
    key("k-containers", [["busy", last[5]], ["idle", last[4]], ["starting", last[3]], ["draining", last[6]], ["desired", last[7]]]);
  }

  function key(id, rows) {
    const text = JSON.stringify(rows);
    if ($(id).dataset.text === text) return;
    $(id).dataset.text = text;
    $(id).replaceChildren(...rows.map(([name, value]) => {
      const item = use.make("span", name, name + " ");
      item.append(use.make("b", "", use.count(value)));
      return item;
    }));
  }

  function build(data) {
    const ink = use.colours(), paths = uPlot.paths.stepped({ align: 1 });
    const line = (label, more) => ({ label, stroke: ink[label], width: 1.75, paths, points: { show: false }, ...more });
    const area = (label) => line(label, { fill: ink[label], width: 0 });
    const options = (name, series) => ({
      width: $("c-" + name).clientWidth, height: 170, series: [{}, ...series], legend: { show: false }, padding: [8, 18, 0, 0],
      cursor: { drag: { x: false, y: false }, points: { show: false } },
      scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.08)] } },
      axes: [axis(ink, { size: 26, space: 48, values: (_, moments) => moments.map(clock(moments)) }), axis(ink, { size: 46, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6] })],
    });
    return {
      inputs: new uPlot(options("inputs", [line("pending", { fill: ink.pending + "22" }), line("running")]), data.inputs, $("c-inputs")),
      containers: new uPlot(options("containers", [...[...STATES].reverse().map(area), line("desired", { dash: [5, 4] })]), data.containers, $("c-containers")),
    };
  }

  function clock(moments) {
    const exact = moments.length > 1 && moments[1] - moments[0] < 60;
    const told = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false, ...(exact ? { second: "2-digit" } : {}) });
    return (moment) => told.format(new Date(moment * 1000));
  }

  function axis(ink, more) {
    return { stroke: ink.muted, grid: { stroke: ink.line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", ...more };
  }

  function resize() { if (charts) for (const name in charts) charts[name].setSize({ width: $("c-" + name).clientWidth, height: 170 }); }

  function repaint() {
    if (!charts) return;
    for (const chart of Object.values(charts)) chart.destroy();
    charts = null;
    plot();
  }

  return { start, tick, repaint };
})();
