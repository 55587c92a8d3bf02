"""Renders one template and ends."""

import bottle

print(bottle.template("the {{thing}} is ready", thing="image"))
