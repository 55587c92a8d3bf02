#!/bin/sh
# Greets everybody in a file.
while read -r name; do
    echo "Good morning, $name."
done <"$1"
