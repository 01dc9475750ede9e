// The page: what is asked for, the board on which pictures appear, and how both go together.

import { Easel, element } from "./brush.js";
import { Classes, number, select, setNumber } from "./controls.js";
import { draw, show, stop } from "./drawing.js";
import { keep, seconds } from "./gallery.js";

const $ = (id) => document.getElementById(id);
// [name, step of the slider, where that ends; beyond one types a number]
const NUMBERS = {
  num_images: ["pictures", 1],
  num_steps: ["steps", 1, 32],
  guidance_scale: ["guidance", 0.1, 10],
  temperature: ["temperature", 0.05, 2],
  num_ar: ["tokens one by one", 1],
};
const NAMES = { mar: "many tokens at once", ar: "one by one", hybrid: "first one by one" };
const HINTS = {
  inpaint: "Paint over what is to be drawn anew. Without a mouse: arrows move the brush, space paints.",
  outpaint: "Pull the sides of the picture, or say by how many pixels it goes on.",
};
const SIDES = ["left", "right", "top", "bottom"];
const PAUSE = 120; // milliseconds: of many clicks the last one counts

const about = await told();
const easel = new Easel(about.width, about.height, about.stride, about.bounds, pulled);
let classes = null;
let last = null; // the event that the board shows
let waiting = null;
let begun = false; // the first drawing is of the seed that stands there
let watching = false; // else a drawing goes on behind the picture that is edited

setUp();

