"""Saves in the background: success, failure and the time limit."""

import threading

from jaxcifar.resilience.background_save import BackgroundSave


def test_a_save_that_succeeds_has_no_failure():
    saved = []
    save = BackgroundSave(3, lambda: saved.append(3), timeout=60)
    save.wait()
    assert saved == [3] and not save.stalled and save.take_failure() is None


def test_a_failure_is_returned_once():
    def fail():
        raise OSError(28, "No space left on device")

    save = BackgroundSave(3, fail, timeout=60)
    save.wait()
    assert save.take_failure().errno == 28
    assert save.take_failure() is None and not save.stalled


def test_a_save_beyond_its_time_limit_is_stalled_until_it_ends():
    release = threading.Event()
    save = BackgroundSave(3, release.wait, timeout=0.05)
    try:
        save.wait()
        assert save.stalled and "0.05 seconds" in str(save.take_failure())
        assert save.take_failure() is None
    finally:
        release.set()
    save._thread.join()
    assert not save.stalled and save.take_failure() is None
