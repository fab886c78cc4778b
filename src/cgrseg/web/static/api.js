// Requests to the server. Photos are sent without their names, except into the files that contain one.

// Posts a photo or video; throws an Error with one line if the server refuses, and the shortSide it would accept.
export async function ask(path, body, options, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(options))
    for (const each of [value].flat()) if (each !== "" && each !== null) query.append(name, each);
  let response;
  try {
    const headers = { "Content-Type": "application/octet-stream" };
    response = await fetch(`${path}?${query}`, { method: "POST", body, headers, signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the page's server does not answer: is it still running?");
  }
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  const shortSide = response.headers.get("X-Short-Side");
  throw Object.assign(new Error(detail || `the server answered ${response.status}`), { shortSide });
}

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export const stem = (name) => name.replace(/\.[^.]*$/, "") || name;

export function loadImage(url) {
  const image = new Image();
  image.src = url;
  return image.decode().then(() => image);
}
