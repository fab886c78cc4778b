// The page: its photos, the settings, and the queue that labels one photo at a time.
import { ask, loadImage } from "./api.js";
import * as exports from "./export.js";
import { isBackground, share } from "./labels.js";
import { fill } from "./legend.js";
import * as live from "./live.js";
import * as session from "./session.js";
import { apply, current, look, show, zoom } from "./stage.js";

const find = (id) => document.getElementById(id);
const VIDEO = /\.(mp4|mov|mkv|avi|webm|m4v|mpe?g)$/i;
let photos = [], working = null, chosen = null;

function tell(text, wrong = false) {
  find("error").textContent = wrong ? text : "";
  find("status").textContent = wrong ? "" : text;
}

// The settings of a request, as its query.
const settings = () => ({
  weights: find("weights").value,
  runtime: find("runtime").value,
  short_side: find("side").value === "0" ? "" : find("side").value,
});
const key = () => JSON.stringify([settings(), find("compare").value]);
const fresh = (photo) => photo?.key === key() && Boolean(photo.answer);

// Adds its answer to a photo.
async function label(photo, signal) {
  const start = performance.now(), asked = { settings: settings(), key: key() }, compared = find("compare").value;
  const wanted = asked.settings.short_side;
  const [other] = compared ? await answer(photo, { ...asked.settings, weights: compared }, signal) : [];
  const [found, response] = await answer(photo, asked.settings, signal);
  const facts = {
    weights: asked.settings.weights,
    runtime: response.headers.get("X-Runtime"),
    network_input: response.headers.get("X-Network-Input").split("x").map(Number),
    seconds: Number(((performance.now() - start) / 1000).toFixed(3)),
    reduced: asked.settings.short_side !== wanted,
  };
  Object.assign(photo, asked, { answer: found, other, facts, confidence: null });
}

// The answer to a request. A photo above the server's limit is sent with the largest short side below it, which
// `options` then has.
async function answer(photo, options, signal) {
  if (!photo.blob.size) throw new Error("the file is empty: copy the photo again");
  const send = () => ask("v1/segment", photo.blob, { ...options, output: "rle" }, signal);
  const response = await send().catch((error) => {
    if (!error.shortSide) throw error;
    options.short_side = error.shortSide;
    return send();
  });
  return [await response.json(), response];
}

// Labels what is not labelled with these settings, the photo on the stage first.
async function work() {
  if (working) return;
  for (let photo; (photo = [chosen, ...photos].find((each) => each && each.key !== key() && photos.includes(each))); ) {
    working = new AbortController();
    if (photo === chosen) draw();
    try {
      await label(photo, working.signal);
      await photo.ready;
      await makeImage(photo);
      photo.error = null;
    } catch (error) {
      if (error.name === "AbortError") continue;
      Object.assign(photo, { error: error.message, key: key(), answer: null, other: null });
    }
    if (photo === chosen) draw(true);
    else exports.enable(fresh(chosen));
  }
  working = null;
}

// The photo as the server reads it, where the browser cannot show it: TIFF, or another orientation.
async function makeImage(photo) {
  const { answer: found, image } = photo;
  if (image && image.naturalWidth === found.width && image.naturalHeight === found.height) return;
  const options = { ...photo.settings, output: "cutout", classes: found.classes.map((each) => each.id) };
  const picture = await (await ask("v1/segment", photo.blob, options)).blob();
  photo.image = await loadImage(URL.createObjectURL(picture));
}

// Draws the chosen photo, its legend and its facts.
function draw(announce = false) {
  const photo = chosen, ready = fresh(photo);
  find("stage").setAttribute("aria-busy", String(Boolean(photo && !ready && !photo.error)));
  const visible = ready ? photo : photo && { ...photo, answer: null, other: null };
  show(photo?.image ? visible : null);
  find("welcome").hidden = Boolean(photo && !photo.error) || !find("clip").hidden;
  fill(ready ? photo : null);
  exports.enable(ready);
  drawFacts(ready ? photo : null);
  drawStrip();
  if (photo?.error) tell(`${photo.name}: ${photo.error}`, true);
  else if (announce && ready) {
    const most = photo.answer.classes.filter((each) => !isBackground(each.name)).slice(0, 3);
    tell(`${photo.name}: ${most.map((each) => `${each.name} ${share(each.share)}`).join(", ") || "background only"}`);
  } else if (photo && !ready) tell(`Labelling ${photo.name} …`);
  if (ready && look.view === "confidence") addConfidence(photo);
}

