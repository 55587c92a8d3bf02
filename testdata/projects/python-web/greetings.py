"""What the app says."""


def greet(name):
    return f"Hello, {name}!"
