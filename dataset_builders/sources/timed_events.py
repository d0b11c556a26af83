"""Videos with timed events, cleaned for training.

`read_videos` groups the records of a published file (`published_events.py`) by video; `clean_video` applies one set of
rules to all of them and counts what it drops or repairs. How events become questions is in `event_turns.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import published_events
from .published_events import AnnotatedEvent, AnnotatedVideo, Moment
from .record_report import RecordReport
from .records import UnusableRecord, count_drop, count_in
from .text_cleaning import clean_text


# s; an end that exceeds the duration by less than this is a rounding error, clamped without being counted
ROUNDING = 0.001
# If the annotated duration differs from the file's by more than the larger of these, it is another video (our choice).
DURATION_TOLERANCE = 0.5  # s
RELATIVE_DURATION_TOLERANCE = 0.02


@dataclass(frozen=True)
class TimedVideo:
    """A video of `duration` seconds with its events in order of their start.

    `media_end`: the second of its file at which the annotated part ends; None if that is the whole file.
    """

    video_id: str
    duration: float
    events: tuple[AnnotatedEvent, ...]
    media_end: float | None = None


@dataclass(frozen=True)
class UncleanVideo:
    """A video as annotated, with the possible names of its file.

    `is_beginning`: the annotation covers the first `duration` seconds of a file that may be longer.
    """

    video: AnnotatedVideo
    media_names: tuple[str, ...]
    is_beginning: bool = False


def read_videos(source: str, path: str | Path, *, subset: str, report: RecordReport) -> Iterator[UncleanVideo]:
    """
    The videos of one annotation file, with their events as published.

    Args:
        source: "unav100", "activitynet_captions", "charades_sta", "didemo", "qvhighlights" or "internvid".
        subset: UnAV-100's "train", "validation" or "test"; the other files have one subset each.
        report: counts malformed records.

    Raises:
        ValueError: the file does not have this format, or has no such subset.
    """
    drop = count_in(report, source)
    match source:
        case "unav100":
            return _of_subset(path, published_events.read_unav100(path, drop=drop), subset)
        case "activitynet_captions":
            videos = published_events.read_activitynet_captions(path, drop=drop)
            return (UncleanVideo(video, (video.video_id, video.video_id.removeprefix("v_"))) for video in videos)
        case "charades_sta":
            return _by_video(published_events.read_charades_sta(path, drop=drop))
        case "didemo":
            moments = published_events.read_didemo(path, drop=drop)
            agreed = (replace(one, spans=(published_events.consensus(one.spans),)) for one in moments)
            return (_with_beginning(unclean) for unclean in _by_video(agreed))
        case "qvhighlights":
            return _by_video(published_events.read_qvhighlights(path, drop=drop))
        case "internvid":
            return internvid_excerpts(published_events.read_internvid(path, drop=drop))
    raise ValueError(f"unknown source of timed events: {source!r}")


def _of_subset(path: str | Path, videos: Iterable[AnnotatedVideo], subset: str) -> Iterator[UncleanVideo]:
    subsets = set()
    for video in videos:
        subsets.add(video.subset)
        if video.subset == subset:
            yield UncleanVideo(video, (video.video_id,))
    if subset not in subsets:
        raise ValueError(f"{path} has no split {subset!r}; it has {sorted(map(str, subsets))}")


def _by_video(moments: Iterable[Moment]) -> Iterator[UncleanVideo]:
    """The moments grouped by video; every window of a moment is an event."""
    videos: dict[str, list[Moment]] = {}
    for moment in moments:
        videos.setdefault(moment.video_id, []).append(moment)
    for video_id, group in videos.items():
        events = tuple(AnnotatedEvent(*span, moment.text) for moment in group for span in moment.spans)
        durations = [moment.duration for moment in group if moment.duration is not None]
        yield UncleanVideo(AnnotatedVideo(video_id, max(durations, default=None), events), (video_id,))


def _with_beginning(unclean: UncleanVideo) -> UncleanVideo:
    """A DiDeMo video: the beginning of a file, whose name may lack the final dots of the id."""
    name = unclean.video.video_id
    return UncleanVideo(unclean.video, (name, name.rstrip(".")), is_beginning=True)


def internvid_excerpts(
    clips: Iterable[Moment], *, max_gap: float = 2.0, max_duration: float = 120.0
) -> Iterator[UncleanVideo]:
    """Adjacent clips of one video as one excerpt: InternVid does not give the duration of a whole video.

    Clips with gaps of at most `max_gap` seconds, up to a total of `max_duration` seconds, form an excerpt (both our
    choice); its times are relative to its start. Its media file is named `<id>_<start>_<end>`, with three decimals, as
    in VALOR.
    """
    videos: dict[str, list[Moment]] = {}
    for clip in clips:
        videos.setdefault(clip.video_id, []).append(clip)
    for youtube_id, group in videos.items():
        group = sorted(group, key=lambda clip: (*clip.spans[0], clip.text))
        for excerpt in _excerpts(group, max_gap=max_gap, max_duration=max_duration):
            first, last = excerpt[0].spans[0][0], max(clip.spans[0][1] for clip in excerpt)
            events = tuple(
                AnnotatedEvent(round(clip.spans[0][0] - first, 3), round(clip.spans[0][1] - first, 3), clip.text)
                for clip in excerpt
            )
            video_id = f"{youtube_id}_{first:.3f}_{last:.3f}"
            yield UncleanVideo(AnnotatedVideo(video_id, round(last - first, 3), events), (video_id,))


def _excerpts(clips: Iterable[Moment], *, max_gap: float, max_duration: float) -> Iterator[list[Moment]]:
    excerpt: list[Moment] = []
    for clip in clips:
        start, end = clip.spans[0]
        near = excerpt and start - max(one.spans[0][1] for one in excerpt) <= max_gap
        if excerpt and not (near and end - excerpt[0].spans[0][0] <= max_duration):
            yield excerpt
            excerpt = []
        excerpt.append(clip)
    if excerpt:
        yield excerpt


def unav100_labels(path: str | Path) -> list[str]:
    """The class names of UnAV-100's JSON, of all its subsets, sorted; malformed records are skipped."""
    videos = published_events.read_unav100(path, drop=lambda *_: None)
    return sorted({clean_text(event.text) for video in videos for event in video.events})


