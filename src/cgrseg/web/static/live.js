// The camera, frame by frame, and videos.
import { ask, download, loadImage, stem } from "./api.js";

const find = (id) => document.getElementById(id);
const busy = find("busy"), bar = busy.querySelector("progress");
let running = null, filming = false, clip = null;

// Ends the camera or video at once.
export function stop() {
  running?.abort();
  running = null;
  busy.hidden = true;
}

export const stopCamera = () => filming && stop();

function begin(text, camera) {
  stop();
  closeClip();
  filming = camera;
  running = new AbortController();
  bar.removeAttribute("value");
  busy.querySelector("span").textContent = text;
  busy.hidden = false;
  return running.signal;
}

// Labels frames one after the other: the next one is taken when the last one is drawn. Returns the last one.
export async function camera(settings, draw) {
  if (!navigator.mediaDevices) throw new Error("browsers give a camera to localhost and HTTPS only");
  const signal = begin("Camera", true), film = document.createElement("video"), canvas = document.createElement("canvas");
  let stream = null, last = null;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "environment" } });
    const release = () => stream.getTracks().forEach((track) => track.stop());
    signal.addEventListener("abort", release);
    if (signal.aborted) release();
    Object.assign(film, { srcObject: stream, muted: true, playsInline: true });
    await film.play();
    while (!signal.aborted) {
      const start = performance.now();
      Object.assign(canvas, { width: film.videoWidth, height: film.videoHeight });
      canvas.getContext("2d").drawImage(film, 0, 0);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
      const frame = { name: "camera.jpg", blob };
      const url = URL.createObjectURL(blob);
      [frame.image] = await Promise.all([loadImage(url), settings.label(frame, signal)]);
      if (signal.aborted) break;
      draw(frame);
      if (last) URL.revokeObjectURL(last.image.src);
      last = frame;
      busy.querySelector("span").textContent = `Camera, ${(1000 / (performance.now() - start)).toFixed(1)} images/s`;
    }
  } catch (error) {
    if (error.name === "NotFoundError" || error.name === "NotAllowedError")
      throw new Error("the browser gives no camera: connect one, or allow it for this page");
    if (!signal.aborted) throw error;
  } finally {
    stream?.getTracks().forEach((track) => track.stop());
    if (!signal.aborted) stop();
  }
  return last;
}

// Labels a video; returns whether it was not stopped.
export async function video(file, options, report) {
  const signal = begin(`Uploading ${file.name}`, false);
  report(`Labelling ${file.name} …`);
  try {
    const reader = (await ask("page/video", file, options, signal)).body.getReader(), parts = [];
    let text = "", missing = null, legend = null, note = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      let rest = value;
      while (missing === null && rest.length) {
        const end = rest.indexOf(10);
        text += new TextDecoder().decode(end < 0 ? rest : rest.subarray(0, end));
        rest = end < 0 ? rest.subarray(rest.length) : rest.subarray(end + 1);
        if (end < 0) break;
        const line = JSON.parse(text);
        text = "";
        if (line.error) throw new Error(line.error);
        if (line.bytes) [missing, legend, note] = [line.bytes, line.legend, line.note];
        else progress(line);
      }
      if (missing !== null && rest.length) {
        parts.push(rest);
        missing -= rest.length;
      }
    }
    if (missing !== 0) throw new Error("the server ended before the video did");
    showClip(new Blob(parts, { type: "video/mp4" }), `${stem(file.name)}.overlay.mp4`, legend);
    report(note ? `${file.name}: ${note}` : `${file.name} is labelled.`);
    return true;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    report("Stopped: no part of this video is kept.");
    return false;
  } finally {
    if (running?.signal === signal) stop();
  }
}

function progress({ done, frames }) {
  Object.assign(bar, { max: frames, value: done });
  busy.querySelector("span").textContent = `${done} of ${frames} frames`;
}

function showClip(blob, name, legend) {
  clip = URL.createObjectURL(blob);
  Object.assign(find("clip"), { src: clip, hidden: false });
  Object.assign(find("clip-legend"), { src: legend, hidden: false });
  find("clip-download").hidden = false;
  find("clip-download").onclick = () => download(blob, name);
  find("welcome").hidden = true;
}

// Removes the labelled video from the page.
export function closeClip() {
  if (clip) URL.revokeObjectURL(clip);
  clip = null;
  find("clip").removeAttribute("src");
  find("clip-legend").removeAttribute("src");
  for (const id of ["clip", "clip-legend", "clip-download"]) find(id).hidden = true;
}

find("stop").addEventListener("click", stop);
