"""Which batch, how many executions, how many buffers, with graphs or without: measured, and what stopped it from more.

``tune`` searches (``search`` has the order in which it does), and ``limit_of`` says which limit the best setting met.
Both work on measurements, wherever those come from.
"""

from trtlab.tuning.limits import LIMITS, Verdict, best_of, limit_of
from trtlab.tuning.measurement import DeviceTimes, Measurement, Setting
from trtlab.tuning.search import Space, search
from trtlab.tuning.subject import Subject
from trtlab.tuning.tuner import TuneReport, explore, tune

__all__ = [
    "LIMITS",
    "DeviceTimes",
    "Measurement",
    "Setting",
    "Space",
    "Subject",
    "TuneReport",
    "Verdict",
    "best_of",
    "explore",
    "limit_of",
    "search",
    "tune",
]
