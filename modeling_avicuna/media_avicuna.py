"""Reading media: all other code imports from here.

`media_source` opens a source, `media_file` finds its streams, `media_index` the times of their packets and frames,
`media_pictures` decodes frames, `media_sound` decodes sound.
"""

from .media_file_avicuna import MediaFile, MediaInfo, Orientation, naming_errors, probe
from .media_pictures_avicuna import TimedFrame, decode_frames, decode_video
from .media_sound_avicuna import Sound, decode_audio, load_audio, resample, scale_samples
from .media_source_avicuna import Media, MediaError, open_media


__all__ = [
    "Media",
    "MediaError",
    "MediaFile",
    "MediaInfo",
    "Orientation",
    "Sound",
    "TimedFrame",
    "decode_audio",
    "decode_frames",
    "decode_video",
    "load_audio",
    "naming_errors",
    "open_media",
    "probe",
    "resample",
    "scale_samples",
]
