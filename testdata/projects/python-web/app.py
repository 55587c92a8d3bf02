"""A guest book of one page."""

import os
import pwd

import bottle

from greetings import greet

app = bottle.Bottle()


@app.get("/")
def index():
    return greet(bottle.request.query.get("name", "world")) + "\n"


@app.get("/healthz")
def healthz():
    return "ok\n"


@app.get("/whoami")
def whoami():
    return pwd.getpwuid(os.getuid()).pw_name + "\n"


if __name__ == "__main__":
    bottle.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")), quiet=True)
