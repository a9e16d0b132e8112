// Echo UDP with node:dgram.
"use strict";
const dgram = require("node:dgram");

const socket = dgram.createSocket({ type: "udp4", recvBufferSize: 4194304 });
socket.on("message", (data, peer) => socket.send(data, peer.port, peer.address));
socket.bind(Number(process.argv[2]), "127.0.0.1");
