// Answer every request with "Hello, World!" by node:http.
"use strict";
const http = require("node:http");

const body = Buffer.from("Hello, World!");
const head = { "Content-Type": "text/plain", "Content-Length": body.length };
const server = http.createServer((request, response) => {
  request.resume();
  response.writeHead(200, head);
  response.end(body);
});
server.keepAliveTimeout = 0; // idle connections are held by the idle suite
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
