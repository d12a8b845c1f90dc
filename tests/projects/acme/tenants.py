def allow(name, address):
    with open("asked", "a") as stream:
        stream.write(f"{name} {address}\n")
    return name.startswith("yes")
