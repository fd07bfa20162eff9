// Package peer is the command line every peer in Go shares, the same as that of the peers in Rust.
package peer

import (
	"flag"
	"fmt"
	"os"
)

// Publisher is the path that makes a client the publisher in fan-out mode.
const Publisher = "/pub"

// Flags is what a peer is told.
type Flags struct {
	// Address to listen on.
	Address string
	// Fanout sends what the publisher sends to every other client; otherwise each message goes back.
	Fanout bool
	// Cert and Key are files for TLS; empty without it.
	Cert, Key string
}

// Parse reads the command line and ends the program if it is wrong.
func Parse() Flags {
	port := flag.Uint("port", 0, "port to listen on, at 127.0.0.1")
	mode := flag.String("mode", "echo", "what to do with a message: echo or fanout")
	cert := flag.String("cert", "", "with TLS: the certificate, in PEM")
	key := flag.String("key", "", "its key")
	flag.Parse()
	if *port == 0 || *port > 65535 || (*mode != "echo" && *mode != "fanout") || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	return Flags{Address: fmt.Sprintf("127.0.0.1:%d", *port), Fanout: *mode == "fanout", Cert: *cert, Key: *key}
}
