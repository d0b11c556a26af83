"""The event classes of the sandbox as tables: appearance, sound and caption phrase of each class.

One `EventClass` is one row of the tables below. `pictures.py` and `sounds.py` convert the parameters to pixels and
samples, `world.py` places them in time. To add a class, add a row. All values are our choice: distinct enough for tiny
encoders on 96-pixel frames and 64-band log-mel spectrograms.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A coloured shape (or a pattern that fills the frame) and how it moves.

    Args:
        shape (`str`): a key of `pictures.SHAPES` or of `pictures.PATTERNS`.
        colour (`tuple[int, int, int]`): red, green, blue, 0-255.
        motion (`str`): a key of `pictures.MOTIONS`.
        rate (`float`): periods of the motion per second.
        size (`float`): half width of the shape; frame coordinates range from -1 to 1.
    """

    shape: str
    colour: tuple[int, int, int]
    motion: str = "still"
    rate: float = 1.0
    size: float = 0.4


@dataclass(frozen=True)
class Sound:
    """A sequence of sounds: a harmonic or noise carrier with a repeated envelope.

    Args:
        low, high (`float`): Hz. A harmonic carrier glides from low to high within each event; noise fills the band.
        partials (`tuple[float, ...]`): frequencies relative to the carrier's; empty for band noise.
        rate (`float`): events per second.
        duty (`float`): part of the period during which an event sounds; 1 is continuous.
        decay (`float`): s, time constant of the decay after the onset; 0 keeps the level constant.
        notes (`tuple[float, ...]`): frequency factors of successive events.
        irregular (`bool`): random instead of evenly spaced onsets.
        sway (`bool`): glide up and down again instead of up only.
    """

    low: float
    high: float
    partials: tuple[float, ...] = ()
    rate: float = 1.0
    duty: float = 1.0
    decay: float = 0.0
    notes: tuple[float, ...] = (1.0,)
    irregular: bool = False
    sway: bool = False


@dataclass(frozen=True)
class EventClass:
    """One event class. `picture` is None for an audio-only event, `sound` is None for a visual-only event.

    `phrase` is the label as a noun phrase and always contains the label verbatim; `look` and `noise` describe the
    picture and the sound in a caption.
    """

    label: str
    phrase: str
    picture: Picture | None = None
    look: str = ""
    sound: Sound | None = None
    noise: str = ""

    @property
    def tracks(self) -> str:
        """The tracks of a video that carry the event: "video", "audio" or "both"."""
        return "audio" if self.picture is None else "video" if self.sound is None else "both"


