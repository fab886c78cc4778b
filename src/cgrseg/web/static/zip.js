// ZIP archives without compression: pictures are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// Numbers as [bytes, value, bytes, value, ...], little-endian.
function pack(...fields) {
  const bytes = [];
  for (let i = 0; i < fields.length; i += 2)
    for (let k = 0; k < fields[i]; k++) bytes.push(Math.floor(fields[i + 1] / 256 ** k) % 256);
  return Uint8Array.from(bytes);
}

// A Blob of [[name, Blob], ...].
export async function zip(files) {
  const now = new Date(), parts = [], directory = [];
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const day = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  let offset = 0, size = 0;
  for (const [name, blob] of files) {
    const path = new TextEncoder().encode(name), content = new Uint8Array(await blob.arrayBuffer());
    // version, UTF-8 names, stored, time, day, checksum, both sizes, length of the name, no extra field
    const fields = [2, 20, 2, 0x800, 2, 0, 2, time, 2, day, 4, crc32(content)];
    fields.push(4, content.length, 4, content.length, 2, path.length, 2, 0);
    const head = pack(4, 0x04034b50, ...fields);
    directory.push(pack(4, 0x02014b50, 2, 20, ...fields, 2, 0, 2, 0, 2, 0, 4, 0, 4, offset), path);
    parts.push(head, path, content);
    offset += head.length + path.length + content.length;
  }
  for (const each of directory) size += each.length;
  const end = pack(4, 0x06054b50, 2, 0, 2, 0, 2, files.length, 2, files.length, 4, size, 4, offset, 2, 0);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
