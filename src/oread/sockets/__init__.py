"""Open and bind sockets, and know the machine's interfaces.

One module per question: `interfaces` (what does this address mean here?),
`options` (which number has this socket option?), `plans`, `datagrams` and
`memberships` (which UDP sockets does an endpoint need, open, joined to what?),
`links` and `following` (what when interfaces change?), `batches` (read and
answer several at once), `streams` (listen by TCP and on Unix sockets),
`tls_contexts` (which certificates?), `tls_machine` (TLS without sockets),
`tls_socket` (and with one).

Not here: who reads the sockets (the listeners), and when (the reactor).
"""
