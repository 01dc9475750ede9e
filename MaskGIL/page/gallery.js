// The gallery: every picture with the settings that drew it, its files and its command.

import { element } from "./brush.js";

const $ = (id) => document.getElementById(id);
const KEPT = 48;
const TOLD = 1500; // milliseconds that "Copied" stands there

// `asked` are the pictures that an edit began with; again(url) is called to edit one of them
export function keep(event, asked, again) {
  $("album").hidden = false;
  const made = event.pictures.map((url, index) => {
    const thumb = element("button", "thumb");
    thumb.type = "button";
    thumb.title = "Its settings and its command";
    const image = thumb.appendChild(element("img"));
    image.addEventListener("load", () => image.classList.toggle("coarse", image.naturalWidth < 200));
    [image.src, image.alt] = [url, facts(event, index)];
    thumb.addEventListener("click", () => choose(thumb, event, asked, index, again));
    return thumb;
  });
  $("gallery").prepend(...made);
  while ($("gallery").childElementCount > KEPT) $("gallery").lastChild.remove();
  choose(made[0], event, asked, 0, again);
}

function facts(event, index) {
  const count = event.pictures.length;
  const place = count > 1 ? `picture ${index + 1} of ${count}` : "";
  return [place, ...event.facts, seconds(event)].filter(Boolean).join("  ·  ");
}

export function seconds(event) {
  const [alone, shown] = [event.seconds, event.seconds_shown].map((all) => (all / event.pictures.length).toFixed(2));
  return `${alone} s a picture, ${shown} s with its previews`;
}

function choose(thumb, event, asked, index, again) {
  for (const each of $("gallery").children) each.setAttribute("aria-pressed", each === thumb);
  $("card").hidden = false;
  $("facts").textContent = facts(event, index);
  $("command").textContent = event.command;
  const files = { "drawn.png": event.pictures[index], "picture.png": asked.image, "mask.png": asked.mask };
  const links = Object.entries(files).filter(([, url]) => url).map(([name, url]) => {
    const link = element("a", "", name);
    [link.href, link.download] = [url, name];
    return link;
  });
  $("files").replaceChildren(...links);
  $("copy").onclick = copy;
  $("again").onclick = () => again(event.pictures[index]);
}

// Without https a page has no clipboard of its own: then by selection
async function copy() {
  try {
    await navigator.clipboard.writeText($("command").textContent);
  } catch {
    getSelection().selectAllChildren($("command"));
    document.execCommand("copy");
  }
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), TOLD);
}
