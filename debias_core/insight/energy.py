"""Energy and carbon of long work, by CodeCarbon in its offline mode (DiffuBias 4.2.4).

kWh       of processor, memory and GPUs of the machine while the work ran; where a processor can't
          be read (a virtual machine, say), CodeCarbon takes its design power times its load
gCO₂eq    kWh × intensity, 475 g/kWh by default: the global average, so that runs compare
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from debias_core.records import UserError

GLOBAL_AVERAGE = 475.0  # g/kWh
MEASURE_SECONDS = 5


@dataclass(frozen=True)
class Energy:
    """What a piece of work took: kWh (None where CodeCarbon can't measure here) and wall time in s."""

    kwh: float | None
    seconds: float

    @property
    def watts(self) -> float | None:
        """The mean power."""
        if self.kwh is None or self.seconds <= 0:
            return None
        return self.kwh * 3.6e6 / self.seconds


def intensity() -> float:
    """gCO₂eq per kWh: the environment's DEBIAS_CARBON_INTENSITY, or the global average.

    Raises:
        UserError: when that is no number from 0 to 2,000.
    """
    text = os.environ.get("DEBIAS_CARBON_INTENSITY")
    try:
        value = GLOBAL_AVERAGE if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2_000:
        raise UserError(f"DEBIAS_CARBON_INTENSITY must be g/kWh, 0 to 2,000, but is '{text}'.")
    return value


class Meter:
    """Measures from its making until `stop`.

    A process's first look at its hardware takes CodeCarbon two seconds; it is taken beside the work,
    and the mean power of the rest stands for the power of these seconds. Work that ends before is
    not measured.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._tracker: Any = None
        self._since = 0.0
        self._over = threading.Event()
        self._ready = threading.Thread(target=self._start, name="energy", daemon=True)
        self._ready.start()

    def _start(self) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker

            logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
            tracker = OfflineEmissionsTracker(
                # Wanted, and of no account: the intensity is given.
                country_iso_code="USA", force_carbon_intensity_g_co2e_kwh=GLOBAL_AVERAGE,
                measure_power_secs=MEASURE_SECONDS, tracking_mode="machine", save_to_file=False,
                allow_multiple_runs=True, log_level="critical",
            )  # fmt: skip
            tracker.start()
        except Exception:  # whatever the hardware or the library did: the work is not to die of it
            logging.getLogger(__name__).warning("CodeCarbon can't measure here", exc_info=True)
            return
        if self._over.is_set():
            tracker.stop()
            return
        self._since = time.monotonic()
        self._tracker = tracker

    def so_far(self) -> Energy:
        """What the work has taken until now; kWh None while CodeCarbon is not ready."""
        seconds = time.monotonic() - self._began
        if self._tracker is None:
            return Energy(None, seconds)
        return self._scaled(self._tracker.flush() * 1_000 / GLOBAL_AVERAGE, seconds)

    def stop(self) -> Energy:
        """What the work took in all."""
        seconds = time.monotonic() - self._began
        self._over.set()
        if self._tracker is None:
            return Energy(None, seconds)
        self._tracker.stop()
        return self._scaled(float(self._tracker.final_emissions_data.energy_consumed), seconds)

    def _scaled(self, kwh: float, seconds: float) -> Energy:
        measured = time.monotonic() - self._since
        return Energy(kwh * seconds / measured if measured > 0 else None, seconds)