function drawFacts(photo) {
  if (!photo) return (find("facts").textContent = "");
  const { width, height } = photo.answer, { network_input: inside, seconds, reduced } = photo.facts;
  const input = `network input ${inside.join(" x ")}${reduced ? ", reduced to the limit of this page" : ""}`;
  find("facts").textContent = `${width} x ${height} pixels, ${input}, ${seconds.toFixed(2)} s`;
}

async function addConfidence(photo) {
  if (photo.confidence) return;
  const asked = photo.key;
  tell(`Computing the confidence of ${photo.name} …`);
  try {
    const blob = await (await ask("v1/segment", photo.blob, { ...photo.settings, output: "confidence" })).blob();
    if (photo.key !== asked) return;
    photo.confidence = URL.createObjectURL(blob);
    if (photo !== chosen) return;
    apply();
    tell(`The confidence of ${photo.name} is ready.`);
  } catch (error) {
    tell(`${photo.name}: ${error.message}`, true);
  }
}

function drawStrip() {
  const items = photos.map((photo) => {
    const item = document.createElement("li"), button = item.appendChild(document.createElement("button"));
    button.setAttribute("aria-current", String(photo === chosen));
    Object.assign(button, { title: photo.name, onclick: () => choose(photo) });
    if (photo.image) {
      const small = button.appendChild(new Image());
      Object.assign(small, { src: photo.image.src, alt: photo.name });
    } else button.textContent = photo.name;
    const remove = item.appendChild(document.createElement("button"));
    remove.setAttribute("aria-label", `Remove ${photo.name}`);
    Object.assign(remove, { className: "remove", textContent: "×", onclick: () => discard(photo) });
    return item;
  });
  const focused = [...find("strip").querySelectorAll("button")].indexOf(document.activeElement);
  find("strip").replaceChildren(...items);
  find("strip").hidden = !photos.length;
  if (focused >= 0) find("strip").querySelectorAll("button")[Math.min(focused, 2 * photos.length - 1)]?.focus();
}

function choose(photo) {
  live.stopCamera();
  live.closeClip();
  chosen = photo;
  if (photo?.error) Object.assign(photo, { key: null, error: null }); // tried again
  draw(true);
  const strip = find("strip"), item = strip.querySelector("[aria-current=true]")?.parentElement;
  if (item) strip.scrollLeft = item.offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
  work();
}

function discard(photo) {
  if (photo === chosen) working?.abort();
  photos = photos.filter((each) => each !== photo);
  URL.revokeObjectURL(photo.image?.src);
  session.savePhotos(photos);
  if (photo === chosen) choose(photos[0] || null);
  drawStrip();
  exports.enable(fresh(chosen));
  if (!photos.length) tell("");
}

function add(photo) {
  const { name } = photo;
  for (let number = 2; photos.some((each) => each.name === photo.name); number++)
    photo.name = name.replace(/(\.[^.]*)?$/, ` (${number})$1`);
  photos.push(photo);
  session.savePhotos(photos);
}

async function addFiles(files) {
  files = [...files];
  const isVideo = (file) => file.type.startsWith("video/") || VIDEO.test(file.name);
  const [clip, ...others] = files.filter(isVideo);
  const added = files.filter((file) => !isVideo(file)).map((file) => ({ name: file.name || "pasted.png", blob: file }));
  for (const photo of added) {
    add(photo);
    photo.ready = loadImage(URL.createObjectURL(photo.blob)).then((image) => (photo.image = image), () => null);
    photo.ready.then(() => (photo === chosen ? draw() : drawStrip()));
  }
  if (added.length) choose(added[0]);
  if (clip) await addClip(clip);
  if (others.length) tell(`One video at a time: add ${others[0].name} again.`, true);
}

