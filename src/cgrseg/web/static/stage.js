// The stage: layers of one photo, views, zoom and the class under the pointer. A redraw for the opacity changes one
// style: the layers are painted only when the photo or the visible classes change.
import { decode, paint, share } from "./labels.js";

const find = (id) => document.getElementById(id);
const stage = find("stage"), picture = find("picture"), divider = find("divider"), split = find("split");
export const look = { view: "labels", opacity: 50, solo: null, hidden: new Set() };
export const visible = (name) => (look.solo === null ? !look.hidden.has(name) : name === look.solo);
const events = { solo: () => {}, hover: () => {} };
let shown = null, width = 1, height = 1, scale = 1, x = 0, y = 0, fitted = true, uncut = true;

export const current = () => shown;
export const on = (name, handler) => (events[name] = handler);

// Shows a photo, {name, image, answer, other, confidence}, or nothing; the answers may be missing.
export function show(photo) {
  const fresh = !shown || !photo || width !== photo.image.naturalWidth || height !== photo.image.naturalHeight;
  shown = photo;
  picture.hidden = !photo;
  find("welcome").hidden = Boolean(photo);
  find("here").hidden = true;
  if (!photo) return apply();
  [width, height] = [photo.image.naturalWidth, photo.image.naturalHeight];
  Object.assign(picture.style, { width: `${width}px`, height: `${height}px` });
  photo.image.id = "photo";
  photo.image.alt = photo.name;
  if (find("photo") !== photo.image) find("photo").replaceWith(photo.image);
  for (const key of ["answer", "other"]) if (photo[key] && !photo[key].ids) photo[key].ids = decode(photo[key]);
  repaint();
  if (fresh) fit();
}

// Paints the layers again: another photo, or other visible classes.
export function repaint() {
  uncut = true;
  if (shown?.answer) paint(find("labels"), shown.answer, shown.answer.ids, visible);
  if (shown?.other) paint(find("other"), shown.other, shown.other.ids, visible);
  apply();
}

// Applies view and opacity.
export function apply() {
  const { view } = look, answer = shown?.answer, border = Number(split.value), two = Boolean(shown?.other);
  const colored = Boolean(answer) && (view === "labels" || view === "split");
  find("labels").hidden = !colored;
  find("other").hidden = !(colored && two && view === "split");
  for (const id of ["labels", "other"]) find(id).style.opacity = look.opacity / 100;
  find("labels").style.clipPath = view !== "split" ? "" : two ? `inset(0 ${100 - border}% 0 0)` : `inset(0 0 0 ${border}%)`;
  find("other").style.clipPath = `inset(0 0 0 ${border}%)`;
  find("confidence").hidden = !(view === "confidence" && shown?.confidence);
  if (shown?.confidence && find("confidence").src !== shown.confidence) find("confidence").src = shown.confidence;
  find("cutout").hidden = !(view === "cutout" && answer);
  if (view === "cutout" && answer && uncut) cut();
  const photo = find("photo");
  photo.classList.toggle("away", view === "cutout" && Boolean(answer));
  photo.classList.toggle("grey", look.solo !== null && colored);
  split.hidden = divider.hidden = !(view === "split" && answer);
  divider.style.left = `${border}%`;
  divider.style.width = `${2 / scale}px`;
}

