const http = require("http");
const ms = require("ms");

const banner = "__BANNER__";

const server = http.createServer((request, response) => {
  response.setHeader("content-type", "text/plain");
  if (request.url === "/convert") {
    response.end(`two days are ${ms("2 days")} ms\n`);
  } else {
    response.end(`${banner}\n`);
  }
});

server.listen(Number(process.env.PORT || 3000));
process.on("SIGTERM", () => process.exit(0));
