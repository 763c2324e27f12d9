// Asks twice a second how far the upload is, and shows each thumbnail when it is there.
const upload = document.querySelector("#upload");
const bar = upload.querySelector("progress");
const told = document.querySelector("#told");
const all = Number(upload.dataset.pictures);

function show(picture) {
  const place = document.querySelector(`#picture-${picture.id}`);
  const frame = place.querySelector("i");
  if (!frame) return;
  if (picture.thumbnail) {
    const image = new Image();
    image.alt = place.querySelector("span").textContent;
    image.src = picture.thumbnail;
    frame.replaceWith(image);
  } else if (picture.error) {
    frame.className = "failed";
    frame.textContent = picture.error;
  }
}

async function look() {
  try {
    const answer = await fetch(upload.dataset.progress);
    const now = await answer.json();
    now.pictures.forEach(show);
    bar.value = now.ended;
    const containers = `${now.containers} container${now.containers === 1 ? "" : "s"}`;
    told.textContent = now.ended === all ? `All ${all} are done.` : `${now.ended} of ${all} are done, by ${containers}.`;
    if (now.ended === all) return;
  } catch {
    told.textContent = "The server does not answer; trying again.";
  }
  setTimeout(look, 500);
}

look();
