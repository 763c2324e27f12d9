// Brings the numbers of the page up to date, every two seconds while somebody looks at it.
"use strict";
{
  const page = document.querySelector("#scaleplug");
  const told = page.querySelector("[data-state]");
  const settings = ["min_containers", "max_containers", "buffer_containers", "scaledown_window"];

  function write(row, name, text) {
    const cell = row.querySelector(`[data-cell="${name}"]`);
    if (cell.textContent !== text) cell.textContent = text;
  }

  function writeContainers(row, containers) {
    const cell = row.querySelector('[data-cell="containers"]');
    const made = Object.entries(containers).map(([state, count]) => {
      const part = document.createElement("span");
      part.className = `scaleplug-${state}`;
      part.textContent = `${count} ${state}`;
      return part;
    });
    cell.replaceChildren(...(made.length ? made : ["none"]));
  }

  function show(known) {
    const row = [...page.querySelectorAll("[data-function]")].find((each) => each.dataset.function === known.function);
    if (!row) return;
    for (const name of ["pending", "running", "finished", "failed"]) write(row, name, String(known[name]));
    write(row, "desired", known.desired === null ? "–" : String(known.desired));
    writeContainers(row, known.containers);
    for (const name of known.settings ? settings : []) {
      const value = known.settings[name];
      const unit = name === "scaledown_window" ? " s" : "";
      write(row, name, `${value === null ? "–" : value}${unit}${known.overridden.includes(name) ? "*" : ""}`);
    }
  }

  async function look() {
    if (!document.hidden) {
      try {
        const answer = await fetch(page.dataset.source, { credentials: "same-origin" });
        const now = await answer.json();
        if (now.error) throw new Error(now.error);
        now.functions.forEach(show);
        page.querySelector("[data-leader]").textContent = now.leader
          ? `The controller ${now.leader} acts.` : "No controller acts, so nothing starts.";
        told.textContent = "";
      } catch (error) {
        told.textContent = `These numbers are old: ${error.message}.`;
      }
    }
    setTimeout(look, 2000);
  }

  if (told) setTimeout(look, 2000);
}
