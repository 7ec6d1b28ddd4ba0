def measure(options, console):
    return []