async function addClip(file) {
  try {
    if (!(await live.video(file, settings(), tell))) return;
    chosen = null;
    draw();
  } catch (error) {
    tell(`${file.name}: ${error.message}`, true);
  }
}

async function startCamera() {
  try {
    const last = await live.camera({ label }, (frame) => {
      chosen = frame;
      show(frame);
      fill(frame);
      drawFacts(frame);
    });
    if (last && chosen === last) {
      add(last);
      choose(last);
    }
  } catch (error) {
    tell(`Camera: ${error.message}`, true);
  }
}

const KEPT = ["weights", "side", "opacity"];
const keep = () => session.saveSettings(Object.fromEntries(KEPT.map((id) => [id, find(id).value])));

function changed() {
  find("side-value").textContent = find("side").value === "0" ? "as in the weights" : find("side").value;
  working?.abort();
  keep();
  if (chosen) draw();
  work();
}

function setOpacity() {
  look.opacity = Number(find("opacity").value);
  find("opacity-value").textContent = `${look.opacity} %`;
  apply();
}

function setView(view) {
  look.view = view;
  for (const button of document.querySelectorAll("[data-view]"))
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  apply();
  if (view === "confidence" && fresh(chosen)) addConfidence(chosen);
}

function connect() {
  const paths = { open: "files", browse: "files", video: "clips" };
  for (const [button, input] of Object.entries(paths)) find(button).onclick = () => find(input).click();
  for (const input of ["files", "clips"])
    find(input).onchange = ({ target }) => addFiles(target.files).finally(() => (target.value = ""));
  find("camera").onclick = startCamera;
  find("opacity").oninput = setOpacity;
  find("opacity").onchange = keep;
  find("side").oninput = () => (find("side-value").textContent = find("side").value);
  for (const id of ["weights", "compare", "runtime", "side"]) find(id).onchange = changed;
  find("compare").addEventListener("change", () => setView(find("compare").value ? "split" : "labels"));
  find("views").onclick = (event) => event.target.dataset.view && setView(event.target.dataset.view);
  find("zoom").onclick = (event) => zoom(event.target.closest("button")?.dataset.zoom);
  addEventListener("paste", (event) => event.clipboardData.files.length && addFiles(event.clipboardData.files));
  for (const kind of ["dragover", "dragleave", "drop"])
    addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragover");
      if (kind === "drop") addFiles(event.dataTransfer.files);
    });
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll(".menu[open]")) menu.open = menu.contains(event.target);
    if (event.target.closest("summary[aria-disabled=true]")) event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector(".menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

function fillSelect(id, names, first = null) {
  const options = names.map((name) => new Option(name, name));
  find(id).replaceChildren(...(first === null ? [] : [new Option(first, "")]), ...options);
}

async function start() {
  connect();
  exports.connect(() => photos.filter(fresh), tell);
  const server = await (await fetch("page/settings")).json();
  fillSelect("weights", server.weights);
  fillSelect("compare", server.weights, "nothing");
  fillSelect("runtime", server.runtimes);
  find("comparing").hidden = server.weights.length < 2;
  find("running").hidden = server.runtimes.length < 2;
  for (const name of server.examples) {
    const button = find("examples").appendChild(document.createElement("li")).appendChild(document.createElement("button"));
    const path = `page/examples/${encodeURIComponent(name)}`;
    button.append(Object.assign(new Image(), { src: path, alt: "" }), name);
    button.onclick = async () => addFiles([new File([await (await fetch(path)).blob()], name)]);
  }
  for (const [id, value] of Object.entries(session.settings())) find(id).value = value;
  if (!find("weights").value) find("weights").value = server.weights[0]; // other weights than before
  setOpacity();
  changed();
  addFiles(session.files());
  document.body.dataset.ready = "";
}

start();
