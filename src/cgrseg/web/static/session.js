// What a reload keeps: settings, and photos that fit into the storage of the tab, which ends with the tab.

const NAME = "cgrseg", MOST = 3.5e6; // bytes of photos: browsers store about 5 million characters

let saves = 0;

export async function save({ photos, weights, side, look }) {
  const content = { weights, side, opacity: look.opacity, photos: [] };
  const number = ++saves;
  let size = 0;
  for (const { name, blob } of photos) {
    size += blob.size;
    if (size > MOST) break;
    content.photos.push({ name, type: blob.type, data: await base64(blob) });
  }
  if (number < saves) return; // a later call has more
  try {
    sessionStorage.setItem(NAME, JSON.stringify(content));
  } catch {
    sessionStorage.removeItem(NAME);
  }
}

export function restore() {
  try {
    const { photos, ...rest } = JSON.parse(sessionStorage.getItem(NAME)) || { photos: [] };
    const bytes = (data) => Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
    return { ...rest, files: photos.map(({ name, type, data }) => new File([bytes(data)], name, { type })) };
  } catch {
    return {};
  }
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
