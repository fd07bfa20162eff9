// A peer: nbio, non-blocking, with one poller and no goroutine a client.
package main

import (
	"log"
	"net/http"
	"sync"

	"gannet/bench/peers/peer"

	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	"github.com/lesismal/nbio/nbhttp/websocket"
)

type subscribers struct {
	lock  sync.Mutex
	conns map[*websocket.Conn]struct{}
}

func (s *subscribers) join(conn *websocket.Conn) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.conns[conn] = struct{}{}
}

func (s *subscribers) leave(conn *websocket.Conn, _ error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	delete(s.conns, conn)
}

func (s *subscribers) publish(_ *websocket.Conn, kind websocket.MessageType, message []byte) {
	s.lock.Lock()
	defer s.lock.Unlock()
	for conn := range s.conns {
		// A connection that fails is taken out by its own OnClose.
		_ = conn.WriteMessage(kind, message)
	}
}

func echo(conn *websocket.Conn, kind websocket.MessageType, message []byte) {
	_ = conn.WriteMessage(kind, message)
}

func main() {
	flags := peer.Parse()
	all := &subscribers{conns: make(map[*websocket.Conn]struct{})}

	echoes := websocket.NewUpgrader()
	echoes.OnMessage(echo)
	publisher := websocket.NewUpgrader()
	publisher.OnMessage(all.publish)
	subscriber := websocket.NewUpgrader()
	subscriber.OnOpen(all.join)
	subscriber.OnClose(all.leave)
	for _, upgrader := range []*websocket.Upgrader{echoes, publisher, subscriber} {
		upgrader.CheckOrigin = func(*http.Request) bool { return true }
		upgrader.KeepaliveTime = 0
	}

	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := echoes
		switch {
		case flags.Fanout && r.URL.Path == peer.Publisher:
			upgrader = publisher
		case flags.Fanout:
			upgrader = subscriber
		}
		_, _ = upgrader.Upgrade(w, r, nil)
	})
	logging.SetLevel(logging.LevelError)
	engine := nbhttp.NewEngine(nbhttp.Config{
		Network: "tcp",
		Addrs:   []string{flags.Address},
		Handler: serve,
		NPoller: 1,
	})
	if err := engine.Start(); err != nil {
		log.Fatal(err)
	}
	select {}
}
