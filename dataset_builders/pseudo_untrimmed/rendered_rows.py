"""Render the videos of one shard's rows and write their paths into the rows (`media="rendered"`).

An existing video is not rendered again, so an interrupted shard resumes with the next one. A row whose clips cannot be
decoded is dropped with the reason reported by the decoder.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from ..atomic_files import write_json
from ..schema import FEATURES
from ..sources.clip_files import locate_clip
from ..sources.media_folder import MediaFolder
from .rendering import render_video
from .settings import CurationSettings


@lru_cache(maxsize=1)  # a process renders many shards of 20 rows from one folder of clips
def list_clips(clips_dir: str, prepared: str | Path) -> MediaFolder:
    """The media files of the clips of a prepared build; its folder has another name if a file changes."""
    return MediaFolder(clips_dir, kind="video")


def render_rows(
    table: pa.Table,
    videos_dir: str | Path,
    *,
    clips: MediaFolder,
    settings: CurationSettings,
    relative_to: str | Path | None = None,
) -> tuple[pa.Table, list[dict]]:
    """Render `videos_dir/<row id>.mp4` for every row.

    Args:
        table (`pa.Table`):
            Rows of `shards.build_shard`.
        videos_dir (`str` or `Path`):
            Output folder of the videos.
        clips (`MediaFolder`):
            The files of the clips.
        settings (`CurationSettings`):
            Of the build.
        relative_to (`str` or `Path`, *optional*):
            Write the rows' `media.video` relative to this folder; by default it is absolute.

    Returns:
        `tuple(pa.Table, list[dict])`: the rendered rows, and `{"id", "reason", "detail"}` of the dropped ones.
    """
    from modeling_avicuna.media_avicuna import MediaError

    width, height = settings.render_size
    paths: list[str | None] = []
    drops: list[dict[str, str]] = []
    for row in table.select(["id", "segments", "duration"]).to_pylist():
        row_id = row["id"]
        found = {segment["clip_id"]: locate_clip(clips, segment["clip_id"]) for segment in row["segments"]}
        clip_files = {clip_id: file for clip_id, file in found.items() if file is not None}
        path = Path(videos_dir).resolve() / f"{row_id}.mp4"
        try:
            if not path.exists():
                render_video(
                    row["segments"],
                    clip_files,
                    path,
                    width=width,
                    height=height,
                    fps=settings.render_fps,
                    duration=row["duration"],
                    seed=noise_seed(settings.seed, row_id),
                    background_noise_snr_db=settings.background_noise_snr_db,
                )
        except MediaError as error:
            drops.append({"id": row_id, "reason": f"not_rendered: {error.reason}", "detail": str(error)})
            paths.append(None)
            continue
        paths.append(str(path if relative_to is None else path.relative_to(Path(relative_to).resolve())))
    column = FEATURES.arrow_schema.field("media")
    media = pa.array([{"video": path} for path in paths], column.type)
    table = table.set_column(table.schema.get_field_index("media"), column, media)
    kept = pa.array([path is not None for path in paths], pa.bool_())
    return table.filter(kept), drops


def noise_seed(seed: int, row_id: str) -> int:
    """The seed of the background noise of one row."""
    return int.from_bytes(hashlib.sha256(f"{seed} {row_id}".encode()).digest()[:4], "big")


def write_drops(folder: str | Path, name: str, drops: list[dict]) -> None:
    """Save the drops of one shard for the process that finishes the build."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / f"drops-{name}.json", drops)


def read_drops(folder: str | Path) -> list[dict]:
    """The drops of all shards, in the order of the shards' names."""
    return [drop for path in sorted(Path(folder).glob("drops-*.json")) for drop in json.loads(path.read_text("utf-8"))]
