// A peer: gorilla/websocket behind Gin, as the tutorials build it.
//
// A goroutine reads each client. In fan-out mode a hub goroutine owns the set of clients, and each client has a
// channel and a second goroutine that writes what comes out of it; a client whose channel is full is dropped.
package main

import (
	"log"
	"net/http"

	"gannet/bench/peers/peer"

	"github.com/gin-gonic/gin"
	"github.com/gorilla/websocket"
)

const outbox = 256

var upgrader = websocket.Upgrader{
	ReadBufferSize:  1024,
	WriteBufferSize: 1024,
	CheckOrigin:     func(*http.Request) bool { return true },
}

type client struct {
	conn *websocket.Conn
	send chan []byte
}

type hub struct {
	clients    map[*client]bool
	register   chan *client
	unregister chan *client
	broadcast  chan []byte
}

func (h *hub) run() {
	for {
		select {
		case c := <-h.register:
			h.clients[c] = true
		case c := <-h.unregister:
			h.drop(c)
		case message := <-h.broadcast:
			for c := range h.clients {
				select {
				case c.send <- message:
				default:
					h.drop(c)
				}
			}
		}
	}
}

func (h *hub) drop(c *client) {
	if h.clients[c] {
		delete(h.clients, c)
		close(c.send)
	}
}

func (c *client) write() {
	defer c.conn.Close()
	for message := range c.send {
		if c.conn.WriteMessage(websocket.TextMessage, message) != nil {
			return
		}
	}
}

func (h *hub) subscribe(conn *websocket.Conn) {
	c := &client{conn: conn, send: make(chan []byte, outbox)}
	h.register <- c
	go c.write()
	defer func() { h.unregister <- c }()
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

func (h *hub) publish(conn *websocket.Conn) {
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		h.broadcast <- message
	}
}

func echo(conn *websocket.Conn) {
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil || conn.WriteMessage(kind, message) != nil {
			return
		}
	}
}

func main() {
	flags := peer.Parse()
	h := &hub{
		clients:    make(map[*client]bool),
		register:   make(chan *client),
		unregister: make(chan *client),
		broadcast:  make(chan []byte, outbox),
	}
	go h.run()
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	router.GET("/*path", func(c *gin.Context) {
		conn, err := upgrader.Upgrade(c.Writer, c.Request, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		switch {
		case !flags.Fanout:
			echo(conn)
		case c.Request.URL.Path == peer.Publisher:
			h.publish(conn)
		default:
			h.subscribe(conn)
		}
	})
	if flags.Cert != "" {
		log.Fatal(router.RunTLS(flags.Address, flags.Cert, flags.Key))
	}
	log.Fatal(router.Run(flags.Address))
}
