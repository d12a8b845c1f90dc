"""Three processes save the same session at the same time, each with keys of its own."""

import multiprocessing
import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django

django.setup()

from channelserver.sessions import session_for_reply_channel  # noqa: E402

SAVES = 40


def save(name):
    for number in range(SAVES):
        session = session_for_reply_channel("reply")
        session.keys()  # loads it
        session[f"{name}{number}"] = number
        session["last"] = name
        session.save()


if __name__ == "__main__":
    processes = [multiprocessing.get_context("fork").Process(target=save, args=(name,)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    kept = len(session_for_reply_channel("reply").keys())
    print(f"{kept} of {3 * SAVES + 1}")
    sys.exit(kept != 3 * SAVES + 1)
