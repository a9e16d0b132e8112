// Echo UDP with Go's net, one goroutine.
package main

import (
	"log"
	"net"
	"net/netip"
	"os"
)

func main() {
	address := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:" + os.Args[1]))
	socket, err := net.ListenUDP("udp4", address)
	if err != nil {
		log.Fatal(err)
	}
	_ = socket.SetReadBuffer(4194304)
	buffer := make([]byte, 65536)
	for {
		count, peer, err := socket.ReadFromUDPAddrPort(buffer)
		if err != nil {
			continue // a refusal by one peer concerns that peer only
		}
		_, _ = socket.WriteToUDPAddrPort(buffer[:count], peer)
	}
}
