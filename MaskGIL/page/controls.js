// The controls that the weights allow: numbers, words and classes.

import { element } from "./brush.js";

const $ = (id) => document.getElementById(id);
const FEW = 24; // classes that need no search
const SHOWN = 40; // buttons at once

// A number that is exact in its field, and near enough on its slider, which may end before it
export function number(parent, id, name, [low, high], step, value, limit = high) {
  const row = element("div", "slider");
  const label = row.appendChild(element("label", "", name));
  const exact = row.appendChild(element("input"));
  const rough = row.appendChild(element("input"));
  label.htmlFor = id;
  Object.assign(exact, { id, type: "number", min: low, max: high, step: "any", value });
  Object.assign(rough, { type: "range", min: low, max: Math.max(limit, value), step, value });
  rough.setAttribute("aria-label", name);
  exact.addEventListener("input", () => (rough.value = exact.value));
  rough.addEventListener("input", () => {
    exact.value = Number(rough.value);
    exact.dispatchEvent(new Event("input", { bubbles: true }));
  });
  exact.addEventListener("change", () => {
    if (exact.value === "") exact.value = value;
    rough.value = exact.value;
  });
  parent.append(row);
}

export function setNumber(id, value) {
  $(id).value = value;
  $(id).parentElement.querySelector("[type=range]").value = value;
}

export function select(parent, id, words, value, names) {
  const label = element("label", "field", id);
  const made = label.appendChild(element("select"));
  made.id = id;
  for (const word of words) made.add(new Option(names[word] ?? word, word));
  made.value = value;
  label.hidden = words.length < 2;
  parent.append(label);
}

// Classes as buttons: one is pressed, or several where that is asked for
export class Classes {
  constructor(names, most) {
    [this.names, this.most] = [names, most];
    this.chosen = new Set(names.length ? [0] : []);
    $("search").hidden = names.length <= FEW;
    $("search").addEventListener("input", () => this.show());
    $("several").addEventListener("change", () => this.one(!$("several").checked));
    this.show();
  }

  // Of several the last one that was chosen stays
  one(alone) {
    if (alone) this.chosen = new Set([...this.chosen].slice(-1));
    this.show();
  }

  pick(label) {
    if (!$("several").checked) this.chosen.clear();
    if (this.chosen.has(label) && this.chosen.size > 1) this.chosen.delete(label);
    else if (this.chosen.size < this.most) this.chosen.add(label);
    this.show();
  }

  show() {
    const focused = document.activeElement?.dataset?.label;
    const words = $("search").value.trim().toLowerCase();
    const fits = (label) => this.chosen.has(label) || this.names[label].toLowerCase().includes(words);
    const found = [...this.names.keys()].filter(fits);
    if (this.names.length > FEW) found.sort((a, b) => this.chosen.has(b) - this.chosen.has(a) || a - b);
    $("chips").replaceChildren(...found.slice(0, SHOWN).map((label) => this.chip(label)));
    if (focused) $("chips").querySelector(`[data-label="${focused}"]`)?.focus();
  }

  chip(label) {
    const chip = element("button", "chip", this.names[label]);
    chip.type = "button";
    chip.dataset.label = label;
    chip.setAttribute("aria-pressed", this.chosen.has(label));
    chip.addEventListener("click", () => this.pick(label));
    return chip;
  }
}
