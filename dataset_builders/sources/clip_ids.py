"""Ids in the names of clips and files: YouTube ids, times in names, media suffixes."""

import re


# File suffixes by media kind, used by `media_folder.py` and by the training code.
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .flv .wmv .ogv .3gp .3g2 .mpg .mpeg .ts .mts .m2ts .vob .asf".split()
)
AUDIO_SUFFIXES = frozenset(".wav .flac .mp3 .m4a .ogg .oga .opus .aac .wma .aif .aiff .ac3 .mka".split())
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .gif .tif .tiff".split())
MEDIA_SUFFIXES = VIDEO_SUFFIXES | AUDIO_SUFFIXES | IMAGE_SUFFIXES

YOUTUBE_ID = r"[\w-]{11}"
# VALOR's "<youtube id>_<start>_<end>": decimals are required, because ids such as "kitchen_03_15" also end in two
# numbers. Other ids are split if their times have VALOR's three decimals (InternVid's excerpts, the sandbox).
TIMED_ID = re.compile(rf"(?:({YOUTUBE_ID})_(\d+\.\d+)_(\d+\.\d+)|(.+)_(\d+\.\d{{3}})_(\d+\.\d{{3}}))", re.ASCII)
STARTED_ID = re.compile(rf"({YOUTUBE_ID})_(\d{{6}})", re.ASCII)  # VGGSound's "<youtube id>_<start>", of 10 s
STARTED_SECONDS = 10.0
LOOSELY_TIMED_ID = re.compile(  # LLP's "<youtube id>_20_30"
    rf"({YOUTUBE_ID})_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)", re.ASCII
)
YOUTUBE_URL = re.compile(rf"youtu(?:\.be|be(?:-nocookie)?\.com)/(?:.*[/=])?({YOUTUBE_ID})(?:[?&#].*)?", re.ASCII)


def split_clip_id(clip_id: str) -> tuple[str, float | None, float | None]:
    """Video id, start and end in seconds of an id in VALOR's format; other ids unchanged, without times.

    ```python
    >>> split_clip_id("-u_HAvfqs2I_30.000_40.000")
    ('-u_HAvfqs2I', 30.0, 40.0)
    >>> split_clip_id("kitchen_03_15")
    ('kitchen_03_15', None, None)

    ```
    """
    hit = TIMED_ID.fullmatch(clip_id)
    if hit is not None:
        name, start, end = hit.groups()[:3] if hit[1] else hit.groups()[3:]
        return name, float(start), float(end)
    hit = STARTED_ID.fullmatch(clip_id)
    return (clip_id if hit is None else hit[1]), None, None


def excerpt_of(name: str) -> tuple[str, float, float] | None:
    """Video id, start and end in seconds of an excerpt's name, in VALOR's, LLP's or VGGSound's form; None for others.

    >>> excerpt_of("-u_HAvfqs2I_30_40"), excerpt_of("-0SdAVK79lg_000030"), excerpt_of("kitchen_03_15")
    (('-u_HAvfqs2I', 30.0, 40.0), ('-0SdAVK79lg', 30.0, 40.0), None)
    """
    hit = STARTED_ID.fullmatch(name)
    if hit is not None:
        return hit[1], float(hit[2]), float(hit[2]) + STARTED_SECONDS
    hit = LOOSELY_TIMED_ID.fullmatch(name)
    video_id, start, end = split_clip_id(name) if hit is None else (hit[1], float(hit[2]), float(hit[3]))
    return None if start is None or end is None else (video_id, start, end)


def stem_of(name: str) -> str:
    """The last part of a file's path, without the suffix of a media file.

    >>> stem_of("test/a.b.mp4"), stem_of("C:\\\\clips\\\\a.wav")
    ('a.b', 'a')
    """
    return re.split(r"[/\\]", without_media_suffix(name.strip()))[-1]


def youtube_id_of(name: str) -> str | None:
    """The YouTube id in a clip's name, path or URL; None if there is none.

    >>> youtube_id_of("Yb0RFKhbpFJA.wav"), youtube_id_of("a/-0SdAVK79lg_000030"), youtube_id_of("17iGUal2M_10_20")
    ('b0RFKhbpFJA', '-0SdAVK79lg', None)
    >>> youtube_id_of("https://www.youtube.com/watch?v=-0SdAVK79lg&t=30s")
    '-0SdAVK79lg'
    """
    if hit := YOUTUBE_URL.search(name):
        return hit[1]
    stem = stem_of(name)
    if re.fullmatch(rf"Y{YOUTUBE_ID}", stem, re.ASCII):
        return stem[1:]
    for form in (re.compile(rf"({YOUTUBE_ID})", re.ASCII), LOOSELY_TIMED_ID, STARTED_ID):
        hit = form.fullmatch(stem)
        if hit is not None:
            return hit[1]
    return None


def without_media_suffix(name: str) -> str:
    """A file name without the suffix of a media file; other dots are kept.

    >>> without_media_suffix("-u_HAvfqs2I_30.000_40.000"), without_media_suffix("a/b.MP4")
    ('-u_HAvfqs2I_30.000_40.000', 'a/b')
    """
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in MEDIA_SUFFIXES else name
