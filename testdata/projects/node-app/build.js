// Puts the pieces of src/ and the version into one file, dist/server.js.
const fs = require("fs");
const path = require("path");

const { name, version } = require("./package.json");
const source = fs.readFileSync(path.join(__dirname, "src", "server.js"), "utf8");

fs.mkdirSync(path.join(__dirname, "dist"), { recursive: true });
fs.writeFileSync(
  path.join(__dirname, "dist", "server.js"),
  source.replace("__BANNER__", `${name} ${version}`),
);
console.log(`built ${name} ${version}`);