async function told() {
  for (;;) {
    const answer = await fetch("/about").catch(() => null);
    if (answer?.ok) {
      problem("");
      return answer.json();
    }
    problem("Many are here just now, or the program has ended; trying again.");
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

// ---------------------------------------------------------------- what is asked for
function kind() {
  return document.querySelector("input[name=kind]:checked").value;
}

function wish() {
  const found = { kind: kind(), seed: Number($("seed").value || 0) };
  for (const key in NUMBERS) found[key] = Number($(key).value || (about.first[key] ?? 1));
  for (const key of ["plan", "schedule", "order"]) found[key] = $(key).value;
  if (about.prompts) {
    for (const key of ["prompt", "negative_prompt"]) found[key] = $(key).value;
  } else if (about.classes.length) found.classes = [...classes.chosen];
  if (found.kind !== "generate") found.image = easel.url;
  if (found.kind === "inpaint") found.mask = easel.mask();
  if (found.kind === "outpaint") Object.assign(found, sides());
  return found;
}

function sides() {
  return Object.fromEntries(SIDES.map((side) => [side, Number($(side).value)]));
}

function pulled(found) {
  for (const side of SIDES) setNumber(side, found[side]);
  easel.look(kind(), found);
}

// ---------------------------------------------------------------- drawing
function ask() {
  clearTimeout(waiting);
  waiting = setTimeout(start, PAUSE);
}

async function start() {
  if ($("fresh").checked && begun) $("seed").value = Math.floor(Math.random() * 2 ** 31);
  const asked = wish();
  begun = watching = true;
  problem("");
  progress(0, "drawing");
  $("stop").hidden = false;
  await draw(asked, {
    wait: ({ before }) => progress(0, before === 1 ? "one drawing before yours" : `${before} drawings before yours`),
    step: async (event) => {
      // Told first: behind the picture the drawing may have been stopped, which is told then
      progress(1 - event.hidden, `step ${event.step} of ${event.steps}, ${Math.round(100 * event.hidden)} % hidden`);
      await look(event);
      const late = Date.now() - 1000 * event.at;
      document.dispatchEvent(new CustomEvent("shown", { detail: { ...event, late } }));
    },
    done: async (event) => {
      await look(event);
      end(1, seconds(event));
      problem(event.notes.join(" "));
      keep(event, asked, edit);
      document.dispatchEvent(new CustomEvent("drawn", { detail: event }));
    },
    error: ({ sentence }) => {
      end(0, "");
      problem(sentence);
    },
  });
}

function end(share, text) {
  $("stop").hidden = true;
  progress(share, text);
}

async function look(event) {
  last = event;
  if (!watching) return;
  const urls = $("map").checked && event.confidence.length ? event.confidence : event.pictures;
  const board = $("board");
  if (board.contains(easel.tile) || board.childElementCount !== urls.length) tiles(urls.length);
  const canvases = board.querySelectorAll("canvas");
  await Promise.all(urls.map((url, index) => show(canvases[index], url)));
}

function tiles(count) {
  $("board").style.setProperty("--side", Math.ceil(Math.sqrt(count)));
  const made = Array.from({ length: count }, () => {
    const tile = element("div", "tile");
    const canvas = tile.appendChild(element("canvas", "coarse"));
    [canvas.width, canvas.height] = [about.width, about.height];
    return tile;
  });
  $("board").replaceChildren(...made);
}

function progress(share, text) {
  $("bar").style.width = `${100 * share}%`;
  $("bar").parentElement.setAttribute("aria-valuenow", Math.round(100 * share));
  $("status").textContent = text;
}

function problem(sentence) {
  $("problem").hidden = !sentence;
  $("problem").textContent = sentence;
}

// ---------------------------------------------------------------- the picture to edit
async function edit(url) {
  await easel.open(url);
  if (kind() === "generate") document.querySelector("input[value=inpaint]").checked = true;
  await changeKind();
  window.scrollTo({ top: 0, behavior: "smooth" });
}

async function changeKind() {
  const now = kind();
  watching = now === "generate";
  $("source").hidden = now === "generate";
  for (const id of ["brush-row", "undo", "eraser-row"]) $(id).hidden = now !== "inpaint";
  $("sides").hidden = now !== "outpaint";
  $("hint").textContent = HINTS[now] ?? "";
  $("draw").textContent = { generate: "Draw", inpaint: "Repaint", outpaint: "Extend" }[now];
  $("several-row").hidden = now !== "generate"; // an edit is of one class
  if (now !== "generate" && $("several").checked) $("several").click();
  problem("");
  if (now === "generate") return last ? look(last) : tiles(Number($("num_images").value));
  if (!easel.url) await easel.open(last?.pictures[0] ?? blank());
  $("board").style.setProperty("--side", 1);
  $("board").replaceChildren(easel.tile);
  easel.look(now, sides());
}

function clear() {
  if (kind() === "inpaint") easel.clear();
  else pulled(Object.fromEntries(SIDES.map((side) => [side, 0])));
}

function blank() {
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [about.width, about.height];
  const context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}

// ---------------------------------------------------------------- the controls
function setUp() {
  $("told").textContent = about.told;
  const { bounds, first } = about;
  for (const key in NUMBERS) {
    const [name, step, limit] = NUMBERS[key];
    number($("sliders"), key, name, bounds[key], step, first[key] ?? 1, Math.min(limit ?? Infinity, bounds[key][1]));
  }
  for (const side of SIDES) number($("sides"), side, side, bounds[side], about.stride, side === "right" ? about.width / 2 : 0);
  for (const [key, words] of [["plan", about.plans], ["order", about.words.order], ["schedule", about.words.schedule]]) {
    select($("words"), key, words, first[key], NAMES);
  }
  $("seed").value = first.seed;
  $("brush").max = Math.round(about.width / 4);
  $("brush").value = easel.radius = Math.max(1, Math.round(about.width / 10));
  $("guidance_scale").parentElement.hidden = !about.guided;
  $("prompts").hidden = !about.prompts;
  $("classes").hidden = about.prompts || !about.classes.length;
  classes = new Classes(about.classes, bounds.num_images[1]);
  changePlan();
  listen();
  tiles(1);
}

function listen() {
  $("panel").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  for (const input of document.querySelectorAll("input[name=kind]")) input.addEventListener("click", changeKind);
  for (const side of SIDES) $(side).addEventListener("input", () => easel.look(kind(), sides()));
  $("plan").addEventListener("change", changePlan);
  $("stop").addEventListener("click", () => {
    stop();
    end(0, "stopped");
  });
  $("brush").addEventListener("input", () => easel.take(Number($("brush").value)));
  $("eraser").addEventListener("change", () => (easel.erases = $("eraser").checked));
  $("undo").addEventListener("click", () => easel.undo());
  $("clear").addEventListener("click", clear);
  $("seed").addEventListener("input", () => ($("fresh").checked = false));
  $("map").addEventListener("change", () => {
    $("scale").hidden = !$("map").checked;
    if (last && watching) look(last);
  });
  $("file").addEventListener("change", openFile);
}

async function openFile() {
  const [file] = $("file").files;
  if (!file) return;
  try {
    await edit(URL.createObjectURL(file));
  } catch {
    problem(`${file.name} cannot be read as a picture; choose a PNG, JPEG or WebP file.`);
  }
  $("file").value = "";
}

function changePlan() {
  const plan = $("plan").value;
  $("num_ar").parentElement.hidden = plan !== "hybrid";
  for (const key of ["num_steps", "order", "schedule"]) $(key).parentElement.hidden = plan === "ar";
}
