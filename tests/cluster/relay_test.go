// A relay between a node and its Redis, or between clients and nodes: what it does to bytes, networks do.
package cluster

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type relay struct {
	port int
	// Each connection begins at the next of them.
	mu    sync.Mutex
	to    []int
	conns []net.Conn
	next  atomic.Int64
	// What Redis says on PUB/SUB is swallowed, and no connection ends.
	deaf atomic.Bool
	// Nothing passes, and no connection ends.
	hole atomic.Bool
	// How long each byte is on its way.
	delay atomic.Int64
}

func startRelay(t *testing.T, to ...int) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	r := &relay{port: listener.Addr().(*net.TCPAddr).Port, to: to}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go r.serve(near)
		}
	}()
	return r
}

// turn ends all connections, and sends those that come to other servers.
func (r *relay) turn(to ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for _, conn := range r.conns {
		_ = conn.Close()
	}
	r.conns = nil
}

// serve goes on to the first that takes the connection.
func (r *relay) serve(near net.Conn) {
	at := int(r.next.Add(1))
	r.mu.Lock()
	to := r.to
	r.conns = append(r.conns, near)
	r.mu.Unlock()
	for try := range to {
		far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to[(at+try)%len(to)]))
		if err == nil {
			lost := &atomic.Bool{}
			go r.pump(near, far, lost, false)
			go r.pump(far, near, lost, true)
			return
		}
	}
	_ = near.Close()
}

type chunk struct {
	due   time.Time
	bytes []byte
}

// pump passes on what `from` says. A connection of which something was swallowed has lost all that follows, too.
func (r *relay) pump(from, to net.Conn, lost *atomic.Bool, fromServer bool) {
	line := make(chan chunk, 1024)
	var both sync.WaitGroup
	both.Add(1)
	go func() {
		defer both.Done()
		for one := range line {
			time.Sleep(time.Until(one.due))
			if _, err := to.Write(one.bytes); err != nil {
				_ = from.Close()
			}
		}
	}()
	buffer := make([]byte, 65536)
	for {
		count, err := from.Read(buffer)
		if err != nil {
			break
		}
		if r.hole.Load() || r.deaf.Load() && fromServer && buffer[0] == '>' {
			lost.Store(true)
		}
		if !lost.Load() {
			line <- chunk{time.Now().Add(time.Duration(r.delay.Load())), append([]byte{}, buffer[:count]...)}
		}
	}
	close(line)
	both.Wait()
	_ = to.Close()
	_ = from.Close()
}
