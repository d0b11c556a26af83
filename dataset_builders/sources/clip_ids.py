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
STARTED_ID = re.compile(rf"({YOUTUBE_ID})_\d{{6}}", re.ASCII)  # VGGSound's "<youtube id>_<start>"
LOOSELY_TIMED_ID = re.compile(rf"({YOUTUBE_ID})_\d+(?:\.\d+)?_\d+(?:\.\d+)?", re.ASCII)  # LLP's "<youtube id>_20_30"


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


def youtube_id_of(name: str) -> str | None:
    """The YouTube id in a clip's name; None if there is none.

    >>> youtube_id_of("Yb0RFKhbpFJA.wav"), youtube_id_of("-0SdAVK79lg_000030"), youtube_id_of("17iGUal2M_10_20")
    ('b0RFKhbpFJA', '-0SdAVK79lg', None)
    """
    stem = without_media_suffix(name.strip())
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
