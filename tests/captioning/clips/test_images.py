"""Odd and broken image files: each gives known pixels, or fails with a message that says why."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms

from pipeline.captioning.clips import frames
from pipeline.captioning.clips.clip import ClipTask, LoadFailure
from pipeline.captioning.clips.decode import DecodeError, decode
from pipeline.captioning.clips.decode_server import DecodeReply, DecodeRequest, handle_request
from pipeline.captioning.clips.frame_memory import FrameMemory
from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.preparation import FramePreparation
from tests.captioning.clips.test_animations import animation
from tests.fakes import mean_colour, render_clip, segments

_RED, _BLUE, _GREEN, _WHITE, _BLACK = (255, 0, 0), (0, 0, 255), (0, 128, 0), (255, 255, 255), (0, 0, 0)


def _corners(path: Path) -> list[tuple[int, ...]]:
    """The colours of the four corners: upper left and right, lower left and right."""
    sampled = decode(str(path), segments(4))
    assert sampled.is_image and sampled.index == (0,) and not sampled.partial
    image = sampled.images[0]
    assert image.mode == "RGB"
    right, low = image.width - 1, image.height - 1
    return [tuple(np.asarray(image)[y, x].tolist()) for x, y in ((0, 0), (right, 0), (0, low), (right, low))]


def _quarters(width: int = 64, height: int = 32) -> Image.Image:
    """Red, blue, green and white quarters, each a multiple of 16 pixels, which JPEG keeps apart."""
    image = Image.new("RGB", (width, height), _WHITE)
    image.paste(_RED, (0, 0, width // 2, height // 2))
    image.paste(_BLUE, (width // 2, 0, width, height // 2))
    image.paste(_GREEN, (0, height // 2, width // 2, height))
    return image


def _near(found: list[tuple[int, ...]], expected: list[tuple[int, ...]], tolerance: int = 3) -> bool:
    return bool((np.abs(np.subtract(found, expected)) <= tolerance).all())


_UPRIGHT = {
    1: [_RED, _BLUE, _GREEN, _WHITE],
    2: [_BLUE, _RED, _WHITE, _GREEN],
    3: [_WHITE, _GREEN, _BLUE, _RED],
    4: [_GREEN, _WHITE, _RED, _BLUE],
    5: [_RED, _GREEN, _BLUE, _WHITE],
    6: [_GREEN, _RED, _WHITE, _BLUE],
    7: [_WHITE, _BLUE, _GREEN, _RED],
    8: [_BLUE, _WHITE, _RED, _GREEN],
}
"""By EXIF orientation: the corners of `_quarters` in display orientation."""


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", _UPRIGHT)
def test_all_orientations(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    _quarters().save(path, exif=exif, quality=95)
    assert _near(_corners(path), [*_UPRIGHT[orientation]], 12)


def _cmyk(path: Path, **options: object) -> None:
    image = Image.new("CMYK", (64, 32), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 32))
    image.save(path, **options)


def _palette(path: Path, transparency: int | bytes | None = None) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([*_RED, *_BLUE, *_GREEN])
    image.paste(1, (4, 0, 8, 8))
    image.save(path, **({} if transparency is None else {"transparency": transparency}))


def _array(path: Path, values: list[float], dtype: str) -> None:
    """One row of grey values."""
    Image.fromarray(np.array([values]).astype(dtype)).save(path)


def _png_16_bit_rgb(path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x0100, 0x00FF, 0xFF00)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def _pages(path: Path) -> None:
    Image.new("RGB", (8, 8), _RED).save(path, save_all=True, append_images=[Image.new("RGB", (4, 4), _BLUE)])


def _two_views(path: Path) -> None:
    others = [Image.new("RGB", (16, 16), _BLUE)]
    Image.new("RGB", (16, 16), _RED).save(path, format="MPO", save_all=True, append_images=others)


def _rgba(path: Path) -> None:
    """A hidden colour, half a colour, and a whole one."""
    pixels = np.array([[[255, 0, 0, 0], [0, 0, 255, 128], [0, 128, 0, 255]]], np.uint8)
    Image.fromarray(pixels, "RGBA").save(path, lossless=True)


def _grey_alpha(path: Path) -> None:
    Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA").save(path)


def _colour_key(path: Path) -> None:
    image = Image.new("RGB", (2, 1), _RED)
    image.putpixel((1, 0), _BLUE)
    image.save(path, transparency=_RED)


def _one_bit(path: Path) -> None:
    image = Image.new("1", (9, 1), 0)
    image.putpixel((8, 0), 1)
    image.save(path)


def _broken_exif(path: Path) -> None:
    Image.new("RGB", (16, 16), _RED).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\x12" * 30)


def _broken_profile(path: Path) -> None:
    _cmyk(path, icc_profile=b"no profile" * 40)


def _profile_of_rgb(path: Path) -> None:
    """A profile that does not fit the pixels."""
    _cmyk(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


def _cyan_of_a_printer(path: Path) -> None:
    """Full cyan, with a profile by which it is a grey of L* 50: 119 in sRGB. Pillow's formula gives (0, 255, 255)."""
    identity = bytes(range(256))
    # The corners of the ink cube; black ink changes fastest. Each is L*, a*, b* in 8 bits.
    corners = [
        (0 if black else 128 if cyan else 255, 128, 128) for cyan in (0, 1) for _ in range(4) for black in (0, 1)
    ]
    matrix = struct.pack(">9i", *(65536 * (number % 4 == 0) for number in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + identity * 4 + bytes(sum(corners, ())) + identity * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    header = struct.pack(">I4sI4s4s4s", 144 + len(table), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    profile = header.ljust(128, b"\0") + tags + table
    Image.new("CMYK", (64, 32), (255, 0, 0, 0)).save(path, icc_profile=profile)


def _named_wrongly(path: Path) -> None:
    Image.new("RGB", (16, 16), _RED).save(path, format="JPEG")


def _grey(*values: int) -> list[tuple[int, ...]]:
    return [(value,) * 3 for value in values]


_KNOWN: dict[str, tuple[str, Callable[[Path], None], list[tuple[int, ...]]]] = {
    "cmyk jpeg": ("a.jpg", _cmyk, _grey(0, 255)),
    "cmyk tiff": ("a.tif", _cmyk, _grey(0, 255)),
    "cmyk with a broken profile": ("a.jpg", _broken_profile, _grey(0, 255)),
    "cmyk with a profile of rgb": ("a.jpg", _profile_of_rgb, _grey(0, 255)),
    "cmyk with its profile": ("a.jpg", _cyan_of_a_printer, _grey(119, 119)),
    "rgb with a broken profile": (
        "a.png",
        lambda path: Image.new("RGB", (4, 4), _RED).save(path, icc_profile=b"x" * 200),
        [_RED, _RED],
    ),
    "lab": ("a.tif", lambda path: Image.new("LAB", (4, 4), (255, 128, 128)).save(path), _grey(255, 255)),
    "16-bit grey png": ("a.png", lambda path: _array(path, [256 * 7, 0xFFFF], "uint16"), _grey(7, 255)),
    "16-bit grey tiff": ("a.tif", lambda path: _array(path, [256 * 7, 0xFFFF], "uint16"), _grey(7, 255)),
    "16-bit rgb png": ("a.png", _png_16_bit_rgb, [(255, 128, 0), (1, 0, 255)]),
    "32-bit integers": ("a.tif", lambda path: _array(path, [0, 65535], "int32"), _grey(0, 255)),
    "32-bit integers of 8 bits": ("a.tif", lambda path: _array(path, [7, 255], "int32"), _grey(7, 255)),
    "negative integers": ("a.tif", lambda path: _array(path, [-100, 0, 100], "int32"), _grey(0, 255)),
    "floats up to one": ("a.tif", lambda path: _array(path, [0.2, 1.0], "float32"), _grey(51, 255)),
    "floats without a number": ("a.tif", lambda path: _array(path, [0.5, np.nan, np.inf], "float32"), _grey(128, 128)),
    "1-bit": ("a.png", _one_bit, _grey(0, 255)),
    "palette": ("a.png", _palette, [_RED, _BLUE]),
    "palette bmp": ("a.bmp", _palette, [_RED, _BLUE]),
    "palette with a transparent colour": ("a.png", lambda path: _palette(path, 0), [_WHITE, _BLUE]),
    "palette with alpha": ("a.png", lambda path: _palette(path, b"\x80\xff\xff"), [(255, 127, 127), _BLUE]),
    "rgba png": ("a.png", _rgba, [_WHITE, _GREEN]),
    "rgba webp": ("a.webp", _rgba, [_WHITE, _GREEN]),
    "rgba tiff": ("a.tif", _rgba, [_WHITE, _GREEN]),
    "grey with alpha": ("a.png", _grey_alpha, _grey(255, 0)),
    "transparent colour without alpha": ("a.png", _colour_key, [_WHITE, _BLUE]),
    "pages": ("a.tiff", _pages, [_RED, _RED]),
    "two views": ("a.jpg", _two_views, [(254, 0, 0), (254, 0, 0)]),
    "broken exif": ("a.jpg", _broken_exif, [(254, 0, 0), (254, 0, 0)]),
    "jpeg named png": ("a.png", _named_wrongly, [(254, 0, 0), (254, 0, 0)]),
    "jpeg named mp4": ("a.mp4", _named_wrongly, [(254, 0, 0), (254, 0, 0)]),
    "one pixel": ("a.png", lambda path: Image.new("RGB", (1, 1), _RED).save(path), [_RED, _RED]),
    "very wide": ("a.png", lambda path: Image.new("RGB", (20000, 1), _RED).save(path), [_RED, _RED]),
}
"""By kind: the name of the file, what writes it, and the colours of its upper corners."""


@pytest.mark.parametrize("kind", _KNOWN)
def test_odd_files_have_known_pixels(tmp_path: Path, kind: str) -> None:
    name, write, expected = _KNOWN[kind]
    write(tmp_path / name)
    assert _near(_corners(tmp_path / name)[:2], expected, 1), _corners(tmp_path / name)


def test_half_a_colour_is_mixed_with_white(tmp_path: Path) -> None:
    _rgba(tmp_path / "a.png")
    assert np.asarray(decode(str(tmp_path / "a.png"), segments(1)).images[0])[0, 1].tolist() == [127, 127, 255]


def test_an_opaque_image_has_the_pixels_of_the_published_processors(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    pixels[:, :, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(decode(str(tmp_path / "a.png"), segments(1)).images[0]), pixels[:, :, :3])


def _noise(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, format=path.suffix[1:].replace("jpg", "jpeg").replace("tif", "tiff"))
    return written.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_image_fails(tmp_path: Path, suffix: str, share: float) -> None:
    for name in (f"a.{suffix}", "a.mp4"):
        data = _noise(tmp_path / f"a.{suffix}")
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DecodeError) as caught:
            decode(str(tmp_path / name), segments(4))
        assert [message[:5] for message in caught.value.messages] == ["PIL: "] and len(caught.value.messages[0]) > 15


def test_a_file_with_a_wrong_name_has_one_message(tmp_path: Path) -> None:
    """The decoding process is asked for one decoder after the other, until an answer is final."""
    (tmp_path / "a.mp4").write_bytes(_noise(Path("a.jpg"))[:500])
    preparation = FramePreparation(segments(4), mean_colour)
    with ClipLoader([ClipTask(0, str(tmp_path / "a.mp4"))], preparation, DecoderLimits(30), prefetch=1) as loader:
        (failure,) = loader
    assert isinstance(failure, LoadFailure) and failure.stage == "decode"
    assert len(failure.messages) == 1 and "truncated" in failure.messages[0].lower()


@pytest.mark.parametrize(("name", "decoder"), [("a.mp4", "PyAV"), ("a.mp4", "PIL"), ("a.jpg", "PyAV")])
def test_every_decoder_that_does_not_fit_has_a_message(tmp_path: Path, name: str, decoder: str) -> None:
    for data in (_noise(Path("a.jpg"))[:500], b"no picture", b"\0\0\0\x20ftypisom" + b"\0" * 40):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DecodeError, match=f"^{decoder}: .+|^PIL: .+truncated"):
            decode(str(tmp_path / name), segments(4), [decoder])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jpg", b"", "the file is empty"),
        ("a.png", b"no picture", "cannot identify image file"),
        ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot identify image file"),
        ("a.tif", b"II*\0\xff\xff\xff\xff", "PIL: "),
        ("a.webp", b"RIFF\x20\0\0\0WEBPVP8 " + b"\0" * 30, "PIL: "),
        ("a.jpg", b"\0\0\0\x20ftypisom" + b"\0" * 40, "PyAV: "),
    ],
)
def test_files_without_an_image_fail(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DecodeError, match=message):
        decode(str(tmp_path / name), segments(4))


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("data", [_EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<7I", 32, len(_EPS), 0, 0, 0, 0, 0) + _EPS])
def test_pillow_never_starts_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: started.append(1) or Image.new("RGB", (9, 9)).im)
    for name in ("a.png", "a.jpg", "a.tif", "a.webp", "a.bmp", "a.gif", "a.eps", "a.mp4"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DecodeError):
            decode(str(tmp_path / name), segments(4))
    assert not started
    with Image.open(tmp_path / "a.png") as image:  # without our list of formats
        image.load()
    assert started


def test_absurd_sizes_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def header(side: int) -> bytes:
        data = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", len(data)) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
        return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))

    for side, message in ((60000, "exceeds limit"), (9000, "larger than 64 megapixels")):
        (tmp_path / "a.png").write_bytes(header(side))
        with pytest.raises(DecodeError, match=message):
            decode(str(tmp_path / "a.png"), segments(4))
    monkeypatch.setattr(frames, "MAX_PIXELS", 8)
    _quarters().save(tmp_path / "b.jpg")
    with pytest.raises(DecodeError, match="64x32 pixels are larger than"):
        decode(str(tmp_path / "b.jpg"), segments(4))


