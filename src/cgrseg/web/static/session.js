// What a reload keeps, in the storage of the tab, which ends with the tab: settings, and photos that fit.

const MOST = 3.5e6; // bytes of photos: browsers store about 5 million characters
let saves = 0;

export const saveSettings = (settings) => sessionStorage.setItem("settings", JSON.stringify(settings));
export const settings = () => JSON.parse(sessionStorage.getItem("settings") || "{}");

export async function savePhotos(photos) {
  const number = ++saves, content = [];
  let size = 0;
  for (const photo of photos) {
    const { name, blob } = photo;
    if ((size += blob.size) > MOST) break;
    content.push({ name, type: blob.type, data: (photo.text ??= await base64(blob)) });
  }
  if (number < saves) return; // a later call has more
  try {
    sessionStorage.setItem("photos", JSON.stringify(content));
  } catch {
    sessionStorage.removeItem("photos");
  }
}

export function files() {
  const bytes = (data) => Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
  const photos = JSON.parse(sessionStorage.getItem("photos") || "[]");
  return photos.map(({ name, type, data }) => new File([bytes(data)], name, { type }));
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] || "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
