import errno
import math

import pytest
from aiokafka.errors import InvalidMessageError, KafkaTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st

from processors import failures
from processors.failures import Patience, Share, is_transient
from processors.large import NotReadable
from processors.policy import Aborted, EngineDied
from schemas.codec import BadMessage
from schemas.settings import FailuresSection


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (TimeoutError(), True), (ConnectionResetError(), True), (OSError(errno.ENOSPC, "full"), True),
        (NotReadable("disk"), True), (Aborted("engine"), True), (KafkaTimeoutError(), True),
        (InvalidMessageError(), False) if not InvalidMessageError.retriable else (ValueError(), False),
        (FileNotFoundError(errno.ENOENT, "no such file"), False), (BadMessage("bytes"), False), (ValueError(), False),
        (EngineDied("it"), False), (ZeroDivisionError(), False),
    ],
)  # fmt: skip
def test_only_what_may_pass_by_itself_is_tried_again(error, transient):
    assert is_transient(error) is transient


@settings(deadline=None)
@given(st.just(0.0) | st.floats(0.01, 100), st.lists(st.floats(0, 5), max_size=40))
def test_pauses_grow_and_end_at_the_deadline(seconds, handling):
    now = 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failures.time, "monotonic", lambda: now)
        patience, last, first = Patience(seconds), 0.0, now
        for took in [*handling, math.inf]:
            pause = patience.pause()
            if now >= first + seconds:
                assert pause is None
                return
            assert pause is not None
            assert 0 < pause <= min(failures.LAST_PAUSE_S, seconds - (now - first) + 1e-9)
            assert pause >= last or pause == pytest.approx(seconds - (now - first))
            last, now = pause, now + pause + took


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 12), st.sampled_from([0.25, 0.5, 0.9, 1.0]))
def test_a_stage_stops_exactly_when_too_many_of_its_last_inputs_are_letters(fates, window, share):
    counted = Share("verify", FailuresSection(share=share, window=window))
    for at, fate in enumerate(fates):
        stop = counted.count(f"error {at}" if fate else "")
        most = sum(fates[max(0, at + 1 - window) : at + 1])
        assert (stop is not None) == (fate and most > share * window)
        if stop:
            assert f"error {at}" in str(stop)
            assert f"{most} of its last" in str(stop)
        assert share < 1 or stop is None, "1 = never"