AUDIO_VISUAL = (
    EventClass(
        "dog barking",
        "a dog barking",
        Picture("disc", (170, 95, 25), "hop", 2.0, 0.4),
        "a brown round thing hopping",
        Sound(350, 1100, rate=2.6, duty=0.45, decay=0.08),
        "rough short bursts",
    ),
    EventClass(
        "church bell ringing",
        "a church bell ringing",
        Picture("diamond", (240, 200, 40), "swing", 0.5, 0.4),
        "a golden diamond swinging",
        Sound(520, 520, (0.5, 1.0, 1.2, 2.0, 2.7), rate=0.9, decay=0.45),
        "long metal strokes",
    ),
    EventClass(
        "police siren wailing",
        "a police siren wailing",
        Picture("halves", (235, 30, 40), "blink", 1.5),
        "red light flashing from side to side",
        Sound(600, 1500, (1.0, 2.0), rate=0.45, sway=True),
        "a tone that rises and falls",
    ),
    EventClass(
        "bird chirping",
        "a bird chirping",
        Picture("triangle", (60, 210, 70), "dart", 0.7, 0.22),
        "a small green triangle darting about",
        Sound(2600, 4800, (1.0,), rate=4.0, duty=0.5),
        "quick high whistles",
    ),
    EventClass(
        "drum beating",
        "a drum beating",
        Picture("ring", (220, 50, 200), "pulse", 2.0, 0.55),
        "a magenta ring pulsing",
        Sound(120, 70, (1.0, 1.6), rate=2.0, decay=0.12),
        "deep steady thumps",
    ),
    EventClass(
        "train passing",
        "a train passing",
        Picture("stripes", (165, 175, 190), "slide", 0.9),
        "grey stripes rushing by",
        Sound(80, 700, rate=5.0, duty=0.8, decay=0.1, notes=(1.0,)),
        "rattling wheels",
    ),
    EventClass(
        "clock ticking",
        "a clock ticking",
        Picture("bar", (245, 245, 245), "spin", 0.25, 0.7),
        "a white hand turning",
        Sound(1800, 1800, (1.0, 1.5), rate=2.0, decay=0.012),
        "dry clicks",
    ),
    EventClass(
        "telephone ringing",
        "a telephone ringing",
        Picture("square", (40, 220, 230), "shake", 3.0, 0.35),
        "a cyan box shaking",
        Sound(900, 1100, (1.0, 1.25), rate=14.0, duty=0.7, notes=(1.0, 1.2)),
        "a trembling high ring",
    ),
    EventClass(
        "rain falling",
        "rain falling",
        Picture("streaks", (90, 130, 250), "fall", 1.2),
        "blue streaks coming down",
        Sound(1500, 9000),
        "an even hiss",
    ),
    EventClass(
        "fire crackling",
        "a fire crackling",
        Picture("flames", (255, 130, 20), "flicker", 4.0),
        "orange light flickering at the bottom",
        Sound(1200, 6000, rate=11.0, decay=0.01, irregular=True),
        "dry cracks at random",
    ),
    EventClass(
        "guitar playing",
        "a guitar playing",
        Picture("strings", (190, 120, 250), "shake", 2.0),
        "violet lines trembling",
        Sound(220, 220, (1.0, 2.0, 3.0), rate=4.0, decay=0.2, notes=(1.0, 1.25, 1.5, 2.0)),
        "plucked notes going up",
    ),
    EventClass(
        "helicopter flying",
        "a helicopter flying",
        Picture("cross", (12, 12, 16), "spin", 0.8, 0.75),
        "a black cross whirling",
        Sound(60, 500, rate=11.0, duty=0.5, decay=0.03),
        "a chopping beat",
    ),
    EventClass(
        "fireworks exploding",
        "fireworks exploding",
        Picture("burst", (255, 240, 120), "grow", 0.8, 0.9),
        "yellow sparks spreading out",
        Sound(50, 3000, rate=0.8, decay=0.25),
        "loud bangs that fade",
    ),
    EventClass(
        "car engine revving",
        "a car engine revving",
        Picture("wide", (225, 40, 40), "cross", 0.4, 0.45),
        "a long red shape driving across",
        Sound(70, 210, (1.0, 2.0, 3.0, 4.0, 5.0), rate=0.6, sway=True),
        "a growl going up and down",
    ),
    EventClass(
        "baby crying",
        "a baby crying",
        Picture("disc", (250, 160, 180), "pulse", 1.0, 0.5),
        "a large pink face swelling",
        Sound(560, 430, (1.0, 2.0, 3.0, 4.0), rate=0.9, duty=0.7),
        "falling cries",
    ),
    EventClass(
        "water flowing",
        "water flowing",
        Picture("waves", (20, 150, 140), "slide", 0.5),
        "teal waves rolling",
        Sound(250, 1300, rate=1.4, decay=0.6),
        "a soft rush that comes and goes",
    ),
)
AUDIO_ONLY = (
    EventClass(
        "thunder rumbling", "thunder rumbling", sound=Sound(25, 160, rate=0.35, decay=1.2), noise="a deep roll"
    ),
    EventClass(
        "flute playing",
        "a flute playing",
        sound=Sound(1050, 1050, (1.0,), rate=1.5, duty=0.9, notes=(1.0, 1.125, 1.25, 1.5, 1.25, 1.125)),
        noise="a clear slow tune",
    ),
    EventClass(
        "alarm beeping",
        "an alarm beeping",
        sound=Sound(3000, 3000, (1.0,), rate=2.5, duty=0.5),
        noise="shrill even pips",
    ),
    EventClass(
        "people applauding",
        "people applauding",
        sound=Sound(700, 3500, rate=30.0, decay=0.012, irregular=True),
        noise="many claps at once",
    ),
    EventClass(
        "wind howling",
        "wind howling",
        sound=Sound(260, 480, (1.0, 1.02), rate=0.3, sway=True),
        noise="a hollow low whistle",
    ),
    EventClass(
        "cat meowing",
        "a cat meowing",
        sound=Sound(900, 620, (1.0, 2.0), rate=0.7, duty=0.55),
        noise="drawn-out falling calls",
    ),
)
VISUAL_ONLY = (
    EventClass(
        "balloon rising",
        "a balloon rising",
        Picture("disc", (240, 60, 90), "rise", 0.35, 0.28),
        "a crimson disc going up",
    ),
    EventClass(
        "windmill turning",
        "a windmill turning",
        Picture("star", (250, 245, 225), "spin", 0.3, 0.75),
        "a cream star going round",
    ),
    EventClass(
        "snow falling",
        "snow falling",
        Picture("flakes", (250, 250, 255), "fall", 0.25),
        "white dots drifting down",
    ),
    EventClass(
        "fish swimming",
        "a fish swimming",
        Picture("diamond", (255, 140, 0), "cross", 0.25, 0.35),
        "an orange diamond gliding past",
    ),
    EventClass(
        "lantern glowing",
        "a lantern glowing",
        Picture("square", (255, 225, 90), "glow", 0.5, 0.5),
        "a yellow square that dims and brightens",
    ),
    EventClass(
        "flag waving",
        "a flag waving",
        Picture("chequers", (30, 160, 60), "slide", 0.6),
        "a green pattern of squares moving",
    ),
)

# Interleaved by modality, so that a data set of the first few classes still has all three modalities.
_ROUNDS = zip(AUDIO_VISUAL[:6], AUDIO_ONLY, AUDIO_VISUAL[6:12], VISUAL_ONLY)
EVENT_CLASSES: tuple[EventClass, ...] = tuple(event for round_ in _ROUNDS for event in round_) + AUDIO_VISUAL[12:]

PLACES = (
    "In the room",
    "On a quiet day",
    "In the yard",
    "Outside",
    "In the evening",
    "On a street",
    "Far away",
    "In a dim hall",
    "Near the camera",
    "In an open space",
)
# Our own wordings. Each contains the phrase of the class; most describe its appearance or sound.
SEEN_AND_HEARD = (
    "{place}, {phrase} is seen and heard: {look}, with {noise}.",
    "{place} there is {phrase}, and the microphone picks up {noise}.",
    "{place}, the picture shows {look} while {noise} can be heard from {phrase}.",
    "{place}, with {noise}, the camera follows {phrase}, {look}.",
    "{place} one sees {look} and hears {noise}: it is {phrase}.",
)
HEARD = (
    "{place}, the sound of {phrase} can be heard, {noise}.",
    "{place} nothing happens in the picture, but there is {phrase}, heard as {noise}.",
    "{place}, {noise} comes from {phrase} out of sight.",
    "{place} one hears {noise} from somewhere: it is {phrase}.",
)
SEEN = (
    "{place}, {phrase} can be seen without a sound.",
    "{place} the picture shows {phrase}, {look}, and it stays silent.",
    "{place} there is {phrase}: {look}.",
    "{place}, without any noise, {look} comes into view: it is {phrase}.",
)
