// Label maps in the browser: read from the run lengths of the server, painted in colours, compared.

export const share = (value) => (value >= 0.001 || value === 0 ? (100 * value).toFixed(1) + " %" : "< 0.1 %");

export const isBackground = (name) => /^_*background_*$/i.test(name);

// Uint16Array [height x width]: 1 + the position in answer.classes; 0 for unknown pixels.
export function decode({ width, height, classes }) {
  const ids = new Uint16Array(width * height);
  classes.forEach(({ rle }, position) => {
    let start = 0;
    rle.counts.forEach((length, run) => {
      if (run % 2) {
        let x = Math.floor(start / height), y = start % height;
        for (let i = 0, at = y * width + x; i < length; i++, at += width, y++) {
          if (y === height) [x, y, at] = [x + 1, 0, x + 1];
          ids[at] = position + 1;
        }
      }
      start += length;
    });
  });
  return ids;
}

// Draws the classes for which visible(name) holds in their colours; all other pixels and the background transparent.
export function paint(canvas, answer, ids, visible) {
  const colors = Uint32Array.from([null, ...answer.classes], (each) => {
    if (!each || isBackground(each.name) || !visible(each.name)) return 0;
    const [red, green, blue] = each.color;
    return 0xff000000 + (blue << 16) + (green << 8) + red;
  });
  const image = new ImageData(answer.width, answer.height), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < ids.length; i++) pixels[i] = colors[ids[i]];
  Object.assign(canvas, { width: answer.width, height: answer.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// One sentence: on how much of the photo two answers have a class of the same name.
export function agreement(one, ids, other, otherIds) {
  const names = other.classes.map((each) => each.name);
  const same = [0, ...one.classes.map((each) => names.indexOf(each.name) + 1)];
  if (!same.some(Boolean)) return "The two results have no classes in common.";
  let count = 0;
  for (let i = 0; i < ids.length; i++) if (ids[i] && same[ids[i]] === otherIds[i]) count++;
  return `Both predict the same class on ${share(count / ids.length)} of the photo.`;
}