function cut() {
  uncut = false;
  const canvas = find("cutout"), context = canvas.getContext("2d"), layer = find("labels");
  Object.assign(canvas, { width: layer.width, height: layer.height });
  context.drawImage(layer, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.drawImage(shown.image, 0, 0, layer.width, layer.height);
}

// A canvas of the photo's size with what the stage shows.
export function compose() {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d"), { view } = look;
  Object.assign(canvas, { width, height });
  const draw = (layer, from = 0, to = width) =>
    from < to && context.drawImage(layer, from, 0, to - from, height, from, 0, to - from, height);
  if (view === "cutout" || (view === "confidence" && shown.confidence)) draw(find(view));
  else {
    context.fillStyle = "white"; // below transparent photos, as the network sees them
    context.fillRect(0, 0, width, height);
    context.filter = getComputedStyle(shown.image).filter;
    draw(shown.image);
    context.filter = "none";
    if (view === "confidence") return canvas; // not computed yet
    const border = view === "split" ? Math.round((width * split.value) / 100) : 0, two = view === "split" && shown.other;
    context.globalAlpha = look.opacity / 100;
    if (two) draw(find("labels"), 0, border);
    draw(find(two ? "other" : "labels"), border);
  }
  return canvas;
}

function place() {
  const [w, h] = [stage.clientWidth, stage.clientHeight], margin = 40;
  x = Math.min(Math.max(x, margin - width * scale), w - margin);
  y = Math.min(Math.max(y, margin - height * scale), h - margin);
  picture.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  picture.classList.toggle("magnified", scale > 2);
  stage.style.touchAction = fitted ? "pan-y" : "none"; // a fitted photo lets a phone scroll
  document.querySelector("[data-zoom=one]").textContent = `${Math.round(100 * scale)} %`;
  divider.style.width = `${2 / scale}px`;
}

export function fit() {
  const [w, h] = [stage.clientWidth, stage.clientHeight];
  scale = Math.min(w / width, h / height, 4);
  [x, y, fitted] = [(w - width * scale) / 2, (h - height * scale) / 2, true];
  place();
}

// Zooms so that the point of the stage stays where it is.
function zoomTo(next, px = stage.clientWidth / 2, py = stage.clientHeight / 2) {
  next = Math.min(Math.max(next, Math.min(0.05, scale)), 32);
  [x, y, scale, fitted] = [px - ((px - x) * next) / scale, py - ((py - y) * next) / scale, next, false];
  place();
}

export function zoom(what) {
  if (what === "full") document.fullscreenElement ? document.exitFullscreen() : find("viewer").requestFullscreen?.();
  else if (!shown || !what) return;
  else if (what === "fit") fit();
  else zoomTo(what === "one" ? 1 : what === "in" ? scale * 1.25 : scale / 1.25);
}

// The class under a point of the window, or null.
function classAt(event) {
  const box = picture.getBoundingClientRect(), beyond = event.clientX - box.left > (box.width * split.value) / 100;
  const answer = (look.view === "split" && beyond && shown?.other) || shown?.answer;
  if (!answer) return null;
  const column = Math.floor(((event.clientX - box.left) / box.width) * answer.width);
  const row = Math.floor(((event.clientY - box.top) / box.height) * answer.height);
  if (column < 0 || row < 0 || column >= answer.width || row >= answer.height) return null;
  return answer.classes[answer.ids[row * answer.width + column] - 1] || { name: "unknown" };
}

const pointers = new Map();
let moved = 0, dragged = null;

stage.addEventListener("pointerdown", (event) => {
  if (!shown || event.target.closest("button, input, video, #busy")) return;
  pointers.set(event.pointerId, event);
  stage.setPointerCapture(event.pointerId);
  [moved, dragged] = [0, event.target === divider ? "divider" : "picture"];
});
stage.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  if (!before) {
    const found = classAt(event);
    find("here").hidden = !found;
    find("here").textContent = !found ? "" : found.share === undefined ? found.name : `${found.name}, ${share(found.share)}`;
    return events.hover(found?.name);
  }
  const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
  moved += Math.abs(dx) + Math.abs(dy);
  if (dragged === "divider") {
    const box = picture.getBoundingClientRect();
    split.value = (100 * (event.clientX - box.left)) / box.width;
    apply();
  } else if (pointers.size === 2) {
    const box = stage.getBoundingClientRect();
    const other = [...pointers.values()].find((each) => each.pointerId !== event.pointerId);
    const length = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoomTo((scale * length(event)) / Math.max(length(before), 1), other.clientX - box.left, other.clientY - box.top);
  } else if (event.pointerType === "mouse" || !fitted) {
    [x, y, fitted] = [x + dx, y + dy, fitted && moved < 4];
    place();
  }
  pointers.set(event.pointerId, event);
});
for (const kind of ["pointerup", "pointercancel"])
  stage.addEventListener(kind, (event) => {
    const pressed = pointers.delete(event.pointerId), found = classAt(event);
    if (kind === "pointerup" && pressed && moved < 4 && found && dragged === "picture") events.solo(found.name);
  });
stage.addEventListener("pointerleave", () => {
  find("here").hidden = true;
  events.hover(null);
});
stage.addEventListener("wheel", (event) => {
  if (!shown) return;
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  zoomTo(scale * Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
stage.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  const zoomed = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "one", f: "full" }[event.key];
  if (event.target !== stage || event.ctrlKey || event.metaKey || !(step || zoomed)) return;
  event.preventDefault();
  if (zoomed) zoom(zoomed);
  else if (shown) {
    [x, y, fitted] = [x + step[0], y + step[1], false];
    place();
  }
});
split.addEventListener("input", apply);
new ResizeObserver(() => shown && (fitted ? fit() : place())).observe(stage);