def fit_duration(unclean: UncleanVideo, file_duration: float | None) -> tuple[float, float | None]:
    """
    (duration, second of the file at which it ends), from annotation and media file.

    Args:
        file_duration: seconds of the video stream of the media file; None if there is no file.

    Returns:
        The second value is None if the annotation covers the whole file.

    Raises:
        UnusableRecord: "unknown_duration" (the annotation has none and there is no file) or "duration_differs".
    """
    annotated = unclean.video.duration
    detail = {"annotated": annotated, "file": file_duration}
    if annotated is None or file_duration is None:
        duration = file_duration if annotated is None else annotated
        if not duration:
            raise UnusableRecord(detail, "unknown_duration")
        return duration, duration if unclean.is_beginning else None
    if unclean.is_beginning:
        # the last chunk of a short video is cut at its end
        if file_duration > annotated - published_events.CHUNK_SECONDS:
            return min(annotated, file_duration), annotated if file_duration > annotated else None
    elif not durations_differ(annotated, file_duration):
        return annotated, None
    raise UnusableRecord(detail, "duration_differs")


def durations_differ(annotated: float, measured: float) -> bool:
    """Whether two durations (s) differ by more than the tolerance.

    >>> durations_differ(47.68, 47.9), durations_differ(47.68, 7.0)
    (False, True)
    """
    return abs(measured - annotated) > max(DURATION_TOLERANCE, RELATIVE_DURATION_TOLERANCE * annotated)


def clean_video(
    unclean: UncleanVideo, *, source: str, file_duration: float | None = None, report: RecordReport
) -> TimedVideo:
    """The cleaned video with the events that are left. `report` counts the dropped events.

    Raises:
        UnusableRecord: see `fit_duration`.
    """
    video = unclean.video
    duration, media_end = fit_duration(unclean, file_duration)
    events = clean_events(video.events, video_id=video.video_id, duration=duration, source=source, report=report)
    return TimedVideo(video.video_id, duration, events, media_end)


def clean_events(
    raw: Iterable[AnnotatedEvent], *, video_id: str, duration: float, source: str, report: RecordReport
) -> tuple[AnnotatedEvent, ...]:
    """Events in order of start and end, all inside the video of `duration` seconds.

    Dropped, by reason: "no_text", "zero_length", "end_before_start", "start_after_duration", "ends_before_the_video",
    "duplicate_event" (same times and text). Repaired: "end_after_duration" and "negative_start" (clamped). The two
    times of a reversed event are not swapped, since they may be mistyped rather than swapped (our choice).
    """
    events: dict[tuple[float, float, str], AnnotatedEvent] = {}
    for event in raw:
        text, detail = clean_text(event.text), [event.start, event.end, duration]
        key = (event.start, event.end, text.casefold())
        with count_drop(report, source, video_id, detail=detail):
            if not text:
                raise UnusableRecord(None, "no_text")
            check_span(event.start, event.end, duration)
            if key in events:
                raise UnusableRecord(None, "duplicate_event")
            if event.end > duration + ROUNDING:
                report.repair(source, video_id, "end_after_duration", detail=detail)
            if event.start < 0:
                report.repair(source, video_id, "negative_start", detail=detail[:2])
            events[key] = AnnotatedEvent(max(event.start, 0.0), min(event.end, duration), text)
    return tuple(sorted(events.values(), key=lambda event: (event.start, event.end, event.text)))


def check_span(start: float, end: float, duration: float) -> None:
    """
    Checks that a span is usable after clamping to a video of `duration` seconds.

    Raises:
        UnusableRecord: "zero_length", "end_before_start", "start_after_duration" or "ends_before_the_video".
    """
    if end <= start:
        raise UnusableRecord(None, "zero_length" if end == start else "end_before_start")
    if start >= duration:
        raise UnusableRecord(None, "start_after_duration")
    if end <= 0:
        raise UnusableRecord(None, "ends_before_the_video")