def test_a_video_named_as_an_image_is_a_video(tmp_path: Path) -> None:
    video = render_clip(tmp_path / "a.mp4", frames=9)
    expected = decode(str(video), segments(4), ["PyAV"])
    sampled = decode(str(video.rename(tmp_path / "a.jpg")), segments(4))
    assert not sampled.is_image and sampled.positions == expected.positions and sampled.rate == expected.rate
    assert [image.tobytes() for image in sampled.images] == [image.tobytes() for image in expected.images]


def _tall(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.full((2, 2, 3), image.height, np.uint8) for image in images])


def test_still_images_have_a_transform_of_their_own(tmp_path: Path) -> None:
    _quarters().save(tmp_path / "a.jpg")
    paths = [tmp_path / "a.jpg", render_clip(tmp_path / "b.mp4"), animation(tmp_path / "c.webp", [100] * 4)]
    preparation = FramePreparation(segments(4), mean_colour, image_transform=_tall)
    rows = [ClipTask(row, str(path)) for row, path in enumerate(paths)]
    with ClipLoader(rows, preparation, DecoderLimits(30), prefetch=3) as loader:
        image, video, animated = loader
    assert [clip.is_image for clip in (image, video, animated)] == [True, False, False]
    assert image.frames.tolist() == np.full((1, 2, 2, 3), 32).tolist() and image.frame_index == (0,)
    assert (image.seconds, image.duration, image.size, image.rate) == ((0.0,), 0.0, (32, 64), 0.0)
    assert video.frames.ndim == animated.frames.ndim != image.frames.ndim and len(animated.frames) == 3


def test_without_a_transform_for_images_an_image_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    _quarters().save(tmp_path / "a.png")
    memory = FrameMemory()
    try:
        request = DecodeRequest(str(tmp_path / "a.png"), "PIL")
        reply: DecodeReply = handle_request(request, memory, FramePreparation(segments(4), mean_colour, 16))
        assert reply.is_image and reply.frame_index == (0,) and reply.size == (16, 32)
        assert reply.frames is not None and len(memory.get(reply.frames)) == 1
    finally:
        memory.close()
