// Asks twice a second how far the job is, until it has ended.
const job = document.querySelector("#job");
const state = job.querySelector(".state");

function show(now) {
  job.querySelector("progress").value = now.drawn;
  job.querySelector("#drawn").textContent = now.drawn;
  job.querySelector("#error").textContent = now.error;
  state.textContent = now.state;
  state.className = `state ${now.state}`;
  const ended = !["queued", "running"].includes(now.state);
  job.querySelector("form").hidden = ended;
  if (now.state === "done") {
    const picture = new Image();
    picture.alt = "The zoom";
    picture.src = job.dataset.picture;
    job.querySelector("figure").replaceChildren(picture);
  }
  return ended;
}

async function look() {
  try {
    const answer = await fetch(job.dataset.status);
    if (show(await answer.json())) return;
  } catch {
    job.querySelector("#error").textContent = "The server does not answer; trying again.";
  }
  setTimeout(look, 500);
}

look();
