"""Answers with where its one dependency was installed."""

import os

import bottle


@bottle.get("/")
def index():
    return f"bottle {bottle.__version__} from {os.path.dirname(bottle.__file__)}\n"


@bottle.get("/path")
def path():
    return os.environ["PATH"] + "\n"


bottle.run(host="0.0.0.0", port=int(os.environ.get("PORT", "8000")), quiet=True)
