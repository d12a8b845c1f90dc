from pathlib import Path


def gone(message):
    with open(Path(__file__).parent / "gone.txt", "a") as stream:
        stream.write(message["path"] + "\n")


channel_routing = {"http.disconnect": gone}
