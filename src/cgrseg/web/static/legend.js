// The legend: share bars, eye and solo of each class; of two results side by side.
import { agreement, isBackground, share } from "./labels.js";
import { look, on, repaint, visible } from "./stage.js";

const find = (id) => document.getElementById(id);
let classes = new Map();

// Fills the legend for a photo, or empties it.
export function fill(photo) {
  const answers = [photo?.answer, photo?.other].filter(Boolean), two = answers.length > 1;
  classes = new Map();
  answers.forEach((answer, side) => {
    for (const each of answer.classes) {
      if (!classes.has(each.name)) classes.set(each.name, { shares: answers.map(() => 0), colors: [] });
      const entry = classes.get(each.name);
      entry.shares[side] += each.share;
      entry.colors[side] = each.color;
    }
  });
  const order = [...classes].sort((one, other) => sum(other[1].shares) - sum(one[1].shares));
  if (look.solo !== null && answers.length && !classes.has(look.solo)) look.solo = null;
  find("legend").replaceChildren(...order.map(([name, entry]) => row(name, entry, two)));
  find("agreement").hidden = !two;
  if (two) find("agreement").textContent = agreement(answers[0], answers[0].ids, answers[1], answers[1].ids);
  press();
}

const sum = (values) => values.reduce((one, other) => one + other, 0);

function row(name, { shares, colors }, two) {
  const item = find("row").content.cloneNode(true).firstElementChild;
  const [first, second] = item.querySelectorAll("i"), bar = item.querySelector(".bar div");
  item.dataset.name = name;
  item.querySelector(".solo span").textContent = name;
  item.querySelector(".solo").title = `Show only ${name}`;
  item.querySelector(".share").textContent = shares.map(share).join(two ? " | " : "");
  item.querySelector(".eye").setAttribute("aria-label", `Hide ${name}`);
  second.hidden = !two;
  [first, second].forEach((swatch, side) => {
    if (isBackground(name) || !colors[side]) swatch.classList.add("none");
    else swatch.style.background = `rgb(${colors[side].join(",")})`;
  });
  bar.style.width = `${100 * Math.max(...shares)}%`;
  bar.style.background = isBackground(name) ? "" : `rgb(${(colors[0] || colors[1]).join(",")})`;
  return item;
}

function press() {
  for (const item of find("legend").children) {
    const { name } = item.dataset;
    item.classList.toggle("off", !visible(name));
    item.querySelector(".solo").setAttribute("aria-pressed", String(name === look.solo));
    item.querySelector(".eye").setAttribute("aria-pressed", String(look.hidden.has(name)));
  }
  find("all").hidden = look.solo === null && ![...classes.keys()].some((name) => look.hidden.has(name));
}

function solo(name) {
  look.solo = name === look.solo || !classes.has(name) ? null : name;
  changed();
}

function changed() {
  press();
  repaint();
}

find("legend").addEventListener("click", (event) => {
  const button = event.target.closest("button"), name = event.target.closest("li")?.dataset.name;
  if (button?.className === "solo") solo(name);
  else if (button) {
    look.hidden.has(name) ? look.hidden.delete(name) : look.hidden.add(name);
    look.solo = null;
    changed();
  }
});
find("all").addEventListener("click", () => {
  look.solo = null;
  look.hidden.clear();
  changed();
  find("stage").focus();
});
on("solo", solo);
on("hover", (name) => {
  for (const item of find("legend").children) item.classList.toggle("hovered", item.dataset.name === name);
});
