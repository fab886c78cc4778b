// The Export menu: files made by the server with the settings on the screen, the picture as shown, and zip archives.
import { ask, download, stem } from "./api.js";
import { isBackground } from "./labels.js";
import { compose, current, look, visible } from "./stage.js";
import { zip } from "./zip.js";

const FILES = {
  overlay: ["Overlay with legend", "overlay.jpg"],
  mask: ["Mask of class ids", "mask.png"],
  confidence: ["Confidence", "confidence.png"],
  cutout: ["Cut-out", "cutout.png"],
  outline: ["Outlines", "outline.jpg"],
  geojson: ["Polygons, GeoJSON", "geojson"],
  coco: ["Polygons, COCO", "coco.json"],
  csv: ["Shares, CSV", "csv"],
  json: ["Shares, JSON", "json"],
};
const menu = document.getElementById("export"), every = document.getElementById("every");
const box = every.querySelector("input"), list = menu.querySelector("ul");
let photos = () => [], report = () => {};

// `all` gives the labelled photos, `tell(text, error)` shows a message.
export function connect(all, tell) {
  [photos, report] = [all, tell];
  const item = (name, text) => {
    const button = list.appendChild(document.createElement("li")).appendChild(document.createElement("button"));
    Object.assign(button, { textContent: text, onclick: () => run(name) });
    button.dataset.export = name;
  };
  for (const [name, [text]] of Object.entries(FILES)) item(name, text);
  item("view", "Picture as shown");
  if (navigator.clipboard?.write) item("copy", "Copy picture");
}

// Enables the menu if the result on the stage belongs to the settings.
export function enable(ready) {
  menu.querySelector("summary").setAttribute("aria-disabled", String(!ready));
  for (const button of list.querySelectorAll("button")) button.disabled = !ready;
  if (!ready) menu.open = false;
  every.hidden = photos().length < 2;
  every.querySelector("span").textContent = `All ${photos().length} photos as zip`;
}

async function run(name) {
  menu.open = false;
  const photo = current(), many = box.checked && !every.hidden && name in FILES;
  try {
    if (name === "copy") {
      const blob = new Promise((resolve) => compose().toBlob(resolve, "image/png"));
      await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
      return report("The picture is on the clipboard.");
    }
    if (name === "view") return compose().toBlob((blob) => download(blob, `${stem(photo.name)}.view.png`), "image/png");
    report(`Exporting ${FILES[name][0]} …`);
    const chosen = many ? photos() : [photo], files = [];
    const same = ({ name: a }, { name: b }) => stem(a).toLowerCase() === stem(b).toLowerCase();
    for (const each of chosen) {
      const clear = chosen.filter((other) => same(other, each)).length === 1; // otherwise a.jpg.mask.png, a.png.mask.png
      files.push([`${clear ? stem(each.name) : each.name}.${FILES[name][1]}`, await file(name, each)]);
    }
    if (many) download(await zip(files), `cgrseg-${name}.zip`);
    else download(files[0][1], files[0][0]);
    report(`${many ? `cgrseg-${name}.zip` : files[0][0]} was downloaded.`);
  } catch (error) {
    report(`${photo.name}: ${error.message}`, true);
  }
}

async function file(name, photo) {
  const { answer, settings } = photo;
  if (name === "json") {
    const classes = answer.classes.map(({ rle, ...each }) => each);
    const content = { file_name: photo.name, width: answer.width, height: answer.height, ...photo.facts, classes };
    return new Blob([JSON.stringify(content, null, 2)], { type: "application/json" });
  }
  const options = { ...settings, output: name, alpha: look.opacity / 100 };
  if (["coco", "csv"].includes(name)) options.file_name = photo.name.slice(-255);
  const shown = answer.classes.filter((each) => visible(each.name));
  const colored = shown.filter((each) => !isBackground(each.name));
  if (name === "cutout") options.classes = colored.map((each) => each.id);
  else if (["geojson", "coco"].includes(name) && shown.length < answer.classes.length)
    options.classes = shown.map((each) => each.id);
  if (options.classes && !options.classes.length) throw new Error("no class is shown: show one in the legend");
  return (await ask("v1/segment", photo.blob, options)).blob();
}
