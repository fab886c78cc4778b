// The viewer of the page: draws photo, labels and confidence in the browser, so that opacity, classes and the slider
// respond at once. `props.value` is the result of cgrseg.web.viewer.payload, or null.
const find = (selector) => element.querySelector(selector);
let data = null, ids = null, photo = null, confidence = null, view = "labels", alone = null, opacity = 0.5, drawing = 0;

const load = (address) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = reject;
  image.src = address;
});

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// The mask has class ids: red + 256 * green, with blue 0; in a grey mask green - blue is 0, so the id is red.
function readIds(image) {
  const context = newCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const bytes = context.getImageData(0, 0, image.width, image.height).data;
  const found = new Uint16Array(bytes.length / 4);
  for (let i = 0; i < found.length; i++) found[i] = bytes[4 * i] + 256 * (bytes[4 * i + 1] - bytes[4 * i + 2]);
  return found;
}

// An image of the photo's size: pixels of class `alone` (or all) in their colours at `opacity`, the others dark. The
// class "background" has no colour.
function layer(width, height) {
  const canvas = newCanvas(width, height), context = canvas.getContext("2d");
  const picture = context.createImageData(width, height), bytes = picture.data;
  const colors = new Map(data.classes.map((each) => [each.id, each.color]));
  for (let i = 0; i < ids.length; i++) {
    const shown = alone === null || ids[i] === alone, plain = ids[i] === data.background;
    const color = shown ? colors.get(ids[i]) || [0, 0, 0] : [20, 20, 20];
    bytes[4 * i] = color[0];
    bytes[4 * i + 1] = color[1];
    bytes[4 * i + 2] = color[2];
    bytes[4 * i + 3] = !shown ? 200 : plain ? 0 : Math.round(255 * opacity);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

function draw() {
  if (!data) return;
  const canvas = find("canvas"), width = photo.width, height = photo.height;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  if (view === "confidence" && confidence) {
    context.drawImage(confidence, 0, 0, width, height);
    return;
  }
  context.drawImage(photo, 0, 0);
  const from = view === "split" ? Math.round((width * find(".cgr-split").value) / 100) : 0;
  if (from < width) context.drawImage(layer(width, height), from, 0, width - from, height, from, 0, width - from, height);
  if (view === "split") {
    context.fillStyle = "white";
    context.fillRect(from - 1, 0, Math.max(2, width / 400), height);
  }
}

const share = (value) => (value >= 0.001 ? (100 * value).toFixed(1) + " %" : "< 0.1 %");

function fillLegend() {
  const body = find(".cgr-legend tbody");
  body.replaceChildren();
  for (const each of data.classes) {
    const row = body.insertRow(), button = document.createElement("button"), swatch = document.createElement("span");
    button.type = "button";
    button.dataset.id = each.id;
    swatch.className = "cgr-swatch";
    swatch.style.background = each.id === data.background ? "white" : `rgb(${each.color.join(",")})`;
    button.append(swatch, each.name);
    row.insertCell().append(button);
    row.insertCell().textContent = share(each.share);
  }
}

function press() {
  for (const button of element.querySelectorAll(".cgr-legend button"))
    button.setAttribute("aria-pressed", String(Number(button.dataset.id) === alone));
  for (const button of element.querySelectorAll("[data-view]"))
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  find(".cgr-all").hidden = alone === null;
  find(".cgr-split").hidden = view !== "split" || !data;
  find("[data-view=confidence]").hidden = Boolean(data) && !confidence;
}

function show(id) {
  alone = id === alone ? null : id;
  press();
  draw();
}

function point(event) {
  if (!data) return null;
  const canvas = find("canvas"), box = canvas.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
  return x < 0 || y < 0 || x >= canvas.width || y >= canvas.height ? null : ids[y * canvas.width + x];
}

function hover(id) {
  const each = data && data.classes.find((one) => one.id === id);
  find(".cgr-here").textContent = each ? `${each.name}, ${share(each.share)}` : "";
  for (const row of element.querySelectorAll(".cgr-legend tr"))
    row.classList.toggle("cgr-hovered", Boolean(each) && Number(row.querySelector("button").dataset.id) === id);
}

async function update() {
  const next = props.value, turn = ++drawing;
  if (next && next.photo) {
    const [image, mask, sure] = await Promise.all([
      load(next.photo), load(next.mask), next.confidence ? load(next.confidence) : null,
    ]);
    if (turn !== drawing) return; // a newer photo has arrived
    data = next;
    photo = image;
    ids = readIds(mask);
    confidence = sure;
    if (!data.classes.some((each) => each.id === alone)) alone = null;
    if (view === "confidence" && !confidence) view = "labels";
    fillLegend();
  } else {
    data = null;
    find(".cgr-legend tbody").replaceChildren();
    hover(null);
  }
  find("canvas").style.display = data ? "block" : "none";
  find(".cgr-hint").hidden = Boolean(data);
  find(".cgr-hint").style.display = data ? "none" : "";
  find(".cgr-note").textContent = data ? data.note : "";
  press();
  draw();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && button.dataset.view) {
    view = button.dataset.view;
    press();
    draw();
  } else if (button && button.dataset.id) show(Number(button.dataset.id));
  else if (button && button.classList.contains("cgr-all")) show(alone);
  else if (event.target.tagName === "CANVAS" && point(event) !== null) show(point(event));
});
element.addEventListener("pointermove", (event) => event.target.tagName === "CANVAS" && hover(point(event)));
element.addEventListener("pointerout", (event) => event.target.tagName === "CANVAS" && hover(null));
element.addEventListener("input", (event) => event.target.classList.contains("cgr-split") && draw());
window.addEventListener("cgrseg-opacity", (event) => {
  opacity = Number(event.detail);
  draw();
});
watch("value", update);
update();
