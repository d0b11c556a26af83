"""Token order: how many audio-visual tokens are audio, at which positions, and which feature row each one shows.

The processor turns these lists into a string of placeholders, into which the model scatters features. Pure functions
on integers, without tensors, files or tokenizers.
"""

from collections.abc import Sequence


INTERLEAVING_RULES = ("uniform", "published", "concatenated")
RESAMPLING_RULES = ("even", "proportional", "published", "centred")
# How the tokens of a video are aligned with its time: the resampling rules of its visual and of its audio rows.
ALIGNMENTS = {"published": ("proportional", "even"), "centred": ("centred", "centred")}


def num_modality_tokens(num_av_tokens: int, rate: float) -> tuple[int, int]:
    """Splits the audio-visual token budget of one video.

    The audio share is rounded. The published code truncates instead, so that its rate 0.29 of 100 tokens gives 28.

    Args:
        num_av_tokens: Budget, 100 in the paper.
        rate: Share of audio tokens, 0 to 1; 0.25 is the paper's best.

    Returns:
        `(num_video, num_audio)`, which sum to `num_av_tokens`.

    Raises:
        ValueError: The budget is negative or the rate is outside 0 ... 1.

    Example:

    >>> num_modality_tokens(100, 0.25)
    (75, 25)
    """
    if num_av_tokens < 0 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"num_av_tokens must be >= 0 and rate in 0 ... 1, got {num_av_tokens} and {rate}")
    num_audio = round(num_av_tokens * rate)
    return num_av_tokens - num_audio, num_audio


def interleave_order(num_video: int, num_audio: int, rule: str = "uniform") -> list[str]:
    """Orders the tokens of one video: the audio-visual token interleaver (AVTI) of the paper.

    Args:
        num_video: Number of visual tokens, V.
        num_audio: Number of audio tokens, A.
        rule: "uniform" puts audio token k at position floor(k * (V + A) / A), which is proportional for every V and A
            and equals the published order at 75 / 25 and 80 / 20. "published" is the rule of the published code: audio
            at 0, s, 2s, ... with stride s = round_half_even(V / (A + 1)) + 1. "concatenated" puts all video before
            all audio: the paper's ablation without the interleaver.

    Returns:
        V + A strings, "video" or "audio". Tokens of one modality keep their order, so the k-th "audio" is audio row k.

    Raises:
        ValueError: A negative count, an unknown rule, or a V and A for which the published rule has too few slots
            or has stride 1 (all audio, then all video). A single modality never fails.

    Example:

    >>> interleave_order(3, 1)
    ['audio', 'video', 'video', 'video']
    """
    if num_video < 0 or num_audio < 0:
        raise ValueError(f"token counts must be >= 0, got num_video={num_video}, num_audio={num_audio}")
    if rule not in INTERLEAVING_RULES:
        raise ValueError(f"unknown interleaving rule {rule!r}, expected one of {INTERLEAVING_RULES}")
    total = num_video + num_audio
    if num_video == 0 or num_audio == 0 or rule == "concatenated":
        return ["video"] * num_video + ["audio"] * num_audio
    if rule == "uniform":
        audio_positions: Sequence[int] = [k * total // num_audio for k in range(num_audio)]
    else:
        audio_positions = _published_positions(num_video, num_audio)
    order = ["video"] * total
    for position in audio_positions:
        order[position] = "audio"
    return order


def _published_positions(num_video: int, num_audio: int) -> Sequence[int]:
    total = num_video + num_audio
    stride = round(num_video / (num_audio + 1)) + 1
    num_slots = -(-total // stride)
    if stride == 1:
        raise ValueError(
            f"the published rule does not interleave num_video={num_video}, num_audio={num_audio}: its stride is 1, "
            "all audio would come before all video"
        )
    if num_slots < num_audio:
        raise ValueError(
            f"the published rule has only {num_slots} audio slots for num_video={num_video}, num_audio={num_audio}"
        )
    return range(0, num_audio * stride, stride)


def resample_rows(num_rows: int, num_tokens: int, rule: str = "even") -> list[int]:
    """Chooses the feature row that each token of one modality shows.

    Args:
        num_rows: Number of feature rows (frames or audio windows), N.
        num_tokens: Number of tokens, T.
        rule: One of

            * "even", for audio: with N <= T row i is repeated T // N + (i < T % N) times, as in the published code;
              with N > T the rows are picked evenly from the first to the last, so that no part of the sound is cut.
            * "proportional", for video: token k shows row floor(k * N / T) for any N, so that position stays time.
              With N >= T this is the published rule for video (which pads shorter ones with zeros at the tail).
            * "published", for audio: as "even", but with N > T only the first T rows are kept.
            * "centred", for both: token k shows row (2k + 1) * N // (2T), the row at the middle of its share. Where
              rows cover equal parts of a video, the error in time is at most half a row for any N and T.

    Returns:
        T row indices in 0 ... N - 1, never decreasing.

    Raises:
        ValueError: An unknown rule, a negative count, or tokens to fill and no row to fill them with.

    Example:

    >>> resample_rows(2, 5)
    [0, 0, 0, 1, 1]
    """
    if rule not in RESAMPLING_RULES:
        raise ValueError(f"unknown resampling rule {rule!r}, expected one of {RESAMPLING_RULES}")
    if num_rows < 0 or num_tokens < 0 or (num_rows == 0 and num_tokens > 0):
        raise ValueError(f"cannot fill num_tokens={num_tokens} from num_rows={num_rows}")
    if rule == "centred":
        return [(2 * k + 1) * num_rows // (2 * num_tokens) for k in range(num_tokens)]
    if rule == "proportional":
        return [k * num_rows // num_tokens for k in range(num_tokens)]
    if num_rows > num_tokens:
        return list(range(num_tokens)) if rule == "published" else _spread(num_rows, num_tokens)
    if num_tokens == 0:
        return []
    repeats, num_longer = divmod(num_tokens, num_rows)
    return [row for row in range(num_rows) for _ in range(repeats + (row < num_longer))]


def _spread(num_rows: int, num_tokens: int) -> list[int]:
    """Evenly spaced rows, first and last included; a single token shows the middle."""
    if num_tokens == 1:
        return [num_rows // 2]
    gaps = num_tokens - 1
    return [(2 * k * (num_rows - 1) + gaps) // (2 * gaps) for k in range(num_tokens)]
