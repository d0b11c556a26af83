"""The wording of every question in the training rows, and of the time spans in the answers.

All builders use these questions. Each task has several wordings, so that the model does not overfit to one phrase. All
sentences are our own; the published data ask the same kinds of question in other words. Times are the placeholders
"<s0>", "<e0>"; their values in seconds and their text form are handled elsewhere.
"""

import hashlib
from collections.abc import Sequence


# T1: the whole video -> every event with its time span.
NARRATION_QUESTIONS = (
    "List the events of this video with their times.",
    "What happens in this video, and when?",
    "Go through the video from start to end and say when each event takes place.",
    "Give every event that can be seen or heard, each with the time span that it fills.",
    "Which events make up this video? Name the start and the end of each.",
    "Tell me what can be seen and heard over the course of the video, with time stamps.",
    "Write a timeline of this video.",
    "Split the video into its events and describe each of them with its time span.",
)

# T2: an event -> the time spans in which it occurs.
GROUNDING_QUESTIONS = (
    'When does "{query}" happen?',
    'During which time spans of the video is there "{query}"?',
    'Mark every part of the video that has "{query}" in it.',
    'Name the start and the end of each occurrence of "{query}".',
    'Find all times at which "{query}" can be seen or heard.',
    'How far into the video does "{query}" begin, and when does it end?',
    'Give the time span of "{query}" in this video.',
    'From when to when does this take place: "{query}"?',
)

# The answer to a grounding question about something that does not occur.
ABSENT_ANSWER = "No event."
# The same answer in a listing (`turns.LISTING`): the first word of `ABSENT_ANSWER`.
ABSENT_ENTRY = "No"

# T3: a time span -> the event in it.
SEGMENT_QUESTIONS = (
    "What happens from {start} to {end}?",
    "Describe what can be seen and heard from {start} to {end}.",
    "Which event takes place between {start} and {end}?",
    "What is going on in the video from {start} to {end}?",
    "Say what the segment from {start} to {end} shows.",
    "What do we see and hear between {start} and {end}?",
)

# Stages I and II: the plain template discards the question; a chat template would include it.
IMAGE_QUESTIONS = (
    "Say in one sentence what the picture shows.",
    "What can be seen here?",
    "Give a short caption of this image.",
    "Describe the image briefly.",
)
AUDIO_QUESTIONS = (
    "Say in one sentence what can be heard.",
    "What does this recording sound like?",
    "Give a short caption of this sound.",
    "Describe the audio briefly.",
)

# Stage II, captions of sounds that have only labels; {sounds} is a list such as "rain, wind and thunder".
LABEL_CAPTIONS = (
    "The sound of {sounds}.",
    "Sounds of this recording: {sounds}.",
    "What can be heard is {sounds}.",
    "Audible: {sounds}.",
)

# Stage IV, questions of other data sets: unchanged, or with an instruction about the form of the answer.
SHORT_ANSWER_QUESTIONS = (
    "{question}",
    "{question} Answer with one word or a short phrase.",
    "Watch and listen, then answer in a word or two: {question}",
    "{question} Keep the answer short.",
)


def choose_wording(wordings: Sequence[str], key: str, *, seed: int = 0) -> str:
    """One of `wordings`, chosen by a hash of `seed` and `key`, independent of the order and the number of workers."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return wordings[int.from_bytes(digest[:8], "big") % len(wordings)]


def span_text(index: int) -> str:
    """The placeholder text of time span `index`.

    >>> span_text(2)
    'from <s2> to <e2>'
    """
    return f"from <s{index}> to <e{index}>"


def grounding_answer(indices: Sequence[int]) -> str:
    """The answer to a grounding question: one span for each occurrence of the event, in the form of `format_events`.

    >>> grounding_answer([0])
    'From <s0> to <e0>.'
    >>> grounding_answer([0, 1, 2])
    'From <s0> to <e0>, from <s1> to <e1> and from <s2> to <e2>.'
    """
    # the same sentence as `timestamp_avicuna.join_spans`, which is not imported because it loads torch in every worker
    *first, last = [span_text(index) for index in indices]
    joined = f"{', '.join(first)} and {last}" if first else last
    return f"F{joined[1:]}."


def listing_entry(indices: Sequence[int]) -> str:
    """The answer in a listing: start and end of each span with nothing between them, for example "1240" for 12 to 40.

    >>> listing_entry([0])
    '<s0><e0>'
    """
    return "".join(f"<s{index}><e{index}>" for index in indices)


def narration_sentence(index: int, caption: str) -> str:
    """One sentence of a dense narration, with a single final period.

    >>> narration_sentence(0, "A dog barks.")
    'From <s0> to <e0>, a dog barks.'
    """
    return f"From <s{index}> to <e{index}>, {lower_first(caption).rstrip('. ')}."


def lower_first(caption: str) -> str:
    """A caption for use inside a sentence: first letter in lower case, unless the first word is "I" or an acronym.

    >>> lower_first("A man speaks"), lower_first("TV noise"), lower_first("I see a dog")
    ('a man speaks', 'TV noise', 'I see a dog')
    """
    first_word = caption.split(" ", 1)[0]
    keep = first_word == "I" or sum(letter.isupper() for letter in first_word) > 1
    return caption if keep else caption[:1].lower() + caption[1:]
