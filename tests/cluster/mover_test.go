// Clients of the official JavaScript SDK: they move between the two kinds of nodes, and post their commands to the one
// while they listen to the other.
package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/centrifugal/centrifuge"
)

// told is a line that a mover says.
type told struct {
	Event                    string
	Offset                   uint64
	Data                     string
	Deltas                   int
	WasRecovering, Recovered bool
	Code                     int
	Reason                   string
}

type mover struct {
	t     *testing.T
	name  string
	heard chan told
	// How many publications came as deltas by now.
	deltas int
}

// startMover has its stream at one port, and its commands, where they have a way of their own, at another.
func startMover(t *testing.T, way string, stream, emulation int, channel, delta string) *mover {
	t.Helper()
	at := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	process := exec.Command("node", "mover.mjs", way, at(stream), at(emulation), channel, delta)
	input, err := process.StdinPipe()
	must(t, err)
	output, err := process.StdoutPipe()
	must(t, err)
	said := &strings.Builder{}
	process.Stderr = said
	must(t, process.Start())
	m := &mover{t: t, name: strings.TrimSpace(way + " " + delta), heard: make(chan told, 1024)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			one := told{}
			if json.Unmarshal(lines.Bytes(), &one) != nil {
				one.Event = lines.Text()
			}
			m.heard <- one
		}
	}()
	t.Cleanup(func() {
		_ = input.Close()
		_ = process.Process.Kill()
		<-read
		_ = process.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", m.name, said)
		}
	})
	return m
}

func (m *mover) next() told {
	m.t.Helper()
	select {
	case one := <-m.heard:
		return one
	case <-time.After(patience):
		m.t.Fatalf("%s: heard nothing more", m.name)
		panic("unreachable")
	}
}

// subscribed checks whether it had been there before, and missed nothing.
func (m *mover) subscribed(again bool) {
	m.t.Helper()
	if one := m.next(); one.Event != "subscribed" || one.WasRecovering != again || one.Recovered != again {
		m.t.Fatalf("%s: subscribed (again: %t): %+v", m.name, again, one)
	}
}

func (m *mover) hears(first int, expected []string) {
	m.t.Helper()
	for at, data := range expected {
		one := m.next()
		if one.Event != "publication" || one.Offset != uint64(first+at) || one.Data != data {
			m.t.Fatalf("%s: %+v, not %d %q", m.name, one, first+at, data)
		}
		m.deltas = one.Deltas
	}
}

func TestJavaScriptMovesAndMissesNothing(t *testing.T) {
	inEach(t, func(t *testing.T, from topology) {
		here, there := pair(t, from)
		between := startRelay(t, here.port)
		movers := []*mover{}
		for _, way := range []string{"websocket json", "websocket protobuf"} {
			for _, delta := range []string{"", "fossil"} {
				movers = append(movers, startMover(t, way, between.port, between.port, "hi:moves", delta))
			}
		}
		for _, one := range movers {
			one.subscribed(false)
		}
		published := 0
		// From both nodes, in turns.
		publish := func(count int) (first int, expected []string) {
			first = published + 1
			for range count {
				published++
				data := fmt.Sprintf("%s %d", strings.Repeat("much of it is the same each time, ", 10), published)
				if published%2 == 0 {
					_, err := there.Publish("hi:moves", fmt.Appendf(nil, "%q", data),
						centrifuge.WithHistory(50, 10*time.Minute), centrifuge.WithDelta(true))
					must(t, err)
				} else {
					here.api("publish", object{"channel": "hi:moves", "data": data, "delta": true})
				}
				expected = append(expected, data)
			}
			return first, expected
		}
		all := func(first int, expected []string) {
			for _, one := range movers {
				one.hears(first, expected)
			}
		}
		for _, port := range []int{there.port, here.port, there.port, here.port} {
			all(publish(5))
			// While they are away, and once they have come.
			between.turn(port)
			first, missed := publish(5)
			for _, one := range movers {
				one.subscribed(true)
				one.hears(first, missed)
			}
		}
		all(publish(5))
		for _, one := range movers {
			if asked := strings.HasSuffix(one.name, "fossil"); asked != (one.deltas > 0) {
				t.Fatalf("%s: %d deltas", one.name, one.deltas)
			}
		}
	})
}

// The stream is at a node of one kind, and what the client says goes to one of the other.
func TestEmulationCrosses(t *testing.T) {
	inEach(t, func(t *testing.T, from topology) {
		here, there := pair(t, from)
		for _, way := range []string{"http_stream json", "http_stream protobuf", "sse json"} {
			for _, ports := range [][2]int{{here.port, there.port}, {there.port, here.port}} {
				channel := fmt.Sprintf("hi:%s %d", way, ports[0])
				one := startMover(t, way, ports[0], ports[1], channel, "")
				one.subscribed(false)
				here.api("publish", object{"channel": channel, "data": "gannet"})
				_, err := there.Publish(channel, []byte(`"library"`), centrifuge.WithHistory(50, 10*time.Minute))
				must(t, err)
				one.hears(1, []string{"gannet", "library"})
			}
		}
	})
}
