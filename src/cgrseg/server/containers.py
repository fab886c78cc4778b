"""Image files reduced to what a label map needs, before Pillow reads them.

Some files are small but expensive for Pillow's readers: EXIF segments and GIF comments are joined in quadratic time,
TIFF tags that share their data are copied once per tag, a progressive JPEG is decoded once per scan. Walking over the
blocks of a file takes milliseconds. Metadata is dropped here (only the EXIF orientation is used), the rest is bounded.
"""

from __future__ import annotations

import re
import struct
import zlib

# Not all formats that Pillow reads: some of its other readers start programs or unpack archives.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BLOCKS = 2**14  # segments of a JPEG, chunks of a PNG or WebP, extensions of a GIF
MAX_SCANS = 100  # of a progressive JPEG; encoders write about ten
MAX_HEADER = 2**20  # bytes of all segments of a JPEG apart from its scans
MAX_SUB_BLOCKS = 2**18  # of a GIF extension
MAX_TAGS = 1024  # of a TIFF or EXIF directory
MAX_VALUES = 2**16  # of a TIFF tag of numbers, such as the offsets of strips
BYTE_TYPES = (1, 2, 6, 7)  # of TIFF: their values take one byte each
VALUE_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
EXIF = b"Exif\0\0"
NO_EXIF = b"II*\0\x08\0\0\0\0\0\0\0\0\0"  # a directory without tags
# The start of a JPEG segment: neither a byte of a scan (followed by 0) nor a restart within it.
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
SOI, EOI, SOS, APP0, APP1, APP14, APP15, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE


class ContainerError(ValueError):
    """The file is built so that reading it would take too much time or memory."""


def clean_image(data: bytes) -> bytes:
    """The same image without metadata except for its EXIF orientation.

    A damaged file is returned with its damage, for the decoder to report.

    Args:
        data: the content of a file of any format.

    Raises:
        ContainerError: the file has too many blocks, scans or tags. The message is the end of a sentence that begins
            with the file's name.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _clean_jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _clean_png(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _clean_gif(data)
        if data.startswith((b"II", b"MM")):
            _check_tags(memoryview(data))
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            _check_webp(data)
        elif data.startswith(b"BM") and data[14:15] != b"\x0c" and data[30:31] in (b"\x01", b"\x02"):
            raise ContainerError("is a run-length encoded BMP: save it as PNG")  # Pillow decodes these in Python
    except (struct.error, IndexError):
        pass  # cut short
    return data


def _clean_jpeg(data: bytes) -> bytes:
    view, position, blocks, scans, header = memoryview(data), 0, 0, 0, 0
    kept: list[bytes | memoryview] = [data[:2]]
    has_exif = False
    while match := MARKER.search(data, position):
        start, marker = match.start(), data[match.start() + 1]
        if marker in (SOI, 0x01):  # without content
            position = start + 2
            continue
        if marker == EOI:
            kept.append(data[start : start + 2])
            break
        blocks = _count(blocks, "segments")
        end = start + 2 + max(int.from_bytes(data[start + 2 : start + 4]), 2)
        if marker == SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise ContainerError(f"has more than {MAX_SCANS} scans: save it as a baseline JPEG")
            following = MARKER.search(data, end)
            position = len(data) if following is None else following.start()
            kept.append(view[start:position])
            continue
        position = end
        if marker == APP1 and not has_exif and data[start + 4 : start + 10] == EXIF:
            has_exif = keep = _has_sound_tags(view[start + 10 : end])
        else:
            keep = marker in (APP0, APP14) or not (APP0 <= marker <= APP15 or marker == COM)
        if keep:
            kept.append(view[start:end])
            header += end - start
            if header > MAX_HEADER:
                raise ContainerError(f"has more than {MAX_HEADER} bytes of JPEG headers: save it again")
    return b"".join(kept)


def _clean_png(data: bytes) -> bytes:
    view, position, blocks = memoryview(data), 8, 0
    kept: list[bytes | memoryview] = []
    exif, rest = _png_chunk(b"eXIf", NO_EXIF), memoryview(b"")
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        blocks = _count(blocks, "chunks")
        if kind in PNG_KEPT:
            kept.append(view[position:end])
        elif kind == b"eXIf" and _has_sound_tags(view[position + 8 : end - 4]):
            exif = data[position:end]
        position = end
        if kind == b"IEND":
            break
    else:
        rest = view[position:]
    # Without EXIF before the pixels, Pillow decodes them to search behind them, even if asked only for the size.
    return b"".join((data[:8], *kept[:1], exif, *kept[1:], rest))


def _clean_gif(data: bytes) -> bytes:
    position, blocks = 13 + (3 * 2 ** (data[10] % 8 + 1) if data[10] & 0x80 else 0), 0
    kept = [data[:position]]
    while data[position] == 0x21:  # an extension
        blocks = _count(blocks, "extensions")
        start, position, parts = position, position + 2, 0
        while size := data[position]:
            position += size + 1
            parts += 1
            if parts > MAX_SUB_BLOCKS:
                raise ContainerError("has too much metadata: save it again without")
        position += 1
        if data[start + 1] == 0xF9:  # which colour is transparent
            kept.append(data[start:position])
    return b"".join((*kept, data[position:]))


def _check_webp(data: bytes) -> None:
    position, blocks = 12, 0
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        blocks = _count(blocks, "chunks")
        if kind == b"EXIF":
            content = memoryview(data)[position + 8 : position + 8 + length]
            _check_tags(content[6:] if bytes(content[:6]) == EXIF else content)
        position += 8 + length + length % 2


def _check_tags(data: memoryview) -> None:
    """Check the first directory of a TIFF file or EXIF block: values that do not overlap, and not too many."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    entry = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHI4x")
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    (tags,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    if tags > MAX_TAGS:
        raise ContainerError(f"has more than {MAX_TAGS} TIFF tags: save it again without metadata")
    total = 0
    for number in range(tags):
        _, kind, count = entry.unpack_from(data, start + (8 if big else 2) + number * entry.size)
        if kind not in BYTE_TYPES and count > MAX_VALUES:
            raise ContainerError(f"has a TIFF tag with more than {MAX_VALUES} values: save it again with larger strips")
        total += count * VALUE_SIZES.get(kind, 1)
    if total > len(data):
        raise ContainerError("has TIFF tags that are longer than the file: save it again without metadata")


def _has_sound_tags(exif: memoryview) -> bool:
    try:
        _check_tags(exif)
    except (ContainerError, struct.error):
        return False
    return True


def _count(blocks: int, what: str) -> int:
    if blocks == MAX_BLOCKS:
        raise ContainerError(f"has more than {MAX_BLOCKS} {what}: save it again")
    return blocks + 1


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
